//! Variables in Compose files: `$NAME`, `${NAME:-default}`, `$$`, as the Compose specification has them. Nothing is known of
//! the environment that Compose will be started in.

/// Defaults in defaults.
const MAX_DEPTH: usize = 16;

/// The text with its variables, or nothing if one has no default. A variable with a default is thought to be unset.
pub(super) fn interpolate(text: &str) -> Option<String> {
    below(text, 0)
}

fn below(text: &str, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after)?;
            let (inside, after) = (&after[..end], &after[end + 1..]);
            let name = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
            let (_, modifier) = inside.split_at(name);
            let default = modifier.strip_prefix(":-").or_else(|| modifier.strip_prefix('-'))?;
            out.push_str(&below(default, depth + 1)?);
            rest = after;
        } else if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return None;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Some(out)
}

/// Where the brace is that closes one which is open.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

/// Words as a shell would have them, without anything else that a shell does.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_their_defaults() {
        for (text, expected) in [
            ("", Some("")),
            ("kong:3.9", Some("kong:3.9")),
            ("$TAG", None),
            ("${TAG}", None),
            ("kong:${TAG:-3.9}", Some("kong:3.9")),
            ("kong:${TAG-3.9}x", Some("kong:3.9x")),
            ("${A:-${B:-c}}", Some("c")),
            ("${A:-${B}}", None),
            ("${A:?no}", None),
            ("${A:+yes}", None),
            ("${A:-}", Some("")),
            ("$$A ${A:-$$}", Some("$A $")),
            ("${A", None),
            ("5$", Some("5$")),
            ("$5", Some("$5")),
        ] {
            assert_eq!(interpolate(text).as_deref(), expected, "{text}");
        }
        assert_eq!(interpolate(&format!("{}{}", "${A:-".repeat(10_000), "}".repeat(10_000))), None);
    }

    #[test]
    fn words_end_at_blanks() {
        for (text, expected) in [
            ("", vec![]),
            ("kong start", vec!["kong", "start"]),
            (" sh -c 'a b' \"c d\"e ", vec!["sh", "-c", "a b", "c de"]),
            (r#"a\ b "\"" '\' ''"#, vec!["a b", "\"", "\\", ""]),
            ("'open", vec!["open"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }
}
