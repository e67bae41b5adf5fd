//! `capatch doctor --explain`.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::{Common, input};
use crate::doctor::{self, Explanation};
use crate::error::{Error, Kind, Result, printable};

/// Bytes of a log that are read from standard input.
const MAX_LOG: u64 = 1 << 20;

#[derive(Serialize)]
struct Report {
    explanations: Vec<Explanation>,
}

/// Explains `text`, or what standard input has if it is `-`.
pub(super) fn run(text: &str, common: &Common) -> Result<()> {
    let input = if text == "-" { read()? } else { text.to_owned() };
    let explanations = doctor::explain(&input)?;
    if explanations.is_empty() {
        return Err(Error::not_found("no error that is known here is in this text").hint(
            "give the line with the error itself, as kubectl logs --previous or kubectl describe pod show it; \
             capatch doctor IMAGE looks at the image instead",
        ));
    }
    let text = explanations.iter().map(describe).collect::<Vec<_>>().join("\n");
    common.output().result(&Report { explanations }, &text)
}

fn read() -> Result<String> {
    let too_long = |e: Error| match e.kind() {
        Kind::Content => e.hint("give the end of the log: kubectl logs --tail=100"),
        _ => e,
    };
    input::read(Path::new("-"), MAX_LOG, Kind::Content).map(|bytes| decoded(&bytes)).map_err(too_long)
}

/// The text of a log, which may have anything in it. With a byte order mark, and zeros for the
/// upper halves of ASCII, it is UTF-16, as PowerShell's `>` writes it.
fn decoded(bytes: &[u8]) -> String {
    let units = |unit: fn([u8; 2]) -> u16, rest: &[u8]| -> String {
        let (pairs, _) = rest.as_chunks();
        String::from_utf16_lossy(&pairs.iter().map(|pair| unit(*pair)).collect::<Vec<_>>())
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] if rest.contains(&0) => units(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] if rest.contains(&0) => units(u16::from_be_bytes, rest),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// As a finding of `doctor` is told.
fn describe(explanation: &Explanation) -> String {
    let Explanation { code, line, what, why, fix, foretold, see } = explanation;
    // Writing to a String cannot fail.
    let mut text = format!("[{code}] {}\n  {what}\n  why: {why}\n  fix:\n", printable(line));
    for line in fix.lines() {
        let _ = writeln!(text, "    {line}");
    }
    if let Some(foretold) = foretold {
        let _ = writeln!(text, "  foretold by: {foretold}");
    }
    let _ = writeln!(text, "  see: {see}");
    text
}
