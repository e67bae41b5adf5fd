//! Shell scripts, read without running them: what POSIX.1-2024 «Shell Command Language» and bash have that start scripts use.
//!
//! [`parse`] gives the commands of a script; what it does not know is [`Trouble`] with a line, never a guess.

mod compound;
mod glob;
mod parse;
mod word;

use std::rc::Rc;

pub(in crate::doctor) use glob::matches;
pub(in crate::doctor) use parse::parse;

/// Why a script cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct Trouble {
    /// From 1.
    pub line: u32,
    /// What is there, such as `"an array"`.
    pub what: String,
}

/// Commands in their order.
pub(in crate::doctor) type List = Vec<Item>;

/// A command, and when it runs.
#[derive(Debug)]
pub(in crate::doctor) struct Item {
    pub when: When,
    pub command: Command,
}

/// When a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum When {
    /// In any case.
    Always,
    /// `&&`
    Succeeded,
    /// `||`
    Failed,
}

#[derive(Debug)]
pub(in crate::doctor) struct Command {
    /// From 1.
    pub line: u32,
    pub kind: Kind,
    /// Files that redirections write to.
    pub writes: Vec<Word>,
    /// What the last redirection of its input reads.
    pub input: Option<Input>,
    /// It is not waited for.
    pub background: bool,
}

#[derive(Debug)]
pub(in crate::doctor) enum Kind {
    Simple {
        assignments: Vec<(String, Word)>,
        words: Vec<Word>,
    },
    /// What is between `[[` and `]]`.
    Test(Vec<Word>),
    /// `(( … ))`, which is not looked into.
    Arithmetic,
    If {
        arms: Vec<(List, List)>,
        otherwise: List,
    },
    Case {
        word: Word,
        arms: Vec<Arm>,
    },
    /// Without words it goes over the arguments.
    For {
        name: String,
        words: Option<Vec<Word>>,
        body: List,
    },
    /// `while` and `until`.
    Loop {
        condition: List,
        body: List,
    },
    Group(List),
    Subshell(List),
    Function {
        name: String,
        body: Rc<Command>,
    },
    Pipeline {
        commands: Vec<Command>,
        negated: bool,
    },
}

/// What follows an arm of `case`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum Then {
    /// `;;`
    Leave,
    /// `;&`: the next arm, whatever its patterns are.
    Enter,
    /// `;;&`: the next arm whose patterns match.
    Match,
}

/// An arm of `case`.
#[derive(Debug)]
pub(in crate::doctor) struct Arm {
    pub patterns: Vec<Word>,
    pub body: List,
    pub then: Then,
}

/// Where a redirection has the input of a command from.
#[derive(Debug)]
pub(in crate::doctor) enum Input {
    /// `< FILE`, and `< <( … )`.
    File(Word),
    /// `<<<`
    Text(Word),
    /// `<<`, whose text is not kept.
    Document,
}

/// What expands to no, one or several fields.
pub(in crate::doctor) type Word = Vec<Part>;

#[derive(Clone, Debug)]
pub(in crate::doctor) enum Part {
    Text {
        text: String,
        quoted: bool,
    },
    Variable {
        name: String,
        /// `${!name}`: the variable whose name is the value of this one.
        indirect: bool,
        operation: Option<(Operation, Word)>,
        /// An empty value counts as none (`:-` instead of `-`).
        colon: bool,
        quoted: bool,
    },
    /// `$@`, and `$*` if `joined`.
    Arguments {
        quoted: bool,
        joined: bool,
    },
    /// `$( … )`
    Output {
        list: Rc<List>,
        quoted: bool,
    },
    /// `(…)` behind `NAME=`.
    Array(Vec<Word>),
    /// `${name[@]}`, `${name[*]}` if `joined`; and `${@:2}`, `${name[@]:1}` from an element on. No name is the arguments.
    Elements {
        name: String,
        from: usize,
        quoted: bool,
        joined: bool,
    },
    /// `${name[2]}`
    Element {
        name: String,
        at: usize,
        quoted: bool,
    },
    /// `${#name}`, and `${#name[@]}` if `elements`.
    Length {
        name: String,
        elements: bool,
    },
    /// `<( … )`: the name of a pipe.
    Pipe(Rc<List>),
    /// Something whose value cannot be known.
    Unknown,
}

/// What `${name…}` does with the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum Operation {
    /// `-` and `:-`
    Default,
    /// `=` and `:=`
    Assign,
    /// `+` and `:+`
    Alternative,
    /// `?` and `:?`
    Required,
    /// `#` and `##`: without what the pattern matches at the start, as little or as much as possible.
    Prefix { longest: bool },
    /// `%` and `%%`
    Suffix { longest: bool },
}

/// The text of a word that is nothing but text.
pub(in crate::doctor) fn literal(word: &Word) -> Option<String> {
    word.iter()
        .map(|part| match part {
            Part::Text { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}
