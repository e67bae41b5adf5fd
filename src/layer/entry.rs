//! The entries of a tar, read without believing more than the bytes say.
//!
//! Sources: POSIX.1-2024 `pax` (ustar and PAX headers), `tar(5)` of libarchive (GNU, old GNU sparse), and what Go's
//! `archive/tar`, which every container engine uses, makes of them. Where readers disagree about which file an entry is
//! or how long it is, the tar is refused (faults.md D11–D20).

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use crate::error::{Error, Result};
use crate::layer::compression::from_io;
use crate::layer::header::{BLOCK, Block};
use crate::layer::path::{self, MAX_PATH};
use crate::layer::pax::{self, Records};

pub(super) use crate::layer::header::looks_like_tar;

/// Bytes that one extended header (PAX, or a long name) may have.
pub(super) const MAX_EXTENSION: u64 = 1 << 20;
/// Where PAX keeps extended attributes, as every container engine reads them.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";
/// PAX records that say which file an entry is, how long it is, or whose it is. A global header must not hold one: POSIX
/// applies it to all entries that follow, Go and thus every container engine does not.
const INTERPRETED: [&[u8]; 8] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"uname", b"gname", b"mtime"];

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A type that container engines do not unpack, by its flag.
    Other(u8),
}

impl Kind {
    /// With an article, for messages.
    pub fn describe(self) -> &'static str {
        match self {
            Kind::File => "a regular file",
            Kind::HardLink => "a hard link",
            Kind::Symlink => "a symbolic link",
            Kind::Directory => "a directory",
            Kind::CharDevice => "a character device",
            Kind::BlockDevice => "a block device",
            Kind::Fifo => "a named pipe",
            Kind::Other(_) => "an entry of an unknown type",
        }
    }
}

/// When content was last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mtime {
    /// Since 1970, cut towards zero.
    pub seconds: i64,
    /// The PAX record as written, if there was one: it may have a fraction.
    pub text: Option<Vec<u8>>,
}

/// One entry of a tar: everything that it says about one file, without the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Normalised ([`path::normalise`]); empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The target of a link as written; empty for all others.
    pub link: Vec<u8>,
    /// Permissions, set-user-ID, set-group-ID and sticky bit: 0 to 0o7777.
    pub mode: u32,
    /// The owner.
    pub uid: u64,
    /// The group.
    pub gid: u64,
    /// The owner's name, perhaps empty; container engines do not look at it.
    pub uname: Vec<u8>,
    /// The group's name, perhaps empty.
    pub gname: Vec<u8>,
    /// When the content was last changed.
    pub mtime: Mtime,
    /// Bytes of content that follow; 0 for everything that is no file. For a sparse file, the bytes that are stored.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u64, u64),
    /// Whether the stored bytes are a sparse file's data and map instead of its content.
    pub sparse: bool,
    /// Extended attributes: `security.capability`, `user.…`
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// All other PAX records, as written: `atime`, `SCHILY.acl.access`, what vendors add.
    pub pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// A directory that no entry describes, as unpackers create it: 0755, of user and group 0.
    pub fn implied_directory(path: Vec<u8>) -> Self {
        Entry {
            path,
            kind: Kind::Directory,
            link: Vec::new(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            uname: Vec::new(),
            gname: Vec::new(),
            mtime: Mtime::default(),
            size: 0,
            device: (0, 0),
            sparse: false,
            xattrs: BTreeMap::new(),
            pax: BTreeMap::new(),
        }
    }
}

/// Reads the entries of a tar one after the other.
pub struct Entries<R> {
    reader: R,
    /// Of the current entry: content that nobody read yet, and the padding behind it.
    content: u64,
    padding: u64,
    sparse: bool,
    current: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Entries<R> {
    /// Reads `reader`, an uncompressed tar. A buffer of 64 KiB or more makes it fast.
    pub fn new(reader: R) -> Self {
        Entries { reader, content: 0, padding: 0, sparse: false, current: Vec::new(), ended: false }
    }

    /// The next entry; what was not read of the content of the one before is skipped. `None` comes after the reader was
    /// read to its end, and only if nothing but NUL bytes follows the end of the archive (faults.md D19).
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        let left = std::mem::take(&mut self.content) + std::mem::take(&mut self.padding);
        self.skip(left)?;
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.read_block()? else {
                // No end-of-archive blocks: Go accepts that too, and the digest says that nothing is missing.
                return self.end(&extensions);
            };
            if block.iter().all(|b| *b == 0) {
                self.only_zeros_follow()?;
                return self.end(&extensions);
            }
            let header = Block::new(block)?;
            match header.type_flag() {
                flag @ (b'x' | b'g' | b'L' | b'K') => {
                    let data = self.read_extension(&header)?;
                    extensions.take_in(flag, data)?;
                }
                _ => return self.start(&header, extensions).map(Some),
            }
        }
    }

    /// The content of the current entry, from where it was read to.
    pub fn content(&mut self) -> Content<'_, R> {
        Content { entries: self }
    }

    fn end(&mut self, extensions: &Extensions) -> Result<Option<Entry>> {
        self.ended = true;
        if extensions.is_empty() { Ok(None) } else { Err(Error::content("the tar ends after an extended header")) }
    }

    fn start(&mut self, header: &Block, extensions: Extensions) -> Result<Entry> {
        let (entry, stored) = extensions.entry(header)?;
        if header.type_flag() == b'S' && header.sparse_map_continues() {
            self.skip_sparse_map()?;
        }
        let padding = stored.wrapping_neg() % BLOCK as u64;
        if stored > i64::MAX as u64 {
            return Err(Error::content(format!("{} has {stored} bytes", path::show(&entry.path))));
        }
        (self.content, self.padding, self.sparse) = (stored, padding, entry.sparse);
        self.current.clear();
        self.current.extend_from_slice(&entry.path);
        Ok(entry)
    }

    /// A block, or none at the end of the reader.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.fill()?;
            if available.is_empty() {
                break;
            }
            let length = available.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&available[..length]);
            self.reader.consume(length);
            filled += length;
        }
        match filled {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(self.cut_off()),
        }
    }

    fn fill(&mut self) -> Result<&[u8]> {
        // A second call returns the same bytes; borrowing from the first one across the loop does not compile.
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(from_io("the tar", &error)),
            }
        }
        self.reader.fill_buf().map_err(|e| from_io("the tar", &e))
    }

    fn skip(&mut self, mut left: u64) -> Result<()> {
        while left > 0 {
            let available = self.fill()?.len();
            if available == 0 {
                return Err(self.cut_off());
            }
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.reader.consume(length);
            left -= length as u64;
        }
        Ok(())
    }

    fn cut_off(&self) -> Error {
        Error::content(format!("the tar is cut off at or after {}", path::show(&self.current)))
    }

    fn read_extension(&mut self, header: &Block) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > MAX_EXTENSION {
            return Err(Error::content(format!(
                "an extended header after {} has {size} bytes, the limit is {MAX_EXTENSION}",
                path::show(&self.current)
            )));
        }
        let mut data = Vec::new();
        self.reader.by_ref().take(size).read_to_end(&mut data).map_err(|e| from_io("the tar", &e))?;
        if data.len() as u64 != size {
            return Err(self.cut_off());
        }
        self.skip(size.wrapping_neg() % BLOCK as u64)?;
        Ok(data)
    }

    /// Old GNU sparse files: the map goes on in blocks between the header and the data that no size counts.
    fn skip_sparse_map(&mut self) -> Result<()> {
        loop {
            let block = self.read_block()?.ok_or_else(|| self.cut_off())?;
            if block[504] == 0 {
                return Ok(());
            }
        }
    }

    fn only_zeros_follow(&mut self) -> Result<()> {
        loop {
            let available = self.fill()?;
            if available.is_empty() {
                return Ok(());
            }
            if available.iter().any(|b| *b != 0) {
                return Err(Error::content("something follows the end of the tar"));
            }
            let length = available.len();
            self.reader.consume(length);
        }
    }
}

/// The content of one entry. Content that is cut off is an error, not an early end (faults.md D16).
pub struct Content<'a, R> {
    entries: &'a mut Entries<R>,
}

impl<R: BufRead> Content<'_, R> {
    /// Feeds the rest of the content to `sink`, chunk by chunk, without copying it.
    pub fn for_each_chunk(self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let entries = self.entries;
        while entries.content > 0 {
            let left = usize::try_from(entries.content).unwrap_or(usize::MAX);
            let available = entries.fill()?;
            let length = available.len().min(left);
            if length == 0 {
                return Err(entries.cut_off());
            }
            sink(&available[..length])?;
            entries.reader.consume(length);
            entries.content -= length as u64;
        }
        Ok(())
    }

    /// Refuses what is stored sparsely, whose bytes are not the content.
    pub fn refuse_sparse(&self) -> Result<()> {
        if self.entries.sparse {
            return Err(Error::content(format!(
                "{} is stored as a sparse file, which capatch cannot read",
                path::show(&self.entries.current)
            ))
            .hint("build the image without sparse files, for instance by copying the file in a RUN step"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.entries.content).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.entries.reader.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(self.entries.cut_off().into());
        }
        self.entries.content -= read as u64;
        Ok(read)
    }
}

/// The extended headers in front of an entry.
#[derive(Default)]
struct Extensions {
    pax: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }

    fn take_in(&mut self, flag: u8, data: Vec<u8>) -> Result<()> {
        let twice = match flag {
            b'x' => self.pax.replace(pax::parse(&data)?).is_some(),
            b'L' => self.long_name.replace(long_name(data)?).is_some(),
            b'K' => self.long_link.replace(long_name(data)?).is_some(),
            // A global header must not come between an entry and its extended headers.
            _ => {
                check_global(&pax::parse(&data)?)?;
                !self.is_empty()
            }
        };
        if twice { Err(Error::content("an entry of the tar has two extended headers of one kind")) } else { Ok(()) }
    }

    /// The entry, and how many bytes are stored for it.
    fn entry(self, header: &Block) -> Result<(Entry, u64)> {
        let mut records = self.pax.unwrap_or_default();
        let sparse = header.type_flag() == b'S' || records.keys().any(|key| key.starts_with(b"GNU.sparse."));
        let name = one_name(records.remove(&b"path"[..]), self.long_name)?;
        let raw = records.remove(&b"GNU.sparse.name"[..]).or(name).unwrap_or_else(|| header.name());
        let link = one_name(records.remove(&b"linkpath"[..]), self.long_link)?.unwrap_or_else(|| header.link());
        let path = path::normalise(&raw);
        let in_entry = |error: Error| error.context(path::show(&path));
        if raw.len() > MAX_PATH || link.len() > MAX_PATH {
            let start = String::from_utf8_lossy(&raw[..raw.len().min(80)]).into_owned();
            return Err(Error::content(format!("a name in the tar is longer than {MAX_PATH} bytes: {start}…")));
        }
        let kind = match header.type_flag() {
            // Before POSIX, a slash at the end made a directory.
            0 if raw.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let number = |text: Option<Vec<u8>>, key: &str| match text.filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => pax::decimal(&text)
                .map(Some)
                .ok_or_else(|| in_entry(Error::content(format!("PAX {key} is '{}'", String::from_utf8_lossy(&text))))),
        };
        let stored = match number(records.remove(&b"size"[..]), "size")? {
            Some(size) => size,
            None => header.size().map_err(in_entry)?,
        };
        // Go's rule: what cannot have content has none, whatever its size says (faults.md, rust.md A2).
        let header_only = matches!(header.type_flag(), b'1'..=b'6');
        let stored = if header_only { 0 } else { stored };
        let mtime = match records.remove(&b"mtime"[..]).filter(|text| !text.is_empty()) {
            Some(text) => {
                let seconds = pax::seconds(&text).ok_or_else(|| {
                    in_entry(Error::content(format!("PAX mtime is '{}'", String::from_utf8_lossy(&text))))
                })?;
                Mtime { seconds, text: Some(text) }
            }
            None => Mtime { seconds: header.mtime().map_err(in_entry)?, text: None },
        };
        let mut name_of = |key: &[u8], ustar: Vec<u8>| match records.remove(key).filter(|name| !name.is_empty()) {
            Some(name) if name.contains(&0) => Err(in_entry(Error::content("a PAX record holds a NUL byte"))),
            Some(name) => Ok(name),
            None => Ok(ustar),
        };
        let uname = name_of(b"uname", header.uname())?;
        let gname = name_of(b"gname", header.gname())?;
        let uid = match number(records.remove(&b"uid"[..]), "uid")? {
            Some(uid) => uid,
            None => header.uid().map_err(in_entry)?,
        };
        let gid = match number(records.remove(&b"gid"[..]), "gid")? {
            Some(gid) => gid,
            None => header.gid().map_err(in_entry)?,
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let device = if is_device { header.device().map_err(in_entry)? } else { (0, 0) };
        let mut xattrs = BTreeMap::new();
        let mut others = BTreeMap::new();
        for (key, value) in records {
            match key.strip_prefix(XATTR) {
                Some(b"") => return Err(in_entry(Error::content("an extended attribute has no name"))),
                Some(name) => {
                    xattrs.insert(name.to_vec(), value);
                }
                None => {
                    others.insert(key, value);
                }
            }
        }
        let entry = Entry {
            kind,
            link: if matches!(kind, Kind::HardLink | Kind::Symlink) { link } else { Vec::new() },
            mode: header.mode().map_err(in_entry)?,
            uid,
            gid,
            uname,
            gname,
            mtime,
            size: if kind == Kind::File { stored } else { 0 },
            device,
            sparse,
            xattrs,
            pax: others,
            path,
        };
        Ok((entry, stored))
    }
}

/// The name in a GNU `L` or `K` header, which ends at a NUL byte or with the header.
fn long_name(mut data: Vec<u8>) -> Result<Vec<u8>> {
    let length = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    if data[length..].iter().any(|b| *b != 0) {
        return Err(Error::content("a long name in the tar holds a NUL byte"));
    }
    data.truncate(length);
    Ok(data)
}

/// A name from a PAX record, or from a GNU header: readers disagree about which one wins, so they must agree (faults.md
/// D12, D13).
fn one_name(record: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match (record.filter(|name| !name.is_empty()), gnu.filter(|name| !name.is_empty())) {
        (Some(name), _) if name.contains(&0) => Err(Error::content("a PAX name holds a NUL byte")),
        (Some(record), Some(gnu)) if record != gnu => Err(Error::content(format!(
            "an entry of the tar has two names, {} and {}",
            path::show(&record),
            path::show(&gnu)
        ))),
        (record, gnu) => Ok(record.or(gnu)),
    }
}

/// Refuses a global header that would change entries for some readers and not for others.
fn check_global(records: &Records) -> Result<()> {
    let changes = |key: &&Vec<u8>| {
        INTERPRETED.contains(&key.as_slice()) || key.starts_with(XATTR) || key.starts_with(b"GNU.sparse.")
    };
    match records.keys().find(changes) {
        None => Ok(()),
        Some(key) => Err(Error::content(format!(
            "a global header of the tar sets '{}' for all entries, which only some readers apply",
            String::from_utf8_lossy(key)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::testing::*;
    use proptest::prelude::*;

    fn list(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut entries = Entries::new(tar);
        let mut list = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            let mut content = Vec::new();
            entries.content().read_to_end(&mut content).map_err(|e| Error::io("content", &e))?;
            list.push((entry, content));
        }
        Ok(list)
    }

    /// `path kind size` of each entry, or the error.
    fn lines(frames: &[Vec<u8>]) -> Result<Vec<String>, String> {
        let tar = tar(frames);
        let listed = list(&tar).map_err(|e| e.to_string())?;
        // Skipping must end up at the same places as reading.
        let mut skipping = Entries::new(&tar[..]);
        for (entry, _) in &listed {
            assert_eq!(skipping.next_entry().unwrap().as_ref(), Some(entry));
        }
        assert_eq!(skipping.next_entry().unwrap(), None);
        Ok(listed
            .iter()
            .map(|(e, content)| {
                let link = if e.link.is_empty() { String::new() } else { format!(" -> {}", e.link.escape_ascii()) };
                format!("{}{link} {:?} {}", e.path.escape_ascii(), e.kind, content.len())
            })
            .collect())
    }

    fn ok(frames: &[Vec<u8>], expected: &[&str]) {
        assert_eq!(lines(frames).as_deref(), Ok(&expected.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]));
    }

    fn refused(frames: &[Vec<u8>], word: &str) {
        let error = lines(frames).unwrap_err();
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn kinds_and_names() {
        ok(
            &[
                dir("./"),
                dir("usr/"),
                file("./usr//a", b"hello"),
                symlink("/usr/b", "../x y"),
                hardlink("usr/c", "usr/a"),
                frame(b'3', b"dev/null", b"", b"", |_| {}),
                frame(b'6', b"fifo", b"", b"", |_| {}),
                frame(0, b"old/", b"", b"", |_| {}),
                frame(0, b"older", b"", b"xy", |_| {}),
                frame(b'V', b"volume", b"", b"", |_| {}),
                file("../../etc/passwd", b""),
                frame(b'0', b"caf\xe9", b"", b"", |_| {}),
            ],
            &[
                " Directory 0",
                "usr Directory 0",
                "usr/a File 5",
                "usr/b -> ../x y Symlink 0",
                "usr/c -> usr/a HardLink 0",
                "dev/null CharDevice 0",
                "fifo Fifo 0",
                "old Directory 0",
                "older File 2",
                "volume Other(86) 0",
                "etc/passwd File 0",
                "caf\\xe9 File 0",
            ],
        );
    }

    #[test]
    fn what_cannot_have_content_has_none() {
        for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
            let lying = frame(flag, b"x", b"y", b"", |h| h.set_size(512));
            assert_eq!(list(&tar(&[lying, file("b", b"1")])).unwrap().len(), 2, "{}", flag as char);
            let lying = [pax(&[(b"size", b"512")]), frame(flag, b"x", b"y", b"", |_| {})].concat();
            assert_eq!(list(&tar(&[lying, file("b", b"1")])).unwrap().len(), 2, "{}", flag as char);
        }
    }

    #[test]
    fn pax_records_win() {
        let xattr = b"a=b\n22 linkpath=/etc/evil\n\0";
        let records: &[(&[u8], &[u8])] = &[
            (b"path", b"usr/old"),
            (b"path", b"usr/new"),
            (b"SCHILY.xattr.user.x", xattr),
            (b"SCHILY.xattr.user.empty", b""),
            (b"size", b"3"),
            (b"uid", b"4294967296"),
            (b"uname", b""),
            (b"mtime", b"12.345"),
            (b"atime", b"1.5"),
            (b"VENDOR.x", b"\0"),
        ];
        let body = frame(b'0', b"short", b"", b"abc", |h| {
            h.set_size(0);
            h.set_username("user").unwrap();
        });
        let listed = list(&tar(&[pax(records), body, file("next", b"")])).unwrap();
        let (entry, content) = &listed[0];
        assert_eq!(
            (&entry.path[..], &content[..], entry.uid, &entry.uname[..]),
            (&b"usr/new"[..], &b"abc"[..], 1 << 32, &b"user"[..])
        );
        assert_eq!(entry.mtime, Mtime { seconds: 12, text: Some(b"12.345".to_vec()) });
        assert_eq!(entry.xattrs[&b"user.x"[..]], xattr);
        assert_eq!(entry.xattrs[&b"user.empty"[..]], b"");
        assert_eq!(entry.pax.keys().collect::<Vec<_>>(), [&b"VENDOR.x"[..], b"atime"]);
        assert_eq!(listed.len(), 2);
    }

    #[test]
    fn every_capability_value_is_read() {
        for value in [&b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], b"\n\n\n=\n 3 a=b\n", b"\x0a"] {
            let frames = [pax(&[(b"SCHILY.xattr.security.capability", value)]), file("a", b"")];
            assert_eq!(list(&tar(&frames)).unwrap()[0].0.xattrs[&b"security.capability"[..]], value);
        }
    }

    #[test]
    fn long_names() {
        let long = "d/".repeat(150) + "file";
        ok(&[gnu(b'L', long.as_bytes()), file("d/d", b"x")], &[&format!("{long} File 1")]);
        ok(
            &[gnu(b'K', b"target"), gnu(b'L', b"name"), symlink("x", "y"), file("z", b"")],
            &["name -> target Symlink 0", "z File 0"],
        );
        // faults.md D12: the PAX size is the file's, not the long name's.
        ok(
            &[
                pax(&[(b"size", b"2")]),
                gnu(b'L', b"a"),
                frame(b'0', b"x", b"", b"12", |h| h.set_size(0)),
                file("b", b""),
            ],
            &["a File 2", "b File 0"],
        );
        ok(&[pax(&[(b"path", b"a")]), gnu(b'L', b"a"), file("x", b"")], &["a File 0"]);
        refused(&[pax(&[(b"path", b"a")]), gnu(b'L', b"b"), file("x", b"")], "two names");
        refused(&[gnu(b'L', b"a"), gnu(b'L', b"b"), file("x", b"")], "two extended headers");
        refused(&[gnu(b'L', b"a\0b"), file("x", b"")], "NUL");
        refused(&[gnu(b'L', "x/".repeat(2100).as_bytes()), file("x", b"")], "longer than 4096");
        refused(&[pax(&[(b"path", b"a\0b")]), file("x", b"")], "NUL");
        let ustar = frame(b'0', b"name", b"", b"", |h| {
            h.as_ustar_mut().unwrap().prefix[..7].copy_from_slice(b"pre/fix");
        });
        ok(&[ustar], &["pre/fix/name File 0"]);
        let gnu_with_prefix = |field: &[u8]| {
            frame(b'0', b"name", b"", b"", |h| {
                h.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
                h.as_mut_bytes()[345..345 + field.len()].copy_from_slice(field);
            })
        };
        ok(&[gnu_with_prefix(b"usr/share")], &["usr/share/name File 0"]);
        ok(&[gnu_with_prefix(b"14371573425\0")], &["name File 0"]);
    }

    #[test]
    fn ambiguity_is_refused() {
        let plain = || file("x", b"");
        refused(&[pax(&[(b"size", b"+3")]), file("x", b"abc")], "PAX size is '+3'");
        refused(&[pax(&[(b"uid", b"-1")]), plain()], "PAX uid");
        refused(&[pax(&[(b"mtime", b"1e3")]), plain()], "PAX mtime");
        refused(&[pax(&[(b"SCHILY.xattr.", b"1")]), plain()], "no name");
        refused(&[raw_pax(b"8 path=a\n"), plain()], "malformed PAX");
        refused(&[raw_pax(b"10 path=a"), plain()], "malformed PAX");
        refused(&[pax(&[(b"a", b"b")]), pax(&[(b"c", b"d")]), plain()], "two extended headers");
        refused(&[pax(&[(b"a", b"b")])], "ends after an extended header");
        refused(&[global(&[(b"path", b"evil")]), plain()], "global header");
        refused(&[global(&[(b"SCHILY.xattr.security.capability", b"x")]), plain()], "global header");
        refused(&[pax(&[(b"a", b"b")]), global(&[(b"comment", b"c")]), plain()], "two extended headers");
        ok(&[global(&[(b"comment", b"c0ffee")]), plain()], &["x File 0"]);
        refused(
            &[frame(b'0', b"x", b"", b"", |h| {
                h.as_old_mut().size = *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
            })],
            "negative size",
        );
        refused(&[frame(b'0', b"x", b"", b"", |h| h.as_old_mut().size = *b"0000000000x\0")], "no number");
        refused(&[frame(b'x', b"x", b"", b"", |h| h.set_size(1 << 40))], "limit is 1048576");
        let mut bad_sum = plain();
        bad_sum[0] = b'y';
        refused(&[bad_sum], "checksum");
    }

    #[test]
    fn the_end_is_strict() {
        let one = file("a", b"x");
        for (tail, good) in [
            (vec![], true),
            (vec![0; 512], true),
            (vec![0; 1024], true),
            (vec![0; 10 * 1024], true),
            (vec![0; 1500], true),
            (vec![0; 100], false),
            ([vec![0; 512], file("b", b"")].concat(), false),
            ([vec![0; 1024], file("b", b"")].concat(), false),
            ([vec![0; 1024], vec![0; 77], vec![1]].concat(), false),
            (vec![b'x'; 512], false),
        ] {
            let result = list(&[one.clone(), tail.clone()].concat());
            assert_eq!(result.is_ok(), good, "{} bytes: {result:?}", tail.len());
        }
    }

    #[test]
    fn cut_content_is_an_error() {
        let whole = file("a", &[1; 2000]);
        for cut in [512, 513, 1500, 2511, 2512, 2559] {
            assert!(list(&whole[..cut]).is_err(), "{cut}");
            let mut entries = Entries::new(&whole[..cut]);
            entries.next_entry().unwrap();
            assert!(entries.next_entry().is_err(), "skipping, {cut}");
            let mut entries = Entries::new(&whole[..cut]);
            entries.next_entry().unwrap();
            let read = entries.content().read_to_end(&mut Vec::new());
            assert_eq!(read.is_ok(), cut >= 2512, "{cut}");
        }
    }

    #[test]
    fn sparse_files_are_skipped_but_not_read() {
        let mut old = frame(b'S', b"old", b"", b"", |h| {
            h.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
            h.as_mut_bytes()[482] = 1;
            h.set_size(600);
        });
        let mut map = [0; 512];
        map[504] = 1;
        old.extend_from_slice(&map);
        old.extend_from_slice(&[0; 512]);
        old.extend_from_slice(&[b'x'; 1024]);
        let new = [
            pax(&[
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"new"),
                (b"GNU.sparse.realsize", b"99999"),
            ]),
            file("GNUSparseFile.0/new", &[b'0'; 700]),
        ];
        let frames = [old, new.concat(), file("after", b"y")];
        ok(&frames, &["old File 600", "new File 700", "after File 1"]);
        let bytes = tar(&frames);
        let mut entries = Entries::new(&bytes[..]);
        for sparse in [true, true, false] {
            assert_eq!(entries.next_entry().unwrap().unwrap().sparse, sparse);
            assert_eq!(entries.content().refuse_sparse().is_err(), sparse);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048), flag in any::<u8>(), fix in any::<bool>()) {
            if fix && bytes.len() >= 512 {
                bytes[156] = flag;
                let header = tar::Header::from_byte_slice(&bytes[..512]);
                let mut header = header.clone();
                header.set_cksum();
                bytes[..512].copy_from_slice(header.as_bytes());
            }
            let _ = list(&bytes);
        }
    }
}
