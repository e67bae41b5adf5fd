//! Programs that are executed: found on `PATH`, looked at, followed into what they execute in turn.

use std::rc::Rc;

use super::script;
use super::shell::Frame;
use super::wrapper::{self, Wrapped};
use super::{
    Action, DEFAULT_PATH, End, Env, Follower, MAX_DEPTH, Step, UNKNOWN, base, fails, is_at_or_below, shown, unknown,
};
use crate::archive::entry::Entry;
use crate::archive::path;
use crate::capability::XATTR;
use crate::doctor::files;
use crate::error::Result;
use crate::kong::entrypoint;
use crate::layer::lookup::Found;
use crate::patch::dynamic;

/// Bytes of the line with the interpreter that Linux reads (`BINPRM_BUF_SIZE`).
const MAX_INTERPRETER: usize = 256;

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
        if name.contains('/')
            && let Some(end) = self.mounted(name, env, place)
        {
            return Ok(end);
        }
        let Some((path, program)) = self.image.files.program(name, search, &env.directory)? else {
            if self.made.iter().any(|file| is_at_or_below(name, file)) {
                return Ok(made(place, name));
            }
            return Ok(fails(place, &missing(name, place == self.start.place)));
        };
        let changed = self.changed.iter().any(|changed| is_at_or_below(&path, changed));
        let is_first = self.depth == 1 && !self.start.docker;
        if !changed && !self.may_execute(&program, is_first) {
            return Ok(fails(
                place,
                // runc looks for it as root first.
                &match (place == self.start.place, program.entry.mode & 0o111) {
                    (true, 0) => format!("exec: \"{name}\": permission denied"),
                    (true, _) => format!("exec {path}: permission denied"),
                    (false, _) => format!("{path}: Permission denied"),
                },
            ));
        }
        if wrapper::supervises(base(&path)) {
            self.step(place, true, Action::Exec { shown: path.clone(), program });
            return Ok(unknown(place, format!("{path} executes what its own configuration names, which is not read")));
        }
        let head = program.content.head(MAX_INTERPRETER)?;
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
        if let Some(end) = self.without_linker(&path, &program, env, place)? {
            return Ok(end);
        }
        self.step(place, true, Action::Exec { shown: path.clone(), program: program.clone() });
        if program.path == self.image.target {
            return Ok(End::Runs { path: path::show(&program.path), serves: entrypoint::nginx_serves(&argv[1..]) });
        }
        self.go_on(&path, &program, argv, env, place)
    }

    /// How the execution of a program ends whose dynamic linker is not there: the kernel executes that one (faults.md H8).
    fn without_linker(&mut self, path: &str, program: &Found, env: &Env, place: &str) -> Result<Option<End>> {
        let Some(written) = dynamic::interpreter(&program.content) else { return Ok(None) };
        let linker = String::from_utf8_lossy(&written);
        if let Some(end) = self.mounted(&linker, env, place) {
            return Ok(Some(end));
        }
        if self.image.files.kind(&written)?.is_some() {
            return Ok(None);
        }
        if self.made.iter().any(|file| is_at_or_below(&linker, file)) {
            return Ok(Some(made(place, &linker)));
        }
        let error = format!("exec {path}: no such file or directory (its dynamic linker {linker} is not in the image)");
        Ok(Some(fails(place, &error)))
    }

    /// What can be told of a file at which something else than the image is mounted.
    fn mounted(&self, name: &str, env: &Env, place: &str) -> Option<End> {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("{}/{name}", env.directory) };
        let mount = self.start.mounts.iter().find(|mount| is_at_or_below(&path, mount))?;
        Some(unknown(place, format!("{name} comes from {mount}, where something else than the image is mounted")))
    }

    /// Whether the user may execute it where it is: path_resolution(7). `is_first` if a runtime does so that leaves the
    /// capabilities of the container in effect until then.
    pub(super) fn may_execute(&self, program: &Found, is_first: bool) -> bool {
        let may = |entry: &Entry| self.user.may_execute(entry.uid, entry.gid, entry.mode);
        match self.start.dac_override && (is_first || self.user.uid == 0) {
            true => program.entry.mode & 0o111 != 0,
            false => may(&program.entry) && program.parents.iter().all(|parent| may(&parent.entry)),
        }
    }

    /// Whether the user may read it where it is, as the interpreter of a script has to.
    pub(super) fn may_read(&self, path: &str, file: &Found) -> bool {
        let entry = &file.entry;
        let may_search = |entry: &Entry| self.user.may_execute(entry.uid, entry.gid, entry.mode);
        (self.start.dac_override && self.user.uid == 0)
            || self.changed.iter().any(|changed| is_at_or_below(path, changed))
            || (self.user.may_read(entry.uid, entry.gid, entry.mode)
                && file.parents.iter().all(|parent| may_search(&parent.entry)))
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
            let called = argv.first().map_or(path, String::as_str);
            return self.shell(path, called, args, env, place);
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
            Wrapped::Program => {
                for arg in args.iter().filter(|arg| !arg.starts_with('-') && !arg.contains([UNKNOWN, ' '])) {
                    let search = env.variables.get("PATH").map_or(DEFAULT_PATH, String::as_str);
                    let found = self.image.files.program(arg, search, &env.directory)?;
                    if found.is_some_and(|(_, found)| found.path == self.image.target) {
                        return Ok(unknown(place, format!("whether and how {path} executes {arg} is not known")));
                    }
                }
                Ok(runs(program))
            }
            Wrapped::Command { env: variables, clear, unset, directory, command } => {
                if clear {
                    // Where its own command line would listen elsewhere then, nobody knows here.
                    if let Some(name) = env.variables.keys().find(|name| is_setting(name, &variables)) {
                        return Ok(unknown(place, format!("env starts it without the variable {name}")));
                    }
                    env.variables.clear();
                }
                unset.iter().for_each(|name| drop(env.variables.remove(name)));
                env.variables.extend(variables);
                env.directory = directory.unwrap_or_else(|| env.directory.clone());
                self.execute(&command, env, place)
            }
            Wrapped::User { user, command } => {
                if user.contains(UNKNOWN) {
                    return Ok(unknown(place, "the user is known only when it runs".to_owned()));
                }
                match self.image.users.resolve(&user) {
                    Ok(mut user) => {
                        let name = user.name.as_deref().unwrap_or_default();
                        user.uid = self.renumbered.get(name).copied().unwrap_or(user.uid);
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
    fn shell(&mut self, path: &str, called: &str, args: &[String], env: &mut Env, place: &str) -> Result<End> {
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
            return self.run_parsed(&script::parse(first), &mut frame, env);
        }
        if let Some(end) = self.mounted(first, env, place) {
            return Ok(end);
        }
        let found = self.image.files.program(&format!("./{first}"), "", &env.directory);
        let found = if first.starts_with('/') { self.image.files.program(first, "", "/") } else { found };
        match found? {
            Some((script, file)) if !self.may_read(&script, &file) => {
                let shell = self.image.files.real(path)?.map(|real| path::show(&real)).unwrap_or_default();
                Ok(fails(place, &unreadable(called, base(&shell), first)))
            }
            Some((script, file)) => self.run_script(&script, &file, rest, env, place),
            None if self.made.iter().any(|file| is_at_or_below(first, file)) => Ok(made(place, first)),
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
            let shell = base(&path::show(&program.path)).to_owned();
            self.step(place, true, Action::Exec { shown: path.to_owned(), program });
            if !self.may_read(path, script) {
                return Ok(fails(place, &unreadable(interpreter, &shell, path)));
            }
            return self.run_script(path, script, argv, env, place);
        }
        if !self.may_read(path, script) {
            return Ok(fails(place, &format!("{interpreter}: cannot open {path}: Permission denied")));
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
        let Some(parsed) = self.image.files.script(path, script)? else {
            return Ok(unknown(place, format!("{path} is larger than {} KiB", files::MAX_TEXT >> 10)));
        };
        let mut frame = Frame::new(path, path);
        frame.is_file = true;
        frame.args = argv.get(1..).unwrap_or_default().to_vec();
        let first = script.content.head(MAX_INTERPRETER)?;
        let first = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
        frame.errexit = first.starts_with(b"#!") && first.windows(3).any(|option| option == b" -e");
        self.run_parsed(&parsed, &mut frame, env)
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

fn made(place: &str, path: &str) -> End {
    unknown(place, format!("{path} is made by the script when it runs"))
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

/// Whether a variable says where Kong listens, and is none of those that are given anew.
fn is_setting(name: &str, given: &[(String, String)]) -> bool {
    name.starts_with("KONG_") && name.ends_with("_LISTEN") && !given.iter().any(|(other, _)| other == name)
}

/// What a shell says to a script that it may not read; `real` is what it is called itself.
fn unreadable(shell: &str, real: &str, script: &str) -> String {
    match real {
        "dash" => format!("{shell}: 0: cannot open {script}: Permission denied"),
        "busybox" => format!("{shell}: can't open '{script}': Permission denied"),
        _ => format!("{shell}: {script}: Permission denied"),
    }
}

fn is_shell(name: &str) -> bool {
    matches!(name, "sh" | "bash" | "dash" | "ash" | "ksh" | "mksh" | "zsh" | "rbash")
}
