//! The file that an archive is: a regular file is read where it lies, a pipe or a compressed one from an unpacked copy
//! in a temporary file. And where it is written to.

use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lzma_rust2::XzReader;
use rustix::fs::{Access, OFlags, access};
use tempfile::NamedTempFile;

use super::engine::PipeWriter;
use crate::archive::compression::{self, Decoder, from_io, sniff};
use crate::blob::{Spool, SpoolWriter, temporary_error};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::oci::media_type::Compression;
use crate::transport::durable::{hold, publish, remove_garbage, temporary};

const XZ: &[u8] = b"\xfd7zXZ\0";
const HEAD: usize = 512;

/// An uncompressed tar that can be read at any offset.
pub(super) struct Source {
    /// The tar.
    pub(super) tar: Spool,
    /// Whether the file itself is compressed.
    pub(super) compressed: bool,
    /// Which file it was; `None` for a pipe.
    pub(super) identity: Option<Identity>,
}

/// What changes when somebody writes a file or puts another one in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    regular: bool,
    modified: (i64, i64),
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            regular: metadata.is_file(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// A file that `mktemp` made: nothing is lost if it is replaced.
    pub(super) fn is_empty_file(&self) -> bool {
        self.size == 0 && self.regular
    }

    /// The file of this name; `None` if there is none.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Identity::of)
    }
}

/// Whether `path` means standard input or output.
pub(super) fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// For messages.
pub(super) fn show(path: &Path, pipe: &str) -> String {
    if is_pipe(path) { pipe.to_owned() } else { path.display().to_string() }
}

/// Opens the archive in `path`, `-` for standard input. `None`: there is no such file.
pub(super) fn open(path: &Path, limits: &Limits) -> Result<Option<Source>> {
    let place = show(path, "standard input");
    let (file, mut at) = if is_pipe(path) {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(Error::usage("standard input is a terminal, not an archive")
                .hint("send an archive into it, as in docker save kong:3.9 | capatch …"));
        }
        let mut file = File::from(stdin.as_fd().try_clone_to_owned().map_err(|e| Error::io(&place, &e))?);
        // A pipe has no position; a file may have been read already.
        let at = io::Seek::stream_position(&mut file).ok();
        (file, at)
    } else {
        // Neither a named pipe nor a device must make us wait.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        match File::options().read(true).custom_flags(flags).open(path) {
            Ok(file) => (file, Some(0)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&place, &e)),
        }
    };
    let metadata = file.metadata().map_err(|e| Error::io(&place, &e))?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        at = None;
    }
    if kind.is_dir() {
        return Err(Error::content(format!("{place} is a directory, not an archive"))
            .hint(format!("name an OCI layout in a directory as oci:{place}")));
    }
    if !is_pipe(path) && !kind.is_file() {
        let what = if kind.is_fifo() { "a named pipe" } else { "a device or a socket" };
        return Err(Error::content(format!("{place} is {what}, not a file"))
            .hint("write - in place of the file to read standard input"));
    }
    read(file, at == Some(0), &metadata, limits, &place).map(Some).map_err(|e| e.context(&place))
}

fn read(file: File, in_place: bool, metadata: &fs::Metadata, limits: &Limits, place: &str) -> Result<Source> {
    let ours = OwnErrors { file, place: place.to_owned() };
    let mut ours = BufReader::with_capacity(256 << 10, ours);
    let mut head = Vec::new();
    ours.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(|e| from_io(place, &e))?;
    let identity = in_place.then(|| Identity::of(metadata));
    if head.starts_with(XZ) {
        // `xz -9` needs 64 MiB for its dictionary; files are listed later.
        let kib = u32::try_from(limits.files() >> 10).unwrap_or(u32::MAX);
        let reader = XzReader::new_mem_limit(head.chain(ours), true, kib);
        return Ok(Source { tar: spool(reader, "xz", limits, place)?, compressed: true, identity });
    }
    match sniff(&head) {
        Ok(Compression::None) if in_place && !head.is_empty() => {
            let tar = Spool::of_file(ours.into_inner().file, metadata.len());
            Ok(Source { tar, compressed: false, identity })
        }
        Ok(Compression::None) if !head.is_empty() => {
            Ok(Source { tar: spool(head.chain(ours), "tar", limits, place)?, compressed: false, identity })
        }
        Ok(Compression::None) => {
            Err(Error::content(format!("{place} is empty")).hint("look at what should have written it"))
        }
        Ok(compression) => {
            let tar = spool(Decoder::new(head.chain(ours), limits)?, &compression.to_string(), limits, place)?;
            Ok(Source { tar, compressed: true, identity })
        }
        Err(_) => {
            let what = compression::describe(&head);
            let hint = match what.strip_prefix("compressed with ").and_then(unpacker) {
                Some(unpacker) => format!("unpack it on the way: {unpacker} < FILE | capatch … oci-archive:-"),
                None => {
                    "an archive is what docker save, podman save or skopeo copy … oci-archive:FILE writes".to_owned()
                }
            };
            Err(Error::content(format!("{place} is {what}, not an image archive")).hint(hint))
        }
    }
}

/// The command that unpacks a format from standard input to standard output.
fn unpacker(format: &str) -> Option<&'static str> {
    match format {
        "bzip2" => Some("bunzip2"),
        "lz4" => Some("lz4 -dc"),
        "lzip" => Some("lzip -dc"),
        _ => None,
    }
}

/// Copies what `reader` unpacks into a temporary file.
fn spool(mut reader: impl Read, format: &str, limits: &Limits, place: &str) -> Result<Spool> {
    let mut copy = SpoolWriter::new()?;
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0u64;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok(copy.finish()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.get_ref().is_some_and(|inner| inner.is::<Error>()) => return Err(from_io(place, &e)),
            Err(e) if e.kind() == io::ErrorKind::OutOfMemory => {
                return Err(limits.exceeded(&format!("the {format} data takes"), limits.files()));
            }
            Err(e) => return Err(Error::content(format!("the {format} data is damaged or cut off: {e}"))),
        };
        total += read as u64;
        limits.check_unpacked(total, None, &format!("the {format} data"))?;
        copy.write_all(&buffer[..read]).map_err(|e| temporary_error(&e))?;
    }
}

/// Makes errors of the file itself ours, to tell them from those of a decoder, which are about the content.
struct OwnErrors {
    file: File,
    place: String,
}

impl Read for OwnErrors {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::Interrupted => e,
            _ => Error::io(&self.place, &e).into(),
        })
    }
}

/// Refuses a place where no file can be written, before anything is transferred (faults.md F13).
pub(super) fn check_writable(path: &Path) -> Result<()> {
    if is_pipe(path) {
        return if io::stdout().is_terminal() {
            Err(Error::usage("standard output is a terminal, and an archive is no text")
                .hint("send it into a file or a program, as in … - | docker load"))
        } else if is_closed(&io::stdout()) {
            Err(Error::usage("standard output is closed").hint("send it into a file or a program"))
        } else {
            Ok(())
        };
    }
    let directory = directory_of(path);
    access(&directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
        let error = Error::io(format!("cannot write {}", path.display()), &io::Error::from(e));
        error.hint(match directory.is_dir() {
            true => format!("name a place that you may write to; {} is none", directory.display()),
            false => format!("make the directory {} first", directory.display()),
        })
    })
}

/// Whether `output` was closed when we were started: Rust opens /dev/null in its place, to read and write.
fn is_closed(output: &impl AsFd) -> bool {
    let is_null = |a: &rustix::fs::Stat| rustix::fs::stat("/dev/null").is_ok_and(|null| null.st_rdev == a.st_rdev);
    rustix::fs::fstat(output).is_ok_and(|stat| stat.st_rdev != 0 && is_null(&stat))
        && rustix::fs::fcntl_getfl(output).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR)
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// Where a new archive goes: a temporary file beside the old one, or standard output.
pub(super) enum Sink {
    /// Not visible under its name yet; the name, which file has it now, and how long a lock is waited for.
    File(NamedTempFile, PathBuf, Option<Identity>, Duration),
    /// Standard output.
    Pipe(File),
    /// A Docker engine.
    Engine(PipeWriter),
}

impl Sink {
    /// `old` is the file that was read, and is to be replaced.
    pub(super) fn new(path: &Path, old: Option<Identity>, lock_timeout: Duration) -> Result<Self> {
        check_writable(path)?;
        if is_pipe(path) {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            return Ok(Sink::Pipe(File::from(stdout.map_err(|e| Error::io("standard output", &e))?)));
        }
        // What a link names is replaced, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let directory = directory_of(&path);
        remove_garbage(&directory);
        let file = temporary(&directory)?;
        if let Ok(metadata) = fs::metadata(&path) {
            file.as_file()
                .set_permissions(metadata.permissions())
                .map_err(|e| Error::io(format!("cannot write {}", path.display()), &e))?;
        }
        Ok(Sink::File(file, path, old, lock_timeout))
    }

    /// Makes what was written durable and gives it its name. `false`: somebody changed the old file meanwhile, and
    /// nothing was done.
    pub(super) fn finish(self) -> Result<bool> {
        match self {
            Sink::Pipe(_) => Ok(true),
            Sink::Engine(pipe) => pipe.finish().map(|()| true),
            Sink::File(file, path, old, lock_timeout) => {
                // The directory is locked, and not a file beside the archive, which nobody would ever remove.
                let directory = directory_of(&path);
                let _lock = File::open(&directory).ok().map(|it| hold(it, &directory, lock_timeout)).transpose()?;
                let now = Identity::at(&path);
                if now != old && now.is_some_and(|now| !now.is_empty_file()) {
                    return Ok(false);
                }
                publish(file, &path).map(|()| true)
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Sink::File(file, ..) => file.as_file_mut().write(buffer),
            Sink::Pipe(file) => file.write(buffer),
            Sink::Engine(pipe) => pipe.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
