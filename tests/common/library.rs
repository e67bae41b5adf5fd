//! Runs the library in this process, where no waits are needed.

use std::fs;
use std::io::Write;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use capatch::copy::{self, Memory};
use capatch::error::Result;
use capatch::limits::Limits;
use capatch::oci::reference::Reference;
use capatch::patch;
use capatch::profile::PROFILES;
use capatch::progress::{Progress, Silent};
use capatch::transport::registry::{Client, Options};
use capatch::transport::{LOCK_TIMEOUT, Place, Transports, containerd};

use super::image::Scene;
use super::registry::Registry;

pub const PASSWORD: &str = "canary-password";

/// How to talk to registries: by nothing that the machine has set, but logins, and nearly without waits.
pub fn options() -> Options {
    Options {
        cert_dir: Some("/does/not/exist".into()),
        registries_conf: Some("/dev/null".into()),
        hosts_dir: Some("/dev/null".into()),
        retry_base: Duration::from_millis(1),
        ..Options::default()
    }
}

/// A credentials file with this content, which has no name on the disk and vanishes with the process. A client reads it only
/// when a registry asks for a login.
pub fn auth_file(config: &str) -> PathBuf {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    format!("/proc/self/fd/{}", file.into_raw_fd()).into()
}

/// Transports that remember nothing, wait for next to nothing, and know the password for `registries`.
pub fn transports(scene: &Scene, registries: &[&Registry]) -> Transports {
    let auths: Vec<String> = registries
        .iter()
        .map(|registry| format!(r#""{}":{{"username":"user","password":"{PASSWORD}"}}"#, registry.host()))
        .collect();
    fs::write(scene.path("auth.json"), format!(r#"{{"auths":{{{}}}}}"#, auths.join(","))).unwrap();
    let registries = Client::new(Options {
        auth_file: Some(scene.path("auth.json")),
        max_wait: Duration::from_secs(2),
        retry_base: Duration::ZERO,
        stall: Duration::from_secs(5),
        ..options()
    });
    let containerd = containerd::Options { address: scene.path("none"), namespace: "none".into() };
    Transports {
        registries: registries.unwrap(),
        containerd,
        docker: String::new(),
        limits: Limits::default(),
        lock_timeout: LOCK_TIMEOUT,
    }
}

/// Runs `work` from one place to another, and ends the writing.
fn on_the_way<T>(
    source: &str,
    destination: &str,
    transports: &Transports,
    work: impl AsyncFnOnce(&copy::Route<'_>, &Arc<dyn Progress>) -> Result<T>,
) -> Result<T> {
    let (source, destination): (Reference, Reference) = (source.parse()?, destination.parse()?);
    let (from, to) = (Place::of(&source, transports)?, Place::of(&destination, transports)?.for_push(&source));
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        to.prepare()?;
        let route = copy::Route { from: &from, source: &source, to: &to, destination: &destination };
        let outcome = work(&route, &progress).await?;
        to.finish(&progress).await.map(|()| outcome)
    })
}

/// Copies, and replaces what is there.
pub fn copied(source: &str, destination: &str, transports: &Transports) -> Result<copy::Outcome> {
    let options = copy::Options {
        platforms: Vec::new(),
        referrers: false,
        foreign_layers: true,
        replace: true,
        force: false,
        dry_run: false,
        jobs: 2,
        memory: Memory::default(),
    };
    on_the_way(source, destination, transports, async |route, progress| copy::image(route, &options, progress).await)
}

/// Patches as by default, with a label.
pub fn patched(source: &str, destination: &str, label: &str, transports: &Transports) -> Result<patch::Outcome> {
    let profile = &PROFILES[0];
    let options = patch::Options {
        profile,
        capabilities: patch::Edit::Add(profile.capabilities()?),
        files: Vec::new(),
        expose: profile.exposed()?,
        unexpose: Vec::new(),
        listen: None,
        env: Vec::new(),
        labels: vec![("label".to_owned(), label.to_owned())],
        platforms: Vec::new(),
        created: None,
        foreign_layers: false,
        force: false,
        jobs: 2,
        memory: Memory::default(),
        layers: patch::Cache::default(),
        limits: Limits::default(),
    };
    on_the_way(source, destination, transports, async |route, progress| {
        patch::apply(route, &options, false, progress).await
    })
}
