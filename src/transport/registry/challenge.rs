//! `WWW-Authenticate`: what a registry asks for, read from whatever it sends (RFC 9110 §11.6.1).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use url::Url;

/// Characters of a challenge that messages show.
const SHOWN: usize = 200;

/// A challenge that we can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password.
    Basic,
    /// A token from a token service.
    Bearer {
        /// The token service.
        realm: Url,
        /// What the token is for.
        service: Option<String>,
        /// What the token should allow.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The first challenge in `headers` that we can answer; a relative realm is relative to `request`.
    pub(super) fn from_headers(headers: &HeaderMap, request: &Url) -> Option<Self> {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
            .flat_map(parse)
            .find_map(|(scheme, parameters)| {
                // A parameter that is repeated counts as first written.
                let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
                match scheme.as_str() {
                    "basic" => Some(Challenge::Basic),
                    "bearer" => Some(Challenge::Bearer {
                        realm: request.join(&get("realm").filter(|realm| !realm.is_empty())?).ok()?,
                        service: get("service"),
                        scope: get("scope"),
                    }),
                    _ => None,
                }
            })
    }
}

/// What `headers` ask for if nothing in it can be answered, for messages; `None` if something can, or nothing is asked for.
pub(super) fn not_understood(headers: &HeaderMap, request: &Url) -> Option<String> {
    let values: Vec<_> =
        headers.get_all(WWW_AUTHENTICATE).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    if values.is_empty() || Challenge::from_headers(headers, request).is_some() {
        return None;
    }
    let all = values.join(", ");
    let rest = if all.chars().nth(SHOWN).is_some() { "…" } else { "" };
    Some(all.chars().take(SHOWN).collect::<String>() + rest)
}

type Parsed = (String, Vec<(String, String)>);

/// The challenges in one header value: schemes and parameter names in lower case. Junk is stepped over.
fn parse(value: &str) -> Vec<Parsed> {
    let mut challenges: Vec<Parsed> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return challenges;
        }
        let (word, after) = token(rest);
        if word.is_empty() {
            let mut chars = rest.chars();
            chars.next();
            rest = chars.as_str();
            continue;
        }
        let spaced = after.trim_start_matches([' ', '\t']);
        match spaced.strip_prefix('=') {
            Some(value) if !challenges.is_empty() => {
                let (text, after) = parameter_value(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), text));
                }
                rest = after;
            }
            Some(value) => rest = value,
            None => {
                challenges.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// A token in the sense of RFC 9110 §5.6.2 and what follows it.
fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))).unwrap_or(text.len());
    text.split_at(end)
}

/// A quoted string or a bare word. A string that is never closed ends with the header.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn read(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Challenge::from_headers(&headers, &Url::parse("https://r.io/v2/a/manifests/b").unwrap())
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let realm = Url::parse(realm).unwrap();
        Some(Challenge::Bearer { realm, service: service.map(Into::into), scope: scope.map(Into::into) })
    }

    #[test]
    fn the_first_challenge_that_we_know_counts() {
        let simple = bearer("https://a.io/t", Some("s"), Some("repository:x:pull,push"));
        for (values, expected) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (&["BASIC"], Some(Challenge::Basic)),
            (&["Bearer realm=\"https://a.io/t\",service=\"s\",scope=\"repository:x:pull,push\""], simple.clone()),
            (&["bearer  REALM = \"https://a.io/t\" , service=s, scope=\"repository:x:pull,push\",,"], simple.clone()),
            (&["Negotiate abc==, Digest realm=\"q, Basic\", Basic realm=x"], Some(Challenge::Basic)),
            (&["Negotiate", "Basic"], Some(Challenge::Basic)),
            (&["Bearer realm=\"https://a.io/t\", Basic realm=\"y\""], bearer("https://a.io/t", None, None)),
            (&["Bearer realm=\"https://a.io/t\",realm=\"https://evil/t\""], bearer("https://a.io/t", None, None)),
            (&["Bearer realm=\"/token\""], bearer("https://r.io/token", None, None)),
            (&["Bearer realm=\"https://a.io/\\\"t"], bearer("https://a.io/\"t", None, None)),
            (&["Bearer service=\"s\""], None),
            (&["Bearer realm=\"\",service=\"s\""], None),
            (&["Bearer realm=\"http://[\""], None),
            (&["=,=\"\",,\u{e9}=x"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(read(values), expected, "{values:?}");
        }
        assert!(read(&[&format!("Bearer realm=\"{}\"", "a".repeat(1 << 20))]).is_some());
    }

    #[test]
    fn what_cannot_be_answered_is_shown_within_limits() {
        let long = format!("Bearer {}", "\u{e9}".repeat(1 << 20));
        let short = format!("Bearer {}…", "\u{e9}".repeat(SHOWN - 7));
        for (values, expected) in [
            (&[][..], None),
            (&[&b"Basic"[..]], None),
            (&[b"Bearer x", b"Basic"], None),
            (&[b"Bearer"], Some("Bearer")),
            (&[b"Negotiate", b"Bearer realm=\"\""], Some("Negotiate, Bearer realm=\"\"")),
            (&[b""], Some("")),
            (&[b"Bearer \xff"], Some("Bearer \u{fffd}")),
            (&[long.as_bytes()], Some(short.as_str())),
        ] {
            let value = |value: &&[u8]| (WWW_AUTHENTICATE, HeaderValue::from_bytes(value).unwrap());
            let headers: HeaderMap = values.iter().map(value).collect();
            let shown = not_understood(&headers, &Url::parse("https://r.io/v2/").unwrap());
            assert_eq!(shown.as_deref(), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(value in "[ -~\u{e9}]{0,200}") {
            parse(&value);
        }
    }
}
