//! The one layer that we add: files with a new capability or without their old one, and their parent directories as they
//! were.
//!
//! The parents are repeated exactly, since some engines give a directory without an entry the metadata of the layer
//! below and others make it 0755 of root (kong-and-capabilities.md §4).
//!
//! Sources: POSIX.1-2024 `pax`; image-spec `layer.md`, "Layer Changesets".

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::archive::compression::Encoder;
use crate::archive::entry::{Entry, Kind};
use crate::archive::extensions::XATTR_PREFIX;
use crate::archive::header::BLOCK;
use crate::archive::path;
use crate::archive::pax;
use crate::blob::{Hashing, Spool, SpoolWriter, temporary_error};
use crate::capability::XATTR;
use crate::error::{Error, Result};
use crate::layer::cache::Cache;
use crate::layer::lookup::Found;
use crate::oci::digest::Digest;
use crate::oci::media_type::Compression;

/// Bytes of an extended header that container engines read: `maxSpecialFileSize` of Go's archive/tar.
const MAX_EXTENSION: usize = 1 << 20;
/// The largest numbers of the ustar fields with 7 and with 11 octal digits.
const MAX_7: u64 = 0o7_777_777;
const MAX_11: u64 = 0o77_777_777_777;

/// A file that goes into the layer.
pub struct Addition<'a> {
    /// The file as it is in the image.
    pub found: &'a Found,
    /// The value of [`XATTR`]: `struct vfs_cap_data`, 20 bytes for revision 2. Without one the file has no such attribute:
    /// unpackers make a new file of an entry.
    pub capability: Option<Vec<u8>>,
}

/// A layer blob of ours.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// The compressed tar.
    pub content: Spool,
    /// Its SHA-256.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// The SHA-256 of the uncompressed tar.
    pub diff_id: Digest,
    /// How it is compressed.
    pub compression: Compression,
}

/// Builds the layer: parent directories, then files, each once and sorted by path. The same input gives the same bytes
/// on every host at every time. Two additions at one path are refused.
/// A layer that is in `cache` is not compressed again.
pub fn build(additions: &[Addition<'_>], compression: Compression, cache: &Cache) -> Result<BuiltLayer> {
    let mut parents = BTreeMap::new();
    let mut files = BTreeMap::new();
    for addition in additions {
        for parent in &addition.found.parents {
            parents.insert(&parent.entry.path, &parent.entry);
        }
        let mut entry = addition.found.entry.clone();
        entry.xattrs.remove(XATTR.as_bytes());
        entry.xattrs.extend(addition.capability.clone().map(|value| (XATTR.into(), value)));
        // libarchive's copy of the old value would contradict the new one.
        entry.pax.remove(&b"LIBARCHIVE.xattr.security.capability"[..]);
        if files.insert(&addition.found.path, (entry, &addition.found.content)).is_some() {
            return Err(Error::usage(format!("{} is named twice", path::show(&addition.found.path))));
        }
    }
    let write_to = |tar: &mut dyn Write| {
        for entry in parents.values() {
            write_entry(tar, entry, &mut io::empty())?;
        }
        for (entry, content) in files.values() {
            write_entry(tar, entry, &mut content.reader(0))?;
        }
        tar.write_all(&[0; 2 * BLOCK]).map_err(|e| temporary_error(&e))
    };
    if cache.has_built() {
        let mut tar = Hashing::new(io::sink());
        write_to(&mut tar)?;
        let (_, diff_id, _) = tar.finish();
        if let Some(built) = cache.built(&diff_id).filter(|built| built.compression == compression) {
            return Ok(built);
        }
    }
    let blob = Hashing::new(SpoolWriter::new()?);
    let mut tar = Hashing::new(Encoder::new(blob, compression)?);
    write_to(&mut tar)?;
    let (encoder, diff_id, _) = tar.finish();
    let (spool, digest, size) = encoder.finish().map_err(|e| temporary_error(&e))?.finish();
    let layer = BuiltLayer { content: spool.finish(), digest, size, diff_id, compression };
    cache.keep(&layer);
    Ok(layer)
}

/// Writes an entry, its extended header and its padding.
fn write_entry(out: &mut dyn Write, entry: &Entry, content: &mut impl Read) -> Result<()> {
    if !matches!(entry.kind, Kind::File | Kind::Directory) || entry.sparse {
        return Err(Error::failed(format!("{} is {}", path::show(&entry.path), entry.kind.describe())));
    }
    let (header, records) = encode(entry);
    if !records.is_empty() {
        let mut data = Vec::new();
        records.iter().for_each(|(key, value)| pax::append(&mut data, key, value));
        if data.len() > MAX_EXTENSION {
            let message = format!("the extended attributes of {} have {} bytes", path::show(&entry.path), data.len());
            return Err(Error::content(format!("{message}, the limit is {MAX_EXTENSION}"))
                .hint("container engines read no more of them for one file"));
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        set_name(&mut header, &[b"PaxHeaders.0/", path::base(&entry.path)].concat());
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        write_padded(out, header.as_bytes(), &mut &data[..])?;
    }
    let written = write_padded(out, header.as_bytes(), content)?;
    if written != entry.size {
        return Err(Error::failed(format!(
            "{} has {written} bytes of content instead of {}",
            path::show(&entry.path),
            entry.size
        )));
    }
    Ok(())
}

fn write_padded(out: &mut dyn Write, header: &[u8; BLOCK], content: &mut impl Read) -> Result<u64> {
    out.write_all(header).map_err(|e| temporary_error(&e))?;
    let written = io::copy(content, out).map_err(|e| temporary_error(&e))?;
    let padding = written.wrapping_neg() % BLOCK as u64;
    out.write_all(&[0; BLOCK][..padding as usize]).map_err(|e| temporary_error(&e))?;
    Ok(written)
}

/// The ustar header, and the records for what it has no room for; sorted by key.
fn encode(entry: &Entry) -> (tar::Header, BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut records = entry.pax.clone();
    for (name, value) in &entry.xattrs {
        records.insert([XATTR_PREFIX, name].concat(), value.clone());
    }
    let mut record = |key: &str, value: &[u8]| {
        records.insert(key.as_bytes().to_vec(), value.to_vec());
    };
    let mut header = tar::Header::new_ustar();
    header.set_mode(entry.mode);
    let name = match entry.kind {
        Kind::Directory => [&entry.path, &b"/"[..]].concat(),
        _ => entry.path.clone(),
    };
    header.set_entry_type(match entry.kind {
        Kind::Directory => tar::EntryType::Directory,
        _ => tar::EntryType::Regular,
    });
    if name.len() > 100 || !name.is_ascii() {
        record("path", &name);
    }
    set_name(&mut header, &name);
    let mut number = |key: &str, value: u64, max: u64| {
        if value <= max {
            return value;
        }
        record(key, value.to_string().as_bytes());
        0
    };
    header.set_uid(number("uid", entry.uid, MAX_7));
    header.set_gid(number("gid", entry.gid, MAX_7));
    header.set_size(number("size", entry.size, MAX_11));
    let seconds = u64::try_from(entry.mtime.seconds).ok().filter(|seconds| *seconds <= MAX_11);
    header.set_mtime(seconds.unwrap_or_default());
    match (&entry.mtime.text, seconds) {
        (Some(text), _) => record("mtime", text),
        (None, Some(_)) => {}
        (None, None) => record("mtime", entry.mtime.seconds.to_string().as_bytes()),
    }
    // The fields end with a NUL byte.
    let fits = |name: &[u8]| name.len() < 32 && name.is_ascii();
    if let Some(ustar) = header.as_ustar_mut() {
        for (key, name, field) in [("uname", &entry.uname, &mut ustar.uname), ("gname", &entry.gname, &mut ustar.gname)]
        {
            if fits(name) {
                field[..name.len()].copy_from_slice(name);
            } else {
                record(key, name);
            }
        }
        // Go writes zeros here too; empty fields are legal, but older readers complain.
        ustar.set_device_major(0);
        ustar.set_device_minor(0);
    }
    header.set_cksum();
    (header, records)
}

/// The name as far as it fits, for readers that do not know PAX.
fn set_name(header: &mut tar::Header, name: &[u8]) {
    let field = &mut header.as_old_mut().name;
    for (to, from) in field.iter_mut().zip(name) {
        *to = if from.is_ascii() { *from } else { b'_' };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::{Entries, Mtime};
    use crate::layer::lookup::Parent;
    use crate::layer::reader::LayerReader;
    use crate::limits::Limits;
    use crate::oci::descriptor::Descriptor;
    use proptest::prelude::*;

    fn found(entry: Entry, parents: &[Entry], content: &[u8]) -> Found {
        Found {
            path: entry.path.clone(),
            asked: entry.path.clone(),
            links: vec![],
            layer: 0,
            entry: Entry { kind: Kind::File, size: content.len() as u64, ..entry },
            parents: parents.iter().map(|entry| Parent { entry: entry.clone(), implied: false }).collect(),
            content: Spool::from_reader(&mut &content[..]).unwrap(),
            disputed: None,
            other_names: vec![],
        }
    }

    /// All entries with their content, after the sums were checked.
    fn read(layer: &BuiltLayer) -> Vec<(Entry, Vec<u8>)> {
        let descriptor = Descriptor::new("x", layer.digest.clone(), layer.size).unwrap();
        let mut reader =
            LayerReader::new(layer.content.reader(0), &descriptor, &layer.diff_id, &Limits::default()).unwrap();
        let mut entries = Entries::new(&mut reader, &Limits::default());
        let mut list = Vec::new();
        while let Some(entry) = entries.next_entry().unwrap() {
            let mut content = Vec::new();
            entries.content().read_to_end(&mut content).unwrap();
            list.push((entry, content));
        }
        reader.finish().unwrap();
        list
    }

    fn plain_tar(layer: &BuiltLayer) -> Vec<u8> {
        let descriptor = Descriptor::new("x", layer.digest.clone(), layer.size).unwrap();
        let mut tar = Vec::new();
        LayerReader::new(layer.content.reader(0), &descriptor, &layer.diff_id, &Limits::default())
            .unwrap()
            .read_to_end(&mut tar)
            .unwrap();
        tar
    }

    #[test]
    fn parents_come_once_and_first() {
        let dirs = [&b"usr"[..], b"usr/sbin", b"opt"].map(|path| Entry::implied_directory(path.to_vec()));
        let file = |path: &[u8]| Entry { mode: 0o4755, ..Entry::implied_directory(path.to_vec()) };
        let one = found(file(b"usr/sbin/nginx"), &dirs[..2], b"ELF");
        let two = found(file(b"opt/x"), &dirs[2..], b"");
        let three = found(file(b"usr/a"), &dirs[..1], &[7; 513]);
        let additions = |order: [&'_ Found; 3]| {
            let list = order.map(|found| Addition { found, capability: Some(vec![1; 20]) });
            build(&list, Compression::Gzip, &Cache::default()).unwrap()
        };
        let layer = additions([&one, &two, &three]);
        let entries = read(&layer);
        let paths: Vec<_> = entries.iter().map(|(e, _)| String::from_utf8_lossy(&e.path).into_owned()).collect();
        assert_eq!(paths, ["opt", "usr", "usr/sbin", "opt/x", "usr/a", "usr/sbin/nginx"]);
        assert!(entries[..3].iter().all(|(e, _)| e.xattrs.is_empty() && e.mode == 0o755));
        assert!(entries[3..].iter().all(|(e, _)| e.xattrs[XATTR.as_bytes()] == [1; 20] && e.mode == 0o4755));
        let other = additions([&three, &one, &two]);
        assert_eq!((layer.digest, layer.diff_id, layer.size), (other.digest, other.diff_id, other.size));
        let twice = [Addition { found: &one, capability: None }, Addition { found: &one, capability: None }];
        assert!(build(&twice, Compression::Gzip, &Cache::default()).is_err());
    }

    #[test]
    fn the_tar_ends_with_exactly_two_zero_blocks() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let file = found(Entry::implied_directory(b"f".to_vec()), &[], &[1; 512]);
            let layer = build(&[Addition { found: &file, capability: None }], compression, &Cache::default()).unwrap();
            let tar = plain_tar(&layer);
            assert_eq!(tar.len(), 4 * BLOCK);
            assert_eq!(layer.diff_id, Digest::of(&tar));
            assert_eq!(&tar[1024..], &[0; 1024]);
        }
    }

    // faults.md D17: what we write can be read again.
    #[test]
    fn attributes_that_grow_too_large_are_refused() {
        for (length, fits) in [(MAX_EXTENSION - 200, true), (MAX_EXTENSION - 50, false)] {
            let mut file = Entry::implied_directory(b"f".to_vec());
            file.xattrs.insert(b"user.x".to_vec(), vec![b'x'; length]);
            let file = found(file, &[], b"");
            let addition = Addition { found: &file, capability: Some(vec![1; 20]) };
            match build(&[addition], Compression::None, &Cache::default()) {
                Ok(layer) => assert!(fits && read(&layer).len() == 1),
                Err(error) => assert!(!fits && error.to_string().contains("extended attributes of /f"), "{error}"),
            }
        }
    }

    #[test]
    fn an_old_capability_gives_way_everywhere() {
        let mut entry = Entry::implied_directory(b"f".to_vec());
        entry.xattrs.insert(XATTR.into(), vec![9; 20]);
        entry.xattrs.insert(b"user.x".to_vec(), b"".to_vec());
        entry.pax.insert(b"LIBARCHIVE.xattr.security.capability".to_vec(), b"CQkJ".to_vec());
        entry.pax.insert(b"SCHILY.acl.access".to_vec(), b"user::rwx".to_vec());
        let file = found(entry, &[], b"");
        for capability in [Some(b"\x01\0\0\x02\0\x0a\0\0=\n12 path=x\n".to_vec()), None] {
            let addition = Addition { found: &file, capability: capability.clone() };
            let (entry, _) = read(&build(&[addition], Compression::Gzip, &Cache::default()).unwrap()).remove(0);
            let new = capability.map(|value| (XATTR.into(), value));
            assert_eq!(entry.xattrs, new.into_iter().chain([(b"user.x".to_vec(), vec![])]).collect());
            assert_eq!(entry.pax.keys().collect::<Vec<_>>(), [b"SCHILY.acl.access"]);
        }
    }

    fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..max),
            Just(b"\n22 linkpath=/etc/evil\n".to_vec()),
            Just(b"=".to_vec()),
        ]
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_map(|b| if matches!(b, 0 | b'/') { b'x' } else { b });
        prop_oneof![
            "[a-z]{1,8}".prop_map(String::into_bytes),
            proptest::collection::vec(byte, 1..150).prop_filter("no name", |n| n != b"." && n != b".."),
            (90usize..105).prop_map(|n| vec![b'n'; n]),
        ]
    }

    prop_compose! {
        fn entry()(
            path in proptest::collection::vec(name(), 1..4),
            numbers in (0u32..0o10000, prop_oneof![0..70_000u64, any::<u64>()], prop_oneof![Just(0), Just(MAX_7), Just(MAX_7 + 1), any::<u32>().prop_map(u64::from)]),
            names in (bytes(40), bytes(40)),
            mtime in prop_oneof![
                (0..2_000_000_000i64).prop_map(|seconds| Mtime { seconds, text: None }),
                Just(Mtime { seconds: 0o77_777_777_777, text: None }),
                Just(Mtime { seconds: -5, text: Some(b"-5.25".to_vec()) }),
                any::<u32>().prop_map(|s| Mtime { seconds: s.into(), text: Some(format!("{s}.000000001").into_bytes()) }),
                any::<i64>().prop_map(|s| Mtime { seconds: s.max(i64::MIN + 1), text: Some(s.max(i64::MIN + 1).to_string().into_bytes()) }),
            ],
            xattrs in proptest::collection::btree_map("(user|security)\\.[a-z\n]{1,9}".prop_map(String::into_bytes), bytes(120), 0..4),
            pax in proptest::collection::btree_map("(atime|VENDOR\\.[a-z ]{1,9}|SCHILY\\.acl\\.access)".prop_map(String::into_bytes), bytes(120), 0..4),
        ) -> Entry {
            let no_nul = |name: Vec<u8>| name.into_iter().map(|b| if b == 0 { b'_' } else { b }).collect();
            Entry {
                mode: numbers.0, uid: numbers.1, gid: numbers.2,
                uname: no_nul(names.0), gname: no_nul(names.1),
                mtime, xattrs, pax,
                ..Entry::implied_directory(path.join(&b'/'))
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_built_is_read(entry in entry(), parent in entry(), content in bytes(1100), zstd in any::<bool>()) {
            prop_assume!(parent.path != entry.path);
            let file = found(entry, std::slice::from_ref(&parent), &content);
            let compression = if zstd { Compression::Zstd } else { Compression::Gzip };
            let additions = [Addition { found: &file, capability: None }];
            let layer = build(&additions, compression, &Cache::default()).unwrap();
            prop_assert_eq!(read(&layer), vec![(parent, vec![]), (file.entry.clone(), content)]);
            let again = build(&additions, compression, &Cache::default()).unwrap();
            prop_assert_eq!((layer.digest, layer.size, layer.diff_id), (again.digest, again.size, again.diff_id));
        }
    }
}
