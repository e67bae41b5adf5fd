//! The files of an image, as far as somebody asks for them.

use std::collections::HashMap;
use std::rc::Rc;

use crate::archive::entry::{Entry, Kind};
use crate::archive::path;
use crate::doctor::start::script::{self, List, Trouble};
use crate::error::{Error, Result};
use crate::layer::Cache;
use crate::layer::lookup::{FindError, Found, LayerSource, Scan, Stack};
use crate::limits::Limits;

/// Bytes that are kept of one file: enough for the dynamic section of a large program.
const MAX_KEPT: u64 = 64 << 20;
/// Bytes of a script, of `/etc/passwd` and of `/etc/group` that are looked into.
pub(super) const MAX_TEXT: u64 = 1 << 20;

/// Gives the raw blob of the layer with a number, from 0 at the bottom, to a scan.
pub(super) type ReadLayer<'a> = Box<dyn FnMut(usize, &mut Scan<'_>) -> Result<()> + 'a>;

/// The merged view of an image; what was found once is remembered.
pub(super) struct Files<'a> {
    stack: Stack<ReadLayer<'a>>,
    known: HashMap<Vec<u8>, Option<Rc<Found>>>,
    /// Scripts that were read, by the path they were asked for.
    scripts: HashMap<String, Rc<Parsed>>,
}

/// A script, or why it cannot be followed.
pub(super) type Parsed = Result<List, Trouble>;

impl<'a> Files<'a> {
    pub(super) fn new(layers: Vec<LayerSource>, limits: Limits, read: ReadLayer<'a>) -> Self {
        // Its own: what is kept here is not the whole of a file.
        let mut stack = Stack::new(layers, limits, &Cache::default(), read);
        stack.keep_at_most(MAX_KEPT);
        Files { stack, known: HashMap::new(), scripts: HashMap::new() }
    }

    /// Says that these paths will be asked for, so that one scan of a layer serves them all.
    pub(super) fn expect<'p>(&mut self, paths: impl IntoIterator<Item = &'p str>) {
        self.stack.expect(paths.into_iter().map(str::as_bytes));
    }

    /// How often each layer was read so far, bottom first.
    #[cfg(test)]
    pub(super) fn scans(&self) -> Vec<usize> {
        self.stack.scans()
    }

    /// The regular file at `path`, symbolic links followed; nothing if something else is there, or nothing at all.
    ///
    /// # Errors
    /// A layer that cannot be read, or was refused.
    pub(super) fn file(&mut self, path: &str) -> Result<Option<Rc<Found>>> {
        let key = path::normalise(path.as_bytes());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let found = match self.stack.find(path.as_bytes()) {
            Ok(found) => Some(Rc::new(found)),
            Err(FindError::Layer(error)) => return Err(error),
            Err(_) => None,
        };
        self.known.insert(key, found.clone());
        Ok(found)
    }

    /// The commands of `file`, a script at `path`; nothing if it is too large.
    pub(super) fn script(&mut self, path: &str, file: &Found) -> Result<Option<Rc<Parsed>>> {
        if let Some(known) = self.scripts.get(path) {
            return Ok(Some(known.clone()));
        }
        let Some(text) = text(file)? else { return Ok(None) };
        let parsed = Rc::new(script::parse(&text));
        self.scripts.insert(path.to_owned(), parsed.clone());
        Ok(Some(parsed))
    }

    /// What is at `path`, symbolic links followed.
    pub(super) fn kind(&mut self, path: &(impl AsRef<[u8]> + ?Sized)) -> Result<Option<Kind>> {
        Ok(self.entry(path)?.map(|entry| entry.kind))
    }

    /// The metadata of what is at `path`, symbolic links followed.
    pub(super) fn entry(&mut self, path: &(impl AsRef<[u8]> + ?Sized)) -> Result<Option<Entry>> {
        match self.stack.entry(path.as_ref()) {
            Ok(entry) => Ok(Some(entry)),
            Err(FindError::Layer(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The real path of what is at `path`, without the slash in front.
    pub(super) fn real(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.entry(path)?.map(|entry| entry.path))
    }

    /// The names in the directory at `path`, symbolic links to it followed; none if there is no directory.
    pub(super) fn list(&mut self, path: &str) -> Result<Vec<String>> {
        let names = self.stack.list(path.as_bytes())?;
        Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
    }

    /// Says that these directories will be listed, so that one scan of a layer serves that too.
    pub(super) fn expect_list(&mut self, path: &str) {
        self.stack.expect_list(path.as_bytes());
    }

    /// Why there is no regular file at `path`, in a sentence.
    pub(super) fn why_not(&mut self, path: &str) -> Error {
        match self.stack.find(path.as_bytes()) {
            Ok(_) => Error::failed("internal error: it is there"),
            Err(error) => error.into(),
        }
    }

    /// What a shell or runtime executes for `name`: the file itself if there is a slash in it, else the first one on `search`
    /// (`PATH`). Only executable files count on the way, as for execvp(3).
    pub(super) fn program(&mut self, name: &str, search: &str, directory: &str) -> Result<Option<(String, Rc<Found>)>> {
        let candidates: Vec<String> = match name.contains('/') {
            true if name.starts_with('/') => vec![name.to_owned()],
            true => vec![format!("{directory}/{name}")],
            false => search.split(':').filter(|d| d.starts_with('/')).map(|d| format!("{d}/{name}")).collect(),
        };
        self.expect(candidates.iter().map(String::as_str));
        let mut other = None;
        for candidate in candidates {
            match self.file(&candidate)? {
                Some(file) if file.entry.mode & 0o111 != 0 => return Ok(Some((candidate, file))),
                Some(file) => other = other.or(Some((candidate, file))),
                None => {}
            }
        }
        Ok(other)
    }
}

/// A whole text file; nothing if it is larger than [`MAX_TEXT`]. Bytes that are no UTF-8 are replaced.
pub(super) fn text(file: &Found) -> Result<Option<String>> {
    if file.entry.size > MAX_TEXT {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&file.content.head(MAX_TEXT as usize)?).into_owned()))
}
