//! Compound commands.

use std::rc::Rc;

use super::parse::Reader;
use super::{Arm, Kind, List, Then, Trouble, Word, literal};

impl Reader {
    pub(super) fn conditional(&mut self) -> Result<Kind, Trouble> {
        let mut arms = Vec::new();
        self.eat("if");
        loop {
            let condition = self.list()?;
            self.expect_word("then")?;
            arms.push((condition, self.list()?));
            if self.eat_word("elif") {
                continue;
            }
            let otherwise = if self.eat_word("else") { self.list()? } else { List::new() };
            self.expect_word("fi")?;
            return Ok(Kind::If { arms, otherwise });
        }
    }

    pub(super) fn case(&mut self) -> Result<Kind, Trouble> {
        self.eat("case");
        self.blanks();
        let word = self.word()?;
        self.newlines();
        self.expect_word("in")?;
        let mut arms = Vec::new();
        loop {
            self.newlines();
            if self.eat_word("esac") {
                return Ok(Kind::Case { word, arms });
            }
            self.eat("(");
            let mut patterns = Vec::new();
            loop {
                self.blanks();
                patterns.push(self.word()?);
                self.blanks();
                if !self.eat("|") {
                    break;
                }
            }
            self.expect(")")?;
            let body = self.list()?;
            self.newlines();
            let ends = [(";;&", Then::Match), (";;", Then::Leave), (";&", Then::Enter)];
            let then = match ends.into_iter().find(|(end, _)| self.eat(end)) {
                Some((_, then)) => then,
                None if self.peek_word() == "esac" => Then::Leave,
                None => return Err(self.trouble("no ';;'")),
            };
            arms.push(Arm { patterns, body, then });
        }
    }

    pub(super) fn for_loop(&mut self) -> Result<Kind, Trouble> {
        self.eat("for");
        self.blanks();
        if self.looks_at("((") {
            self.arithmetic()?;
            self.separator();
            return Ok(Kind::For { name: String::new(), words: Some(Vec::new()), body: self.body()? });
        }
        let name = self.peek_word();
        self.eat(&name);
        self.newlines();
        let mut words = None;
        if self.eat_word("in") {
            let mut list = Vec::new();
            loop {
                self.blanks();
                if matches!(self.peek(), None | Some('\n' | ';')) {
                    break;
                }
                list.push(self.word()?);
            }
            words = Some(list);
        }
        self.separator();
        Ok(Kind::For { name, words, body: self.body()? })
    }

    fn separator(&mut self) {
        self.blanks();
        self.eat(";");
        self.newlines();
    }

    pub(super) fn body(&mut self) -> Result<List, Trouble> {
        self.newlines();
        self.expect_word("do")?;
        let body = self.list()?;
        self.expect_word("done")?;
        Ok(body)
    }

    pub(super) fn function(&mut self, name: String) -> Result<Kind, Trouble> {
        self.newlines();
        let body = self.nested(Reader::command)?;
        Ok(Kind::Function { name, body: Rc::new(body) })
    }

    /// The words up to `]]`, in which operators of lists mean something else.
    pub(super) fn test(&mut self) -> Result<Vec<Word>, Trouble> {
        let mut words = Vec::new();
        loop {
            self.newlines();
            let operator = ["&&", "||", "<", ">", "(", ")"].into_iter().find(|operator| self.looks_at(operator));
            if let Some(operator) = operator {
                self.eat(operator);
                words.push(super::word::text(operator, false));
                continue;
            }
            let word = match words.last().and_then(literal).as_deref() {
                Some("=~") => self.regular_expression()?,
                _ => self.word()?,
            };
            if literal(&word).as_deref() == Some("]]") {
                return Ok(words);
            }
            words.push(word);
        }
    }
}
