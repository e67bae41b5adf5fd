//! A repository, in the first line, and a config file of Docker: a secret is given for the host it was kept for, and no
//! message shows one.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use capatch::oci::reference::Reference;
use capatch::transport::registry::fuzzing::docker_config;
use capatch_fuzz::{first_line, is_printable};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Every key and every text in `value`; what `auth` hides too.
fn texts(value: &Value, keys: &mut Vec<String>, all: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            all.push(text.clone());
            if let Some(login) = STANDARD.decode(text.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
                all.extend(login.split_once(':').map(|(_, password)| password.to_owned()));
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, keys, all)),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            keys.push(key.clone());
            texts(value, keys, all);
        }),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((name, file)) = first_line(data) else { return };
    let Ok(Reference::Registry { repository, .. }) = name.parse() else { return };
    let Ok(file) = std::str::from_utf8(file) else { return };
    let (mut keys, mut all) = (Vec::new(), Vec::new());
    if let Ok(value) = serde_json::from_str(file) {
        texts(&value, &mut keys, &mut all);
    }
    match docker_config(file, &repository) {
        Err(error) => {
            is_printable(&error);
            let shown = error.to_string();
            for secret in all.iter().filter(|text| text.contains("canary")) {
                assert!(!shown.contains(secret) || keys.iter().any(|key| key.contains(secret)), "{shown}");
            }
        }
        Ok(None) => {}
        Ok(Some(found)) => {
            // base64 without padding is read too, and what encodes it is not looked for here.
            let is_plain = file.contains("\"auth\"");
            assert!(is_plain || all.contains(&found) || all.iter().any(|text| text.starts_with(&found)));
            let host = repository.registry.split(':').next().unwrap_or_default();
            let is_named = keys.iter().any(|key| key.to_ascii_lowercase().contains(host));
            assert!(is_named || keys.iter().any(|key| key == "credsStore"), "{host} gets what is not its own");
        }
    }
});
