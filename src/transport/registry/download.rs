//! Blob content, kept flowing over broken connections: resumed by `Range`, never appended blindly.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::stream;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use super::endpoint::Endpoint;
use super::http::{self, Outcome, Request};
use super::retry::{self, TRIES};
use super::{Direction, Shared, lock};
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Digest, Hasher};
use crate::transport::ByteStream;

/// Opens a blob at `offset`, at the first of `endpoints` that has it.
pub(super) async fn open(endpoints: Vec<Endpoint>, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
    if offset > descriptor.size {
        return Err(Error::failed(format!("{} has no byte {offset}", descriptor.digest)));
    }
    let mut others: VecDeque<Endpoint> = endpoints.into();
    let first = others.pop_front().ok_or_else(|| Error::failed("there is nobody to ask"))?.settled().await?;
    let mut download = Download {
        url: first.url(&format!("blobs/{}", descriptor.digest))?,
        what: format!("blob {} of {}", descriptor.digest, first.name),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        position: offset,
        current: None,
        permit: None,
        skip: 0,
        ranges: true,
        failures: 0,
        sum: None,
        mirrors: Vec::new(),
        repository: first,
        others,
    };
    let mirrored = download.repository.settings.mirror || !download.wrong().is_empty();
    if mirrored && offset == 0 {
        download.sum = Some(Hasher::new(descriptor.digest.algorithm()));
    }
    // An empty blob is not asked for; its digest says all there is to know.
    while download.position < download.size {
        match download.reopen().await {
            Ok(()) => break,
            Err(error) => download.go_elsewhere(error).await?,
        }
    }
    Ok(Box::pin(stream::try_unfold(download, |mut download| async move {
        loop {
            match download.next().await {
                Ok(piece) => return Ok(piece.map(|bytes| (bytes, download))),
                Err(error) => download.go_elsewhere(error).await?,
            }
        }
    })))
}

struct Download {
    repository: Endpoint,
    /// Who is asked if this one cannot go on.
    others: VecDeque<Endpoint>,
    url: Url,
    what: String,
    digest: Digest,
    size: u64,
    /// What the consumer has.
    position: u64,
    current: Option<Response>,
    /// Held until the last byte.
    permit: Option<OwnedSemaphorePermit>,
    /// What the current answer will repeat.
    skip: u64,
    /// Off once the server has shown that its ranges cannot be relied on.
    ranges: bool,
    /// Attempts since the last byte.
    failures: u32,
    /// Where mirrors have a part in it and it is read from its start: whoever consumes it hashes it too, but cannot tell who
    /// is to blame.
    sum: Option<Hasher>,
    /// The mirrors that gave bytes of it.
    mirrors: Vec<String>,
}

impl Download {
    fn shared(&self) -> &Arc<Shared> {
        &self.repository.client.0
    }

    /// The rest from the next place; `error` if there is none.
    async fn go_elsewhere(&mut self, error: Error) -> Result<()> {
        let Some(next) = self.others.pop_front() else { return Err(error) };
        super::passed_over(&self.repository, &error);
        self.repository = next.settled().await?;
        self.url = self.repository.url(&format!("blobs/{}", self.digest))?;
        self.what = format!("blob {} of {}", self.digest, self.repository.name);
        (self.current, self.skip, self.ranges, self.failures) = (None, 0, true, 0);
        self.permit = None;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.position == self.size {
                return self.refuse_more().await;
            }
            let Some(response) = &mut self.current else {
                self.reopen().await?;
                continue;
            };
            let broken = match http::read_chunk(&self.repository.client.0, response).await {
                Ok(Some(mut bytes)) => {
                    let repeated = self.skip.min(bytes.len() as u64);
                    bytes.advance(repeated as usize);
                    self.skip -= repeated;
                    if bytes.is_empty() {
                        continue;
                    }
                    if bytes.len() as u64 > self.size - self.position {
                        return Err(self.too_long());
                    }
                    self.position += bytes.len() as u64;
                    self.failures = 0;
                    self.check(&bytes)?;
                    if self.position == self.size {
                        self.permit = None;
                    }
                    return Ok(Some(bytes));
                }
                // A body without a length ends cleanly wherever it is cut (faults.md B2).
                Ok(None) => Error::failed(format!("the answer ended after {} of {} bytes", self.position, self.size)),
                Err(error) => error,
            };
            self.current = None;
            self.failed(broken).await?;
        }
    }

    /// Hashes what arrives. Mirrors that had a part in other content are not asked again, and the next attempt does without
    /// them (faults.md B14).
    fn check(&mut self, bytes: &Bytes) -> Result<()> {
        let Some(sum) = &mut self.sum else { return Ok(()) };
        sum.update(bytes);
        let host = self.repository.home.host_port();
        if self.repository.settings.mirror && !self.mirrors.contains(&host) {
            self.mirrors.push(host.clone());
        }
        if self.position < self.size || sum.clone().finish() == self.digest {
            return Ok(());
        }
        // What was passed on cannot be taken back.
        self.others.clear();
        if self.mirrors.is_empty() {
            let wrong = self.wrong().join(" and ");
            let too = if wrong.is_empty() { wrong } else { format!(", and so did the mirror {wrong}") };
            return Err(Error::content(format!("{}: {host} gave other content{too}", self.what)));
        }
        let error =
            Error::content(format!("{}: the mirror {} gave other content", self.what, self.mirrors.join(" or ")))
                .hint("take the mirror out of registries.conf or hosts.toml");
        tracing::warn!("{error}; asking others");
        let shared = self.shared();
        for mirror in &self.mirrors {
            lock(&shared.unreachable).insert(mirror.clone());
            lock(&shared.wrong).insert((self.digest.clone(), mirror.clone()));
        }
        Err(error.retryable())
    }

    /// The mirrors that gave other content for this digest before, sorted.
    fn wrong(&self) -> Vec<String> {
        let wrong = lock(&self.shared().wrong);
        let mut hosts: Vec<String> =
            wrong.iter().filter(|(digest, _)| *digest == self.digest).map(|(_, host)| host.clone()).collect();
        hosts.sort();
        hosts
    }

    /// Counts an attempt without progress and waits, or gives up.
    async fn failed(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        if self.failures >= if self.others.is_empty() { TRIES } else { 2 } {
            return Err(error.context(&self.what));
        }
        tracing::debug!("{}: {error}; resuming at {}", self.what, self.position);
        tokio::time::sleep(retry::backoff(self.shared().options.retry_base, self.failures)).await;
        Ok(())
    }

    /// After the last byte there must be none (faults.md B13).
    async fn refuse_more(&mut self) -> Result<Option<Bytes>> {
        if let Some(mut response) = self.current.take()
            // A body of known length was compared with the size before.
            && response.content_length().is_none()
            && let Ok(Some(more)) = http::read_chunk(self.shared(), &mut response).await
            && !more.is_empty()
        {
            return Err(self.too_long());
        }
        Ok(None)
    }

    fn too_long(&self) -> Error {
        Error::content(format!("{}: the registry sends more than its {} bytes", self.what, self.size))
    }

    async fn reopen(&mut self) -> Result<()> {
        if self.permit.is_none() {
            self.permit = Some(self.shared().transfer(&self.repository.home, Direction::Read).await?);
        }
        loop {
            let mut request = Request::new(Method::GET, self.url.clone());
            let ranged = self.ranges && self.position > 0;
            if ranged {
                // Closed, because some registries answer 416 to an open one (faults.md B8).
                let range = format!("bytes={}-{}", self.position, self.size - 1);
                let value = HeaderValue::try_from(range).map_err(|_| Error::failed("a range is not a header"))?;
                request.headers.insert(RANGE, value);
            }
            let scopes = self.repository.scopes();
            let access = self.repository.access(&scopes);
            let response = match http::send(self.shared(), Some(&access), &request, &self.what).await? {
                Outcome::Success(response) => response,
                Outcome::Refused(refusal) if refusal.status == StatusCode::RANGE_NOT_SATISFIABLE && ranged => {
                    self.ranges = false;
                    continue;
                }
                Outcome::Refused(refusal) => return Err(refusal.into_error(&self.what)),
                Outcome::Lost(error) => return Err(error.context(&self.what)),
            };
            let skip = match start_of(response.status(), response.headers(), self.position, self.size) {
                Ok(start) => self.position - start,
                Err(why) if ranged => {
                    // Not to be trusted with ranges: take it all, drop what the consumer has (faults.md B4–B7).
                    tracing::debug!("{}: {why}; starting over", self.what);
                    self.ranges = false;
                    continue;
                }
                Err(why) => return Err(Error::new(Kind::Content, format!("{}: {why}", self.what))),
            };
            (self.skip, self.current) = (skip, Some(response));
            return Ok(());
        }
    }
}

/// Where the body of an answer begins, given that we want what is from `position` on: there, or at 0.
pub(super) fn start_of(status: StatusCode, headers: &HeaderMap, position: u64, size: u64) -> Result<u64, String> {
    let start = match status {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT => {
            let mut values = headers.get_all(CONTENT_RANGE).iter();
            let (Some(value), None) = (values.next(), values.next()) else {
                return Err("a partial answer without exactly one Content-Range".into());
            };
            let range = value.to_str().ok().and_then(content_range);
            match range {
                Some((first, last, total))
                    if first == position && last < size && total.is_none_or(|total| total == size) =>
                {
                    first
                }
                _ => return Err(format!("asked for bytes {position} to {} and got {value:?}", size - 1)),
            }
        }
        status => return Err(format!("the unexpected answer {status}")),
    };
    let length = match headers.get(CONTENT_LENGTH) {
        None => return Ok(start),
        Some(value) => value.to_str().ok().and_then(|v| v.parse::<u64>().ok()),
    };
    let whole = length == Some(size - start);
    // A part may end early, then the rest is asked for (faults.md B6).
    if whole || (status == StatusCode::PARTIAL_CONTENT && length.is_some_and(|length| length < size - start)) {
        return Ok(start);
    }
    // The bytes as sent decide. A label alone does no harm, real encoding changes the length (faults.md B10).
    let encoding = match headers.get(CONTENT_ENCODING) {
        Some(encoding) => format!(" (Content-Encoding: {})", String::from_utf8_lossy(encoding.as_bytes())),
        None => String::new(),
    };
    Err(format!(
        "the registry wants to send {} bytes{encoding}, the descriptor says {}",
        length.map_or("an unknown number of".to_owned(), |length| length.to_string()),
        size - start
    ))
}

/// `bytes FIRST-LAST/TOTAL`, strictly; the total may be `*`.
pub(super) fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u64>().ok()).flatten()
    };
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        for (value, expected) in [
            ("bytes 5-9/10", Some((5, 9, Some(10)))),
            ("bytes 0-0/1", Some((0, 0, Some(1)))),
            ("bytes 5-9/*", Some((5, 9, None))),
            ("bytes 5-4/10", None),
            ("bytes 5-10/10", None),
            ("bytes */10", None),
            ("bytes=5-9/10", None),
            ("Bytes 5-9/10", None),
            ("bytes 5-9", None),
            ("bytes  5-9/10", None),
            ("bytes +5-9/10", None),
            ("bytes -5-9/10", None),
            ("bytes 5-9/10/10", None),
            ("bytes 5-99999999999999999999/*", None),
            ("items 5-9/10", None),
            ("", None),
        ] {
            assert_eq!(content_range(value), expected, "{value}");
        }
    }

    #[test]
    fn answers_begin_where_they_should() {
        type Case = (u16, &'static [(&'static str, &'static str)], u64, Option<u64>);
        let cases: [Case; 16] = [
            (200, &[], 0, Some(0)),
            (200, &[("content-length", "10")], 0, Some(0)),
            (200, &[("content-length", "10")], 5, Some(0)),
            (200, &[("content-length", "9")], 0, None),
            (200, &[("content-length", "11")], 0, None),
            (200, &[("content-length", "10"), ("content-encoding", "gzip")], 0, Some(0)),
            (206, &[("content-range", "bytes 5-9/10"), ("content-length", "5")], 5, Some(5)),
            (206, &[("content-range", "bytes 5-7/10"), ("content-length", "3")], 5, Some(5)),
            (206, &[("content-range", "bytes 0-9/10")], 5, None),
            (206, &[("content-range", "bytes 6-9/10")], 5, None),
            (206, &[("content-range", "bytes 5-9/11")], 5, None),
            (206, &[("content-range", "bytes 5-10/*")], 5, None),
            (206, &[("content-range", "bytes 5-9/10"), ("content-range", "bytes 5-9/10")], 5, None),
            (206, &[("content-range", "bytes 5-9/10"), ("content-length", "6")], 5, None),
            (206, &[("content-type", "multipart/byteranges; boundary=x")], 5, None),
            (204, &[], 0, None),
        ];
        for (status, headers, position, expected) in cases {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            let start = start_of(StatusCode::from_u16(status).unwrap(), &map, position, 10);
            assert_eq!(start.ok(), expected, "{status} {headers:?} at {position}");
        }
    }
}
