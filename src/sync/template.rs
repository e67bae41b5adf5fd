//! How destination tags are named: text with fields of the source in it, such as `{{ .Tag }}-lowport`.

use std::str::FromStr;

use crate::error::{Error, Result};

/// A tag with fields to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Tag,
    Repository,
    Name,
}

/// What the fields of a template stand for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    /// The tag of the source, if it has one.
    pub tag: Option<&'a str>,
    /// The path of its repository, such as `library/kong`, if it is in a registry.
    pub repository: Option<&'a str>,
}

const FIELDS: [(&str, Field); 3] = [(".Tag", Field::Tag), (".Repository", Field::Repository), (".Name", Field::Name)];

impl Default for Template {
    /// The tag of the source.
    fn default() -> Self {
        Template(vec![Piece::Field(Field::Tag)])
    }
}

impl FromStr for Template {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = || FIELDS.map(|(name, _)| format!("{{{{ {name} }}}}")).join(", ");
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, field)) = rest.split_once("{{") {
            let (name, after) = field.split_once("}}").ok_or_else(|| {
                Error::usage(format!("'{text}': there is no }}}} after {{{{")).hint(format!("fields are {}", known()))
            })?;
            let name = name.trim();
            let (_, field) = FIELDS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
                Error::usage(format!("'{text}': there is no field '{name}'")).hint(format!("fields are {}", known()))
            })?;
            pieces.extend([Piece::Text(before.to_owned()), Piece::Field(*field)]);
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
        if pieces.is_empty() {
            return Err(Error::usage("an empty tag template").hint(format!("fields are {}", known())));
        }
        Ok(Template(pieces))
    }
}

impl Template {
    /// The text with the fields filled in. Whether that is a tag, the destination knows.
    pub fn fill(&self, fields: Fields<'_>) -> Result<String> {
        let mut text = String::new();
        for piece in &self.0 {
            let (value, missing) = match piece {
                Piece::Text(text) => (Some(text.as_str()), ""),
                Piece::Field(Field::Tag) => (fields.tag, "{{ .Tag }}: the source has no tag"),
                Piece::Field(Field::Repository) => {
                    (fields.repository, "{{ .Repository }}: the source is not in a registry")
                }
                Piece::Field(Field::Name) => {
                    let name = fields.repository.and_then(|path| path.rsplit('/').next());
                    (name, "{{ .Name }}: the source is not in a registry")
                }
            };
            let value = value.ok_or_else(|| Error::usage(missing).hint("write the tag into the destination"))?;
            text.push_str(value);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_in() {
        let fields = Fields { tag: Some("3.9"), repository: Some("library/kong") };
        for (template, tag) in [
            ("{{ .Tag }}", "3.9"),
            ("{{.Tag}}-lowport", "3.9-lowport"),
            ("{{ .Name }}-{{ .Tag }}", "kong-3.9"),
            ("{{ .Repository }}:{{ .Tag }}", "library/kong:3.9"),
            ("stable", "stable"),
            ("a}}b", "a}}b"),
        ] {
            assert_eq!(template.parse::<Template>().unwrap().fill(fields).unwrap(), tag, "{template}");
        }
        assert_eq!(Template::default().fill(fields).unwrap(), "3.9");
    }

    #[test]
    fn unknown_fields_and_missing_values_are_refused() {
        for bad in
            ["", "{{ .Tag", "{{ Tag }}", "{{ .tag }}", "{{ .Digest }}", "{{ }}", "{{ .Tag | lower }}", "{{{{ .Tag }}"]
        {
            let error = bad.parse::<Template>().expect_err(bad);
            assert!(error.hint_text().is_some_and(|hint| hint.contains("{{ .Repository }}")), "{bad}: {error}");
        }
        for (template, missing) in
            [("{{ .Tag }}", "no tag"), ("{{ .Name }}", "not in a registry"), ("{{ .Repository }}", "not in a registry")]
        {
            let error = template.parse::<Template>().unwrap().fill(Fields::default()).unwrap_err();
            assert!(error.to_string().contains(missing), "{error}");
        }
    }
}
