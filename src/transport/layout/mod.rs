//! OCI image layouts: a directory of blobs by digest and an `index.json` that names some of them.
//!
//! Source: image-spec `image-layout.md`. Writing is crash-safe: a blob is hashed while it is written to a temporary
//! file, made durable and only then renamed to its digest; `index.json` is replaced last, under a lock, and only if
//! nobody changed it meanwhile. Other tools do not take that lock.

pub(super) mod index;
mod receive;

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{Access, Mode, OFlags, access, openat};
use rustix::io::Errno;

use self::index::{Found, INDEX, MARKER};
use crate::blob;
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::REF_NAME;
use crate::oci::reference::Target;
use crate::transport::durable::{
    LOCK, TEMPORARY, cannot_write, lock, publish, read_limited, remove_garbage, temporary,
};

/// A directory that is, or is to become, an OCI image layout.
#[derive(Clone, Debug)]
pub struct Layout {
    path: PathBuf,
    limits: Limits,
    lock_timeout: Duration,
    /// Images of one run take turns, however short they are to wait for other runs.
    turn: Arc<Mutex<()>>,
}

impl Layout {
    /// The layout in `path`; nothing is looked at yet. Another run's lock is waited for for `lock_timeout`.
    pub fn new(path: impl Into<PathBuf>, limits: Limits, lock_timeout: Duration) -> Self {
        Layout { path: path.into(), limits, lock_timeout, turn: Arc::default() }
    }

    /// Whether both name one directory.
    pub fn is_same(&self, other: &Layout) -> bool {
        self.path == other.path
            || matches!((self.path.canonicalize(), other.path.canonicalize()), (Ok(a), Ok(b)) if a == b)
    }

    /// The manifest or index that `index.json` gives `target`, or the only one there is, with its bytes. `None`: no such
    /// tag, or no layout yet.
    pub fn resolve(&self, target: Option<&Target>) -> Result<Option<(Descriptor, Bytes)>> {
        if !self.exists()? {
            return Ok(None);
        }
        let Some(bytes) = self.index_bytes()? else { return Ok(None) };
        let found = index::find(&bytes, target).map_err(|e| e.context(self.path.join(INDEX).display()))?;
        let descriptor = match (found, target) {
            (Found::Blob(descriptor), _) => descriptor,
            (Found::Flat(descriptor, bytes), _) => return Ok(Some((descriptor, bytes))),
            // A manifest that no tag names any more, or a child of an index.
            (Found::Nothing, Some(Target::Digest(digest))) => return self.untagged(digest),
            (Found::Nothing, _) => return Ok(None),
            (Found::Many(many), _) => {
                let what = target.map_or("image".to_owned(), |tag| format!("image tagged '{tag}'"));
                let place = format!("oci:{}", self.path.display());
                return Err(Error::not_found(format!("{} holds more than one {what}", self.path.display()))
                    .hint(format!("choose one: {}", index::choices(&place, &many))));
            }
        };
        let bytes = blob::read_small(self.open(&descriptor.digest)?, &descriptor, &self.limits)?;
        Ok(Some((descriptor, bytes)))
    }

    /// The tags that `index.json` names. [`Kind::NotFound`] if there is no layout.
    ///
    /// [`Kind::NotFound`]: crate::error::Kind::NotFound
    pub fn tags(&self) -> Result<Vec<String>> {
        let bytes = if self.exists()? { self.index_bytes()? } else { None };
        let bytes = bytes.ok_or_else(|| Error::not_found(format!("{} holds no OCI layout", self.path.display())))?;
        let entries = index::entries(&bytes).map_err(|e| e.context(self.path.join(INDEX).display()))?;
        Ok(index::names(&entries))
    }

    /// What is read at once may have.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// For messages.
    pub(super) fn show(&self) -> String {
        self.path.display().to_string()
    }

    /// Opens a blob, or the index of the entries that are one image's platforms. It was not hashed: the reader's user does
    /// that.
    pub fn open(&self, digest: &Digest) -> Result<File> {
        match self.blob(digest)? {
            Some(file) => Ok(file),
            None => self.flat_index(digest)?.ok_or_else(|| {
                Error::not_found(format!("{} is not in {}", digest, self.path.display()))
                    .hint("the layout is incomplete; copy the image into it again")
            }),
        }
    }

    /// The file of a blob; `None`: there is none.
    ///
    /// Links below the layout's root are not followed, and only a regular file is a blob (faults.md F9, F10).
    fn blob(&self, digest: &Digest) -> Result<Option<File>> {
        let place = || self.blob_path(digest).display().to_string();
        let directory = |parent: &dyn AsFd, name: &str| -> io::Result<OwnedFd> {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            Ok(openat(parent.as_fd(), name, flags, Mode::empty())?)
        };
        let open = || -> io::Result<File> {
            let root = File::open(&self.path)?;
            let blobs = directory(&root, "blobs")?;
            let algorithm = directory(&blobs, digest.algorithm().name())?;
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::RDONLY;
            Ok(File::from(openat(&algorithm, digest.hex(), flags, Mode::empty())?))
        };
        let file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::LOOP | Errno::NOTDIR)) => {
                return Err(Error::content(format!(
                    "{} is a symbolic link, or in one: links are not followed",
                    place()
                ))
                .hint("copy the layout with cp -rL, which puts what they lead to in their place"));
            }
            opened => opened.map_err(|e| Error::io(place(), &e))?,
        };
        let metadata = file.metadata().map_err(|e| Error::io(place(), &e))?;
        if !metadata.is_file() {
            return Err(Error::content(format!("{} is not a regular file", place())));
        }
        Ok(Some(file))
    }

    /// Whether the blob is there with the right content; a corrupt one counts as absent and will be replaced.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let file = self.blob(&descriptor.digest)?;
        Ok(file.is_some_and(|file| crate::blob::VerifiedReader::new(file, descriptor).finish().is_ok()))
    }

    /// Refuses a directory that is no layout, or that cannot be written to, before anything is transferred (faults.md
    /// F13). Writes nothing.
    pub fn check_writable(&self) -> Result<()> {
        let is_layout = self.exists()?;
        let mut directory = if self.path.is_relative() { Path::new(".").join(&self.path) } else { self.path.clone() };
        // What is a layout's own may be there already if another run makes the same layout at this moment.
        let is_foreign = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            !["blobs", MARKER, INDEX, LOCK].contains(&&*name) && !name.starts_with(TEMPORARY)
        };
        if !is_layout && fs::read_dir(&directory).is_ok_and(|entries| entries.flatten().any(is_foreign)) {
            let message = format!("{} is not empty and not an OCI layout", self.path.display());
            return Err(
                Error::new(Kind::DestinationRefused, message).hint("name a new directory or an existing layout")
            );
        }
        while !directory.exists() {
            if directory.is_symlink() {
                let message = format!("{} is a link to something that does not exist", directory.display());
                return Err(Error::new(Kind::DestinationRefused, message)
                    .hint("make the directory that it leads to, or name another one"));
            }
            if !directory.pop() {
                break;
            }
        }
        if !directory.is_dir() {
            let message = format!("{} is not a directory", directory.display());
            return Err(Error::new(Kind::DestinationRefused, message)
                .hint("name a new directory or an existing layout; a file is written as oci-archive:FILE"));
        }
        access(&directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
            let error = Error::io(format!("cannot write {}", self.path.display()), &io::Error::from(e));
            error.hint(format!("name a place that you may write to; {} is none", directory.display()))
        })
    }

    /// Makes this a layout, if it is none yet.
    pub fn prepare(&self) -> Result<()> {
        self.check_writable()?;
        let is_new = !self.path.exists();
        self.make().inspect_err(|_| {
            // What another run has put something into is not empty, and stays.
            let blobs = self.path.join("blobs");
            for directory in [&blobs.join("sha256"), &blobs, &self.path].into_iter().filter(|_| is_new) {
                let _ = fs::remove_dir(directory);
            }
        })
    }

    fn make(&self) -> Result<()> {
        let error = |path: &Path| {
            let path = path.display().to_string();
            move |e: io::Error| Error::io(format!("cannot write {path}"), &e)
        };
        let blobs = self.path.join("blobs").join("sha256");
        fs::create_dir_all(&blobs).map_err(error(&blobs))?;
        // What leads out of the layout is not written to either (faults.md F10).
        for directory in [self.path.join("blobs"), blobs] {
            if !fs::symlink_metadata(&directory).map_err(error(&directory))?.is_dir() {
                return Err(Error::content(format!("{} is a link and no directory", directory.display())));
            }
        }
        if !self.exists()? {
            let mut marker = temporary(&self.path)?;
            marker.as_file_mut().write_all(index::MARKER_CONTENT.as_bytes()).map_err(error(&self.path))?;
            publish(marker, &self.path.join(MARKER))?;
        }
        remove_garbage(&self.path);
        Ok(())
    }

    /// Writes a blob from `reader`, which is hashed on the way; nothing appears under the digest unless it matched.
    pub fn write(&self, descriptor: &Descriptor, reader: &mut dyn Read) -> Result<()> {
        let path = self.blob_path(&descriptor.digest);
        let file = temporary(&self.path)?;
        let failed = |e: io::Error| cannot_write(&path, file.as_file(), descriptor.size, &e);
        blob::for_each_piece(descriptor, reader, |piece| file.as_file().write_all(piece).map_err(failed))?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        publish(file, &path)
    }

    /// Lets `tag` name `descriptor`. This is what publishes an image, so it comes last.
    pub fn tag(&self, tag: &str, descriptor: &Descriptor) -> Result<()> {
        let mut entry = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size)?;
        entry.set_annotation(REF_NAME, tag)?;
        let begin = Instant::now();
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = lock(&self.path, self.lock_timeout.saturating_sub(begin.elapsed()))?;
        let path = self.path.join(INDEX);
        for _ in 0..100 {
            let before = self.index_bytes()?;
            let old = |entry: &Descriptor| index::annotation(entry, REF_NAME).as_deref() == Some(tag);
            let after = index::with_entry(before.as_deref(), &entry, old).map_err(|e| e.context(path.display()))?;
            // What could not be read again is not written.
            self.limits.check_document(after.len() as u64, format!("{} with one more tag", path.display()))?;
            let mut file = temporary(&self.path)?;
            file.as_file_mut()
                .write_all(&after)
                .map_err(|e| Error::io(format!("cannot write {}", path.display()), &e))?;
            // Tools without our lock may have been faster (faults.md F6).
            if self.index_bytes()? == before {
                return publish(file, &path);
            }
        }
        Err(Error::failed(format!("{} is being changed by another program all the time", path.display())))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Whether there is a layout; a directory that claims to be one and is broken is an error, never «none».
    fn exists(&self) -> Result<bool> {
        let path = self.path.join(MARKER);
        let bytes = match read_limited(&path, &self.limits)? {
            Some(bytes) => bytes,
            None if self.path.join(INDEX).exists() => {
                return Err(Error::content(format!(
                    "{} has an index.json but no oci-layout file",
                    self.path.display()
                )));
            }
            None => return Ok(false),
        };
        index::check_marker(&bytes).map(|()| true).map_err(|e| e.context(path.display()))
    }

    fn index_bytes(&self) -> Result<Option<Vec<u8>>> {
        read_limited(&self.path.join(INDEX), &self.limits)
    }

    /// The flat index of this digest, which is no blob, as a file.
    fn flat_index(&self, digest: &Digest) -> Result<Option<File>> {
        let Some(bytes) = self.index_bytes()? else { return Ok(None) };
        let target = Target::Digest(digest.clone());
        let Ok(Found::Flat(_, bytes)) = index::find(&bytes, Some(&target)) else { return Ok(None) };
        let copy = || -> io::Result<File> {
            let mut file = tempfile::tempfile()?;
            file.write_all(&bytes)?;
            file.rewind()?;
            Ok(file)
        };
        copy().map(Some).map_err(|e| blob::temporary_error(&e))
    }

    /// A manifest that is in the layout, though `index.json` does not name it.
    fn untagged(&self, digest: &Digest) -> Result<Option<(Descriptor, Bytes)>> {
        self.blob(digest)?.map(|file| index::untagged(file, digest, &self.limits)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type;
    use crate::transport::LOCK_TIMEOUT;

    fn image(bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(bytes), bytes.len() as u64).unwrap()
    }

    fn layout() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path().join("kong"), Limits::default(), LOCK_TIMEOUT);
        layout.prepare().unwrap();
        (directory, layout)
    }

    #[test]
    fn a_blob_appears_only_if_it_matched() {
        let (_directory, layout) = layout();
        let good = image(b"good");
        assert!(layout.write(&good, &mut &b"evil"[..]).is_err());
        assert!(layout.write(&good, &mut &b"goo"[..]).is_err());
        assert!(layout.write(&good, &mut &b"goods"[..]).is_err());
        assert!(!layout.has(&good).unwrap());
        assert_eq!(fs::read_dir(layout.path.join("blobs/sha256")).unwrap().count(), 0);
        layout.write(&good, &mut &b"good"[..]).unwrap();
        assert!(layout.has(&good).unwrap());
        fs::write(layout.blob_path(&good.digest), "evil").unwrap();
        assert!(!layout.has(&good).unwrap(), "a corrupt blob does not count");
        let left = fs::read_dir(&layout.path)
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().contains("capatch"));
        assert_eq!(left.count(), 0, "no temporary file stays");
    }

    #[test]
    fn links_and_devices_are_no_blobs() {
        let (_directory, layout) = layout();
        let good = image(b"good");
        let path = layout.blob_path(&good.digest);
        fs::write(layout.path.join("elsewhere"), "good").unwrap();
        std::os::unix::fs::symlink(layout.path.join("elsewhere"), &path).unwrap();
        let error = layout.open(&good.digest).unwrap_err();
        assert!(error.kind() == Kind::Content && error.hint_text().is_some(), "{error}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(layout.open(&good.digest).is_err());
        fs::remove_dir(&path).unwrap();
        // Nobody writes into it, and nobody waits for that.
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(layout.open(&good.digest).is_err());
    }

    #[test]
    fn nothing_is_read_or_written_behind_a_link_below_the_root() {
        for link in ["blobs", "blobs/sha256"] {
            let (directory, layout) = layout();
            layout.write(&image(b"good"), &mut &b"good"[..]).unwrap();
            let (path, elsewhere) = (layout.path.join(link), directory.path().join("elsewhere"));
            fs::rename(&path, &elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
            assert_eq!(layout.open(&Digest::of(b"good")).unwrap_err().kind(), Kind::Content, "{link}");
            assert_eq!(layout.prepare().unwrap_err().kind(), Kind::Content, "{link}");
        }
    }

    #[test]
    fn tags_keep_each_other() {
        let (_directory, layout) = layout();
        for (tag, bytes) in [("a", b"1"), ("b", b"2"), ("a", b"3")] {
            layout.write(&image(bytes), &mut &bytes[..]).unwrap();
            layout.tag(tag, &image(bytes)).unwrap();
        }
        let get = |tag: &str| layout.resolve(Some(&Target::Tag(tag.into()))).unwrap().map(|(d, _)| d.digest);
        assert_eq!(get("a"), Some(Digest::of(b"3")));
        assert_eq!(get("b"), Some(Digest::of(b"2")));
        assert_eq!(get("c"), None);
        assert_eq!(layout.tags().unwrap(), ["a", "b"]);
        assert!(layout.resolve(None).is_err(), "two images and no tag");
    }

    #[test]
    fn many_writers_lose_no_tag() {
        let (_directory, layout) = layout();
        let write = |layouts: [Layout; 8], name: &str| {
            std::thread::scope(|scope| {
                for (writer, layout) in layouts.into_iter().enumerate() {
                    let tag = move |i| layout.tag(&format!("{name}-{writer}-{i}"), &image(b"x")).unwrap();
                    scope.spawn(move || (0..5).for_each(tag));
                }
            });
        };
        write(std::array::from_fn(|_| Layout::new(&layout.path, Limits::default(), LOCK_TIMEOUT)), "runs");
        // Of one run, they wait for each other though they wait for no other run (faults.md F5).
        let impatient = Layout::new(&layout.path, Limits::default(), Duration::ZERO);
        write(std::array::from_fn(|_| impatient.clone()), "images");
        assert_eq!(layout.tags().unwrap().len(), 80);
    }

    #[test]
    fn a_broken_index_is_never_an_empty_one() {
        for broken in [
            "",
            "null",
            "{",
            "<html>",
            "{}",
            r#"{"manifests":null}"#,
            r#"{"manifests":[{}]}"#,
            r#"{"schemaVersion":2,"manifests":[],"Manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
        ] {
            let (_directory, layout) = layout();
            layout.tag("a", &image(b"1")).unwrap();
            fs::write(layout.path.join(INDEX), broken).unwrap();
            assert!(layout.resolve(None).is_err(), "{broken}");
            assert!(layout.tag("b", &image(b"2")).is_err(), "{broken}");
            assert_eq!(fs::read_to_string(layout.path.join(INDEX)).unwrap(), broken);
        }
    }

    #[test]
    fn only_layouts_and_empty_directories_are_written_to() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("precious"), "x").unwrap();
        assert!(Layout::new(directory.path(), Limits::default(), LOCK_TIMEOUT).prepare().is_err());
        let (_directory, layout) = layout();
        fs::write(layout.path.join(MARKER), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert!(layout.prepare().is_err());
        fs::remove_file(layout.path.join(MARKER)).unwrap();
        fs::write(layout.path.join(INDEX), "{}").unwrap();
        assert!(layout.resolve(None).is_err());
    }
}
