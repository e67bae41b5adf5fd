//! What a new archive is to hold: both lists of images, and every blob that they lead to, in a fixed order.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde::Serialize;

use crate::blob;
use crate::error::{Error, Result};
use crate::limits::{self, Limits};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::{Document, Manifest};
use crate::oci::media_type::Kind;
use crate::oci::platform::Platform;
use crate::transport::archive::oci::{SINCE, blob_path};
use crate::transport::archive::write::Pending;
use crate::transport::archive::{Images, Opened, names};
use crate::transport::layout::index;

/// The content of an archive.
pub(super) struct Plan {
    /// `index.json`.
    pub(super) index: Vec<u8>,
    /// `manifest.json`, if a container image is complete.
    pub(super) docker: Option<Vec<u8>>,
    /// Indexes and manifests, each before its children.
    pub(super) documents: Vec<(Descriptor, Bytes)>,
    /// Configs, then layers and everything else.
    pub(super) blobs: Vec<Descriptor>,
}

/// One image of `manifest.json`; the names are Docker's.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Joins what was recorded with what `old`, the archive that is there, has.
pub(super) fn plan(old: Option<&Opened>, pending: &Pending, limits: &Limits) -> Result<Plan> {
    let mut index: Option<Vec<u8>> = match old.map(|old| (&old.images, &old.members)) {
        None => None,
        Some((Images::Oci(index), _)) => Some(index.clone()),
        Some((Images::Docker(images), members)) => {
            let mut index = None;
            for entry in images.entries(members)? {
                index = Some(index::with_entry(index.as_deref(), &entry, |_| false)?);
            }
            index
        }
    };
    for (name, descriptor) in &pending.tags {
        let mut entry = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size)?;
        name.set(&mut entry)?;
        if let Some((_, described)) = &pending.since {
            entry.set_annotation(SINCE, described)?;
        }
        index = Some(index::with_entry(index.as_deref(), &entry, |old| name.replaces(old))?);
    }
    let index = index.ok_or_else(|| Error::failed("there is no image to write"))?;
    // What could not be read again is not written.
    limits.check_document(index.len() as u64, "the list of the images")?;
    let entries = index::entries(&index)?;
    let mut walk = Walk::new(old, pending, limits);
    for entry in &entries {
        // An image that was here may be incomplete, as it was found.
        let new = pending.tags.iter().any(|(_, tagged)| tagged.digest == entry.digest);
        match entry.kind() {
            Kind::Index(_) | Kind::Manifest(_) => walk.document(entry, new, 0)?,
            _ => walk.blob(entry, new, false)?,
        }
    }
    let docker = docker_manifest(&entries, &walk)?;
    let blobs = walk.configs.into_iter().chain(walk.layers).collect();
    Ok(Plan { index, docker, documents: walk.documents, blobs })
}

/// Follows descriptors, children behind their parents.
struct Walk<'a> {
    old: Option<&'a Opened>,
    pending: &'a Pending,
    limits: &'a Limits,
    /// Bytes that the documents take in memory, about.
    memory: u64,
    /// Where it was, and whether what it led to had to be there.
    seen: HashSet<(Digest, bool)>,
    present: HashSet<Digest>,
    parsed: HashMap<Digest, Document>,
    documents: Vec<(Descriptor, Bytes)>,
    configs: Vec<Descriptor>,
    layers: Vec<Descriptor>,
}

impl<'a> Walk<'a> {
    fn new(old: Option<&'a Opened>, pending: &'a Pending, limits: &'a Limits) -> Self {
        Walk {
            old,
            pending,
            limits,
            memory: 0,
            seen: HashSet::new(),
            present: HashSet::new(),
            parsed: HashMap::new(),
            documents: Vec::new(),
            configs: Vec::new(),
            layers: Vec::new(),
        }
    }

    fn document(&mut self, descriptor: &Descriptor, new: bool, depth: usize) -> Result<()> {
        if !self.seen.insert((descriptor.digest.clone(), new)) {
            return Ok(());
        }
        self.limits.check_depth(depth, "indexes are nested")?;
        let Some(bytes) = self.bytes(descriptor)? else { return self.absent(descriptor, new) };
        blob::verify(&bytes, descriptor)?;
        let document =
            Document::parse(&bytes, Some(&descriptor.media_type)).map_err(|e| e.context(&descriptor.digest))?;
        if self.present.insert(descriptor.digest.clone()) {
            self.memory = self.memory.saturating_add(limits::of_manifest(descriptor.size));
            self.limits.check_memory(self.memory, self.limits.manifests(), "the manifests of the archive take")?;
            self.documents.push((descriptor.clone(), bytes));
        }
        match &document {
            Document::Index(index) => {
                for child in &index.manifests {
                    match child.kind() {
                        Kind::Index(_) | Kind::Manifest(_) => self.document(child, new, depth + 1)?,
                        _ => self.blob(child, new, false)?,
                    }
                }
            }
            Document::Manifest(manifest) => {
                self.blob(&manifest.config, new, true)?;
                for layer in &manifest.layers {
                    self.blob(layer, new, false)?;
                }
            }
        }
        self.parsed.insert(descriptor.digest.clone(), document);
        Ok(())
    }

    fn bytes(&self, descriptor: &Descriptor) -> Result<Option<Bytes>> {
        if let Some(bytes) = self.pending.manifests.get(&descriptor.digest) {
            return Ok(Some(bytes.clone()));
        }
        let Some(old) = self.old else { return Ok(None) };
        let reader = old.open(&descriptor.digest, 0)?;
        reader.map(|reader| blob::read_small(reader, descriptor, self.limits)).transpose()
    }

    fn blob(&mut self, descriptor: &Descriptor, new: bool, config: bool) -> Result<()> {
        let digest = &descriptor.digest;
        if self.present.contains(digest) || (new && self.pending.leaves_out(digest)) {
            return Ok(());
        }
        if let Some(bytes) = self.pending.manifests.get(digest) {
            // A document of a type that nobody knows.
            self.present.insert(digest.clone());
            self.documents.push((descriptor.clone(), bytes.clone()));
            return Ok(());
        }
        let in_old = || match self.old {
            Some(old) => Ok::<_, Error>(old.open(digest, 0)?.is_some()),
            None => Ok(false),
        };
        if !self.pending.blobs.contains_key(digest) && !in_old()? {
            return self.absent(descriptor, new);
        }
        self.present.insert(digest.clone());
        if config { &mut self.configs } else { &mut self.layers }.push(descriptor.clone());
        Ok(())
    }

    /// No index names what is not there (rke2#5944), but for layers that may not be distributed.
    fn absent(&self, descriptor: &Descriptor, new: bool) -> Result<()> {
        if !new || descriptor.is_foreign_layer() {
            return Ok(());
        }
        Err(Error::content(format!("{} belongs to the image and is not there", descriptor.digest))
            .hint("an archive holds whole images; choose the platforms that are there with --platform"))
    }

    /// The image that Docker, which knows no indexes, gets of an entry, and whether it is for linux/amd64.
    fn docker_image(&self, entry: &Descriptor) -> Option<(&Digest, &Manifest, bool)> {
        let usable = |manifest: &Manifest| {
            manifest.is_image()
                && self.present.contains(&manifest.config.digest)
                && manifest.layers.iter().all(|layer| {
                    matches!(layer.kind(), Kind::Layer { foreign: false, .. }) && self.present.contains(&layer.digest)
                })
        };
        let mut found = Vec::new();
        self.manifests(entry, &mut found, 0);
        let amd64 = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None, os_version: None };
        let mut best = None;
        for descriptor in found {
            let Some((digest, Document::Manifest(manifest))) = self.parsed.get_key_value(&descriptor.digest) else {
                continue;
            };
            let platform = descriptor.platform().ok().flatten();
            let is_alone = descriptor.digest == entry.digest;
            let is_linux = platform.as_ref().is_some_and(Platform::is_linux);
            let is_amd64 = platform.is_some_and(|platform| platform.matches(&amd64));
            if usable(manifest) && !descriptor.is_attestation() && (is_alone || is_linux) {
                match best {
                    Some((_, _, best_is_amd64)) if best_is_amd64 || !is_amd64 => {}
                    _ => best = Some((digest, manifest, is_amd64)),
                }
            }
        }
        best
    }

    fn manifests(&self, descriptor: &Descriptor, found: &mut Vec<Descriptor>, depth: usize) {
        match self.parsed.get(&descriptor.digest) {
            Some(Document::Manifest(_)) => found.push(descriptor.clone()),
            Some(Document::Index(index)) if depth <= self.limits.depth && found.len() <= self.parsed.len() => {
                index.manifests.iter().for_each(|child| self.manifests(child, found, depth + 1));
            }
            _ => {}
        }
    }
}

/// `manifest.json`, by which Docker without containerd, and old tools, load images. A delta is in no such list.
fn docker_manifest(entries: &[Descriptor], walk: &Walk<'_>) -> Result<Option<Vec<u8>>> {
    let mut lines: Vec<(&Digest, &Manifest, bool, Vec<String>)> = Vec::new();
    for entry in entries.iter().filter(|entry| index::annotation(entry, SINCE).is_none()) {
        let Some((digest, manifest, is_amd64)) = walk.docker_image(entry) else { continue };
        let tag = names::repo_tag(entry);
        if let Some(tag) = &tag
            && let Some(rival) = lines.iter_mut().find(|line| line.3.contains(tag))
        {
            // The platforms of a flat index: a name can be given once.
            if rival.2 || !is_amd64 {
                continue;
            }
            rival.3.retain(|other| other != tag);
        }
        match lines.iter_mut().find(|line| line.0 == digest) {
            Some(line) => line.3.extend(tag),
            None => lines.push((digest, manifest, is_amd64, tag.into_iter().collect())),
        }
    }
    let image = |(_, manifest, _, tags): (&Digest, &Manifest, bool, Vec<String>)| DockerImage {
        config: blob_path(&manifest.config.digest),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
    };
    let images: Vec<DockerImage> = lines.into_iter().map(image).collect();
    if images.is_empty() {
        return Ok(None);
    }
    serde_json::to_vec(&images).map(Some).map_err(|e| Error::failed(format!("cannot be written as JSON: {e}")))
}
