//! What a security context leaves a container.

use super::tree::Tree;
use super::typed::texts;
use crate::capability::{Capability, CapabilitySet};
use crate::doctor::DEFAULT_CAPABILITIES;

/// A container's security context over that of its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) user: Option<String>,
    pub(crate) run_as_non_root: bool,
    /// What is said of it, if anything.
    pub(crate) said_non_root: Option<bool>,
    /// What is said, not what follows: privileged containers may not say `false`.
    pub(crate) allow_privilege_escalation: Option<bool>,
    pub(crate) privileged: bool,
    pub(crate) read_only: bool,
    pub(crate) add: Vec<String>,
    pub(crate) drop: Vec<String>,
}

impl Security {
    /// Reads a container's `securityContext` and its pod's; what both have counts from the container (core/v1,
    /// `SecurityContext`).
    pub(super) fn kubernetes<'t>(container: Option<&'t Tree<'_>>, pod: Option<&'t Tree<'_>>) -> Security {
        let either = |key| -> Option<&Tree<'_>> {
            let both = [container, pod].into_iter().flatten();
            both.filter_map(|tree| tree.get(key)).next()
        };
        let user = either("runAsUser").and_then(Tree::integer);
        let group = either("runAsGroup").and_then(Tree::integer);
        let said_non_root = either("runAsNonRoot").and_then(Tree::boolean);
        let own = |key| container.and_then(|tree| tree.get(key));
        let flag = |key| own(key).and_then(Tree::boolean);
        let allow_privilege_escalation = flag("allowPrivilegeEscalation");
        let privileged = flag("privileged").unwrap_or_default();
        let read_only = flag("readOnlyRootFilesystem").unwrap_or_default();
        let list = |key| own("capabilities").and_then(|tree| texts(tree, key)).unwrap_or_default();
        Security {
            user: user.map(|user| group.map_or(user.to_string(), |group| format!("{user}:{group}"))),
            run_as_non_root: said_non_root.unwrap_or_default(),
            said_non_root,
            allow_privilege_escalation,
            privileged,
            read_only,
            add: list("add"),
            drop: list("drop"),
        }
    }

    /// Whether the kubelet asks for no_new_privs (`AddNoNewPrivileges`; by default it does not).
    pub(super) fn no_new_privileges(&self) -> bool {
        self.allow_privilege_escalation == Some(false)
    }

    /// The bounding set as containerd makes it (`WithCapabilities` in its CRI): ALL first, then what is added, then what
    /// is dropped, so that a single drop wins.
    pub(super) fn kubernetes_bounding(&self) -> CapabilitySet {
        if self.privileged {
            return CapabilitySet::NAMED;
        }
        let has_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
        let set = |names: &[String]| names.iter().filter_map(|name| kubernetes_capability(name)).collect();
        let start = match (has_all(&self.drop), has_all(&self.add)) {
            (true, _) => CapabilitySet::EMPTY,
            (false, true) => CapabilitySet::NAMED,
            (false, false) => DEFAULT_CAPABILITIES,
        };
        start.union(set(&self.add)).minus(set(&self.drop))
    }

    /// The bounding set as Docker makes it (`TweakCapabilities` in moby's `daemon/pkg/oci/caps`): a single add wins over a drop, except
    /// beside `cap_add: ALL`.
    pub(super) fn docker_bounding(&self) -> CapabilitySet {
        if self.privileged {
            return CapabilitySet::NAMED;
        }
        let has_all = |names: &[String]| names.iter().any(|name| is_all(name));
        let set =
            |names: &[String]| -> CapabilitySet { names.iter().filter_map(|name| docker_capability(name)).collect() };
        match (has_all(&self.drop), has_all(&self.add)) {
            (_, true) => CapabilitySet::NAMED.minus(set(&self.drop)),
            (true, false) => set(&self.add),
            (false, false) => DEFAULT_CAPABILITIES.minus(set(&self.drop)).union(set(&self.add)),
        }
    }
}

/// A capability as the kubelet passes it on: containerd puts `CAP_` before whatever is there, so a name that has it already
/// names none.
pub(super) fn kubernetes_capability(name: &str) -> Option<Capability> {
    Capability::from_name(&format!("cap_{name}"))
}

/// A capability as Docker reads it, with or without `CAP_`.
pub(super) fn docker_capability(name: &str) -> Option<Capability> {
    Capability::from_name(name).or_else(|| kubernetes_capability(name))
}

/// Whether it is Docker's word for all capabilities (`NormalizeLegacyCapabilities` in moby's `daemon/pkg/oci/caps`).
pub(super) fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Budget, resolve};
    use super::*;
    use crate::kubernetes::yaml;

    fn read(container: &str, pod: &str) -> Security {
        let streams = [container, pod].map(|text| yaml::read(text, "f").unwrap());
        let trees = streams.each_ref().map(|stream| {
            let root = stream.documents.first().and_then(|document| document.root.as_ref());
            root.map(|root| resolve(root, "f", &mut Budget::default()).unwrap())
        });
        Security::kubernetes(trees[0].as_ref(), trees[1].as_ref())
    }

    #[test]
    fn the_container_counts_before_the_pod() {
        for (container, pod, user, non_root) in [
            ("", "", None, false),
            ("{}", "runAsUser: 1000", Some("1000"), false),
            ("runAsUser: 0", "{runAsUser: 1000, runAsGroup: 7, runAsNonRoot: true}", Some("0:7"), true),
            ("{runAsNonRoot: false, runAsGroup: 0}", "{runAsNonRoot: true, runAsUser: 5}", Some("5:0"), false),
            ("runAsGroup: 5", "", None, false),
            ("runAsUser:", "runAsUser: 1", Some("1"), false),
        ] {
            let security = read(container, pod);
            assert_eq!((security.user.as_deref(), security.run_as_non_root), (user, non_root), "{container} | {pod}");
        }
    }

    #[test]
    fn no_new_privileges_comes_from_the_container_only() {
        for (container, pod, expected) in [
            ("", "", false),
            ("", "allowPrivilegeEscalation: false", false),
            ("allowPrivilegeEscalation: false", "", true),
            ("allowPrivilegeEscalation: no", "", true),
            ("allowPrivilegeEscalation: true", "", false),
            ("{allowPrivilegeEscalation: false, privileged: true}", "", true),
        ] {
            assert_eq!(read(container, pod).no_new_privileges(), expected, "{container}");
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_the_runtimes_do() {
        let bind: CapabilitySet = Capability::NET_BIND_SERVICE.into();
        let with = |set: CapabilitySet| set.union(bind);
        let default = DEFAULT_CAPABILITIES;
        let named = CapabilitySet::NAMED;
        let none = CapabilitySet::EMPTY;
        for (container, kubernetes, docker) in [
            ("{}", default, default),
            ("{drop: [ALL]}", none, none),
            ("{drop: [all]}", none, none),
            ("{drop: [ALL], add: [NET_BIND_SERVICE]}", bind, bind),
            ("{drop: [ALL], add: [net_bind_service]}", bind, bind),
            ("{drop: [ALL], add: [CAP_NET_BIND_SERVICE]}", none, bind),
            ("{drop: [NET_BIND_SERVICE]}", default.minus(bind), default.minus(bind)),
            ("{drop: [CAP_NET_BIND_SERVICE]}", default, default.minus(bind)),
            ("{drop: [NET_BIND_SERVICE], add: [NET_BIND_SERVICE]}", default.minus(bind), with(default)),
            ("{add: [ALL]}", named, named),
            ("{add: [ALL], drop: [NET_BIND_SERVICE]}", named.minus(bind), named.minus(bind)),
            ("{add: [ALL], drop: [ALL]}", none, named),
            ("{add: [ALL, NET_BIND_SERVICE], drop: [ALL]}", bind, named),
            ("{drop: [CAP_ALL]}", default, default),
            ("{add: [NO_SUCH]}", default, default),
        ] {
            let mut security = read(&format!("capabilities: {container}"), "");
            assert_eq!(security.kubernetes_bounding(), kubernetes, "kubernetes {container}");
            assert_eq!(security.docker_bounding(), docker, "docker {container}");
            security.privileged = true;
            assert_eq!((security.kubernetes_bounding(), security.docker_bounding()), (named, named));
        }
        assert_eq!(read("", "capabilities: {drop: [ALL]}").kubernetes_bounding(), default, "a pod has none");
    }
}
