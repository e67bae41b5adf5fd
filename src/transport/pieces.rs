//! A stream of pieces as a blocking reader.

use std::io::Read;

use bytes::Bytes;
use futures_util::StreamExt;

use crate::error::{Error, Result};
use crate::transport::ByteStream;

/// Pieces that the network may be ahead of a blocking reader.
const AHEAD: usize = 16;

/// A stream as a blocking reader, fed by a task of its own so that network and disk, or decompression, overlap.
pub(super) struct PieceReader {
    /// `None` ends the stream; without it, the task that feeds us was stopped.
    pieces: tokio::sync::mpsc::Receiver<Result<Option<Bytes>>>,
    current: Bytes,
    ended: bool,
}

impl PieceReader {
    pub(super) fn new(mut stream: ByteStream) -> Self {
        let (sender, pieces) = tokio::sync::mpsc::channel(AHEAD);
        tokio::spawn(async move {
            loop {
                let piece = stream.next().await.transpose();
                let is_last = !matches!(piece, Ok(Some(_)));
                if sender.send(piece).await.is_err() || is_last {
                    break;
                }
            }
        });
        PieceReader { pieces, current: Bytes::new(), ended: false }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Ok(Some(piece))) => self.current = piece,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Error::failed("stopped").into()),
            }
        }
        let read = self.current.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.current.split_to(read));
        Ok(read)
    }
}
