//! The entries of a tar, read without believing more than the bytes say.
//!
//! Sources: POSIX.1-2024 `pax` (ustar and PAX headers), `tar(5)` of libarchive (GNU, old GNU sparse), and what Go's
//! `archive/tar`, which every container engine uses, makes of them. Where readers disagree about which file an entry is
//! or how long it is, the tar is refused (faults.md D11–D20).

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Seek, SeekFrom};

use crate::archive::compression::from_io;
use crate::archive::extensions::Extensions;
use crate::archive::header::{BLOCK, Block};
use crate::archive::path;
use crate::error::{Error, Result};
use crate::limits::Limits;

pub(crate) use crate::archive::header::looks_like_tar;

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
    limits: Limits,
    /// Of the current entry: content that nobody read yet, and the padding behind it.
    content: u64,
    padding: u64,
    current: Vec<u8>,
    ended: bool,
    end_mark: bool,
}

impl<R: BufRead + Seek> Entries<R> {
    /// Where the content of the current entry begins in the reader; moves behind it without reading it.
    pub fn seek_over_content(&mut self) -> Result<u64> {
        let failed = |e: std::io::Error| from_io("the tar", &e);
        let start = self.reader.stream_position().map_err(failed)?;
        let left = self.content.checked_add(self.padding).and_then(|left| i64::try_from(left).ok());
        let left = left.filter(|left| start.checked_add_signed(*left).is_some()).ok_or_else(|| self.cut_off())?;
        self.reader.seek(SeekFrom::Current(left)).map_err(failed)?;
        (self.content, self.padding) = (0, 0);
        Ok(start)
    }
}

impl<R: BufRead> Entries<R> {
    /// Reads `reader`, an uncompressed tar. A buffer of 64 KiB or more makes it fast.
    pub fn new(reader: R, limits: &Limits) -> Self {
        Entries { reader, limits: *limits, content: 0, padding: 0, current: Vec::new(), ended: false, end_mark: false }
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
                self.end_mark = true;
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

    /// Whether the blocks that end an archive were there. Without them it may be cut off between two entries.
    pub fn has_end_mark(&self) -> bool {
        self.end_mark
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
        (self.content, self.padding) = (stored, padding);
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
        self.limits.check_header(size, format!("an extended header after {}", path::show(&self.current)))?;
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

#[cfg(test)]
mod tests;
