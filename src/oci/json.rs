//! Lossless JSON: an object whose members keep their exact bytes until one of them is replaced.
//!
//! Typed structs lose what they do not know and re-order what they do (`oci-spec` drops `Healthcheck`, `Shell`,
//! `OnBuild` and `os.version`), so documents are edited as raw members and typed values are only views.

use std::collections::HashSet;
use std::fmt;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// Objects and arrays inside each other, as many as serde_json reads.
const MAX_LEVELS: usize = 128;

/// A JSON object: members in their order, each as the bytes it was read with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(IndexMap<String, Box<RawValue>>);

impl Object {
    /// Reads one JSON object and nothing after it.
    ///
    /// Refused: duplicate member names at any depth (image-spec, "Objects MUST NOT contain duplicate names"), invalid
    /// UTF-8, a byte order mark, names that are no text, more than 128 levels. A value is looked at by who wants it:
    /// `1e400` and a lone surrogate are JSON (RFC 8259 §6, §8.2).
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        check(bytes)?;
        serde_json::from_slice(bytes).map_err(|e| Error::content(format!("not a JSON object: {e}")))
    }

    /// Refuses members whose name equals a name in `known` but for case: readers that ignore case would see another
    /// document than we do (faults.md C10).
    pub fn refuse_lookalikes(&self, known: &[&str]) -> Result<()> {
        for name in self.0.keys() {
            if let Some(known) = known.iter().find(|k| k.eq_ignore_ascii_case(name) && *k != name) {
                return Err(Error::content(format!("member '{name}' could be read as '{known}'")));
            }
        }
        Ok(())
    }

    /// The names of the members, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The raw bytes of a member.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.get())
    }

    /// Whether the member exists, even as `null`.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A typed view of a member; `None` if it is missing or `null`.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Result<Option<T>> {
        match self.raw(name) {
            None | Some("null") => Ok(None),
            Some(raw) => serde_json::from_str(raw)
                .map(Some)
                .map_err(|e| Error::content(format!("member '{name}' is malformed: {e}"))),
        }
    }

    /// Sets a member: in its place if it exists, at the end if not.
    pub fn set<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<()> {
        self.0.insert(name.to_owned(), raw(value)?);
        Ok(())
    }

    /// Removes a member; the others keep their order.
    pub fn remove(&mut self, name: &str) {
        self.0.shift_remove(name);
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The document: no white space between members, each member as it was read or set.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.iter().map(|(k, v)| k.len() + v.get().len() + 8).sum());
        out.push(b'{');
        for (i, (name, value)) in self.0.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            // A string always serialises, so the error arm cannot be reached.
            out.extend_from_slice(serde_json::to_string(name).unwrap_or_default().as_bytes());
            out.push(b':');
            out.extend_from_slice(value.get().as_bytes());
        }
        out.push(b'}');
        out
    }
}

/// The JSON text of a value, to stand among raw members.
pub fn raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(value).map_err(|e| Error::failed(format!("cannot be written as JSON: {e}")))
}

/// A JSON text without the white space between its tokens.
pub fn compact(json: &[u8]) -> Vec<u8> {
    let (mut quoted, mut escaped) = (false, false);
    let keeps = |byte: &u8| {
        let kept = quoted || !byte.is_ascii_whitespace();
        quoted ^= *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        kept
    };
    json.iter().copied().filter(keeps).collect()
}

/// Refuses what [`Object::parse`] refuses, in any JSON value.
pub fn check(bytes: &[u8]) -> Result<()> {
    // By the grammar alone: a number or a string that we cannot hold is nobody's business until it is looked at.
    let value: &RawValue = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
    check_names(value.get())
}

/// Looks at nothing but the names of the members in `json`, which is well-formed.
fn check_names(json: &str) -> Result<()> {
    // An object has the names that were seen in it, an array none.
    let mut open: Vec<Option<HashSet<String>>> = Vec::new();
    let (mut at, mut is_name) = (0, false);
    while let Some(byte) = json.as_bytes().get(at) {
        let start = at;
        at += 1;
        match byte {
            b'{' | b'[' if open.len() == MAX_LEVELS => {
                return Err(malformed(&format_args!("more than {MAX_LEVELS} levels")));
            }
            b'{' | b'[' => {
                is_name = *byte == b'{';
                open.push(is_name.then(HashSet::new));
            }
            b'}' | b']' => {
                is_name = false;
                open.pop();
            }
            b',' => is_name = matches!(open.last(), Some(Some(_))),
            b'"' => {
                at = end_of_string(json.as_bytes(), at);
                if let (true, Some(Some(names))) = (std::mem::take(&mut is_name), open.last_mut()) {
                    let name: String =
                        serde_json::from_str(json.get(start..at).unwrap_or_default()).map_err(|e| malformed(&e))?;
                    if let Some(name) = names.replace(name) {
                        return Err(malformed(&format_args!("duplicate member '{name}'")));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the string ends whose first byte after the quote is at `at`.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    loop {
        match json.get(at) {
            Some(b'\\') => at += 2,
            Some(byte) if *byte != b'"' => at += 1,
            _ => return (at + 1).min(json.len()),
        }
    }
}

fn malformed(what: &dyn fmt::Display) -> Error {
    Error::content(format!("malformed JSON: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untouched_members_keep_their_bytes() {
        let text =
            r#"{ "big": 12345678901234567890123, "float":1e3,"esc":"\u003c" ,"n" : null,"o":{"b":1.10, "a":[ ]}}"#;
        let mut object = Object::parse(text.as_bytes()).unwrap();
        object.set("n", "x").unwrap();
        object.set("new", &[1, 2]).unwrap();
        assert_eq!(
            String::from_utf8(object.to_bytes()).unwrap(),
            r#"{"big":12345678901234567890123,"float":1e3,"esc":"\u003c","n":"x","o":{"b":1.10, "a":[ ]},"new":[1,2]}"#
        );
        object.remove("big");
        assert_eq!(object.names().next(), Some("float"));
    }

    #[test]
    fn compact_text_keeps_what_is_quoted() {
        for (text, compacted) in [
            ("{ \"a b\" :\t[ 1 ,\r\n 2 ] }", r#"{"a b":[1,2]}"#),
            (r#"{"a": "\" b \\" , "c" : " " }"#, r#"{"a":"\" b \\","c":" "}"#),
            ("[]", "[]"),
        ] {
            assert_eq!(String::from_utf8(compact(text.as_bytes())).unwrap(), compacted);
        }
    }

    #[test]
    fn malformed_documents_are_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in [
            "",
            "null",
            "[]",
            "{}x",
            "\u{feff}{}",
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"\u0062":2}}"#,
            r#"{"a":[{"b":1,"b":1}]}"#,
            r#"{"\ud800":1}"#,
            r#"{"a":[{"b":{}},{"b":[],"c":"{","b":{}}]}"#,
            r#"{"a":01}"#,
            r#"{"a":1e}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":}"#,
            &deep,
        ] {
            assert!(Object::parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(40)]);
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn values_are_nobodys_business_until_they_are_looked_at() {
        let levels = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
        assert!(Object::parse(levels(MAX_LEVELS).as_bytes()).is_ok());
        assert!(Object::parse(levels(MAX_LEVELS + 1).as_bytes()).is_err());
        for text in [
            r#"{"a":1e400,"b":[-1E-999,123456789012345678901234567890]}"#,
            r#"{"a":"\ud800","b":{"c":["\udc00\ud800"]}}"#,
            r#"{"a":"b","b":"a","c":["a","a"],"d":{"a":{"a":"a"}},"e":"\"a\\","f":"\\\"{,"}"#,
        ] {
            let object = Object::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(String::from_utf8(object.to_bytes()).unwrap(), text);
        }
        let object = Object::parse(br#"{"a":1e400,"b":"\ud800"}"#).unwrap();
        assert!(object.get::<f64>("a").is_err() && object.get::<String>("b").is_err());
    }

    #[test]
    fn lookalikes_are_refused() {
        let object = Object::parse(br#"{"layers":[],"Layers":[]}"#).unwrap();
        assert!(object.refuse_lookalikes(&["layers"]).is_err());
        assert!(object.refuse_lookalikes(&["config"]).is_ok());
    }
}
