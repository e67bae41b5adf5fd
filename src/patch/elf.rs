//! Is this a program that the image's platform can execute? Nothing else may get a capability.
//!
//! Source: elf(5); the machine numbers are the gABI's `e_machine`.

use crate::error::{Error, Result};
use crate::oci::platform::Platform;

/// Bytes of the file that [`check`] looks at.
pub(crate) const HEAD: usize = 64;

/// (architecture, machine, 64 bit, little endian)
const MACHINES: [(&str, u16, bool, bool); 12] = [
    ("386", 3, false, true),
    ("amd64", 62, true, true),
    ("arm", 40, false, true),
    ("arm64", 183, true, true),
    ("loong64", 258, true, true),
    ("mips", 8, false, false),
    ("mipsle", 8, false, true),
    ("mips64le", 8, true, true),
    ("ppc64", 21, true, false),
    ("ppc64le", 21, true, true),
    ("riscv64", 243, true, true),
    ("s390x", 22, true, false),
];

/// Refuses what the kernel would not execute on `platform`: scripts (their capabilities are ignored, the interpreter's
/// count), anything that is not ELF, and programs for another machine. `head` is the first [`HEAD`] bytes of the file.
pub(crate) fn check(head: &[u8], platform: &Platform) -> Result<()> {
    if head.starts_with(b"#!") {
        let line: Vec<u8> = head[2..].iter().copied().take_while(|b| *b != b'\n').collect();
        return Err(Error::content(format!(
            "it is a script ('#!{}'): the kernel ignores the capabilities of scripts",
            String::from_utf8_lossy(&line)
        ))
        .hint("name the program that binds the port with --file"));
    }
    let (Some(b"\x7fELF"), Some(&class), Some(&data)) = (head.get(..4), head.get(4), head.get(5)) else {
        return Err(Error::content("it is not an ELF program").hint("name the program that binds the port with --file"));
    };
    let little = data == 1;
    let half = |at: usize| {
        let bytes = [*head.get(at)?, *head.get(at + 1)?];
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let (Some(kind), Some(machine)) = (half(16), half(18)) else {
        return Err(Error::content("its ELF header is cut short"));
    };
    if !matches!(kind, 2 | 3) {
        return Err(Error::content("it is an ELF file, but not a program (neither ET_EXEC nor ET_DYN)"));
    }
    let is = |wanted: &(&str, u16, bool, bool)| wanted.1 == machine && wanted.2 == (class == 2) && wanted.3 == little;
    match MACHINES.iter().find(|row| row.0 == platform.architecture) {
        Some(row) if !is(row) => {
            let found = MACHINES
                .iter()
                .find(|row| is(row))
                .map_or_else(|| format!("machine {machine}"), |row| row.0.to_owned());
            Err(Error::content(format!("it is a program for {found}, but the image says that it is for {platform}"))
                .hint("the image is wrongly labelled, or the file was copied from another platform"))
        }
        // An architecture that we have no row for: being ELF has to do.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, data: u8, kind: u8, machine: u8) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data]);
        let at = usize::from(data == 2);
        head[16 + at] = kind;
        head[18 + at] = machine;
        head
    }

    #[test]
    fn only_programs_of_the_platform_pass() {
        for (head, platform, verdict) in [
            (elf(2, 1, 2, 62), "linux/amd64", Ok(())),
            (elf(2, 1, 3, 183), "linux/arm64/v8", Ok(())),
            (elf(1, 1, 3, 40), "linux/arm/v7", Ok(())),
            (elf(2, 2, 3, 22), "linux/s390x", Ok(())),
            (elf(2, 2, 3, 21), "linux/ppc64", Ok(())),
            (elf(2, 1, 3, 21), "linux/ppc64", Err("for ppc64le")),
            (elf(2, 1, 2, 62), "linux/unheard-of", Ok(())),
            (elf(2, 1, 2, 62), "linux/arm64", Err("for amd64")),
            (elf(1, 1, 2, 62), "linux/amd64", Err("machine 62")),
            (elf(2, 1, 1, 62), "linux/amd64", Err("not a program")),
            (b"#!/bin/sh -e\nexec".to_vec(), "linux/amd64", Err("'#!/bin/sh -e'")),
            (b"\x7fELF\x02\x01".to_vec(), "linux/amd64", Err("cut short")),
            (b"\x7fEL".to_vec(), "linux/amd64", Err("not an ELF")),
            (Vec::new(), "linux/amd64", Err("not an ELF")),
        ] {
            let result = check(&head, &platform.parse().unwrap()).map_err(|e| e.to_string());
            match verdict {
                Ok(()) => assert_eq!(result, Ok(()), "{platform}"),
                Err(part) => assert!(result.as_ref().is_err_and(|e| e.contains(part)), "{result:?}"),
            }
        }
    }
}
