//! Archives, and other people's programs that read and write them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::assert_answers_on_port_80;
use crate::containerd::Containerd;
use crate::docker::Engine;
use crate::image::{self, text};
use crate::registry::Registry;
use crate::tools::{self, capatch, command, run};

const NAME: &str = "docker.io/library/kong";

/// A podman with images of its own.
struct Podman(TempDir);

impl Podman {
    fn new() -> Self {
        Podman(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut podman = command("podman");
        let path = |name: &str| self.0.path().join(name);
        podman.arg("--root").arg(path("root")).arg("--runroot").arg(path("run")).args(["--storage-driver", "vfs"]);
        podman.args(args);
        podman
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Its mounts would keep the directory.
        let _ = self.command(&["system", "reset", "--force"]).output();
    }
}

fn json(file: &Path) -> Value {
    image::json(&fs::read_to_string(file).unwrap())
}

fn verified(image: &str) -> Value {
    image::json(&String::from_utf8(capatch(&["verify", image, "--json"]).stdout).unwrap())
}

/// A patched image in Docker's media types, and one in OCI's; each with its digest, in a file of its own.
fn patched_archives(registry: &Registry, work: &Path) -> [(String, String); 2] {
    let layout = work.join("source").display().to_string();
    registry.copy_to_layout("3.9", &layout);
    [registry.kong("3.9"), format!("oci:{layout}:3.9")].map(|source| {
        let is_docker = !source.starts_with("oci:");
        let file = work.join(if is_docker { "docker.tar" } else { "oci.tar" }).display().to_string();
        capatch(&["patch", &source, &format!("oci-archive:{file}:{NAME}:3.9-lowport")]);
        let report = verified(&format!("docker-archive:{file}:kong:3.9-lowport"));
        capatch(&["verify", &format!("oci-archive:{file}"), "--base", &source]);
        (file, text(&report["digest"]))
    })
}

#[test]
fn every_tool_takes_the_archive_with_the_same_digest() {
    let registry = Registry::with_kong();
    let work = tempfile::tempdir().unwrap();
    let (podman, containerds) = (Podman::new(), Containerd::start_each(""));
    for (number, (file, digest)) in patched_archives(&registry, work.path()).into_iter().enumerate() {
        let path = |name: &str| work.path().join(format!("{name}{number}"));
        let skopeo = |from: &str, options: &[&str], to: &Path| {
            let mut skopeo = command("skopeo");
            run(skopeo.args(["copy", "--quiet"]).args(options).arg(from).arg(format!("dir:{}", to.display())));
            to.join("manifest.json")
        };
        let whole = skopeo(&format!("oci-archive:{file}"), &["--all", "--preserve-digests"], &path("whole"));
        assert_eq!(image::sha256(&whole), digest, "skopeo, oci-archive");
        let docker = skopeo(&format!("docker-archive:{file}:{NAME}:3.9-lowport"), &[], &path("docker"));
        assert_eq!(json(&docker)["config"]["digest"], json(&whole)["config"]["digest"], "skopeo, docker-archive");

        run(&mut podman.command(&["load", "--quiet", "--input", &file]));
        let images =
            run(&mut podman.command(&["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}"]));
        assert!(images.contains(&format!("{NAME}:3.9-lowport {digest}")), "podman: {images}");

        if let (Some(mut crane), Some(mut oras)) = (tools::crane(), tools::built_with_go("oras").map(command)) {
            run(crane.args(["validate", "--tarball", &file]));
            let to = path("oras").display().to_string();
            let said = run(oras
                .args(["copy", "--from-oci-layout", &format!("{file}:3.9-lowport")])
                .args(["--to-oci-layout", &format!("{to}:x")]));
            assert!(said.contains(&format!("Digest: {digest}")), "oras: {said}");
        }
        for containerd in &containerds {
            containerd.import(&file);
            let name = format!("{NAME}:3.9-lowport");
            let images = run(&mut containerd.ctr(&["image", "ls"]));
            assert!(images.lines().any(|line| line.starts_with(&name) && line.contains(&digest)), "ctr: {images}");
            let container = containerd.start_container(&name, if number == 0 { "docker" } else { "oci" });
            assert_answers_on_port_80(&container);
        }
    }
    // Programs that know layouts but no archives, and no media types of Docker.
    let layout = work.path().join("unpacked");
    fs::create_dir(&layout).unwrap();
    run(command("tar").arg("--extract").arg("--directory").arg(&layout).arg("--file").arg(work.path().join("oci.tar")));
    let image = format!("{}:3.9-lowport", layout.display());
    run(command("umoci").args(["unpack", "--image", &image]).arg(work.path().join("bundle")));
    let nginx = work.path().join("bundle/rootfs").join(image::NGINX);
    assert!(run(command("getcap").arg(nginx)).ends_with(" cap_net_bind_service=ep\n"));
}

/// `capatch FROM… | program`, and then `program | capatch INTO…`, both of which have to succeed.
fn through_pipes(program: &Command, load: &[&str], save: &[&str], from: &[&str], into: &[&str]) {
    let line = |first: &str, second: &str| format!("set -o pipefail; {first} | {second}");
    let ours = |args: &[&str]| [&[env!("CARGO_BIN_EXE_capatch")], args].concat().join(" ");
    for (line, args) in [(line(&ours(from), "\"$@\""), load), (line("\"$@\"", &ours(into)), save)] {
        let mut shell = command("bash");
        shell.args(["-c", &line, "bash"]).arg(program.get_program()).args(program.get_args()).args(args);
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut shell);
    }
}

#[test]
fn pipes_go_to_docker_and_podman_and_come_back() {
    let registry = Registry::with_kong();
    let work = tempfile::tempdir().unwrap();
    let (podman, engine) = (Podman::new(), Engine::start());
    let source = registry.kong("3.9");
    let from = ["copy", "--quiet", &source, "docker-archive:-:kong:3.9"];
    for (name, program) in [("podman", podman.command(&[])), ("docker", engine.docker())] {
        let layout = format!("oci:{}:3.9", work.path().join(name).display());
        through_pipes(&program, &["load"], &["save", "kong:3.9"], &from, &["patch", "docker-archive:-", &layout]);
        let caps = String::from_utf8(capatch(&["getcap", &layout]).stdout).unwrap();
        assert_eq!(caps, format!("/{} cap_net_bind_service=ep\n", image::NGINX), "{name}");
    }
    let digests = run(&mut podman.command(&["images", "--no-trunc", "--format", "{{.Repository}} {{.Digest}}"]));
    assert_eq!(digests.trim(), format!("{NAME} {}", image::manifest_digest()));
    // To a Docker engine without containerd, the digest of the config is what an image is.
    let images = run(engine.docker().args(["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]));
    assert_eq!(images.trim(), format!("kong:3.9 {}", text(&image::manifest()["config"]["digest"])));
}

#[test]
fn archives_of_other_programs_are_patched() {
    let registry = Registry::with_kong();
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).display().to_string();
    let skopeo = |to: &str| {
        run(command("skopeo").args(["copy", "--quiet", "--src-tls-verify=false"]).arg(registry.docker("3.9")).arg(to));
    };
    skopeo(&format!("docker-archive:{}:{NAME}:3.9", path("skopeo-docker")));
    skopeo(&format!("oci-archive:{}:3.9", path("skopeo-oci")));
    let podman = Podman::new();
    run(&mut podman.command(&["load", "--quiet", "--input", &path("skopeo-docker")]));
    for format in ["docker", "oci"] {
        let (form, file) = (format!("{format}-archive"), path(&format!("podman-{format}")));
        run(&mut podman.command(&["save", "--quiet", "--format", &form, "--output", &file, "kong:3.9"]));
    }
    let containerds = Containerd::start_each("");
    for (number, containerd) in containerds.iter().enumerate() {
        containerd.pull(&registry.kong("3.9"));
        let file = path(&format!("ctr-{number}"));
        run(&mut containerd.ctr(&["image", "export", &file, &registry.kong("3.9")]));
        let digest = text(&verified(&format!("oci-archive:{file}"))["digest"]);
        assert_eq!(digest, image::manifest_digest(), "ctr keeps the manifest");
    }
    if let Some(mut crane) = tools::crane() {
        run(crane.args(["pull", "--insecure", &registry.kong("3.9"), &path("crane")]));
    }
    capatch(&["patch", &registry.kong("3.9"), &registry.kong("3.9-lowport")]);
    let config = image::json(&registry.raw_config("3.9-lowport"));
    let mut read = 0;
    for entry in fs::read_dir(work.path()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let (file, name) = (entry.path().display().to_string(), entry.file_name().display().to_string());
        let source = format!("{}-archive:{file}", if name.contains("oci") { "oci" } else { "docker" });
        let result = format!("oci:{}:3.9-lowport", path("results").clone() + &name);
        capatch(&["patch", &source, &result]);
        capatch(&["verify", &result, "--base", &source]);
        let layout = path("results") + &name;
        let of = |digest: &Value| json(&Path::new(&layout).join("blobs/sha256").join(&text(digest)[7..]));
        let manifest = of(&json(&Path::new(&layout).join("index.json"))["manifests"][0]["digest"]);
        assert_eq!(of(&manifest["config"]["digest"])["rootfs"], config["rootfs"], "{name}: the same layers");
        read += 1;
    }
    assert!(read >= 5, "{read}");
}
