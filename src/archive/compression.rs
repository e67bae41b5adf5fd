//! Layer blobs and their compression: the first bytes decide what a blob is, whatever its media type claims (faults.md
//! D10).
//!
//! Sources: RFC 1952 (gzip), RFC 8878 (Zstandard), POSIX pax (tar).

use std::io::{self, BufRead, Read, Write};

use flate2::GzBuilder;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::archive::entry;
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::oci::media_type::Compression;

/// Bytes that are read at once from a blob.
const BUFFER: usize = 128 * 1024;
/// Bytes that [`sniff`] wants to see, one tar block.
const HEAD: usize = 512;
/// Bytes of a gzip trailer (8) and of the header behind it (10) that decide what follows a member.
const FRAMING: usize = 18;
/// The gzip level of what we write: the default of gzip and of every image builder.
const GZIP_LEVEL: u32 = 6;
/// The Zstandard level of what we write, its default.
const ZSTD_LEVEL: i32 = 3;

/// What content is of which nothing else can be said.
const UNKNOWN: &str = "neither gzip nor zstd nor a tar";

/// Formats that no container engine reads as a layer, but that a user would like to see named.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
    (b"\x1f\x9d", "compress (.Z)"),
    (b"hsqs", "a squashfs file system"),
    (b"sqsh", "a squashfs file system"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"070701", "a cpio archive"),
    (b"Rar!", "a rar archive"),
    (b"!<arch>", "an ar archive"),
    (b"\x7fELF", "an ELF binary"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"{", "JSON"),
];

/// What a blob is, by its first 512 bytes (fewer only if it is shorter). No bytes at all are an empty tar.
pub fn sniff(head: &[u8]) -> Result<Compression> {
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Compression::Gzip);
    }
    let skippable = head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable {
        return Ok(Compression::Zstd);
    }
    if head.is_empty() || entry::looks_like_tar(head) {
        return Ok(Compression::None);
    }
    let what = describe(head);
    Err(match what.as_str() {
        UNKNOWN => Error::content(format!("the layer is {what}")),
        _ => {
            let error = Error::content(format!("the layer is {what}, not a tar that container engines read"));
            match what.starts_with("compressed with") {
                true => error.hint("container engines read gzip, zstd and uncompressed layers"),
                false => error,
            }
        }
    })
}

/// Whether `blob` begins as a layer does: like a tar, or with gzip or zstd data of one. Damage behind that is for who reads
/// the layer to tell.
pub fn begins_like_layer(blob: impl Read, limits: &Limits) -> Result<bool> {
    let mut source = Source::new(blob);
    let Ok(compression) = sniff(source.head()?) else { return Ok(false) };
    let mut head = Vec::new();
    match Decoder::of(source, compression, limits)?.take(HEAD as u64).read_to_end(&mut head) {
        Ok(_) => Ok(head.is_empty() || entry::looks_like_tar(&head)),
        Err(error) => match from_io("the layer", &error) {
            error if error.kind() == Kind::Content => Ok(true),
            error => Err(error),
        },
    }
}

/// What content is that begins like this and is neither a tar nor compressed with gzip or zstd.
pub(crate) fn describe(head: &[u8]) -> String {
    match OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, name)) if name.contains(' ') || *name == "JSON" => (*name).to_owned(),
        Some((_, name)) => format!("compressed with {name}"),
        None => UNKNOWN.to_owned(),
    }
}

/// A buffer in front of a blob. It remembers what a gzip decoder took for a member's trailer and header.
pub(crate) struct Source<R> {
    inner: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    framing: Vec<u8>,
    in_data: bool,
}

impl<R: Read> Source<R> {
    fn new(inner: R) -> Self {
        Source { inner, buffer: vec![0; BUFFER].into(), start: 0, end: 0, framing: Vec::new(), in_data: false }
    }

    /// The first bytes of the blob; to be called before anything was consumed.
    fn head(&mut self) -> Result<&[u8]> {
        while self.end < HEAD {
            match self.more() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(from_io("the layer", &error)),
            }
        }
        Ok(&self.buffer[..self.end.min(HEAD)])
    }

    /// Appends to the buffer. An error of the blob itself becomes one of ours, so that the errors of the decoders, which
    /// are about the content, can be told from it.
    fn more(&mut self) -> io::Result<usize> {
        loop {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(from_io("the layer", &error).into()),
            }
        }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.start += read;
        // flate2 reads headers and trailers with `read`, and the data between them with `consume`.
        let room = FRAMING - self.framing.len();
        self.framing.extend_from_slice(&buffer[..read.min(room)]);
        Ok(read)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.start += amount;
        self.framing.clear();
        self.in_data = true;
    }
}

/// Reads the tar inside a layer blob. All members and frames of the blob are read, and nothing but NUL bytes may follow
/// the last gzip member.
pub struct Decoder<R: Read>(Inner<R>);

enum Inner<R: Read> {
    Plain(Source<R>),
    Gzip { decoder: Box<MultiGzDecoder<Source<R>>>, done: bool },
    Zstd { decoder: Box<zstd::Decoder<'static, Source<R>>>, limits: Limits },
}

impl<R: Read> Decoder<R> {
    /// Finds out what `blob` is. What it unpacks to is not limited here, but for the window of zstd.
    pub fn new(blob: R, limits: &Limits) -> Result<Self> {
        let mut source = Source::new(blob);
        let compression = sniff(source.head()?)?;
        Decoder::of(source, compression, limits)
    }

    fn of(source: Source<R>, compression: Compression, limits: &Limits) -> Result<Self> {
        Ok(Decoder(match compression {
            Compression::None => Inner::Plain(source),
            Compression::Gzip => Inner::Gzip { decoder: Box::new(MultiGzDecoder::new(source)), done: false },
            Compression::Zstd => {
                let failed = |e| Error::io("the zstd decoder", &e);
                let mut decoder = zstd::Decoder::with_buffer(source).map_err(failed)?;
                decoder.window_log_max(limits.window_log()).map_err(failed)?;
                Inner::Zstd { decoder: Box::new(decoder), limits: *limits }
            }
        }))
    }

    /// What the blob turned out to be.
    pub fn compression(&self) -> Compression {
        match self.0 {
            Inner::Plain(_) => Compression::None,
            Inner::Gzip { .. } => Compression::Gzip,
            Inner::Zstd { .. } => Compression::Zstd,
        }
    }

    /// Whether NUL bytes followed the last gzip member, which is known when everything was read.
    pub fn is_padded(&self) -> bool {
        matches!(self.0, Inner::Gzip { done: true, .. })
    }

    /// Gives the blob back.
    pub fn into_inner(self) -> R {
        match self.0 {
            Inner::Plain(source) => source.into_inner(),
            Inner::Gzip { decoder, .. } => decoder.into_inner().into_inner(),
            Inner::Zstd { decoder, .. } => decoder.finish().into_inner(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(source) => source.read(buffer),
            Inner::Gzip { done: true, .. } => Ok(0),
            Inner::Gzip { decoder, done } => match decoder.read(buffer) {
                Err(error) => {
                    // Without a header it is a header that could not be read.
                    let between_members = decoder.header().is_none() && decoder.get_ref().in_data;
                    let end = gzip_tail(decoder.get_mut(), between_members, error)?;
                    *done = true;
                    Ok(end)
                }
                read => read,
            },
            // The library's words for a window that is too large (faults.md D3).
            Inner::Zstd { decoder, limits } => decoder.read(buffer).map_err(|e| match e.to_string() {
                words if words.contains("too much memory") => {
                    limits.exceeded("the zstd data takes", 1 << limits.window_log()).into()
                }
                _ => damaged(Compression::Zstd, e),
            }),
        }
    }
}

/// Decides on what follows the last gzip member: padding with NUL bytes is tolerated, anything else is an error (faults.md
/// D5).
fn gzip_tail<R: Read>(source: &mut Source<R>, between_members: bool, error: io::Error) -> io::Result<usize> {
    const TRAILER: usize = 8;
    let tail = source.framing.get(TRAILER..).unwrap_or_default();
    if is_ours(&error) || !between_members || tail.is_empty() {
        return Err(damaged(Compression::Gzip, error));
    }
    let mut only_nul = tail.iter().all(|b| *b == 0);
    while only_nul {
        let rest = source.fill_buf()?;
        if rest.is_empty() {
            return Ok(0);
        }
        only_nul = rest.iter().all(|b| *b == 0);
        let length = rest.len();
        source.consume(length);
    }
    Err(Error::content("something other than padding follows the last gzip member").into())
}

/// An error that came through [`Read`]: as it was if it is one of ours, and otherwise one of `place`.
pub(crate) fn from_io(place: &str, error: &io::Error) -> Error {
    let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    ours.cloned().unwrap_or_else(|| Error::io(place, error))
}

fn is_ours(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Error>())
}

/// An error of a decoder, as opposed to one of the blob under it.
fn damaged(compression: Compression, error: io::Error) -> io::Error {
    if is_ours(&error) || error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    Error::content(format!("the {compression} data is damaged or cut off: {error}")).into()
}

/// Compresses a layer of ours. Same input, same output: no time and no name gets into it. The bytes still depend on the
/// version of the compressor, the diff ID does not.
pub enum Encoder<W: Write> {
    /// No compression.
    Plain(W),
    /// gzip, level 6.
    Gzip(GzEncoder<W>),
    /// Zstandard, level 3, with a checksum.
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Compresses to `writer`.
    pub fn new(writer: W, compression: Compression) -> Result<Self> {
        Ok(match compression {
            Compression::None => Encoder::Plain(writer),
            Compression::Gzip => {
                Encoder::Gzip(GzBuilder::new().mtime(0).write(writer, flate2::Compression::new(GZIP_LEVEL)))
            }
            Compression::Zstd => {
                let failed = |e: io::Error| Error::io("the zstd encoder", &e);
                let mut encoder = zstd::Encoder::new(writer, ZSTD_LEVEL).map_err(failed)?;
                encoder.include_checksum(true).map_err(failed)?;
                Encoder::Zstd(encoder)
            }
        })
    }

    /// Writes the end of the compressed data and gives the writer back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Plain(writer) => Ok(writer),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Plain(writer) => writer.write(buffer),
            Encoder::Gzip(encoder) => encoder.write(buffer),
            Encoder::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Plain(writer) => writer.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests;
