//! One host that is asked about one repository: the registry, or a mirror of it.

use std::sync::Arc;

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, StatusCode};
use url::Url;

use super::auth::Access;
use super::http::{self, Outcome, Request};
use super::mirrors::{Settings, Source, Tls};
use super::origin::Origin;
use super::{Client, home, lock, network};
use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::reference;

/// A repository at a host.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) client: Client,
    /// What it is called there.
    pub(super) name: reference::Repository,
    pub(super) home: Origin,
    pub(super) settings: Arc<Settings>,
    actions: &'static str,
}

impl Endpoint {
    /// The endpoint of `source`; `actions` are what tokens are asked for.
    pub(super) fn new(client: &Client, source: Source, actions: &'static str) -> Result<Self> {
        let Source { name, settings } = source;
        let home = match &settings.origin {
            Some(origin) => origin.clone(),
            None => home(&client.0.options, &name.registry, settings.tls != Tls::default())?,
        };
        Ok(Endpoint { client: client.clone(), name, home, settings, actions })
    }

    /// The same, with the scheme that the host really speaks if the user allows both.
    pub(super) async fn settled(mut self) -> Result<Self> {
        let shared = &self.client.0;
        if self.settings.tls != Tls::default() {
            // A file of certificates that cannot be read is no failure of a mirror, to be passed over.
            shared.network.client(&shared.options, &self.home, None, &self.settings.tls)?;
        }
        if !self.settings.http_will_do || !self.home.is_https() {
            return Ok(self);
        }
        let known = lock(&shared.schemes).get(&self.home).cloned();
        if let Some(home) = known {
            self.home = home;
            return Ok(self);
        }
        let client = shared.network.client(&shared.options, &self.home, None, &self.settings.tls)?;
        // Nobody there for a moment says nothing about the next time (faults.md B30); until then it is https.
        if let Some(tls) = network::speaks_tls(&client, &self.home).await {
            let home = if tls { self.home.clone() } else { self.home.without_tls() };
            lock(&shared.schemes).insert(self.home.clone(), home.clone());
            self.home = home;
        }
        Ok(self)
    }

    pub(super) fn url(&self, rest: &str) -> Result<Url> {
        let text = format!("{}{}/{}/{rest}", self.home, self.settings.root, self.name.path);
        let mut url = Url::parse(&text).map_err(|e| Error::failed(format!("{text} is not a URL: {e}")))?;
        if let Some(namespace) = &self.settings.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    pub(super) fn scopes(&self) -> Vec<String> {
        vec![format!("repository:{}:{}", self.name.path, self.actions)]
    }

    pub(super) fn access<'a>(&'a self, scopes: &'a [String]) -> Access<'a> {
        Access { home: &self.home, repository: &self.name, scopes, settings: &self.settings }
    }

    /// Whether it is a mirror that could not be reached before.
    pub(super) fn is_given_up(&self) -> bool {
        self.settings.mirror && lock(&self.client.0.unreachable).contains(&self.home.host_port())
    }

    /// Whether it has a blob, as far as it knows.
    pub(super) async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let what = format!("blob {} of {}", descriptor.digest, self.name);
        let url = self.url(&format!("blobs/{}", descriptor.digest))?;
        let scopes = self.scopes();
        let access = self.access(&scopes);
        let request = Request::new(Method::HEAD, url.clone());
        match http::send(&self.client.0, Some(&access), &request, &what).await? {
            Outcome::Success(response) => {
                // Another length, 0 too, is not the blob's: better sent again than a tag on what is not there.
                let length = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
                Ok(length.is_none_or(|length| length == descriptor.size))
            }
            Outcome::Refused(refusal) if matches!(refusal.status.as_u16(), 404 | 405 | 501) => Ok(false),
            Outcome::Refused(refusal) if refusal.status == StatusCode::FORBIDDEN => {
                // The answer to a HEAD has no body that could say why (faults.md B21).
                let request = Request::new(Method::GET, url);
                match http::send(&self.client.0, Some(&access), &request, &what).await? {
                    Outcome::Refused(refusal) if refusal.status == StatusCode::NOT_FOUND => Ok(false),
                    outcome => outcome.into_result(&what).map(|_| true),
                }
            }
            outcome => outcome.into_result(&what).map(|_| true),
        }
    }
}
