//! The private parsers of this module, for the fuzz targets in `tests/fuzz`. It is there with `--cfg fuzzing` only.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RANGE, WWW_AUTHENTICATE};
use url::Url;

use super::challenge::Challenge;
use super::credentials::{self, Entry, Login};
use super::origin::{self, Origin, Reach};
use super::{download, pages, retry, upload};
use crate::error::Result;
use crate::oci::reference::Repository;

pub use reqwest::header;

/// A challenge that can be answered.
#[derive(Debug)]
pub enum Asked {
    /// User name and password.
    Basic,
    /// A token of `realm`.
    Bearer {
        /// The token service.
        realm: Url,
        /// `service`.
        service: Option<String>,
        /// `scope`.
        scope: Option<String>,
    },
}

/// What the values of `WWW-Authenticate` in the answer to `request` ask for.
pub fn challenge(values: &[header::HeaderValue], request: &Url) -> Option<Asked> {
    let headers: HeaderMap = values.iter().map(|value| (WWW_AUTHENTICATE, value.clone())).collect();
    Some(match Challenge::from_headers(&headers, request)? {
        Challenge::Basic => Asked::Basic,
        Challenge::Bearer { realm, service, scope } => Asked::Bearer { realm, service, scope },
    })
}

/// Where a `Location` leads from `base`.
pub fn join(base: &Url, location: &[u8]) -> Option<Url> {
    origin::join(base, location)
}

/// Whether `from`, which the registry at `home` led to, may lead on to `to`.
pub fn allow_hop(from: &Url, to: &Url, home: &Url) -> Result<()> {
    origin::allow_hop(from, to, Origin::of(home)?.reach().unwrap_or(Reach::Public))
}

/// Whether both are one origin, as credentials are bound to it.
pub fn is_same_origin(one: &Url, other: &Url) -> Result<bool> {
    Ok(Origin::of(one)? == Origin::of(other)?)
}

/// Whether the token service at `realm` may have the credentials of the registry at `home`.
pub fn may_have_credentials(home: &Url, realm: &Url, named: &[String]) -> Result<bool> {
    Ok(origin::may_have_credentials(&Origin::of(home)?, &Origin::of(realm)?, named))
}

/// As messages show a URL.
pub fn redacted(url: &Url) -> String {
    origin::redacted(url)
}

/// `Content-Range`: first byte, last byte, and the size of the whole.
pub fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    download::content_range(value)
}

/// Where the body of an answer to the question for what is from `position` on begins; `size` is the blob's.
pub fn start_of(status: u16, headers: &HeaderMap, position: u64, size: u64) -> Result<u64, String> {
    let status = StatusCode::from_u16(status).map_err(|e| e.to_string())?;
    download::start_of(status, headers, position, size)
}

/// How many bytes of an upload `Range` says have arrived.
pub fn taken(value: header::HeaderValue) -> Option<u64> {
    upload::taken(&HeaderMap::from_iter([(RANGE, value)]))
}

/// What `Retry-After` asks for at the time `now`.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    retry::retry_after(value, now)
}

/// Where `Link` says that the next page is.
pub fn next_page(headers: &HeaderMap, request: &Url) -> Result<Option<Url>> {
    pages::next(headers, request)
}

/// The secret that a config file of Docker has for a repository, or the helper to ask.
pub fn docker_config(text: &str, repository: &Repository) -> Result<Option<String>> {
    Ok(credentials::look_up(text, repository)?.map(|entry| match entry {
        Entry::Login(Login::Password { password: secret, .. } | Login::Identity(secret) | Login::Token(secret), _) => {
            secret.expose().to_owned()
        }
        Entry::Helper { helper, .. } => helper,
    }))
}
