//! `tests/faults.md`, the promises of the README and the properties, held to their word: every row is there, every test exists.

mod common;

use common::claims::{exists, hold, named};
use common::files::read;

/// How many rows each group has.
const ROWS: [(char, usize); 9] =
    [('A', 40), ('B', 30), ('C', 31), ('D', 27), ('E', 33), ('F', 25), ('G', 12), ('H', 18), ('I', 9)];
/// How many promises there are.
const PROMISES: usize = 12;
/// How many properties there are.
const PROPERTIES: usize = 13;

#[test]
fn every_row_has_a_test_or_says_why_not() {
    let rows = ROWS.iter().flat_map(|(group, count)| (1..=*count).map(move |number| format!("{group}{number}")));
    let rows: Vec<String> = rows.collect();
    assert_eq!(rows.len(), 225);
    hold("tests/faults.md", &rows);
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

#[test]
fn every_property_has_a_test() {
    let text = read("tests/properties.rs");
    let rows: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("//! | P")).collect();
    let numbers: Vec<usize> = rows.iter().map(|row| row.split(':').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=PROPERTIES).collect::<Vec<_>>());
    for row in rows {
        let tests = named(row);
        assert!(!tests.is_empty(), "no test: P{row}");
        tests.iter().for_each(|test| exists(test));
    }
}
