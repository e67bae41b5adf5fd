//! The work that a file comes to: one source to one destination each, known in full before anything moves.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::select::Filter;
use super::shard::Shard;
use super::spec::{Image, Spec, Tags};
use super::template::Fields;
use crate::error::{Error, Result};
use crate::oci::reference::{Reference, Target, is_tag};

/// One image that goes to one place.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// What the file says about it.
    pub image: &'a Image,
    /// From where, with a tag or digest if there is one.
    pub source: Reference,
    /// To where, with a tag.
    pub destination: Reference,
}

/// What cannot even be tried.
#[derive(Clone, Debug)]
pub struct Hopeless<'a> {
    /// What the file says about it.
    pub image: &'a Image,
    /// From where, as far as that is known.
    pub source: String,
    /// To where, as far as that is known.
    pub destination: String,
    /// Why.
    pub error: Error,
}

/// The tags of each source that a filter looks through, by its name.
pub type Listings = HashMap<String, Result<Vec<String>>>;

/// The sources whose tags have to be listed, each once.
pub fn to_list(spec: &Spec) -> Vec<&Reference> {
    let mut sources: Vec<&Reference> = Vec::new();
    for image in &spec.images {
        if matches!(image.tags, Tags::Filtered(_)) && !sources.contains(&&image.source) {
            sources.push(&image.source);
        }
    }
    sources
}

/// Everything there is to do, in the order of the file.
///
/// # Errors
/// [`Usage`](crate::error::Kind::Usage) if two images would write the same tag, or one reads what another one writes: what
/// comes out would depend on their order.
pub fn tasks<'a>(spec: &'a Spec, listings: &Listings) -> Result<(Vec<Task<'a>>, Vec<Hopeless<'a>>)> {
    let (mut tasks, mut hopeless) = (Vec::new(), Vec::new());
    for image in &spec.images {
        let sources = match sources(image, listings) {
            Ok(sources) => sources,
            Err(error) => {
                let destinations: Vec<String> = image.destinations.iter().map(Reference::to_string).collect();
                hopeless.push(Hopeless {
                    image,
                    source: image.source.to_string(),
                    destination: destinations.join(", "),
                    error,
                });
                continue;
            }
        };
        for (source, tag) in sources {
            for place in &image.destinations {
                match destination(image, &source, tag.as_deref(), place) {
                    Ok(destination) => tasks.push(Task { image, source: source.clone(), destination }),
                    Err(error) => hopeless.push(Hopeless {
                        image,
                        source: source.to_string(),
                        destination: place.to_string(),
                        error: error.context(&image.place),
                    }),
                }
            }
        }
    }
    refuse_conflicts(&tasks)?;
    refuse_growth(spec, &tasks)?;
    Ok((tasks, hopeless))
}

/// The sources of `image`, each with the tag that it is called by.
fn sources(image: &Image, listings: &Listings) -> Result<Vec<(Reference, Option<String>)>> {
    let tagged = |tag: &String| (image.source.with_target(Some(Target::Tag(tag.clone()))), Some(tag.clone()));
    match &image.tags {
        Tags::OfSource => {
            // In an archive, the tag may be a part of a whole name.
            let target = image.source.name().map_or(image.source.target().cloned(), |(_, target)| target);
            let tag = match target {
                Some(Target::Tag(tag)) => Some(tag),
                _ => None,
            };
            Ok(vec![(image.source.clone(), tag)])
        }
        Tags::Named(tags) => {
            let source = |named: &super::select::NamedTag| match &named.digest {
                Some(digest) => {
                    (image.source.with_target(Some(Target::Digest(digest.clone()))), Some(named.tag.clone()))
                }
                None => tagged(&named.tag),
            };
            Ok(tags.iter().map(source).collect())
        }
        Tags::Filtered(filter) => {
            let name = image.source.to_string();
            let tags = listings
                .get(&name)
                .cloned()
                .unwrap_or_else(|| Err(Error::failed(format!("{name}: the tags were not listed"))))?;
            let selected = filter.select(&tags);
            if selected.is_empty() {
                return Err(Error::not_found(format!("none of the {} tags of {name} passes", tags.len()))
                    .hint("a filter that selects nothing is taken for a mistake; look at it again"));
            }
            Ok(selected.iter().map(tagged).collect())
        }
    }
}

fn destination(image: &Image, source: &Reference, tag: Option<&str>, place: &Reference) -> Result<Reference> {
    let name = source.name();
    let (tag, place) = match place.target() {
        // In an archive, a tag is only a part of a name.
        Some(Target::Tag(tag)) if matches!(place, Reference::Archive { .. }) => (tag.clone(), &place.with_target(None)),
        Some(_) => return Ok(place.clone()),
        None => {
            let repository = name.as_ref().map(|(repository, _)| repository.path.as_str());
            (image.template.fill(Fields { tag, repository })?, place)
        }
    };
    let tag = match (place, &name) {
        (Reference::Archive { .. }, Some((repository, _))) if is_tag(&tag) => format!("{repository}:{tag}"),
        _ => tag,
    };
    // Each transport has its own idea of a tag.
    let destination = format!("{place}:{tag}").parse::<Reference>();
    destination
        .ok()
        .filter(|made| made.with_target(None) == *place && made.target() == Some(&Target::Tag(tag.clone())))
        .ok_or_else(|| {
            Error::usage(format!("'{tag}' is no tag at {place}"))
                .hint("tag-template makes the tag; in a registry it has letters, digits and _.- only")
        })
}

fn refuse_conflicts(tasks: &[Task]) -> Result<()> {
    let mut formats = HashMap::new();
    for task in tasks {
        if let Reference::Archive { format, path, .. } = &task.destination
            && *formats.entry(real(path)).or_insert(*format) != *format
        {
            return Err(Error::usage(format!("{} is written as another kind of archive too", task.destination))
                .context(&task.image.place)
                .hint("an oci-archive is a docker-archive as well; name it in one way"));
        }
    }
    let mut writers: HashMap<String, usize> = HashMap::new();
    for (number, task) in tasks.iter().enumerate() {
        if let Some(other) = writers.insert(identity(&task.destination), number).and_then(|other| tasks.get(other)) {
            let message = match other.image.place == task.image.place {
                true => format!("{} and {} would both be written to {}", other.source, task.source, task.destination),
                false => format!("{} is written by {} too", task.destination, other.image.place),
            };
            return Err(Error::usage(message)
                .context(&task.image.place)
                .hint("tag-template or another destination keeps them apart"));
        }
    }
    for (number, task) in tasks.iter().enumerate() {
        let writer = writers.get(&identity(&task.source)).filter(|writer| **writer != number);
        if let Some(other) = writer.and_then(|writer| tasks.get(*writer)) {
            let message = format!("{} is read here and written by {}", task.source, other.image.place);
            return Err(Error::usage(message)
                .context(&task.image.place)
                .hint("images of one file do not build on each other; give both the same source"));
        }
    }
    Ok(())
}

/// Refuses a tag that passes a filter of the repository it is written to: the next run would take it for a source.
fn refuse_growth(spec: &Spec, tasks: &[Task]) -> Result<()> {
    let mut filters: HashMap<String, Vec<(&Image, &Filter)>> = HashMap::new();
    for image in &spec.images {
        if let Tags::Filtered(filter) = &image.tags {
            filters.entry(identity(&image.source)).or_default().push((image, filter));
        }
    }
    for task in tasks {
        let Some(Target::Tag(tag)) = task.destination.target() else { continue };
        let readers = filters.get(&identity(&task.destination.with_target(None))).into_iter().flatten();
        for (image, filter) in readers.filter(|_| identity(&task.source) != identity(&task.destination)) {
            if !filter.select(std::slice::from_ref(tag)).is_empty() {
                let message =
                    format!("{} is written by {}, and passes this filter", task.destination, task.image.place);
                return Err(Error::usage(message)
                    .context(&image.place)
                    .hint("the next run would read it too; regex: {deny: […]} keeps it out"));
            }
        }
    }
    Ok(())
}

/// What is the same for all spellings of the same tag.
pub(super) fn identity(reference: &Reference) -> String {
    let mut reference = reference.clone();
    match &mut reference {
        Reference::Registry { target: target @ None, .. } => *target = Some(Target::Tag("latest".to_owned())),
        Reference::Layout { path, .. } | Reference::Archive { path, .. } => {
            *path = real(path);
        }
        _ => {}
    }
    reference.to_string()
}

/// A path without links and `..`, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, real)) = there else { return absolute };
    // A slash at the end is no component.
    absolute.strip_prefix(above).map_or_else(|_| absolute.clone(), |rest| real.join(rest).components().collect())
}

impl Task<'_> {
    /// Whether it is part of `shard`. What goes into one archive stays together.
    pub fn is_in(&self, shard: Shard) -> bool {
        shard.has(&match &self.destination {
            archive @ Reference::Archive { .. } => archive.with_target(None).to_string(),
            destination => destination.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;

    fn work(images: &str, listings: &[(&str, &[&str])]) -> Result<(Vec<String>, Vec<String>)> {
        let spec = Spec::parse(&format!("version: 1\nimages:\n{images}"), "f").unwrap();
        let names = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect());
        let listings = listings.iter().map(|(source, tags)| ((*source).to_owned(), names(tags))).collect();
        let (tasks, hopeless) = tasks(&spec, &listings)?;
        let tasks = tasks.iter().map(|task| format!("{} > {}", task.source, task.destination)).collect();
        Ok((tasks, hopeless.iter().map(|h| format!("{} > {}: {}", h.source, h.destination, h.error)).collect()))
    }

    #[test]
    fn a_file_comes_to_sources_and_destinations() {
        let digest = Digest::of(b"x");
        let pinned = format!("- {{source: r.io/a, destination: s.io/a, tags: ['3.9@{digest}']}}");
        let (from, to) = (format!("r.io/a@{digest} > s.io/a:3.9"), format!("r.io/a@{digest} > s.io/a:x"));
        let by_digest = format!("- {{source: r.io/a@{digest}, destination: 's.io/a:x'}}");
        for (images, listings, expected) in [
            ("- {source: r.io/a:1, destination: s.io/b}", &[][..], &["r.io/a:1 > s.io/b:1"][..]),
            (
                "- {source: r.io/a:1, destination: [s.io/b, 'oci:d:2']}",
                &[],
                &["r.io/a:1 > s.io/b:1", "r.io/a:1 > oci:d:2"],
            ),
            (
                "- {source: r.io/x/a, destination: s.io/b, tags: [1, 2], tag-template: '{{ .Name }}-{{ .Tag }}'}",
                &[],
                &["r.io/x/a:1 > s.io/b:a-1", "r.io/x/a:2 > s.io/b:a-2"],
            ),
            (
                "- {source: r.io/x/a, destination: 'oci:d', tags: [1], tag-template: '{{ .Repository }}:{{ .Tag }}'}",
                &[],
                &["r.io/x/a:1 > oci:d:x/a:1"],
            ),
            (
                "- {source: r.io/a, destination: s.io/b, tags: {regex: {allow: ['[12]']}}}",
                &[("r.io/a", &["3", "2", "1"][..])],
                &["r.io/a:1 > s.io/b:1", "r.io/a:2 > s.io/b:2"],
            ),
            (
                "- {source: r.io/a:1, destination: ['oci-archive:f', 'docker-archive:g', 'oci-archive:h:x', 'oci-archive:i:a/b:c']}",
                &[],
                &[
                    "r.io/a:1 > oci-archive:f:r.io/a:1",
                    "r.io/a:1 > docker-archive:g:r.io/a:1",
                    "r.io/a:1 > oci-archive:h:r.io/a:x",
                    "r.io/a:1 > oci-archive:i:a/b:c",
                ],
            ),
            ("- {source: 'oci:d:1', destination: 'oci-archive:f'}", &[], &["oci:d:1 > oci-archive:f:1"]),
            ("- {source: 'oci:d', destination: 's.io/b:1'}", &[], &["oci:d > s.io/b:1"]),
            (&pinned, &[], &[from.as_str()]),
            (&by_digest, &[], &[to.as_str()]),
        ] {
            let (tasks, hopeless) = work(images, listings).unwrap();
            assert_eq!(
                (tasks, hopeless.len()),
                (expected.iter().map(|task| (*task).to_owned()).collect(), 0),
                "{images}"
            );
        }
    }

    #[test]
    fn what_cannot_be_done_does_not_stop_the_rest() {
        let digest = Digest::of(b"x");
        let no_tag = format!("- {{source: r.io/a@{digest}, destination: s.io/a}}");
        for (images, why) in [
            (no_tag.as_str(), "the source has no tag"),
            ("- {source: 'oci:d:1', destination: s.io/a, tag-template: '{{ .Name }}'}", "not in a registry"),
            (
                "- {source: r.io/x/a:1, destination: s.io/a, tag-template: '{{ .Repository }}'}",
                "'x/a' is no tag at s.io/a",
            ),
            ("- {source: r.io/a:1, destination: s.io/a, tag-template: '{{ .Tag }}@sha256:00'}", "is no tag at s.io/a"),
            ("- {source: 'oci:d:a/b', destination: s.io/a}", "'a/b' is no tag at s.io/a"),
            ("- {source: r.io/a, destination: s.io/a, tags: {newest: 1}}", "none of the 2 tags of r.io/a passes"),
            ("- {source: r.io/unlisted, destination: s.io/a, tags: {newest: 1}}", "not listed"),
        ] {
            let images = format!("{images}\n- {{source: r.io/good:1, destination: s.io/good}}");
            let (tasks, hopeless) = work(&images, &[("r.io/a", &["latest", "3"][..])]).unwrap();
            assert_eq!(tasks, ["r.io/good:1 > s.io/good:1"], "{images}");
            assert!(hopeless.len() == 1 && hopeless[0].contains(why), "{why} in {hopeless:?}");
        }
    }

    #[test]
    fn no_filter_takes_what_is_written_for_a_source_in_the_next_run() {
        let listed = &[("r.io/a", &["1", "1.0.0"][..]), ("s.io/x", &[])];
        for (images, why) in [
            (
                "- {source: r.io/a, destination: r.io/a, tags: {regex: {allow: ['1.*']}}, tag-template: '{{ .Tag }}-x'}",
                "f:3:3: r.io/a:1-x is written by f:3:3, and passes this filter",
            ),
            (
                "- {source: r.io/a:1, destination: s.io/x}\n- {source: s.io/x, destination: s.io/y, tags: {regex: {}}}",
                "f:4:3: s.io/x:1 is written by f:3:3, and passes",
            ),
        ] {
            let error = work(images, listed).unwrap_err();
            assert!(error.to_string().contains(why), "{why} in {error}");
        }
        for fine in [
            "- {source: r.io/a, destination: r.io/a, tags: {regex: {allow: ['1.*']}}, patch: true}",
            "- {source: r.io/a, destination: r.io/a, tags: {newest: 9}, tag-template: '{{ .Tag }}-x'}",
            "- {source: r.io/a, destination: r.io/a, tags: {regex: {deny: ['.*-x']}}, tag-template: '{{ .Tag }}-x'}",
        ] {
            assert!(work(fine, listed).is_ok(), "{fine}");
        }
    }

    #[test]
    fn one_tag_has_one_writer_and_nothing_reads_it() {
        for (images, why) in [
            (
                "- {source: r.io/a:1, destination: s.io/x}\n- {source: r.io/b:1, destination: s.io/x}",
                "f:4:3: s.io/x:1 is written by f:3:3 too",
            ),
            (
                "- {source: a:1, destination: b}\n- {source: c:1, destination: index.docker.io/library/b}",
                "f:4:3: docker.io/library/b:1 is written",
            ),
            (
                "- {source: r.io/a, destination: s.io/x, tags: [1, 2], tag-template: x}",
                "r.io/a:1 and r.io/a:2 would both be written to s.io/x:x",
            ),
            ("- {source: r.io/a:1, destination: [s.io/x, s.io/x]}", "would both be written"),
            (
                "- {source: r.io/a:1, destination: ['oci-archive:x.tar', 'docker-archive:./x.tar:a:1']}",
                "f:3:3: docker-archive:./x.tar:a:1 is written as another kind of archive too",
            ),
            ("- {source: r.io/a:1, destination: ['oci:d:1', 'oci:./d/:1']}", "would both be written"),
            (
                "- {source: r.io/a:1, destination: s.io/x}\n- {source: s.io/x:1, destination: s.io/y}",
                "f:4:3: s.io/x:1 is read here and written by f:3:3",
            ),
            (
                "- {source: s.io/x:1, destination: s.io/y}\n- {source: r.io/a:1, destination: s.io/x}",
                "f:3:3: s.io/x:1 is read here and written by f:4:3",
            ),
        ] {
            let error = work(images, &[]).unwrap_err();
            assert!(error.to_string().contains(why), "{why} in {error}");
        }
        for fine in [
            "- {source: r.io/a:1, destination: r.io/a, patch: true}",
            "- {source: r.io/a:1, destination: 'oci-archive:x.tar'}\n- {source: r.io/a:2, destination: 'oci-archive:x.tar'}",
        ] {
            assert!(work(fine, &[]).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_layout_is_the_same_by_every_way_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path).display().to_string();
        std::fs::create_dir_all(at("lay/sub")).unwrap();
        std::os::unix::fs::symlink(at("lay"), at("link")).unwrap();
        for (one, other, same) in [
            ("lay", "link", true),
            ("lay", "lay/sub/..", true),
            ("lay/new", "link/new", true),
            ("lay", "lay/sub", false),
            ("gone", "gone/../lay", false),
        ] {
            let images = format!(
                "- {{source: r.io/a:1, destination: 'oci:{}:x'}}\n- {{source: r.io/a:2, destination: 'oci:{}:x'}}",
                at(one),
                at(other)
            );
            assert_eq!(work(&images, &[]).is_err(), same, "{one} {other}");
        }
    }
}
