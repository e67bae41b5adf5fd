//! Commands of the shell itself, and programs that change the file of the program.

use super::call::MAX_CALLS;
use super::script::{Part, Word};
use super::shell::{Flow, Frame, Status};
use super::{Action, End, Env, Follower, UNKNOWN, is_at_or_below, shown, unknown};
use crate::archive::path;
use crate::error::Result;

impl Follower<'_, '_> {
    /// What a builtin does; nothing if `name` is none.
    pub(super) fn builtin(
        &mut self,
        name: &str,
        args: &[String],
        words: &[Word],
        place: &str,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Option<Flow>> {
        let next = |status| Ok(Some(Flow::Next(status)));
        match name {
            ":" | "true" => next(Status::True),
            "false" => next(Status::False),
            "[" | "test" => {
                let inner = if name == "[" { args.split_last().map_or(args, |(_, inner)| inner) } else { args };
                next(Status::of(self.test(inner, env)?))
            }
            "exit" | "return" => {
                let failed = args.first().is_some_and(|code| code != "0");
                Ok(Some(match name {
                    "return" => Flow::Return(if failed { Status::False } else { Status::True }),
                    _ => Flow::End(End::Exits { place: place.to_owned(), failed }),
                }))
            }
            "break" | "continue" => {
                let levels = args.first().and_then(|levels| levels.parse().ok()).unwrap_or(1);
                Ok(Some(Flow::Leave { levels, again: name == "continue" }))
            }
            "shopt" => {
                if let [option, names @ ..] = args
                    && matches!(option.as_str(), "-s" | "-u")
                    && names.iter().any(|name| name == "nullglob")
                {
                    frame.nullglob = option == "-s";
                }
                next(Status::True)
            }
            "export" | "local" | "declare" | "typeset" | "readonly" => {
                for word in words {
                    if let [.., Part::Array(elements)] = &word[..]
                        && let Some(Part::Text { text, .. }) = word.first()
                    {
                        self.set_array(text.trim_end_matches('='), elements, frame, env)?;
                    }
                }
                for arg in args.iter().filter(|arg| !arg.starts_with('-')) {
                    match arg.split_once('=') {
                        Some((name, value)) if value.contains(UNKNOWN) && env.arrays.contains_key(name) => {}
                        Some((name, _)) if name.contains(UNKNOWN) => {}
                        Some((name, value)) => drop(env.variables.insert(name.to_owned(), value.to_owned())),
                        None if name == "local" => drop(env.variables.insert(arg.clone(), String::new())),
                        None => {}
                    }
                }
                next(Status::True)
            }
            "unset" => {
                for name in args {
                    env.variables.remove(name);
                    env.arrays.remove(name);
                }
                next(Status::True)
            }
            "set" => {
                self.set(args, frame);
                next(Status::True)
            }
            "shift" => {
                let count = args.first().map_or(Some(1), |count| count.parse::<usize>().ok());
                match count {
                    Some(count) if count <= frame.args.len() => drop(frame.args.drain(..count)),
                    Some(_) => return next(Status::False),
                    None => return Ok(Some(Flow::End(unknown(place, "cannot follow this 'shift'".to_owned())))),
                }
                next(Status::True)
            }
            "read" | "getopts" | "mapfile" | "readarray" => {
                for name in args.iter().filter(|arg| !arg.starts_with('-')) {
                    env.variables.insert(name.clone(), UNKNOWN.to_string());
                }
                next(Status::Unknown)
            }
            "cd" => {
                match args.last() {
                    Some(directory) if directory.starts_with('/') => env.directory = directory.clone(),
                    Some(directory) => env.directory = format!("{}/{directory}", env.directory),
                    None => {}
                }
                next(Status::Usually)
            }
            "exec" => {
                let args: Vec<String> = match args {
                    [option, _, rest @ ..] if option == "-a" => rest.to_vec(),
                    [option, rest @ ..] if matches!(option.as_str(), "-c" | "-l" | "--") => rest.to_vec(),
                    args => args.to_vec(),
                };
                if args.is_empty() {
                    return next(Status::True);
                }
                self.execute(&args, env, place).map(|end| Some(Flow::End(end)))
            }
            "." | "source" => self.source(args, place, frame, env).map(Some),
            "eval" => {
                let text = args.join(" ");
                if text.contains(UNKNOWN) {
                    return Ok(Some(Flow::End(unknown(place, format!("cannot follow eval \"{}\"", shown(&text))))));
                }
                match super::script::parse(&text) {
                    Ok(list) if frame.depth < MAX_CALLS => {
                        frame.depth += 1;
                        let flow = self.list(&list, frame, env);
                        frame.depth -= 1;
                        flow.map(Some)
                    }
                    _ => Ok(Some(Flow::End(unknown(place, format!("cannot follow eval \"{}\"", shown(&text)))))),
                }
            }
            "command" | "builtin" | "type" | "hash" | "which" => {
                let asks = name != "builtin"
                    && (name != "command" || args.first().is_some_and(|arg| matches!(arg.as_str(), "-v" | "-V")));
                let args: Vec<String> = args.iter().skip_while(|arg| arg.starts_with('-')).cloned().collect();
                if asks {
                    let Some(program) = args.first() else { return next(Status::Unknown) };
                    let search = env.variables.get("PATH").cloned().unwrap_or_default();
                    let found = self.image.files.program(program, &search, &env.directory)?.is_some();
                    return next(Status::of(Some(found || super::effect::is_harmless(program))));
                }
                self.invoke(&args, words, place, frame, env).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn set(&mut self, args: &[String], frame: &mut Frame) {
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--" => {
                    frame.args = args.cloned().collect();
                    return;
                }
                "-o" | "+o" => {
                    frame.errexit = args.next().map_or(frame.errexit, |name| {
                        (name == "errexit" && arg == "-o") || (frame.errexit && name != "errexit")
                    })
                }
                _ if arg.starts_with(['-', '+']) => {
                    if arg.contains('e') {
                        frame.errexit = arg.starts_with('-');
                    }
                    if arg.ends_with('o') {
                        args.next();
                    }
                }
                _ => {
                    frame.args = std::iter::once(arg).chain(args).cloned().collect();
                    return;
                }
            }
        }
    }

    /// The real path of what is at `path`, without the slash in front.
    fn real(&mut self, path: &str, env: &Env) -> Result<Option<Vec<u8>>> {
        if path.contains(UNKNOWN) || path.is_empty() {
            return Ok(None);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", env.directory) };
        self.image.files.real(&path)
    }

    /// The user and the group that `chown` (`OWNER:GROUP`) or `chgrp` is to give a file, as far as they are named; nothing if
    /// that is not known.
    fn owner(&self, name: &str, text: &str) -> Option<(Option<u32>, Option<u32>)> {
        let (user, group) = match name {
            "chgrp" => ("", Some(text)),
            _ => text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group))),
        };
        let user = if user.is_empty() { None } else { Some(self.image.users.resolve(user).ok()?) };
        let group = match group {
            None => None,
            // The login group.
            Some("") => user.as_ref().map(|user| user.gid),
            Some(group) => Some(self.image.users.group(group).ok()?),
        };
        Some((user.map(|user| user.uid), group))
    }

    /// Whether the user owns what is at this real path and may give it those without a capability: chown(2).
    fn keeps(&mut self, real: &[u8], user: Option<u32>, group: Option<u32>) -> Result<bool> {
        let Some(entry) = self.image.files.entry(&path::show(real))? else { return Ok(false) };
        let is_own = entry.uid == u64::from(self.user.uid);
        let keeps_group = |group: u32| u64::from(group) == entry.gid || self.user.is_in(u64::from(group));
        Ok(is_own && user.is_none_or(|user| user == self.user.uid) && group.is_none_or(keeps_group))
    }

    pub(super) fn is_target(&mut self, path: &str, env: &Env) -> Result<bool> {
        Ok(self.real(path, env)?.is_some_and(|real| real == self.image.target))
    }

    /// Whether the program's file is at `path` by a symbolic link in its last place.
    fn is_link(&mut self, path: &str, env: &Env) -> Result<bool> {
        let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
        let Some(mut real) = self.real(&format!("{directory}/"), env)? else { return Ok(true) };
        real.extend(real.last().map(|_| b'/'));
        real.extend(name.as_bytes());
        Ok(real != self.image.target)
    }

    /// Notes what `name` does to the program's file; whether it is a program that does such things at all.
    pub(super) fn touch(&mut self, name: &str, args: &[String], env: &Env, place: &str, fatal: bool) -> Result<bool> {
        let (options, plain): (Vec<&String>, Vec<&String>) =
            args.iter().partition(|arg| arg.starts_with('-') && arg.len() > 1);
        match name {
            "setcap" => {
                if options.iter().any(|option| *option == "-v") {
                    return Ok(true);
                }
                let mut args = args.iter().filter(|arg| !matches!(arg.as_str(), "-q" | "-f"));
                while let Some(text) = args.next() {
                    if text == "-n" {
                        args.next();
                        continue;
                    }
                    let Some(file) = args.next() else { break };
                    if self.is_target(file, env)? {
                        let action = match self.is_link(file, env)? {
                            true => Action::SetCapabilitiesOfLink(file.clone()),
                            false => Action::SetCapabilities((text != "-r").then(|| text.clone())),
                        };
                        self.step(place, fatal, action);
                    }
                }
                Ok(true)
            }
            "chown" | "chgrp" => {
                let recursive =
                    options.iter().any(|o| *o == "--recursive" || (!o.starts_with("--") && o.contains('R')));
                self.changed.extend(plain.iter().skip(1).map(|file| (*file).clone()));
                let wanted = plain.first().and_then(|owner| self.owner(name, owner));
                for file in plain.iter().skip(1) {
                    let Some(real) = self.real(file, env)? else { continue };
                    let own = match &wanted {
                        Some((user, group)) => self.keeps(&real, *user, *group)?,
                        None => false,
                    };
                    let above = real.is_empty() || path::is_below(&self.image.target, &real);
                    if real == self.image.target || (recursive && above) {
                        let own = match &wanted {
                            Some((user, group)) => self.keeps(&self.image.target.clone(), *user, *group)?,
                            None => false,
                        };
                        let command = shown(&format!("{name} {}", args.join(" ")));
                        self.step(place, fatal, Action::ChangeOwner { command, own });
                    } else if !self.start.mounts.iter().any(|mount| is_at_or_below(&path::show(&real), mount)) {
                        self.step(place, fatal, Action::ChangeOtherOwner { path: shown(file), own });
                    }
                }
                Ok(true)
            }
            "chmod" => {
                self.changed.extend(plain.into_iter().skip(1).cloned());
                Ok(true)
            }
            "usermod" => {
                let words: Vec<&str> = args.iter().map(String::as_str).collect();
                let number = words
                    .windows(2)
                    .find(|pair| matches!(pair[0], "-u" | "--uid"))
                    .and_then(|pair| pair[1].parse().ok());
                if let (Some(number), Some(user)) = (number, words.last()) {
                    self.renumbered.insert((*user).to_owned(), number);
                }
                // It is looked for as any other program is.
                Ok(false)
            }
            "cp" | "mv" | "install" | "ln" | "tee" | "truncate" | "strip" | "patchelf" | "dd" | "rm" | "unlink"
            | "sed" => {
                let edits = name != "sed" || options.iter().any(|option| option.starts_with("-i"));
                let from = if matches!(name, "cp" | "mv" | "install" | "ln" | "patchelf" | "strip") {
                    plain.len().saturating_sub(1)
                } else {
                    0
                };
                for file in plain.iter().skip(from).filter(|_| edits) {
                    let file = file.strip_prefix("of=").unwrap_or(file);
                    self.made.push(file.to_owned());
                    if self.is_target(file, env)? {
                        self.step(place, fatal, Action::Write(shown(&format!("{name} {}", args.join(" ")))));
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
