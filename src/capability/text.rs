//! The text form of capabilities: the grammar of cap_from_text(3) and the output of cap_to_text(3), as in libcap 2.66.
//!
//! A text is clauses with white space between them; a later clause overrides an earlier one. A clause is a list of
//! capabilities (names in any case, numbers as in C, or `all`, with commas and no space) and one or more actions, an
//! operator and flags: `=` lowers everything for the list and raises the flags, `+` raises, `-` lowers. The flags are `e`,
//! `i` and `p` for effective, inheritable and permitted. Without a list, `=` stands for all.

use std::fmt;
use std::str::FromStr;

use super::{Capability, CapabilitySet, FileCapabilities};
use crate::error::{Error, Result};

const EXAMPLE: &str = "write names, an operator (=, + or -) and flags (e, i, p) without spaces, \
                       for example cap_net_bind_service=+ep";

// The order of these bits is the order in which cap_to_text(3) prints the clauses (libcap/libcap.h).
const E: u8 = 1;
const P: u8 = 2;
const I: u8 = 4;

/// What a text says. Unlike a file, it can have some capabilities effective and others not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sets {
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
}

impl Sets {
    /// Changes the sets that `flags` stands for.
    fn change(&mut self, flags: u8, change: impl Fn(CapabilitySet) -> CapabilitySet) {
        for (flag, set) in [(E, &mut self.effective), (P, &mut self.permitted), (I, &mut self.inheritable)] {
            if flags & flag != 0 {
                *set = change(*set);
            }
        }
    }

    /// The flags of one capability.
    fn flags(&self, capability: Capability) -> u8 {
        [(E, self.effective), (P, self.permitted), (I, self.inheritable)]
            .into_iter()
            .filter(|(_, set)| set.contains(capability))
            .fold(0, |flags, (flag, _)| flags | flag)
    }

    /// The same for a file, which has one effective flag for all its capabilities.
    fn for_file(&self, text: &str) -> Result<FileCapabilities> {
        let file = FileCapabilities {
            permitted: self.permitted,
            inheritable: self.inheritable,
            effective: !self.effective.is_empty(),
            root_id: 0,
        };
        let left_out = self.permitted.union(self.inheritable).minus(self.effective);
        if file.effective && !left_out.is_empty() {
            return Err(Error::usage(format!(
                "capability text \"{text}\": {} is effective and {left_out} is not, but a file has one effective flag for \
                 all its capabilities",
                self.effective
            ))
            .hint(format!("give the flag e to all of them or to none, for example \"{file}\"")));
        }
        Ok(file)
    }
}

impl From<&FileCapabilities> for Sets {
    fn from(file: &FileCapabilities) -> Self {
        let all = file.permitted.union(file.inheritable);
        Sets {
            effective: if file.effective { all } else { CapabilitySet::EMPTY },
            permitted: file.permitted,
            inheritable: file.inheritable,
        }
    }
}

impl FromStr for FileCapabilities {
    type Err = Error;

    /// Reads a text as setcap(8) does. An empty text is a value without capabilities, not the absence of one.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage), with the place in the text and an example, if it is not such a text, or
    /// if it makes some of the capabilities effective and others not.
    fn from_str(text: &str) -> Result<Self> {
        Parser { text, at: 0 }.sets()?.for_file(text)
    }
}

/// Reads a text from left to right; `at` is always on the border of a character.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn sets(&mut self) -> Result<Sets> {
        let mut sets = Sets::default();
        loop {
            self.skip(is_space);
            match self.peek() {
                None => return Ok(sets),
                Some(_) => self.clause(&mut sets)?,
            }
        }
    }

    fn clause(&mut self, sets: &mut Sets) -> Result<()> {
        let list = match self.peek() {
            Some(c) if is_word(c) => Some(self.list()?),
            _ => None,
        };
        let mut operator = match self.peek() {
            Some(c @ '=') => c,
            Some(c @ ('+' | '-')) if list.is_some() => c,
            Some(c @ ('+' | '-')) => return Err(self.fail(&format!("\"{c}\" needs capabilities before it"))),
            _ if list.is_some() => return Err(self.expected("\"=\", \"+\" or \"-\" after the capabilities")),
            _ => return Err(self.expected("a capability")),
        };
        self.at += 1;
        let members = list.unwrap_or(CapabilitySet::NAMED);
        let mut must_have_flags = operator != '=';
        if operator == '=' {
            sets.change(E | P | I, |set| set.minus(members));
            if let Some(c @ ('+' | '-')) = self.peek() {
                if list.is_none() {
                    return Err(self.fail(&format!("\"={c}\" needs capabilities before it")));
                }
                self.at += 1;
                (operator, must_have_flags) = (c, true);
            }
        }
        loop {
            let flags = self.flags()?;
            if flags == 0 && must_have_flags {
                return Err(self.expected(&format!("a flag (e, i or p) after \"{operator}\"")));
            }
            match operator {
                '-' => sets.change(flags, |set| set.minus(members)),
                _ => sets.change(flags, |set| set.union(members)),
            }
            match self.peek() {
                Some(c @ ('+' | '-')) if list.is_some() => operator = c,
                Some(c @ ('+' | '-')) => return Err(self.fail(&format!("\"{c}\" needs capabilities before it"))),
                Some(c) if !is_space(c) => return Err(self.expected("a flag (e, i or p), \"+\", \"-\" or a space")),
                _ => return Ok(()),
            }
            self.at += 1;
            must_have_flags = true;
        }
    }

    fn list(&mut self) -> Result<CapabilitySet> {
        let mut list = CapabilitySet::EMPTY;
        loop {
            let start = self.at;
            match self.skip(is_word) {
                "" => return Err(self.expected("a capability after \",\"")),
                // As in libcap (forceall), `all` also takes unnamed numbers back out of the list: 63,all is all.
                word if word.eq_ignore_ascii_case("all") => list = CapabilitySet::NAMED,
                word => {
                    let found = member(word);
                    let found = found.map_err(|(what, hint)| Parser { at: start, ..*self }.fail(&what).hint(hint))?;
                    list = list.union(found.into());
                }
            }
            if self.peek() != Some(',') {
                return Ok(list);
            }
            self.at += 1;
        }
    }

    fn flags(&mut self) -> Result<u8> {
        let flags = self.skip(|c| matches!(c, 'e' | 'i' | 'p'));
        if matches!(self.peek(), Some('E' | 'I' | 'P')) {
            return Err(self.fail("flags are written in lower case"));
        }
        Ok(flags.chars().fold(0, |flags, c| {
            flags
                | if c == 'e' {
                    E
                } else if c == 'i' {
                    I
                } else {
                    P
                }
        }))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Takes the characters for which `wanted` holds.
    fn skip(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or("")
    }

    fn expected(&self, what: &str) -> Error {
        match self.peek() {
            None => self.fail(&format!("expected {what}, but the text ends")),
            Some(c) if is_space(c) => self.fail(&format!("expected {what}, found a space")),
            Some(c) => self.fail(&format!("expected {what}, found \"{c}\"")),
        }
    }

    fn fail(&self, what: &str) -> Error {
        let place = self.text.get(..self.at).unwrap_or(self.text).chars().count() + 1;
        Error::usage(format!("capability text \"{}\", character {place}: {what}", self.text)).hint(EXAMPLE)
    }
}

/// The white space of isspace(3).
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The capability that `word` names, or what is wrong with it and a hint.
fn member(word: &str) -> Result<Capability, (String, String)> {
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        // The bases of strtoul(3).
        let (digits, base) = match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if word.starts_with('0') => (word, 8),
            None => (word, 10),
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
            let hint = "write it in decimal (10), octal (012) or hexadecimal (0xa), or use the name";
            return Err((format!("\"{word}\" is not a number"), hint.to_owned()));
        }
        return u64::from_str_radix(digits, base).ok().and_then(Capability::from_number).ok_or_else(|| {
            let hint = "write the name instead, for example cap_net_bind_service";
            (format!("there is no capability {word}, the last possible number is 63"), hint.to_owned())
        });
    }
    Capability::from_name(word).ok_or_else(|| {
        let hint = match Capability::from_name(&format!("cap_{word}")) {
            Some(capability) => format!("write {capability}"),
            None => "capabilities(7) lists the names, for example cap_net_bind_service".to_owned(),
        };
        (format!("there is no capability \"{word}\""), hint)
    })
}

impl fmt::Display for FileCapabilities {
    /// Prints as getcap(8) does: `cap_net_bind_service=ep`. The root ID is not part of it, nor is an effective flag without
    /// any capability.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sets = Sets::from(self);
        let with =
            |all: CapabilitySet, flags| all.iter().filter(|c| sets.flags(*c) == flags).collect::<CapabilitySet>();
        let named: Vec<CapabilitySet> = (0..8).map(|flags| with(CapabilitySet::NAMED, flags)).collect();
        // What most capabilities have is said first and the others are told apart from it; the fewest flags win a draw.
        let most = (0..8_u8).rev().max_by_key(|flags| named.get(usize::from(*flags)).map(|set| set.iter().count()));
        let most = most.unwrap_or(0);
        let mut clauses = Vec::new();
        for (flags, members) in (0..8_u8).zip(&named).rev().filter(|(flags, set)| *flags != most && !set.is_empty()) {
            let (more, less) = (letters(flags & !most), letters(most & !flags));
            let operator = if most == 0 && clauses.is_empty() { '=' } else { '+' };
            let more = if more.is_empty() { more } else { format!("{operator}{more}") };
            let less = if less.is_empty() { less } else { format!("-{less}") };
            clauses.push(format!("{members}{more}{less}"));
        }
        if most != 0 || clauses.is_empty() {
            clauses.insert(0, format!("={}", letters(most)));
        }
        let unnamed = CapabilitySet::from_bits(u64::MAX).minus(CapabilitySet::NAMED);
        for (flags, members) in (1..8).map(|flags| (flags, with(unnamed, flags))).rev() {
            if !members.is_empty() {
                clauses.push(format!("{members}+{}", letters(flags)));
            }
        }
        f.write_str(&clauses.join(" "))
    }
}

fn letters(flags: u8) -> String {
    [(E, 'e'), (I, 'i'), (P, 'p')].into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, letter)| letter).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    /// Undoes the quoting of the shell as far as the table uses it.
    fn unquote(word: &str) -> String {
        let (body, ansi) = match word.strip_prefix("$'").and_then(|w| w.strip_suffix('\'')) {
            Some(body) => (body, true),
            None if word == "''" => ("", false),
            None => (word, false),
        };
        let mut text = String::new();
        let mut chars = body.chars();
        while let Some(c) = chars.next() {
            match (c, ansi) {
                ('\\', false) => text.extend(chars.next()),
                ('\\', true) => text.push(match chars.next() {
                    Some('t') => '\t',
                    Some('n') => '\n',
                    other => panic!("{word}: {other:?}"),
                }),
                _ => text.push(c),
            }
        }
        text
    }

    #[test]
    fn reads_and_prints_as_setcap_and_getcap_do() {
        let rows: Vec<Vec<&str>> = include_str!("../../testdata/cap-text-goldens.tsv")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split('\t').collect())
            .collect();
        assert_eq!(rows.len(), 94);
        for row in rows {
            let [input, verdict, value, printed] = row[..] else { panic!("{row:?}") };
            let text = unquote(input);
            let sets = Parser { text: &text, at: 0 }.sets();
            let file = text.parse::<FileCapabilities>();
            match verdict {
                "OK" => {
                    let file = file.unwrap_or_else(|error| panic!("{text:?}: {error}"));
                    let hex: String = file.encode().iter().map(|byte| format!("{byte:02x}")).collect();
                    assert_eq!((format!("0x{hex}").as_str(), file.to_string().as_str()), (value, printed), "{text:?}");
                }
                "REJECT_PARSE" => assert_eq!(sets.unwrap_err().kind(), Kind::Usage, "{text:?}"),
                "REJECT_SET_EINVAL" => assert!(sets.is_ok() && file.is_err(), "{text:?}"),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_the_table_leaves_out_is_as_in_setcap() {
        for (text, printed) in [
            ("cap_chown=ep 63+ep", "cap_chown=ep 63+ep"),
            ("cap_chown=e cap_fowner+ep", "cap_fowner=ep"),
            ("00=ep", "cap_chown=ep"),
            ("cap_chown,cap_kill=p cap_kill+i", "cap_kill=ip cap_chown+p"),
            ("cap_chown=ep\x0b", "cap_chown=ep"),
            ("all-p", "="),
            ("cap_chown=e-p", "="),
            ("cap_chown=-ep+p", "cap_chown=p"),
            ("=ep 41,63+ep", "=ep 41,63+ep"),
            ("0X3F=p", "= 63+p"),
            ("63,all=p", "=p"),
            ("all,63=p", "=p 63+p"),
        ] {
            assert_eq!(text.parse::<FileCapabilities>().unwrap().to_string(), printed, "{text:?}");
        }
        for text in ["all=p 41+ei", "0x=ep", "18446744073709551616=ep", "cap_chown=ep+", "all=ep cap_chown-e", "=e-p"] {
            assert!(text.parse::<FileCapabilities>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong_and_where() {
        for (text, message) in [
            ("net_raw=ep", "character 1: there is no capability \"net_raw\""),
            ("cap_chown=ep 64=p", "character 14: there is no capability 64, the last possible number is 63"),
            ("08=p", "character 1: \"08\" is not a number"),
            ("cap_chown", "character 10: expected \"=\", \"+\" or \"-\" after the capabilities, but the text ends"),
            ("cap_chown = p", "character 10: expected \"=\", \"+\" or \"-\" after the capabilities, found a space"),
            ("cap_chown, cap_kill=p", "character 11: expected a capability after \",\", found a space"),
            ("+ep", "character 1: \"+\" needs capabilities before it"),
            ("=+ep", "character 2: \"=+\" needs capabilities before it"),
            ("=e+p", "character 3: \"+\" needs capabilities before it"),
            ("cap_chown=+", "character 12: expected a flag (e, i or p) after \"+\", but the text ends"),
            ("cap_chown+EP", "character 11: flags are written in lower case"),
            ("cap_chown=epx", "character 13: expected a flag (e, i or p), \"+\", \"-\" or a space, found \"x\""),
            ("é=p", "character 1: expected a capability, found \"é\""),
            ("cap_chown=pé", "character 12: expected a flag (e, i or p), \"+\", \"-\" or a space, found \"é\""),
        ] {
            let error = text.parse::<FileCapabilities>().unwrap_err();
            assert_eq!(error.to_string(), format!("capability text \"{text}\", {message}"));
            assert!(error.hint_text().is_some());
        }
        let error = "net_raw=ep".parse::<FileCapabilities>().unwrap_err();
        assert_eq!(error.hint_text(), Some("write cap_net_raw"));
        let error = "cap_net_raw=p cap_chown+ep".parse::<FileCapabilities>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "capability text \"cap_net_raw=p cap_chown+ep\": cap_chown is effective and cap_net_raw is not, but a file has \
             one effective flag for all its capabilities"
        );
        assert_eq!(
            error.hint_text(),
            Some("give the flag e to all of them or to none, for example \"cap_chown,cap_net_raw=ep\"")
        );
    }

    /// Masks of every density, so that each of the eight combinations of flags is sometimes the most frequent.
    fn mask() -> impl Strategy<Value = CapabilitySet> {
        let bits =
            prop_oneof![any::<u64>(), (0..64_u32).prop_map(|n| 1 << n), (0..64_u32).prop_map(|n| !(1 << n)), Just(0)];
        bits.prop_map(CapabilitySet::from_bits)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_is_printed_is_read_back(permitted in mask(), inheritable in mask(), effective: bool) {
            let file = FileCapabilities { permitted, inheritable, effective, root_id: 0 };
            let read: FileCapabilities = file.to_string().parse().unwrap();
            // Without any capability the text has no place for the flag.
            prop_assert_eq!(read, FileCapabilities { effective: effective && !file.is_empty(), ..file });
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = text.parse::<FileCapabilities>();
        }

        #[test]
        fn any_text_of_the_right_letters_is_read_or_refused(
            text in "(cap_chown|CAP_NET_RAW|all|[0-9]{1,3}|0x|[=+-]|[eip]|,| |\t|é|_|x){0,12}",
        ) {
            let _ = text.parse::<FileCapabilities>();
        }
    }
}
