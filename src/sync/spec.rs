//! The file: which images, from where to where, and what is done with them. `schema.json` says the same in JSON Schema.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::select::{Filter, NamedTag, Pattern, Range};
use super::template::Template;
use super::yaml::{self, ListOr, OneOrMany, SwitchOr, Text};
use crate::capability::FileCapabilities;
use crate::copy::Memory;
use crate::error::{Error, Result};
use crate::limits::{Depth, Limits, Size};
use crate::oci::config::Port;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, Target};
use crate::patch;
use crate::profile::{PROFILES, Profile};

/// The JSON Schema of the file.
pub const SCHEMA: &str = include_str!("schema.json");

/// The version of the format that this program reads.
const VERSION: u32 = 1;

/// What the file says, checked.
#[derive(Clone, Debug)]
pub struct Spec {
    /// In the order of the file.
    pub images: Vec<Image>,
    /// What each image may take up.
    pub limits: Limits,
}

/// One entry of `images`, with the defaults in it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where it stands: `FILE:LINE:COLUMN`.
    pub place: String,
    /// From where.
    pub source: Reference,
    /// To where; without a tag, `template` makes it.
    pub destinations: Vec<Reference>,
    /// Which tags.
    pub tags: Tags,
    /// How the tag of the destination is made.
    pub template: Template,
    /// Which platforms; none means all.
    pub platforms: Vec<Platform>,
    /// Signatures, SBOMs and the like come along.
    pub referrers: bool,
    /// Replace whatever the destination tag holds.
    pub force: bool,
    /// What is changed; none means a copy, byte for byte.
    pub patch: Option<Patch>,
}

/// Which tags of a source.
#[derive(Clone, Debug)]
pub enum Tags {
    /// What the source itself names.
    OfSource,
    /// These.
    Named(Vec<NamedTag>),
    /// Those of the repository that pass.
    Filtered(Filter),
}

/// The options of `capatch patch`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default, expecting = "true, false or a mapping")]
pub struct Patch {
    #[serde(deserialize_with = "profile")]
    profile: &'static Profile,
    #[serde(deserialize_with = "yaml::some")]
    cap: Option<Text<FileCapabilities>>,
    replace_caps: bool,
    remove_caps: bool,
    files: Vec<String>,
    #[serde(deserialize_with = "yaml::some")]
    expose: Option<Vec<Text<Port>>>,
    unexpose: Vec<Text<Port>>,
    listen: SwitchOr<String>,
    env: IndexMap<String, String>,
    labels: IndexMap<String, String>,
}

impl Default for Patch {
    fn default() -> Self {
        Patch {
            profile: &PROFILES[0],
            cap: None,
            replace_caps: false,
            remove_caps: false,
            files: Vec::new(),
            expose: None,
            unexpose: Vec::new(),
            listen: SwitchOr::Switch(false),
            env: IndexMap::new(),
            labels: IndexMap::new(),
        }
    }
}

impl Patch {
    /// What to ask [`patch::apply`] for.
    fn options(&self, platforms: &[Platform], force: bool) -> Result<patch::Options> {
        let ports = |ports: &[Text<Port>]| ports.iter().map(|Text(port)| port.clone()).collect();
        let pairs = |map: &IndexMap<String, String>| map.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        let cap = self.cap.as_ref().map(|Text(cap)| *cap);
        let capabilities = patch::Edit::asked(self.profile, cap, self.replace_caps, self.remove_caps)?;
        let options = patch::Options {
            profile: self.profile,
            capabilities,
            files: self.files.clone(),
            expose: self
                .expose
                .as_deref()
                .map_or_else(|| capabilities.exposed(self.profile), |named| Ok(ports(named)))?,
            unexpose: ports(&self.unexpose),
            listen: match &self.listen {
                SwitchOr::Switch(false) => None,
                SwitchOr::Switch(true) => Some(None),
                SwitchOr::Value(value) => Some(Some(value.clone())),
            },
            env: pairs(&self.env),
            labels: pairs(&self.labels),
            platforms: platforms.to_vec(),
            created: None,
            foreign_layers: false,
            force,
            jobs: 1,
            memory: Memory::default(),
            layers: patch::Cache::default(),
            limits: Limits::default(),
        };
        options.check()?;
        Ok(options)
    }
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<u32>,
    #[serde(default)]
    limits: Maxima,
    #[serde(default)]
    defaults: Defaults,
    images: Vec<Spanned<Entry>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Maxima {
    #[serde(deserialize_with = "yaml::some")]
    max_unpacked: Option<Text<Size>>,
    #[serde(deserialize_with = "yaml::some")]
    max_ratio: Option<Text<Count>>,
    #[serde(deserialize_with = "yaml::some")]
    max_memory: Option<Text<Size>>,
    #[serde(deserialize_with = "yaml::some")]
    max_depth: Option<Text<Depth>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Defaults {
    #[serde(deserialize_with = "yaml::some")]
    tag_template: Option<Text<Template>>,
    #[serde(deserialize_with = "yaml::some")]
    platforms: Option<Vec<Text<Platform>>>,
    #[serde(deserialize_with = "yaml::some")]
    referrers: Option<bool>,
    #[serde(deserialize_with = "yaml::some")]
    force: Option<bool>,
    #[serde(deserialize_with = "yaml::some")]
    patch: Option<SwitchOr<Patch>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    source: Text<Reference>,
    destination: OneOrMany<Text<Reference>>,
    #[serde(default, deserialize_with = "yaml::some")]
    tags: Option<ListOr<Text<NamedTag>, Selection>>,
    #[serde(default, deserialize_with = "yaml::some")]
    tag_template: Option<Text<Template>>,
    #[serde(default, deserialize_with = "yaml::some")]
    platforms: Option<Vec<Text<Platform>>>,
    #[serde(default, deserialize_with = "yaml::some")]
    referrers: Option<bool>,
    #[serde(default, deserialize_with = "yaml::some")]
    force: Option<bool>,
    #[serde(default, deserialize_with = "yaml::some")]
    patch: Option<SwitchOr<Patch>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    #[serde(default, deserialize_with = "yaml::some")]
    regex: Option<AllowDeny>,
    #[serde(default, deserialize_with = "yaml::some")]
    semver: Option<Text<Range>>,
    #[serde(default)]
    prerelease: bool,
    #[serde(default, deserialize_with = "yaml::some")]
    newest: Option<Text<Count>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AllowDeny {
    allow: Vec<Text<Pattern>>,
    deny: Vec<Text<Pattern>>,
}

/// At least one.
struct Count(usize);

impl std::str::FromStr for Count {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let count = text.parse().ok().filter(|count| *count > 0);
        count.map(Count).ok_or_else(|| Error::usage(format!("'{text}' is no number")).hint("write 1 or more"))
    }
}

fn profile<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<&'static Profile, D::Error> {
    Profile::named(&String::deserialize(deserializer)?).map_err(yaml::custom)
}

impl Spec {
    /// Reads the file; `name` is what it is called in errors.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let file: File = yaml::read(text, name)?;
        if file.version.value != VERSION {
            return Err(Error::usage(format!("version {} is not known, only {VERSION}", file.version.value))
                .context(yaml::place(name, file.version.referenced)));
        }
        let image = |entry: Spanned<Entry>| {
            let place = yaml::place(name, entry.referenced);
            entry.value.checked(&file.defaults, &place).map_err(|e| e.context(&place))
        };
        let images = file.images.into_iter().map(image).collect::<Result<Vec<_>>>()?;
        if images.is_empty() {
            return Err(Error::usage(format!("{name}: there are no images in it")));
        }
        let Maxima { max_unpacked, max_ratio, max_memory, max_depth } = file.limits;
        let limits = Limits::default();
        let limits = Limits {
            unpacked: max_unpacked.map_or(limits.unpacked, |Text(Size(size))| size),
            ratio: max_ratio.map_or(limits.ratio, |Text(Count(count))| count as u64),
            memory: max_memory.map_or(limits.memory, |Text(Size(size))| size),
            depth: max_depth.map_or(limits.depth, |Text(Depth(depth))| depth),
        };
        Ok(Spec { images, limits })
    }
}

impl Entry {
    fn checked(self, defaults: &Defaults, place: &str) -> Result<Image> {
        let patch = match self.patch.as_ref().or(defaults.patch.as_ref()) {
            None | Some(SwitchOr::Switch(false)) => None,
            Some(SwitchOr::Switch(true)) => Some(Patch::default()),
            Some(SwitchOr::Value(patch)) => Some(patch.clone()),
        };
        if patch.is_some() && self.referrers == Some(true) {
            return Err(Error::usage("referrers belong to the image that they were made for, not to a patch of it")
                .hint("mirror the image itself with referrers in an entry of its own"));
        }
        let referrers = patch.is_none() && self.referrers.or(defaults.referrers).unwrap_or(false);
        let platforms = self.platforms.as_ref().or(defaults.platforms.as_ref());
        let template = self.tag_template.as_ref().or(defaults.tag_template.as_ref());
        let image = Image {
            place: place.to_owned(),
            source: self.source.0,
            destinations: self.destination.0.into_iter().map(|Text(destination)| destination).collect(),
            tags: match self.tags {
                None => Tags::OfSource,
                Some(ListOr::List(tags)) => Tags::Named(tags.into_iter().map(|Text(tag)| tag).collect()),
                Some(ListOr::Mapping(selection)) => Tags::Filtered(selection.filter()?),
            },
            template: template.map(|Text(template)| template.clone()).unwrap_or_default(),
            platforms: platforms.into_iter().flatten().map(|Text(platform)| platform.clone()).collect(),
            referrers,
            force: self.force.or(defaults.force).unwrap_or(false),
            patch,
        };
        image.check(self.tag_template.is_some())?;
        Ok(image)
    }
}

impl Selection {
    fn filter(self) -> Result<Filter> {
        if self.regex.is_none() && self.semver.is_none() && self.newest.is_none() {
            return Err(Error::usage("tags has no filter in it").hint(
                "name tags in a list, or filter with regex, semver or newest; regex: {allow: ['.*']} takes all",
            ));
        }
        if self.prerelease && self.semver.is_none() && self.newest.is_none() {
            return Err(Error::usage("prerelease says nothing without semver or newest"));
        }
        let patterns =
            |patterns: Vec<Text<Pattern>>| patterns.into_iter().map(|Text(pattern)| pattern).collect::<Vec<_>>();
        let AllowDeny { allow, deny } = self.regex.unwrap_or_default();
        Ok(Filter {
            allow: patterns(allow),
            deny: patterns(deny),
            semver: self.semver.map(|Text(range)| range),
            prerelease: self.prerelease,
            newest: self.newest.map(|Text(Count(count))| count),
        })
    }
}

impl Image {
    fn check(&self, has_template: bool) -> Result<()> {
        match (&self.tags, self.source.target()) {
            (Tags::OfSource, None) if matches!(self.source, Reference::Registry { .. }) => {
                return Err(Error::usage(format!("{} has no tag, and there are no tags", self.source))
                    .hint("write SOURCE:TAG, or say which tags: a list, or a filter"));
            }
            (Tags::Named(tags), _) if tags.is_empty() => return Err(Error::usage("tags is an empty list")),
            (Tags::Named(_) | Tags::Filtered(_), Some(target)) => {
                return Err(Error::usage(format!("the source names {target}, and there are tags besides"))
                    .hint("leave one of them out; a pinned tag is written TAG@DIGEST in the list"));
            }
            _ => {}
        }
        let several = match &self.tags {
            Tags::OfSource => false,
            Tags::Named(tags) => tags.len() > 1,
            Tags::Filtered(_) => true,
        };
        if matches!(
            (&self.tags, &self.source),
            (Tags::Filtered(_), Reference::Containerd { .. } | Reference::Daemon { .. })
        ) {
            return Err(Error::usage(format!("{}: the tags of an engine are not filtered", self.source))
                .hint("name them in a list"));
        }
        if let Some(pipe) = self.destinations.iter().chain([&self.source]).find(|reference| reference.is_pipe()) {
            return Err(
                Error::usage(format!("{pipe}: a pipe is for one image")).hint("name a file, or use capatch copy")
            );
        }
        for destination in &self.destinations {
            match destination.target() {
                Some(Target::Digest(_)) => {
                    return Err(Error::usage(format!("the destination {destination} is a digest"))
                        .hint("name a tag, or none; the digest follows from the content"));
                }
                Some(Target::Tag(_)) if has_template => {
                    return Err(Error::usage(format!(
                        "the destination {destination} has a tag, and there is a tag-template"
                    ))
                    .hint("leave one of them out"));
                }
                Some(Target::Tag(_)) if several => {
                    return Err(Error::usage(format!("several images would be written to {destination}"))
                        .hint("leave its tag out; tag-template says how tags are named"));
                }
                _ => {}
            }
        }
        self.options().map(drop)
    }

    /// What to ask [`patch::apply`] for, if the image is patched.
    pub fn options(&self) -> Result<Option<patch::Options>> {
        self.patch.as_ref().map(|patch| patch.options(&self.platforms, self.force)).transpose()
    }
}

#[cfg(test)]
mod tests;
