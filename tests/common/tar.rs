//! Layers made by code: each entry as it is to be, byte for byte.

use capatch::oci::digest::Digest;

pub const MTIME: u64 = 1_704_067_200;

/// One entry of a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    path: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    link: Vec<u8>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    content: Vec<u8>,
    size: Option<u64>,
}

fn entry(path: &str, kind: u8, mode: u32) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: MTIME,
        link: Vec::new(),
        pax: Vec::new(),
        content: Vec::new(),
        size: None,
    }
}

pub fn dir(path: &str) -> Entry {
    entry(&format!("{}/", path.trim_end_matches('/')), b'5', 0o755)
}

pub fn file(path: &str, content: impl Into<Vec<u8>>) -> Entry {
    Entry { content: content.into(), ..entry(path, b'0', 0o755) }
}

pub fn symlink(path: &str, target: &str) -> Entry {
    Entry { link: target.into(), ..entry(path, b'2', 0o777) }
}

pub fn hard_link(path: &str, target: &str) -> Entry {
    Entry { link: target.into(), ..entry(path, b'1', 0o755) }
}

pub fn device(path: &str) -> Entry {
    entry(path, b'3', 0o666)
}

/// Hides `path` of the layers below.
pub fn whiteout(path: &str) -> Entry {
    let (directory, name) = path.rsplit_once('/').unwrap();
    file(&format!("{directory}/.wh.{name}"), "")
}

impl Entry {
    pub fn mode(self, mode: u32) -> Self {
        Entry { mode, ..self }
    }

    pub fn owner(self, owner: u64) -> Self {
        Entry { uid: owner, gid: owner, ..self }
    }

    pub fn mtime(self, mtime: u64) -> Self {
        Entry { mtime, ..self }
    }

    /// Another type flag.
    pub fn kind(self, kind: u8) -> Self {
        Entry { kind, ..self }
    }

    /// The size in the header, whatever the content is.
    pub fn size(self, size: u64) -> Self {
        Entry { size: Some(size), ..self }
    }

    pub fn xattr(self, name: &str, value: &[u8]) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.into(), value.into()));
        self
    }
}

/// A tar archive of `entries`.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut tar = unfinished(entries);
    tar.extend([0; 1024]);
    tar
}

/// The same without its end.
pub fn unfinished(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        if !entry.pax.is_empty() {
            let records: Vec<u8> = entry.pax.iter().flat_map(|(key, value)| record(key, value)).collect();
            let header = Entry { path: b"PaxHeaders/x".to_vec(), kind: b'x', ..entry.clone() };
            block(&mut tar, &header, records.len() as u64, &records);
        }
        block(&mut tar, entry, entry.size.unwrap_or(entry.content.len() as u64), &entry.content);
    }
    tar
}

fn block(tar: &mut Vec<u8>, entry: &Entry, size: u64, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    let old = header.as_old_mut();
    old.name[..entry.path.len()].copy_from_slice(&entry.path);
    if entry.kind != b'x' {
        old.linkname[..entry.link.len()].copy_from_slice(&entry.link);
    }
    old.linkflag[0] = entry.kind;
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(entry.mtime);
    header.set_size(size);
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(content);
    tar.extend(std::iter::repeat_n(0, content.len().wrapping_neg() % 512));
}

/// A PAX record, whose length counts itself.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// `struct vfs_cap_data`, revision 2.
pub fn caps(permitted: u32, effective: bool) -> Vec<u8> {
    let magic = 0x0200_0000_u32 | u32::from(effective);
    [magic, permitted, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The same, revision 3, of the user name space whose root is `root`.
pub fn caps_of(permitted: u32, root: u32) -> Vec<u8> {
    [0x0300_0001, permitted, 0, 0, 0, root].iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

/// An entry as the `tar` crate reads it.
#[derive(Debug)]
pub struct Read {
    pub path: String,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub is_dir: bool,
    pub pax: Vec<(String, Vec<u8>)>,
    pub content: Digest,
}

impl Read {
    pub fn pax(&self, key: &str) -> Option<&[u8]> {
        self.pax.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_slice())
    }

    pub fn capability(&self) -> Option<&[u8]> {
        self.pax("SCHILY.xattr.security.capability")
    }
}

/// The entries of an archive. Values with a newline in them are beyond the `tar` crate.
pub fn read(bytes: &[u8]) -> Vec<Read> {
    let mut archive = tar::Archive::new(bytes);
    let mut entries = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut pax = Vec::new();
        if let Some(extensions) = entry.pax_extensions().unwrap() {
            for extension in extensions {
                let extension = extension.unwrap();
                pax.push((extension.key().unwrap().to_owned(), extension.value_bytes().to_vec()));
            }
        }
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        let header = entry.header();
        entries.push(Read {
            path: String::from_utf8(entry.path_bytes().into_owned()).unwrap(),
            mode: header.mode().unwrap(),
            uid: header.uid().unwrap(),
            gid: header.gid().unwrap(),
            mtime: header.mtime().unwrap(),
            is_dir: header.entry_type().is_dir(),
            pax,
            content: Digest::of(&content),
        });
    }
    entries
}
