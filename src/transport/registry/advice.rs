//! What to do where plain http is spoken with a registry that speaks TLS.

use url::Url;

use super::network::Lost;
use super::origin::{Origin, Reach};

/// `lost`, by a host that never answered, with a hint if it is what such a misunderstanding looks like.
pub(super) fn with_hint(mut lost: Lost, url: &Url) -> Lost {
    if url.scheme() == "http" && !lost.unsent && lost.error.hint_text().is_none() {
        let said = lost.error.to_string();
        // A TLS server closes the connection, or sends an alert, which is no HTTP.
        let words = ["closed before message completed", "reset by peer", "invalid HTTP version"];
        if words.iter().any(|words| said.contains(words)) {
            lost.error = lost.error.hint(format!("if the registry speaks TLS, {}", how_to_speak_tls(url)));
        }
    }
    lost
}

/// What servers that expect TLS answer a plain request with: Go's and nginx's words.
pub(super) fn wants_tls(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(body);
    ["HTTP request to an HTTPS server", "HTTP request was sent to HTTPS port"].iter().any(|words| body.contains(words))
}

/// How to have TLS spoken with the host of `url`, an http one.
pub(super) fn how_to_speak_tls(url: &Url) -> String {
    let origin = Origin::of(url).ok();
    let host = origin.as_ref().map(Origin::name).unwrap_or_default();
    match origin.and_then(|origin| origin.reach()) {
        Some(Reach::Loopback) => format!(
            "name its certificate authority with --ca-file, or in certs.d as {host}/ca.crt: without one, loopback is \
             spoken to in plain http"
        ),
        _ => format!("do not name {host} with --plain-http, nor as http or insecure in a file of mirrors"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_tls_depends_on_why_it_is_not_spoken() {
        for (url, word) in [
            ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000/ca.crt"),
            ("http://localhost:5000/v2/", "localhost:5000/ca.crt"),
            ("http://registry.test/v2/", "registry.test with --plain-http"),
        ] {
            let said = how_to_speak_tls(&Url::parse(url).unwrap());
            assert!(said.contains(word), "{said}");
        }
    }
}
