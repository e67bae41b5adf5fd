//! OCI image layouts: a directory of blobs by digest and an `index.json` that names some of them.
//!
//! Source: image-spec `image-layout.md`. Writing is crash-safe: a blob is hashed while it is written to a temporary
//! file, made durable and only then renamed to its digest; `index.json` is replaced last, under a lock, and only if
//! nobody changed it meanwhile. Other tools do not take that lock.

mod durable;
mod receive;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags, access, openat};
use serde_json::value::RawValue;

use self::durable::{LOCK, TEMPORARY, lock, publish, read_limited, remove_garbage, temporary};
use crate::blob::Verifier;
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::json::{self, Object};
use crate::oci::manifest::REF_NAME;
use crate::oci::media_type;
use crate::oci::reference::Target;
use crate::transport::MAX_MANIFEST;

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";

/// A directory that is, or is to become, an OCI image layout.
#[derive(Clone, Debug)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// The layout in `path`; nothing is looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Layout { path: path.into() }
    }

    /// Whether both name one directory.
    pub fn is_same(&self, other: &Layout) -> bool {
        self.path == other.path
            || matches!((self.path.canonicalize(), other.path.canonicalize()), (Ok(a), Ok(b)) if a == b)
    }

    /// The descriptor that `index.json` gives `target`, or the only one there is. `None`: no such tag, or no layout yet.
    pub fn resolve(&self, target: Option<&Target>) -> Result<Option<Descriptor>> {
        if !self.exists()? {
            return Ok(None);
        }
        let entries = self.entries()?;
        let (found, what): (Vec<&Descriptor>, String) = match target {
            None => (entries.iter().collect(), "image".to_owned()),
            Some(Target::Digest(digest)) => match entries.iter().find(|entry| entry.digest == *digest) {
                Some(entry) => (vec![entry], String::new()),
                // A manifest that no tag names any more, or a child of an index.
                None => return self.untagged(digest),
            },
            Some(Target::Tag(tag)) => {
                let named = |entry: &&Descriptor| entry.annotations().is_ok_and(|a| a.get(REF_NAME) == Some(tag));
                (entries.iter().filter(named).collect(), format!("image tagged '{tag}'"))
            }
        };
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some((*one).clone())),
            many if many.iter().all(|entry| entry.digest == many[0].digest) => Ok(Some(many[0].clone())),
            many => Err(Error::new(Kind::NotFound, format!("{} holds more than one {what}", self.path.display()))
                .hint(format!("choose one: {}", self.choices(many)))),
        }
    }

    /// The tags that `index.json` names, for a hint.
    pub fn tags(&self) -> Vec<String> {
        let entries = self.entries().unwrap_or_default();
        entries.iter().filter_map(|entry| entry.annotations().ok()?.get(REF_NAME).cloned()).collect()
    }

    /// Opens a blob. It was not hashed: the reader's user does that.
    ///
    /// Links below the layout's root are not followed, and only a regular file is a blob (faults.md F9, F10).
    pub fn open(&self, digest: &Digest) -> Result<File> {
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
        let file = open().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("{} is not in {}", digest, self.path.display()))
                .hint("the layout is incomplete; copy the image into it again"),
            _ => Error::io(place(), &e),
        })?;
        let metadata = file.metadata().map_err(|e| Error::io(place(), &e))?;
        if !metadata.is_file() {
            return Err(Error::content(format!("{} is not a regular file", place())));
        }
        Ok(file)
    }

    /// Whether the blob is there with the right content; a corrupt one counts as absent and will be replaced.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let file = match self.open(&descriptor.digest) {
            Ok(file) => file,
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(crate::blob::VerifiedReader::new(file, descriptor).finish().is_ok())
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
        while !directory.exists() && directory.pop() {}
        access(&directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
            let kind = if e == rustix::io::Errno::ACCESS { Kind::Denied } else { Kind::Failed };
            Error::new(kind, format!("cannot write {}: {}", self.path.display(), io::Error::from(e)))
        })
    }

    /// Makes this a layout, if it is none yet.
    pub fn prepare(&self) -> Result<()> {
        let error = |path: &Path| {
            let path = path.display().to_string();
            move |e: io::Error| Error::io(format!("cannot write {path}"), &e)
        };
        self.check_writable()?;
        let blobs = self.path.join("blobs").join("sha256");
        fs::create_dir_all(&blobs).map_err(error(&blobs))?;
        if !self.exists()? {
            let mut marker = temporary(&self.path)?;
            marker.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(error(&self.path))?;
            publish(marker, &self.path.join(MARKER))?;
        }
        remove_garbage(&self.path);
        Ok(())
    }

    /// Writes a blob from `reader`, which is hashed on the way; nothing appears under the digest unless it matched.
    pub fn write(&self, descriptor: &Descriptor, reader: &mut dyn Read) -> Result<()> {
        let path = self.blob_path(&descriptor.digest);
        let place = |e: &io::Error| Error::io(format!("cannot write {}", path.display()), e);
        let mut file = temporary(&self.path)?;
        let mut verifier = Verifier::new(descriptor);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::io(&descriptor.digest, &e)),
            };
            verifier.update(&buffer[..read])?;
            file.write_all(&buffer[..read]).map_err(|e| place(&e))?;
        }
        verifier.finish()?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| place(&e))?;
        }
        publish(file, &path)
    }

    /// Lets `tag` name `descriptor`. This is what publishes an image, so it comes last.
    pub fn tag(&self, tag: &str, descriptor: &Descriptor) -> Result<()> {
        let mut entry = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size)?;
        entry.set_annotation(REF_NAME, tag)?;
        let _lock = lock(&self.path)?;
        let path = self.path.join(INDEX);
        for _ in 0..100 {
            let before = self.index_bytes()?;
            let after = retag(before.as_deref(), tag, &entry).map_err(|e| e.context(path.display()))?;
            let mut file = temporary(&self.path)?;
            file.write_all(&after).map_err(|e| Error::io(format!("cannot write {}", path.display()), &e))?;
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
        let bytes = match read_limited(&path)? {
            Some(bytes) => bytes,
            None if self.path.join(INDEX).exists() => {
                return Err(Error::content(format!(
                    "{} has an index.json but no oci-layout file",
                    self.path.display()
                )));
            }
            None => return Ok(false),
        };
        let marker = Object::parse(&bytes).map_err(|e| e.context(path.display()))?;
        match marker.get::<String>("imageLayoutVersion")?.as_deref() {
            Some(version) if version.starts_with("1.") => Ok(true),
            other => Err(Error::content(format!(
                "{} is an OCI layout of version {}, only 1.x is known",
                self.path.display(),
                other.unwrap_or("unknown")
            ))),
        }
    }

    fn index_bytes(&self) -> Result<Option<Vec<u8>>> {
        read_limited(&self.path.join(INDEX))
    }

    fn entries(&self) -> Result<Vec<Descriptor>> {
        let path = self.path.join(INDEX);
        let context = |e: Error| e.context(path.display());
        let Some(bytes) = self.index_bytes()? else { return Ok(Vec::new()) };
        let index = Object::parse(&bytes).map_err(context)?;
        let manifests: Vec<Object> = index
            .get("manifests")
            .and_then(|m| m.ok_or_else(|| Error::content("the index has no 'manifests'")))
            .map_err(context)?;
        manifests.into_iter().map(Descriptor::from_object).collect::<Result<_>>().map_err(context)
    }

    /// A manifest that is in the layout, though `index.json` does not name it.
    fn untagged(&self, digest: &Digest) -> Result<Option<Descriptor>> {
        let mut bytes = Vec::new();
        match self.open(digest) {
            Ok(file) => file
                .take(MAX_MANIFEST + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| Error::io(self.blob_path(digest).display(), &e))?,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = bytes.len() as u64;
        if size > MAX_MANIFEST {
            return Err(Error::content(format!("{digest} is larger than a manifest may be ({MAX_MANIFEST} bytes)")));
        }
        let document = crate::oci::manifest::Document::parse(&bytes, None).map_err(|e| e.context(digest))?;
        Descriptor::new(document.media_type(), digest.clone(), size).map(Some)
    }

    fn choices(&self, entries: &[&Descriptor]) -> String {
        let name = |entry: &&Descriptor| match entry.annotations().ok().and_then(|a| a.get(REF_NAME).cloned()) {
            Some(tag)
                if entries.iter().filter(|e| e.annotations().is_ok_and(|a| a.get(REF_NAME) == Some(&tag))).count()
                    == 1 =>
            {
                format!("oci:{}:{tag}", self.path.display())
            }
            _ => format!("oci:{}@{}", self.path.display(), entry.digest),
        };
        entries.iter().take(20).map(name).collect::<Vec<_>>().join(", ")
    }
}

/// `index.json` with `tag` on `entry`; every other entry and member as it was.
fn retag(index: Option<&[u8]>, tag: &str, entry: &Descriptor) -> Result<Vec<u8>> {
    let Some(bytes) = index else {
        let mut index = Object::default();
        index.set("schemaVersion", &2)?;
        index.set("mediaType", media_type::OCI_INDEX)?;
        index.set("manifests", &[entry.object()])?;
        return Ok(index.to_bytes());
    };
    let mut index = Object::parse(bytes)?;
    let old: Vec<Box<RawValue>> =
        index.get("manifests")?.ok_or_else(|| Error::content("the index has no 'manifests'"))?;
    let new = json::raw(entry.object())?;
    let mut placed = false;
    let mut manifests = Vec::with_capacity(old.len() + 1);
    for raw in old {
        let descriptor = Descriptor::from_object(Object::parse(raw.get().as_bytes())?)?;
        if descriptor.annotations()?.get(REF_NAME).is_none_or(|name| name != tag) {
            manifests.push(raw);
        } else if !placed {
            manifests.push(new.clone());
            placed = true;
        }
    }
    if !placed {
        manifests.push(new);
    }
    index.set("manifests", &manifests)?;
    Ok(index.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(bytes), bytes.len() as u64).unwrap()
    }

    fn layout() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path().join("kong"));
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
        assert!(layout.open(&good.digest).is_err());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(layout.open(&good.digest).is_err());
    }

    #[test]
    fn tags_keep_each_other() {
        let (_directory, layout) = layout();
        layout.tag("a", &image(b"1")).unwrap();
        layout.tag("b", &image(b"2")).unwrap();
        layout.tag("a", &image(b"3")).unwrap();
        let get = |tag: &str| layout.resolve(Some(&Target::Tag(tag.into()))).unwrap().map(|d| d.digest);
        assert_eq!(get("a"), Some(Digest::of(b"3")));
        assert_eq!(get("b"), Some(Digest::of(b"2")));
        assert_eq!(get("c"), None);
        assert_eq!(layout.tags(), ["a", "b"]);
        assert!(layout.resolve(None).is_err(), "two images and no tag");
    }

    #[test]
    fn many_writers_lose_no_tag() {
        let (_directory, layout) = layout();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let layout = &layout;
                scope.spawn(move || (0..5).for_each(|i| layout.tag(&format!("{writer}-{i}"), &image(b"x")).unwrap()));
            }
        });
        assert_eq!(layout.tags().len(), 40);
    }

    #[test]
    fn a_broken_index_is_never_an_empty_one() {
        for broken in ["", "null", "{", "<html>", "{}", r#"{"manifests":null}"#, r#"{"manifests":[{}]}"#] {
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
        assert!(Layout::new(directory.path()).prepare().is_err());
        let (_directory, layout) = layout();
        fs::write(layout.path.join(MARKER), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert!(layout.prepare().is_err());
        fs::remove_file(layout.path.join(MARKER)).unwrap();
        fs::write(layout.path.join(INDEX), "{}").unwrap();
        assert!(layout.resolve(None).is_err());
    }
}
