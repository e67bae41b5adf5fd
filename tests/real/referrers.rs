//! Signatures and SBOMs between a registry that has the referrers API and one that has not, as oras made them and as oras
//! finds them. Where there is no Go, there is neither oras nor such a registry.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::Registry;
use crate::image;
use crate::tools::{self, command, run};

/// go-containerregistry's registry, with its referrers API.
struct WithApi {
    process: Child,
    host: String,
}

impl WithApi {
    fn start() -> Option<Self> {
        let program = tools::built_with_go("referrers")?;
        let mut serve = command("setpriv");
        serve.args(["--pdeathsig", "KILL"]).arg(program).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = serve.spawn().unwrap();
        let mut host = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut host).unwrap();
        Some(WithApi { process, host: host.trim().to_owned() })
    }
}

impl Drop for WithApi {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn oras(arguments: &[&str]) -> Command {
    let mut oras = command(tools::built_with_go("oras").unwrap());
    oras.args(arguments);
    oras
}

/// The digests of what refers to `image`, and of what refers to that.
fn discovered(image: &str) -> Vec<String> {
    let plain: &[&str] = if image.starts_with('/') { &["--oci-layout"] } else { &["--plain-http"] };
    let said = run(oras(&["discover", "--format", "json"]).args(plain).arg(image));
    fn collect(node: &serde_json::Value, into: &mut Vec<String>) {
        for referrer in node["referrers"].as_array().into_iter().flatten() {
            into.push(referrer["digest"].as_str().unwrap().to_owned());
            collect(referrer, into);
        }
    }
    let mut digests = Vec::new();
    collect(&image::json(&said), &mut digests);
    digests.sort();
    digests
}

#[test]
fn oras_finds_what_refers_to_a_copied_image() {
    let without_api = Registry::with_kong();
    let Some(with_api) = WithApi::start() else { return };
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("sbom"), "a list of packages").unwrap();
    fs::write(work.path().join("signature"), "signed").unwrap();
    let source = without_api.kong("3.9");
    let attach = |to: &str, file: &str, kind: &str| -> String {
        let mut oras = oras(&["attach", "--plain-http", "--format", "json", "--artifact-type", kind, to, file]);
        image::json(&run(oras.current_dir(work.path())))["digest"].as_str().unwrap().to_owned()
    };
    let sbom = attach(&source, "sbom", "application/vnd.example.sbom");
    let repository = source.rsplit_once(':').unwrap().0;
    attach(&format!("{repository}@{sbom}"), "signature", "application/vnd.example.signature");
    let expected = discovered(&source);
    assert_eq!(expected.len(), 2);

    let layout = work.path().join("layout").display().to_string();
    let archive = format!("oci-archive:{}:3.9", work.path().join("archive.tar").display());
    let again = Registry::start();
    for (from, to, found) in [
        // From the tag that stands in for the API, to the API, and back.
        (source.clone(), format!("{}/kong:3.9", with_api.host), format!("{}/kong:3.9", with_api.host)),
        (format!("{}/kong:3.9", with_api.host), again.kong("3.9"), again.kong("3.9")),
        // Through a layout, and through an archive.
        (source, format!("oci:{layout}:3.9"), format!("{layout}:3.9")),
        (format!("oci:{layout}:3.9"), archive.clone(), String::new()),
        (archive, again.kong("archived"), again.kong("archived")),
    ] {
        tools::capatch(&["copy", "--referrers", &from, &to]);
        if !found.is_empty() {
            assert_eq!(discovered(&found), expected, "{from} to {to}");
        }
    }
}
