//! Progress bars on a terminal; nothing elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Common;
use crate::progress::{Bar, Progress, Silent};

/// Bars, if stderr is a terminal and nobody asked for silence.
pub(super) fn bars(common: &Common) -> Arc<dyn Progress> {
    if common.quiet || common.json || common.verbose > 0 || !std::io::stderr().is_terminal() {
        return Arc::new(Silent);
    }
    Arc::new(Bars(MultiProgress::new()))
}

struct Bars(MultiProgress);

impl Progress for Bars {
    fn start(&self, label: &str, bytes: u64) -> Box<dyn Bar> {
        // The template is a constant; if it were wrong, the default bar would do.
        let style = ProgressStyle::with_template("{msg:18} {bar:30} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.0.add(ProgressBar::new(bytes).with_style(style).with_message(label.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Box::new(OneBar(bar))
    }
}

struct OneBar(ProgressBar);

impl Bar for OneBar {
    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for OneBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
