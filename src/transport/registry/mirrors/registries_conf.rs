//! `registries.conf`, version 2 (containers-registries.conf(5)).
//!
//! Not used: `unqualified-search-registries`, `short-name-mode` and `aliases`, for here a name without a host is one of
//! docker.io and nothing else; `credential-helpers`, for credentials are found as containers-auth.json(5) says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::{Settings, Source, Tls, malformed, parse, repository};
use crate::error::{Error, Kind, Result};
use crate::oci::reference::{Repository, Target};

/// The `[[registry]]` tables of all files.
#[derive(Default)]
pub(super) struct RegistriesConf {
    tables: Vec<Table>,
}

/// One `[[registry]]`.
pub(super) struct Table {
    file: PathBuf,
    prefix: String,
    /// Empty for a prefix with a wildcard: the image is where its name says.
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

struct Mirror {
    location: String,
    insecure: bool,
    tags: bool,
    digests: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<Spanned<Entry>>,
    /// Version 1.
    registries: Option<Spanned<toml::Table>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    prefix: Option<Spanned<String>>,
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    pull_from_mirror: Option<Spanned<String>>,
    #[serde(default)]
    mirror: Vec<Spanned<MirrorEntry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorEntry {
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Spanned<String>>,
}

impl RegistriesConf {
    /// Adds the tables of another file; one with the same prefix replaces the earlier one.
    pub(super) fn merge(&mut self, path: &Path, text: &str) -> Result<()> {
        let file: File = parse(path, text)?;
        if let Some(old) = file.registries {
            return Err(malformed(path, text, Some(old.span()), "this is version 1 of the format, which has no mirrors")
                .hint("write [[registry]] tables, see containers-registries.conf(5); or name another file with --registries-conf"));
        }
        let mut tables: Vec<Table> = Vec::new();
        for entry in file.registry {
            let span = entry.span();
            let table = table(path, text, entry)?;
            // The man page leaves open which one counts; what is blocked must not slip through.
            let conflicting = |other: &Table| {
                other.place() == table.place() && (other.insecure, other.blocked) != (table.insecure, table.blocked)
            };
            if tables.iter().any(conflicting) {
                let why = format!("an earlier table for {} says otherwise about insecure or blocked", table.place());
                return Err(malformed(path, text, Some(span), &why));
            }
            // The first one of a file wins, as it does for the other tools that read this.
            if !tables.iter().any(|other| other.prefix == table.prefix) {
                tables.push(table);
            }
        }
        self.tables.retain(|old| !tables.iter().any(|new| new.prefix == old.prefix));
        self.tables.extend(tables);
        Ok(())
    }

    /// The table with the longest prefix of `name`.
    pub(super) fn table(&self, name: &Repository) -> Option<&Table> {
        let text = name.to_string();
        longest(self.tables.iter().filter(|table| matched(&text, &table.prefix).is_some()))
    }

    /// Refuses images that may not be used.
    pub(super) fn check_blocked(&self, name: &Repository, target: Option<&Target>) -> Result<()> {
        let image = match target {
            None => name.to_string(),
            Some(Target::Tag(tag)) => format!("{name}:{tag}"),
            Some(Target::Digest(digest)) => format!("{name}@{digest}"),
        };
        match longest(self.tables.iter().filter(|table| matched(&image, &table.prefix).is_some())) {
            Some(Table { blocked: true, file, prefix, .. }) => {
                Err(Error::new(Kind::Denied, format!("{image} is blocked in {}", file.display()))
                    .hint(format!("the table for {prefix} there says blocked = true")))
            }
            _ => Ok(()),
        }
    }
}

fn longest<'a>(tables: impl Iterator<Item = &'a Table>) -> Option<&'a Table> {
    tables.max_by_key(|table| table.prefix.len())
}

impl Table {
    fn place(&self) -> &str {
        if self.location.is_empty() { &self.prefix } else { &self.location }
    }

    /// Mirrors, then the registry itself.
    pub(super) fn sources(&self, name: &Repository) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        for mirror in &self.mirrors {
            let settings =
                Settings { mirror: true, tags: mirror.tags, digests: mirror.digests, ..settings(mirror.insecure) };
            sources.push(Source { name: self.rewritten(name, &mirror.location)?, settings: Arc::new(settings) });
        }
        let there = if self.location.is_empty() { name.clone() } else { self.rewritten(name, &self.location)? };
        sources.push(Source { name: there, settings: Arc::new(settings(self.insecure)) });
        Ok(sources)
    }

    /// Settings for writing to the host that `name` says: those of a location elsewhere are not about it.
    pub(super) fn destination(&self, name: &Repository) -> Arc<Settings> {
        let there = self.location.is_empty()
            || self.rewritten(name, &self.location).is_ok_and(|other| other.registry == name.registry);
        Arc::new(settings(self.insecure && there))
    }

    fn rewritten(&self, name: &Repository, location: &str) -> Result<Repository> {
        let text = name.to_string();
        let rest = matched(&text, &self.prefix).and_then(|length| text.get(length..)).unwrap_or_default();
        repository(&format!("{location}{rest}")).ok_or_else(|| {
            let what = format!("{}: the location {location} makes no name for {name}", self.file.display());
            Error::failed(what)
        })
    }
}

/// `insecure`: certificates are not looked at, and plain http will do.
fn settings(insecure: bool) -> Settings {
    let tls = Tls { skip_verify: insecure, ..Tls::default() };
    Settings { http_will_do: insecure, tls, ..Settings::default() }
}

/// The length of what `prefix` matches of an image's name.
fn matched(image: &str, prefix: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        // `*.example.com`: any number of labels in front of `.example.com`.
        Some(domain) => {
            let host = image.split(['/', ':', '@']).next().unwrap_or_default();
            (host.len() > domain.len() && host.ends_with(domain)).then_some(host.len())?
        }
        None => image.starts_with(prefix).then_some(prefix.len())?,
    };
    let rest = image.get(end..)?;
    // `example.com` is not `example.com:5000`; behind a path, a tag or digest may follow.
    let ends = rest.is_empty() || rest.starts_with('/') || (prefix.contains('/') && rest.starts_with([':', '@']));
    ends.then_some(end)
}

fn table(path: &Path, text: &str, entry: Spanned<Entry>) -> Result<Table> {
    let span = entry.span();
    let entry = entry.into_inner();
    let fail = |span, why: &str| Err(malformed(path, text, Some(span), why));
    let place = |value: &Option<Spanned<String>>| value.as_ref().map(|v| v.get_ref().trim_end_matches('/').to_owned());
    if let Some(value) = &entry.pull_from_mirror {
        return fail(value.span(), "pull-from-mirror is for [[registry.mirror]] tables");
    }
    let location = place(&entry.location).unwrap_or_default();
    let prefix = place(&entry.prefix).filter(|prefix| !prefix.is_empty()).unwrap_or_else(|| location.clone());
    if prefix.is_empty() {
        return fail(span, "a [[registry]] needs a prefix or a location");
    }
    let prefix_span = entry.prefix.as_ref().or(entry.location.as_ref()).map_or(span, Spanned::span);
    let named = prefix.split('/').next_back().is_some_and(|last| prefix.contains('/') && last.contains([':', '@']));
    let wildcard = prefix.strip_prefix("*.");
    if wildcard.is_some_and(|domain| !is_location(&format!("x.{domain}")) || domain.contains(['/', ':'])) {
        return fail(prefix_span, "a prefix with a wildcard is *.DOMAIN, without a port and a path");
    }
    if wildcard.is_none() && !named && !is_location(&prefix) {
        return fail(prefix_span, "the prefix is not HOST[:PORT][/PATH], *.DOMAIN or an image; no https:// goes there");
    }
    if named && !(entry.blocked || (entry.mirror.is_empty() && location == prefix)) {
        return fail(prefix_span, "for a single tag or digest, capatch knows only blocked = true");
    }
    if wildcard.is_none() && location.is_empty() && !entry.blocked {
        return fail(prefix_span, "without a location, the prefix must be *.DOMAIN");
    }
    if let Some(value) = entry.location.as_ref().filter(|_| !location.is_empty() && !named && !is_location(&location)) {
        return fail(value.span(), "the location is not HOST[:PORT][/PATH]; no https:// goes there");
    }
    let mut mirrors = Vec::new();
    for mirror in entry.mirror {
        let span = mirror.span();
        let mirror = mirror.into_inner();
        let Some(location) = place(&mirror.location).filter(|location| is_location(location)) else {
            return fail(span, "a [[registry.mirror]] needs a location, HOST[:PORT][/PATH] without https://");
        };
        let (tags, digests) = match &mirror.pull_from_mirror {
            None => (!entry.mirror_by_digest_only, true),
            Some(value) if entry.mirror_by_digest_only => {
                return fail(value.span(), "pull-from-mirror and mirror-by-digest-only exclude each other");
            }
            Some(value) => match value.get_ref().as_str() {
                "" | "all" => (true, true),
                "digest-only" => (false, true),
                "tag-only" => (true, false),
                _ => return fail(value.span(), "pull-from-mirror is all, digest-only or tag-only"),
            },
        };
        mirrors.push(Mirror { location, insecure: mirror.insecure, tags, digests });
    }
    let (insecure, blocked) = (entry.insecure, entry.blocked);
    Ok(Table { file: path.to_owned(), prefix, location, insecure, blocked, mirrors })
}

/// Whether names of repositories can begin with it: `HOST[:PORT][/PATH]`.
fn is_location(text: &str) -> bool {
    repository(&format!("{text}/x")).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Repository {
        repository(text).unwrap()
    }

    fn conf(text: &str) -> RegistriesConf {
        let mut conf = RegistriesConf::default();
        conf.merge(Path::new("r.conf"), text).unwrap();
        conf
    }

    #[test]
    fn prefixes() {
        for (image, prefix, length) in [
            ("example.com/foo/bar", "example.com", Some(11)),
            ("example.com/foo/bar", "example.com/foo", Some(15)),
            ("example.com/foobar", "example.com/foo", None),
            ("example.com:5000/foo", "example.com", None),
            ("example.com/foo:1", "example.com/foo", Some(15)),
            ("example.com/foo:1", "example.com/foo:1", Some(17)),
            ("example.com/foo:12", "example.com/foo:1", None),
            ("a.b.example.com/foo", "*.example.com", Some(15)),
            ("example.com/foo", "*.example.com", None),
            ("example.com.evil/foo", "*.example.com", None),
            ("evil/a.example.com/foo", "*.example.com", None),
            ("badexample.com/foo", "*.example.com", None),
        ] {
            assert_eq!(matched(image, prefix), length, "{image} {prefix}");
        }
    }

    #[test]
    fn the_example_of_the_man_page() {
        let conf = conf(
            r#"
            unqualified-search-registries = ["example.com"]
            [[registry]]
            prefix = "example.com/foo"
            location = "internal-registry-for-example.com/bar"
            [[registry.mirror]]
            location = "example-mirror-0.local/mirror-for-foo"
            [[registry.mirror]]
            location = "example-mirror-1.local/mirrors/foo"
            insecure = true
            [[registry]]
            location = "registry.com"
            [[registry.mirror]]
            location = "mirror.registry.com"
            [[registry]]
            prefix = "*.wild.com"
            insecure = true
            "#,
        );
        for (image, expected) in [
            (
                "example.com/foo/image",
                &[
                    "example-mirror-0.local/mirror-for-foo/image",
                    "example-mirror-1.local/mirrors/foo/image insecure",
                    "internal-registry-for-example.com/bar/image",
                ][..],
            ),
            ("registry.com/image", &["mirror.registry.com/image", "registry.com/image"]),
            ("a.wild.com/image", &["a.wild.com/image insecure"]),
        ] {
            let sources = conf.table(&name(image)).unwrap().sources(&name(image)).unwrap();
            let shown = |source: &Source| {
                let insecure = source.settings.http_will_do && source.settings.tls.skip_verify;
                format!("{}{}", source.name, if insecure { " insecure" } else { "" })
            };
            assert_eq!(sources.iter().map(shown).collect::<Vec<_>>(), expected, "{image}");
        }
        assert!(conf.table(&name("example.com/other")).is_none());
    }

    #[test]
    fn later_files_replace_tables_of_the_same_prefix() {
        let mut conf = conf("[[registry]]\nlocation = 'a.com'\nblocked = true\n[[registry]]\nlocation = 'b.com'\n");
        assert!(conf.check_blocked(&name("a.com/x"), None).is_err());
        conf.merge(Path::new("d.conf"), "[[registry]]\nlocation = 'a.com'\n").unwrap();
        assert!(conf.check_blocked(&name("a.com/x"), None).is_ok());
        assert!(conf.table(&name("b.com/x")).is_some());
        conf.merge(Path::new("e.conf"), "[[registry]]\nprefix = 'b.com/x:1'\nblocked = true").unwrap();
        assert!(conf.check_blocked(&name("b.com/x"), Some(&Target::Tag("2".into()))).is_ok());
        let error = conf.check_blocked(&name("b.com/x"), Some(&Target::Tag("1".into()))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Denied, "b.com/x:1 is blocked in e.conf"));
    }

    #[test]
    fn an_insecure_location_elsewhere_says_nothing_about_the_destination() {
        let conf = conf(
            "[[registry]]\nprefix = 'a.com'\nlocation = 'b.com'\ninsecure = true\n\
             [[registry]]\nlocation = 'c.com'\ninsecure = true\n",
        );
        for (image, insecure) in [("a.com/x", false), ("c.com/x", true)] {
            let settings = conf.table(&name(image)).unwrap().destination(&name(image));
            assert_eq!((settings.tls.skip_verify, settings.mirror), (insecure, false), "{image}");
        }
    }

    #[test]
    fn malformed_files_are_errors_with_a_line() {
        for (text, line, words) in [
            ("[[registry]\n", 1, ""),
            ("\n[[registry]]\nlocation = 7\n", 3, "string"),
            ("[[registry]]\nlocation = 'a.com'\ninsecure = 'yes'\n", 3, "boolean"),
            ("[[registry]]\nlocation = 'a.com'\nlocation = 'b.com'\n", 3, "duplicate"),
            ("\n\n[[registry]]\n", 3, "needs a prefix or a location"),
            ("[[registry]]\nlocation = 'https://a.com'\n", 2, "https://"),
            ("[[registry]]\nprefix = 'a.com'\nlocation = 'https://a.com'\n", 3, "https://"),
            ("[[registry]]\nlocation = 'nodot'\n", 2, "not HOST"),
            ("[[registry]]\nprefix = 'a.com'\n", 2, "must be *.DOMAIN"),
            ("[[registry]]\nprefix = '*.a.com:5000'\n", 2, "wildcard"),
            ("[[registry]]\nprefix = 'a.*.com'\nlocation = 'b.com'\n", 2, "prefix"),
            ("[[registry]]\nprefix = 'a.com/x:1'\nlocation = 'b.com/x:1'\n", 2, "single tag"),
            ("[[registry]]\nlocation = 'a.com'\npull-from-mirror = 'all'\n", 3, "[[registry.mirror]]"),
            ("[[registry]]\nlocation = 'a.com'\n[[registry.mirror]]\ninsecure = true\n", 3, "needs a location"),
            (
                "[[registry]]\nlocation = 'a.com'\n[[registry.mirror]]\nlocation = 'b.com'\npull-from-mirror = 'x'\n",
                5,
                "is all, digest-only or tag-only",
            ),
            (
                "[[registry]]\nlocation = 'a.com'\nmirror-by-digest-only = true\n[[registry.mirror]]\n\
                 location = 'b.com'\npull-from-mirror = 'all'\n",
                6,
                "exclude each other",
            ),
            ("[[registry]]\nlocation = 'a.com'\n[[registry]]\nlocation = 'a.com'\nblocked = true\n", 3, "otherwise"),
            (
                "[[registry]]\nlocation = 'a.com'\n[[registry]]\nprefix = 'b.com'\nlocation = 'a.com'\ninsecure = true\n",
                3,
                "otherwise",
            ),
            ("[registries.search]\nregistries = ['a.com']\n", 1, "version 1"),
        ] {
            let error = RegistriesConf::default().merge(Path::new("r.conf"), text).expect_err(text).to_string();
            assert!(error.starts_with(&format!("r.conf:{line}: ")) && error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_not_used_is_no_error() {
        for text in [
            "",
            "[[registry]]\nprefix = '*.com'\n[[registry]]\nprefix = '*.com'\n",
            "unqualified-search-registries = ['docker.io']\nshort-name-mode = 'enforcing'\n[aliases]\n'a' = 'b.com/a'\n",
            "credential-helpers = ['x']\n[future]\nsetting = 1\n[[registry]]\nlocation = 'a.com'\nfuture = [1]\n",
        ] {
            assert!(RegistriesConf::default().merge(Path::new("r.conf"), text).is_ok(), "{text}");
        }
    }
}
