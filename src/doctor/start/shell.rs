//! Shell scripts followed command by command: which programs they execute, as whom, and what they do to one file.

use std::collections::HashMap;
use std::rc::Rc;

use super::effect::{forget, is_harmless, is_inert, may_change};
use super::listing;
use super::script::{Arm, Command, Kind, List, Part, Then, When, Word, literal};
use super::{Action, End, Env, Follower, UNKNOWN, unknown};
use crate::doctor::files::Parsed;
use crate::error::Result;

/// Rounds of one `for` that are followed.
pub(super) const MAX_ROUNDS: usize = 100;

/// Commands inside each other, in all scripts and functions together: they are followed on the stack of a thread.
const MAX_NESTING: u32 = 40;

/// Where a script is, and what it was called with.
pub(super) struct Frame {
    /// Its path; or what gave the text, for `sh -c`.
    pub script: String,
    /// Whether lines of it mean something.
    pub is_file: bool,
    /// `$0`
    pub name: String,
    pub args: Vec<String>,
    pub functions: HashMap<String, Rc<Command>>,
    /// `set -e`
    pub errexit: bool,
    /// `shopt -s nullglob`
    pub nullglob: bool,
    /// How many conditions it is inside of, where `set -e` does not count.
    pub checked: u32,
    /// Functions and sourced files inside each other.
    pub depth: u32,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    True,
    False,
    /// A program that succeeds if nothing is wrong.
    Usually,
    /// A question that is answered when it runs.
    Unknown,
}

impl Status {
    pub(super) fn of(known: Option<bool>) -> Self {
        match known {
            Some(true) => Status::True,
            Some(false) => Status::False,
            None => Status::Unknown,
        }
    }

    fn not(self) -> Self {
        match self {
            Status::True => Status::False,
            Status::False => Status::True,
            _ => Status::Unknown,
        }
    }
}

/// What comes after a command.
pub(super) enum Flow {
    Next(Status),
    /// `return`
    Return(Status),
    /// `break`, and `continue` if `again`, of so many loops.
    Leave {
        levels: u32,
        again: bool,
    },
    /// The shell is no more.
    End(End),
}

impl Frame {
    pub(super) fn new(name: &str, script: &str) -> Self {
        Frame {
            script: script.to_owned(),
            is_file: false,
            name: name.to_owned(),
            args: Vec::new(),
            functions: HashMap::new(),
            errexit: false,
            nullglob: false,
            checked: 0,
            depth: 0,
        }
    }

    pub(super) fn place(&self, line: u32) -> String {
        if self.is_file { format!("{}:{line}", self.script) } else { self.script.clone() }
    }
}

impl Follower<'_, '_> {
    /// Follows a script to its end.
    pub(super) fn run_parsed(&mut self, parsed: &Parsed, frame: &mut Frame, env: &mut Env) -> Result<End> {
        let list = match parsed {
            Ok(list) => list,
            Err(trouble) => return Ok(unknown(&frame.place(trouble.line), format!("cannot follow {}", trouble.what))),
        };
        let place = frame.script.clone();
        Ok(match self.list(list, frame, env)? {
            Flow::End(end) => end,
            Flow::Next(status) | Flow::Return(status) => End::Exits { place, failed: status == Status::False },
            Flow::Leave { .. } => End::Exits { place, failed: false },
        })
    }

    pub(super) fn list(&mut self, list: &List, frame: &mut Frame, env: &mut Env) -> Result<Flow> {
        let mut status = Status::True;
        for (at, item) in list.iter().enumerate() {
            let place = frame.place(item.command.line);
            let runs = match (item.when, status) {
                (When::Always, _) => true,
                (When::Succeeded, Status::True | Status::Usually) | (When::Failed, Status::False) => true,
                (When::Succeeded, Status::False) | (When::Failed, Status::True | Status::Usually) => false,
                (_, Status::Unknown) if is_inert(&item.command) => {
                    status = Status::Unknown;
                    continue;
                }
                (when, Status::Unknown) => {
                    let runs = self.ask(&place);
                    status = Status::of(Some(runs == (when == When::Succeeded)));
                    runs
                }
            };
            if !runs {
                continue;
            }
            let is_checked = list.get(at + 1).is_some_and(|next| next.when != When::Always);
            frame.checked += u32::from(is_checked);
            let flow = self.command(&item.command, frame, env)?;
            frame.checked -= u32::from(is_checked);
            match flow {
                Flow::Next(new) => status = new,
                other => return Ok(other),
            }
            if status == Status::False && frame.errexit && frame.checked == 0 && !is_checked {
                let exits = End::Exits { place, failed: true };
                return Ok(Flow::End(self.failure.take().unwrap_or(exits)));
            }
        }
        Ok(Flow::Next(status))
    }

    fn condition(&mut self, list: &List, frame: &mut Frame, env: &mut Env) -> Result<Flow> {
        frame.checked += 1;
        let flow = self.list(list, frame, env);
        frame.checked -= 1;
        flow
    }

    pub(super) fn command(&mut self, command: &Command, frame: &mut Frame, env: &mut Env) -> Result<Flow> {
        let place = frame.place(command.line);
        if !self.burn() {
            return Ok(Flow::End(unknown(&place, "it takes too many commands to get here".to_owned())));
        }
        if self.nesting >= MAX_NESTING {
            return Ok(Flow::End(unknown(
                &place,
                format!("more than {MAX_NESTING} commands are inside each other there"),
            )));
        }
        self.nesting += 1;
        let flow = match command.background {
            true => self.background(command, &place, frame, env),
            false => self.nested_command(command, &place, frame, env),
        };
        self.nesting -= 1;
        flow
    }

    /// What nobody waits for: how it ends counts for nothing.
    fn background(&mut self, command: &Command, place: &str, frame: &mut Frame, env: &Env) -> Result<Flow> {
        let mut env = env.clone();
        frame.checked += 1;
        let is_program = matches!(&command.kind, Kind::Simple { words, .. }
            if words.first().and_then(literal).is_some_and(|name| name != "exec"));
        let status = match is_program {
            true => self.nested_command(command, place, frame, &mut env).map(|_| ()),
            false => self
                .apart(command.line, frame, |follower, frame| follower.nested_command(command, place, frame, &mut env))
                .map(|_| ()),
        };
        frame.checked -= 1;
        status.map(|()| Flow::Next(Status::True))
    }

    fn nested_command(&mut self, command: &Command, place: &str, frame: &mut Frame, env: &mut Env) -> Result<Flow> {
        for word in &command.writes {
            let path = self.expand_one(word, frame, env)?;
            self.made.push(path.clone());
            if self.is_target(&path, env)? {
                self.step(place, false, Action::Write(format!("> {path}")));
            }
        }
        match &command.kind {
            Kind::Simple { assignments, words } => self.simple(assignments, words, place, frame, env),
            Kind::Test(words) => Ok(Flow::Next(Status::of(self.double_brackets(words, frame, env)?))),
            Kind::Arithmetic => Ok(Flow::Next(Status::Unknown)),
            Kind::If { arms, otherwise } => self.conditional(arms, otherwise, frame, env),
            Kind::Case { word, arms } => self.case(word, arms, place, frame, env),
            Kind::For { name, words, body } => self.for_loop(name, words.as_ref(), body, frame, env),
            Kind::Loop { condition, body } => {
                if let Some(names) = listing::reads(condition)
                    && let Some(lines) = self.input(command.input.as_ref(), frame, env)?
                {
                    return self.read_loop(&names, lines, body, frame, env);
                }
                match self.condition(condition, frame, env)? {
                    Flow::Next(Status::False) if !may_change(condition) => return Ok(Flow::Next(Status::True)),
                    Flow::Next(_) => {}
                    other => return Ok(other),
                }
                let flow = if body.iter().all(|item| is_inert(&item.command)) {
                    Flow::Next(Status::True)
                } else {
                    self.list(body, frame, env)?
                };
                forget(body, env);
                forget(condition, env);
                Ok(match flow {
                    Flow::Next(_) | Flow::Leave { levels: 0 | 1, .. } => Flow::Next(Status::Usually),
                    Flow::Leave { levels, again } => Flow::Leave { levels: levels - 1, again },
                    other => other,
                })
            }
            Kind::Group(list) => self.list(list, frame, env),
            Kind::Subshell(list) => self.subshell(list, frame, env),
            Kind::Function { name, body } => {
                frame.functions.insert(name.clone(), body.clone());
                Ok(Flow::Next(Status::True))
            }
            Kind::Pipeline { commands, negated } => {
                let flow = self.pipeline(commands, frame, env)?;
                Ok(match flow {
                    Flow::Next(status) if *negated => Flow::Next(status.not()),
                    other => other,
                })
            }
        }
    }

    fn subshell(&mut self, list: &List, frame: &mut Frame, env: &Env) -> Result<Flow> {
        let line = list.first().map_or(0, |item| item.command.line);
        let mut env = env.clone();
        self.apart(line, frame, |follower, frame| follower.list(list, frame, &mut env)).map(Flow::Next)
    }

    /// What another process of the shell does.
    pub(super) fn apart(
        &mut self,
        line: u32,
        frame: &mut Frame,
        run: impl FnOnce(&mut Self, &mut Frame) -> Result<Flow>,
    ) -> Result<Status> {
        let (steps, user) = (std::mem::take(&mut self.steps), self.user.clone());
        let flow = run(self, frame)?;
        self.user = user;
        let inner = std::mem::replace(&mut self.steps, steps);
        let known = match &flow {
            Flow::Next(status) | Flow::Return(status) => Some(*status),
            _ => None,
        };
        let end = match flow {
            Flow::End(end) => end,
            _ => End::Exits { place: frame.script.clone(), failed: known == Some(Status::False) },
        };
        let status = known.unwrap_or_else(|| status_of(&end));
        if !inner.is_empty() || matches!(end, End::Fails { .. } | End::Unknown { .. }) {
            let place = frame.place(line);
            self.step(&place, frame.errexit && frame.checked == 0, Action::Child { steps: inner, end });
        }
        Ok(status)
    }

    fn conditional(
        &mut self,
        arms: &[(List, List)],
        otherwise: &List,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Flow> {
        for (condition, body) in arms {
            let holds = match self.condition(condition, frame, env)? {
                Flow::Next(Status::True) => true,
                Flow::Next(Status::False) => false,
                Flow::Next(_) => {
                    let is_idle = |list: &List| list.iter().all(|item| is_inert(&item.command));
                    let line = condition.first().map_or(0, |item| item.command.line);
                    if arms.iter().all(|(condition, body)| is_idle(condition) && is_idle(body)) && is_idle(otherwise) {
                        return Ok(Flow::Next(Status::Usually));
                    }
                    let place = frame.place(line);
                    self.ask(&place)
                }
                other => return Ok(other),
            };
            if holds {
                return self.list(body, frame, env);
            }
        }
        self.list(otherwise, frame, env)
    }

    fn case(&mut self, word: &Word, arms: &[Arm], place: &str, frame: &mut Frame, env: &mut Env) -> Result<Flow> {
        let value = self.expand_one(word, frame, env)?;
        let mut entered = false;
        let mut status = Status::True;
        for Arm { patterns, body, then } in arms {
            let mut holds = Some(entered);
            for pattern in patterns.iter().filter(|_| !entered) {
                let pattern = self.expand_pattern(pattern, frame, env)?;
                match super::condition::matches(&pattern, &value) {
                    Some(true) => holds = Some(true),
                    None if holds == Some(false) => holds = None,
                    _ => {}
                }
            }
            let holds = match holds {
                Some(known) => known,
                None => self.ask(&body.first().map_or(place.to_owned(), |item| frame.place(item.command.line))),
            };
            if !holds {
                continue;
            }
            status = match self.list(body, frame, env)? {
                Flow::Next(status) if *then != Then::Leave => status,
                flow => return Ok(flow),
            };
            entered = *then == Then::Enter;
        }
        Ok(Flow::Next(status))
    }

    fn for_loop(
        &mut self,
        name: &str,
        words: Option<&Vec<Word>>,
        body: &List,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Flow> {
        let values = match words {
            Some(words) => self.expand(words, true, frame, env)?,
            None => frame.args.clone(),
        };
        let values = if name.is_empty() { vec![UNKNOWN.to_string()] } else { values };
        for value in values.into_iter().take(MAX_ROUNDS) {
            env.variables.insert(name.to_owned(), value);
            if let Some(flow) = self.round(body, frame, env)? {
                return Ok(flow);
            }
        }
        Ok(Flow::Next(Status::Usually))
    }

    /// A command with its words.
    fn simple(
        &mut self,
        assignments: &[(String, Word)],
        words: &[Word],
        place: &str,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Flow> {
        let mut pairs = Vec::new();
        for (name, value) in assignments {
            if let [Part::Array(elements)] = &value[..] {
                self.set_array(name, elements, frame, env)?;
                continue;
            }
            let value = self.expand_one(value, frame, env)?;
            env.arrays.remove(name);
            pairs.push((name.clone(), value));
            if words.is_empty() {
                env.variables.extend(pairs.drain(..));
            }
        }
        let fields = self.expand(words, !listing::ignores_files(words), frame, env)?;
        if fields.is_empty() {
            env.variables.extend(pairs);
            return Ok(Flow::Next(if words.is_empty() { Status::True } else { Status::Usually }));
        }
        if matches!(fields[0].as_str(), "exec") {
            env.variables.extend(pairs);
            return self.invoke(&fields, words, place, frame, env);
        }
        if pairs.is_empty() {
            return self.invoke(&fields, words, place, frame, env);
        }
        let mut own = env.clone();
        own.variables.extend(pairs);
        self.invoke(&fields, words, place, frame, &mut own)
    }

    /// A function, a builtin or a program.
    pub(super) fn invoke(
        &mut self,
        fields: &[String],
        words: &[Word],
        place: &str,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Flow> {
        let Some((name, args)) = fields.split_first() else { return Ok(Flow::Next(Status::True)) };
        if let Some(body) = frame.functions.get(name).cloned() {
            return self.call(&body, args, place, frame, env);
        }
        if let Some(flow) = self.builtin(name, args, words, place, frame, env)? {
            return Ok(flow);
        }
        let fatal = frame.errexit && frame.checked == 0;
        if self.touch(name, args, env, place, fatal)? || is_harmless(name) {
            return Ok(Flow::Next(match name.as_str() {
                "grep" | "egrep" | "fgrep" | "curl" | "wget" | "nc" | "getent" | "find" | "id" | "ls" => {
                    Status::Unknown
                }
                _ => Status::Usually,
            }));
        }
        let end = self.child(fields, env, place, fatal)?;
        if matches!(end, End::Fails { .. }) {
            self.failure = Some(end.clone());
        }
        Ok(Flow::Next(status_of(&end)))
    }
}

pub(super) fn status_of(end: &End) -> Status {
    match end {
        End::Fails { .. } | End::Exits { failed: true, .. } => Status::False,
        _ => Status::Usually,
    }
}
