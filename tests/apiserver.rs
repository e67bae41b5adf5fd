//! What `capatch k8s` writes and what `capatch doctor -f` foretells, held against what Kubernetes itself says.

#[path = "common/apiserver.rs"]
mod apiserver;
mod common;

use apiserver::{Answer, answers};
use capatch::doctor::manifest::{self, Found};
use capatch::kubernetes::Manifest;
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

/// What doctor says to a manifest.
fn found(text: &str) -> Found {
    let manifest = Manifest { name: "f".to_owned(), text: text.to_owned() };
    manifest::read(&[manifest], "kong:3.9", |image| image.contains("kong")).unwrap()
}

/// The sentences that doctor foretells of `kubectl apply`, and of the pods that a controller makes.
fn foretold(found: &Found) -> (Vec<&str>, Vec<&str>) {
    let after = |prefix| {
        let all = found.findings.iter().filter_map(move |finding| finding.what.strip_prefix(prefix));
        all.map(|what| what.split("; older versions").next().unwrap())
            .filter(|what| !what.contains("violates PodSecurity"))
            .collect()
    };
    (after("kubectl apply fails: "), after("no pod is created: "))
}

/// Pod specs and containers, of which some are refused.
fn pods() -> Vec<String> {
    let pods = [
        "",
        "hostNetwork: true",
        "hostNetwork: yes",
        "hostNetwork: \"true\"",
        "hostNetwork: 1",
        "hostUsers: false",
        "hostUsers: false\nhostNetwork: true",
        "hostUsers: no",
        "hostUsers: 0",
        "hostPID: true\nhostIPC: true",
        "dnsPolicy: None\ndnsConfig: {nameservers: [10.0.0.1]}",
        "dnsPolicy: Nonesuch",
        "dnsPolicy: 5",
        "securityContext: {capabilities: {add: [NET_BIND_SERVICE]}}",
        "securityContext: {allowPrivilegeEscalation: true}",
        "securityContext: {privileged: true}",
        "securityContext: {readOnlyRootFilesystem: true}",
        "securityContext: {runAsUser: 0, runAsNonRoot: true}",
        "securityContext: {runAsUser: -1}",
        "securityContext: {runAsGroup: 2147483648}",
        "securityContext: {runAsUser: \"0\"}",
        "securityContext: {runAsNonRoot: 1}",
        "securityContext: []",
        "securityContext: {seccompProfile: {type: Unconfined}}",
        "securityContext: {seccompProfile: {type: RuntimeDefault}}",
        "securityContext: {seccompProfile: RuntimeDefault}",
        "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '80'}]}",
        "securityContext: {sysctls: [{name: net/ipv4/ip_unprivileged_port_start, value: '80'}]}",
        "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: 80}]}",
        "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '80'}]}\nhostNetwork: true",
        "securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: '1'}, {name: net/core/somaxconn, value: '1'}]}\nhostNetwork: true",
        "securityContext: {sysctls: {a: b}}",
        "initContainers: [{name: i, image: other, ports: [{containerPort: 1, hostPort: 2}]}]\nhostNetwork: true",
        "initContainers: [{name: i, image: other, restartPolicy: Always, ports: [{containerPort: 80}]}]\nhostNetwork: true",
        "initContainers: [{name: i, image: 'kong:3.9', securityContext: {privileged: true, runAsUser: 0}, command: x}]",
        "initContainers: [{name: i, image: other, securityContext: {privileged: true, runAsUser: 0}}]",
        "initContainers: {name: i}",
        "volumes: [{name: a, hostPath: {path: /a}}, {name: b, emptyDir: {}}, {name: c, nfs: {server: s, path: /p}}, {name: d}]",
        "runtimeClassName: 1",
    ];
    let containers = [
        "command: kong start",
        "command: [kong, 5]",
        "args: {}",
        "env: {A: b}",
        "env: [{name: A, value: 80}]",
        "env: [{name: A, value: yes}]",
        "env: [{name: A, value: 1_0}]",
        "env: [{name: A, value: 08}]",
        "env: [{name: A, value: 1e3}]",
        "env: [{name: A, value: 2001-01-01}]",
        "env: [{name: A, value: '80'}, {name: B}]",
        "env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]",
        "env: [{name: A, value: '', valueFrom: {fieldRef: {fieldPath: status.podIP}}}]",
        "env: [{name: A, valueFrom: x}]",
        "env: [x]",
        "envFrom: [{prefix: 1}]",
        "imagePullPolicy: Sometimes",
        "imagePullPolicy: Never",
        "imagePullPolicy: []",
        "lifecycle: {preStop: {exec: {command: kong quit}}}",
        "lifecycle: {postStart: x}",
        "livenessProbe: {exec: {command: [kong, health]}}",
        "livenessProbe: {exec: {command: kong health}}",
        "readinessProbe: {exec: []}",
        "startupProbe: x",
        "volumeMounts: [{name: a, mountPath: 1}]",
        "ports: 80",
        "ports: [80]",
        "ports: [{containerPort: 80}, {containerPort: 80}]",
        "ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81, hostPort: 80}]",
        "ports: [{containerPort: 80, hostPort: 80}, {containerPort: 80, protocol: UDP, hostPort: 80}]",
        "ports: [{containerPort: 80, hostPort: 80}, {containerPort: 80, hostIP: 127.0.0.1, hostPort: 80}]",
        "ports: [{containerPort: \"80\"}]",
        "ports: [{containerPort: 0}]",
        "ports: [{hostPort: 80}]",
        "ports: [{containerPort: 70000}]",
        "ports: [{containerPort: 80, hostPort: 70000}]",
        "ports: [{containerPort: 80, hostPort: -1}]",
        "ports: [{containerPort: 80, protocol: tcp}]",
        "ports: [{containerPort: 0x50, hostPort: 0120}]",
        "securityContext: x",
        "securityContext: {privileged: true}",
        "securityContext: {privileged: true, allowPrivilegeEscalation: false}",
        "securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [CAP_SYS_ADMIN]}}",
        "securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [SYS_ADMIN]}}",
        "securityContext: {allowPrivilegeEscalation: no, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}, runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}",
        "securityContext: {allowPrivilegeEscalation: \"false\"}",
        "securityContext: {capabilities: {drop: [all, NET_RAW], add: [CHOWN]}}",
        "securityContext: {capabilities: {drop: ALL}}",
        "securityContext: {capabilities: {add: [1]}}",
        "securityContext: {capabilities: [NET_BIND_SERVICE]}",
        "securityContext: {capabilities: {add: [CAP_NET_BIND_SERVICE, NET_ADMIN]}}",
        "securityContext: {runAsUser: 1000.0, runAsGroup: 0x10, readOnlyRootFilesystem: on}",
        "securityContext: {runAsUser: 1.5}",
        "securityContext: {runAsUser: 010}",
        "securityContext: {runAsUser: 99999999999}",
        "securityContext: {runAsUser: -5, runAsGroup: -5}",
        "securityContext: {runAsNonRoot: false, runAsUser: 0}",
        "securityContext: {runAsNonRoot: true, seccompProfile: {type: Unconfined}}",
        "securityContext: {runAsNonRoot: false, seccompProfile: {type: Localhost, localhostProfile: a.json}}",
    ];
    let both = |pod: &&str, container: &&str| daemon_set("", pod, container);
    let hosted = containers.iter().map(|container| both(&"hostNetwork: true", container));
    let updates = [
        "maxSurge: 1",
        "maxSurge: 0",
        "maxSurge: 10%",
        "maxUnavailable: 0",
        "maxUnavailable: 0%",
        "maxSurge: 1, maxUnavailable: 0",
        "maxSurge: 1, maxUnavailable: 1",
        "maxSurge: 0, maxUnavailable: 0",
    ];
    let updates =
        updates.iter().map(|update| daemon_set(&format!("updateStrategy: {{rollingUpdate: {{{update}}}}}"), "", ""));
    let strict = "securityContext: {runAsNonRoot: true, runAsUser: 1, seccompProfile: {type: RuntimeDefault}}";
    let sidecar = daemon_set("", "hostNetwork: true", "ports: [{containerPort: 80}]")
        + "      - {name: other, image: other, ports: [{containerPort: 80}]}\n      - {name: third, image: other, ports: [{containerPort: 81, hostPort: 82}]}\n";
    let kinds = [
        "apiVersion: v1\nkind: Pod\nmetadata: {name: kong}\nspec: {hostNetwork: 5, containers: [{name: kong, image: 'kong:3.9'}]}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: kong}\nspec: {containers: [{name: kong, image: 'kong:3.9', tty: true, ports: [{containerPort: 80, protocol: X}]}]}\n",
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: kong}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: kong, image: 'kong:3.9', command: x}]}}}\n",
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: kong}\nspec: {schedule: '0 0 * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, securityContext: {privileged: true}, containers: [{name: kong, image: 'kong:3.9'}]}}}}}\n",
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: kong}\nspec: {schedule: '0 0 * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: kong, image: 'kong:3.9', env: x}]}}}}}\n",
        "apiVersion: v1\nkind: PodTemplate\nmetadata: {name: kong}\ntemplate: {spec: {containers: [{name: kong, image: 'kong:3.9', ports: x}]}}\n",
    ];
    let all = pods.iter().map(|pod| both(pod, &""));
    let all = all.chain(containers.iter().map(|container| both(&"", container))).chain(hosted).chain(updates);
    let all = all.chain(containers.iter().map(|container| both(&strict, container))).chain([sidecar]);
    all.chain(kinds.map(str::to_owned)).collect()
}

#[test]
fn what_doctor_foretells_is_what_the_api_server_says() {
    let texts = pods();
    let Some(all) = answers(&texts) else { return };
    let mut wrong = Vec::new();
    for (text, answers) in texts.iter().zip(&all) {
        let found = found(text);
        let (apply, create) = foretold(&found);
        let [answer] = &answers[..] else { panic!("{text}") };
        let said = |says: &str, errors: &[String]| errors.iter().any(|error| error.contains(says));
        let good = apply.iter().all(|says| said(says, &answer.errors))
            && create.iter().all(|says| said(says, &answer.pod_errors))
            && apply.is_empty() == answer.errors.is_empty()
            // Pods are made of what was taken.
            && (!answer.errors.is_empty() || create.is_empty() == answer.pod_errors.is_empty());
        if !good {
            wrong.push(format!(
                "{text}apply {apply:#?} create {create:#?}\nreally {:#?} {:#?}",
                answer.errors, answer.pod_errors
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), texts.len(), wrong.join("\n\n"));
}

#[test]
fn what_doctor_says_of_pod_security_is_what_it_forbids() {
    let texts = pods();
    let Some(all) = answers(&texts) else { return };
    let mut wrong = Vec::new();
    for (text, answers) in texts.iter().zip(&all) {
        let [answer] = &answers[..] else { panic!("{text}") };
        if answer.errors.iter().any(|error| error.contains("cannot be handled")) {
            continue;
        }
        for (level, forbidden) in [("baseline", &answer.baseline), ("restricted", &answer.restricted)] {
            let namespace = format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{pod-security.kubernetes.io/enforce: {level}}}}}\n---\n"
            );
            let found = found(&format!("{namespace}{text}"));
            let says = found.findings.iter().find(|finding| finding.code == "pod-security");
            let prefix = format!("no pod is created: it is forbidden: violates PodSecurity \"{level}:latest\": ");
            let says = says.map_or("", |finding| finding.what.strip_prefix(&prefix).unwrap());
            if says != forbidden {
                wrong.push(format!("{text}{level} {says}\nreally {forbidden}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), texts.len(), wrong.join("\n\n"));
}

#[test]
fn what_doctor_reads_is_what_the_kubelet_asks_for() {
    let texts = pods();
    let Some(all) = answers(&texts) else { return };
    for (text, answers) in texts.iter().zip(&all) {
        for (name, asked) in &answers[0].containers {
            let found = found(text);
            let suffix = format!("container {name}");
            let Some(container) = found.containers.iter().find(|container| container.name.ends_with(&suffix)) else {
                continue;
            };
            let user = asked["runAsUser"].as_i64().map(|user| match asked["runAsGroup"].as_i64() {
                Some(group) => format!("{user}:{group}"),
                None => user.to_string(),
            });
            assert_eq!(container.user, user, "{text}");
            assert_eq!(container.run_as_non_root, asked["runAsNonRoot"] == true, "{text}");
            assert_eq!(container.read_only, asked["readOnlyRootFilesystem"] == true, "{text}");
            assert_eq!(container.no_new_privileges, asked["noNewPrivileges"] == true, "{text}");
        }
    }
}
