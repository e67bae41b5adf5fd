//! What in a manifest takes the capability of a file away from a container: the why of a container that does not start or
//! bind, and the lines that mend it.

use super::fix::snippet;
use super::manifest::{Detail, Format, Found};
use super::{Container, Finding, Level};
use crate::capability::Capability;

/// `allowPrivilegeEscalation: false`, or `no-new-privileges`.
pub const NO_NEW_PRIVILEGES: &str = "no-new-privileges";

/// NET_BIND_SERVICE is not in the bounding set.
pub const BOUNDING_SET: &str = "bounding-set";

/// The user namespace of the container does not own the network.
pub const USER_NAMESPACE: &str = "user-namespace";

impl Found {
    /// Why container number `at` cannot use a `cap_net_bind_service=ep` of a file, if it cannot: [`NO_NEW_PRIVILEGES`],
    /// [`BOUNDING_SET`], [`USER_NAMESPACE`]. Whether that matters depends on what it executes and binds.
    pub fn reasons(&self, at: usize) -> Vec<Finding> {
        let Some((container, detail)) = self.containers.get(at).zip(self.details.get(at)) else { return Vec::new() };
        let mut reasons = Vec::new();
        if !container.bounding.contains(Capability::NET_BIND_SERVICE) {
            reasons.push(dropped(container, detail));
        }
        if container.no_new_privileges {
            reasons.push(no_new_privileges(container, detail));
        }
        if container.user_namespace && container.host_network {
            reasons.push(Finding {
                code: USER_NAMESPACE,
                level: Level::Breaks,
                place: container.place.clone(),
                what: "bind() to 0.0.0.0:80 failed (13: Permission denied)".to_owned(),
                why: "a capability of a user namespace counts only for networks that this namespace owns, and the node's is none of them (user_namespaces(7))".to_owned(),
                fix: None,
            });
        }
        reasons
    }
}

/// M2.
fn dropped(container: &Container, detail: &Detail) -> Finding {
    let who = match detail.format {
        Format::Kubernetes => "the container's securityContext",
        Format::Compose => "cap_drop",
        Format::Values => "containerSecurityContext (of the chart, if the values say nothing)",
    };
    Finding {
        code: BOUNDING_SET,
        level: Level::Breaks,
        place: container.place.clone(),
        what: "it is not even executed: Operation not permitted".to_owned(),
        why: format!(
            "{who} leaves NET_BIND_SERVICE out of the bounding set, and execve(2) fails with EPERM for a file that is to have it at once, for root too; so does all that executes it, as kong, resty, probes and hooks do"
        ),
        fix: Some(mended(container, detail)),
    }
}

/// M1.
fn no_new_privileges(container: &Container, detail: &Detail) -> Finding {
    let who = match detail.format {
        Format::Kubernetes | Format::Values => "allowPrivilegeEscalation: false",
        Format::Compose => "no-new-privileges",
    };
    Finding {
        code: NO_NEW_PRIVILEGES,
        level: Level::Breaks,
        place: container.place.clone(),
        what: "it starts without the capability: bind() to 0.0.0.0:80 failed (13: Permission denied)".to_owned(),
        why: format!("{who} sets no_new_privs, and execve(2) then gives nothing that a file's capabilities would add"),
        fix: Some(mended(container, detail)),
    }
}

/// The lines with which the capability of the file counts.
fn mended(container: &Container, detail: &Detail) -> String {
    let is_bind = |name: &&String| {
        let name = name.to_ascii_uppercase();
        name.strip_prefix("CAP_").unwrap_or(&name) == "NET_BIND_SERVICE"
    };
    let list = |names: &[&str]| format!("[{}]", names.join(", "));
    let drop: Vec<&str> = detail.drop.iter().filter(|name| !is_bind(name)).map(String::as_str).collect();
    let mut add: Vec<&str> = detail.add.iter().filter(|name| !is_bind(name)).map(String::as_str).collect();
    add.push("NET_BIND_SERVICE");
    let (drop, add) = (list(&drop), list(&add));
    let is_root = container
        .user
        .as_deref()
        .and_then(|user| user.split(':').next())
        .is_some_and(|user| matches!(user, "0" | "root"));
    let mut lines = Vec::new();
    match detail.format {
        Format::Kubernetes | Format::Values => {
            let key = if detail.format == Format::Values { "containerSecurityContext" } else { "securityContext" };
            lines.push(format!("{key}:"));
            lines.push("  allowPrivilegeEscalation: true".to_owned());
            lines.push("  capabilities:".to_owned());
            if !detail.drop.is_empty() {
                lines.push(format!("    drop: {drop}"));
            }
            lines.push(format!("    add: {add}"));
            // Root needs more than that.
            if is_root {
                lines.extend(["  runAsUser: 1000".to_owned(), "  runAsNonRoot: true".to_owned()]);
            }
        }
        Format::Compose => {
            if !detail.drop.is_empty() {
                lines.push(format!("cap_drop: {drop}"));
            }
            lines.push(format!("cap_add: {add}"));
            lines.extend(is_root.then(|| "user: \"1000\"".to_owned()));
            if container.no_new_privileges {
                lines.push("security_opt: [\"no-new-privileges:false\"]".to_owned());
            }
        }
    }
    let path = if detail.format == Format::Values { "top level" } else { &detail.path };
    snippet(&detail.title, path, detail.indent, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}
