//! From text to commands.

use super::{Command, Input, Item, Kind, List, Part, Trouble, When, Word, literal};

/// Commands inside each other.
const MAX_DEPTH: usize = 60;

/// Words that end a list where a command could begin.
const CLOSERS: [&str; 8] = ["then", "elif", "else", "fi", "do", "done", "esac", "}"];

/// Reads a whole script.
pub(in crate::doctor) fn parse(text: &str) -> Result<List, Trouble> {
    let mut reader = Reader { chars: text.chars().collect(), at: 0, line: 1, depth: 0, documents: Vec::new() };
    let list = reader.list()?;
    match reader.peek() {
        None => Ok(list),
        Some(_) => Err(reader.trouble(format!("'{}' where a command should begin", reader.peek_word()))),
    }
}

pub(super) struct Reader {
    pub(super) chars: Vec<char>,
    pub(super) at: usize,
    pub(super) line: u32,
    depth: usize,
    /// Here-documents whose text begins at the next line: the word that ends each, and whether tabs are cut off.
    documents: Vec<(String, bool)>,
}

impl Reader {
    pub(super) fn trouble(&self, what: impl Into<String>) -> Trouble {
        Trouble { line: self.line, what: what.into() }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    pub(super) fn looks_at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c))
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        if c == '\n' {
            self.line += 1;
        }
        Some(c)
    }

    pub(super) fn eat(&mut self, text: &str) -> bool {
        let found = self.looks_at(text);
        if found {
            for _ in text.chars() {
                self.next();
            }
        }
        found
    }

    /// What is read inside of something else: a script may not nest too deeply.
    pub(super) fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Trouble>) -> Result<T, Trouble> {
        if self.depth == MAX_DEPTH {
            return Err(self.trouble(format!("more than {MAX_DEPTH} commands inside each other")));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// A script inside this one, such as between backquotes.
    pub(super) fn inner(&self, text: &str) -> Result<List, Trouble> {
        if self.depth == MAX_DEPTH {
            return Err(self.trouble(format!("more than {MAX_DEPTH} commands inside each other")));
        }
        let (chars, depth) = (text.chars().collect(), self.depth + 1);
        Reader { chars, at: 0, line: self.line, depth, documents: Vec::new() }.list()
    }

    /// The plain word that begins here, which is not taken.
    pub(super) fn peek_word(&self) -> String {
        let rest = self.chars.get(self.at..).unwrap_or_default();
        rest.iter().take(64).take_while(|c| !c.is_whitespace() && !";&|()<>".contains(**c)).collect()
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == word;
        found && self.eat(word)
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<(), Trouble> {
        match self.eat_word(word) {
            true => Ok(()),
            false => Err(self.trouble(format!("no '{word}'"))),
        }
    }

    pub(super) fn blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t') => self.at += 1,
                Some('\\') if self.eat("\\\n") => {}
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    pub(super) fn newlines(&mut self) {
        loop {
            self.blanks();
            if self.peek() != Some('\n') {
                return;
            }
            self.next();
            for (end, tabs) in std::mem::take(&mut self.documents) {
                while self.peek().is_some() {
                    let mut line = String::new();
                    while let Some(c) = self.next().filter(|c| *c != '\n') {
                        line.push(c);
                    }
                    if end == if tabs { line.trim_start_matches('\t') } else { &line } {
                        break;
                    }
                }
            }
        }
    }

    pub(super) fn list(&mut self) -> Result<List, Trouble> {
        self.nested(|reader| {
            let mut list = List::new();
            let mut when = When::Always;
            loop {
                reader.newlines();
                let ends = matches!(reader.peek(), None | Some(')')) || reader.looks_at(";;") || reader.looks_at(";&");
                if ends || CLOSERS.contains(&reader.peek_word().as_str()) {
                    return match when {
                        When::Always => Ok(list),
                        _ => Err(reader.trouble("nothing behind && or ||")),
                    };
                }
                let mut command = reader.pipeline()?;
                reader.blanks();
                let next = if reader.eat("&&") {
                    When::Succeeded
                } else if reader.eat("||") {
                    When::Failed
                } else {
                    command.background = reader.eat("&");
                    if !reader.looks_at(";;") && !reader.looks_at(";&") {
                        reader.eat(";");
                    }
                    When::Always
                };
                list.push(Item { when, command });
                when = next;
            }
        })
    }

    fn pipeline(&mut self) -> Result<Command, Trouble> {
        let line = self.line;
        let mut negated = false;
        while self.eat_word("!") {
            negated = !negated;
            self.blanks();
        }
        let first = self.command()?;
        self.blanks();
        let mut commands = vec![first];
        while self.peek() == Some('|') && !self.looks_at("||") {
            self.next();
            self.eat("&");
            self.newlines();
            commands.push(self.command()?);
            self.blanks();
        }
        match (commands.len(), negated) {
            (1, false) => commands.pop().ok_or_else(|| self.trouble("no command")),
            _ => {
                let kind = Kind::Pipeline { commands, negated };
                Ok(Command { line, kind, writes: Vec::new(), input: None, background: false })
            }
        }
    }

    pub(super) fn command(&mut self) -> Result<Command, Trouble> {
        let line = self.line;
        let kind = match self.peek_word().as_str() {
            "if" => self.nested(Reader::conditional)?,
            "case" => self.nested(Reader::case)?,
            "for" => self.nested(Reader::for_loop)?,
            "while" | "until" => {
                let word = self.peek_word();
                self.eat(&word);
                let condition = self.list()?;
                Kind::Loop { condition, body: self.body()? }
            }
            "{" => {
                self.eat("{");
                let list = self.list()?;
                self.expect_word("}")?;
                Kind::Group(list)
            }
            "[[" => {
                self.eat("[[");
                Kind::Test(self.test()?)
            }
            "function" => {
                self.eat("function");
                self.blanks();
                let name = self.peek_word();
                self.eat(&name);
                self.blanks();
                if self.eat("(") {
                    self.blanks();
                    self.expect(")")?;
                }
                self.function(name)?
            }
            "select" | "coproc" => return Err(self.trouble(format!("'{}'", self.peek_word()))),
            _ if self.looks_at("((") => {
                self.arithmetic()?;
                Kind::Arithmetic
            }
            _ if self.eat("(") => {
                let list = self.list()?;
                self.expect(")")?;
                Kind::Subshell(list)
            }
            _ => return self.simple(line),
        };
        let (mut writes, mut input) = (Vec::new(), None);
        if !matches!(kind, Kind::Function { .. }) {
            loop {
                self.blanks();
                if !self.redirection(&mut writes, &mut input)? {
                    break;
                }
            }
        }
        Ok(Command { line, kind, writes, input, background: false })
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<(), Trouble> {
        match self.eat(text) {
            true => Ok(()),
            false => Err(self.trouble(format!("no '{text}'"))),
        }
    }

    /// `(( … ))`
    pub(super) fn arithmetic(&mut self) -> Result<(), Trouble> {
        let mut depth = 0;
        loop {
            match self.next() {
                Some('(') => depth += 1,
                Some(')') => depth -= 1,
                Some(_) => {}
                None => return Err(self.trouble("'((' without its end")),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn simple(&mut self, line: u32) -> Result<Command, Trouble> {
        let (mut assignments, mut words) = (Vec::new(), Vec::<Word>::new());
        let (mut writes, mut input) = (Vec::new(), None);
        let mut redirected = false;
        loop {
            self.blanks();
            if self.redirection(&mut writes, &mut input)? {
                redirected = true;
                continue;
            }
            match self.peek() {
                None | Some('\n' | ';' | '&' | '|' | ')') => break,
                Some('(') if words.len() == 1 && assignments.is_empty() => {
                    self.next();
                    self.blanks();
                    self.expect(")")?;
                    let name = words.first().and_then(literal);
                    let kind = self.function(name.ok_or_else(|| self.trouble("a function without a name"))?)?;
                    return Ok(Command { line, kind, writes, input, background: false });
                }
                Some('(') => return Err(self.trouble("'('")),
                Some(_) => {}
            }
            match self.assignment()? {
                Some(assignment) if words.is_empty() => assignments.push(assignment),
                // An argument such as that of `export`.
                Some((name, mut value)) => {
                    value.insert(0, super::word::text_part(&format!("{name}="), false));
                    words.push(value);
                }
                None => words.push(self.word()?),
            }
        }
        if words.is_empty() && assignments.is_empty() && !redirected {
            return Err(self.trouble(match self.peek() {
                Some(c) => format!("'{}' where a command should begin", c.escape_default()),
                None => "the end of the script, where a command should begin".to_owned(),
            }));
        }
        Ok(Command { line, kind: Kind::Simple { assignments, words }, writes, input, background: false })
    }

    /// `NAME=value`, if that is what begins here.
    fn assignment(&mut self) -> Result<Option<(String, Word)>, Trouble> {
        let rest = self.chars.get(self.at..).unwrap_or_default();
        let name: String =
            rest.iter().enumerate().take_while(|(i, c)| is_name(**c, *i == 0)).map(|(_, c)| *c).collect();
        let length = name.chars().count();
        let appends = rest.get(length) == Some(&'+') && rest.get(length + 1) == Some(&'=');
        if name.is_empty() || !(appends || rest.get(length) == Some(&'=')) {
            return Ok(None);
        }
        self.at += length + 1 + usize::from(appends);
        if self.eat("(") {
            let mut elements = self.nested(Reader::array)?;
            if appends {
                elements.insert(0, vec![Part::Elements { name: name.clone(), from: 0, quoted: true, joined: false }]);
            }
            return Ok(Some((name, vec![Part::Array(elements)])));
        }
        let mut value = self.word_or_nothing()?;
        if appends {
            let operation = None;
            let old = Part::Variable { name: name.clone(), indirect: false, operation, colon: false, quoted: true };
            value.insert(0, old);
        }
        Ok(Some((name, value)))
    }

    /// The words up to the bracket that closes an array.
    fn array(&mut self) -> Result<Vec<Word>, Trouble> {
        let mut elements = Vec::new();
        loop {
            self.newlines();
            if self.eat(")") {
                return Ok(elements);
            }
            elements.push(self.word()?);
        }
    }

    /// Whether a redirection was taken.
    fn redirection(&mut self, writes: &mut Vec<Word>, input: &mut Option<Input>) -> Result<bool, Trouble> {
        let start = (self.at, self.line);
        let is_input = |reader: &Self, at| at == reader.at || reader.chars.get(at) == Some(&'0');
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let process = (self.looks_at("<(") || self.looks_at(">(")) && self.at == start.0;
        let operators = ["&>>", "&>", "<<<", "<<-", "<<", "<>", "<&", ">&", ">>", ">|", "<", ">"];
        let operator = operators.into_iter().find(|operator| self.looks_at(operator)).filter(|_| !process);
        let Some(operator) = operator else {
            (self.at, self.line) = start;
            return Ok(false);
        };
        let is_input = is_input(self, start.0);
        self.eat(operator);
        self.blanks();
        let word = self.word()?;
        let read = match operator {
            "<<" | "<<-" => {
                let end = literal(&word).ok_or_else(|| self.trouble("a here-document with an unknown end"))?;
                self.documents.push((end, operator == "<<-"));
                Input::Document
            }
            "<" | "<&" => Input::File(word),
            "<<<" => Input::Text(word),
            _ => {
                writes.push(word);
                return Ok(true);
            }
        };
        if is_input {
            *input = Some(read);
        }
        Ok(true)
    }
}

/// Whether `c` may be in the name of a variable.
pub(super) fn is_name(c: char, first: bool) -> bool {
    c == '_' || c.is_ascii_alphabetic() || (!first && c.is_ascii_digit())
}
