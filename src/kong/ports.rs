//! Other ports in a listen value, and every other byte as it was.

use super::listen::{Listener, parse};
use crate::error::{Error, Result};

/// The lowest port that needs no capability: `net.ipv4.ip_unprivileged_port_start` of a node, unless somebody changed it (ip(7)).
pub const UNPRIVILEGED: u16 = 1024;

/// The value with other ports: each pair of `ports` is from and to. Only the digits of ports change, no other byte.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) if the value cannot be read, or if two listeners would end on one address.
pub fn remap(text: &str, ports: &[(u16, u16)]) -> Result<String> {
    rewrite(text, &parse(text, None)?, |listener| {
        ports.iter().find(|(from, _)| *from == listener.port).map_or(listener.port, |(_, to)| *to)
    })
}

/// The value with port 443 for listeners with TLS and 80 for the others; a port below 1024 stays. Only the digits of ports
/// change; `off` stays.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) if the value cannot be read, or if it has several ports that would become one.
pub fn low_ports(text: &str) -> Result<String> {
    let listeners = parse(text, None)?;
    for (ssl, low, name) in [(false, 80, "without TLS"), (true, 443, "with TLS")] {
        let mut high: Vec<u16> = listeners
            .iter()
            .filter(|listener| listener.is_ssl() == ssl && listener.port >= UNPRIVILEGED)
            .map(|listener| listener.port)
            .collect();
        high.sort_unstable();
        high.dedup();
        if high.len() > 1 {
            let high: Vec<String> = high.iter().map(u16::to_string).collect();
            return Err(Error::usage(format!(
                "listen value \"{text}\" has listeners {name} on the ports {}, and only one of them can become {low}",
                high.join(" and ")
            ))
            .hint(WHOLE_VALUE));
        }
    }
    rewrite(text, &listeners, |listener| match listener.port {
        port if port < UNPRIVILEGED => port,
        _ if listener.is_ssl() => 443,
        _ => 80,
    })
}

const WHOLE_VALUE: &str =
    "give the whole value with --listen=VALUE, for example --listen=\"0.0.0.0:80, 0.0.0.0:443 ssl\"";

fn rewrite(text: &str, listeners: &[Listener], port: impl Fn(&Listener) -> u16) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (index, listener) in listeners.iter().enumerate() {
        let host =
            |listener: &Listener| if listener.host == "*" { "0.0.0.0".to_owned() } else { listener.host.clone() };
        let clash = listeners[..index].iter().find(|other| {
            host(other) == host(listener) && other.port != listener.port && port(other) == port(listener)
        });
        if let Some(other) = clash {
            return Err(Error::usage(format!(
                "the listeners {}:{} and {}:{} of \"{text}\" would both be on port {}",
                other.host,
                other.port,
                listener.host,
                listener.port,
                port(listener)
            ))
            .hint(WHOLE_VALUE));
        }
        out.push_str(&text[copied..listener.digits.start]);
        // A port that stays keeps its digits, which may have leading zeros.
        match port(listener) {
            same if same == listener.port => out.push_str(&text[listener.digits.clone()]),
            other => out.push_str(&other.to_string()),
        }
        copied = listener.digits.end;
    }
    out.push_str(&text[copied..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHART: &str = "0.0.0.0:8000, [::]:8000, 0.0.0.0:8443 http2 ssl, [::]:8443 http2 ssl";

    #[test]
    fn only_the_digits_of_ports_change() {
        for (text, expected) in [
            ("0.0.0.0:8000,0.0.0.0:8443 ssl", "0.0.0.0:80,0.0.0.0:443 ssl"),
            (CHART, "0.0.0.0:80, [::]:80, 0.0.0.0:443 http2 ssl, [::]:443 http2 ssl"),
            (
                " ,0.0.0.0:8000\t backlog=8000  ssl ,, [8000::8443]:9000,",
                " ,0.0.0.0:80\t backlog=8000  ssl ,, [8000::8443]:9000,",
            ),
            ("127.0.0.1:08000, 127.0.0.1:09000", "127.0.0.1:80, 127.0.0.1:09000"),
            ("off", "off"),
            ("0.0.0.0:80, 127.0.0.1:8000", "0.0.0.0:80, 127.0.0.1:80"),
        ] {
            assert_eq!(remap(text, &[(8000, 80), (8443, 443)]).unwrap(), expected);
        }
        let error = remap("0.0.0.0:80, *:8000", &[(8000, 80)]).unwrap_err().to_string();
        assert!(error.contains("0.0.0.0:80 and *:8000") && error.contains("both be on port 80"), "{error}");
        assert!(remap("nonsense", &[]).is_err());
    }

    #[test]
    fn low_ports_follow_the_flags() {
        for (text, expected) in [
            (CHART, "0.0.0.0:80, [::]:80, 0.0.0.0:443 http2 ssl, [::]:443 http2 ssl"),
            ("0.0.0.0:9000, 0.0.0.0:9443 ssl", "0.0.0.0:80, 0.0.0.0:443 ssl"),
            ("0.0.0.0:81, 0.0.0.0:1023 ssl", "0.0.0.0:81, 0.0.0.0:1023 ssl"),
            ("0.0.0.0:81, 0.0.0.0:1024", "0.0.0.0:81, 0.0.0.0:80"),
            ("0.0.0.0:443 ssl, 0.0.0.0:8000", "0.0.0.0:443 ssl, 0.0.0.0:80"),
            ("off", "off"),
        ] {
            assert_eq!(low_ports(text).unwrap(), expected);
            assert_eq!(low_ports(expected).unwrap(), expected);
        }
        for (text, says) in [
            (
                "0.0.0.0:8000, 0.0.0.0:9000",
                "without TLS on the ports 8000 and 9000, and only one of them can become 80",
            ),
            ("0.0.0.0:8000, 1.1.1.1:9443 ssl, [::]:8443 ssl", "with TLS on the ports 8443 and 9443, and only one"),
            ("0.0.0.0:80, 0.0.0.0:8000", "would both be on port 80"),
            ("0.0.0.0:443, 0.0.0.0:8443 ssl", "would both be on port 443"),
        ] {
            let error = low_ports(text).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.hint_text().unwrap().contains("--listen=VALUE"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_rewritten_or_refused(text: String) {
            let _ = low_ports(&text);
        }

        #[test]
        fn what_can_be_read_stays_as_it_is_without_a_change(
            text in "( |,|\t|0.0.0.0:|[0-9]{1,4}|\\[::\\]:|é|x:|ssl| http2|off|backlog=|=){0,10}",
        ) {
            if parse(&text, None).is_ok() {
                prop_assert_eq!(remap(&text, &[]), Ok(text));
            }
        }
    }
}
