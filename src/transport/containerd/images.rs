//! Images: names for manifests and indexes.

use tonic::Code;

use super::proto::{
    self, Empty, FieldMask, GetImageRequest, Image, ImageResponse, ListImagesResponse, ListNamespacesResponse,
    PutImageRequest,
};
use super::{Options, Shared, rpc};
use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;

/// What `name` is.
pub(super) async fn get(shared: &Shared, name: &str) -> Result<Option<Descriptor>> {
    let method = "/containerd.services.images.v1.Images/Get";
    let answer: ImageResponse = match rpc::call(shared, method, GetImageRequest { name: name.to_owned() }, None).await?
    {
        Ok(answer) => answer,
        Err(refusal) if refusal.code == Code::NotFound => return Ok(None),
        Err(refusal) => return Err(refusal.into_error(name)),
    };
    let target = answer.image.and_then(|image| image.target);
    let target = target.ok_or_else(|| Error::content(format!("{name}: containerd names no content for it")))?;
    let size = u64::try_from(target.size).map_err(|_| Error::content(format!("{name}: a size of {}", target.size)))?;
    let digest = target.digest.parse().map_err(|e: Error| e.context(name))?;
    Descriptor::new(&target.media_type, digest, size).map(Some)
}

/// The names of all images.
pub(super) async fn names(shared: &Shared) -> Result<Vec<String>> {
    let method = "/containerd.services.images.v1.Images/List";
    let answer: ListImagesResponse =
        rpc::call(shared, method, Empty {}, None).await?.map_err(|refusal| refusal.into_error("the list of images"))?;
    Ok(answer.images.into_iter().map(|image| image.name).collect())
}

/// Lets `name` be `descriptor`, in one step.
pub(super) async fn put(shared: &Shared, name: &str, descriptor: &Descriptor) -> Result<()> {
    let size = i64::try_from(descriptor.size).map_err(|_| Error::content(format!("{name} is too large")))?;
    let target = Some(proto::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size,
    });
    let image = Some(Image { name: name.to_owned(), target });
    // Somebody else may remove or create it between the two.
    for _ in 0..10 {
        let create = PutImageRequest { image: image.clone(), update_mask: None };
        let method = "/containerd.services.images.v1.Images/Create";
        match rpc::call::<_, ImageResponse>(shared, method, create, None).await? {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.code == Code::AlreadyExists => {}
            Err(refusal) => return Err(refusal.into_error(name)),
        }
        let mask = Some(FieldMask { paths: vec!["target".to_owned()] });
        let update = PutImageRequest { image: image.clone(), update_mask: mask };
        let method = "/containerd.services.images.v1.Images/Update";
        match rpc::call::<_, ImageResponse>(shared, method, update, None).await? {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.code == Code::NotFound => {}
            Err(refusal) => return Err(refusal.into_error(name)),
        }
    }
    Err(Error::failed(format!("{name} is created and removed by another program all the time")))
}

/// The error for a name that is no image here.
pub(super) async fn missing(shared: &Shared, name: &str) -> Error {
    let namespace = &shared.options.namespace;
    let error = Error::not_found(format!("containerd has no image {name} in its namespace {namespace}"));
    match hint(shared, name).await {
        Ok(hint) => error.hint(hint),
        Err(_) => error,
    }
}

async fn hint(shared: &Shared, name: &str) -> Result<String> {
    let method = "/containerd.services.namespaces.v1.Namespaces/List";
    let answer: ListNamespacesResponse = rpc::call(shared, method, Empty {}, None)
        .await?
        .map_err(|refusal| refusal.into_error("the list of namespaces"))?;
    let all: Vec<String> = answer.namespaces.into_iter().map(|namespace| namespace.name).collect();
    for namespace in all.iter().filter(|namespace| **namespace != shared.options.namespace) {
        let there = Shared {
            options: Options { namespace: namespace.clone(), ..shared.options.clone() },
            limits: shared.limits,
            channel: shared.channel.clone(),
            leased: tokio::sync::Mutex::default(),
            stall: shared.stall,
        };
        if get(&there, name).await?.is_some() {
            return Ok(format!("it is in another one: --containerd-namespace {namespace}"));
        }
    }
    if !all.contains(&shared.options.namespace) {
        return Ok(format!("there is no such namespace; there are {}", all.join(", ")));
    }
    let names = names(shared).await?;
    let repository = name.rsplit_once([':', '@']).map_or(name, |(repository, _)| repository);
    let mut like: Vec<&str> = names.iter().map(String::as_str).filter(|other| other.starts_with(repository)).collect();
    if like.is_empty() {
        like = names.iter().map(String::as_str).filter(|name| !name.starts_with("sha256:")).collect();
    }
    like.sort_unstable();
    like.truncate(10);
    Ok(match like.as_slice() {
        [] => "pull or import it first".to_owned(),
        like => format!("there are {}", like.join(", ")),
    })
}
