//! A tar, after a byte that says whether to repair its checksums. What we accept, other readers list too, entry by entry: the
//! `tar` crate for the frames, with PAX and GNU names read here in the plainest way; and `astral-tokio-tar` for all of it.
//!
//! They are not followed where they are known to be wrong or stricter: `tar` does not let `size` records decide how much
//! content follows, neither knows of kinds that have none, and both read fewer forms of numbers.
#![no_main]

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use capatch::archive::entry::{Entries, Entry, Kind};
use capatch::archive::path;
use capatch::limits::Limits;
use capatch_fuzz::{is_printable, tars};
use futures_util::{FutureExt, StreamExt};
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncReadExt;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let mut data = data.to_vec();
    if choice & 1 == 0 {
        tars::fix_checksums(&mut data);
    }
    let listed = list(&data, data.len().max(1));
    assert_eq!(listed, list(&data, 7), "the size of a buffer changes what is read");
    let Some(listed) = listed else { return };
    let total: u64 = listed.iter().map(|(entry, _)| entry.size).sum();
    assert!(total <= data.len() as u64);
    for (entry, content) in &listed {
        assert_eq!(entry.size, if entry.kind == Kind::File { content.len() as u64 } else { 0 });
        assert!(entry.path.len() <= path::MAX_PATH && entry.mode <= 0o7777);
        let parts = || entry.path.split(|b| *b == b'/');
        assert!(entry.path.is_empty() || parts().all(|part| !matches!(part, b"" | b"." | b"..")));
    }
    compare(&data, &listed);
    compare_whole(&data, &listed).now_or_never().expect("memory is always ready");
});

fn list(data: &[u8], buffer: usize) -> Option<Vec<(Entry, Vec<u8>)>> {
    let mut entries = Entries::new(BufReader::with_capacity(buffer, data), &Limits::default());
    let mut listed = Vec::new();
    loop {
        match entries.next_entry() {
            Ok(None) => return Some(listed),
            Ok(Some(entry)) => {
                let mut content = Vec::new();
                if entry.kind == Kind::File && entries.content().read_to_end(&mut content).is_err() {
                    return None;
                }
                listed.push((entry, content));
            }
            Err(error) => {
                is_printable(&error);
                return None;
            }
        }
    }
}

/// PAX records by their lengths, the last one wins.
fn records(mut data: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ').unwrap();
        let length: usize = std::str::from_utf8(&data[..space]).unwrap().parse().unwrap();
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').unwrap();
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        data = &data[length..];
    }
    records
}

fn compare(data: &[u8], listed: &[(Entry, Vec<u8>)]) {
    let mut archive = tar::Archive::new(data);
    let Ok(entries) = archive.entries() else { return };
    let (mut pax, mut long_name, mut long_link) = (BTreeMap::new(), None, None);
    let mut ours = listed.iter();
    for entry in entries.raw(true) {
        let Ok(mut entry) = entry else { return };
        let header = entry.header().clone();
        let flag = header.as_bytes()[156];
        let mut body = Vec::new();
        if entry.read_to_end(&mut body).is_err() {
            return;
        }
        let name = |body: &[u8]| body.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        match flag {
            b'x' => pax = records(&body),
            b'g' => {}
            b'L' => long_name = Some(name(&body)).filter(|name| !name.is_empty()),
            b'K' => long_link = Some(name(&body)).filter(|name| !name.is_empty()),
            _ => {
                let (entry, content) = ours.next().expect("we listed everything");
                let filled = |record: Option<Vec<u8>>| record.filter(|value| !value.is_empty());
                let size = filled(pax.remove(&b"size"[..]));
                let raw = filled(pax.remove(&b"path"[..])).or(long_name.take());
                let is_sparse = flag == b'S' || pax.keys().any(|key| key.starts_with(b"GNU.sparse."));
                let link = filled(pax.remove(&b"linkpath"[..])).or(long_link.take());
                assert_eq!(entry.sparse, is_sparse);
                if !is_sparse && !has_odd_prefix(header.as_bytes()) {
                    let raw = raw.unwrap_or_else(|| header.path_bytes().into_owned());
                    assert_eq!(entry.path, path::normalise(&raw));
                    let is_directory = flag == b'5' || (flag == 0 && raw.ends_with(b"/"));
                    assert_eq!(entry.kind == Kind::Directory, is_directory);
                }
                let kind = match flag {
                    b'1' => Kind::HardLink,
                    b'2' => Kind::Symlink,
                    b'3' => Kind::CharDevice,
                    b'4' => Kind::BlockDevice,
                    b'6' => Kind::Fifo,
                    b'0' | b'S' => Kind::File,
                    0 | b'5' => entry.kind,
                    other => Kind::Other(other),
                };
                assert_eq!(entry.kind, kind);
                if matches!(kind, Kind::HardLink | Kind::Symlink) {
                    let link = link.or(header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
                    assert_eq!(entry.link, link);
                }
                let is_header_only = matches!(flag, b'1'..=b'6');
                // From here on the crate is elsewhere.
                if size.is_some() || flag == b'S' || (is_header_only && !body.is_empty()) {
                    return;
                }
                if entry.kind == Kind::File {
                    assert_eq!(content, &body);
                }
                for (key, value) in std::mem::take(&mut pax) {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        assert_eq!(entry.xattrs.get(name), Some(&value));
                    }
                }
            }
        }
    }
    assert!(ours.next().is_none(), "we list more than there is");
}

async fn compare_whole(data: &[u8], listed: &[(Entry, Vec<u8>)]) {
    // Sun's extended header is one to that crate; to Go, and so to container engines and us, it is a type of its own.
    if listed.iter().any(|(entry, _)| entry.kind == Kind::Other(b'X')) {
        return;
    }
    let Ok(mut entries) = tokio_tar::Archive::new(data).entries() else { return };
    let mut ours = listed.iter();
    while let Some(theirs) = entries.next().await {
        let Ok(mut theirs) = theirs else { return };
        let header = *theirs.header().as_bytes();
        if header[156] == b'g' {
            continue;
        }
        let (entry, content) = ours.next().expect("we listed everything");
        if entry.sparse {
            return;
        }
        let (Ok(name), Ok(link)) = (theirs.path_bytes(), theirs.link_name_bytes()) else { return };
        // A GNU name without a name is none for us.
        if !name.is_empty() && !has_odd_prefix(&header) {
            assert_eq!(entry.path, path::normalise(&name));
        }
        if let (Kind::HardLink | Kind::Symlink, Some(link)) = (entry.kind, link.filter(|link| !link.is_empty())) {
            assert_eq!(entry.link, link.as_ref());
        }
        if matches!(header[156], b'1'..=b'6') && theirs.effective_size() > 0 {
            return;
        }
        let mut body = Vec::new();
        if theirs.read_to_end(&mut body).await.is_err() {
            return;
        }
        if entry.kind == Kind::File {
            assert_eq!(content, &body);
        }
    }
    assert!(ours.next().is_none(), "we list more than there is");
}

/// Whether readers disagree about the end of the name: star has a shorter prefix, and old Go wrote one into GNU headers.
fn has_odd_prefix(header: &[u8; 512]) -> bool {
    &header[508..512] == b"tar\0" || (&header[257..265] == b"ustar  \0" && header[345] != 0)
}
