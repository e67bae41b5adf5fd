//! Proxies that the environment names, in the variables of curl(1).

use std::ffi::OsString;

use reqwest::{NoProxy, Proxy};
use url::{Host, Url};

use crate::error::{Error, Result};

const OF_HTTPS: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const OF_HTTP: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

fn parse(value: &str) -> Option<Url> {
    let value = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    Url::parse(&value).ok().filter(Url::has_host)
}

/// The variable that decides, and what it says.
fn chosen(https: bool) -> Option<(&'static str, OsString)> {
    let variables = if https { OF_HTTPS } else { OF_HTTP };
    variables.into_iter().find_map(|name| Some((name, std::env::var_os(name).filter(|value| !value.is_empty())?)))
}

/// The proxy on the way to hosts that `NO_PROXY` does not name. What the variable says may hold a password and is not
/// printed.
pub(super) fn of(https: bool) -> Result<Option<Proxy>> {
    let Some((variable, value)) = chosen(https) else { return Ok(None) };
    let url = value.to_str().and_then(parse);
    let example = "an example: http://proxy.example.com:3128";
    let url = url.ok_or_else(|| Error::usage(format!("{variable} is not the address of a proxy")).hint(example))?;
    if !matches!(url.scheme(), "http" | "https") {
        let message = format!("{variable} names a proxy of the kind {}; only http and https are known", url.scheme());
        return Err(Error::usage(message).hint(example));
    }
    let proxy = Proxy::all(url).map_err(|_| Error::usage(format!("{variable} is not the address of a proxy")))?;
    Ok(Some(proxy.no_proxy(NoProxy::from_env())))
}

/// A hint for a host that cannot be reached, if there may be a proxy on the way.
pub(super) fn hint(https: bool) -> Option<String> {
    let (variable, value) = chosen(https)?;
    let url = value.to_str().and_then(parse)?;
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    Some(format!(
        "{variable} is {}{port}: look at its address, its login and what it lets through; NO_PROXY names hosts that need none",
        url.host_str()?
    ))
}

/// Whether `NO_PROXY` is for all hosts: curl(1). The library leaves addresses out.
pub(super) fn is_off() -> bool {
    let list = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")).unwrap_or_default();
    list.split(',').any(|entry| entry.trim() == "*")
}

/// Whether `name` is a proxy: the user's choice, and it does the dialling.
pub(super) fn is_proxy(name: &str) -> bool {
    OF_HTTPS.iter().chain(&OF_HTTP[..2]).any(|variable| {
        let url = std::env::var(variable).ok().and_then(|value| parse(&value));
        url.is_some_and(|url| matches!(url.host(), Some(Host::Domain(host)) if host == name))
    })
}
