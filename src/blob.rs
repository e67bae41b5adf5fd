//! Content that was hashed. Whatever comes out of here with an `Ok` matched its digest and its size.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Algorithm, Digest, Hasher};

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Hashes and counts content as it passes, and compares at the end.
#[derive(Clone)]
pub struct Verifier {
    digest: Digest,
    size: u64,
    seen: u64,
    hasher: Hasher,
}

impl Verifier {
    /// A verifier for the content that `descriptor` names.
    pub fn new(descriptor: &Descriptor) -> Self {
        let digest = descriptor.digest.clone();
        Verifier { hasher: Hasher::new(digest.algorithm()), digest, size: descriptor.size, seen: 0 }
    }

    /// Takes in the next bytes; refuses the first byte beyond the descriptor's size.
    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen += bytes.len() as u64;
        if self.seen > self.size {
            return Err(Error::content(format!("{} is longer than its {} bytes", self.digest, self.size)));
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.size.saturating_sub(self.seen)
    }

    /// Compares what passed with the descriptor.
    pub fn finish(self) -> Result<()> {
        if self.seen != self.size {
            return Err(Error::content(format!("{} ended after {} of {} bytes", self.digest, self.seen, self.size)));
        }
        let computed = self.hasher.finish();
        if computed != self.digest {
            return Err(Error::content(format!("{} has other content: it hashes to {computed}", self.digest)));
        }
        Ok(())
    }
}

/// Reads content through a [`Verifier`]. Nothing that was read may be believed before [`VerifiedReader::finish`].
pub struct VerifiedReader<R> {
    inner: R,
    verifier: Verifier,
}

impl<R: Read> VerifiedReader<R> {
    /// Reads `inner`, which should be the content that `descriptor` names.
    pub fn new(inner: R, descriptor: &Descriptor) -> Self {
        VerifiedReader { inner, verifier: Verifier::new(descriptor) }
    }

    /// Reads what is left, so that nothing can hide behind the end of an archive (faults.md D9), and compares.
    pub fn finish(mut self) -> Result<()> {
        let digest = self.verifier.digest.clone();
        io::copy(&mut self, &mut io::sink()).map_err(|e| Error::io(digest, &e))?;
        self.verifier.finish()
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.verifier.update(&buffer[..read])?;
        Ok(read)
    }
}

/// Reads a document whole; refuses one that is too large before it reads any of it.
pub fn read_small(reader: impl Read, descriptor: &Descriptor, limits: &Limits) -> Result<Bytes> {
    limits.check_document(descriptor.size, &descriptor.digest)?;
    let mut reader = VerifiedReader::new(reader, descriptor);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|e| Error::io(&descriptor.digest, &e))?;
    reader.finish()?;
    Ok(bytes.into())
}

/// Gives the content that `descriptor` names to `take`, piece by piece, and compares at the end: what was taken may be
/// believed only after an `Ok`.
pub fn for_each_piece(
    descriptor: &Descriptor,
    reader: &mut dyn Read,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut verifier = Verifier::new(descriptor);
    let mut buffer = vec![0; PIECE];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return verifier.finish(),
            Ok(read) => {
                verifier.update(&buffer[..read])?;
                take(&buffer[..read])?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(&descriptor.digest, &e)),
        }
    }
}

/// Hashes with SHA-256 and counts what passes, to name it afterwards.
pub struct Hashing<T> {
    inner: T,
    hasher: Hasher,
    size: u64,
}

impl<T> Hashing<T> {
    /// Nothing passed yet.
    pub fn new(inner: T) -> Self {
        Hashing { inner, hasher: Hasher::new(Algorithm::Sha256), size: 0 }
    }

    /// What it passed through, and the digest and bytes of what passed.
    pub fn finish(self) -> (T, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.size += read as u64;
        Ok(read)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Checks small content that is already in memory.
pub fn verify(bytes: &[u8], descriptor: &Descriptor) -> Result<()> {
    let mut verifier = Verifier::new(descriptor);
    verifier.update(bytes)?;
    verifier.finish()
}

/// The error of a temporary file that cannot be made, written or read: [`Kind::Failed`](crate::error::Kind::Failed), since
/// whatever the reason, it is no image that was not found or denied. An error of ours comes out as it went in.
pub fn temporary_error(error: &io::Error) -> Error {
    let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    ours.cloned().unwrap_or_else(|| {
        let told = Error::io(format!("cannot use a temporary file in {}", std::env::temp_dir().display()), error);
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => None,
            _ => told.hint_text(),
        };
        Error::failed(told.to_string()).hint(hint.unwrap_or("set TMPDIR to a directory with space")).placed()
    })
}

/// Content of ours in an unnamed temporary file: it can be read many times and vanishes with the last reader.
#[derive(Clone, Debug)]
pub struct Spool {
    file: Arc<File>,
    size: u64,
}

impl Spool {
    /// Copies `reader` into a temporary file.
    pub fn from_reader(reader: &mut impl Read) -> Result<Self> {
        let mut writer = SpoolWriter::new()?;
        io::copy(reader, &mut writer).map_err(|e| temporary_error(&e))?;
        Ok(writer.finish())
    }

    /// Reads `size` bytes of a file of the user's the same way.
    pub fn of_file(file: File, size: u64) -> Self {
        Spool { file: Arc::new(file), size }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first bytes, at most so many.
    pub fn head(&self, bytes: usize) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        let mut start = self.reader(0).take(bytes as u64);
        start.read_to_end(&mut head).map_err(|e| temporary_error(&e))?;
        Ok(head)
    }

    /// Reads from byte `offset` to the end; readers do not disturb each other.
    pub fn reader(&self, offset: u64) -> SpoolReader {
        SpoolReader { spool: self.clone(), offset }
    }
}

/// Writes a [`Spool`].
pub struct SpoolWriter {
    file: File,
    size: u64,
}

impl SpoolWriter {
    /// An empty, unnamed file in `TMPDIR`.
    pub fn new() -> Result<Self> {
        let file = tempfile::tempfile().map_err(|e| temporary_error(&e))?;
        Ok(SpoolWriter { file, size: 0 })
    }

    /// What was written, now to be read.
    pub fn finish(self) -> Spool {
        Spool { file: Arc::new(self.file), size: self.size }
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.size += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a [`Spool`], from anywhere.
pub struct SpoolReader {
    spool: Spool,
    offset: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.spool.size.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.spool.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Seek for SpoolReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(by) => self.spool.size.checked_add_signed(by),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits within which a document has so many bytes.
    fn within(bytes: u64) -> Limits {
        Limits { memory: bytes * 32, ..Limits::default() }
    }

    #[test]
    fn only_matching_content_passes() {
        let descriptor = Descriptor::new("x", Digest::of(b"hello"), 5).unwrap();
        assert_eq!(read_small(&b"hello"[..], &descriptor, &within(5)).unwrap(), "hello");
        for wrong in [&b"hell"[..], b"hello!", b"jello", b""] {
            assert!(read_small(wrong, &descriptor, &within(100)).is_err());
            assert!(verify(wrong, &descriptor).is_err());
        }
        assert!(read_small(&b"hello"[..], &descriptor, &within(4)).is_err());
        let mut verifier = Verifier::new(&descriptor);
        verifier.update(b"hello").unwrap();
        assert!(verifier.update(b"!").is_err(), "what goes on behind its end is refused there");
        let mut reader = VerifiedReader::new(&b"jello"[..], &descriptor);
        reader.read_exact(&mut [0; 2]).unwrap();
        assert!(reader.finish().is_err(), "what was not read counts too");
    }
    #[test]
    fn what_does_not_pass_is_told_by_its_length_or_its_digest() {
        let descriptor = Descriptor::new("x", Digest::of(b"hello"), 5).unwrap();
        for (wrong, why) in [
            (&b"hell"[..], "ended after 4 of 5 bytes"),
            (b"", "ended after 0 of 5 bytes"),
            (b"hello!", "is longer than its 5 bytes"),
            (b"jello", "has other content"),
        ] {
            let error = verify(wrong, &descriptor).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_temporary_file_is_at_no_place_of_an_image() {
        let error = temporary_error(&io::Error::from_raw_os_error(5));
        assert_eq!(error.clone().at("r.io/a").context("r.io/b"), error);
    }
}
