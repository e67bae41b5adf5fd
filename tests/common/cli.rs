//! Runs the built binary and looks at what it said.

use std::ffi::OsStr;
use std::process::{Command, Output};

use serde_json::Value;

/// Not there for the fuzz targets, which run no binary.
const BINARY: Option<&str> = option_env!("CARGO_BIN_EXE_capatch");

/// The binary, away from the environment of whoever runs the tests.
pub fn capatch<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(BINARY.expect("cargo builds it for tests"));
    command.args(arguments).env_clear().env("HOME", "/does/not/exist").env("PATH", "/usr/bin:/bin");
    // Nor by the mirrors of the machine.
    command.env("CONTAINERS_REGISTRIES_CONF", "/dev/null");
    command
}

/// The same command, stopped by every signal: the tests may run under nohup, or as the background job of a script.
pub fn heeding(command: &Command) -> Command {
    let mut heeding = Command::new("/usr/bin/env");
    heeding.arg("--default-signal").arg(command.get_program()).args(command.get_args()).env_clear();
    heeding.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    heeding
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        let run = Run {
            code: output.status.code().expect("no signal ended it"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!run.stderr.contains("panicked") && run.code != 101, "{run:#?}");
        assert!(!run.stderr.contains("internal error"), "{run:#?}");
        run
    }
}

pub fn start(mut command: Command) -> Run {
    command.output().unwrap().into()
}

/// Runs `capatch` with these arguments.
pub fn run<const N: usize>(arguments: [&str; N]) -> Run {
    start(capatch(arguments))
}

/// The same; it must succeed.
pub fn ok<const N: usize>(arguments: [&str; N]) -> Run {
    run(arguments).succeeded()
}

/// The same with `--json`; the data that it printed.
pub fn json<const N: usize>(arguments: [&str; N]) -> Value {
    let mut command = capatch(arguments);
    command.arg("--json");
    start(command).succeeded().json()
}

/// The same; it must fail with `code`, one sentence that has each of `words` in it, and nothing on stdout.
#[track_caller]
pub fn fails<const N: usize>(code: i32, words: &[&str], arguments: [&str; N]) -> Run {
    run(arguments).failed(code, words)
}

impl Run {
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(words.iter().all(|word| self.stderr.contains(word)), "{words:?} in {self:#?}");
        assert_eq!(self.stdout, "", "an error is no data");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// The hint, without the word.
    pub fn hint(&self) -> Option<&str> {
        self.stderr.lines().find_map(|line| line.trim().strip_prefix("hint: "))
    }
}

/// The oracle: everything in `image` matches, and nothing differs from `base` but what was declared.
#[track_caller]
pub fn prove(image: &str, base: &str) -> Value {
    ok(["verify", image]);
    json(["verify", image, "--base", base])
}
