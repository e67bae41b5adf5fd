//! The whole merged view of an image, built layer by layer from the bottom.
//!
//! This is the plain reading of image-spec `layer.md`: entries are applied in their order, whiteouts hide what the
//! layers below have. It needs every layer and memory for every entry; [`crate::layer::lookup`] answers about one path
//! with less of both, and must agree.
//!
//! A hard link gives the file that it leads to its own metadata, as container engines do; where these disagree about the
//! capabilities, the node says so.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::ops::Bound;
use std::sync::Arc;

use crate::archive::entry::{Entries, Entry, Kind};
use crate::archive::path::{self, Step};
use crate::capability::{FileCapabilities, XATTR};
use crate::error::{Error, Result};
use crate::layer::inode::{amend, check_target, unknown, weight};
use crate::layer::reader::{LayerReader, PADDED};
use crate::layer::whiteout::{Marker, marker};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Algorithm, Digest, Hasher};

/// Bytes of memory for a name in a tree, beside its own (measured).
const NAME: u64 = 120;
/// Bytes of memory for a node with the usual names of its owner and the digest of its content, and for its name in a copy
/// of the tree that it is compared with (measured).
const NODE: u64 = 660;
/// What is told of what nobody can unpack.
const MOST_FINDINGS: usize = 100;

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
    /// The hard link that was made with other capabilities than the file had, so that it depends on the container engine
    /// which ones count.
    pub disputed: Option<Vec<u8>>,
    /// The same for all names of a file; 0 if many files share the node, which says no more than their kind.
    number: u64,
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
    /// What hard links of the current layer made of files, by number.
    amended: HashMap<u64, Arc<Node>>,
    /// Nodes so far.
    nodes: u64,
    /// What nobody can unpack, and how much more of it there is than is told.
    findings: Vec<String>,
    more_findings: usize,
    /// What others may take otherwise.
    warnings: Vec<String>,
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
            let oddities = reader.finish()?;
            if oddities.is_padded {
                tree.find(PADDED.to_owned());
            }
            tree.warnings.extend(oddities.mistyped);
            Ok(())
        })();
        applied.map_err(|e: Error| e.context(place))?;
        tree.replace_amended();
        tree.layers += 1;
        tree.plain.clear();
        *self = tree;
        Ok(())
    }

    /// What layers have that no container engine can unpack, whether or not a higher layer hides it.
    pub fn findings(&self) -> Vec<String> {
        let more = (self.more_findings > 0).then(|| format!("{} more of the kind", self.more_findings));
        self.findings.iter().cloned().chain(more).collect()
    }

    /// Layers whose media type is not what they are (faults.md D10).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn find(&mut self, finding: String) {
        match self.findings.len() {
            MOST_FINDINGS => self.more_findings += 1,
            _ => self.findings.push(format!("layer {}: {finding}", self.layers + 1)),
        }
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
            (Some(one), Some(other)) => one.node.number == other.node.number && one.node.number > 0,
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
        if let Kind::Other(flag) = kind {
            return Err(unknown(flag, &entry.path));
        }
        if entry.path.is_empty() && kind != Kind::Directory {
            return Err(Error::content("an entry replaces the root directory"));
        }
        let value = entry.xattrs.get(XATTR.as_bytes()).filter(|_| kind != Kind::Symlink);
        if let Some(Err(error)) = value.map(|value| FileCapabilities::decode(value)) {
            self.find(error.context(path::show(&entry.path)).to_string());
        }
        let written = std::mem::take(&mut entry.path);
        let node = match kind {
            Kind::HardLink => self.linked(&written, &entry, detail)?,
            _ if detail == Detail::Attributes && kind != Kind::Symlink && entry.xattrs.is_empty() => self.plain(kind),
            _ => self.new_node(entry, content, false),
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
            self.forget(name, old.node);
        }
        Ok(())
    }

    fn remove(&mut self, path: &[u8]) {
        if let Some(old) = self.places.remove(path) {
            self.forget(NAME + path.len() as u64, old.node);
        }
    }

    /// Gives back the memory of a name, and of its node if it was the last one.
    fn forget(&mut self, name: u64, node: Arc<Node>) {
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
        let (layer, implied, disputed, number) = (self.layers, false, None, 0);
        self.plain.push(Arc::new(Node { entry, content: None, layer, implied, disputed, number }));
        self.plain(kind)
    }

    fn new_node(&mut self, entry: Entry, content: Option<Digest>, implied: bool) -> Arc<Node> {
        self.memory += NODE + weight(&entry);
        self.nodes += 1;
        Arc::new(Node { entry, content, layer: self.layers, implied, disputed: None, number: self.nodes })
    }

    /// The file that the hard link `written` leads to.
    fn linked(&mut self, written: &[u8], link: &Entry, detail: Detail) -> Result<Arc<Node>> {
        let target = self.in_its_directory(&path::normalise(&link.link))?;
        check_target(written, &self.in_its_directory(written)?, &target)?;
        let (from, to) = (path::show(written), path::show(&target));
        let mut node = match self.places.get(&target) {
            Some(placed) if placed.node.entry.kind != Kind::Directory => placed.node.clone(),
            Some(_) => return Err(Error::content(format!("{from} is a hard link to {to}, which is a directory"))),
            None => return Err(Error::content(format!("{from} is a hard link to {to}, which is not there"))),
        };
        if node.number == 0 {
            // All its names must be told from those of other files.
            node = self.new_node(node.entry.clone(), None, false);
            self.places.entry(target).and_modify(|placed| placed.node = node.clone());
        }
        let current = self.amended.get(&node.number).unwrap_or(&node);
        let mut amended = Node::clone(current);
        if amend(&mut amended.entry, link) && amended.disputed.is_none() {
            amended.disputed = Some(written.to_vec());
        }
        let differs = match detail {
            Detail::Attributes => amended.entry.xattrs != current.entry.xattrs,
            Detail::Everything => amended.entry != current.entry,
        };
        if differs || amended.disputed != current.disputed {
            self.memory += NODE + weight(&amended.entry);
            if let Some(old) = self.amended.insert(amended.number, Arc::new(amended)) {
                self.forget(0, old);
            }
        }
        Ok(node)
    }

    /// Gives all names of a file what became of it: in one go, for there may be as many links as names.
    fn replace_amended(&mut self) {
        let amended = std::mem::take(&mut self.amended);
        if amended.is_empty() {
            return;
        }
        let mut gone = Vec::new();
        for placed in self.places.values_mut() {
            if let Some(node) = amended.get(&placed.node.number) {
                gone.push(std::mem::replace(&mut placed.node, node.clone()));
            }
        }
        gone.into_iter().chain(amended.into_values()).for_each(|node| self.forget(0, node));
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
                    let node = self.new_node(entry, None, true);
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

#[cfg(test)]
mod tests;
