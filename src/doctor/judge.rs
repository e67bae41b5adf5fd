//! One container of an image: followed, walked, judged.

use std::collections::BTreeMap;

use super::container::{Command, Container};
use super::facts::{Facts, Listen};
use super::files::Files;
use super::outcome::{Cause, Outcome};
use super::start::{Action, End, Image, Run, Start, UNKNOWN, Ways, follow, is_at_or_below};
use super::users::User;
use super::walk::Walk;
use crate::capability::{Capability, Process};
use crate::error::Result;
use crate::kong::listen;
use crate::kong::ports::{UNPRIVILEGED, low_ports};

/// Listen variables beside the profile's own; only ports below 1024 in them matter.
const OTHER_LISTENERS: [&str; 5] =
    ["KONG_ADMIN_LISTEN", "KONG_STREAM_LISTEN", "KONG_STATUS_LISTEN", "KONG_ADMIN_GUI_LISTEN", "KONG_CLUSTER_LISTEN"];

/// Where Kong is to listen that has the low ports.
pub(super) const LOW_PORTS: &str = "0.0.0.0:80, 0.0.0.0:443 ssl";

/// What a program is asked about of which nobody says where it listens.
pub(super) const ASSUMED_PORT: u16 = 80;

/// What is found out about a container.
pub(super) struct Judged {
    pub outcome: Outcome,
    pub runs: Vec<Run>,
    /// Whether there are more ways than those.
    pub more: bool,
    /// A script may end before the program starts: where.
    pub may_end: Option<String>,
    /// Commands in it that do not work, and why not.
    pub broken: Vec<(Command, Outcome)>,
}

/// The variables of a container.
pub(super) fn variables(facts: &Facts, container: &Container) -> BTreeMap<String, String> {
    let mut env = facts.env.clone();
    for variable in &container.env {
        let value = variable.value.as_ref().map_or_else(|| UNKNOWN.to_string(), |value| value.replace(UNKNOWN, ""));
        env.insert(variable.name.clone(), value);
    }
    env
}

/// What it executes: `command` replaces both of the image's, `args` its `CMD` (Kubernetes API, «Container»).
fn argv(facts: &Facts, container: &Container) -> Vec<String> {
    let none: &[String] = &[];
    let (command, args) = match (&container.command, &container.args) {
        (Some(command), args) => (&command[..], args.as_deref().unwrap_or(none)),
        (None, Some(args)) => (&facts.entrypoint[..], &args[..]),
        (None, None) => (&facts.entrypoint[..], &facts.cmd[..]),
    };
    command.iter().chain(args).cloned().collect()
}

/// Who it starts as, or what the runtime says instead of starting it.
fn user(facts: &Facts, container: &Container) -> Result<User, String> {
    let text = container.user.as_deref().unwrap_or(&facts.user);
    let mut user = facts.users.resolve(text)?;
    for group in &container.groups {
        user.groups.push(facts.users.group(group)?);
    }
    if container.run_as_non_root {
        let name = text.split(':').next().unwrap_or_default();
        if !name.is_empty() && name.parse::<u32>().is_err() {
            return Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            ));
        }
        if user.uid == 0 {
            return Err("container has runAsNonRoot and image will run as root".to_owned());
        }
    }
    Ok(user)
}

/// Starts that were followed, and their runs: many containers start alike.
pub(super) type Followed = Vec<(Start, Ways)>;

pub(super) fn judge(
    facts: &Facts,
    files: &mut Files<'_>,
    followed: &mut Followed,
    container: &Container,
) -> Result<Judged> {
    let env = variables(facts, container);
    let listen = facts.listen(&env);
    // The runtime gives up before it executes anything.
    let refused = |place: &str, error: &str, cause| {
        let outcome = Outcome::CannotStart { place: place.to_owned(), error: error.to_owned(), cause };
        Ok(Judged { outcome, runs: Vec::new(), more: false, may_end: None, broken: Vec::new() })
    };
    if facts.is_malformed() {
        let error = "failed to setxattr \"security.capability\": invalid argument";
        return refused(&facts.path(), error, Cause::Malformed);
    }
    if container.windows {
        let error = "no matching manifest for windows/amd64 in the manifest list entries";
        return refused(&container.place, error, Cause::Platform);
    }
    let user = match user(facts, container) {
        Ok(user) => user,
        Err(error) => return refused("USER", &error, Cause::User),
    };
    let start = Start {
        place: if container.command.is_some() { container.place.clone() } else { "ENTRYPOINT".to_owned() },
        argv: argv(facts, container),
        env_from: container.env_from,
        directory: facts.directory.clone(),
        user,
        dac_override: container.bounding.contains(Capability::DAC_OVERRIDE),
        docker: container.docker,
        mounts: container.mounts.clone(),
        env,
    };
    let mut judge = |listen: &Listen| outcome(facts, files, followed, container, &start, listen);
    let (mut outcome, (runs, more), may_end);
    match unseen(container, &listen) {
        None => (outcome, (runs, more), may_end) = judge(&listen)?,
        Some(variable) => {
            let (default, low) = both(facts, &start.env, variable);
            (outcome, (runs, more), may_end) = judge(&default)?;
            let (with_low, ..) = judge(&low)?;
            if outcome != with_low {
                let (default, low) = (outcome.to_string(), with_low.to_string());
                outcome = Outcome::Unseen { variable: variable.to_owned(), default, low };
            }
        }
    }
    let mut broken = Vec::new();
    for command in &container.commands {
        let start = Start { place: command.place.clone(), argv: command.argv.clone(), ..start.clone() };
        let (outcome, ..) = self::outcome(facts, files, followed, container, &start, &listen)?;
        if matches!(outcome, Outcome::CannotStart { .. }) {
            broken.push((command.clone(), outcome));
        }
    }
    Ok(Judged { outcome, runs, more, may_end, broken })
}

/// The variable that says where it listens, if its value comes from somewhere that is not among what was read.
fn unseen<'l>(container: &Container, listen: &'l Listen) -> Option<&'l str> {
    let variable = listen.variable.as_deref()?;
    match container.env.iter().rev().find(|one| one.name == variable) {
        Some(one) => one.value.is_none(),
        None => container.env_from,
    }
    .then_some(variable)
}

/// Where it listens without a variable, and with low ports in it.
fn both(facts: &Facts, env: &BTreeMap<String, String>, variable: &str) -> (Listen, Listen) {
    let mut env = env.clone();
    env.remove(variable);
    env.extend(facts.env.get_key_value(variable).map(|(name, value)| (name.clone(), value.clone())));
    let default = facts.listen(&env);
    let value = low_ports(&default.value).unwrap_or_else(|_| LOW_PORTS.to_owned());
    env.insert(variable.to_owned(), value);
    let low = facts.listen(&env);
    (default, low)
}

/// What becomes of a start.
pub(super) fn outcome(
    facts: &Facts,
    files: &mut Files<'_>,
    followed: &mut Followed,
    container: &Container,
    start: &Start,
    listen: &Listen,
) -> Result<(Outcome, Ways, Option<String>)> {
    let known = followed.iter().find(|(known, _)| known == start).map(|(_, runs)| runs.clone());
    let (runs, more) = match known {
        Some(known) => known,
        None => {
            let mut image = Image { files, users: &facts.users, target: facts.target.path.clone() };
            let ways = follow(&mut image, start)?;
            followed.push((start.clone(), ways.clone()));
            ways
        }
    };
    let ports = ports(facts, &start.env, listen);
    let process = if container.docker { Process::of_docker_container } else { Process::of_container };
    let walk = Walk {
        process: process(start.user.uid, container.bounding, container.no_new_privileges),
        target: &facts.target,
        read_only: container.read_only,
        ports: &ports,
        private: !container.host_network,
        port_start: container.unprivileged_port_start,
        user_namespace: container.user_namespace,
        changes_user: changes_user(facts, &start.env),
    };
    let mut outcomes: Vec<(Outcome, &Run)> = Vec::new();
    for run in &runs {
        let outcome = walk.outcome(run);
        if !outcomes.iter().any(|(known, _)| *known == outcome) {
            outcomes.push((outcome, run));
        }
    }
    let (mut outcome, may_end) = combine(outcomes);
    if matches!(outcome, Outcome::Serves { .. } | Outcome::NotNeeded { .. } | Outcome::CannotBind { .. })
        && let (Some(error), Some(variable)) = (&listen.error, &listen.variable)
        && !listen.value.contains(UNKNOWN)
    {
        let (place, error) = (variable.clone(), error.clone());
        outcome = Outcome::CannotStart { place, error, cause: Cause::Listen };
    }
    let starts = match &outcome {
        Outcome::Serves { .. } | Outcome::NotNeeded { .. } | Outcome::CannotBind { .. } => true,
        // What the script does to files comes after it.
        Outcome::CannotStart { error, .. } => error.ends_with("Read-only file system"),
        _ => false,
    };
    if let Some(prefix) = prefix(facts, start, container).filter(|_| starts && runs.iter().any(prepares)) {
        let (place, error) = (facts.path(), format!("{prefix}: Read-only file system"));
        outcome = Outcome::CannotStart { place, error, cause: Cause::ReadOnly { prefix } };
    }
    Ok((outcome, (runs, more), may_end))
}

/// Whether it is an nginx whose workers are another user's if it runs as root; Kong's are unless it is told otherwise.
fn changes_user(facts: &Facts, env: &BTreeMap<String, String>) -> bool {
    let is_root = |name| env.get(name).is_some_and(|user: &String| user.starts_with("root") || user.contains(UNKNOWN));
    facts.path().ends_with("/nginx") && !["KONG_NGINX_USER", "KONG_NGINX_MAIN_USER"].into_iter().any(is_root)
}

/// Where Kong writes its configuration, if nothing can be written there.
fn prefix(facts: &Facts, start: &Start, container: &Container) -> Option<String> {
    let given = start.env.get("KONG_PREFIX").filter(|prefix| !prefix.is_empty());
    let prefix = given.map_or("/usr/local/kong", |prefix| prefix.trim_end_matches('/'));
    let is_mounted = container.mounts.iter().chain(&facts.volumes).any(|mount| is_at_or_below(prefix, mount));
    let is_kong = facts.profile.version_env == Some("KONG_VERSION");
    (is_kong && container.read_only && !is_mounted && !prefix.contains(UNKNOWN)).then(|| prefix.to_owned())
}

/// Whether a command of Kong is executed before the program: `kong prepare`.
fn prepares(run: &Run) -> bool {
    run.steps.iter().any(|step| matches!(&step.action, Action::Child { end: End::Runs { serves: false, .. }, .. }))
}

/// The ports that a container asks for.
fn ports(facts: &Facts, env: &BTreeMap<String, String>, listen: &Listen) -> Vec<u16> {
    let mut ports = listen.ports.clone();
    if listen.value.contains(UNKNOWN) {
        ports = facts.profile.ports.iter().filter_map(|port| port.split('/').next()?.parse().ok()).collect();
    }
    if facts.profile.version_env == Some("KONG_VERSION") {
        for name in OTHER_LISTENERS {
            let listeners = env.get(name).and_then(|value| listen::parse(value, None).ok()).unwrap_or_default();
            ports.extend(listeners.iter().map(|listener| listener.port).filter(|port| *port < UNPRIVILEGED));
        }
    }
    if ports.is_empty() && listen.variable.is_none() {
        ports.push(ASSUMED_PORT);
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// One outcome for all ways through the scripts, and where some of them end early.
fn combine(mut outcomes: Vec<(Outcome, &Run)>) -> (Outcome, Option<String>) {
    let ends = |(outcome, run): &(Outcome, &Run)| match (outcome, &run.end) {
        (Outcome::Ends { place }, _) | (Outcome::CannotStart { place, .. }, End::Fails { .. })
            if !run.assumed.is_empty() =>
        {
            Some(place.clone())
        }
        _ => None,
    };
    let mut may_end = None;
    if outcomes.len() > 1 && outcomes.iter().any(|outcome| ends(outcome).is_none()) {
        may_end = outcomes.iter().find_map(ends);
        outcomes.retain(|outcome| ends(outcome).is_none());
    }
    match &outcomes[..] {
        [(outcome, _)] => (outcome.clone(), may_end),
        [(first, one), (second, other), ..] => {
            let place =
                one.assumed.iter().zip(&other.assumed).find(|(a, b)| a != b).map(|((place, _), _)| place.clone());
            let why = format!("it depends on what is found there when it runs: it {first}; or it {second}");
            (Outcome::Unknown { place: place.unwrap_or_default(), why }, may_end)
        }
        [] => (Outcome::Unknown { place: String::new(), why: "nothing is started".to_owned() }, None),
    }
}
