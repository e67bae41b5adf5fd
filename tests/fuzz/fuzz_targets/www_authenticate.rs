//! `WWW-Authenticate`, one value a line: what is understood is no longer than what was said, and reads the same when it is
//! printed.
#![no_main]

use capatch::transport::registry::fuzzing::header::HeaderValue;
use capatch::transport::registry::fuzzing::{Asked, challenge};
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|data: &[u8]| {
    let values: Vec<HeaderValue> =
        data.split(|b| *b == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let request = Url::parse("https://registry.example:5000/v2/team/app/manifests/1").unwrap();
    let Some(asked) = challenge(&values, &request) else { return };
    let said = String::from_utf8_lossy(data).to_ascii_lowercase();
    let Asked::Bearer { realm, service, scope } = &asked else {
        assert!(said.contains("basic"));
        return;
    };
    assert!(said.contains("bearer") && said.contains("realm"));
    for text in [service, scope].into_iter().flatten() {
        assert!(text.len() <= data.len());
    }
    let quoted = |text: &str| text.replace('\\', r"\\").replace('"', r#"\""#);
    let mut printed = format!(r#"Bearer realm="{}""#, quoted(realm.as_str()));
    for (name, value) in [("service", service), ("scope", scope)] {
        if let Some(value) = value {
            printed.push_str(&format!(r#", {name}="{}""#, quoted(value)));
        }
    }
    let again = challenge(
        &[HeaderValue::from_str(&printed).unwrap_or_else(|_| HeaderValue::from_bytes(printed.as_bytes()).unwrap())],
        &request,
    );
    assert_eq!(format!("{again:?}"), format!("{:?}", Some(asked)));
});
