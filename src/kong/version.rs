//! Versions of Kong as images write them in `KONG_VERSION`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A version of Kong: `3.9.3`, a release candidate `2.0.0rc1`, or of the enterprise edition with four numbers `3.4.0.0`.
///
/// Versions are ordered by their numbers, and what comes before a release (`alpha`, `beta`, `rc`) is less than the release.
#[derive(Clone, Debug)]
pub struct Version {
    numbers: [u32; 4],
    stage: (Stage, u32),
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Alpha,
    Beta,
    Candidate,
    Release,
}

impl Version {
    /// The first two numbers, on which the listen flags depend.
    pub fn minor(&self) -> (u32, u32) {
        (self.numbers[0], self.numbers[1])
    }

    fn key(&self) -> ([u32; 4], (Stage, u32)) {
        (self.numbers, self.stage)
    }
}

impl FromStr for Version {
    type Err = Error;

    /// Reads two to four numbers with dots between them and a suffix, such as `rc1`, `-alpha.1` or `-2`.
    ///
    /// # Errors
    /// [`Kind::Content`](crate::error::Kind::Content) if it is nothing like that.
    fn from_str(text: &str) -> Result<Self> {
        let error = || {
            Error::content(format!("\"{text}\" is not a version of Kong"))
                .hint("a version is written like 3.9.3, 2.0.0rc1 or 3.4.0.0")
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (front, suffix) = text.split_at(end);
        let parts = front.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().map_err(|_| error())?;
        if !(2..=4).contains(&parts.len()) || !suffix.chars().all(|c| c.is_ascii_alphanumeric() || "-.+_".contains(c)) {
            return Err(error());
        }
        let mut numbers = [0; 4];
        numbers.iter_mut().zip(parts).for_each(|(number, part)| *number = part);
        let suffix = suffix.trim_start_matches('-').to_ascii_lowercase();
        let stages = [("alpha", Stage::Alpha), ("beta", Stage::Beta), ("rc", Stage::Candidate)];
        let stage = stages.into_iter().find_map(|(name, stage)| {
            let number = suffix.strip_prefix(name)?.trim_start_matches(['.', '-']);
            Some((stage, number.parse().unwrap_or(0)))
        });
        Ok(Version { numbers, stage: stage.unwrap_or((Stage::Release, 0)), text: text.to_owned() })
    }
}

impl fmt::Display for Version {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered() {
        let ascending = [
            "0.11.2",
            "0.14.1",
            "1.0.0",
            "1.2.2",
            "2.0.0rc1",
            "2.0.0rc2",
            "2.0.0rc10",
            "2.0.0",
            "2.0.3",
            "2.8.1",
            "3.0.0-alpha.1",
            "3.0.0-beta.1",
            "3.0.0-rc.2",
            "3.0.0",
            "3.4.0.0",
            "3.4.0.1",
            "3.9.3",
            "3.10",
        ];
        let versions: Vec<Version> = ascending.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        assert_eq!(versions.iter().map(Version::to_string).collect::<Vec<_>>(), ascending);
        assert_eq!("3.9".parse::<Version>().unwrap(), "3.9.0-1".parse().unwrap());
        assert_eq!("2.0.0rc1".parse::<Version>().unwrap().minor(), (2, 0));
    }

    #[test]
    fn what_is_no_version_is_an_error() {
        for text in
            ["", "3", "3.", ".3.9", "3..9", "latest", "v3.9.3", "1.2.3.4.5", "3.9 3", "3.9.3\n", "99999999999.0"]
        {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }
}
