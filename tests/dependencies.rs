//! What `deny.toml` forbids is not in `Cargo.lock`. The licences and the advisories are for `cargo deny`.

#![allow(clippy::unwrap_used)]

use std::fs;

use semver::{Version, VersionReq};
use toml::Table;

fn read(name: &str) -> Table {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap().parse().unwrap()
}

/// Name, version and source of every package that is not ours.
fn locked() -> Vec<(String, Version, String)> {
    let lock = read("Cargo.lock");
    let packages = lock["package"].as_array().unwrap().iter().filter(|package| package.get("source").is_some());
    let text = |package: &toml::Value, name: &str| package[name].as_str().unwrap().to_owned();
    packages.map(|p| (text(p, "name"), text(p, "version").parse().unwrap(), text(p, "source"))).collect()
}

/// The packages that `deny.toml` forbids.
fn banned() -> Vec<(String, VersionReq)> {
    let deny = read("deny.toml");
    let bans = deny["bans"]["deny"].as_array().unwrap();
    let ban = |ban: &toml::Value| {
        let named = ban["crate"].as_str().unwrap();
        let (name, versions) = named.split_once('@').unwrap_or((named, "*"));
        (name.to_owned(), versions.parse().unwrap())
    };
    bans.iter().map(ban).collect()
}

/// The first package that is banned.
fn first_banned(packages: &[(String, Version, String)]) -> Option<String> {
    let banned = banned();
    let is_banned = |(name, version, _): &&(String, Version, String)| {
        banned.iter().any(|(banned, versions)| banned == name && versions.matches(version))
    };
    packages.iter().find(is_banned).map(|(name, version, _)| format!("{name} {version}"))
}

// B26, D11, D12, I9
#[test]
fn no_banned_version_is_locked() {
    assert_eq!(first_banned(&locked()), None);
    for (name, version, is_banned) in [
        ("tar", "0.4.45", true),
        ("tar", "0.4.46", false),
        ("h2", "0.4.15", true),
        ("h2", "0.4.16", false),
        ("tokio-tar", "99.0.0", true),
        ("astral-tokio-tar", "0.6.1", true),
        ("rustls-pemfile", "2.2.0", true),
        ("idna", "0.5.0", true),
    ] {
        let package = (name.to_owned(), version.parse().unwrap(), String::new());
        assert_eq!(first_banned(&[package]).is_some(), is_banned, "{name} {version}");
    }
}

#[test]
fn every_package_comes_from_crates_io() {
    for (name, _, source) in locked() {
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
    }
}
