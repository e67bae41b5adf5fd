//! What the API server refuses after it could read it (`pkg/apis/core/validation` of Kubernetes).

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::pod::{Member, Workload};
use super::tree::Tree;
use super::typed::{maps, text};
use crate::doctor::{Finding, Level};

const USERS: RangeInclusive<i64> = 0..=2_147_483_647;
const PORTS: RangeInclusive<i64> = 1..=65_535;

/// A sentence of the API server, and what it is about.
struct Refused<'t, 'a> {
    at: &'t Tree<'a>,
    says: String,
}

/// The first value in a pod, of those that are looked at here, that is none for its field.
pub(super) fn values(workload: &Workload<'_, '_>) -> Option<Finding> {
    let spec = workload.spec;
    let mut found = Vec::new();
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    choice(spec, "dnsPolicy", &policies, &workload.path, &mut found);
    if let Some(context) = spec.get("securityContext") {
        users(context, &format!("{}.securityContext", workload.path), &mut found);
    }
    for Member { tree, path, .. } in &workload.containers {
        let path = format!("{}.{path}", workload.path);
        choice(tree, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], &path, &mut found);
        if let Some(context) = tree.get("securityContext") {
            users(context, &format!("{path}.securityContext"), &mut found);
        }
        for (at, port) in maps(tree, "ports").into_iter().enumerate() {
            let path = format!("{path}.ports[{at}]");
            match port.get("containerPort").map(|number| (number, number.integer())) {
                None => found.push(Refused { at: port, says: format!("{path}.containerPort: Required value") }),
                Some((at, Some(0))) => {
                    found.push(Refused { at, says: format!("{path}.containerPort: Required value") })
                }
                _ => range(port, "containerPort", PORTS, &path, &mut found),
            }
            if port.get("hostPort").and_then(Tree::integer) != Some(0) {
                range(port, "hostPort", PORTS, &path, &mut found);
            }
            choice(port, "protocol", &["SCTP", "TCP", "UDP"], &path, &mut found);
        }
        for (at, variable) in maps(tree, "env").into_iter().enumerate() {
            let value = variable.text_at(&["value"]).filter(|value| !value.is_empty());
            if let Some((_, source)) = value.zip(variable.get("valueFrom")) {
                let says = format!(
                    "{path}.env[{at}].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"
                );
                found.push(Refused { at: source, says });
            }
        }
    }
    let Refused { at, says } = found.into_iter().next()?;
    Some(finding(at, format!("kubectl apply fails: {says}"), "the API has no such value"))
}

/// Ports of the node that two ports of the pod want (`checkHostPortConflicts`). Those of a pod on its network are known
/// when it is made, not when its controller is.
pub(super) fn host_ports_twice(workload: &Workload<'_, '_>) -> Option<Finding> {
    let (mut written, mut taken) = (HashSet::new(), HashSet::new());
    let mut found = None;
    for (at, container) in maps(workload.spec, "containers").into_iter().enumerate() {
        for (number, port) in maps(container, "ports").into_iter().enumerate() {
            let integer = |key| port.get(key).and_then(Tree::integer).filter(|number| *number != 0);
            let protocol = port.text_at(&["protocol"]).unwrap_or("TCP");
            let address = port.text_at(&["hostIP"]).unwrap_or_default();
            let (host, inside) = (integer("hostPort"), integer("containerPort").filter(|_| workload.host_network));
            let Some(on_node) = host.or(inside) else { continue };
            let says = format!(
                ".containers[{at}].ports[{number}].hostPort: Duplicate value: \"{protocol}/{address}/{on_node}\""
            );
            let why = "a node has each of its ports once";
            if host.is_some_and(|host| !written.insert((protocol, address, host))) {
                return Some(finding(port, format!("kubectl apply fails: {}{says}", workload.path), why));
            }
            if !taken.insert((protocol, address, on_node)) && found.is_none() {
                found = Some(finding(port, format!("no pod is created: spec{says}"), why));
            }
        }
    }
    found
}

/// An update of a DaemonSet that may neither start a new pod nor end an old one, or both (`ValidateRollingUpdateDaemonSet`).
pub(super) fn daemon_set_update(workload: &Workload<'_, '_>) -> Option<Finding> {
    let update = workload.object.at(&["spec", "updateStrategy"]).filter(|_| workload.kind == "DaemonSet")?;
    if update.text_at(&["type"]) == Some("OnDelete") {
        return None;
    }
    let rolling = update.get("rollingUpdate")?;
    let is_zero = |key| rolling.text_at(&[key]).map(|text| matches!(text, "0" | "0%"));
    let path = "spec.updateStrategy.rollingUpdate";
    // Without a value, one pod may be unavailable.
    let (key, says) = match (is_zero("maxSurge"), is_zero("maxUnavailable")) {
        (Some(false), None | Some(false)) => {
            let surge = rolling.get("maxSurge")?;
            let text = surge.text().unwrap_or_default();
            // As Go shows an IntOrString.
            let value = match surge.integer() {
                Some(number) => format!("Type:0, IntVal:{number}, StrVal:\"\""),
                None => format!("Type:1, IntVal:0, StrVal:\"{text}\""),
            };
            let why = "may not be set when maxUnavailable is non-zero";
            ("maxSurge", format!("{path}.maxSurge: Invalid value: intstr.IntOrString{{{value}}}: {why}"))
        }
        (None | Some(true), Some(true)) => {
            ("maxUnavailable", format!("{path}.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"))
        }
        _ => return None,
    };
    let why = "an update takes pods away or starts others beside them";
    Some(finding(rolling.get(key)?, format!("kubectl apply fails: {says}"), why))
}

fn finding(at: &Tree<'_>, what: String, why: &str) -> Finding {
    Finding {
        code: "refused-by-api-server",
        level: Level::Breaks,
        place: at.place(),
        what,
        why: why.to_owned(),
        fix: None,
    }
}

fn users<'t, 'a>(context: &'t Tree<'a>, path: &str, found: &mut Vec<Refused<'t, 'a>>) {
    range(context, "runAsUser", USERS, path, found);
    range(context, "runAsGroup", USERS, path, found);
}

fn range<'t, 'a>(
    tree: &'t Tree<'a>,
    key: &str,
    allowed: RangeInclusive<i64>,
    path: &str,
    found: &mut Vec<Refused<'t, 'a>>,
) {
    if let Some((at, number)) = tree.get(key).and_then(|at| Some((at, at.integer()?)))
        && !allowed.contains(&number)
    {
        let (start, end) = allowed.into_inner();
        let says = format!("{path}.{key}: Invalid value: {number}: must be between {start} and {end}, inclusive");
        found.push(Refused { at, says });
    }
}

fn choice<'t, 'a>(tree: &'t Tree<'a>, key: &str, allowed: &[&str], path: &str, found: &mut Vec<Refused<'t, 'a>>) {
    if let Some((at, value)) = tree.get(key).and_then(|at| Some((at, text(tree, key)?)))
        && !allowed.contains(&value)
    {
        let allowed = allowed.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", ");
        let says = format!("{path}.{key}: Unsupported value: \"{value}\": supported values: {allowed}");
        found.push(Refused { at, says });
    }
}
