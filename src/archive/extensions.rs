//! From a header and the extended headers in front of it to an entry: which of them wins.
//!
//! Sources: POSIX.1-2024 `pax`; Go `archive/tar/reader.go`; faults.md D11–D13.

use std::collections::BTreeMap;

use crate::archive::entry::{Entry, Kind, Mtime};
use crate::archive::header::Block;
use crate::archive::path::{self, MAX_PATH};
use crate::archive::pax::{self, Records};
use crate::error::{Error, Result};

/// Where PAX keeps extended attributes, as every container engine reads them.
pub(crate) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
/// PAX records that say which file an entry is, how long it is, or whose it is. A global header must not hold one: POSIX
/// applies it to all entries that follow, Go and thus every container engine does not.
const INTERPRETED: [&[u8]; 8] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"uname", b"gname", b"mtime"];

/// The extended headers in front of an entry.
#[derive(Default)]
pub(crate) struct Extensions {
    pax: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    pub(crate) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }

    pub(crate) fn take_in(&mut self, flag: u8, data: Vec<u8>) -> Result<()> {
        let twice = match flag {
            b'x' => self.pax.replace(pax::parse(&data)?).is_some(),
            b'L' => self.long_name.replace(long_name(data)?).is_some(),
            b'K' => self.long_link.replace(long_name(data)?).is_some(),
            // A global header must not come between an entry and its extended headers.
            _ => {
                check_global(&pax::parse(&data)?)?;
                !self.is_empty()
            }
        };
        if twice { Err(Error::content("an entry of the tar has two extended headers of one kind")) } else { Ok(()) }
    }

    /// The entry, and how many bytes are stored for it.
    pub(crate) fn entry(self, header: &Block) -> Result<(Entry, u64)> {
        let mut records = self.pax.unwrap_or_default();
        let sparse = header.type_flag() == b'S' || records.keys().any(|key| key.starts_with(b"GNU.sparse."));
        let name = one_name(records.remove(&b"path"[..]), self.long_name)?;
        let raw = records.remove(&b"GNU.sparse.name"[..]).or(name).unwrap_or_else(|| header.name());
        let link = one_name(records.remove(&b"linkpath"[..]), self.long_link)?.unwrap_or_else(|| header.link());
        let path = path::normalise(&raw);
        let in_entry = |error: Error| error.context(path::show(&path));
        if raw.len() > MAX_PATH || link.len() > MAX_PATH {
            let start = String::from_utf8_lossy(&raw[..raw.len().min(80)]).into_owned();
            return Err(Error::content(format!("a name in the tar is longer than {MAX_PATH} bytes: {start}…")));
        }
        let kind = match header.type_flag() {
            // Before POSIX, a slash at the end made a directory.
            0 if raw.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let number = |text: Option<Vec<u8>>, key: &str| match text.filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => pax::decimal(&text)
                .map(Some)
                .ok_or_else(|| in_entry(Error::content(format!("PAX {key} is '{}'", String::from_utf8_lossy(&text))))),
        };
        let stored = match number(records.remove(&b"size"[..]), "size")? {
            Some(size) => size,
            None => header.size().map_err(in_entry)?,
        };
        // Go's rule: what cannot have content has none, whatever its size says (faults.md, rust.md A2).
        let header_only = matches!(header.type_flag(), b'1'..=b'6');
        let stored = if header_only { 0 } else { stored };
        let mtime = match records.remove(&b"mtime"[..]).filter(|text| !text.is_empty()) {
            Some(text) => {
                let seconds = pax::seconds(&text).ok_or_else(|| {
                    in_entry(Error::content(format!("PAX mtime is '{}'", String::from_utf8_lossy(&text))))
                })?;
                Mtime { seconds, text: Some(text) }
            }
            None => Mtime { seconds: header.mtime().map_err(in_entry)?, text: None },
        };
        let mut name_of = |key: &[u8], ustar: Vec<u8>| match records.remove(key).filter(|name| !name.is_empty()) {
            Some(name) if name.contains(&0) => Err(in_entry(Error::content("a PAX record holds a NUL byte"))),
            Some(name) => Ok(name),
            None => Ok(ustar),
        };
        let uname = name_of(b"uname", header.uname())?;
        let gname = name_of(b"gname", header.gname())?;
        let uid = match number(records.remove(&b"uid"[..]), "uid")? {
            Some(uid) => uid,
            None => header.uid().map_err(in_entry)?,
        };
        let gid = match number(records.remove(&b"gid"[..]), "gid")? {
            Some(gid) => gid,
            None => header.gid().map_err(in_entry)?,
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let device = if is_device { header.device().map_err(in_entry)? } else { (0, 0) };
        let mut xattrs = BTreeMap::new();
        let mut others = BTreeMap::new();
        for (key, value) in records {
            match key.strip_prefix(XATTR_PREFIX) {
                Some(b"") => return Err(in_entry(Error::content("an extended attribute has no name"))),
                Some(name) => {
                    xattrs.insert(name.to_vec(), value);
                }
                None => {
                    others.insert(key, value);
                }
            }
        }
        let entry = Entry {
            kind,
            link: if matches!(kind, Kind::HardLink | Kind::Symlink) { link } else { Vec::new() },
            mode: header.mode().map_err(in_entry)?,
            uid,
            gid,
            uname,
            gname,
            mtime,
            size: if kind == Kind::File { stored } else { 0 },
            device,
            sparse,
            xattrs,
            pax: others,
            path,
        };
        Ok((entry, stored))
    }
}

/// The name in a GNU `L` or `K` header, which ends at a NUL byte or with the header.
fn long_name(mut data: Vec<u8>) -> Result<Vec<u8>> {
    let length = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    if data[length..].iter().any(|b| *b != 0) {
        return Err(Error::content("a long name in the tar holds a NUL byte"));
    }
    data.truncate(length);
    Ok(data)
}

/// A name from a PAX record, or from a GNU header: readers disagree about which one wins, so they must agree (faults.md
/// D12, D13).
fn one_name(record: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match (record.filter(|name| !name.is_empty()), gnu.filter(|name| !name.is_empty())) {
        (Some(name), _) if name.contains(&0) => Err(Error::content("a PAX name holds a NUL byte")),
        (Some(record), Some(gnu)) if record != gnu => Err(Error::content(format!(
            "an entry of the tar has two names, {} and {}",
            path::show(&record),
            path::show(&gnu)
        ))),
        (record, gnu) => Ok(record.or(gnu)),
    }
}

/// Refuses a global header that would change entries for some readers and not for others.
fn check_global(records: &Records) -> Result<()> {
    let changes = |key: &&Vec<u8>| {
        INTERPRETED.contains(&key.as_slice()) || key.starts_with(XATTR_PREFIX) || key.starts_with(b"GNU.sparse.")
    };
    match records.keys().find(changes) {
        None => Ok(()),
        Some(key) => Err(Error::content(format!(
            "a global header of the tar sets '{}' for all entries, which only some readers apply",
            String::from_utf8_lossy(key)
        ))),
    }
}
