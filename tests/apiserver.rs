//! What `capatch k8s` writes and what `capatch doctor -f` foretells, held against what Kubernetes itself says.

#[path = "common/apiserver.rs"]
mod apiserver;
mod common;

use apiserver::{Answer, answers};
use common::manifests::{KONG, documents, edit, fixtures};
use serde_json::Value;

const WITHOUT: [&str; 1] = ["--without-capability"];

/// An object with a pod of Kong: of this kind, with these lines in its own spec, in that of its pod, and in its container.
fn workload(version: &str, kind: &str, spec: &str, pod: &str, container: &str) -> String {
    let lines = |text: &str, indent: &str| -> String { text.lines().map(|line| format!("{indent}{line}\n")).collect() };
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: kong}}\nspec:\n  selector: {{matchLabels: {{app: kong}}}}\n{}  template:\n    metadata: {{labels: {{app: kong}}}}\n    spec:\n{}      containers:\n      - name: kong\n        image: kong:3.9\n{}",
        lines(spec, "  "),
        lines(pod, "      "),
        lines(container, "        ")
    )
}

fn deployment(pod: &str, container: &str) -> String {
    workload("apps/v1", "Deployment", "", pod, container)
}

fn daemon_set(spec: &str, pod: &str, container: &str) -> String {
    workload("apps/v1", "DaemonSet", spec, pod, container)
}

/// Every object of a text, those in lists one by one.
fn objects(text: &str) -> Vec<Value> {
    let one = |object: Value| match object["kind"].as_str() {
        Some("List") => object["items"].as_array().unwrap().clone(),
        _ => vec![object],
    };
    documents(text).into_iter().flat_map(one).collect()
}

/// What is accepted before an edit, and refused if the edit is not careful.
fn strange() -> Vec<String> {
    let sidecar = |container: &str| format!("- {{name: other, image: other:1, {container}}}");
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: kong}}\nspec: {{{spec}}}\n");
    vec![
        deployment("", "ports: [{containerPort: 8000, hostPort: 80}, {containerPort: 8443, hostPort: 443}]"),
        deployment("", "ports: [{name: admin, containerPort: 8001, hostPort: 18001}]"),
        deployment("", "ports: [{containerPort: 8000, hostPort: 0}, {containerPort: 8001, hostPort: 0}]"),
        deployment("", "ports:\n- containerPort: 8000\n  hostPort:\n- containerPort: 8001\n  hostPort: null"),
        deployment("", "ports: [{containerPort: 8443, protocol: UDP, hostPort: 443}, {containerPort: 8443}]"),
        deployment("", "ports: [{containerPort: 8000, hostIP: 127.0.0.1, hostPort: 80}, {containerPort: 8000}]"),
        deployment("", &sidecar("ports: [{containerPort: 9000, hostPort: 19000}]"))
            .replace("        - {name: other", "      - {name: other"),
        deployment("initContainers: [{name: i, image: 'kong:3.9', ports: [{containerPort: 1, hostPort: 2}]}]", ""),
        deployment(
            "initContainers: [{name: i, image: other, restartPolicy: Always, ports: [{containerPort: 8000}]}]",
            "ports: [{containerPort: 8000}]",
        ),
        deployment("hostNetwork: no\ndnsPolicy: ClusterFirst", ""),
        deployment("hostNetwork: on", ""),
        deployment("hostUsers: true", ""),
        deployment("securityContext:\n  sysctls:\n  - {name: net.ipv4.ip_unprivileged_port_start, value: '0'}", ""),
        deployment(
            "securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: '0'}, {name: net/ipv4/ip_unprivileged_port_start, value: '80'}]}",
            "",
        ),
        deployment("", "securityContext: {privileged: true}"),
        deployment("", "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [all], add: []}}"),
        deployment("", "securityContext: {capabilities: {drop: [NET_BIND_SERVICE, CHOWN], add: [SYS_ADMIN]}}"),
        deployment("", "securityContext: {capabilities: null}"),
        deployment("", "securityContext:\nenv:\nports:"),
        deployment("volumes: [{name: d, gcePersistentDisk: {pdName: d}}]", "volumeMounts: [{name: d, mountPath: /d}]"),
        deployment("dnsPolicy: None\ndnsConfig: {nameservers: [10.0.0.1]}", ""),
        workload(
            "apps/v1",
            "Deployment",
            "replicas: 3\nstrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 2, maxUnavailable: 0}}\npaused: true\nprogressDeadlineSeconds: 601\nminReadySeconds: 1\nrevisionHistoryLimit: 3",
            "",
            "",
        ),
        daemon_set("updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}", "", ""),
        daemon_set(
            "updateStrategy: {type: OnDelete}",
            "hostNetwork: true",
            "ports: [{containerPort: 8000, hostPort: 8000}]",
        ),
        pod("containers: [{name: kong, image: 'kong:3.9', ports: [{containerPort: 8000, hostPort: 80}]}]"),
        pod("hostNetwork: false, restartPolicy: Never, containers: [{name: kong, image: 'kong:3.9'}]"),
    ]
}

/// What older API servers took.
fn old_versions() -> Vec<String> {
    let mut all: Vec<String> = ["extensions/v1beta1", "apps/v1beta1", "apps/v1beta2"]
        .iter()
        .flat_map(|version| {
            let rolled = "replicas: 2\nrollbackTo: {revision: 1}";
            let daemon_set =
                workload(version, "DaemonSet", "templateGeneration: 1", "", "ports: [{containerPort: 8000}]");
            [
                workload(version, "Deployment", rolled, "", ""),
                workload(version, "Deployment", "", "", "").replace("  selector: {matchLabels: {app: kong}}\n", ""),
                daemon_set,
            ]
        })
        .collect();
    for version in ["batch/v1beta1", "batch/v2alpha1"] {
        all.push(format!("apiVersion: {version}\nkind: CronJob\nmetadata: {{name: kong}}\nspec: {{schedule: '0 0 * * *', jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: kong, image: 'kong:3.9'}}]}}}}}}}}}}\n"));
    }
    all
}

/// What is refused before and after, and said; the file, and the sentence.
const LEFT: [(&str, &str); 2] = [
    ("unknown field \"spec.template.spec.securityContext.capabilities\"", "daemonset.yaml"),
    ("may not be set when maxUnavailable is non-zero", "daemonset.yaml"),
];

fn refusals(answer: &Answer) -> Vec<&String> {
    answer.errors.iter().chain(&answer.pod_errors).collect()
}

#[test]
fn what_k8s_writes_is_accepted() {
    let named = |texts: Vec<String>| texts.into_iter().map(|text| (String::new(), text));
    let all: Vec<_> = fixtures().into_iter().chain(named(strange())).chain(named(old_versions())).collect();
    let texts: Vec<String> = strange();
    let Some(before) = answers(&texts) else { return };
    for (text, answers) in texts.iter().zip(&before) {
        assert_eq!(refusals(&answers[0]), Vec::<&String>::new(), "it is to be accepted before:\n{text}");
    }
    let keep = [&KONG[..], &["--keep-service"]].concat();
    let mut edited = Vec::new();
    for (name, old) in &all {
        let before = objects(old);
        for way in [&KONG[..], &keep, &WITHOUT] {
            let run = edit(way, old);
            if way == WITHOUT && run.stderr.contains("SysctlForbidden") {
                continue;
            }
            let run = run.succeeded();
            let new = objects(&run.stdout).into_iter().filter(|object| !before.contains(object));
            edited.extend(new.map(|object| (name, object.to_string(), run.stderr.clone(), old)));
        }
    }
    let texts: Vec<&String> = edited.iter().map(|(_, text, ..)| text).collect();
    for ((name, text, said, old), answer) in edited.iter().zip(answers(&texts).unwrap().iter().flatten()) {
        assert!(answer.known, "{text}");
        for refusal in refusals(answer) {
            let left = LEFT
                .iter()
                .any(|(sentence, file)| file == name && refusal.contains(sentence) && said.contains(sentence));
            assert!(left, "{name}: {refusal}\n{text}\n{old}\n{said}");
        }
    }
}

/// What cannot be put on the network of the node: where it would be, the API server would say this.
#[test]
fn what_k8s_refuses_the_api_server_would_refuse() {
    let twice = "ports: [{name: http, containerPort: 8000}, {name: proxy, containerPort: 8000}]";
    let other = "ports: [{containerPort: 8443}]\n- {name: other, image: other, ports: [{containerPort: 443}]}";
    let other = other.replace("- {name", "  - {name");
    let cases: Vec<(String, &str, &str)> = vec![
        (deployment("", twice), "8000", "80"),
        (deployment("", &other).replace("          - {name", "      - {name"), "8443", "443"),
        (deployment("hostUsers: false", ""), "", ""),
        (deployment("securityContext: {sysctls: [{name: net.core.somaxconn, value: '1'}]}", ""), "", ""),
        (deployment("securityContext: {sysctls: [{name: net/core/somaxconn, value: '1'}]}", ""), "", ""),
    ];
    let after = |(text, old, new): &(String, &str, &str)| {
        let hosted = text.replace("    spec:\n", "    spec:\n      hostNetwork: true\n");
        if old.is_empty() { hosted } else { hosted.replace(old, new) }
    };
    let texts: Vec<String> = cases.iter().flat_map(|case| [case.0.clone(), after(case)]).collect();
    let Some(all) = answers(&texts) else { return };
    for ((text, ..), answers) in cases.iter().zip(all.chunks(2)) {
        let [before, after] = answers else { panic!() };
        assert_eq!(refusals(&before[0]), Vec::<&String>::new(), "{text}");
        let run = edit(&KONG, text);
        let refusals = refusals(&after[0]);
        assert!(run.code != 0 && refusals.iter().any(|says| run.stderr.contains(*says)), "{refusals:?} {run:#?}");
    }
}
