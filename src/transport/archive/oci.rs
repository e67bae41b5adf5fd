//! An OCI layout in a tar.

use std::collections::HashSet;
use std::io::{Cursor, Read};

use bytes::Bytes;

use crate::blob;
use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::Document;
use crate::oci::media_type::Kind;
use crate::oci::reference::Target;
use crate::transport::archive::members::Members;
use crate::transport::archive::{Format, Opened, docker, names};
use crate::transport::layout::index::{self, Found, INDEX, MARKER};

/// Where an entry of `index.json` says which image a delta goes with.
pub(super) const SINCE: &str = "dev.capatch.since";
/// Manifests that are looked at to compare the two lists of images in an archive of Docker.
const MAX_COMPARED: usize = 1000;

/// The name of a blob's member.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The bytes of `index.json`, if this is a layout.
pub(super) fn index(members: &Members) -> Result<Option<Vec<u8>>> {
    let marker = members.read_small(MARKER.as_bytes())?;
    let bytes = members.read_small(INDEX.as_bytes())?;
    match (marker, bytes) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::content(format!("there is an {MARKER} file but no {INDEX}"))),
        (None, Some(_)) => Err(Error::content(format!("there is an {INDEX} but no {MARKER} file"))),
        (Some(marker), Some(bytes)) => {
            index::check_marker(&marker).map_err(|e| e.context(format!("/{MARKER}")))?;
            index::entries(&bytes).map_err(|e| e.context(format!("/{INDEX}")))?;
            Ok(Some(bytes))
        }
    }
}

/// What `target` names, or the only image.
pub(super) fn resolve(
    opened: &Opened,
    index: &[u8],
    target: Option<&Target>,
    place: &str,
) -> Result<Option<(Descriptor, Bytes)>> {
    opened.compared.call_once(|| warn_of_disagreement(opened, index));
    let descriptor = match (index::find(index, target)?, target) {
        (Found::Blob(descriptor), _) => descriptor,
        (Found::Flat(descriptor, bytes), _) => return Ok(Some((descriptor, bytes))),
        (Found::Nothing, Some(Target::Digest(digest))) => {
            let reader = opened.blob(digest, 0)?;
            return reader.map(|reader| index::untagged(reader, digest, opened.limits())).transpose();
        }
        (Found::Nothing, _) => return Ok(None),
        (Found::Many(many), _) => {
            let what = target.map_or("image".to_owned(), |name| format!("image named '{name}'"));
            return Err(Error::not_found(format!("there is more than one {what}"))
                .hint(format!("choose one: {}", index::choices(place, &many))));
        }
    };
    let missing = || Error::content(format!("{} names {}, which is not in the archive", INDEX, descriptor.digest));
    let reader = opened.open(&descriptor.digest, 0)?.ok_or_else(missing)?;
    let bytes = blob::read_small(reader, &descriptor, opened.limits())?;
    Ok(Some((descriptor, bytes)))
}

/// The names in `index.json`: tags, or for Docker whole names.
pub(super) fn names(index: &[u8], format: Format) -> Result<Vec<String>> {
    let entries = index::entries(index)?;
    let mut docker: Vec<String> = entries.iter().filter_map(names::repo_tag).collect();
    docker.dedup();
    Ok(if format == Format::Docker && !docker.is_empty() { docker } else { index::names(&entries) })
}

/// Which image the archive is a delta since, if it is one.
pub(super) fn since(index: &[u8]) -> Option<String> {
    index::entries(index).ok()?.iter().find_map(|entry| index::annotation(entry, SINCE))
}

/// Opens the flat index of this digest, which is no blob.
pub(super) fn flat(index: &[u8], digest: &Digest, offset: u64) -> Result<Option<Box<dyn Read + Send>>> {
    match index::find(index, Some(&Target::Digest(digest.clone())))? {
        Found::Flat(_, bytes) => {
            let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
            Ok(Some(Box::new(Cursor::new(bytes.slice(start..)))))
        }
        _ => Ok(None),
    }
}

/// Docker ≥ 25 writes both lists of images; `index.json` is what counts (faults.md F17).
fn warn_of_disagreement(opened: &Opened, index: &[u8]) {
    let Ok(Some(bytes)) = opened.members.read_small(docker::MANIFEST.as_bytes()) else { return };
    let disagree = |why: String| tracing::warn!("{INDEX} and {} disagree: {why}; {INDEX} counts", docker::MANIFEST);
    let images = match docker::parse(&bytes) {
        Ok(images) => images,
        Err(error) => return disagree(error.to_string()),
    };
    let mut configs = HashSet::new();
    let mut ahead = index::entries(index).unwrap_or_default();
    for _ in 0..MAX_COMPARED {
        let Some(descriptor) = ahead.pop() else {
            let other =
                images.iter().find(|image| docker::digest_in(&image.config).is_none_or(|d| !configs.contains(&d)));
            if let Some(image) = other {
                disagree(format!("only the latter has the image {}", image.config));
            }
            return;
        };
        if !matches!(descriptor.kind(), Kind::Index(_) | Kind::Manifest(_)) {
            continue;
        }
        let Ok(Some(reader)) = opened.open(&descriptor.digest, 0) else { continue };
        let bytes = blob::read_small(reader, &descriptor, opened.limits());
        match bytes.and_then(|bytes| Document::parse(&bytes, Some(&descriptor.media_type))) {
            Ok(Document::Index(index)) => ahead.extend(index.manifests),
            Ok(Document::Manifest(manifest)) => {
                configs.insert(manifest.config.digest);
            }
            Err(_) => {}
        }
    }
}
