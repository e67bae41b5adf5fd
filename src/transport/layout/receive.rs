//! Blobs on their way into a layout. What has arrived of a large one stays when the run is cut off or killed, and the next
//! run goes on from there.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use tempfile::NamedTempFile;

use super::Layout;
use crate::archive::compression::from_io;
use crate::blob::Verifier;
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::transport::durable::{cannot_write, publish, temporary, unfinished};
use crate::transport::pieces::PieceReader;
use crate::transport::{Content, blocking};

/// Smaller blobs are not worth keeping unfinished.
const WORTH_KEEPING: u64 = 1 << 20;
const BUFFER: usize = 256 << 10;

impl Layout {
    /// Stores `content`, which is hashed on the way; nothing appears under the digest unless it matched.
    pub(crate) async fn receive(&self, descriptor: &Descriptor, content: &Content) -> Result<()> {
        let (layout, wanted) = (self.clone(), descriptor.clone());
        let mut receiver = blocking(move || Receiver::new(&layout, wanted)).await?;
        let mut start = receiver.length;
        loop {
            let stream = if start == descriptor.size && start > 0 { None } else { Some(content.open(start).await?) };
            let reader = stream.map(PieceReader::new);
            let (back, received) = blocking(move || Ok(receiver.receive(reader, start))).await?;
            receiver = back;
            match received {
                // What an earlier run left may be damaged.
                Err(error) if start > 0 && error.kind() == Kind::Content => tracing::debug!("{error}; starting over"),
                Err(error) => {
                    if error.kind() == Kind::Content {
                        receiver.file.disable_cleanup(false);
                        return Err(content.fault(error));
                    }
                    return Err(error);
                }
                Ok(()) => break,
            }
            start = 0;
        }
        let path = self.blob_path(&descriptor.digest);
        blocking(move || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(|e| receiver.failed(&e))?;
            }
            publish(receiver.file, &path)
        })
        .await
    }

    /// A file for the blob, and whether it stays if the blob does not arrive whole.
    fn unfinished(&self, descriptor: &Descriptor) -> Result<(NamedTempFile, bool)> {
        let name = format!("{}-{}", descriptor.digest.algorithm().name(), descriptor.digest.hex());
        let kept = if descriptor.size < WORTH_KEEPING { None } else { unfinished(&self.path, &name)? };
        match kept {
            Some(mut file) => {
                file.disable_cleanup(true);
                Ok((file, true))
            }
            None => Ok((temporary(&self.path)?, false)),
        }
    }
}

/// A blob on its way into a file.
struct Receiver {
    descriptor: Descriptor,
    path: PathBuf,
    file: NamedTempFile,
    kept: bool,
    /// Bytes that an earlier run left; none if there are more than the blob has.
    length: u64,
}

impl Receiver {
    fn new(layout: &Layout, descriptor: Descriptor) -> Result<Self> {
        let path = layout.blob_path(&descriptor.digest);
        let (file, kept) = layout.unfinished(&descriptor)?;
        let mut receiver = Receiver { file, kept, descriptor, path, length: 0 };
        let length = receiver.file.as_file().metadata().map_err(|e| receiver.failed(&e))?.len();
        if length <= receiver.descriptor.size {
            receiver.length = length;
        }
        Ok(receiver)
    }

    fn failed(&self, error: &io::Error) -> Error {
        let failed = cannot_write(&self.path, self.file.as_file(), self.descriptor.size, error);
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded if self.kept => {
                failed.hint("make room on that file system, and run it again: it goes on from what has arrived")
            }
            _ => failed,
        }
    }

    /// Hashes the first `start` bytes of the file and writes what `rest` gives behind them.
    fn receive(mut self, rest: Option<PieceReader>, start: u64) -> (Self, Result<()>) {
        let received = self.receive_rest(rest, start);
        (self, received)
    }

    fn receive_rest(&mut self, rest: Option<PieceReader>, start: u64) -> Result<()> {
        let mut verifier = Verifier::new(&self.descriptor);
        let mut buffer = vec![0; BUFFER];
        self.file.as_file().set_len(start).map_err(|e| self.failed(&e))?;
        self.file.as_file().seek(SeekFrom::Start(0)).map_err(|e| self.failed(&e))?;
        for_each_piece(self.file.as_file(), &mut buffer, |piece| verifier.update(piece))
            .map_err(|e| Error::io(self.path.display(), &e.into()))?;
        if let Some(rest) = rest {
            let (mut file, failed) = (self.file.as_file(), |e: &io::Error| self.failed(e));
            for_each_piece(rest, &mut buffer, |piece| {
                verifier.update(piece)?;
                file.write_all(piece).map_err(|e| failed(&e))
            })?;
        }
        verifier.finish()
    }
}

fn for_each_piece(mut reader: impl Read, buffer: &mut [u8], mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(from_io("content", &e)),
        }
    }
}
