use super::*;
use crate::archive::testing::{compress, file, tar};

fn decode(blob: &[u8]) -> Result<(Compression, Vec<u8>)> {
    let mut decoder = Decoder::new(blob, &Limits::default())?;
    let mut out = Vec::new();
    decoder.read_to_end(&mut out).map_err(|e| Error::io("layer", &e))?;
    let compression = decoder.compression();
    decoder.into_inner();
    Ok((compression, out))
}

#[test]
fn bytes_decide() {
    let plain = tar(&[file("a", b"x")]);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let blob = compress(&plain, compression);
        assert_eq!(decode(&blob).unwrap(), (compression, plain.clone()));
        assert_eq!(blob, compress(&plain, compression), "deterministic");
    }
    assert_eq!(decode(b"").unwrap(), (Compression::None, vec![]));
    for (head, word) in [
        (&b"\xfd7zXZ\0\0"[..], "xz"),
        (b"BZh91AY", "bzip2"),
        (b"hsqs....", "squashfs"),
        (b"PK\x03\x04", "zip"),
        (b"{\"errors\":[]}", "JSON"),
        (b"<html>", "HTML"),
        (b"\x1f", "neither"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0\0", "damaged"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0", "damaged"),
        (&[7; 600], "neither"),
    ] {
        let error = decode(head).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.kind(), crate::error::Kind::Content);
    }
}

#[test]
fn what_begins_like_a_layer_is_told_from_other_content() {
    let plain = tar(&[file("a", b"x")]);
    let gzip = compress(&plain, Compression::Gzip);
    for (blob, expected) in [
        (&b""[..], true),
        (&plain, true),
        (&gzip, true),
        (&compress(&plain, Compression::Zstd), true),
        (&compress(b"", Compression::Gzip), true),
        // Damaged, which is not said here.
        (&gzip[..12], true),
        (&compress(b"{}", Compression::Gzip), false),
        (&compress(&[7; 600], Compression::Zstd), false),
        (b"{}", false),
        (b"\0asm\x01\0\0\0", false),
        (&[7; 600], false),
    ] {
        assert_eq!(begins_like_layer(blob, &Limits::default()).unwrap(), expected, "{blob:?}");
    }
}

#[test]
fn all_members_and_frames_are_read() {
    let plain = tar(&[file("a", b"x")]);
    let (front, back) = plain.split_at(700);
    let both = |compression| [compress(front, compression), compress(back, compression)].concat();
    assert_eq!(decode(&both(Compression::Gzip)).unwrap().1, plain);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let zstd = [&skippable[..], &both(Compression::Zstd), &skippable[..]].concat();
    assert_eq!(decode(&zstd).unwrap(), (Compression::Zstd, plain.clone()));
    // An empty member first: its data is nothing, and not the end.
    let empty_first = [compress(b"", Compression::Gzip), compress(&plain, Compression::Gzip)].concat();
    assert_eq!(decode(&empty_first).unwrap().1, plain);
}

#[test]
fn only_padding_may_follow_gzip() {
    let plain = tar(&[file("a", b"x")]);
    let whole = compress(&plain, Compression::Gzip);
    let extra = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x20\0\0\0\0\0\0\0\0\0\0\0";
    for (tail, good) in [
        (&[0u8; 1][..], true),
        (&[0; 9], true),
        (&[0; 10], true),
        (&[0; 512], true),
        (&[0; 300_000], true),
        (b"x", false),
        (b"\0\0\0x", false),
        (b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0x", false),
        (&whole[..1], false),
        (&whole[..12], false),
        (&whole[..whole.len() - 1], false),
        (extra, false),
        (&[0x28, 0xb5, 0x2f, 0xfd], false),
    ] {
        let result = decode(&[&whole, tail].concat());
        assert_eq!(result.is_ok(), good, "{tail:02x?}");
        if good {
            assert_eq!(result.unwrap().1, plain);
        }
    }
}

#[test]
fn damage_is_an_error_of_the_content() {
    let plain = tar(&[file("a", &[b'x'; 3000])]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let whole = compress(&plain, compression);
        for cut in 5..whole.len() {
            let error = decode(&whole[..cut]).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Content, "{compression} cut at {cut}: {error}");
        }
        for at in [whole.len() - 1, whole.len() - 4] {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            assert!(decode(&flipped).is_err(), "{compression} flipped at {at}");
        }
    }
    // A plain tar that is all NUL bytes ends in a trailer of NUL bytes when cut: still no padding.
    let zeros = compress(&[0; 1024], Compression::Gzip);
    assert!(decode(&zeros[..zeros.len() - 2]).is_err());
}

// faults.md D3: a frame may ask for gigabytes before it holds a byte.
#[test]
fn a_window_larger_than_the_memory_for_it_is_refused() {
    for (window, good) in
        [(20, true), (24, true), (25, false), (26, false), (27, false), (30, false), (31, false), (41, false)]
    {
        // A header with nothing but the window, then an empty last block (RFC 8878 §3.1.1.1.2).
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3, 1, 0, 0];
        assert_eq!(decode(&frame).is_ok(), good, "2^{window}");
    }
    // And behind a good frame, where another one ended well.
    let plain = tar(&[file("a", b"x")]);
    let mut second = compress(&plain, Compression::Zstd);
    let last = second.len() - 1;
    second[last] ^= 1;
    assert!(decode(&[compress(&plain, Compression::Zstd), second].concat()).is_err());
}

#[test]
fn errors_of_the_blob_keep_their_kind() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let blob = compress(&tar(&[file("a", b"x")]), Compression::Gzip);
    let mut decoder = Decoder::new(io::Cursor::new(blob[..20].to_vec()).chain(Broken), &Limits::default());
    let error = match &mut decoder {
        Err(error) => error.clone(),
        Ok(decoder) => Error::io("x", &decoder.read_to_end(&mut Vec::new()).unwrap_err()),
    };
    assert_eq!(error.kind(), crate::error::Kind::Denied);
}
