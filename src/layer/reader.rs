//! Reads the tar of a layer while its digest, its size and its diff ID are computed.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::archive::compression::{Decoder, from_io};
use crate::blob::VerifiedReader;
use crate::error::{Error, Result, printable};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Digest, Hasher};
use crate::oci::media_type::{self, Compression, Kind};

/// Bytes of tar that are decompressed, walked and hashed together.
const CHUNK: usize = 256 * 1024;
/// Chunks in flight between the walk and the hash.
const CHUNKS: usize = 4;

/// What to say of a layer with padding behind its gzip data, which gzip(1) ignores and Go's `compress/gzip` does not.
pub const PADDED: &str = "NUL bytes follow the gzip data: container engines do not unpack it";

/// What to do about an encrypted layer.
pub const ENCRYPTED: &str = "decrypt the image first, such as with skopeo copy --decryption-key KEY";

/// What is odd about a layer whose sums are right.
#[derive(Debug)]
pub struct Oddities {
    /// NUL bytes follow the last gzip member: see [`PADDED`].
    pub is_padded: bool,
    /// A sentence about a media type that claims another compression than the bytes have (faults.md D10).
    pub mistyped: Option<String>,
}

/// The tar of a layer. Nothing that was read may be believed before [`LayerReader::finish`].
pub struct LayerReader<R: Read> {
    decoder: Decoder<VerifiedReader<R>>,
    chunk: Vec<u8>,
    start: usize,
    end: usize,
    total: u64,
    descriptor: Descriptor,
    limits: Limits,
    diff_id: Digest,
    sum: Sum,
}

impl<R: Read> LayerReader<R> {
    /// Reads `blob`, which should be the content that `descriptor` names, and whose tar should hash to `diff_id`.
    /// Refuses an encrypted layer, whatever its bytes are: container engines go by its type.
    pub fn new(blob: R, descriptor: &Descriptor, diff_id: &Digest, limits: &Limits) -> Result<Self> {
        if descriptor.kind() == Kind::Encrypted {
            return Err(Error::content(format!("the layer is encrypted ({})", descriptor.media_type)).hint(ENCRYPTED));
        }
        Ok(LayerReader {
            decoder: Decoder::new(VerifiedReader::new(blob, descriptor), limits)?,
            chunk: vec![0; CHUNK],
            start: 0,
            end: 0,
            total: 0,
            descriptor: descriptor.clone(),
            limits: *limits,
            diff_id: diff_id.clone(),
            sum: Sum::Here(Hasher::new(diff_id.algorithm())),
        })
    }

    /// What the blob turned out to be.
    pub fn compression(&self) -> Compression {
        self.decoder.compression()
    }

    /// Reads what is left and compares digest, size and diff ID (faults.md D8, D9).
    pub fn finish(mut self) -> Result<Oddities> {
        let found = self.compression();
        loop {
            let length = self.fill_buf().map_err(|e| from_io("the layer", &e))?.len();
            if length == 0 {
                break;
            }
            self.consume(length);
        }
        let is_padded = self.decoder.is_padded();
        self.decoder.into_inner().finish()?;
        let computed = self.sum.finish()?;
        if computed != self.diff_id {
            return Err(Error::content(format!(
                "the layer's tar hashes to {computed}, but the image's config says {}",
                self.diff_id
            ))
            .hint("the image is damaged or was put together wrongly; container engines refuse it too"));
        }
        Ok(Oddities { is_padded, mistyped: mistyped(&self.descriptor, found) })
    }
}

/// What to say of a media type that claims something else than the bytes are.
fn mistyped(Descriptor { media_type, digest, size, .. }: &Descriptor, found: Compression) -> Option<String> {
    let Kind::Layer { compression, .. } = media_type::kind(media_type) else { return None };
    (compression != found && *size > 0).then(|| {
        let media_type = printable(media_type);
        format!(
            "the layer {digest} has {found}, and its type {media_type} says {compression}: others may not unpack it"
        )
    })
}

impl<R: Read> BufRead for LayerReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.sum.update(&mut self.chunk, self.end)?;
            (self.start, self.end) = (0, 0);
            while self.end < CHUNK {
                match self.decoder.read(&mut self.chunk[self.end..]) {
                    Ok(0) => break,
                    Ok(read) => self.end += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.total += self.end as u64;
            self.limits.check_unpacked(self.total, Some(self.descriptor.size), "the layer")?;
        }
        Ok(&self.chunk[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.end);
    }
}

impl<R: Read> Read for LayerReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// A hash over chunks. Small layers are hashed where they are read, others on a thread of their own, since inflating and
/// hashing take turns otherwise (measured: a quarter of the time).
enum Sum {
    Here(Hasher),
    Thread { full: SyncSender<(Vec<u8>, usize)>, empty: Receiver<Vec<u8>>, fresh: usize, thread: JoinHandle<Hasher> },
}

impl Sum {
    /// Takes in the first `length` bytes of `chunk`, and leaves another chunk to fill in its place.
    fn update(&mut self, chunk: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let gone = || io::Error::from(Error::failed("the thread that computes the diff ID ended early"));
        match self {
            Sum::Here(hasher) if length < CHUNK => hasher.update(&chunk[..length]),
            Sum::Here(hasher) => {
                *self = Sum::start(hasher.clone())?;
                return self.update(chunk, length);
            }
            Sum::Thread { full, empty, fresh, .. } => {
                let next = if *fresh > 0 {
                    *fresh -= 1;
                    vec![0; CHUNK]
                } else {
                    empty.recv().map_err(|_| gone())?
                };
                full.send((std::mem::replace(chunk, next), length)).map_err(|_| gone())?;
            }
        }
        Ok(())
    }

    fn start(mut hasher: Hasher) -> io::Result<Sum> {
        let (full, to_hash) = sync_channel::<(Vec<u8>, usize)>(CHUNKS);
        let (back, empty) = sync_channel(CHUNKS);
        let thread = Builder::new().name("diff-id".to_owned()).spawn(move || {
            while let Ok((chunk, length)) = to_hash.recv() {
                hasher.update(&chunk[..length]);
                // A reader that was dropped wants no chunk back.
                let _ = back.try_send(chunk);
            }
            hasher
        })?;
        Ok(Sum::Thread { full, empty, fresh: CHUNKS - 1, thread })
    }

    fn finish(self) -> Result<Digest> {
        match self {
            Sum::Here(hasher) => Ok(hasher.finish()),
            Sum::Thread { full, thread, .. } => {
                drop(full);
                let hasher =
                    thread.join().map_err(|_| Error::failed("the thread that computes the diff ID ended early"))?;
                Ok(hasher.finish())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{compress, file, tar};
    use crate::layer::testing::Layer;

    #[test]
    fn only_a_layer_with_the_right_sums_is_believed() {
        for size in [0, 1, CHUNK - 2048, CHUNK - 1536, CHUNK, 3 * CHUNK, 9 * CHUNK + 5] {
            let content: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
            let plain = tar(&[file("a", &content)]);
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let layer = Layer::new(compress(&plain, compression), Digest::of(&plain));
                let mut reader = layer.reader().unwrap();
                assert_eq!(reader.compression(), compression);
                let mut out = Vec::new();
                reader.read_to_end(&mut out).unwrap();
                assert_eq!(out, plain);
                reader.finish().unwrap();
                // Unread content counts too.
                layer.reader().unwrap().finish().unwrap();

                let other_diff_id = Layer { diff_id: Digest::of(b"other"), ..layer.clone() };
                let error = other_diff_id.reader().unwrap().finish().unwrap_err();
                assert!(error.to_string().contains("the image's config says"), "{error}");
                let mut tampered = layer.clone();
                tampered.blob.push(0);
                assert!(
                    tampered.reader().and_then(LayerReader::finish).is_err(),
                    "a byte more than the descriptor says"
                );
            }
        }
    }
}
