//! Content on its way into containerd.
//!
//! One stream is one writer of one ingest, which is named after the digest: what a killed run has sent is there for
//! the next, and two runs that want to write the same wait for each other. Content becomes visible by the commit alone,
//! which comes after our own verification, and containerd hashes everything before it obeys.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future, stream};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use super::proto::{Empty, IngestRequest, Labels, StatusResponse, WriteAction, WriteRequest, WriteResponse};
use super::rpc::Refusal;
use super::{Shared, content, leases, rpc};
use crate::blob::Verifier;
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Algorithm;
use crate::transport::{ByteStream, Content};

/// Bytes of one message.
const PIECE: usize = 1 << 20;
/// How often a broken connection is made again without a byte of progress.
const TRIES: u32 = 5;
/// To open and to commit may take long: what was there is hashed again, and everything is made durable.
const PATIENCE: Duration = Duration::from_secs(600);

/// How an attempt ended, if not with an error.
enum End {
    Stored,
    /// The namespace has it already.
    Exists,
    /// Another writer is at it.
    Locked,
    /// The connection broke, after this many bytes in all.
    Lost(Error, u64),
    /// containerd hashed something else than we sent, or than somebody had sent before us.
    Mismatch {
        error: Error,
        resumed: bool,
    },
}

/// Stores content; `labels` says, of the labels that it may have already, which it is to get.
pub(super) async fn store(
    shared: &Shared,
    descriptor: &Descriptor,
    content: &Content,
    labels: &(dyn Fn(&Labels) -> Labels + Sync),
) -> Result<()> {
    let lease = leases::lease(shared).await?;
    let ingest = Ingest { shared, descriptor, name: format!("capatch-{}", descriptor.digest), lease };
    let (mut resume, mut failures, mut furthest) = (true, 0, 0);
    loop {
        let error = match ingest.attempt(content, resume, &labels(&Labels::new())).await {
            Ok(End::Stored) => return Ok(()),
            Ok(End::Exists) => {
                if ingest.adopt(labels).await? {
                    return Ok(());
                }
                Error::failed(format!("{} is collected as garbage all the time", descriptor.digest))
            }
            Ok(End::Locked) => {
                ingest.wait().await?;
                continue;
            }
            Ok(End::Lost(error, position)) => {
                if position > furthest {
                    (furthest, failures) = (position, 0);
                }
                error
            }
            Ok(End::Mismatch { resumed: true, .. }) => {
                resume = false;
                continue;
            }
            Ok(End::Mismatch { error, .. }) => {
                ingest.abort().await;
                return Err(error);
            }
            Err(error) => {
                // What is wrong is of no use to anybody; what is only incomplete will be gone on with.
                if error.kind() == Kind::Content {
                    ingest.abort().await;
                }
                return Err(error);
            }
        };
        failures += 1;
        if failures >= TRIES {
            return Err(error);
        }
        tracing::debug!("{error}; trying again");
        tokio::time::sleep(Duration::from_millis(250 << failures)).await;
    }
}

struct Ingest<'a> {
    shared: &'a Shared,
    descriptor: &'a Descriptor,
    name: String,
    lease: String,
}

impl Ingest<'_> {
    async fn attempt(&self, content: &Content, resume: bool, labels: &Labels) -> Result<End> {
        let (mut writer, offset) = match Writer::open(self).await? {
            Ok(opened) => opened,
            Err(refusal) => return self.ended(refusal, 0, false),
        };
        let size = self.descriptor.size;
        // Nothing is left to send if another namespace has it, or if a run was killed before it could commit.
        let start = if resume && offset <= size { offset } else { 0 };
        if start > 0 {
            tracing::debug!("{}: {start} of {size} bytes are there", self.descriptor.digest);
        }
        let mut feed = Feed::open(self.descriptor, content, start).await?;
        let mut position = start;
        let mut piece = feed.next().await.map_err(|e| content.fault(e))?;
        while let Some(data) = piece {
            let length = data.len() as u64;
            writer.send(WriteRequest { offset: number(position)?, data, ..request(WriteAction::Write) }).await;
            position += length;
            // The next piece is fetched and hashed while containerd writes this one.
            let (answer, next) = future::join(writer.answer(self.shared.stall), feed.next()).await;
            match answer? {
                Ok(at) if at == position => piece = next.map_err(|e| content.fault(e))?,
                Ok(at) => {
                    let digest = &self.descriptor.digest;
                    return Err(Error::failed(format!("{digest}: containerd is at byte {at} and not {position}")));
                }
                Err(refusal) => return self.ended(refusal, position - length, start > 0),
            }
        }
        let commit = WriteRequest {
            total: number(size)?,
            expected: self.descriptor.digest.to_string(),
            offset: number(position)?,
            labels: labels.clone(),
            ..request(WriteAction::Commit)
        };
        writer.send(commit).await;
        match writer.answer(PATIENCE).await? {
            Ok(_) => Ok(End::Stored),
            Err(refusal) => self.ended(refusal, position, start > 0),
        }
    }

    fn ended(&self, refusal: Refusal, position: u64, resumed: bool) -> Result<End> {
        let digest = &self.descriptor.digest;
        match refusal.code {
            Code::AlreadyExists => Ok(End::Exists),
            _ if refusal.is_locked() => Ok(End::Locked),
            Code::FailedPrecondition if digest.algorithm() == Algorithm::Sha512 && !resumed => {
                let message = format!("{digest}: this containerd stores only content that is named by its SHA-256");
                Ok(End::Mismatch { error: Error::failed(message).hint("containerd 2 can do it"), resumed })
            }
            Code::FailedPrecondition => {
                let error = refusal.into_error(&format!("{digest} was verified here, but was not what arrived"));
                Ok(End::Mismatch { error, resumed })
            }
            _ if refusal.lost => Ok(End::Lost(refusal.into_error(digest.as_str()), position)),
            _ => Err(refusal.into_error(digest.as_str())),
        }
    }

    /// Makes content that is there already ours: held by the lease, and with our labels. `false` if it has gone.
    async fn adopt(&self, labels: &(dyn Fn(&Labels) -> Labels + Sync)) -> Result<bool> {
        let digest = &self.descriptor.digest;
        leases::hold(self.shared, digest).await?;
        let Some((size, mut present)) = content::info(self.shared, digest).await? else { return Ok(false) };
        if size != self.descriptor.size {
            let message = format!("{digest} has {size} bytes in containerd, not {}", self.descriptor.size);
            return Err(Error::content(message));
        }
        let mut wanted = labels(&present);
        wanted.retain(|name, value| present.remove(name).as_ref() != Some(value));
        content::label(self.shared, digest, wanted).await.map(|()| true)
    }

    /// Waits a little for another writer, as long as it gets on.
    async fn wait(&self) -> Result<()> {
        let (mut since, mut last, mut pause) = (Instant::now(), None, Duration::from_millis(50));
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
            let method = "/containerd.services.content.v1.Content/Status";
            let request = IngestRequest { ingest: self.name.clone() };
            let answer = rpc::call::<_, StatusResponse>(self.shared, method, request, None).await?;
            let Ok(StatusResponse { status: Some(status) }) = answer else { return Ok(()) };
            if last != Some(status.offset) {
                (since, last) = (Instant::now(), Some(status.offset));
                continue;
            }
            // It stands still, perhaps because its writer is no more: the lock tells.
            match Writer::open(self).await? {
                Err(refusal) if refusal.is_locked() => {}
                _ => return Ok(()),
            }
            if since.elapsed() > self.shared.stall {
                let (digest, stall) = (&self.descriptor.digest, self.shared.stall.as_secs());
                return Err(Error::failed(format!("{digest} is being written by another program, without progress"))
                    .hint(format!("it stood still for {stall} s; end that program and try again")));
            }
        }
    }

    /// Best effort: ingests end with their lease too.
    async fn abort(&self) {
        let method = "/containerd.services.content.v1.Content/Abort";
        let request = IngestRequest { ingest: self.name.clone() };
        let _ = rpc::call::<_, Empty>(self.shared, method, request, None).await;
    }
}

fn request(action: WriteAction) -> WriteRequest {
    WriteRequest { action: action.into(), ..WriteRequest::default() }
}

fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::failed(format!("{value} bytes are more than containerd can count")))
}

/// A stream of ours that has the ingest's lock. Dropping it lets go.
struct Writer {
    requests: mpsc::Sender<WriteRequest>,
    answers: Streaming<WriteResponse>,
}

impl Writer {
    /// Opens the ingest; also where its end is.
    async fn open(ingest: &Ingest<'_>) -> Result<Result<(Self, u64), Refusal>> {
        let (requests, mut receiver) = mpsc::channel(1);
        let first = WriteRequest {
            ingest: ingest.name.clone(),
            total: number(ingest.descriptor.size)?,
            expected: ingest.descriptor.digest.to_string(),
            ..request(WriteAction::Stat)
        };
        let mut writer = match requests.try_send(first) {
            Ok(()) => {
                let questions = stream::poll_fn(move |context| receiver.poll_recv(context));
                let method = "/containerd.services.content.v1.Content/Write";
                match rpc::dialog(ingest.shared, method, questions, &ingest.lease, PATIENCE).await? {
                    Ok(answers) => Writer { requests, answers },
                    Err(refusal) => return Ok(Err(refusal)),
                }
            }
            Err(_) => return Err(Error::failed("internal error: a new channel is full")),
        };
        Ok(writer.answer(PATIENCE).await?.map(|offset| (writer, offset)))
    }

    /// If it does not arrive, the answer says why.
    async fn send(&self, request: WriteRequest) {
        let _ = self.requests.send(request).await;
    }

    /// Where the end of the ingest is now.
    async fn answer(&mut self, patience: Duration) -> Result<Result<u64, Refusal>> {
        let answer = match rpc::next(&mut self.answers, patience).await? {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let message = "the stream ended without an answer".to_owned();
                return Ok(Err(Refusal { code: Code::Unavailable, message, lost: true }));
            }
            Err(refusal) => return Ok(Err(refusal)),
        };
        let offset = u64::try_from(answer.offset);
        offset.map(Ok).map_err(|_| Error::content(format!("containerd counts {} bytes", answer.offset)))
    }
}

/// Content in pieces for messages.
struct Feed {
    content: ByteStream,
    /// Came, but is not out yet.
    ahead: BytesMut,
    /// Hashes content that is sent from its beginning; of the rest of an ingest we can only count the bytes.
    verifier: Option<Verifier>,
    digest: String,
    /// Bytes still to come.
    left: u64,
    ended: bool,
}

impl Feed {
    async fn open(descriptor: &Descriptor, content: &Content, start: u64) -> Result<Self> {
        let left = descriptor.size.saturating_sub(start);
        let nothing = start > 0 && left == 0;
        Ok(Feed {
            content: if nothing { Box::pin(stream::empty()) } else { content.open(start).await? },
            ahead: BytesMut::new(),
            verifier: (start == 0).then(|| Verifier::new(descriptor)),
            digest: descriptor.digest.to_string(),
            left,
            ended: false,
        })
    }

    /// The next piece; `None` only if all came, and matched as far as we can tell.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.ahead.len() < PIECE && !self.ended {
            match self.content.next().await.transpose()? {
                Some(bytes) => {
                    let left = self.left.checked_sub(bytes.len() as u64);
                    self.left = left.ok_or_else(|| Error::content(format!("{} is too long", self.digest)))?;
                    if let Some(verifier) = &mut self.verifier {
                        verifier.update(&bytes)?;
                    }
                    self.ahead.extend_from_slice(&bytes);
                }
                None => {
                    self.ended = true;
                    if self.left > 0 {
                        return Err(Error::content(format!("{} ended {} bytes early", self.digest, self.left)));
                    }
                    if let Some(verifier) = self.verifier.take() {
                        verifier.finish()?;
                    }
                }
            }
        }
        let piece = self.ahead.split_to(self.ahead.len().min(PIECE)).freeze();
        Ok((!piece.is_empty()).then_some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;

    #[tokio::test]
    async fn pieces_have_a_limit_and_only_matching_content_ends() {
        let all: Vec<u8> = (0..(PIECE * 2 + 5)).map(|i| (i % 251) as u8).collect();
        let descriptor = Descriptor::new("x", Digest::of(&all), all.len() as u64).unwrap();
        let mut wrong = all.clone();
        wrong[3] ^= 1;
        let long = [&all[..], b"x"].concat();
        let end = all.len() as u64;
        for (content, start, pieces) in [
            (&all[..], 0, Some(&[PIECE, PIECE, 5][..])),
            (&all, 7, Some(&[PIECE, PIECE - 2])),
            (&all, end, Some(&[])),
            (&wrong, 0, None),
            // containerd hashes the whole.
            (&wrong, 7, Some(&[PIECE, PIECE - 2])),
            (&all[..PIECE], 0, None),
            (&all[..PIECE], 7, None),
            (&long, 0, None),
            (&long, 7, None),
        ] {
            for split in [1 << 10, PIECE, usize::MAX] {
                let bytes = Bytes::copy_from_slice(content);
                let content = Content::elsewhere("from", move |offset| {
                    let rest = bytes.slice(offset as usize..);
                    let pieces: Vec<_> = rest.chunks(split).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
                    async move { Ok(Box::pin(stream::iter(pieces)) as ByteStream) }
                });
                let mut feed = Feed::open(&descriptor, &content, start).await.unwrap();
                let mut seen = Vec::new();
                let ended = loop {
                    match feed.next().await {
                        Ok(Some(piece)) => seen.push(piece.len()),
                        Ok(None) => break Some(&seen[..]),
                        Err(error) => {
                            assert_eq!(error.kind(), Kind::Content);
                            break None;
                        }
                    }
                };
                assert_eq!(ended, pieces, "from {start} in pieces of {split}");
            }
        }
    }
}
