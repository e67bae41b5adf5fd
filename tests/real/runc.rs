//! Containers without an engine: runc, and a bundle of the OCI runtime specification made of what a test asks for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use capatch::capability::{CapabilitySet, Process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tools;

/// A container to be run.
#[derive(Clone, Default)]
pub(crate) struct Container {
    /// Its root file system. Read-only to the container if `read_only`.
    pub(crate) root: PathBuf,
    pub(crate) read_only: bool,
    /// The program by its absolute path, and its arguments.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    /// What the program is executed as. With a root ID there is a user namespace whose users from 0 are those from that ID.
    pub(crate) process: Process,
    /// Otherwise the group of the user's number.
    pub(crate) gid: Option<u32>,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Otherwise the network is its own, without any interface that is up.
    pub(crate) host_network: bool,
    /// Like `net.ipv4.ip_unprivileged_port_start` and `0`; only for a network of its own.
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) mounts: Vec<Value>,
}

/// A bind mount of a file or directory of this machine; `options` as of mount(8).
pub(crate) fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    let options = [&["rbind"], options].concat();
    json!({"type": "bind", "source": source, "destination": destination, "options": options})
}

/// What unshare(1) runs: BUNDLE, ROOT, what to give to chown(1), NAME.
const NODE: &str = "set -e
cd \"$1\"
ip link set lo up
mount -t tmpfs tmpfs writable
mkdir writable/upper writable/work
mount -t overlay -o \"lowerdir=$2,upperdir=writable/upper,workdir=writable/work\" overlay rootfs
[ -z \"$3\" ] || chown -R $3
exec runc --root \"$1/state\" run --bundle \"$1\" \"$4\"";

/// A container that has been started; ends with this.
pub(crate) struct Running {
    /// unshare(1), whose child is runc, whose child is the container.
    process: Child,
    bundle: TempDir,
}

fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("capatch-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Container {
    /// Runs it to its end. What it said is in the output, and so is what runc said if it could not start it.
    pub(crate) fn run(&self) -> Output {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), self.config().to_string()).unwrap();
        let mut runc = tools::command("runc");
        runc.arg("--root").arg(bundle.path().join("state")).args(["run", "--bundle"]).arg(bundle.path()).arg(name());
        tools::output(&mut runc)
    }

    /// Starts it on a node of its own, which has nothing but a loopback interface. What it writes into its root file system is
    /// gone with it. Its users of a user namespace get what is in `owned`, as if all files were theirs.
    pub(crate) fn start(&self, owned: &str) -> Running {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().to_owned();
        for directory in ["rootfs", "writable"] {
            fs::create_dir(path.join(directory)).unwrap();
        }
        let container = Container { root: path.join("rootfs"), ..self.clone() };
        fs::write(path.join("config.json"), container.config().to_string()).unwrap();
        let log = File::options().create(true).append(true).open(path.join("log")).unwrap();
        // For the users of user namespaces.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(path.join("log"), fs::Permissions::from_mode(0o666)).unwrap();
        let process = tools::command("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-c", NODE, "sh"])
            .args([&path, &self.root])
            .arg(match self.process.root_id {
                0 => String::new(),
                root_id => format!("--from=1000 {}:{root_id} rootfs{owned}", root_id + 1000),
            })
            .arg(name())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running { process, bundle }
    }

    fn config(&self) -> Value {
        let Process { uid, root_id, no_new_privileges, .. } = self.process;
        assert!(self.process.euid == uid && !self.process.no_root && !self.process.no_setuid_fixup, "not for runc");
        let mut namespaces = vec!["pid", "mount", "ipc", "uts"];
        namespaces.extend((!self.host_network).then_some("network"));
        namespaces.extend((root_id != 0).then_some("user"));
        let namespaces: Vec<_> = namespaces.into_iter().map(|namespace| json!({"type": namespace})).collect();
        let ids = match root_id {
            0 => json!([]),
            _ => json!([{"containerID": 0, "hostID": root_id, "size": 65_536}]),
        };
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        ];
        mounts.extend(self.mounts.iter().cloned());
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": uid, "gid": self.gid.unwrap_or(uid), "additionalGids": self.groups},
                "args": self.args,
                "env": self.env,
                "cwd": "/",
                "capabilities": {
                    "bounding": names(self.process.bounding),
                    "permitted": names(self.process.permitted),
                    "effective": names(self.process.effective),
                    "inheritable": names(self.process.inheritable),
                    "ambient": names(self.process.ambient),
                },
                "noNewPrivileges": no_new_privileges,
            },
            "root": {"path": self.root, "readonly": self.read_only},
            "mounts": mounts,
            "linux": {
                "namespaces": namespaces,
                "uidMappings": ids,
                "gidMappings": ids,
                "sysctl": self.sysctls.iter().cloned().collect::<BTreeMap<_, _>>(),
            },
        })
    }
}

fn names(set: CapabilitySet) -> Vec<String> {
    set.iter().map(|capability| capability.to_string().to_uppercase()).collect()
}

impl Running {
    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// What it has said, and what runc said if it could not start it.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.bundle.path().join("log")).unwrap();
        // runc puts its words in quotes.
        String::from_utf8_lossy(&log).replace("\\\"", "\"")
    }

    /// Its first process, or one of runc that will become it.
    pub(crate) fn first_process(&self) -> Option<u32> {
        children(*children(self.process.id()).first()?).pop()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // runc takes its control groups away when the container ends, and has no time to if it is killed itself.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.ended().is_none() && Instant::now() < deadline {
            if let Some(pid) = self.first_process() {
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).output();
            }
            sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Children of all threads of a process: proc_pid_task(5).
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
