//! Names that delete: whiteouts, opaque markers and what AUFS left behind.
//!
//! Source: image-spec `layer.md`, "Whiteouts"; `aufs(5)`.

use crate::archive::path;
use crate::error::{Error, Result};

/// What the name of an entry means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// The entry is what it looks like.
    Plain,
    /// Hides this path, and what is below it, in the layers below.
    Whiteout(Vec<u8>),
    /// Hides everything below this directory in the layers below.
    Opaque(Vec<u8>),
    /// Bookkeeping of AUFS, which unpackers skip.
    Metadata,
}

/// What the normalised path of an entry means.
pub(super) fn marker(path: &[u8]) -> Result<Marker> {
    let (parent, base) = (path::parent(path), path::base(path));
    if base == b".wh..wh..opq" {
        return Ok(Marker::Opaque(parent.to_vec()));
    }
    // AUFS keeps `.wh..wh.plnk`, `.wh..wh.orph` and `.wh..wh.aufs` at the root, with all that is below them.
    if base.starts_with(b".wh..wh.") || path.starts_with(b".wh..wh.") {
        return Ok(Marker::Metadata);
    }
    match base.strip_prefix(b".wh.") {
        None => Ok(Marker::Plain),
        Some(b"" | b"." | b"..") => {
            Err(Error::content(format!("the whiteout {} names nothing that could be deleted", path::show(path))))
        }
        Some(name) => Ok(Marker::Whiteout(path::join(parent, name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_meaning() {
        for (path, expected) in [
            ("a/b", Some(Marker::Plain)),
            ("a/.wh.b", Some(Marker::Whiteout(b"a/b".to_vec()))),
            (".wh.b", Some(Marker::Whiteout(b"b".to_vec()))),
            ("a/.wh..b", Some(Marker::Whiteout(b"a/.b".to_vec()))),
            ("a/.wh..wh..opq", Some(Marker::Opaque(b"a".to_vec()))),
            (".wh..wh..opq", Some(Marker::Opaque(b"".to_vec()))),
            (".wh..wh.aufs", Some(Marker::Metadata)),
            (".wh..wh.plnk/12.34", Some(Marker::Metadata)),
            ("a/.wh.", None),
            ("a/.wh..", None),
            ("a/.wh...", None),
        ] {
            assert_eq!(marker(path.as_bytes()).ok(), expected, "{path}");
        }
    }
}
