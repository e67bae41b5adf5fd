//! Tars made by hand, independently of what is tested.

use std::io::Write;

use crate::archive::compression::Encoder;
use crate::oci::media_type::Compression;

/// A header, `edit`ed before its checksum is made, and the padded body.
pub(crate) fn frame(flag: u8, name: &[u8], link: &[u8], body: &[u8], edit: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.as_old_mut().linkflag = [flag];
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(body.len() as u64);
    edit(&mut header);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    frame(b'0', name.as_bytes(), b"", content, |_| {})
}

pub(crate) fn dir(name: &str) -> Vec<u8> {
    frame(b'5', name.as_bytes(), b"", b"", |header| header.set_mode(0o755))
}

pub(crate) fn symlink(name: &str, target: &str) -> Vec<u8> {
    frame(b'2', name.as_bytes(), target.as_bytes(), b"", |header| header.set_mode(0o777))
}

pub(crate) fn hardlink(name: &str, target: &str) -> Vec<u8> {
    frame(b'1', name.as_bytes(), target.as_bytes(), b"", |_| {})
}

/// An `x` header with these records.
pub(crate) fn pax(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    raw_pax(&records_of(records))
}

/// An `x` header with this body.
pub(crate) fn raw_pax(body: &[u8]) -> Vec<u8> {
    frame(b'x', b"PaxHeaders.0/x", b"", body, |_| {})
}

/// A `g` header with these records.
pub(crate) fn global(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    frame(b'g', b"pax_global_header", b"", &records_of(records), |_| {})
}

fn records_of(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| rest + length.to_string().len() == *length).unwrap();
        body.extend_from_slice(format!("{length} ").as_bytes());
        body.extend_from_slice(&[key, &b"="[..], value, b"\n"].concat());
    }
    body
}

/// A GNU `L` or `K` header with this name.
pub(crate) fn gnu(flag: u8, name: &[u8]) -> Vec<u8> {
    frame(flag, b"././@LongLink", b"", &[name, b"\0"].concat(), |header| {
        header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
    })
}

/// The frames and two zero blocks.
pub(crate) fn tar(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = frames.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(crate) fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
