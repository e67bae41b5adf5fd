//! Where lines of a text end.

use std::ops::Range;

/// The end of the line on which content ends; a block scalar's content ends with a line break.
pub(super) fn end(text: &str, content: usize) -> usize {
    let content = text[..content].trim_end().len();
    let end = text[content..].find('\n').map_or(text.len(), |at| content + at);
    end - usize::from(text[..end].ends_with('\r'))
}

/// The end of the line before `at`, which begins a line or is the end of the text.
pub(super) fn without_break(text: &str, at: usize) -> usize {
    text[..at].strip_suffix('\n').map_or(at, |line| line.strip_suffix('\r').unwrap_or(line).len())
}

/// Whole lines with this content and the deeper comments behind it; `None` if something else stands before it.
pub(super) fn whole(text: &str, content: Range<usize>, column: usize) -> Option<Range<usize>> {
    let start = text[..content.start].rfind('\n').map_or(0, |at| at + 1);
    if !text[start..content.start].trim().is_empty() {
        return None;
    }
    let next_line = |end: usize| text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
    let mut end = next_line(self::end(text, content.end));
    while let Some(line) = text[end..].lines().next() {
        let words = line.trim_start();
        if !words.starts_with('#') || line.len() - words.len() <= column {
            break;
        }
        end = next_line(end);
    }
    Some(start..end)
}
