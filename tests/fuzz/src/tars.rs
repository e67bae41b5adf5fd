//! Repairs for mutated tars: without them nearly every mutation ends at the first checksum or digest.

use std::ops::Range;

use capatch::oci::digest::Digest;

const BLOCK: usize = 512;
const CHECKSUM: Range<usize> = 148..156;
const BLOBS: &[u8] = b"blobs/sha256/";

/// Where the headers are, and the content behind each, as far as sizes lead.
fn members(tar: &[u8]) -> Vec<(usize, Range<usize>)> {
    let mut members = Vec::new();
    let mut at = 0;
    while let Some(block) = tar.get(at..at + BLOCK) {
        if block.iter().all(|b| *b == 0) {
            at += BLOCK;
            continue;
        }
        let digits = block[124..135].iter().skip_while(|b| **b == b' ').take_while(|b| (b'0'..=b'7').contains(b));
        let size = digits.fold(0usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit - b'0')));
        let size = if block[124] & 0x80 != 0 { 0 } else { size };
        let content = at + BLOCK;
        let end = content.saturating_add(size).min(tar.len());
        members.push((at, content..end));
        at = content.saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
    }
    members
}

/// Makes the checksums of all headers right.
pub fn fix_checksums(tar: &mut [u8]) {
    for (at, _) in members(tar) {
        let header = &mut tar[at..at + BLOCK];
        header[CHECKSUM].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Gives every blob of a layout in a tar the digest that it has, wherever the old one stands, and fixes the checksums.
pub fn reseal(tar: &mut [u8]) {
    // A layer's digest stands in its config, the config's in the manifest, that in an index, that in index.json.
    for _ in 0..5 {
        let mut changes = Vec::new();
        for (at, content) in members(tar) {
            let Some(old) = tar[at..].strip_prefix(BLOBS).and_then(|name| name.get(..64)) else { continue };
            let new = Digest::of(&tar[content]);
            if old.is_ascii() && old.iter().all(u8::is_ascii_hexdigit) && old != new.hex().as_bytes() {
                changes.push((old.to_vec(), new.hex().as_bytes().to_vec()));
            }
        }
        if changes.is_empty() {
            break;
        }
        for (old, new) in changes.iter().take(8) {
            replace(tar, old, new);
        }
    }
    fix_checksums(tar);
}

fn replace(text: &mut [u8], old: &[u8], new: &[u8]) {
    let mut at = 0;
    while at + old.len() <= text.len() {
        match text[at..].iter().position(|b| *b == old[0]) {
            Some(next) if text[at + next..].starts_with(old) => {
                at += next;
                text[at..at + old.len()].copy_from_slice(new);
                at += old.len();
            }
            Some(next) => at += next + 1,
            None => break,
        }
    }
}
