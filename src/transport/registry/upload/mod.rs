//! Blobs on their way to a registry: mounted, sent whole, or in pieces for the registries that want pieces.
//!
//! Source: distribution-spec, "Pushing blobs". Content is hashed as it passes and its last piece is held back until
//! size and digest matched, so that wrong content is never completed. What breaks off goes on where the registry says
//! that it stopped, also in the next run; a registry that does not say gets it from the start.

mod chunks;
mod hashed;
mod journal;
mod session;
mod way;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use url::Url;

#[cfg(fuzzing)]
pub(super) use self::chunks::taken;
pub(super) use self::journal::Journal;
pub(super) use self::session::wait_for_cancels;

use self::hashed::Hashed;
use self::journal::Entry;
use self::session::Session;
use self::way::{After, Way, is_mismatch};
use super::endpoint::Endpoint;
use super::http::{self, Outcome, Request};
use super::origin::{Origin, allow_hop, join, redacted};
use super::refusal::Refusal;
use super::retry::{self, TRIES};
use super::{Direction, Pushed, Shared, lock};
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::transport::Content;

/// What is smaller is sooner sent again than asked for.
const RESUMED: u64 = 4 << 20;

/// Blobs from this size on are gone on with by another run.
const JOURNALED: u64 = 8 << 20;

/// With less to show for, going on is no better than starting over.
const PROGRESS: u64 = 1 << 20;

/// Mounts or uploads.
pub(super) async fn push(
    repository: &Endpoint,
    descriptor: &Descriptor,
    content: &Content,
    from: Option<&str>,
) -> Result<Pushed> {
    let repository = repository.clone();
    let what = format!("blob {} to {}", descriptor.digest, repository.name);
    let source = Hashed::new(content, descriptor);
    let upload = Upload { scopes: repository.scopes(), repository, descriptor, source, what };
    let mut session = None;
    if let Some(from) = from.filter(|from| *from != upload.repository.name.path) {
        match upload.mount(from).await? {
            Mount::Done => return Ok(Pushed::Mounted),
            Mount::Session(open) => session = Some(*open),
            Mount::Refused => {}
        }
    }
    upload.run(session).await.map(|()| Pushed::Uploaded)
}

struct Upload<'a> {
    repository: Endpoint,
    scopes: Vec<String>,
    descriptor: &'a Descriptor,
    source: Hashed,
    what: String,
}

/// How sending the content ended, if not with an error of ours or of the content.
enum Sent {
    Done,
    Refused(Box<Refusal>),
    Lost(Error),
}

enum Mount {
    Done,
    Session(Box<Session>),
    Refused,
}

impl Upload<'_> {
    fn shared(&self) -> &Arc<Shared> {
        &self.repository.client.0
    }

    async fn send(&self, request: &Request) -> Result<Outcome<reqwest::Response>> {
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
                self.session(response.headers(), &url).await.map(|session| Mount::Session(Box::new(session)))
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
        let journal = self.journal();
        if let Some(earlier) = self.earlier(journal.as_ref()).await
            && let Some(mut other) = session.replace(earlier)
        {
            other.cancel().await;
        }
        self.deliver(session, journal.as_ref()).await?;
        if let Some(entry) = journal {
            entry.forget();
        }
        Ok(())
    }

    async fn deliver(&self, mut session: Option<Session>, journal: Option<&Entry>) -> Result<()> {
        let resumes = self.descriptor.size >= RESUMED;
        let mut way = Way { in_pieces: false, length: self.shared().options.chunk, resumes };
        let mut failures = 0;
        loop {
            let mut open = match session.take() {
                Some(open) => open,
                None => self.start().await?,
            };
            let begun = open.offset;
            open.keep(journal);
            let sent = match way.in_pieces {
                true => chunks::send(self, &mut open, way.length, journal).await,
                false => self.whole(&mut open).await,
            };
            let error = match sent {
                Ok(Sent::Done) => {
                    open.ended();
                    return Ok(());
                }
                Ok(Sent::Refused(refusal)) => {
                    let after = way.after(refusal.status, &refusal.code, begun);
                    if !way.resumes || after == After::GiveUp || (begun == 0 && after == After::OtherWay) {
                        self.end(&mut open, journal).await;
                        open.offset = 0;
                    }
                    match after {
                        After::OtherWay => {
                            tracing::debug!("{}: refused ({}){}", self.what, refusal.status, refusal.said());
                            session = if open.offset > 0 { self.reached(open).await } else { None };
                            continue;
                        }
                        After::GiveUp if is_mismatch(&refusal.code) => {
                            return Err(Error::content(format!(
                                "{}: it was verified here, but the registry got something else{}",
                                self.what,
                                refusal.said()
                            )));
                        }
                        After::GiveUp => return Err(refusal.into_error(&self.what)),
                        After::Again => refusal.into_error(&self.what),
                    }
                }
                Ok(Sent::Lost(error)) => error.context(&self.what),
                Err(error) => {
                    // What has arrived is right as long as the content was only cut.
                    if error.kind() == Kind::Content || journal.is_none() {
                        self.end(&mut open, journal).await;
                    }
                    return Err(error);
                }
            };
            failures += 1;
            // The answer may have been lost after the blob was stored (faults.md E16).
            if matches!(self.repository.has_blob(self.descriptor).await, Ok(true)) {
                open.ended();
                return Ok(());
            }
            if failures >= TRIES {
                return Err(error);
            }
            // A proxy that cuts long requests lets short ones through.
            way.in_pieces |= failures >= 3;
            tokio::time::sleep(retry::backoff(self.shared().options.retry_base, failures)).await;
            session = if way.resumes {
                self.reached(open).await
            } else {
                open.abandon();
                None
            };
            let offset = session.as_ref().map_or(0, |open| open.offset);
            if offset >= begun + PROGRESS {
                failures = 0;
            }
            tracing::debug!("{error}; going on at byte {offset}");
        }
    }

    fn journal(&self) -> Option<Entry> {
        let Endpoint { home, name, .. } = &self.repository;
        let large = self.descriptor.size >= JOURNALED;
        large.then(|| self.shared().journal.entry(home, &name.path, &self.descriptor.digest)).flatten()
    }

    /// The session that an earlier run left, if it is still there and worth going on with.
    async fn earlier(&self, journal: Option<&Entry>) -> Option<Session> {
        let entry = journal?;
        let url = entry.session()?;
        let home = Url::parse(&self.repository.home.to_string()).ok()?;
        // A file may say anything: it is held to the same rules as a registry's answer.
        let session = match self.allowed(&home, &url).await {
            Ok(()) => self.reached(Session::journaled(url, &self.repository)).await,
            Err(error) => {
                tracing::debug!("{}: the journal is not followed: {error}", self.what);
                None
            }
        };
        match &session {
            Some(session) => tracing::info!("{}: {} bytes have arrived in an earlier run", self.what, session.offset),
            None => entry.forget(),
        }
        session
    }

    /// The session as the registry knows it; `None` if there is nothing to go on with.
    async fn reached(&self, mut session: Session) -> Option<Session> {
        let offset = chunks::status(self, &mut session.url).await.ok().flatten()?;
        if !(PROGRESS..=self.descriptor.size).contains(&offset) {
            session.cancel().await;
            return None;
        }
        session.offset = offset;
        Some(session)
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
        Ok(Session::opened(url, minimum.unwrap_or(0), &self.repository))
    }

    /// Where the upload goes on. Content is as private as credentials: never to another origin (faults.md A12).
    async fn location(&self, headers: &HeaderMap, request: &Url) -> Result<Option<Url>> {
        let Some(value) = headers.get(LOCATION) else { return Ok(None) };
        let url = join(request, value.as_bytes())
            .ok_or_else(|| Error::content(format!("{}: the upload's Location is malformed", self.what)))?;
        self.allowed(request, &url).await.map(|()| Some(url))
    }

    async fn allowed(&self, request: &Url, url: &Url) -> Result<()> {
        let home = &self.repository.home;
        allow_hop(request, url, http::reach(self.shared(), home).await).map_err(|e| e.context(&self.what))?;
        if Origin::of(url)? != *home {
            let elsewhere = format!("{home} wants it sent to another host, {}: refused", redacted(url));
            return Err(Error::content(format!("{}: {elsewhere}", self.what)));
        }
        Ok(())
    }

    /// One PUT with everything; or one PATCH with the rest, and a PUT that closes the session.
    async fn whole(&self, session: &mut Session) -> Result<Sent> {
        let size = self.descriptor.size;
        if size == session.offset {
            // Nothing to hold back: checked before anything is sent.
            self.source.check().await.map_err(|e| e.context(&self.what))?;
            return self.close(session).await;
        }
        let begun = session.offset;
        let mut request = match begun {
            0 => Request::new(Method::PUT, with_digest(&session.url, self.descriptor.digest.as_str())),
            _ => Request::new(Method::PATCH, session.url.clone()),
        };
        request.once = true;
        let verdict = Arc::new(Mutex::new(None));
        let (source, shared, progress) = (self.source.clone(), self.shared().clone(), request.progress.clone());
        let noted = verdict.clone();
        request.body = Some(Arc::new(move || {
            let (shared, progress, noted) = (shared.clone(), progress.clone(), noted.clone());
            reqwest::Body::wrap_stream(source.from(begun).inspect(move |piece| match piece {
                Ok(bytes) => count(&shared, &progress, bytes),
                Err(error) => *lock(&noted) = Some(error.clone()),
            }))
        }));
        request.headers.insert(CONTENT_LENGTH, (size - begun).into());
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if begun > 0 {
            request.headers.insert(CONTENT_RANGE, chunks::range(begun, size)?);
        }
        let outcome = self.send(&request).await;
        // The content's own failure says more than the broken connection that it caused.
        if let Some(error) = lock(&verdict).take() {
            return Err(error.context(&self.what));
        }
        match outcome? {
            Outcome::Success(_) if begun == 0 => Ok(Sent::Done),
            Outcome::Success(response) => {
                if let Some(next) = self.location(response.headers(), &session.url).await? {
                    session.url = next;
                }
                match chunks::taken(response.headers()) {
                    Some(taken) if taken != size && taken != size - begun => {
                        Ok(Sent::Lost(Error::failed(format!("the registry took {taken} of {size} bytes"))))
                    }
                    _ => self.close(session).await,
                }
            }
            Outcome::Refused(refusal) => Ok(Sent::Refused(refusal)),
            Outcome::Lost(error) => Ok(Sent::Lost(error)),
        }
    }

    /// Closes a session that has everything.
    async fn close(&self, session: &Session) -> Result<Sent> {
        let url = with_digest(&session.url, self.descriptor.digest.as_str());
        let mut request = Request::new(Method::PUT, url).bytes(Bytes::new());
        request.once = true;
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        Ok(match self.send(&request).await? {
            Outcome::Success(_) => Sent::Done,
            Outcome::Refused(refusal) => Sent::Refused(refusal),
            Outcome::Lost(error) => Sent::Lost(error),
        })
    }

    /// Nobody will go on with the session.
    async fn end(&self, session: &mut Session, journal: Option<&Entry>) {
        if let Some(entry) = journal {
            entry.forget();
        }
        session.cancel().await;
    }
}

fn count(shared: &Shared, progress: &AtomicU64, bytes: &Bytes) {
    progress.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    shared.traffic.uploaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
}

/// `url` with the digest as its last parameter; what the registry put there stays as it is (faults.md E14).
fn with_digest(url: &Url, digest: &str) -> Url {
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
    use super::*;

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
}
