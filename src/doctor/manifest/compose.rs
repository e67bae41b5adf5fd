//! Compose files: services that run the image, as `docker compose` runs them.

use std::borrow::Cow;
use std::collections::HashMap;

use super::interpolate::{interpolate, words};
use super::overlay::{Rules, as_map, overlay};
use super::security::{Security, docker_capability, is_all};
use super::tree::{Budget, Tree, Value};
use super::{Detail, Format, Found, Images, Port};
use crate::doctor::{Command, Container, Finding, Level, Role, Variable};
use crate::error::{Error, Result};
use crate::kubernetes::UNPRIVILEGED_PORT_START;

/// Services that extend one another.
const MAX_EXTENDS: usize = 16;

/// Takes the services of the image out of Compose files, of which each is laid over those before it.
pub(super) fn read(
    files: Vec<Tree<'_>>,
    images: &mut Images<'_>,
    found: &mut Found,
    budget: &mut Budget,
) -> Result<()> {
    let mut services: Option<Tree<'_>> = None;
    for file in files {
        let Value::Map(entries) = file.value else { continue };
        let tree = entries.into_iter().find(|(key, _)| key == "services").map(|(_, tree)| tree);
        let Some(tree) = tree.filter(|tree| matches!(tree.value, Value::Map(_))) else { continue };
        services = Some(match services {
            Some(before) => overlay(before, tree, Rules::Compose),
            None => tree,
        });
    }
    let Some(services) = services else { return Ok(()) };
    let by_name: HashMap<&str, &Tree<'_>> =
        services.entries().iter().map(|(name, service)| (name.as_ref(), service)).collect();
    for (name, service) in services.entries() {
        if !matches!(service.value, Value::Map(_)) {
            found.findings.push(refused(service, &format!("services.{name} must be a mapping")));
            continue;
        }
        let service = extended(name, service, &by_name, found, budget)?;
        let Some(image) = service.get("image").and_then(Tree::text) else { continue };
        let image = interpolate(image).unwrap_or_else(|| image.to_owned());
        if images.is_meant(&image, &service)? {
            let mut reader = Service { name, tree: &service, refused: None };
            let (container, detail) = reader.read(image);
            found.findings.extend(reader.refused.take());
            found.findings.extend(reader.sysctl(&container));
            found.findings.extend(reader.scale(&container));
            found.findings.extend(reader.capability());
            found.push(container, detail)?;
        }
    }
    Ok(())
}

fn refused(tree: &Tree<'_>, what: &str) -> Finding {
    Finding {
        code: "refused-by-compose",
        level: Level::Breaks,
        place: tree.place(),
        what: format!("docker compose refuses the file: {what}"),
        why: "a field has a value of another type than the Compose specification has; it is left out of account here"
            .to_owned(),
        fix: None,
    }
}

/// A service laid over what it extends.
fn extended<'t, 'a>(
    name: &str,
    service: &'t Tree<'a>,
    all: &HashMap<&str, &'t Tree<'a>>,
    found: &mut Found,
    budget: &mut Budget,
) -> Result<Cow<'t, Tree<'a>>> {
    let mut chain = vec![service];
    while let Some(extends) = chain.last().and_then(|service| service.get("extends")) {
        if chain.len() > MAX_EXTENDS {
            return Err(Error::content(format!("{}: service {name} extends itself", extends.place())));
        }
        let other = extends.text().or_else(|| extends.text_at(&["service"])).unwrap_or_default();
        match all.get(other) {
            Some(base) => chain.push(base),
            None => {
                found.findings.push(Finding {
                    code: "extends-unknown",
                    level: Level::Warning,
                    place: extends.place(),
                    what: format!("service {name} extends {other}, which is in none of these files"),
                    why: "what it says there is left out of account".to_owned(),
                    fix: Some("give its file with -f too".to_owned()),
                });
                break;
            }
        }
    }
    let mut merged: Option<Tree<'a>> = None;
    while let Some(base) = chain.pop() {
        merged = match merged {
            None if chain.is_empty() => return Ok(Cow::Borrowed(base)),
            None => Some(budget.copy(base)?),
            Some(below) => Some(overlay(below, budget.copy(base)?, Rules::Compose)),
        };
    }
    merged.map(Cow::Owned).ok_or_else(|| Error::failed("internal error: a service without itself"))
}

struct Service<'t, 'a> {
    name: &'t str,
    tree: &'t Tree<'a>,
    /// The first field with a wrong type.
    refused: Option<Finding>,
}

impl Service<'_, '_> {
    fn read(&mut self, image: String) -> (Container, Detail) {
        let privileged = self.flag("privileged");
        let security =
            Security { privileged, add: self.list("cap_add"), drop: self.list("cap_drop"), ..Security::default() };
        let mode = self.text("network_mode").unwrap_or_default();
        let host_network = mode == "host";
        let shared = mode.starts_with("service:") || mode.starts_with("container:");
        let start = match self.sysctls().iter().find(|(name, _)| name == UNPRIVILEGED_PORT_START) {
            Some((_, value)) => value.as_deref().and_then(|value| value.parse().ok()),
            // Docker since 20.10 does so in every network of a container (moby#41030).
            None => (!host_network && !shared).then_some(0),
        };
        let (command, args) = (self.argv("entrypoint"), self.argv("command"));
        let migrations = args.as_ref().is_some_and(|args| args.iter().any(|word| word.contains("migrations")));
        let detail = Detail {
            format: Format::Compose,
            indent: self.tree.column,
            path: format!("services.{}", self.name),
            title: format!("service {}", self.name),
            add: security.add.clone(),
            drop: security.drop.clone(),
            ports: self.ports(),
            namespace: None,
            labels: HashMap::new(),
            pull_policy: None,
        };
        let container = Container {
            place: self.tree.place(),
            name: format!("service {}", self.name),
            image,
            role: if migrations { Role::Job } else { Role::Main },
            command,
            args,
            env: self.environment(),
            env_from: self.tree.get("env_file").is_some(),
            user: self.text("user").filter(|user| !user.is_empty()),
            groups: self.list("group_add"),
            run_as_non_root: false,
            bounding: security.docker_bounding(),
            no_new_privileges: self.no_new_privileges(),
            read_only: self.flag("read_only"),
            host_network,
            // Those of podman make one; Docker knows only "host" (userns-remap is a setting of its daemon).
            user_namespace: self.text("userns_mode").is_some_and(|mode| mode != "host" && !mode.is_empty()),
            unprivileged_port_start: start,
            windows: false,
            mounts: self.mounts(),
            commands: self.healthcheck(),
            docker: true,
        };
        (container, detail)
    }

    fn refuse(&mut self, tree: &Tree<'_>, key: &str, kind: &str) {
        let what = format!("services.{}.{key} must be {kind}", self.name);
        self.refused.get_or_insert_with(|| refused(tree, &what));
    }

    /// A text with its variables; numbers are texts too.
    fn text(&mut self, key: &str) -> Option<String> {
        let value = self.tree.get(key)?;
        match value.text() {
            Some(text) => interpolate(text),
            None => {
                self.refuse(value, key, "text");
                None
            }
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        let Some(value) = self.tree.get(key) else { return false };
        // Compose casts what comes from a variable.
        let text = value.text().and_then(interpolate);
        let cast = match text.as_deref() {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => value.boolean(),
        };
        if cast.is_none() && value.text().is_none() {
            self.refuse(value, key, "a boolean");
        }
        cast.unwrap_or_default()
    }

    /// Texts of a list, without those that are not known.
    fn list(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.tree.get(key) else { return Vec::new() };
        if !matches!(value.value, Value::List(_)) {
            self.refuse(value, key, "a list");
        }
        value.items().iter().filter_map(|item| interpolate(item.text()?)).collect()
    }

    /// `command` and `entrypoint`, which are a list or one text that is split as a shell would. Without a word in it, the
    /// image's is cleared.
    fn argv(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.tree.get(key)?;
        let known = |text: &str| interpolate(text).unwrap_or_else(|| text.to_owned());
        match &value.value {
            Value::Text(text, _) => Some(words(&known(text))),
            Value::List(items) => Some(items.iter().filter_map(Tree::text).map(known).collect()),
            _ => {
                self.refuse(value, key, "text or a list");
                None
            }
        }
    }

    /// Pairs that are a mapping or a list of `KEY=VALUE`.
    fn pairs(&mut self, key: &str) -> Vec<(String, Option<String>, String)> {
        let Some(value) = self.tree.get(key) else { return Vec::new() };
        if !matches!(value.value, Value::List(_) | Value::Map(_)) {
            self.refuse(value, key, "a mapping or a list");
            return Vec::new();
        }
        // It was counted when the service was copied.
        let map = as_map(value.clone());
        let pair = |(key, value): &(Cow<'_, str>, Tree<'_>)| {
            let name = interpolate(key)?;
            Some((name, value.text().and_then(interpolate), value.place()))
        };
        map.entries().iter().filter_map(pair).collect()
    }

    fn sysctls(&mut self) -> Vec<(String, Option<String>)> {
        self.pairs("sysctls").into_iter().map(|(name, value, _)| (name, value)).collect()
    }

    fn environment(&mut self) -> Vec<Variable> {
        let pairs = self.pairs("environment");
        pairs.into_iter().map(|(name, value, place)| Variable { place, name, value }).collect()
    }

    /// `no-new-privileges`, alone or with `:` or `=` and a boolean (moby, `parseSecurityOpt`).
    fn no_new_privileges(&mut self) -> bool {
        let options = self.list("security_opt");
        let value = |option: &String| {
            let rest = option.strip_prefix("no-new-privileges")?;
            match rest.strip_prefix([':', '=']) {
                Some(value) => Some(matches!(value, "true" | "1" | "t" | "T" | "TRUE" | "True")),
                None => rest.is_empty().then_some(true),
            }
        };
        options.iter().rev().find_map(value).unwrap_or_default()
    }

    /// Targets of volumes and of tmpfs.
    fn mounts(&mut self) -> Vec<String> {
        let volumes = self.tree.get("volumes").map(Tree::items).unwrap_or_default();
        let target = |volume: &Tree<'_>| match volume.text() {
            Some(text) => {
                let text = interpolate(text)?;
                // SOURCE:TARGET:MODE, or TARGET alone.
                text.split(':')
                    .find(|part| part.starts_with('/') && !text.starts_with(&format!("{part}:/")))
                    .map(str::to_owned)
            }
            None => volume.text_at(&["target"]).and_then(interpolate),
        };
        let mut mounts: Vec<String> = volumes.iter().filter_map(target).collect();
        let tmpfs = self.tree.get("tmpfs");
        let texts = tmpfs.map(|tree| if tree.text().is_some() { std::slice::from_ref(tree) } else { tree.items() });
        let path = |tree: &Tree<'_>| Some(interpolate(tree.text()?)?.split(':').next()?.to_owned());
        mounts.extend(texts.unwrap_or_default().iter().filter_map(path));
        mounts
    }

    fn healthcheck(&mut self) -> Vec<Command> {
        let Some(test) = self.tree.at(&["healthcheck", "test"]) else { return Vec::new() };
        if self.tree.at(&["healthcheck", "disable"]).and_then(Tree::boolean) == Some(true) {
            return Vec::new();
        }
        let shell = |text: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
        let known = |text: &str| interpolate(text).unwrap_or_else(|| text.to_owned());
        let argv = match test.text() {
            Some(text) => shell(&known(text)),
            None => {
                let words: Vec<String> = test.items().iter().filter_map(Tree::text).map(known).collect();
                match words.split_first() {
                    Some((first, rest)) if first == "CMD" => rest.to_vec(),
                    Some((first, rest)) if first == "CMD-SHELL" => shell(&rest.join(" ")),
                    _ => Vec::new(),
                }
            }
        };
        let command = Command { place: test.place(), what: "healthcheck".to_owned(), argv };
        if command.argv.is_empty() { Vec::new() } else { vec![command] }
    }

    /// Published ports: `[HOST:]PUBLISHED:TARGET[/PROTOCOL]`, or a mapping.
    fn ports(&mut self) -> Vec<Port> {
        let ports = self.tree.get("ports").map(Tree::items).unwrap_or_default();
        let read = |entry: &Tree<'_>| {
            let (published, target, protocol) = match entry.text() {
                Some(text) => {
                    let text = interpolate(text)?;
                    let (ports, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
                    let (before, target) = ports.rsplit_once(':').unwrap_or(("", ports));
                    let published = before.rsplit(':').next().and_then(|port| port.parse().ok());
                    (published, target.parse().ok()?, protocol.to_owned())
                }
                None => {
                    let text = |key| entry.text_at(&[key]).and_then(interpolate);
                    let published = text("published").and_then(|port| port.parse().ok());
                    (published, text("target")?.parse().ok()?, text("protocol").unwrap_or_else(|| "tcp".to_owned()))
                }
            };
            let place = entry.place();
            Some(Port { place, name: String::new(), container: target, host: published, tcp: protocol == "tcp" })
        };
        ports.iter().filter_map(read).collect()
    }

    fn snippet(&self, lines: &[&str]) -> Option<String> {
        let path = format!("services.{}", self.name);
        Some(crate::doctor::fix::snippet("compose", &path, self.tree.column, lines))
    }

    /// M7: runc refuses sysctls of the network of the host.
    fn sysctl(&mut self, container: &Container) -> Option<Finding> {
        let (name, ..) = self.sysctls().into_iter().find(|(name, _)| name.starts_with("net."))?;
        container.host_network.then(|| Finding {
            code: "sysctl-with-host-network",
            level: Level::Breaks,
            place: self.tree.get("sysctls").unwrap_or(self.tree).place(),
            what: format!("the container does not start: sysctl \"{name}\" not allowed in host network namespace"),
            why: "the network of the host has one value for everybody, which no container may set".to_owned(),
            fix: Some("take the sysctl out: the capability of the image is for exactly this case".to_owned()),
        })
    }

    /// M8: containers that want the same ports of the host.
    fn scale(&self, container: &Container) -> Option<Finding> {
        let replicas = self.tree.get("scale").or_else(|| self.tree.at(&["deploy", "replicas"]))?;
        let many = replicas.integer().is_some_and(|replicas| replicas > 1);
        (many && container.host_network).then(|| Finding {
            code: "replicas-share-host-ports",
            level: Level::Breaks,
            place: replicas.place(),
            what: "the second container fails: bind() to 0.0.0.0:80 failed (98: Address already in use)".to_owned(),
            why: "with network_mode: host, ports 80 and 443 are there once".to_owned(),
            fix: self.snippet(&["deploy:", "  replicas: 1"]),
        })
    }

    /// Names of capabilities that the engine does not know.
    fn capability(&mut self) -> Option<Finding> {
        let mut unknown = |key: &str| {
            let name = self.list(key).into_iter().find(|name| !is_all(name) && docker_capability(name).is_none())?;
            let name = name.to_ascii_uppercase();
            Some(if name.starts_with("CAP_") { name } else { format!("CAP_{name}") })
        };
        let add = unknown("cap_add").map(|name| ("cap_add", "CapAdd", name));
        let drop = || unknown("cap_drop").map(|name| ("cap_drop", "CapDrop", name));
        let (key, field, name) = add.or_else(drop)?;
        Some(Finding {
            code: "unknown-capability",
            level: Level::Breaks,
            place: self.tree.get(key).unwrap_or(self.tree).place(),
            // `validateCapabilities` in moby's daemon/container.go.
            what: format!("the container is not created: invalid {field}: unknown capability: \"{name}\""),
            why: "capabilities are written as in capabilities(7), with or without CAP_".to_owned(),
            fix: self.snippet(&["cap_add: [NET_BIND_SERVICE]"]),
        })
    }
}
