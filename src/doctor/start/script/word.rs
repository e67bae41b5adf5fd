//! Words: quoting, parameters and substitutions.

use std::rc::Rc;

use super::parse::{Reader, is_name};
use super::{Operation, Part, Trouble, Word};

/// What ends the text that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// White space, or an operator.
    Word,
    /// `"`
    Quote,
    /// `}`; the flag says whether all of it is inside double quotes.
    Brace(bool),
}

pub(super) fn text_part(text: &str, quoted: bool) -> Part {
    Part::Text { text: text.to_owned(), quoted }
}

pub(super) fn text(text: &str, quoted: bool) -> Word {
    vec![text_part(text, quoted)]
}

impl Reader {
    /// A word; something must be there.
    pub(super) fn word(&mut self) -> Result<Word, Trouble> {
        let word = self.word_or_nothing()?;
        match (word.is_empty(), self.peek()) {
            (false, _) => Ok(word),
            (true, Some(c)) => Err(self.trouble(format!("'{}' where a word should be", c.escape_default()))),
            (true, None) => Err(self.trouble("the end of the script, where a word should be")),
        }
    }

    pub(super) fn word_or_nothing(&mut self) -> Result<Word, Trouble> {
        let mut word = Word::new();
        self.parts(End::Word, &mut word)?;
        Ok(word)
    }

    /// Behind `=~` parentheses and bars are part of the word.
    pub(super) fn regular_expression(&mut self) -> Result<Word, Trouble> {
        while self.peek().is_some_and(|c| !c.is_whitespace()) {
            self.next();
        }
        Ok(vec![Part::Unknown])
    }

    fn parts(&mut self, end: End, word: &mut Word) -> Result<(), Trouble> {
        let quoted = matches!(end, End::Quote | End::Brace(true));
        let mut plain = String::new();
        // Quotes with nothing between them are a word too.
        let flush = |plain: &mut String, word: &mut Word, quoted: bool, always: bool| {
            if always || !plain.is_empty() {
                word.push(Part::Text { text: std::mem::take(plain), quoted });
            }
        };
        loop {
            let Some(c) = self.peek() else {
                if end != End::Word {
                    return Err(self.trouble("a quote or brace without its end"));
                }
                break;
            };
            match c {
                '"' if end == End::Quote => break,
                '}' if matches!(end, End::Brace(_)) => break,
                _ if end == End::Word && (matches!(c, ' ' | '\t' | '\n') || ";&|()".contains(c)) => break,
                '<' | '>' if end == End::Word => {
                    if !(self.looks_at("<(") || self.looks_at(">(")) {
                        break;
                    }
                    // Process substitution is the name of a pipe.
                    self.at += 2;
                    let list = self.list()?;
                    self.expect(")")?;
                    flush(&mut plain, word, quoted, false);
                    word.push(Part::Pipe(Rc::new(list)));
                }
                '\\' => {
                    self.next();
                    match self.next() {
                        Some('\n') | None => {}
                        Some(escaped) if quoted && !"$`\"\\}".contains(escaped) => plain.extend(['\\', escaped]),
                        Some(escaped) => {
                            flush(&mut plain, word, quoted, false);
                            word.push(text_part(&escaped.to_string(), true));
                        }
                    }
                }
                '\'' if !quoted => {
                    self.next();
                    flush(&mut plain, word, quoted, false);
                    loop {
                        match self.next() {
                            Some('\'') => break,
                            Some(c) => plain.push(c),
                            None => return Err(self.trouble("a quote without its end")),
                        }
                    }
                    flush(&mut plain, word, true, true);
                }
                '"' => {
                    self.next();
                    flush(&mut plain, word, quoted, false);
                    word.push(text_part("", true));
                    self.nested(|reader| reader.parts(End::Quote, word))?;
                    self.expect("\"")?;
                }
                '`' => {
                    self.next();
                    flush(&mut plain, word, quoted, false);
                    let mut inner = String::new();
                    loop {
                        match self.next() {
                            Some('`') => break,
                            Some('\\') if self.peek().is_some_and(|c| "`\\$".contains(c)) => {
                                inner.extend(self.next());
                            }
                            Some(c) => inner.push(c),
                            None => return Err(self.trouble("a backquote without its end")),
                        }
                    }
                    word.push(Part::Output { list: Rc::new(self.inner(&inner)?), quoted });
                }
                '$' => {
                    flush(&mut plain, word, quoted, false);
                    match self.nested(|reader| reader.dollar(quoted))? {
                        Some(part) => word.push(part),
                        None => plain.push('$'),
                    }
                }
                _ => {
                    self.next();
                    plain.push(c);
                }
            }
        }
        flush(&mut plain, word, quoted, false);
        Ok(())
    }

    /// What begins with `$`; nothing if it is only that character.
    fn dollar(&mut self, quoted: bool) -> Result<Option<Part>, Trouble> {
        self.next();
        if self.looks_at("((") {
            self.arithmetic()?;
            return Ok(Some(Part::Unknown));
        }
        if self.eat("(") {
            let list = self.list()?;
            self.expect(")")?;
            return Ok(Some(Part::Output { list: Rc::new(list), quoted }));
        }
        if self.eat("{") {
            let part = self.braces(quoted)?;
            self.expect("}")?;
            return Ok(Some(part));
        }
        if !quoted && self.looks_at("'") {
            // $'…' with its escapes.
            self.next();
            while self.next().is_some_and(|c| c != '\'') {}
            return Ok(Some(Part::Unknown));
        }
        let name = self.name();
        Ok(match name.as_str() {
            "" => None,
            "@" | "*" => Some(Part::Arguments { quoted, joined: name == "*" }),
            _ => Some(Part::Variable { name, indirect: false, operation: None, colon: false, quoted }),
        })
    }

    /// The name of a variable or of a special parameter; of digits, one.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| is_name(*c, name.is_empty())) {
            name.push(c);
            self.at += 1;
        }
        if name.is_empty()
            && let Some(c) = self.peek().filter(|c| c.is_ascii_digit() || "@*#?-$!".contains(*c))
        {
            name.push(c);
            self.at += 1;
        }
        name
    }

    /// What is between `${` and `}`.
    fn braces(&mut self, quoted: bool) -> Result<Part, Trouble> {
        let length = self.looks_at("#") && !self.looks_at("#}");
        let indirect = self.looks_at("!") && !self.looks_at("!}");
        if length || indirect {
            self.at += 1;
        }
        let mut name = self.name();
        while name.chars().all(|c| c.is_ascii_digit())
            && let Some(c) = self.peek().filter(char::is_ascii_digit)
        {
            name.push(c);
            self.at += 1;
        }
        if name.is_empty() {
            return Err(self.trouble("'${' without a name"));
        }
        if name == "BASH_SOURCE" {
            self.eat("[0]");
        }
        if let Some(part) = self.elements(&name, length, indirect, quoted) {
            return Ok(part);
        }
        if matches!(name.as_str(), "@" | "*") && self.looks_at("}") && !length {
            return Ok(Part::Arguments { quoted, joined: name == "*" });
        }
        let colon = self.looks_at(":-") || self.looks_at(":=") || self.looks_at(":+") || self.looks_at(":?");
        self.at += usize::from(colon);
        let operators = [
            ("##", Operation::Prefix { longest: true }),
            ("#", Operation::Prefix { longest: false }),
            ("%%", Operation::Suffix { longest: true }),
            ("%", Operation::Suffix { longest: false }),
            ("-", Operation::Default),
            ("=", Operation::Assign),
            ("+", Operation::Alternative),
            ("?", Operation::Required),
        ];
        let operation = operators.into_iter().find(|(text, _)| self.eat(text)).map(|(_, operation)| operation);
        let mut word = Word::new();
        let simple = self.looks_at("}");
        // Quotes around the whole do not quote a pattern in it (XCU 2.6.2).
        let cuts = matches!(operation, Some(Operation::Prefix { .. } | Operation::Suffix { .. }));
        self.nested(|reader| reader.parts(End::Brace(quoted && !cuts), &mut word))?;
        if length && simple && !matches!(name.as_str(), "@" | "*") {
            return Ok(Part::Length { name, elements: false });
        }
        if length || (operation.is_none() && !simple) || matches!(name.as_str(), "@" | "*") {
            // Slices, replacements, arrays, changes of case.
            return Ok(Part::Unknown);
        }
        Ok(Part::Variable { name, indirect, operation: operation.map(|operation| (operation, word)), colon, quoted })
    }

    /// What is behind a name in `${name[@]}`, `${name[@]:1}`, `${@:2}`, `${name[0]}` and `${#name[@]}`, up to the brace; nothing is
    /// taken if it is something else.
    fn elements(&mut self, name: &str, length: bool, indirect: bool, quoted: bool) -> Option<Part> {
        let rest: String = self.chars.get(self.at..)?.iter().take(64).collect();
        let (inside, _) = rest.split_once('}')?;
        let is_arguments = matches!(name, "@" | "*");
        let index = inside.strip_prefix('[').and_then(|inside| inside.split_once(']'));
        let (index, behind) = match (index, is_arguments) {
            (Some((index, behind)), false) => (index, behind),
            (None, true) if !length && !inside.is_empty() => (name, inside),
            _ => return None,
        };
        let owner = || if is_arguments { String::new() } else { name.to_owned() };
        let part = match (index, behind) {
            _ if indirect => return None,
            ("@" | "*", "") if length => Part::Length { name: owner(), elements: true },
            (_, _) if length => return None,
            ("@" | "*", behind) => {
                let from = if behind.is_empty() { 0 } else { behind.strip_prefix(':')?.trim().parse().ok()? };
                // `$0` is number 0 of the arguments, which nobody slices from.
                let from = if is_arguments { usize::checked_sub(from, 1)? } else { from };
                Part::Elements { name: owner(), from, quoted, joined: index == "*" }
            }
            (index, "") => Part::Element { name: owner(), at: index.parse().ok()?, quoted },
            _ => return None,
        };
        self.at += inside.chars().count();
        Some(part)
    }
}
