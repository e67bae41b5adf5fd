//! What an error text from a log means.

mod kubernetes;
mod ports;
mod start;

use std::collections::HashSet;
use std::sync::OnceLock;

use regex::{RegexSet, RegexSetBuilder};
use serde::Serialize;

use crate::error::{Error, Result};

/// The table: the first entry that fits a line is what it is, so that the special ones stand before the general ones.
const CATALOGUE: [&[Entry]; 3] = [ports::ENTRIES, kubernetes::ENTRIES, start::ENTRIES];

/// Characters of a line that are repeated.
const MAX_SHOWN: usize = 200;

/// One kind of error.
#[derive(Debug)]
struct Entry {
    /// A stable name for scripts.
    code: &'static str,
    /// A regular expression for the part of a line that makes it this error; the case of letters does not matter. Boundaries
    /// of words are those of ASCII: at others, a line that is not all ASCII takes a thousand times as long.
    pattern: &'static str,
    /// Lines as they are seen in logs.
    #[cfg_attr(not(test), allow(dead_code))]
    seen: &'static [&'static str],
    what: &'static str,
    why: &'static str,
    /// Its lines.
    fix: &'static [&'static str],
    foretold: Option<&'static str>,
    see: &'static str,
}

/// The line without what colours it: control sequences (ECMA-48, 5.4) from ESC [ to a letter.
fn plain(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| {
        let part = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        part.strip_prefix(|c: char| c.is_ascii_alphabetic()).unwrap_or(part)
    });
    let line: String = std::iter::once(first).chain(rest).collect();
    line.trim().to_owned()
}

/// What an error means, in sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// A stable name for scripts, such as `exec-refused`.
    pub code: &'static str,
    /// The line that it explains, without colours, or the beginning of it.
    pub line: String,
    /// What it means.
    pub what: &'static str,
    /// Why it happens.
    pub why: &'static str,
    /// What to do, with commands and snippets to be copied.
    pub fix: String,
    /// What would have told it before: a command, and the codes of its findings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foretold: Option<&'static str>,
    /// Where it is documented or was discussed: a man page or an address.
    pub see: &'static str,
}

/// Explains what is known in `text`: one line of a log or many, whatever a runtime wrote before them. An error that is
/// there several times is explained once, where it is first; nothing known gives an empty list.
pub fn explain(text: &str) -> Result<Vec<Explanation>> {
    let patterns = patterns()?;
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
    let entry = |line: &str| entries().nth(patterns.matches(line).iter().next()?);
    let mut seen = HashSet::new();
    let mut found: Vec<Explanation> = lines
        .iter()
        .filter_map(|line| Some((line, entry(line)?)))
        .filter(|(_, entry)| seen.insert(entry.code))
        .map(|(line, entry)| entry.explain(line))
        .collect();
    if found.is_empty() && lines.len() > 1 {
        // Terminals and chats break lines.
        let whole = lines.join(" ");
        found.extend(entry(&whole).map(|entry| entry.explain(&whole)));
    }
    Ok(found)
}

impl Entry {
    fn explain(&self, line: &str) -> Explanation {
        let Entry { code, what, why, fix, foretold, see, .. } = *self;
        let line = line.chars().take(MAX_SHOWN).collect();
        Explanation { code, line, what, why, fix: fix.join("\n"), foretold, see }
    }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    CATALOGUE.into_iter().flatten()
}

fn patterns() -> Result<&'static RegexSet> {
    static PATTERNS: OnceLock<Result<RegexSet, regex::Error>> = OnceLock::new();
    let build = || RegexSetBuilder::new(entries().map(|entry| entry.pattern)).case_insensitive(true).build();
    PATTERNS.get_or_init(build).as_ref().map_err(|e| Error::failed(format!("internal error: {e}")))
}

#[cfg(test)]
mod tests;
