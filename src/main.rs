//! The `capatch` command: read the command line, do it, say how it ended.

#![warn(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use capatch::cli;

fn main() -> ExitCode {
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match cli::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error, &arguments),
    }
}
