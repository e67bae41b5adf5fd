//! A start chain walked with the rules of execve(2), setresuid(2) and bind(2).

use super::outcome::{Cause, Outcome};
use super::start::{Action, End, Run, Step};
use crate::archive::path;
use crate::capability::{Capability, CapabilitySet, FileCapabilities, Network, Process, Program, Refusal, XATTR};
use crate::kong::ports::UNPRIVILEGED;
use crate::layer::lookup::Found;

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
            _ => UNPRIVILEGED,
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
            Action::ChangeOwner { command, own } => {
                if self.read_only || !(*own || process.effective.contains(Capability::CHOWN)) {
                    let words = if self.read_only { "Read-only file system" } else { "Operation not permitted" };
                    return Err(failure(format!("{command}: {words}"), Cause::NotPermitted));
                }
                clear(file, &step.place, command);
            }
            Action::ChangeOtherOwner { path: file, own } => {
                let error = match (self.read_only, *own || process.effective.contains(Capability::CHOWN)) {
                    (true, _) => "Read-only file system",
                    (false, false) => "Operation not permitted",
                    (false, true) => return Ok(()),
                };
                let error = format!("chown: changing ownership of '{file}': {error}");
                return Err(failure(error, Cause::NotPermitted));
            }
            Action::Write(command) => {
                let owner = self.target.entry.uid == u64::from(process.euid) && self.target.entry.mode & 0o200 != 0;
                if self.read_only || !(owner || process.effective.contains(Capability::DAC_OVERRIDE)) {
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

#[cfg(test)]
mod tests;
