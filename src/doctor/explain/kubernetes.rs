//! Errors of Kubernetes about manifests and pods.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "run-as-root",
        pattern: r"container has runAsNonRoot and image will run as root|container's runAsUser breaks non-root policy",
        seen: &["Error: container has runAsNonRoot and image will run as root (pod: \"kong-7x2\", container: proxy)"],
        what: "kubelet does not start the container: it must not run as root, and the image would.",
        why: "runAsNonRoot: true is set, and neither the image nor the manifest names another user. Kong's images before 1.5.1 have none.",
        fix: &[
            "securityContext: {runAsNonRoot: true, runAsUser: 1337}      (the uid of kong in Kong's images of that time)",
            "As an ordinary user it has low ports with the patched image.",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE"),
        see: "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/",
    },
    Entry {
        code: "user-by-name",
        pattern: r"image has non-numeric user",
        seen: &[
            "Error: container has runAsNonRoot and image has non-numeric user (kong), cannot verify user is non-root",
        ],
        what: "kubelet does not start the container: it cannot tell whether the user of the image is root.",
        why: "The image names its user (USER kong); kubelet does not read /etc/passwd of an image.",
        fix: &[
            "securityContext: {runAsNonRoot: true, runAsUser: 1000}      (the uid of that user: capatch inspect IMAGE, id kong in a container)",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: named-user"),
        see: "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/",
    },
    Entry {
        code: "pod-security",
        pattern: r"violates? PodSecurity",
        seen: &[
            "Error creating: pods \"kong-x\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true), allowPrivilegeEscalation != false (container \"proxy\" must set securityContext.allowPrivilegeEscalation=false)",
        ],
        what: "The namespace does not admit the pod: its Pod Security level forbids what the message lists.",
        why: "hostNetwork violates baseline and restricted; allowPrivilegeEscalation: true violates restricted. The file capability needs \
              the latter, the ports of a node need the former.",
        fix: &[
            "kubectl label namespace NAMESPACE pod-security.kubernetes.io/enforce=privileged --overwrite",
            "or stay off the host network, where no capability is needed:",
            "capatch k8s FILE --without-capability",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: pod-security"),
        see: "https://kubernetes.io/docs/concepts/security/pod-security-standards/",
    },
    Entry {
        code: "openshift-scc",
        pattern: r"unable to validate against any security context constraint|PodSecurityPolicy: unable to admit pod",
        seen: &[
            "Error creating: pods \"kong-\" is forbidden: unable to validate against any security context constraint: [provider restricted-v2: .spec.securityContext.hostNetwork: Invalid value: true: Host network is not allowed to be used]",
        ],
        what: "OpenShift does not admit the pod: no constraint (SCC) that its service account may use allows what the message lists.",
        why: "restricted-v2 drops all capabilities but an added NET_BIND_SERVICE, forbids the host network, and forbids to gain \
              privileges, so that the file capability has no effect.",
        fix: &[
            "oc adm policy add-scc-to-user hostnetwork-v2 -z SERVICEACCOUNT      (host network; it still forbids to gain privileges)",
            "A constraint of your own with allowHostNetwork, allowPrivilegeEscalation and allowedCapabilities: [NET_BIND_SERVICE] does both; a Route with ports from 1024 on needs none of it.",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: scc"),
        see: "https://docs.openshift.com/container-platform/latest/authentication/managing-security-context-constraints.html",
    },
    Entry {
        code: "sysctl-host-network",
        pattern: r"forbidden sysctl: .*not allowed with host net|may not be specified when 'hostNetwork' is true|sysctl .* not allowed in host network namespace",
        seen: &[
            "sysctl \"net.ipv4.ip_unprivileged_port_start\" not allowed in host network namespace",
            "forbidden sysctl: \"net.ipv4.ip_unprivileged_port_start\" not allowed with host net enabled",
            "spec.template.spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.ip_unprivileged_port_start\": may not be specified when 'hostNetwork' is true",
        ],
        what: "Kubernetes (SysctlForbidden) or the runtime refuses it: with the network of the node the sysctl would change the node itself.",
        why: "Sysctls below net. belong to a network namespace; hostNetwork and network_mode: host leave none of its own.",
        fix: &[
            "Take the sysctl out and use a patched image:",
            "capatch patch IMAGE NEW-IMAGE && capatch k8s FILE --image NEW-IMAGE",
            "or set it on every node: sysctl -w net.ipv4.ip_unprivileged_port_start=80",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: sysctl-with-host-network"),
        see: "https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/",
    },
    Entry {
        code: "privileged-and-no-escalation",
        pattern: r"cannot set `allowPrivilegeEscalation` to false and `(privileged|capabilities\.Add)`",
        seen: &["Invalid value: \"\": cannot set `allowPrivilegeEscalation` to false and `privileged` to true"],
        what: "The API server refuses the pod: allowPrivilegeEscalation: false and what gives every privilege are said together.",
        why: "no_new_privs has no meaning for a container that has all privileges, or CAP_SYS_ADMIN.",
        fix: &[
            "Take privileged (or CAP_SYS_ADMIN) out; a patched image needs neither:",
            "capatch patch IMAGE NEW-IMAGE",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: privileged-without-escalation"),
        see: "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/",
    },
    Entry {
        code: "user-namespace-of-a-pod",
        pattern: r"hostNetwork: Forbidden: when `?(pod\.Spec\.)?hostUsers`? is false",
        seen: &[
            "spec.template.spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
            "spec.hostNetwork: Forbidden: when `hostUsers` is false",
        ],
        what: "The API server refuses the pod: with hostNetwork it cannot have a user namespace of its own.",
        why: "A capability of a user namespace counts only in networks that this namespace owns, and the node's is none of them.",
        fix: &["hostUsers: true      (in the spec of the pod; or hostNetwork: false)"],
        foretold: Some("capatch doctor IMAGE -f FILE: user-namespace-with-host-network"),
        see: "user_namespaces(7); https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/",
    },
    Entry {
        code: "other-system",
        pattern: r"no matching manifest for windows/",
        seen: &["no matching manifest for windows/amd64 10.0.20348 in the manifest list entries"],
        what: "The node cannot pull the image: it runs Windows, and the image is for Linux.",
        why: "The manifest asks for nodes with Windows, or for none in a cluster that has both.",
        fix: &["nodeSelector:", "  kubernetes.io/os: linux"],
        foretold: Some("capatch doctor IMAGE -f FILE: windows"),
        see: "https://kubernetes.io/docs/concepts/windows/user-guide/",
    },
    Entry {
        code: "sysctl-not-allowed",
        pattern: r"SysctlForbidden|forbidden sysctl",
        seen: &["forbidden sysctl: \"net.ipv4.ip_unprivileged_port_start\" not allowlisted"],
        what: "kubelet refuses the pod (SysctlForbidden): this sysctl is not among the safe ones that it knows.",
        why: "net.ipv4.ip_unprivileged_port_start is safe from Kubernetes 1.22 on; older kubelets have to be told.",
        fix: &[
            "kubelet --allowed-unsafe-sysctls=net.ipv4.ip_unprivileged_port_start",
            "or use a patched image: capatch patch IMAGE NEW-IMAGE",
        ],
        foretold: None,
        see: "https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/",
    },
    Entry {
        code: "capabilities-of-a-pod",
        pattern: r#"unknown field \\?"[^"]*securityContext\.capabilities|unknown field \\?"capabilities\\?" in io\.k8s\.api\.core\.v1\.PodSecurityContext|securityContext\.capabilities: field not declared"#,
        seen: &[
            "strict decoding error: unknown field \"spec.template.spec.securityContext.capabilities\"",
            "error validating data: ValidationError(Deployment.spec.template.spec.securityContext): unknown field \"capabilities\" in io.k8s.api.core.v1.PodSecurityContext",
        ],
        what: "capabilities stands in the securityContext of the pod, where Kubernetes knows no such field.",
        why: "A pod's securityContext and a container's are two types; capabilities, allowPrivilegeEscalation and \
              readOnlyRootFilesystem belong to containers.",
        fix: &[
            "spec:",
            "  containers:",
            "  - name: proxy",
            "    securityContext:",
            "      allowPrivilegeEscalation: true",
            "      capabilities: {add: [NET_BIND_SERVICE]}      # drop: [ALL] may stay",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: pod-level-security-context"),
        see: "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#set-capabilities-for-a-container",
    },
    Entry {
        code: "unknown-field",
        pattern: r#"strict decoding error: .*unknown field|unknown field \\?"[^"]*\\?" in io\.k8s\.|ValidationError\(.*unknown field"#,
        seen: &[
            "Error from server (BadRequest): DaemonSet in version \"v1\" cannot be handled as a DaemonSet: strict decoding error: unknown field \"spec.replicas\"",
        ],
        what: "The manifest has a field that this kind does not have at this place.",
        why: "It is misspelled, indented too far or too little, or belongs to another kind: a DaemonSet has no replicas and no strategy.",
        fix: &[
            "kubectl explain daemonset.spec",
            "capatch k8s FILE --image IMAGE      (takes out what only a Deployment has)",
        ],
        foretold: None,
        see: "https://kubernetes.io/docs/reference/kubernetes-api/",
    },
    Entry {
        code: "old-api-version",
        pattern: r#"no matches for kind \\?"[^"]*\\?" in version"#,
        seen: &[
            "error: unable to recognize \"kong.yaml\": no matches for kind \"Deployment\" in version \"apps/v1beta2\"",
        ],
        what: "This cluster does not know the API version of the manifest any more.",
        why: "extensions/v1beta1, apps/v1beta1 and apps/v1beta2 went with Kubernetes 1.16.",
        fix: &["capatch k8s FILE --image IMAGE      (writes apps/v1, with the selector that it wants)"],
        foretold: None,
        see: "https://kubernetes.io/docs/reference/using-api/deprecation-guide/",
    },
    Entry {
        code: "host-network-ports",
        pattern: r"must match `?(hostPort|containerPort)`? when `?hostNetwork`? is true",
        seen: &[
            "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 8000: must match `hostPort` when `hostNetwork` is true",
        ],
        what: "With hostNetwork a container port is a port of the node: containerPort and hostPort have to be the same.",
        why: "There is no mapping between the two, so that 80 in front of 8000 cannot be had.",
        fix: &[
            "Let the program itself listen there, and name the port once:",
            "ports: [{name: proxy, containerPort: 80}]",
            "capatch k8s FILE --image IMAGE writes that.",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: host-port-mismatch"),
        see: "https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/",
    },
    Entry {
        code: "node-ports-taken",
        pattern: r"didn't have free ports for the requested pod ports",
        seen: &[
            "0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 2 node(s) didn't match Pod's node affinity/selector.",
        ],
        what: "The scheduler finds no node on which the host ports of the pod are free.",
        why: "Two pods that want port 80 of the node cannot be on one: more replicas than nodes, an update that starts the new pod first, \
              or another ingress controller.",
        fix: &[
            "kind: DaemonSet",
            "spec:",
            "  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}",
            "A Deployment has to make room first:",
            "strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: replicas-share-host-ports, surge-with-host-ports"),
        see: "https://kubernetes.io/docs/concepts/scheduling-eviction/",
    },
    Entry {
        code: "surge-of-a-daemon-set",
        pattern: r"maxSurge: Invalid value: .*: may not be set when maxUnavailable is non-zero",
        seen: &[
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: intstr.IntOrString{Type:0, IntVal:1, StrVal:\"\"}: may not be set when maxUnavailable is non-zero",
        ],
        what: "The API server refuses the DaemonSet: a new pod is to start beside the old one, and instead of it.",
        why: "Of maxSurge and maxUnavailable exactly one may be other than zero, and maxUnavailable is 1 where nothing is said. On \
              the host network the old pod has to go first, for it has the ports.",
        fix: &["spec:", "  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}"],
        foretold: Some("capatch doctor IMAGE -f FILE: refused-by-api-server"),
        see: "https://kubernetes.io/docs/tasks/manage-daemon/update-daemon-set/",
    },
    Entry {
        code: "names-on-the-host-network",
        pattern: r"host not found in upstream|name resolution failed|DNS resolution failed|name lookup failed|host or service not provided, or not known|dns server error: 3|could not be resolved \(\d+: |lookup \S+( on \S+)?: no such host",
        seen: &[
            "nginx: [emerg] host not found in upstream \"kong-postgresql\" in /usr/local/kong/nginx-kong.conf:12",
            "Error: [PostgreSQL error] failed to retrieve server_version_num: host or service not provided, or not known",
            "[postgres] [cosocket] DNS resolution failed: dns server error: 3 name error. Tried: [\"(short)kong-database:(na) - cache-miss\"]",
        ],
        what: "The name of a Service, such as kong-postgresql, is not found.",
        why: "With hostNetwork and dnsPolicy ClusterFirst a pod asks the DNS servers of its node, which know no Services.",
        fix: &[
            "spec:",
            "  hostNetwork: true",
            "  dnsPolicy: ClusterFirstWithHostNet",
            "Otherwise: kubectl get service -A | grep NAME; a Service of another namespace is NAME.NAMESPACE.",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: dns-policy"),
        see: "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy",
    },
    Entry {
        code: "yaml-tab",
        pattern: r"found character that cannot start any token|found a tab character|tabs? (is|are) not allowed",
        seen: &[
            "error: error parsing kong.yaml: error converting YAML to JSON: yaml: line 4: found character that cannot start any token",
        ],
        what: "The manifest is indented with a tab, which YAML forbids.",
        why: "An editor put it there, or a web page from which it was copied; @, ` and % at the start of a value do the same.",
        fix: &["grep -nP '\\t' FILE      (shows the lines)", "expand -t2 FILE > NEW-FILE"],
        foretold: Some("capatch k8s FILE and capatch doctor IMAGE -f FILE name the line"),
        see: "https://yaml.org/spec/1.2.2/#61-indentation-spaces",
    },
];
