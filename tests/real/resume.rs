//! A real registry behind a connection that breaks: what is sent again, and that the right bytes arrive.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::spawn;

use crate::registry::Registry;
use crate::tools::{capatch, command, run};
use crate::{image, tools};

const SIZE: u64 = 40_000_000;
const CUT: u64 = 25_000_000;

/// Passes bytes on to `port`, and breaks the first connection that carries more than [`CUT`] of them.
struct Wire {
    port: u16,
    sent: Arc<AtomicU64>,
}

impl Wire {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire { port: listener.local_addr().unwrap().port(), sent: Arc::default() };
        let (sent, whole) = (wire.sent.clone(), Arc::new(AtomicU64::new(0)));
        spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (back, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                spawn(move || pass(answers, back, |_| true));
                let (sent, whole) = (sent.clone(), whole.clone());
                let mut carried = 0;
                spawn(move || {
                    pass(client, server, |bytes| {
                        sent.fetch_add(bytes, Ordering::SeqCst);
                        carried += bytes;
                        carried <= CUT || whole.swap(1, Ordering::SeqCst) == 1
                    });
                });
            }
        });
        wire
    }
}

/// Copies until one side ends or `goes_on` says no, then breaks both.
fn pass(mut from: TcpStream, mut to: TcpStream, mut goes_on: impl FnMut(u64) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() || !goes_on(read as u64) {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A layout with an artifact of one blob, which does not compress.
fn artifact(directory: &Path) -> String {
    let layout = directory.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let file = directory.join("blob");
        fs::write(&file, bytes).unwrap();
        let digest = image::sha256(&file);
        fs::rename(&file, blobs.join(digest.trim_start_matches("sha256:"))).unwrap();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
    };
    let mut bytes = Vec::new();
    fs::File::open("/dev/urandom").unwrap().take(SIZE).read_to_end(&mut bytes).unwrap();
    let (config, blob) = (put("application/vnd.oci.empty.v1+json", b"{}"), put("application/octet-stream", &bytes));
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","artifactType":"x/y","config":{config},"layers":[{blob}]}}"#
    );
    let root = put(kind, manifest.as_bytes());
    let named = root.replacen('}', r#","annotations":{"org.opencontainers.image.ref.name":"1"}}"#, 1);
    fs::write(layout.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#)).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    format!("oci:{}:1", layout.display())
}

/// distribution 2 refuses a session after a request to it broke (`upload resumed at wrong offset`), so the blob is sent
/// from the start, once; where sessions can be gone on with is tested with a registry of ours.
#[test]
fn docker_registry_gets_a_blob_whose_upload_broke_from_the_start_and_right() {
    let registry = Registry::start();
    let wire = Wire::to(registry.port);
    let work = tempfile::tempdir().unwrap();
    let source = artifact(work.path());
    let state = work.path().join("state");
    let destination = format!("127.0.0.1:{}/a:1", wire.port);
    run(command(env!("CARGO_BIN_EXE_capatch")).args(["copy", &source, &destination]).env("XDG_STATE_HOME", &state));
    let sent = wire.sent.load(Ordering::SeqCst);
    assert!((SIZE + CUT..SIZE + CUT + 2_000_000).contains(&sent), "{sent} bytes were sent");
    capatch(&["verify", &format!("127.0.0.1:{}/a:1", registry.port)]);
    let left = tools::run(command("find").arg(&state).args(["-type", "f"]));
    assert_eq!(left, "", "a session is remembered that is over");
}
