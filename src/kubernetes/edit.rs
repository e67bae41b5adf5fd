//! Edits of raw text: only the bytes of what changes are replaced, and the result is read again to prove it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ops::Range;

use granit_parser::ScalarStyle;
use serde::Serialize;

use super::cursor::{Cursor, SHARED};
use super::lines;
use super::new::{New, is_plain, quoted};
use super::proof::{self, Shared, impossible};
use super::yaml::{Node, Stream, Value, content_end};
use crate::error::{Error, Result};

/// One thing that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The line in the old text, from 1.
    pub line: usize,
    /// Where in the tree: the number of the document, then keys and numbers of items with slashes between them.
    pub path: String,
    /// What, for people.
    pub what: String,
}

struct Edit {
    at: Range<usize>,
    new: String,
    /// The node whose content this changes.
    owner: Range<usize>,
}

/// The edits of one file.
pub(super) struct Edits<'a> {
    pub(super) name: &'a str,
    text: &'a str,
    stream: &'a Stream,
    line_end: &'static str,
    /// Columns that a nested mapping is indented by.
    step: usize,
    edits: Vec<Edit>,
    removed: HashSet<usize>,
    pub(super) changes: Vec<Change>,
}

impl<'a> Edits<'a> {
    pub(super) fn new(name: &'a str, text: &'a str, stream: &'a Stream) -> Self {
        let crlf = text.split_once('\n').is_some_and(|(line, _)| line.ends_with('\r'));
        let line_end = if crlf { "\r\n" } else { "\n" };
        let roots = stream.documents.iter().filter_map(|document| document.root.as_ref());
        let nested = roots.flat_map(Node::entries).find(|(_, value)| matches!(value.value, Value::Mapping(_, false)));
        let step = nested.map_or(2, |(key, value)| value.column.saturating_sub(key.column).clamp(1, 8));
        Edits { name, text, stream, line_end, step, edits: Vec::new(), removed: HashSet::new(), changes: Vec::new() }
    }

    /// Notes a change at `cursor`.
    fn note(&mut self, line: usize, path: String, what: impl Into<String>) {
        self.changes.push(Change { line, path, what: what.into() });
    }

    fn push(&mut self, at: Range<usize>, new: String, owner: &Node) {
        self.edits.push(Edit { at, new, owner: owner.span.clone() });
    }

    /// The scalar as it is written, without quotes, and where that is.
    fn raw(&self, node: &Node) -> Option<(&'a str, Range<usize>)> {
        let Value::Scalar(_, style) = &node.value else { return None };
        let mut at = node.span.clone();
        if matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) {
            at = at.start + 1..at.end.checked_sub(1)?;
        }
        let raw = self.text.get(at.clone())?;
        at.end -= raw.len() - raw.trim_end().len();
        Some((self.text.get(at.clone())?, at))
    }

    /// Another text for a scalar, with the quotes that it has.
    pub(super) fn replace(&mut self, cursor: &Cursor<'_>, new: &str, what: impl Into<String>) -> Result<()> {
        let node = cursor.node;
        let Value::Scalar(_, style) = &node.value else {
            return Err(Error::content(format!("{}: this is not text", cursor.place())));
        };
        let (at, new) = match style {
            ScalarStyle::Plain if is_plain(new) => (node.span.clone(), new.to_owned()),
            ScalarStyle::Plain | ScalarStyle::DoubleQuoted => (node.span.clone(), quoted(new)),
            ScalarStyle::SingleQuoted => (node.span.clone(), format!("'{}'", new.replace('\'', "''"))),
            _ => match self.raw(node) {
                Some((old, at)) if !old.contains('\n') => (at, new.to_owned()),
                _ => return Err(Error::content(format!("{}: write this on one line", cursor.place()))),
            },
        };
        self.push(at, new, node);
        self.note(node.line, cursor.path.clone(), what);
        Ok(())
    }

    /// Another number for a scalar.
    pub(super) fn replace_number(&mut self, cursor: &Cursor<'_>, new: &str, what: impl Into<String>) {
        self.push(cursor.node.span.clone(), new.to_owned(), cursor.node);
        self.note(cursor.node.line, cursor.path.clone(), what);
    }

    /// A scalar changed by `change`, which works on what is written between the quotes and keeps every other byte; with
    /// escapes, it works on the value.
    pub(super) fn rewrite(
        &mut self,
        cursor: &Cursor<'_>,
        change: impl Fn(&str) -> Result<String>,
        what: impl Into<String>,
    ) -> Result<()> {
        if let Value::Scalar(value, ScalarStyle::DoubleQuoted) = &cursor.node.value
            && self.text[cursor.node.span.clone()].contains('\\')
        {
            let new = change(value).map_err(|error| error.context(cursor.place()))?;
            return self.replace(cursor, &new, what);
        }
        let Some((old, at)) = self.raw(cursor.node) else { return Ok(()) };
        let new = change(old).map_err(|error| error.context(cursor.place()))?;
        self.push(at, new, cursor.node);
        self.note(cursor.node.line, cursor.path.clone(), what);
        Ok(())
    }

    /// Sets `key` of a mapping; a new entry comes after the entry `after`, or else at the end.
    pub(super) fn set(
        &mut self,
        mapping: &Cursor<'_>,
        after: &str,
        key: &str,
        new: &New<'_>,
        what: impl Into<String>,
    ) -> Result<()> {
        let Value::Mapping(entries, flow) = &mapping.node.value else {
            return Err(Error::content(format!("{}: this is not a mapping", mapping.place())));
        };
        let node = mapping.node;
        let json = entries.first().is_some_and(|(k, _)| self.text[k.span.clone()].starts_with('"'));
        let path = format!("{}/{key}", mapping.path);
        if let Some((k, value)) = entries.iter().find(|(k, _)| k.text() == Some(key)) {
            if value.is_null() && value.span.is_empty() {
                let at = self.entry_end(k, value);
                let colon = if self.text[..at].ends_with(':') { "" } else { ":" };
                let owner = k.span.end..k.span.end;
                self.edits.push(Edit { at: at..at, new: format!("{colon} {}", new.flow(json)), owner });
            } else {
                self.push(value.span.clone(), new.flow(json), node);
            }
            self.note(k.line, path, what);
            return Ok(());
        }
        let entry = entries.iter().position(|(k, _)| k.text() == Some(after)).or(entries.len().checked_sub(1));
        let line = entry.and_then(|at| entries.get(at)).map_or(node.line, |(k, _)| k.line);
        let rendered = format!("{}: {}", if json { quoted(key) } else { key.to_owned() }, new.flow(json));
        if *flow {
            let spans: Vec<_> = entries.iter().map(|(k, value)| k.span.start..self.entry_end(k, value)).collect();
            self.insert_in_flow(node, &spans, entry, rendered);
        } else if let Some((k, value)) = entry.and_then(|at| entries.get(at)) {
            let at = lines::end(self.text, content_end(k, value));
            let text = format!("{}{}", self.new_line(node.column), self.block_entry(key, new, node.column));
            self.push(at..at, text, node);
        }
        self.note(line, path, what);
        Ok(())
    }

    /// One more item at the end of a sequence.
    pub(super) fn append(&mut self, sequence: &Cursor<'_>, new: &New<'_>, what: impl Into<String>) -> Result<()> {
        let node = sequence.node;
        let Value::Sequence(items, flow) = &node.value else {
            return Err(Error::content(format!("{}: this is not a list", sequence.place())));
        };
        if *flow {
            let json = self.text.get(node.span.clone()).is_some_and(|text| text.contains('"'));
            let spans: Vec<_> = items.iter().map(|item| item.span.clone()).collect();
            self.insert_in_flow(node, &spans, items.len().checked_sub(1), new.flow(json));
        } else {
            let at = lines::end(self.text, node.span.end);
            let item = match new {
                New::Map(entries) => {
                    let lines: Vec<_> =
                        entries.iter().map(|(key, value)| self.block_entry(key, value, node.column + 2)).collect();
                    lines.join(&self.new_line(node.column + 2))
                }
                other => other.flow(false),
            };
            self.push(at..at, format!("{}- {item}", self.new_line(node.column)), node);
        }
        self.note(node.line, sequence.path.clone(), what);
        Ok(())
    }

    /// Takes a whole entry out of a mapping, with the comments behind it.
    pub(super) fn remove(&mut self, mapping: &Cursor<'_>, key: &str, what: impl Into<String>) -> Result<()> {
        let Value::Mapping(entries, flow) = &mapping.node.value else { return Ok(()) };
        let Some(at) = entries.iter().position(|(k, _)| k.text() == Some(key)) else { return Ok(()) };
        let spans: Vec<_> = entries.iter().map(|(k, value)| k.span.start..content_end(k, value)).collect();
        let (line, column) = (entries[at].0.line, entries[at].0.column);
        let range = if *flow { between_commas(&spans, at) } else { lines::whole(self.text, spans[at].clone(), column) };
        let range = range.filter(|_| entries.len() > 1).ok_or_else(|| {
            Error::content(format!("{}:{line}: {key} cannot be taken out here", self.name))
                .hint("give it a line of its own, or remove it")
        })?;
        self.push(range, String::new(), mapping.node);
        self.note(line, format!("{}/{key}", mapping.path), what);
        Ok(())
    }

    /// Takes items out of a sequence.
    pub(super) fn remove_items(&mut self, sequence: &Cursor<'_>, which: &[usize], what: &str) -> Result<()> {
        let Value::Sequence(items, flow) = &sequence.node.value else { return Ok(()) };
        let node = sequence.node;
        if which.len() == items.len() {
            self.push(node.span.clone(), if *flow { "[]".to_owned() } else { "  []".to_owned() }, node);
        } else {
            let spans: Vec<_> = items.iter().map(|item| item.span.clone()).collect();
            for at in which {
                let range = if *flow {
                    between_commas(&spans, *at)
                } else {
                    let before = self.text[..spans[*at].start].trim_end();
                    let dash = before.len().saturating_sub(1);
                    let range =
                        before.ends_with('-').then(|| lines::whole(self.text, dash..spans[*at].end, node.column));
                    // With the line break before an item: others may write where the last one ends.
                    range.flatten().map(|lines| {
                        let [start, end] = [lines.start, lines.end].map(|at| lines::without_break(self.text, at));
                        if *at == 0 { lines } else { start..end }
                    })
                };
                let range = range.ok_or_else(|| {
                    Error::content(format!("{}:{}: this item cannot be taken out", self.name, items[*at].line))
                })?;
                self.push(range, String::new(), node);
            }
        }
        let line = which.first().and_then(|at| items.get(*at)).map_or(node.line, |item| item.line);
        self.note(line, sequence.path.clone(), what);
        Ok(())
    }

    /// Takes out a whole document.
    pub(super) fn remove_document(&mut self, at: usize, line: usize, what: impl Into<String>) {
        if let Some(document) = self.stream.documents.get(at) {
            self.edits.push(Edit { at: document.span.clone(), new: String::new(), owner: document.span.clone() });
            self.removed.insert(at);
            self.note(line, at.to_string(), what);
        }
    }

    /// Where an entry ends; without a value, behind its colon.
    fn entry_end(&self, key: &Node, value: &Node) -> usize {
        let end = content_end(key, value);
        let rest = self.text[end..].trim_start();
        if value.span.is_empty() && rest.starts_with(':') { self.text.len() - rest.len() + 1 } else { end }
    }

    fn insert_in_flow(&mut self, node: &Node, spans: &[Range<usize>], after: Option<usize>, new: String) {
        let Some((at, span)) = after.and_then(|at| spans.get(at).map(|span| (at, span))) else {
            let open = node.span.start + 1;
            return self.push(open..open, new, node);
        };
        // The white space before that entry, so that one entry a line stays so.
        let start = at.checked_sub(1).and_then(|at| spans.get(at)).map_or(node.span.start + 1, |span| span.end);
        let gap = self.text[start..span.start].trim_start_matches(',');
        let gap = if gap.trim().is_empty() && !gap.is_empty() { gap } else { " " };
        self.push(span.end..span.end, format!(",{gap}{new}"), node);
    }

    fn block_entry(&self, key: &str, new: &New<'_>, column: usize) -> String {
        match new {
            New::Map(entries) => {
                let column = column + self.step;
                let line = self.new_line(column);
                let lines: String = entries
                    .iter()
                    .map(|(key, value)| format!("{line}{}", self.block_entry(key, value, column)))
                    .collect();
                format!("{key}:{lines}")
            }
            New::List(items) if items.iter().any(|item| matches!(item, New::Map(_))) => {
                let line = self.new_line(column + self.step);
                let lines: String = items.iter().map(|item| format!("{line}- {}", item.flow(false))).collect();
                format!("{key}:{lines}")
            }
            other => format!("{key}: {}", other.flow(false)),
        }
    }

    fn new_line(&self, column: usize) -> String {
        format!("{}{}", self.line_end, " ".repeat(column))
    }

    /// The new text. It is read again: it must be what the old one was but for the changes that were noted.
    pub(super) fn apply(mut self) -> Result<(String, Vec<Change>)> {
        // Several nodes may end in one place: what belongs to an inner one comes first.
        self.edits.sort_by_key(|edit| (edit.at.start, Reverse(edit.owner.start)));
        let mut new = String::with_capacity(self.text.len());
        let mut copied = 0;
        let shared = Shared::new(&self.stream.shared);
        for edit in &self.edits {
            if let Some(line) = shared.touched(&edit.owner, &edit.at, edit.new.is_empty()) {
                let place = format!("{}:{line}", self.name);
                let why = format!("{place}: an alias stands for this elsewhere, and it would change too");
                return Err(Error::content(why).hint(SHARED));
            }
            let kept =
                self.text.get(copied..edit.at.start).ok_or_else(|| impossible(self.name, "two edits overlap"))?;
            new.push_str(kept);
            new.push_str(&edit.new);
            copied = edit.at.end;
        }
        new.push_str(&self.text[copied..]);
        proof::check(self.name, self.stream, &self.removed, &self.changes, &new)?;
        self.changes.sort_by_key(|change| change.line);
        Ok((new, self.changes))
    }
}

/// From comma to comma around the entry or item `at`.
fn between_commas(spans: &[Range<usize>], at: usize) -> Option<Range<usize>> {
    let span = spans.get(at)?;
    match (at.checked_sub(1).and_then(|at| spans.get(at)), spans.get(at + 1)) {
        (Some(previous), _) => Some(previous.end..span.end),
        (None, Some(next)) => Some(span.start..next.start),
        (None, None) => Some(span.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    /// The text after an edit of its first document.
    fn after(text: &str, edit: impl Fn(&mut Edits<'_>, &Cursor<'_>) -> Result<()>) -> Result<String> {
        let stream = yaml::read(text, "f")?;
        let mut edits = Edits::new("f", text, &stream);
        let node = stream.documents[0].root.as_ref().unwrap();
        edit(&mut edits, &Cursor { file: "f", node, path: "0".to_owned() })?;
        edits.apply().map(|(text, _)| text)
    }

    #[test]
    fn entries_are_set_where_they_belong() {
        let new = New::Map(vec![("k", New::List(vec![New::Text("V"), New::Text("8080")]))]);
        for (text, expected) in [
            ("a: 1 # c\nb: 2\n", "a: 1 # c\nn:\n  k: [V, \"8080\"]\nb: 2\n"),
            ("a:\n    x: 1\nb: 2", "a:\n    x: 1\nn:\n    k: [V, \"8080\"]\nb: 2"),
            ("a: |\n  x\n\nb: 2\n", "a: |\n  x\nn:\n  k: [V, \"8080\"]\n\nb: 2\n"),
            ("a:\r\n- 1\r\n", "a:\r\n- 1\r\nn:\r\n  k: [V, \"8080\"]\r\n"),
            ("b:\n", "b:\nn:\n  k: [V, \"8080\"]\n"),
            ("n:\nb: 1\n", "n: {k: [V, \"8080\"]}\nb: 1\n"),
            ("n: null\n", "n: {k: [V, \"8080\"]}\n"),
            ("{a: 1, b: 2}", "{a: 1, n: {k: [V, \"8080\"]}, b: 2}"),
            ("{\"a\":1}", "{\"a\":1, \"n\": {\"k\": [\"V\", \"8080\"]}}"),
            ("{\n\t\"a\": 1\n}", "{\n\t\"a\": 1,\n\t\"n\": {\"k\": [\"V\", \"8080\"]}\n}"),
            ("{}", "{n: {k: [V, \"8080\"]}}"),
        ] {
            assert_eq!(after(text, |edits, root| edits.set(root, "a", "n", &new, "")).unwrap(), expected);
        }
    }

    #[test]
    fn entries_are_taken_out_with_the_comments_behind_them() {
        for (text, expected) in [
            ("a: 1\n# above\nx: 2 # behind\nb: 3\n", "a: 1\n# above\nb: 3\n"),
            ("x:\n  y:\n  - 1\n  # deeper\n\n# not\nb: 3\n", "\n# not\nb: 3\n"),
            ("a: 1\nx: 2", "a: 1\n"),
            ("a: 1\nx: |\n  text\n\nb: 2\n", "a: 1\n\nb: 2\n"),
            ("a: 1\nx:\nb: 2\n", "a: 1\nb: 2\n"),
            ("{a: 1, x: {y: 2}, b: 3}", "{a: 1, b: 3}"),
            ("{\"x\": 1,\n \"b\": 2}", "{\"b\": 2}"),
            ("{a: 1, x: 2}", "{a: 1}"),
        ] {
            assert_eq!(after(text, |edits, root| edits.remove(root, "x", "")).unwrap(), expected);
        }
        for alone in ["x: 1\n", "{x: 1}", "? x\n: 1\nb: 2\n"] {
            assert!(after(alone, |edits, root| edits.remove(root, "x", "")).is_err(), "{alone}");
        }
    }

    #[test]
    fn lists_grow_and_shrink() {
        let item = New::Map(vec![("a", New::Text("b")), ("c", New::Plain("1"))]);
        for (text, grown, shrunk) in [
            ("l:\n- x\n- y\nz: 1\n", "l:\n- x\n- y\n- a: b\n  c: 1\nz: 1\n", "l:\n- y\nz: 1\n"),
            ("l:\n  - x # c\nz: 1\n", "l:\n  - x # c\n  - a: b\n    c: 1\nz: 1\n", "l:\n    [] # c\nz: 1\n"),
            ("l: [x, y]\n", "l: [x, y, {a: b, c: 1}]\n", "l: [y]\n"),
            ("{\"l\":[\"x\"]}", "{\"l\":[\"x\", {\"a\": \"b\", \"c\": 1}]}", "{\"l\":[]}"),
        ] {
            let list = |root: &Cursor<'_>| root.get("l").unwrap().unwrap().path;
            let with = |edit: &dyn Fn(&mut Edits<'_>, &Cursor<'_>) -> Result<()>| {
                after(text, |edits, root| {
                    assert_eq!(list(root), "0/l");
                    edit(edits, &root.get("l")?.unwrap())
                })
                .unwrap()
            };
            assert_eq!(with(&|edits, list| edits.append(list, &item, "")), grown);
            assert_eq!(with(&|edits, list| edits.remove_items(list, &[0], "")), shrunk);
        }
    }

    #[test]
    fn scalars_keep_their_quotes() {
        for (text, expected) in [
            ("a: x # c\n", "a: y:1 # c\n"),
            ("a: 'x'\n", "a: 'y:1'\n"),
            ("a: \"x\"\n", "a: \"y:1\"\n"),
            ("a: >-\n  x\nb: 1\n", "a: >-\n  y:1\nb: 1\n"),
            ("é: ü\na: x\n", "é: ü\na: y:1\n"),
        ] {
            let edited = after(text, |edits, root| edits.replace(&root.get("a")?.unwrap(), "y:1", ""));
            assert_eq!(edited.unwrap(), expected);
        }
    }

    #[test]
    fn what_would_change_elsewhere_is_refused() {
        let set = |edits: &mut Edits<'_>, root: &Cursor<'_>| {
            edits.set(&root.get("m")?.unwrap(), "", "n", &New::Plain("1"), "")
        };
        assert_eq!(after("m: &m {a: 1}\n", set).unwrap(), "m: &m {a: 1, n: 1}\n", "nobody refers to it");
        for (text, says) in [
            ("m: &m {a: 1}\no: *m\n", "f:1: an alias stands for this elsewhere"),
            ("m: &m\n  a: 1\no: *m\n", "an alias stands for this elsewhere"),
            ("x: &x {m: 1}\nm: *x\n", "f:2: m is an alias"),
            ("x: &x {m: 1}\n<<: *x\n", "f:2: m may come from the merge key"),
        ] {
            let error = after(text, set).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
