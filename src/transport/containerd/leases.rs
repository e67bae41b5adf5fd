//! The lease of a run: what it holds is not collected, whether or not something refers to it yet.
//!
//! Source: containerd `docs/garbage-collection.md`, "Leases".

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::labels::EXPIRE;
use super::proto::{
    AddResourceRequest, CreateLeaseRequest, CreateLeaseResponse, DeleteLeaseRequest, Empty, Labels, Resource,
};
use super::{Shared, rpc};
use crate::error::{Error, Result};
use crate::oci::digest::Digest;
use crate::oci::time;

/// How long a lease lasts if its run is killed.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Default)]
pub(super) struct Leased {
    /// The lease, once something was written.
    lease: Option<String>,
    /// What was found before that, to be held from then on: looking alone changes nothing in containerd.
    found: HashSet<Digest>,
}

/// The lease of this run, made when it is first asked for.
pub(super) async fn lease(shared: &Shared) -> Result<String> {
    let mut leased = shared.leased.lock().await;
    if let Some(lease) = &leased.lease {
        return Ok(lease.clone());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let labels = Labels::from([(EXPIRE.to_owned(), time::rfc3339((now + LIFETIME).as_secs()))]);
    let method = "/containerd.services.leases.v1.Leases/Create";
    let answer: CreateLeaseResponse = rpc::call(shared, method, CreateLeaseRequest { labels }, None)
        .await?
        .map_err(|refusal| refusal.into_error("a lease"))?;
    let lease = answer.lease.map(|lease| lease.id).filter(|id| !id.is_empty());
    let lease = lease.ok_or_else(|| Error::content("containerd made a lease without a name"))?;
    leased.lease = Some(lease.clone());
    for digest in std::mem::take(&mut leased.found) {
        add(shared, &lease, &digest).await?;
    }
    Ok(lease)
}

/// Keeps `digest` for this run: now, or from the first write on, which is when it returns `false`.
pub(super) async fn hold(shared: &Shared, digest: &Digest) -> Result<bool> {
    let mut leased = shared.leased.lock().await;
    match &leased.lease {
        Some(lease) => add(shared, lease, digest).await.map(|()| true),
        None => {
            leased.found.insert(digest.clone());
            Ok(false)
        }
    }
}

async fn add(shared: &Shared, lease: &str, digest: &Digest) -> Result<()> {
    let resource = Resource { id: digest.to_string(), kind: "content".to_owned() };
    let request = AddResourceRequest { lease: lease.to_owned(), resource: Some(resource) };
    let method = "/containerd.services.leases.v1.Leases/AddResource";
    let added: Empty =
        rpc::call(shared, method, request, None).await?.map_err(|refusal| refusal.into_error(digest.as_str()))?;
    let Empty {} = added;
    Ok(())
}

/// Gives the lease up. That it fails does not matter: leases end by themselves.
pub(super) async fn end(shared: &Shared) {
    let Some(id) = shared.leased.lock().await.lease.take() else { return };
    let method = "/containerd.services.leases.v1.Leases/Delete";
    match rpc::call::<_, Empty>(shared, method, DeleteLeaseRequest { id, sync: false }, None).await {
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => tracing::debug!("{}", refusal.into_error("the lease")),
        Err(error) => tracing::debug!("the lease: {error}"),
    }
}
