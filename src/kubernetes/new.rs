//! Values to be written.

/// A value to be written.
pub(super) enum New<'a> {
    /// A number or a switch.
    Plain(&'a str),
    /// Text.
    Text(&'a str),
    List(Vec<New<'a>>),
    Map(Vec<(&'a str, New<'a>)>),
}

impl New<'_> {
    /// On one line, as JSON if `json`.
    pub(super) fn flow(&self, json: bool) -> String {
        match self {
            New::Plain(text) => (*text).to_owned(),
            New::Text(text) if is_plain(text) && !json => (*text).to_owned(),
            New::Text(text) => quoted(text),
            New::List(items) => {
                format!("[{}]", items.iter().map(|item| item.flow(json)).collect::<Vec<_>>().join(", "))
            }
            New::Map(entries) => {
                let key = |key: &str| if json || !is_plain(key) { quoted(key) } else { key.to_owned() };
                let entries = entries.iter().map(|(k, value)| format!("{}: {}", key(k), value.flow(json)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Whether text is that text without quotes, everywhere in YAML.
pub(super) fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/:@-+".contains(&b))
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
        && !text.ends_with(':')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str())
}

/// In double quotes, as YAML and JSON have them.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
