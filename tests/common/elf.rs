//! Tiny static programs.

const MESSAGE: &[u8] = b"nginx version: openresty/1.25.3.2\n";

/// A static program that prints its version and exits with 0.
pub fn amd64() -> Vec<u8> {
    let mut code = Vec::new();
    code.extend([0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0]); // mov eax, 1 (write); mov edi, 1
    code.extend([0x48, 0x8d, 0x35, 16, 0, 0, 0]); // lea rsi, [rip + 16]
    code.extend([0xba, MESSAGE.len() as u8, 0, 0, 0, 0x0f, 0x05]); // mov edx, length; syscall
    code.extend([0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]); // mov eax, 60 (exit); xor edi, edi; syscall
    code.extend(MESSAGE);
    elf(62, &code)
}

/// The same for AArch64.
pub fn arm64() -> Vec<u8> {
    let length = MESSAGE.len() as u32;
    let code = [
        0xd280_0808_u32,           // mov x8, #64 (write)
        0xd280_0020,               // mov x0, #1
        0x1000_00c1,               // adr x1, +24
        0xd280_0002 | length << 5, // mov x2, #length
        0xd400_0001,               // svc #0
        0xd280_0ba8,               // mov x8, #93 (exit)
        0xd280_0000,               // mov x0, #0
        0xd400_0001,               // svc #0
    ];
    let mut bytes: Vec<u8> = code.iter().flat_map(|instruction| instruction.to_le_bytes()).collect();
    bytes.extend(MESSAGE);
    elf(183, &bytes)
}

/// A program that asks for a dynamic linker, which is told at the end of the file.
pub fn dynamic(linker: &str) -> Vec<u8> {
    let mut elf = amd64();
    let table = elf.len() as u64;
    elf.extend_from_within(64..120);
    elf.extend(3_u32.to_le_bytes());
    elf.extend(4_u32.to_le_bytes());
    let size = linker.len() as u64 + 1;
    for word in [table + 2 * 56, 0, 0, size, size, 1] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(linker.bytes().chain([0]));
    elf[32..40].copy_from_slice(&table.to_le_bytes());
    elf[56..58].copy_from_slice(&2_u16.to_le_bytes());
    elf
}

/// An ELF file of one loadable segment.
pub fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let size = 120 + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend(2_u16.to_le_bytes());
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    for word in [BASE + 120, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    elf.extend(5_u32.to_le_bytes());
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}
