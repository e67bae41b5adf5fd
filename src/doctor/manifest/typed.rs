//! Fields of Kubernetes objects with the types that the API server wants.

use super::tree::{Tree, Value};

/// The first field that the API server cannot read, for which it refuses the whole object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `FILE:LINE`.
    pub(super) place: String,
    /// In the words of the API server.
    pub(super) says: String,
}

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    Map,
    List,
    Text,
    Bool,
    Number,
}

/// The value of a field if it is there and has its type; else the API server refuses the object.
pub(super) fn get<'t, 'a>(
    tree: &'t Tree<'a>,
    key: &str,
    want: Want,
    refusal: &mut Option<Refusal>,
) -> Option<&'t Tree<'a>> {
    let value = tree.get(key)?;
    fits(value, key, want, refusal).then_some(value)
}

/// The text of a field.
pub(super) fn text<'t>(tree: &'t Tree<'_>, key: &str, refusal: &mut Option<Refusal>) -> Option<&'t str> {
    get(tree, key, Want::Text, refusal).and_then(Tree::text)
}

/// The texts of a list.
pub(super) fn texts(tree: &Tree<'_>, key: &str, refusal: &mut Option<Refusal>) -> Option<Vec<String>> {
    let list = get(tree, key, Want::List, refusal)?;
    let items = list.items().iter().filter(|item| fits(item, key, Want::Text, refusal));
    Some(items.filter_map(|item| Some(item.text()?.to_owned())).collect())
}

/// The mappings of a list.
pub(super) fn maps<'t, 'a>(tree: &'t Tree<'a>, key: &str, refusal: &mut Option<Refusal>) -> Vec<&'t Tree<'a>> {
    let items = get(tree, key, Want::List, refusal).map(Tree::items).unwrap_or_default();
    items.iter().filter(|item| fits(item, key, Want::Map, refusal)).collect()
}

/// Whether a value has a type.
pub(super) fn fits(value: &Tree<'_>, key: &str, want: Want, refusal: &mut Option<Refusal>) -> bool {
    let (fits, type_name) = match want {
        Want::Map => (matches!(value.value, Value::Map(_)), "object"),
        Want::List => (matches!(value.value, Value::List(_)), "array"),
        Want::Text => (value.kind() == "string", "string"),
        Want::Bool => (value.boolean().is_some(), "bool"),
        Want::Number => (value.integer().is_some(), "int64"),
    };
    if !fits && refusal.is_none() {
        let kind = match value.kind() {
            // Go shows which number (encoding/json, UnmarshalTypeError).
            "number" if matches!(want, Want::Number) => format!("number {}", value.text().unwrap_or_default()),
            kind => kind.to_owned(),
        };
        *refusal = Some(Refusal {
            place: value.place(),
            says: format!("json: cannot unmarshal {kind} into Go struct field {key} of type {type_name}"),
        });
    }
    fits
}
