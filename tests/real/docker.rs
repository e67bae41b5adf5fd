//! A Docker engine of our own: without a network, and with its files in a temporary directory.

use std::fs::{self, File};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::image;
use crate::tools::{self, command, run};

pub(crate) struct Engine {
    process: Child,
    data: TempDir,
}

impl Engine {
    pub(crate) fn start() -> Self {
        tools::need_root();
        let data = tempfile::tempdir().unwrap();
        let path = data.path().display();
        tools::run(command("dockerd").arg("--version"));
        let log = File::create(data.path().join("log")).unwrap();
        let script = format!(
            "mkdir -p /run/containerd && mount -t tmpfs tmpfs /run && \
             exec dockerd --data-root '{path}/data' --exec-root '{path}/exec' --pidfile '{path}/pid' \
             --host 'unix://{path}/docker.sock' --bridge none --iptables=false --ip-masq=false --storage-driver overlay2"
        );
        // In namespaces of its own: when they end, so does everything that it started.
        let process = command("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-c", &script])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let engine = Engine { process, data };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !tools::output(engine.docker().arg("version")).status.success() {
            let log = fs::read_to_string(engine.data.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "dockerd does not answer:\n{log}");
            sleep(Duration::from_millis(100));
        }
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}/docker.sock", self.data.path().display())
    }

    pub(crate) fn docker(&self) -> Command {
        let mut docker = command("docker");
        docker.env("DOCKER_HOST", self.host());
        docker
    }

    fn capatch(&self, arguments: &[&str]) -> Command {
        let mut capatch = command(env!("CARGO_BIN_EXE_capatch"));
        capatch.env("DOCKER_HOST", self.host()).args(arguments);
        capatch
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn images_go_into_a_docker_engine_are_patched_there_and_come_out_again() {
    let registry = crate::Registry::with_kong();
    let engine = Engine::start();
    run(&mut engine.capatch(&["copy", &registry.kong("3.9"), "docker-daemon:kong:3.9"]));
    let id =
        |name: &str| run(engine.docker().args(["image", "inspect", "--format", "{{.Id}}", name])).trim().to_owned();
    let config = image::manifest()["config"]["digest"].as_str().unwrap().to_owned();
    assert_eq!(id("kong:3.9"), config, "the engine knows the image by its config");
    // The name moves as docker load moves it; what is there already is not sent again.
    run(&mut engine.capatch(&["copy", &registry.kong("3.9"), "docker-daemon:kong:3.9"]));

    run(&mut engine.capatch(&["patch", "docker-daemon:kong:3.9", "docker-daemon:kong:3.9-lowport"]));
    let listed = run(&mut engine.capatch(&["getcap", "docker-daemon:kong:3.9-lowport"]));
    assert_eq!(listed.trim(), format!("/{} cap_net_bind_service=ep", crate::NGINX));
    let ports = run(engine.docker().args([
        "image",
        "inspect",
        "--format",
        "{{json .Config.ExposedPorts}}",
        "kong:3.9-lowport",
    ]));
    assert!(ports.contains("\"80/tcp\"") && ports.contains("\"443/tcp\""), "{ports}");

    // What the engine saves differs from the base by what was declared and nothing else.
    let layouts = tempfile::tempdir().unwrap();
    let layout = |name: &str| format!("oci:{}:{name}", layouts.path().join("layout").display());
    for name in ["3.9", "3.9-lowport"] {
        run(&mut engine.capatch(&["copy", &format!("docker-daemon:kong:{name}"), &layout(name)]));
        run(&mut engine.capatch(&["verify", &layout(name)]));
    }
    // An engine keeps no referrers: the image is not taken for its own signature.
    let copied =
        run(&mut engine.capatch(&["copy", "--json", "--referrers", "docker-daemon:kong:3.9", &layout("signed")]));
    assert_eq!(image::json(&copied)["referrers"], serde_json::json!({"manifests": [], "tags": []}));
    // docker save and docker load agree with what we read and write.
    let saved = layouts.path().join("saved.tar");
    run(engine.docker().args(["save", "kong:3.9-lowport", "--output"]).arg(&saved));
    let archive = format!("docker-archive:{}:kong:3.9-lowport", saved.display());
    assert_eq!(digest(&engine, &archive), digest(&engine, &layout("3.9-lowport")));
    let ours = layouts.path().join("ours.tar");
    run(&mut engine.capatch(&["copy", &layout("3.9"), &format!("docker-archive:{}:fresh:1", ours.display())]));
    run(engine.docker().args(["load", "--input"]).arg(&ours));
    assert_eq!(id("fresh:1"), config);

    let missing = tools::output(&mut engine.capatch(&["inspect", "docker-daemon:nowhere:1"]));
    assert_eq!(missing.status.code(), Some(3), "{}", tools::words(&missing));
}

fn digest(engine: &Engine, image: &str) -> String {
    let said = run(&mut engine.capatch(&["inspect", "--json", image]));
    image::json(&said)["digest"].as_str().unwrap().to_owned()
}
