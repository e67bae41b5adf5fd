//! The start chain: what is executed from the entry point on, who executes it, and what happens to the program's file on the
//! way. Files are read, nothing runs.
//!
//! What cannot be known before the container runs (a file that a volume may bring, what a program prints) is assumed one way
//! and then the other; [`follow`] gives a [`Run`] for each. What cannot be followed at all is [`End::Unknown`].

use std::collections::BTreeMap;
use std::rc::Rc;

use super::files::{self, Files};
use super::shell::Frame;
use super::users::{User, Users};
use super::wrapper::{self, Wrapped};
use crate::archive::path;
use crate::capability::XATTR;
use crate::error::Result;
use crate::kong::entrypoint;
use crate::layer::lookup::Found;

/// Programs and scripts that execute each other.
const MAX_DEPTH: u32 = 20;
/// Commands that one run looks at.
const MAX_COMMANDS: u32 = 20_000;
/// Ways through the scripts.
const MAX_RUNS: usize = 64;
/// Bytes of the line with the interpreter that Linux reads (`BINPRM_BUF_SIZE`).
const MAX_INTERPRETER: usize = 256;

/// Stands for text that cannot be known; no argument and no variable can hold it.
pub(super) const UNKNOWN: char = '\0';

/// One thing that happens on the way.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// `/script:LINE`, or what says it in the config.
    pub place: String,
    pub action: Action,
    /// Whether nothing comes after it if it fails.
    pub fatal: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    /// The process becomes this program; of a script, its interpreter is the program.
    Exec { shown: String, program: Rc<Found> },
    /// It goes on as another user.
    User(User),
    /// Another process does this.
    Child { steps: Vec<Step>, end: End },
    /// setcap(8) on the program; without a text, the capabilities are removed.
    SetCapabilities(Option<String>),
    /// chown(1) on the program, or on a directory above it and all that is in it.
    ChangeOwner(String),
    /// The program is written, or replaced.
    Write(String),
}

/// How a process ends, or what it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
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
pub(super) struct Run {
    pub steps: Vec<Step>,
    pub end: End,
    /// Conditions that cannot be known, and what was assumed of each.
    pub assumed: Vec<(String, bool)>,
}

/// What is started, and how.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// What says it: `entrypoint`, `HEALTHCHECK`, `FILE:LINE`.
    pub place: String,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// There may be more variables.
    pub env_from: bool,
    pub directory: String,
    pub user: User,
    /// Paths below which other files than the image's may be.
    pub mounts: Vec<String>,
}

/// What is known of the image.
pub(super) struct Image<'f, 'i> {
    pub files: &'f mut Files<'i>,
    pub users: &'f Users,
    /// The real path of the program that binds the ports, without the slash in front.
    pub target: Vec<u8>,
}

/// All ways from `start` on; the second value is whether there are more.
pub(super) fn follow(image: &mut Image<'_, '_>, start: &Start) -> Result<(Vec<Run>, bool)> {
    let mut runs = Vec::new();
    let mut decisions = Vec::new();
    loop {
        let mut follower = Follower {
            image: Image { files: image.files, users: image.users, target: image.target.clone() },
            start,
            user: start.user.clone(),
            steps: Vec::new(),
            decisions,
            assumed: Vec::new(),
            fuel: MAX_COMMANDS,
            depth: 0,
            failure: None,
        };
        let mut env = Env { variables: start.env.clone(), directory: start.directory.clone() };
        let end = follower.execute(&start.argv, &mut env, &start.place)?;
        decisions = follower.assumed.iter().map(|(_, taken)| *taken).collect();
        runs.push(Run { steps: follower.steps, end, assumed: follower.assumed });
        while decisions.last() == Some(&true) {
            decisions.pop();
        }
        match decisions.last_mut() {
            None => return Ok((runs, false)),
            Some(_) if runs.len() == MAX_RUNS => return Ok((runs, true)),
            Some(last) => *last = true,
        }
    }
}

/// Variables and working directory of a process.
#[derive(Clone, Debug)]
pub(super) struct Env {
    pub variables: BTreeMap<String, String>,
    pub directory: String,
}

pub(super) struct Follower<'f, 'i> {
    pub image: Image<'f, 'i>,
    pub start: &'f Start,
    pub user: User,
    pub steps: Vec<Step>,
    decisions: Vec<bool>,
    assumed: Vec<(String, bool)>,
    fuel: u32,
    depth: u32,
    /// How the child that failed last did so.
    pub failure: Option<End>,
}

pub(super) fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// For people: with what is unknown as `…`.
pub(super) fn shown(text: &str) -> String {
    text.replace(UNKNOWN, "…")
}

impl Follower<'_, '_> {
    /// Whether the condition at `place` is taken to hold.
    pub(super) fn ask(&mut self, place: &str) -> bool {
        let taken = self.decisions.get(self.assumed.len()).copied().unwrap_or(false);
        self.assumed.push((place.to_owned(), taken));
        taken
    }

    /// Whether one more command may be looked at.
    pub(super) fn burn(&mut self) -> bool {
        self.fuel = self.fuel.saturating_sub(1);
        self.fuel > 0
    }

    pub(super) fn step(&mut self, place: &str, fatal: bool, action: Action) {
        self.steps.push(Step { place: place.to_owned(), action, fatal });
    }

    /// Another process does `argv`; how it ends.
    pub(super) fn child(&mut self, argv: &[String], env: &Env, place: &str, fatal: bool) -> Result<End> {
        let steps = std::mem::take(&mut self.steps);
        let user = self.user.clone();
        let end = self.execute(argv, &mut env.clone(), place)?;
        self.user = user;
        let inner = std::mem::replace(&mut self.steps, steps);
        if matches!(end, End::Fails { .. } | End::Unknown { .. }) || inner.iter().any(|step| self.is_telling(step)) {
            self.step(place, fatal, Action::Child { steps: inner, end: end.clone() });
        }
        Ok(end)
    }

    /// Whether what a child does can matter to the program or its file.
    fn is_telling(&self, step: &Step) -> bool {
        match &step.action {
            Action::Exec { program, .. } => {
                program.path == self.image.target || program.entry.xattrs.contains_key(XATTR.as_bytes())
            }
            Action::Child { steps, end } => {
                matches!(end, End::Fails { .. }) || steps.iter().any(|step| self.is_telling(step))
            }
            Action::User(_) => false,
            _ => true,
        }
    }

    /// The process becomes `argv`.
    pub(super) fn execute(&mut self, argv: &[String], env: &mut Env, place: &str) -> Result<End> {
        if self.depth == MAX_DEPTH || !self.burn() {
            return Ok(unknown(place, format!("more than {MAX_DEPTH} programs execute each other")));
        }
        self.depth += 1;
        let end = self.execute_program(argv, env, place);
        self.depth -= 1;
        end
    }

    fn execute_program(&mut self, argv: &[String], env: &mut Env, place: &str) -> Result<End> {
        let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
            return Ok(fails(place, "no command is given"));
        };
        if name.contains(UNKNOWN) {
            return Ok(unknown(place, format!("which program '{}' is, is known only when it runs", shown(name))));
        }
        let search = env.variables.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        if search.contains(UNKNOWN) && !name.contains('/') {
            return Ok(unknown(place, "PATH is known only when it runs".to_owned()));
        }
        if let Some(mount) = self.start.mounts.iter().find(|mount| name.starts_with('/') && is_at_or_below(name, mount))
        {
            return Ok(unknown(
                place,
                format!("{name} comes from {mount}, where something else than the image is mounted"),
            ));
        }
        let Some((path, program)) = self.image.files.program(name, search, &env.directory)? else {
            return Ok(fails(place, &missing(name, place == self.start.place)));
        };
        if program.entry.mode & 0o111 == 0 {
            return Ok(fails(place, &format!("{path}: Permission denied")));
        }
        let head = files::head(&program, MAX_INTERPRETER)?;
        // What is called like a shell is taken for one.
        if head.starts_with(b"#!") && !is_shell(base(&path)) {
            return self.execute_script(&path, &program, &head, argv, env, place);
        }
        if !head.starts_with(b"\x7fELF") && !is_shell(base(&path)) {
            if self.depth == 1 {
                return Ok(fails(place, &format!("exec {path}: exec format error")));
            }
            // A shell runs what the kernel does not know.
            return self.run_script(&path, &program, argv, env, place);
        }
        self.step(place, true, Action::Exec { shown: path.clone(), program: program.clone() });
        if program.path == self.image.target {
            return Ok(End::Runs { path: path::show(&program.path), serves: entrypoint::nginx_serves(&argv[1..]) });
        }
        self.go_on(&path, &program, argv, env, place)
    }

    /// What a program does that executes another one.
    fn go_on(&mut self, path: &str, program: &Found, argv: &[String], env: &mut Env, place: &str) -> Result<End> {
        let mut name = base(argv.first().map_or("", String::as_str)).trim_start_matches('-').to_owned();
        let mut args = argv.get(1..).unwrap_or_default();
        if name == "busybox" || name == "toybox" {
            let Some((applet, rest)) = args.split_first() else { return Ok(runs(program)) };
            (name, args) = (applet.clone(), rest);
        }
        if is_shell(&name) {
            return self.shell(path, args, env, place);
        }
        if self.touch(&name, args, env, place, false)? {
            return Ok(runs(program));
        }
        let wrapped = match wrapper::unwrap(&name, args) {
            Ok(wrapped) => wrapped,
            Err(why) => return Ok(unknown(place, why)),
        };
        match wrapped {
            Wrapped::Program if base(path) == "resty" => self.resty(program, args, env, place),
            Wrapped::Program => Ok(runs(program)),
            Wrapped::Command { env: variables, command } => {
                for (name, value) in variables {
                    env.variables.insert(name, value);
                }
                self.execute(&command, env, place)
            }
            Wrapped::User { user, command } => {
                if user.contains(UNKNOWN) {
                    return Ok(unknown(place, "the user is known only when it runs".to_owned()));
                }
                match self.image.users.resolve(&user) {
                    Ok(user) => {
                        self.user = user.clone();
                        self.step(place, true, Action::User(user));
                        self.execute(&command, env, place)
                    }
                    Err(_) => Ok(fails(place, &format!("{name}: there is no user {user}"))),
                }
            }
        }
    }

    /// `sh` with its arguments.
    fn shell(&mut self, path: &str, args: &[String], env: &mut Env, place: &str) -> Result<End> {
        let mut frame = Frame::new(path, place);
        let mut at = 0;
        let mut text = None;
        while let Some(option) = args.get(at).filter(|arg| arg.starts_with(['-', '+']) && arg.len() > 1) {
            at += 1;
            if option == "--" {
                break;
            }
            if option.starts_with("--") {
                at += usize::from(matches!(option.as_str(), "--rcfile" | "--init-file"));
                continue;
            }
            frame.errexit |= option.starts_with('-') && option.contains('e');
            if option.ends_with('o') || option.ends_with('O') {
                frame.errexit |= args.get(at).is_some_and(|name| name == "errexit");
                at += 1;
            }
            if option.contains('c') {
                text = Some(());
            }
        }
        let rest = args.get(at..).unwrap_or_default();
        let Some((first, others)) = rest.split_first() else {
            return Ok(unknown(place, format!("{path} reads its commands from somewhere else")));
        };
        if text.is_some() {
            if let Some((name, others)) = others.split_first() {
                (frame.name, frame.args) = (name.clone(), others.to_vec());
            }
            if first.contains(UNKNOWN) {
                return Ok(unknown(place, format!("what {path} -c does is known only when it runs")));
            }
            return self.run_text(first, &mut frame, env);
        }
        let found = self.image.files.program(&format!("./{first}"), "", &env.directory);
        let found = if first.starts_with('/') { self.image.files.program(first, "", "/") } else { found };
        match found? {
            Some((script, file)) => self.run_script(&script, &file, rest, env, place),
            None => Ok(fails(place, &format!("{first}: No such file or directory"))),
        }
    }

    /// A file that begins with `#!`: the kernel executes the interpreter, and looks at the attributes of that alone.
    fn execute_script(
        &mut self,
        path: &str,
        script: &Rc<Found>,
        head: &[u8],
        argv: &[String],
        env: &mut Env,
        place: &str,
    ) -> Result<End> {
        let line: Vec<u8> = head[2..].iter().copied().take_while(|b| *b != b'\n').collect();
        let line = String::from_utf8_lossy(&line).into_owned();
        let line = line.trim_matches([' ', '\t']);
        let (interpreter, option) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let option = option.trim_matches([' ', '\t']);
        let Some((at, program)) = self.image.files.program(interpreter, "", "/")?.filter(|_| interpreter.contains('/'))
        else {
            let error = match interpreter.ends_with('\r') {
                true => format!("exec {path}: no such file or directory (its first line ends with a carriage return)"),
                false => format!(
                    "exec {path}: no such file or directory (its interpreter {interpreter} is not in the image)"
                ),
            };
            return Ok(fails(place, &error));
        };
        if is_shell(base(interpreter)) {
            self.step(place, true, Action::Exec { shown: path.to_owned(), program });
            return self.run_script(path, script, argv, env, place);
        }
        let mut command = vec![at];
        command.extend((!option.is_empty()).then(|| option.to_owned()));
        command.push(path.to_owned());
        command.extend(argv.get(1..).unwrap_or_default().iter().cloned());
        match self.execute(&command, env, place)? {
            // Perl runs it.
            End::Runs { .. } if base(path) == "resty" => {
                self.resty(script, argv.get(1..).unwrap_or_default(), env, place)
            }
            end => Ok(end),
        }
    }

    fn run_script(&mut self, path: &str, script: &Found, argv: &[String], env: &mut Env, place: &str) -> Result<End> {
        let Some(text) = files::text(script)? else {
            return Ok(unknown(place, format!("{path} is larger than {} KiB", files::MAX_TEXT >> 10)));
        };
        let mut frame = Frame::new(path, path);
        frame.is_file = true;
        frame.args = argv.get(1..).unwrap_or_default().to_vec();
        frame.errexit = text.lines().next().is_some_and(|line| line.starts_with("#!") && line.contains(" -e"));
        self.run_text(&text, &mut frame, env)
    }

    /// OpenResty's command line: it executes the nginx beside it with what it is to do.
    fn resty(&mut self, resty: &Found, args: &[String], env: &mut Env, place: &str) -> Result<End> {
        let nginx = entrypoint::nginx_of_resty(&path::show(&resty.path));
        let end = self.execute(&[nginx.clone(), "-g".to_owned()], env, place)?;
        let End::Runs { path, .. } = end else { return Ok(end) };
        if !entrypoint::starts_kong(args) {
            return Ok(End::Runs { path, serves: false });
        }
        // `kong start` executes nginx once more, through a shell.
        if let Some((shell, program)) = self.image.files.program("/bin/sh", "", "/")? {
            self.step(place, true, Action::Exec { shown: shell, program });
        }
        self.execute(&[nginx], env, place)
    }
}

/// Where programs are if the image does not say it.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn is_at_or_below(path: &str, directory: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn unknown(place: &str, why: String) -> End {
    End::Unknown { place: place.to_owned(), why }
}

pub(super) fn fails(place: &str, error: &str) -> End {
    End::Fails { place: place.to_owned(), error: error.to_owned() }
}

fn runs(program: &Found) -> End {
    End::Runs { path: path::show(&program.path), serves: false }
}

/// What one reads if `name` is not there: of the runtime, or of a shell.
fn missing(name: &str, by_runtime: bool) -> String {
    match (by_runtime, name.contains('/')) {
        (true, true) => format!("exec: \"{name}\": stat {name}: no such file or directory"),
        (true, false) => format!("exec: \"{name}\": executable file not found in $PATH"),
        (false, true) => format!("{name}: No such file or directory"),
        (false, false) => format!("{name}: not found"),
    }
}

fn is_shell(name: &str) -> bool {
    matches!(name, "sh" | "bash" | "dash" | "ash" | "ksh" | "mksh" | "zsh" | "rbash")
}

#[cfg(test)]
pub(super) mod tests;
