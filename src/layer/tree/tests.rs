use super::*;
use crate::archive::testing::*;
use crate::layer::diff::{self, Change, Difference, Field};
use crate::layer::testing::Layer;

fn tree(layers: &[Vec<Vec<u8>>]) -> Result<Tree> {
    let mut tree = Tree::default();
    for layer in layers.iter().map(|frames| Layer::of(frames)) {
        tree.apply(&layer.blob[..], &layer.descriptor, &layer.diff_id, Detail::Everything)?;
    }
    Ok(tree)
}

/// `path layer`, with a `/` behind directories and a `?` behind implied ones.
fn lines(layers: &[Vec<Vec<u8>>]) -> Vec<String> {
    let line = |(path, node): (&[u8], &Node)| {
        let mark = match (node.entry.kind, node.implied) {
            (Kind::Directory, true) => "?",
            (Kind::Directory, false) => "/",
            _ => "",
        };
        format!("{}{mark} {}", path.escape_ascii(), node.layer)
    };
    tree(layers).unwrap().iter().map(line).collect()
}

#[test]
fn layers_are_merged() {
    let base = vec![dir("a"), dir("a/b"), file("a/b/f", b"0"), file("a/g", b"0"), symlink("s", "a/b")];
    for (upper, expected) in [
        (vec![], vec!["a/ 0", "a/b/ 0", "a/b/f 0", "a/g 0", "s 0"]),
        (vec![dir("a")], vec!["a/ 1", "a/b/ 0", "a/b/f 0", "a/g 0", "s 0"]),
        (vec![file(".wh.a", b"")], vec!["s 0"]),
        (vec![file("a/b/h", b""), file(".wh.a", b"")], vec!["a? 1", "a/b? 1", "a/b/h 1", "s 0"]),
        (vec![file("a/.wh..wh..opq", b""), file("a/h", b"")], vec!["a/ 0", "a/h 1", "s 0"]),
        (vec![file("a/h", b""), file("a/.wh..wh..opq", b"")], vec!["a/ 0", "a/h 1", "s 0"]),
        (vec![file(".wh..wh..opq", b""), file("x", b"")], vec!["x 1"]),
        (vec![file("a", b"")], vec!["a 1", "s 0"]),
        (vec![file("s/h", b"")], vec!["a/ 0", "a/b/ 0", "a/b/f 0", "a/b/h 1", "a/g 0", "s 0"]),
        (vec![file("s/.wh.f", b"")], vec!["a/ 0", "a/b/ 0", "a/g 0", "s 0"]),
        (vec![file("s/.wh..wh..opq", b"")], vec!["a/ 0", "a/b/ 0", "a/g 0", "s 0"]),
        (vec![dir("s"), file("s/h", b"")], vec!["a/ 0", "a/b/ 0", "a/b/f 0", "a/g 0", "s/ 1", "s/h 1"]),
        (vec![file("new/x", b"")], vec!["a/ 0", "a/b/ 0", "a/b/f 0", "a/g 0", "new? 1", "new/x 1", "s 0"]),
        (vec![file(".wh..wh.plnk/1.2", b"")], vec!["a/ 0", "a/b/ 0", "a/b/f 0", "a/g 0", "s 0"]),
    ] {
        assert_eq!(lines(&[base.clone(), upper]), expected);
    }
    assert!(tree(&[vec![file("a", b""), file("a/b", b"")]]).is_err());
    assert!(tree(&[vec![symlink("a", "a"), file("a/b", b"")]]).is_err());
    assert!(tree(&[vec![file("a/.wh.", b"")]]).is_err());
}

// Two images that are compared share the memory for files, not what may be read of each.
#[test]
fn one_of_two_trees_may_become_half_as_large() {
    let limits = Limits { memory: 1 << 20, ..Limits::default() };
    let fits = |tree: &Tree, frames: &[Vec<u8>]| {
        let layer = Layer::of(frames);
        let applied = tree.clone().apply(&layer.blob[..], &layer.descriptor, &layer.diff_id, Detail::Attributes);
        applied.map_err(|e| e.to_string())
    };
    let (whole, half) = (Tree::new(limits), Tree::one_of_two(limits));
    let many: Vec<_> = (0..3000).map(|number| file(&format!("{number:090}"), b"")).collect();
    fits(&whole, &many).unwrap();
    assert!(fits(&half, &many).unwrap_err().contains("more than 320 KiB of memory, of 1 MiB"));
    let header = [pax(&[(b"comment", &[b'c'; 8000])]), file("a", b"")];
    for tree in [&whole, &half] {
        fits(tree, &header).unwrap();
    }
}

#[test]
fn a_layer_that_does_not_verify_leaves_nothing() {
    let good = Layer::of(&[file("a", b"1")]);
    let mut tree = Tree::default();
    tree.apply(&good.blob[..], &good.descriptor, &good.diff_id, Detail::Everything).unwrap();
    assert!(tree.apply(&good.blob[..], &good.descriptor, &Digest::of(b""), Detail::Everything).is_err());
    assert_eq!(tree.iter().count(), 0);
}

fn diff(before: &Tree, after: &Tree) -> Vec<Difference> {
    let mut differences = Vec::new();
    diff::diff(before, after, |difference| differences.push(difference));
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    differences
}

#[test]
fn only_differences_are_reported() {
    let base = vec![dir("d"), file("d/f", b"x"), hardlink("d/g", "d/f"), file("gone", b""), symlink("s", "d")];
    let before = tree(std::slice::from_ref(&base)).unwrap();
    assert_eq!(diff(&before, &before.clone()), []);
    assert_eq!(diff(&before, &tree(&[base.clone(), vec![dir("d")]]).unwrap()), []);
    let capability = [(&b"SCHILY.xattr.security.capability"[..], &b"\x01\x02"[..])];
    let upper = vec![
        [pax(&capability), file("d/f", b"x")].concat(),
        file(".wh.gone", b""),
        symlink("s", "e"),
        file("new", b""),
    ];
    let after = tree(&[base, upper]).unwrap();
    let field = |name: &str, before: &str, after: &str| Field {
        name: name.to_owned(),
        before: before.to_owned(),
        after: after.to_owned(),
    };
    let difference = |path: &str, what| Difference { path: path.as_bytes().to_vec(), what };
    assert_eq!(
        diff(&before, &after),
        [
            difference("d/f", Change::Changed(vec![field("xattr security.capability", "none", "0x0102")])),
            difference("d/g", Change::Changed(vec![field("hard link to", "/d/f", "none")])),
            difference("gone", Change::Removed(Kind::File)),
            difference("new", Change::Added(Kind::File)),
            difference("s", Change::Changed(vec![field("link target", "d", "e")])),
        ]
    );
    // Long values that differ at their end only.
    let long = |end: u8| {
        let value = [&[1; 200][..], &[end]].concat();
        tree(&[vec![[pax(&[(b"SCHILY.xattr.user.x", &value)]), file("f", b"")].concat()]]).unwrap()
    };
    assert_eq!((diff(&long(1), &long(1)).len(), diff(&long(1), &long(2)).len()), (0, 1));
    assert!(before.same_file(b"d/f", b"d/g") && !after.same_file(b"d/f", b"d/g"));
}
