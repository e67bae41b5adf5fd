mod checks;

use super::*;
use crate::capability::CapabilitySet;
use crate::doctor::DEFAULT_CAPABILITIES;
use crate::error::Kind;

fn is_kong(image: &str) -> bool {
    image.split([':', '@']).next().is_some_and(|name| name == "kong" || name.ends_with("/kong"))
}

fn look_at(files: &[&str]) -> Result<Found> {
    let manifests: Vec<Manifest> = ["f", "g", "h"]
        .iter()
        .zip(files)
        .map(|(name, text)| Manifest { name: (*name).into(), text: (*text).into() })
        .collect();
    read(&manifests, "registry.example.com/kong:1", is_kong)
}

fn look(text: &str) -> Found {
    look_at(&[text]).unwrap_or_else(|error| panic!("{error} {:?}\n{text:.1000}", error.hint_text()))
}

/// What matters of a container, in one line.
fn shown(container: &Container) -> String {
    let bounding = match container.bounding {
        DEFAULT_CAPABILITIES => "default".to_owned(),
        CapabilitySet::NAMED => "all".to_owned(),
        set if set.is_empty() => "none".to_owned(),
        set => set.to_string(),
    };
    let flags = [
        (container.no_new_privileges, "nnp"),
        (container.read_only, "read-only"),
        (container.host_network, "host"),
        (container.run_as_non_root, "non-root"),
        (container.user_namespace, "userns"),
        (container.env_from, "env-from"),
    ];
    let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, name)| format!(" {name}")).collect();
    let start = container.unprivileged_port_start.map_or(String::new(), |start| format!(" from {start}"));
    let user = container.user.as_deref().unwrap_or("-");
    format!("{}: {:?} {user} {bounding}{flags}{start}", container.name, container.role)
}

fn all(found: &Found) -> Vec<String> {
    found.containers.iter().map(shown).collect()
}

fn codes(findings: &[Finding]) -> Vec<String> {
    let level = |finding: &Finding| format!("{:?}", finding.level).to_lowercase();
    findings.iter().map(|finding| format!("{} {} {}", level(finding), finding.code, finding.place)).collect()
}

#[test]
fn real_manifests_are_read() {
    let on_host = "cap_net_bind_service nnp read-only host non-root";
    let job = "cap_net_bind_service nnp read-only non-root";
    for (name, text, containers, findings) in [
        (
            "write-up-before",
            include_str!("../../../testdata/k8s/write-up-before.yaml"),
            vec![
                "Deployment kong-kong, init container wait-for-db: Init - default".to_owned(),
                "Deployment kong-kong, container kong: Main - default".to_owned(),
            ],
            vec![],
        ),
        (
            "write-up-after",
            include_str!("../../../testdata/k8s/write-up-after.yaml"),
            vec![
                "DaemonSet kong-kong, init container wait-for-db: Init - default host".to_owned(),
                "DaemonSet kong-kong, container kong: Main - default host".to_owned(),
            ],
            vec!["note pod-security f:2"],
        ),
        (
            "chart-3.4.1",
            include_str!("../../../testdata/k8s/chart-3.4.1.yaml"),
            vec![
                "Deployment chartsnap-kong, init container clear-stale-pid: Init 1000:1000 none nnp read-only non-root"
                    .to_owned(),
                "Deployment chartsnap-kong, init container wait-for-db: Init - default".to_owned(),
                "Deployment chartsnap-kong, container proxy: Main 1000 none nnp read-only".to_owned(),
            ],
            vec![],
        ),
        (
            "compose",
            include_str!("../../../testdata/doctor/compose.yaml"),
            vec![
                "service kong-migrations: Job kong default env-from from 0".to_owned(),
                "service kong: Main kong none nnp read-only env-from from 0".to_owned(),
                "service kong-on-host: Main kong cap_net_bind_service read-only host env-from".to_owned(),
            ],
            vec![],
        ),
        (
            "values",
            include_str!("../../../testdata/doctor/values.yaml"),
            vec![
                format!("DaemonSet kong, init container clear-stale-pid: Init 1000:1000 {on_host}"),
                format!("DaemonSet kong, init container wait-for-db: Init 1000:1000 {on_host}"),
                format!("DaemonSet kong, container proxy: Main 1000:1000 {on_host}"),
                format!("Job kong-init-migrations, container kong-migrations: Job 1000:1000 {job}"),
                format!("Job kong-pre-upgrade-migrations, container kong-upgrade-migrations: Job 1000:1000 {job}"),
                format!(
                    "Job kong-post-upgrade-migrations, container kong-post-upgrade-migrations: Job 1000:1000 {job}"
                ),
            ],
            vec!["breaks dns-policy f:5", "note pod-security f:5"],
        ),
        (
            "openshift",
            include_str!("../../../testdata/k8s/openshift.yaml"),
            vec!["Deployment kong, container kong: Main - none nnp non-root env-from".to_owned()],
            vec![],
        ),
        (
            "cronjob",
            include_str!("../../../testdata/k8s/cronjob.yaml"),
            vec!["CronJob kong-config-backup, container backup: Job - default".to_owned()],
            vec![],
        ),
    ] {
        let found = look(text);
        assert_eq!(all(&found), containers, "{name}");
        assert_eq!(codes(&found.findings), findings, "{name}: {:#?}", found.findings);
    }
}

#[test]
fn what_a_container_runs_is_read() {
    let compose = look(include_str!("../../../testdata/doctor/compose.yaml"));
    let host = &compose.containers[2];
    assert_eq!((host.image.as_str(), host.place.as_str()), ("kong:3.9.3-lowport", "f:40"));
    assert_eq!(host.mounts, ["/var/run/kong", "/opt/kong", "/scratch", "/tmp"]);
    assert_eq!(
        (host.commands[0].what.as_str(), host.commands[0].argv.join(" ").as_str()),
        ("healthcheck", "kong health")
    );
    assert_eq!(compose.containers[0].args.as_ref().unwrap().join(" "), "kong migrations bootstrap");
    let values = look(include_str!("../../../testdata/doctor/values.yaml"));
    let value = |name: &str| {
        let variable = values.containers[2].env.iter().find(|variable| variable.name == name).unwrap();
        (variable.value.as_deref(), variable.place.as_str())
    };
    assert_eq!(
        value("KONG_PROXY_LISTEN"),
        (Some("0.0.0.0:80, [::]:80, 0.0.0.0:443 http2 ssl, [::]:443 http2 ssl"), "f:15")
    );
    assert_eq!(value("KONG_ADMIN_LISTEN").0, Some("127.0.0.1:8444 http2 ssl, [::1]:8444 http2 ssl"));
    assert_eq!((value("KONG_PORT_MAPS").0, value("KONG_PG_PASSWORD").0), (Some("80:80, 443:443"), None));
    assert_eq!(values.containers[0].command.as_ref().unwrap().join(" "), "rm -vrf /kong_prefix//pids");
    assert_eq!(values.containers[2].commands[0].argv.join(" "), "kong quit --wait=15");
    let write_up = look(include_str!("../../../testdata/k8s/write-up-before.yaml"));
    assert_eq!(write_up.containers[0].command.as_ref().unwrap()[..2], ["/bin/sh", "-c"]);
    assert_eq!((&write_up.containers[1].command, &write_up.containers[1].mounts), (&None, &vec!["/kong".to_owned()]));
}

/// A pod of one container in several kinds of objects.
#[test]
fn every_kind_is_looked_into() {
    let spec = "spec: {containers: [{name: a, image: kong}, {name: b, image: other}]}";
    for (kind, object, role) in [
        ("Pod", spec.to_owned(), "Main"),
        ("Deployment", format!("spec: {{template: {{{spec}}}}}"), "Main"),
        ("DaemonSet", format!("spec: {{template: {{{spec}}}}}"), "Main"),
        ("StatefulSet", format!("spec: {{template: {{{spec}}}}}"), "Main"),
        ("ReplicaSet", format!("spec: {{template: {{{spec}}}}}"), "Main"),
        ("ReplicationController", format!("spec: {{template: {{{spec}}}}}"), "Main"),
        ("DeploymentConfig", format!("spec: {{template: {{{spec}}}}}"), "Main"),
        ("Rollout", format!("spec: {{template: {{{spec}}}}}"), "Main"),
        ("Job", format!("spec: {{template: {{{spec}}}}}"), "Job"),
        ("CronJob", format!("spec: {{jobTemplate: {{spec: {{template: {{{spec}}}}}}}}}"), "Job"),
        ("PodTemplate", format!("template: {{{spec}}}"), "Main"),
    ] {
        let object = format!("kind: {kind}\nmetadata: {{name: k}}\n{object}\n");
        let expected = [format!("{kind} k, container a: {role} - default")];
        assert_eq!(all(&look(&object)), expected);
        let item = object.trim().replace('\n', ", ");
        let more = format!("---\nkind: Service\nmetadata: {{name: s}}\n---\n{object}---\n# nothing\n");
        for text in [
            more,
            format!("kind: List\nitems: [{{{item}}}]"),
            format!("kind: {kind}List\nitems: [{{{}}}]", item.split_once(", ").unwrap().1),
        ] {
            assert_eq!(all(&look(&text)), expected, "{text}");
        }
    }
    let json = r#"{"kind": "Pod", "spec": {"initContainers": [{"image": "kong"}, {"image": "kong", "restartPolicy": "Always"}],
        "ephemeralContainers": [{"name": "e", "image": "kong"}]}}"#;
    let expected = [
        "Pod ?, init container ?: Init - default",
        "Pod ?, init container ?: Main - default",
        "Pod ?, ephemeral container e: Job - default",
    ];
    assert_eq!(all(&look(json)), expected);
}

#[test]
fn files_are_laid_over_each_other() {
    let base = "services:\n  a:\n    image: kong\n    cap_drop: [ALL]\n    environment: [A=1, B=2]\n    command: x\n";
    let over = "services:\n  a:\n    cap_add: [NET_BIND_SERVICE]\n    environment: {B: 3}\n    command: y\n  b:\n    extends: {service: a}\n    user: u\n";
    let found = look_at(&[base, over]).unwrap();
    assert_eq!(
        all(&found),
        ["service a: Main - cap_net_bind_service from 0", "service b: Main u cap_net_bind_service from 0"]
    );
    let env: Vec<String> = found.containers[1]
        .env
        .iter()
        .map(|v| format!("{}={}@{}", v.name, v.value.as_deref().unwrap(), v.place))
        .collect();
    assert_eq!(
        (env.join(" ").as_str(), found.containers[1].args.as_deref()),
        ("A=1@f:5 B=3@g:4", Some(&["y".to_owned()][..]))
    );
    let values = look_at(&[
        "image: {repository: kong, tag: x}\ncontainerSecurityContext: {allowPrivilegeEscalation: true}\n",
        "containerSecurityContext: {runAsUser: null, capabilities: {drop: [NET_RAW]}}\n",
    ])
    .unwrap();
    assert_eq!(values.containers[1].user, None);
    assert_eq!(
        values.containers[1].bounding,
        DEFAULT_CAPABILITIES.minus(crate::capability::Capability::NET_RAW.into())
    );
    assert!(!values.containers[1].no_new_privileges);
    let umbrella = look("kong:\n  proxy: {type: ClusterIP}\n");
    assert_eq!(umbrella.containers[1].image, "kong:3.9");
}

#[test]
fn values_come_to_what_the_chart_makes_of_them() {
    let names = |text: &str| look(text).containers.into_iter().map(|found| found.name).collect::<Vec<_>>().join(", ");
    let pod = "Deployment kong, init container clear-stale-pid, Deployment kong, container proxy";
    let waits = "Deployment kong, init container clear-stale-pid, Deployment kong, init container wait-for-db, Deployment kong, container proxy";
    let up = "Job kong-pre-upgrade-migrations, container kong-upgrade-migrations";
    for (text, expected) in [
        ("envFrom: [{configMapRef: {name: x}}]\n", pod.to_owned()),
        ("podAnnotations: {a: b}\ncustomEnv: {a: b}\n", pod.to_owned()),
        ("controller: {}\ngateway: {replicaCount: 2}\n", pod.to_owned()),
        ("env: {database: postgres}\nmigrations: {init: false, postUpgrade: false}\n", format!("{waits}, {up}")),
        (
            "env: {database: postgres}\nmigrations: {init: false, postUpgrade: false}\npostgresql: {enabled: true}\n",
            format!("{waits}, Job kong-pre-upgrade-migrations, init container wait-for-postgres, {}", up),
        ),
        (
            "env: {database: postgres}\nmigrations: {init: false, preUpgrade: false, postUpgrade: false}\npostgresql: {enabled: true}\nwaitImage: {repository: bash, tag: 5}\n",
            waits.to_owned(),
        ),
    ] {
        assert_eq!(names(text), expected, "{text}");
    }
    let services = |text: &str| {
        let found = look(text).services.into_iter();
        found
            .map(|service| (service.name, service.ports.iter().map(|(_, port, to)| (*port, *to)).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    let proxy = |ports: &[(u16, u16)]| ("kong-proxy".to_owned(), ports.to_vec());
    assert_eq!(services("replicaCount: 2\n"), [proxy(&[(80, 8000), (443, 8443)])]);
    assert_eq!(
        services(
            "proxy: {http: {servicePort: 0}, tls: {overrideServiceTargetPort: 8000}}\nadmin: {enabled: true, http: {enabled: true}}\n"
        ),
        [proxy(&[(443, 8000)]), ("kong-admin".to_owned(), vec![(8001, 8001), (8444, 8444)])]
    );
    // Where the chart is the gateway of the chart ingress, its admin API is reached from outside of the pod.
    let admin = |text: &str| {
        let found = look(text);
        let env = &found.containers.last().unwrap().env;
        env.iter().find(|variable| variable.name == "KONG_ADMIN_LISTEN").unwrap().value.clone().unwrap()
    };
    assert_eq!(admin("replicaCount: 2\n"), "127.0.0.1:8444 http2 ssl, [::1]:8444 http2 ssl");
    assert_eq!(admin("gateway: {replicaCount: 2}\n"), "0.0.0.0:8444 http2 ssl, [::]:8444 http2 ssl");
    assert_eq!(admin("gateway: {admin: {enabled: false}}\n"), "127.0.0.1:8444 http2 ssl, [::1]:8444 http2 ssl");
}

#[test]
fn what_cannot_be_read_is_an_error_with_a_place() {
    let aliases = (1..40)
        .fold("a0: &a0 [x, x]\n".to_owned(), |text, at| format!("{text}a{at}: &a{at} [*a{}, *a{}]\n", at - 1, at - 1));
    let circle = "services:\n  a: {image: kong, extends: b}\n  b: {extends: a}\n";
    let containers = format!("kind: Pod\nspec:\n  containers:\n{}", "  - {image: kong}\n".repeat(1001));
    for (text, kind, says, hint) in [
        ("a: b\n", Kind::Content, "f:1: this is no manifest that is known here", "Compose files"),
        ("- a\n", Kind::Content, "f:1: this is no mapping", "Compose files"),
        ("apiVersion: v1\n", Kind::Content, "f:1: this object has no kind", "Kubernetes objects"),
        ("a:\n\t- b\n", Kind::Content, "f:2:", "no tabs"),
        (
            "kind: Pod\nspec: {{ x }}\n",
            Kind::Content,
            "f:2: this is a template",
            "helm template … | capatch doctor IMAGE -f -",
        ),
        ("{{ if x }}\nkind: Pod\n{{ end }}\n", Kind::Content, "f:", "helm template …"),
        (
            "kind: Pod\nspec: {containers: [{image: \"{{ x }}\"}]}\n",
            Kind::Content,
            "f:2: this is a template",
            "helm template …",
        ),
        (
            "",
            Kind::NotFound,
            "no container in these manifests uses registry.example.com/kong:1",
            "no container in them at all",
        ),
        (
            "kind: Pod\nspec: {containers: [{image: a.io/caddy}, {image: b}]}\n",
            Kind::NotFound,
            "no container",
            "there are a.io/caddy, b",
        ),
        (
            "kind: Pod\nspec: {containers: [{image: kong-ee}, {image: x/Kong:2}]}\n",
            Kind::NotFound,
            "no container",
            "there are kong-ee",
        ),
        (
            "image: {repository: x/other, tag: \"1\"}\n",
            Kind::NotFound,
            "no container",
            "kong:3.9 unless image.repository",
        ),
        (
            "kind: Pod\nspec: {containers: {image: kong}}\n",
            Kind::NotFound,
            "no container",
            "f:2: the API server cannot read this: json: cannot unmarshal object",
        ),
        (&aliases, Kind::Content, "f grows beyond", ""),
        (circle, Kind::Content, "f:2: service a extends itself", ""),
        (&containers, Kind::Content, "f:1004: more than 1000 containers", ""),
    ] {
        let error = look_at(&[text]).map(|found| all(&found)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{:?}", error.hint_text());
    }
    let one = [Manifest {
        name: "f".into(),
        text: "kind: Pod\nspec: {containers: [{image: old.io/kong:2}, {image: b}]}\n".into(),
    }];
    let error = read(&one, "new.io/team/kong:3", |_| false).unwrap_err();
    assert!(error.hint_text().unwrap().starts_with("there is old.io/kong:2: "), "{error:?}");
}

#[test]
fn wrong_types_anywhere_are_no_panic() {
    let values = ["x", "1", "true", "~", "[]", "[x]", "[[x]]", "{}", "{x: y}", "[{x: [y]}]", "[~]"];
    let pod =
        ["spec", "containers", "securityContext", "env", "envFrom", "ports", "lifecycle", "volumeMounts", "command"];
    let other = ["capabilities", "sysctls", "strategy", "extends", "healthcheck", "deploy", "environment", "image"];
    for value in values {
        for key in pod.iter().chain(&other) {
            for text in [
                format!("kind: Pod\n{key}: {value}\n"),
                format!("kind: Pod\nspec:\n  hostNetwork: true\n  {key}: {value}\n"),
                format!(
                    "kind: Pod\nspec:\n  containers:\n  - image: kong\n    {key}_: 1\n    {}: {value}\n",
                    key.replace("image", "name")
                ),
                format!("kind: Deployment\nspec:\n  {key}: {value}\n"),
                format!(
                    "kind: Pod\nspec:\n  securityContext:\n    {key}: {value}\n  containers: [{{image: kong, securityContext: {{{key}: {value}}}}}]\n"
                ),
                format!("services:\n  {key}: {value}\n"),
                format!(
                    "services:\n  a:\n    image: kong\n    {key}_: 1\n    {}: {value}\n",
                    key.replace("image", "user")
                ),
                format!("image: {{repository: kong}}\n{key}: {value}\n").replace("\nimage: ", "\nproxy: "),
                format!("image: {{repository: kong}}\ndeployment: {{kong: {{{key}: {value}}}, {key}: {value}}}\n"),
                format!("proxy: {{{key}: {value}, http: {value}, tls: {{parameters: {value}}}}}\nenv: {value}\n"),
            ] {
                let _ = look_at(&[&text]);
            }
        }
    }
}

#[test]
fn large_files_are_read_in_seconds() {
    let start = std::time::Instant::now();
    let mut text = "kind: Pod\nspec:\n  containers:\n  - image: kong\n    env:\n".to_owned();
    for at in 0..60_000 {
        text += &format!("    - {{name: V{at}}}\n");
    }
    assert_eq!(look(&text).containers[0].env.len(), 60_000);
    let text = format!("services:\n  a:\n    image: kong\n    x: [{}]\n", "a,".repeat(250_000));
    assert_eq!(look(&text).containers.len(), 1);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
