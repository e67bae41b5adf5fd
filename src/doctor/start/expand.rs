//! What words become: parameters, commands whose output is known, fields.

use super::listing;
use super::script::{self, Kind, List, Operation, Part, Word, literal};
use super::shell::Frame;
use super::{Env, Follower, UNKNOWN, base};
use crate::error::Result;

/// Bytes that one word, and all words of a command, may grow to.
const MAX_WORD: usize = 128 << 10;

/// A field, and itself as a pattern for names of files.
#[derive(Default)]
struct Field {
    text: String,
    pattern: String,
}

impl Field {
    fn push(&mut self, text: &str, quoted: bool) {
        self.text.push_str(text);
        match quoted {
            true => escape(text, &mut self.pattern),
            false => self.pattern.push_str(text),
        }
    }
}

/// Adds what stands for `text` in a pattern.
fn escape(text: &str, pattern: &mut String) {
    text.chars().for_each(|c| {
        pattern.extend("*?[]\\".contains(c).then_some('\\'));
        pattern.push(c);
    });
}

impl Follower<'_, '_> {
    /// The fields of a command, with the names of files in place of patterns for them if `globs`.
    pub(super) fn expand(
        &mut self,
        words: &[Word],
        globs: bool,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Vec<String>> {
        let mut fields = Vec::new();
        let mut size = 0;
        for word in words {
            let mut own = Vec::new();
            self.fields(word, frame, env, &mut own)?;
            for field in own {
                self.files(field, globs, frame, env, &mut fields)?;
            }
            size += fields.last().map_or(0, String::len);
            if size > MAX_WORD {
                fields.truncate(1);
                fields.push(UNKNOWN.to_string());
                return Ok(fields);
            }
        }
        Ok(fields)
    }

    /// The names of files that a field stands for, or itself.
    fn files(&mut self, field: Field, globs: bool, frame: &Frame, env: &Env, fields: &mut Vec<String>) -> Result<()> {
        if !listing::globs(&field.pattern) {
            fields.push(field.text);
            return Ok(());
        }
        let known = match globs && !field.text.contains(UNKNOWN) {
            true => self.glob(&field.pattern, env)?,
            false => None,
        };
        match known {
            None => fields.push(field.text.replace(['*', '?', '['], "\0")),
            Some(paths) if paths.is_empty() && !frame.nullglob => fields.push(field.text),
            Some(paths) => fields.extend(paths),
        }
        Ok(())
    }

    fn fields(&mut self, word: &Word, frame: &mut Frame, env: &mut Env, fields: &mut Vec<Field>) -> Result<()> {
        // `"$@"` without arguments is no field, not an empty one.
        if let [Part::Text { text, .. }, part] = &word[..]
            && text.is_empty()
            && self.elements(part, frame, env).is_some_and(|elements| elements.is_empty())
        {
            return Ok(());
        }
        // `current` is there as soon as something is, even an empty quoted text.
        let mut current: Option<Field> = None;
        for part in word {
            if let Some(elements) = self.elements(part, frame, env) {
                let mut elements = elements.into_iter();
                if let Some(first) = elements.next() {
                    current.get_or_insert_default().push(&first, true);
                }
                for element in elements {
                    fields.extend(current.take());
                    current.get_or_insert_default().push(&element, true);
                }
                continue;
            }
            let (text, splits) = match part {
                Part::Text { text, .. } => (Some(text.clone()), false),
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
                current.get_or_insert_default().push(&text, quoted);
                continue;
            }
            let mut pieces = text.split([' ', '\t', '\n']);
            if let Some(first) = pieces.next().filter(|first| !first.is_empty()) {
                current.get_or_insert_default().push(first, false);
            }
            for piece in pieces {
                fields.extend(current.take());
                if !piece.is_empty() {
                    current.get_or_insert_default().push(piece, false);
                }
            }
        }
        fields.extend(current);
        Ok(())
    }

    /// What is a field each: `"$@"`, `"${name[@]}"`, and parts of them.
    fn elements(&self, part: &Part, frame: &Frame, env: &Env) -> Option<Vec<String>> {
        match part {
            Part::Arguments { quoted: true, joined: false } => Some(frame.args.clone()),
            Part::Elements { name, from, quoted: true, joined: false } => {
                Some(self.array(name, frame, env).into_iter().skip(*from).collect())
            }
            _ => None,
        }
    }

    /// The elements of an array; without a name, the arguments. Other variables are arrays of one element.
    fn array(&self, name: &str, frame: &Frame, env: &Env) -> Vec<String> {
        match env.arrays.get(name) {
            _ if name.is_empty() => frame.args.clone(),
            Some(elements) => elements.clone(),
            None => self.variable(name, frame, env).into_iter().collect(),
        }
    }

    /// `NAME=(…)`
    pub(super) fn set_array(&mut self, name: &str, elements: &[Word], frame: &mut Frame, env: &mut Env) -> Result<()> {
        let elements = self.expand(elements, true, frame, env)?;
        env.variables.remove(name);
        // `[key]=value` is another kind of array.
        match elements.iter().any(|element| element.starts_with('[') && element.contains("]=")) {
            true => drop(env.variables.insert(name.to_owned(), UNKNOWN.to_string())),
            false => drop(env.arrays.insert(name.to_owned(), elements)),
        }
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
                true => escape(&value, &mut out),
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
            Part::Unknown | Part::Array(_) | Part::Pipe(_) => Some(UNKNOWN.to_string()),
            Part::Elements { name, from, .. } => {
                Some(self.array(name, frame, env).into_iter().skip(*from).collect::<Vec<_>>().join(" "))
            }
            Part::Element { name, at, .. } => self.array(name, frame, env).into_iter().nth(*at),
            Part::Length { name, elements: true } => Some(self.array(name, frame, env).len().to_string()),
            Part::Length { name, elements: false } => {
                let value = self.variable(name, frame, env).unwrap_or_default();
                Some(if value.contains(UNKNOWN) { UNKNOWN.to_string() } else { value.chars().count().to_string() })
            }
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
            _ => match env.variables.get(name).or_else(|| env.arrays.get(name)?.first()) {
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
        if let [item] = &list[..] {
            if let Some(lines) = self.lines(listing::of_pipeline(&item.command), frame, env)? {
                return Ok(lines.join("\n"));
            }
            if let Kind::Simple { words, .. } = &item.command.kind {
                let fields = self.expand(words, !listing::ignores_files(words), frame, env)?;
                if let Some(text) = self.printed(&fields, env)? {
                    return Ok(text);
                }
            }
        }
        if let Some(directory) = self.cd_and_pwd(list, frame, env)? {
            return Ok(directory);
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

    /// `cd DIRECTORY && pwd`, with which scripts find out where they are.
    fn cd_and_pwd(&mut self, list: &List, frame: &mut Frame, env: &Env) -> Result<Option<String>> {
        let [cd, pwd] = &list[..] else { return Ok(None) };
        let (Kind::Simple { words: cd, .. }, Kind::Simple { words: pwd, .. }) = (&cd.command.kind, &pwd.command.kind)
        else {
            return Ok(None);
        };
        let name = |words: &[Word]| words.first().and_then(literal);
        if (name(cd).as_deref(), name(pwd).as_deref()) != (Some("cd"), Some("pwd")) {
            return Ok(None);
        }
        let mut env = env.clone();
        let fields = self.expand(cd, false, frame, &mut env)?;
        let Some(to) = fields.last().filter(|to| fields.len() > 1 && !to.contains(UNKNOWN)) else { return Ok(None) };
        let to = if to.starts_with('/') { to.clone() } else { format!("{}/{to}", env.directory) };
        Ok(self.image.files.real(&to)?.map(|real| crate::archive::path::show(&real)))
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
        Part::Elements { quoted, .. } | Part::Element { quoted, .. } => *quoted,
        // The name of a pipe, or a number: one field.
        Part::Unknown | Part::Array(_) | Part::Length { .. } | Part::Pipe(_) => true,
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
