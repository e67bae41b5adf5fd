//! Finding a file through the layers of an image, as a container would see it.
//!
//! Layers are opened from the top, and none below the one that decides; only the metadata of parent directories, and
//! where an entry lands whose own layer does not say, can need lower ones.
//!
//! Sources: image-spec `layer.md`; path_resolution(7).

use std::collections::BTreeSet;
use std::io::Read;
use std::mem;

use crate::archive::entry::{Entry, Kind};
use crate::archive::path::{self, Step, TooManyLinks};
use crate::blob::Spool;
use crate::error::{Error, Result};
use crate::layer::cache::Cache;
use crate::layer::hints;
use crate::layer::inode::amend;
use crate::layer::view::{Node, Scanning, View};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;

/// What an image says about one of its layers.
#[derive(Clone, Debug)]
pub struct LayerSource {
    /// From the manifest: digest and size of the blob.
    pub descriptor: Descriptor,
    /// From the config: the digest of the uncompressed tar.
    pub diff_id: Digest,
}

/// A regular file of an image and everything that a layer has to repeat to replace it by its like.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it really is: no component is a symbolic link.
    pub path: Vec<u8>,
    /// The path that was asked for, normalised.
    pub asked: Vec<u8>,
    /// The symbolic links that were followed: the path of each and its target as written.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
    /// The number of the layer that holds the content, from 0 at the bottom.
    pub layer: usize,
    /// Its metadata, under [`Found::path`], with what hard links to it changed.
    pub entry: Entry,
    /// A hard link to it that was made with other capabilities than it had: which ones count depends on the container engine.
    pub disputed: Option<Vec<u8>>,
    /// Its parent directories from the top, without the root.
    pub parents: Vec<Parent>,
    /// Its bytes; see [`Stack::keep_at_most`].
    pub content: Spool,
    /// Other names of the same file, which will keep what is replaced here.
    pub other_names: Vec<Vec<u8>>,
}

/// A directory above a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its metadata, with its path.
    pub entry: Entry,
    /// No layer has an entry for it; the metadata are what unpackers give it.
    pub implied: bool,
}

/// Why there is no regular file at a path. It converts into an [`Error`] with a sentence and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindError {
    /// Nothing is there.
    Missing {
        /// What was asked for, normalised.
        asked: Vec<u8>,
        /// The deepest parent that exists; empty for the root.
        existing: Vec<u8>,
        /// Paths that may have been meant.
        similar: Vec<Vec<u8>>,
    },
    /// It is a symbolic link to nothing.
    Dangling {
        /// What was asked for, normalised.
        asked: Vec<u8>,
        /// The last link that was followed.
        link: Vec<u8>,
        /// Its target as written.
        target: Vec<u8>,
    },
    /// A component in front of the last is no directory.
    NotADirectory {
        /// What was asked for, normalised.
        asked: Vec<u8>,
        /// The component.
        component: Vec<u8>,
        /// What it is.
        kind: Kind,
    },
    /// Something else than a regular file is there.
    NotAFile {
        /// What was asked for, normalised.
        asked: Vec<u8>,
        /// What is there.
        kind: Kind,
    },
    /// More symbolic links than [`path::MAX_LINKS`].
    Loop {
        /// What was asked for, normalised.
        asked: Vec<u8>,
    },
    /// A layer could not be read or was refused.
    Layer(Error),
}

impl From<Error> for FindError {
    fn from(error: Error) -> Self {
        FindError::Layer(error)
    }
}

impl From<TooManyLinks> for FindError {
    fn from(_: TooManyLinks) -> Self {
        FindError::Loop { asked: Vec::new() }
    }
}

impl From<FindError> for Error {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Layer(error) => error,
            FindError::Missing { asked, existing, similar } => {
                let shown: Vec<String> = similar.iter().map(|p| path::show(p)).collect();
                let error = Error::not_found(format!("the image has no {}", path::show(&asked)));
                match shown.is_empty() {
                    true => error.hint(format!("the deepest directory that exists is {}", path::show(&existing))),
                    false => error.hint(format!("it has {}", shown.join(", "))),
                }
            }
            FindError::Dangling { asked, link, target } => Error::not_found(format!(
                "{} leads nowhere: {} is a symbolic link to '{}', which the image does not have",
                path::show(&asked),
                path::show(&link),
                String::from_utf8_lossy(&target)
            )),
            FindError::NotADirectory { asked, component, kind } => Error::not_found(format!(
                "the image has no {}: {} is {}",
                path::show(&asked),
                path::show(&component),
                kind.describe()
            )),
            FindError::NotAFile { asked, kind } => {
                Error::usage(format!("{} is {}, not a regular file", path::show(&asked), kind.describe()))
                    .hint("only regular files can have a capability")
            }
            FindError::Loop { asked } => Error::content(format!(
                "{} leads through more than {} symbolic links",
                path::show(&asked),
                path::MAX_LINKS
            )),
        }
    }
}

/// Where a path leads.
struct Located {
    path: Vec<u8>,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Hard links are not followed yet.
    node: Option<Node>,
}

/// Takes in the raw blob of a layer, from its start, and verifies it.
pub type Scan<'a> = dyn FnMut(&mut dyn Read) -> Result<()> + 'a;

/// The layers of one image, to find files in.
pub struct Stack<O> {
    view: View<O>,
}

impl<O> Stack<O>
where
    O: FnMut(usize, &mut Scan<'_>) -> Result<()>,
{
    /// A stack of `layers`, bottom first. `read` gives the raw blob of the layer with a number to a [`Scan`], and may do so
    /// again after an error. What `cache` has is not read again.
    pub fn new(layers: Vec<LayerSource>, limits: Limits, cache: &Cache, read: O) -> Self {
        Stack { view: View::new(layers, limits, cache, read) }
    }

    /// Says that these paths will be asked for, so that one scan of a layer serves them all.
    pub fn expect<'a>(&mut self, paths: impl IntoIterator<Item = &'a [u8]>) {
        for path in paths {
            self.view.interest.want(&path::normalise(path));
        }
    }

    /// Says that the directory at this path will be listed.
    pub fn expect_list(&mut self, path: &[u8]) {
        self.view.interest.directories.insert(path::normalise(path));
    }

    /// Cuts what [`Found::content`] has of larger files to so many bytes from the start; [`Entry::size`] stays.
    pub fn keep_at_most(&mut self, bytes: u64) {
        self.view.interest.most = bytes;
    }

    /// How often each layer was read so far, bottom first.
    pub fn scans(&self) -> Vec<usize> {
        self.view.scans()
    }

    /// The regular file that a container finds at `path`, symbolic links followed.
    pub fn find(&mut self, path: &[u8]) -> Result<Found, FindError> {
        let asked = path::normalise(path);
        let located = self.locate(path, &asked)?;
        let Some(node) = located.node else { return Err(self.missing(asked, located)?) };
        let inode = self.view.inode(node)?;
        if inode.kind != Kind::File {
            return Err(FindError::NotAFile { asked, kind: inode.kind });
        }
        let parents = self.parents(&located.path)?;
        let links = self.view.links_to(&inode)?;
        let entries = parents.iter().filter_map(|(_, node)| node.as_ref()).chain(links.iter().map(|(link, _)| link));
        let wanted: Vec<_> = entries.chain([&inode]).filter_map(|node| Some((node.layer, node.entry?))).collect();
        self.view.capture(wanted)?;
        let parents = parents.into_iter().map(|(path, node)| self.parent(path, node)).collect::<Result<_>>()?;
        let kept = self.view.kept(inode.layer, inode.entry.unwrap_or_default())?;
        let Some(content) = kept.content.clone() else {
            return Err(Error::content(format!(
                "{} is stored as a sparse file, which capatch cannot read",
                path::show(&located.path)
            ))
            .hint("build the image so that the file is copied without holes (tar without --sparse)")
            .into());
        };
        let mut entry = Entry { path: located.path.clone(), ..kept.entry.clone() };
        let disputed = self.amend(&mut entry, &links)?;
        let other_names = self.other_names(&inode, links, &located.path)?;
        Ok(Found {
            path: located.path,
            asked,
            links: located.links,
            layer: inode.layer,
            entry,
            disputed,
            parents,
            content,
            other_names,
        })
    }

    /// The entry of whatever a container finds at `path`, symbolic links followed, under its real path. Directories that
    /// no layer has an entry for have the metadata that unpackers give them.
    pub fn entry(&mut self, path: &[u8]) -> Result<Entry, FindError> {
        let asked = path::normalise(path);
        let located = self.locate(path, &asked)?;
        if located.path.is_empty() {
            return Ok(Entry::implied_directory(Vec::new()));
        }
        let Some(node) = located.node else { return Err(self.missing(asked, located)?) };
        let inode = self.view.inode(node)?;
        let links = if inode.kind == Kind::Directory { Vec::new() } else { self.view.links_to(&inode)? };
        let nodes = links.iter().map(|(link, _)| link).chain([&inode]);
        self.view.capture(nodes.filter_map(|node| Some((node.layer, node.entry?))).collect::<Vec<_>>())?;
        let mut entry = self.parent(located.path, Some(inode))?.entry;
        self.amend(&mut entry, &links)?;
        Ok(entry)
    }

    /// Whether it is certain, without another scan of any layer, that a container finds nothing at `path`.
    pub fn lacks(&mut self, path: &[u8]) -> bool {
        self.view.scanning = Scanning::Forbidden;
        let located = self.locate(path, &path::normalise(path));
        let is_certain = mem::replace(&mut self.view.scanning, Scanning::Allowed) == Scanning::Forbidden;
        is_certain && located.is_ok_and(|located| located.node.is_none())
    }

    /// Gives a file the metadata of its hard links. Says which was the first that has other capabilities.
    fn amend(&self, file: &mut Entry, links: &[(Node, Vec<u8>)]) -> Result<Option<Vec<u8>>> {
        let mut disputed = None;
        for (link, landed) in links {
            if amend(file, &self.view.kept(link.layer, link.entry.unwrap_or_default())?.entry) && disputed.is_none() {
                disputed = Some(landed.clone());
            }
        }
        Ok(disputed)
    }

    /// The names of what a container finds in the directory at `path`, symbolic links to it followed, in the order of their
    /// bytes; nothing if no directory is there.
    ///
    /// # Errors
    /// A layer that cannot be read, or was refused.
    pub fn list(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let asked = path::normalise(path);
        self.view.interest.directories.insert(asked.clone());
        let located = match self.locate(path, &asked) {
            Err(FindError::Layer(error)) => return Err(error),
            Err(_) => return Ok(Vec::new()),
            Ok(located) => located,
        };
        let is_directory = located.node.as_ref().is_none_or(|node| node.kind == Kind::Directory);
        if !is_directory || (located.node.is_none() && !located.path.is_empty()) {
            return Ok(Vec::new());
        }
        let names = self.view.names_in(&located.path)?;
        // One scan of a layer serves them all.
        names.iter().for_each(|name| self.view.interest.want(&path::join(&located.path, name)));
        let mut found = Vec::new();
        for name in names {
            if self.view.top(&path::join(&located.path, &name))?.is_some() {
                found.push(name);
            }
        }
        Ok(found)
    }

    fn locate(&mut self, raw: &[u8], asked: &[u8]) -> Result<Located, FindError> {
        self.view.interest.want(asked);
        let mut last = None;
        let walked = path::walk(raw, |here, ahead| {
            let node = self.view.top(here)?;
            last = Some((here.to_vec(), node.clone()));
            let Some(node) = node else { return Ok(Step::Stay) };
            let inode = if node.kind == Kind::HardLink { self.view.inode(node)? } else { node };
            match inode.kind {
                Kind::Symlink => {
                    let rest = ahead.iter().map(Vec::as_slice).collect::<Vec<_>>().join(&b'/');
                    let text = [&inode.link, &rest[..]].join(&b'/');
                    self.view.interest.want(&path::target(here, &text));
                    Ok(Step::Link(inode.link))
                }
                Kind::Directory => Ok(Step::Stay),
                _ if ahead.is_empty() => Ok(Step::Stay),
                kind => Err(FindError::NotADirectory { asked: asked.to_vec(), component: here.to_vec(), kind }),
            }
        });
        let walked = walked.map_err(|error| match error {
            FindError::Loop { .. } => FindError::Loop { asked: asked.to_vec() },
            error => error,
        })?;
        let node = match last {
            Some((path, node)) if path == walked.path => node,
            _ => self.view.top(&walked.path)?,
        };
        Ok(Located { path: walked.path, links: walked.links, node })
    }

    fn missing(&mut self, asked: Vec<u8>, located: Located) -> Result<FindError> {
        if let Some((link, target)) = located.links.last()
            && path::base(&located.path) != path::base(&asked)
        {
            return Ok(FindError::Dangling { asked, link: link.clone(), target: target.clone() });
        }
        let mut existing = Vec::new();
        for prefix in path::prefixes(path::parent(&located.path)) {
            if self.view.top(prefix)?.is_none() {
                break;
            }
            existing = prefix.to_vec();
        }
        let similar = hints::similar(&mut self.view, &located.path)?;
        Ok(FindError::Missing { asked, existing, similar })
    }

    /// The parents of `path` from the top, and what the image has there.
    fn parents(&mut self, path: &[u8]) -> Result<Vec<(Vec<u8>, Option<Node>)>> {
        path::prefixes(path::parent(path)).map(|prefix| Ok((prefix.to_vec(), self.view.top(prefix)?))).collect()
    }

    fn parent(&self, path: Vec<u8>, node: Option<Node>) -> Result<Parent> {
        match node.and_then(|node| Some((node.layer, node.entry?))) {
            None => Ok(Parent { entry: Entry::implied_directory(path), implied: true }),
            Some((layer, entry)) => {
                let entry = Entry { path, ..self.view.kept(layer, entry)?.entry.clone() };
                Ok(Parent { entry, implied: false })
            }
        }
    }

    /// The names of `inode` besides `path` that the image still has, its own and those of `links`.
    fn other_names(&mut self, inode: &Node, links: Vec<(Node, Vec<u8>)>, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut alive = BTreeSet::new();
        for (node, landed) in [(inode.clone(), self.view.landed(inode)?)].into_iter().chain(links) {
            let there = if landed == path { None } else { self.view.top(&landed)? };
            if there.is_some_and(|there| (there.layer, there.entry) == (node.layer, node.entry)) {
                alive.insert(landed);
            }
        }
        Ok(alive.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
