//! `tests/faults.md` and the promises of the README, held to their word: every row is there, every test exists.

#![allow(clippy::unwrap_used)]

use std::fs;

/// How many rows each group has.
const ROWS: [(char, usize); 9] =
    [('A', 40), ('B', 30), ('C', 31), ('D', 27), ('E', 33), ('F', 25), ('G', 12), ('H', 18), ('I', 9)];
/// How many promises there are.
const PROMISES: usize = 12;

fn read(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The tests that `text` names, as `FILE.rs::NAME` between back quotes.
fn named(text: &str) -> Vec<&str> {
    text.split('`').filter(|word| word.contains(".rs::")).collect()
}

/// Fails unless `test` is a function under a test attribute.
#[track_caller]
fn exists(test: &str) {
    let (file, name) = test.split_once("::").unwrap();
    let text = read(file);
    let at = text.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("{file} has no {name}"));
    let before = text[..at].trim_end_matches("async ").trim_end().lines().last().unwrap_or_default().trim();
    assert!(before.starts_with("#[test]") || before.starts_with("#[tokio::test"), "{test} is no test");
}

#[test]
fn every_row_has_a_test_or_says_why_not() {
    let table = read("tests/faults.md");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| row"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let expected = ROWS.iter().flat_map(|(group, count)| (1..=*count).map(move |number| format!("{group}{number}")));
    assert_eq!(rows.iter().map(|row| row[0].to_owned()).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_eq!(rows.len(), 225);
    for row in &rows {
        let [id, what, tests, state] = row[..] else { panic!("{row:?}") };
        let (state, why) = state.split_once(": ").unwrap_or((state, ""));
        let tests = named(tests);
        tests.iter().for_each(|test| exists(test));
        assert!(!what.is_empty(), "{id}");
        match state {
            "shown" => assert!(!tests.is_empty() && why.is_empty(), "{id} has no test"),
            "open" | "does not apply" => assert!(!why.is_empty(), "{id} does not say why"),
            _ => panic!("{id}: {state}"),
        }
    }
}

#[test]
fn every_promise_names_the_test_that_would_fail() {
    let readme = read("README.md");
    let section = readme.split("\n## ").find(|section| section.starts_with("What capatch promises\n")).unwrap();
    let promises: Vec<&str> =
        section.split("\n\n").filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).collect();
    let numbered = promises.iter().enumerate().all(|(at, promise)| promise.starts_with(&format!("{}. ", at + 1)));
    assert!(promises.len() == PROMISES && numbered, "{promises:#?}");
    for promise in promises {
        let tests = named(promise);
        assert!(!tests.is_empty(), "no test: {promise}");
        tests.iter().for_each(|test| exists(test));
    }
}
