//! A config and the edits to make, one a line: `expose`, `unexpose`, `env`, `label`, `created`, `listen`, then an empty line and
//! the config. What is not edited keeps its bytes and its place, and editing again changes nothing.
#![no_main]

use std::collections::BTreeMap;

use capatch::oci::config::{ImageConfig, Port};
use capatch::oci::digest::Digest;
use capatch::oci::json::Object;
use capatch::patch::{Request, edit_config};
use capatch_fuzz::is_printable;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn request(text: &str) -> Option<Request> {
    let mut request = Request::default();
    for line in text.lines() {
        let (what, value) = line.split_once(' ')?;
        let pair = || value.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        match what {
            "expose" => request.expose.push(value.parse::<Port>().ok()?.to_string()),
            "unexpose" => request.unexpose.push(value.parse::<Port>().ok()?.to_string()),
            "env" => drop(request.env.insert(pair()?.0, pair()?.1)),
            "label" => drop(request.labels.insert(pair()?.0, pair()?.1)),
            "created" => request.created = Some(value.to_owned()),
            "listen" => request.listen = Some(("KONG_PROXY_LISTEN".to_owned(), value.to_owned())),
            _ => return None,
        }
    }
    let is_contradictory = request.expose.iter().any(|port| request.unexpose.contains(port))
        || request.env.contains_key("KONG_PROXY_LISTEN")
        || request.env.keys().any(String::is_empty);
    (!is_contradictory).then_some(request)
}

fuzz_target!(|data: &[u8]| {
    let Some(at) = data.windows(2).position(|two| two == b"\n\n") else { return };
    let Some(request) = std::str::from_utf8(&data[..at]).ok().and_then(request) else { return };
    let before = match ImageConfig::parse(&data[at + 2..]) {
        Ok(config) => config,
        Err(error) => return is_printable(&error),
    };
    let history = before.history();
    let _ = (before.check_layers(before.diff_ids().map_or(0, |ids| ids.len())), before.volumes(), before.labels());
    let mut config = before.clone();
    if let Err(error) = edit_config(&mut config, &request) {
        return is_printable(&error);
    }
    let bytes = config.to_bytes().expect("what was read can be written");
    let after = ImageConfig::parse(&bytes).expect("what we write can be read");

    let changed = |of: &Object, now: &Object, may: &[&str]| {
        let kept: Vec<(&str, &str)> = of.names().filter_map(|name| Some((name, of.raw(name)?))).collect();
        for (at, name) in now.names().enumerate() {
            match kept.get(at) {
                Some((before, value)) => {
                    assert_eq!(*before, name, "the order changed");
                    assert!(may.contains(&name) || now.raw(name) == Some(value), "{name} changed");
                }
                None => assert!(may.contains(&name), "{name} is new"),
            }
        }
        assert!(now.names().count() >= kept.len(), "something is gone");
    };
    changed(before.object(), after.object(), &["config", "created"]);
    changed(before.run_object(), after.run_object(), &["ExposedPorts", "Env", "Labels"]);
    if request == Request::default() {
        changed(before.run_object(), after.run_object(), &[]);
    }
    ports(&before, &after, &request);
    env(&before, &after, &request);
    let labels = after.labels().map(BTreeMap::from_iter);
    for (name, value) in &request.labels {
        assert!(labels.as_ref().is_ok_and(|labels| labels.get(name) == Some(value)) || labels.is_err());
    }

    let mut twice = after.clone();
    edit_config(&mut twice, &request).expect("what was edited can be edited again");
    assert_eq!(twice.to_bytes().unwrap(), bytes, "another time is another config");

    let diff_id = Digest::of(b"layer");
    let mut layered = after.clone();
    layered.add_layer(&diff_id).unwrap();
    let ids = ImageConfig::parse(&layered.to_bytes().unwrap()).unwrap().diff_ids().unwrap();
    assert!(ids.len() == before.diff_ids().unwrap().len() + 1 && ids.last() == Some(&diff_id));
    assert_eq!(format!("{:?}", after.history().ok()), format!("{:?}", history.ok()));
});

/// Ports that were not asked for stay as they are.
fn ports(before: &ImageConfig, after: &ImageConfig, request: &Request) {
    let (Ok(was), Ok(is)) = (before.run::<Object>("ExposedPorts"), after.run::<Object>("ExposedPorts")) else { return };
    let (was, is) = (was.unwrap_or_default(), is.unwrap_or_default());
    let normal = |name: &str| name.parse::<Port>().map_or(name.to_owned(), |port| port.to_string());
    for name in was.names() {
        let gone = request.unexpose.contains(&normal(name));
        assert_eq!(is.raw(name), if gone { None } else { was.raw(name) }, "{name}");
    }
    for port in &request.expose {
        assert!(is.names().any(|name| normal(name) == *port), "{port} is missing");
    }
}

/// Variables that were not asked for stay as they are, in their order.
fn env(before: &ImageConfig, after: &ImageConfig, request: &Request) {
    let entries = |config: &ImageConfig| config.run::<Vec<Value>>("Env").ok().map(Option::unwrap_or_default);
    let (Some(was), Some(is)) = (entries(before), entries(after)) else { return };
    let is_ours = |entry: &&Value| {
        let name = entry.as_str().unwrap_or_default().split('=').next().unwrap_or_default();
        request.env.contains_key(name) || (request.listen.is_some() && name == "KONG_PROXY_LISTEN")
    };
    let others = |all: &[Value]| all.iter().filter(|entry| !is_ours(entry)).cloned().collect::<Vec<_>>();
    assert_eq!(others(&was), others(&is));
    for (name, value) in &request.env {
        assert_eq!(
            after.env_value(name).ok().flatten().as_ref(),
            Some(value).filter(|_| after.env().is_ok()),
            "{name}"
        );
    }
}
