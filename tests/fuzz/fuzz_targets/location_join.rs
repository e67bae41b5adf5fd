//! A base of our choice and a header that leads away from it. The rules of `origin` are held against rules written down
//! again, in terms of the `url` crate: what may have credentials is the same party, and what may be visited is no secret place.
#![no_main]

use std::net::IpAddr;

use capatch::transport::registry::fuzzing::header::{HeaderMap, HeaderValue, LINK};
use capatch::transport::registry::fuzzing::{
    allow_hop, is_same_origin, join, may_have_credentials, next_page, redacted,
};
use capatch_fuzz::is_printable;
use libfuzzer_sys::fuzz_target;
use url::{Host, Url};

const BASES: [&str; 8] = [
    "https://registry.example.com/v2/a/blobs/uploads/",
    "https://registry.example.com:5000/v2/a/blobs/uploads/x?y=z",
    "http://registry.example.com/v2/",
    "http://127.0.0.1:5000/v2/a/blobs/uploads/",
    "https://10.0.0.5/v2/a/tags/list",
    "https://8.8.8.8/v2/",
    "https://[2606:4700::1111]/v2/",
    "https://localhost:5000/v2/",
];

fn address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(IpAddr::V6(address).to_canonical()),
        Host::Domain(_) => None,
    }
}

/// Scheme, host and port, where a trailing dot and a mapped address change nothing.
fn party(url: &Url) -> (String, String, u16) {
    let host = match address(url) {
        Some(address) => address.to_string(),
        None => url.host_str().unwrap().trim_end_matches('.').to_owned(),
    };
    (url.scheme().to_owned(), host, url.port_or_known_default().unwrap())
}

/// Addresses that mean something else from inside than from outside.
fn is_inner(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback(),
    }
}

fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, header)) = data.split_first() else { return };
    let base = Url::parse(BASES[usize::from(*choice) % BASES.len()]).unwrap();
    if let Ok(value) = HeaderValue::from_bytes(header) {
        match next_page(&HeaderMap::from_iter([(LINK, value)]), &base) {
            Ok(next) => assert!(next.is_none() || header.to_ascii_lowercase().windows(4).any(|word| word == b"next")),
            Err(error) => is_printable(&error),
        }
    }
    let to = join(&base, header);
    if let Ok(text) = std::str::from_utf8(header) {
        // Where a name is expected and beyond ASCII, its own encoding makes it what it is.
        assert_eq!(to, base.join(text).ok(), "{text} from {base}");
    }
    let Some(to) = to else { return };
    assert!(to.as_str().is_ascii(), "{to}");
    if to.has_host() {
        let shown = Url::parse(&redacted(&to).replace("?…", "")).expect("what is shown is a URL too");
        assert!(shown.username().is_empty() && shown.password().is_none() && shown.query().is_none(), "{shown}");
    }
    match allow_hop(&base, &to, &base) {
        Err(error) => is_printable(&error),
        Ok(()) => {
            assert!(matches!(to.scheme(), "http" | "https") && to.username().is_empty() && to.password().is_none());
            if party(&base) != party(&to) {
                assert!(base.scheme() == "http" || to.scheme() == "https", "{to} is not encrypted");
                if let Some(there) = address(&to) {
                    assert!(!is_special(there), "{to}");
                    let home = address(&base);
                    let is_inside = home.is_some_and(is_inner) || base.host_str() == Some("localhost");
                    assert!(is_inside || !is_inner(there), "{base} leads to {to}");
                }
            }
        }
    }
    if let Ok(same) = is_same_origin(&base, &to) {
        assert_eq!(same, party(&base) == party(&to), "{base} and {to}");
    }
    if may_have_credentials(&base, &to, &[]).is_ok_and(|may| may) {
        let ((_, home, _), (scheme, there, _)) = (party(&base), party(&to));
        let tail = |host: &str| host.rsplit('.').take(2).map(str::to_owned).collect::<Vec<_>>();
        let related = address(&to).is_none() && address(&base).is_none() && tail(&home) == tail(&there);
        assert!(party(&base) == party(&to) || (scheme == "https" && related), "{to} gets what {base} has");
    }
});
