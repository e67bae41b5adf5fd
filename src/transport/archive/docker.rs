//! Archives of `docker save` before Docker 25, and of crane: a `manifest.json` that names configs and layers by their
//! members, and no manifest. One is made for each image, the same at every reading.
//!
//! Source: moby `image/tarexport`; go-containerregistry `pkg/v1/tarball`. Layers that are compressed keep their bytes;
//! others become gzip, as a push by Docker would make them.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::archive::compression::{Decoder, Encoder, from_io};
use crate::archive::path;
use crate::blob::{Hashing, Spool, SpoolWriter, temporary_error};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::oci::config::ImageConfig;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Algorithm, Digest, Hasher};
use crate::oci::json::{self, Object};
use crate::oci::media_type::{Compression, DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, DOCKER_MANIFEST};
use crate::oci::reference::Target;
use crate::transport::archive::Format;
use crate::transport::archive::members::{Member, Members};
use crate::transport::archive::names::Name;
use crate::transport::layout::index::whole_name;

/// The file that names the images.
pub(super) const MANIFEST: &str = "manifest.json";

/// Layers of one image; Docker itself stops at 127.
const MAX_LAYERS: usize = 1000;

/// One image, as `manifest.json` has it.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) config: String,
    layers: Vec<String>,
    pub(super) tags: Vec<String>,
}

/// The images of an archive, and what was made of them so far.
pub(super) struct Images {
    images: Vec<Image>,
    made: Mutex<Made>,
    limits: Limits,
}

#[derive(Default)]
struct Made {
    manifests: HashMap<usize, (Descriptor, Bytes)>,
    blobs: HashMap<Digest, Blob>,
    layers: HashMap<(Member, Algorithm), Layer>,
}

#[derive(Clone)]
enum Blob {
    Bytes(Bytes),
    Member(Member),
    Spool(Spool),
}

#[derive(Clone)]
struct Layer {
    descriptor: Descriptor,
    diff_id: Digest,
    blob: Blob,
}

/// Reads a `manifest.json`.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Image>> {
    json::check(bytes)?;
    let objects: Vec<Object> =
        serde_json::from_slice(bytes).map_err(|e| Error::content(format!("not a list of images: {e}")))?;
    let image = |object: Object| {
        object.refuse_lookalikes(&["Config", "Layers", "RepoTags"])?;
        Ok(Image {
            config: object.get("Config")?.ok_or_else(|| Error::content("an image has no 'Config'"))?,
            layers: object.get("Layers")?.unwrap_or_default(),
            tags: object.get("RepoTags")?.unwrap_or_default(),
        })
    };
    objects.into_iter().map(image).collect()
}

impl Images {
    pub(super) fn new(images: Vec<Image>, limits: Limits) -> Self {
        Images { images, made: Mutex::default(), limits }
    }

    /// The names of all images.
    pub(super) fn names(&self) -> Vec<String> {
        self.images.iter().flat_map(|image| image.tags.clone()).collect()
    }

    /// What `target` names, or the only image; `place` is how the user named the archive.
    pub(super) fn resolve(
        &self,
        members: &Members,
        target: Option<&Target>,
        place: &str,
    ) -> Result<Option<(Descriptor, Bytes)>> {
        let matching: Vec<usize> = match target {
            None => (0..self.images.len()).collect(),
            Some(Target::Tag(name)) => {
                let wanted = whole_name(name);
                let is_it = |tag: &String| {
                    let whole = whole_name(tag);
                    // `oci-archive:FILE:3.9` means the tag alone.
                    tag == name || (whole.is_some() && (whole == wanted || whole.is_some_and(|(_, tag)| tag == *name)))
                };
                let named = |(_, image): &(usize, &Image)| image.tags.iter().any(is_it);
                self.images.iter().enumerate().filter(named).map(|(at, _)| at).collect()
            }
            Some(Target::Digest(digest)) => {
                for at in 0..self.images.len() {
                    let (descriptor, bytes) = self.manifest(members, at)?;
                    if descriptor.digest == *digest {
                        return Ok(Some((descriptor, bytes)));
                    }
                }
                return Ok(None);
            }
        };
        match matching.as_slice() {
            [] => Ok(None),
            [one] => self.manifest(members, *one).map(Some),
            _ => {
                let names = self.names();
                let names: Vec<_> = names.iter().take(20).map(|name| format!("{place}:{name}")).collect();
                let what = target.map_or("image".to_owned(), |name| format!("image named '{name}'"));
                let error = Error::not_found(format!("there is more than one {what}"));
                Err(if names.is_empty() { error } else { error.hint(format!("choose one: {}", names.join(", "))) })
            }
        }
    }

    /// Opens a config, a layer or a manifest of an image that was resolved.
    pub(super) fn open(&self, members: &Members, digest: &Digest, offset: u64) -> Option<Box<dyn Read + Send>> {
        let blob = self.made().blobs.get(digest)?.clone();
        Some(match blob {
            Blob::Bytes(bytes) => {
                let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
                Box::new(io::Cursor::new(bytes.slice(start..)))
            }
            Blob::Member(member) => Box::new(members.reader(member, offset)),
            Blob::Spool(spool) => Box::new(spool.reader(offset)),
        })
    }

    /// All images as entries of an `index.json`, one for each name.
    pub(super) fn entries(&self, members: &Members) -> Result<Vec<Descriptor>> {
        let mut entries = Vec::new();
        for (at, image) in self.images.iter().enumerate() {
            let (descriptor, _) = self.manifest(members, at)?;
            for tag in &image.tags {
                let mut entry = descriptor.clone();
                Name::new(tag, Format::Docker, None).unwrap_or_default().set(&mut entry)?;
                entries.push(entry);
            }
            if image.tags.is_empty() {
                entries.push(descriptor);
            }
        }
        Ok(entries)
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of one image, made once.
    fn manifest(&self, members: &Members, at: usize) -> Result<(Descriptor, Bytes)> {
        let mut made = self.made();
        if let Some(manifest) = made.manifests.get(&at) {
            return Ok(manifest.clone());
        }
        let image = self.images.get(at).ok_or_else(|| Error::failed("there is no such image"))?;
        let missing = |name: &str| Error::content(format!("{} is missing in the archive", show(name)));
        let config = members.read_small(image.config.as_bytes())?.ok_or_else(|| missing(&image.config))?;
        let digest = Digest::of(&config);
        if let Some(named) = digest_in(&image.config) {
            let mut hasher = Hasher::new(named.algorithm());
            hasher.update(&config);
            let found = hasher.finish();
            if found != named {
                return Err(Error::content(format!("{} has other content: it hashes to {found}", show(&image.config))));
            }
        }
        let parsed = ImageConfig::parse(&config).map_err(|e| e.context(show(&image.config)))?;
        parsed.check_layers(image.layers.len()).map_err(|e| e.context(show(&image.config)))?;
        if image.layers.len() > MAX_LAYERS {
            let message = format!("the image has {} layers, the limit is {MAX_LAYERS}", image.layers.len());
            return Err(Error::content(message).hint("no container engine takes so many; Docker stops at 127"));
        }
        let mut wanted = Vec::new();
        for (name, diff_id) in image.layers.iter().zip(parsed.diff_ids()?) {
            let member = members.find(name.as_bytes())?.ok_or_else(|| missing(name))?;
            wanted.push((name.as_str(), member, diff_id));
        }
        let new = convert_all(members, &wanted, &made.layers, &self.limits)?;
        made.layers.extend(new);
        let mut layers = Vec::new();
        for (name, member, diff_id) in wanted {
            let layer = made.layers.get(&(member, diff_id.algorithm())).cloned().ok_or_else(|| missing(name))?;
            if layer.diff_id != diff_id {
                return Err(Error::content(format!("{} unpacks to {}, not to {diff_id}", show(name), layer.diff_id)));
            }
            layers.push(layer.descriptor.object().clone());
            made.blobs.insert(layer.descriptor.digest, layer.blob);
        }
        let config_descriptor = Descriptor::new(DOCKER_CONFIG, digest.clone(), config.len() as u64)?;
        made.blobs.insert(digest, Blob::Bytes(config.into()));
        let mut object = Object::default();
        object.set("schemaVersion", &2)?;
        object.set("mediaType", DOCKER_MANIFEST)?;
        object.set("config", config_descriptor.object())?;
        object.set("layers", &layers)?;
        let bytes = Bytes::from(object.to_bytes());
        let descriptor = Descriptor::new(DOCKER_MANIFEST, Digest::of(&bytes), bytes.len() as u64)?;
        made.blobs.insert(descriptor.digest.clone(), Blob::Bytes(bytes.clone()));
        made.manifests.insert(at, (descriptor.clone(), bytes.clone()));
        Ok((descriptor, bytes))
    }
}

fn show(name: &str) -> String {
    path::show(&path::normalise(name.as_bytes()))
}

/// The digest that a member is named by, as in `HEX.json`, `sha256:HEX`, `blobs/sha256/HEX` and `HEX.tar.gz`.
pub(super) fn digest_in(name: &str) -> Option<Digest> {
    let base = name.rsplit('/').next().unwrap_or(name);
    let base = base.strip_prefix("sha256:").unwrap_or(base);
    let hex = base.split('.').next().unwrap_or(base);
    ["sha256", "sha512"].iter().find_map(|algorithm| format!("{algorithm}:{hex}").parse().ok())
}

type Wanted<'a> = (&'a str, Member, Digest);
type Converted = ((Member, Algorithm), Layer);

/// Converts the layers that were not yet, by two threads: a compressor each is what an upload can take.
fn convert_all(
    members: &Members,
    wanted: &[Wanted<'_>],
    done: &HashMap<(Member, Algorithm), Layer>,
    limits: &Limits,
) -> Result<Vec<Converted>> {
    let mut todo: Vec<((Member, Algorithm), &Wanted<'_>)> = Vec::new();
    for layer in wanted {
        let key = (layer.1, layer.2.algorithm());
        if !done.contains_key(&key) && !todo.iter().any(|(known, _)| *known == key) {
            todo.push((key, layer));
        }
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Converted>> {
        let mut converted = Vec::new();
        while let Some((key, (name, member, diff_id))) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
            let layer = convert(members, *member, name, diff_id.algorithm(), limits);
            let layer = layer.map_err(|e| e.context(show(name)))?;
            converted.push((*key, layer));
        }
        Ok(converted)
    };
    let (mut one, other) = std::thread::scope(|scope| {
        let other = (todo.len() > 1).then(|| scope.spawn(work));
        let one = work();
        let other = other.map(|thread| thread.join().unwrap_or_else(|_| Err(Error::failed("a thread stopped"))));
        (one, other)
    });
    if let (Ok(one), Some(other)) = (&mut one, other) {
        one.extend(other?);
    }
    one
}

fn convert(members: &Members, member: Member, name: &str, algorithm: Algorithm, limits: &Limits) -> Result<Layer> {
    let raw = Hashing::new(members.reader(member, 0));
    let mut decoder = Decoder::new(raw, limits)?;
    let mut total = 0;
    let mut diff_id = Hasher::new(algorithm);
    let compression = decoder.compression();
    let mut gzip = match compression {
        Compression::None => Some(Encoder::new(Hashing::new(SpoolWriter::new()?), Compression::Gzip)?),
        _ => None,
    };
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(from_io("the layer", &e)),
        };
        total += read as u64;
        limits.check_unpacked(total, Some(member.size), "the layer")?;
        diff_id.update(&buffer[..read]);
        if let Some(gzip) = &mut gzip {
            gzip.write_all(&buffer[..read]).map_err(|e| temporary_error(&e))?;
        }
    }
    let diff_id = diff_id.finish();
    let mut raw = decoder.into_inner();
    io::copy(&mut raw, &mut io::sink()).map_err(|e| Error::io("the layer", &e))?;
    let (_, digest, size) = raw.finish();
    if size != member.size {
        return Err(Error::content("the layer is cut off"));
    }
    let descriptor = |media_type, digest, size| Descriptor::new(media_type, digest, size);
    if let Some(gzip) = gzip {
        let (spool, digest, size) = gzip.finish().map_err(|e| temporary_error(&e))?.finish();
        let descriptor = descriptor(DOCKER_LAYER_GZIP, digest, size)?;
        return Ok(Layer { descriptor, diff_id, blob: Blob::Spool(spool.finish()) });
    }
    let named = digest_in(name).filter(|named| named.algorithm() == digest.algorithm());
    if named.is_some_and(|named| named != digest && named != diff_id) {
        return Err(Error::content(format!("the layer has other content: it hashes to {digest}")));
    }
    let media_type = if compression == Compression::Zstd { DOCKER_LAYER_ZSTD } else { DOCKER_LAYER_GZIP };
    Ok(Layer { descriptor: descriptor(media_type, digest, member.size)?, diff_id, blob: Blob::Member(member) })
}
