//! Fields of Kubernetes objects with the types that the API server wants.

use super::tree::{Tree, Value};

/// The first field that the API server cannot read, for which it refuses the whole object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `FILE:LINE`.
    pub(super) place: String,
    /// In the words of the API server.
    pub(super) says: String,
}

/// A type of the API, with its name in Go.
#[derive(Clone, Copy)]
enum Type {
    Bool,
    Int(&'static str),
    Text(&'static str),
    List(&'static Type),
    Struct(&'static Struct),
}

/// A mapping of the API with the fields that are looked at, as in `k8s.io/api/core/v1`.
struct Struct {
    name: &'static str,
    fields: &'static [(&'static str, Type)],
}

const STRING: Type = Type::Text("string");
const STRINGS: Type = Type::List(&STRING);
const INT32: Type = Type::Int("int32");
const INT64: Type = Type::Int("int64");

const SECCOMP: Type = Type::Struct(&Struct {
    name: "SeccompProfile",
    fields: &[("type", Type::Text("v1.SeccompProfileType")), ("localhostProfile", STRING)],
});
const CAPABILITY_LIST: Type = Type::List(&Type::Text("v1.Capability"));
const CAPABILITIES: Type =
    Type::Struct(&Struct { name: "Capabilities", fields: &[("add", CAPABILITY_LIST), ("drop", CAPABILITY_LIST)] });
const SECURITY_CONTEXT: Type = Type::Struct(&Struct {
    name: "SecurityContext",
    fields: &[
        ("allowPrivilegeEscalation", Type::Bool),
        ("capabilities", CAPABILITIES),
        ("privileged", Type::Bool),
        ("readOnlyRootFilesystem", Type::Bool),
        ("runAsGroup", INT64),
        ("runAsNonRoot", Type::Bool),
        ("runAsUser", INT64),
        ("seccompProfile", SECCOMP),
    ],
});
const POD_SECURITY_CONTEXT: Type = Type::Struct(&Struct {
    name: "PodSecurityContext",
    fields: &[
        ("runAsGroup", INT64),
        ("runAsNonRoot", Type::Bool),
        ("runAsUser", INT64),
        ("seccompProfile", SECCOMP),
        (
            "sysctls",
            Type::List(&Type::Struct(&Struct { name: "Sysctl", fields: &[("name", STRING), ("value", STRING)] })),
        ),
    ],
});
const ENV: Type = Type::List(&Type::Struct(&Struct {
    name: "EnvVar",
    fields: &[
        ("name", STRING),
        ("value", STRING),
        ("valueFrom", Type::Struct(&Struct { name: "EnvVarSource", fields: &[] })),
    ],
}));
const ENV_FROM: Type = Type::List(&Type::Struct(&Struct { name: "EnvFromSource", fields: &[("prefix", STRING)] }));
const PORTS: Type = Type::List(&Type::Struct(&Struct {
    name: "ContainerPort",
    fields: &[
        ("containerPort", INT32),
        ("hostIP", STRING),
        ("hostPort", INT32),
        ("name", STRING),
        ("protocol", Type::Text("v1.Protocol")),
    ],
}));
const MOUNTS: Type = Type::List(&Type::Struct(&Struct { name: "VolumeMount", fields: &[("mountPath", STRING)] }));
const EXEC: Type = Type::Struct(&Struct { name: "ExecAction", fields: &[("command", STRINGS)] });
const PROBE: Type = Type::Struct(&Struct { name: "Probe", fields: &[("exec", EXEC)] });
const HOOK: Type = Type::Struct(&Struct { name: "LifecycleHandler", fields: &[("exec", EXEC)] });
const LIFECYCLE: Type = Type::Struct(&Struct { name: "Lifecycle", fields: &[("postStart", HOOK), ("preStop", HOOK)] });
const CONTAINER: &[(&str, Type)] = &[
    ("args", STRINGS),
    ("command", STRINGS),
    ("env", ENV),
    ("envFrom", ENV_FROM),
    ("image", STRING),
    ("imagePullPolicy", Type::Text("v1.PullPolicy")),
    ("lifecycle", LIFECYCLE),
    ("livenessProbe", PROBE),
    ("name", STRING),
    ("ports", PORTS),
    ("readinessProbe", PROBE),
    ("restartPolicy", Type::Text("v1.ContainerRestartPolicy")),
    ("securityContext", SECURITY_CONTEXT),
    ("startupProbe", PROBE),
    ("volumeMounts", MOUNTS),
];
const CONTAINERS: Type = Type::List(&Type::Struct(&Struct { name: "Container", fields: CONTAINER }));
const EPHEMERAL: Type = Type::List(&Type::Struct(&Struct { name: "EphemeralContainer", fields: CONTAINER }));
const POD: Type = Type::Struct(&Struct {
    name: "PodSpec",
    fields: &[
        ("containers", CONTAINERS),
        ("dnsPolicy", Type::Text("v1.DNSPolicy")),
        ("ephemeralContainers", EPHEMERAL),
        ("hostIPC", Type::Bool),
        ("hostNetwork", Type::Bool),
        ("hostPID", Type::Bool),
        ("hostUsers", Type::Bool),
        ("initContainers", CONTAINERS),
        ("runtimeClassName", STRING),
        ("securityContext", POD_SECURITY_CONTEXT),
    ],
});

impl Type {
    fn name(&self) -> String {
        match self {
            Type::Bool => "bool".to_owned(),
            Type::Int(name) | Type::Text(name) => (*name).to_owned(),
            Type::List(of) => format!("[]{}", of.name()),
            Type::Struct(of) => format!("v1.{}", of.name),
        }
    }
}

/// What in an object of a kind, whose pod is below `keys`, the API server cannot read.
pub(super) fn refusal(object: &Tree<'_>, kind: &str, keys: &[&str]) -> Option<Refusal> {
    let (mut tree, mut owner, mut path) = (object, kind.to_owned(), Vec::new());
    for key in keys {
        tree = tree.get(key)?;
        path.push(*key);
        let name = match (*key, owner.as_str()) {
            ("template", _) => "PodTemplateSpec".to_owned(),
            ("jobTemplate", _) => "JobTemplateSpec".to_owned(),
            (_, "JobTemplateSpec") => "JobSpec".to_owned(),
            _ => format!("{kind}Spec"),
        };
        if !matches!(tree.value, Value::Map(_)) {
            return Some(mismatch(tree, &owner, &path, &format!("v1.{name}")));
        }
        owner = name;
    }
    path.push("spec");
    fits(tree.get("spec")?, &POD, &owner, &mut path)
}

/// The first value of another type, in the order in which kubectl sends them: by their keys.
fn fits(tree: &Tree<'_>, want: &Type, owner: &str, path: &mut Vec<&str>) -> Option<Refusal> {
    match (want, &tree.value) {
        (_, Value::Null) => None,
        (Type::Bool, _) if tree.boolean().is_some() => None,
        (Type::Int(_), _) if tree.integer().is_some() => None,
        (Type::Text(_), _) if tree.kind() == "string" => None,
        (Type::List(of), Value::List(items)) => items.iter().find_map(|item| fits(item, of, owner, path)),
        (Type::Struct(of), Value::Map(_)) => of.fields.iter().find_map(|(key, want)| {
            path.push(key);
            let refusal = tree.get(key).and_then(|value| fits(value, want, of.name, path));
            path.pop();
            refusal
        }),
        _ => Some(mismatch(tree, owner, path, &want.name())),
    }
}

fn mismatch(tree: &Tree<'_>, owner: &str, path: &[&str], want: &str) -> Refusal {
    let kind = match tree.kind() {
        // Go shows which number (encoding/json, UnmarshalTypeError).
        "number" if want.starts_with("int") => format!("number {}", tree.text().unwrap_or_default()),
        kind => kind.to_owned(),
    };
    Refusal {
        place: tree.place(),
        says: format!("json: cannot unmarshal {kind} into Go struct field {owner}.{} of type {want}", path.join(".")),
    }
}

/// The text of a field.
pub(super) fn text<'t>(tree: &'t Tree<'_>, key: &str) -> Option<&'t str> {
    tree.get(key).filter(|value| value.kind() == "string").and_then(Tree::text)
}

/// The texts of a list.
pub(super) fn texts(tree: &Tree<'_>, key: &str) -> Option<Vec<String>> {
    let items = tree.get(key).filter(|list| matches!(list.value, Value::List(_)))?.items();
    Some(items.iter().filter(|item| item.kind() == "string").filter_map(|item| Some(item.text()?.to_owned())).collect())
}

/// The mappings of a list.
pub(super) fn maps<'t, 'a>(tree: &'t Tree<'a>, key: &str) -> Vec<&'t Tree<'a>> {
    let items = tree.get(key).map(Tree::items).unwrap_or_default();
    items.iter().filter(|item| matches!(item.value, Value::Map(_))).collect()
}
