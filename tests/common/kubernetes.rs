//! What the API server of Kubernetes says about an object: its types, and those of its rules that `capatch k8s` touches.

#![allow(unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::Ingress;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is wrong with an object, or with those of a list, each with its path; empty if nothing is.
pub fn problems(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let version = text(&object["apiVersion"]);
    match (version, text(&object["kind"])) {
        ("v1", "List") => {
            let items = list(&object["items"]).iter().enumerate();
            return items
                .flat_map(|(at, item)| problems(item).into_iter().map(move |p| format!("items.{at}.{p}")))
                .collect();
        }
        // Once served, with the same fields.
        ("apps/v1" | "apps/v1beta1" | "apps/v1beta2" | "extensions/v1beta1", kind) => {
            if version != "apps/v1" {
                found.push(format!("apiVersion: {version} is not served"));
            }
            let mut current = object.clone();
            current["apiVersion"] = "apps/v1".into();
            match kind {
                "Deployment" => typed::<Deployment>(&current, &mut found),
                "DaemonSet" => typed::<DaemonSet>(&current, &mut found),
                "StatefulSet" => typed::<StatefulSet>(&current, &mut found),
                kind => panic!("{version} {kind} has no type here"),
            }
            workload(object, kind, &mut found);
        }
        ("batch/v1", "Job") => {
            typed::<Job>(object, &mut found);
            template(&object["spec"]["template"], "spec.template", &["Never", "OnFailure"], &mut found);
        }
        ("batch/v1", "CronJob") => {
            typed::<CronJob>(object, &mut found);
            let pod = &object["spec"]["jobTemplate"]["spec"]["template"];
            template(pod, "spec.jobTemplate.spec.template", &["Never", "OnFailure"], &mut found);
        }
        ("v1", "Pod") => {
            typed::<Pod>(object, &mut found);
            template(object, "", &["Always", "OnFailure", "Never", ""], &mut found);
        }
        ("v1", "Service") => {
            typed::<Service>(object, &mut found);
            service(object, &mut found);
        }
        ("v1", "Namespace") => typed::<Namespace>(object, &mut found),
        ("v1", "ConfigMap") => typed::<ConfigMap>(object, &mut found),
        ("v1", "Secret") => typed::<Secret>(object, &mut found),
        ("v1", "ServiceAccount") => typed::<ServiceAccount>(object, &mut found),
        ("autoscaling/v2", "HorizontalPodAutoscaler") => typed::<HorizontalPodAutoscaler>(object, &mut found),
        ("networking.k8s.io/v1", "Ingress") => typed::<Ingress>(object, &mut found),
        // A custom kind, of which Kubernetes itself knows nothing.
        (version, _) if version.contains('.') && !version.contains(".k8s.io/") => {}
        (version, kind) => panic!("{version} {kind} has no type here"),
    }
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        found.push("metadata.name: required".to_owned());
    }
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether the type takes all of it: what it does not know, it would not give back.
fn typed<T: DeserializeOwned + Serialize>(object: &Value, found: &mut Vec<String>) {
    match serde_json::from_value::<T>(object.clone()) {
        Ok(known) => lost(object, &serde_json::to_value(known).unwrap(), "", found),
        Err(e) => found.push(e.to_string()),
    }
}

fn lost(given: &Value, kept: &Value, path: &str, found: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                match kept.get(key) {
                    Some(kept) => lost(value, kept, &path, found),
                    None => found.push(format!("unknown field \"{}\"", path.trim_start_matches('.'))),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            given.iter().zip(kept).enumerate().for_each(|(at, (a, b))| lost(a, b, &format!("{path}[{at}]"), found));
        }
        // Times are written in one form.
        (given, kept) if given != kept && !path.ends_with("Timestamp") => {
            found.push(format!("{path}: {given} became {kept}"))
        }
        _ => {}
    }
}

fn workload(object: &Value, kind: &str, found: &mut Vec<String>) {
    let spec = &object["spec"];
    template(&spec["template"], "spec.template", &["Always", ""], found);
    let labels = spec["template"]["metadata"]["labels"].as_object();
    match spec["selector"]["matchLabels"].as_object() {
        Some(wanted) if !wanted.is_empty() => {
            let matches = wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
            if !matches {
                found.push("spec.template.metadata.labels: `selector` does not match template `labels`".to_owned());
            }
        }
        // The older versions take it from the labels.
        _ if object["apiVersion"] == "apps/v1" => found.push("spec.selector: required".to_owned()),
        _ => {}
    }
    // validation.go, ValidateRollingUpdateDaemonSet: without a value, one may be unavailable.
    let update = &spec["updateStrategy"]["rollingUpdate"];
    let zero = |value: &Value| *value == 0 || *value == "0%";
    let surges = !update["maxSurge"].is_null() && !zero(&update["maxSurge"]);
    if kind == "DaemonSet" && surges && !zero(&update["maxUnavailable"]) {
        found.push(
            "spec.updateStrategy.rollingUpdate.maxSurge: may not be set when maxUnavailable is non-zero".to_owned(),
        );
    }
}

fn template(pod: &Value, path: &str, restart: &[&str], found: &mut Vec<String>) {
    let spec = &pod["spec"];
    let path = format!("{path}.spec");
    let path = path.trim_start_matches('.');
    let host_network = spec["hostNetwork"] == true;
    if !restart.contains(&text(&spec["restartPolicy"])) {
        found.push(format!("{path}.restartPolicy: {} is not supported", spec["restartPolicy"]));
    }
    if !["", "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"].contains(&text(&spec["dnsPolicy"])) {
        found.push(format!("{path}.dnsPolicy: {} is not supported", spec["dnsPolicy"]));
    }
    for sysctl in list(&spec["securityContext"]["sysctls"]).iter().filter(|_| host_network) {
        let name = text(&sysctl["name"]);
        if name.starts_with("net.") {
            found.push(format!(
                "{path}.securityContext.sysctls: {name} may not be specified when 'hostNetwork' is true"
            ));
        }
    }
    if list(&spec["containers"]).is_empty() {
        found.push(format!("{path}.containers: required"));
    }
    let mut names = BTreeSet::new();
    for (kind, at, container) in ["initContainers", "containers"]
        .into_iter()
        .flat_map(|kind| list(&spec[kind]).iter().enumerate().map(move |(at, container)| (kind, at, container)))
    {
        let path = format!("{path}.{kind}[{at}]");
        if !names.insert(text(&container["name"])) || text(&container["name"]).is_empty() {
            found.push(format!("{path}.name: required, and once"));
        }
        if text(&container["image"]).trim().is_empty() {
            found.push(format!("{path}.image: required"));
        }
    }
    ports(list(&spec["containers"]), path, host_network, found);
}

fn ports(containers: &[Value], path: &str, host_network: bool, found: &mut Vec<String>) {
    // Ports of the node are shared by the containers of a pod.
    let mut taken = BTreeSet::new();
    for (at, container) in containers.iter().enumerate() {
        let mut names = BTreeSet::new();
        for (number, port) in list(&container["ports"]).iter().enumerate() {
            let path = format!("{path}.containers[{at}].ports[{number}]");
            let inside = port["containerPort"].as_u64().unwrap_or_default();
            let outside = port["hostPort"].as_u64().or(host_network.then_some(inside));
            if !(1..=65535).contains(&inside) {
                found.push(format!("{path}.containerPort: must be between 1 and 65535"));
            }
            if host_network && outside != Some(inside) {
                found.push(format!("{path}.hostPort: must match `containerPort` when `hostNetwork` is true"));
            }
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            if outside.is_some_and(|outside| !taken.insert((outside, protocol, text(&port["hostIP"])))) {
                found.push(format!("{path}.hostPort: duplicate value"));
            }
            let name = text(&port["name"]);
            if name.len() > 15 || (!name.is_empty() && !names.insert(name)) {
                found.push(format!("{path}.name: duplicate value, or longer than 15 characters"));
            }
        }
    }
}

fn service(object: &Value, found: &mut Vec<String>) {
    let ports = list(&object["spec"]["ports"]);
    let mut taken = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{at}]");
        if !taken.insert((port["port"].as_u64(), port["protocol"].as_str().unwrap_or("TCP"))) {
            found.push(format!("{path}: duplicate value"));
        }
        if ports.len() > 1 && !names.insert(text(&port["name"])) {
            found.push(format!("{path}.name: required, and once"));
        }
        if port["targetPort"].as_u64().is_some_and(|target| !(1..=65535).contains(&target)) {
            found.push(format!("{path}.targetPort: must be between 1 and 65535"));
        }
    }
    if ports.is_empty() && object["spec"]["clusterIP"] != "None" && object["spec"]["type"] != "ExternalName" {
        found.push("spec.ports: required".to_owned());
    }
}
