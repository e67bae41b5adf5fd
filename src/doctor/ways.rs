//! The ways people run an image when no manifest says it.

use super::{Container, DEFAULT_CAPABILITIES, Role};
use crate::capability::{Capability, CapabilitySet};

/// How Docker, or a kubelet, runs an image that nothing more is said about.
fn container(name: &str, place: &str, host_network: bool) -> Container {
    Container {
        place: place.to_owned(),
        name: name.to_owned(),
        image: String::new(),
        role: Role::Main,
        command: None,
        args: None,
        env: Vec::new(),
        env_from: false,
        user: None,
        groups: Vec::new(),
        run_as_non_root: false,
        bounding: DEFAULT_CAPABILITIES,
        no_new_privileges: false,
        read_only: false,
        host_network,
        user_namespace: false,
        unprivileged_port_start: None,
        windows: false,
        mounts: Vec::new(),
        commands: Vec::new(),
        docker: false,
    }
}

/// The table of standard ways; the first is what the verdict is about.
pub(super) fn standard() -> Vec<Container> {
    let none = CapabilitySet::EMPTY;
    let only: CapabilitySet = Capability::NET_BIND_SERVICE.into();
    let pod = |name: &str| container(name, "pod", true);
    vec![
        pod("pod: hostNetwork"),
        Container { bounding: none, ..pod("pod: hostNetwork, drop ALL") },
        Container { bounding: only, ..pod("pod: hostNetwork, drop ALL, add NET_BIND_SERVICE") },
        Container {
            bounding: only,
            no_new_privileges: true,
            ..pod("pod: the same, allowPrivilegeEscalation: false (restricted)")
        },
        Container { user: Some("0".to_owned()), ..pod("pod: hostNetwork, runAsUser: 0") },
        Container { docker: true, ..container("docker run --network host", "docker", true) },
        Container { docker: true, ..container("docker run", "docker", false) },
    ]
}
