//! What fuzz targets share: the fixtures of the integration tests, and repairs that take a mutated archive past its checksums
//! and digests to what lies behind them.
#![allow(clippy::unwrap_used)]

#[path = "../../common/mod.rs"]
pub mod common;
pub mod net;
pub mod tars;

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use common::image::leftovers;

/// The first line of `data` as text, and the rest: how most seeds are written.
pub fn first_line(data: &[u8]) -> Option<(&str, &[u8])> {
    let end = data.iter().position(|b| *b == b'\n')?;
    Some((std::str::from_utf8(&data[..end]).ok()?, &data[end + 1..]))
}

/// A directory in memory, where fsync costs nothing.
pub fn directory() -> TempDir {
    match Path::new("/dev/shm") {
        memory if memory.is_dir() => tempfile::tempdir_in(memory),
        _ => tempfile::tempdir(),
    }
    .unwrap()
}

/// Waits for the writers of other blobs to notice that the copy failed; fails if one leaves its temporary file behind. Their
/// content comes from tasks, which stand still unless the runtime runs.
#[track_caller]
pub fn settle(runtime: &Runtime, layout: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !leftovers(layout).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", leftovers(layout));
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    }
}

/// Fails if a message could drive a terminal.
#[track_caller]
pub fn is_printable(error: &capatch::error::Error) {
    for text in [Some(error.to_string()), error.hint_text().map(str::to_owned)].into_iter().flatten() {
        assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
    }
}
