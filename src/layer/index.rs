//! What one scan of a layer keeps: enough to answer questions about any path, and little of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::io::{BufRead, Write};

use crate::archive::entry::{Entries, Entry, Kind};
use crate::archive::path;
use crate::blob::{Spool, SpoolWriter, temporary_error};
use crate::error::{Error, Result};
use crate::layer::inode::{unknown, weight};
use crate::layer::whiteout::{Marker, marker};
use crate::limits::Limits;

/// Bytes of memory for an event, beside its names: itself, twice while a `Vec` grows, and the hashes of its path.
const EVENT: u64 = 80;
/// Bytes of memory for the hash of a left-out file's base name.
const LEFT_OUT: u64 = 12;
/// Bytes of memory for a kept entry, beside its names.
const KEPT: u64 = 400;
/// Paths that links add to a scan while it runs.
const MAX_LATE: usize = 1000;

/// What is worth keeping.
pub(super) struct Interest {
    /// Base names: files with other ones are left out.
    pub(super) names: HashSet<Vec<u8>>,
    /// Paths whose entries are kept whole, and whose content is kept if they are files.
    pub(super) paths: HashSet<Vec<u8>>,
    /// Directories of which all files are noted: those that are listed, and those that hints are about.
    pub(super) directories: HashSet<Vec<u8>>,
    /// Bytes from the start of a file that are kept.
    pub(super) most: u64,
}

impl Default for Interest {
    fn default() -> Self {
        Interest { names: HashSet::new(), paths: HashSet::new(), directories: HashSet::new(), most: u64::MAX }
    }
}

impl Interest {
    /// Adds `path` and what is above it.
    pub(super) fn want(&mut self, path: &[u8]) {
        for prefix in path::prefixes(path) {
            self.names.insert(path::base(prefix).to_vec());
            self.paths.insert(prefix.to_vec());
        }
        self.directories.insert(path::parent(path).to_vec());
    }
}

/// What happens to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Something lies below it, so it becomes a directory if it was nothing.
    Implied,
    /// An entry puts this there.
    Put(Kind),
    /// It is hidden in the layers below.
    Whiteout,
    /// What is below it is hidden in the layers below.
    Opaque,
}

/// One thing that an entry of the layer does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    /// The entry's number in the layer, from 0.
    pub(super) entry: u32,
    pub(super) what: What,
    /// As written (normalised): where it lands depends on symbolic links unless it is `grounded`.
    pub(super) path: &'a [u8],
    /// The target of a link, as written.
    pub(super) link: &'a [u8],
    /// All directories above it were entries of the same layer before it, so that it lands where it says.
    pub(super) grounded: bool,
}

/// What an event is looked up by. Where it is certain that it lands where it says, that is the whole path: an image may have
/// any number of files of one name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'a> {
    grounded: bool,
    makes_directories: bool,
    name: &'a [u8],
}

impl<'a> Key<'a> {
    fn of(what: What, grounded: bool, path: &'a [u8]) -> Self {
        let makes_directories = matches!(what, What::Implied | What::Put(Kind::Directory));
        Key { grounded, makes_directories, name: if grounded { path } else { path::base(path) } }
    }
}

struct Stored {
    at: u32,
    path: u16,
    link: u16,
    entry: u32,
    what: What,
    grounded: bool,
}

/// A whole entry, and its content if it is a regular file that is not stored sparsely.
pub(super) struct Kept {
    pub(super) entry: Entry,
    pub(super) content: Option<Spool>,
}

/// One scanned layer.
pub(super) struct Index {
    arena: Vec<u8>,
    events: Vec<Stored>,
    /// Hash of the key and number of the event, sorted.
    by_key: Vec<(u32, u32)>,
    opaques: Vec<u32>,
    hard_links: Vec<u32>,
    kept: BTreeMap<u32, Kept>,
    kept_paths: HashMap<Vec<u8>, u32>,
    names: HashSet<Vec<u8>>,
    directories: HashSet<Vec<u8>>,
    /// Hashes of the base names of files that were left out; `None` for too many of them.
    left_out: Option<HashSet<u32>>,
    /// Bytes, about.
    memory: u64,
    hasher: RandomState,
}

impl Index {
    /// Scans the tar `reader` to its end. `capture` holds numbers of entries to be kept whole besides what `interest`
    /// names; `used` is what the other layers of the image have used of the memory for them.
    pub(super) fn scan(
        reader: impl BufRead,
        interest: &Interest,
        capture: &BTreeSet<u32>,
        used: u64,
        limits: &Limits,
    ) -> Result<Index> {
        let mut scan = Scan {
            index: Index {
                arena: Vec::new(),
                events: Vec::new(),
                by_key: Vec::new(),
                opaques: Vec::new(),
                hard_links: Vec::new(),
                kept: BTreeMap::new(),
                kept_paths: HashMap::new(),
                names: interest.names.clone(),
                directories: interest.directories.clone(),
                left_out: Some(HashSet::new()),
                memory: 0,
                hasher: RandomState::new(),
            },
            interest,
            capture,
            used,
            limits,
            late: Interest::default(),
            grounded: HashSet::new(),
            implied: HashSet::new(),
        };
        let mut entries = Entries::new(reader, limits);
        let mut number = 0;
        while let Some(entry) = entries.next_entry()? {
            scan.take(number, entry, &mut entries)?;
            number += 1;
        }
        let mut index = scan.index;
        index.by_key.sort_unstable();
        index.by_key.shrink_to_fit();
        index.events.shrink_to_fit();
        index.arena.shrink_to_fit();
        Ok(index)
    }

    /// Whether files with this base name were left out, so that the layer has to be scanned again to know about them.
    pub(super) fn lacks(&self, base: &[u8]) -> bool {
        let left_out = self.left_out.as_ref().is_none_or(|set| set.contains(&self.short_hash(base)));
        left_out && !self.names.contains(base)
    }

    /// All events but opaque markers that may be about `path`: those that are grounded there, and all that are not grounded and
    /// have its base name; files only if [`Index::lacks`] says no. `makes_directories` says which ones.
    pub(super) fn about(&self, path: &[u8], makes_directories: bool) -> impl Iterator<Item = Event<'_>> {
        let keys =
            [(true, path), (false, path::base(path))].map(|(grounded, name)| Key { grounded, makes_directories, name });
        keys.into_iter().flat_map(move |key| {
            let hash = self.short_hash(key);
            let start = self.by_key.partition_point(|(other, _)| *other < hash);
            let same_hash = self.by_key[start..].iter().take_while(move |(other, _)| *other == hash);
            let same_key = move |event: &Event<'_>| Key::of(event.what, event.grounded, event.path) == key;
            same_hash.map(|(_, event)| self.event(*event as usize)).filter(same_key)
        })
    }

    /// All opaque markers; their path is the directory.
    pub(super) fn opaques(&self) -> impl Iterator<Item = Event<'_>> {
        self.opaques.iter().map(|event| self.event(*event as usize))
    }

    /// All hard links, in the order of the entries.
    pub(super) fn hard_links(&self) -> impl Iterator<Item = Event<'_>> {
        self.hard_links.iter().map(|event| self.event(*event as usize))
    }

    /// All events, in the order of the entries.
    pub(super) fn events(&self) -> impl Iterator<Item = Event<'_>> {
        (0..self.events.len()).map(|at| self.event(at))
    }

    pub(super) fn kept(&self, entry: u32) -> Option<&Kept> {
        self.kept.get(&entry)
    }

    /// The numbers of the entries that are kept.
    pub(super) fn kept_entries(&self) -> impl Iterator<Item = u32> {
        self.kept.keys().copied()
    }

    /// The base names that it was scanned for.
    pub(super) fn names(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.names.iter()
    }

    /// Whether all files that are written below `directory` are noted.
    pub(super) fn lists(&self, directory: &[u8]) -> bool {
        self.directories.contains(directory)
    }

    /// The directories of which that is so.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.directories.iter()
    }

    /// Bytes that its files take in temporary files, each of them at least `least`.
    pub(super) fn files(&self, least: u64) -> u64 {
        self.kept.values().filter_map(|kept| kept.content.as_ref()).map(|content| content.size().max(least)).sum()
    }

    /// Bytes that it takes, about.
    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    fn event(&self, at: usize) -> Event<'_> {
        let stored = &self.events[at];
        let (start, middle) = (stored.at as usize, stored.at as usize + usize::from(stored.path));
        Event {
            entry: stored.entry,
            what: stored.what,
            path: &self.arena[start..middle],
            link: &self.arena[middle..middle + usize::from(stored.link)],
            grounded: stored.grounded,
        }
    }

    fn short_hash(&self, value: impl Hash) -> u32 {
        self.hasher.hash_one(value) as u32
    }
}

struct Scan<'a> {
    index: Index,
    interest: &'a Interest,
    capture: &'a BTreeSet<u32>,
    used: u64,
    limits: &'a Limits,
    /// Where the wanted links seen so far point, as far as one can tell yet: most targets follow their links, and need no
    /// second scan then.
    late: Interest,
    /// Hashes of directories that are certain to lie where their entries say. The hash has a random key, so an image
    /// cannot know which paths would collide.
    grounded: HashSet<u64>,
    /// Hashes of paths with an [`What::Implied`] event.
    implied: HashSet<u64>,
}

impl Scan<'_> {
    fn take(&mut self, number: u32, entry: Entry, entries: &mut Entries<impl BufRead>) -> Result<()> {
        match marker(&entry.path)? {
            Marker::Metadata => return Ok(()),
            Marker::Whiteout(hidden) => {
                let grounded = self.is_grounded(path::parent(&hidden));
                return self.push(number, What::Whiteout, &hidden, b"", grounded);
            }
            Marker::Opaque(directory) => {
                let grounded = self.is_grounded(&directory);
                self.index.opaques.push(self.index.events.len() as u32);
                return self.push(number, What::Opaque, &directory, b"", grounded);
            }
            Marker::Plain => {}
        }
        let kind = entry.kind;
        match kind {
            Kind::Other(flag) => return Err(unknown(flag, &entry.path)),
            Kind::Directory if entry.path.is_empty() => return Ok(()),
            _ if entry.path.is_empty() => return Err(Error::content("an entry replaces the root directory")),
            _ => {}
        }
        let parent = path::parent(&entry.path);
        let grounded = self.is_grounded(parent);
        if !grounded {
            self.imply(number, parent)?;
        }
        if kind == Kind::Directory {
            if grounded {
                self.grounded.insert(self.hash(&entry.path));
            }
        } else if !self.grounded.is_empty() && (!grounded || self.grounded.contains(&self.hash(&entry.path))) {
            // It may have replaced a directory that was certain; being uncertain is always right.
            self.grounded.clear();
            self.implied.clear();
        }
        if kind == Kind::HardLink {
            self.index.hard_links.push(self.index.events.len() as u32);
        }
        match kind {
            Kind::Directory | Kind::Symlink | Kind::HardLink => {
                self.push(number, What::Put(kind), &entry.path, &entry.link, grounded)?;
            }
            _ if self.is_interesting(&entry.path) => {
                self.push(number, What::Put(kind), &entry.path, b"", grounded)?;
            }
            _ => self.leave_out(path::base(&entry.path)),
        }
        self.keep(number, entry, entries)
    }

    fn is_interesting(&self, file: &[u8]) -> bool {
        self.is_named(path::base(file)) || self.interest.directories.contains(path::parent(file))
    }

    fn is_named(&self, base: &[u8]) -> bool {
        self.interest.names.contains(base) || self.late.names.contains(base)
    }

    fn is_grounded(&self, directory: &[u8]) -> bool {
        directory.is_empty() || self.grounded.contains(&self.hash(directory))
    }

    fn hash(&self, path: &[u8]) -> u64 {
        self.index.hasher.hash_one(path)
    }

    /// Notes that `directory` must be one.
    fn imply(&mut self, number: u32, directory: &[u8]) -> Result<()> {
        for prefix in path::prefixes(directory) {
            if self.is_grounded(prefix) || !self.implied.insert(self.hash(prefix)) {
                continue;
            }
            let grounded = self.is_grounded(path::parent(prefix));
            self.push(number, What::Implied, prefix, b"", grounded)?;
        }
        Ok(())
    }

    fn push(&mut self, entry: u32, what: What, path: &[u8], link: &[u8], grounded: bool) -> Result<()> {
        let index = &mut self.index;
        // The names twice: the arena grows too.
        index.memory += EVENT + 2 * (path.len() + link.len()) as u64;
        // What an offset can reach is enough even for those who have more memory.
        let Ok(at) = u32::try_from(index.arena.len()) else { return Err(self.too_much()) };
        self.check_memory()?;
        let index = &mut self.index;
        // Neither can be longer than MAX_PATH.
        let stored = Stored { at, path: path.len() as u16, link: link.len() as u16, entry, what, grounded };
        if what != What::Opaque {
            index.by_key.push((index.short_hash(Key::of(what, grounded, path)), index.events.len() as u32));
        }
        index.arena.extend_from_slice(path);
        index.arena.extend_from_slice(link);
        index.events.push(stored);
        Ok(())
    }

    fn check_memory(&self) -> Result<()> {
        if self.used + self.index.memory > self.limits.lookup() { Err(self.too_much()) } else { Ok(()) }
    }

    fn too_much(&self) -> Error {
        self.limits.exceeded("the directories, links and whiteouts of the layers take", self.limits.lookup())
    }

    fn leave_out(&mut self, base: &[u8]) {
        let hash = self.index.short_hash(base);
        if let Some(set) = &mut self.index.left_out {
            if set.insert(hash) {
                self.index.memory += LEFT_OUT;
            }
            // Without it more layers are read twice.
            if self.used + self.index.memory > self.limits.lookup() / 2 {
                self.index.memory -= LEFT_OUT * set.len() as u64;
                self.index.left_out = None;
            }
        }
    }

    fn keep(&mut self, number: u32, entry: Entry, entries: &mut Entries<impl BufRead>) -> Result<()> {
        let captured = self.capture.contains(&number);
        let wanted = self.interest.paths.contains(&entry.path) || self.late.paths.contains(&entry.path);
        let links = entry.kind == Kind::HardLink && self.is_named(path::base(&path::normalise(&entry.link)));
        if !captured && !wanted && !links {
            return Ok(());
        }
        if entry.kind == Kind::HardLink {
            // There may be any number of them.
            self.index.memory += KEPT + 2 * entry.path.len() as u64 + weight(&entry);
            self.check_memory()?;
            if self.late.names.len() < MAX_LATE {
                self.late.names.insert(path::base(&entry.path).to_vec());
            }
        }
        if entry.kind == Kind::Symlink && self.late.paths.len() < MAX_LATE {
            self.late.want(&path::target(&entry.path, &entry.link));
        }
        if wanted
            && let Some(earlier) = self.index.kept_paths.insert(entry.path.clone(), number)
            && !self.capture.contains(&earlier)
        {
            self.index.kept.remove(&earlier);
        }
        let mut content = None;
        if entry.kind == Kind::File && !entry.sparse {
            let mut spool = SpoolWriter::new()?;
            let mut left = self.interest.most;
            entries.content().for_each_chunk(|chunk| {
                let kept = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                left -= kept as u64;
                spool.write_all(&chunk[..kept]).map_err(|e| temporary_error(&e))
            })?;
            content = Some(spool.finish());
        }
        self.index.kept.insert(number, Kept { entry, content });
        Ok(())
    }
}
