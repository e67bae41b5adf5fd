//! Content by digest: what is known of it, and its bytes.

use bytes::Bytes;
use futures_util::stream;
use tonic::{Code, Streaming};

use super::proto::{FieldMask, Info, InfoRequest, InfoResponse, Labels, ReadRequest, ReadResponse, UpdateRequest};
use super::{Shared, rpc};
use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::transport::ByteStream;
use crate::transport::read::collect;

/// Size and labels of content; `None` if it is not in the namespace.
pub(super) async fn info(shared: &Shared, digest: &Digest) -> Result<Option<(u64, Labels)>> {
    let method = "/containerd.services.content.v1.Content/Info";
    let answer: InfoResponse = match rpc::call(shared, method, InfoRequest { digest: digest.to_string() }, None).await?
    {
        Ok(answer) => answer,
        Err(refusal) if refusal.code == Code::NotFound => return Ok(None),
        Err(refusal) => return Err(refusal.into_error(digest.as_str())),
    };
    let info = answer.info.unwrap_or_default();
    if info.digest != digest.as_str() {
        return Err(Error::content(format!("containerd was asked for {digest} and answers with '{}'", info.digest)));
    }
    let size = u64::try_from(info.size).map_err(|_| Error::content(format!("{digest} has {} bytes", info.size)))?;
    Ok(Some((size, info.labels)))
}

/// Whether the content is here, in the size that `descriptor` gives it.
pub(super) async fn has(shared: &Shared, descriptor: &Descriptor) -> Result<bool> {
    Ok(info(shared, &descriptor.digest).await?.is_some_and(|(size, _)| size == descriptor.size))
}

/// Sets labels of content; the others stay.
pub(super) async fn label(shared: &Shared, digest: &Digest, labels: Labels) -> Result<()> {
    if labels.is_empty() {
        return Ok(());
    }
    let paths = labels.keys().map(|name| format!("labels.{name}")).collect();
    let info = Some(Info { digest: digest.to_string(), size: 0, labels });
    let method = "/containerd.services.content.v1.Content/Update";
    let request = UpdateRequest { info, update_mask: Some(FieldMask { paths }) };
    let answer = rpc::call::<_, InfoResponse>(shared, method, request, None).await?;
    answer.map(|_| ()).map_err(|refusal| refusal.into_error(&format!("the labels of {digest}")))
}

/// A document, verified.
pub(super) async fn small(shared: &Shared, digest: &Digest) -> Result<Option<Bytes>> {
    let Some((size, _)) = info(shared, digest).await? else { return Ok(None) };
    shared.limits.check_document(size, digest)?;
    let descriptor = Descriptor::new("", digest.clone(), size)?;
    collect(read(shared, &descriptor, 0).await?, &descriptor).await.map(Some)
}

/// Content from byte `offset` on, exactly as much as `descriptor` says.
pub(super) async fn read(shared: &Shared, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
    let digest = descriptor.digest.clone();
    let left = descriptor.size.checked_sub(offset);
    let left = left.ok_or_else(|| Error::failed(format!("{digest} has no byte {offset}")))?;
    if left == 0 {
        return Ok(Box::pin(stream::empty()));
    }
    let number = |value: u64| i64::try_from(value).map_err(|_| Error::failed(format!("{digest} is too large")));
    let request = ReadRequest { digest: digest.to_string(), offset: number(offset)?, size: number(left)? };
    let method = "/containerd.services.content.v1.Content/Read";
    let answers: Streaming<ReadResponse> =
        rpc::stream(shared, method, request).await?.map_err(|refusal| unreadable(&digest, refusal))?;
    let stall = shared.stall;
    Ok(Box::pin(stream::try_unfold((answers, left), move |(mut answers, left)| {
        let digest = digest.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            let answer = rpc::next(&mut answers, stall).await?.map_err(|refusal| unreadable(&digest, refusal))?;
            let short = || Error::content(format!("{digest} ended {left} bytes early in containerd"));
            // An empty piece would be no progress and yet no silence.
            let data = answer.map(|answer| answer.data).filter(|data| !data.is_empty()).ok_or_else(short)?;
            let left = left
                .checked_sub(data.len() as u64)
                .ok_or_else(|| Error::content(format!("containerd sends more of {digest} than it was asked for")))?;
            Ok(Some((data, (answers, left))))
        }
    })))
}

fn unreadable(digest: &Digest, refusal: rpc::Refusal) -> Error {
    if refusal.code != Code::NotFound {
        return refusal.into_error(digest.as_str());
    }
    Error::not_found(format!("{digest} is not in containerd's content store")).hint(
        "only what was pulled is there: say which --platform, or pull all with ctr images pull --all-platforms; with \
         discard_unpacked_layers Kubernetes keeps no layers at all",
    )
}
