//! Whether an edit changes what it says, and nothing else.

use std::collections::HashSet;
use std::ops::Range;

use super::edit::Change;
use super::yaml::{self, Node, Stream};
use crate::error::{Error, Result};

/// Reads the new text: it must be what the old one was, without the documents that were removed, but for the changes.
pub(super) fn check(name: &str, old: &Stream, removed: &HashSet<usize>, changes: &[Change], new: &str) -> Result<()> {
    let stream = yaml::read(new, name).map_err(|error| impossible(name, &error.to_string()))?;
    let mut old = old.documents.iter().enumerate().filter(|(at, _)| !removed.contains(at));
    let mut new = stream.documents.iter();
    let paths: HashSet<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    loop {
        let (before, after) = (old.next(), new.next());
        let mut found = Vec::new();
        match (before, after) {
            (None, None) => return Ok(()),
            (Some((at, old)), Some(new)) => match (&old.root, &new.root) {
                (Some(old), Some(new)) => yaml::differences(old, new, &at.to_string(), &mut found),
                (None, None) => {}
                _ => found.push(at.to_string()),
            },
            // Without its last document, a text may have an empty one.
            (None, Some(new)) if new.root.as_ref().is_none_or(Node::is_null) => {}
            _ => return Err(impossible(name, "a document came or went")),
        }
        // The path itself, or one above it.
        let declared = |path: &String| {
            let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
            ends.into_iter().any(|end| paths.contains(&path[..end]))
        };
        if let Some(path) = found.iter().find(|path| !declared(path)) {
            return Err(impossible(name, &format!("{path} would change too")));
        }
    }
}

/// What is written so that it cannot be edited.
pub(super) fn impossible(name: &str, why: &str) -> Error {
    Error::content(format!("{name}: this cannot be edited without changing something else: {why}"))
        .hint("write it in a plainer form, such as kubectl prints it")
}

/// Where nodes are that aliases stand for elsewhere.
pub(super) struct Shared<'a> {
    /// By their starts; each with the place among them, so far, that ends last.
    spans: Vec<(&'a Range<usize>, usize, &'a Range<usize>, usize)>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(anchored: &'a [(Range<usize>, usize)]) -> Self {
        let mut all: Vec<_> = anchored.iter().filter(|(span, _)| !span.is_empty()).collect();
        all.sort_by_key(|(span, _)| (span.start, std::cmp::Reverse(span.end)));
        let mut spans: Vec<(&Range<usize>, usize, &Range<usize>, usize)> = Vec::with_capacity(all.len());
        for (span, line) in all {
            let (widest, at) = match spans.last() {
                Some((_, _, widest, at)) if widest.end >= span.end => (*widest, *at),
                _ => (span, *line),
            };
            spans.push((span, *line, widest, at));
        }
        Shared { spans }
    }

    /// The line of what would change for aliases too, if `at` is edited in the node `owner`. Nodes lie in each other or apart.
    pub(super) fn touched(&self, owner: &Range<usize>, at: &Range<usize>, removes: bool) -> Option<usize> {
        let before = self.spans.partition_point(|(span, ..)| span.start <= owner.start);
        let around = before.checked_sub(1).and_then(|at| self.spans.get(at));
        if let Some((_, _, widest, line)) = around
            && widest.end >= owner.end
        {
            return Some(*line);
        }
        let first = self.spans.partition_point(|(span, ..)| span.start < at.start);
        let inside = self.spans.get(first).filter(|(span, ..)| span.start < at.end);
        inside.filter(|_| owner != at || !removes).map(|(_, line, ..)| *line)
    }
}
