//! Snippets that mend a manifest, with the place that they belong to.

/// Lines of YAML below a comment that says where they belong, indented as their neighbours there are.
pub(super) fn snippet(title: &str, path: &str, column: usize, lines: &[&str]) -> String {
    // Nobody copies from a column that far to the right.
    let indent = " ".repeat(column.min(40));
    let mut text = format!("# {title}: {path}");
    for line in lines {
        text.push('\n');
        text.push_str(&indent);
        text.push_str(line);
    }
    text
}
