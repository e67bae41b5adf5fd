//! An upload that a registry has opened, and what becomes of it if nobody goes on with it.

use std::time::Duration;

use reqwest::Method;
use tokio::runtime::Handle;
use url::Url;

use super::super::endpoint::Endpoint;
use super::super::http::{self, Request};
use super::super::{Shared, lock};
use super::journal::Entry;

/// How long a registry may take to cancel an upload (faults.md G3).
const PATIENCE: Duration = Duration::from_secs(2);

/// An upload that the registry has opened.
pub(super) struct Session {
    pub(super) url: Url,
    /// `OCI-Chunk-Min-Length`.
    pub(super) minimum: usize,
    /// Bytes that the registry has.
    pub(super) offset: u64,
    endpoint: Endpoint,
    /// Whether it is cancelled when it is dropped: it has not ended, and the next run will not go on with it.
    is_ours: bool,
}

impl Session {
    /// A session that `endpoint` has just opened.
    pub(super) fn opened(url: Url, minimum: usize, endpoint: &Endpoint) -> Self {
        Session { url, minimum, offset: 0, endpoint: endpoint.clone(), is_ours: true }
    }

    /// A session that the journal has.
    pub(super) fn journaled(url: Url, endpoint: &Endpoint) -> Self {
        Session { url, minimum: 0, offset: 0, endpoint: endpoint.clone(), is_ours: false }
    }

    /// Leaves it to the next run, if the journal takes it.
    pub(super) fn keep(&mut self, journal: Option<&Entry>) {
        self.is_ours = !journal.is_some_and(|entry| entry.keep(&self.url));
    }

    /// It came to its end.
    pub(super) fn ended(&mut self) {
        self.is_ours = false;
    }

    /// Nobody goes on with it, whatever the journal has.
    pub(super) fn abandon(mut self) {
        self.is_ours = true;
    }

    /// Best effort: sessions expire by themselves too.
    pub(super) async fn cancel(&mut self) {
        cancel(&self.endpoint, &self.url).await;
        self.ended();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Outside of a runtime nobody could send it.
        let Some(runtime) = Handle::try_current().ok().filter(|_| self.is_ours) else { return };
        let (endpoint, url) = (self.endpoint.clone(), self.url.clone());
        let mut cancels = lock(&self.endpoint.client.0.cancels);
        while cancels.try_join_next().is_some() {}
        cancels.spawn_on(async move { cancel(&endpoint, &url).await }, &runtime);
    }
}

/// Waits until all that were dropped so far are cancelled.
pub(in super::super) async fn wait_for_cancels(shared: &Shared) {
    let mut cancels = std::mem::take(&mut *lock(&shared.cancels));
    while cancels.join_next().await.is_some() {}
}

async fn cancel(endpoint: &Endpoint, url: &Url) {
    let scopes = endpoint.scopes();
    let access = endpoint.access(&scopes);
    let mut request = Request::new(Method::DELETE, url.clone());
    request.once = true;
    let sent = http::send(&endpoint.client.0, Some(&access), &request, "cancelling an upload");
    let _ = tokio::time::timeout(PATIENCE, sent).await;
}
