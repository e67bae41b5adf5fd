//! One tar header block: its fields and its checksum.
//!
//! Sources: POSIX.1-2024 `pax`, "ustar Interchange Format"; `tar(5)`, "GNU tar Archives"; Go `archive/tar/reader.go`.

use crate::error::{Error, Result};

/// Bytes of a header, and what everything in a tar is padded to.
pub(crate) const BLOCK: usize = 512;

/// A header block whose checksum is right.
pub(crate) struct Block {
    bytes: [u8; BLOCK],
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Before POSIX: no names of users, no devices, no prefix.
    V7,
    Ustar,
    /// Schily's: the prefix is shorter, times follow it.
    Star,
    Gnu,
}

impl Block {
    pub(crate) fn new(bytes: [u8; BLOCK]) -> Result<Self> {
        if !checksum_matches(&bytes) {
            return Err(Error::content("a header of the tar has a wrong checksum"));
        }
        let format = match &bytes[257..265] {
            b"ustar\x0000" if &bytes[508..512] == b"tar\0" => Format::Star,
            b"ustar\x0000" => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            _ => Format::V7,
        };
        Ok(Block { bytes, format })
    }

    pub(crate) fn type_flag(&self) -> u8 {
        self.bytes[156]
    }

    /// The name, with its prefix if the format has one.
    pub(crate) fn name(&self) -> Vec<u8> {
        let prefix = match self.format {
            Format::V7 => &[],
            Format::Ustar => text(&self.bytes[345..500]),
            Format::Star => text(&self.bytes[345..476]),
            Format::Gnu => self.mistaken_prefix(),
        };
        let name = text(&self.bytes[..100]);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// Go before 1.8, and so image builders until 2017, wrote prefixes into GNU headers, where the times belong.
    fn mistaken_prefix(&self) -> &[u8] {
        let times_are_numbers =
            [&self.bytes[345..357], &self.bytes[357..369]].iter().all(|field| field[0] == 0 || number(field).is_some());
        let prefix = text(&self.bytes[345..500]);
        if times_are_numbers || !prefix.is_ascii() { &[] } else { prefix }
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(&self.bytes[157..257]).to_vec()
    }

    pub(crate) fn mode(&self) -> Result<u32> {
        let mode = self.field(100..108, "mode")?;
        Ok((mode & 0o7777) as u32)
    }

    pub(crate) fn uid(&self) -> Result<u64> {
        self.unsigned(108..116, "user ID")
    }

    pub(crate) fn gid(&self) -> Result<u64> {
        self.unsigned(116..124, "group ID")
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.unsigned(124..136, "size")
    }

    pub(crate) fn mtime(&self) -> Result<i64> {
        self.field(136..148, "modification time")
    }

    pub(crate) fn uname(&self) -> Vec<u8> {
        if self.format == Format::V7 { Vec::new() } else { text(&self.bytes[265..297]).to_vec() }
    }

    pub(crate) fn gname(&self) -> Vec<u8> {
        if self.format == Format::V7 { Vec::new() } else { text(&self.bytes[297..329]).to_vec() }
    }

    /// Major and minor number.
    pub(crate) fn device(&self) -> Result<(u64, u64)> {
        if self.format == Format::V7 {
            return Ok((0, 0));
        }
        Ok((self.unsigned(329..337, "device")?, self.unsigned(337..345, "device")?))
    }

    /// Whether more of an old GNU sparse map follows this header.
    pub(crate) fn sparse_map_continues(&self) -> bool {
        self.bytes[482] != 0
    }

    fn field(&self, range: std::ops::Range<usize>, what: &str) -> Result<i64> {
        number(&self.bytes[range])
            .ok_or_else(|| Error::content(format!("a header of the tar has a {what} that is no number")))
    }

    fn unsigned(&self, range: std::ops::Range<usize>, what: &str) -> Result<u64> {
        let value = self.field(range, what)?;
        u64::try_from(value).map_err(|_| Error::content(format!("a header of the tar has the negative {what} {value}")))
    }
}

/// Whether these are the first bytes of a tar: a header with a right checksum, or nothing but zeros.
pub(crate) fn looks_like_tar(head: &[u8]) -> bool {
    head.first_chunk::<BLOCK>().is_some_and(|block| checksum_matches(block) || block.iter().all(|b| *b == 0))
}

/// Some old writers summed signed bytes.
fn checksum_matches(bytes: &[u8; BLOCK]) -> bool {
    let sum = |range: std::ops::Range<usize>| bytes[range].iter().map(|b| i64::from(*b)).sum::<i64>();
    let unsigned = sum(0..148) + sum(156..BLOCK) + 8 * i64::from(b' ');
    let Some(stored) = octal(&bytes[148..156]) else { return false };
    if stored == unsigned {
        return true;
    }
    let high = bytes[..148].iter().chain(&bytes[156..]).filter(|b| **b >= 0x80).count() as i64;
    stored == unsigned - 256 * high
}

/// Up to the first NUL byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits, or base-256 if the highest bit is set; nothing that does not fit 64 bits.
fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

/// Digits with spaces and NUL bytes around them; no digits at all are 0.
fn octal(field: &[u8]) -> Option<i64> {
    let is_padding = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !is_padding(b)).unwrap_or(field.len());
    let end = field.iter().rposition(|b| !is_padding(b)).map_or(start, |last| last + 1);
    field[start..end].iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Two's complement, big-endian, in all bits but the highest.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let start = if negative { -1 } else { 0 };
    field.iter().enumerate().try_fold(start, |value: i64, (at, byte)| {
        let byte = match (at, negative) {
            (0, false) => byte & 0x7f,
            (0, true) => byte | 0x80,
            _ => *byte,
        };
        value.checked_mul(256)?.checked_add(i64::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_strictly() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"1777777777777777777777", None),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"6 44\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\0\x2a", Some(42)),
            (b"\x80\0\0\0\x80\0\0\0", Some(0x8000_0000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", Some(-256)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xfe\0\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), expected, "{field:02x?}");
        }
    }
}
