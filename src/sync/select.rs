//! Which tags of a repository: those that are named, or those that pass a filter.
//!
//! A filter is a pipeline: `regex.allow`, `regex.deny`, `semver`, `newest`, in this order, each working on what the
//! one before left. Tags that stand in for an image's signatures and other referrers never enter it.

use std::cmp::Reverse;
use std::str::FromStr;

use regex::Regex;
use semver::{Prerelease, Version, VersionReq};

use crate::error::{Error, Result};
use crate::oci::digest::{Digest, is_referrer_tag};
use crate::oci::reference::is_tag;

/// A tag that is named in the file, perhaps with the digest that is to be under it: `3.9`, `3.9@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTag {
    /// The tag.
    pub tag: String,
    /// What is copied, whatever the tag names in the source now.
    pub digest: Option<Digest>,
}

impl FromStr for NamedTag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (tag, digest) = match text.split_once('@') {
            Some((tag, digest)) => (tag, Some(digest.parse().map_err(|e: Error| Error::usage(e.to_string()))?)),
            None => (text, None),
        };
        if !is_tag(tag) {
            return Err(Error::usage(format!("'{tag}' is not a tag")).hint("write TAG, or TAG@DIGEST to pin it"));
        }
        Ok(NamedTag { tag: tag.to_owned(), digest })
    }
}

/// A regular expression that a whole tag has to match.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // By itself first: `a)|(b` is balanced only between our parentheses.
        let regex = Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$")));
        regex.map(Pattern).map_err(|e| {
            let said = e.to_string();
            let why = said.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            Error::usage(format!("'{text}' is not a regular expression: {why}"))
        })
    }
}

/// A range of versions: comparators that all hold, joined by spaces or commas; alternatives joined by `||`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range(Vec<VersionReq>);

impl FromStr for Range {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::usage(format!("'{text}' is not a range of versions{why}"))
                .hint("write it like \">=3.4 <4\", \"^3.4\", \"~3.4.1\", \"3.x\" or \"3.4 || 3.9\"")
        };
        let alternative = |part: &str| {
            let mut comparators: Vec<String> = Vec::new();
            let mut operator = String::new();
            for word in part.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()) {
                operator.push_str(word);
                // `>= 3.4` is one comparator.
                if !word.ends_with(|c: char| "<>=~^".contains(c)) {
                    comparators.push(std::mem::take(&mut operator));
                }
            }
            if comparators.is_empty() || !operator.is_empty() {
                return Err(bad(""));
            }
            let comparators: Vec<String> = comparators.iter().map(|comparator| normal_form(comparator)).collect();
            VersionReq::parse(&comparators.join(", ")).map_err(|e| bad(&format!(": {e}")))
        };
        text.split("||").map(alternative).collect::<Result<_>>().map(Range)
    }
}

/// As the `semver` crate wants it: no `v`; `3.4` alone means any 3.4, as everywhere but in Cargo.
fn normal_form(comparator: &str) -> String {
    let version = comparator.trim_start_matches(|c: char| "<>=~^".contains(c));
    let operator = comparator.strip_suffix(version).unwrap_or_default();
    let version = version.strip_prefix('v').unwrap_or(version);
    match operator {
        "" if !version.contains(['*', 'x', 'X']) => format!("={version}"),
        operator => format!("{operator}{version}"),
    }
}

/// The version that a tag names: three numbers, or four as Kong Gateway has them, perhaps after a `v`, perhaps with a
/// suffix (`-rc.1`, `-ubuntu`). Shorter tags such as `3.9` move from version to version and are none themselves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TagVersion {
    numbers: (u64, u64, u64, u64),
    suffix: Prerelease,
}

impl TagVersion {
    fn of(tag: &str) -> Option<Self> {
        let text = tag.strip_prefix('v').unwrap_or(tag);
        let (numbers, suffix) = match text.split_once('-') {
            Some((numbers, suffix)) => (numbers, Prerelease::new(suffix).ok().filter(|suffix| !suffix.is_empty())?),
            None => (text, Prerelease::EMPTY),
        };
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            plain.then(|| text.parse::<u64>().ok()).flatten()
        };
        let parts: Vec<u64> = numbers.split('.').map(number).collect::<Option<_>>()?;
        let numbers = match parts[..] {
            [major, minor, patch] => (major, minor, patch, 0),
            [major, minor, patch, fourth] => (major, minor, patch, fourth),
            _ => return None,
        };
        Some(TagVersion { numbers, suffix })
    }

    /// In the words of the `semver` crate, which has no fourth number.
    fn version(&self, suffix: Prerelease) -> Version {
        let (major, minor, patch, _) = self.numbers;
        Version { pre: suffix, ..Version::new(major, minor, patch) }
    }

    fn is_in(&self, range: &Range, any_suffix: bool) -> bool {
        let matches = |version: Version| range.0.iter().any(|alternative| alternative.matches(&version));
        matches(self.version(self.suffix.clone())) || (any_suffix && matches(self.version(Prerelease::EMPTY)))
    }
}

/// Which tags of a repository are taken.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// One of these has to match; none means any tag.
    pub allow: Vec<Pattern>,
    /// None of these may match.
    pub deny: Vec<Pattern>,
    /// The version has to be in this range; tags that are no version are left out.
    pub semver: Option<Range>,
    /// Versions with a suffix count too, and their range is that of their numbers. Without it, they are left out wherever
    /// versions are asked for, unless the range names a suffix.
    pub prerelease: bool,
    /// Only so many of the highest versions; tags that are no version are left out.
    pub newest: Option<usize>,
}

impl Filter {
    /// The tags that pass, sorted: by version if versions are asked for, else by name.
    pub fn select(&self, tags: &[String]) -> Vec<String> {
        let matches = |patterns: &[Pattern], tag: &str| patterns.iter().any(|pattern| pattern.0.is_match(tag));
        let allowed = |tag: &&String| {
            !is_referrer_tag(tag) && (self.allow.is_empty() || matches(&self.allow, tag)) && !matches(&self.deny, tag)
        };
        let mut allowed: Vec<&String> = tags.iter().filter(allowed).collect();
        if self.semver.is_none() && self.newest.is_none() {
            allowed.sort();
            return allowed.into_iter().cloned().collect();
        }
        let wanted = |version: &TagVersion| match &self.semver {
            Some(range) => version.is_in(range, self.prerelease),
            None => self.prerelease || version.suffix.is_empty(),
        };
        let versions = allowed.into_iter().filter_map(|tag| TagVersion::of(tag).map(|version| (version, tag)));
        let mut versions: Vec<_> = versions.filter(|(version, _)| wanted(version)).map(Reverse).collect();
        versions.sort();
        versions.truncate(self.newest.unwrap_or(usize::MAX));
        versions.into_iter().rev().map(|Reverse((_, tag))| tag.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: &[&str] = &[
        "latest",
        "3",
        "3.9",
        "3.9.0",
        "3.9.1",
        "3.9.0-rc.1",
        "3.9.1-ubuntu",
        "3.10.0",
        "v3.4.2",
        "2.8.5",
        "02.1.0",
        "3.4.3.9",
        "3.4.3.12",
        "4.0.0-alpha",
        "nightly-2024",
        "1.2.3.4.5",
        "3.9.x",
        "99999999999999999999.0.0",
        "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.sig",
        "sha512-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ];

    struct Case {
        allow: &'static [&'static str],
        deny: &'static [&'static str],
        semver: &'static str,
        prerelease: bool,
        newest: Option<usize>,
        selected: &'static [&'static str],
    }

    const ALL: Case = Case { allow: &[], deny: &[], semver: "", prerelease: false, newest: None, selected: &[] };

    #[test]
    fn a_filter_is_a_pipeline() {
        for case in [
            Case { allow: &["3.*"], deny: &[r".*-.*", r".*\..*\..*", ".*x"], selected: &["3", "3.9"], ..ALL },
            Case { allow: &["3", "lat"], selected: &["3"], ..ALL },
            Case { allow: &["3|lat"], selected: &["3"], ..ALL },
            Case { deny: &["[0-9v].*", "n.*"], selected: &["latest"], ..ALL },
            Case { semver: ">=3.4.3, <3.10", selected: &["3.4.3.9", "3.4.3.12", "3.9.0", "3.9.1"], ..ALL },
            Case { semver: ">= 3.4.2 < 3.4.3", selected: &["v3.4.2"], ..ALL },
            Case { semver: "3.9", selected: &["3.9.0", "3.9.1"], ..ALL },
            Case { semver: "v3.9.1", selected: &["3.9.1"], ..ALL },
            Case { semver: "2.x || ~3.9.1", selected: &["2.8.5", "3.9.1"], ..ALL },
            Case {
                semver: "3.9",
                prerelease: true,
                selected: &["3.9.0-rc.1", "3.9.0", "3.9.1-ubuntu", "3.9.1"],
                ..ALL
            },
            Case { semver: ">=3.9.0-rc.0 <3.9.1", selected: &["3.9.0-rc.1", "3.9.0"], ..ALL },
            Case { semver: "^7", selected: &[], ..ALL },
            Case { newest: Some(2), selected: &["3.9.1", "3.10.0"], ..ALL },
            Case { newest: Some(1), prerelease: true, selected: &["4.0.0-alpha"], ..ALL },
            Case { semver: "<3.9", newest: Some(2), selected: &["3.4.3.9", "3.4.3.12"], ..ALL },
            Case { allow: &[".*-ubuntu"], prerelease: true, newest: Some(5), selected: &["3.9.1-ubuntu"], ..ALL },
        ] {
            let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse::<Pattern>().unwrap()).collect();
            let filter = Filter {
                allow: parsed(case.allow),
                deny: parsed(case.deny),
                semver: (!case.semver.is_empty()).then(|| case.semver.parse().unwrap()),
                prerelease: case.prerelease,
                newest: case.newest,
            };
            let tags: Vec<String> = TAGS.iter().map(|tag| (*tag).to_owned()).collect();
            assert_eq!(filter.select(&tags), case.selected, "{filter:?}");
            let backwards: Vec<String> = tags.into_iter().rev().collect();
            assert_eq!(filter.select(&backwards), case.selected, "the registry's order is nothing to rely on");
        }
    }

    #[test]
    fn mistakes_in_ranges_patterns_and_tags_are_named() {
        for bad in ["", " ", ">=", "3.4 ||", "three", ">=3.4 - 4", "!=3", ">=3.4 < ", "3.4.3.12", "1.2.3 &&"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
        for bad in ["(", "a)|(b", "[", "*", "(?P<", "a{999999999}"] {
            let error = bad.parse::<Pattern>().expect_err(bad);
            assert!(error.to_string().contains("is not a regular expression: "), "{error}");
        }
        for bad in ["", "a b", "-a", "3.9@", "3.9@sha256:0", "sha256:00", "@"] {
            assert!(bad.parse::<NamedTag>().is_err(), "{bad}");
        }
        let pinned = format!("3.9@{}", Digest::of(b"x"));
        assert_eq!(pinned.parse::<NamedTag>().unwrap().digest, Some(Digest::of(b"x")));
    }
}
