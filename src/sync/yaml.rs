//! Values as they stand in YAML: text that is something else to us, one or a list, and errors that say line and column.
//!
//! Nothing here looks at a scalar before its type is known: `3.10` is a tag and no number.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, MessageFormatter, UserMessageFormatter};

use crate::error::{Error, Result};

/// What the YAML reader says, and what people say.
const WORDS: [(&str, &str); 5] = [
    ("expected string scalar", "expected text"),
    ("expected sequence start", "expected a list"),
    ("expected mapping start", "expected a mapping"),
    ("invalid type: unit value", "nothing stands here"),
    ("unexpected end of file", "the file ends here, or is empty"),
];

/// Separates an error's sentence from its hint on the way through the YAML reader.
const HINT: char = '\u{0}';

/// A value that is written as text.
#[derive(Clone, Debug)]
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: FromStr<Err = Error>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Text).map_err(custom)
    }
}

/// One value, or a list of at least one.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for Values<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(StrDeserializer::new(text)).map(|one| OneOrMany(vec![one]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Self::Value, A::Error> {
                let values = Vec::deserialize(SeqAccessDeserializer::new(values))?;
                if values.is_empty() { Err(de::Error::custom("an empty list")) } else { Ok(OneOrMany(values)) }
            }
        }
        deserializer.deserialize_any(Values(PhantomData))
    }
}

/// A list, or a mapping with more to say.
#[derive(Clone, Debug)]
pub(super) enum ListOr<T, M> {
    /// The list.
    List(Vec<T>),
    /// The mapping.
    Mapping(M),
}

impl<'de, T: Deserialize<'de>, M: Deserialize<'de>> Deserialize<'de> for ListOr<T, M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T, M>(PhantomData<(T, M)>);
        impl<'de, T: Deserialize<'de>, M: Deserialize<'de>> Visitor<'de> for Either<T, M> {
            type Value = ListOr<T, M>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list or a mapping")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(values)).map(ListOr::List)
            }
            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
                M::deserialize(MapAccessDeserializer::new(members)).map(ListOr::Mapping)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// `true` or `false`, or more to say.
#[derive(Clone, Debug)]
pub(super) enum SwitchOr<T> {
    /// On or off.
    Switch(bool),
    /// More.
    Value(T),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for SwitchOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for Either<T> {
            type Value = SwitchOr<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or what else it takes")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Self::Value, E> {
                Ok(SwitchOr::Switch(on))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(StrDeserializer::new(text)).map(SwitchOr::Value)
            }
            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(SwitchOr::Value)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// A value that may be left out, and is not null: `patch:` with nothing behind it is a mistake, and not a copy.
pub(super) fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// An error of ours as one of the YAML reader, which knows where it happened.
pub(super) fn custom<E: de::Error>(error: Error) -> E {
    match error.hint_text() {
        Some(hint) => E::custom(format!("{error}{HINT}{hint}")),
        None => E::custom(error),
    }
}

/// Reads one YAML document; `name` is what to call it in errors.
pub(super) fn read<T: DeserializeOwned>(text: &str, name: &str) -> Result<T> {
    // Without excerpts: an error must not print a line that has a password in it.
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let message = UserMessageFormatter.format_message(error.without_snippet()).into_owned();
        let message = WORDS.iter().fold(message, |message, (theirs, ours)| message.replace(theirs, ours));
        let place = error.location().map_or_else(|| name.to_owned(), |location| place(name, location));
        match message.split_once(HINT) {
            Some((message, hint)) => Error::usage(message).hint(hint).context(place),
            None => Error::usage(message).hint("capatch sync --schema prints what may stand there").context(place),
        }
    })
}

/// `FILE:LINE:COLUMN`, as compilers say it.
pub(super) fn place(name: &str, location: Location) -> String {
    format!("{name}:{}:{}", location.line(), location.column())
}
