//! Proxies that the environment names. The HTTP library reads the same variables and asks them; here is what is said of
//! them.

use url::{Host, Url};

const OF_HTTPS: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const OF_HTTP: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

fn parse(value: &str) -> Option<Url> {
    let value = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    Url::parse(&value).ok()
}

/// The variable that decides, and `HOST[:PORT]` of the proxy: a user name and a password stay out.
fn chosen(https: bool) -> Option<(&'static str, String)> {
    let variables = if https { OF_HTTPS } else { OF_HTTP };
    let set =
        |name: &&'static str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| (*name, value));
    let (variable, value) = variables.iter().find_map(set)?;
    let url = parse(&value)?;
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    Some((variable, format!("{}{port}", url.host_str()?)))
}

/// A hint for a host that cannot be reached, if there may be a proxy on the way.
pub(super) fn hint(https: bool) -> Option<String> {
    let (variable, proxy) = chosen(https)?;
    Some(format!(
        "{variable} is {proxy}: look at its address, its login and what it lets through; NO_PROXY names hosts that need none"
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
