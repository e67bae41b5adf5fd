//! What is known of unfinished uploads, so that a run that was killed is gone on with by the next.
//!
//! One small file for each blob under way. It holds the session's URL, which is worth as much as a token that is good for
//! one upload, so only the user can read it. An entry is nothing but a hint: the URL has to pass the rules for a
//! `Location`, and the registry is asked how much it has. Without a directory that can be written to, there is no
//! journal, and no word about it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use url::Url;

use super::super::origin::Origin;
use crate::oci::digest::Digest;

/// Registries forget sessions too; distribution's own limit is a week, others keep them for an hour.
const AGE: Duration = Duration::from_secs(24 * 3600);
const FILE_LIMIT: u64 = 64 << 10;

/// The directory of entries.
pub(in super::super) struct Journal {
    directory: Option<PathBuf>,
    cleaned: Once,
}

/// The entry of one blob. As long as it lives, no other run and no other task has it.
pub(super) struct Entry {
    path: PathBuf,
    digest: Digest,
    _lock: File,
    lock_path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record {
    session: String,
    digest: Digest,
    /// Seconds since 1970.
    time: u64,
}

impl Journal {
    /// The journal in a directory, which is made when it is needed.
    pub(in super::super) fn new(directory: Option<PathBuf>) -> Self {
        Journal { directory, cleaned: Once::new() }
    }

    /// The entry for a blob on its way to a repository; `None` if there is no journal, or somebody else sends that blob.
    pub(super) fn entry(&self, home: &Origin, repository: &str, digest: &Digest) -> Option<Entry> {
        let directory = self.directory.as_ref()?;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).ok()?;
        self.cleaned.call_once(|| remove_old(directory));
        let name = Digest::of(format!("{home}\n{repository}\n{digest}").as_bytes());
        let path = directory.join(name.hex());
        let lock_path = path.with_extension("lock");
        let lock = open(&lock_path, true)?;
        let locked = match lock.try_lock() {
            Ok(()) => true,
            // Some file systems have no locks.
            Err(TryLockError::Error(e)) => e.kind() == std::io::ErrorKind::Unsupported,
            Err(TryLockError::WouldBlock) => false,
        };
        // Whoever had it may have removed it since it was opened.
        let same = match (lock.metadata(), fs::symlink_metadata(&lock_path)) {
            (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        (locked && same).then(|| Entry { path, digest: digest.clone(), _lock: lock, lock_path })
    }
}

impl Entry {
    /// The session that an earlier run left open.
    pub(super) fn session(&self) -> Option<Url> {
        let mut text = String::new();
        open(&self.path, false)?.take(FILE_LIMIT).read_to_string(&mut text).ok()?;
        let record: Record = serde_json::from_str(&text).ok()?;
        let age = now().checked_sub(record.time)?;
        (record.digest == self.digest && age <= AGE.as_secs()).then(|| Url::parse(&record.session).ok()).flatten()
    }

    /// Remembers a session, instead of the one before. `false`: that did not work.
    pub(super) fn keep(&self, session: &Url) -> bool {
        let record = Record { session: session.to_string(), digest: self.digest.clone(), time: now() };
        let write = || {
            let mut file = tempfile::Builder::new().prefix(".").tempfile_in(self.path.parent()?).ok()?;
            file.write_all(&serde_json::to_vec(&record).ok()?).ok()?;
            file.persist(&self.path).ok()
        };
        let kept = write().is_some();
        if !kept {
            // An entry for a session that is gone would only cost time.
            self.forget();
        }
        kept
    }

    /// There is nothing to go on with.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// No link is followed, and no pipe is waited for.
fn open(path: &Path, write: bool) -> Option<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = File::options();
    options.read(true).write(write).create(write).truncate(false).mode(0o600).custom_flags(flags);
    options.open(path).ok().filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Entries that nobody will go on with, and what killed runs left of locks and temporary files.
fn remove_old(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let age = entry.metadata().ok().and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
        let locked =
            || File::open(entry.path()).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if age.is_some_and(|age| age > AGE) && !locked() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn journal(home: &Path) -> Journal {
        Journal::new(Some(home.join("a/uploads")))
    }

    fn entry(journal: &Journal, repository: &str) -> Option<Entry> {
        let home = Origin::of(&"https://r.io".parse().unwrap()).unwrap();
        journal.entry(&home, repository, &Digest::of(b"blob"))
    }

    #[test]
    fn sessions_are_remembered_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let journal = journal(home.path());
        let url: Url = "https://r.io/v2/a/blobs/uploads/1?_state=x".parse().unwrap();
        let first = entry(&journal, "a").unwrap();
        assert_eq!(first.session(), None);
        assert!(first.keep(&url));
        assert_eq!(first.session(), Some(url.clone()));
        assert!(entry(&journal, "a").is_none(), "somebody else has it");
        assert!(entry(&journal, "b").unwrap().session().is_none());
        let modes =
            [&first.path, first.path.parent().unwrap()].map(|p| p.metadata().unwrap().permissions().mode() & 0o777);
        assert_eq!(modes, [0o600, 0o700]);
        drop(first);
        let again = entry(&journal, "a").unwrap();
        assert_eq!(again.session(), Some(url));
        again.forget();
        assert_eq!(again.session(), None);
        drop(again);
        assert_eq!(fs::read_dir(home.path().join("a/uploads")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_old_or_odd_is_no_session() {
        let home = tempfile::tempdir().unwrap();
        let journal = journal(home.path());
        let entry = entry(&journal, "a").unwrap();
        let (blob, other) = (Digest::of(b"blob"), Digest::of(b"other"));
        let record =
            |digest: &Digest, time: u64| format!(r#"{{"session":"https://r.io/","digest":"{digest}","time":{time}}}"#);
        for (text, is_session) in [
            (record(&blob, now()), true),
            (record(&blob, now() - AGE.as_secs() - 5), false),
            (record(&blob, u64::MAX), false),
            (record(&other, now()), false),
            (record(&blob, now())[..40].to_owned(), false),
            (String::new(), false),
            ("[]".into(), false),
        ] {
            fs::write(&entry.path, &text).unwrap();
            assert_eq!(entry.session().is_some(), is_session, "{text}");
        }
        fs::remove_file(&entry.path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &entry.path).unwrap();
        assert!(entry.session().is_none());
    }

    #[test]
    fn without_a_place_there_is_no_journal() {
        for directory in [None, Some("/proc/nothing".into()), Some("/dev/null".into())] {
            assert!(entry(&Journal::new(directory), "a").is_none());
        }
    }
}
