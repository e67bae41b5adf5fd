//! A capability that is taken away again: other people's programs unpack none, and nginx loses port 80.

use std::path::{Path, PathBuf};

use crate::containerd::Containerd;
use crate::image::NGINX;
use crate::registry::Registry;
use crate::tools::{self, capatch, command, run};
use crate::{REFUSED, patched};

/// The root file system of `kong:TAG`, unpacked by umoci below `work`.
fn unpacked(registry: &Registry, tag: &str, work: &Path) -> PathBuf {
    let (layout, bundle) = (work.join("layout").join(tag), work.join(tag));
    registry.copy_to_layout(tag, &layout.display().to_string());
    run(command("umoci").args(["unpack", "--image"]).arg(format!("{}:{tag}", layout.display())).arg(&bundle));
    bundle.join("rootfs")
}

fn getcap(root: &Path) -> String {
    run(command("getcap").arg("-r").arg(".").current_dir(root))
}

/// Owner, mode, times and links of nginx, and its sum.
fn nginx(root: &Path) -> String {
    let metadata = run(command("stat").arg("--format=%u:%g %a %Y %s %h").arg(NGINX).current_dir(root));
    format!("{metadata}{}", run(command("sha256sum").arg(NGINX).current_dir(root)))
}

#[test]
fn a_capability_that_was_taken_away_is_gone_and_port_80_with_it() {
    let registry = patched();
    let (low, plain) = (registry.kong("3.9-lowport"), registry.kong("3.9-plain"));
    let said = tools::words(&capatch(&["patch", &low, &plain, "--remove-caps", "--unexpose", "80,443"]));
    assert!(said.contains("cap_net_bind_service=ep → none"), "{said}");
    capatch(&["verify", &plain, "--base", &low]);

    // The same as setcap(8) makes of the patched one.
    let work = tempfile::tempdir().unwrap();
    std::fs::create_dir(work.path().join("layout")).unwrap();
    let [with, without] = ["3.9-lowport", "3.9-plain"].map(|tag| unpacked(&registry, tag, work.path()));
    assert_eq!(getcap(&with).trim(), format!("./{NGINX} cap_net_bind_service=ep"));
    assert_eq!(getcap(&without), "");
    run(command("setcap").arg("-r").arg(with.join(NGINX)));
    assert_eq!(getcap(&with), getcap(&without));
    assert_eq!(nginx(&with), nginx(&without));

    let containerd = Containerd::start();
    containerd.pull(&plain);
    let words = containerd.run_to_its_bad_end(&plain);
    assert!(words.contains(REFUSED), "it ended for another reason:\n{words}");
}
