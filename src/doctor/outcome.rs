//! What becomes of a container: its start chain walked with the rules of execve(2), setresuid(2) and bind(2).

use std::fmt;

use serde::Serialize;

use super::start::{Action, End, Run, Step};
use crate::archive::path;
use crate::capability::{Capability, CapabilitySet, FileCapabilities, Network, Process, Program, Refusal, XATTR};
use crate::layer::lookup::Found;

/// `net.ipv4.ip_unprivileged_port_start` of a node, unless somebody changed it: ip(7).
pub(super) const NODE_PORT_START: u16 = 1024;

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
    /// Kong does not understand where it is to listen.
    Listen,
}

/// What the start changes on its way.
struct State {
    /// The attribute of the program's file.
    value: Option<Vec<u8>>,
    changed: Option<Cause>,
    /// The first child that is to serve: what it is at its end, or why it does not get there.
    child: Option<Result<Process, Failure>>,
    /// The first child that may not execute the program at all.
    refused: Option<Failure>,
}

#[derive(Clone)]
struct Failure {
    place: String,
    error: String,
    cause: Cause,
}

impl From<Failure> for Outcome {
    fn from(Failure { place, error, cause }: Failure) -> Self {
        Outcome::CannotStart { place, error, cause }
    }
}

/// What a walk looks at besides the steps.
pub(super) struct Walk<'a> {
    pub process: Process,
    /// The program that binds the ports.
    pub target: &'a Found,
    /// Nothing can be written to its file.
    pub read_only: bool,
    pub ports: &'a [u16],
    /// The network namespace is the container's own.
    pub private: bool,
    /// `net.ipv4.ip_unprivileged_port_start` in it, as far as it is said.
    pub port_start: Option<u16>,
    pub user_namespace: bool,
    /// The program is an nginx that gives its work to another user if it runs as root.
    pub changes_user: bool,
}

impl Walk<'_> {
    /// What becomes of `run`.
    pub(super) fn outcome(&self, run: &Run) -> Outcome {
        let mut process = self.process.clone();
        let value = self.target.entry.xattrs.get(XATTR.as_bytes()).cloned();
        let mut state = State { value, changed: None, child: None, refused: None };
        if let Err(failure) = self.steps(&run.steps, &mut process, &mut state, true) {
            return failure.into();
        }
        match &run.end {
            end if self.is_serving(end) => self.bind(&process, &state),
            // A script without `exec`, `CMD nginx …` in shell form, `kong start && tail -f …`: the child is what serves.
            End::Runs { path, .. } => self.by_child(&state, || Outcome::DoesNotServe { program: path.clone() }),
            End::Exits { place, .. } => self.by_child(&state, || match state.refused.clone() {
                Some(failure) => failure.into(),
                None => Outcome::Ends { place: place.clone() },
            }),
            End::Fails { place, error } => {
                Outcome::CannotStart { place: place.clone(), error: error.clone(), cause: Cause::Missing }
            }
            End::Unknown { place, why } => Outcome::Unknown { place: place.clone(), why: why.clone() },
        }
    }

    /// What becomes of the child that is to serve, or `otherwise` if there is none.
    fn by_child(&self, state: &State, otherwise: impl FnOnce() -> Outcome) -> Outcome {
        match state.child.clone() {
            None => otherwise(),
            Some(Ok(child)) => self.bind(&child, state),
            Some(Err(failure)) => failure.into(),
        }
    }

    fn is_serving(&self, end: &End) -> bool {
        matches!(end, End::Runs { path, serves: true } if *path == path::show(&self.target.path))
    }

    fn bind(&self, process: &Process, state: &State) -> Outcome {
        let (uid, ports) = (process.euid, self.ports.to_vec());
        if let Some(error) = self.not_as_root(process) {
            let place = path::show(&self.target.path);
            return Outcome::CannotStart { place, error, cause: Cause::NotPermitted };
        }
        let owned = self.private || !self.user_namespace;
        let refused = |start: u16| -> Vec<u16> {
            let network = Network { unprivileged_port_start: start, owned };
            self.ports.iter().copied().filter(|port| !process.may_bind(*port, network)).collect()
        };
        let start = match self.port_start {
            Some(start) if self.private => start,
            _ => NODE_PORT_START,
        };
        let low = refused(start);
        let Some(first) = low.first() else { return Outcome::Serves { uid, ports } };
        if self.private && self.port_start.is_none() && refused(0).is_empty() {
            return Outcome::NotNeeded { uid, ports };
        }
        let error = format!("bind() to 0.0.0.0:{first} failed (13: Permission denied)");
        Outcome::CannotBind { uid, error, cause: self.why_not(process, state, owned), ports: low }
    }

    /// What an nginx says that may not give its work to another user: `ngx_create_paths`, before it binds, and
    /// `ngx_worker_process_init`.
    fn not_as_root(&self, process: &Process) -> Option<String> {
        let needed = [
            (Capability::CHOWN, "chown(\"…_temp\", …)"),
            (Capability::SETGID, "setgid(…)"),
            (Capability::SETUID, "setuid(…)"),
        ];
        let is_asked = self.changes_user && process.euid == 0;
        let (_, call) = needed.iter().find(|(needed, _)| is_asked && !process.effective.contains(*needed))?;
        Some(format!("{call} failed (1: Operation not permitted)"))
    }

    /// Why a process without `cap_net_bind_service` in effect has not got it.
    fn why_not(&self, process: &Process, state: &State, owned: bool) -> Cause {
        let wanted = Capability::NET_BIND_SERVICE;
        if !owned && process.effective.contains(wanted) {
            return Cause::UserNamespace;
        }
        let file = match state.value.as_deref().map(FileCapabilities::decode) {
            None => return state.changed.clone().unwrap_or(Cause::NoCapability),
            Some(Err(_)) => return Cause::Malformed,
            Some(Ok(file)) => file,
        };
        let has = file.to_string();
        if !file.permitted.contains(wanted) {
            return state.changed.clone().unwrap_or(Cause::OtherCapabilities { has });
        }
        if file.root_id != 0 && file.root_id != process.root_id {
            return Cause::ForeignRoot { root_id: file.root_id };
        }
        if !process.bounding.contains(wanted) {
            return Cause::BoundingSet { missing: wanted.to_string() };
        }
        if process.no_new_privileges && !process.permitted.contains(wanted) {
            return Cause::NoNewPrivileges;
        }
        Cause::NotEffective { has }
    }

    fn steps(&self, steps: &[Step], process: &mut Process, file: &mut State, main: bool) -> Result<(), Failure> {
        for (at, step) in steps.iter().enumerate() {
            match self.step(step, process, file, main && at == 0) {
                Err(failure) if step.fatal => return Err(failure),
                _ => {}
            }
        }
        Ok(())
    }

    /// One step; `first` if it is the runtime that executes.
    fn step(&self, step: &Step, process: &mut Process, file: &mut State, first: bool) -> Result<(), Failure> {
        let failure = |error: String, cause| Failure { place: step.place.clone(), error, cause };
        match &step.action {
            Action::Exec { shown, program } => {
                let value = match program.path == self.target.path {
                    true => file.value.clone(),
                    false => program.entry.xattrs.get(XATTR.as_bytes()).cloned(),
                };
                let owner = u32::try_from(program.entry.uid).ok().filter(|_| program.entry.mode & 0o4000 != 0);
                let image = Program { xattr: value.clone(), set_user_id: owner, nosuid: false };
                match process.exec(&image) {
                    Ok(executed) => *process = executed.process,
                    Err(refusal) => {
                        let words = refusal.to_string();
                        let error = match first {
                            true => format!("exec {shown}: {}", words.to_lowercase()),
                            false => format!("{shown}: {words}"),
                        };
                        return Err(failure(error, refused(refusal, process, value.as_deref())));
                    }
                }
            }
            // Those programs change the groups first.
            Action::User(user) if user.uid != process.uid && !process.effective.contains(Capability::SETGID) => {
                let name = user.name.clone().unwrap_or_else(|| user.uid.to_string());
                let error = format!("cannot become user {name}: {}", Refusal::NotPermitted);
                return Err(failure(error, Cause::NotPermitted));
            }
            Action::User(user) => match process.set_user(user.uid) {
                Ok(new) => *process = new,
                Err(refusal) => {
                    let name = user.name.clone().unwrap_or_else(|| user.uid.to_string());
                    return Err(failure(format!("cannot become user {name}: {refusal}"), Cause::NotPermitted));
                }
            },
            Action::Child { steps, end } => {
                let mut child = process.clone();
                let walked = self.steps(steps, &mut child, file, false);
                if self.is_serving(end) {
                    file.child.get_or_insert(walked.clone().map(|()| child));
                }
                if let Err(failure) = walked {
                    if matches!(failure.cause, Cause::BoundingSet { .. }) {
                        file.refused.get_or_insert_with(|| failure.clone());
                    }
                    return Err(failure);
                }
                if let End::Fails { error, .. } = end {
                    return Err(failure(error.clone(), Cause::Missing));
                }
            }
            Action::SetCapabilities(text) => {
                if self.read_only {
                    let file = path::show(&self.target.path);
                    let error = format!("Failed to set capabilities on file '{file}': Read-only file system");
                    return Err(failure(error, Cause::NotPermitted));
                }
                if !process.effective.contains(Capability::SETFCAP) {
                    return Err(failure(
                        "unable to set CAP_SETFCAP effective capability: Operation not permitted".to_owned(),
                        Cause::NotPermitted,
                    ));
                }
                let place = step.place.clone();
                match text {
                    None => {
                        file.value = None;
                        file.changed = Some(Cause::Cleared { place, command: "setcap -r".to_owned() });
                    }
                    // A text that is known only when it runs, or is none, changes nothing that we could tell.
                    Some(text) => {
                        if let Ok(new) = text.parse::<FileCapabilities>() {
                            file.value = Some(new.encode());
                            file.changed = Some(Cause::Overwritten { place, has: new.to_string() });
                        }
                    }
                }
            }
            Action::SetCapabilitiesOfLink(file) => {
                return Err(failure(format!("Invalid file '{file}' for capability operation"), Cause::Link));
            }
            Action::ChangeOwner(command) => {
                if self.read_only || !process.effective.contains(Capability::CHOWN) {
                    let words = if self.read_only { "Read-only file system" } else { "Operation not permitted" };
                    return Err(failure(format!("{command}: {words}"), Cause::NotPermitted));
                }
                clear(file, &step.place, command);
            }
            // Owners may change nothing to what it is, and root is not the owner of what it gives away.
            Action::ChangeOtherOwner(file) => {
                let error = match (self.read_only, process.effective.contains(Capability::CHOWN)) {
                    (true, _) => "Read-only file system",
                    (false, false) if process.euid == 0 => "Operation not permitted",
                    _ => return Ok(()),
                };
                let error = format!("chown: changing ownership of '{file}': {error}");
                return Err(failure(error, Cause::NotPermitted));
            }
            Action::Write(command) => {
                let owner = self.target.entry.uid == u64::from(process.euid) && self.target.entry.mode & 0o200 != 0;
                if self.read_only || !(process.euid == 0 || owner) {
                    let words = if self.read_only { "Read-only file system" } else { "Permission denied" };
                    return Err(failure(format!("{command}: {words}"), Cause::NotPermitted));
                }
                clear(file, &step.place, command);
            }
        }
        Ok(())
    }
}

/// chown(2) and write(2) take the capabilities off a file: capabilities(7), «File capabilities».
fn clear(file: &mut State, place: &str, command: &str) {
    if file.value.take().is_some() {
        file.changed = Some(Cause::Cleared { place: place.to_owned(), command: command.to_owned() });
    }
}

fn refused(refusal: Refusal, process: &Process, value: Option<&[u8]>) -> Cause {
    let file = value.and_then(|value| FileCapabilities::decode(value).ok()).unwrap_or_default();
    match refusal {
        Refusal::Invalid => Cause::Malformed,
        Refusal::NotPermitted => {
            let missing: CapabilitySet = file.permitted.minus(process.bounding);
            Cause::BoundingSet { missing: missing.to_string() }
        }
    }
}

impl Outcome {
    /// Whether it is what the user wants.
    pub fn is_good(&self) -> bool {
        matches!(self, Outcome::Serves { .. } | Outcome::NotNeeded { .. })
    }

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
            Outcome::Unknown { place, why } => write!(f, "cannot be told: {place}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
