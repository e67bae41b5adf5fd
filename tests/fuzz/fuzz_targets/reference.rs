//! References: what is accepted is what distribution's grammar accepts, and reads the same when it is printed.
#![no_main]

use std::sync::LazyLock;

use capatch::oci::digest::Digest;
use capatch::oci::reference::{Reference, Target};
use capatch_fuzz::is_printable;
use libfuzzer_sys::fuzz_target;
use regex::Regex;

/// github.com/distribution/reference, `regexp.go`: name, tag, digest.
static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    let domain_part = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let domain = format!(r"(?:{domain_part}(?:\.{domain_part})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?");
    let component = "[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*";
    let name = format!("(?:{domain}/)?{component}(?:/{component})*");
    let digest = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
    Regex::new(&format!(r"^({name})(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@({digest}))?$")).unwrap()
});

static DOMAIN: LazyLock<Regex> = LazyLock::new(|| {
    let part = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    Regex::new(&format!(r"^(?:{part}(?:\.{part})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$")).unwrap()
});

/// Registry, repository and target by `ParseNormalizedNamed`.
fn by_grammar(text: &str) -> Option<(String, String, Option<String>)> {
    let parts = GRAMMAR.captures(text)?;
    let name = &parts[1];
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.to_ascii_lowercase() != first =>
        {
            if !DOMAIN.is_match(first) {
                return None;
            }
            (first.to_ascii_lowercase(), rest.to_owned())
        }
        _ => ("docker.io".to_owned(), name.to_owned()),
    };
    let domain =
        if matches!(&*domain, "index.docker.io" | "registry-1.docker.io") { "docker.io".into() } else { domain };
    let path = if domain == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    // Brackets that hold no address belong to no path.
    if path.contains('[') {
        return None;
    }
    let target = parts.get(3).or(parts.get(2)).map(|part| part.as_str().to_owned());
    Some((domain, path, target))
}

/// What we ask for beyond the grammar.
fn is_usual((domain, path, target): &(String, String, Option<String>)) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("", port.strip_prefix(':'))
        }
        None => domain.split_once(':').map_or((domain.as_str(), None), |(host, port)| (host, Some(port))),
    };
    host.len() <= 253
        && host.split('.').all(|label| label.len() <= 63)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
        && path.len() <= 255
        // What is a host by its capitals alone is none of ours.
        && (domain.contains(['.', ':']) || domain == "localhost")
        && target.as_ref().is_none_or(|target| !target.contains(':') || target.parse::<Digest>().is_ok())
}

fuzz_target!(|text: &str| {
    match text.parse::<Reference>() {
        Ok(reference) => {
            let printed = reference.to_string();
            assert_eq!(
                printed.parse::<Reference>().unwrap_or_else(|e| panic!("{text:?} as {printed:?}: {e}")),
                reference
            );
            if let Some((repository, _)) = reference.name() {
                let url = url::Url::parse(&format!("https://h/v2/{}/manifests/x", repository.path)).unwrap();
                assert_eq!(url.path(), format!("/v2/{}/manifests/x", repository.path));
            }
        }
        Err(error) => is_printable(&error),
    }
    let expected = by_grammar(text);
    match format!("docker://{text}").parse::<Reference>() {
        Ok(Reference::Registry { repository, target }) => {
            let target = target.as_ref().map(Target::to_string);
            assert_eq!(Some((repository.registry, repository.path, target)), expected, "{text:?}");
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => assert!(!expected.as_ref().is_some_and(is_usual), "{text:?}: {error}"),
    }
});
