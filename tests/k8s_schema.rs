//! What `capatch k8s` writes, held against the types of Kubernetes and the rules of its API server.

mod common;
#[path = "common/kubernetes.rs"]
mod kubernetes;

use common::manifests::{KONG, documents, edit, fixtures};
use kubernetes::problems;
use serde_json::{Value, json};

/// Every object of every document, those in lists one by one.
fn objects(text: &str) -> Vec<Value> {
    let one = |object: Value| match object["kind"].as_str() {
        Some("List") => object["items"].as_array().unwrap().clone(),
        _ => vec![object],
    };
    documents(text).into_iter().flat_map(one).collect()
}

/// What is left of what was wrong before; the program warns of each.
const LEFT: [(&str, &str); 2] = [
    ("daemonset.yaml", "unknown field \"spec.template.spec.securityContext.capabilities\""),
    ("daemonset.yaml", "spec.updateStrategy.rollingUpdate.maxSurge: may not be set"),
];

#[test]
fn every_result_is_an_object_of_its_type_and_obeys_the_rules() {
    let keep = [&KONG[..], &["--keep-service"]].concat();
    for (name, old) in fixtures() {
        let before = objects(&old);
        for way in [&KONG[..], &keep, &["--without-capability"]] {
            if way == ["--without-capability"] && name == "write-up-after.yaml" {
                continue;
            }
            let after = objects(&edit(way, &old).succeeded().stdout);
            // What is left alone is not ours to judge.
            let edited = after.iter().filter(|object| !before.contains(object));
            for problem in edited.flat_map(problems) {
                let left = LEFT.iter().any(|(file, text)| *file == name && problem.starts_with(text));
                assert!(left, "{name}: {way:?}: {problem}");
            }
        }
    }
}

#[test]
fn the_write_up_s_own_manifests_are_valid_but_for_what_it_says_itself() {
    for (name, expected) in
        [("write-up-before.yaml", &["apiVersion: apps/v1beta2 is not served"][..]), ("write-up-after.yaml", &[])]
    {
        let found: Vec<String> = objects(&common::manifests::read(name)).iter().flat_map(problems).collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// The DaemonSet of all tests below.
fn daemon_set() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "kong"},
        "spec": {
            "selector": {"matchLabels": {"app": "kong"}},
            "template": {
                "metadata": {"labels": {"app": "kong"}},
                "spec": {
                    "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet",
                    "containers": [
                        {"name": "kong", "image": "kong:3.9", "env": [{"name": "A", "value": "1"}],
                         "ports": [{"name": "proxy", "containerPort": 80}, {"name": "tls", "containerPort": 443, "hostPort": 443}]},
                        {"name": "other", "image": "other:1", "ports": [{"containerPort": 9000}]},
                    ],
                },
            },
        },
    })
}

#[test]
fn what_is_wrong_is_refused() {
    assert_eq!(problems(&daemon_set()), Vec::<String>::new());
    for (pointer, key, value, expected) in [
        ("/spec", "replicas", json!(1), "unknown field \"spec.replicas\""),
        ("/spec", "strategy", json!({"type": "Recreate"}), "unknown field \"spec.strategy\""),
        ("/spec", "selector", json!({"matchLabels": {"app": "other"}}), "`selector` does not match"),
        ("/spec", "selector", json!({}), "spec.selector: required"),
        ("/spec", "updateStrategy", json!({"rollingUpdate": {"maxSurge": 1}}), "maxSurge: may not be set"),
        ("", "apiVersion", json!("apps/v1beta2"), "not served"),
        ("", "metadata", json!({}), "metadata.name: required"),
        (
            "/spec/template/spec",
            "securityContext",
            json!({"capabilities": {"add": []}}),
            "unknown field \"spec.template.spec.securityContext.capabilities\"",
        ),
        (
            "/spec/template/spec",
            "securityContext",
            json!({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]}),
            "when 'hostNetwork' is true",
        ),
        ("/spec/template/spec", "hostNetwork", json!("true"), "expected a boolean"),
        ("/spec/template/spec", "dnsPolicy", json!("ClusterFirstWithHostNetwork"), "dnsPolicy"),
        ("/spec/template/spec", "restartPolicy", json!("Never"), "restartPolicy"),
        ("/spec/template/spec", "containers", json!([]), "containers: required"),
        (
            "/spec/template/spec/containers/0",
            "hostNetwork",
            json!(true),
            "unknown field \"spec.template.spec.containers[0].hostNetwork\"",
        ),
        (
            "/spec/template/spec/containers/0",
            "securityContext",
            json!({"allowPrivilegeEscalation": "yes"}),
            "expected a boolean",
        ),
        (
            "/spec/template/spec/containers/0",
            "securityContext",
            json!({"capabilities": {"add": "NET_BIND_SERVICE"}}),
            "expected a sequence",
        ),
        ("/spec/template/spec/containers/0", "image", json!(""), "image: required"),
        ("/spec/template/spec/containers/0/env/0", "value", json!(80), "expected a string"),
        ("/spec/template/spec/containers/0/ports/0", "hostPort", json!(8000), "must match `containerPort`"),
        ("/spec/template/spec/containers/0/ports/0", "containerPort", json!("80"), "expected i32"),
        ("/spec/template/spec/containers/0/ports/0", "containerPort", json!(70000), "between 1 and 65535"),
        ("/spec/template/spec/containers/0/ports/0", "name", json!("tls"), "duplicate value"),
        ("/spec/template/spec/containers/1", "name", json!("kong"), "name: required, and once"),
        ("/spec/template/spec/containers/1/ports/0", "containerPort", json!(443), "hostPort: duplicate value"),
    ] {
        let mut object = daemon_set();
        object.pointer_mut(pointer).unwrap()[key] = value;
        let found = problems(&object);
        assert!(
            found.iter().any(|problem| problem.contains(expected)),
            "{pointer}/{key}: {expected} is not in {found:?}"
        );
    }
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kong"}, "spec": {"ports": ports}});
    assert_eq!(problems(&service(json!([{"port": 80, "targetPort": "proxy"}]))), Vec::<String>::new());
    for (ports, expected) in [
        (json!([{"port": 80}, {"port": 443}]), "name: required"),
        (json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]), "duplicate value"),
        (json!([{"port": 80, "targetPort": 0}]), "targetPort"),
        (json!([{"port": 80, "target": 0}]), "unknown field \"spec.ports[0].target\""),
        (json!([]), "spec.ports: required"),
    ] {
        let found = problems(&json!({"apiVersion": "v1", "kind": "List", "items": [service(ports)]}));
        assert!(
            found.iter().any(|problem| problem.starts_with("items.0.") && problem.contains(expected)),
            "{expected} is not in {found:?}"
        );
    }
}
