//! Containers without an engine: runc, and a bundle of the OCI runtime specification made of what a test asks for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use capatch::capability::{CapabilitySet, Process};
use serde_json::{Value, json};

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
    /// What the program is executed as. The group is that of the same number. With a root ID there is a user namespace whose
    /// users from 0 are those from that ID.
    pub(crate) process: Process,
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

impl Container {
    /// Runs it to its end. What it said is in the output, and so is what runc said if it could not start it.
    pub(crate) fn run(&self) -> Output {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), self.config().to_string()).unwrap();
        let name = format!("capatch-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut runc = tools::command("runc");
        runc.arg("--root").arg(bundle.path().join("state")).args(["run", "--bundle"]).arg(bundle.path()).arg(&name);
        tools::output(&mut runc)
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
                "user": {"uid": uid, "gid": uid},
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
