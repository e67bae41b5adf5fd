//! What a user may have meant by a path that an image does not have.

use crate::archive::entry::Kind;
use crate::archive::path;
use crate::error::Result;
use crate::layer::index::What;
use crate::layer::lookup::Scan;
use crate::layer::view::{Scanning, View};

/// Paths that a hint names.
const MAX_HINTS: usize = 3;
/// Wrong letters that still count as a slip.
const MAX_DISTANCE: usize = 2;

/// Existing files with the same name elsewhere, and with a similar name in the same directory; the likeliest first. Only
/// what was scanned already is looked at.
pub(super) fn similar<O>(view: &mut View<O>, path: &[u8]) -> Result<Vec<Vec<u8>>>
where
    O: FnMut(usize, &mut Scan<'_>) -> Result<()>,
{
    let (directory, base) = (path::parent(path), path::base(path));
    let mut found = Vec::new();
    for (_, index) in view.scanned() {
        for event in index.events() {
            if !matches!(event.what, What::Put(Kind::File | Kind::Symlink | Kind::HardLink)) {
                continue;
            }
            let name = path::base(event.path);
            if name == base {
                found.push((0, event.path.to_vec()));
            } else if path::parent(event.path) == directory && distance(name, base) <= MAX_DISTANCE {
                found.push((distance(name, base), event.path.to_vec()));
            }
        }
    }
    found.sort();
    found.dedup();
    let mut similar = Vec::new();
    view.scanning = Scanning::Forbidden;
    for (_, candidate) in found {
        if similar.len() < MAX_HINTS && matches!(view.top(&candidate), Ok(Some(_))) {
            similar.push(candidate);
        }
    }
    view.scanning = Scanning::Allowed;
    Ok(similar)
}

/// How many bytes have to be added, removed or changed to make `a` from `b`; names of very different length are just far
/// apart.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.len().abs_diff(b.len()) > MAX_DISTANCE || a.len() > 255 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("nginx", "nginx", 0),
            ("ngnix", "nginx", 2),
            ("nginx", "ngin", 1),
            ("nginx", "xnginx", 1),
            ("", "ab", 2),
            ("a", "abcd", usize::MAX),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }
}
