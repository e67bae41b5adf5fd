//! PAX extended header records: `LENGTH KEY=VALUE\n`, where the length counts itself and the newline.
//!
//! Source: POSIX.1-2024 `pax`, "pax Header Block"; faults.md D11–D15.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Values are bytes: they may hold newlines, NUL and `=`.
pub(crate) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Parses all records by their lengths; of records with one key the last one counts, as POSIX says.
pub(crate) fn parse(mut data: &[u8]) -> Result<Records> {
    let mut records = Records::new();
    while !data.is_empty() {
        let (record, rest) =
            split_record(data).ok_or_else(|| Error::content(format!("malformed PAX record '{}'", start_of(data))))?;
        let equals = record.iter().position(|b| *b == b'=');
        let (key, value) = match equals {
            Some(at) if at > 0 && !record[..at].contains(&0) => (&record[..at], &record[at + 1..]),
            _ => return Err(Error::content(format!("PAX record '{}' has no key", start_of(record)))),
        };
        records.insert(key.to_vec(), value.to_vec());
        data = rest;
    }
    Ok(records)
}

/// The first record without its length and its newline, and what follows it.
fn split_record(data: &[u8]) -> Option<(&[u8], &[u8])> {
    // Twenty digits are more than any length needs.
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    if data[0] == b'0' || length < space + 2 || length > data.len() || data[length - 1] != b'\n' {
        return None;
    }
    Some((&data[space + 1..length - 1], &data[length..]))
}

fn start_of(data: &[u8]) -> String {
    String::from_utf8_lossy(&data[..data.len().min(40)]).into_owned()
}

/// Digits only: no sign, no space, nothing that overflows.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The whole seconds of a PAX time, `-?DIGITS(.DIGITS)?`, cut towards zero.
pub(crate) fn seconds(text: &[u8]) -> Option<i64> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, fraction) = match unsigned.iter().position(|b| *b == b'.') {
        Some(dot) => (&unsigned[..dot], &unsigned[dot + 1..]),
        None => (unsigned, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let whole = i64::try_from(decimal(whole)?).ok()?;
    Some(if unsigned.len() < text.len() { -whole } else { whole })
}

/// Appends one record.
pub(crate) fn append(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits, so one more digit can make it one longer again.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_are_read_strictly() {
        for (data, expected) in [
            ("", Some(vec![])),
            ("7 a=bc\n", Some(vec![("a", "bc")])),
            ("5 a=\n", Some(vec![("a", "")])),
            ("6 a==\n", Some(vec![("a", "=")])),
            ("7 a=\n\n\n", Some(vec![("a", "\n\n")])),
            ("6 a=1\n6 a=2\n", Some(vec![("a", "2")])),
            ("6 a=1\n6 a=", None),
            ("+7 a=bc\n", None),
            ("+8 a=bc\n", None),
            (" 8 a=bc\n", None),
            ("-7 a=bc\n", None),
            ("07 a=b\n", None),
            (" 7 a=bc\n", None),
            ("8 a=bc\n", None),
            ("6 a=bc\n", None),
            ("7 a=bc ", None),
            ("0 a=b\n", None),
            ("2 \n", None),
            ("3 a\n", None),
            ("5 =a\n", None),
            ("4 a\n\n", None),
            ("6 \0=b\n", None),
            ("7a=bc\n", None),
            ("99999999999999999999999 a=b\n", None),
            ("18446744073709551615 a=b\n", None),
            ("7 a=bc\n\0\0\0\0", None),
        ] {
            let parsed = parse(data.as_bytes()).ok();
            let expected: Option<Records> =
                expected.map(|list| list.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect());
            assert_eq!(parsed, expected, "{data:?}");
        }
    }

    #[test]
    fn times_are_read_strictly() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1700000000.123456789", Some(1_700_000_000)),
            ("-1.5", Some(-1)),
            ("1.", Some(1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            (".5", None),
            ("1.5.5", None),
            ("+1", None),
            ("1e9", None),
            ("", None),
            ("-", None),
            ("--1", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_value_smuggles_no_record() {
        let mut data = Vec::new();
        append(&mut data, b"SCHILY.xattr.user.x", b"\n22 linkpath=/etc/evil\n");
        append(&mut data, b"size", b"3");
        let records = parse(&data).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[&b"size"[..]], b"3");
    }

    #[test]
    fn lengths_count_their_own_digits() {
        for around in [9, 10, 99, 100, 999, 1000, 9999, 10000, 99999, 100_000] {
            for payload in around - 8..around + 3usize {
                let value = vec![b'\n'; payload];
                let mut data = Vec::new();
                append(&mut data, b"k", &value);
                let digits = data.iter().position(|b| *b == b' ').unwrap();
                assert_eq!(String::from_utf8_lossy(&data[..digits]), data.len().to_string());
                assert_eq!(parse(&data).unwrap()[&b"k"[..]], value);
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in proptest::collection::btree_map(
            "[a-zA-Z.\n ]{1,12}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..300), 0..6)) {
            let mut data = Vec::new();
            for (key, value) in &records {
                append(&mut data, key, value);
            }
            prop_assert_eq!(parse(&data).unwrap(), records);
        }

        #[test]
        fn no_input_panics(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&data);
            let _ = seconds(&data);
        }
    }
}
