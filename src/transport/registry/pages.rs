//! Lists that come in pages: tags, and what refers to a manifest (distribution-spec, "Content discovery").

use std::collections::HashSet;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LINK};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::endpoint::Endpoint;
use super::http::{self, Outcome, Request};
use super::manifest;
use super::origin::{Origin, allow_hop, join, redacted};
use super::refusal::Refusal;
use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::json::Object;
use crate::oci::media_type::{self, Family, Kind, OCI_INDEX};
use crate::oci::reference::{Target, is_tag};

/// Bytes that a page counts beside its own, so that empty ones come to an end too (faults.md §5).
const PAGE: u64 = 16 << 10;

/// All tags, in the registry's order. What cannot be a tag is left out: some registries list digests too.
pub(super) async fn tags(repository: &Endpoint) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        // Harbor and Nexus write null for none, Nexus in the list too.
        tags: Option<Vec<Option<String>>>,
    }
    let what = format!("tags of {}", repository.name);
    let first = Request::new(Method::GET, repository.url("tags/list")?);
    let mut tags = Vec::new();
    let mut seen = HashSet::new();
    let limit = repository.client.0.options.limits.documents();
    let refused = walk(repository, first, limit, &what, |_, body| {
        let page: Page =
            serde_json::from_slice(body).map_err(|e| Error::content(format!("{what}: malformed answer: {e}")))?;
        let all = page.tags.into_iter().flatten().flatten();
        tags.extend(all.filter(|tag| is_tag(tag) && seen.insert(tag.clone())));
        Ok(true)
    })
    .await?;
    match refused {
        None => Ok(tags),
        Some(refusal) => Err(refusal.into_error(&what)),
    }
}

/// What refers to a manifest: by the API, or by the tag that stands in for it.
pub(super) async fn referrers(repository: &Endpoint, subject: &Digest) -> Result<Vec<Descriptor>> {
    let what = format!("referrers of {}@{subject}", repository.name);
    let mut first = Request::new(Method::GET, repository.url(&format!("referrers/{subject}"))?);
    first.headers.insert(ACCEPT, HeaderValue::from_static(OCI_INDEX));
    let mut found = Vec::new();
    let mut answered = true;
    let limit = repository.client.0.options.limits.document();
    let refused = walk(repository, first, limit, &what, |headers, body| {
        // Some registries answer with a web page, or with nothing (faults.md E26).
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let nothing = found.is_empty() && body.trim_ascii().is_empty();
        answered = media_type::kind(content_type) == Kind::Index(Family::Oci) && !nothing;
        if answered {
            found.extend(entries(body).map_err(|e| e.context(&what))?);
        }
        Ok(answered)
    })
    .await?;
    match refused {
        None if answered => return Ok(found),
        Some(refusal) if !refusal.status.is_client_error() && refusal.status != StatusCode::NOT_IMPLEMENTED => {
            return Err(refusal.into_error(&what));
        }
        _ => {}
    }
    let hex = subject.hex();
    let tag = format!("{}-{}", subject.algorithm().name(), &hex[..hex.len().min(64)]);
    match manifest::fetch(repository, &Target::Tag(tag)).await? {
        // GitLab resolves this tag to the subject itself.
        Some(index) if media_type::kind(&index.media_type) == Kind::Index(Family::Oci) => {
            entries(&index.bytes).map_err(|e| e.context(what))
        }
        _ => Ok(Vec::new()),
    }
}

fn entries(index: &[u8]) -> Result<Vec<Descriptor>> {
    let entries: Vec<Object> = Object::parse(index)?.get("manifests")?.unwrap_or_default();
    entries.into_iter().map(Descriptor::from_object).collect()
}

/// Gives page after page to `page`, until there is no more or it wants no more; refuses more than `limit` bytes. Returns a
/// refusal as it came.
async fn walk(
    repository: &Endpoint,
    mut request: Request,
    limit: u64,
    what: &str,
    mut page: impl FnMut(&HeaderMap, &Bytes) -> Result<bool>,
) -> Result<Option<Box<Refusal>>> {
    let shared = &repository.client.0;
    let scopes = repository.scopes();
    let limits = shared.options.limits;
    let mut seen = HashSet::new();
    let mut total = 0;
    while seen.insert(request.url.clone()) {
        if total > limit {
            let said = format!("{what}: {} pages have {total} bytes, counting {PAGE} more for each", seen.len() - 1);
            return Err(limits.too_large(said, limit));
        }
        let access = repository.access(&scopes);
        let (headers, body) = match http::fetch_small(shared, Some(&access), &request, limits.document(), what).await? {
            Outcome::Success(answer) => answer,
            Outcome::Refused(refusal) => return Ok(Some(refusal)),
            Outcome::Lost(error) => return Err(error.context(what)),
        };
        total += body.len() as u64 + PAGE;
        if !page(&headers, &body)? {
            return Ok(None);
        }
        let Some(next) = next(&headers, &request.url).map_err(|e| e.context(what))? else { return Ok(None) };
        allow_hop(&request.url, &next, http::reach(shared, &repository.home).await).map_err(|e| e.context(what))?;
        if Origin::of(&next)? != repository.home {
            return Err(Error::content(format!("{what}: goes on at another host, {}: refused", redacted(&next))));
        }
        request.url = next;
    }
    Err(Error::content(format!("{what}: the pages go in a circle")))
}

/// Where the next page is: `Link: <URL>; rel="next"` (RFC 8288). What may name it and cannot be read is an error: without it
/// the list would end too soon.
pub(super) fn next(headers: &HeaderMap, request: &Url) -> Result<Option<Url>> {
    for value in headers.get_all(LINK) {
        let malformed = || Error::content(format!("malformed Link: {}", String::from_utf8_lossy(value.as_bytes())));
        let mut links = split_unquoted(value.as_bytes(), b"<");
        if links.next().is_some_and(|before| !before.trim_ascii().is_empty()) {
            return Err(malformed());
        }
        for link in links {
            let end = link.iter().position(|byte| *byte == b'>').ok_or_else(malformed)?;
            let (target, parameters) = link.split_at(end);
            if split_unquoted(parameters, b">;,").any(is_rel_next) {
                return join(request, target).map(Some).ok_or_else(malformed);
            }
        }
    }
    Ok(None)
}

/// Whether a parameter of a link has `next` in its list of relations, whatever its case (RFC 8288 §3.3).
fn is_rel_next(parameter: &[u8]) -> bool {
    String::from_utf8_lossy(parameter).split_once('=').is_some_and(|(name, value)| {
        name.trim().eq_ignore_ascii_case("rel")
            && value.trim().trim_matches('"').split_ascii_whitespace().any(|r| r.eq_ignore_ascii_case("next"))
    })
}

/// What is between the `separators` that are in no quoted string.
fn split_unquoted<'a>(text: &'a [u8], separators: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut quoted = false;
    text.split(move |byte| {
        quoted ^= *byte == b'"';
        !quoted && separators.contains(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_next_page() {
        for (value, expected) in [
            (&b"</v2/a/tags/list?last=x&n=2>; rel=\"next\""[..], Ok("https://r.io/v2/a/tags/list?last=x&n=2")),
            (b"<https://r.io/x>;rel=next", Ok("https://r.io/x")),
            (b"<tags/list?last=x>; title=\"a\"; REL=Next", Ok("https://r.io/v2/a/tags/tags/list?last=x")),
            (b"</a>; rel=prev, </b>; rel=\"next\"", Ok("https://r.io/b")),
            (b"</b>; rel=\"prev next\"", Ok("https://r.io/b")),
            (b"</b>; rel=\" NEXT  last\"", Ok("https://r.io/b")),
            (b"</a>; title=\"<, rel=next\"; rel=prev, </b>; rel=next", Ok("https://r.io/b")),
            (b"</b?n=\xe9>; rel=\"next\"", Ok("https://r.io/b?n=%E9")),
            (b"</a>; rel=prev", Ok("")),
            (b"</a>; rel=\"prev nextish\"", Ok("")),
            (b"</a>", Ok("")),
            (b"", Ok("")),
            (b"<http://[>; rel=prev", Ok("")),
            (b"<http://[>; rel=next", Err("malformed Link: <http://[>; rel=next")),
            (b"/a; rel=next", Err("malformed Link: /a; rel=next")),
            (b"</a; rel=next", Err("malformed Link: </a; rel=next")),
            (b"</a>; rel=prev, </b; rel=next", Err("malformed Link: </a>; rel=prev, </b; rel=next")),
        ] {
            let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_bytes(value).unwrap())]);
            let request = Url::parse("https://r.io/v2/a/tags/list").unwrap();
            let found = next(&headers, &request).map_err(|e| e.to_string());
            let found = found.as_ref().map(|next| next.as_ref().map_or("", Url::as_str)).map_err(String::as_str);
            assert_eq!(found, expected);
        }
    }
}
