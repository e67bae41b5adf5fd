//! Property: `lookup`, which reads as little as it can, agrees with `tree`, which reads everything.

use std::collections::BTreeSet;
use std::io::Read;

use proptest::prelude::*;

use crate::archive::entry::{Entry, Kind};
use crate::archive::path::{self, Step};
use crate::archive::testing::*;
use crate::layer::Cache;
use crate::layer::lookup::{FindError, LayerSource, Scan, Stack};
use crate::layer::testing::Layer;
use crate::layer::tree::{Detail, Node, Tree};
use crate::limits::Limits;
use crate::oci::digest::Digest;
use crate::oci::media_type::Compression;

/// One entry of a random layer.
#[derive(Clone, Debug)]
enum Op {
    File(String),
    Directory(String),
    Symlink(String, String),
    HardLink(String, String),
    Fifo(String),
    Whiteout(String),
    Opaque(String),
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![5 => "[abc]", 1 => Just("d".to_owned())]
}

fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(component(), 1..4).prop_map(|components| components.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    let component = prop_oneof![4 => component(), 1 => Just("..".to_owned()), 1 => Just(".".to_owned())];
    (any::<bool>(), proptest::collection::vec(component, 1..4))
        .prop_map(|(absolute, components)| format!("{}{}", if absolute { "/" } else { "" }, components.join("/")))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any_path().prop_map(Op::File),
        5 => any_path().prop_map(Op::Directory),
        4 => (any_path(), target()).prop_map(|(path, target)| Op::Symlink(path, target)),
        2 => (any_path(), any_path()).prop_map(|(path, target)| Op::HardLink(path, target)),
        1 => any_path().prop_map(Op::Fifo),
        2 => any_path().prop_map(Op::Whiteout),
        1 => any_path().prop_map(Op::Opaque),
    ]
}

/// The frame of an operation; `id` makes its content and its owner unlike any other's.
fn render(op: &Op, id: u64) -> Vec<u8> {
    let with_owner = |flag, name: &str, link: &str, body: &[u8]| {
        frame(flag, name.as_bytes(), link.as_bytes(), body, |header| header.set_uid(id))
    };
    match op {
        Op::File(path) => with_owner(b'0', path, "", format!("content {id}").as_bytes()),
        Op::Directory(path) => with_owner(b'5', path, "", b""),
        Op::Symlink(path, target) => with_owner(b'2', path, target, b""),
        Op::HardLink(path, target) => {
            let link = with_owner(b'1', path, target, b"");
            let value = [b'0' + (id % 10) as u8];
            if id.is_multiple_of(2) {
                [pax(&[(b"SCHILY.xattr.security.capability", &value)]), link].concat()
            } else {
                link
            }
        }
        Op::Fifo(path) => with_owner(b'6', path, "", b""),
        Op::Whiteout(path) => {
            let (parent, base) = path.rsplit_once('/').unwrap_or(("", path));
            with_owner(b'0', &format!("{parent}/.wh.{base}"), "", b"")
        }
        Op::Opaque(path) => with_owner(b'0', &format!("{path}/.wh..wh..opq"), "", b""),
    }
}

fn layer(frames: &[Vec<u8>]) -> Layer {
    let plain = tar(frames);
    Layer::new(compress(&plain, Compression::None), Digest::of(&plain))
}

/// The layers without the entries that no unpacker could put anywhere, and their tree.
fn possible(layers: &[Vec<Op>]) -> (Vec<Layer>, Tree) {
    let mut tree = Tree::default();
    let mut good = Vec::new();
    let mut id = 0;
    for ops in layers {
        let mut frames = Vec::new();
        let mut applied = tree.clone();
        for op in ops {
            id += 1;
            frames.push(render(op, id));
            let candidate = layer(&frames);
            let mut attempt = tree.clone();
            match attempt.apply(&candidate.blob[..], &candidate.descriptor, &candidate.diff_id, Detail::Everything) {
                Ok(()) => applied = attempt,
                Err(_) => drop(frames.pop()),
            }
        }
        if !frames.is_empty() {
            good.push(layer(&frames));
            tree = applied;
        }
    }
    (good, tree)
}

/// Path, layer, owner and content; parents with owner and whether they are implied.
type Answer = (String, usize, u64, Digest, Vec<(String, u64, bool)>);

fn from_tree(tree: &Tree, asked: &str) -> Option<Answer> {
    let mut through_file = false;
    let walked = path::walk(asked.as_bytes(), |here, ahead| -> crate::error::Result<Step> {
        Ok(match tree.get(here).map(|node| &node.entry) {
            Some(entry) if entry.kind == Kind::Symlink => Step::Link(entry.link.clone()),
            Some(entry) if entry.kind != Kind::Directory && !ahead.is_empty() => {
                through_file = true;
                Step::Stay
            }
            _ => Step::Stay,
        })
    });
    let path = walked.ok()?.path;
    let node = tree.get(&path).filter(|node| node.entry.kind == Kind::File && !through_file)?;
    let parent = |prefix: &[u8]| {
        let node: &Node = tree.get(prefix).unwrap();
        (path::show(prefix), node.entry.uid, node.implied)
    };
    let parents = path::prefixes(path::parent(&path)).map(parent).collect();
    Some((path::show(&path), node.layer, node.entry.uid, node.content.clone().unwrap(), parents))
}

fn all_paths() -> Vec<String> {
    let names = ["a", "b", "c", "d"];
    let mut paths: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    for at in 0.. {
        let Some(path) = paths.get(at).filter(|path| path.len() < 5).cloned() else { break };
        paths.extend(names.iter().map(|name| format!("{path}/{name}")));
    }
    paths
}

fn agree(layers: &[Vec<Op>], together: bool, shared: bool) -> Result<(), TestCaseError> {
    let has_links = layers.iter().flatten().any(|op| matches!(op, Op::Symlink(..)));
    let (layers, tree) = possible(layers);
    let sources: Vec<_> = layers
        .iter()
        .map(|layer| LayerSource { descriptor: layer.descriptor.clone(), diff_id: layer.diff_id.clone() })
        .collect();
    let cache = Cache::default();
    let new_stack = || {
        let cache = if shared { cache.clone() } else { Cache::default() };
        Stack::new(sources.clone(), Limits::default(), &cache, |at, scan: &mut Scan<'_>| {
            scan(&mut &layers[at].blob[..])
        })
    };
    let mut stack = new_stack();
    for asked in all_paths() {
        // One stack for all questions must answer as a new one for each, whether or not that one knows what others read.
        if !together {
            stack = new_stack();
        }
        let expected = from_tree(&tree, &asked);
        match stack.find(asked.as_bytes()) {
            Ok(found) => {
                let mut content = Vec::new();
                found.content.reader(0).read_to_end(&mut content).unwrap();
                let parent = |p: &crate::layer::lookup::Parent| (path::show(&p.entry.path), p.entry.uid, p.implied);
                let parents = found.parents.iter().map(parent).collect();
                let answer = (path::show(&found.path), found.layer, found.entry.uid, Digest::of(&content), parents);
                prop_assert_eq!(Some(answer), expected, "{}", asked);
                let other = |name: &&[u8]| *name != found.path && tree.same_file(name, &found.path);
                let others: Vec<_> = tree.iter().map(|(name, _)| name).filter(other).collect();
                prop_assert_eq!(&found.other_names, &others, "{}", asked);
                let node = tree.get(&found.path).unwrap();
                let entry = Entry { path: Vec::new(), ..found.entry };
                prop_assert_eq!(
                    (&entry, found.disputed.is_some()),
                    (&node.entry, node.disputed.is_some()),
                    "{}",
                    asked
                );
            }
            Err(FindError::Layer(error)) => return Err(TestCaseError::fail(format!("{asked}: {error}"))),
            Err(error) => prop_assert_eq!(None, expected, "{}: {:?}", asked, error),
        }
        // Where a link leads, a listing may lack what the entry has below another name; it never has more.
        let listed = names(stack.list(asked.as_bytes()).map_err(|error| TestCaseError::fail(format!("{error:?}")))?);
        let expected = children(&tree, &asked);
        prop_assert!(listed == expected || (has_links && listed.is_subset(&expected)), "{}: {:?}", asked, listed);
    }
    Ok(())
}

fn names(names: Vec<Vec<u8>>) -> BTreeSet<String> {
    names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
}

/// What is in the directory that a path leads to.
fn children(tree: &Tree, asked: &str) -> BTreeSet<String> {
    let walked = path::walk(asked.as_bytes(), |here, _| -> crate::error::Result<Step> {
        Ok(match tree.get(here).map(|node| &node.entry) {
            Some(entry) if entry.kind == Kind::Symlink => Step::Link(entry.link.clone()),
            _ => Step::Stay,
        })
    });
    let Ok(walked) = walked else { return BTreeSet::new() };
    let inside = tree.iter().filter(|(path, _)| !path.is_empty() && path::parent(path) == walked.path);
    names(inside.map(|(path, _)| path::base(path).to_vec()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lookup_agrees_with_tree(
        layers in proptest::collection::vec(proptest::collection::vec(op(), 0..7), 1..5),
        together in any::<bool>(),
        shared in any::<bool>(),
    ) {
        agree(&layers, together, shared)?;
    }
}

/// A later entry replaces an earlier one of its layer, also when it comes by a link of a lower layer.
#[test]
fn two_ways_to_one_place() {
    let text = str::to_owned;
    let lower = vec![Op::Symlink(text("d"), text(".."))];
    let layers = [lower, vec![Op::Whiteout(text("a")), Op::File(text("b")), Op::Directory(text("d/b"))]];
    for (together, shared) in [(true, false), (false, false), (false, true)] {
        agree(&layers, together, shared).unwrap();
    }
}

/// What is below a link does not make a directory of it when the link is taken away later in the same layer.
#[test]
fn a_link_that_is_hidden_after_it_was_used() {
    let text = str::to_owned;
    let lower = vec![Op::Symlink(text("a"), text("b"))];
    for (first, last) in [
        (Op::File(text("a/a")), Op::Whiteout(text("a"))),
        (Op::Whiteout(text("a")), Op::File(text("a/a"))),
        (Op::File(text("a/a")), Op::File(text("a/b"))),
    ] {
        for (together, shared) in [(true, false), (false, false), (false, true)] {
            agree(&[lower.clone(), vec![first.clone(), last.clone()]], together, shared).unwrap();
        }
    }
}
