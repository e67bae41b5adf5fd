//! Finding a file through the layers of an image, as a container would see it.
//!
//! Layers are opened from the top, and none below the one that decides; only the metadata of parent directories, and
//! where an entry lands whose own layer does not say, can need lower ones.
//!
//! Sources: image-spec `layer.md`; path_resolution(7).

use std::io::Read;

use crate::blob::Spool;
use crate::error::{Error, Result};
use crate::layer::entry::{Entry, Kind};
use crate::layer::hints;
use crate::layer::path::{self, Step, TooManyLinks};
use crate::layer::view::{Node, View};
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
    /// Its metadata, under [`Found::path`]. If the path is a hard link, that of the file it leads to.
    pub entry: Entry,
    /// Its parent directories from the top, without the root.
    pub parents: Vec<Parent>,
    /// Its bytes.
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

/// The layers of one image, to find files in.
pub struct Stack<O> {
    view: View<O>,
}

impl<O, R> Stack<O>
where
    O: FnMut(usize) -> Result<R>,
    R: Read,
{
    /// A stack of `layers`, bottom first. `open` gives the raw blob of the layer with a number, from the start each time;
    /// the stack verifies what comes out.
    pub fn new(layers: Vec<LayerSource>, open: O) -> Self {
        Stack { view: View::new(layers, open) }
    }

    /// Says that these paths will be asked for, so that one scan of a layer serves them all.
    pub fn expect<'a>(&mut self, paths: impl IntoIterator<Item = &'a [u8]>) {
        for path in paths {
            self.view.interest.want(&path::normalise(path));
        }
    }

    /// How often each layer was read so far, bottom first.
    pub fn scans(&self) -> Vec<usize> {
        self.view.scans()
    }

    /// The regular file that a container finds at `path`, symbolic links followed.
    pub fn find(&mut self, path: &[u8]) -> Result<Found, FindError> {
        let asked = path::normalise(path);
        let located = self.locate(path, &asked)?;
        let Some(name) = located.node else { return Err(self.missing(asked, located)?) };
        let inode = self.view.inode(name)?;
        if inode.kind != Kind::File {
            return Err(FindError::NotAFile { asked, kind: inode.kind });
        }
        let parents = self.parents(&located.path)?;
        let entries = parents.iter().filter_map(|(_, node)| node.as_ref());
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
        let entry = Entry { path: located.path.clone(), ..kept.entry.clone() };
        let other_names = self.other_names(&inode, &located.path)?;
        Ok(Found {
            path: located.path,
            asked,
            links: located.links,
            layer: inode.layer,
            entry,
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
        let Some(name) = located.node else { return Err(self.missing(asked, located)?) };
        let inode = self.view.inode(name)?;
        self.view.capture(inode.entry.map(|entry| (inode.layer, entry)))?;
        Ok(self.parent(located.path, Some(inode))?.entry)
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
                    let start = if inode.link.starts_with(b"/") { &b""[..] } else { path::parent(here) };
                    let rest = ahead.iter().map(Vec::as_slice).collect::<Vec<_>>().join(&b'/');
                    self.view.interest.want(&path::normalise(&[start, &inode.link, &rest].join(&b'/')));
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

    /// The other names that the layer of `inode` gives it, as far as the image still has them.
    fn other_names(&mut self, inode: &Node, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some((_, index)) = self.view.scanned().find(|(layer, _)| *layer == inode.layer) else {
            return Ok(Vec::new());
        };
        let mut names = vec![inode.written.clone()];
        for event in index.events().filter(|event| Some(event.entry) > inode.entry) {
            if event.what == crate::layer::index::What::Put(Kind::HardLink)
                && names.contains(&path::normalise(event.link))
            {
                names.push(event.path.to_vec());
            }
        }
        names.retain(|name| name != path);
        names.sort();
        names.dedup();
        let mut alive = Vec::new();
        for name in names {
            let Some(node) = self.view.top(&name)? else { continue };
            let node = self.view.inode(node)?;
            if (node.layer, node.entry) == (inode.layer, inode.entry) {
                alive.push(name);
            }
        }
        Ok(alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::testing::*;

    fn sources(layers: &[Layer]) -> Vec<LayerSource> {
        let source = |l: &Layer| LayerSource { descriptor: l.descriptor.clone(), diff_id: l.diff_id.clone() };
        layers.iter().map(source).collect()
    }

    /// `find`, as `path layer content`, or the error and its hint; and how often each layer was read.
    fn find(layers: &[Vec<Vec<u8>>], path: &str) -> (Result<String, String>, Vec<usize>) {
        let layers: Vec<Layer> = layers.iter().map(|frames| Layer::of(frames)).collect();
        let mut stack = Stack::new(sources(&layers), |at| Ok(&layers[at].blob[..]));
        let found = stack.find(path.as_bytes()).map_err(|e| {
            let error = Error::from(e);
            format!("{error} ({})", error.hint_text().unwrap_or_default())
        });
        let found = found.map(|found| {
            let mut content = String::new();
            found.content.reader(0).read_to_string(&mut content).unwrap();
            assert_eq!((found.entry.path, found.entry.kind), (found.path.clone(), Kind::File));
            format!("{} {} {content}", path::show(&found.path), found.layer)
        });
        (found, stack.scans())
    }

    fn check(layers: &[Vec<Vec<u8>>], path: &str, expected: &str, scans: &[usize]) {
        let (found, seen) = find(layers, path);
        assert_eq!(found.as_deref(), Ok(expected), "{path}");
        assert_eq!(seen, scans, "{path}");
    }

    fn fails(layers: &[Vec<Vec<u8>>], path: &str, words: &[&str]) {
        let error = find(layers, path).0.unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{path}: {error}");
    }

    fn tree(dirs: &[&str], more: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        dirs.iter().map(|d| dir(d)).chain(more).collect()
    }

    #[test]
    fn the_topmost_layer_decides_and_no_lower_one_is_opened() {
        let base = tree(&["usr", "usr/sbin", "etc"], vec![file("usr/sbin/nginx", b"one"), file("etc/a", b"a")]);
        let mid = tree(&["usr", "usr/sbin"], vec![file("usr/sbin/nginx", b"two")]);
        let top = tree(&["etc"], vec![file("etc/b", b"b")]);
        let layers = [base, mid, top];
        check(&layers, "/usr/sbin/nginx", "/usr/sbin/nginx 1 two", &[0, 1, 1]);
        check(&layers, "etc/b", "/etc/b 2 b", &[0, 0, 1]);
        check(&layers, "usr/../etc//./a", "/etc/a 0 a", &[1, 1, 1]);
    }

    #[test]
    fn whiteouts_hide_lower_layers_only() {
        let base = tree(&["d", "d/e"], vec![file("d/e/f", b"0"), file("d/g", b"0")]);
        for (upper, path, expected) in [
            (vec![file("d/e/.wh.f", b"")], "d/e/f", None),
            (vec![file("d/e/.wh.f", b""), file("d/e/f", b"1")], "d/e/f", Some("/d/e/f 1 1")),
            (vec![file("d/e/f", b"1"), file("d/e/.wh.f", b"")], "d/e/f", Some("/d/e/f 1 1")),
            (vec![file("d/.wh.e", b"")], "d/e/f", None),
            (vec![file(".wh.d", b"")], "d/g", None),
            (vec![file("d/.wh..wh..opq", b"")], "d/e/f", None),
            (vec![dir("d"), file("d/g", b"1"), file("d/.wh..wh..opq", b"")], "d/g", Some("/d/g 1 1")),
            (vec![dir("d"), dir("d/e"), file("d/e/.wh..wh..opq", b"")], "d/g", Some("/d/g 0 0")),
            (vec![file(".wh..wh..opq", b"")], "d/g", None),
            (vec![file("d/.wh..wh.aufs", b"")], "d/g", Some("/d/g 0 0")),
            (vec![file("d/.wh.other", b"")], "d/g", Some("/d/g 0 0")),
        ] {
            let (found, _) = find(&[base.clone(), upper], path);
            assert_eq!(found.as_deref().ok(), expected, "{path}: {found:?}");
        }
    }

    #[test]
    fn what_replaces_a_directory_takes_all_of_it() {
        let base = || tree(&["d"], vec![file("d/f", b"0")]);
        for (upper, expected) in [
            (vec![vec![file("d", b"1")]], Err("/d is a regular file")),
            (vec![vec![file("d", b"1")], vec![dir("d")]], Err("no /d/f")),
            (vec![vec![symlink("d", "e")], vec![dir("d")]], Err("no /d/f")),
            (vec![vec![file("d", b"1"), dir("d")]], Err("no /d/f")),
            (vec![vec![dir("d")]], Ok("/d/f 0 0")),
            (vec![vec![symlink("d", "e"), dir("e"), file("e/f", b"1")]], Ok("/e/f 1 1")),
        ] {
            let layers: Vec<_> = [base()].into_iter().chain(upper).collect();
            match expected {
                Ok(expected) => assert_eq!(find(&layers, "d/f").0.as_deref(), Ok(expected)),
                Err(word) => fails(&layers, "d/f", &[word]),
            }
        }
    }

    #[test]
    fn links_in_every_component_are_followed() {
        let base = tree(
            &["usr", "usr/sbin", "opt", "opt/nginx"],
            vec![
                symlink("sbin", "usr/sbin"),
                symlink("usr/sbin/nginx", "/opt/../opt/current"),
                symlink("opt/current", "nginx/nginx-1.2"),
                file("opt/nginx/nginx-1.2", b"elf"),
                file("opt/nginx/passwd", b"not that one"),
            ],
        );
        check(std::slice::from_ref(&base), "/sbin/nginx", "/opt/nginx/nginx-1.2 0 elf", &[2]);
        check(
            &[base.clone(), tree(&["etc"], vec![file("etc/x", b"")])],
            "sbin/nginx",
            "/opt/nginx/nginx-1.2 0 elf",
            &[2, 1],
        );
        fails(&[vec![symlink("a", "b"), symlink("b", "a")]], "a", &["/a leads through more than 40"]);
        fails(&[vec![symlink("a", "b/c")]], "a", &["/a leads nowhere", "'b/c'"]);
        // A link of the upper layer points at a file of the lower one, whose name nobody asked for at first.
        check(&[base, vec![symlink("x", "opt/nginx/passwd")]], "x", "/opt/nginx/passwd 0 not that one", &[1, 1]);
    }

    #[test]
    fn entries_land_where_their_parents_lead() {
        let merged = || tree(&["usr", "usr/sbin"], vec![symlink("sbin", "usr/sbin"), file("usr/sbin/x", b"0")]);
        let through = vec![file("sbin/x", b"1")];
        // A second scan keeps what has another path than expected: the content of usr/sbin/x, the parents of sbin/x.
        check(&[merged(), through.clone()], "usr/sbin/x", "/usr/sbin/x 1 1", &[1, 2]);
        check(&[merged(), through.clone()], "sbin/x", "/usr/sbin/x 1 1", &[2, 1]);
        // With an entry of its own the directory replaces the link.
        check(&[merged(), tree(&["sbin"], through.clone())], "usr/sbin/x", "/usr/sbin/x 0 0", &[1, 1]);
        check(&[merged(), tree(&["sbin"], through)], "sbin/x", "/sbin/x 1 1", &[0, 1]);
        check(
            &[merged(), vec![file("sbin/.wh.x", b""), file("sbin/y", b"1")]],
            "usr/sbin/y",
            "/usr/sbin/y 1 1",
            &[1, 2],
        );
        fails(&[merged(), vec![file("sbin/.wh.x", b"")]], "usr/sbin/x", &["no /usr/sbin/x"]);
        fails(&[merged(), vec![file("sbin/.wh..wh..opq", b"")]], "usr/sbin/x", &["no /usr/sbin/x"]);
        let inside = tree(&["usr", "usr/lib"], vec![symlink("lib", "usr/lib"), file("lib/foo", b"f")]);
        check(&[inside], "usr/lib/foo", "/usr/lib/foo 0 f", &[2]);
    }

    #[test]
    fn hard_links_lead_to_their_file() {
        let base = tree(
            &["bin"],
            vec![
                file("bin/a", b"inode"),
                hardlink("bin/b", "bin/a"),
                hardlink("bin/c", "./bin/b"),
                hardlink("bin/d", "/bin/a"),
            ],
        );
        let layers = [Layer::of(&base), Layer::of(&[file("bin/.wh.d", b"")])];
        let mut stack = Stack::new(sources(&layers), |at| Ok(&layers[at].blob[..]));
        let found = stack.find(b"bin/c").unwrap();
        assert_eq!((&found.path[..], found.layer, found.content.size()), (&b"bin/c"[..], 0, 5));
        assert_eq!(found.other_names, [b"bin/a", b"bin/b"]);
        assert_eq!(stack.find(b"bin/a").unwrap().other_names, [b"bin/b", b"bin/c"]);
        check(&[base.clone(), vec![hardlink("x", "bin/a")]], "x", "/x 0 inode", &[1, 1]);
        fails(&[vec![hardlink("x", "y")]], "x", &["hard link to /y, which is not there"]);
        fails(&[tree(&["d"], vec![hardlink("x", "d")])], "x", &["which is a directory"]);
        check(&[vec![file("f", b"1"), symlink("s", "f"), hardlink("h", "s")]], "h", "/f 0 1", &[2]);
    }

    #[test]
    fn parents_have_the_metadata_of_their_topmost_entry() {
        let owned = |name: &str, uid| frame(b'5', name.as_bytes(), b"", b"", |h| h.set_uid(uid));
        let base = [owned("usr", 1), owned("usr/local", 2), file("usr/local/x", b"")];
        let mid = [owned("usr", 3)];
        let top = [file("usr/local/new/x", b"top")];
        let layers = [Layer::of(&base), Layer::of(&mid), Layer::of(&top)];
        let mut stack = Stack::new(sources(&layers), |at| Ok(&layers[at].blob[..]));
        let found = stack.find(b"usr/local/new/x").unwrap();
        let parents: Vec<_> =
            found.parents.iter().map(|p| (path::show(&p.entry.path), p.entry.uid, p.implied)).collect();
        assert_eq!(
            parents,
            [
                ("/usr".to_owned(), 3, false),
                ("/usr/local".to_owned(), 2, false),
                ("/usr/local/new".to_owned(), 0, true)
            ]
        );
        assert_eq!(stack.scans(), [1, 1, 1]);
        assert_eq!(stack.entry(b"usr/local").unwrap().uid, 2);
        assert_eq!(stack.entry(b"/").unwrap().kind, Kind::Directory);
    }

    #[test]
    fn what_is_no_file_is_said() {
        let layer = tree(
            &["usr", "usr/sbin", "opt"],
            vec![
                file("usr/sbin/nginx", b""),
                file("opt/kong", b""),
                frame(b'6', b"fifo", b"", b"", |_| {}),
                frame(b'3', b"null", b"", b"", |_| {}),
                [pax(&[(b"GNU.sparse.major", b"1")]), file("holes", b"")].concat(),
            ],
        );
        let layers = [layer];
        for (path, words) in [
            ("usr", &["/usr is a directory"][..]),
            ("/", &["/ is a directory"]),
            ("fifo", &["named pipe"]),
            ("null", &["character device"]),
            ("holes", &["sparse"]),
            ("usr/sbin/ngnix", &["no /usr/sbin/ngnix", "it has /usr/sbin/nginx"]),
            ("usr/bin/kong", &["no /usr/bin/kong", "/opt/kong"]),
            ("usr/sbin/a/b/c", &["no /usr/sbin/a/b/c", "deepest directory that exists is /usr/sbin"]),
            ("usr/sbin/nginx/x", &["/usr/sbin/nginx is a regular file"]),
        ] {
            fails(&layers, path, words);
        }
        fails(&[], "x", &["no /x"]);
    }

    #[test]
    fn a_layer_that_does_not_verify_finds_nothing() {
        let good = Layer::of(&[file("a", b"1")]);
        for bad in [
            Layer { diff_id: Digest::of(b""), ..good.clone() },
            Layer { blob: Layer::of(&[file("a", b"2")]).blob, ..good.clone() },
        ] {
            let layers = [bad];
            let mut stack = Stack::new(sources(&layers), |at| Ok(&layers[at].blob[..]));
            let error = Error::from(stack.find(b"a").unwrap_err());
            assert_eq!(error.kind(), crate::error::Kind::Content);
            assert!(error.to_string().starts_with("layer 1 of 1 (sha256:"), "{error}");
        }
    }
}
