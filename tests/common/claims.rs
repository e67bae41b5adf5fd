//! Tables and texts that name the tests behind them, held to their word.

use super::files::read;

/// The tests that `text` names, as `FILE.rs::NAME` between back quotes.
pub fn named(text: &str) -> Vec<&str> {
    text.split('`').filter(|word| word.contains(".rs::")).collect()
}

/// Fails unless `test` is a function under a test attribute.
#[track_caller]
pub fn exists(test: &str) {
    let (file, name) = test.split_once("::").unwrap();
    let text = read(file);
    let at = text.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("{file} has no {name}"));
    let before = text[..at].trim_end_matches("async ").trim_end().lines().last().unwrap_or_default().trim();
    assert!(before.starts_with("#[test]") || before.starts_with("#[tokio::test"), "{test} is no test");
}

/// Fails unless the table in the file `name` has exactly the rows `expected`, each with what it is about, tests that exist,
/// and a state: `shown`, or `open` or `does not apply` and why.
#[track_caller]
pub fn hold(name: &str, expected: &[String]) {
    let table = read(name);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| row"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), expected);
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
