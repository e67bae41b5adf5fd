use super::{all, codes, look};
use crate::capability::{Capability, CapabilitySet};
use crate::doctor::{DEFAULT_CAPABILITIES, Level};

/// The pod spec `spec` and its container `container`, in a Deployment with `before` in its own spec.
fn deployment(before: &str, spec: &str, container: &str) -> String {
    format!(
        "kind: Deployment\nspec:\n{before}\n  template:\n    spec:\n{spec}\n      containers:\n      - image: kong\n        name: a\n{container}\n"
    )
}

#[test]
fn what_will_be_refused_or_surprise_is_found() {
    let host = "      hostNetwork: true\n      dnsPolicy: ClusterFirstWithHostNet";
    let bare = "      hostNetwork: true";
    let once = "  strategy: {type: Recreate}";
    let psa = "note pod-security f:1";
    for (before, spec, container, expected, says) in [
        ("", "", "", vec![], ""),
        (
            "",
            "      securityContext: {capabilities: {add: [NET_BIND_SERVICE]}}",
            "",
            vec!["breaks pod-level-security-context f:6"],
            "unknown field \"spec.template.spec.securityContext.capabilities\"",
        ),
        (
            "",
            "      securityContext: {allowPrivilegeEscalation: true}",
            "",
            vec!["breaks pod-level-security-context f:6"],
            "securityContext.allowPrivilegeEscalation",
        ),
        (
            "",
            "",
            "        securityContext: {privileged: true, allowPrivilegeEscalation: false}",
            vec!["breaks privileged-without-escalation f:10"],
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
        (once, bare, "", vec!["warning dns-policy f:6", psa], "names of Services do not resolve"),
        (
            once,
            bare,
            "        env: [{name: KONG_PG_HOST, value: kong-postgresql}]",
            vec!["breaks dns-policy f:6", psa],
            "DNS resolution failed",
        ),
        (once, bare, "        env: [{name: KONG_PG_HOST, value: 10.0.0.1}]", vec!["warning dns-policy f:6", psa], ""),
        (
            once,
            bare,
            "        env: [{name: KONG_PG_HOST, value: pg.example.com}]",
            vec!["warning dns-policy f:6", psa],
            "",
        ),
        (
            once,
            bare,
            "        env: [{name: KONG_PG_HOST, value: pg}, {name: KONG_DATABASE, value: \"off\"}]",
            vec!["warning dns-policy f:6", psa],
            "",
        ),
        (once, "      hostNetwork: true\n      dnsPolicy: None", "", vec![psa], "hostNetwork=true"),
        ("", host, "", vec!["warning surge-with-host-ports f:1", psa], "didn't have free ports"),
        ("  strategy: {rollingUpdate: {maxSurge: 0}}", host, "", vec![psa], ""),
        ("  replicas: 3", host, "", vec!["warning replicas-share-host-ports f:3", psa], "98: Address already in use"),
        (once, host, "        ports: [{containerPort: 80, hostPort: 80}]", vec![psa], ""),
        (
            once,
            host,
            "        ports: [{containerPort: 8443}, {containerPort: 80, hostPort: 8080}]",
            vec!["breaks host-port-mismatch f:11", psa],
            "spec.template.spec.containers[0].ports[1].hostPort: Invalid value: 8080: must match `containerPort` when `hostNetwork` is true",
        ),
        (
            "",
            "      securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"80\"}]}",
            "",
            vec![],
            "",
        ),
        (
            once,
            "      securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"80\"}]}\n      hostNetwork: true\n      dnsPolicy: None",
            "",
            vec!["breaks sysctl-with-host-network f:6", psa],
            "securityContext.sysctls[0].name: Invalid value",
        ),
        ("", "      hostUsers: false", "", vec![], ""),
        (
            once,
            "      hostUsers: false\n      hostNetwork: true\n      dnsPolicy: None",
            "",
            vec!["breaks user-namespace-with-host-network f:6", psa],
            "spec.template.spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
        ),
        ("", "      nodeSelector: {kubernetes.io/os: windows}", "", vec!["breaks windows f:6"], ""),
        ("", "      nodeSelector: {kubernetes.io/os: linux}", "", vec![], ""),
        ("", "      runtimeClassName: gvisor", "", vec!["note runtime-class f:6"], "gVisor"),
        ("", "", "        securityContext: {runAsUser: 0}", vec!["note root-not-needed f:10"], ""),
        ("", "      securityContext: {runAsUser: 0}", "        securityContext: {runAsUser: 1}", vec![], ""),
        (
            "",
            "",
            "        securityContext: {capabilities: {drop: [ALL], add: [CAP_NET_BIND_SERVICE]}}",
            vec!["warning capability-prefix f:10"],
            "CAP_NET_BIND_SERVICE is not added where containerd",
        ),
        (
            "",
            "      hostNetwork: \"true\"",
            "",
            vec!["breaks refused-by-api-server f:6"],
            "json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.hostNetwork of type bool",
        ),
        (
            "",
            "",
            "        env: [{name: A, value: 80}]",
            vec!["breaks refused-by-api-server f:10"],
            "cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            "",
            "",
            "        env: {A: b}",
            vec!["breaks refused-by-api-server f:10"],
            "cannot unmarshal object into Go struct field Container.spec.template.spec.containers.env of type []v1.EnvVar",
        ),
        ("", "", "        command: kong start", vec!["breaks refused-by-api-server f:10"], "command of type []string"),
        (
            once,
            host,
            "        ports: [{containerPort: 80}, {containerPort: 80}]",
            vec!["breaks refused-by-api-server f:11", psa],
            "no pod is created: spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
        ),
        (
            "",
            "",
            "        ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81, hostPort: 80}]",
            vec!["breaks refused-by-api-server f:10"],
            "kubectl apply fails: spec.template.spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
        ),
        (
            "",
            "",
            "        securityContext: {runAsUser: -1}",
            vec!["breaks refused-by-api-server f:10"],
            "spec.template.spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            "",
            "      dnsPolicy: ClusterLast",
            "",
            vec!["breaks refused-by-api-server f:6"],
            "spec.template.spec.dnsPolicy: Unsupported value: \"ClusterLast\": supported values: \"ClusterFirstWithHostNet\",",
        ),
        ("", "", "        ports: [80]", vec!["breaks refused-by-api-server f:10"], "ports of type v1.ContainerPort"),
        (
            "",
            "      securityContext: []",
            "        securityContext: x",
            vec!["breaks refused-by-api-server f:10"],
            "field Container.spec.template.spec.containers.securityContext of type v1.SecurityContext",
        ),
    ] {
        let text = deployment(before, spec, container);
        let found = look(&text);
        assert_eq!(codes(&found.findings), expected, "{text}\n{:#?}", found.findings);
        let what = found.findings.first().map(|finding| finding.what.as_str()).unwrap_or_default();
        assert!(what.contains(says), "{what}");
    }
}

#[test]
fn levels_of_pod_security_are_those_of_the_namespace() {
    let pod = |level: &str, spec: &str| {
        let namespace = format!(
            "kind: Namespace\nmetadata: {{name: n, labels: {{pod-security.kubernetes.io/enforce: {level}}}}}\n---\n"
        );
        let text = format!("{namespace}kind: Pod\nmetadata: {{namespace: n, name: p}}\nspec: {{{spec}}}\n");
        look(&text).findings.into_iter().filter(|finding| finding.code == "pod-security").collect::<Vec<_>>()
    };
    let good = "containers: [{name: a, image: kong, securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}}]";
    let host = "hostNetwork: true, dnsPolicy: None, containers: [{name: a, image: kong}]";
    for (level, spec, says) in [
        ("privileged", host, None),
        ("baseline", good, None),
        ("restricted", good, None),
        ("baseline", host, Some("violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)")),
        (
            "restricted",
            "containers: [{name: a, image: kong}, {name: b, image: kong}]",
            Some(
                "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true",
            ),
        ),
        (
            "baseline",
            "containers: [{name: a, image: kong, securityContext: {privileged: true}}]",
            Some("privileged (container \"a\" must not set securityContext.privileged=true)"),
        ),
        (
            "baseline",
            "containers: [{name: a, image: kong, securityContext: {capabilities: {add: [NET_ADMIN]}}}]",
            Some("non-default capabilities"),
        ),
    ] {
        let findings = pod(level, spec);
        match says {
            None => assert_eq!(findings, []),
            Some(says) => {
                assert!(findings[0].what.contains(says), "{}", findings[0].what);
                assert_eq!((findings.len(), findings[0].level), (1, Level::Breaks));
            }
        }
    }
}

#[test]
fn constraints_of_openshift_are_applied() {
    let pod = |constraint: &str, spec: &str, context: &str| {
        look(&format!(
            "kind: Pod\nmetadata: {{annotations: {{openshift.io/required-scc: {constraint}}}}}\nspec: {{{spec}containers: [{{name: a, image: kong, securityContext: {{{context}}}}}]}}\n"
        ))
    };
    for (constraint, spec, context, expected, says) in [
        ("restricted-v2", "", "", "none nnp", None),
        ("restricted-v2", "", "capabilities: {add: [NET_BIND_SERVICE]}", "cap_net_bind_service nnp", None),
        (
            "restricted-v2",
            "",
            "allowPrivilegeEscalation: true",
            "none",
            Some(
                "provider restricted-v2: .containers[0].allowPrivilegeEscalation: Invalid value: true: Allowing privilege escalation for containers is not allowed",
            ),
        ),
        (
            "restricted-v2",
            "hostNetwork: true, dnsPolicy: None, ",
            "",
            "none nnp",
            Some(
                "[provider restricted-v2: .spec.securityContext.hostNetwork: Invalid value: true: Host network is not allowed to be used, provider restricted-v2: .containers[0].hostNetwork: Invalid value: true: Host network is not allowed to be used]",
            ),
        ),
        ("hostnetwork-v2", "hostNetwork: true, dnsPolicy: None, ", "", "none nnp", None),
        (
            "hostnetwork",
            "hostNetwork: true, dnsPolicy: None, ",
            "capabilities: {add: [NET_BIND_SERVICE]}",
            "less",
            Some(
                "provider hostnetwork: .containers[0].capabilities.add: Invalid value: \"NET_BIND_SERVICE\": capability may not be added",
            ),
        ),
        (
            "nonroot-v2",
            "",
            "runAsUser: 0",
            "none nnp",
            Some(
                "provider nonroot-v2: .containers[0].runAsUser: Invalid value: 0: running with the root UID is forbidden",
            ),
        ),
        (
            "nonroot",
            "",
            "runAsNonRoot: false",
            "less",
            Some("provider nonroot: .containers[0].runAsNonRoot: Invalid value: false: must be true"),
        ),
        (
            "restricted",
            "",
            "runAsUser: 1000",
            "less",
            Some("provider restricted: .containers[0].runAsUser: Invalid value: 1000: must be in the ranges: ["),
        ),
        (
            "restricted-v3",
            "",
            "",
            "none nnp",
            Some(
                "provider restricted-v3: .spec.securityContext.hostUsers: Invalid value: \"null\": Host Users must be set to false",
            ),
        ),
        ("restricted-v3", "hostUsers: false, ", "runAsUser: 1000", "none nnp", None),
        (
            "anyuid",
            "",
            "privileged: true",
            "all",
            Some(
                "provider anyuid: .containers[0].privileged: Invalid value: true: Privileged containers are not allowed",
            ),
        ),
        ("anyuid", "", "runAsUser: 0", "less", None),
        ("privileged", "", "privileged: true, capabilities: {add: [ALL]}", "all", None),
        ("ours", "hostNetwork: true, dnsPolicy: None, ", "", "default", None),
    ] {
        let found = pod(constraint, spec, context);
        let container = &found.containers[0];
        let bounding = match container.bounding {
            CapabilitySet::EMPTY => "none",
            CapabilitySet::NAMED => "all",
            DEFAULT_CAPABILITIES => "default",
            set if set == Capability::NET_BIND_SERVICE.into() => "cap_net_bind_service",
            set if set.contains(Capability::NET_BIND_SERVICE) => "less",
            _ => "others",
        };
        let nnp = if container.no_new_privileges { " nnp" } else { "" };
        assert_eq!(format!("{bounding}{nnp}"), expected, "{constraint} {context}");
        let what = found.findings.iter().find(|finding| finding.code == "scc").map(|finding| &finding.what);
        let after = what.map(|what| what.split_once("security context constraint: ").unwrap().1);
        match says {
            Some(says) => assert!(after.unwrap().starts_with(says), "{after:?}"),
            None => assert_eq!(after, None, "{constraint} {context}"),
        }
    }
}

#[test]
fn compose_files_are_read_as_docker_reads_them() {
    for (service, expected, code) in [
        ("", "- default from 0", None),
        ("user: \"1000:0\"", "1000:0 default from 0", None),
        ("network_mode: host", "- default host", None),
        ("network_mode: \"service:db\"", "- default", None),
        ("privileged: true", "- all from 0", None),
        ("security_opt: [\"no-new-privileges:true\"]", "- default nnp from 0", None),
        ("security_opt: [no-new-privileges=true, seccomp=unconfined]", "- default nnp from 0", None),
        ("security_opt: [no-new-privileges, \"no-new-privileges:false\"]", "- default from 0", None),
        ("cap_drop: [ALL], cap_add: [CAP_NET_BIND_SERVICE]", "- cap_net_bind_service from 0", None),
        ("cap_drop: [NET_BIND_SERVICE], cap_add: [net_bind_service]", "- default from 0", None),
        ("cap_add: [NET_BIND]", "- default from 0", Some("unknown-capability")),
        ("cap_drop: [CAP_ALL]", "- default from 0", Some("unknown-capability")),
        ("userns_mode: host", "- default from 0", None),
        ("userns_mode: keep-id", "- default userns from 0", None),
        ("sysctls: {net.ipv4.ip_unprivileged_port_start: 1024}", "- default from 1024", None),
        ("sysctls: [net.ipv4.ip_unprivileged_port_start=81]", "- default from 81", None),
        (
            "sysctls: [net.ipv4.ip_unprivileged_port_start=0], network_mode: host",
            "- default host from 0",
            Some("sysctl-with-host-network"),
        ),
        ("deploy: {replicas: 2}, network_mode: host", "- default host", Some("replicas-share-host-ports")),
        ("cap_drop: ALL", "- default from 0", Some("refused-by-compose")),
        ("user: [a]", "- default from 0", Some("refused-by-compose")),
        ("environment: 1", "- default from 0", Some("refused-by-compose")),
        ("user: \"${UID}\"", "- default from 0", None),
        ("read_only: \"${RO:-true}\"", "- default read-only from 0", None),
    ] {
        let found = look(&format!("services:\n  a: {{image: kong, {service}}}\n"));
        assert_eq!(all(&found), [format!("service a: Main {expected}")], "{service}");
        assert_eq!(found.findings.first().map(|finding| finding.code), code, "{service}");
    }
    for (service, entrypoint, command) in [
        ("", None, None),
        ("entrypoint: [], command: \"\"", Some(vec![]), Some(vec![])),
        ("entrypoint: sh -c 'a b'", Some(vec!["sh", "-c", "a b"]), None),
        ("command: [kong, \"${X}\"]", None, Some(vec!["kong", "${X}"])),
    ] {
        let found = look(&format!("services:\n  a: {{image: kong, {service}}}\n"));
        let words = |words: Option<Vec<&str>>| words.map(|words| words.into_iter().map(str::to_owned).collect());
        let container = &found.containers[0];
        assert_eq!((&container.command, &container.args), (&words(entrypoint), &words(command)), "{service}");
    }
}
