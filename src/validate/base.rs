//! Comparison of a patched image with its base. What was declared is found by making the declared edits once more:
//! a difference between that and the image is one that was not declared.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::archive::path;
use crate::capability::{FileCapabilities, XATTR};
use crate::error::Result;
use crate::image::{self, Image, Node};
use crate::layer::diff::{self, Difference};
use crate::layer::tree::Tree;
use crate::oci::digest::Digest;
use crate::oci::json::Object;
use crate::oci::manifest::{BASE_DIGEST, BASE_NAME, Child, Document, Index};
use crate::oci::media_type::{Family, Kind};
use crate::patch::{ANNOTATIONS, LABELS, RECORD, Record, Request, edit_config, history};
use crate::transport::{Place, Root};
use crate::validate::Subject;

/// Differences in the file system that are told one by one, of those that were declared and of those that were not.
const MOST: usize = 1000;

/// One difference between an image and its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// A path in the file system; or `config`, `manifest` or `index` and a JSON pointer into it.
    pub place: String,
    /// What it was, and what it is.
    pub change: String,
    /// Whether the patch said that it would do this.
    pub declared: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.change)
    }
}

/// The base image, with everything but its layers.
pub(super) struct Base<'a> {
    subject: Subject<'a>,
    tree: Node,
    images: Vec<Image>,
}

impl<'a> Base<'a> {
    pub(super) async fn load(subject: Subject<'a>) -> Result<Base<'a>> {
        let tree = image::tree(subject.place, subject.root).await?;
        let images = image::images(subject.place, &tree, &[]).await?;
        Ok(Base { subject, tree, images })
    }

    pub(super) fn place(&self) -> &Place {
        self.subject.place
    }

    /// The image that one of `images` was made from: the one for its platform. An index may have several for one
    /// platform, whose order a patch keeps.
    pub(super) fn of(&self, image: &Image, images: &[Image]) -> Option<(&Self, &Image)> {
        let same = |other: &&Image| other.platform == image.platform;
        let before = images.iter().take_while(|other| other.descriptor.digest != image.descriptor.digest);
        self.images.iter().filter(same).nth(before.filter(same).count()).map(|base| (self, base))
    }

    /// Platforms that only one of the two has.
    pub(super) fn missing(&self, images: &[Image]) -> Vec<String> {
        let lacks = |images: &[Image], one: &Image| !images.iter().any(|other| other.platform == one.platform);
        let gone = self.images.iter().filter(|base| lacks(images, base));
        let new = images.iter().filter(|image| lacks(&self.images, image));
        let gone = gone.map(|base| format!("{} is in the base, but not in the image", base.platform));
        gone.chain(new.map(|image| format!("{} is not in the base", image.platform))).collect()
    }

    /// The differences between two images for one platform, whose files are in `before` and `after`.
    pub(super) async fn compare(
        &self,
        place: &Place,
        image: &Image,
        base: &Image,
        before: &Tree,
        after: &Tree,
    ) -> Result<Vec<Change>> {
        let manifest = place.manifest(&image.descriptor).await?;
        let base_manifest = self.subject.place.manifest(&base.descriptor).await?;
        let config = image.config.to_bytes()?;
        let record = Record::of(&manifest.bytes, &config)?;
        let mut changes = file_changes(before, after, record.as_ref());
        let Some(record) = record else {
            changes.extend(json_changes("config", &base.config.to_bytes()?, &config, None)?);
            changes.extend(json_changes("manifest", &base_manifest.bytes, &manifest.bytes, None)?);
            return Ok(changes);
        };
        let pairs = self.pairs(image.config.labels()?.get(BASE_NAME).cloned(), &manifest)?;
        let docker = image.manifest.family == Family::Docker;

        let mut expected = base.config.clone();
        edit_config(&mut expected, &record.request)?;
        let added = image.manifest.layers.get(base.manifest.layers.len());
        if let (Some(_), Some(diff_id)) = (added, image.config.diff_ids()?.last()) {
            expected.add_layer(diff_id)?;
        }
        expected.add_history(&history(&expected, &record.request, added.is_none())?)?;
        if docker {
            pairs.iter().try_for_each(|(name, value)| expected.set_label(name, value))?;
        }
        let mut expected = expected.to_bytes()?;
        if docker {
            expected = Record::seal(&record.request, record.files.clone(), &expected, LABELS)?;
        }
        changes.extend(json_changes("config", &base.config.to_bytes()?, &config, Some(&expected))?);

        let new_config =
            base.manifest.config.with_content(image.manifest.config.digest.clone(), image.manifest.config.size)?;
        let annotations = if docker { &[][..] } else { &pairs };
        let mut expected = base.manifest.with_layer(&new_config, added, annotations)?;
        if !docker {
            expected = Record::seal(&record.request, record.files, &expected, ANNOTATIONS)?;
        }
        changes.extend(json_changes("manifest", &base_manifest.bytes, &manifest.bytes, Some(&expected))?);
        Ok(changes)
    }

    /// What a patch of this base says about it. The name is the image's own word; the digest is ours to check.
    fn pairs(&self, label: Option<String>, document: &Root) -> Result<Vec<(String, String)>> {
        let name = document.document.annotation(BASE_NAME)?.or(label);
        let digest = (BASE_DIGEST.to_owned(), self.subject.root.descriptor.digest.to_string());
        Ok(name.map(|name| (BASE_NAME.to_owned(), name)).into_iter().chain([digest]).collect())
    }

    /// The differences between the indexes, if both are some.
    pub(super) fn compare_indexes(&self, root: &Root, tree: &Node) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        match (&self.subject.root.document, &root.document) {
            (Document::Index(_), Document::Index(_)) => {
                let kept: HashSet<&Digest> = tree.manifests().into_iter().map(|(d, _)| &d.digest).collect();
                let images = self.images.iter().map(|image| &image.descriptor.digest);
                let replaced = images.filter(|digest| !kept.contains(digest)).map(Digest::to_string).collect();
                self.compare_index(&self.tree, tree, root, &replaced, &mut changes)?;
            }
            (Document::Manifest(_), Document::Manifest(_)) => {}
            _ => changes.push(Change {
                place: "index".to_owned(),
                change: "one is an index, the other a single manifest".to_owned(),
                declared: false,
            }),
        }
        Ok(changes)
    }

    fn compare_index(
        &self,
        base: &Node,
        node: &Node,
        root: &Root,
        replaced: &HashSet<String>,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        let (Node::Index(_, before, base_nodes, _), Node::Index(descriptor, after, nodes, _)) = (base, node) else {
            return Ok(());
        };
        let after_bytes = after.to_bytes();
        let record = match Record::read(&after_bytes, ANNOTATIONS)? {
            Some(record) => Some(record.request),
            None => None,
        };
        let declared = match (&record, after.family) {
            (None, Family::Oci) => None,
            (request, family) => {
                let children = replaced_children(before, after, replaced)?;
                let pairs = if family == Family::Docker { Vec::new() } else { self.pairs(None, root)? };
                let bytes = before.with_children(&children, &pairs)?;
                Some(seal(request.as_ref(), bytes)?)
            }
        };
        let name = if descriptor.digest == root.descriptor.digest { "index" } else { "nested index" };
        changes.extend(json_changes(name, &before.to_bytes(), &after_bytes, declared.as_deref())?);
        let nested = |nodes: &[Option<Node>]| -> Vec<Node> {
            nodes.iter().flatten().filter(|node| matches!(node, Node::Index(..))).cloned().collect()
        };
        for (base, node) in nested(base_nodes).iter().zip(&nested(nodes)) {
            self.compare_index(base, node, root, replaced, changes)?;
        }
        Ok(())
    }
}

fn seal(request: Option<&Request>, bytes: Vec<u8>) -> Result<Vec<u8>> {
    match request {
        Some(request) => Record::seal(request, Default::default(), &bytes, ANNOTATIONS),
        None => Ok(bytes),
    }
}

/// What a patch may do to the children of an index: replace the content of an image or a nested index, and drop what
/// attests an image that was `replaced`, before or after it.
fn replaced_children(before: &Index, after: &Index, replaced: &HashSet<String>) -> Result<Vec<Child>> {
    let mut new = after.manifests.iter();
    let mut children = Vec::with_capacity(before.manifests.len());
    for old in &before.manifests {
        if old.attests().is_some_and(|digest| replaced.contains(&digest)) {
            children.push(Child::Drop);
            continue;
        }
        children.push(match new.next() {
            Some(child) if replaced.contains(old.digest.as_str()) || matches!(old.kind(), Kind::Index(_)) => {
                Child::Replace(old.with_content(child.digest.clone(), child.size)?)
            }
            _ => Child::Keep,
        });
    }
    Ok(children)
}

/// The differences in the file system, sorted by path. Beyond the first of each kind they are only counted.
fn file_changes(before: &Tree, after: &Tree, record: Option<&Record>) -> Vec<Change> {
    let (mut told, mut counts) = (Vec::new(), [0_usize; 2]);
    diff::diff(before, after, |difference| {
        let change = file_change(&difference, before, after, record);
        let count = &mut counts[usize::from(change.declared)];
        *count += 1;
        if *count <= MOST {
            told.push((difference.path, change));
        }
    });
    told.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut changes: Vec<Change> = told.into_iter().map(|(_, change)| change).collect();
    for (count, declared) in counts.into_iter().zip([false, true]).filter(|(count, _)| *count > MOST) {
        let (place, change) = ("/".to_owned(), format!("{} more paths differ", count - MOST));
        changes.push(Change { place, change, declared });
    }
    changes
}

/// A difference in the file system is declared if it is nothing but the capability that the record gives the file, its
/// removal if the record gives it none, or the end of hard links to that file.
fn file_change(difference: &Difference, before: &Tree, after: &Tree, record: Option<&Record>) -> Change {
    let place = path::show(&difference.path);
    let change = match &difference.what {
        diff::Change::Added(kind) => format!("added, {}", kind.describe()),
        diff::Change::Removed(kind) => format!("removed, {}", kind.describe()),
        diff::Change::Changed(fields) => fields.iter().map(field_text).collect::<Vec<_>>().join(", "),
    };
    let declared = match (&difference.what, record) {
        (diff::Change::Changed(fields), Some(record)) => {
            let value = after.get(&difference.path).and_then(|node| node.entry.xattrs.get(XATTR.as_bytes()));
            let is_patched = match (record.files.get(&place), value) {
                (Some(Some(declared)), Some(value)) => {
                    FileCapabilities::decode(value).is_ok_and(|found| found.listed() == *declared)
                }
                (Some(None), None) => true,
                _ => false,
            };
            let had_patched_name =
                record.files.keys().any(|file| before.same_file(&difference.path, &path::normalise(file.as_bytes())));
            fields.iter().all(|field| match field.name.as_str() {
                "xattr security.capability" => is_patched,
                // libarchive's copy of the old value goes with it.
                "PAX LIBARCHIVE.xattr.security.capability" => is_patched && field.after == "none",
                "hard link to" => had_patched_name,
                _ => false,
            })
        }
        _ => false,
    };
    Change { place, change, declared }
}

fn field_text(field: &diff::Field) -> String {
    format!("{} {} → {}", field.name, field.before, field.after)
}

/// The differences between two JSON documents; declared are those that `expected` has too.
fn json_changes(name: &str, before: &[u8], after: &[u8], expected: Option<&[u8]>) -> Result<Vec<Change>> {
    let after = Object::parse(after)?;
    let mut changes = Vec::new();
    compare_objects(name, &Object::parse(before)?, &after, &mut changes)?;
    let Some(expected) = expected else { return Ok(changes) };
    let mut wrong = Vec::new();
    compare_objects(name, &Object::parse(expected)?, &after, &mut wrong)?;
    for change in &mut changes {
        change.declared = !wrong.iter().any(|wrong| wrong.place == change.place);
    }
    // What was declared but did not happen is a difference too.
    changes.extend(
        wrong.into_iter().filter(|wrong| !changes.iter().any(|change| change.place == wrong.place)).collect::<Vec<_>>(),
    );
    let is_seal = |change: &&mut Change| !change.declared && change.place.ends_with(&format!("/{RECORD}"));
    for seal in changes.iter_mut().filter(is_seal) {
        "the seal is broken: somebody edited the image after it was patched".clone_into(&mut seal.change);
    }
    Ok(changes)
}

fn compare_objects(pointer: &str, before: &Object, after: &Object, changes: &mut Vec<Change>) -> Result<()> {
    let new = after.names().filter(|name| !before.contains(name));
    for name in before.names().chain(new) {
        let place = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
        let change = match (before.raw(name), after.raw(name)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) if a.starts_with('{') && b.starts_with('{') => {
                compare_objects(&place, &Object::parse(a.as_bytes())?, &Object::parse(b.as_bytes())?, changes)?;
                continue;
            }
            (Some(a), Some(b)) => match (serde_json::from_str(a), serde_json::from_str(b)) {
                (Ok(a), Ok(b)) => compare_arrays(a, b),
                _ => format!("{} → {}", cut(a), cut(b)),
            },
            (None, Some(b)) => format!("added {}", cut(b)),
            (Some(a), None) => format!("removed {}", cut(a)),
            (None, None) => continue,
        };
        changes.push(Change { place, change, declared: false });
    }
    Ok(())
}

fn compare_arrays(before: Vec<Box<RawValue>>, after: Vec<Box<RawValue>>) -> String {
    let lacks = |list: &[Box<RawValue>], value: &RawValue| !list.iter().any(|other| other.get() == value.get());
    let removed =
        before.iter().filter(|value| lacks(&after, value)).map(|value| format!("removed {}", cut(value.get())));
    let added = after.iter().filter(|value| lacks(&before, value)).map(|value| format!("added {}", cut(value.get())));
    let all: Vec<String> = removed.chain(added).collect();
    if all.is_empty() { "elements in another order or number".to_owned() } else { all.join(", ") }
}

fn cut(text: &str) -> String {
    const MOST: usize = 160;
    if text.chars().count() <= MOST { text.to_owned() } else { text.chars().take(MOST).chain(['…']).collect() }
}
