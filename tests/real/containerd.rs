//! A containerd of our own, in its own pid and mount namespace: when that ends, so does everything it started.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tools;

pub(crate) struct Containerd {
    process: Child,
    /// The first process of the pid namespace, which is containerd.
    init: u32,
    pub(crate) namespace: String,
    snapshotter: &'static str,
    /// Where its programs are looked for first.
    programs: Option<PathBuf>,
    data: TempDir,
}

/// A container that runs, with a network of its own.
pub(crate) struct Container<'a> {
    containerd: &'a Containerd,
    name: &'static str,
    pid: String,
}

impl Containerd {
    /// Debian's.
    pub(crate) fn start() -> Self {
        Self::start_from(None, "")
    }

    /// Debian's, and containerd 2 where Go could build it; `settings` are added to the configuration.
    pub(crate) fn start_each(settings: &str) -> Vec<Self> {
        let built = tools::containerd_2().into_iter().map(Some);
        std::iter::once(None).chain(built).map(|programs| Self::start_from(programs, settings)).collect()
    }

    fn start_from(programs: Option<PathBuf>, settings: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("capatch-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));

        let data = tempfile::tempdir().unwrap();
        let path = data.path().display();
        fs::create_dir(data.path().join("fifo")).unwrap();
        fs::write(
            data.path().join("config.toml"),
            format!(
                "version = 2\nroot = '{path}/root'\nstate = '{path}/state'\n\
                 disabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\naddress = '{path}/socket'\n{settings}"
            ),
        )
        .unwrap();
        tools::run(tools::command("containerd").arg("--version"));
        tools::run(tools::command("runc").arg("--version"));
        // The shims' sockets and runc's state are under /run/containerd whatever the settings say.
        let script = format!(
            "mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd && \
             exec containerd --config '{path}/config.toml'"
        );
        let log = File::create(data.path().join("log")).unwrap();
        let process = with_path(tools::command("setpriv"), programs.as_ref())
            .args(["--pdeathsig", "KILL"])
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &script])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();

        let mut containerd = Self { process, init: 0, namespace, snapshotter: "overlayfs", programs, data };
        containerd.wait_until_it_answers();
        let plugins = tools::run(&mut containerd.ctr(&["plugins", "ls"]));
        let overlay = plugins.lines().any(|line| line.contains(" overlayfs ") && line.trim_end().ends_with("ok"));
        if !overlay {
            containerd.snapshotter = "native";
        }
        containerd
    }

    fn wait_until_it_answers(&mut self) {
        let shell = self.process.id();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // Only the child of unshare is in the new namespaces.
            let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
            if let Ok(init) = children.trim().parse() {
                self.init = init;
                if tools::output(&mut self.ctr(&["version"])).status.success() {
                    return;
                }
            }
            let log = fs::read_to_string(self.data.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "containerd does not answer:\n{log}");
            sleep(Duration::from_millis(100));
        }
    }

    /// A command among containerd's processes and mounts.
    fn inside(&self, program: &str) -> Command {
        let mut command = with_path(tools::command("nsenter"), self.programs.as_ref());
        command.args(["--target", &self.init.to_string(), "--mount", "--pid", "--", program]);
        command
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.data.path().join("socket")
    }

    /// `capatch ARGS…` with this containerd and its namespace in the environment.
    pub(crate) fn capatch(&self, args: &[&str]) -> Command {
        let mut command = tools::command(env!("CARGO_BIN_EXE_capatch"));
        command.env("CONTAINERD_ADDRESS", self.socket()).env("CONTAINERD_NAMESPACE", &self.namespace).args(args);
        command
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> Command {
        let mut command = self.inside("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", &self.namespace]).args(args);
        command
    }

    /// The digests of all content in the namespace, in order.
    pub(crate) fn content(&self) -> Vec<String> {
        let list = tools::run(&mut self.ctr(&["content", "ls", "--quiet"]));
        let mut digests: Vec<_> = list.lines().map(str::to_owned).collect();
        digests.sort();
        digests
    }

    /// Lets containerd collect garbage, and waits until it has.
    pub(crate) fn collect_garbage(&self) {
        tools::run(&mut self.ctr(&["leases", "create", "--id", "for-collection"]));
        tools::run(&mut self.ctr(&["leases", "delete", "--sync", "for-collection"]));
    }

    pub(crate) fn pull(&self, image: &str) {
        tools::run(&mut self.ctr(&["image", "pull", "--plain-http", "--snapshotter", self.snapshotter, image]));
    }

    /// From an archive that names its images.
    pub(crate) fn import(&self, archive: &str) {
        tools::run(&mut self.ctr(&["image", "import", "--snapshotter", self.snapshotter, archive]));
    }

    /// From an OCI layout; gives the image the name `BASE:TAG`.
    pub(crate) fn import_layout(&self, layout: &str, base: &str) {
        let archive = self.data.path().join("layout.tar");
        tools::run(tools::command("tar").args(["--create", "--directory", layout, "--file"]).arg(&archive).arg("."));
        tools::run(
            self.ctr(&["image", "import", "--snapshotter", self.snapshotter, "--base-name", base]).arg(&archive),
        );
    }

    fn run_arguments(&self, more: &[&str], image: &str, name: &str) -> Command {
        // Without --allow-new-privs no file capability has any effect.
        let mut command = self.ctr(&["run", "--allow-new-privs", "--snapshotter", self.snapshotter]);
        command.arg("--fifo-dir").arg(self.data.path().join("fifo")).args(more).args([image, name]);
        command
    }

    /// What a container says until it ends, and that it ends badly.
    pub(crate) fn run_to_its_bad_end(&self, image: &str) -> String {
        let output = tools::output(&mut self.run_arguments(&["--rm"], image, "ends"));
        assert!(!output.status.success(), "the container ended well:\n{}", tools::words(&output));
        tools::words(&output)
    }

    pub(crate) fn start_container(&self, image: &str, name: &'static str) -> Container<'_> {
        tools::run(&mut self.run_arguments(&["--detach"], image, name));
        let tasks = tools::run(&mut self.ctr(&["task", "ls"]));
        let pid = tasks.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(name)).then(|| words.next().unwrap().to_owned())
        });
        let pid = pid.unwrap_or_else(|| panic!("{name} does not run:\n{tasks}"));
        let container = Container { containerd: self, name, pid };
        tools::run(container.in_its_network("ip").args(["link", "set", "lo", "up"]));
        container
    }
}

impl Container<'_> {
    pub(crate) fn in_its_network(&self, program: &str) -> Command {
        let mut command = self.containerd.inside("nsenter");
        command.args(["--target", &self.pid, "--net", "--", program]);
        command
    }

    /// Of `/proc/PID/status`, the value of one line, words separated by single spaces.
    pub(crate) fn status(&self, field: &str) -> String {
        let status = tools::run(self.containerd.inside("cat").arg(format!("/proc/{}/status", self.pid)));
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn with_path(mut command: Command, programs: Option<&PathBuf>) -> Command {
    if let Some(programs) = programs {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", programs.display()));
    }
    command
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.containerd.ctr(&["task", "rm", "--force", self.name]).output();
        let _ = self.containerd.ctr(&["container", "rm", self.name]).output();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The only thing that outlives the namespaces: empty control groups, one per hierarchy.
        for parent in std::iter::once("/sys/fs/cgroup".into())
            .chain(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()))
        {
            let group = parent.join(&self.namespace);
            for child in fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(child.path());
            }
            let _ = fs::remove_dir(group);
        }
    }
}
