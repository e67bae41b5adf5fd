//! Images in containerd, through the command line: in, out, patched in place, collected, and killed in the middle.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::containerd::Containerd;
use crate::registry::Registry;
use crate::tools::{self, run};
use crate::{assert_answers_on_port_80, image};

/// What an image names, by containerd itself; fails if any of it is absent.
fn assert_complete(containerd: &Containerd, name: &str) {
    let check = run(&mut containerd.ctr(&["images", "check", &format!("name=={name}")]));
    assert!(check.lines().any(|line| line.starts_with(name) && line.contains("complete")), "{check}");
}

/// The labels of all content, by digest, without those that unpacking adds.
fn labels(containerd: &Containerd, namespace: &str) -> BTreeMap<String, Vec<String>> {
    let list = run(containerd.ctr(&["content", "ls"]).env("CONTAINERD_NAMESPACE", namespace));
    const KINDS: [&str; 2] = ["containerd.io/gc.ref.content.", "containerd.io/distribution.source."];
    let labels = |line: &str| {
        let digest = line.split_whitespace().next().unwrap().to_owned();
        let labels = line.split_whitespace().last().unwrap().split(',');
        let mut labels: Vec<_> =
            labels.filter(|label| KINDS.iter().any(|kind| label.starts_with(kind))).map(str::to_owned).collect();
        labels.sort();
        (digest, labels)
    };
    list.lines().skip(1).map(labels).collect()
}

#[test]
fn a_patched_image_in_containerd_runs_and_survives_garbage_collection() {
    let registry = Registry::with_kong();
    for containerd in Containerd::start_each("") {
        // From the registry.
        let (source, patched) = (registry.kong("3.9"), registry.kong("3.9-lowport"));
        run(&mut containerd.capatch(&["patch", &source, &format!("containerd:{patched}")]));
        containerd.collect_garbage();
        assert_complete(&containerd, &patched);
        assert_answers_on_port_80(&containerd.start_container(&patched, "from-registry"));

        // In containerd alone, from an image that containerd has pulled itself.
        containerd.pull(&source);
        let inside = "inside.example/kong:3.9-lowport";
        let words =
            run(&mut containerd.capatch(&["patch", &format!("containerd:{source}"), &format!("containerd:{inside}")]));
        assert!(words.contains("downloaded 0 B"), "{words}");
        containerd.collect_garbage();
        for name in [&source, &patched] {
            run(&mut containerd.ctr(&["images", "rm", "--sync", name]));
        }
        assert_complete(&containerd, inside);
        assert_answers_on_port_80(&containerd.start_container(inside, "inside"));
        let capabilities = run(&mut containerd.capatch(&["getcap", &format!("containerd:{inside}")]));
        assert_eq!(capabilities, format!("/{} cap_net_bind_service=ep\n", image::NGINX));

        // The same once more moves nothing.
        run(&mut containerd.capatch(&["copy", &source, &format!("containerd:{source}")]));
        let again =
            run(&mut containerd.capatch(&["patch", &format!("containerd:{source}"), &format!("containerd:{inside}")]));
        assert!(again.starts_with("unchanged"), "{again}");
        assert_eq!(run(&mut containerd.ctr(&["leases", "ls", "--quiet"])), "");
    }
}

#[test]
fn content_has_the_labels_that_containerd_gives_it() {
    let registry = Registry::with_kong();
    let name = registry.kong("3.9");
    for containerd in Containerd::start_each("") {
        run(&mut containerd.capatch(&["copy", &name, &format!("containerd:{name}")]));
        let ours = labels(&containerd, &containerd.namespace);
        run(&mut containerd.ctr(&["images", "rm", "--sync", &name]));
        assert_eq!(containerd.content(), Vec::<String>::new());
        containerd.pull(&name);
        let theirs = labels(&containerd, &containerd.namespace);
        assert_eq!(ours.len(), 5, "{ours:#?}");
        for (digest, theirs) in &theirs {
            let ours = &ours[digest];
            let is_manifest = *digest == image::manifest_digest();
            // We know where a manifest came from, but it is small.
            let theirs: Vec<_> = theirs.iter().filter(|label| !is_manifest || label.contains("gc.ref")).collect();
            assert_eq!(ours.iter().collect::<Vec<_>>(), theirs, "{digest}");
        }
    }
}

#[test]
fn of_an_image_that_was_pulled_for_one_platform_that_one_can_be_patched() {
    let registry = Registry::with_kong();
    let here = image::json(&registry.raw_manifest("3.9"));
    registry.put_manifest("3.9-other", image::text(&here["mediaType"]).as_str(), &here.to_string());
    let entry = |tag: &str, architecture: &str| {
        let size = registry.raw_manifest(tag).len();
        serde_json::json!({
            "mediaType": here["mediaType"], "digest": registry.digest(tag), "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let architecture = image::text(&image::config()["architecture"]);
    let media_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    let manifests = [entry("3.9-other", "s390x"), entry("3.9", &architecture)];
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    registry.put_manifest("multi", media_type, &index.to_string());
    let (multi, patched) = (registry.kong("multi"), "inside.example/kong:lowport");
    let layouts = tempfile::tempdir().unwrap();
    for (number, containerd) in Containerd::start_each("").into_iter().enumerate() {
        containerd.pull(&multi);
        // Kubernetes does not even fetch the manifests of other platforms; ctr does in some versions.
        tools::output(&mut containerd.ctr(&["content", "rm", &registry.digest("3.9-other")]));
        let (source, destination) = (format!("containerd:{multi}"), format!("containerd:{patched}"));
        let shown = run(&mut containerd.capatch(&["inspect", "--no-layers", &source]));
        assert!(shown.contains("linux/s390x (not pulled)"), "{shown}");
        // Elsewhere the whole image is wanted, or what there is of it by its name.
        let layout = format!("oci:{}", layouts.path().join(number.to_string()).display());
        let output = tools::output(&mut containerd.capatch(&["copy", &source, &format!("{layout}:all")]));
        let words = tools::words(&output);
        assert_eq!(output.status.code(), Some(3), "{words}");
        let hint = format!("@{} for linux/{architecture}", image::manifest_digest());
        assert!(words.contains(&hint) && !words.contains("s390x"), "{words}");
        let platform = format!("linux/{architecture}");
        run(&mut containerd.capatch(&["copy", "--platform", &platform, &source, &format!("{layout}:one")]));
        run(&mut containerd.capatch(&["verify", &format!("{layout}:one")]));
        // In the same containerd, what was not pulled stays what it was.
        let said = run(&mut containerd.capatch(&["patch", "--json", &source, &destination]));
        assert!(said.contains("for linux/s390x was not pulled and stays as it is"), "{said}");
        let caps = run(&mut containerd.capatch(&["getcap", &destination]));
        assert_eq!(caps, format!("/{} cap_net_bind_service=ep\n", image::NGINX));
        run(&mut containerd.ctr(&["images", "rm", "--sync", &multi]));
        assert_complete(&containerd, patched);
    }
}

#[test]
fn images_leave_containerd_byte_for_byte() {
    let registry = Registry::with_kong();
    let work = tempfile::tempdir().unwrap();
    for (number, containerd) in Containerd::start_each("").iter().enumerate() {
        let (source, tag) = (registry.kong("3.9"), format!("3.9-{number}"));
        containerd.pull(&source);
        let source = format!("containerd:{source}");
        let layout = format!("oci:{}:3.9", work.path().join(format!("layout-{number}")).display());
        let archive = format!("oci-archive:{}:3.9", work.path().join(format!("{number}.tar")).display());
        let pushed = registry.kong(&tag);
        for destination in [&layout, &archive, &pushed, "containerd:copied.example/kong:3.9"] {
            run(&mut containerd.capatch(&["copy", &source, destination]));
            let digest = run(&mut containerd.capatch(&["verify", "--json", destination]));
            assert!(digest.contains(&image::manifest_digest()), "{destination}: {digest}");
        }
        assert_eq!(registry.digest(&tag), image::manifest_digest());
        for (name, source) in [("layout.example/kong:3.9", &layout), ("archive.example/kong:3.9", &archive)] {
            run(&mut containerd.capatch(&["copy", source, &format!("containerd:{name}")]));
            assert_complete(containerd, name);
        }
        containerd.collect_garbage();
        let by_digest = format!("containerd:copied.example/kong@{}", image::manifest_digest());
        run(&mut containerd.capatch(&["verify", &by_digest]));
    }
}

#[test]
fn a_killed_copy_is_completed_by_the_next_and_shows_nothing_before() {
    let work = tempfile::tempdir().unwrap();
    let (layout, size) = big_layout(work.path());
    for containerd in Containerd::start_each("") {
        let name = "big.example/image:1";
        let destination = format!("containerd:{name}");
        let started = Instant::now();
        for round in 1.. {
            let mut child = containerd.capatch(&["copy", &layout, &destination]).stdout(Stdio::null()).spawn().unwrap();
            sleep(Duration::from_millis(40 * round));
            let _ = child.kill();
            if child.wait().unwrap().success() {
                break;
            }
            // It may have been killed in the moment after the name was given.
            if !run(&mut containerd.ctr(&["images", "ls", "--quiet"])).is_empty() {
                assert_complete(&containerd, name);
                break;
            }
            containerd.collect_garbage();
            assert!(started.elapsed() < Duration::from_secs(60), "it does not get on");
        }
        run(&mut containerd.capatch(&["copy", &layout, &destination]));
        run(&mut containerd.capatch(&["verify", &destination]));
        let active = run(&mut containerd.ctr(&["content", "active"]));
        assert_eq!(active.lines().count(), 1, "{active}");
        containerd.collect_garbage();
        assert_complete(&containerd, name);
        println!("{size} bytes in {:?}", started.elapsed());
    }
}

/// A layout with an image of one large layer.
fn big_layout(work: &Path) -> (String, u64) {
    let layer = work.join("noise");
    let size = 150 << 20;
    io::copy(&mut File::open("/dev/urandom").unwrap().take(size), &mut File::create(&layer).unwrap()).unwrap();
    let layout = work.join("layout");
    let umoci = |args: &[&str]| run(tools::command("umoci").args(args));
    umoci(&["init", "--layout", &layout.display().to_string()]);
    let image = format!("{}:1", layout.display());
    umoci(&["new", "--image", &image]);
    umoci(&["insert", "--image", &image, &layer.display().to_string(), "/noise"]);
    (format!("oci:{image}"), size)
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let containerd = Containerd::start();
    let failed = |command: &mut std::process::Command, code: i32, says: &[&str]| {
        let output = tools::output(command);
        let words = tools::words(&output);
        assert_eq!(output.status.code(), Some(code), "{words}");
        says.iter().for_each(|says| assert!(words.contains(says), "{words}"));
    };
    failed(
        &mut containerd.capatch(&["inspect", "containerd:kong:3.9"]),
        3,
        &["docker.io/library/kong:3.9", "namespace"],
    );
    let nowhere = ["inspect", "containerd:kong:3.9", "--containerd-address", "/nowhere/containerd.sock"];
    failed(&mut containerd.capatch(&nowhere), 3, &["there is no containerd socket /nowhere/containerd.sock", "hint"]);
    let namespace = ["inspect", "containerd:kong:3.9", "--containerd-namespace", "a/b"];
    failed(&mut containerd.capatch(&namespace), 2, &["'a/b' is not a containerd namespace"]);
    let mut nobody = tools::command("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_capatch")]);
    nobody.args(["inspect", "containerd:kong:3.9", "--containerd-address"]).arg(containerd.socket());
    failed(&mut nobody, 4, &["is not for you to use", "sudo"]);
}
