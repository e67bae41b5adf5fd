//! Files that are written whole or not at all: temporary file, fsync, rename, fsync of the directory; and the lock.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::limits::Limits;

/// The lock, a file beside `index.json`, which itself is replaced and so cannot be locked.
pub(super) const LOCK: &str = ".capatch.lock";
/// How the names of temporary files begin.
pub(super) const TEMPORARY: &str = ".capatch-";
/// A temporary file that nobody holds a lock on is garbage of a killed run once it is this old (faults.md F24). What has
/// arrived of a large blob is worth more, and where there are no locks, age is all that tells.
const GARBAGE_AGE: Duration = Duration::from_secs(60);
const UNFINISHED_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long another run's lock is waited for if nobody says otherwise (faults.md F5).
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than writing an index takes.
const LOCK_TURN: Duration = Duration::from_secs(2);

/// A new file beside `blobs`, so that the rename stays in one file system; locked for as long as it lives.
pub(super) fn temporary(directory: &Path) -> Result<NamedTempFile> {
    let error = |e: io::Error| Error::io(format!("cannot write into {}", directory.display()), &e);
    // Opened here: `tempfile` puts a name that nobody typed into its errors, as it does in those of its `Write`.
    let open = |path: &Path| File::options().read(true).write(true).create_new(true).mode(0o666).open(path);
    let file = tempfile::Builder::new().prefix(TEMPORARY).make_in(directory, open).map_err(error)?;
    // Some file systems have no locks; then garbage is told by its age alone.
    let _ = file.as_file().try_lock();
    Ok(file)
}

/// A file for content of this name that an earlier run may have left unfinished. `None`: another run is writing it.
pub(super) fn unfinished(directory: &Path, name: &str) -> Result<Option<NamedTempFile>> {
    let path = directory.join(format!("{TEMPORARY}{name}"));
    let error = |e: &io::Error| Error::io(format!("cannot write {}", path.display()), e);
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().create(true).truncate(false).read(true).write(true).custom_flags(flags).open(&path);
    let file = file.map_err(|e| error(&e))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Error::content(format!("{} is not a regular file", path.display())));
    }
    match file.try_lock() {
        // Somebody may have finished it, and so renamed it, before we had the lock.
        Ok(()) if is_still(&file, &path) => {}
        Err(fs::TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => return Err(error(&e)),
        _ => return Ok(None),
    }
    let path = tempfile::TempPath::try_from_path(&path).map_err(|e| error(&e))?;
    Ok(Some(NamedTempFile::from_parts(file, path)))
}

fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((file.metadata(), fs::symlink_metadata(path)), (Ok(a), Ok(b)) if a.ino() == b.ino() && a.dev() == b.dev())
}

/// Whether there is no more room: on the disk, within a quota, or in a file.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// What to say of `file`, which is to become `path` with `size` bytes and could not be written (faults.md F11).
pub(super) fn cannot_write(path: &Path, file: &File, size: u64, error: &io::Error) -> Error {
    let place = format!("cannot write {}", path.display());
    if !is_full(error) {
        return Error::io(place, error);
    }
    let missing = size.saturating_sub(file.metadata().map_or(0, |metadata| metadata.len()));
    Error::io(format!("{place}: {missing} of its {size} bytes are still to be written"), error)
}

/// Makes the file durable and gives it its name.
pub(super) fn publish(file: NamedTempFile, path: &Path) -> Result<()> {
    let error = |e: &io::Error| Error::io(format!("cannot write {}", path.display()), e);
    file.as_file().sync_all().map_err(|e| error(&e))?;
    file.persist(path).map_err(|e| error(&e.error))?;
    // The parent of a bare name is empty.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(|e| error(&e))
}

/// Locks the layout in `directory`, and waits for `timeout` at most.
pub(super) fn lock(directory: &Path, timeout: Duration) -> Result<File> {
    let path = directory.join(LOCK);
    let error = |e: &io::Error| Error::io(format!("cannot lock {}", path.display()), e);
    // Neither a link to elsewhere nor a named pipe is a lock.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).custom_flags(flags).open(&path);
    hold(file.map_err(|e| error(&e))?, &path, timeout)
}

/// Locks `file` for as long as it lives, and waits for `timeout` at most. Where there are no locks it is not locked.
pub(super) fn hold(file: File, path: &Path, timeout: Duration) -> Result<File> {
    let start = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(fs::TryLockError::Error(e)) => return Err(Error::io(format!("cannot lock {}", path.display()), &e)),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() >= timeout => {
                let message = format!("{} is locked by {}", path.display(), holder(&file));
                return Err(Error::failed(message).hint(
                    "raise --lock-timeout, or end that run: the lock goes with it, and nothing is to be removed",
                ));
            }
            Err(fs::TryLockError::WouldBlock) => {
                if !told && start.elapsed() > LOCK_TURN {
                    tracing::warn!("waiting for {} to release {}", holder(&file), path.display());
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Who has `file` locked, as far as this machine knows: proc_locks(5).
fn holder(file: &File) -> String {
    use std::os::unix::fs::MetadataExt;
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = format!(":{}", file.metadata().map_or(0, |metadata| metadata.ino()));
    let holds = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"FLOCK") && words.get(5).is_some_and(|file| file.ends_with(&inode))
    };
    let process = locks.lines().find(holds).and_then(|line| line.split_whitespace().nth(4));
    process.map_or("another run of capatch".to_owned(), |process| format!("another run of capatch (process {process})"))
}

/// Removes what a killed run left behind; never a blob, and never a file that a living run holds.
pub(super) fn remove_garbage(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY)) else { continue };
        if !entry.metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        let age = match file.try_lock() {
            Ok(()) if !name.contains('-') => GARBAGE_AGE,
            Ok(()) => UNFINISHED_AGE,
            Err(fs::TryLockError::Error(_)) => UNFINISHED_AGE,
            Err(fs::TryLockError::WouldBlock) => continue,
        };
        let old = |m: fs::Metadata| {
            m.modified().is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|past| past > age))
        };
        if entry.metadata().is_ok_and(old) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A small file; `None` if it does not exist.
pub(super) fn read_limited(path: &Path, limits: &Limits) -> Result<Option<Vec<u8>>> {
    // A named pipe must not make us wait.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => file,
        Ok(_) => return Err(Error::content(format!("{} is not a regular file", path.display()))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(Error::io(path.display(), &e)),
    };
    let size = file.metadata().map_err(|e| Error::io(path.display(), &e))?.len();
    limits.check_document(size, path.display())?;
    let mut bytes = Vec::new();
    file.take(limits.document().saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(path.display(), &e))?;
    limits.check_document(bytes.len() as u64, path.display())?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_no_file_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = temporary(&missing).unwrap_err().to_string();
        assert!(error.contains(missing.to_str().unwrap()) && !error.contains(TEMPORARY), "{error}");
    }

    // faults.md F5
    #[test]
    fn a_lock_that_nobody_gives_back_is_waited_for_no_longer_than_that() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path(), LOCK_TIMEOUT).unwrap();
        let process = format!("(process {})", std::process::id());
        for timeout in [Duration::ZERO, Duration::from_millis(100)] {
            let start = Instant::now();
            let error = lock(directory.path(), timeout).unwrap_err();
            assert!((timeout..LOCK_TURN).contains(&start.elapsed()), "{timeout:?}: {:?}", start.elapsed());
            assert!(error.to_string().contains(LOCK) && error.to_string().contains(&process), "{error}");
            let hint = error.hint_text().unwrap();
            assert!(hint.contains("--lock-timeout") && hint.contains("the lock goes with it"), "{hint}");
        }
        drop(held);
        lock(directory.path(), Duration::ZERO).unwrap();
    }

    // faults.md F24
    #[test]
    fn only_old_files_that_nobody_holds_are_garbage() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, age: u64| {
            let file = File::create(directory.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            file
        };
        make(".capatch-small1", 61);
        make(".capatch-small2", 30);
        make(".capatch-sha256-00", 23 * 3600);
        make(".capatch-sha256-11", 25 * 3600);
        make("precious", 99 * 3600);
        let held = make(".capatch-held", 99 * 3600);
        held.lock().unwrap();
        remove_garbage(directory.path());
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, [".capatch-held", ".capatch-sha256-00", ".capatch-small2", "precious"]);
    }
}
