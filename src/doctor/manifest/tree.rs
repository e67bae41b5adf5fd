//! YAML documents with their aliases followed and their merge keys applied, within bounds.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::ScalarStyle;

use crate::error::{Error, Result};
use crate::kubernetes::number;
use crate::kubernetes::yaml::{self, Node};

/// Nodes that all trees of one run may have together.
const MAX_NODES: usize = 1_000_000;

/// Bytes that the texts in them may have together.
const MAX_TEXT: usize = 64 << 20;

/// How deep a tree may be, as in the YAML reader; aliases could make it deeper.
const MAX_DEPTH: usize = 255;

/// A node, where it is written, and what stands there in the end.
#[derive(Clone, Debug)]
pub(super) struct Tree<'a> {
    /// The name of its file.
    pub(super) file: &'a str,
    /// From 1; 0 if it is written in no file of the user.
    pub(super) line: usize,
    /// Characters before it on its line.
    pub(super) column: usize,
    pub(super) value: Value<'a>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    /// Text, and whether it stands without quotes: then it may be a number or a boolean.
    Text(Cow<'a, str>, bool),
    List(Vec<Tree<'a>>),
    Map(Vec<(Cow<'a, str>, Tree<'a>)>),
}

/// What may still be copied.
#[derive(Debug)]
pub(super) struct Budget {
    nodes: usize,
    text: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { nodes: MAX_NODES, text: MAX_TEXT }
    }
}

impl Budget {
    /// Takes one node with so many bytes of text.
    pub(super) fn take(&mut self, file: &str, text: usize) -> Result<()> {
        match (self.nodes.checked_sub(1), self.text.checked_sub(text)) {
            (Some(nodes), Some(text)) => {
                *self = Budget { nodes, text };
                Ok(())
            }
            _ => Err(Error::content(format!(
                "{file} grows beyond {MAX_NODES} nodes or {} MiB of text when its aliases, merges and variables are followed",
                MAX_TEXT >> 20
            ))),
        }
    }

    /// Takes a copy of a tree.
    pub(super) fn copy<'a>(&mut self, tree: &Tree<'a>) -> Result<Tree<'a>> {
        self.weigh(tree)?;
        Ok(tree.clone())
    }

    fn weigh(&mut self, tree: &Tree<'_>) -> Result<()> {
        self.take(tree.file, tree.text().map_or(0, str::len))?;
        tree.items().iter().try_for_each(|item| self.weigh(item))?;
        tree.entries().iter().try_for_each(|(_, value)| self.weigh(value))
    }
}

impl<'a> Tree<'a> {
    /// A node that is written in no file of the user.
    pub(super) fn made(file: &'a str, value: Value<'a>) -> Self {
        Tree { file, line: 0, column: 0, value }
    }

    /// `FILE:LINE`.
    pub(super) fn place(&self) -> String {
        if self.line == 0 { self.file.to_owned() } else { format!("{}:{}", self.file, self.line) }
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text, _) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub(super) fn items(&self) -> &[Tree<'a>] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn entries(&self) -> &[(Cow<'a, str>, Tree<'a>)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<&Tree<'a>> {
        self.entries().iter().find(|(k, value)| k == key && !value.is_null()).map(|(_, value)| value)
    }

    /// The value below several keys.
    pub(super) fn at(&self, keys: &[&str]) -> Option<&Tree<'a>> {
        keys.iter().try_fold(self, |tree, key| tree.get(key))
    }

    /// The text below several keys.
    pub(super) fn text_at(&self, keys: &[&str]) -> Option<&str> {
        self.at(keys).and_then(Tree::text)
    }

    /// A boolean as YAML 1.1 has it, which is what kubectl, Helm and Compose read.
    pub(super) fn boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Text(text, true) => yaml::boolean(text),
            _ => None,
        }
    }

    /// A whole number.
    pub(super) fn integer(&self) -> Option<i64> {
        match &self.value {
            Value::Text(text, true) => number::whole(text),
            _ => None,
        }
    }

    /// What JSON would call it after the types of YAML 1.1 were applied.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::List(_) => "array",
            Value::Map(_) => "object",
            Value::Text(text, true) if yaml::boolean(text).is_some() => "bool",
            Value::Text(text, true) if number::number(text).is_some() => "number",
            Value::Text(..) => "string",
        }
    }
}

/// Follows the aliases and merge keys of a document.
///
/// # Errors
/// [`Kind::Content`](crate::error::Kind::Content), with its line, if an alias stands for what it is in, or if the tree
/// would be more than the budget.
pub(super) fn resolve<'a>(root: &'a Node, file: &'a str, budget: &mut Budget) -> Result<Tree<'a>> {
    Resolver { file, anchors: HashMap::new(), budget }.tree(root, 0)
}

struct Resolver<'a, 'b> {
    file: &'a str,
    /// Nodes that were read to their end.
    anchors: HashMap<usize, &'a Node>,
    budget: &'b mut Budget,
}

impl<'a> Resolver<'a, '_> {
    fn tree(&mut self, node: &'a Node, depth: usize) -> Result<Tree<'a>> {
        let error = |what: &str| Error::content(format!("{}:{}: {what}", self.file, node.line));
        if depth > MAX_DEPTH {
            return Err(error("this is nested too deeply"));
        }
        let text = match &node.value {
            yaml::Value::Scalar(text, _) => text.len(),
            _ => 0,
        };
        self.budget.take(self.file, text)?;
        let value = match &node.value {
            yaml::Value::Alias(anchor) => {
                let Some(target) = self.anchors.get(anchor).copied() else {
                    return Err(error("this alias stands for something that it is a part of"));
                };
                return self.tree(target, depth + 1);
            }
            yaml::Value::Scalar(..) if node.is_null() => Value::Null,
            yaml::Value::Scalar(text, style) => Value::Text(Cow::Borrowed(text), matches!(style, ScalarStyle::Plain)),
            yaml::Value::Sequence(items, _) => {
                Value::List(items.iter().map(|item| self.tree(item, depth + 1)).collect::<Result<_>>()?)
            }
            yaml::Value::Mapping(entries, _) => Value::Map(self.mapping(entries, depth)?),
        };
        if node.anchor != 0 {
            self.anchors.insert(node.anchor, node);
        }
        Ok(Tree { file: self.file, line: node.line, column: node.column, value })
    }

    /// Keys that are written win over merged ones, and of several merges the first wins (yaml.org/type/merge.html).
    fn mapping(&mut self, entries: &'a [(Node, Node)], depth: usize) -> Result<Vec<(Cow<'a, str>, Tree<'a>)>> {
        let mut own = Vec::with_capacity(entries.len());
        let mut merged = Vec::new();
        for (key, value) in entries {
            let tree = self.tree(value, depth + 1)?;
            match &key.value {
                yaml::Value::Scalar(text, ScalarStyle::Plain) if text == "<<" => match tree.value {
                    Value::Map(entries) => merged.extend(entries),
                    Value::List(items) => merged.extend(items.into_iter().flat_map(|item| match item.value {
                        Value::Map(entries) => entries,
                        _ => Vec::new(),
                    })),
                    _ => {}
                },
                yaml::Value::Scalar(text, _) => own.push((Cow::Borrowed(text.as_str()), tree)),
                _ => {
                    return Err(Error::content(format!("{}:{}: a key must be text", self.file, key.line)));
                }
            }
        }
        if !merged.is_empty() {
            let mut seen: HashSet<Cow<'a, str>> = own.iter().map(|(key, _)| key.clone()).collect();
            own.extend(merged.into_iter().filter(|(key, _)| seen.insert(key.clone())));
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String> {
        let stream = yaml::read(text, "f")?;
        let root = stream.documents[0].root.as_ref().unwrap();
        resolve(root, "f", &mut Budget::default()).map(|tree| shown(&tree))
    }

    fn shown(tree: &Tree<'_>) -> String {
        let all = |parts: Vec<String>| parts.join(" ");
        match &tree.value {
            Value::Null => "~".to_owned(),
            Value::Text(text, _) => format!("{text}@{}", tree.line),
            Value::List(items) => format!("[{}]", all(items.iter().map(shown).collect())),
            Value::Map(entries) => {
                format!("{{{}}}", all(entries.iter().map(|(k, v)| format!("{k}:{}", shown(v))).collect()))
            }
        }
    }

    #[test]
    fn aliases_and_merges_are_followed() {
        for (text, expected) in [
            ("a: &x {b: 1}\nc: *x\n", "{a:{b:1@1} c:{b:1@1}}"),
            ("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n", "{a:{b:1@1 c:2@1} d:{c:3@4 b:1@1}}"),
            ("a: &x {b: 1}\nb: &y {b: 2, c: 3}\nd:\n  <<: [*x, *y]\n", "{a:{b:1@1} b:{b:2@2 c:3@2} d:{b:1@1 c:3@2}}"),
            ("a: &x 1\nb: &x 2\nc: [*x]\n", "{a:1@1 b:2@2 c:[2@3]}"),
            ("a: ~\nb:\n", "{a:~ b:~}"),
            ("\"<<\": {a: 1}\n", "{<<:{a:1@1}}"),
        ] {
            // An alias says where what it stands for is written.
            assert_eq!(read(text).unwrap(), expected.replace("2@3", "2@2"), "{text}");
        }
    }

    #[test]
    fn what_grows_is_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            laughs += &format!("a{level}: &a{level} [{below}]\n");
        }
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..300 {
            deep += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
        }
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(100));
        for (text, says) in [
            (laughs.as_str(), "f grows beyond"),
            (&deep, "nested too deeply"),
            (&long, "f grows beyond"),
            ("a: &a [*a]\n", "f:1: this alias stands for something that it is a part of"),
            ("? [a]\n: b\n", "f:1: a key must be text"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn scalars_have_the_types_of_yaml_1_1() {
        for (text, kind) in [
            ("yes", "bool"),
            ("\"yes\"", "string"),
            ("80", "number"),
            ("1e3", "number"),
            ("0x1f", "number"),
            ("-.5", "number"),
            ("1.2.3", "string"),
            ("0.0.0.0:80", "string"),
            ("inf", "string"),
            (".inf", "string"),
            ("1_000", "number"),
            ("08", "number"),
            ("0b2", "string"),
            ("2001-01-01", "string"),
            ("1:20", "string"),
            ("0x+1", "string"),
            ("+", "string"),
            ("[]", "array"),
            ("{}", "object"),
            ("~", "null"),
        ] {
            let stream = yaml::read(text, "f").unwrap();
            let root = stream.documents[0].root.as_ref().unwrap();
            assert_eq!(resolve(root, "f", &mut Budget::default()).unwrap().kind(), kind, "{text}");
        }
    }
}
