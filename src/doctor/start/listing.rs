//! What is in the directories of the image: patterns for file names, `find`, `ls`, and loops over what they print.

use super::effect::is_harmless;
use super::script::{self, Command, Input, Kind, List, Part, Word, literal};
use super::shell::{Flow, Frame, MAX_ROUNDS, Status};
use super::{Env, Follower, UNKNOWN, base, is_at_or_below};
use crate::archive::entry::Kind as EntryKind;
use crate::error::Result;

/// Paths that one pattern or `find` gives.
const MAX_PATHS: usize = 1000;

/// Directories inside each other that `find` goes into.
const MAX_LEVELS: usize = 16;

/// What `find` is asked for, as far as that is known here.
struct Search {
    least: usize,
    most: usize,
    kind: Option<EntryKind>,
    /// Patterns for the name, and whether it must match.
    names: Vec<(String, bool)>,
    executable: bool,
    first_only: bool,
}

impl Search {
    /// The starting points, and what is asked for; nothing if there is an option whose effect is not known here.
    fn parse(args: &[String]) -> Option<(Vec<&str>, Search)> {
        let is_start = |arg: &&String| !arg.starts_with(['-', '!', '(']);
        let args: Vec<&String> = args.iter().skip_while(|arg| matches!(arg.as_str(), "-L" | "-H" | "-P")).collect();
        let starts: Vec<&str> = args.iter().copied().take_while(is_start).map(String::as_str).collect();
        let mut search =
            Search { least: 0, most: MAX_LEVELS, kind: None, names: Vec::new(), executable: false, first_only: false };
        let mut rest = args.into_iter().skip(starts.len());
        let mut wanted = true;
        while let Some(arg) = rest.next() {
            match arg.as_str() {
                "!" | "-not" => {
                    wanted = false;
                    continue;
                }
                "-name" => search.names.push((rest.next()?.clone(), wanted)),
                _ if !wanted => return None,
                "-follow" | "-print" | "-a" | "-and" | "-xdev" | "-depth" => {}
                "-quit" => search.first_only = true,
                "-executable" => search.executable = true,
                "-mindepth" => search.least = rest.next()?.parse().ok()?,
                "-maxdepth" => search.most = rest.next()?.parse::<usize>().ok()?.min(MAX_LEVELS),
                "-type" => {
                    search.kind = Some(match rest.next()?.as_str() {
                        "f" => EntryKind::File,
                        "d" => EntryKind::Directory,
                        _ => return None,
                    });
                }
                _ => return None,
            }
            wanted = true;
        }
        let starts = if starts.is_empty() { vec!["."] } else { starts };
        Some((starts, search))
    }
}

impl Follower<'_, '_> {
    /// The names in a directory of the image, if nothing else can be there: no mount, and nothing that scripts made.
    fn names(&mut self, directory: &str, env: &Env) -> Result<Option<Vec<String>>> {
        let directory = absolute(directory, env);
        let mounted = |mount: &String| is_at_or_below(&directory, mount) || is_at_or_below(mount, &directory);
        let made = |file: &String| file.as_str() != directory && is_at_or_below(&absolute(file, env), &directory);
        if directory.contains(UNKNOWN)
            || self.start.mounts.iter().any(mounted)
            || self.made.iter().any(made)
            || !self.burn()
        {
            return Ok(None);
        }
        self.image.files.list(&directory).map(Some)
    }

    /// The paths that a pattern matches (XCU 2.14.3), in their order; nothing if that is known only when it runs.
    pub(super) fn glob(&mut self, pattern: &str, env: &Env) -> Result<Option<Vec<String>>> {
        let mut found = vec![if pattern.starts_with('/') { "/".to_owned() } else { String::new() }];
        let mut globbed = false;
        for component in pattern.split('/').filter(|component| !component.is_empty()) {
            let mut next = Vec::new();
            for before in found {
                if !globs(component) {
                    let path = format!("{before}{}", component.replace('\\', ""));
                    if !globbed || self.image.files.kind(&absolute(&path, env))?.is_some() {
                        next.push(path);
                    }
                    continue;
                }
                let Some(names) = self.names(if before.is_empty() { "." } else { &before }, env)? else {
                    return Ok(None);
                };
                let is_shown = |name: &&String| component.starts_with('.') || !name.starts_with('.');
                let names = names.iter().filter(is_shown).filter(|name| script::matches(component, name));
                next.extend(names.map(|name| format!("{before}{name}")));
            }
            globbed |= globs(component);
            if next.len() > MAX_PATHS {
                return Ok(None);
            }
            found = next.into_iter().map(|path| path + "/").collect();
        }
        Ok(Some(found.into_iter().map(|path| path.trim_end_matches('/').to_owned()).collect()))
    }

    /// What `find` prints, by name.
    fn find(&mut self, args: &[String], env: &Env) -> Result<Option<Vec<String>>> {
        let Some((starts, search)) = Search::parse(args) else { return Ok(None) };
        let mut found = Vec::new();
        for start in starts {
            if !self.find_below(start, 0, &search, env, &mut found)? {
                return Ok(None);
            }
        }
        found.truncate(if search.first_only { 1 } else { MAX_PATHS });
        Ok(Some(found))
    }

    /// Whether all is known of what is at `path` and below it.
    fn find_below(
        &mut self,
        path: &str,
        level: usize,
        search: &Search,
        env: &Env,
        found: &mut Vec<String>,
    ) -> Result<bool> {
        let at = absolute(path, env);
        let mounted = self.start.mounts.iter().any(|mount| is_at_or_below(&at, mount));
        if path.contains(UNKNOWN) || mounted || found.len() > MAX_PATHS {
            return Ok(false);
        }
        let kind = match self.image.files.kind(&at)? {
            Some(EntryKind::HardLink) => EntryKind::File,
            Some(kind) => kind,
            None => return Ok(true),
        };
        let name = base(path.trim_end_matches('/'));
        if level >= search.least
            && search.kind.as_ref().is_none_or(|wanted| *wanted == kind)
            && search.names.iter().all(|(pattern, wanted)| script::matches(pattern, name) == *wanted)
            && (!search.executable || self.on_file("-x", path, env)? == Some(true))
        {
            found.push(path.to_owned());
        }
        if kind != EntryKind::Directory || level == search.most {
            return Ok(true);
        }
        let Some(names) = self.names(path, env)? else { return Ok(false) };
        for name in names {
            let path = format!("{path}{}{name}", if path.ends_with('/') { "" } else { "/" });
            if !self.find_below(&path, level + 1, search, env, found)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The lines that a pipeline of programs prints which are known here: `find … | sort -V`.
    pub(super) fn lines(
        &mut self,
        commands: &[Command],
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Option<Vec<String>>> {
        let Some((first, filters)) = commands.split_first() else { return Ok(None) };
        let Kind::Simple { words, .. } = &first.kind else { return Ok(None) };
        let name = words.first().and_then(literal);
        let name = name.as_deref().map(base);
        let runs_others = words.iter().flatten().any(|part| matches!(part, Part::Output { .. } | Part::Pipe(_)));
        if !matches!(name, Some("find" | "ls" | "echo" | "printf")) || runs_others {
            return Ok(None);
        }
        let fields = self.expand(words, true, frame, env)?;
        let args = fields.get(1..).unwrap_or_default();
        let printed = match name {
            Some("find") => self.find(args, env)?,
            Some("ls") => self.ls(args, env)?,
            _ => self.printed(&fields, env)?.map(|text| text.lines().map(str::to_owned).collect()),
        };
        let Some(mut lines) = printed.filter(|lines| !lines.iter().any(|line| line.contains(UNKNOWN))) else {
            return Ok(None);
        };
        for filter in filters {
            let Kind::Simple { words, .. } = &filter.kind else { return Ok(None) };
            let words: Vec<Option<String>> = words.iter().map(literal).collect();
            match words.iter().map(Option::as_deref).collect::<Vec<_>>()[..] {
                [Some("sort")] => lines.sort(),
                [Some("sort"), Some("-V" | "-n" | "--version-sort")] => lines.sort_by_key(|line| natural(line)),
                [Some("sort"), Some("-u")] => {
                    lines.sort();
                    lines.dedup();
                }
                [Some("sort"), Some("-r")] => lines.sort_by(|a, b| b.cmp(a)),
                [Some("head"), Some("-1")] | [Some("head"), Some("-n"), Some("1")] => lines.truncate(1),
                [Some("cat")] => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(lines))
    }

    fn ls(&mut self, args: &[String], env: &Env) -> Result<Option<Vec<String>>> {
        let (options, paths): (Vec<&String>, Vec<&String>) = args.iter().partition(|arg| arg.starts_with('-'));
        if options.iter().any(|option| option.as_str() != "-1") {
            return Ok(None);
        }
        match paths[..] {
            [] => self.names(".", env),
            [path] if self.image.files.kind(&absolute(path, env))? == Some(EntryKind::Directory) => {
                let names = self.names(path, env)?;
                Ok(names.map(|names| names.into_iter().filter(|name| !name.starts_with('.')).collect()))
            }
            _ => Ok(None),
        }
    }

    /// What a command reads whose input is known: `done < <(find …)`, `read x <<< …`.
    pub(super) fn input(
        &mut self,
        input: Option<&Input>,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Option<Vec<String>>> {
        match input {
            Some(Input::File(word)) => match &word[..] {
                [Part::Pipe(list)] => match &list[..] {
                    [item] => self.lines(of_pipeline(&item.command), frame, env),
                    _ => Ok(None),
                },
                _ => Ok(None),
            },
            Some(Input::Text(word)) => {
                let text = self.expand_one(word, frame, env)?;
                Ok((!text.contains(UNKNOWN)).then(|| text.lines().map(str::to_owned).collect()))
            }
            _ => Ok(None),
        }
    }

    /// `while read …` over lines that are known.
    pub(super) fn read_loop(
        &mut self,
        names: &[String],
        lines: Vec<String>,
        body: &List,
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Flow> {
        for line in lines.into_iter().take(MAX_ROUNDS) {
            set(names, &line, env);
            if let Some(flow) = self.round(body, frame, env)? {
                return Ok(flow);
            }
        }
        Ok(Flow::Next(Status::Usually))
    }

    /// One round of a loop: how it goes on behind the loop if this was the last.
    pub(super) fn round(&mut self, body: &List, frame: &mut Frame, env: &mut Env) -> Result<Option<Flow>> {
        Ok(match self.list(body, frame, env)? {
            Flow::Next(_) | Flow::Leave { levels: 1, again: true } => None,
            Flow::Leave { levels: 0 | 1, .. } => Some(Flow::Next(Status::Usually)),
            Flow::Leave { levels, again } => Some(Flow::Leave { levels: levels - 1, again }),
            other => Some(other),
        })
    }

    /// What a pipe into `read`, or into a loop around it, comes to, if what it reads is known.
    pub(super) fn pipe_into_read(
        &mut self,
        commands: &[Command],
        frame: &mut Frame,
        env: &mut Env,
    ) -> Result<Option<Flow>> {
        let Some((last, before)) = commands.split_last() else { return Ok(None) };
        let names = match &last.kind {
            Kind::Simple { words, .. } => read_names(words),
            Kind::Loop { condition, .. } => reads(condition),
            _ => None,
        };
        let Some(names) = names else { return Ok(None) };
        let Some(lines) = self.lines(before, frame, env)? else { return Ok(None) };
        let Kind::Loop { body, .. } = &last.kind else {
            return Ok(Some(Flow::Next(Status::of(Some(!lines.is_empty())))));
        };
        // The last one is a process of its own as well.
        let mut env = env.clone();
        let run = |follower: &mut Self, frame: &mut Frame| follower.read_loop(&names, lines, body, frame, &mut env);
        self.apart(last.line, frame, run).map(|status| Some(Flow::Next(status)))
    }
}

/// The commands of a pipeline, of which a single one is one too.
pub(super) fn of_pipeline(command: &Command) -> &[Command] {
    match &command.kind {
        Kind::Pipeline { commands, negated: false } => commands,
        _ => std::slice::from_ref(command),
    }
}

/// The variables that a condition sets which is nothing but `read`.
pub(super) fn reads(condition: &List) -> Option<Vec<String>> {
    let (first, rest) = condition.split_first()?;
    // `read -r line || [ -n "$line" ]` is for a last line without its end.
    if !rest.iter().all(|item| item.when == script::When::Failed) {
        return None;
    }
    match &first.command.kind {
        Kind::Simple { words, .. } => read_names(words),
        _ => None,
    }
}

fn read_names(words: &[Word]) -> Option<Vec<String>> {
    let mut words = words.iter().map(literal);
    let is_read = words.next()?.as_deref() == Some("read");
    let words = words.collect::<Option<Vec<_>>>()?;
    let plain = words.iter().all(|word| !word.starts_with('-') || word == "-r");
    (is_read && plain).then(|| words.into_iter().filter(|word| word != "-r").collect())
}

/// Gives variables the fields of a line, and the last of them what is left.
fn set(names: &[String], line: &str, env: &mut Env) {
    let mut rest = line.trim_matches([' ', '\t']);
    for (at, name) in names.iter().enumerate() {
        let (field, behind) = match rest.split_once([' ', '\t']).filter(|_| at + 1 < names.len()) {
            Some((field, behind)) => (field, behind.trim_start_matches([' ', '\t'])),
            None => (rest, ""),
        };
        env.variables.insert(name.clone(), field.to_owned());
        rest = behind;
    }
}

/// Whether a command does nothing with the names of files that matters here.
pub(super) fn ignores_files(words: &[Word]) -> bool {
    let name = words.first().and_then(literal);
    name.is_some_and(|name| !matches!(name.as_str(), "[" | "test" | "chmod") && (is_harmless(&name) || name == "rm"))
}

/// Whether there is something in a pattern that does not stand for itself.
pub(super) fn globs(pattern: &str) -> bool {
    let mut escaped = false;
    let mut open = false;
    pattern.chars().any(|c| {
        let special = !escaped && (matches!(c, '*' | '?') || (c == ']' && open));
        open |= c == '[' && !escaped;
        escaped = c == '\\' && !escaped;
        special
    })
}

fn absolute(path: &str, env: &Env) -> String {
    let path = if path == "." { "" } else { path };
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{}/{path}", env.directory.trim_end_matches('/')),
    }
}

/// A key with which numbers in names are sorted as numbers.
fn natural(text: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(digits);
        let end = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
        let (number, behind) = behind.split_at(end);
        key.push((word.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = behind;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_numbers_are_sorted_by_them() {
        let mut names = ["/d/10-b.sh", "/d/9-c.sh", "/d/9-a.sh", "/d/x"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["/d/9-a.sh", "/d/9-c.sh", "/d/10-b.sh", "/d/x"]);
    }

    #[test]
    fn fields_of_a_line() {
        let mut env = Env { variables: Default::default(), arrays: Default::default(), directory: String::new() };
        set(&["a".to_owned(), "b".to_owned()], " x  y z ", &mut env);
        assert_eq!((&*env.variables["a"], &*env.variables["b"]), ("x", "y z"));
        set(&["a".to_owned()], "x y", &mut env);
        assert_eq!(env.variables["a"], "x y");
        set(&["a".to_owned(), "b".to_owned()], "x", &mut env);
        assert_eq!((&*env.variables["a"], &*env.variables["b"]), ("x", ""));
    }

    #[test]
    fn patterns_are_told_from_words() {
        for (pattern, expected) in
            [("*", true), ("a?", true), ("[a-z]x", true), ("a", false), ("\\*", false), ("[", false), ("[x", false)]
        {
            assert_eq!(globs(pattern), expected, "{pattern}");
        }
    }
}
