//! Answers that are no success, made into sentences (distribution-spec, "Error codes").

use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde_json::Value;
use url::Url;

use super::origin::{Origin, redacted};
use super::{advice, proxy};
use crate::error::{Error, Kind};

const BODY_LIMIT: usize = 64 << 10;
const SHOWN: usize = 500;

/// A status that is no success, and what the registry said with it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// `MANIFEST_UNKNOWN` and so on; empty if the body names none.
    pub(super) code: String,
    message: String,
    url: Url,
    /// Whether a server says that it expects TLS.
    wants_tls: bool,
    /// Where the credentials came from that were refused.
    pub(super) login: Option<String>,
    /// The challenge, if it is none that can be answered.
    pub(super) challenge: Option<String>,
    /// Whether the request carried a token, and not the credentials themselves.
    pub(super) token: bool,
    /// The registry that refused, for hints about logging in.
    pub(super) registry: Option<String>,
    /// How long it asks to wait.
    pub(super) asked: Option<Duration>,
    /// `Location` and `Range` of an upload session, if they came with it.
    pub(super) headers: reqwest::header::HeaderMap,
}

impl Refusal {
    /// Reads at most 64 KiB of the body, whatever it is.
    pub(super) async fn read(mut response: Response, stall: Duration) -> Self {
        let mut body = Vec::new();
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(stall, response.chunk()).await {
            body.extend_from_slice(&chunk[..chunk.len().min(BODY_LIMIT - body.len())]);
            if body.len() == BODY_LIMIT {
                break;
            }
        }
        let (code, message) = first_error(&body);
        Refusal {
            status: response.status(),
            code,
            message,
            url: response.url().clone(),
            wants_tls: advice::wants_tls(&body),
            login: None,
            challenge: None,
            token: false,
            registry: None,
            asked: None,
            headers: response.headers().clone(),
        }
    }

    /// `: CODE, message`, or nothing if the body was empty.
    pub(super) fn said(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => String::new(),
            ("", message) => format!(": {message}"),
            (code, "") => format!(": {code}"),
            (code, message) => format!(": {code}, {message}"),
        }
    }

    /// ` (its limit is 100 requests in 6 hours, 0 are left)`, if the headers that Docker Hub has say so.
    pub(super) fn limit(&self) -> String {
        let header = |name: &str| self.headers.get(name).and_then(|value| quota(value.to_str().ok()?));
        let Some((limit, window)) = header("ratelimit-limit") else { return String::new() };
        let window = match window {
            None | Some(0) => String::new(),
            Some(seconds) if seconds % 3600 == 0 => format!(" in {} hours", seconds / 3600),
            Some(seconds) => format!(" in {seconds} seconds"),
        };
        let left = header("ratelimit-remaining").map(|(left, _)| format!(", {left} are left")).unwrap_or_default();
        format!(" (its limit is {limit} requests{window}{left})")
    }

    /// GHCR limits the rate with a 403.
    pub(super) fn mentions_rate_limit(&self) -> bool {
        let said = self.said().to_ascii_lowercase();
        said.contains("rate limit") || self.code == "TOOMANYREQUESTS"
    }

    /// The sentence for the user; `what` is what could not be had or done.
    pub(super) fn into_error(self, what: &str) -> Error {
        let status = self.status.as_u16();
        let said = self.said();
        let registry = self.registry.as_deref().unwrap_or_default();
        if let Some(challenge) = &self.challenge {
            let wants = format!("{what}: the registry wants a login (401) by a challenge that cannot be understood");
            return Error::new(Kind::Denied, format!("{wants}: «{challenge}»{said}")).hint(
                "it should be Basic, or Bearer with the URL of a token service as its realm; check the registry's \
                 configuration, and whether a proxy in between changes its answers",
            );
        }
        match (status, &self.login) {
            (401, Some(login)) if !self.token => {
                Error::new(Kind::Denied, format!("{what}: the credentials from {login} were refused (401){said}"))
                    .hint(format!("log in again: skopeo login {registry}"))
            }
            (401 | 403, Some(login)) => Error::new(
                Kind::Denied,
                format!("{what}: authenticated with the credentials from {login}, but denied ({status}){said}"),
            )
            .hint("check that this account may do that, and that the repository exists"),
            (401, None) if registry.is_empty() => {
                Error::new(Kind::Denied, format!("{what}: {} wants a login (401){said}", redacted(&self.url)))
            }
            (401 | 403, None) => Error::new(Kind::Denied, format!("{what}: denied, not logged in ({status}){said}"))
                .hint(format!("the repository may be private or may not exist; log in with: skopeo login {registry}")),
            (404, _) => Error::not_found(format!("{what}: not found (404){said}"))
                .hint("check the name; registries also say «not found» of what one may not see"),
            (429, _) => Error::new(Kind::RateLimited, format!("{what}: rate limited{said}")),
            (400..=412 | 414..=499, _) if matches!(self.code.as_str(), "DENIED" | "UNAUTHORIZED") => {
                // Harbor's proxy caches refuse a push so.
                let cache = if status == 405 { "; a proxy cache takes no pushes" } else { "" };
                Error::new(Kind::Denied, format!("{what}: denied ({status}){said}"))
                    .hint(format!("check that this account may do that here{cache}"))
            }
            _ => {
                let error = Error::failed(format!("{what}: {} answered {}{said}", redacted(&self.url), self.status));
                match (status, self.asked) {
                    _ if self.wants_tls && self.url.scheme() == "http" => {
                        error.hint(format!("the registry speaks TLS: {}", advice::how_to_speak_tls(&self.url)))
                    }
                    (407, _) => Origin::of(&self.url)
                        .ok()
                        .and_then(|origin| proxy::hint(&origin))
                        .map_or(error.clone(), |hint| error.hint(hint)),
                    (413, _) => error.hint(
                        "a proxy in front of the registry limits the size of requests (client_max_body_size in nginx)",
                    ),
                    (503, Some(asked)) if !asked.is_zero() => error.hint(format!(
                        "it asks to wait {} seconds; try again later, or raise --max-wait",
                        asked.as_secs()
                    )),
                    (500..=599, _) => error.hint("the registry has a fault of its own; try again later"),
                    _ => error,
                }
            }
        }
    }
}

/// `100;w=21600`: a number, and the seconds that it is for.
fn quota(value: &str) -> Option<(u64, Option<u64>)> {
    let mut parts = value.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    Some((number, parts.find_map(|part| part.strip_prefix("w=")?.parse().ok())))
}

/// Code and message of the first error in the envelope; of anything else, the beginning of the text.
fn first_error(body: &[u8]) -> (String, String) {
    let short = |text: &str| text.chars().take(SHOWN).collect::<String>().trim().to_owned();
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        let first = value.get("errors").and_then(|errors| errors.get(0)).unwrap_or(&value);
        let text = |name: &str| first.get(name).and_then(Value::as_str).map(short).unwrap_or_default();
        let message = match (text("message"), text("details"), text("detail")) {
            (message, ..) if !message.is_empty() => message,
            (_, details, _) if !details.is_empty() => details,
            (.., detail) => detail,
        };
        let (code, error) = (text("code"), text("error"));
        let code = if code.is_empty() { error } else { code };
        if !(code.is_empty() && message.is_empty()) {
            return (code.to_ascii_uppercase(), message);
        }
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let lower = text.get(..text.len().min(15)).unwrap_or_default().to_ascii_lowercase();
    if lower.starts_with("<!doctype") || lower.starts_with("<html") {
        return (String::new(), "an HTML page".to_owned());
    }
    (String::new(), short(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas() {
        for (value, expected) in [
            ("100;w=21600", Some((100, Some(21600)))),
            ("0 ; w=60", Some((0, Some(60)))),
            ("76", Some((76, None))),
            ("5;w=soon", Some((5, None))),
            ("many", None),
            ("", None),
        ] {
            assert_eq!(quota(value), expected, "{value}");
        }
    }

    #[test]
    fn error_bodies() {
        let deep = "[".repeat(10_000);
        for (body, code, message) in [
            (r#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#, "DENIED", "no"),
            (r#"{"errors":[{"code":"denied"}]}"#, "DENIED", ""),
            (r#"{"errors":[]}"#, "", r#"{"errors":[]}"#),
            (r#"{"errors":null,"message":"m"}"#, "", "m"),
            (
                r#"{"error":"invalid_grant","details":"incorrect username or password"}"#,
                "INVALID_GRANT",
                "incorrect username or password",
            ),
            (r#"{"details":"incorrect username or password"}"#, "", "incorrect username or password"),
            ("Too Many Requests (HAP429)", "", "Too Many Requests (HAP429)"),
            ("<!DOCTYPE html><p>x", "", "an HTML page"),
            ("", "", ""),
            (&deep, "", &deep[..SHOWN]),
        ] {
            assert_eq!(first_error(body.as_bytes()), (code.to_owned(), message.to_owned()), "{body}");
        }
        assert_eq!(first_error(b"\xff\xfe").1, "\u{fffd}\u{fffd}");
    }
}
