//! When to try again, and how long to wait before.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::StatusCode;

/// How often something is tried before we give up.
pub(super) const TRIES: u32 = 5;

const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Statuses that may be gone a moment later (faults.md B20).
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 499 | 500 | 502 | 503 | 504 | 520..=524)
}

/// The wait after failure number `failures` (from 1): exponential, full jitter.
pub(super) fn backoff(base: Duration, failures: u32) -> Duration {
    let longest = base.saturating_mul(1 << failures.min(16)).min(LONGEST_BACKOFF);
    longest.mul_f64(random())
}

/// From 0 to 1. `RandomState` is seeded by the system; a random number generator would be one more dependency.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// What a `Retry-After` asks for: seconds or an HTTP date. `None` for garbage, negative numbers and past dates.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 holds are a very long time too.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    (UNIX_EPOCH + Duration::from_secs(http_date(value)?)).duration_since(now).ok()
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7; the two obsolete forms are not read).
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = fields[..] else { return None };
    let month = MONTHS.iter().position(|m| *m == month)? as i64 + 1;
    let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<i64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    let valid = (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !valid {
        return None;
    }
    // Days since 1970 in the Gregorian calendar; years begin in March, so that leap days come last.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_all_forms() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, expected) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("1000000000", Some(1_000_000_000)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400 - 784_111_777)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("Sun, 99 Nov 1994 08:49:36 GMT", None),
            ("Sun, 06 Nov 99999999999999999999 08:49:36 GMT", None),
        ] {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn backoff_is_bounded() {
        for failures in [1, 2, 10, 1000, u32::MAX] {
            assert!(backoff(Duration::from_secs(1), failures) <= LONGEST_BACKOFF);
        }
        assert!(backoff(Duration::from_millis(1), 1) <= Duration::from_millis(2));
        // It grows, and two that failed together do not come back together.
        let waits: Vec<_> = (0..100).map(|_| backoff(Duration::from_millis(1), 10)).collect();
        assert!(waits.iter().any(|wait| *wait > Duration::from_millis(100)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
    }

    #[test]
    fn what_may_be_gone_a_moment_later() {
        let transient: Vec<u16> = (100..600).filter(|n| is_transient(StatusCode::from_u16(*n).unwrap())).collect();
        assert_eq!(transient, [408, 425, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524]);
    }
}
