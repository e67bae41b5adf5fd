//! What hard links make of the file that they lead to, and entries that nobody unpacks.
//!
//! The entry of a hard link has metadata of its own. containerd, Docker and Buildah apply them when they have made the link,
//! and so to the file; umoci does not look at them.

use crate::archive::entry::Entry;
use crate::archive::path;
use crate::capability::XATTR;
use crate::error::{Error, Result};

/// Gives `file` the owner, permissions, time and extended attributes of a hard link to it. Whether the two differ in
/// capabilities: about these container engines disagree, since chown(2) takes them off (containerd and Docker give a file those
/// of its last link, Buildah those of the last entry that has any, umoci its own).
pub(super) fn amend(file: &mut Entry, link: &Entry) -> bool {
    let differ = file.xattrs.get(XATTR.as_bytes()) != link.xattrs.get(XATTR.as_bytes());
    (file.mode, file.uid, file.gid) = (link.mode, link.uid, link.gid);
    file.uname.clone_from(&link.uname);
    file.gname.clone_from(&link.gname);
    file.mtime.clone_from(&link.mtime);
    file.xattrs.extend(link.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())));
    differ
}

/// Refuses a hard link that lands in place of its own target or of a directory above it: unpackers remove what is there first.
pub(super) fn check_target(written: &[u8], landed: &[u8], target: &[u8]) -> Result<()> {
    if landed != target && !path::is_below(target, landed) {
        return Ok(());
    }
    Err(Error::content(format!(
        "{} is a hard link to {}, which it replaces itself",
        path::show(written),
        path::show(target)
    )))
}

/// The error for an entry that container engines refuse, and that others read as a regular file.
pub(super) fn unknown(flag: u8, path: &[u8]) -> Error {
    let type_flag = flag.escape_ascii();
    Error::content(format!(
        "{} has the tar type '{type_flag}', which container engines do not unpack",
        path::show(path)
    ))
}

/// Bytes of what only some entries have.
pub(super) fn weight(entry: &Entry) -> u64 {
    let text = entry.mtime.text.as_ref().map_or(0, |text| text.len() + 16);
    let maps = entry.xattrs.iter().chain(&entry.pax).map(|(name, value)| name.len() + value.len() + 100);
    (entry.link.len() + entry.uname.len() + entry.gname.len() + text + maps.sum::<usize>()) as u64
}
