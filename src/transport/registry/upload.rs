//! Blobs on their way to a registry: mounted, sent whole, or in pieces for the registries that want pieces.
//!
//! Source: distribution-spec, "Pushing blobs". Content is hashed as it passes and its last piece is held back until
//! size and digest matched, so that wrong content is never completed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use url::Url;

use super::chunks;
use super::endpoint::Endpoint;
use super::http::{self, Outcome, Request};
use super::origin::{Origin, allow_hop, redacted};
use super::refusal::Refusal;
use super::retry::{self, TRIES};
use super::{Direction, Pushed, Shared, lock};
use crate::blob::Verifier;
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::transport::{ByteStream, Content};

/// Smaller pieces than this are not tried.
const SMALLEST: usize = 256 << 10;

/// Mounts or uploads.
pub(super) async fn push(
    repository: &Endpoint,
    descriptor: &Descriptor,
    content: &Content,
    from: Option<&str>,
) -> Result<Pushed> {
    let repository = repository.clone();
    let what = format!("blob {} to {}", descriptor.digest, repository.name);
    let upload = Upload { scopes: repository.scopes(), repository, descriptor, content, what };
    let mut session = None;
    if let Some(from) = from.filter(|from| *from != upload.repository.name.path) {
        match upload.mount(from).await? {
            Mount::Done => return Ok(Pushed::Mounted),
            Mount::Session(open) => session = Some(open),
            Mount::Refused => {}
        }
    }
    upload.run(session).await.map(|()| Pushed::Uploaded)
}

pub(super) struct Upload<'a> {
    pub(super) repository: Endpoint,
    pub(super) scopes: Vec<String>,
    pub(super) descriptor: &'a Descriptor,
    pub(super) content: &'a Content,
    pub(super) what: String,
}

/// An upload that the registry has opened.
pub(super) struct Session {
    pub(super) url: Url,
    /// `OCI-Chunk-Min-Length`.
    pub(super) minimum: usize,
}

/// How sending the content ended, if not with an error of ours or of the content.
pub(super) enum Sent {
    Done,
    Refused(Box<Refusal>),
    Lost(Error),
}

enum Mount {
    Done,
    Session(Session),
    Refused,
}

impl Upload<'_> {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.repository.client.0
    }

    pub(super) async fn send(&self, request: &Request) -> Result<Outcome<reqwest::Response>> {
        http::send(self.shared(), Some(&self.repository.access(&self.scopes)), request, &self.what).await
    }

    /// Any refusal just means that the content must be sent (faults.md E2).
    async fn mount(&self, from: &str) -> Result<Mount> {
        let mut url = self.repository.url("blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", self.descriptor.digest.as_str()).append_pair("from", from);
        let mut request = Request::new(Method::POST, url.clone()).bytes(Bytes::new());
        request.once = true;
        let mut scopes = self.scopes.clone();
        scopes.push(format!("repository:{from}:pull"));
        let answer = http::send(self.shared(), Some(&self.repository.access(&scopes)), &request, &self.what).await;
        match answer {
            Ok(Outcome::Success(response)) if response.status() == StatusCode::CREATED => Ok(Mount::Done),
            Ok(Outcome::Success(response)) if response.status() == StatusCode::ACCEPTED => {
                self.session(response.headers(), &url).await.map(Mount::Session)
            }
            Err(error) if error.kind() == Kind::RateLimited => Err(error),
            Err(error) => {
                tracing::debug!("{}: no mount from {from}: {error}", self.what);
                Ok(Mount::Refused)
            }
            Ok(_) => Ok(Mount::Refused),
        }
    }

    async fn run(&self, mut session: Option<Session>) -> Result<()> {
        let _permit = self.shared().transfer(&self.repository.home, Direction::Write).await?;
        let (mut failures, mut in_pieces) = (0, false);
        let mut length = self.shared().options.chunk;
        loop {
            let open = match session.take() {
                Some(open) => open,
                None => self.start().await?,
            };
            let sent = if in_pieces { chunks::send(self, &open, length).await } else { self.whole(&open).await };
            let error = match sent {
                Ok(Sent::Done) => return Ok(()),
                Ok(Sent::Refused(refusal)) => {
                    self.cancel(&open).await;
                    let status = refusal.status.as_u16();
                    if matches!(refusal.code.as_str(), "DIGEST_INVALID" | "SIZE_INVALID") {
                        return Err(Error::content(format!(
                            "{}: it was verified here, but the registry got something else{}",
                            self.what,
                            refusal.said()
                        )));
                    }
                    // Some registries refuse a whole blob and take pieces (faults.md E7), proxies limit sizes.
                    if !in_pieces && matches!(status, 400 | 404 | 405 | 411 | 413 | 415 | 416 | 501) {
                        in_pieces = true;
                        tracing::debug!("{}: refused as a whole ({status}), sending pieces", self.what);
                        continue;
                    }
                    // nginx takes 1 MiB unless it is told otherwise.
                    if in_pieces && status == 413 && length > SMALLEST {
                        length /= 4;
                        tracing::debug!("{}: pieces are too large, now of {length} bytes", self.what);
                        continue;
                    }
                    // A session may be lost on the way (faults.md E11).
                    let expired =
                        in_pieces && (status == 404 || status == 416 || refusal.code.starts_with("BLOB_UPLOAD"));
                    if !expired && !retry::is_transient(refusal.status) {
                        return Err(refusal.into_error(&self.what));
                    }
                    refusal.into_error(&self.what)
                }
                Ok(Sent::Lost(error)) => error.context(&self.what),
                Err(error) => {
                    self.cancel(&open).await;
                    return Err(error);
                }
            };
            failures += 1;
            // The answer may have been lost after the blob was stored (faults.md E16).
            if matches!(self.repository.has_blob(self.descriptor).await, Ok(true)) {
                return Ok(());
            }
            if failures >= TRIES {
                return Err(error);
            }
            // A proxy that cuts long requests lets short ones through.
            in_pieces |= failures >= 3;
            tracing::debug!("{error}; starting over");
            tokio::time::sleep(retry::backoff(self.shared().options.retry_base, failures)).await;
        }
    }

    async fn start(&self) -> Result<Session> {
        let url = self.repository.url("blobs/uploads/")?;
        let request = Request::new(Method::POST, url.clone()).bytes(Bytes::new());
        let response = match self.send(&request).await? {
            Outcome::Refused(refusal) if refusal.code == "NAME_UNKNOWN" => {
                return Err(refusal
                    .into_error(&self.what)
                    .hint("create the repository first; this registry does not do it itself"));
            }
            outcome => outcome.into_result(&self.what)?,
        };
        self.session(response.headers(), &url).await
    }

    async fn session(&self, headers: &HeaderMap, request: &Url) -> Result<Session> {
        let url = self
            .location(headers, request)
            .await?
            .ok_or_else(|| Error::failed(format!("{}: the registry does not say where to send it", self.what)))?;
        let minimum = headers.get("oci-chunk-min-length").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Session { url, minimum: minimum.unwrap_or(0) })
    }

    /// Where the upload goes on. Content is as private as credentials: never to another origin (faults.md A12).
    pub(super) async fn location(&self, headers: &HeaderMap, request: &Url) -> Result<Option<Url>> {
        let Some(value) = headers.get(LOCATION) else { return Ok(None) };
        let url = std::str::from_utf8(value.as_bytes())
            .ok()
            .and_then(|text| request.join(text).ok())
            .ok_or_else(|| Error::content(format!("{}: the upload's Location is malformed", self.what)))?;
        allow_hop(request, &url, http::reach(self.shared(), &self.repository.home).await)
            .map_err(|e| e.context(&self.what))?;
        if Origin::of(&url)? != self.repository.home {
            return Err(Error::content(format!(
                "{}: {} wants it sent to another host, {}: refused",
                self.what,
                self.repository.home,
                redacted(&url)
            )));
        }
        Ok(Some(url))
    }

    /// One PUT with everything.
    async fn whole(&self, session: &Session) -> Result<Sent> {
        let size = self.descriptor.size;
        let mut request = Request::new(Method::PUT, with_digest(&session.url, self.descriptor.digest.as_str()));
        request.once = true;
        let verdict = Arc::new(Mutex::new(None));
        if size == 0 {
            // Nothing to hold back: checked before anything is sent.
            read_all(self.content.open(0).await?, Verifier::new(self.descriptor)).await?;
            request = request.bytes(Bytes::new());
        } else {
            let (content, descriptor) = (self.content.clone(), self.descriptor.clone());
            let (shared, progress, verdict) = (self.shared().clone(), request.progress.clone(), verdict.clone());
            request.body = Some(Arc::new(move || {
                let checked = checked(content.open_lazily(0), Verifier::new(&descriptor));
                let (shared, progress, verdict) = (shared.clone(), progress.clone(), verdict.clone());
                reqwest::Body::wrap_stream(checked.inspect(move |piece| match piece {
                    Ok(bytes) => count(&shared, &progress, bytes),
                    Err(error) => *lock(&verdict) = Some(error.clone()),
                }))
            }));
            request.headers.insert(CONTENT_LENGTH, size.into());
        }
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let outcome = self.send(&request).await;
        // The content's own failure says more than the broken connection that it caused.
        if let Some(error) = lock(&verdict).take() {
            return Err(error.context(&self.what));
        }
        Ok(match outcome? {
            Outcome::Success(_) => Sent::Done,
            Outcome::Refused(refusal) => Sent::Refused(refusal),
            Outcome::Lost(error) => Sent::Lost(error),
        })
    }

    /// Best effort: sessions expire by themselves too.
    async fn cancel(&self, session: &Session) {
        let mut request = Request::new(Method::DELETE, session.url.clone());
        request.once = true;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.send(&request)).await;
    }
}

pub(super) fn count(shared: &Shared, progress: &AtomicU64, bytes: &Bytes) {
    progress.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    shared.traffic.uploaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
}

/// The stream, one piece late: the last piece comes out only if everything matched.
fn checked(stream: ByteStream, verifier: Verifier) -> ByteStream {
    let state = (stream, Some(verifier), None::<Bytes>);
    Box::pin(stream::try_unfold(state, |(mut stream, mut verifier, mut held)| async move {
        while let Some(open) = &mut verifier {
            match stream.next().await.transpose()? {
                Some(bytes) if bytes.is_empty() => {}
                Some(bytes) => {
                    open.update(&bytes)?;
                    if let Some(previous) = held.replace(bytes) {
                        return Ok(Some((previous, (stream, verifier, held))));
                    }
                }
                None => {
                    if let Some(verifier) = verifier.take() {
                        verifier.finish()?;
                    }
                }
            }
        }
        Ok(held.take().map(|last| (last, (stream, None, None))))
    }))
}

async fn read_all(mut stream: ByteStream, mut verifier: Verifier) -> Result<()> {
    while let Some(bytes) = stream.next().await.transpose()? {
        verifier.update(&bytes)?;
    }
    verifier.finish()
}

/// `url` with the digest as its last parameter; what the registry put there stays as it is (faults.md E14).
pub(super) fn with_digest(url: &Url, digest: &str) -> Url {
    let mut url = url.clone();
    let query = match url.query() {
        None | Some("") => format!("digest={digest}"),
        Some(query) if url.query_pairs().any(|(name, value)| name == "digest" && value == digest) => query.to_owned(),
        Some(query) => format!("{query}&digest={digest}"),
    };
    url.set_query(Some(&query));
    url
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::oci::digest::Digest;

    #[test]
    fn the_digest_is_added_to_what_is_there() {
        for (location, expected) in [
            ("/v2/a/blobs/uploads/1", "https://r.io/v2/a/blobs/uploads/1?digest=sha256:00"),
            ("/u?", "https://r.io/u?digest=sha256:00"),
            ("/u?_state=a%2Bb=&x", "https://r.io/u?_state=a%2Bb=&x&digest=sha256:00"),
            ("u/2?b=1&a=2", "https://r.io/v2/x/blobs/uploads/u/2?b=1&a=2&digest=sha256:00"),
            ("/u?digest=sha256%3A00", "https://r.io/u?digest=sha256%3A00"),
            ("//r.io:443/u", "https://r.io/u?digest=sha256:00"),
        ] {
            let request = Url::parse("https://r.io/v2/x/blobs/uploads/").unwrap();
            assert_eq!(with_digest(&request.join(location).unwrap(), "sha256:00").as_str(), expected, "{location}");
        }
    }

    #[tokio::test]
    async fn the_last_piece_is_held_back_until_all_matched() {
        let descriptor = Descriptor::new("x", Digest::of(b"hello"), 5).unwrap();
        for (pieces, sent, ok) in [
            (&["hello"][..], "hello", true),
            (&["he", "", "llo"], "hello", true),
            (&["he", "llx"], "he", false),
            (&["he", "ll"], "he", false),
            (&["he", "llo", "!"], "he", false),
            (&["jello"], "", false),
            (&[], "", false),
        ] {
            let stream = Box::pin(stream::iter(pieces.iter().map(|p| Ok(Bytes::from_static(p.as_bytes())))));
            let seen = Mutex::new(String::new());
            let end = checked(stream, Verifier::new(&descriptor))
                .try_for_each(|bytes| {
                    seen.lock().unwrap().push_str(std::str::from_utf8(&bytes).unwrap());
                    std::future::ready(Ok(()))
                })
                .await;
            assert_eq!((seen.into_inner().unwrap().as_str(), end.is_ok()), (sent, ok), "{pieces:?}");
        }
    }
}
