//! The `capatch` command: read the command line, do it, say how it ended.

#![warn(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

use std::panic;
use std::process::{self, ExitCode};

use capatch::cli;

fn main() -> ExitCode {
    let wanted = std::env::var_os("RUST_BACKTRACE").filter(|value| !value.is_empty() && value != "0");
    let backtrace = wanted.map(|_| panic::take_hook());
    // Other threads may wait for the one that panics, so the process ends at once. What was under way is as safe as it is
    // from SIGKILL (faults.md G5).
    panic::set_hook(Box::new(move |info| {
        backtrace.iter().for_each(|show| show(info));
        process::exit(cli::report_panic(info).into());
    }));
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match cli::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error, &arguments),
    }
}
