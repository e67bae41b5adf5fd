//! Manifests and indexes: read by tag or digest, stored and read back.

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

use super::endpoint::Endpoint;
use super::http::{self, Outcome, Request};
use super::refusal::Refusal;
use super::retry::{self, TRIES};
use super::{Manifest, Stored};
use crate::error::{Error, Kind, Result};
use crate::oci::digest::{Digest, Hasher};
use crate::oci::media_type::MANIFEST_TYPES;
use crate::oci::reference::Target;

/// One GET.
pub(super) async fn fetch(repository: &Endpoint, target: &Target) -> Result<Option<Manifest>> {
    let what = repository.name.image(Some(target));
    let (headers, bytes) = match get(repository, target, None).await? {
        Outcome::Success(answer) => answer,
        Outcome::Refused(refusal) if refusal.status == StatusCode::NOT_FOUND => return Ok(None),
        Outcome::Refused(refusal) => return Err(refusal.into_error(&what)),
        Outcome::Lost(error) => return Err(error.context(&what)),
    };
    let digest = match target {
        Target::Tag(_) => Digest::of(&bytes),
        Target::Digest(digest) => {
            let computed = digest_like(digest, &bytes);
            if computed != *digest {
                return Err(Error::content(format!("{what}: the registry sent other content, {computed}")));
            }
            computed
        }
    };
    if bytes.trim_ascii_start().starts_with(b"<") {
        // A captive portal, or a login page (faults.md B23).
        return Err(Error::content(format!("{what}: the answer is a web page and no manifest"))
            .hint("check that this is a registry, and that no proxy or login page is in between"));
    }
    // So many registries get this header wrong that it cannot be an error (faults.md B15).
    if let Some(said) = header_digest(&headers)
        && said != digest_like(&said, &bytes)
    {
        tracing::warn!("{what}: the registry says that this is {said}, but it is {digest}");
    }
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Ok(Some(Manifest { media_type, digest, bytes }))
}

/// Stores a manifest and reads it back by its digest. If that fails after a tag has moved, or may have, the error says what
/// it names now. Whoever moves it after us does no harm: registries have no compare-and-set (faults.md E21).
pub(super) async fn push(repository: &Endpoint, target: &Target, media_type: &str, bytes: Bytes) -> Result<Stored> {
    let shared = &repository.client.0;
    let what = repository.name.image(Some(target));
    shared.options.limits.check_document(bytes.len() as u64, &what)?;
    let digest = match target {
        Target::Tag(_) => Digest::of(&bytes),
        Target::Digest(digest) => digest_like(digest, &bytes),
    };
    if matches!(target, Target::Digest(named) if *named != digest) {
        return Err(Error::content(format!("{what}: the manifest to store is {digest}")));
    }
    let mut request = Request::new(Method::PUT, repository.url(&format!("manifests/{target}"))?).bytes(bytes.clone());
    let content_type = HeaderValue::try_from(media_type)
        .map_err(|_| Error::content(format!("{what}: '{media_type}' is not a media type")))?;
    request.headers.insert(CONTENT_TYPE, content_type);
    let scopes = repository.scopes();
    let mut failures = 0;
    loop {
        let access = repository.access(&scopes);
        let limit = shared.options.limits.document();
        let refusal = match http::fetch_small(shared, Some(&access), &request, limit, &what).await? {
            Outcome::Success((headers, _)) => {
                let said = header_digest(&headers).filter(|said| said.algorithm() == digest.algorithm());
                let stored = match said.filter(|said| *said != digest) {
                    Some(other) => {
                        Err(Error::content(format!("{what}: the registry says that it stored {other}, not {digest}")))
                    }
                    None => read_back(repository, &digest, media_type, &bytes).await,
                };
                return match stored {
                    Ok(()) => Ok(Stored::Stored),
                    Err(error) => Err(with_state(error, &now(repository, target).await)),
                };
            }
            Outcome::Refused(refusal) => refusal,
            Outcome::Lost(error) => return unanswered(repository, target, &bytes, error.context(what)).await,
        };
        let unknown = matches!(refusal.code.as_str(), "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN" | "MANIFEST_UNKNOWN");
        // distribution 2 cannot read a link that another client writes at this moment, and says this.
        let torn = refusal.code == "DIGEST_INVALID";
        failures += 1;
        if !(unknown || torn) || (torn && failures >= 3) {
            return refused(repository, target, &bytes, refusal).await;
        }
        // Replicas may lag (faults.md E18).
        if failures >= 3 {
            return Ok(Stored::BlobUnknown(refusal.into_error(&what)));
        }
        tokio::time::sleep(retry::backoff(shared.options.retry_base * 4, failures)).await;
    }
}

/// What a refusal means: a tag that cannot move may already be where it should (faults.md E20).
async fn refused(repository: &Endpoint, target: &Target, bytes: &Bytes, refusal: Box<Refusal>) -> Result<Stored> {
    let what = repository.name.image(Some(target));
    if refusal.code == "NAME_UNKNOWN" {
        return Err(refusal.into_error(&what).hint("create the repository first; this registry does not do it itself"));
    }
    if let Target::Tag(_) = target
        && matches!(refusal.status.as_u16(), 400 | 403 | 405 | 409 | 412)
        && let Ok(Some(there)) = fetch(repository, target).await
    {
        if there.bytes == *bytes {
            return Ok(Stored::Stored);
        }
        let said = refusal.said();
        let lower = said.to_ascii_lowercase();
        if matches!(refusal.status.as_u16(), 409 | 412)
            || ["immutable", "already exist", "tag_invalid", "redeploy", "overwrite"].iter().any(|w| lower.contains(w))
        {
            return Err(Error::new(
                Kind::DestinationRefused,
                format!("{what} is {} and the registry does not let it move{said}", there.digest),
            )
            .hint("choose another tag"));
        }
    }
    if retry::is_transient(refusal.status) {
        return unanswered(repository, target, bytes, refusal.into_error(&what)).await;
    }
    Err(refusal.into_error(&what))
}

/// The registry may have taken a manifest although its answer was lost (faults.md E16).
async fn unanswered(repository: &Endpoint, target: &Target, bytes: &Bytes, error: Error) -> Result<Stored> {
    match now(repository, target).await {
        Some(Ok(Some(there))) if there.bytes == *bytes => Ok(Stored::Stored),
        now => Err(with_state(error, &now)),
    }
}

/// What a tag names now.
async fn now(repository: &Endpoint, target: &Target) -> Option<Result<Option<Manifest>>> {
    match target {
        Target::Tag(_) => Some(fetch(repository, target).await),
        Target::Digest(_) => None,
    }
}

/// `error`, and what the tag names that was to move.
fn with_state(error: Error, now: &Option<Result<Option<Manifest>>>) -> Error {
    let state = match now {
        None => return error,
        Some(Ok(Some(there))) => format!("the tag names {} now", there.digest),
        Some(Ok(None)) => "there is no such tag".to_owned(),
        Some(Err(_)) => "whether the tag has moved is not known".to_owned(),
    };
    let hint = error.hint_text().unwrap_or("look at it with capatch verify, and run the command again").to_owned();
    Error::new(error.kind(), format!("{error}; {state}")).hint(hint)
}

/// Registries must store the exact bytes; not all do (faults.md E24).
async fn read_back(repository: &Endpoint, digest: &Digest, media_type: &str, bytes: &Bytes) -> Result<()> {
    let target = Target::Digest(digest.clone());
    let what = repository.name.image(Some(&target));
    let mut failures = 0;
    loop {
        match get(repository, &target, Some(media_type)).await? {
            Outcome::Success((_, stored)) if stored == *bytes => return Ok(()),
            // One answer may be damaged on its way.
            Outcome::Success(_) if failures + 1 < TRIES => failures += 1,
            Outcome::Success(_) => {
                return Err(Error::content(format!(
                    "{what}: the registry does not give back the bytes that it was sent"
                )));
            }
            Outcome::Refused(refusal) if refusal.status == StatusCode::NOT_FOUND => {
                failures += 1;
                if failures >= TRIES {
                    return Err(Error::failed(format!("{what}: the registry took the manifest and does not have it")));
                }
            }
            Outcome::Refused(refusal) if matches!(refusal.status.as_u16(), 401 | 403) => {
                tracing::warn!("{what}: stored, but may not be read back{}", refusal.said());
                return Ok(());
            }
            Outcome::Refused(refusal) => return Err(refusal.into_error(&what)),
            Outcome::Lost(error) => return Err(error.context(what)),
        }
        tokio::time::sleep(retry::backoff(repository.client.0.options.retry_base, failures)).await;
    }
}

async fn get(repository: &Endpoint, target: &Target, media_type: Option<&str>) -> Result<Outcome<(HeaderMap, Bytes)>> {
    let mut request = Request::new(Method::GET, repository.url(&format!("manifests/{target}"))?);
    let mut types = MANIFEST_TYPES.to_vec();
    types.extend(media_type.filter(|other| !MANIFEST_TYPES.contains(other)));
    let accept = HeaderValue::try_from(types.join(", "))
        .map_err(|_| Error::content(format!("'{}' is not a media type", media_type.unwrap_or_default())))?;
    request.headers.insert(ACCEPT, accept);
    let scopes = repository.scopes();
    let what = repository.name.image(Some(target));
    let shared = &repository.client.0;
    let limit = shared.options.limits.document();
    http::fetch_small(shared, Some(&repository.access(&scopes)), &request, limit, &what).await
}

/// The digest of `bytes` with the algorithm of `other`.
fn digest_like(other: &Digest, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(other.algorithm());
    hasher.update(bytes);
    hasher.finish()
}

fn header_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
