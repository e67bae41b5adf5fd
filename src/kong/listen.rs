//! The value of `KONG_PROXY_LISTEN`: `off`, or `<host>:<port> [flags]` with commas between the listeners, as
//! `kong/conf_loader/listeners.lua` reads it.
//!
//! A Kong that meets a flag it does not know refuses to start, and which flags it knows depends on its version.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::Version;
use crate::error::{Error, Result};

/// A flag, what may follow it after `=`, and the versions of Kong that know it.
struct Flag {
    name: &'static str,
    value: Value,
    since: (u32, u32),
    last: Option<(u32, u32)>,
}

#[derive(Clone, Copy)]
enum Value {
    None,
    Number,
    Switch,
    Keepalive,
}

/// The flags of HTTP listeners (`http_flags` and `subsystem_flags.http` in Kong's loader, tags 0.13.0 to 3.9.3).
const FLAGS: &[Flag] = &[
    Flag { name: "ssl", value: Value::None, since: (0, 13), last: None },
    Flag { name: "http2", value: Value::None, since: (0, 13), last: None },
    Flag { name: "proxy_protocol", value: Value::None, since: (0, 13), last: None },
    Flag { name: "transparent", value: Value::None, since: (1, 0), last: Some((1, 5)) },
    Flag { name: "deferred", value: Value::None, since: (1, 3), last: None },
    Flag { name: "bind", value: Value::None, since: (1, 3), last: None },
    Flag { name: "reuseport", value: Value::None, since: (1, 3), last: None },
    Flag { name: "backlog", value: Value::Number, since: (2, 0), last: None },
    Flag { name: "ipv6only", value: Value::Switch, since: (3, 0), last: None },
    Flag { name: "so_keepalive", value: Value::Keepalive, since: (3, 0), last: None },
];

impl Value {
    fn accepts(self, value: Option<&str>) -> bool {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let words = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
        match (self, value) {
            (Value::None, None) => true,
            (Value::Number, Some(text)) => !text.is_empty() && digits(text),
            (Value::Switch | Value::Keepalive, Some("on" | "off")) => true,
            (Value::Keepalive, Some(text)) => match text.split(':').collect::<Vec<_>>()[..] {
                [idle, interval, count] => words(idle) && words(interval) && digits(count),
                _ => false,
            },
            _ => false,
        }
    }

    fn form(self) -> &'static str {
        match self {
            Value::None => "",
            Value::Number => "=<number>",
            Value::Switch => "=on|off",
            Value::Keepalive => "=on|off|<idle>:<interval>:<count>",
        }
    }
}

impl Flag {
    fn known_to(&self, version: &Version) -> bool {
        self.since <= version.minor() && self.last.is_none_or(|last| version.minor() <= last)
    }

    fn range(&self) -> String {
        let (major, minor) = self.since;
        match self.last {
            Some((last_major, last_minor)) => format!("known from {major}.{minor} to {last_major}.{last_minor}"),
            None => format!("known since {major}.{minor}"),
        }
    }
}

/// One address that Kong listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// An IPv4 address, an IPv6 address in brackets, a name or `*`, as written.
    pub host: String,
    /// The port, 1 to 65535.
    pub port: u16,
    /// The flags as written, such as `ssl` and `backlog=16384`.
    pub flags: Vec<String>,
    /// Where the digits of the port are in the text.
    pub(super) digits: Range<usize>,
}

impl Listener {
    /// Whether it speaks TLS.
    pub fn is_ssl(&self) -> bool {
        self.flags.iter().any(|flag| flag == "ssl")
    }
}

/// Reads a listen value; `off` gives no listener. Without a version, the flags of every version are taken.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) if it is not of this form, or if that version of Kong does not know a flag in it.
pub fn parse(text: &str, version: Option<&Version>) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for entry in pieces(text, |c| c == ',') {
        let words: Vec<Range<usize>> = pieces(&text[entry.clone()], is_space)
            .map(|word| word.start + entry.start..word.end + entry.start)
            .collect();
        if words.is_empty() {
            continue;
        }
        if listeners.is_empty() && matches!(&words[..], [word] if &text[word.clone()] == "off") {
            return Ok(listeners);
        }
        let listener = listener(text, &words, version)
            .map_err(|error| error.context(format!("listen value \"{text}\", listener {}", listeners.len() + 1)))?;
        listeners.push(listener);
    }
    if listeners.is_empty() {
        return Err(Error::usage(format!("listen value \"{text}\" has no listener")).hint(EXAMPLE));
    }
    if let Some(version) = version.filter(|version| version.minor() < (0, 13) && listeners.len() > 1) {
        return Err(Error::usage(format!(
            "listen value \"{text}\" has {} listeners; Kong {version} takes one, and the one for TLS in proxy_listen_ssl",
            listeners.len()
        )));
    }
    Ok(listeners)
}

const EXAMPLE: &str = "write off, or listeners with commas between them, for example 0.0.0.0:80, 0.0.0.0:443 http2 ssl";

/// White space as Lua's `%s` has it.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

/// Where the pieces of `text` between separators are, those of no length left out.
fn pieces(text: &str, separator: impl Fn(char) -> bool) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    text.split(separator)
        .map(move |piece| {
            let range = start..start + piece.len();
            // Every separator is ASCII and one byte long.
            start = range.end + 1;
            range
        })
        .filter(|range| !range.is_empty())
}

fn listener(text: &str, words: &[Range<usize>], version: Option<&Version>) -> Result<Listener> {
    let mut address = None;
    let mut flags = Vec::new();
    for range in words {
        let word = &text[range.clone()];
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        if let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) {
            if !flag.value.accepts(value) {
                return Err(Error::usage(format!("\"{word}\" is not of the form {name}{}", flag.value.form())));
            }
            if let Some(version) = version.filter(|version| !flag.known_to(version)) {
                return Err(Error::usage(format!("Kong {version} has no listen flag \"{name}\", {}", flag.range()))
                    .hint("leave the flag out: Kong does not start with a flag that it does not know"));
            }
            flags.push(word.to_owned());
        } else if address.is_none() && (value.is_none() && word.contains(':') || range == &words[0]) {
            address = Some((word, range.start));
        } else if value.is_none() && word.contains(':') {
            return Err(
                Error::usage(format!("\"{word}\" is a second address")).hint("put a comma between two listeners")
            );
        } else {
            let known = FLAGS.iter().filter(|flag| version.is_none_or(|version| flag.known_to(version)));
            let known: Vec<String> = known.map(|flag| format!("{}{}", flag.name, flag.value.form())).collect();
            return Err(Error::usage(format!("\"{word}\" is not a listen flag of any version of Kong"))
                .hint(format!("flags are: {}", known.join(", "))));
        }
    }
    let (address, start) = address.ok_or_else(|| Error::usage("no address before the flags").hint(EXAMPLE))?;
    let (host, digits) = address
        .rsplit_once(':')
        .filter(|(host, digits)| is_host(host) && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| Error::usage(format!("\"{address}\" is not <host>:<port>")).hint(EXAMPLE))?;
    let port = digits
        .parse::<u16>()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Error::usage(format!("{digits} is not a port; ports go from 1 to 65535")))?;
    let digits = start + host.len() + 1..start + address.len();
    Ok(Listener { host: host.to_owned(), port, flags, digits })
}

/// An IPv4 address, an IPv6 address in brackets, a name or a wildcard (`kong/tools/ip.lua`).
fn is_host(host: &str) -> bool {
    if host.contains([':', '[', ']']) {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        return inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let parts: Vec<&str> = host.split('.').collect();
        return parts.len() == 4 && parts.iter().all(|part| part.len() <= 3 && part.parse::<u8>().is_ok());
    }
    host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b))
}

/// Where Kong listens if nothing is set (`proxy_listen` in `kong/templates/kong_defaults.lua`); without a version, what
/// every Kong since 0.13 understands. Before 0.13 the port for TLS is not part of it.
pub fn default_listen(version: Option<&Version>) -> &'static str {
    match version.map(Version::minor) {
        Some(minor) if minor < (0, 13) => "0.0.0.0:8000",
        Some(minor) if minor >= (2, 0) => {
            "0.0.0.0:8000 reuseport backlog=16384, 0.0.0.0:8443 http2 ssl reuseport backlog=16384"
        }
        Some(minor) if minor >= (1, 4) => "0.0.0.0:8000, 0.0.0.0:8443 http2 ssl",
        _ => "0.0.0.0:8000, 0.0.0.0:8443 ssl",
    }
}

#[cfg(test)]
mod tests {
    use crate::kong::ports::low_ports;
    use proptest::prelude::*;

    use super::*;

    const CHART: &str = "0.0.0.0:8000, [::]:8000, 0.0.0.0:8443 http2 ssl, [::]:8443 http2 ssl";

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn listeners_are_read() {
        for (text, expected) in [
            ("off", vec![]),
            (" off ", vec![]),
            ("off, 0.0.0.0:8000", vec![]),
            ("0.0.0.0:8000,0.0.0.0:8443 ssl", vec![("0.0.0.0", 8000, ""), ("0.0.0.0", 8443, "ssl")]),
            (
                CHART,
                vec![
                    ("0.0.0.0", 8000, ""),
                    ("[::]", 8000, ""),
                    ("0.0.0.0", 8443, "http2 ssl"),
                    ("[::]", 8443, "http2 ssl"),
                ],
            ),
            (",, 127.0.0.1:1 , ", vec![("127.0.0.1", 1, "")]),
            ("kong.example-1.com:65535\tssl", vec![("kong.example-1.com", 65535, "ssl")]),
            ("*:080", vec![("*", 80, "")]),
            ("ssl 0.0.0.0:8443 http2", vec![("0.0.0.0", 8443, "ssl http2")]),
            (
                "[::1]:8000 ipv6only=on so_keepalive=30m::10 backlog=7",
                vec![("[::1]", 8000, "ipv6only=on so_keepalive=30m::10 backlog=7")],
            ),
        ] {
            let read = parse(text, None).unwrap_or_else(|error| panic!("{text}: {error}"));
            let read: Vec<(&str, u16, String)> =
                read.iter().map(|l| (l.host.as_str(), l.port, l.flags.join(" "))).collect();
            let expected: Vec<(&str, u16, String)> =
                expected.into_iter().map(|(host, port, flags)| (host, port, flags.to_owned())).collect();
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_listener_is_refused() {
        for (text, says) in [
            ("", "has no listener"),
            (" , ", "has no listener"),
            ("ssl", "listener 1: no address before the flags"),
            ("8000", "listener 1: \"8000\" is not <host>:<port>"),
            ("0.0.0.0", "\"0.0.0.0\" is not <host>:<port>"),
            ("0.0.0.0:", "\"0.0.0.0:\" is not <host>:<port>"),
            (":8000", "\":8000\" is not <host>:<port>"),
            ("1.2.3.256:80", "\"1.2.3.256:80\" is not"),
            ("1.2.3:80", "\"1.2.3:80\" is not"),
            ("::1:8000", "\"::1:8000\" is not"),
            ("[::1]", "\"[::1]\" is not"),
            ("[:::1]:80", "\"[:::1]:80\" is not"),
            ("0.0.0.0:8O00", "\"0.0.0.0:8O00\" is not"),
            ("0.0.0.0:0", "0 is not a port"),
            ("0.0.0.0:65536", "65536 is not a port"),
            ("0.0.0.0:80, off", "listener 2: \"off\" is not <host>:<port>"),
            ("0.0.0.0:80 0.0.0.0:443 ssl", "\"0.0.0.0:443\" is a second address"),
            ("0.0.0.0:80, 0.0.0.0:443 tls", "listener 2: \"tls\" is not a listen flag of any version"),
            ("0.0.0.0:80 backlog", "\"backlog\" is not of the form backlog=<number>"),
            ("0.0.0.0:80 backlog=x", "\"backlog=x\" is not of the form backlog=<number>"),
            ("0.0.0.0:80 ssl=on", "\"ssl=on\" is not of the form ssl"),
            ("0.0.0.0:80 ipv6only=1", "\"ipv6only=1\" is not of the form ipv6only=on|off"),
            ("0.0.0.0:80 so_keepalive=1:2", "is not of the form so_keepalive=on|off|"),
        ] {
            let error = parse(text, None).unwrap_err().to_string();
            assert!(error.contains(says) && error.starts_with("listen value"), "{text}: {error}");
        }
    }

    #[test]
    fn flags_depend_on_the_version() {
        // The first and last version with the flag, and the ones just outside.
        for (flag, with, without, says) in [
            ("ssl", &["0.13.0", "3.9.3"][..], &["0.12.3"][..], "known since 0.13"),
            ("http2", &["0.14.1", "3.9.3"], &["0.11.0"], "known since 0.13"),
            ("proxy_protocol", &["0.13.0", "3.9.3"], &["0.12.3"], "known since 0.13"),
            ("transparent", &["1.0.0", "1.2.2", "1.5.1"], &["0.14.1", "2.0.0rc1", "3.9.3"], "known from 1.0 to 1.5"),
            ("deferred", &["1.3.0", "3.9.3"], &["1.2.2"], "known since 1.3"),
            ("bind", &["1.3.0", "3.9.3"], &["1.2.2"], "known since 1.3"),
            ("reuseport", &["1.3.0", "3.4.0.0"], &["1.2.2"], "known since 1.3"),
            ("backlog=16384", &["2.0.0rc1", "3.9.3"], &["1.5.1"], "known since 2.0"),
            ("ipv6only=off", &["3.0.0", "3.9.3"], &["2.8.1"], "known since 3.0"),
            ("so_keepalive=on", &["3.0.0", "3.4.0.0"], &["2.8.1"], "known since 3.0"),
        ] {
            let text = format!("0.0.0.0:8000 {flag}");
            for text_version in with {
                assert!(parse(&text, Some(&version(text_version))).is_ok(), "{text_version} {flag}");
            }
            for text_version in without {
                let error = parse(&text, Some(&version(text_version))).unwrap_err();
                let name = flag.split('=').next().unwrap();
                let message = format!(
                    "listen value \"{text}\", listener 1: Kong {text_version} has no listen flag \"{name}\", {says}"
                );
                assert_eq!(error.to_string(), message);
            }
        }
        let error = parse("0.0.0.0:80, 0.0.0.0:443", Some(&version("0.12.3"))).unwrap_err();
        assert!(error.to_string().contains("Kong 0.12.3 takes one"), "{error}");
    }

    #[test]
    fn defaults_are_understood_by_their_version() {
        for (text, low) in [
            ("0.11.2", "0.0.0.0:80"),
            ("0.13.0", "0.0.0.0:80, 0.0.0.0:443 ssl"),
            ("1.2.2", "0.0.0.0:80, 0.0.0.0:443 ssl"),
            ("1.3.0", "0.0.0.0:80, 0.0.0.0:443 ssl"),
            ("1.4.0", "0.0.0.0:80, 0.0.0.0:443 http2 ssl"),
            ("2.0.0rc1", "0.0.0.0:80 reuseport backlog=16384, 0.0.0.0:443 http2 ssl reuseport backlog=16384"),
            ("3.9.3", "0.0.0.0:80 reuseport backlog=16384, 0.0.0.0:443 http2 ssl reuseport backlog=16384"),
        ] {
            let version = version(text);
            assert!(parse(default_listen(Some(&version)), Some(&version)).is_ok());
            assert_eq!(low_ports(default_listen(Some(&version))).unwrap(), low);
        }
        assert_eq!(default_listen(None), "0.0.0.0:8000, 0.0.0.0:8443 ssl");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = parse(&text, None);
        }
    }
}
