//! What words become: parameters, commands whose output is known, fields.

use super::script::{self, Kind, List, Operation, Part, Word};
use super::shell::Frame;
use super::{Env, Follower, UNKNOWN, base};
use crate::error::Result;

/// Bytes that one word, and all words of a command, may grow to.
const MAX_WORD: usize = 128 << 10;

impl Follower<'_, '_> {
    /// The fields of a command.
    pub(super) fn expand(&mut self, words: &[Word], frame: &mut Frame, env: &mut Env) -> Result<Vec<String>> {
        let mut fields = Vec::new();
        let mut size = 0;
        for word in words {
            self.fields(word, frame, env, &mut fields)?;
            size += fields.last().map_or(0, String::len);
            if size > MAX_WORD {
                fields.truncate(1);
                fields.push(UNKNOWN.to_string());
                return Ok(fields);
            }
        }
        Ok(fields)
    }

    fn fields(&mut self, word: &Word, frame: &mut Frame, env: &mut Env, fields: &mut Vec<String>) -> Result<()> {
        // `"$@"` without arguments is no field, not an empty one.
        if let [Part::Text { text, .. }, Part::Arguments { quoted: true, joined: false }] = &word[..]
            && text.is_empty()
            && frame.args.is_empty()
        {
            return Ok(());
        }
        // `current` is there as soon as something is, even an empty quoted text.
        let mut current: Option<String> = None;
        for part in word {
            let (text, splits) = match part {
                Part::Arguments { quoted: true, joined: false } => {
                    let mut args = frame.args.clone().into_iter();
                    if let Some(first) = args.next() {
                        current.get_or_insert_default().push_str(&first);
                    }
                    for arg in args {
                        fields.extend(current.take());
                        current = Some(arg);
                    }
                    continue;
                }
                Part::Text { text, quoted } => {
                    let is_pattern = !quoted && text.contains(['*', '?', '[']) && text != "[" && text != "[[";
                    (Some(if is_pattern { text.replace(['*', '?', '['], "\0") } else { text.clone() }), false)
                }
                part => (self.value(part, frame, env)?, !is_quoted(part)),
            };
            let quoted = is_quoted(part);
            let Some(text) = text else {
                if quoted {
                    current.get_or_insert_default();
                }
                continue;
            };
            if !splits {
                current.get_or_insert_default().push_str(&text);
                continue;
            }
            let mut pieces = text.split([' ', '\t', '\n']);
            if let Some(first) = pieces.next().filter(|first| !first.is_empty()) {
                current.get_or_insert_default().push_str(first);
            }
            for piece in pieces {
                fields.extend(current.take());
                if !piece.is_empty() {
                    current = Some(piece.to_owned());
                }
            }
        }
        fields.extend(current);
        Ok(())
    }

    /// A word as one text.
    pub(super) fn expand_one(&mut self, word: &Word, frame: &mut Frame, env: &mut Env) -> Result<String> {
        let mut out = String::new();
        for part in word {
            out.push_str(&self.value(part, frame, env)?.unwrap_or_default());
            if out.len() > MAX_WORD {
                return Ok(UNKNOWN.to_string());
            }
        }
        Ok(out)
    }

    /// A word as a pattern: what is quoted in it stands for itself.
    pub(super) fn expand_pattern(&mut self, word: &Word, frame: &mut Frame, env: &mut Env) -> Result<String> {
        let mut out = String::new();
        for part in word {
            let value = self.value(part, frame, env)?.unwrap_or_default();
            match is_quoted(part) {
                true => value.chars().for_each(|c| {
                    out.extend("*?[]\\".contains(c).then_some('\\'));
                    out.push(c);
                }),
                false => out.push_str(&value),
            }
            if out.len() > MAX_WORD {
                return Ok(UNKNOWN.to_string());
            }
        }
        Ok(out)
    }

    fn value(&mut self, part: &Part, frame: &mut Frame, env: &mut Env) -> Result<Option<String>> {
        Ok(match part {
            Part::Text { text, .. } => Some(text.clone()),
            Part::Unknown => Some(UNKNOWN.to_string()),
            Part::Arguments { .. } => Some(frame.args.join(" ")),
            Part::Output { list, .. } => Some(self.output(list, frame, env)?),
            Part::Variable { name, indirect, operation, colon, .. } => {
                let mut name = name.clone();
                if *indirect {
                    name = self.variable(&name, frame, env).unwrap_or_default();
                }
                let value = self.variable(&name, frame, env);
                let Some((operation, word)) = operation else { return Ok(value) };
                self.operate(&name, value, *operation, *colon, word, frame, env)?
            }
        })
    }

    /// The value of a variable or special parameter, if it is set.
    pub(super) fn variable(&self, name: &str, frame: &Frame, env: &Env) -> Option<String> {
        if name.contains(UNKNOWN) {
            // `${!name}` with a name that is known in part: no variable of that form, no value.
            let pattern = name.replace(UNKNOWN, "*");
            let any = self.start.env_from || env.variables.keys().any(|key| script::matches(&pattern, key));
            return any.then(|| UNKNOWN.to_string());
        }
        if let Ok(number) = name.parse::<usize>() {
            return match number.checked_sub(1) {
                None => Some(frame.name.clone()),
                Some(at) => frame.args.get(at).cloned(),
            };
        }
        match name {
            "#" => Some(frame.args.len().to_string()),
            "?" | "$" | "!" | "-" | "RANDOM" | "HOSTNAME" | "PPID" => Some(UNKNOWN.to_string()),
            "UID" | "EUID" => Some(self.user.uid.to_string()),
            "BASH_SOURCE" => Some(frame.script.clone()),
            "PWD" => Some(env.directory.clone()),
            "HOME" if !env.variables.contains_key("HOME") => Some(UNKNOWN.to_string()),
            _ => match env.variables.get(name) {
                None if self.start.env_from => Some(UNKNOWN.to_string()),
                value => value.cloned(),
            },
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn operate(
        &mut self,
        name: &str,
        value: Option<String>,
        operation: Operation,
        colon: bool,
        word: &Word,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Option<String>> {
        let is_set = value.as_ref().is_some_and(|value| !(colon && value.is_empty()));
        // It may be empty, or it may not.
        let unsure =
            colon && value.as_deref().is_some_and(|value| value.chars().all(|c| c == UNKNOWN) && !value.is_empty());
        Ok(match operation {
            Operation::Default | Operation::Assign if is_set => value,
            Operation::Default => Some(self.expand_one(word, frame, env)?),
            Operation::Assign => {
                let new = self.expand_one(word, frame, env)?;
                env.variables.insert(name.to_owned(), new.clone());
                Some(new)
            }
            Operation::Alternative if unsure => Some(UNKNOWN.to_string()),
            Operation::Alternative if is_set => Some(self.expand_one(word, frame, env)?),
            Operation::Alternative => None,
            Operation::Required => value,
            Operation::Prefix { longest } | Operation::Suffix { longest } => {
                let Some(value) = value else { return Ok(None) };
                let pattern = self.expand_pattern(word, frame, env)?;
                let front = matches!(operation, Operation::Prefix { .. });
                // Each place to cut is tried, and each try looks through all of it.
                let cost = value.len().saturating_mul(value.len()).saturating_mul(pattern.len());
                self.fuel = self.fuel.saturating_sub(u32::try_from(cost >> 12).unwrap_or(u32::MAX));
                if self.fuel == 0 {
                    return Ok(Some(UNKNOWN.to_string()));
                }
                Some(trim(&value, &pattern, front, longest))
            }
        })
    }

    /// What `$( … )` prints, as far as it is known.
    fn output(&mut self, list: &List, frame: &mut Frame, env: &mut Env) -> Result<String> {
        if let [item] = &list[..]
            && let Kind::Simple { words, .. } = &item.command.kind
        {
            let fields = self.expand(words, frame, env)?;
            if let Some(text) = self.printed(&fields, env)? {
                return Ok(text);
            }
        }
        // What it executes counts, whatever it prints. It takes more of the stack than other commands do.
        let line = list.first().map_or(0, |item| item.command.line);
        let mut env = env.clone();
        self.nesting += 2;
        let followed = self.apart(line, frame, |follower, frame| follower.list(list, frame, &mut env));
        self.nesting -= 2;
        followed?;
        Ok(UNKNOWN.to_string())
    }

    /// What a program prints whose output is known without running it.
    pub(super) fn printed(&mut self, fields: &[String], env: &Env) -> Result<Option<String>> {
        let Some((name, args)) = fields.split_first() else { return Ok(None) };
        let last = args.last().map_or("", String::as_str);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let text = match (name.as_str(), &args[..]) {
            ("id", ["-u" | "-ru" | "-ur"]) => self.user.uid.to_string(),
            ("id", ["-g"]) => self.user.gid.to_string(),
            ("id", ["-un" | "-nu"]) | ("whoami", []) => self.user.name.clone().unwrap_or_else(|| UNKNOWN.to_string()),
            ("echo", ["-n" | "-e", rest @ ..]) | ("echo", rest) => rest.join(" "),
            ("printf", ["%s" | "%s\\n", text]) => (*text).to_owned(),
            ("printf", [text]) if !text.contains(['%', '\\']) => (*text).to_owned(),
            ("pwd", []) => env.directory.clone(),
            ("basename", [_]) => base(last.trim_end_matches('/')).to_owned(),
            ("dirname", [_]) => match last.trim_end_matches('/').rsplit_once('/') {
                Some(("", _)) => "/".to_owned(),
                Some((directory, _)) => directory.to_owned(),
                None => ".".to_owned(),
            },
            ("command", ["-v", program]) | ("which", [program]) if !program.contains(UNKNOWN) => {
                let search = env.variables.get("PATH").cloned().unwrap_or_default();
                self.image.files.program(program, &search, &env.directory)?.map_or_else(String::new, |(path, _)| path)
            }
            ("readlink", ["-f" | "-e", _]) | ("realpath", [_]) if !last.contains(UNKNOWN) => {
                let path = if last.starts_with('/') { last.to_owned() } else { format!("{}/{last}", env.directory) };
                let real = self.image.files.real(&path)?;
                real.map_or_else(|| UNKNOWN.to_string(), |real| crate::archive::path::show(&real))
            }
            _ => return Ok(None),
        };
        Ok(Some(text))
    }
}

fn is_quoted(part: &Part) -> bool {
    match part {
        Part::Text { quoted, .. }
        | Part::Variable { quoted, .. }
        | Part::Arguments { quoted, .. }
        | Part::Output { quoted, .. } => *quoted,
        // The name of a pipe, or a number: one field.
        Part::Unknown => true,
    }
}

/// `value` without what `pattern` matches at its front or end.
fn trim(value: &str, pattern: &str, front: bool, longest: bool) -> String {
    if value.contains(UNKNOWN) || pattern.contains(UNKNOWN) || value.len() > 4096 {
        return UNKNOWN.to_string();
    }
    let mut cuts: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
    // From the shortest match to the longest.
    if !front {
        cuts.reverse();
    }
    if longest {
        cuts.reverse();
    }
    for at in cuts {
        let (start, end) = value.split_at(at);
        if script::matches(pattern, if front { start } else { end }) {
            return if front { end.to_owned() } else { start.to_owned() };
        }
    }
    value.to_owned()
}
