//! What Kubernetes itself says to objects: `tests/apiserver`, a program of its own packages. There is none where there is no
//! Go to build it with.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What is said to one object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub kind: String,
    /// Whether the program knows the kind.
    pub known: bool,
    /// Why the object is refused.
    #[serde(deserialize_with = "list")]
    pub errors: Vec<String>,
    /// Why its pods are refused, which its controller makes.
    #[serde(deserialize_with = "list")]
    pub pod_errors: Vec<String>,
    /// What violates these levels of Pod Security.
    pub baseline: String,
    pub restricted: String,
    /// The containers of its pod as the kubelet sees them, by their names.
    pub containers: BTreeMap<String, Value>,
}

/// A list of Go, which may be null.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The answers to documents, each with one object or a list of them.
pub fn answers<S: AsRef<str>>(documents: &[S]) -> Option<Vec<Vec<Answer>>> {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools/bin/apiserver");
    if !built.exists() {
        let go = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        assert!(!go, "Go is there, but {} is not: run tests/all.sh, which builds it", built.display());
        return None;
    }
    let mut child = Command::new(built).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text: Vec<&str> = documents.iter().map(|document| document.as_ref().trim()).collect();
    let text = text.join("\n---\n");
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let answers: Vec<_> =
        output.stdout.split_inclusive(|b| *b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(answers.len(), documents.len());
    Some(answers)
}
