//! YAML and JSON documents as trees whose nodes know where they stand in the raw text. Aliases are never followed, so
//! nothing grows.

use std::collections::HashSet;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};
use indexmap::IndexMap;

use super::number;
use crate::error::{Error, Result};

/// Nodes that the documents of one file may have; a node takes some hundred bytes.
const MAX_NODES: usize = 500_000;

/// A node and where it is.
#[derive(Debug)]
pub(crate) struct Node {
    /// Bytes of the text, without anchor, tag and the header of a block scalar; a block collection ends with its last
    /// child. Empty: nothing is written.
    pub(crate) span: Range<usize>,
    /// From 1.
    pub(crate) line: usize,
    /// Characters before it on its line.
    pub(crate) column: usize,
    /// The number of the anchor defined here, 0 if there is none.
    pub(crate) anchor: usize,
    pub(crate) value: Value,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Value {
    /// Text, after quotes and escapes.
    Scalar(String, ScalarStyle),
    /// Items, and whether they stand between brackets.
    Sequence(Vec<Node>, bool),
    /// Keys and values, and whether they stand between braces.
    Mapping(Vec<(Node, Node)>, bool),
    /// `*name`, which stands for the node with this anchor.
    Alias(usize),
}

/// One document of a stream.
#[derive(Debug)]
pub(crate) struct Document {
    /// From its `---`, or from the start of the text, to the next document.
    pub(crate) span: Range<usize>,
    pub(crate) root: Option<Node>,
}

/// The documents of a file.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) documents: Vec<Document>,
    /// Where nodes are that an alias stands for elsewhere.
    pub(super) shared: Vec<(Range<usize>, usize)>,
}

impl Node {
    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text, _) if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// The number of a port, as the API server reads it.
    pub(super) fn port(&self) -> Option<u16> {
        match &self.value {
            Value::Scalar(text, ScalarStyle::Plain) => u16::try_from(number::whole(text)?).ok(),
            Value::Scalar(text, _) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether there is nothing: no value, or a plain `null` or `~`.
    pub(crate) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar(text, ScalarStyle::Plain) => {
                self.span.is_empty() || matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// Whether nothing is in it: it is null, or a mapping without entries.
    pub(super) fn is_nothing(&self) -> bool {
        self.is_null() || matches!(&self.value, Value::Mapping(entries, _) if entries.is_empty())
    }

    pub(super) fn entries(&self) -> &[(Node, Node)] {
        match &self.value {
            Value::Mapping(entries, _) => entries,
            _ => &[],
        }
    }

    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items, _) => items,
            _ => &[],
        }
    }

    /// The value of a key of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k.text() == Some(key)).map(|(_, value)| value)
    }

    /// The value below several keys.
    pub(super) fn at(&self, keys: &[&str]) -> Option<&Node> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The text below several keys.
    pub(super) fn text_at(&self, keys: &[&str]) -> Option<&str> {
        self.at(keys).and_then(Node::text)
    }

    /// Every text in it that is no key.
    pub(super) fn texts<'a>(&'a self, found: &mut Vec<&'a Node>) {
        match &self.value {
            Value::Scalar(..) => found.push(self),
            Value::Sequence(items, _) => items.iter().for_each(|item| item.texts(found)),
            Value::Mapping(entries, _) => entries.iter().for_each(|(_, value)| value.texts(found)),
            Value::Alias(_) => {}
        }
    }

    /// The first place where a `{{ template }}` outside of quotes was read as a mapping.
    pub(crate) fn template(&self) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries, true) if entries.iter().any(|(key, _)| !matches!(key.value, Value::Scalar(..))) => {
                Some(self)
            }
            Value::Mapping(entries, _) => {
                entries.iter().find_map(|(key, value)| key.template().or_else(|| value.template()))
            }
            Value::Sequence(items, _) => items.iter().find_map(Node::template),
            _ => None,
        }
    }
}

/// A boolean as YAML 1.1 has it, which is what kubectl, Helm and Compose read.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// Paths at which the new tree differs from the old one, as `a/b/0`; a list of another length differs as a whole, and so
/// does a mapping with keys that are no text.
pub(super) fn differences(old: &Node, new: &Node, path: &str, found: &mut Vec<String>) {
    let below = |key: &str| format!("{path}/{key}");
    match (&old.value, &new.value) {
        (Value::Mapping(a, _), Value::Mapping(b, _)) => {
            let (Some(a), Some(b)) = (by_key(a), by_key(b)) else { return found.push(path.to_owned()) };
            for (key, value) in &a {
                match b.get(key) {
                    Some(other) => differences(value, other, &below(key), found),
                    None => found.push(below(key)),
                }
            }
            found.extend(b.keys().filter(|key| !a.contains_key(*key)).map(|key| below(key)));
        }
        (Value::Sequence(a, _), Value::Sequence(b, _)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(at, (a, b))| differences(a, b, &below(&at.to_string()), found));
        }
        (Value::Scalar(a, _), Value::Scalar(b, _)) if a == b && old.is_null() == new.is_null() => {}
        (Value::Alias(_), Value::Alias(_)) => {}
        _ => found.push(path.to_owned()),
    }
}

fn by_key(entries: &[(Node, Node)]) -> Option<IndexMap<&str, &Node>> {
    let mut found = IndexMap::with_capacity(entries.len());
    for (key, value) in entries {
        let Value::Scalar(text, _) = &key.value else { return None };
        found.insert(text.as_str(), value);
    }
    Some(found)
}

/// Reads all documents of `text`; `name` is what to call it in errors.
///
/// # Errors
/// [`Kind::Content`](crate::error::Kind::Content), with file, line and column, if it is no YAML, has a key twice, is nested
/// deeper than 255 or has more than 500,000 nodes.
pub(crate) fn read(text: &str, name: &str) -> Result<Stream> {
    let mut stream = Stream { documents: Vec::new(), shared: Vec::new() };
    let mut builder = Builder { text, ..Builder::default() };
    let mut nodes = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let (line, column) = (error.marker().line(), error.marker().col() + 1);
            broken(text, line, &error.info()).context(format!("{name}:{line}:{column}"))
        })?;
        nodes += 1;
        if nodes > MAX_NODES {
            return Err(Error::content(format!("{name} has more than {MAX_NODES} nodes")));
        }
        builder.take(event, &span, &mut stream).map_err(|error| error.context(name))?;
    }
    if let Some(first) = stream.documents.first_mut() {
        // What stands before the first `---` belongs to no document.
        first.span.start = if builder.first_is_explicit { first.span.start } else { 0 };
    }
    let starts: Vec<usize> = stream.documents.iter().map(|document| document.span.start).collect();
    for (at, document) in stream.documents.iter_mut().enumerate() {
        document.span.end = starts.get(at + 1).copied().unwrap_or(text.len());
    }
    Ok(stream)
}

fn broken(text: &str, line: usize, why: &str) -> Error {
    let error = Error::content(format!("this is not YAML: {why}"));
    let here = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let indentation = |line: &str| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t');
    if text.contains("{{") {
        return error.hint("templates cannot be edited: render the chart first (helm template), or use --helm");
    }
    if indentation(here) || why.contains(" tab") {
        return error.hint("YAML allows no tabs for indentation: use spaces");
    }
    error
}

/// What is open while events come in.
#[derive(Default)]
struct Builder<'a> {
    text: &'a str,
    open: Vec<(Node, Option<Node>)>,
    /// Anchors of the document: identifier, place and line.
    anchors: Vec<(usize, Range<usize>, usize)>,
    aliased: HashSet<usize>,
    first_is_explicit: bool,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span, stream: &mut Stream) -> Result<()> {
        let node = |value, anchor| {
            let bytes = span.byte_range().unwrap_or_default();
            Node { span: bytes, line: span.start.line(), column: span.start.col(), anchor, value }
        };
        match event {
            Event::DocumentStart(explicit, _) => {
                self.first_is_explicit |= explicit && stream.documents.is_empty();
                let start = span.byte_range().unwrap_or_default().start;
                stream.documents.push(Document { span: start..start, root: None });
            }
            Event::DocumentEnd => {
                let used = self.anchors.drain(..).filter(|(anchor, ..)| self.aliased.contains(anchor));
                stream.shared.extend(used.map(|(_, span, line)| (span, line)));
                self.aliased.clear();
            }
            Event::Scalar(text, style, anchor, _) => {
                self.add(node(Value::Scalar(text.into_owned(), style), anchor), stream)?;
            }
            Event::Alias(anchor) => {
                self.aliased.insert(anchor);
                self.add(node(Value::Alias(anchor), 0), stream)?;
            }
            Event::SequenceStart(style, anchor, _) => {
                self.open.push((node(Value::Sequence(Vec::new(), style == StructureStyle::Flow), anchor), None));
            }
            Event::MappingStart(style, anchor, _) => {
                self.open.push((node(Value::Mapping(Vec::new(), style == StructureStyle::Flow), anchor), None));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((mut closed, _)) = self.open.pop() {
                    closed.span.end = match &closed.value {
                        Value::Sequence(items, false) => {
                            items.iter().filter(|item| !item.span.is_empty()).map(|item| item.span.end).next_back()
                        }
                        Value::Mapping(entries, false) => entries.last().map(|(key, value)| content_end(key, value)),
                        _ => span.byte_range().map(|bytes| bytes.end),
                    }
                    .unwrap_or(closed.span.end)
                    .max(closed.span.start);
                    no_key_twice(&closed)?;
                    self.add(closed, stream)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, mut node: Node, stream: &mut Stream) -> Result<()> {
        if node.anchor != 0 {
            self.anchors.push((node.anchor, node.span.clone(), node.line));
        }
        match self.open.last_mut() {
            None => {
                if let Some(document) = stream.documents.last_mut() {
                    document.root = Some(node);
                }
            }
            Some((parent, key)) => match &mut parent.value {
                Value::Sequence(items, _) => items.push(node),
                Value::Mapping(entries, _) => match key.take() {
                    Some(key) => {
                        dash(self.text, &key, &mut node);
                        entries.push((key, node));
                    }
                    None => *key = Some(node),
                },
                _ => return Err(Error::failed("internal error: a scalar with children")),
            },
        }
        Ok(())
    }
}

/// A list whose dashes stand below its key is said to begin behind the first dash: it begins at it.
fn dash(text: &str, key: &Node, node: &mut Node) {
    let Value::Sequence(items, false) = &node.value else { return };
    if items.first().is_some_and(|first| first.span.start == node.span.start) {
        node.column = key.column;
        let before = text[..node.span.start].trim_end();
        if before.ends_with('-') {
            node.span.start = before.len() - 1;
        }
    }
}

/// Where what is written of an entry ends.
pub(super) fn content_end(key: &Node, value: &Node) -> usize {
    if value.span.is_empty() { key.span.end } else { value.span.end.max(key.span.end) }
}

fn no_key_twice(node: &Node) -> Result<()> {
    let mut keys = HashSet::new();
    for (key, _) in node.entries() {
        if let Value::Scalar(text, _) = &key.value
            && text != "<<"
            && !keys.insert(text.as_str())
        {
            let place = format!("line {}", key.line);
            return Err(Error::content(format!("{place}: the key \"{text}\" is there twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_where_they_are() {
        let text = "# é\r\na: \"b\"  # c\r\nd:\r\n- e: |\r\n    f\r\n    g\r\n- {h: [i, j ]}\r\nk:\r\n";
        let stream = read(text, "f").unwrap();
        let root = stream.documents[0].root.as_ref().unwrap();
        let slice = |node: &Node| &text[node.span.clone()];
        assert_eq!(slice(root.get("a").unwrap()), "\"b\"");
        let d = root.get("d").unwrap();
        assert_eq!(d.column, 0);
        assert_eq!((slice(&d.items()[1]), d.items()[1].line, d.items()[1].column), ("{h: [i, j ]}", 7, 2));
        assert_eq!(slice(d.items()[1].get("h").unwrap()), "[i, j ]");
        assert_eq!(slice(d.items()[0].get("e").unwrap()), "f\r\n    g\r\n", "without its header");
        assert!(root.get("k").unwrap().is_null());
    }

    #[test]
    fn documents_end_where_the_next_begins() {
        for (text, documents) in [
            ("", vec![]),
            ("a: 1\n", vec!["a: 1\n"]),
            ("# c\na: 1\n---\nb: 1\n", vec!["# c\na: 1\n", "---\nb: 1\n"]),
            ("# c\n---\na: 1\n---\n---\nb: 1\n...\n", vec!["---\na: 1\n", "---\n", "---\nb: 1\n...\n"]),
        ] {
            let stream = read(text, "f").unwrap();
            let spans: Vec<_> = stream.documents.iter().map(|document| &text[document.span.clone()]).collect();
            assert_eq!(spans, documents);
        }
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_place() {
        let deep = "[".repeat(300);
        let wide = "- \n".repeat(MAX_NODES);
        for (text, says, hint) in [
            ("a:\n\tb: 1\n", "f:2:", Some("tabs")),
            ("a: [1\n", "f:1:4: this is not YAML", None),
            ("a: b\n\tc:\n", "f:1:", Some("tabs")),
            ("a: b: c\n", "f:1:", None),
            ("a: 1\nb: 2\na: 3\n", "line 3: the key \"a\" is there twice", None),
            ("a: *b\n", "f:1:", None),
            ("{{- if x }}\na: 1\n{{- end }}\n", "f:", Some("helm template")),
            (&deep, "f:1:", None),
            (&wide, "nodes", None),
        ] {
            let error = read(text, "f").unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(hint.is_none_or(|hint| error.hint_text().unwrap_or_default().contains(hint)), "{error:?}");
        }
    }
}
