//! `[`, `[[` and pipes into `grep`: what holds, what does not, and what is known only when it runs.

use std::num::ParseIntError;

use regex::RegexBuilder;

use super::script::{self, Command, Kind, Part, Word, literal};
use super::shell::{Flow, Frame, Status};
use super::{Env, Follower, UNKNOWN, is_at_or_below};
use crate::archive::entry::Kind as EntryKind;
use crate::error::Result;

/// Whether `text` matches the pattern of a shell, if that can be known.
pub(super) fn matches(pattern: &str, text: &str) -> Option<bool> {
    if pattern.contains(UNKNOWN) {
        return None;
    }
    if !text.contains(UNKNOWN) {
        return Some(script::matches(pattern, text));
    }
    match pattern.contains(['*', '?', '[']) {
        true if pattern.chars().all(|c| c == '*') => Some(true),
        true => None,
        false => equal(&pattern.replace('\\', ""), text),
    }
}

/// Whether two texts are equal, if that can be known.
fn equal(a: &str, b: &str) -> Option<bool> {
    match (a.contains(UNKNOWN), b.contains(UNKNOWN)) {
        (false, false) => Some(a == b),
        (true, true) => None,
        (true, false) => equal(b, a),
        (false, true) => {
            let (front, back) = (b.split(UNKNOWN).next()?, b.rsplit(UNKNOWN).next()?);
            let fits = a.len() >= front.len() + back.len() && a.starts_with(front) && a.ends_with(back);
            if fits { None } else { Some(false) }
        }
    }
}

/// Whether a text is empty, if that can be known.
fn empty(text: &str) -> Option<bool> {
    if text.is_empty() {
        Some(true)
    } else if text.chars().all(|c| c == UNKNOWN) {
        None
    } else {
        Some(false)
    }
}

/// The number in a text beside `operand`, if it is known; an error if `[` takes it for none. `[[` takes nothing for 0, and a
/// name for its variable.
fn number(text: &str, operand: &Operand) -> std::result::Result<Option<i64>, ParseIntError> {
    match text.trim() {
        text if text.contains(UNKNOWN) => Ok(None),
        "" if operand.pattern.is_some() => Ok(Some(0)),
        text if operand.pattern.is_some() => Ok(text.parse().ok()),
        text => text.parse().map(Some),
    }
}

/// A word of a condition; the right side of `=` in `[[` is a pattern.
struct Operand {
    text: String,
    pattern: Option<String>,
}

struct Reader<'a> {
    operands: &'a [Operand],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<&str> {
        self.operands.get(self.at + ahead).map(|operand| operand.text.as_str())
    }

    fn eat(&mut self, texts: &[&str]) -> bool {
        let found = self.peek(0).is_some_and(|text| texts.contains(&text));
        self.at += usize::from(found);
        found
    }
}

fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    or(a.map(|a| !a), b.map(|b| !b)).map(|c| !c)
}

const BINARY: [&str; 16] =
    ["=", "==", "!=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "=~", "<", ">", "-nt", "-ot", "-ef", "-regex"];

impl Follower<'_, '_> {
    /// `[ … ]` with its words expanded.
    pub(super) fn test(&mut self, words: &[String], env: &Env) -> Result<Option<bool>> {
        let operands: Vec<Operand> = words.iter().map(|text| Operand { text: text.clone(), pattern: None }).collect();
        self.whole(&operands, env)
    }

    /// `[[ … ]]`
    pub(super) fn double_brackets(&mut self, words: &[Word], frame: &mut Frame, env: &mut Env) -> Result<Option<bool>> {
        let mut operands = Vec::new();
        for word in words {
            let text = self.expand_one(word, frame, env)?;
            let pattern = self.expand_pattern(word, frame, env)?;
            operands.push(Operand { text, pattern: Some(pattern) });
        }
        self.whole(&operands, env)
    }

    fn whole(&mut self, operands: &[Operand], env: &Env) -> Result<Option<bool>> {
        let mut reader = Reader { operands, at: 0, depth: 0 };
        if operands.is_empty() {
            return Ok(Some(false));
        }
        let result = self.either(&mut reader, env)?;
        Ok(if reader.at == operands.len() { result } else { None })
    }

    fn either(&mut self, reader: &mut Reader<'_>, env: &Env) -> Result<Option<bool>> {
        let mut result = self.both(reader, env)?;
        while reader.eat(&["||", "-o"]) {
            let next = self.both(reader, env)?;
            result = or(result, next);
        }
        Ok(result)
    }

    fn both(&mut self, reader: &mut Reader<'_>, env: &Env) -> Result<Option<bool>> {
        let mut result = self.negation(reader, env)?;
        while reader.eat(&["&&", "-a"]) {
            let next = self.negation(reader, env)?;
            result = and(result, next);
        }
        Ok(result)
    }

    fn negation(&mut self, reader: &mut Reader<'_>, env: &Env) -> Result<Option<bool>> {
        let mut negated = false;
        while reader.peek(0) == Some("!")
            && reader.peek(1).is_some()
            && !reader.peek(1).is_some_and(|t| BINARY.contains(&t))
        {
            reader.at += 1;
            negated = !negated;
        }
        let result = if reader.peek(0) == Some("(") && reader.peek(1).is_some() {
            reader.at += 1;
            reader.depth += 1;
            let result = if reader.depth > 50 { None } else { self.either(reader, env)? };
            reader.eat(&[")"]);
            result
        } else {
            self.primary(reader, env)?
        };
        Ok(result.map(|result| result != negated))
    }

    fn primary(&mut self, reader: &mut Reader<'_>, env: &Env) -> Result<Option<bool>> {
        if let (Some(left), Some(operator), Some(right)) =
            (reader.peek(0), reader.peek(1), reader.operands.get(reader.at + 2))
            && BINARY.contains(&operator)
        {
            let compare = |holds: fn(i64, i64) -> bool| match (number(left, right), number(&right.text, right)) {
                (Ok(left), Ok(right)) => left.zip(right).map(|(a, b)| holds(a, b)),
                // `[: integer expression expected`
                _ => Some(false),
            };
            let same = match &right.pattern {
                Some(pattern) => matches(pattern, left),
                None => equal(left, &right.text),
            };
            let result = match operator {
                "=" | "==" => same,
                "!=" => same.map(|same| !same),
                "-eq" => compare(|a, b| a == b),
                "-ne" => compare(|a, b| a != b),
                "-lt" => compare(|a, b| a < b),
                "-le" => compare(|a, b| a <= b),
                "-gt" => compare(|a, b| a > b),
                "-ge" => compare(|a, b| a >= b),
                _ => None,
            };
            reader.at += 3;
            return Ok(result);
        }
        if let (Some(operator), Some(operand)) = (reader.peek(0), reader.peek(1))
            && operator.len() == 2
            && operator.starts_with('-')
        {
            let (operator, operand) = (operator.to_owned(), operand.to_owned());
            reader.at += 2;
            return match operator.as_str() {
                "-z" => Ok(empty(&operand)),
                "-n" => Ok(empty(&operand).map(|empty| !empty)),
                "-v" if !self.start.env_from => Ok(Some(env.variables.contains_key(&operand))),
                "-e" | "-f" | "-d" | "-r" | "-x" | "-s" | "-S" | "-p" | "-b" | "-c" => {
                    self.on_file(&operator, &operand, env)
                }
                _ => Ok(None),
            };
        }
        let Some(text) = reader.peek(0) else { return Ok(None) };
        let result = empty(text).map(|empty| !empty);
        reader.at += 1;
        Ok(result)
    }

    /// What is in the image is there; what is not may have been made or mounted.
    pub(super) fn on_file(&mut self, operator: &str, path: &str, env: &Env) -> Result<Option<bool>> {
        if path.contains(UNKNOWN)
            || path.is_empty()
            || self.start.mounts.iter().any(|mount| is_at_or_below(path, mount))
        {
            return Ok(None);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", env.directory) };
        let kind = self.image.files.kind(&path)?;
        let changed = self.changed.iter().any(|changed| is_at_or_below(&path, changed));
        Ok(match (kind, operator) {
            // A pattern that matched nothing.
            (None, _) if path.contains('*') => Some(false),
            (None, _) => None,
            (Some(kind), "-f") => Some(kind == EntryKind::File || kind == EntryKind::HardLink),
            (Some(kind), "-d") => Some(kind == EntryKind::Directory),
            (Some(EntryKind::File | EntryKind::HardLink | EntryKind::Directory), "-S" | "-p" | "-b" | "-c") => {
                Some(false)
            }
            (Some(_), "-x") if !changed => self.image.files.file(&path)?.map(|file| self.may_execute(&file, false)),
            (Some(_), "-r") if !changed => self.image.files.file(&path)?.map(|file| self.may_read(&path, &file)),
            (Some(_), "-e") => Some(true),
            (Some(_), _) => None,
        })
    }

    pub(super) fn pipeline(&mut self, commands: &[Command], frame: &mut Frame, env: &mut Env) -> Result<Flow> {
        if let [only] = commands {
            return self.one_of_pipeline(only, frame, env);
        }
        if let Some(flow) = self.pipe_into_read(commands, frame, env)? {
            return Ok(flow);
        }
        if let Some(known) = self.echo_into_grep(commands, frame, env)? {
            return Ok(Flow::Next(Status::of(Some(known))));
        }
        let mut last = Status::True;
        for command in commands {
            // Each is a process of its own.
            let mut env = env.clone();
            last =
                self.apart(command.line, frame, |follower, frame| follower.one_of_pipeline(command, frame, &mut env))?;
        }
        Ok(Flow::Next(last))
    }

    fn one_of_pipeline(&mut self, command: &Command, frame: &mut Frame, env: &mut Env) -> Result<Flow> {
        frame.checked += 1;
        let flow = self.command(command, frame, env);
        frame.checked -= 1;
        flow
    }

    /// `echo TEXT | grep PATTERN`, which needs nobody to run it.
    fn echo_into_grep(&mut self, commands: &[Command], frame: &mut Frame, env: &mut Env) -> Result<Option<bool>> {
        let [first, second] = commands else { return Ok(None) };
        let (Kind::Simple { words: echo, .. }, Kind::Simple { words: grep, .. }) = (&first.kind, &second.kind) else {
            return Ok(None);
        };
        let name = |words: &[Word]| words.first().and_then(literal);
        if !matches!(name(echo).as_deref(), Some("echo" | "printf"))
            || !matches!(name(grep).as_deref(), Some("grep" | "egrep" | "fgrep"))
            || echo.iter().chain(grep).flatten().any(|part| matches!(part, Part::Output { .. }))
        {
            return Ok(None);
        }
        let fields = self.expand(echo, false, frame, env)?;
        let Some(text) = self.printed(&fields, env)?.filter(|text| !text.contains(UNKNOWN)) else { return Ok(None) };
        // A pattern is not the name of files, even without quotes.
        let mut args = Vec::new();
        for word in grep {
            args.push(self.expand_one(word, frame, env)?);
        }
        Ok(grep_matches(&args, &text))
    }
}

/// Whether `grep` with these arguments finds something in `text`; nothing if its pattern is none that is read here.
fn grep_matches(args: &[String], text: &str) -> Option<bool> {
    let name = args.first()?;
    let (mut extended, mut fixed) = (name == "egrep", name == "fgrep");
    let (mut negated, mut any_case) = (false, false);
    let mut pattern = None;
    for arg in args.get(1..)? {
        match arg.strip_prefix('-') {
            Some(options) if pattern.is_none() && !options.is_empty() => {
                for option in options.chars() {
                    match option {
                        'E' => extended = true,
                        'F' => fixed = true,
                        'i' => any_case = true,
                        'v' => negated = true,
                        'q' | 's' | 'e' => {}
                        _ => return None,
                    }
                }
            }
            _ if pattern.is_none() => pattern = Some(arg),
            // A file.
            _ => return None,
        }
    }
    let pattern = pattern.filter(|pattern| !pattern.contains(UNKNOWN) && pattern.len() < 1000)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || " _-/:=,^$.".contains(c);
    let pattern = match (fixed, extended) {
        (true, _) => regex::escape(pattern),
        (false, true) => bracket_backslashes(pattern),
        (false, false) if pattern.chars().all(plain) => pattern.clone(),
        _ => return None,
    };
    let regex = RegexBuilder::new(&pattern).case_insensitive(any_case).size_limit(1 << 20).build().ok()?;
    Some(text.lines().any(|line| regex.is_match(line) != negated))
}

/// In a bracket expression of POSIX a backslash is a character like others (XBD 9.3.5).
fn bracket_backslashes(pattern: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    let mut escaped = false;
    for c in pattern.chars() {
        match c {
            '[' if !inside && !escaped => inside = true,
            ']' if inside && !out.ends_with('[') && !out.ends_with("[^") => inside = false,
            '\\' if inside => out.push('\\'),
            _ => {}
        }
        escaped = c == '\\' && !escaped && !inside;
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_as_far_as_they_are_known() {
        for (a, b, expected) in [
            ("a", "a", Some(true)),
            ("a", "b", Some(false)),
            ("kong", "k\0g", None),
            ("kong", "x\0", Some(false)),
            ("kong", "\0x", Some(false)),
            ("\0", "\0", None),
        ] {
            assert_eq!(equal(a, b), expected, "{a:?} {b:?}");
        }
        assert_eq!(matches("*", "\0"), Some(true));
        assert_eq!(matches("-*", "\0"), None);
        assert_eq!((empty(""), empty("\0"), empty("a\0")), (Some(true), None, Some(false)));
    }

    #[test]
    fn grep_finds_what_grep_would_find() {
        let has = |args: &[&str], text: &str| {
            grep_matches(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>(), text)
        };
        let transparent = ["grep", "-E", "[^\\s,]+\\s+transparent\\b"];
        for (text, expected) in [
            ("0.0.0.0:80 transparent", true),
            ("0.0.0.0:80 ssl transparent", true),
            ("0.0.0.0:80,transparent", false),
            ("0.0.0.0:80 transparentx", false),
            ("", false),
        ] {
            assert_eq!(has(&transparent, text), Some(expected), "{text}");
        }
        assert_eq!(has(&["grep", "-q", "ssl"], "443 ssl"), Some(true));
        assert_eq!(has(&["grep", "-vq", "ssl"], "443 ssl"), Some(false));
        assert_eq!(has(&["grep", "-qF", "a.b"], "axb"), Some(false));
        assert_eq!(has(&["grep", "-qi", "SSL"], "443 ssl"), Some(true));
        for args in [&["grep", "a\\|b"][..], &["grep", "-c", "a"], &["grep", "a", "file"], &["grep"], &["egrep", "("]] {
            assert_eq!(has(args, "a"), None, "{args:?}");
        }
    }
}
