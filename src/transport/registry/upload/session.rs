//! An upload that a registry has opened, and what becomes of it if the work that it is for is stopped.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use url::Url;

use super::super::auth::Access;
use super::super::endpoint::Endpoint;
use super::super::http::{self, Request};
use super::super::mirrors::Settings;
use super::super::origin::Origin;
use super::super::{Shared, lock};
use crate::oci::reference;

/// How long a registry may take to cancel uploads (faults.md G3).
const PATIENCE: Duration = Duration::from_secs(2);

/// An upload that the registry has opened.
pub(super) struct Session {
    pub(super) url: Url,
    /// `OCI-Chunk-Min-Length`.
    pub(super) minimum: usize,
    /// Bytes that the registry has.
    pub(super) offset: u64,
    /// Of a session that is to be cancelled when nobody goes on with it: where it is.
    owner: Option<Box<Endpoint>>,
}

/// A session that was dropped before its end.
pub(in super::super) struct Abandoned {
    url: Url,
    home: Origin,
    name: reference::Repository,
    scopes: Vec<String>,
    settings: Arc<Settings>,
}

impl Session {
    /// A session that `owner` has just opened.
    pub(super) fn opened(url: Url, minimum: usize, owner: &Endpoint) -> Self {
        Session { url, minimum, offset: 0, owner: Some(Box::new(owner.clone())) }
    }

    /// A session that the journal has.
    pub(super) fn journaled(url: Url) -> Self {
        Session { url, minimum: 0, offset: 0, owner: None }
    }

    /// Nothing is to be cancelled any more: it came to its end, or the next run goes on with it.
    pub(super) fn release(&mut self) {
        self.owner = None;
    }

    /// Best effort: sessions expire by themselves too.
    pub(super) async fn cancel(&mut self, endpoint: &Endpoint) {
        cancel(&endpoint.client.0, &Abandoned::new(&self.url, endpoint)).await;
        self.release();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            lock(&owner.client.0.abandoned).push(Abandoned::new(&self.url, owner));
        }
    }
}

impl Abandoned {
    fn new(url: &Url, endpoint: &Endpoint) -> Self {
        let Endpoint { home, name, settings, .. } = endpoint.clone();
        Abandoned { url: url.clone(), home, name, scopes: endpoint.scopes(), settings }
    }
}

/// Cancels all that were abandoned so far.
pub(in super::super) async fn cancel_abandoned(shared: &Shared) {
    let abandoned = std::mem::take(&mut *lock(&shared.abandoned));
    join_all(abandoned.iter().map(|session| cancel(shared, session))).await;
}

async fn cancel(shared: &Shared, session: &Abandoned) {
    let Abandoned { url, home, name, scopes, settings } = session;
    let access = Access { home, repository: name, scopes, settings };
    let mut request = Request::new(Method::DELETE, url.clone());
    request.once = true;
    let _ = tokio::time::timeout(PATIENCE, http::send(shared, Some(&access), &request, "cancelling an upload")).await;
}
