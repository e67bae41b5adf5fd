//! What differs between two merged views.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::archive::entry::Kind;
use crate::archive::path;
use crate::layer::tree::{Node, Tree};
use crate::oci::digest::Digest;

/// Bytes of a value that are shown.
const SHOWN: usize = 80;

/// A path that differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: Vec<u8>,
    /// How it differs.
    pub what: Change,
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second tree has it.
    Added(Kind),
    /// Only the first tree has it.
    Removed(Kind),
    /// Both have it; never empty.
    Changed(Vec<Field>),
}

/// One property of a file, as text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// `type`, `mode`, `user ID`, …, or `xattr NAME`, `PAX NAME`.
    pub name: String,
    /// In the first tree; `none` if it is not there.
    pub before: String,
    /// In the second tree.
    pub after: String,
}

/// Tells everything that differs from `before` to `after`: first what `before` has, sorted by path, and then what it has not.
/// It does not matter which layer something comes from, or whether a directory has an entry or is only implied.
pub fn diff(before: &Tree, after: &Tree, mut tell: impl FnMut(Difference)) {
    let (first_before, first_after) = (first_names(before), first_names(after));
    let mut push = |path: &[u8], what| tell(Difference { path: path.to_vec(), what });
    for (path, old) in before.nodes() {
        let Some(new) = after.node(path) else {
            push(path, Change::Removed(old.entry.kind));
            continue;
        };
        let same = old.entry == new.entry && old.content == new.content;
        let mut fields = if same { Vec::new() } else { fields(old, new) };
        let other_name = |names: &BTreeMap<*const Node, &Vec<u8>>, node: &Arc<Node>| {
            names.get(&Arc::as_ptr(node)).filter(|first| **first != path).map(|first| path::show(first))
        };
        compare(&mut fields, "hard link to", other_name(&first_before, old), other_name(&first_after, new));
        if !fields.is_empty() {
            push(path, Change::Changed(fields));
        }
    }
    for (path, new) in after.nodes().filter(|(path, _)| before.node(path).is_none()) {
        push(path, Change::Added(new.entry.kind));
    }
}

/// The first name of each node that has several.
fn first_names(tree: &Tree) -> BTreeMap<*const Node, &Vec<u8>> {
    let mut names = BTreeMap::new();
    for (path, node) in tree.nodes().filter(|(_, node)| Arc::strong_count(node) > 1) {
        names.entry(Arc::as_ptr(node)).or_insert(path);
    }
    names
}

fn compare(fields: &mut Vec<Field>, name: &str, before: Option<String>, after: Option<String>) {
    if before != after {
        let text = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        fields.push(Field { name: name.to_owned(), before: text(before), after: text(after) });
    }
}

fn fields(before: &Node, after: &Node) -> Vec<Field> {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = Vec::new();
    let properties = |node: &Node| {
        let e = &node.entry;
        let device = matches!(e.kind, Kind::CharDevice | Kind::BlockDevice).then_some(e.device);
        [
            ("type", Some(e.kind.describe().to_owned())),
            ("mode", Some(format!("{:04o}", e.mode))),
            ("user ID", Some(e.uid.to_string())),
            ("group ID", Some(e.gid.to_string())),
            ("user name", Some(lossy(&e.uname))),
            ("group name", Some(lossy(&e.gname))),
            ("modification time", Some(e.mtime.text.as_deref().map_or_else(|| e.mtime.seconds.to_string(), lossy))),
            ("size", Some(e.size.to_string())),
            ("sparse", Some(e.sparse.to_string())),
            ("content", node.content.as_ref().map(Digest::to_string)),
            ("link target", (e.kind == Kind::Symlink).then(|| lossy(&e.link))),
            ("device", device.map(|(major, minor)| format!("{major}:{minor}"))),
        ]
    };
    for ((name, before), (_, after)) in properties(before).into_iter().zip(properties(after)) {
        compare(&mut fields, name, before, after);
    }
    // What is compared is the text: the digest stands for what is not shown.
    let hex = |value: &Vec<u8>| {
        let shown: String = value.iter().take(SHOWN).map(|b| format!("{b:02x}")).collect();
        let rest = if value.len() > SHOWN { format!("… ({})", Digest::of(value)) } else { String::new() };
        format!("0x{shown}{rest}")
    };
    let maps = [("xattr", &before.entry.xattrs, &after.entry.xattrs), ("PAX", &before.entry.pax, &after.entry.pax)];
    for (what, before, after) in maps {
        let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let title = format!("{what} {}", lossy(name));
            compare(&mut fields, &title, before.get(name).map(hex), after.get(name).map(hex));
        }
    }
    fields
}
