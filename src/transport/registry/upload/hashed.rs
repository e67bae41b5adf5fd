//! Content that may be sent from the middle: it is hashed from its first byte on, whatever part of it is sent.

use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::super::lock;
use crate::blob::Verifier;
use crate::error::Result;
use crate::oci::descriptor::Descriptor;
use crate::transport::{ByteStream, Content};

/// How far apart the states of the hash are that are kept; each has some hundred bytes.
const STEP: u64 = 1 << 20;

/// The content of an upload.
#[derive(Clone)]
pub(super) struct Hashed {
    content: Content,
    descriptor: Descriptor,
    /// The hash after so many bytes, ascending: what was read once is not read again.
    states: Arc<Mutex<Vec<(u64, Verifier)>>>,
}

impl Hashed {
    pub(super) fn new(content: &Content, descriptor: &Descriptor) -> Self {
        Hashed { content: content.clone(), descriptor: descriptor.clone(), states: Arc::default() }
    }

    /// The content from byte `offset` on. One piece late: the last piece comes out only if everything matched, also what
    /// is in front of `offset`.
    pub(super) fn from(&self, offset: u64) -> ByteStream {
        let known = lock(&self.states).iter().rev().find(|(at, _)| *at <= offset).cloned();
        let (start, verifier) = known.unwrap_or_else(|| (0, Verifier::new(&self.descriptor)));
        let content = self.content.clone();
        let reader = Reader {
            stream: self.content.open_lazily(start),
            verifier: Some(verifier),
            position: start,
            skip: offset.saturating_sub(start),
            held: None,
            states: self.states.clone(),
        };
        Box::pin(
            stream::try_unfold(
                reader,
                |mut reader| async move { Ok(reader.next().await?.map(|piece| (piece, reader))) },
            )
            .map_err(move |e| content.fault(e)),
        )
    }

    /// Reads what was not read yet, and compares.
    pub(super) async fn check(&self) -> Result<()> {
        let mut rest = self.from(self.descriptor.size);
        while rest.next().await.transpose()?.is_some() {}
        Ok(())
    }
}

struct Reader {
    stream: ByteStream,
    verifier: Option<Verifier>,
    position: u64,
    /// Bytes that are hashed and not given.
    skip: u64,
    held: Option<Bytes>,
    states: Arc<Mutex<Vec<(u64, Verifier)>>>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(open) = &mut self.verifier {
            let Some(mut bytes) = self.stream.next().await.transpose()? else {
                if let Some(verifier) = self.verifier.take() {
                    verifier.finish()?;
                }
                break;
            };
            open.update(&bytes)?;
            self.position += bytes.len() as u64;
            {
                let mut states = lock(&self.states);
                if self.position >= states.last().map_or(0, |(at, _)| *at) + STEP {
                    states.push((self.position, open.clone()));
                }
            }
            let skipped = self.skip.min(bytes.len() as u64);
            bytes.advance(skipped as usize);
            self.skip -= skipped;
            if !bytes.is_empty()
                && let Some(previous) = self.held.replace(bytes)
            {
                return Ok(Some(previous));
            }
        }
        Ok(self.held.take())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::oci::digest::Digest;

    async fn read(mut stream: ByteStream) -> (Vec<u8>, bool) {
        let mut seen = Vec::new();
        loop {
            match stream.next().await {
                Some(Ok(bytes)) => seen.extend_from_slice(&bytes),
                Some(Err(_)) => return (seen, false),
                None => return (seen, true),
            }
        }
    }

    fn content(pieces: &'static [&'static str]) -> Content {
        Content::elsewhere("from", move |offset| async move {
            assert_eq!(offset, 0);
            Ok(Box::pin(stream::iter(pieces.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))))) as ByteStream)
        })
    }

    #[tokio::test]
    async fn the_last_piece_is_held_back_until_all_matched() {
        let descriptor = Descriptor::new("x", Digest::of(b"hello"), 5).unwrap();
        for (pieces, offset, sent, ok) in [
            (&["hello"][..], 0, "hello", true),
            (&["he", "", "llo"], 0, "hello", true),
            (&["he", "llx"], 0, "he", false),
            (&["he", "ll"], 0, "he", false),
            (&["he", "llo", "!"], 0, "he", false),
            (&["jello"], 0, "", false),
            (&[], 0, "", false),
            (&["he", "llo"], 1, "ello", true),
            (&["he", "llo"], 2, "llo", true),
            (&["h", "e", "llo"], 4, "o", true),
            (&["he", "llo"], 5, "", true),
            (&["je", "llo"], 2, "", false),
            (&["je", "l", "lo"], 2, "l", false),
            (&["he", "ll"], 5, "", false),
        ] {
            let (seen, end) = read(Hashed::new(&content(pieces), &descriptor).from(offset)).await;
            assert_eq!((String::from_utf8(seen).unwrap().as_str(), end), (sent, ok), "{pieces:?} from {offset}");
        }
    }

    #[tokio::test]
    async fn what_was_hashed_is_not_read_again() {
        const PIECE: usize = 300 << 10;
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n / 7) as u8).collect();
        let descriptor = Descriptor::new("x", Digest::of(&bytes), bytes.len() as u64).unwrap();
        let (all, read_from) = (Bytes::from(bytes.clone()), Arc::new(AtomicU64::new(0)));
        let opened = read_from.clone();
        let content = Content::elsewhere("from", move |offset| {
            opened.store(offset, Ordering::SeqCst);
            let rest = all.slice(offset as usize..);
            async move {
                let pieces: Vec<_> = rest.chunks(PIECE).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
                Ok(Box::pin(stream::iter(pieces)) as ByteStream)
            }
        });
        let hashed = Hashed::new(&content, &descriptor);
        // Broken off after some pieces.
        let begun: Vec<Bytes> = hashed.from(0).take(10).try_collect().await.unwrap();
        assert_eq!(begun.concat(), bytes[..10 * PIECE]);
        for offset in [2_500_000, 3_000_001, 500_000, 5_000_000] {
            let (seen, ok) = read(hashed.from(offset)).await;
            assert!(ok && seen == bytes[offset as usize..], "{offset}");
            let start = read_from.load(Ordering::SeqCst);
            assert!(start <= offset && offset - start < (STEP + PIECE as u64), "{offset}: {start}");
        }
    }
}
