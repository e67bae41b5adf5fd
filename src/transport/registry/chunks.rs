//! A blob in pieces: PATCH after PATCH, then a PUT that closes it (distribution-spec, "Pushing a blob in chunks").

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use url::Url;

use super::http::{Outcome, Request};
use super::retry;
use super::upload::{Sent, Session, Upload, count, with_digest};
use crate::blob::Verifier;
use crate::error::{Error, Result};
use crate::transport::ByteStream;

/// Pieces are in memory, so a registry may not ask for any size.
const LARGEST: usize = 64 << 20;

/// Attempts for one piece without progress.
const ATTEMPTS: u32 = 3;

/// Sends everything in pieces of `length`, or what the registry says is the least, and closes the session.
pub(super) async fn send(upload: &Upload<'_>, session: &Session, length: usize) -> Result<Sent> {
    let length = length.max(session.minimum).clamp(1, LARGEST);
    let mut pieces = Pieces {
        stream: upload.content.open(0).await?,
        verifier: Some(Verifier::new(upload.descriptor)),
        rest: BytesMut::new(),
        length,
    };
    let mut url = session.url.clone();
    let mut start = 0;
    while let Some(piece) = pieces.next().await.map_err(|e| e.context(&upload.what))? {
        let end = start + piece.len() as u64;
        match patch(upload, &mut url, start, piece).await? {
            Sent::Done => start = end,
            other => return Ok(other),
        }
    }
    let mut request =
        Request::new(Method::PUT, with_digest(&url, upload.descriptor.digest.as_str())).bytes(Bytes::new());
    request.once = true;
    request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(match upload.send(&request).await? {
        Outcome::Success(_) => Sent::Done,
        Outcome::Refused(refusal) => Sent::Refused(refusal),
        Outcome::Lost(error) => Sent::Lost(error),
    })
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
        let range = HeaderValue::try_from(format!("{at}-{}", end - 1)).map_err(|_| Error::failed("a bad range"))?;
        request.headers.insert(CONTENT_RANGE, range);
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
        failures = if reached > at { 0 } else { failures + 1 };
        if failures >= ATTEMPTS {
            return Ok(failure);
        }
        at = reached;
        if failures > 0 {
            tokio::time::sleep(retry::backoff(upload.shared().options.retry_base, failures)).await;
        }
    }
}

/// Asks how much of the upload has arrived.
async fn status(upload: &Upload<'_>, url: &mut Url) -> Result<Option<u64>> {
    let request = Request::new(Method::GET, url.clone());
    let Outcome::Success(response) = upload.send(&request).await? else { return Ok(None) };
    if let Some(next) = upload.location(response.headers(), url).await? {
        *url = next;
    }
    Ok(taken(response.headers()))
}

/// Bytes that `Range: 0-LAST` says have arrived; some registries write `bytes=` in front.
fn taken(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RANGE)?.to_str().ok()?.trim();
    let value = value.strip_prefix("bytes=").unwrap_or(value);
    let (first, last) = value.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first == "0").then(|| last.checked_add(1)).flatten()
}

/// Cuts content into pieces of one length; the last one comes out only if everything matched.
struct Pieces {
    stream: ByteStream,
    verifier: Option<Verifier>,
    rest: BytesMut,
    length: usize,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        // One byte more than a piece shows that it is not the last.
        while self.rest.len() <= self.length {
            let Some(verifier) = &mut self.verifier else { break };
            match self.stream.next().await.transpose()? {
                Some(bytes) => {
                    verifier.update(&bytes)?;
                    self.rest.extend_from_slice(&bytes);
                }
                None => {
                    if let Some(verifier) = self.verifier.take() {
                        verifier.finish()?;
                    }
                }
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

    use super::*;
    use crate::oci::descriptor::Descriptor;
    use crate::oci::digest::Digest;

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
            (&["hel", "lx"], 2, &["he", "ll"], false),
            (&["hel", "lo", "x"], 2, &["he", "ll"], false),
            (&["hel"], 2, &["he"], false),
        ] {
            let stream = Box::pin(stream::iter(content.iter().map(|p| Ok(Bytes::from_static(p.as_bytes())))));
            let verifier = Some(Verifier::new(&descriptor));
            let mut pieces = Pieces { stream, verifier, rest: BytesMut::new(), length };
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
