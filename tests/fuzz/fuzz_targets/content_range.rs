//! `Content-Range`, `Range` and `Retry-After`, held against regular expressions, and the decision where a body begins.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use capatch::transport::registry::fuzzing::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue};
use capatch::transport::registry::fuzzing::{content_range, retry_after, start_of, taken};
use libfuzzer_sys::fuzz_target;
use regex::Regex;

static RANGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)$").unwrap());
static TAKEN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(?:bytes=)?0-([0-9]+)$").unwrap());

/// The range that the grammar of RFC 9110 §14.4 has, if its numbers fit.
fn range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let parts = RANGE.captures(text)?;
    let (first, last) = (parts[1].parse().ok()?, parts[2].parse().ok()?);
    let total = if &parts[3] == "*" { None } else { Some(parts[3].parse().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`; nobody looks at the day of the week.
fn http_date(seconds: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut days, clock) = (seconds / 86400, seconds % 86400);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("Xxx, {:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", days + 1, MONTHS[month])
}

fuzz_target!(|data: &[u8]| {
    let Some((numbers, text)) = data.split_first_chunk::<5>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    assert_eq!(content_range(text), range(text));

    if let Some(wait) = retry_after(text, UNIX_EPOCH) {
        let is_number = !text.trim().is_empty() && text.trim().bytes().all(|b| b.is_ascii_digit());
        // A leap second at the end of the year 9999 would be in the year 10000.
        let is_date = wait < Duration::from_secs(253_402_300_800);
        assert!(is_number || !is_date || retry_after(&http_date(wait.as_secs()), UNIX_EPOCH) == Some(wait), "{text}");
        assert!(is_number || wait <= Duration::from_secs(253_402_300_800 + 31 * 86400), "{text}");
    }

    let Ok(value) = HeaderValue::from_str(text) else { return };
    let ascii = value.to_str().unwrap_or_default();
    let last = TAKEN.captures(ascii.trim()).and_then(|parts| parts[1].parse::<u64>().ok());
    assert_eq!(taken(value.clone()), last.and_then(|last| last.checked_add(1)), "{text:?}");

    let [status, position, size, length, headers] = numbers.map(u64::from);
    let (status, size) = ([200, 206, 206, 416, 304][status as usize % 5], size.max(1));
    let position = position % size;
    let mut answer = HeaderMap::new();
    if headers & 1 == 0 {
        answer.insert(CONTENT_RANGE, value.clone());
    }
    if headers & 2 == 0 {
        answer.insert(CONTENT_LENGTH, length.into());
    }
    if headers & 12 == 0 {
        answer.append(CONTENT_RANGE, value);
    }
    let Ok(start) = start_of(status, &answer, position, size) else { return };
    assert!(start == if status == 206 { position } else { 0 } && matches!(status, 200 | 206));
    if status == 206 {
        assert!(answer.get_all(CONTENT_RANGE).iter().count() == 1 && range(text).unwrap().0 == position);
    }
    if answer.contains_key(CONTENT_LENGTH) {
        assert!(length == size - start || (status == 206 && length < size - start));
    }
});
