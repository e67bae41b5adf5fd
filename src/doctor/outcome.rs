//! What becomes of a container, and why.

use std::fmt;

use serde::Serialize;

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// It starts and gets its ports.
    Serves {
        /// The user ID of the process that serves.
        uid: u32,
        /// What it listens on.
        ports: Vec<u16>,
    },
    /// It gets its ports without any capability, from runtimes that set `net.ipv4.ip_unprivileged_port_start` to 0 in the
    /// network namespace of a container: Docker since 20.10, containerd since 2.0. Not from containerd 1 and CRI-O.
    NotNeeded {
        /// The user ID of the process that serves.
        uid: u32,
        /// What it listens on.
        ports: Vec<u16>,
    },
    /// It starts, and a port is refused.
    CannotBind {
        /// The user ID of the process that asks.
        uid: u32,
        /// What is refused.
        ports: Vec<u16>,
        /// What one reads in the log.
        error: String,
        /// Why.
        cause: Cause,
    },
    /// It does not start.
    CannotStart {
        /// `/script:LINE` where that happens, or what says it in the config.
        #[serde(rename = "at")]
        place: String,
        /// What one reads in the log.
        error: String,
        /// Why.
        cause: Cause,
    },
    /// It runs something else, or runs the program and ends.
    DoesNotServe {
        /// What it becomes in the end.
        program: String,
    },
    /// Its script ends without starting anything.
    Ends {
        /// `/script:LINE`
        #[serde(rename = "at")]
        place: String,
    },
    /// It depends on where it is to listen, which a variable says whose value is not among what was read.
    Unseen {
        /// The variable.
        variable: String,
        /// What becomes of it without the variable.
        default: String,
        /// What becomes of it with ports below 1024.
        low: String,
    },
    /// It cannot be told.
    Unknown {
        /// `/script:LINE`
        #[serde(rename = "at")]
        place: String,
        /// What cannot be followed.
        why: String,
    },
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "cause")]
pub enum Cause {
    /// The program's file has no capability.
    NoCapability,
    /// Its capabilities are not the ones to bind a port.
    OtherCapabilities {
        /// In the words of getcap(8).
        has: String,
    },
    /// They are permitted and not in effect (`=p` instead of `=ep`).
    NotEffective {
        /// In the words of getcap(8).
        has: String,
    },
    /// They count in another user namespace only.
    ForeignRoot {
        /// The user ID of root in it.
        root_id: u32,
    },
    /// The value of the attribute is malformed.
    Malformed,
    /// The bounding set of the container lacks these.
    BoundingSet {
        /// `cap_net_bind_service`, …
        missing: String,
    },
    /// `allowPrivilegeEscalation: false`
    NoNewPrivileges,
    /// The network belongs to another user namespace.
    UserNamespace,
    /// Something at start puts other capabilities on the file.
    Overwritten {
        /// `/script:LINE`
        place: String,
        /// What it puts on it.
        has: String,
    },
    /// Something at start takes the capabilities away.
    Cleared {
        /// `/script:LINE`
        place: String,
        /// The command.
        command: String,
    },
    /// setcap(8) refuses symbolic links.
    Link,
    /// The process may not become the user that it should, or may not do something to a file.
    NotPermitted,
    /// Kong writes its configuration into this directory, and nothing can be written there.
    ReadOnly {
        /// `/usr/local/kong`, or what `KONG_PREFIX` says.
        prefix: String,
    },
    /// A program is missing, or is none.
    Missing,
    /// The user is not there, or must not be root.
    User,
    /// The nodes run another system.
    Platform,
    /// Kong does not understand where it is to listen.
    Listen,
}

impl Outcome {
    /// In a few words, for tables.
    pub fn brief(&self) -> String {
        let last = |error: &str| error.rsplit(": ").next().unwrap_or(error).trim_end_matches(')').to_owned();
        match self {
            Outcome::Serves { uid, ports } => format!("binds {} as uid {uid}", and_list(ports)),
            Outcome::NotNeeded { uid, ports } => format!(
                "binds {} as uid {uid} without the patch (Docker 20.10, containerd 2 and later)",
                and_list(ports)
            ),
            Outcome::CannotBind { ports, error, .. } => format!("cannot bind {}: {}", and_list(ports), last(error)),
            Outcome::CannotStart { error, .. } => format!("does not start: {}", last(error)),
            other => other.to_string(),
        }
    }

    /// Whether it serves.
    pub fn serves(&self) -> bool {
        matches!(self, Outcome::Serves { .. } | Outcome::NotNeeded { .. })
    }

    /// Whether it fails for sure.
    pub fn is_bad(&self) -> bool {
        matches!(self, Outcome::CannotBind { .. } | Outcome::CannotStart { .. } | Outcome::Ends { .. })
    }
}

/// `80`, `80 and 443`, `80, 81 and 443`.
pub(super) fn and_list(ports: &[u16]) -> String {
    let mut words: Vec<String> = ports.iter().map(u16::to_string).collect();
    words.dedup();
    match words.pop() {
        None => "no port".to_owned(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} and {last}", words.join(", ")),
    }
}

impl fmt::Display for Outcome {
    /// One sentence without its full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Serves { uid, ports } => write!(f, "starts and binds {} as uid {uid}", and_list(ports)),
            Outcome::NotNeeded { uid, ports } => write!(
                f,
                "starts and binds {} as uid {uid} without the patch, from Docker 20.10 and containerd 2 on (not with CRI-O and \
                 containerd 1)",
                and_list(ports)
            ),
            Outcome::CannotBind { ports, error, .. } => {
                write!(f, "starts, and cannot bind {}: {error}", and_list(ports))
            }
            Outcome::CannotStart { error, .. } => write!(f, "will not start: {error}"),
            Outcome::DoesNotServe { program } => write!(f, "executes {program} and does not serve"),
            Outcome::Ends { place } => write!(f, "ends at {place} without starting the program"),
            Outcome::Unseen { variable, default, low } => write!(
                f,
                "cannot be told, for the value of {variable} cannot be seen from here: with its default it {default}; with low ports \
                 it {low}"
            ),
            Outcome::Unknown { place, why } => write!(f, "cannot be told: {place}: {why}"),
        }
    }
}
