//! What a program asks of the dynamic linker: elf(5), `PT_INTERP` and the run paths of `PT_DYNAMIC`.

use std::io::Read;

use crate::blob::Spool;

/// Program headers that are looked at.
const MAX_HEADERS: u64 = 128;
/// Bytes of the dynamic section, and of one text.
const MAX_SECTION: u64 = 64 << 10;
const MAX_TEXT: u64 = 4096;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// What was found; nothing of it if the program is static.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// The dynamic linker.
    pub interpreter: Option<Vec<u8>>,
    /// `DT_RUNPATH` and `DT_RPATH`, lossy where the bytes are no UTF-8.
    pub run_paths: Vec<String>,
}

struct Elf<'a> {
    content: &'a Spool,
    wide: bool,
    little: bool,
}

struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

/// The absolute path of the dynamic linker, which the kernel executes; nothing if the program is static or names another
/// path, or if the file is no ELF file that keeps to the rules so far.
pub(crate) fn interpreter(content: &Spool) -> Option<Vec<u8>> {
    let elf = Elf::open(content)?;
    elf.interpreter(&elf.segments()?).filter(|path| path.starts_with(b"/"))
}

/// Reads it; nothing if the file is no ELF file, or one that does not keep to the rules.
pub(crate) fn dynamic(content: &Spool) -> Option<Dynamic> {
    let elf = Elf::open(content)?;
    let segments = elf.segments()?;
    let mut found = Dynamic { interpreter: elf.interpreter(&segments), run_paths: Vec::new() };
    let Some(section) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else { return Some(found) };
    let word = if elf.wide { 8 } else { 4 };
    let bytes = elf.bytes(section.offset, section.size.min(MAX_SECTION))?;
    let mut entries = Vec::new();
    for pair in bytes.chunks_exact(2 * word) {
        let (tag, value) = (elf.number(&pair[..word]), elf.number(&pair[word..]));
        if tag == 0 {
            break;
        }
        entries.push((tag, value));
    }
    let table = entries.iter().find(|(tag, _)| *tag == DT_STRTAB).map(|(_, address)| *address);
    let Some(table) = table else { return Some(found) };
    let load = segments.iter().find(|segment| {
        segment.kind == PT_LOAD && table.checked_sub(segment.address).is_some_and(|within| within < segment.size)
    })?;
    let table = load.offset.checked_add(table - load.address)?;
    for (_, at) in entries.iter().filter(|(tag, _)| matches!(*tag, DT_RPATH | DT_RUNPATH)) {
        found.run_paths.push(String::from_utf8_lossy(&elf.text(table.checked_add(*at)?)?).into_owned());
    }
    Some(found)
}

impl<'a> Elf<'a> {
    fn open(content: &'a Spool) -> Option<Self> {
        let mut head = [0; 64];
        content.reader(0).read_exact(&mut head).ok()?;
        head.starts_with(b"\x7fELF").then(|| Elf { content, wide: head[4] == 2, little: head[5] == 1 })
    }

    fn interpreter(&self, segments: &[Segment]) -> Option<Vec<u8>> {
        self.text(segments.iter().find(|segment| segment.kind == PT_INTERP)?.offset)
    }

    fn bytes(&self, offset: u64, size: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.content.reader(offset).take(size).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 == size).then_some(bytes)
    }

    /// A text that ends with NUL.
    fn text(&self, offset: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.content.reader(offset).take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        bytes.truncate(end);
        Some(bytes)
    }

    fn number(&self, bytes: &[u8]) -> u64 {
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if self.little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
    }

    fn segments(&self) -> Option<Vec<Segment>> {
        let (at, size, count) = if self.wide { (32, 54, 56) } else { (28, 42, 44) };
        let word = if self.wide { 8 } else { 4 };
        let start = self.number(&self.bytes(at, word)?);
        let each = self.number(&self.bytes(size, 2)?);
        let count = self.number(&self.bytes(count, 2)?).min(MAX_HEADERS);
        // Offsets of p_offset, p_vaddr and p_filesz in a program header.
        let members: [usize; 3] = if self.wide { [8, 16, 32] } else { [4, 8, 16] };
        if each < if self.wide { 56 } else { 32 } {
            return None;
        }
        let mut segments = Vec::new();
        for index in 0..count {
            let header = self.bytes(start.checked_add(index * each)?, each.min(64))?;
            let word = word as usize;
            let member = |at: usize| header.get(at..at + word).map(|bytes| self.number(bytes));
            let [offset, address, size] = members;
            segments.push(Segment {
                kind: self.number(header.get(..4)?),
                offset: member(offset)?,
                address: member(address)?,
                size: member(size)?,
            });
        }
        Some(segments)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A 64-bit little endian program of these segments: kind, content.
    pub(crate) fn program(segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32..40].copy_from_slice(&64_u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56_u16.to_le_bytes());
        elf[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        let mut at = 64 + 56 * segments.len() as u64;
        for (kind, content) in segments {
            elf.extend(kind.to_le_bytes());
            elf.extend([0; 4]);
            for word in [at, 0x40_0000, 0, content.len() as u64, 0, 0] {
                elf.extend(word.to_le_bytes());
            }
            at += content.len() as u64;
        }
        segments.iter().for_each(|(_, content)| elf.extend(*content));
        elf
    }

    #[test]
    fn linkers_and_run_paths_are_read() {
        let dynamic_section: Vec<u8> = [(DT_STRTAB, 0x40_0001_u64), (DT_RUNPATH, 4), (0, 0)]
            .iter()
            .flat_map(|(t, v)| [t.to_le_bytes(), v.to_le_bytes()].concat())
            .collect();
        let elf = program(&[(1, b"xabc\0$ORIGIN/../lib\0"), (2, &dynamic_section), (3, b"/lib/ld-musl-x86_64.so.1\0")]);
        let read = |bytes: &[u8]| dynamic(&Spool::from_reader(&mut &bytes[..]).unwrap());
        let found = read(&elf).unwrap();
        assert_eq!(found.interpreter.as_deref(), Some(&b"/lib/ld-musl-x86_64.so.1"[..]));
        assert_eq!(found.run_paths, ["$ORIGIN/../lib"]);
        let linker = |bytes: &[u8]| interpreter(&Spool::from_reader(&mut &bytes[..]).unwrap());
        assert_eq!(linker(&elf), found.interpreter);
        assert_eq!(linker(&program(&[(3, b"/lib/ld\xe9.so\0")])).as_deref(), Some(&b"/lib/ld\xe9.so"[..]));
        assert_eq!(read(&program(&[(1, b"x")])), Some(Dynamic::default()));
        let long = |length| [&b"/".repeat(length)[..], &[0]].concat();
        for (text, known) in
            [(&b"/lib/endless"[..], false), (b"ld.so\0", false), (&long(4095), true), (&long(4096), false)]
        {
            assert_eq!(linker(&program(&[(3, text)])).is_some(), known);
        }
        for (before, known) in [(127, true), (128, false)] {
            let segments = [vec![(1, &b""[..]); before], vec![(3, &b"/l\0"[..])]].concat();
            assert_eq!(linker(&program(&segments)).is_some(), known);
        }
        for length in 0..elf.len() {
            assert!(
                linker(&elf[..length]).is_none()
                    && read(&elf[..length]).is_none_or(|found| found != read(&elf).unwrap())
            );
            let mut broken = elf.clone();
            broken[length] ^= 0xff;
            let _ = (read(&broken), linker(&broken));
        }
        // Offsets beyond the file, and beyond all numbers.
        for at in [32, 64 + 2 * 56 + 8] {
            for offset in [elf.len() as u64, u64::MAX - 4, u64::MAX] {
                let mut broken = elf.clone();
                broken[at..at + 8].copy_from_slice(&offset.to_le_bytes());
                assert_eq!(linker(&broken), None);
            }
        }
        assert_eq!((read(b"#!/bin/sh\n"), linker(b"#!/bin/sh\n")), (None, None));
    }
}
