//! Does what a file comes to: several images at once, each for itself, and then says what became of each.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, stream};

use super::report::{Change, End, Report, Row};
use super::shard::Shard;
use super::spec::Spec;
use super::tasks::{self, Hopeless, Listings, Task, identity};
use crate::copy::{self, Memory, Route};
use crate::error::Result;
use crate::oci::reference::Reference;
use crate::patch::{self, State};
use crate::progress::Progress;
use crate::transport::{Place, Transports};

/// Repositories whose tags are listed at the same time.
const LISTINGS: usize = 4;

/// How to go about it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which part of the work.
    pub shard: Shard,
    /// Only find out what would change.
    pub check: bool,
    /// Begin nothing more after the first failure.
    pub fail_fast: bool,
    /// How many images at once.
    pub images: usize,
    /// How many blobs of each move at once.
    pub jobs: usize,
    /// When patched images were created, in seconds since 1970, from `SOURCE_DATE_EPOCH`.
    pub created: Option<u64>,
}

/// Does `options.shard` of what `spec` comes to. What fails is told in the report, and the rest is done.
///
/// # Errors
/// [`Usage`](crate::error::Kind::Usage) if images get into each other's way; then nothing was touched.
pub async fn run(
    spec: &Spec,
    transports: &Transports,
    options: &Options,
    progress: &Arc<dyn Progress>,
) -> Result<Report> {
    let run = Run {
        transports,
        options,
        progress,
        memory: Memory::default(),
        layers: patch::Cache::default(),
        places: Mutex::default(),
    };
    let listings = run.list(tasks::to_list(spec)).await;
    let (mut tasks, hopeless) = tasks::tasks(spec, &listings)?;
    tasks.retain(|task| task.is_in(options.shard));

    let incomplete: HashSet<String> =
        hopeless.iter().flat_map(|hopeless| &hopeless.image.destinations).map(without_tag).collect();
    let fail = |hopeless: Hopeless| Row {
        source: hopeless.source,
        destination: hopeless.destination,
        end: End::Failed { error: hopeless.error },
    };
    let failed: Vec<Row> = hopeless.into_iter().map(fail).collect();
    let mut ends: Vec<End> = vec![End::Skipped; tasks.len()];
    if failed.is_empty() || !options.fail_fast {
        let groups = stream::iter(groups(&tasks).into_iter().map(|group| run.group(group, &tasks)));
        let mut done = groups.buffer_unordered(options.images.max(1));
        while let Some(group) = done.next().await {
            let has_failed = group.iter().any(|(_, end)| matches!(end, End::Failed { .. }));
            for (number, end) in group {
                if let Some(slot) = ends.get_mut(number) {
                    *slot = end;
                }
            }
            if has_failed && options.fail_fast {
                break;
            }
        }
    }
    if !options.check {
        run.finish(&tasks, &mut ends, &incomplete).await;
    }
    let row = |(task, end): (&Task, End)| Row {
        source: task.source.to_string(),
        destination: task.destination.to_string(),
        end,
    };
    Ok(Report::of(failed.into_iter().chain(tasks.iter().zip(ends).map(row)).collect()))
}

/// Tasks that have to be done one after the other: images that go into one file, in the order that they are to have there.
/// All others are on their own.
fn groups(tasks: &[Task<'_>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (number, task) in tasks.iter().enumerate() {
        let is_own = matches!(task.destination, Reference::Registry { .. } | Reference::Layout { .. });
        let name = if is_own { identity(&task.destination) } else { without_tag(&task.destination) };
        match places.get(&name).and_then(|group| groups.get_mut(*group)) {
            Some(group) => group.push(number),
            None => {
                places.insert(name, groups.len());
                groups.push(vec![number]);
            }
        }
    }
    groups
}

fn without_tag(reference: &Reference) -> String {
    identity(&reference.with_target(None))
}

/// What the images of one run share.
struct Run<'a> {
    transports: &'a Transports,
    options: &'a Options,
    progress: &'a Arc<dyn Progress>,
    memory: Memory,
    layers: patch::Cache,
    /// By their names without a tag; an archive is written once, with all images that go into it.
    places: Mutex<HashMap<String, Place>>,
}

impl Run<'_> {
    /// The tags of each source, each listed once.
    async fn list(&self, sources: Vec<&Reference>) -> Listings {
        let list = |source: &Reference| {
            let source = source.clone();
            async move {
                let tags = async {
                    match self.source(&source)? {
                        Place::Registry(repository) => repository.tags().await,
                        place => place.names().await,
                    }
                };
                (source.to_string(), tags.await.map_err(|e| e.context(&source)))
            }
        };
        stream::iter(sources.into_iter().map(list)).buffer_unordered(LISTINGS).collect().await
    }

    fn source(&self, reference: &Reference) -> Result<Place> {
        self.place("from", reference)
    }

    /// The place of `reference`, the same one for each image.
    fn place(&self, role: &str, reference: &Reference) -> Result<Place> {
        let name = format!("{role} {}", without_tag(reference));
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(&name) {
            return Ok(place.clone());
        }
        let place = Place::of(reference, self.transports)?;
        places.insert(name, place.clone());
        Ok(place)
    }

    fn destination(&self, task: &Task) -> Result<Place> {
        Ok(match self.place("to", &task.destination)? {
            // Images of several sources go into it, and each has its whole name.
            Place::Archive(archive) => Place::Archive(archive.for_push(None)),
            place => place.for_push(&task.source),
        })
    }

    /// Does these tasks one after the other.
    async fn group(&self, numbers: Vec<usize>, tasks: &[Task<'_>]) -> Vec<(usize, End)> {
        let mut ends = Vec::new();
        for (number, task) in numbers.into_iter().filter_map(|number| Some((number, tasks.get(number)?))) {
            let end = self.one(task).await.unwrap_or_else(|error| End::Failed { error });
            tracing::info!("{}: {}", task.destination, end.name());
            let has_failed = matches!(end, End::Failed { .. });
            ends.push((number, end));
            if has_failed && self.options.fail_fast {
                break;
            }
        }
        ends
    }

    async fn one(&self, task: &Task<'_>) -> Result<End> {
        let (from, to) = (self.source(&task.source)?, self.destination(task)?);
        let route = Route { from: &from, source: &task.source, to: &to, destination: &task.destination };
        match task.image.options()? {
            Some(options) => self.patch(&route, options).await,
            None => self.copy(&route, task).await,
        }
    }

    async fn patch(&self, route: &Route<'_>, options: patch::Options) -> Result<End> {
        let options = patch::Options {
            created: self.options.created,
            jobs: self.options.jobs,
            memory: self.memory.clone(),
            layers: self.layers.clone(),
            limits: self.transports.limits,
            ..options
        };
        let why = match patch::state(route, &options).await? {
            State::Unchanged(digest) => return Ok(End::Unchanged { digest }),
            State::Absent => NEW,
            State::Outdated(why) => why,
        };
        if self.options.check {
            return Ok(End::WouldPatch(Change { why, digest: None, moves: None }));
        }
        Ok(match patch::apply(route, &options, false, self.progress).await? {
            patch::Outcome::Unchanged { digest, .. } => End::Unchanged { digest },
            patch::Outcome::Planned { plan, moves } | patch::Outcome::Patched { plan, moves, .. } => {
                End::Patched(Change { why, digest: Some(plan.digest), moves: Some(moves) })
            }
        })
    }

    async fn copy(&self, route: &Route<'_>, task: &Task<'_>) -> Result<End> {
        let options = copy::Options {
            platforms: task.image.platforms.clone(),
            referrers: task.image.referrers,
            foreign_layers: false,
            // A mirror follows its source.
            replace: true,
            force: task.image.force,
            dry_run: self.options.check,
            jobs: self.options.jobs,
            memory: self.memory.clone(),
        };
        let change = |copied: copy::Copied| {
            let why = match copied.replaced {
                Some(_) => "the source is another image now",
                None if copied.only_referrers => "something that refers to it was missing",
                None => NEW,
            };
            Change { why, digest: Some(copied.digest), moves: Some(copied.moves) }
        };
        Ok(match copy::image(route, &options, self.progress).await? {
            copy::Outcome::Unchanged { digest, .. } => End::Unchanged { digest },
            copy::Outcome::Planned(copied) => End::WouldCopy(change(copied)),
            copy::Outcome::Copied(copied) => End::Copied(change(copied)),
        })
    }

    /// Writes the archives, and tells a containerd that we hold nothing any more. An archive in which an image would be
    /// missing is not written (faults.md F22).
    async fn finish(&self, tasks: &[Task<'_>], ends: &mut [End], incomplete: &HashSet<String>) {
        for numbers in groups(tasks) {
            let Some(task) = numbers.first().and_then(|first| tasks.get(*first)) else { continue };
            if matches!(task.destination, Reference::Registry { .. } | Reference::Layout { .. }) {
                continue;
            }
            let is_whole = !incomplete.contains(&without_tag(&task.destination))
                && !numbers.iter().any(|n| matches!(ends.get(*n), Some(End::Failed { .. } | End::Skipped)));
            let is_archive = matches!(task.destination, Reference::Archive { .. });
            let finished = match self.destination(task) {
                Ok(_) if is_archive && !is_whole => Err(None),
                Ok(place) => {
                    place.finish(self.progress).await.map_err(|e| Some(e.context(task.destination.with_target(None))))
                }
                Err(error) => Err(Some(error)),
            };
            let Err(error) = finished else { continue };
            for number in numbers {
                if let Some(end @ (End::Copied(_) | End::Patched(_))) = ends.get_mut(number) {
                    *end = error.clone().map_or(End::Skipped, |error| End::Failed { error });
                }
            }
        }
    }
}

/// Why a destination is written that did not exist.
const NEW: &str = "it was not there";
