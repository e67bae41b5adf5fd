use super::*;
use crate::doctor::manifest::read;
use crate::doctor::reasons::{BOUNDING_SET, NO_NEW_PRIVILEGES, USER_NAMESPACE};
use crate::kubernetes::Manifest;

fn found(text: &str) -> Found {
    let manifest = Manifest { name: "f".into(), text: text.into() };
    read(&[manifest], "kong", |image| image.starts_with("kong")).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A pod with `spec` and in its container `container`, and more documents.
fn pod(spec: &str, container: &str, more: &str) -> String {
    format!(
        "kind: Pod\nmetadata: {{name: p, labels: {{app: kong}}}}\nspec:\n  dnsPolicy: None\n{spec}\n  containers:\n  - image: kong\n    name: a\n{container}\n{more}"
    )
}

const LOW: &str = "    env: [{name: KONG_PROXY_LISTEN, value: \"0.0.0.0:80, 0.0.0.0:443 ssl\"}]";
const HIGH: &str = "    env: [{name: KONG_PROXY_LISTEN, value: \"0.0.0.0:8000, 0.0.0.0:8443 ssl\"}]";
const HOST: &str = "  hostNetwork: true";

#[test]
fn what_kong_listens_on_is_held_against_the_manifest() {
    let baked = BTreeMap::from([("KONG_PROXY_LISTEN".to_owned(), "0.0.0.0:80, 0.0.0.0:443 ssl".to_owned())]);
    let none = BTreeMap::new();
    let service = |port: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: s}}\nspec:\n  selector: {{app: kong}}\n  ports: [{{port: 80, targetPort: {port}}}]\n"
        )
    };
    let and = |listen: &str, more: &str| format!("{}{more}]", listen.trim_end_matches(']'));
    for (env, version, user, text, expected) in [
        (&none, "3.9.3", "kong", pod("", "", ""), vec![]),
        (&none, "3.9.3", "kong", pod("", HIGH, ""), vec![]),
        (&none, "3.9.3", "kong", pod("", LOW, ""), vec!["note sysctl-available f:7"]),
        (&none, "3.9.3", "kong", pod(HOST, LOW, ""), vec![]),
        (
            &none,
            "3.9.3",
            "kong",
            pod("  securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"80\"}]}", LOW, ""),
            vec![],
        ),
        (
            &none,
            "3.9.3",
            "kong",
            pod("  securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"81\"}]}", LOW, ""),
            vec!["note sysctl-available f:7"],
        ),
        // What the image says counts until the manifest says something.
        (&baked, "3.9.3", "kong", pod(HOST, "", ""), vec![]),
        (&baked, "3.9.3", "kong", pod(HOST, HIGH, ""), vec!["warning listen-overridden f:9"]),
        (
            &baked,
            "3.9.3",
            "kong",
            pod(HOST, "    env: [{name: KONG_PROXY_LISTEN, valueFrom: {secretKeyRef: {name: s, key: k}}}]", ""),
            vec![],
        ),
        (
            &baked,
            "3.9.3",
            "kong",
            pod(HOST, "    env: [{name: KONG_PROXY_LISTEN_FILE, value: /run/listen}]", ""),
            vec!["breaks listen-file-conflict f:9"],
        ),
        (
            &none,
            "3.9.3",
            "kong",
            pod(HOST, "    env: [{name: KONG_PROXY_LISTEN_FILE, value: /run/listen}]", ""),
            vec![],
        ),
        (
            &baked,
            "2.0.3",
            "kong",
            pod(HOST, "    env: [{name: KONG_PROXY_LISTEN_FILE, value: /run/listen}]", ""),
            vec![],
        ),
        (
            &none,
            "3.9.3",
            "kong",
            pod(HOST, "    env: [{name: KONG_PG_PASSWORD, value: a}, {name: KONG_PG_PASSWORD_FILE, value: b}]", ""),
            vec!["breaks listen-file-conflict f:9"],
        ),
        // Ports and Services that go nowhere.
        (
            &none,
            "3.9.3",
            "kong",
            pod(HOST, &format!("{LOW}\n    ports: [{{name: proxy, containerPort: 8000}}]"), ""),
            vec!["warning dead-port f:10"],
        ),
        (
            &none,
            "3.9.3",
            "kong",
            pod(HOST, &format!("{LOW}\n    ports: [{{containerPort: 80}}, {{containerPort: 8444}}]"), ""),
            vec![],
        ),
        (
            &none,
            "3.9.3",
            "kong",
            pod(
                HOST,
                &and(
                    LOW,
                    ", {name: KONG_STREAM_LISTEN, value: \"0.0.0.0:8000 ssl\"}]\n    ports: [{containerPort: 8000}",
                ),
                "",
            ),
            vec![],
        ),
        (&none, "3.9.3", "kong", pod(HOST, LOW, &service("8000")), vec!["warning service-target-port f:15"]),
        (&none, "3.9.3", "kong", pod(HOST, LOW, &service("80")), vec![]),
        (&none, "3.9.3", "kong", pod(HOST, LOW, &service("proxy")), vec![]),
        (&none, "3.9.3", "kong", pod(HOST, LOW, &service("8000").replace("app: kong", "app: other")), vec![]),
        (
            &none,
            "3.9.3",
            "kong",
            pod(HOST, &and(LOW, ", {name: KONG_PORT_MAPS, value: \"80:8000, 443:8443\"}"), ""),
            vec!["warning stale-port-maps f:9"],
        ),
        (&none, "3.9.3", "kong", pod(HOST, &and(LOW, ", {name: KONG_PORT_MAPS, value: \"80:80\"}"), ""), vec![]),
        // The admin API.
        (
            &none,
            "3.9.3",
            "kong",
            pod(HOST, &and(LOW, ", {name: KONG_ADMIN_LISTEN, value: 0.0.0.0:8444 ssl}"), ""),
            vec!["warning admin-exposed f:9"],
        ),
        (
            &none,
            "3.9.3",
            "kong",
            pod(HOST, &and(LOW, ", {name: KONG_ADMIN_LISTEN, value: \"127.0.0.1:8444 ssl, [::1]:8001\"}"), ""),
            vec![],
        ),
        (
            &none,
            "3.9.3",
            "kong",
            pod("", &and(HIGH, ", {name: KONG_ADMIN_LISTEN, value: 0.0.0.0:8444 ssl}"), ""),
            vec![],
        ),
        // setcap at the start.
        (
            &none,
            "1.2.2",
            "",
            pod(HOST, "    env: [{name: SET_CAP_NET_RAW, value: \"1\"}]", ""),
            vec!["breaks capability-replaced f:9"],
        ),
        (
            &none,
            "1.2.2",
            "",
            pod(HOST, "    env: [{name: KONG_STREAM_LISTEN, value: 0.0.0.0:9000 transparent}]", ""),
            vec!["breaks capability-replaced f:9"],
        ),
        (
            &none,
            "1.2.2",
            "",
            pod(HOST, "    env: [{name: KONG_STREAM_LISTEN, value: \"0.0.0.0:9000,transparent\"}]", ""),
            vec![],
        ),
        (&none, "1.2.2", "kong", pod(HOST, "    env: [{name: SET_CAP_NET_RAW, value: \"1\"}]", ""), vec![]),
        (
            &none,
            "1.2.2",
            "",
            pod(HOST, "    securityContext: {runAsUser: 1000}\n    env: [{name: SET_CAP_NET_RAW, value: \"1\"}]", ""),
            vec![],
        ),
        (&none, "2.0.4", "", pod(HOST, "    env: [{name: SET_CAP_NET_RAW, value: \"1\"}]", ""), vec![]),
        (&none, "3.9.3", "kong", pod(HOST, "    imagePullPolicy: IfNotPresent", ""), vec!["note pull-policy f:7"]),
        (&none, "3.9.3", "kong", pod(HOST, "    imagePullPolicy: Always", ""), vec![]),
        (
            &none,
            "3.9.3",
            "kong",
            pod(
                "  hostNetwork: true\n  initContainers: [{name: i, image: kong, command: [sh, -c, kong start]}]",
                LOW,
                "",
            ),
            vec!["warning init-binds-node-ports f:6"],
        ),
        (
            &none,
            "3.9.3",
            "kong",
            pod("  hostNetwork: true\n  initContainers: [{name: i, image: kong, command: [rm, x]}]", LOW, ""),
            vec![],
        ),
    ] {
        let version = version.parse().unwrap();
        let facts = Facts { version: Some(&version), env, user: Some(user), image: "kong" };
        let findings = check(&found(&text), &facts);
        let codes: Vec<String> = findings
            .iter()
            .map(|finding| {
                format!("{} {} {}", format!("{:?}", finding.level).to_lowercase(), finding.code, finding.place)
            })
            .collect();
        assert_eq!(codes, expected, "{text}\n{findings:#?}");
    }
}

#[test]
fn an_image_that_is_no_kong_has_no_listen_variables() {
    let text = pod(HOST, "    ports: [{containerPort: 443}]", "");
    assert_eq!(check(&found(&text), &Facts { version: None, env: &BTreeMap::new(), user: None, image: "kong" }), []);
}

#[test]
fn what_the_manifest_still_runs_is_told() {
    for (image, meant, told) in [
        ("kong:1", "kong:1", false),
        ("kong:1", "kong:2", true),
        ("kong:1", "registry.example.com/kong:1", true),
        ("kong:1", "oci:directory", false),
        ("kong", "kong:latest", false),
    ] {
        let found = found(&format!("kind: Pod\nspec: {{containers: [{{name: a, image: \"{}\"}}]}}\n", image));
        let findings = check(&found, &Facts { version: None, env: &BTreeMap::new(), user: None, image: meant });
        assert_eq!(findings.iter().any(|finding| finding.code == "other-image"), told, "{image} {meant}");
    }
}

#[test]
fn compose_ports_go_to_what_is_listened_on() {
    let found = found(include_str!("../../../testdata/doctor/compose.yaml"));
    let version = "3.9.3".parse().unwrap();
    let facts =
        Facts { version: Some(&version), env: &BTreeMap::new(), user: Some("kong"), image: "kong:3.9.3-lowport" };
    let findings = check(&found, &facts);
    let shown: Vec<(&str, &str)> = findings.iter().map(|one| (one.code, one.place.as_str())).collect();
    assert_eq!(shown, [("dead-port", "f:33"), ("dead-port", "f:33"), ("admin-exposed", "f:22")]);
    assert_eq!(findings[0].fix.as_deref(), Some("ports: [\"80:80\"]"));
    assert!(
        findings[2]
            .fix
            .as_deref()
            .unwrap()
            .ends_with("\n    environment:\n      KONG_ADMIN_LISTEN: \"127.0.0.1:8001\"")
    );
}

#[test]
fn reasons_have_lines_that_mend_them() {
    let kubernetes = |context: &str| pod(HOST, &format!("    securityContext: {context}"), "");
    for (text, codes, fix) in [
        (kubernetes("{}"), vec![], ""),
        (
            kubernetes("{allowPrivilegeEscalation: false}"),
            vec![NO_NEW_PRIVILEGES],
            "# Pod p: spec.containers[a]\n    securityContext:\n      allowPrivilegeEscalation: true\n      capabilities:\n        add: [NET_BIND_SERVICE]",
        ),
        (
            kubernetes(
                "{allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [CAP_NET_BIND_SERVICE, CHOWN]}}",
            ),
            vec![BOUNDING_SET, NO_NEW_PRIVILEGES],
            "# Pod p: spec.containers[a]\n    securityContext:\n      allowPrivilegeEscalation: true\n      capabilities:\n        drop: [ALL]\n        add: [CHOWN, NET_BIND_SERVICE]",
        ),
        (
            kubernetes("{capabilities: {drop: [NET_BIND_SERVICE, NET_RAW]}}"),
            vec![BOUNDING_SET],
            "# Pod p: spec.containers[a]\n    securityContext:\n      allowPrivilegeEscalation: true\n      capabilities:\n        drop: [NET_RAW]\n        add: [NET_BIND_SERVICE]",
        ),
        (
            "services:\n  k:\n    image: kong\n    cap_drop: [ALL]\n    security_opt: [no-new-privileges]\n".to_owned(),
            vec![BOUNDING_SET, NO_NEW_PRIVILEGES],
            "# service k: services.k\n    cap_drop: [ALL]\n    cap_add: [NET_BIND_SERVICE]\n    security_opt: [\"no-new-privileges:false\"]",
        ),
        (
            "image: {tag: x}\n".to_owned(),
            vec![BOUNDING_SET, NO_NEW_PRIVILEGES],
            "# values of the chart kong: top level\ncontainerSecurityContext:\n  allowPrivilegeEscalation: true\n  capabilities:\n    drop: [ALL]\n    add: [NET_BIND_SERVICE]",
        ),
        (pod("  hostNetwork: true\n  hostUsers: false", "", ""), vec![USER_NAMESPACE], ""),
    ] {
        let found = found(&text);
        let reasons = found.reasons(0);
        assert_eq!(reasons.iter().map(|reason| reason.code).collect::<Vec<_>>(), codes, "{text}");
        assert!(reasons.iter().all(|reason| reason.fix.as_deref().unwrap_or_default() == fix), "{reasons:#?}");
        assert_eq!(found.reasons(100), []);
        assert_eq!(found.containers[0].docker, text.starts_with("services"));
    }
}

/// Each snippet is put into its manifest, which has no such finding then.
#[test]
fn what_mends_a_container_mends_it() {
    let text = pod(HOST, "    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}", "");
    let fix = found(&text).reasons(0).remove(0).fix.unwrap();
    let mended = pod(HOST, fix.split_once('\n').unwrap().1, "");
    assert_eq!(found(&mended).reasons(0), []);
    let text = "services:\n  k:\n    image: kong\n    cap_drop: [ALL]\n    security_opt: [no-new-privileges]\n";
    let fix = found(text).reasons(0).remove(0).fix.unwrap();
    let mended = format!("services:\n  k:\n    image: kong\n{}\n", fix.split_once('\n').unwrap().1);
    assert_eq!(found(&mended).reasons(0), []);
    let fix = found("image: {tag: x}\n").reasons(0).remove(0).fix.unwrap();
    assert_eq!(found(&format!("image: {{tag: x}}\n{fix}\n")).reasons(0), []);
}
