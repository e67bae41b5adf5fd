//! Services in front of Kong, and what refers to objects that go.

use std::collections::HashSet;

use indexmap::IndexMap;

use super::cursor::Cursor;
use super::edit::Edits;
use super::new::New;
use super::workload::Workload;
use super::yaml::Node;
use super::{Object, Options, PORTS, Warning, Way, warn};
use crate::error::Result;

/// What a port of a Service leads to.
enum Leads {
    /// A port of the proxy: the low one.
    ToProxy(u16),
    Elsewhere,
}

/// Removes the Services that only mapped 80 and 443 to the proxy, or retargets them.
pub(super) fn edit(
    objects: &[Object<'_>],
    workloads: &[Workload<'_>],
    files: &mut [Edits<'_>],
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    let remove = !options.keep_service && matches!(options.way, Way::Capability { .. });
    let mut gone: Vec<&Object<'_>> = Vec::new();
    for object in objects.iter().filter(|object| object.kind() == "Service") {
        let Some(workload) = workloads.iter().find(|workload| workload.serves && selects(object, workload)) else {
            continue;
        };
        let Some(list) = object.cursor.at(&["spec", "ports"])? else { continue };
        let mut only = true;
        let mut retarget = Vec::new();
        for port in list.items() {
            let Some(number) = port.get("port")? else { continue };
            let target = port.get("targetPort")?;
            match leads(target.as_ref().unwrap_or(&number), workload) {
                Leads::ToProxy(low) => {
                    only &= number.node.port() == Some(low);
                    retarget.push((port, number, target, low));
                }
                Leads::Elsewhere => only = false,
            }
        }
        if only && remove && !retarget.is_empty() {
            gone.push(object);
            continue;
        }
        let edits = &mut files[object.file];
        for (port, number, target, low) in retarget {
            let what = format!("Service {}: targetPort → {low}", object.name());
            match target {
                Some(target) if target.node.port().is_some_and(|number| number != low) => {
                    edits.replace_number(&target, &low.to_string(), what);
                }
                None if number.node.port() != Some(low) => {
                    edits.set(&port, "port", "targetPort", &New::Plain(&low.to_string()), what)?
                }
                _ => {}
            }
        }
    }
    take_out(&gone, files, warnings)?;
    references(objects, &gone, options, warnings);
    pod_security(objects, workloads, options, warnings);
    Ok(())
}

/// Whether the Service selects the pods.
fn selects(service: &Object<'_>, workload: &Workload<'_>) -> bool {
    let selector = service.cursor.node.at(&["spec", "selector"]).map(Node::entries).unwrap_or_default();
    let label = |(key, value): &(Node, Node)| {
        key.text().is_some_and(|key| value.text().is_some() && workload.labels.get(key).copied() == value.text())
    };
    service.namespace() == workload.namespace && !selector.is_empty() && selector.iter().all(label)
}

fn leads(target: &Cursor<'_>, workload: &Workload<'_>) -> Leads {
    let text = target.node.text().unwrap_or_default();
    let low = match target.node.port() {
        Some(number) => PORTS.iter().find(|(high, low)| number == *high || number == *low).map(|(_, low)| *low),
        None => workload.ports.iter().find(|(name, _)| name == text).map(|(_, low)| *low),
    };
    low.map_or(Leads::Elsewhere, Leads::ToProxy)
}

fn take_out(gone: &[&Object<'_>], files: &mut [Edits<'_>], warnings: &mut Vec<Warning>) -> Result<()> {
    let mut lists: IndexMap<(usize, &str), Vec<&Object<'_>>> = IndexMap::new();
    for service in gone {
        let name = service.name();
        match &service.list {
            None => {
                let edits = &mut files[service.file];
                edits.remove_document(service.document, service.cursor.node.line, removed(name));
            }
            // Those of one list go together.
            Some((list, _)) => {
                lists.entry((service.file, &list.path)).or_default().push(service);
            }
        }
        let message = format!("kubectl apply leaves what is no longer in a manifest: kubectl delete service {name}");
        warn(warnings, &service.cursor, message);
        if service.cursor.node.text_at(&["spec", "type"]) == Some("LoadBalancer") {
            let message =
                format!("Service {name} is a LoadBalancer, and its address goes with it; --keep-service keeps it");
            warn(warnings, &service.cursor, message);
        }
    }
    for ((file, _), services) in lists {
        let items: Vec<usize> = services.iter().filter_map(|service| Some(service.list.as_ref()?.1)).collect();
        let names: Vec<&str> = services.iter().map(|service| service.name()).collect();
        if let Some((list, _)) = services.first().and_then(|service| service.list.as_ref()) {
            files[file].remove_items(list, &items, &removed(&names.join(", ")))?;
        }
    }
    Ok(())
}

fn removed(name: &str) -> String {
    format!("Service {name} removed: Kong has ports 80 and 443 itself")
}

/// Objects that name one that went or changed its kind.
fn references(objects: &[Object<'_>], gone: &[&Object<'_>], options: &Options, warnings: &mut Vec<Warning>) {
    let services: HashSet<&str> = gone.iter().map(|service| service.name()).filter(|name| !name.is_empty()).collect();
    let converted: HashSet<&str> =
        objects.iter().filter(|object| object.converted(options)).map(Object::name).collect();
    let removed: HashSet<*const Node> = gone.iter().map(|service| std::ptr::from_ref(service.cursor.node)).collect();
    for object in objects.iter().filter(|object| !removed.contains(&std::ptr::from_ref(object.cursor.node))) {
        let scaled = object.cursor.node.text_at(&["spec", "scaleTargetRef", "name"]).unwrap_or_default();
        if object.kind() == "HorizontalPodAutoscaler" && converted.contains(scaled) {
            let message = format!("{} scales Deployment {scaled}, which is a DaemonSet now: remove it", object.name());
            warn(warnings, &object.cursor, message);
        }
        let (mut texts, kind) = (Vec::new(), object.kind());
        object.cursor.node.texts(&mut texts);
        for node in texts {
            if let Some(name) = node.text().and_then(|text| service_in(text, kind, &services)) {
                let place = Cursor { node, ..object.cursor.clone() };
                warn(warnings, &place, format!("this names Service {name}, which is removed; --keep-service keeps it"));
            }
        }
    }
}

/// The Service that a text names: NAMESPACE/NAME, a DNS name below .svc, or a backend of an Ingress.
fn service_in<'a>(text: &'a str, kind: &str, services: &HashSet<&str>) -> Option<&'a str> {
    let known = |name: &&str| services.contains(*name);
    let label = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    match text.rsplit_once('/') {
        None if kind == "Ingress" => Some(text).filter(known),
        Some((_, name)) if services.contains(name) => Some(name),
        _ if text.contains(".svc") => text.split(label).find(known),
        _ => None,
    }
}

/// Namespaces that will not admit the pods.
fn pod_security(objects: &[Object<'_>], workloads: &[Workload<'_>], options: &Options, warnings: &mut Vec<Warning>) {
    let host_network = matches!(options.way, Way::Capability { .. });
    let used: HashSet<Option<&str>> = workloads.iter().map(|workload| workload.namespace).collect();
    for object in objects.iter().filter(|object| host_network && object.kind() == "Namespace") {
        let level = object.cursor.node.text_at(&["metadata", "labels", "pod-security.kubernetes.io/enforce"]);
        if let Some(level @ ("baseline" | "restricted")) = level
            && used.contains(&Some(object.name()))
        {
            let message = format!("Namespace {} enforces the level {level} and will refuse these pods", object.name());
            warn(warnings, &object.cursor, message);
        }
    }
}
