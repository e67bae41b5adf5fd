//! Patterns of `case`, `[[` and `${name#pattern}`: `*`, `?`, bracket expressions and `\`.

/// Whether `pattern` matches all of `text`.
pub(in crate::doctor) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last `*` does not match.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        match (text.get(t), one(&pattern, p)) {
            (None, None) => return true,
            (Some(c), Some((next, accepts))) if accepts(*c) => (p, t) = (next, t + 1),
            _ => match star {
                Some((after, from)) if from < text.len() => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                _ => return false,
            },
        }
    }
}

/// The element of the pattern at `at` that stands for one character: where the next one is, and what it accepts.
#[allow(clippy::type_complexity)]
fn one(pattern: &[char], at: usize) -> Option<(usize, Box<dyn Fn(char) -> bool>)> {
    let first = *pattern.get(at)?;
    if first == '[' {
        let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
        let start = at + 1 + usize::from(negated);
        // A bracket right at the start is one of the characters.
        let length = pattern.get(start + 1..).and_then(|rest| rest.iter().position(|c| *c == ']'));
        if let Some(length) = length {
            let set: Vec<char> = pattern[start..=start + length].to_vec();
            let accepts = move |c: char| {
                let mut found = set.contains(&c) && !(c == '-' && set.len() > 2);
                found |= set.windows(3).any(|w| w[1] == '-' && (w[0]..=w[2]).contains(&c));
                found != negated
            };
            return Some((start + length + 2, Box::new(accepts)));
        }
    }
    if first == '\\'
        && let Some(&escaped) = pattern.get(at + 1)
    {
        return Some((at + 2, Box::new(move |c| c == escaped)));
    }
    Some((at + 1, Box::new(move |c| first == '?' || c == first)))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, yes, no) in [
            ("kong", &["kong"][..], &["kon", "kongs", ""][..]),
            ("*", &["", "a"], &[]),
            ("-*", &["-", "-c", "--help"], &["a-", ""]),
            ("*.sh", &[".sh", "a.sh.sh"], &["a.s", "a.sh "]),
            ("a*b*c", &["abc", "a1b2c", "abbcc"], &["ac", "abcd"]),
            ("?", &["x"], &["", "xx"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "-x", "x"]),
            ("[!0-9]*", &["a1"], &["1a", ""]),
            ("[]]", &["]"], &["a"]),
            ("[", &["["], &["a"]),
            ("\\*", &["*"], &["a"]),
        ] {
            yes.iter().for_each(|text| assert!(matches(pattern, text), "{pattern} {text}"));
            no.iter().for_each(|text| assert!(!matches(pattern, text), "{pattern} {text}"));
        }
        let hostile = "*a".repeat(1000);
        assert!(!matches(&hostile, &"a".repeat(900)));
    }
}
