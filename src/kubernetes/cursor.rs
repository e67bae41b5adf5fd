//! Ways through a tree that end at whatever is written somewhere else.

use super::yaml::{Node, Value};
use crate::error::{Error, Result};

/// A node with its path and the name of its file.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) file: &'a str,
    pub(super) node: &'a Node,
    pub(super) path: String,
}

impl<'a> Cursor<'a> {
    /// The value of a key, which must not be an alias or perhaps come from a merge key.
    pub(super) fn get(&self, key: &str) -> Result<Option<Cursor<'a>>> {
        match self.node.get(key) {
            Some(Node { value: Value::Alias(_), line, .. }) => Err(self.shared(*line, &format!("{key} is an alias"))),
            Some(node) => Ok(Some(self.below(node, key))),
            None => match self.node.entries().iter().find(|(k, _)| k.text() == Some("<<")) {
                Some((merge, _)) => Err(self.shared(merge.line, &format!("{key} may come from the merge key <<"))),
                None => Ok(None),
            },
        }
    }

    /// The value below several keys.
    pub(super) fn at(&self, keys: &[&str]) -> Result<Option<Cursor<'a>>> {
        let mut cursor = self.clone();
        for key in keys {
            match cursor.get(key)? {
                Some(next) => cursor = next,
                None => return Ok(None),
            }
        }
        Ok(Some(cursor))
    }

    /// The text below a key.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        Ok(self.get(key)?.and_then(|cursor| cursor.node.text()))
    }

    /// The number of a port below a key.
    pub(super) fn port(&self, key: &str) -> Result<Option<u16>> {
        Ok(self.get(key)?.and_then(|cursor| cursor.node.port()))
    }

    /// The items of a sequence; aliases are left out.
    pub(super) fn items(&self) -> Vec<Cursor<'a>> {
        let items = self.node.items().iter().enumerate().filter(|(_, node)| !matches!(node.value, Value::Alias(_)));
        items.map(|(at, node)| self.below(node, &at.to_string())).collect()
    }

    fn below(&self, node: &'a Node, key: &str) -> Cursor<'a> {
        Cursor { file: self.file, node, path: format!("{}/{key}", self.path) }
    }

    /// `FILE:LINE`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.node.line)
    }

    fn shared(&self, line: usize, what: &str) -> Error {
        Error::content(format!("{}:{line}: {what}, so it cannot be edited in its place", self.file)).hint(SHARED)
    }
}

pub(super) const SHARED: &str = "write out what the alias stands for, here and where its anchor is";
