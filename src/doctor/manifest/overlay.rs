//! One tree laid over another: Compose files, and values of a chart.

use std::borrow::Cow;
use std::collections::HashMap;

use super::tree::{Tree, Value};

/// What lists and nulls mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// Lists grow, except those that are a command (Compose specification, merge).
    Compose,
    /// Lists are replaced, and null takes a key away (Helm, values files).
    Helm,
}

/// Lists of which the later replaces the earlier.
const COMMANDS: [&str; 3] = ["command", "entrypoint", "test"];

/// Mappings that may be written as lists of `KEY=VALUE`.
const PAIRS: [&str; 4] = ["environment", "sysctls", "labels", "annotations"];

/// Lays `over` over `base`.
pub(super) fn overlay<'a>(base: Tree<'a>, over: Tree<'a>, rules: Rules) -> Tree<'a> {
    below("", base, over, rules)
}

fn below<'a>(key: &str, base: Tree<'a>, over: Tree<'a>, rules: Rules) -> Tree<'a> {
    let pairs = rules == Rules::Compose && PAIRS.contains(&key);
    let (base, over) = if pairs { (as_map(base), as_map(over)) } else { (base, over) };
    let place = Tree { value: Value::Null, ..over };
    let value = match (base.value, over.value) {
        (Value::Map(mut all), Value::Map(entries)) => {
            let mut places: HashMap<Cow<'a, str>, usize> =
                all.iter().enumerate().map(|(at, (key, _))| (key.clone(), at)).collect();
            for (key, value) in entries {
                match places.get(&key).and_then(|at| all.get_mut(*at)) {
                    Some((_, slot)) => {
                        let old = std::mem::replace(slot, Tree::made("", Value::Null));
                        *slot = below(&key, old, value, rules);
                    }
                    None => {
                        places.insert(key.clone(), all.len());
                        all.push((key, value));
                    }
                }
            }
            Value::Map(all)
        }
        (Value::List(mut all), Value::List(items)) if rules == Rules::Compose && !COMMANDS.contains(&key) => {
            all.extend(items);
            Value::List(all)
        }
        (old, Value::Null) if rules == Rules::Compose => old,
        (_, new) => new,
    };
    Tree { value, ..place }
}

/// A list of `KEY=VALUE` as a mapping.
pub(super) fn as_map(tree: Tree<'_>) -> Tree<'_> {
    let Tree { file, line, column, value } = tree;
    let value = match value {
        Value::List(items) => Value::Map(items.into_iter().filter_map(pair).collect()),
        other => other,
    };
    Tree { file, line, column, value }
}

fn pair(item: Tree<'_>) -> Option<(Cow<'_, str>, Tree<'_>)> {
    let Tree { file, line, column, value: Value::Text(text, _) } = item else { return None };
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Value::Text(Cow::Owned(value.to_owned()), false)),
        None => (text.into_owned(), Value::Null),
    };
    Some((Cow::Owned(key), Tree { file, line, column, value }))
}
