use super::*;
use crate::archive::testing::*;
use proptest::prelude::*;

fn list(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut entries = Entries::new(tar, &Limits::default());
    let mut list = Vec::new();
    while let Some(entry) = entries.next_entry()? {
        let mut content = Vec::new();
        entries.content().read_to_end(&mut content).map_err(|e| Error::io("content", &e))?;
        list.push((entry, content));
    }
    Ok(list)
}

/// `path kind size` of each entry, or the error.
fn lines(frames: &[Vec<u8>]) -> Result<Vec<String>, String> {
    let tar = tar(frames);
    let listed = list(&tar).map_err(|e| e.to_string())?;
    // Skipping must end up at the same places as reading.
    let mut skipping = Entries::new(&tar[..], &Limits::default());
    for (entry, _) in &listed {
        assert_eq!(skipping.next_entry().unwrap().as_ref(), Some(entry));
    }
    assert_eq!(skipping.next_entry().unwrap(), None);
    Ok(listed
        .iter()
        .map(|(e, content)| {
            let link = if e.link.is_empty() { String::new() } else { format!(" -> {}", e.link.escape_ascii()) };
            format!("{}{link} {:?} {}", e.path.escape_ascii(), e.kind, content.len())
        })
        .collect())
}

fn ok(frames: &[Vec<u8>], expected: &[&str]) {
    assert_eq!(lines(frames).as_deref(), Ok(&expected.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]));
}

fn refused(frames: &[Vec<u8>], word: &str) {
    let error = lines(frames).unwrap_err();
    assert!(error.contains(word), "{error}");
}

#[test]
fn kinds_and_names() {
    ok(
        &[
            dir("./"),
            dir("usr/"),
            file("./usr//a", b"hello"),
            symlink("/usr/b", "../x y"),
            hardlink("usr/c", "usr/a"),
            frame(b'3', b"dev/null", b"", b"", |_| {}),
            frame(b'6', b"fifo", b"", b"", |_| {}),
            frame(0, b"old/", b"", b"", |_| {}),
            frame(0, b"older", b"", b"xy", |_| {}),
            frame(b'V', b"volume", b"", b"", |_| {}),
            file("../../etc/passwd", b""),
            frame(b'0', b"caf\xe9", b"", b"", |_| {}),
        ],
        &[
            " Directory 0",
            "usr Directory 0",
            "usr/a File 5",
            "usr/b -> ../x y Symlink 0",
            "usr/c -> usr/a HardLink 0",
            "dev/null CharDevice 0",
            "fifo Fifo 0",
            "old Directory 0",
            "older File 2",
            "volume Other(86) 0",
            "etc/passwd File 0",
            "caf\\xe9 File 0",
        ],
    );
}

#[test]
fn what_cannot_have_content_has_none() {
    for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let lying = frame(flag, b"x", b"y", b"", |h| h.set_size(512));
        assert_eq!(list(&tar(&[lying, file("b", b"1")])).unwrap().len(), 2, "{}", flag as char);
        let lying = [pax(&[(b"size", b"512")]), frame(flag, b"x", b"y", b"", |_| {})].concat();
        assert_eq!(list(&tar(&[lying, file("b", b"1")])).unwrap().len(), 2, "{}", flag as char);
    }
}

#[test]
fn pax_records_win() {
    let xattr = b"a=b\n22 linkpath=/etc/evil\n\0\xff\xfe";
    let records: &[(&[u8], &[u8])] = &[
        (b"path", b"usr/old"),
        (b"path", b"usr/new"),
        (b"SCHILY.xattr.user.x", xattr),
        (b"SCHILY.xattr.user.empty", b""),
        (b"size", b"3"),
        (b"uid", b"4294967296"),
        (b"uname", b""),
        (b"mtime", b"12.345"),
        (b"atime", b"1.5"),
        (b"VENDOR.x", b"\0"),
    ];
    let body = frame(b'0', b"short", b"", b"abc", |h| {
        h.set_size(0);
        h.set_username("user").unwrap();
    });
    let listed = list(&tar(&[pax(records), body, file("next", b"")])).unwrap();
    let (entry, content) = &listed[0];
    assert_eq!(
        (&entry.path[..], &content[..], entry.uid, &entry.uname[..]),
        (&b"usr/new"[..], &b"abc"[..], 1 << 32, &b"user"[..])
    );
    assert_eq!(entry.mtime, Mtime { seconds: 12, text: Some(b"12.345".to_vec()) });
    assert_eq!(entry.xattrs[&b"user.x"[..]], xattr);
    assert_eq!(entry.xattrs[&b"user.empty"[..]], b"");
    assert_eq!(entry.pax.keys().collect::<Vec<_>>(), [&b"VENDOR.x"[..], b"atime"]);
    assert_eq!(listed.len(), 2);
}

#[test]
fn every_capability_value_is_read() {
    for value in
        [&b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], b"\n\n\n=\n 3 a=b\n", b"\x0a", b"\x01\x80\xff\xfe"]
    {
        let frames = [pax(&[(b"SCHILY.xattr.security.capability", value)]), file("a", b"")];
        assert_eq!(list(&tar(&frames)).unwrap()[0].0.xattrs[&b"security.capability"[..]], value);
    }
}

#[test]
fn long_names() {
    let long = "d/".repeat(150) + "file";
    ok(&[gnu(b'L', long.as_bytes()), file("d/d", b"x")], &[&format!("{long} File 1")]);
    ok(
        &[gnu(b'K', b"target"), gnu(b'L', b"name"), symlink("x", "y"), file("z", b"")],
        &["name -> target Symlink 0", "z File 0"],
    );
    // faults.md D12: the PAX size is the file's, not the long name's.
    for size in [2, 600] {
        let body = frame(b'0', b"x", b"", &vec![b'1'; size], |h| h.set_size(0));
        let size = size.to_string();
        ok(
            &[pax(&[(b"size", size.as_bytes())]), gnu(b'L', b"name"), body, file("b", b"")],
            &[&format!("name File {size}"), "b File 0"],
        );
    }
    ok(&[pax(&[(b"path", b"a")]), gnu(b'L', b"a"), file("x", b"")], &["a File 0"]);
    refused(&[pax(&[(b"path", b"a")]), gnu(b'L', b"b"), file("x", b"")], "two names");
    refused(&[gnu(b'L', b"a"), gnu(b'L', b"b"), file("x", b"")], "two extended headers");
    refused(&[gnu(b'L', b"a\0b"), file("x", b"")], "NUL");
    refused(&[gnu(b'L', "x/".repeat(2100).as_bytes()), file("x", b"")], "longer than 4096");
    refused(&[pax(&[(b"path", b"a\0b")]), file("x", b"")], "NUL");
    let ustar = frame(b'0', b"name", b"", b"", |h| {
        h.as_ustar_mut().unwrap().prefix[..7].copy_from_slice(b"pre/fix");
    });
    ok(&[ustar], &["pre/fix/name File 0"]);
    let gnu_with_prefix = |field: &[u8]| {
        frame(b'0', b"name", b"", b"", |h| {
            h.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
            h.as_mut_bytes()[345..345 + field.len()].copy_from_slice(field);
        })
    };
    ok(&[gnu_with_prefix(b"usr/share")], &["usr/share/name File 0"]);
    ok(&[gnu_with_prefix(b"14371573425\0")], &["name File 0"]);
}

#[test]
fn ambiguity_is_refused() {
    let plain = || file("x", b"");
    refused(&[pax(&[(b"size", b"+3")]), file("x", b"abc")], "PAX size is '+3'");
    refused(&[pax(&[(b"size", b"9223372036854775808")]), file("x", b"abc")], "has 9223372036854775808 bytes");
    refused(&[pax(&[(b"uid", b"-1")]), plain()], "PAX uid");
    refused(&[pax(&[(b"uname", b"a\0b")]), plain()], "NUL");
    refused(&[pax(&[(b"mtime", b"1e3")]), plain()], "PAX mtime");
    refused(&[pax(&[(b"SCHILY.xattr.", b"1")]), plain()], "no name");
    refused(&[raw_pax(b"8 path=a\n"), plain()], "malformed PAX");
    refused(&[raw_pax(b"10 path=a"), plain()], "malformed PAX");
    refused(&[pax(&[(b"a", b"b")]), pax(&[(b"c", b"d")]), plain()], "two extended headers");
    refused(&[pax(&[(b"a", b"b")])], "ends after an extended header");
    refused(&[global(&[(b"path", b"evil")]), plain()], "global header");
    refused(&[global(&[(b"SCHILY.xattr.security.capability", b"x")]), plain()], "global header");
    refused(&[pax(&[(b"a", b"b")]), global(&[(b"comment", b"c")]), plain()], "two extended headers");
    ok(&[global(&[(b"comment", b"c0ffee")]), plain()], &["x File 0"]);
    refused(
        &[frame(b'0', b"x", b"", b"", |h| h.as_old_mut().size = *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")],
        "negative size",
    );
    refused(&[frame(b'0', b"x", b"", b"", |h| h.as_old_mut().size = *b"0000000000x\0")], "no number");
    refused(&[frame(b'x', b"x", b"", b"", |h| h.set_size(1 << 40))], "has 1099511627776 bytes, the limit is 1 MiB");
    let mut bad_sum = plain();
    bad_sum[0] = b'y';
    refused(&[bad_sum], "checksum");
}

#[test]
fn the_end_is_strict() {
    let one = file("a", b"x");
    for (tail, good) in [
        (vec![], true),
        (vec![0; 512], true),
        (vec![0; 1024], true),
        (vec![0; 10 * 1024], true),
        (vec![0; 1500], true),
        (vec![0; 100], false),
        ([vec![0; 512], file("b", b"")].concat(), false),
        ([vec![0; 1024], file("b", b"")].concat(), false),
        ([vec![0; 1024], vec![0; 77], vec![1]].concat(), false),
        (vec![b'x'; 512], false),
    ] {
        let result = list(&[one.clone(), tail.clone()].concat());
        assert_eq!(result.is_ok(), good, "{} bytes: {result:?}", tail.len());
    }
}

#[test]
fn cut_content_is_an_error() {
    let whole = file("a", &[1; 2000]);
    for cut in [512, 513, 1500, 2511, 2512, 2559] {
        assert!(list(&whole[..cut]).is_err(), "{cut}");
        let mut entries = Entries::new(&whole[..cut], &Limits::default());
        entries.next_entry().unwrap();
        assert!(entries.next_entry().is_err(), "skipping, {cut}");
        let mut entries = Entries::new(&whole[..cut], &Limits::default());
        entries.next_entry().unwrap();
        let read = entries.content().read_to_end(&mut Vec::new());
        assert_eq!(read.is_ok(), cut >= 2512, "{cut}");
        let mut entries = Entries::new(&whole[..cut], &Limits::default());
        entries.next_entry().unwrap();
        let read = entries.content().for_each_chunk(|_| Ok(()));
        assert_eq!(read.is_ok(), cut >= 2512, "in chunks, {cut}");
    }
}

#[test]
fn sparse_files_are_skipped_but_not_read() {
    let mut old = frame(b'S', b"old", b"", b"", |h| {
        h.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
        h.as_mut_bytes()[482] = 1;
        h.set_size(600);
    });
    let mut map = [0; 512];
    map[504] = 1;
    old.extend_from_slice(&map);
    old.extend_from_slice(&[0; 512]);
    old.extend_from_slice(&[b'x'; 1024]);
    let new = [
        pax(&[
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"new"),
            (b"GNU.sparse.realsize", b"99999"),
        ]),
        file("GNUSparseFile.0/new", &[b'0'; 700]),
    ];
    let frames = [old, new.concat(), file("after", b"y")];
    ok(&frames, &["old File 600", "new File 700", "after File 1"]);
    let bytes = tar(&frames);
    let mut entries = Entries::new(&bytes[..], &Limits::default());
    for sparse in [true, true, false] {
        assert_eq!(entries.next_entry().unwrap().unwrap().sparse, sparse);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048), flag in any::<u8>(), fix in any::<bool>()) {
        if fix && bytes.len() >= 512 {
            bytes[156] = flag;
            let header = tar::Header::from_byte_slice(&bytes[..512]);
            let mut header = header.clone();
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
        }
        let _ = list(&bytes);
    }
}

#[test]
fn a_header_may_be_as_long_as_its_limit() {
    let mut body = b"1048576 comment=".to_vec();
    body.resize((1 << 20) - 1, b'c');
    body.push(b'\n');
    let longer = [&b"1048577 comment="[..], &body[16..body.len() - 1], b"c\n"].concat();
    let raised = Limits { memory: 256 << 20, ..Limits::default() };
    for (body, limits, expected) in [
        (&body, Limits::default(), None),
        (&longer, Limits::default(), Some("an extended header after / has 1048577 bytes, the limit is 1 MiB")),
        (&longer, raised, None),
    ] {
        let tar = tar(&[raw_pax(body), file("x", b"")]);
        let entry = Entries::new(&tar[..], &limits).next_entry();
        assert_eq!(entry.as_ref().err().map(Error::to_string).as_deref(), expected, "{:?}", limits.memory);
        assert!(entry.map_or_else(|e| e.hint_text().unwrap().contains("--max-memory"), |entry| entry.is_some()));
    }
}
