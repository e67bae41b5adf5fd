//! What is edited in one container that runs Kong.

use super::cursor::Cursor;
use super::edit::Edits;
use super::new::New;
use super::{Options, PORTS, Warning, Way, warn};
use crate::error::{Error, Result};
use crate::kong::{Version, listen, ports};

/// What a container does with the image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is the proxy.
    Serves,
    /// It comes before the proxy, or debugs it, in the same pod.
    Helps,
    /// It does a job, such as migrations, and stays off the network of the node.
    Works,
}

/// Container ports with such names are never the proxy's.
const OTHER_PORTS: [&str; 4] = ["admin", "status", "metrics", "cluster"];

/// Edits one container; the names and ports of the proxy go to `proxy_ports`.
pub(super) fn edit(
    container: &Cursor<'_>,
    role: Role,
    pod: &Cursor<'_>,
    edits: &mut Edits<'_>,
    options: &Options,
    warnings: &mut Vec<Warning>,
    proxy_ports: &mut Vec<(String, u16)>,
) -> Result<()> {
    let Some(image) = container.get("image")? else { return Ok(()) };
    let old = image.node.text().unwrap_or_default();
    let name = container.text("name")?.unwrap_or("?");
    let mut version = tag(old);
    if let Way::Capability { written, .. } = &options.way {
        // What will run counts.
        version = tag(written).or(version);
        if old != written {
            edits.replace(&image, written, format!("container {name}: image {old} → {written}"))?;
        }
        let policy = container.text("imagePullPolicy")?;
        if !written.contains('@') && matches!(policy, Some("IfNotPresent" | "Never")) {
            warn(
                warnings,
                &image,
                format!(
                    "container {name}: with imagePullPolicy {}, a node that has {written} already keeps what it has: use a new tag or name the image by digest",
                    policy.unwrap_or_default()
                ),
            );
        }
        security_context(container, pod, version.as_ref(), edits)?;
    }
    if role == Role::Works {
        return Ok(());
    }
    environment(container, role, version.as_ref(), edits, options, warnings)?;
    if role == Role::Serves {
        container_ports(container, edits, proxy_ports)?;
        probes(container, warnings);
    }
    Ok(())
}

/// The version of Kong in an image's tag.
fn tag(image: &str) -> Option<Version> {
    let name = image.split('@').next()?;
    name.rsplit_once(':')?.1.parse().ok()
}

/// Listen variables, and warnings about their neighbours.
fn environment(
    container: &Cursor<'_>,
    role: Role,
    version: Option<&Version>,
    edits: &mut Edits<'_>,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    let name = container.text("name")?.unwrap_or("?");
    let env = container.get("env")?.filter(|env| !env.node.is_null());
    let variables = env.as_ref().map(Cursor::items).unwrap_or_default();
    let host_network = matches!(options.way, Way::Capability { .. });
    let mut listens = None;
    for variable in &variables {
        let Some(key) = variable.text("name")? else { continue };
        let value = variable.get("value")?;
        let mut rewrite: fn(&str) -> Result<String> = low_ports;
        match key {
            "KONG_PROXY_LISTEN" => {
                listens = Some(value.as_ref().and_then(|value| value.node.text()).unwrap_or_default())
            }
            "KONG_STREAM_LISTEN" if options.stream => rewrite = low_addresses,
            "KONG_PROXY_LISTEN_FILE" => {
                listens = Some("");
                warn(
                    warnings,
                    variable,
                    format!(
                        "container {name}: KONG_PROXY_LISTEN comes from a file, which stays: make it listen on 80 and 443 there"
                    ),
                );
                continue;
            }
            "KONG_ADMIN_LISTEN" if host_network && role == Role::Serves => {
                if let Some(open) = value.and_then(|value| reachable(value.node.text()?)) {
                    warn(
                        warnings,
                        variable,
                        format!(
                            "container {name}: the admin API on {open} is reachable at the addresses of every node now: let it listen on 127.0.0.1, or firewall it"
                        ),
                    );
                }
                continue;
            }
            "KONG_PORT_MAPS" => {
                warn(
                    warnings,
                    variable,
                    format!(
                        "container {name}: KONG_PORT_MAPS maps ports that Kong does not listen on any more; it can go"
                    ),
                );
                continue;
            }
            _ => continue,
        }
        let Some(value) = value.filter(|value| !value.node.is_null() && value.node.text() != Some("")) else {
            warn(
                warnings,
                variable,
                format!(
                    "container {name}: {key} has no value in this manifest and stays: make it listen on 80 and 443 where it comes from"
                ),
            );
            continue;
        };
        let old = value.node.text().unwrap_or_default();
        let new = rewrite(old).map_err(|error| error.context(value.place()))?;
        if new != old {
            edits.rewrite(&value, rewrite, format!("container {name}: {key} {old} → {new}"))?;
        } else if key == "KONG_PROXY_LISTEN"
            && listen::parse(&new, None)
                .is_ok_and(|all| !all.is_empty() && !all.iter().any(|one| one.port < ports::UNPRIVILEGED))
        {
            warn(
                warnings,
                &value,
                format!("container {name}: KONG_PROXY_LISTEN is {old}, without port 8000 or 8443, and stays"),
            );
        }
    }
    if role == Role::Helps {
        if host_network && starts_kong(container) {
            let on = listens.and_then(|value| reachable(&low_ports(value).ok()?));
            let on = on.unwrap_or_else(|| "Kong's default ports 8000 and 8443".to_owned());
            warn(
                warnings,
                container,
                format!(
                    "container {name} starts Kong before the proxy and binds {on} on the node meanwhile: they must be free there"
                ),
            );
        }
        return Ok(());
    }
    if listens.is_none() {
        if container.get("envFrom")?.is_some() {
            warn(
                warnings,
                container,
                format!(
                    "container {name}: KONG_PROXY_LISTEN may come from envFrom, which stays: make it listen on 80 and 443 there"
                ),
            );
            return Ok(());
        }
        let value = ports::remap(listen::default_listen(version), &PORTS)?;
        let what = format!("container {name}: KONG_PROXY_LISTEN {value}, Kong's default on low ports");
        let variable = || New::Map(vec![("name", New::Text("KONG_PROXY_LISTEN")), ("value", New::Text(&value))]);
        return match env {
            Some(env) => edits.append(&env, &variable(), what),
            None => edits.set(container, "image", "env", &New::List(vec![variable()]), what),
        };
    }
    Ok(())
}

fn low_ports(value: &str) -> Result<String> {
    if value.contains("{{") {
        return Err(template());
    }
    // Its hint is for another command.
    ports::remap(value, &PORTS).map_err(|error| Error::content(error.to_string()).hint("mend it in the manifest first"))
}

/// The same for stream listeners, which have flags of their own (`subsystem_flags.stream` in Kong's loader).
fn low_addresses(value: &str) -> Result<String> {
    let listener = |text: &str| match text.split_whitespace().find(|word| word.contains(':')) {
        Some(address) => Ok(text.replacen(address, &low_ports(address)?, 1)),
        None => Ok(text.to_owned()),
    };
    Ok(value.split(',').map(listener).collect::<Result<Vec<_>>>()?.join(","))
}

fn template() -> Error {
    Error::content("this is a template").hint("render the chart first (helm template), or use --helm")
}

/// The listeners that are not on loopback addresses only.
fn reachable(value: &str) -> Option<String> {
    let listeners = listen::parse(value, None).ok()?;
    let local = |host: &str| host == "localhost" || host == "[::1]" || host.starts_with("127.");
    let open: Vec<String> =
        listeners.iter().filter(|one| !local(&one.host)).map(|one| format!("{}:{}", one.host, one.port)).collect();
    (!open.is_empty()).then(|| open.join(", "))
}

fn starts_kong(container: &Cursor<'_>) -> bool {
    let mut texts = Vec::new();
    ["command", "args"].iter().filter_map(|key| container.node.get(key)).for_each(|node| node.texts(&mut texts));
    texts.iter().filter_map(|node| node.text()).any(|text| text.contains("kong start") || text == "docker-start")
}

/// The low port that a port of the proxy becomes, or is.
pub(super) fn low_port(port: &Cursor<'_>) -> Result<Option<u16>> {
    let Some(number) = port.port("containerPort")? else { return Ok(None) };
    let name = port.text("name")?.unwrap_or_default();
    let tcp = port.text("protocol")?.is_none_or(|protocol| protocol == "TCP");
    let other = OTHER_PORTS.iter().any(|other| name.starts_with(other));
    let low = PORTS.iter().find(|(high, low)| tcp && !other && (number == *high || number == *low));
    Ok(low.map(|(_, low)| *low))
}

fn container_ports(container: &Cursor<'_>, edits: &mut Edits<'_>, proxy_ports: &mut Vec<(String, u16)>) -> Result<()> {
    let Some(list) = container.get("ports")? else { return Ok(()) };
    for port in list.items() {
        let Some(number) = port.get("containerPort")? else { continue };
        let old = number.node.text().unwrap_or_default();
        if old.contains("{{") {
            return Err(template().context(number.place()));
        }
        let Some(low) = low_port(&port)? else { continue };
        let name = port.text("name")?.unwrap_or_default();
        let shown = if name.is_empty() { String::new() } else { format!("{name} ") };
        proxy_ports.push((name.to_owned(), low));
        if number.node.port() != Some(low) {
            edits.replace_number(&number, &low.to_string(), format!("container port {shown}{old} → {low}"));
        }
    }
    Ok(())
}

fn probes(container: &Cursor<'_>, warnings: &mut Vec<Warning>) {
    for key in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        let mut texts = Vec::new();
        if let Some(probe) = container.node.get(key) {
            probe.texts(&mut texts);
        }
        let is_high = |port: u16| PORTS.iter().any(|(high, _)| port == *high);
        if let Some(node) = texts.into_iter().find(|node| node.port().is_some_and(is_high)) {
            let place = Cursor { node, ..container.clone() };
            warn(
                warnings,
                &place,
                format!(
                    "{key} asks port {}, where Kong does not listen any more, and stays",
                    node.text().unwrap_or_default()
                ),
            );
        }
    }
}

/// A container's context in which a program with `cap_net_bind_service=+ep` starts and keeps the capability: it must be in
/// the bounding set (else execve(2) fails with EPERM), and no_new_privs must be off.
fn security_context(
    container: &Cursor<'_>,
    pod: &Cursor<'_>,
    version: Option<&Version>,
    edits: &mut Edits<'_>,
) -> Result<()> {
    let name = container.text("name")?.unwrap_or("?");
    let what = |what: &str| format!("container {name}: securityContext {what}");
    let add = || New::List(vec![New::Text("NET_BIND_SERVICE")]);
    let all = || New::List(vec![New::Text("ALL")]);
    let drop = drops(container, pod, version);
    let both = || {
        let drop = drop.then(|| ("drop", all()));
        New::Map(drop.into_iter().chain([("add", add())]).collect())
    };
    let said = if drop { "capabilities: drop ALL, add NET_BIND_SERVICE" } else { "capabilities: add NET_BIND_SERVICE" };
    let Some(context) = container.get("securityContext")?.filter(|context| !context.node.is_nothing()) else {
        let new = New::Map(vec![("allowPrivilegeEscalation", New::Plain("true")), ("capabilities", both())]);
        let what = what(&format!("allowPrivilegeEscalation: true, {said}"));
        return edits.set(container, "image", "securityContext", &new, what);
    };
    if context.text("allowPrivilegeEscalation")? != Some("true") {
        edits.set(
            &context,
            "",
            "allowPrivilegeEscalation",
            &New::Plain("true"),
            what("allowPrivilegeEscalation: true"),
        )?;
    }
    let Some(capabilities) = context.get("capabilities")?.filter(|c| !c.node.entries().is_empty()) else {
        return edits.set(&context, "", "capabilities", &both(), what(said));
    };
    let listed = |list: &Cursor<'_>, names: &[&str]| -> Vec<usize> {
        let texts = list.node.items().iter().map(|item| item.text().unwrap_or_default());
        texts.enumerate().filter(|(_, text)| names.contains(text)).map(|(at, _)| at).collect()
    };
    // Whoever grants it already has thought about the others.
    let mut granted = false;
    match capabilities.get("add")?.filter(|list| !list.node.is_null()) {
        None => edits.set(&capabilities, "drop", "add", &add(), what("capabilities: add NET_BIND_SERVICE"))?,
        // containerd puts CAP_ in front of every name: one that has it already names nothing.
        Some(list) if listed(&list, &["NET_BIND_SERVICE", "ALL"]).is_empty() => {
            edits.append(&list, &New::Text("NET_BIND_SERVICE"), what("capabilities: add NET_BIND_SERVICE"))?;
        }
        Some(_) => granted = true,
    }
    match capabilities.get("drop")?.filter(|list| !list.node.is_null()) {
        None if drop && !granted => edits.set(&capabilities, "add", "drop", &all(), what("capabilities: drop ALL")),
        None => Ok(()),
        Some(list) => match &listed(&list, &["NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE"])[..] {
            [] => Ok(()),
            dropped => edits.remove_items(&list, dropped, &what("capabilities: NET_BIND_SERVICE is dropped no more")),
        },
    }
}

/// Whether the image can do without all other capabilities: official ones before 2.1 may start as root, change owners and
/// become kong, which takes CHOWN, SETUID and SETGID.
fn drops(container: &Cursor<'_>, pod: &Cursor<'_>, version: Option<&Version>) -> bool {
    let context = |key| [container, pod].iter().find_map(|cursor| cursor.node.text_at(&["securityContext", key]));
    match (context("runAsNonRoot"), context("runAsUser"), version) {
        (Some("true"), ..) => true,
        (_, Some(user), _) => user != "0",
        (.., Some(version)) => version.minor() >= (2, 1),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_listeners_keep_flags_that_we_do_not_know() {
        for (text, expected) in [
            ("0.0.0.0:8443 udp reuseport, [::]:9000 ssl", "0.0.0.0:443 udp reuseport, [::]:9000 ssl"),
            ("off", "off"),
            ("", ""),
        ] {
            assert_eq!(low_addresses(text).unwrap(), expected);
        }
        assert!(low_addresses("x:y:z").is_err() && low_addresses("{{ .Values.x }}:1").is_err());
    }

    #[test]
    fn addresses_that_others_reach_are_told() {
        for (text, open) in [
            ("127.0.0.1:8001, [::1]:8444 ssl, localhost:1", None),
            ("0.0.0.0:8444 ssl, 127.0.0.1:8001", Some("0.0.0.0:8444")),
            ("off", None),
        ] {
            assert_eq!(reachable(text).as_deref(), open);
        }
    }
}
