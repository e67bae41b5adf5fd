//! Numbers as YAML 1.1 writes them.

/// A number of YAML 1.1.
#[derive(Debug, PartialEq)]
pub(crate) enum Number {
    /// Without a fraction.
    Whole(i64),
    /// Any other.
    Real(f64),
}

/// A number as kubectl reads it (`resolve` in go-yaml, with `strconv.ParseInt` of base 0).
pub(crate) fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let (plain, digits) = (text.replace('_', ""), digits.replace('_', "").to_ascii_lowercase());
    let (radix, rest) = match digits.split_at_checked(2) {
        Some(("0x", rest)) => (16, rest),
        Some(("0o", rest)) => (8, rest),
        Some(("0b", rest)) => (2, rest),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    let whole = if rest.starts_with(['+', '-']) { None } else { i64::from_str_radix(rest, radix).ok() };
    match whole {
        Some(number) if text.starts_with('-') => Some(Number::Whole(-number)),
        Some(number) => Some(Number::Whole(number)),
        None if plain.contains(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)) => None,
        None => plain.parse().ok().map(Number::Real),
    }
}

/// A whole number, however it is written.
pub(crate) fn whole(text: &str) -> Option<i64> {
    match number(text)? {
        Number::Whole(number) => Some(number),
        // What a double has in whole numbers exactly.
        Number::Real(number) if number.fract() == 0.0 && number.abs() < 2f64.powi(53) => Some(number as i64),
        Number::Real(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_those_of_yaml_1_1() {
        for (text, expected) in [
            ("10", Some(10)),
            ("+10", Some(10)),
            ("-1", Some(-1)),
            ("0x10", Some(16)),
            ("010", Some(8)),
            ("0o17", Some(15)),
            ("0b11", Some(3)),
            ("1_000", Some(1000)),
            ("00", Some(0)),
            ("0", Some(0)),
            ("1e3", Some(1000)),
            ("1000.0", Some(1000)),
            ("08", Some(8)),
            ("1.5", None),
            ("1e300", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("99999999999999999999", None),
            ("x", None),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }
}
