//! What goes wrong between a manifest and what Kong listens on.

use std::collections::BTreeMap;

use super::fix::snippet;
use super::manifest::{Detail, Format, Found, Port};
use super::{Container, Finding, Level, Role, Variable};
use crate::kong::ports::UNPRIVILEGED;
use crate::kong::{Version, listen};
use crate::kubernetes::UNPRIVILEGED_PORT_START;
use crate::oci::reference::Reference;

/// What the checks need to know of the image.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The version of Kong in it, if it is one.
    pub version: Option<&'a Version>,
    /// `Env` in its config.
    pub env: &'a BTreeMap<String, String>,
    /// `User` in its config.
    pub user: Option<&'a str>,
    /// The image, as the user wrote it.
    pub image: &'a str,
}

/// The ports that were Kong's before it got low ones, and those.
const PORTS: [u16; 4] = [8000, 8443, 80, 443];

/// What a variable is in the end.
enum Setting<'a> {
    Known(&'a str),
    /// It comes from where nobody looks.
    Elsewhere,
    Absent,
}

/// Checks every container of [`Found`] for what it listens on. The findings do not repeat those of [`Found`].
pub fn check(found: &Found, facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (container, detail) in found.containers.iter().zip(&found.details) {
        let pair = Pair { container, detail, facts };
        findings.extend(pair.file_conflict());
        findings.extend(pair.capability_replaced());
        if container.role == Role::Main {
            findings.extend(pair.listen_overridden());
            findings.extend(pair.dead_port());
            findings.extend(pair.port_maps());
            findings.extend(pair.admin());
            findings.extend(pair.sysctl());
            findings.extend(pair.pull_policy());
        }
        findings.extend(pair.init());
        findings.extend(pair.other_image());
    }
    findings.extend(services(found, facts));
    findings
}

struct Pair<'a> {
    container: &'a Container,
    detail: &'a Detail,
    facts: &'a Facts<'a>,
}

impl<'a> Pair<'a> {
    fn own(&self, name: &str) -> Option<&'a Variable> {
        self.container.env.iter().rev().find(|variable| variable.name == name)
    }

    fn setting(&self, name: &str) -> Setting<'a> {
        match self.own(name).map(|variable| variable.value.as_deref()) {
            Some(Some(value)) => Setting::Known(value),
            Some(None) => Setting::Elsewhere,
            None if self.container.env_from => Setting::Elsewhere,
            None => match self.facts.env.get(name) {
                Some(value) => Setting::Known(value),
                None => Setting::Absent,
            },
        }
    }

    fn known(&self, name: &str) -> Option<&'a str> {
        match self.setting(name) {
            Setting::Known(value) => Some(value),
            _ => None,
        }
    }

    /// The listeners of the proxy, if it is Kong and they are known.
    fn listeners(&self) -> Option<Vec<listen::Listener>> {
        let names = self.container.env.iter().map(|variable| &variable.name).chain(self.facts.env.keys());
        if self.facts.version.is_none() && !names.into_iter().any(|name| name.starts_with("KONG_")) {
            return None;
        }
        if !matches!(self.setting("KONG_PROXY_LISTEN_FILE"), Setting::Absent) && !self.container.env_from {
            return None;
        }
        let text = match self.setting("KONG_PROXY_LISTEN") {
            Setting::Known(text) => text,
            Setting::Elsewhere => return None,
            Setting::Absent => listen::default_listen(self.facts.version),
        };
        listen::parse(text, None).ok()
    }

    /// Whether something may listen on a port; yes if it is not known.
    fn may_listen(&self, port: u16) -> bool {
        let Some(listeners) = self.listeners() else { return true };
        let others = ["KONG_STREAM_LISTEN", "KONG_ADMIN_LISTEN", "KONG_STATUS_LISTEN", "KONG_ADMIN_GUI_LISTEN"];
        let ends = |text: &str| {
            let number = |word: &str| word.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            text.split([',', ' ', '\t']).filter_map(number).any(|other| other == port)
        };
        // Whether a whole file of variables has one of them is not worth a doubt.
        let elsewhere = |name: &str| self.own(name).is_some_and(|variable| variable.value.is_none());
        listeners.iter().any(|listener| listener.port == port)
            || others.iter().any(|name| self.known(name).is_some_and(ends) || elsewhere(name))
    }

    fn place_of(&self, name: &str) -> String {
        self.own(name).map_or_else(|| self.container.place.clone(), |variable| variable.place.clone())
    }

    /// Lines that belong beside the keys of the container.
    fn beside(&self, lines: &[&str]) -> Option<String> {
        Some(snippet(&self.detail.title, &self.detail.path, self.detail.indent, lines))
    }

    /// A variable, as the format of the manifest has it.
    fn variable(&self, name: &str, value: &str) -> Option<String> {
        match self.detail.format {
            Format::Kubernetes => self.beside(&["env:", &format!("- name: {name}"), &format!("  value: \"{value}\"")]),
            Format::Compose => self.beside(&["environment:", &format!("  {name}: \"{value}\"")]),
            Format::Values => Some("proxy:\n  http:\n    containerPort: 80\n  tls:\n    containerPort: 443".to_owned()),
        }
    }

    fn ports_text(listeners: &[listen::Listener]) -> String {
        let mut ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ")
    }

    /// M5: `file_env` of the start script refuses both.
    fn file_conflict(&self) -> Option<Finding> {
        let since = self.facts.version?;
        if since.minor() < (2, 5) || self.container.command.is_some() {
            return None;
        }
        let file = self.container.env.iter().find(|variable| {
            let name = variable.name.strip_suffix("_FILE").filter(|name| name.starts_with("KONG_"));
            let is_set = |name: &str| self.known(name).is_some_and(|value| !value.is_empty());
            variable.value.as_deref() != Some("") && name.is_some_and(is_set)
        })?;
        let name = file.name.strip_suffix("_FILE")?;
        Some(Finding {
            code: "listen-file-conflict",
            level: Level::Breaks,
            place: file.place.clone(),
            what: format!("Kong does not start: error: both {name} and {} are set (but are exclusive)", file.name),
            why: format!(
                "{name} is set in {}",
                if self.container.env.iter().any(|v| v.name == name) { "the manifest too" } else { "the image" }
            ),
            fix: Some(format!("take {} out, or patch the image without --listen", file.name)),
        })
    }

    /// M5: the manifest's value wins over the image's.
    fn listen_overridden(&self) -> Option<Finding> {
        let baked = self.facts.env.get("KONG_PROXY_LISTEN")?;
        let low = |text: &str| listen::parse(text, None).is_ok_and(|all| all.iter().any(|one| one.port < UNPRIVILEGED));
        let own = self.own("KONG_PROXY_LISTEN")?;
        let listeners = self.listeners()?;
        if !low(baked) || listeners.iter().any(|listener| listener.port < UNPRIVILEGED) {
            return None;
        }
        Some(Finding {
            code: "listen-overridden",
            level: Level::Warning,
            place: own.place.clone(),
            what: format!("Kong does not listen on low ports but on {}", Self::ports_text(&listeners)),
            why: format!("KONG_PROXY_LISTEN of the manifest wins over that of the image, \"{baked}\""),
            fix: self.variable("KONG_PROXY_LISTEN", baked),
        })
    }

    /// M5: a port at which nobody answers.
    fn dead_port(&self) -> Option<Finding> {
        let port = self
            .detail
            .ports
            .iter()
            .find(|port| port.tcp && PORTS.contains(&port.container) && !self.may_listen(port.container))?;
        let listeners = self.listeners()?;
        let Port { place, name, container, .. } = port;
        let shown = if name.is_empty() { String::new() } else { format!(" ({name})") };
        Some(Finding {
            code: "dead-port",
            level: Level::Warning,
            place: place.clone(),
            what: format!("connections to port {container}{shown} are refused: Connection refused"),
            why: format!("Kong listens on {}", Self::ports_text(&listeners)),
            fix: listeners.first().map(|first| match self.detail.format {
                Format::Compose => format!("ports: [\"{}:{}\"]", port.host.unwrap_or(first.port), first.port),
                _ => format!(
                    "containerPort: {}",
                    listeners.iter().find(|one| one.is_ssl() == [443, 8443].contains(container)).unwrap_or(first).port
                ),
            }),
        })
    }

    /// M5: what Kong tells others about its ports.
    fn port_maps(&self) -> Option<Finding> {
        let maps = self.known("KONG_PORT_MAPS")?;
        let listeners = self.listeners()?;
        let target = |map: &str| map.split_once(':').and_then(|(_, port)| port.trim().parse::<u16>().ok());
        let dead = maps.split(',').filter_map(target).find(|port| listeners.iter().all(|one| one.port != *port))?;
        Some(Finding {
            code: "stale-port-maps",
            level: Level::Warning,
            place: self.place_of("KONG_PORT_MAPS"),
            what: format!(
                "Kong tells its services wrong ports in X-Forwarded-Port: KONG_PORT_MAPS names port {dead}, on which it does not listen"
            ),
            why: format!("it listens on {}, which need no map", Self::ports_text(&listeners)),
            fix: Some("take KONG_PORT_MAPS out".to_owned()),
        })
    }

    /// M6: everybody who reaches a node configures Kong.
    fn admin(&self) -> Option<Finding> {
        if !self.container.host_network {
            return None;
        }
        let local = |host: &str| host == "localhost" || host == "[::1]" || host.starts_with("127.");
        let listeners = listen::parse(self.known("KONG_ADMIN_LISTEN")?, None).ok()?;
        let open = listeners.iter().find(|listener| !local(&listener.host))?;
        let local = format!("127.0.0.1:{}{}", open.port, if open.is_ssl() { " ssl" } else { "" });
        let fix = match self.detail.format {
            Format::Values => Some("admin:\n  enabled: false".to_owned()),
            _ => self.variable("KONG_ADMIN_LISTEN", &local),
        };
        Some(Finding {
            code: "admin-exposed",
            level: Level::Warning,
            place: self.place_of("KONG_ADMIN_LISTEN"),
            what: format!("the admin API is open to everybody who reaches a node at port {}", open.port),
            why: format!("it listens on {}:{}, and the network is the node's", open.host, open.port),
            fix,
        })
    }

    /// M7: low ports without any capability.
    fn sysctl(&self) -> Option<Finding> {
        let listeners = self.listeners()?;
        let lowest = listeners.iter().map(|listener| listener.port).filter(|port| *port < UNPRIVILEGED).min()?;
        if self.container.host_network {
            return None;
        }
        let start = self.container.unprivileged_port_start;
        if start.is_some_and(|start| start <= lowest) {
            return None;
        }
        let fix = match self.detail.format {
            Format::Kubernetes | Format::Values => {
                let pod = if self.detail.format == Format::Values { "" } else { "# in the spec of the pod\n" };
                format!(
                    "{pod}securityContext:\n  sysctls:\n  - name: {UNPRIVILEGED_PORT_START}\n    value: \"{lowest}\""
                )
            }
            Format::Compose => format!("sysctls:\n  {UNPRIVILEGED_PORT_START}: {lowest}"),
        };
        Some(Finding {
            code: "sysctl-available",
            level: Level::Note,
            place: self.container.place.clone(),
            what: match start {
                Some(start) => format!("{UNPRIVILEGED_PORT_START} is {start}: port {lowest} needs the capability"),
                None => format!("no capability is needed for port {lowest} where the runtime lowers {UNPRIVILEGED_PORT_START} (containerd since 2.0; not CRI-O), or where the manifest does"),
            },
            why: "the network is the container's own, so its sysctl can let everybody bind low ports; the image need not be patched then".to_owned(),
            fix: Some(fix),
        })
    }

    /// M13: nodes that do not look whether the tag is another image now.
    fn pull_policy(&self) -> Option<Finding> {
        let policy = self.detail.pull_policy.as_deref().filter(|policy| matches!(*policy, "IfNotPresent" | "Never"))?;
        let image = &self.container.image;
        if image.contains('@') {
            return None;
        }
        Some(Finding {
            code: "pull-policy",
            level: Level::Note,
            place: self.container.place.clone(),
            what: format!("a node that has {image} already keeps what it has"),
            why: format!("imagePullPolicy {policy} does not ask the registry whether the tag is another image now"),
            fix: Some("name the image by its digest, NAME@sha256:…, or give the patched image a new tag".to_owned()),
        })
    }

    /// M10: start scripts of old images that replace the capability (docker-kong 0.15 to 1.5, as root).
    fn capability_replaced(&self) -> Option<Finding> {
        let version = self.facts.version.filter(|version| ((0, 15)..(2, 0)).contains(&version.minor()))?;
        let user = self.container.user.as_deref().or(self.facts.user).unwrap_or_default();
        let is_root = matches!(user.split(':').next(), Some("" | "0" | "root"));
        let switch = self.known("SET_CAP_NET_RAW").filter(|value| !value.is_empty()).map(|_| "SET_CAP_NET_RAW");
        let has_transparent = |value: &str| {
            value.split(',').any(|entry| entry.split_whitespace().skip(1).any(|word| word == "transparent"))
        };
        let transparent = ["KONG_STREAM_LISTEN", "KONG_PROXY_LISTEN", "KONG_ADMIN_LISTEN"]
            .into_iter()
            .find(|name| self.known(name).is_some_and(has_transparent));
        let name = switch.or(transparent)?;
        if !is_root || self.container.command.is_some() {
            return None;
        }
        Some(Finding {
            code: "capability-replaced",
            level: Level::Breaks,
            place: self.place_of(name),
            what: "bind() to 0.0.0.0:80 failed (13: Permission denied), although the image has the capability"
                .to_owned(),
            why: format!(
                "{name} makes the start script of Kong {version} run setcap cap_net_raw=+ep on nginx when it starts as root, which replaces what was there"
            ),
            fix: match self.detail.format {
                Format::Kubernetes => self.beside(&["securityContext:", "  runAsUser: 1000"]),
                Format::Compose => self.beside(&["user: kong"]),
                Format::Values => Some("containerSecurityContext:\n  runAsUser: 1000".to_owned()),
            },
        })
    }

    /// The manifest still runs what the image was made from.
    fn other_image(&self) -> Option<Finding> {
        let Facts { image, .. } = *self.facts;
        let parse = |text: &str| {
            let one = text.parse::<Reference>().ok().filter(|one| matches!(one, Reference::Registry { .. }))?;
            // No tag is the tag latest.
            if one.target().is_none() { format!("{text}:latest").parse().ok() } else { Some(one) }
        };
        let (own, meant) = (parse(&self.container.image)?, parse(image)?);
        (own != meant).then(|| Finding {
            code: "other-image",
            level: Level::Warning,
            place: self.container.place.clone(),
            what: format!(
                "it runs {}, and nothing of what is told here about {image} is true of it",
                self.container.image
            ),
            why: "the manifest names another image, or another tag of it".to_owned(),
            fix: match self.detail.format {
                Format::Values => Some("set image.repository and image.tag".to_owned()),
                _ => self.beside(&[&format!("image: {image}")]),
            },
        })
    }

    /// A Kong that is started before the proxy takes ports of the node too.
    fn init(&self) -> Option<Finding> {
        let words = self.container.command.iter().chain(&self.container.args).flatten();
        let starts = words.clone().any(|word| word.contains("kong start") || word == "docker-start");
        if self.container.role != Role::Init || !self.container.host_network || !starts {
            return None;
        }
        let listeners = self.listeners().filter(|listeners| !listeners.is_empty())?;
        let ports = Self::ports_text(&listeners);
        Some(Finding {
            code: "init-binds-node-ports",
            level: Level::Warning,
            place: self.container.place.clone(),
            what: format!(
                "if ports {ports} of the node are taken, the pod stays in Init: bind() failed (98: Address already in use)"
            ),
            why: "this container starts Kong for a moment, in the network of the node".to_owned(),
            // The chart gives all its containers the same variables.
            fix: self.variable("KONG_PROXY_LISTEN", "off").filter(|_| self.detail.format != Format::Values),
        })
    }
}

/// M9: Services that send connections where nobody listens.
fn services(found: &Found, facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &found.services {
        let near = |detail: &Detail| match (&service.namespace, &detail.namespace) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        let selects = |detail: &Detail| {
            !service.selector.is_empty()
                && near(detail)
                && service.selector.iter().all(|(key, value)| detail.labels.get(key) == Some(value))
        };
        let pairs: Vec<Pair<'_>> = found
            .containers
            .iter()
            .zip(&found.details)
            .filter(|(container, detail)| container.role == Role::Main && selects(detail))
            .map(|(container, detail)| Pair { container, detail, facts })
            .collect();
        for (place, port, target) in &service.ports {
            let dead = PORTS.contains(target) && pairs.iter().all(|pair| !pair.may_listen(*target));
            let Some(listeners) = pairs.first().filter(|_| dead).and_then(Pair::listeners) else { continue };
            let ssl = [443, 8443].contains(target);
            let new = listeners.iter().find(|listener| listener.is_ssl() == ssl).or(listeners.first());
            findings.push(Finding {
                code: "service-target-port",
                level: Level::Warning,
                place: place.clone(),
                what: format!("connections to port {port} of Service {} fail: Connection refused", service.name),
                why: format!(
                    "it sends them to port {target} of the pods, and Kong listens on {}",
                    Pair::ports_text(&listeners)
                ),
                fix: new.map(|listener| format!("targetPort: {}", listener.port)),
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests;
