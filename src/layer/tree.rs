//! The whole merged view of an image, built layer by layer from the bottom.
//!
//! This is the plain reading of image-spec `layer.md`: entries are applied in their order, whiteouts hide what the
//! layers below have. It needs every layer and memory for every entry; [`crate::layer::lookup`] answers about one path
//! with less of both, and must agree.
//!
//! A hard link does not change the metadata of the file it leads to. (containerd changes the owner of a file when it
//! makes a hard link to it, and the kernel then clears its capability.)

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Bound;
use std::sync::Arc;

use crate::archive::entry::{Entries, Entry, Kind};
use crate::archive::path::{self, Step};
use crate::error::{Error, Result};
use crate::layer::reader::LayerReader;
use crate::layer::whiteout::{Marker, marker};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Algorithm, Digest, Hasher};

/// Bytes of memory for a name in a tree, beside its own (measured).
const NAME: u64 = 120;
/// Bytes of memory for a node with the usual names of its owner and the digest of its content, and for its name in a copy
/// of the tree that it is compared with (measured).
const NODE: u64 = 660;

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

/// How much of each file a [`Tree`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Its kind, where a link leads, and extended attributes.
    Attributes,
    /// All metadata, and the digest of the content.
    Everything,
}

/// The merged view of some layers.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    places: BTreeMap<Vec<u8>, Placed>,
    layers: usize,
    /// What entries of the current layer share that say no more than what they are.
    plain: Vec<Arc<Node>>,
    /// Bytes that it takes, about.
    memory: u64,
    /// Whether another one is to have half of the memory.
    half: bool,
    limits: Limits,
}

impl Tree {
    /// An empty tree.
    pub fn new(limits: Limits) -> Self {
        Tree { limits, ..Tree::default() }
    }

    /// An empty tree that is one of two: it may become half as large.
    pub fn one_of_two(limits: Limits) -> Self {
        Tree { half: true, ..Tree::new(limits) }
    }

    /// Puts one more layer on top: `blob` is the content that `descriptor` names, and its tar hashes to `diff_id`. After an
    /// error the tree is empty, since nothing of a layer that did not verify may be believed.
    pub fn apply(&mut self, blob: impl Read, descriptor: &Descriptor, diff_id: &Digest, detail: Detail) -> Result<()> {
        let mut tree = std::mem::take(self);
        let place = format!("layer {} ({})", tree.layers + 1, descriptor.digest);
        let applied = (|| {
            let mut reader = LayerReader::new(blob, descriptor, diff_id, &tree.limits)?;
            let mut entries = Entries::new(&mut reader, &tree.limits);
            while let Some(entry) = entries.next_entry()? {
                let mut content = None;
                if detail == Detail::Everything && entry.kind == Kind::File {
                    let mut hasher = Hasher::new(Algorithm::Sha256);
                    entries.content().for_each_chunk(|chunk| {
                        hasher.update(chunk);
                        Ok(())
                    })?;
                    content = Some(hasher.finish());
                }
                tree.take(entry, content, detail)?;
            }
            reader.finish()
        })();
        applied.map_err(|e: Error| e.context(place))?;
        tree.layers += 1;
        tree.plain.clear();
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

    pub(super) fn node(&self, path: &[u8]) -> Option<&Arc<Node>> {
        self.places.get(path).map(|placed| &placed.node)
    }

    /// Everything, with the address of its node, which all hard links to a file share.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&Vec<u8>, &Arc<Node>)> {
        self.places.iter().map(|(path, placed)| (path, &placed.node))
    }

    fn take(&mut self, mut entry: Entry, content: Option<Digest>, detail: Detail) -> Result<()> {
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
            _ if detail == Detail::Attributes && kind != Kind::Symlink && entry.xattrs.is_empty() => self.plain(kind),
            _ => {
                self.memory += NODE + weight(&entry);
                Arc::new(Node { entry, content, layer: self.layers, implied: false })
            }
        };
        let path = self.in_its_directory(&written)?;
        self.make_directories(path::parent(&path))?;
        let merges = |placed: &Placed| kind == Kind::Directory && placed.node.entry.kind == Kind::Directory;
        if self.places.get(&path).is_some_and(|placed| !merges(placed)) {
            self.remove_below(&path, usize::MAX);
        }
        self.put(path, node)
    }

    fn put(&mut self, mut path: Vec<u8>, node: Arc<Node>) -> Result<()> {
        // What was put together has room for twice as much.
        path.shrink_to_fit();
        let name = NAME + path.len() as u64;
        self.memory += name;
        let part = self.limits.files() / if self.half { 2 } else { 1 };
        self.limits.check_memory(self.memory, part, "the files of the image take")?;
        if let Some(old) = self.places.insert(path, Placed { node, layer: self.layers }) {
            self.forget(name, old);
        }
        Ok(())
    }

    fn remove(&mut self, path: &[u8]) {
        if let Some(old) = self.places.remove(path) {
            self.forget(NAME + path.len() as u64, old);
        }
    }

    /// Gives back the memory of a name, and of its node if it was the last one.
    fn forget(&mut self, name: u64, Placed { node, .. }: Placed) {
        let node = Arc::into_inner(node).map_or(0, |node| NODE + weight(&node.entry));
        self.memory = self.memory.saturating_sub(name + node);
    }

    /// A node that says nothing but its kind.
    fn plain(&mut self, kind: Kind) -> Arc<Node> {
        if let Some(node) = self.plain.iter().find(|node| node.entry.kind == kind) {
            return node.clone();
        }
        let entry = Entry { kind, ..Entry::implied_directory(Vec::new()) };
        self.memory += NODE;
        self.plain.push(Arc::new(Node { entry, content: None, layer: self.layers, implied: false }));
        self.plain(kind)
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
                    self.memory += NODE;
                    self.put(prefix.to_vec(), node)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what the layers below have below `path`, and at `path` itself if `inclusive`.
    fn hide(&mut self, path: &[u8], inclusive: bool) -> Result<()> {
        if inclusive && self.places.get(path).is_some_and(|placed| placed.layer < self.layers) {
            self.remove(path);
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
        gone.iter().for_each(|(path, _)| self.remove(path));
        kept.into_iter().map(|(path, _)| path).collect()
    }
}

/// Bytes of what only some entries have.
fn weight(entry: &Entry) -> u64 {
    let text = entry.mtime.text.as_ref().map_or(0, |text| text.len() + 16);
    let maps = entry.xattrs.iter().chain(&entry.pax).map(|(name, value)| name.len() + value.len() + 100);
    (entry.link.len() + entry.uname.len() + entry.gname.len() + text + maps.sum::<usize>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::*;
    use crate::layer::diff::{Change, Difference, Field, MOST, diff};
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

    #[test]
    fn only_differences_are_reported() {
        let base = vec![dir("d"), file("d/f", b"x"), hardlink("d/g", "d/f"), file("gone", b""), symlink("s", "d")];
        let before = tree(std::slice::from_ref(&base)).unwrap();
        assert_eq!(diff(&before, &before.clone()).0, []);
        assert_eq!(diff(&before, &tree(&[base.clone(), vec![dir("d")]]).unwrap()).0, []);
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
            diff(&before, &after).0,
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
        assert_eq!((diff(&long(1), &long(1)).0.len(), diff(&long(1), &long(2)).0.len()), (0, 1));
        // Beyond what anybody reads they are counted.
        let many = |count: usize| tree(&[(0..count).map(|n| file(&n.to_string(), b"")).collect()]).unwrap();
        let (told, more) = diff(&many(0), &many(MOST + 7));
        assert_eq!((told.len(), more), (MOST, 7));
        assert!(before.same_file(b"d/f", b"d/g") && !after.same_file(b"d/f", b"d/g"));
    }
}
