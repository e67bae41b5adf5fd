//! Parts of the work for machines that do not talk to each other: which part a destination falls into follows from its
//! name alone, so neither the order of the file nor what else is in it moves anything.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::oci::digest::Digest;

/// One of several parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 0; people count from 1.
    index: u32,
    /// Of how many.
    of: u32,
}

/// What sets the number of this machine, from which number it counts, and what sets how many there are. The first is a
/// Kubernetes Indexed Job (which has no variable for their number; a manifest may set one), the second GitLab.
const VARIABLES: [(&str, u32, &str); 2] =
    [("JOB_COMPLETION_INDEX", 0, "JOB_COMPLETION_COUNT"), ("CI_NODE_INDEX", 1, "CI_NODE_TOTAL")];

impl Shard {
    /// All of the work.
    pub const ALL: Shard = Shard { index: 0, of: 1 };

    /// Shard `number`, counted from `first`.
    fn new(number: u32, first: u32, of: u32) -> Result<Self> {
        let index = number.checked_sub(first).filter(|index| *index < of).ok_or_else(|| {
            Error::usage(format!("there is no shard {number} of {of}")).hint(format!("they are counted from {first}"))
        })?;
        Ok(Shard { index, of })
    }

    /// The shard of this machine by the variables of Kubernetes or GitLab, as `lookup` finds them; `of` says how many
    /// there are, whatever a variable says.
    pub fn from_environment(of: Option<u32>, lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str, text: &str| {
            text.parse::<u32>().map_err(|_| Error::usage(format!("{name} is '{text}', which is no number")))
        };
        for (index, first, count) in VARIABLES {
            let Some(text) = lookup(index) else { continue };
            let of = match (of, lookup(count)) {
                (Some(of), _) => of,
                (None, Some(text)) => number(count, &text)?,
                (None, None) => {
                    return Err(Error::usage(format!("{index} is set, but nothing says how many shards there are"))
                        .hint("name their number with --shards"));
                }
            };
            return Shard::new(number(index, &text)?, first, of).map_err(|e| e.context(index));
        }
        let names = VARIABLES.map(|(index, ..)| index).join(" nor ");
        Err(Error::usage(format!("--shard auto: neither {names} is set")).hint("write --shard I/N"))
    }

    /// Whether the destination called `name` belongs to this part.
    pub fn has(self, name: &str) -> bool {
        let digest = Digest::of(name.as_bytes());
        let hash = digest.hex().get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default();
        hash % u64::from(self.of) == u64::from(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", u64::from(self.index) + 1, self.of)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let (number, of) = numbers
            .ok_or_else(|| Error::usage(format!("'{text}' is no shard")).hint("write I/N, such as 1/4, or auto"))?;
        Shard::new(number, 1, of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_shard_and_stays_there() {
        let names: Vec<String> = (0..1000).map(|i| format!("r.io/kong:3.{i}")).collect();
        for of in [1, 2, 3, 7] {
            let shards: Vec<Shard> = (1..=of).map(|number| Shard::new(number, 1, of).unwrap()).collect();
            for name in &names {
                assert_eq!(shards.iter().filter(|shard| shard.has(name)).count(), 1, "{name} of {of}");
            }
            for shard in shards {
                let share = names.iter().filter(|name| shard.has(name)).count();
                let fair = 1000 / of as usize;
                assert!(share > fair * 7 / 10 && share < fair * 13 / 10 + 1, "{shard} has {share}");
            }
        }
        // Another version of capatch must not deal the work anew while a Job runs.
        let first: Vec<bool> = names[..8].iter().map(|name| Shard::new(1, 1, 2).unwrap().has(name)).collect();
        assert_eq!(first, [true, true, false, false, true, true, false, true]);
    }

    #[test]
    fn shards_are_written_as_numbers_from_one() {
        assert_eq!("2/3".parse::<Shard>().unwrap(), Shard { index: 1, of: 3 });
        for bad in ["", "1", "0/1", "2/1", "1/0", "-1/2", "a/b", "1/2/3", "1/99999999999"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    #[test]
    fn machines_say_which_shard_they_are() {
        let found = |of, variables: &[(&str, &str)]| {
            Shard::from_environment(of, |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
            .map(|shard| shard.to_string())
        };
        let (index, count) = ("JOB_COMPLETION_INDEX", "JOB_COMPLETION_COUNT");
        for (of, variables, shard) in [
            (Some(4), &[(index, "0")][..], "1/4"),
            (Some(4), &[(index, "3")], "4/4"),
            (None, &[(index, "1"), (count, "2")], "2/2"),
            (Some(3), &[(index, "1"), (count, "2")], "2/3"),
            (None, &[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "5")], "2/5"),
        ] {
            assert_eq!(found(of, variables).unwrap(), shard);
        }
        for (of, variables) in [
            (Some(4), &[][..]),
            (None, &[(index, "0")]),
            (Some(4), &[(index, "4")]),
            (Some(4), &[(index, "x")]),
            (Some(4), &[(index, "4294967295")]),
            (None, &[("CI_NODE_INDEX", "0"), ("CI_NODE_TOTAL", "5")]),
        ] {
            assert!(found(of, variables).is_err(), "{variables:?}");
        }
    }
}
