//! `capatch k8s`: manifests as people have them, through the binary. What was edited is what was said, and nothing else.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Instant;

use common::cli::{Run, capatch, fails, json, ok, run, start};
use common::files;
use common::image::{Image, Scene};
use common::manifests::{KONG, NEW, documents, edit, fixtures, path, read};
use common::registry::Registry;
use serde_json::{Value, json};

/// Paths at which two trees differ; a list of another length differs as a whole.
fn differences(old: &Value, new: &Value, path: &str, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => differences(a, b, &format!("{path}/{key}"), found),
                    _ => found.push(format!("{path}/{key}")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(at, (a, b))| differences(a, b, &format!("{path}/{at}"), found));
        }
        _ if old != new => found.push(path.to_owned()),
        _ => {}
    }
}

#[test]
fn what_differs_is_what_was_said() {
    for (name, old) in fixtures() {
        let mut arguments = KONG.to_vec();
        arguments.push("--json");
        let data = edit(&arguments, &old).succeeded().json();
        let file = &data["files"][0];
        let changed: Vec<&str> =
            file["changes"].as_array().unwrap().iter().map(|change| change["path"].as_str().unwrap()).collect();
        let removed: Vec<usize> = changed.iter().filter_map(|path| path.parse().ok()).collect();
        let before = documents(&old);
        let before: Vec<_> = before.iter().enumerate().filter(|(at, _)| !removed.contains(at)).collect();
        let after = documents(file["result"].as_str().unwrap());
        assert_eq!(before.len(), after.len(), "{name}");
        for ((at, before), after) in before.iter().zip(&after) {
            let mut found = Vec::new();
            differences(before, after, &at.to_string(), &mut found);
            for path in found {
                let said = changed
                    .iter()
                    .any(|said| path == *said || path.strip_prefix(said).is_some_and(|rest| rest.starts_with('/')));
                assert!(said, "{name}: {path} is none of {changed:#?}");
            }
        }
    }
}

#[test]
fn lines_that_no_edit_is_about_keep_their_bytes() {
    let kept = |text: &str, other: &str| -> Vec<String> {
        let all: Vec<&str> = other.split_inclusive('\n').collect();
        text.split_inclusive('\n').filter(|line| !all.contains(line)).map(str::to_owned).collect()
    };
    for (name, old) in fixtures() {
        let new = edit(&KONG, &old).succeeded().stdout;
        // A comment may only go with the entry or document that it is in.
        let comments = kept(&old, &new).into_iter().filter(|line| line.trim_start().starts_with('#'));
        for comment in comments {
            assert!(
                ["service-kong-proxy", "as fast as possible", "of all pods"].iter().any(|gone| comment.contains(gone)),
                "{name}: {comment}"
            );
        }
        assert!(!new.contains("\n\n\n"), "{name}");
    }
}

#[test]
fn a_second_run_changes_nothing() {
    let keep = [&KONG[..], &["--keep-service"]].concat();
    for (name, old) in fixtures() {
        for way in [&KONG[..], &keep, &["--without-capability"]] {
            if way == ["--without-capability"] && name == "write-up-after.yaml" {
                edit(way, &old).failed(2, &["hostNetwork"]);
                continue;
            }
            let first = edit(way, &old).succeeded();
            let second = edit(way, &first.stdout).succeeded();
            assert_eq!(second.stdout, first.stdout, "{name}");
            assert!(second.stderr.contains("-: unchanged"), "{name}: {second:#?}");
        }
    }
}

#[test]
fn line_ends_and_the_end_of_the_file_are_kept() {
    for (name, old) in fixtures() {
        let new = edit(&KONG, &old).succeeded().stdout;
        let windows = edit(&KONG, &old.replace('\n', "\r\n")).succeeded().stdout;
        assert_eq!(windows, new.replace('\n', "\r\n"), "{name}");
        let cut = edit(&KONG, old.trim_end()).succeeded().stdout;
        assert_eq!(cut.trim_end(), new.trim_end(), "{name}");
    }
}

/// The write-up's second manifest from its first, but for what it has wrong or leaves out: it never names the patched
/// image in them, and its security context is one of a pod, which Kubernetes ignores; nor did it help there.
#[test]
fn before_becomes_after() {
    let image = "registry.example.com/kong:1.2.2-lowport";
    let new = ok(["k8s", &path("write-up-before.yaml"), "--image", image, "--old", "kong"]).stdout;
    let mut expected = documents(&read("write-up-after.yaml"));
    for list in ["initContainers", "containers"] {
        let container = &mut expected[0]["spec"]["template"]["spec"][list][0];
        container["image"] = json!(image);
        // Kong 1.2.2 starts as root and becomes kong: without its other capabilities it would not.
        container["securityContext"] =
            json!({"allowPrivilegeEscalation": true, "capabilities": {"add": ["NET_BIND_SERVICE"]}});
    }
    assert_eq!(documents(&new), expected);

    let after = read("write-up-after.yaml");
    let more: Vec<&str> = new.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let container = [
        "image: \"registry.example.com/kong:1.2.2-lowport\"",
        "securityContext:",
        "  allowPrivilegeEscalation: true",
        "  capabilities:",
        "    add: [NET_BIND_SERVICE]",
    ];
    let container: Vec<String> = container.iter().map(|line| format!("        {line}")).collect();
    assert_eq!(more, [&container[..], &container[..]].concat());

    let again = ok(["k8s", &path("write-up-after.yaml"), "--image", image, "--old", "kong"]).stdout;
    assert_eq!(documents(&again), expected, "its own second manifest needs only that");
    fails(5, &["write-up-tabs.yaml:", "tab"], ["k8s", &path("write-up-tabs.yaml"), "--image", NEW, "--old", "kong"]);
}

#[test]
fn every_hole_is_warned_of() {
    for (name, warnings) in [
        (
            "write-up-before.yaml",
            &[
                ":92: container kong: the admin API on 0.0.0.0:8444 is reachable",
                ":53: container wait-for-db starts Kong before the proxy and binds Kong's default ports 8000 and 8443",
                ":89: container kong: with imagePullPolicy IfNotPresent",
                "Pod Security: hostNetwork violates",
                "kubectl delete deployment kong-kong",
                "kubectl delete service kong-kong-proxy",
            ][..],
        ),
        (
            "chart-3.4.1.yaml",
            &[
                "container wait-for-db starts Kong before the proxy and binds 0.0.0.0:80, [::]:80, 0.0.0.0:443",
                "KONG_PORT_MAPS",
                "Service chartsnap-kong-proxy is a LoadBalancer",
                ":120: this names Service chartsnap-kong-proxy",
            ],
        ),
        (
            "daemonset.yaml",
            &[
                "the admin API on 0.0.0.0:8001 is",
                ":20: livenessProbe asks port 8000",
                ":16: capabilities in the securityContext of a pod do nothing",
                "unknown field \"spec.template.spec.securityContext.capabilities\"",
                ":8: maxSurge",
                "maxSurge: may not be set when maxUnavailable is non-zero",
            ],
        ),
        ("openshift.yaml", &["may come from envFrom"]),
        (
            "ingress-controller.yaml",
            &[
                ":1: Service kong-proxy is a LoadBalancer, and its address goes with it",
                ":70: this names Service kong-proxy, which is removed",
                "kubectl delete deployment ingress-kong",
            ],
        ),
        (
            "neighbors.yaml",
            &[
                ":45: container kong: KONG_PROXY_LISTEN has no value in this manifest",
                ":49: kong scales Deployment kong",
                ":57: this names Service kong",
                ":62: this names Service kong",
                ":1: Namespace edge enforces the level restricted",
            ],
        ),
        (
            "left.yaml",
            &[":1: StatefulSet kong-set runs Kong and is left", ":6: Rollout kong-rollout runs Kong and is left"],
        ),
    ] {
        let run = edit(&KONG, &read(name)).succeeded();
        let data = edit(&[&KONG[..], &["--json", "-q"]].concat(), &read(name)).succeeded();
        assert_eq!(data.stderr, "");
        let said: Vec<String> = data.json()["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|warning| format!("{}: {}", warning["place"].as_str().unwrap(), warning["message"].as_str().unwrap()))
            .collect();
        for warning in warnings {
            assert!(run.stderr.contains(warning), "{name}: {warning} in {run:#?}");
            assert!(said.iter().any(|said| said.contains(warning)), "{name}: {warning} in {said:#?}");
        }
    }
    let two = format!("{}---\n{}", deployment(""), deployment(""));
    assert!(edit(&KONG, &two).succeeded().stderr.contains("-:13: this is the second that binds ports 80 and 443"));
    for name in ["cronjob.yaml", "job.yaml"] {
        let job = edit(&KONG, &read(name)).succeeded();
        assert!(!job.stderr.contains("warning"), "a job stays off the network of the node: {job:#?}");
    }
}

/// A Deployment with this in its only container.
fn deployment(container: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: kong}}\nspec:\n  replicas: 1\n  selector: {{}}\n  template:\n    spec:\n      containers:\n      - name: kong\n        image: kong:3.9\n{container}"
    )
}

/// Contexts that grant nothing yet, in whatever form, end up the same.
#[test]
fn contexts_without_the_capability_get_it() {
    let granted = json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]});
    let added = json!({"add": ["NET_BIND_SERVICE"], "drop": []});
    let kept = json!({"add": ["CHOWN", "NET_BIND_SERVICE"], "drop": ["ALL"]});
    for (context, capabilities) in [
        ("", &granted),
        (" ~", &granted),
        (" # none", &granted),
        (" {}", &granted),
        (" { }", &granted),
        (" &c {}", &granted),
        ("\n          {}", &granted),
        (" {capabilities: {}}", &granted),
        (" {capabilities: }", &granted),
        (" {capabilities}", &granted),
        (" {capabilities: , runAsUser: 1}", &granted),
        (" {capabilities: {add: , drop: [ALL]}}", &granted),
        (" {capabilities: {drop: [ALL], add: }}", &granted),
        ("\n          capabilities:", &granted),
        ("\n          capabilities:  ", &granted),
        ("\n          capabilities: # none", &granted),
        ("\n          capabilities: {}", &granted),
        ("\n          runAsUser: 1\n          capabilities:", &granted),
        ("\n          capabilities:\n          runAsUser: 1", &granted),
        ("\n          capabilities:\n            drop: []", &added),
        ("\n          capabilities:\n            add: []", &granted),
        ("\n          capabilities:\n            add:", &granted),
        ("\n          capabilities:\n            add: ~", &granted),
        ("\n          capabilities:\n            drop:", &granted),
        ("\n          capabilities:\n            drop: [ALL]", &granted),
        ("\n          capabilities:\n            drop:\n            - ALL", &granted),
        ("\n          capabilities:\n            drop:\n              - ALL # all", &granted),
        ("\n          capabilities:\n            drop: [ALL]\n            add:", &granted),
        ("\n          capabilities:\n            drop:\n            - ALL\n            - NET_BIND_SERVICE", &granted),
        ("\n          capabilities:\n            drop: [NET_BIND_SERVICE]", &added),
        ("\n          capabilities:\n            drop:\n            - NET_BIND_SERVICE", &added),
        ("\n          capabilities:\n            add:\n            drop:", &granted),
        ("\n          capabilities:\n            drop:\n            add:", &granted),
        ("\n          capabilities:\n            add: [CHOWN]\n            drop:", &kept),
        ("\n          capabilities:\n            drop: [ALL]\n            add:\n            - CHOWN", &kept),
    ] {
        let entry = format!("        securityContext:{context}\n");
        let first = deployment(&entry);
        let last = first.trim_end_matches('\n').to_owned();
        let before = deployment(&format!("{entry}        tty: true\n"));
        let init = deployment("").replace("      containers:", "      initContainers:")
            + &entry
            + "      containers:\n      - {name: proxy, image: kong:3.9}\n";
        let windows = first.replace('\n', "\r\n");
        for text in [first, last, before, init, windows] {
            let run = edit(&KONG, &text).succeeded();
            let document = documents(&run.stdout).remove(0);
            let pod = &document["spec"]["template"]["spec"];
            let container = pod["initContainers"].get(0).unwrap_or(&pod["containers"][0]);
            let context = &container["securityContext"];
            assert_eq!(&context["capabilities"], capabilities, "{text}\n{run:#?}");
            assert_eq!(context["allowPrivilegeEscalation"], true, "{text}\n{run:#?}");
            assert_eq!(edit(&KONG, &run.stdout).succeeded().stdout, run.stdout);
        }
    }
    let text = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kong"}, "spec": {"template": {"spec": {
        "containers": [{"name": "kong", "image": "kong:3.9", "securityContext": {}}]}}}});
    for text in [text.to_string(), serde_json::to_string_pretty(&text).unwrap()] {
        let run = edit(&KONG, &text).succeeded();
        let document: Value = serde_json::from_str(&run.stdout).unwrap();
        let context = &document["spec"]["template"]["spec"]["containers"][0]["securityContext"];
        assert_eq!(context, &json!({"allowPrivilegeEscalation": true, "capabilities": granted}));
    }
}

/// What counts of a listen variable is its value, in whatever quotes and with whatever escapes it is written.
#[test]
fn listeners_are_read_as_yaml_has_them() {
    let low = "0.0.0.0:80, 0.0.0.0:443 ssl";
    for (value, expected, written) in [
        ("0.0.0.0:8000, 0.0.0.0:8443 ssl", low, "value: 0.0.0.0:80, 0.0.0.0:443 ssl\n"),
        ("'0.0.0.0:8000,  0.0.0.0:8443 ssl'", "0.0.0.0:80,  0.0.0.0:443 ssl", "'0.0.0.0:80,  0.0.0.0:443 ssl'\n"),
        (r#""0.0.0.0:8000, 0.0.0.0:8443\x20ssl""#, low, "\"0.0.0.0:80, 0.0.0.0:443 ssl\"\n"),
        (r#""0.0.0.0:8\u0030\x300, 0.0.0.0:8443 ssl" # c"#, low, "\"0.0.0.0:80, 0.0.0.0:443 ssl\" # c\n"),
        ("\"0.0.0.0:8000, 0.0.0.0:8443\\\n            \\ ssl\"", low, "\"0.0.0.0:80, 0.0.0.0:443 ssl\"\n"),
        ("\"0.0.0.0:8000, 0.0.0.0:8443\n            ssl\"", low, "\"0.0.0.0:80, 0.0.0.0:443\n            ssl\"\n"),
        ("'0.0.0.0:8000, 0.0.0.0:8443\n            ssl'", low, "'0.0.0.0:80, 0.0.0.0:443\n            ssl'\n"),
        (r#""0.0.0.0:80,\x200.0.0.0:443 ssl""#, low, r#""0.0.0.0:80,\x200.0.0.0:443 ssl""#),
        (r#""\x6fff""#, "off", r#""\x6fff""#),
    ] {
        for key in ["KONG_PROXY_LISTEN", "KONG_STREAM_LISTEN"] {
            let env = format!("        env:\n        - name: {key}\n          value: {value}\n");
            let run = edit(&KONG, &deployment(&env)).succeeded();
            let document = documents(&run.stdout).remove(0);
            let variable = &document["spec"]["template"]["spec"]["containers"][0]["env"][0];
            assert_eq!(variable, &json!({"name": key, "value": expected}), "{run:#?}");
            assert!(run.stdout.contains(written), "{run:#?}");
        }
    }
    for value in ["", " ~", " \"\"", " ''"] {
        let env = format!("        env:\n        - name: KONG_PROXY_LISTEN\n          value:{value}\n");
        let run = edit(&KONG, &deployment(&env)).succeeded();
        assert!(run.stdout.contains(&env), "{run:#?}");
        assert!(
            run.stderr.contains("-:13: container kong: KONG_PROXY_LISTEN has no value in this manifest"),
            "{run:#?}"
        );
    }
}

#[test]
fn what_cannot_be_edited_is_refused_with_file_and_line_and_whole() {
    let deep = format!("{}kong:3.9{}", "[".repeat(400), "]".repeat(400));
    let bomb = "a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: [*c, *c, *c, *c]\n";
    for (text, code, words) in [
        (
            deployment("        env: &e [{name: A, value: b}]\n      - {name: other, image: other, env: *e}\n"),
            5,
            &["-:12: an alias stands for this elsewhere"][..],
        ),
        (format!("x-env: &e []\n{}", deployment("        env: *e\n")), 5, &["-:13: env is an alias"]),
        (format!("x: &x {{tty: true}}\n{}", deployment("        <<: *x\n")), 5, &["-:13:", "merge key"]),
        (
            deployment("        env:\n        - {name: KONG_PROXY_LISTEN, value: \"{{ .Values.listen }}\"}\n"),
            5,
            &["-:13: this is a template"],
        ),
        (deployment("        ports: [{containerPort: \"{{ .Values.port }}\"}]\n"), 5, &["-:12: this is a template"]),
        (deployment("        resources: {{ .Values.resources }}\n"), 5, &["-:12: this is a template"]),
        (format!("{{{{- if .Values.x }}}}\n{}{{{{- end }}}}\n", deployment("")), 5, &["-:1:", "this is not YAML"]),
        (deployment("\ttty: true\n"), 5, &["-:1", "tab"]),
        (deployment("        tty: true\n        tty: true\n"), 5, &["line 13: the key \"tty\" is there twice"]),
        (deployment("        env: [{name: KONG_PROXY_LISTEN, value: nonsense}]\n"), 5, &["-:12:", "nonsense"]),
        (
            deployment("        env: [{name: KONG_PROXY_LISTEN, value: '0.0.0.0:80, 0.0.0.0:8000'}]\n"),
            5,
            &["-:12:", "both be on port 80"],
        ),
        (deep, 5, &["-:1:"]),
        (bomb.to_owned(), 3, &["no container"]),
        ("a: 1\n".to_owned(), 3, &["no container"]),
        (String::new(), 3, &["no container"]),
        ("\u{0}".to_owned(), 5, &["-:1:"]),
        ("- ".repeat(600_000), 5, &["-:1:"]),
        ("- a\n".repeat(600_000), 5, &["more than 500000 nodes"]),
        ("x".repeat(17 << 20), 5, &["more than 16777216 bytes"]),
    ] {
        edit(&["--image", NEW, "--old", "kong"], &text).failed(code, words);
    }
    let hosted =
        deployment("").replace("    spec:\n      containers", "    spec:\n      hostNetwork: true\n      containers");
    edit(&["--without-capability"], &hosted).failed(2, &["-:9:", "SysctlForbidden"]);
    edit(&["--without-capability"], &hosted.replace("true", "yes")).failed(2, &["-:9:", "SysctlForbidden"]);
    for (old, new, code, words) in [
        ("hostNetwork: true", "hostUsers: false", 2, &["-:9:", "hostUsers", "--without-capability"][..]),
        (
            "hostNetwork: true",
            "securityContext: {sysctls: [{name: net.core.somaxconn, value: '1'}]}",
            2,
            &["-:9:", "spec.template.spec.securityContext.sysctls[0].name", "set it on the nodes"],
        ),
        (
            "kong:3.9",
            "kong:3.9\n        ports: [{containerPort: 8000}, {containerPort: 80}]",
            5,
            &["-:13:", "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""],
        ),
    ] {
        edit(&["--image", NEW, "--old", "kong"], &hosted.replace(old, new)).failed(code, words);
    }
    fails(2, &["no image that Kubernetes can pull"], ["k8s", "-", "--image", "oci:dir:3.9"]);
    fails(2, &[], ["k8s", "-"]);
    fails(2, &[], ["k8s", "-", "--image", NEW, "--without-capability"]);
    fails(2, &["-w cannot"], ["k8s", "-", "--image", NEW, "-w"]);
    fails(3, &["absent.yaml"], ["k8s", "/absent.yaml", "--image", NEW, "--old", "kong"]);
}

#[test]
fn a_large_file_is_edited_in_seconds() {
    let map: String = (0..40_000).map(|at| format!("key{at}: value\n")).collect();
    let one = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: kong}}\nspec: {{selector: {{a: b}}, ports: [{{port: 80, targetPort: 8000}}]}}\n---\n{}",
        deployment("").replace("    spec:\n      c", "    metadata: {labels: {a: b}}\n    spec:\n      c")
    );
    let many = vec![one; 2_500].join("---\n");
    let started = Instant::now();
    let data =
        edit(&["--image", NEW, "--old", "kong", "--json", "-q"], &format!("{map}---\n{many}")).succeeded().json();
    assert_eq!(data["containers"], 2_500);
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn services_go_or_are_retargeted() {
    let services = |run: Run| -> Vec<Value> {
        let all = documents(&run.stdout).into_iter().filter(|document| document["kind"] == "Service");
        all.map(|service| json!([service["metadata"]["name"], service["spec"]["ports"]])).collect()
    };
    let all = |high: u16, low: u16| json!(["kong-all", [{"name": "high", "port": 8000, "targetPort": low}, {"name": "https", "port": 443, "targetPort": high}, {"name": "admin", "port": 8001, "targetPort": 8001}]]);
    let elsewhere = json!(["kong-elsewhere", [{"port": 80, "targetPort": 8000}]]);
    let text = read("neighbors.yaml");
    assert_eq!(services(edit(&KONG, &text)), [all(443, 80), elsewhere.clone()]);
    let kept = json!(["kong", [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "https", "port": 443, "targetPort": "https"}]]);
    let keep = [&KONG[..], &["--keep-service"]].concat();
    assert_eq!(services(edit(&keep, &text)), [kept.clone(), all(443, 80), elsewhere.clone()]);
    assert_eq!(services(edit(&["--without-capability"], &text)), [kept, all(443, 80), elsewhere]);
}

#[test]
fn without_a_capability_the_pod_gets_the_sysctl_and_keeps_its_image() {
    let run = edit(&["--without-capability"], &read("write-up-before.yaml")).succeeded();
    let [service, deployment] = &documents(&run.stdout)[..] else { panic!("{run:#?}") };
    assert_eq!(service["spec"]["ports"][1]["targetPort"], 443);
    assert_eq!(deployment["kind"], "Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "kong:1.2.2");
    assert_eq!(pod["containers"][0]["ports"][1], json!({"name": "proxy", "containerPort": 80, "protocol": "TCP"}));
    assert_eq!(
        pod["securityContext"],
        json!({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]})
    );
    assert_eq!(pod.get("hostNetwork"), None);
    for (context, value) in [
        ("{}", "80"),
        ("{sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '0'}]}", "0"),
        ("{sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '1024'}]}", "80"),
        ("{sysctls: [{name: net/ipv4/ip_unprivileged_port_start, value: '1024'}]}", "80"),
    ] {
        let text = self::deployment(&format!("      securityContext: {context}\n"));
        let run = edit(&["--without-capability"], &text).succeeded();
        let pod = &documents(&run.stdout)[0]["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["sysctls"][0]["value"], value);
    }
}

/// On the network of the node, a port cannot be mapped to another, and its sysctls are nobody's.
#[test]
fn ports_and_sysctls_of_the_node() {
    let ports = "        ports:\n        - {containerPort: 8000, hostPort: 80}\n        - {name: admin, containerPort: 8001, hostPort: 18001} # ours\n        - {containerPort: 8002, hostPort: 0}\n        - containerPort: 8003\n          hostPort:\n      - name: other\n        image: other:1\n        ports: [{containerPort: 9000, hostPort: 19000}]\n      securityContext:\n        sysctls:\n        - {name: net/ipv4/ip_unprivileged_port_start, value: '80'}\n        - {name: kernel.shm_rmid_forced, value: '1'}\n";
    let run = edit(&KONG, &deployment(ports)).succeeded();
    let expected = ports
        .replace("containerPort: 8000", "containerPort: 80")
        .replace("18001", "8001")
        .replace("19000", "9000")
        .replace("        - {name: net/ipv4/ip_unprivileged_port_start, value: '80'}\n", "");
    let (containers, context) = expected.split_at(expected.find("      securityContext").unwrap());
    assert!(run.stdout.contains(containers) && run.stdout.contains(context), "{run:#?}");
}

/// YAML 1.1, which the API server reads, has many ways to write a port.
#[test]
fn ports_are_numbers_however_they_are_written() {
    for (high, written) in [
        (true, "0o17500"),
        (true, "017500"),
        (true, "0x1F40"),
        (true, "8_000"),
        (true, "8e3"),
        (true, "8000"),
        (false, "0o120"),
    ] {
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec:\n  selector: {{app: kong}}\n  ports:\n  - {{port: 81, targetPort: {written}}}\n"
        );
        let ports = format!(
            "        ports:\n        - {{containerPort: {written}, hostPort: {written}}}\n        - {{containerPort: 8001, hostPort: 0x0}}\n"
        );
        let text = deployment(&ports).replace("  template:\n", "  template:\n    metadata: {labels: {app: kong}}\n")
            + &service;
        let run = edit(&KONG, &text).succeeded();
        let expected = if high { text.replace(written, "80") } else { text };
        for line in expected.lines().filter(|line| line.contains("ort: ")) {
            assert!(run.stdout.contains(line), "{written}: {line} in {run:#?}");
        }
    }
}

#[test]
fn values_for_the_chart_are_printed() {
    let values = |arguments: &[&str]| {
        let mut command = capatch(["k8s", "--helm"]);
        documents(
            &{
                command.args(arguments);
                start(command)
            }
            .succeeded()
            .stdout,
        )
        .remove(0)
    };
    let data = values(&["--image", NEW]);
    assert_eq!(data["image"], json!({"repository": "registry.example.com/kong", "tag": "3.9-lowport"}));
    assert_eq!(data["deployment"], json!({"daemonset": true, "hostNetwork": true}));
    assert_eq!(data["dnsPolicy"], "ClusterFirstWithHostNet");
    assert_eq!(
        data["proxy"],
        json!({"type": "ClusterIP", "http": {"containerPort": 80}, "tls": {"containerPort": 443}})
    );
    let context =
        json!({"allowPrivilegeEscalation": true, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}});
    assert_eq!(data["containerSecurityContext"], context);
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned = values(&["--image", &format!("localhost:5000/kong:3@{digest}"), "--keep-service"]);
    assert_eq!(pinned["image"], json!({"repository": "localhost:5000/kong", "tag": format!("3@{digest}")}));
    assert_eq!(pinned["proxy"].get("type"), None);
    let bare = values(&["--image", &format!("localhost:5000/kong@{digest}")]);
    assert_eq!(bare["image"], json!({"repository": "localhost:5000/kong@sha256", "tag": "0".repeat(64)}));
    let sysctl = values(&["--without-capability"]);
    assert_eq!(sysctl["securityContext"]["sysctls"][0]["value"], "80");
    fails(2, &["neither tag nor digest"], ["k8s", "--helm", "--image", "localhost:5000/kong"]);
}

struct Files(Scene);

impl Files {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

#[test]
fn files_are_replaced_whole_and_only_if_all_can_be_edited() {
    let files = Files(Scene::new());
    let one = files.write("one.yaml", &read("write-up-before.yaml"));
    let two = files.write("two.yaml", &deployment("        env: *e\n"));
    fs::set_permissions(&one, fs::Permissions::from_mode(0o640)).unwrap();
    let link = files.0.path("link.yaml");
    symlink("one.yaml", &link).unwrap();
    let (link, two) = (link.to_str().unwrap(), two.to_str().unwrap());
    fails(5, &["two.yaml:"], ["k8s", "-w", link, two, "--image", NEW, "--old", "kong"]);
    assert_eq!(fs::read_to_string(&one).unwrap(), read("write-up-before.yaml"));

    fs::write(two, "kind: ConfigMap\n").unwrap();
    let shown = ok(["k8s", link, two, "--image", NEW, "--old", "kong"]).stdout;
    let run = ok(["k8s", "-w", "--diff", link, two, "--image", NEW, "--old", "kong"]);
    assert!(
        run.stdout.contains("\n-kind: Deployment\n+apiVersion: apps/v1\n+kind: DaemonSet\n metadata:\n"),
        "{run:#?}"
    );
    assert!(run.stderr.contains("two.yaml: unchanged"), "{run:#?}");
    assert_eq!(shown, format!("{}kind: ConfigMap\n", fs::read_to_string(&one).unwrap()), "the first ends with ---");
    assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(link).unwrap().is_symlink());
    let again = json(["k8s", "-w", link, two, "--image", NEW, "--old", "kong"]);
    assert_eq!(again["files"][0]["written"], false);
    let left: Vec<_> = fs::read_dir(files.0.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().starts_with(".capatch")), "{left:?}");
}

#[test]
fn a_service_may_be_in_another_file_than_its_pods() {
    let files = Files(Scene::new());
    let before = read("write-up-before.yaml");
    let (service, pods) = before.split_at(before[4..].find("---\n").unwrap() + 4);
    let (service, pods) = (files.write("service.yaml", service), files.write("pods.yaml", pods));
    let run = ok(["k8s", "-w", service.to_str().unwrap(), pods.to_str().unwrap(), "--image", NEW, "--old", "kong"]);
    assert!(run.stderr.contains("service.yaml: nothing is left in it"), "{run:#?}");
    assert_eq!(fs::read_to_string(&service).unwrap(), "");
}

/// Without `--old`, what the new image says it was made from.
#[test]
fn the_old_image_is_the_base_of_the_new_one() {
    let registry = Registry::start();
    let host = registry.host();
    Image::kong().build().push(&registry, "upstream/kong", "3.9");
    let new = format!("{host}/edge/kong:3.9-lowport");
    ok(["patch", &format!("{host}/upstream/kong:3.9"), &new]);
    let text = deployment("").replace("kong:3.9", &format!("{host}/upstream/kong:3.8"));
    let run = edit(&["--image", &new], &text).succeeded();
    assert!(
        run.stdout.contains(&format!("image: {new}")) || run.stdout.contains(&format!("image: \"{new}\"")),
        "{run:#?}"
    );
    edit(&["--image", &format!("{host}/upstream/kong:3.9")], &deployment(""))
        .failed(3, &["does not say what it was made from"]);
    edit(&["--image", &format!("{host}/absent:1")], &deployment("")).failed(3, &["cannot tell which image", "--old"]);
    let done = edit(&["--image", &format!("{host}/absent:1"), "--old", "kong"], &deployment("")).succeeded().stdout;
    assert_eq!(edit(&["--image", &format!("{host}/absent:1")], &done).succeeded().stdout, done);
}

#[test]
fn passwords_stay_where_they_are_and_are_not_told() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: kong}\nstringData: {password: hunter2-secret}\n---\n";
    let pods = deployment(
        "        env: [{name: KONG_PG_PASSWORD, value: hunter2-env}, {name: KONG_PROXY_LISTEN, value: '0.0.0.0:8000'}]\n",
    );
    let text = format!("{secret}{pods}");
    let run = edit(&KONG, &text).succeeded();
    for kept in ["stringData: {password: hunter2-secret}", "{name: KONG_PG_PASSWORD, value: hunter2-env}"] {
        assert!(run.stdout.contains(kept), "{run:#?}");
    }
    assert!(!run.stderr.contains("hunter2"), "{run:#?}");
    let data = edit(&[&KONG[..], &["--json"]].concat(), &text).succeeded().json();
    for said in [&data["warnings"], &data["files"][0]["changes"]] {
        assert!(!said.to_string().contains("hunter2"), "{said}");
    }
    let broken = format!("{text}        tty: {{{{ .Values.x }}}}\n");
    assert!(!edit(&KONG, &broken).failed(5, &[]).stderr.contains("hunter2"));
}

#[test]
fn a_compose_file_is_told_from_a_manifest_and_left_alone() {
    let compose = "services:\n  kong:\n    image: kong:3.9\n    security_opt: [no-new-privileges]\n    read_only: true\n    ports: ['80:8000']\n";
    edit(&KONG, compose).failed(3, &["this is a Compose file", "cap_add", "no-new-privileges"]);
    let files = Files(Scene::new());
    let compose = files.write("compose.yaml", compose);
    let pods = files.write("pods.yaml", &deployment(""));
    let before = fs::read_to_string(&compose).unwrap();
    let run = ok(["k8s", "-w", compose.to_str().unwrap(), pods.to_str().unwrap(), "--image", NEW, "--old", "kong"]);
    assert!(run.stderr.contains("compose.yaml: unchanged"), "{run:#?}");
    assert_eq!(fs::read_to_string(&compose).unwrap(), before);
}

#[test]
fn only_the_image_asked_for_is_replaced() {
    let text = "kind: Pod\nspec:\n  containers:\n  - {name: a, image: 'kong:3.9'}\n  - {name: b, image: 'kong:3.8'}\n  - {name: c, image: 'docker.io/library/kong:3.9'}\n  - {name: d, image: 'kong-x:3.9'}\n  - {name: e, image: 'kong:3.9@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}\n";
    for (old, expected) in [("kong:3.9", 2), ("kong", 4), ("docker.io/library/kong", 4)] {
        let data = edit(&["--image", NEW, "--old", old, "--json"], text).succeeded().json();
        assert_eq!(data["containers"], expected, "{old}");
    }
    run(["k8s", "--help"]).succeeded();
}

#[test]
fn the_readme_says_what_the_example_does() {
    let readme = files::read("README.md");
    let arguments = "k8s testdata/k8s/write-up-before.yaml --image registry.example.com/kong:1.2.2-lowport --old kong";
    let mut command = capatch(arguments.split(' '));
    let said = start({
        command.current_dir(files::at(""));
        command
    });
    let shown = format!("$ capatch {arguments} > target/kong.yaml\n{}```", said.succeeded().stderr);
    assert!(readme.contains(&shown), "{shown}");
}
