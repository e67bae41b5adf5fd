//! Where text goes: data to stdout, talk to stderr. A reader that went away is no error, a full disk is.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use serde::Serialize;

use crate::copy::{Moved, Route};
use crate::error::{Error, Kind, Result, printable};
use crate::oci::digest::Digest;
use crate::oci::reference::Reference;
use crate::transport::Transports;

/// How a command reports.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) json: bool,
    pub(super) quiet: bool,
    /// Whether standard output carries an image, so that the report goes to stderr.
    pub(super) piped: bool,
}

impl Output {
    /// The same, if an image goes to `destination`.
    pub(super) fn beside(self, destination: &Reference) -> Result<Self> {
        if destination.is_pipe() && io::stdout().is_terminal() {
            return Err(Error::usage("an archive is no text for a terminal").hint("write into a file or a pipe"));
        }
        Ok(Output { piped: destination.is_pipe(), ..self })
    }

    /// Prints the result of a command: `data` as JSON if that was asked for, else `text`.
    pub(super) fn result(self, data: &impl Serialize, text: &str) -> Result<()> {
        if self.json {
            let json =
                serde_json::to_string_pretty(data).map_err(|e| Error::failed(format!("cannot write JSON: {e}")))?;
            self.print(&format!("{json}\n"))
        } else {
            self.print(text)
        }
    }

    fn print(self, text: &str) -> Result<()> {
        if !self.piped {
            return print(text);
        }
        if !self.quiet {
            // Nobody is left to tell if stderr is closed.
            let _ = io::stderr().write_all(text.as_bytes());
        }
        Ok(())
    }

    /// Says something on stderr.
    pub(super) fn say(self, text: &str) {
        if !self.quiet {
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(io::stderr(), "{}", printable(text));
        }
    }

    /// Prints an error; with `--json` also as data, unless the data that shows it was printed already.
    pub(super) fn error(self, error: &Error) {
        let _ = writeln!(io::stderr(), "capatch: {error}");
        if let Some(hint) = error.hint_text() {
            let _ = writeln!(io::stderr(), "  hint: {hint}");
        }
        if self.json && error.kind() != Kind::Findings && !error.is_reported() {
            error_as_data(error);
        }
    }
}

/// Whether the command line has this option, for when it was not read.
pub(super) fn given(name: &str) -> bool {
    std::env::args_os().any(|argument| argument == name)
}

/// Prints an error as JSON.
pub(super) fn error_as_data(error: &Error) {
    let data = serde_json::json!({ "error": error });
    // Nobody is left to tell if stdout is closed.
    let _ = print(&format!("{data:#}\n"));
}

fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// What came of printing to stdout.
pub(super) fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("cannot write the result to stdout", &e)),
        _ => Ok(()),
    }
}

/// Bytes for people: `187 B`, `31.4 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The ending of a noun of which there are `count`.
pub(super) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The start of a digest, enough for people.
pub(super) fn short(digest: &Digest) -> String {
    format!("{}:{}", digest.algorithm().name(), &digest.hex()[..12])
}

/// What became of one image on its way, as data.
#[derive(Serialize)]
pub(super) struct Report<'a, T> {
    pub(super) source: String,
    pub(super) destination: String,
    #[serde(flatten)]
    pub(super) outcome: &'a T,
    /// Bytes that came over the network.
    pub(super) downloaded: u64,
    /// HTTP requests.
    pub(super) requests: u64,
}

impl<'a, T> Report<'a, T> {
    pub(super) fn new(route: &Route<'_>, outcome: &'a T, transports: &Transports) -> Self {
        let traffic = transports.registries.traffic();
        Report {
            source: route.source.to_string(),
            destination: route.destination.to_string(),
            outcome,
            downloaded: traffic.downloaded,
            requests: traffic.requests,
        }
    }

    /// The destination by its digest, to be used as it is.
    pub(super) fn pinned(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.destination)
    }
}

/// What a run moved, in one line.
pub(super) fn moved(moves: &Moved, downloaded: u64) -> String {
    let Moved { uploaded, mounted, skipped } = *moves;
    let (downloaded, uploaded, mounted, skipped) = (bytes(downloaded), bytes(uploaded), bytes(mounted), bytes(skipped));
    format!("downloaded {downloaded}, uploaded {uploaded}, mounted {mounted}, skipped {skipped} that was there already")
}

/// What a run would move, in one line.
pub(super) fn would_move(moves: &Moved) -> String {
    let Moved { uploaded, mounted, skipped } = *moves;
    let (uploaded, mounted, skipped) = (bytes(uploaded), bytes(mounted), bytes(skipped));
    format!("would upload {uploaded}, mount {mounted}, skip {skipped} that is there already")
}

/// Refuses a file for the digest that cannot be written, before anything is done.
pub(super) fn check_digestfile(path: Option<&Path>) -> Result<()> {
    match path {
        Some(path) if !path.parent().is_some_and(|parent| parent.as_os_str().is_empty() || parent.is_dir()) => {
            Err(Error::usage(format!("--digestfile {}: there is no such directory", path.display())))
        }
        _ => Ok(()),
    }
}

/// Writes the digest of what was published.
pub(super) fn write_digestfile(path: Option<&Path>, digest: &Digest) -> Result<()> {
    match path {
        Some(path) => std::fs::write(path, digest.as_str())
            .map_err(|e| Error::failed(format!("published, but cannot write {}: {e}", path.display()))),
        None => Ok(()),
    }
}
