//! How an image is run.

use crate::capability::CapabilitySet;

/// One container, as a manifest says it. What it does not say is what the image and the runtime say.
#[derive(Clone, Debug)]
pub struct Container {
    /// `FILE:LINE` of the container, or what it stands for if no file says it.
    pub place: String,
    /// What to call it: `DaemonSet kong, container proxy`.
    pub name: String,
    /// The image as written.
    pub image: String,
    /// What it is for.
    pub role: Role,
    /// Instead of the image's entry point and command; without a word, there is no entry point.
    pub command: Option<Vec<String>>,
    /// Instead of the image's command; without a word, there is none.
    pub args: Option<Vec<String>>,
    /// Environment variables beside those of the image, in order.
    pub env: Vec<Variable>,
    /// Whether more variables come from config maps, secrets or files that are not looked into.
    pub env_from: bool,
    /// Instead of the image's user: a number or a name, with a group perhaps (`USER` in the image config).
    pub user: Option<String>,
    /// Supplementary groups beside those that the image gives the user, by number or name.
    pub groups: Vec<String>,
    /// Whether the runtime refuses root (`runAsNonRoot`).
    pub run_as_non_root: bool,
    /// What the runtime leaves in the bounding set.
    pub bounding: CapabilitySet,
    /// `allowPrivilegeEscalation: false`, or `no-new-privileges` (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// Whether its root file system cannot be written.
    pub read_only: bool,
    /// Whether it has the network of the node.
    pub host_network: bool,
    /// Whether its user namespace is not that of the node (`hostUsers: false`).
    pub user_namespace: bool,
    /// `net.ipv4.ip_unprivileged_port_start` if the manifest sets it, or the engine that it is written for (Docker: 0).
    pub unprivileged_port_start: Option<u16>,
    /// Whether it is for nodes that run Windows.
    pub windows: bool,
    /// Paths at which something else than the image is mounted.
    pub mounts: Vec<String>,
    /// What is executed in it beside its main process: probes and hooks.
    pub commands: Vec<Command>,
    /// Whether Docker's engine runs it, which gives users other than root the bounding set alone (moby, `SetCapabilities`).
    pub docker: bool,
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves what is proxied.
    Main,
    /// It runs before the others of its pod.
    Init,
    /// It does some work and ends.
    Job,
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// `FILE:LINE`.
    pub place: String,
    /// Its name.
    pub name: String,
    /// Its value, or nothing if it comes from elsewhere (`valueFrom`).
    pub value: Option<String>,
}

/// A command that is executed in a container that already runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// `FILE:LINE`.
    pub place: String,
    /// What executes it: `livenessProbe`, `preStop`, `healthcheck`.
    pub what: String,
    /// Program and arguments.
    pub argv: Vec<String>,
}

/// What container runtimes leave in the bounding set unless they are told otherwise: CHOWN, DAC_OVERRIDE, FOWNER, FSETID,
/// KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE and SETFCAP (`oci/caps` of moby and
/// containerd). CRI-O (`internal/config/capabilities`) and podman (`pkg/config` of containers/common) leave a few less;
/// NET_BIND_SERVICE is always among them.
pub const DEFAULT_CAPABILITIES: CapabilitySet = CapabilitySet::from_bits(0xa804_25fb);
