//! With real parts: Debian's nginx in the place of Kong's, a real registry, and the tools that people will use on the
//! result. Needs root; `tests/all.sh` installs what else it needs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archives;
mod containerd;
mod containerd_content;
mod containerd_images;
mod docker;
mod doctor;
mod exec;
mod image;
mod probe;
mod referrers;
mod registry;
mod removal;
mod resume;
mod runc;
mod tools;

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use containerd::{Container, Containerd};
use image::NGINX;
use registry::Registry;
use tools::{capatch, command, run};

const REFUSED: &str = "bind() to 0.0.0.0:80 failed (13: Permission denied)";

/// A registry with the image as `kong:3.9` and, patched, as `kong:3.9-lowport`.
fn patched() -> Registry {
    let registry = Registry::with_kong();
    capatch(&["patch", &registry.kong("3.9"), &registry.kong("3.9-lowport")]);
    registry
}

#[test]
fn the_manifest_gets_one_layer_and_stays_a_docker_one() {
    let registry = patched();
    let before = image::manifest();
    let after = image::json(&registry.raw_manifest("3.9-lowport"));

    assert_eq!(after["schemaVersion"], 2);
    assert_eq!(after["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(after["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    let (base, added) = after["layers"].as_array().unwrap().split_at(3);
    assert_eq!(base, before["layers"].as_array().unwrap());
    assert_eq!(added.len(), 1);
    assert_eq!(added[0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");

    assert_eq!(registry.digest("3.9"), image::manifest_digest(), "the source tag moved");
}

#[test]
fn the_config_gets_two_ports_and_keeps_what_it_had() {
    let registry = patched();
    let before = image::config();
    let after = image::json(&registry.raw_config("3.9-lowport"));

    let mut ports = before["config"]["ExposedPorts"].clone();
    ports["80/tcp"] = serde_json::json!({});
    ports["443/tcp"] = serde_json::json!({});
    assert_eq!(after["config"]["ExposedPorts"], ports);

    let settings = before["config"].as_object().unwrap();
    assert!(settings.contains_key("Healthcheck"));
    for (name, value) in settings.iter().filter(|(name, _)| !["ExposedPorts", "Labels"].contains(&name.as_str())) {
        assert_eq!(after["config"].get(name), Some(value), "config.{name}");
    }
    let labels = &after["config"]["Labels"];
    assert_eq!(labels["maintainer"], before["config"]["Labels"]["maintainer"]);
    assert_eq!(labels["org.opencontainers.image.base.name"], registry.kong("3.9").as_str());
    assert_eq!(labels["org.opencontainers.image.base.digest"], image::manifest_digest().as_str());

    for name in ["architecture", "os", "container_config", "docker_version"] {
        assert_eq!(after[name], before[name], "{name}");
    }
    for (name, array) in [("diff_ids", "/rootfs/diff_ids"), ("history", "/history")] {
        let before = before.pointer(array).unwrap().as_array().unwrap();
        let after = after.pointer(array).unwrap().as_array().unwrap();
        assert_eq!(after.len(), before.len() + 1, "{name}");
        assert_eq!(after[..before.len()], before[..], "{name}");
    }
}

#[test]
fn nothing_is_moved_that_does_not_have_to_be() {
    let registry = Registry::with_kong();
    let (source, destination) = (registry.kong("3.9"), registry.kong("3.9-lowport"));

    let first = registry.requests_of(|| {
        capatch(&["patch", &source, &destination]);
    });
    let base = image::text(&image::manifest()["layers"][0]["digest"]);
    let fetched = format!("GET /v2/kong/blobs/{base}");
    assert!(!first.contains(&fetched), "the layer below Kong's was downloaded: {first:#?}");
    let blobs = first.iter().filter(|request| request.starts_with("PUT /v2/kong/blobs/uploads/")).count();
    assert_eq!(blobs, 2, "not just the new layer and the config were uploaded: {first:#?}");
    let changes = ["POST ", "PATCH ", "PUT ", "DELETE "];
    let last = first.iter().rfind(|request| changes.iter().any(|method| request.starts_with(method)));
    assert_eq!(last.unwrap(), "PUT /v2/kong/manifests/3.9-lowport", "the tag has to move last: {first:#?}");

    let digest = registry.digest("3.9-lowport");
    let second = registry.requests_of(|| {
        let words = tools::words(&capatch(&["patch", &source, &destination]));
        assert!(words.contains("unchanged"), "the second run has to say so:\n{words}");
    });
    assert!(second.iter().any(|request| request.ends_with("/v2/kong/manifests/3.9-lowport")), "{second:#?}");
    // Docker's manifests have no annotations, so what the image says about itself is in its config.
    let patched: serde_json::Value = serde_json::from_str(&registry.raw_manifest("3.9-lowport")).unwrap();
    let config = format!("GET /v2/kong/blobs/{}", image::text(&patched["config"]["digest"]));
    for request in &second {
        assert!(
            !request.starts_with("GET /v2/kong/blobs/") || *request == config,
            "a layer was downloaded: {second:#?}"
        );
        assert!(!changes.iter().any(|method| request.starts_with(method)), "something was pushed: {second:#?}");
    }
    assert_eq!(registry.digest("3.9-lowport"), digest);
}

#[test]
fn umoci_unpacks_the_capability_and_leaves_the_parents_as_they_were() {
    let registry = patched();
    let work = tempfile::tempdir().unwrap();
    let layout = work.path().join("layout");
    let bundle = work.path().join("bundle");
    registry.copy_to_layout("3.9-lowport", &layout.display().to_string());
    run(command("umoci").args(["unpack", "--image"]).arg(format!("{}:3.9-lowport", layout.display())).arg(&bundle));

    let root = bundle.join("rootfs");
    let capabilities = run(command("getcap").arg("-r").arg(".").current_dir(&root));
    assert_eq!(capabilities.trim(), format!("./{NGINX} cap_net_bind_service=ep"));

    let metadata = run(command("stat").arg("--format=%n %u:%g %a %Y").current_dir(&root).args([
        "usr",
        "usr/local",
        "usr/local/openresty",
        "usr/local/openresty/nginx",
        "usr/local/openresty/nginx/sbin",
        NGINX,
        "usr/local/kong",
    ]));
    assert_eq!(
        metadata.lines().collect::<Vec<_>>(),
        [
            "usr 0:0 755 1735689600",
            "usr/local 0:0 755 1735689600",
            "usr/local/openresty 1000:1000 775 1735689600",
            "usr/local/openresty/nginx 1000:1000 775 1735689600",
            "usr/local/openresty/nginx/sbin 1000:1000 775 1735689600",
            "usr/local/openresty/nginx/sbin/nginx 1000:1000 775 1735689600",
            "usr/local/kong 1000:0 775 1735689600",
        ]
    );
    assert!(!root.join("etc/motd").exists(), "the top layer of the image deletes it");
}

#[test]
fn crane_finds_the_result_valid() {
    let Some(mut crane) = tools::crane() else {
        println!("not run: there is no Go to build crane with");
        return;
    };
    let registry = patched();
    run(crane.args(["validate", "--insecure", "--remote", &registry.kong("3.9-lowport")]));
}

#[test]
fn capatch_reads_back_what_it_wrote() {
    let registry = patched();
    let (source, destination) = (registry.kong("3.9"), registry.kong("3.9-lowport"));

    let getcap = |image: &str| String::from_utf8(capatch(&["getcap", image]).stdout).unwrap();
    assert_eq!(getcap(&destination), format!("/{NGINX} cap_net_bind_service=ep\n"));
    assert_eq!(getcap(&source), "");

    capatch(&["verify", &destination, "--base", &source]);
}

/// It has to be the container's own unprivileged user that listens, and nothing on the machine may have helped.
fn assert_answers_on_port_80(container: &Container<'_>) {
    let threshold = run(container.in_its_network("cat").arg("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
    assert_eq!(threshold.trim(), "1024", "here anybody may bind to port 80, so the test would show nothing");

    let deadline = Instant::now() + Duration::from_secs(20);
    // Without TLS on 443 either: what counts is who binds it.
    for port in [80, 443] {
        let url = format!("http://127.0.0.1:{port}/");
        let answer = loop {
            let mut curl = container.in_its_network("curl");
            curl.args(["--silent", "--show-error", "--fail", "--include", "--noproxy", "*", &url]);
            let output = tools::output(&mut curl);
            if output.status.success() {
                break tools::words(&output);
            }
            assert!(Instant::now() < deadline, "no answer on port {port}: {}", tools::words(&output));
            sleep(Duration::from_millis(50));
        };
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with("kong is here\n"), "{answer}");
    }

    assert_eq!(container.status("Name"), "nginx");
    assert_eq!(container.status("Uid"), "1000 1000 1000 1000");
    assert_eq!(container.status("CapEff"), "0000000000000400", "cap_net_bind_service and nothing else");
}

#[test]
fn the_patched_image_answers_on_port_80_and_the_unpatched_one_cannot() {
    let registry = patched();
    let containerd = Containerd::start();

    containerd.pull(&registry.kong("3.9"));
    let words = containerd.run_to_its_bad_end(&registry.kong("3.9"));
    assert!(words.contains(REFUSED), "it ended for another reason:\n{words}");

    containerd.pull(&registry.kong("3.9-lowport"));
    assert_answers_on_port_80(&containerd.start_container(&registry.kong("3.9-lowport"), "patched"));
}

#[test]
fn a_trip_through_a_layout_changes_nothing() {
    let registry = patched();
    let containerd = Containerd::start();
    let work = tempfile::tempdir().unwrap();

    // From the registry into a layout: the same image, byte for byte.
    let layout = work.path().join("layout").display().to_string();
    capatch(&["patch", &registry.kong("3.9"), &format!("oci:{layout}:3.9-lowport")]);
    let index = image::json(&fs::read_to_string(format!("{layout}/index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["digest"], registry.digest("3.9-lowport").as_str());
    containerd.import_layout(&layout, "layout.example/kong");
    assert_answers_on_port_80(&containerd.start_container("layout.example/kong:3.9-lowport", "from-layout"));

    // From a layout into the registry: skopeo wrote it, so the media types are those of OCI.
    let source = work.path().join("source").display().to_string();
    registry.copy_to_layout("3.9", &source);
    capatch(&["patch", &format!("oci:{source}:3.9"), &registry.kong("3.9-from-layout")]);
    let manifest = image::json(&registry.raw_manifest("3.9-from-layout"));
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    assert!(layers.iter().all(|layer| layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"));
    let docker = image::json(&registry.raw_manifest("3.9-lowport"));
    assert_eq!(layers[3]["digest"], docker["layers"][3]["digest"], "the same file has to give the same layer");
    containerd.pull(&registry.kong("3.9-from-layout"));
    assert_answers_on_port_80(&containerd.start_container(&registry.kong("3.9-from-layout"), "from-registry"));
}
