//! Digests: what is accepted is safe as a path and in a URL, and nothing else is accepted.
#![no_main]

use std::sync::LazyLock;

use capatch::oci::digest::Digest;
use capatch::oci::reference::is_tag;
use capatch_fuzz::is_printable;
use libfuzzer_sys::fuzz_target;
use regex::Regex;

static GRAMMAR: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$").unwrap());

fuzz_target!(|text: &str| {
    let digest = match text.parse::<Digest>() {
        Ok(digest) => digest,
        Err(error) => {
            assert!(!GRAMMAR.is_match(text), "{text:?}: {error}");
            return is_printable(&error);
        }
    };
    assert!(GRAMMAR.is_match(text), "{text:?}");
    assert_eq!(digest.to_string(), text);
    assert_eq!(serde_json::from_str::<Digest>(&serde_json::to_string(&digest).unwrap()).unwrap(), digest);
    let path = format!("{}/{}", digest.algorithm().name(), digest.hex());
    let components: Vec<&str> = path.split('/').collect();
    let is_plain = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+._-".contains(&b))
    };
    assert!(components.len() == 2 && components.iter().all(is_plain) && !path.contains(".."), "{path}");
    assert!(is_tag(&digest.as_tag()));
    let url = url::Url::parse(&format!("https://h/v2/a/blobs/{digest}")).unwrap();
    assert_eq!(url.path(), format!("/v2/a/blobs/{text}"));
});
