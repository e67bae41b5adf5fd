//! A layer blob, after a byte that says how it is made of the bytes that follow. Reading ends within the limits, and only what
//! hashes to its digest and its diff ID is believed.
#![no_main]

use std::io::{BufRead, Read, Write};

use capatch::archive::compression::{Decoder, Encoder};
use capatch::layer::reader::LayerReader;
use capatch::layer::tree::{Detail, Tree};
use capatch::limits::Limits;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::{Algorithm, Digest, Hasher};
use capatch::oci::media_type::{Compression, OCI_LAYER_GZIP};
use capatch_fuzz::{is_printable, tars};
use libfuzzer_sys::fuzz_target;

/// Bytes of tar that a blob may become: 64 MiB or 2000 times its size, and a buffer.
const HARMLESS: u64 = 64 << 20;
const BUFFER: u64 = 256 << 10;

fn pack(tar: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression).unwrap();
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

fn blob(choice: u8, data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    if choice & 1 == 0 {
        tars::fix_checksums(&mut tar);
    }
    let middle = tar.len() / 2;
    match choice >> 1 & 7 {
        0 | 1 => data.to_vec(),
        2 => tar,
        3 => pack(&tar, Compression::Gzip),
        4 => pack(&tar, Compression::Zstd),
        5 => [pack(&tar[..middle], Compression::Gzip), pack(&tar[middle..], Compression::Gzip), vec![0; 700]].concat(),
        6 => [pack(&tar[..middle], Compression::Zstd), pack(&tar[middle..], Compression::Zstd)].concat(),
        _ => [pack(&tar, Compression::Gzip), data.iter().copied().take(100).collect()].concat(),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let blob = blob(*choice, data);
    let descriptor = Descriptor::new(OCI_LAYER_GZIP, Digest::of(&blob), blob.len() as u64).unwrap();
    let wrong = Digest::of(b"something else");

    // What the tar hashes to, if all of it can be read.
    let mut reader = match LayerReader::new(&blob[..], &descriptor, &wrong, &Limits::default()) {
        Ok(reader) => reader,
        Err(error) => return is_printable(&error),
    };
    let (mut hasher, mut total) = (Hasher::new(Algorithm::Sha256), 0);
    let failed = loop {
        match reader.fill_buf() {
            Ok([]) => break false,
            Ok(bytes) => {
                hasher.update(bytes);
                total += bytes.len() as u64;
                let length = bytes.len();
                reader.consume(length);
            }
            Err(_) => break true,
        }
    };
    assert!(total <= HARMLESS.max(2000 * blob.len() as u64) + BUFFER, "{total} bytes out of {}", blob.len());
    if failed {
        return assert!(!read(&blob, &descriptor, &hasher.finish()).is_ok(), "what failed must fail");
    }
    assert!(reader.finish().is_err(), "any diff ID will do");
    let diff_id = hasher.finish();
    read(&blob, &descriptor, &diff_id).expect("the right digests");
    // The rest says nothing more about what is large.
    if total > 1 << 20 {
        return;
    }
    let mut decoded = Vec::new();
    Decoder::new(&blob[..], &Limits::default()).unwrap().read_to_end(&mut decoded).unwrap();
    assert_eq!(Digest::of(&decoded), diff_id);

    let mut tree = Tree::default();
    match tree.apply(&blob[..], &descriptor, &diff_id, Detail::Everything) {
        Ok(()) => {
            let mut again = Tree::default();
            again.apply(&blob[..], &descriptor, &diff_id, Detail::Everything).unwrap();
            assert!(tree.iter().eq(again.iter()));
        }
        Err(error) => {
            is_printable(&error);
            assert_eq!(tree.iter().count(), 0, "nothing of it may be believed");
        }
    }
    let mut tree = Tree::default();
    assert!(tree.apply(&blob[..], &descriptor, &wrong, Detail::Attributes).is_err() && tree.iter().count() == 0);
    let cut = &blob[..blob.len() - blob.len().min(1)];
    assert!(blob.is_empty() || read(cut, &descriptor, &diff_id).is_err());
});

fn read(blob: &[u8], descriptor: &Descriptor, diff_id: &Digest) -> capatch::error::Result<()> {
    LayerReader::new(blob, descriptor, diff_id, &Limits::default())?.finish().map(drop)
}
