//! What the network of the node asks of a pod (`ValidatePodSpec` in `pkg/apis/core/validation` of Kubernetes).

use std::collections::HashSet;

use super::cursor::Cursor;
use super::edit::Edits;
use super::new::New;
use super::workload::UNPRIVILEGED_PORT_START;
use super::yaml::boolean;
use super::{Options, Warning, container, warn};
use crate::error::{Error, Result};

/// Puts a pod, whose path in its object is `path`, on the network of the node.
pub(super) fn edit(
    spec: &Cursor<'_>,
    path: &str,
    edits: &mut Edits<'_>,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    if let Some(users) = spec.get("hostUsers")?.filter(|users| users.node.text().and_then(boolean) == Some(false)) {
        return Err(Error::usage(format!(
            "{}: the API server refuses hostNetwork here: {path}.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
            users.place()
        ))
        .hint("take hostUsers out, or use --without-capability"));
    }
    if spec.text("hostNetwork")?.and_then(boolean) != Some(true) {
        edits.set(spec, "containers", "hostNetwork", &New::Plain("true"), "hostNetwork: true")?;
    }
    dns_policy(spec, edits, warnings)?;
    sysctls(spec, path, edits)?;
    ports(spec, edits, options)?;
    warn(
        warnings,
        spec,
        "Pod Security: hostNetwork violates the levels baseline and restricted, and allowPrivilegeEscalation: true violates restricted; the namespace needs pod-security.kubernetes.io/enforce: privileged",
    );
    Ok(())
}

fn dns_policy(spec: &Cursor<'_>, edits: &mut Edits<'_>, warnings: &mut Vec<Warning>) -> Result<()> {
    let (policy, what) = ("ClusterFirstWithHostNet", "dnsPolicy: ClusterFirstWithHostNet");
    let there = spec.get("dnsPolicy")?.filter(|there| !there.node.is_null());
    match there.as_ref().and_then(|there| there.node.text()) {
        None => edits.set(spec, "containers", "dnsPolicy", &New::Text(policy), what)?,
        Some("ClusterFirst") => {
            if let Some(there) = &there {
                edits.replace(there, policy, what)?;
            }
        }
        Some("ClusterFirstWithHostNet") => {}
        Some(other) => warn(
            warnings,
            spec,
            format!("dnsPolicy {other} stays: names of Services may not resolve on the host network"),
        ),
    }
    Ok(())
}

/// Sysctls of the network, of which the API server takes none: the capability is there instead of one of them.
fn sysctls(spec: &Cursor<'_>, path: &str, edits: &mut Edits<'_>) -> Result<()> {
    let Some(list) = spec.at(&["securityContext", "sysctls"])? else { return Ok(()) };
    let mut needless = Vec::new();
    for (at, sysctl) in list.items().iter().enumerate() {
        let name = sysctl.text("name")?.unwrap_or_default();
        match name.replace('/', ".") {
            dotted if dotted == UNPRIVILEGED_PORT_START => needless.push(at),
            dotted if dotted.starts_with("net.") => {
                return Err(Error::usage(format!(
                    "{}: the API server refuses hostNetwork beside this: {path}.securityContext.sysctls[{at}].name: Invalid value: \"{name}\": may not be specified when 'hostNetwork' is true",
                    sysctl.place()
                ))
                .hint("take it out and set it on the nodes, or use --without-capability"));
            }
            _ => {}
        }
    }
    if needless.is_empty() {
        return Ok(());
    }
    edits.remove_items(
        &list,
        &needless,
        &format!("sysctl {UNPRIVILEGED_PORT_START} removed: with hostNetwork it may not be there"),
    )
}

/// Ports of containers, which are ports of the node now: each may be there once and must not be mapped to another.
fn ports(spec: &Cursor<'_>, edits: &mut Edits<'_>, options: &Options) -> Result<()> {
    let Some(containers) = spec.get("containers")? else { return Ok(()) };
    let mut taken = HashSet::new();
    for (at, owner) in containers.items().iter().enumerate() {
        let is_kong = owner.text("image")?.is_some_and(|image| options.is_kong(image));
        let Some(list) = owner.get("ports")? else { continue };
        for (number, port) in list.items().iter().enumerate() {
            let low = if is_kong { container::low_port(port)? } else { None };
            let Some(inside) = low.or(port.port("containerPort")?) else { continue };
            let name = port.text("name")?.map_or(String::new(), |name| format!("{name} "));
            let host = port.get("hostPort")?.filter(|host| !host.node.is_null() && host.node.port() != Some(0));
            if let Some(host) = host.filter(|host| host.node.port() != Some(inside)) {
                edits.replace_number(&host, &inside.to_string(), format!("host port {name}→ {inside}"));
            }
            let protocol = port.text("protocol")?.unwrap_or("TCP");
            let address = port.text("hostIP")?.unwrap_or_default();
            if !taken.insert((protocol, address, inside)) {
                return Err(Error::content(format!(
                    "{}: on the network of the node the API server refuses the pod: spec.containers[{at}].ports[{number}].hostPort: Duplicate value: \"{protocol}/{address}/{inside}\"",
                    port.place()
                ))
                .hint("give each port of the pod once"));
            }
        }
    }
    Ok(())
}
