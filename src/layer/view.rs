//! The merged view of some layers, asked path by path and from the top.
//!
//! The view is what an unpacker has after it took the entries of all layers in their order: an entry replaces what was
//! at its path, with everything below it unless both are directories; whiteouts hide what the layers below have there.
//! An entry is put where its parent directories lead, so an entry below a symbolic link lands elsewhere; directories
//! that are missing are made. [`crate::layer::tree`] does all that step by step; here it is answered for one path
//! without opening a layer that does not matter.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, PoisonError};

use crate::archive::entry::Kind;
use crate::archive::path::{self, Step};
use crate::error::{Error, Result};
use crate::layer::cache::Cache;
use crate::layer::index::{Event, Index, Interest, What};
use crate::layer::inode::check_target;
use crate::layer::lookup::{LayerSource, Scan};
use crate::layer::reader::{LayerReader, PADDED};
use crate::limits::Limits;

/// How deep the question where one entry lands may depend on where others do. Real layers stay below ten.
const MAX_DEPTH: usize = 50;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) layer: usize,
    /// The entry that put it there; none for a directory that is only implied.
    pub(super) entry: Option<u32>,
    pub(super) kind: Kind,
    /// The path as the entry has it.
    pub(super) written: Vec<u8>,
    /// The target of a link, as written.
    pub(super) link: Vec<u8>,
}

impl Node {
    fn put(layer: usize, event: &Event<'_>) -> Self {
        let What::Put(kind) = event.what else { return Node::implied(layer, event.path) };
        Node { layer, entry: Some(event.entry), kind, written: event.path.to_vec(), link: event.link.to_vec() }
    }

    fn implied(layer: usize, path: &[u8]) -> Self {
        Node { layer, entry: None, kind: Kind::Directory, written: path.to_vec(), link: Vec::new() }
    }
}

struct Layer {
    source: LayerSource,
    index: Option<Arc<Index>>,
    /// Entries that turned out to be wanted after a scan.
    capture: BTreeSet<u32>,
    scans: usize,
}

/// The view, and what was scanned to answer about it.
pub(super) struct View<O> {
    layers: Vec<Layer>,
    read: O,
    cache: Cache,
    pub(super) interest: Interest,
    /// Where entries landed that are not grounded.
    landed: HashMap<(usize, u32, Vec<u8>), Vec<u8>>,
    depth: usize,
    work: u64,
    limits: Limits,
    pub(super) scanning: Scanning,
}

/// Whether layers are scanned for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanning {
    /// As many as decide.
    Allowed,
    /// None: the answer, such as a hint, is not worth it.
    Forbidden,
    /// None, and what was answered since may be wrong: a layer decides that was not scanned.
    Missed,
}

/// An event that may have to do with the path that is asked for.
struct Candidate {
    entry: u32,
    what: What,
    grounded: bool,
    written: Vec<u8>,
    link: Vec<u8>,
    /// It counts if it lands at the first so many bytes of the path; an opaque marker may land above.
    at: usize,
}

impl<O> View<O>
where
    O: FnMut(usize, &mut Scan<'_>) -> Result<()>,
{
    pub(super) fn new(layers: Vec<LayerSource>, limits: Limits, cache: &Cache, read: O) -> Self {
        let layer = |source| Layer { source, index: None, capture: BTreeSet::new(), scans: 0 };
        View {
            layers: layers.into_iter().map(layer).collect(),
            read,
            cache: cache.clone(),
            interest: Interest::default(),
            landed: HashMap::new(),
            depth: 0,
            work: 0,
            limits,
            scanning: Scanning::Allowed,
        }
    }

    /// How often each layer was read.
    pub(super) fn scans(&self) -> Vec<usize> {
        self.layers.iter().map(|layer| layer.scans).collect()
    }

    /// The layers that were scanned, and their numbers.
    pub(super) fn scanned(&self) -> impl Iterator<Item = (usize, &Index)> {
        self.layers.iter().enumerate().filter_map(|(at, layer)| Some((at, layer.index.as_deref()?)))
    }

    /// What the whole image has at `path`, no component of which may be a symbolic link.
    pub(super) fn top(&mut self, path: &[u8]) -> Result<Option<Node>> {
        match self.layers.len().checked_sub(1) {
            Some(top) => self.node(top, u32::MAX, path),
            None => Ok(None),
        }
    }

    /// The node with hard links followed: what the kernel would find there.
    pub(super) fn inode(&mut self, mut node: Node) -> Result<Node> {
        while let (Kind::HardLink, Some(entry)) = (node.kind, node.entry) {
            let target = path::normalise(&node.link);
            self.interest.want(&target);
            let directory = self.directory(node.layer, entry, path::parent(&target))?;
            let target = path::join(&directory, path::base(&target));
            check_target(&node.written, &self.landed(&node)?, &target)?;
            node = match self.node(node.layer, entry, &target)? {
                Some(found) if found.kind != Kind::Directory => found,
                found => {
                    let what = if found.is_some() { "a directory" } else { "not there" };
                    return Err(Error::content(format!(
                        "{} is a hard link to {}, which is {what}",
                        path::show(&node.written),
                        path::show(&target)
                    )));
                }
            };
        }
        Ok(node)
    }

    /// Where the entry of `node` puts it.
    pub(super) fn landed(&mut self, node: &Node) -> Result<Vec<u8>> {
        let Some(entry) = node.entry else { return Ok(node.written.clone()) };
        let directory = self.directory(node.layer, entry, path::parent(&node.written))?;
        Ok(path::join(&directory, path::base(&node.written)))
    }

    /// All hard links to `inode`, in the order in which they are made, and where they land; some may be gone since.
    pub(super) fn links_to(&mut self, inode: &Node) -> Result<Vec<(Node, Vec<u8>)>> {
        let mut bases = HashSet::from([path::base(&inode.written).to_vec()]);
        let mut names = HashSet::from([(inode.layer, inode.entry)]);
        let mut links = Vec::new();
        for layer in inode.layer..self.layers.len() {
            let Some(index) = self.layers[layer].index.clone() else { continue };
            let first = if layer == inode.layer { inode.entry } else { None };
            for event in index.hard_links().filter(|event| Some(event.entry) > first) {
                let target = path::normalise(event.link);
                if !bases.contains(path::base(&target)) {
                    continue;
                }
                let directory = self.directory(layer, event.entry, path::parent(&target))?;
                let target = self.node(layer, event.entry, &path::join(&directory, path::base(&target)))?;
                if !target.is_some_and(|target| names.contains(&(target.layer, target.entry))) {
                    continue;
                }
                bases.insert(path::base(event.path).to_vec());
                names.insert((layer, Some(event.entry)));
                let link = Node::put(layer, &event);
                let landed = self.landed(&link)?;
                links.push((link, landed));
            }
        }
        Ok(links)
    }

    /// The target, if there is a symbolic link at `here` before entry `limit` of layer `top`.
    fn step(&mut self, top: usize, limit: u32, here: &[u8]) -> Result<Step> {
        let Some(node) = self.node(top, limit, here)? else { return Ok(Step::Stay) };
        let node = if node.kind == Kind::HardLink { self.inode(node)? } else { node };
        Ok(if node.kind == Kind::Symlink { Step::Link(node.link) } else { Step::Stay })
    }

    /// Where the directory `path` is before entry `limit` of layer `top`, symbolic links followed.
    fn directory(&mut self, top: usize, limit: u32, path: &[u8]) -> Result<Vec<u8>> {
        if path.is_empty() {
            return Ok(Vec::new());
        }
        Ok(path::walk(path, |here, _| self.step(top, limit, here))?.path)
    }

    /// What is at `path` in the layers 0 to `top`, of which the last counts only up to entry `limit`.
    fn node(&mut self, top: usize, limit: u32, path: &[u8]) -> Result<Option<Node>> {
        if path.is_empty() {
            return Ok(Some(Node::implied(0, path)));
        }
        let mut implied = Vec::new();
        for layer in (0..=top).rev() {
            let limit = if layer == top { limit } else { u32::MAX };
            let mut hiding = Vec::new();
            for candidate in self.candidates(layer, limit, path)? {
                let here = candidate.at == path.len();
                match candidate.what {
                    What::Whiteout | What::Opaque => hiding.push(candidate),
                    What::Implied => implied.push((layer, candidate)),
                    What::Put(_) if self.land(layer, &candidate)? != path[..candidate.at] => {}
                    // A file above it took everything away that was there before.
                    What::Put(_) if !here => return self.implied(implied, path),
                    What::Put(kind) => {
                        let (entry, written, link) = (Some(candidate.entry), candidate.written, candidate.link);
                        let node = Node { layer, entry, kind, written, link };
                        // Directories that later entries need are not made where there is one, or a link to one.
                        return match kind {
                            Kind::Directory | Kind::Symlink | Kind::HardLink => Ok(Some(node)),
                            _ => Ok(Some(self.implied(implied, path)?.unwrap_or(node))),
                        };
                    }
                }
            }
            for candidate in hiding {
                let landed = self.land(layer, &candidate)?;
                let hidden = match candidate.what {
                    What::Opaque => path::is_below(path, &landed),
                    _ => landed == path[..candidate.at],
                };
                if hidden {
                    let before = |event: &(usize, Candidate)| event.0 == layer && event.1.entry < candidate.entry;
                    // A link that was there until then led elsewhere what would have made a directory.
                    if implied.iter().any(before) && self.is_link_below(layer, path)? {
                        implied.retain(|event| !before(event));
                    }
                    return self.implied(implied, path);
                }
            }
        }
        self.implied(implied, path)
    }

    /// Whether the layers below `layer` have a symbolic link at `path`.
    fn is_link_below(&mut self, layer: usize, path: &[u8]) -> Result<bool> {
        let Some(below) = layer.checked_sub(1) else { return Ok(false) };
        self.deeper(path, |view| Ok(matches!(view.step(below, u32::MAX, path)?, Step::Link(_))))
    }

    /// Asks a question about `path` on whose answer that of another depends.
    fn deeper<T>(&mut self, path: &[u8], ask: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            let message = format!("where {} lies depends on more than {MAX_DEPTH} other entries", path::show(path));
            return Err(Error::content(message));
        }
        self.depth += 1;
        let answer = ask(self);
        self.depth -= 1;
        answer
    }

    /// The directory that one of the events makes at `path`, where nothing else is.
    fn implied(&mut self, events: Vec<(usize, Candidate)>, path: &[u8]) -> Result<Option<Node>> {
        for (layer, candidate) in events {
            if self.land(layer, &candidate)? == path {
                return Ok(Some(Node::implied(layer, path)));
            }
        }
        Ok(None)
    }

    /// The events of `layer` before entry `limit` that may decide about `path`, the latest first.
    fn candidates(&mut self, layer: usize, limit: u32, path: &[u8]) -> Result<Vec<Candidate>> {
        self.ensure(layer, path)?;
        let Some(index) = &self.layers[layer].index else { return Ok(Vec::new()) };
        let mut candidates = Vec::new();
        let candidate = |event: Event<'_>, at| Candidate {
            entry: event.entry,
            what: event.what,
            grounded: event.grounded,
            written: event.path.to_vec(),
            link: event.link.to_vec(),
            at,
        };
        for prefix in path::prefixes(path) {
            // What makes a directory does nothing to what is below it.
            let directories = (prefix.len() == path.len()).then(|| index.about(prefix, true));
            for event in index.about(prefix, false).chain(directories.into_iter().flatten()) {
                self.work += 1;
                if event.entry < limit {
                    candidates.push(candidate(event, prefix.len()));
                }
            }
        }
        for event in index.opaques() {
            self.work += 1;
            if event.entry < limit && (!event.grounded || path::is_below(path, event.path)) {
                candidates.push(candidate(event, path.len()));
            }
        }
        let steps = self.limits.steps();
        if self.work > steps {
            let message = format!("the layers are so entangled that a file is not found in {steps} steps");
            return Err(Error::content(message).hint("if the image is right, raise the limit with --max-memory"));
        }
        // What an entry implies happens before what it does.
        candidates.sort_by_key(|candidate| std::cmp::Reverse((candidate.entry, candidate.what != What::Implied)));
        Ok(candidates)
    }

    /// Where the event takes place.
    fn land(&mut self, layer: usize, candidate: &Candidate) -> Result<Vec<u8>> {
        let written = &candidate.written;
        if candidate.grounded {
            return Ok(written.clone());
        }
        let key = (layer, candidate.entry, written.clone());
        if let Some(landed) = self.landed.get(&key) {
            return Ok(landed.clone());
        }
        let parent = if candidate.what == What::Opaque { written } else { path::parent(written) };
        let directory = self.deeper(written, |view| view.directory(layer, candidate.entry, parent))?;
        let landed = match candidate.what {
            What::Opaque => directory,
            _ => path::join(&directory, path::base(written)),
        };
        // A guess for a hint may have been made without a layer that decides.
        if self.scanning == Scanning::Allowed {
            self.landed.insert(key, landed.clone());
        }
        Ok(landed)
    }

    /// Sees to it that `layer` was scanned with an eye on `path`.
    fn ensure(&mut self, layer: usize, path: &[u8]) -> Result<()> {
        let answers = |index: &Index| !path::prefixes(path).any(|prefix| index.lacks(path::base(prefix)));
        let is_known = self.layers[layer].index.as_deref().is_some_and(answers);
        if !is_known && self.scanning != Scanning::Allowed {
            self.scanning = Scanning::Missed;
        } else if !is_known {
            self.interest.names.extend(path::prefixes(path).map(|prefix| path::base(prefix).to_vec()));
            self.scan(layer, answers)?;
        }
        Ok(())
    }

    /// Names that may be in `directory`, a real path; what is really there [`View::top`] says.
    pub(super) fn names_in(&mut self, directory: &[u8]) -> Result<BTreeSet<Vec<u8>>> {
        self.interest.directories.insert(directory.to_vec());
        let mut names = BTreeSet::new();
        for layer in 0..self.layers.len() {
            let answers = |index: &Index| index.lists(directory);
            if !self.layers[layer].index.as_deref().is_some_and(answers) {
                self.scan(layer, answers)?;
            }
            let Some(index) = &self.layers[layer].index else { continue };
            for event in index.events().filter(|event| matches!(event.what, What::Put(_) | What::Implied)) {
                self.work += 1;
                let parent = path::parent(event.path);
                // `lib/x` lies in `usr/lib` if `lib` is a link to that.
                if parent == directory || (!event.grounded && path::base(parent) == path::base(directory)) {
                    names.insert(path::base(event.path).to_vec());
                }
            }
        }
        Ok(names)
    }

    /// Sees to it that these entries are kept whole, with their content if they are files.
    pub(super) fn capture(&mut self, entries: impl IntoIterator<Item = (usize, u32)>) -> Result<()> {
        let mut wanted = BTreeMap::<usize, BTreeSet<u32>>::new();
        for (layer, entry) in entries {
            wanted.entry(layer).or_default().insert(entry);
        }
        for (layer, entries) in wanted {
            let answers = |index: &Index| entries.iter().all(|entry| index.kept(*entry).is_some());
            if !self.layers[layer].index.as_deref().is_some_and(answers) {
                self.layers[layer].capture.extend(&entries);
                self.scan(layer, answers)?;
            }
        }
        Ok(())
    }

    /// What [`View::capture`] kept.
    pub(super) fn kept(&self, layer: usize, entry: u32) -> Result<&crate::layer::index::Kept> {
        let index = self.layers[layer].index.as_ref();
        index
            .and_then(|index| index.kept(entry))
            .ok_or_else(|| Error::failed(format!("layer {} changed while it was read", layer + 1)))
    }

    /// Takes the index of another image with this layer if it `answers` what is asked, or else reads the layer to its end.
    /// An index exists only after digest, size and diff ID matched.
    fn scan(&mut self, at: usize, answers: impl Fn(&Index) -> bool) -> Result<()> {
        let count = self.layers.len();
        let slot = self.cache.slot(&self.layers[at].source);
        let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = held.as_ref().filter(|index| answers(index)) {
            self.layers[at].index = Some(index.clone());
            return Ok(());
        }
        if let Some(index) = held.take() {
            // Both images are served by what is read now.
            self.interest.names.extend(index.names().cloned());
            self.interest.directories.extend(index.directories().cloned());
            self.layers[at].capture.extend(index.kept_entries());
        }
        self.layers[at].index = None;
        let used = self.scanned().map(|(_, index)| index.memory()).sum();
        let limits = self.limits;
        let layer = &mut self.layers[at];
        layer.scans += 1;
        let LayerSource { descriptor, diff_id } = &layer.source;
        let place = || format!("layer {} of {count} ({})", at + 1, descriptor.digest);
        let mut scanned = None;
        let mut scan = |blob: &mut dyn Read| {
            let mut reader = LayerReader::new(blob, descriptor, diff_id, &limits)?;
            let index = Index::scan(&mut reader, &self.interest, &layer.capture, used, &limits)?;
            scanned = Some((Arc::new(index), reader.finish()?));
            Ok(())
        };
        (self.read)(at, &mut scan).map_err(|e| e.context(place()))?;
        let (index, oddities) = scanned.ok_or_else(|| Error::failed("internal error: the layer was not read"))?;
        if oddities.is_padded {
            tracing::warn!("{}: {PADDED}", place());
        }
        if let Some(mistyped) = oddities.mistyped {
            tracing::warn!("{mistyped}");
        }
        *held = Some(index.clone());
        self.cache.count(&index);
        layer.index = Some(index);
        Ok(())
    }
}
