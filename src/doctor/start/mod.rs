//! The start chain: what is executed from the entry point on, who executes it, and what happens to the program's file on the
//! way. Files are read, nothing runs.
//!
//! What cannot be known before the container runs (a file that a volume may bring, what a program prints) is assumed one way
//! and then the other; [`follow`] gives a [`Run`] for each. What cannot be followed at all is [`End::Unknown`].

mod builtin;
mod call;
mod condition;
mod effect;
mod execute;
mod expand;
mod listing;
pub(super) mod script;
mod shell;
mod wrapper;

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::doctor::files::Files;
use crate::doctor::users::{User, Users};
use crate::error::Result;
use crate::layer::lookup::Found;

/// Programs and scripts that execute each other.
pub(super) const MAX_DEPTH: u32 = 20;
/// Commands that one run looks at.
const MAX_COMMANDS: u32 = 20_000;
/// Ways through the scripts.
const MAX_RUNS: usize = 64;
/// Commands that all of them look at together.
const MAX_ALL_COMMANDS: u32 = 100_000;

/// Stands for text that cannot be known; no argument and no variable can hold it.
pub(in crate::doctor) const UNKNOWN: char = '\0';

/// One thing that happens on the way.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Step {
    /// `/script:LINE`, or what says it in the config.
    pub place: String,
    pub action: Action,
    /// Whether nothing comes after it if it fails.
    pub fatal: bool,
}

#[derive(Clone, Debug)]
pub(in crate::doctor) enum Action {
    /// The process becomes this program; of a script, its interpreter is the program.
    Exec { shown: String, program: Rc<Found> },
    /// It goes on as another user.
    User(User),
    /// Another process does this.
    Child { steps: Vec<Step>, end: End },
    /// setcap(8) on the program; without a text, the capabilities are removed.
    SetCapabilities(Option<String>),
    /// setcap(8) on a symbolic link to the program: as it is written.
    SetCapabilitiesOfLink(String),
    /// chown(1) on the program, or on a directory above it and all that is in it; `own` if it is the owner's, and stays so
    /// (chown(2)).
    ChangeOwner { command: String, own: bool },
    /// chown(1) on something else that the image has at this path.
    ChangeOtherOwner { path: String, own: bool },
    /// The program is written, or replaced.
    Write(String),
}

/// How a process ends, or what it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum End {
    /// It is this program for good.
    Runs { path: String, serves: bool },
    /// A script comes to its end.
    Exits { place: String, failed: bool },
    /// Something cannot be executed.
    Fails { place: String, error: String },
    /// It cannot be followed any further.
    Unknown { place: String, why: String },
}

/// One way through the start chain.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Run {
    pub steps: Vec<Step>,
    pub end: End,
    /// Conditions that cannot be known, and what was assumed of each.
    pub assumed: Vec<(String, bool)>,
}

/// What is started, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct Start {
    /// What says it: `entrypoint`, `HEALTHCHECK`, `FILE:LINE`.
    pub place: String,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// There may be more variables.
    pub env_from: bool,
    pub directory: String,
    pub user: User,
    /// Whether root may do what the permissions of files forbid (`CAP_DAC_OVERRIDE`).
    pub dac_override: bool,
    /// Whether Docker's engine runs it; others give the first program that capability whoever the user is.
    pub docker: bool,
    /// Paths below which other files than the image's may be.
    pub mounts: Vec<String>,
}

/// What is known of the image.
pub(in crate::doctor) struct Image<'f, 'i> {
    pub files: &'f mut Files<'i>,
    pub users: &'f Users,
    /// The real path of the program that binds the ports, without the slash in front.
    pub target: Vec<u8>,
}

/// Ways through the start chain, and whether there are more.
pub(in crate::doctor) type Ways = (Vec<Run>, bool);

/// All ways from `start` on.
pub(in crate::doctor) fn follow(image: &mut Image<'_, '_>, start: &Start) -> Result<Ways> {
    let mut runs = Vec::new();
    let mut decisions = Vec::new();
    let mut fuel = MAX_ALL_COMMANDS;
    loop {
        let given = fuel.min(MAX_COMMANDS);
        let mut follower = Follower {
            image: Image { files: image.files, users: image.users, target: image.target.clone() },
            start,
            user: start.user.clone(),
            steps: Vec::new(),
            decisions,
            assumed: Vec::new(),
            fuel: given,
            depth: 0,
            nesting: 0,
            made: Vec::new(),
            changed: Vec::new(),
            renumbered: BTreeMap::new(),
            failure: None,
        };
        let directory = start.directory.clone();
        let mut env = Env { variables: start.env.clone(), arrays: BTreeMap::new(), directory };
        let end = follower.execute(&start.argv, &mut env, &start.place)?;
        decisions = follower.assumed.iter().map(|(_, taken)| *taken).collect();
        fuel -= given - follower.fuel;
        runs.push(Run { steps: follower.steps, end, assumed: follower.assumed });
        while decisions.last() == Some(&true) {
            decisions.pop();
        }
        match decisions.last_mut() {
            None => return Ok((runs, false)),
            Some(_) if runs.len() == MAX_RUNS || fuel < MAX_COMMANDS => return Ok((runs, true)),
            Some(last) => *last = true,
        }
    }
}

/// Variables and working directory of a process.
#[derive(Clone, Debug)]
pub(super) struct Env {
    pub variables: BTreeMap<String, String>,
    /// Arrays of bash.
    pub arrays: BTreeMap<String, Vec<String>>,
    pub directory: String,
}

pub(super) struct Follower<'f, 'i> {
    pub image: Image<'f, 'i>,
    pub start: &'f Start,
    pub user: User,
    pub steps: Vec<Step>,
    pub decisions: Vec<bool>,
    pub assumed: Vec<(String, bool)>,
    pub fuel: u32,
    pub depth: u32,
    /// Commands that are inside each other.
    pub nesting: u32,
    /// Files that scripts made so far, as far as their names are known.
    pub made: Vec<String>,
    /// Files whose mode or owner scripts changed so far.
    pub changed: Vec<String>,
    /// Users whose number scripts changed so far (usermod(8)).
    pub renumbered: BTreeMap<String, u32>,
    /// How the child that failed last did so.
    pub failure: Option<End>,
}

pub(super) fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// For people: with what is unknown as `…`.
pub(in crate::doctor) fn shown(text: &str) -> String {
    text.replace(UNKNOWN, "…")
}

/// Where programs are if the image does not say it.
pub(in crate::doctor) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(in crate::doctor) fn is_at_or_below(path: &str, directory: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn unknown(place: &str, why: String) -> End {
    End::Unknown { place: place.to_owned(), why }
}

pub(super) fn fails(place: &str, error: &str) -> End {
    End::Fails { place: place.to_owned(), error: error.to_owned() }
}

#[cfg(test)]
pub(super) mod tests;
