//! Proxies that the environment names, in the variables of curl(1).

use std::ffi::OsString;

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::origin::{Origin, Reach};
use crate::error::{Error, Result};

const OF_HTTPS: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const OF_HTTP: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

fn parse(value: &str) -> Option<Url> {
    let value = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    Url::parse(&value).ok().filter(Url::has_host)
}

/// The variable that decides, and what it says; `None` for hosts that are asked directly.
fn chosen(origin: &Origin) -> Option<(&'static str, OsString)> {
    if origin.reach() == Some(Reach::Loopback) || is_spared(origin) {
        return None;
    }
    // To a CGI script HTTP_PROXY is the client's header «Proxy» (CVE-2016-5385).
    let is_cgi = std::env::var_os("REQUEST_METHOD").is_some();
    let variables = if origin.is_https() { OF_HTTPS } else { OF_HTTP };
    let mut variables = variables.into_iter().filter(|name| !is_cgi || *name != "HTTP_PROXY");
    variables.find_map(|name| Some((name, std::env::var_os(name).filter(|value| !value.is_empty())?)))
}

/// Whether `NO_PROXY` names `origin`.
fn is_spared(origin: &Origin) -> bool {
    let list = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")).unwrap_or_default();
    // The library leaves addresses out.
    if list.split(',').any(|entry| entry.trim() == "*") {
        return true;
    }
    let matcher = Matcher::builder().all("http://proxy.invalid").no(list).build();
    origin.to_string().parse().is_ok_and(|uri| matcher.intercept(&uri).is_none())
}

/// The address of the proxy on the way to `origin`, an http or https URL. What the variable says may hold a password and
/// is not printed.
pub(super) fn of(origin: &Origin) -> Result<Option<Url>> {
    let Some((variable, value)) = chosen(origin) else { return Ok(None) };
    let refused =
        |why: String| Error::usage(format!("{variable} {why}")).hint("an example: http://proxy.example.com:3128");
    match value.to_str().and_then(parse) {
        None => Err(refused("is not the address of a proxy".to_owned())),
        Some(url) if matches!(url.scheme(), "http" | "https") => Ok(Some(url)),
        Some(url) => Err(refused(format!("names a proxy of the kind {}; only http and https are known", url.scheme()))),
    }
}

/// A hint for a host that cannot be reached, if there may be a proxy on the way.
pub(super) fn hint(origin: &Origin) -> Option<String> {
    let (variable, value) = chosen(origin)?;
    Some(format!(
        "{variable} is {}: look at its address, its login and what it lets through; NO_PROXY names hosts that need none",
        address(&value.to_str().and_then(parse)?)
    ))
}

/// `HOST[:PORT]` of a proxy, without its login.
pub(super) fn address(url: &Url) -> String {
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!("{}{port}", url.host_str().unwrap_or_default())
}
