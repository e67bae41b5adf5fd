//! The files of one image: found through its layers, checked, given their capabilities or rid of them, packed into one
//! layer.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::archive::path;
use crate::capability::{FileCapabilities, XATTR};
use crate::error::{Error, Kind, Result};
use crate::image::{self, Image};
use crate::layer::build::{Addition, BuiltLayer, build};
use crate::layer::lookup::{FindError, Found, Stack};
use crate::oci::digest::Digest;
use crate::oci::media_type::Compression;
use crate::patch::{Asked, Edit, Options, dynamic, elf};
use crate::progress::Progress;
use crate::transport::{Place, retried};

/// What would change in one file.
#[derive(Clone, Debug, Serialize)]
pub struct FileChange {
    /// The path that was asked for.
    pub asked: String,
    /// The path that it leads to.
    pub path: String,
    /// The number of the layer that holds it, from 1, lowest first.
    pub layer: usize,
    /// That layer's digest.
    pub layer_digest: Digest,
    /// Octal, such as `0755`.
    pub mode: String,
    /// The owner.
    pub uid: u64,
    /// The group.
    pub gid: u64,
    /// Bytes.
    pub size: u64,
    /// In the words of getcap(8), as [`FileCapabilities::listed`] has them, or `malformed`; none if it has none.
    pub capabilities_before: Option<String>,
    /// In the words of getcap(8); none if it has none.
    pub capabilities: Option<String>,
    /// Whether the file has to be written anew.
    pub changed: bool,
}

/// What is on a file and makes no sense.
const MALFORMED: &str = "malformed";

/// Hard links to one file that are told one by one.
const MOST_LINKS: usize = 10;

/// Layers of an image beyond which container engines fail, Docker as the first of them: its `maxLayerDepth`.
const MAX_LAYERS: usize = 125;

/// What was found and made for one image.
pub(super) struct PatchedFiles {
    pub(super) files: Vec<FileChange>,
    /// None if every file is as asked for.
    pub(super) layer: Option<BuiltLayer>,
    pub(super) warnings: Vec<String>,
}

/// Finds the files `asked` in `image` and makes the layer in which they have their capabilities. Blocks.
pub(super) fn patch_files(
    place: &Place,
    image: &Image,
    options: &Options,
    asked: &[Asked],
    progress: &Arc<dyn Progress>,
) -> Result<PatchedFiles> {
    if asked.is_empty() {
        return Err(Error::usage("no file is named").hint("name the program with --file PATH"));
    }
    let descriptor = |layer: usize| {
        image.manifest.layers.get(layer).ok_or_else(|| Error::failed("internal error: there is no such layer"))
    };
    let mut stack = Stack::new(image.layers()?, options.limits, &options.layers, |layer, scan| {
        retried(|| image::read_layer(place, descriptor(layer)?, progress, &mut *scan))
    });
    stack.expect(asked.iter().flat_map(Asked::paths).map(String::as_bytes));
    let mut result = PatchedFiles { files: Vec::new(), layer: None, warnings: Vec::new() };
    let mut changed: Vec<(Found, Option<FileCapabilities>)> = Vec::new();
    let mut seen = BTreeSet::new();
    for asked in asked {
        let (asked, found) = find(|path| stack.find(path), asked.paths())?;
        let path = path::show(&found.path);
        if !seen.insert(found.path.clone()) {
            continue;
        }
        let (before, after) = capabilities(&found, image, &options.capabilities).map_err(|e| e.context(&path))?;
        warn(&found, &path, image, before.as_ref(), after.as_ref(), &mut result.warnings)?;
        if after.is_some()
            && let Some(linker) = dynamic::interpreter(&found.content)
            && stack.lacks(&linker)
        {
            result.warnings.push(format!(
                "{path} starts only if its dynamic linker {}, which the image does not have, is mounted",
                String::from_utf8_lossy(&linker)
            ));
        }
        let before_value = found.entry.xattrs.get(XATTR.as_bytes());
        let is_changed = found.disputed.is_some() || before_value != after.map(|after| after.encode()).as_ref();
        result.files.push(FileChange {
            asked,
            path,
            layer: found.layer + 1,
            layer_digest: descriptor(found.layer)?.digest.clone(),
            mode: format!("{:04o}", found.entry.mode),
            uid: found.entry.uid,
            gid: found.entry.gid,
            size: found.content.size(),
            capabilities_before: before.map(|before| before.map_or(MALFORMED.to_owned(), |before| before.listed())),
            capabilities: after.map(|after| after.to_string()),
            changed: is_changed,
        });
        if is_changed {
            changed.push((found, after));
        }
    }
    if !changed.is_empty() {
        warn_of_links(&changed, &seen, &mut result.warnings);
        let additions: Vec<Addition<'_>> = changed
            .iter()
            .map(|(found, after)| Addition { found, capability: after.map(|after| after.encode()) })
            .collect();
        result.layer = Some(build(&additions, Compression::Gzip, &options.layers)?);
        let layers = image.manifest.layers.len() + 1;
        if layers > MAX_LAYERS {
            result
                .warnings
                .push(format!("it has {layers} layers now; Docker and others refuse images of more than {MAX_LAYERS}"));
        }
    }
    Ok(result)
}

/// The first of `paths` that the image has.
fn find(mut find: impl FnMut(&[u8]) -> Result<Found, FindError>, paths: &[String]) -> Result<(String, Found)> {
    let mut missing = None;
    for path in paths {
        match find(path.as_bytes()).map_err(Error::from) {
            Ok(found) => return Ok((path.clone(), found)),
            Err(error) if error.kind() == Kind::NotFound => {
                missing.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(missing.unwrap_or_else(|| Error::failed("internal error: no path is asked for")))
}

/// The file's capabilities before, which need not make sense, and after; refuses files that must not have any.
fn capabilities(
    found: &Found,
    image: &Image,
    edit: &Edit,
) -> Result<(Option<Result<FileCapabilities>>, Option<FileCapabilities>)> {
    let before = found.entry.xattrs.get(XATTR.as_bytes()).map(|value| FileCapabilities::decode(value));
    if *edit != Edit::Remove {
        elf::check(&found.content.head(elf::HEAD)?, &image.platform)?;
    }
    let after = match (edit, &before) {
        (Edit::Remove, _) => None,
        (Edit::Add(wanted), None) | (Edit::Replace(wanted), _) => Some(*wanted),
        (Edit::Add(wanted), Some(Ok(before))) => Some(before.merge(wanted)?),
        (Edit::Add(_), Some(Err(error))) => {
            return Err(error.clone().hint("use --replace-caps to put the new ones in place of what is there"));
        }
    };
    Ok((before, after))
}

fn warn(
    found: &Found,
    path: &str,
    image: &Image,
    before: Option<&Result<FileCapabilities>>,
    after: Option<&FileCapabilities>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let entry = &found.entry;
    if let Some(Err(_)) = before {
        warnings.push(format!(
            "the layer below keeps a value for {path} that no kernel stores: container engines do not unpack the image"
        ));
    }
    if entry.mode & 0o4000 != 0 && entry.uid == 0 {
        warnings.push(format!("{path} is setuid root: it has every capability anyway"));
    }
    if after.is_some() && entry.mode & 0o111 == 0 {
        warnings.push(format!("{path} is not executable (mode {:04o})", entry.mode));
    }
    for volume in image.config.volumes()? {
        let prefix = volume.trim_end_matches('/');
        if path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')) {
            warnings.push(format!("{path} is under the volume {volume}, which may hide it when the container runs"));
        }
    }
    let had_no_effect = |before: &FileCapabilities| !before.effective && !before.permitted.is_empty();
    if let (Some(Ok(before)), Some(after)) = (before, after)
        && had_no_effect(before)
        && after.effective
    {
        warnings.push(format!(
            "the capabilities that {path} had were not effective, and now are: a file has one flag for all"
        ));
    }
    Ok(())
}

/// Warns of the other names of changed files, unless they were asked for too, and of links that made it depend on the
/// container engine what a file has.
fn warn_of_links(changed: &[(Found, Option<FileCapabilities>)], asked: &BTreeSet<Vec<u8>>, warnings: &mut Vec<String>) {
    for (found, after) in changed {
        let what = if after.is_some() { "without the new capabilities" } else { "with its capabilities" };
        let unasked = |name: &Vec<u8>| !asked.contains(name);
        let mut names = found.other_names.iter().filter(|name| unasked(name));
        for name in names.by_ref().take(MOST_LINKS) {
            let name = path::show(name);
            warnings.push(format!("{name} is a hard link to the same file; it keeps the old one, {what}"));
        }
        let more = names.count();
        if more > 0 {
            warnings.push(format!("{more} more hard links to {} keep the old file, {what}", path::show(&found.path)));
        }
        if let Some(link) =
            found.disputed.as_ref().filter(|link| unasked(link) || found.other_names.iter().any(unasked))
        {
            let (link, path) = (path::show(link), path::show(&found.path));
            warnings.push(format!(
                "the entry of the hard link {link} has other capabilities than that of its file, and container engines disagree \
                 about which ones count; the new layer makes it certain for {path}"
            ));
        }
    }
}
