//! `capatch doctor IMAGE -f FILE`: what becomes of the containers of a patched Kong, as manifests run it.

mod common;

use common::cli::{fails, run};
use common::files::{at, kong, read};
use common::patched::Patched;
use serde_json::Value;

/// The exit code, and what is said about the first platform.
fn look(patched: &Patched, file: &str) -> (i32, Value) {
    let run = run(["doctor", &patched.image(), "--json", "-f", file]);
    (run.code, run.json()["images"][0].clone())
}

fn finding<'a>(said: &'a Value, code: &str) -> &'a Value {
    let all = said["findings"].as_array().unwrap();
    all.iter().find(|finding| finding["code"] == code).unwrap_or_else(|| panic!("no {code} in {said:#}"))
}

#[test]
fn what_the_manifest_says_decides_whether_it_starts_and_binds() {
    let patched = Patched::new();
    let pod = |context: &str| {
        format!(
            "kind: DaemonSet\nmetadata: {{name: kong}}\nspec:\n  template:\n    spec:\n      hostNetwork: true\n      dnsPolicy: ClusterFirstWithHostNet\n      containers:\n      - name: kong\n        image: registry.example.com/team/kong:1\n        securityContext: {context}\n"
        )
    };
    let compose = |more: &str| format!("services:\n  kong: {{image: kong, network_mode: host, {more}}}\n");
    for (text, code, verdict, found) in [
        (pod("{}"), 0, "binds 80 and 443 as uid 1000", None),
        (pod("{capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}"), 0, "binds 80 and 443", None),
        (
            pod("{capabilities: {drop: [ALL]}}"),
            8,
            "Operation not permitted",
            Some(("bounding-set", "the container's securityContext leaves")),
        ),
        (
            pod("{allowPrivilegeEscalation: false}"),
            8,
            "cannot bind 80 and 443",
            Some(("no-new-privileges", "allowPrivilegeEscalation: false")),
        ),
        (
            pod("{}").replace("      hostNetwork", "      hostUsers: false\n      hostNetwork"),
            8,
            "cannot bind",
            Some(("user-namespace-with-host-network", "user namespace")),
        ),
        (compose("user: kong"), 0, "binds 80 and 443 as uid 1000", None),
        (
            compose("security_opt: [no-new-privileges]"),
            8,
            "cannot bind 80 and 443",
            Some(("no-new-privileges", "no-new-privileges")),
        ),
        (compose("cap_drop: [ALL]"), 8, "Operation not permitted", Some(("bounding-set", "cap_drop leaves"))),
        ("services:\n  kong: {image: kong}\n".to_owned(), 0, "80 and 443", None),
    ] {
        let (exit, said) = look(&patched, &patched.write(&text));
        assert!(said["verdict"].as_str().unwrap().contains(verdict), "{text}\n{said:#}");
        assert_eq!(exit, code, "{text}\n{said:#}");
        if let Some((code, why)) = found {
            let finding = finding(&said, code);
            assert!(finding["why"].as_str().unwrap().contains(why), "{finding:#}");
            assert_eq!(finding["level"], "breaks");
        }
    }
}

#[test]
fn what_is_to_be_put_in_makes_it_work() {
    let patched = Patched::new();
    let values = read("testdata/doctor/values.yaml");
    let (code, said) = look(&patched, &patched.write(&values));
    assert_eq!(code, 8, "{said:#}");
    let (context, dns) = (finding(&said, "no-new-privileges"), finding(&said, "dns-policy"));
    let mended = values.split_once("containerSecurityContext:").unwrap().0;
    let fix = |finding: &Value| finding["fix"].as_str().unwrap().to_owned();
    let mended = format!("{mended}{}\n{}\n", fix(context), fix(dns));
    let (_, said) = look(&patched, &patched.write(&mended));
    let codes = said["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap());
    let left: Vec<_> =
        codes.filter(|code| ["no-new-privileges", "bounding-set", "dns-policy"].contains(code)).collect();
    assert_eq!(left, Vec::<&str>::new(), "{mended}\n{said:#}");
    let proxy =
        said["containers"].as_array().unwrap().iter().find(|one| one["name"] == "DaemonSet kong, container proxy");
    assert_eq!(proxy.unwrap()["words"], "starts and binds 80 and 443 as uid 1000");
}

#[test]
fn manifests_that_cannot_be_judged_are_refused() {
    let patched = Patched::new();
    let image = patched.image();
    for (text, code, words) in [
        (
            "kind: Pod\nspec: {containers: [{image: nginx}]}\n",
            3,
            &["no container in these manifests uses", "there are nginx"][..],
        ),
        ("kind: {{ .Values.kind }}\n", 5, &["this is a template", "helm template"]),
        ("a: b\n", 5, &["no manifest that is known here"]),
        ("kind: Pod\nspec: [\n", 5, &["not YAML"]),
    ] {
        fails(code, words, ["doctor", &image, "-f", &patched.write(text)]);
    }
    fails(3, &["missing.yaml"], ["doctor", &image, "-f", "missing.yaml"]);
    let two = patched.write("kind: Pod\nspec: {containers: [{image: kong}]}\n");
    let report = run(["doctor", &image, "--json", "-f", &two, "-f", &at("testdata/k8s/cronjob.yaml")]).json();
    assert_eq!(report["images"][0]["containers"].as_array().unwrap().len(), 2);
}

#[test]
fn what_the_manifests_settle_is_not_noted() {
    let patched = Patched::new();
    let pod = |more: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: k}}\nspec: {{containers: [{{name: k, image: registry.example.com/team/kong:1{more}}}]}}\n"
        )
    };
    let notes = |text: &str| -> Vec<String> {
        let (_, said) = look(&patched, &patched.write(text));
        let codes = said["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap());
        codes.filter(|code| ["writable", "named-user"].contains(code)).map(str::to_owned).collect()
    };
    let settled = ", securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true}";
    assert_eq!(notes(&pod("")), ["named-user", "writable"]);
    assert!(notes(&pod(settled)).is_empty());
    assert_eq!(notes(&format!("{}---\n{}", pod(settled), pod(""))), ["named-user", "writable"]);
}

#[test]
fn kinds_that_are_not_known_are_said() {
    let patched = Patched::new();
    let containers = "containers: [{name: k, image: registry.example.com/team/kong:1}]";
    let pod = format!("kind: Pod\nmetadata: {{name: k}}\nspec: {{{containers}}}\n");
    let service = format!(
        "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{template: {{spec: {{{containers}}}}}}}\n"
    );
    let (code, said) = look(&patched, &patched.write(&format!("{pod}{service}")));
    assert_eq!(code, 0);
    let place = finding(&said, "kind-not-read")["place"].as_str().unwrap();
    assert!(place.ends_with("manifest.yaml:8"), "{place}");
    let file = patched.write(&service);
    fails(5, &["manifest.yaml:5", "Service is no kind"], ["doctor", &patched.image(), "-f", &file]);
}

/// What comes from a ConfigMap or Secret that is not among the files is not taken for the default.
#[test]
fn variables_from_elsewhere_leave_the_ports_open() {
    let pod = |more: &str| {
        format!(
            "kind: DaemonSet\nmetadata: {{name: kong}}\nspec:\n  template:\n    spec:\n      hostNetwork: true\n      dnsPolicy: ClusterFirstWithHostNet\n      containers:\n      - name: kong\n        image: kong:3.9\n        {more}\n"
        )
    };
    let config = "---\nkind: ConfigMap\nmetadata: {name: kong}\ndata: {KONG_PROXY_LISTEN: '0.0.0.0:80'}\n";
    let unseen = "cannot be told, for the value of KONG_PROXY_LISTEN cannot be seen from here: with its default it starts and binds 8000 and 8443 as uid 1000; with low ports it starts, and cannot bind 80 and 443: bind() to 0.0.0.0:80 failed (13: Permission denied)";
    let denied = "starts, and cannot bind 80: bind() to 0.0.0.0:80 failed (13: Permission denied)";
    let from = "envFrom: [{configMapRef: {name: kong}}]";
    let patched = Patched::new();
    for (text, code, verdict) in [
        (pod(from), 0, unseen),
        (pod("env: [{name: KONG_PROXY_LISTEN, valueFrom: {secretKeyRef: {name: kong, key: listen}}}]"), 0, unseen),
        (format!("{}{config}", pod(from)), 8, denied),
        (
            pod(&format!("{from}\n        env: [{{name: KONG_PROXY_LISTEN, value: '0.0.0.0:8000'}}]")),
            0,
            "starts and binds 8000 as uid 1000",
        ),
        ("services:\n  kong: {image: 'kong:3.9', network_mode: host, env_file: x.env}\n".to_owned(), 0, unseen),
        (
            pod(&format!(
                "{from}\n        command: [sh, -c, 'exec $(NAME) docker-start']\n        env: [{{name: NAME, valueFrom: {{secretKeyRef: {{name: kong, key: name}}}}}}]"
            )),
            0,
            "cannot be told: manifest.yaml:9: what /bin/sh -c does is known only when it runs",
        ),
        (
            pod("").replace("      hostNetwork", "      os: {name: windows}\n      hostNetwork"),
            8,
            "will not start: no matching manifest for windows/amd64 in the manifest list entries",
        ),
        (
            pod("securityContext: {runAsUser: 2147483648}"),
            8,
            "will not start: uids and gids must be in range 0-2147483647",
        ),
    ] {
        let file = patched.write(&text);
        let run = run(["doctor", &kong(), "--json", "-f", &file]);
        let said = run.json();
        let verdict_there = said["images"][0]["verdict"].as_str().unwrap().replace(&file, "manifest.yaml");
        assert_eq!((run.code, &*verdict_there), (code, verdict), "{text}");
    }
}
