//! A root file system with copies of `probe.c`, which say what execve(2) made of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use capatch::capability::{Program, XATTR};
use rustix::fs::{XattrFlags, setxattr};
use serde_json::Value;
use tempfile::TempDir;

use crate::runc::{self, Container};
use crate::tools;

/// For each of its arguments: the name, and what it says or why it cannot be executed, in the words of strerror(3).
const EACH: &str = "#!/bin/sh\nfor file; do printf '%s: ' \"$file\"; \"$file\" 2>&1 || :; done\n";
const EXEC: &str = "#!/bin/sh\nexec \"$@\"\n";

pub(crate) struct Probes {
    root: TempDir,
    mounts: Vec<Value>,
}

impl Probes {
    /// With these in `/files`, and the same directory on a mount with `nosuid` as `/nosuid`. In `/` there are `probe`, and the
    /// scripts `each`, `each-ep` with capabilities, and `exec`.
    pub(crate) fn new(files: &[(&str, Program)]) -> Self {
        tools::need_root();
        // Not in /tmp, which many machines mount with nosuid; and all users have to get there.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = directory.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["proc", "dev", "usr", "files", "nosuid"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/probe.c");
        let mut gcc = tools::command("gcc");
        gcc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(root.join("probe")).arg(source);
        tools::run(&mut gcc);
        let probe = fs::read(root.join("probe")).unwrap();
        for (name, program) in files {
            write(&root.join("files").join(name), &probe, program);
        }
        let capable = Program::from(&"cap_net_bind_service=ep".parse().unwrap());
        write(&root.join("each"), EACH.as_bytes(), &Program::default());
        write(&root.join("each-ep"), EACH.as_bytes(), &capable);
        write(&root.join("exec"), EXEC.as_bytes(), &Program::default());

        let mut mounts = vec![
            runc::bind(Path::new("/usr"), "/usr", &["ro"]),
            runc::bind(&root.join("files"), "/nosuid", &["nosuid"]),
        ];
        // For the shell. Where they are not links into /usr, they are mounted too.
        for name in ["/bin", "/lib", "/lib64"] {
            let inside = root.join(&name[1..]);
            match fs::read_link(name) {
                Ok(to) => symlink(to, inside).unwrap(),
                Err(_) if Path::new(name).exists() => {
                    fs::create_dir(inside).unwrap();
                    mounts.push(runc::bind(Path::new(name), name, &["ro"]));
                }
                Err(_) => {}
            }
        }
        Probes { root: directory, mounts }
    }

    /// Runs `args` in that root file system, and gives all that was said.
    pub(crate) fn run(&self, args: Vec<String>, container: &Container) -> String {
        let root = self.root.path().to_owned();
        let container = Container { root, read_only: true, args, mounts: self.mounts.clone(), ..container.clone() };
        tools::words(&container.run())
    }
}

/// With the capabilities, owner and mode of `program`.
fn write(file: &Path, content: &[u8], program: &Program) {
    fs::write(file, content).unwrap();
    let owner = program.set_user_id.unwrap_or(0);
    chown(file, Some(owner), Some(owner)).unwrap();
    let mode = if program.set_user_id.is_some() { 0o4755 } else { 0o755 };
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    // Last, because chown(2) clears it.
    if let Some(value) = &program.xattr {
        setxattr(file, XATTR, value, XattrFlags::empty()).unwrap();
    }
}

/// Of all that was said, what was said of `path`; if nothing, why `first` was not executed by runc, or how all ends.
pub(crate) fn said_of(path: &str, words: &str, first: &str) -> String {
    let of_path = |line: &str| Some(line.strip_prefix(path)?.strip_prefix(": ")?.rsplit(": ").next()?.to_owned());
    if let Some(said) = words.lines().find_map(of_path) {
        return said;
    }
    let words = words.trim_end();
    // The words of Go are those of strerror(3) in lower case.
    for refusal in ["Operation not permitted", "Invalid argument"] {
        if words.ends_with(&format!("exec {first}: {}", refusal.to_lowercase())) {
            return refusal.to_owned();
        }
    }
    words.rsplit(": ").next().unwrap_or_default().to_owned()
}
