//! Services of Kubernetes that send connections to ports by their numbers.

use super::Service;
use super::tree::Tree;

/// A Service that selects pods.
pub(super) fn read(object: &Tree<'_>) -> Option<Service> {
    let selector = object.at(&["spec", "selector"])?.entries();
    let selector =
        selector.iter().filter_map(|(key, value)| Some((key.clone().into_owned(), value.text()?.to_owned())));
    let number = |tree: &Tree<'_>| tree.integer().and_then(|number| u16::try_from(number).ok());
    let ports = object.at(&["spec", "ports"]).map(Tree::items).unwrap_or_default().iter().filter_map(|entry| {
        let port = entry.get("port").and_then(number)?;
        // A target that is not there is the port itself; a name finds its way alone.
        let target = entry.get("targetPort").map_or(Some(port), number)?;
        let tcp = entry.text_at(&["protocol"]).is_none_or(|protocol| protocol == "TCP");
        tcp.then(|| (entry.get("targetPort").unwrap_or(entry).place(), port, target))
    });
    Some(Service {
        name: object.text_at(&["metadata", "name"]).unwrap_or("?").to_owned(),
        namespace: object.text_at(&["metadata", "namespace"]).map(str::to_owned),
        selector: selector.collect(),
        ports: ports.collect(),
    })
}
