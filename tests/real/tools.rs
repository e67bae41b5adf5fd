//! Other people's programs: run one, get its words, or fail with the whole story.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const INSTALL: &str = "run tests/all.sh, which installs what the tests need";

/// A command that no proxy, credential or clock setting of the machine reaches.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.env_remove("SOURCE_DATE_EPOCH").env_remove("REGISTRY_AUTH_FILE").env_remove("DOCKER_AUTH_CONFIG");
    command.env("LC_ALL", "C");
    command
}

/// Its exit code and everything it said; a program that is not there is a failure.
pub(crate) fn output(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("`{}` is not installed: {INSTALL}", command.get_program().display())
        }
        Err(error) => panic!("could not start {command:?}: {error}"),
    }
}

/// Its stdout; anything but exit code 0 is a failure.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).unwrap()
}

#[track_caller]
fn succeed(command: &mut Command) -> Output {
    let output = output(command);
    if !output.status.success() {
        let program = command.get_program().display().to_string();
        let line: Vec<_> = command.get_args().map(|argument| argument.display().to_string()).collect();
        panic!("{program} {}\nended with {} and said:\n{}", line.join(" "), output.status, words(&output));
    }
    output
}

/// Both streams, one after the other.
pub(crate) fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `capatch ARGS…`, which has to succeed.
#[track_caller]
pub(crate) fn capatch(args: &[&str]) -> Output {
    succeed(command(env!("CARGO_BIN_EXE_capatch")).args(args))
}

/// To make a root file system and to run containers of it.
pub(crate) fn need_root() {
    let root = run(command("id").arg("-u")).trim() == "0";
    assert!(root, "tests that run containers need root: run tests/all.sh, which starts itself through sudo");
}

/// What this test may keep from one run to the next.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_path_buf()
}

/// What `tests/install.sh` builds with Go (crane, oras, regctl, …), or nothing where there is no Go.
pub(crate) fn built_with_go(name: &str) -> Option<PathBuf> {
    let built = target().join("tools/bin").join(name);
    if built.exists() {
        return Some(built);
    }
    let go = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(!go, "Go is there, but `{name}` is not: {INSTALL}");
    None
}

/// `crane`, or nothing where there is no Go to build it with.
pub(crate) fn crane() -> Option<Command> {
    built_with_go("crane").map(command)
}

/// The directory with containerd 2, or nothing where there is no Go to build it with.
pub(crate) fn containerd_2() -> Option<PathBuf> {
    built_with_go("containerd")?.parent().map(Path::to_path_buf)
}
