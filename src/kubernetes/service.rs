//! Services in front of Kong, and what refers to objects that go.

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
                    only &= number.node.text() == Some(&low.to_string());
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
            let low = low.to_string();
            let what = format!("Service {}: targetPort → {low}", object.name());
            let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
            match target {
                Some(target) if target.node.text().is_some_and(|text| is_number(text) && text != low) => {
                    edits.replace_number(&target, &low, what);
                }
                None if number.node.text() != Some(&low) => {
                    edits.set(&port, "port", "targetPort", &New::Plain(&low), what)?
                }
                _ => {}
            }
        }
    }
    take_out(&gone, files, warnings)?;
    references(objects, &gone, options, warnings);
    Ok(())
}

/// Whether the Service selects the pods.
fn selects(service: &Object<'_>, workload: &Workload<'_>) -> bool {
    let selector = service.cursor.node.at(&["spec", "selector"]).map(Node::entries).unwrap_or_default();
    let Some(labels) = workload.labels else { return false };
    let label = |(key, value): &(Node, Node)| {
        key.text().is_some_and(|key| value.text().is_some() && labels.text_at(&[key]) == value.text())
    };
    service.namespace() == workload.namespace && !selector.is_empty() && selector.iter().all(label)
}

fn leads(target: &Cursor<'_>, workload: &Workload<'_>) -> Leads {
    let text = target.node.text().unwrap_or_default();
    let low = match text.parse::<u16>() {
        Ok(number) => PORTS.iter().find(|(high, low)| number == *high || number == *low).map(|(_, low)| *low),
        Err(_) => workload.ports.iter().find(|(name, _)| name == text).map(|(_, low)| *low),
    };
    low.map_or(Leads::Elsewhere, Leads::ToProxy)
}

fn take_out(gone: &[&Object<'_>], files: &mut [Edits<'_>], warnings: &mut Vec<Warning>) -> Result<()> {
    for (at, service) in gone.iter().enumerate() {
        let name = service.name();
        let what = format!("Service {name} removed: Kong has ports 80 and 443 itself");
        let edits = &mut files[service.file];
        match &service.list {
            None => edits.remove_document(service.document, service.cursor.node.line, what),
            // Those of one list go together.
            Some((list, _)) => {
                let same = |other: &&&Object<'_>| {
                    other.file == service.file && other.list.as_ref().is_some_and(|(l, _)| l.path == list.path)
                };
                if !gone[..at].iter().any(|other| same(&other)) {
                    let which: Vec<usize> = gone.iter().filter(same).filter_map(|o| Some(o.list.as_ref()?.1)).collect();
                    edits.remove_items(list, &which, &what)?;
                }
            }
        }
        warn(
            warnings,
            &service.cursor,
            format!(
                "kubectl apply leaves the Service that is no longer in the manifest: kubectl delete service {name}"
            ),
        );
        if service.cursor.node.text_at(&["spec", "type"]) == Some("LoadBalancer") {
            warn(
                warnings,
                &service.cursor,
                format!("Service {name} is a LoadBalancer, and its address goes with it; --keep-service keeps it"),
            );
        }
    }
    Ok(())
}

/// Objects that name one that went or changed its kind.
fn references(objects: &[Object<'_>], gone: &[&Object<'_>], options: &Options, warnings: &mut Vec<Warning>) {
    let converted = |name: Option<&str>| {
        matches!(options.way, Way::Capability { .. })
            && objects.iter().any(|o| o.kind() == "Deployment" && Some(o.name()) == name && o.converted(options))
    };
    for object in objects {
        if object.kind() == "HorizontalPodAutoscaler"
            && converted(object.cursor.node.text_at(&["spec", "scaleTargetRef", "name"]))
        {
            warn(
                warnings,
                &object.cursor,
                format!(
                    "HorizontalPodAutoscaler {} scales a Deployment that is a DaemonSet now: remove it",
                    object.name()
                ),
            );
        }
        let mut texts = Vec::new();
        object.cursor.node.texts(&mut texts);
        for service in gone.iter().filter(|service| !std::ptr::eq(**service, object)) {
            let name = service.name();
            let names = |text: &str| {
                let rest = text.rsplit_once('/').map_or(text, |(_, rest)| rest);
                (rest == name && (text != name || object.kind() == "Ingress"))
                    || text.contains(&format!("{name}.")) && text.contains(".svc")
            };
            if let Some(node) = texts.iter().find(|node| !name.is_empty() && node.text().is_some_and(names)) {
                let place = Cursor { node, ..object.cursor.clone() };
                warn(
                    warnings,
                    &place,
                    format!("this names the Service {name}, which is removed; --keep-service keeps it"),
                );
            }
        }
    }
}
