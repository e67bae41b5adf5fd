//! Manifests as people have them, and `capatch k8s` on them.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::cli::{Run, capatch};
use super::files;

pub const NEW: &str = "registry.example.com/kong:3.9-lowport";

pub fn path(name: &str) -> String {
    files::at(&format!("testdata/k8s/{name}"))
}

pub fn read(name: &str) -> String {
    files::read(&format!("testdata/k8s/{name}"))
}

/// Every fixture that can be edited.
pub fn fixtures() -> Vec<(String, String)> {
    let directory = fs::read_dir(path("")).unwrap();
    let names = directory.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut all: Vec<_> = names.filter(|name| name != "write-up-tabs.yaml").map(|n| (n.clone(), read(&n))).collect();
    all.sort();
    assert!(all.len() >= 11);
    all
}

/// Edits `text` from standard input.
pub fn edit(arguments: &[&str], text: &str) -> Run {
    let mut command = capatch(["k8s", "-"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, text) = (child.stdin.take().unwrap(), text.to_owned());
    // What is refused early is not read to its end.
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let run = child.wait_with_output().unwrap().into();
    let _ = writer.join().unwrap();
    run
}

/// Any Kong of the fixtures becomes [`NEW`].
pub const KONG: [&str; 7] = ["--image", NEW, "--old", "kong", "--old", "kong/kong", "--stream"];

/// The documents as data, read by another reader than the one that edits.
pub fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple::<Value>(text).unwrap().into_iter().filter(|document| !document.is_null()).collect()
}
