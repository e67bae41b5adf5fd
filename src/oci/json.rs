//! Lossless JSON: an object whose members keep their exact bytes until one of them is replaced.
//!
//! Typed structs lose what they do not know and re-order what they do (`oci-spec` drops `Healthcheck`, `Shell`,
//! `OnBuild` and `os.version`), so documents are edited as raw members and typed values are only views.

use std::collections::HashSet;
use std::fmt;

use indexmap::IndexMap;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// A JSON object: members in their order, each as the bytes it was read with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(IndexMap<String, Box<RawValue>>);

impl Object {
    /// Reads one JSON object and nothing after it.
    ///
    /// Refused: duplicate member names at any depth (image-spec, "Objects MUST NOT contain duplicate names"), invalid
    /// UTF-8, a byte order mark, lone surrogates, more than 128 levels.
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
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Strict
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|e| Error::content(format!("malformed JSON: {e}")))
}

/// Reads any value and keeps nothing but the names of the objects it is inside of.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Strict)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                return Err(serde::de::Error::custom(format_args!("duplicate member '{name}'")));
            }
            names.insert(name);
            map.next_value_seed(Strict)?;
        }
        Ok(())
    }
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
            r#"{"a":"\ud800"}"#,
            r#"{"a":}"#,
            &deep,
        ] {
            assert!(Object::parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(40)]);
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn lookalikes_are_refused() {
        let object = Object::parse(br#"{"layers":[],"Layers":[]}"#).unwrap();
        assert!(object.refuse_lookalikes(&["layers"]).is_err());
        assert!(object.refuse_lookalikes(&["config"]).is_ok());
    }
}
