//! The members of a tar: where each begins, found without reading what is in them.
//!
//! A member's name is a key and nothing else: no file of the host is ever named by it (faults.md F16).

use std::collections::HashMap;
use std::collections::hash_map;
use std::io::{BufReader, Read};

use crate::archive::entry::{Entries, Kind};
use crate::archive::path::{self, MAX_LINKS, MAX_PATH, Step};
use crate::blob::Spool;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// Bytes of memory for a member, beside its name.
const MEMBER: u64 = 128;
/// Bytes that are read for a header; the body behind it is skipped.
const BUFFER: usize = 8 << 10;

/// A regular file in the tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    /// Where its content begins in the tar.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) size: u64,
}

#[derive(Debug)]
enum Found {
    File(Member),
    /// The target as written.
    Symlink(Vec<u8>),
    /// The path of another member.
    HardLink(Vec<u8>),
}

/// All regular files and links, by their normalised path.
pub(super) struct Members {
    tar: Spool,
    limits: Limits,
    by_path: HashMap<Vec<u8>, Found>,
}

impl Members {
    /// Finds the members of `tar`. Refused: a tar that is cut off, two members of one name, sparse files.
    pub(super) fn index(tar: Spool, limits: Limits) -> Result<Self> {
        let mut entries = Entries::new(BufReader::with_capacity(BUFFER, tar.reader(0)), &limits);
        let mut by_path = HashMap::new();
        let mut memory = 0;
        while let Some(entry) = entries.next_entry()? {
            let offset = entries.seek_over_content()?;
            let found = match entry.kind {
                Kind::File if entry.sparse => {
                    return Err(Error::content(format!("{} is stored as a sparse file", path::show(&entry.path)))
                        .hint("write the archive without sparse files, for instance by tar without -S"));
                }
                Kind::File => Found::File(Member { offset, size: entry.size }),
                Kind::Symlink => Found::Symlink(entry.link),
                Kind::HardLink => Found::HardLink(path::normalise(&entry.link)),
                _ => continue,
            };
            let target = match &found {
                Found::File(_) => 0,
                Found::Symlink(target) | Found::HardLink(target) => target.len(),
            };
            memory += MEMBER + (entry.path.len() + target) as u64;
            limits.check_memory(memory, limits.members(), "the names of the archive's members take")?;
            match by_path.entry(entry.path) {
                hash_map::Entry::Vacant(vacant) => vacant.insert(found),
                hash_map::Entry::Occupied(occupied) => {
                    return Err(Error::content(format!("the archive has {} twice", path::show(occupied.key()))));
                }
            };
        }
        if !entries.has_end_mark() {
            return Err(Error::content("the archive is cut off: the blocks that end a tar are missing")
                .hint("fetch or write it again"));
        }
        Ok(Members { tar, limits, by_path })
    }

    /// What may be read of them at once.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The file of this name, behind links within the archive. `None`: there is none.
    pub(super) fn find(&self, name: &[u8]) -> Result<Option<Member>> {
        // No member has a longer name.
        if name.len() > MAX_PATH {
            return Ok(None);
        }
        let mut name = path::normalise(name);
        for _ in 0..MAX_LINKS {
            if let Some(Found::File(member)) = self.by_path.get(&name) {
                return Ok(Some(*member));
            }
            let walked = path::walk(&name, |here, _| -> Result<Step> {
                Ok(match self.by_path.get(here) {
                    Some(Found::Symlink(target)) => Step::Link(target.clone()),
                    _ => Step::Stay,
                })
            })?;
            match self.by_path.get(&walked.path) {
                Some(Found::File(member)) => return Ok(Some(*member)),
                Some(Found::HardLink(target)) => name = target.clone(),
                _ => return Ok(None),
            }
        }
        Err(Error::content(format!("the links of {} lead in circles", path::show(&name))))
    }

    /// Reads a member from byte `offset` on; not hashed.
    pub(super) fn reader(&self, member: Member, offset: u64) -> impl Read + Send + use<> {
        let offset = offset.min(member.size);
        self.tar.reader(member.offset + offset).take(member.size - offset)
    }

    /// A member that has to fit into memory; `None` if there is no such member.
    pub(super) fn read_small(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let show = || path::show(&path::normalise(name));
        let Some(member) = self.find(name)? else {
            return match self.by_path.get(&path::normalise(name)) {
                Some(Found::Symlink(target) | Found::HardLink(target)) => {
                    let target = String::from_utf8_lossy(target);
                    Err(Error::content(format!("{} is a link to {target}, which is not in the archive", show()))
                        .hint("write the archive with that file in it"))
                }
                _ => Ok(None),
            };
        };
        self.limits.check_document(member.size, show())?;
        let mut bytes = Vec::new();
        self.reader(member, 0).read_to_end(&mut bytes).map_err(|e| Error::io(show(), &e))?;
        if bytes.len() as u64 != member.size {
            return Err(Error::content(format!("{} is cut off", show())));
        }
        Ok(Some(bytes))
    }

    /// A directory in the archive that holds `name`.
    pub(super) fn directory_with(&self, name: &str) -> Option<String> {
        let inside = |found: &&Vec<u8>| path::base(found) == name.as_bytes() && !path::parent(found).is_empty();
        self.by_path.keys().find(inside).map(|found| String::from_utf8_lossy(path::parent(found)).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::archive::testing::{dir, file, frame, hardlink, pax, symlink, tar};
    use crate::blob::SpoolWriter;
    use crate::error::Kind;

    fn index(bytes: &[u8]) -> Result<Members> {
        index_within(bytes, Limits::default())
    }

    fn index_within(bytes: &[u8], limits: Limits) -> Result<Members> {
        let mut spool = SpoolWriter::new().unwrap();
        spool.write_all(bytes).unwrap();
        Members::index(spool.finish(), limits)
    }

    fn text(members: &Members, name: &str) -> Result<Option<String>> {
        Ok(members.read_small(name.as_bytes())?.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn members_are_found_behind_links_and_odd_names() {
        let members = index(&tar(&[
            dir("./"),
            file("./a", b"A"),
            file("/abs/b", b"B"),
            symlink("layers/x/layer.tar", "../y/layer.tar"),
            file("layers/y/layer.tar", b"Y"),
            symlink("latest", "layers/y"),
            hardlink("hard", "./abs/b"),
            hardlink("harder", "hard"),
            symlink("root", "/abs/b"),
            symlink("out", "../../../etc/passwd"),
            symlink("loop", "loop"),
            hardlink("ring", "ring"),
            frame(b'6', b"pipe", b"", b"", |_| {}),
            pax(&[(b"path", b"long/name")]),
            file("short", b"L"),
        ]))
        .unwrap();
        for (name, content) in [
            ("a", Some("A")),
            ("./a", Some("A")),
            ("abs/b", Some("B")),
            ("layers/x/layer.tar", Some("Y")),
            ("latest/layer.tar", Some("Y")),
            ("hard", Some("B")),
            ("harder", Some("B")),
            ("root", Some("B")),
            ("long/name", Some("L")),
            ("pipe", None),
            ("short", None),
            ("", None),
        ] {
            assert_eq!(text(&members, name).unwrap().as_deref(), content, "{name}");
        }
        let error = text(&members, "out").unwrap_err();
        assert_eq!(error.to_string(), "/out is a link to ../../../etc/passwd, which is not in the archive");
        for name in ["loop", "ring"] {
            assert_eq!(text(&members, name).unwrap_err().kind(), Kind::Content, "{name}");
        }
        assert_eq!(members.directory_with("layer.tar").as_deref().map(|d| d.starts_with("layers/")), Some(true));
    }

    #[test]
    fn names_take_little_memory() {
        let mut members = Vec::new();
        for number in 0..13_000 {
            let path = [&[b'a'; 4000][..], number.to_string().as_bytes()].concat();
            members.push(pax(&[(b"path", &path)]));
            members.push(file("short", b""));
        }
        let fits = (48 << 20) / (MEMBER as usize + 4004);
        assert!(index(&tar(&members[..2 * fits])).is_ok());
        let members = tar(&members);
        let error = index(&members).err().unwrap();
        assert!(error.to_string().contains("take more than 48 MiB of memory"), "{error}");
        assert!(error.hint_text().unwrap().contains("--max-memory"));
        assert!(index_within(&members, Limits { memory: 256 << 20, ..Limits::default() }).is_ok());
    }

    #[test]
    fn ambiguous_and_cut_archives_are_refused() {
        let good = tar(&[file("a", b"A"), file("b", &[b'B'; 700])]);
        assert!(index(&good).is_ok());
        let mut no_end = good.clone();
        no_end.truncate(good.len() - 1024);
        for (what, bytes) in [
            ("no end", no_end),
            ("cut in a body", good[..1400].to_vec()),
            ("cut in a header", good[..1100].to_vec()),
            ("nothing", Vec::new()),
            ("twice", tar(&[file("a", b"A"), file("./a", b"A")])),
            ("file and link", tar(&[file("a", b"A"), symlink("a", "b")])),
            ("sparse", tar(&[frame(b'S', b"a", b"", b"", |_| {})])),
            ("after the end", [good.clone(), b"x".to_vec()].concat()),
            (
                "a size beyond everything",
                tar(&[frame(b'0', b"a", b"", b"", |header| header.set_size(i64::MAX as u64 - 511))]),
            ),
        ] {
            assert_eq!(index(&bytes).err().map(|e| e.kind()), Some(Kind::Content), "{what}");
        }
    }
}
