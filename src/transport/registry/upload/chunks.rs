//! A blob in pieces: PATCH after PATCH, then a PUT that closes it (distribution-spec, "Pushing a blob in chunks").

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use url::Url;

use super::super::http::{Outcome, Request};
use super::super::retry;
use super::journal::Entry;
use super::{Sent, Session, Upload, count};
use crate::error::{Error, Result};
use crate::transport::ByteStream;

/// Pieces are in memory, so a registry may not ask for any size.
const LARGEST: usize = 64 << 20;

/// Attempts for one piece without progress.
const ATTEMPTS: u32 = 3;

/// Less than this is no progress, or a piece would take for ever.
const PROGRESS: u64 = 64 << 10;

/// Sends what is missing in pieces of `length`, or what the registry says is the least, and closes the session.
pub(super) async fn send(
    upload: &Upload<'_>,
    session: &mut Session,
    length: usize,
    journal: Option<&Entry>,
) -> Result<Sent> {
    let length = length_of(length, session.minimum);
    let mut pieces = Pieces { stream: upload.source.from(session.offset), rest: BytesMut::new(), length };
    while let Some(piece) = pieces.next().await.map_err(|e| e.context(&upload.what))? {
        let end = session.offset + piece.len() as u64;
        match patch(upload, &mut session.url, session.offset, piece).await? {
            Sent::Done => session.offset = end,
            other => return Ok(other),
        }
        session.keep(journal);
    }
    upload.close(session).await
}

/// Bytes of a piece, of which a registry may want at least so many (`OCI-Chunk-Min-Length`).
fn length_of(wanted: usize, minimum: usize) -> usize {
    wanted.max(minimum).clamp(1, LARGEST)
}

/// One piece, or what the registry did not take of it at first.
async fn patch(upload: &Upload<'_>, url: &mut Url, start: u64, piece: Bytes) -> Result<Sent> {
    let end = start + piece.len() as u64;
    let (mut at, mut failures) = (start, 0);
    loop {
        let body = piece.slice((at - start) as usize..);
        let mut request = Request::new(Method::PATCH, url.clone()).bytes(body.clone());
        request.once = true;
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        request.headers.insert(CONTENT_RANGE, range(at, end)?);
        let outcome = upload.send(&request).await?;
        count(upload.shared(), &request.progress, &body);
        let (known, failure) = match outcome {
            Outcome::Success(response) => {
                if let Some(next) = upload.location(response.headers(), url).await? {
                    *url = next;
                }
                // Not every registry says how far it got; the digest will tell.
                let reached = taken(response.headers()).unwrap_or(end);
                // Aliyun counts from the start of the piece (faults.md E10).
                if reached == end || (at > 0 && reached == body.len() as u64) {
                    return Ok(Sent::Done);
                }
                (Some(reached), Sent::Lost(Error::failed(format!("the registry took {reached} of {end} bytes"))))
            }
            Outcome::Refused(refusal) if refusal.status == 416 || retry::is_transient(refusal.status) => {
                let known = taken(&refusal.headers);
                if let Some(next) = upload.location(&refusal.headers, url).await? {
                    *url = next;
                }
                (known, Sent::Refused(refusal))
            }
            Outcome::Refused(refusal) => return Ok(Sent::Refused(refusal)),
            Outcome::Lost(error) => (None, Sent::Lost(error)),
        };
        let reached = match known {
            Some(reached) => reached,
            None => match status(upload, url).await? {
                Some(reached) => reached,
                None => return Ok(failure),
            },
        };
        if reached == end {
            return Ok(Sent::Done);
        }
        // Outside of this piece, the registry's idea of the upload is not ours (faults.md E9, E10).
        if !(at..end).contains(&reached) {
            return Ok(failure);
        }
        failures = if reached >= at + PROGRESS { 0 } else { failures + 1 };
        if failures >= ATTEMPTS {
            return Ok(failure);
        }
        at = reached;
        if failures > 0 {
            tokio::time::sleep(retry::backoff(upload.shared().options.retry_base, failures)).await;
        }
    }
}

/// `FIRST-LAST` of the bytes from `start` up to `end`.
pub(super) fn range(start: u64, end: u64) -> Result<HeaderValue> {
    HeaderValue::try_from(format!("{start}-{}", end.saturating_sub(1))).map_err(|_| Error::failed("a bad range"))
}

/// Asks how much of the upload has arrived.
pub(super) async fn status(upload: &Upload<'_>, url: &mut Url) -> Result<Option<u64>> {
    let request = Request::new(Method::GET, url.clone());
    let Outcome::Success(response) = upload.send(&request).await? else { return Ok(None) };
    if let Some(next) = upload.location(response.headers(), url).await? {
        *url = next;
    }
    Ok(taken(response.headers()))
}

/// Bytes that `Range: 0-LAST` says have arrived; some registries write `bytes=` in front.
pub(in super::super) fn taken(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RANGE)?.to_str().ok()?.trim();
    let value = value.strip_prefix("bytes=").unwrap_or(value);
    let (first, last) = value.split_once('-')?;
    let last: u64 = last.parse().ok().filter(|_| last.bytes().all(|b| b.is_ascii_digit()))?;
    (first == "0").then(|| last.checked_add(1)).flatten()
}

/// Cuts content into pieces of one length.
struct Pieces {
    stream: ByteStream,
    rest: BytesMut,
    length: usize,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        // One byte more than a piece shows that it is not the last, which is given only after all was checked.
        while self.rest.len() <= self.length {
            match self.stream.next().await.transpose()? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None => break,
            }
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.rest.split_to(self.length.min(self.rest.len())).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::super::hashed::Hashed;
    use super::*;
    use crate::oci::descriptor::Descriptor;
    use crate::oci::digest::Digest;
    use crate::transport::Content;

    // faults.md E5
    #[test]
    fn a_registry_that_wants_huge_pieces_does_not_get_them() {
        for (wanted, minimum, length) in
            [(4, 0, 4), (4, 9, 9), (0, 0, 1), (4, LARGEST + 1, LARGEST), (4, usize::MAX, LARGEST)]
        {
            assert_eq!(length_of(wanted, minimum), length, "{wanted} {minimum}");
        }
    }

    #[test]
    fn what_has_arrived() {
        for (value, expected) in [
            ("0-4", Some(5)),
            ("bytes=0-4", Some(5)),
            ("0-0", Some(1)),
            ("0-18446744073709551615", None),
            ("0--1", None),
            ("5-9", None),
            ("0-", None),
            ("0-+4", None),
            ("x", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_static(value));
            assert_eq!(taken(&headers), expected, "{value}");
        }
    }

    #[tokio::test]
    async fn pieces_are_cut_and_the_last_is_checked() {
        let descriptor = Descriptor::new("x", Digest::of(b"hello"), 5).unwrap();
        for (content, length, expected, ok) in [
            (&["hello"][..], 2, &["he", "ll", "o"][..], true),
            (&["h", "ell", "o"], 5, &["hello"], true),
            (&["hello"], 9, &["hello"], true),
            (&["hel", "lx"], 2, &["he"], false),
            (&["hel", "lo", "x"], 2, &["he"], false),
            (&["hel"], 2, &[], false),
        ] {
            let stream = stream::iter(content.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))));
            let source =
                Content::elsewhere("from", move |_| std::future::ready(Ok(stream.clone().boxed() as ByteStream)));
            let stream = Hashed::new(&source, &descriptor).from(0);
            let mut pieces = Pieces { stream, rest: BytesMut::new(), length };
            let mut seen = Vec::new();
            let end = loop {
                match pieces.next().await {
                    Ok(Some(piece)) => seen.push(String::from_utf8(piece.to_vec()).unwrap()),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            assert_eq!((seen, end), (expected.iter().map(|s| s.to_string()).collect(), ok), "{content:?}");
        }
    }
}
