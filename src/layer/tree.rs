//! The whole merged view of an image, built layer by layer from the bottom.
//!
//! This is the plain reading of image-spec `layer.md`: entries are applied in their order, whiteouts hide what the
//! layers below have. It needs every layer and memory for every entry; [`crate::layer::lookup`] answers about one path
//! with less of both, and must agree.
//!
//! A hard link does not change the metadata of the file it leads to. (containerd changes the owner of a file when it
//! makes a hard link to it, and the kernel then clears its capability.)

use std::collections::{BTreeMap, btree_map};
use std::io::Read;
use std::ops::Bound;
use std::sync::Arc;

use crate::archive::entry::{Entries, Entry, Kind};
use crate::archive::path::{self, Step};
use crate::error::{Error, Result};
use crate::layer::reader::LayerReader;
use crate::layer::whiteout::{Marker, marker};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Algorithm, Digest, Hasher};

/// Entries that a tree may have.
const MAX_NODES: usize = 5_000_000;

/// A file, directory, link or device. All hard links to a file share one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its metadata. [`Entry::path`] is empty: a node can have many paths.
    pub entry: Entry,
    /// The digest of a file's content, if contents were hashed. Of a sparse file, that of the bytes that are stored.
    pub content: Option<Digest>,
    /// The number of the layer that it comes from, from 0.
    pub layer: usize,
    /// A directory that no layer has an entry for.
    pub implied: bool,
}

#[derive(Clone, Debug)]
struct Placed {
    node: Arc<Node>,
    /// The layer that put the name there.
    layer: usize,
}

/// The merged view of some layers.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    places: BTreeMap<Vec<u8>, Placed>,
    layers: usize,
}

impl Tree {
    /// Puts one more layer on top: `blob` is the content that `descriptor` names, and its tar hashes to `diff_id`. The
    /// contents of files are hashed only if `hash_contents` is set. After an error the tree is empty, since nothing of
    /// a layer that did not verify may be believed.
    pub fn apply(
        &mut self,
        blob: impl Read,
        descriptor: &Descriptor,
        diff_id: &Digest,
        hash_contents: bool,
    ) -> Result<()> {
        let mut tree = std::mem::take(self);
        let place = format!("layer {} ({})", tree.layers + 1, descriptor.digest);
        let applied = (|| {
            let mut reader = LayerReader::new(blob, descriptor, diff_id)?;
            let mut entries = Entries::new(&mut reader);
            while let Some(entry) = entries.next_entry()? {
                let mut content = None;
                if hash_contents && entry.kind == Kind::File {
                    let mut hasher = Hasher::new(Algorithm::Sha256);
                    entries.content().for_each_chunk(|chunk| {
                        hasher.update(chunk);
                        Ok(())
                    })?;
                    content = Some(hasher.finish());
                }
                tree.take(entry, content)?;
            }
            reader.finish()
        })();
        applied.map_err(|e: Error| e.context(place))?;
        tree.layers += 1;
        *self = tree;
        Ok(())
    }

    /// What is at `path`; symbolic links are not followed.
    pub fn get(&self, path: &[u8]) -> Option<&Node> {
        self.places.get(path).map(|placed| &*placed.node)
    }

    /// Everything, sorted by the bytes of the paths. The root is there only if a layer has an entry for it.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.places.iter().map(|(path, placed)| (path.as_slice(), &*placed.node))
    }

    /// Whether two paths are names of one file.
    pub fn same_file(&self, one: &[u8], other: &[u8]) -> bool {
        match (self.places.get(one), self.places.get(other)) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one.node, &other.node),
            _ => false,
        }
    }

    /// Follows all symbolic links of `path`, whether or not something is at the end.
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        let step = |here: &[u8], _: &_| -> Result<Step> {
            Ok(match self.get(here) {
                Some(node) if node.entry.kind == Kind::Symlink => Step::Link(node.entry.link.clone()),
                _ => Step::Stay,
            })
        };
        Ok(path::walk(path, step)?.path)
    }

    pub(super) fn names_of_nodes(&self) -> impl Iterator<Item = (&Vec<u8>, *const Node)> {
        self.places.iter().map(|(path, placed)| (path, Arc::as_ptr(&placed.node)))
    }

    fn take(&mut self, mut entry: Entry, content: Option<Digest>) -> Result<()> {
        match marker(&entry.path)? {
            Marker::Metadata => return Ok(()),
            Marker::Opaque(directory) => {
                let directory = self.resolve(&directory)?;
                return self.hide(&directory, false);
            }
            Marker::Whiteout(hidden) => {
                let hidden = self.in_its_directory(&hidden)?;
                return self.hide(&hidden, true);
            }
            Marker::Plain => {}
        }
        let kind = entry.kind;
        if let Kind::Other(_) = kind {
            return Ok(());
        }
        if entry.path.is_empty() && kind != Kind::Directory {
            return Err(Error::content("an entry replaces the root directory"));
        }
        let written = std::mem::take(&mut entry.path);
        let node = match kind {
            Kind::HardLink => self.linked(&written, &entry.link)?,
            _ => Arc::new(Node { entry, content, layer: self.layers, implied: false }),
        };
        let path = self.in_its_directory(&written)?;
        self.make_directories(path::parent(&path))?;
        let merges = |placed: &Placed| kind == Kind::Directory && placed.node.entry.kind == Kind::Directory;
        if self.places.get(&path).is_some_and(|placed| !merges(placed)) {
            self.remove_below(&path, usize::MAX);
        }
        self.places.insert(path, Placed { node, layer: self.layers });
        if self.places.len() > MAX_NODES {
            return Err(Error::content(format!("the image has more than {MAX_NODES} files")));
        }
        Ok(())
    }

    /// The file that the hard link `written` leads to.
    fn linked(&self, written: &[u8], target: &[u8]) -> Result<Arc<Node>> {
        let target = self.in_its_directory(&path::normalise(target))?;
        let (from, to) = (path::show(written), path::show(&target));
        match self.places.get(&target) {
            Some(placed) if placed.node.entry.kind != Kind::Directory => Ok(placed.node.clone()),
            Some(_) => Err(Error::content(format!("{from} is a hard link to {to}, which is a directory"))),
            None => Err(Error::content(format!("{from} is a hard link to {to}, which is not there"))),
        }
    }

    /// `path` with the symbolic links in its directory followed.
    fn in_its_directory(&self, path: &[u8]) -> Result<Vec<u8>> {
        Ok(path::join(&self.resolve(path::parent(path))?, path::base(path)))
    }

    fn make_directories(&mut self, directory: &[u8]) -> Result<()> {
        for prefix in path::prefixes(directory) {
            match self.places.get(prefix) {
                Some(placed) if placed.node.entry.kind == Kind::Directory => {}
                Some(placed) => {
                    return Err(Error::content(format!(
                        "an entry lies below {}, which is {}",
                        path::show(prefix),
                        placed.node.entry.kind.describe()
                    )));
                }
                None => {
                    let entry = Entry::implied_directory(Vec::new());
                    let node = Arc::new(Node { entry, content: None, layer: self.layers, implied: true });
                    self.places.insert(prefix.to_vec(), Placed { node, layer: self.layers });
                }
            }
        }
        Ok(())
    }

    /// Removes what the layers below have below `path`, and at `path` itself if `inclusive`.
    fn hide(&mut self, path: &[u8], inclusive: bool) -> Result<()> {
        if inclusive && self.places.get(path).is_some_and(|placed| placed.layer < self.layers) {
            self.places.remove(path);
        }
        let kept = self.remove_below(path, self.layers);
        // Directories of the layers below that this layer's own entries need are new ones now.
        kept.iter().try_for_each(|path| self.make_directories(path::parent(path)))
    }

    /// Removes what layers before `layer` have below `path`, and says what is left there.
    fn remove_below(&mut self, path: &[u8], layer: usize) -> Vec<Vec<u8>> {
        let below = |(found, _): &(&Vec<u8>, &Placed)| path::is_below(found, path);
        let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let range = (Bound::Excluded(start), Bound::Unbounded);
        let (gone, kept): (Vec<_>, Vec<_>) = self
            .places
            .range::<Vec<u8>, _>(range)
            .take_while(below)
            .map(|(path, placed)| (path.clone(), placed.layer))
            .partition(|(_, from)| *from < layer);
        for (path, _) in gone {
            self.places.remove(&path);
        }
        kept.into_iter().map(|(path, _)| path).collect()
    }
}

/// A path that differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: Vec<u8>,
    /// How it differs.
    pub what: Change,
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second tree has it.
    Added(Kind),
    /// Only the first tree has it.
    Removed(Kind),
    /// Both have it; never empty.
    Changed(Vec<Field>),
}

/// One property of a file, as text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// `type`, `mode`, `user ID`, …, or `xattr NAME`, `PAX NAME`.
    pub name: String,
    /// In the first tree; `none` if it is not there.
    pub before: String,
    /// In the second tree.
    pub after: String,
}

/// What differs from `before` to `after`, sorted by path. It does not matter which layer something comes from, or
/// whether a directory has an entry or is only implied.
pub fn diff(before: &Tree, after: &Tree) -> Vec<Difference> {
    let (first_before, first_after) = (first_names(before), first_names(after));
    let mut differences = Vec::new();
    let mut push = |path: &[u8], what| differences.push(Difference { path: path.to_vec(), what });
    for (path, old) in &before.places {
        let Some(new) = after.places.get(path) else {
            push(path, Change::Removed(old.node.entry.kind));
            continue;
        };
        let same = old.node.entry == new.node.entry && old.node.content == new.node.content;
        let mut fields = if same { Vec::new() } else { fields(&old.node, &new.node) };
        let other_name = |names: &BTreeMap<*const Node, &Vec<u8>>, node: &Arc<Node>| {
            names.get(&Arc::as_ptr(node)).filter(|first| **first != path).map(|first| path::show(first))
        };
        compare(&mut fields, "hard link to", other_name(&first_before, &old.node), other_name(&first_after, &new.node));
        if !fields.is_empty() {
            push(path, Change::Changed(fields));
        }
    }
    for (path, new) in after.places.iter().filter(|(path, _)| !before.places.contains_key(*path)) {
        push(path, Change::Added(new.node.entry.kind));
    }
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    differences
}

/// The first name of each node that has several.
fn first_names(tree: &Tree) -> BTreeMap<*const Node, &Vec<u8>> {
    let mut names = BTreeMap::new();
    for (path, node) in tree.names_of_nodes().filter(|(path, _)| Arc::strong_count(&tree.places[*path].node) > 1) {
        if let btree_map::Entry::Vacant(vacant) = names.entry(node) {
            vacant.insert(path);
        }
    }
    names
}

fn compare(fields: &mut Vec<Field>, name: &str, before: Option<String>, after: Option<String>) {
    if before != after {
        let text = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        fields.push(Field { name: name.to_owned(), before: text(before), after: text(after) });
    }
}

fn fields(before: &Node, after: &Node) -> Vec<Field> {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = Vec::new();
    let properties = |node: &Node| {
        let e = &node.entry;
        let device = matches!(e.kind, Kind::CharDevice | Kind::BlockDevice).then_some(e.device);
        [
            ("type", Some(e.kind.describe().to_owned())),
            ("mode", Some(format!("{:04o}", e.mode))),
            ("user ID", Some(e.uid.to_string())),
            ("group ID", Some(e.gid.to_string())),
            ("user name", Some(lossy(&e.uname))),
            ("group name", Some(lossy(&e.gname))),
            ("modification time", Some(e.mtime.text.as_deref().map_or_else(|| e.mtime.seconds.to_string(), lossy))),
            ("size", Some(e.size.to_string())),
            ("sparse", Some(e.sparse.to_string())),
            ("content", node.content.as_ref().map(Digest::to_string)),
            ("link target", (e.kind == Kind::Symlink).then(|| lossy(&e.link))),
            ("device", device.map(|(major, minor)| format!("{major}:{minor}"))),
        ]
    };
    for ((name, before), (_, after)) in properties(before).into_iter().zip(properties(after)) {
        compare(&mut fields, name, before, after);
    }
    let hex = |value: &Vec<u8>| format!("0x{}", value.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let maps = [("xattr", &before.entry.xattrs, &after.entry.xattrs), ("PAX", &before.entry.pax, &after.entry.pax)];
    for (what, before, after) in maps {
        let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let title = format!("{what} {}", lossy(name));
            compare(&mut fields, &title, before.get(name).map(hex), after.get(name).map(hex));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::*;
    use crate::layer::testing::Layer;

    fn tree(layers: &[Vec<Vec<u8>>]) -> Result<Tree> {
        let mut tree = Tree::default();
        for layer in layers.iter().map(|frames| Layer::of(frames)) {
            tree.apply(&layer.blob[..], &layer.descriptor, &layer.diff_id, true)?;
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

    #[test]
    fn a_layer_that_does_not_verify_leaves_nothing() {
        let good = Layer::of(&[file("a", b"1")]);
        let mut tree = Tree::default();
        tree.apply(&good.blob[..], &good.descriptor, &good.diff_id, true).unwrap();
        assert!(tree.apply(&good.blob[..], &good.descriptor, &Digest::of(b""), true).is_err());
        assert_eq!(tree.iter().count(), 0);
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
        assert!(before.same_file(b"d/f", b"d/g") && !after.same_file(b"d/f", b"d/g"));
    }
}
