//! Image configs: views of what we look at, edits of what was asked for, and every other byte as it was.
//!
//! Sources: image-spec `config.md`; Docker's `container_config`, `Healthcheck`, `Shell`, `OnBuild` are not in it and stay.

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::oci::digest::Digest;
use crate::oci::json::{self, Object};
use crate::oci::platform::Platform;

/// The config of an image.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    object: Object,
    /// The member `config`: what a container is started with.
    run: Object,
}

/// One entry of `history`, as far as we look at it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Whether the step made no layer.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// `null` is what Go reads as nothing said.
fn null_is_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// Reads a config; refuses what has no platform, or a `rootfs` that is not made of layers.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let object = Object::parse(bytes)?;
        object.refuse_lookalikes(&["architecture", "os", "os.version", "variant", "rootfs", "config", "history"])?;
        let run: Object = object.get("config")?.unwrap_or_default();
        run.refuse_lookalikes(&["ExposedPorts", "Env", "Labels", "User", "Entrypoint", "Cmd", "Volumes"])?;
        let config = ImageConfig { object, run };
        let rootfs: Object =
            config.object.get("rootfs")?.ok_or_else(|| Error::content("the config has no 'rootfs'"))?;
        rootfs.refuse_lookalikes(&["type", "diff_ids"])?;
        if rootfs.get::<String>("type")?.as_deref() != Some("layers") {
            return Err(Error::content("the config's rootfs is not of type 'layers'"));
        }
        config.diff_ids()?;
        config.platform()?;
        Ok(config)
    }

    /// What the image runs on.
    pub fn platform(&self) -> Result<Platform> {
        let member = |name: &str| self.object.get::<String>(name);
        let missing = |name: &str| Error::content(format!("the config has no '{name}'"));
        Ok(Platform {
            os: member("os")?.ok_or_else(|| missing("os"))?,
            architecture: member("architecture")?.ok_or_else(|| missing("architecture"))?,
            variant: member("variant")?,
            os_version: member("os.version")?,
        })
    }

    /// The digests of the uncompressed layers, lowest first.
    pub fn diff_ids(&self) -> Result<Vec<Digest>> {
        let rootfs: Object = self.object.get("rootfs")?.unwrap_or_default();
        Ok(rootfs.get("diff_ids")?.unwrap_or_default())
    }

    /// The history, if the image has one. An entry that is `null` says nothing of its layer, as in Go.
    pub fn history(&self) -> Result<Vec<History>> {
        for entry in self.object.get::<Vec<Option<Object>>>("history")?.unwrap_or_default().into_iter().flatten() {
            entry.refuse_lookalikes(&["created", "created_by", "empty_layer"])?;
        }
        let history: Vec<Option<History>> = self.object.get("history")?.unwrap_or_default();
        Ok(history.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Refuses a config whose diff IDs do not fit a manifest of `layers` layers (faults.md C22).
    pub fn check_layers(&self, layers: usize) -> Result<()> {
        let diff_ids = self.diff_ids()?.len();
        if diff_ids != layers {
            return Err(Error::content(format!("the manifest has {layers} layers, its config {diff_ids} diff IDs")));
        }
        Ok(())
    }

    /// Refuses a history that does not fit a manifest of `layers` layers. Nothing is read by it, but one more entry would
    /// make it say something false (faults.md C22, H13).
    pub fn check_history(&self, layers: usize) -> Result<()> {
        let history = self.history()?;
        let made = history.iter().filter(|entry| !entry.empty_layer).count();
        if !history.is_empty() && made != layers {
            return Err(Error::content(format!("the manifest has {layers} layers, its config's history {made}")));
        }
        Ok(())
    }

    /// `created`, RFC 3339.
    pub fn created(&self) -> Result<Option<String>> {
        self.object.get("created")
    }

    /// A typed view of a member of `config` (`User`, `Entrypoint`, `Healthcheck`, …).
    pub fn run<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Result<Option<T>> {
        self.run.get(name)
    }

    /// The raw members of the whole config.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The raw members of `config`.
    pub fn run_object(&self) -> &Object {
        &self.run
    }

    /// `Env`, each `NAME=value`; an entry that is `null` sets nothing.
    pub fn env(&self) -> Result<Vec<String>> {
        let entries: Vec<Option<String>> = self.run("Env")?.unwrap_or_default();
        Ok(entries.into_iter().flatten().collect())
    }

    /// The value of one environment variable.
    pub fn env_value(&self, name: &str) -> Result<Option<String>> {
        let of = |entry: &String| entry.split_once('=').filter(|(n, _)| *n == name).map(|(_, value)| value.to_owned());
        Ok(self.env()?.iter().find_map(of))
    }

    /// `Labels`.
    pub fn labels(&self) -> Result<IndexMap<String, String>> {
        Ok(self.run("Labels")?.unwrap_or_default())
    }

    /// `ExposedPorts`, such as `8000/tcp`.
    pub fn exposed_ports(&self) -> Result<Vec<String>> {
        let ports: Object = self.run("ExposedPorts")?.unwrap_or_default();
        Ok(ports.names().map(str::to_owned).collect())
    }

    /// The declared volumes.
    pub fn volumes(&self) -> Result<Vec<String>> {
        let volumes: Object = self.run("Volumes")?.unwrap_or_default();
        Ok(volumes.names().map(str::to_owned).collect())
    }

    /// Adds a port; one that is there already stays as it is.
    pub fn expose(&mut self, port: &Port) -> Result<()> {
        let mut ports: Object = self.run.get("ExposedPorts")?.unwrap_or_default();
        if !ports.names().any(|name| name.parse::<Port>().as_ref() == Ok(port)) {
            ports.set(&port.to_string(), &serde_json::Map::new())?;
            self.run.set("ExposedPorts", &ports)?;
        }
        Ok(())
    }

    /// Removes a port.
    pub fn unexpose(&mut self, port: &Port) -> Result<()> {
        let mut ports: Object = self.run.get("ExposedPorts")?.unwrap_or_default();
        let gone: Vec<String> =
            ports.names().filter(|name| name.parse::<Port>().as_ref() == Ok(port)).map(str::to_owned).collect();
        gone.iter().for_each(|name| ports.remove(name));
        if gone.is_empty() { Ok(()) } else { self.run.set("ExposedPorts", &ports) }
    }

    /// Sets an environment variable: in its place if it exists, at the end if not.
    pub fn set_env(&mut self, name: &str, value: &str) -> Result<()> {
        let mut entries: Vec<Box<RawValue>> = self.run.get("Env")?.unwrap_or_default();
        let is_it = |entry: &RawValue| {
            serde_json::from_str::<String>(entry.get())
                .is_ok_and(|e| e.split_once('=').map_or(e.as_str(), |(n, _)| n) == name)
        };
        let new = json::raw(&format!("{name}={value}"))?;
        match entries.iter().position(|entry| is_it(entry)) {
            Some(first) => {
                entries[first] = new;
                // A second entry of the same name would compete with ours.
                let mut set = false;
                entries.retain(|entry| !is_it(entry) || !std::mem::replace(&mut set, true));
            }
            None => entries.push(new),
        }
        self.run.set("Env", &entries)
    }

    /// Sets a label.
    pub fn set_label(&mut self, name: &str, value: &str) -> Result<()> {
        let mut labels: Object = self.run.get("Labels")?.unwrap_or_default();
        labels.set(name, value)?;
        self.run.set("Labels", &labels)
    }

    /// Puts one more layer on top.
    pub fn add_layer(&mut self, diff_id: &Digest) -> Result<()> {
        let mut rootfs: Object = self.object.get("rootfs")?.unwrap_or_default();
        let mut diff_ids: Vec<Box<RawValue>> = rootfs.get("diff_ids")?.unwrap_or_default();
        diff_ids.push(json::raw(diff_id)?);
        rootfs.set("diff_ids", &diff_ids)?;
        self.object.set("rootfs", &rootfs)
    }

    /// Adds a history entry, if the image has a history.
    pub fn add_history(&mut self, step: &History) -> Result<()> {
        let mut history: Vec<Box<RawValue>> = self.object.get("history")?.unwrap_or_default();
        if history.is_empty() {
            return Ok(());
        }
        history.push(json::raw(step)?);
        self.object.set("history", &history)
    }

    /// Sets `created`, RFC 3339.
    pub fn set_created(&mut self, created: &str) -> Result<()> {
        self.object.set("created", created)
    }

    /// The document: what was not edited has its old bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut object = self.object.clone();
        if !self.run.is_empty() {
            object.set("config", &self.run)?;
        }
        Ok(object.to_bytes())
    }
}

/// A port as in `ExposedPorts`: `80/tcp`; `80` means `80/tcp`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    number: u16,
    protocol: String,
}

impl std::str::FromStr for Port {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::usage(format!("'{text}' is not a port")).hint("write NUMBER or NUMBER/tcp, /udp or /sctp");
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let number = number.parse().ok().filter(|n| *n != 0).ok_or_else(bad)?;
        Ok(Port { number, protocol })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"architecture":"amd64","id":12345678901234567890123,"os":"linux","container_config":{"Cmd":[ "x" ]},"config":{"Healthcheck":{"Test":["CMD","kong","health"],"StartInterval":5},"ExposedPorts":{"8000/tcp":{ },"8443/tcp":{}},"Env":["PATH=/bin","KONG_PROXY_LISTEN=a","X=\u003c","KONG_PROXY_LISTEN=b"],"OnBuild":null},"rootfs":{"type":"layers","x":1.10,"diff_ids":[]},"history":[{"created_by":"a","empty_layer":true,"x-y":1e3}]}"#;

    #[test]
    fn edits_keep_every_other_byte() {
        let mut config = ImageConfig::parse(CONFIG.as_bytes()).unwrap();
        assert_eq!(config.to_bytes().unwrap(), CONFIG.as_bytes());
        for port in ["80", "443/tcp", "8000/tcp"] {
            config.expose(&port.parse().unwrap()).unwrap();
        }
        config.unexpose(&"8443".parse().unwrap()).unwrap();
        config.set_env("KONG_PROXY_LISTEN", "0.0.0.0:80").unwrap();
        config.set_label("a", "b").unwrap();
        config.add_layer(&Digest::of(b"")).unwrap();
        let created = Some("2024-01-01T00:00:00Z".into());
        config.add_history(&History { created, created_by: Some("capatch".into()), empty_layer: false }).unwrap();
        let expected = CONFIG
            .replace(r#","8443/tcp":{}"#, r#","80/tcp":{},"443/tcp":{}"#)
            .replace("LISTEN=a", "LISTEN=0.0.0.0:80")
            .replace(r#","KONG_PROXY_LISTEN=b""#, "")
            .replace(r#""OnBuild":null"#, r#""OnBuild":null,"Labels":{"a":"b"}"#)
            .replace(r#""diff_ids":[]"#, &format!(r#""diff_ids":["{}"]"#, Digest::of(b"")))
            .replace("1e3}", r#"1e3},{"created":"2024-01-01T00:00:00Z","created_by":"capatch"}"#);
        assert_eq!(String::from_utf8(config.to_bytes().unwrap()).unwrap(), expected);
    }

    #[test]
    fn an_image_without_history_gets_none() {
        for history in ["", r#","history":null"#, r#","history":[]"#] {
            let text = format!(
                r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}}{history}}}"#
            );
            let mut config = ImageConfig::parse(text.as_bytes()).unwrap();
            config.add_layer(&Digest::of(b"")).unwrap();
            config.add_history(&History::default()).unwrap();
            let expected = text.replacen("[]}", &format!("[\"{}\"]}}", Digest::of(b"")), 1);
            assert_eq!(String::from_utf8(config.to_bytes().unwrap()).unwrap(), expected);
        }
    }

    #[test]
    fn configs_that_do_not_fit_their_manifest_are_refused() {
        let config = ImageConfig::parse(CONFIG.as_bytes()).unwrap();
        assert!(config.check_layers(0).is_ok());
        assert!(config.check_layers(1).is_err());
        assert!(config.check_history(0).is_ok());
        assert!(config.check_history(1).is_err());
        let lookalike = CONFIG.replace("\"empty_layer\"", "\"Empty_Layer\":false,\"empty_layer\"");
        let error = ImageConfig::parse(lookalike.as_bytes()).unwrap().check_history(0).unwrap_err();
        assert!(error.to_string().contains("Empty_Layer"), "{error}");
        for bad in [
            CONFIG.replace("\"rootfs\"", "\"rootFs\""),
            CONFIG.replace("\"layers\"", "\"other\""),
            CONFIG.replace("\"diff_ids\":[]", "\"diff_ids\":[\"nonsense\"]"),
            CONFIG.replace("\"os\":\"linux\",", ""),
            CONFIG.replace("\"Env\"", "\"env\":[],\"Env\""),
            CONFIG.replace("\"diff_ids\"", "\"Diff_IDs\":[],\"diff_ids\""),
            CONFIG.replace("\"os\"", "\"Variant\":\"v7\",\"os\""),
        ] {
            assert!(ImageConfig::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn entries_that_are_null_say_nothing() {
        let text = CONFIG.replace(r#""history":["#, r#""history":[null,"#).replace(r#""Env":["#, r#""Env":[null,"#);
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.history().unwrap().len(), 2);
        assert!(config.check_history(1).is_ok());
        assert_eq!(config.env().unwrap(), ImageConfig::parse(CONFIG.as_bytes()).unwrap().env().unwrap());
        assert_eq!(config.to_bytes().unwrap(), text.as_bytes());
    }

    #[test]
    fn ports_have_one_form() {
        for (text, form) in [
            ("80", Some("80/tcp")),
            ("443/TCP", Some("443/tcp")),
            ("53/udp", Some("53/udp")),
            ("0", None),
            ("65536", None),
            ("80-90", None),
            ("+80", None),
            ("80/http", None),
            ("", None),
            ("/tcp", None),
        ] {
            assert_eq!(text.parse::<Port>().ok().map(|p| p.to_string()).as_deref(), form, "{text}");
        }
    }

    /// JSON values as they are found in the wild, not as a serialiser would write them.
    fn value() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("1.10".to_owned()),
            Just("-0".to_owned()),
            Just("1e3".to_owned()),
            Just("12345678901234567890123".to_owned()),
            Just("[ ]".to_owned()),
            "[a-z<>&/]{0,8}".prop_map(|text| format!("\"{}\"", text.replace('<', "\\u003c").replace('/', "\\/"))),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(" ,"))),
                proptest::collection::btree_map("[a-zA-Z]{1,6}", inner, 0..4).prop_map(|members| {
                    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\" : {value}")).collect();
                    format!("{{ {} }}", members.join(",\n"))
                }),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn edits_leave_every_other_member_byte_equal(
            outer in proptest::collection::btree_map("x[a-z]{1,6}", value(), 0..6),
            inner in proptest::collection::btree_map("X[a-z]{1,6}", value(), 0..6),
            port in 1_u16..,
            env in "[A-Z]{1,4}",
        ) {
            let join = |members: &std::collections::BTreeMap<String, String>| -> String {
                members.iter().map(|(name, value)| format!(", \"{name}\": {value}")).collect()
            };
            let text = format!(
                r#"{{"os":"linux","architecture":"arm64","config":{{"User":"kong"{}}},"rootfs":{{"type":"layers","diff_ids":[]}}{}}}"#,
                join(&inner), join(&outer)
            );
            let before = ImageConfig::parse(text.as_bytes()).unwrap();
            let mut after = before.clone();
            after.expose(&Port { number: port, protocol: "tcp".into() }).unwrap();
            after.set_env(&env, "value").unwrap();
            after.set_label("name", "value").unwrap();
            after.add_layer(&Digest::of(b"")).unwrap();
            let after = ImageConfig::parse(&after.to_bytes().unwrap()).unwrap();
            for name in before.object().names().filter(|name| !["config", "rootfs"].contains(name)) {
                proptest::prop_assert_eq!(before.object().raw(name), after.object().raw(name));
            }
            for (object, members) in [(after.object(), &outer), (after.run_object(), &inner)] {
                for (name, value) in members {
                    proptest::prop_assert_eq!(object.raw(name), Some(value.as_str()));
                }
            }
            for name in before.run_object().names() {
                proptest::prop_assert_eq!(before.run_object().raw(name), after.run_object().raw(name));
            }
            proptest::prop_assert_eq!(after.env_value(&env).unwrap(), Some("value".to_owned()));
            let again = {
                let mut again = after.clone();
                again.expose(&Port { number: port, protocol: "tcp".into() }).unwrap();
                again.set_env(&env, "value").unwrap();
                again.set_label("name", "value").unwrap();
                again.to_bytes().unwrap()
            };
            proptest::prop_assert_eq!(again, after.to_bytes().unwrap());
        }
    }
}
