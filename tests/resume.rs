//! Uploads that break off: in the middle of a run, and with the run itself.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use capatch::error::Result;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::reference;
use capatch::transport::registry::{Client, Options, Pushed, Repository};
use common::cli::{Run, capatch, start};
use common::image::{Content, Scene};
use common::registry::{Cut, Ending, Registry, Reply, Request};

const MIB: u64 = 1 << 20;

/// Bytes that no piece of is like another, and that do not compress.
fn content(length: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length as usize).collect()
}

fn options() -> Options {
    Options {
        registries_conf: Some("/dev/null".into()),
        hosts_dir: Some("/dev/null".into()),
        retry_base: Duration::from_millis(1),
        ..Options::default()
    }
}

fn repository_of(client: &Client, registry: &Registry) -> Repository {
    client.repository(&reference::Repository { registry: registry.host(), path: "a".into() }).unwrap()
}

fn repository(registry: &Registry) -> Repository {
    repository_of(&Client::new(options()).unwrap(), registry)
}

async fn push(registry: &Registry, bytes: &[u8]) -> Result<Pushed> {
    let descriptor = Descriptor::new("x", Digest::of(bytes), bytes.len() as u64).unwrap();
    // In pieces, as a stream from elsewhere has them.
    let mut file = std::io::Cursor::new(bytes);
    let spool = capatch::blob::Spool::from_reader(&mut file).unwrap();
    repository(registry).push_blob(&descriptor, &spool.into(), None).await
}

/// What was sent of the blob: `METHOD range length`.
fn sent(registry: &Registry) -> Vec<String> {
    let log = registry.log();
    let bodies = log.iter().filter(|r| r.path.contains("/uploads/") && matches!(r.method.as_str(), "PATCH" | "PUT"));
    bodies.map(|r| format!("{} {} {}", r.method, r.header("content-range").unwrap_or("-"), r.body.len())).collect()
}

#[tokio::test]
async fn an_upload_goes_on_where_the_registry_says_that_it_stopped() {
    let registry = Registry::start();
    let bytes = content(12 * MIB + 5);
    registry.cut_uploads([Cut::Dropped(3 * MIB), Cut::Dropped(4 * MIB + 1)]);
    assert_eq!(push(&registry, &bytes).await.unwrap(), Pushed::Uploaded);
    let last = bytes.len() - 1;
    assert_eq!(
        sent(&registry),
        [
            format!("PUT - {}", 3 * MIB),
            format!("PATCH {}-{last} {}", 3 * MIB, 4 * MIB + 1),
            format!("PATCH {}-{last} {}", 7 * MIB + 1, 5 * MIB + 4),
            "PUT - 0".to_owned(),
        ]
    );
    assert_eq!(registry.received(), bytes.len() as u64);
    assert!(registry.blob("a", &Digest::of(&bytes)).unwrap() == bytes);
    assert_eq!(registry.open_uploads(), 0);
}

#[tokio::test]
async fn progress_is_what_attempts_are_counted_by() {
    let registry = Registry::start();
    let bytes = content(32 * MIB);
    registry.cut_uploads((0..20).map(|n| Cut::Dropped(MIB + n * 10_007)));
    push(&registry, &bytes).await.unwrap();
    assert_eq!(registry.received(), bytes.len() as u64);
    assert!(registry.blob("a", &Digest::of(&bytes)).unwrap() == bytes);
    // Without any, there is an end.
    let registry = Registry::start();
    registry.cut_uploads((0..100).map(|_| Cut::Dropped(1000)));
    assert!(push(&registry, &bytes).await.is_err());
    assert!(registry.received() < 100_000, "{:?}", sent(&registry));
}

#[tokio::test]
async fn small_blobs_are_sent_again() {
    let registry = Registry::start();
    let bytes = content(2 * MIB);
    registry.cut_uploads([Cut::Dropped(MIB + 1)]);
    push(&registry, &bytes).await.unwrap();
    assert_eq!(sent(&registry), [format!("PUT - {}", MIB + 1), format!("PUT - {}", 2 * MIB)]);
}

#[tokio::test]
async fn a_registry_that_cannot_go_on_gets_it_from_the_start() {
    type Fault = fn(&common::registry::Request, &dyn Fn() -> Reply) -> Option<Reply>;
    let faults: [(&str, Fault); 6] = [
        // docker-registry 2 of a session whose size is not what its URL says.
        ("invalid", |r, _| r.is("GET", "/uploads/").then(|| Reply::error(404, "BLOB_UPLOAD_INVALID"))),
        ("no range", |r, _| r.is("GET", "/uploads/").then(|| Reply::new(204))),
        ("none", |r, real| r.is("GET", "/uploads/").then(|| real().header("range", "0-0"))),
        ("beyond the end", |r, real| r.is("GET", "/uploads/").then(|| real().header("range", "0-99999999"))),
        // It says that it has more than it has, and takes what it is sent.
        ("a lie", |r, real| match r.method.as_str() {
            "GET" if r.path.contains("/uploads/") => Some(real().header("range", format!("0-{}", 4 * MIB - 1))),
            "PATCH" => Some(Reply::new(202)),
            _ => None,
        }),
        ("unknown", |r, _| r.is("PATCH", "/uploads/").then(|| Reply::error(404, "BLOB_UPLOAD_UNKNOWN"))),
    ];
    for (name, fault) in faults {
        let registry = Registry::start();
        let bytes = content(9 * MIB);
        registry.cut_uploads([Cut::Dropped(3 * MIB)]);
        registry.fault(fault);
        push(&registry, &bytes).await.unwrap();
        assert!(registry.blob("a", &Digest::of(&bytes)).unwrap() == bytes, "{name}");
        let all = sent(&registry);
        assert!(all.last().unwrap() == &format!("PUT - {}", bytes.len()) && all.len() <= 4, "{name}: {all:?}");
    }
}

#[tokio::test]
async fn what_changed_in_between_is_never_completed() {
    let registry = Registry::start();
    let bytes = Bytes::from(content(12 * MIB));
    let descriptor = Descriptor::new("x", Digest::of(&bytes), bytes.len() as u64).unwrap();
    let times = std::sync::Arc::new(AtomicUsize::new(0));
    let source = bytes.clone();
    let content = capatch::transport::Content::elsewhere("from", move |offset| {
        let first = times.fetch_add(1, Ordering::SeqCst) == 0;
        let mut rest = source[offset as usize..].to_vec();
        if !first {
            *rest.last_mut().unwrap() ^= 1;
        }
        async move { Ok(capatch::transport::from_reader(std::io::Cursor::new(rest))) }
    });
    registry.cut_uploads([Cut::Dropped(6 * MIB)]);
    let error = repository(&registry).push_blob(&descriptor, &content, None).await.unwrap_err();
    assert_eq!(error.kind(), capatch::error::Kind::Content, "{error}");
    assert!(registry.blob("a", &descriptor.digest).is_none());
    assert_eq!(registry.open_uploads(), 0, "cancelled");
}

/// An image with one layer of `size` bytes, in a layout, and the journal of a user.
struct Killed {
    scene: Scene,
    source: String,
    layer: Vec<u8>,
}

impl Killed {
    fn new(size: u64) -> Self {
        let scene = Scene::new();
        let layer = content(size);
        let mut image = Content::default();
        let config = image.blob("application/vnd.oci.image.config.v1+json", b"{}".to_vec());
        let blob = image.blob("application/octet-stream", layer.clone());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"x/y","config":{config},"layers":[{blob}]}}"#
        );
        image.manifest("application/vnd.oci.image.manifest.v1+json", manifest.into_bytes());
        let source = scene.source(&image);
        Killed { scene, source, layer }
    }

    fn copy(&self, registry: &Registry) -> Command {
        let mut command = capatch(["copy", &self.source, &format!("{}/a:1", registry.host())]);
        command.env("XDG_STATE_HOME", self.scene.path("state"));
        command
    }

    fn journal(&self) -> PathBuf {
        self.scene.path("state").join("capatch/uploads")
    }

    fn entries(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.journal()).into_iter().flatten().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_none()).collect()
    }

    /// Kills a run when the registry has `arrived` bytes of the layer.
    fn run_until(&self, registry: &Registry, arrived: u64) {
        registry.cut_uploads([Cut::Silent(arrived)]);
        let mut child = self.copy(registry).spawn().unwrap();
        registry.wait_for_cuts();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn a_run_that_was_killed_is_gone_on_with_by_the_next() {
    let killed = Killed::new(20 * MIB);
    let registry = Registry::start();
    killed.run_until(&registry, 9 * MIB);
    let entries = killed.entries();
    assert_eq!((entries.len(), mode(&entries[0]), mode(&killed.journal())), (1, 0o600, 0o700));
    // And once more, in the part that came next.
    killed.run_until(&registry, 5 * MIB);
    let before = registry.received();
    start(killed.copy(&registry)).succeeded();
    assert!(registry.blob("a", &Digest::of(&killed.layer)).unwrap() == killed.layer);
    assert_eq!(registry.received() - before, 6 * MIB, "{:?}", sent(&registry));
    assert!(registry.received() < 20 * MIB + 100, "nothing was sent twice: {:?}", sent(&registry));
    assert_eq!(std::fs::read_dir(killed.journal()).unwrap().count(), 0, "nothing is left, no lock either");
}

// faults.md G3
#[test]
fn a_stop_signal_cancels_what_the_next_run_will_not_go_on_with() {
    for (signal, code, is_answered) in [("-INT", 130, true), ("-TERM", 143, true), ("-TERM", 143, false)] {
        let killed = Killed::new(12 * MIB);
        let registry = Registry::start();
        registry.cut_uploads([Cut::Silent(9 * MIB)]);
        // The config hangs too, and so may the answer to its end.
        registry.fault(move |r, _| {
            let hangs = r.is("PUT", "/blobs/uploads/") || (r.method == "DELETE" && !is_answered);
            hangs.then(|| Reply::new(201).ending(Ending::Silent))
        });
        let mut command = killed.copy(&registry);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        registry.wait_for_cuts();
        let deadline = Instant::now() + Duration::from_secs(30);
        while registry.count("PUT", "/blobs/uploads/") < 2 {
            assert!(Instant::now() < deadline, "{:?}", registry.lines());
            std::thread::sleep(Duration::from_millis(5));
        }
        let begin = Instant::now();
        assert!(Command::new("/bin/kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let ended: Run = child.wait_with_output().unwrap().into();
        assert!(ended.code == code && begin.elapsed() < Duration::from_secs(10), "{ended:?}");
        let log = registry.log();
        let session = |r: &Request| r.path.clone();
        let of_config: Vec<_> = log.iter().filter(|r| r.method == "PUT" && r.body.len() == 2).map(session).collect();
        let cancelled: Vec<_> = log.iter().filter(|r| r.method == "DELETE").map(session).collect();
        assert_eq!(cancelled, of_config, "{:?}", registry.lines());
        assert_eq!((cancelled.len(), killed.entries().len(), registry.tag("a", "1")), (1, 1, None));
        registry.fault(|_, _| None);
        let before = registry.received();
        start(killed.copy(&registry)).succeeded();
        assert_eq!(registry.received() - before, 3 * MIB + 2, "{:?}", sent(&registry));
    }
}

// faults.md E29
#[test]
fn a_run_that_fails_cancels_what_the_next_will_not_go_on_with() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let mut image = Content::default();
    let config = image.blob("application/vnd.oci.image.config.v1+json", b"{}".to_vec());
    let layers = [9 * MIB, 7, 8].map(|size| image.blob("application/octet-stream", content(size)).to_string());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"x/y","config":{config},"layers":[{}]}}"#,
        layers.join(",")
    );
    image.manifest("application/vnd.oci.image.manifest.v1+json", manifest.into_bytes());
    registry.cut_uploads([Cut::Silent(5 * MIB)]);
    let (begun, answered) = (registry.clone(), std::sync::Arc::new(AtomicUsize::new(0)));
    let answers = answered.clone();
    registry.fault(move |r, _| match r.body.len() {
        _ if r.method == "DELETE" => {
            std::thread::sleep(Duration::from_millis(300));
            answers.fetch_add(1, Ordering::SeqCst);
            None
        }
        _ if !r.is("PUT", "/blobs/uploads/") => None,
        2 => {
            begun.wait_for_cuts();
            while begun.count("PUT", "/blobs/uploads/") < 4 {
                std::thread::sleep(Duration::from_millis(5));
            }
            Some(Reply::error(403, "DENIED"))
        }
        _ => Some(Reply::new(201).ending(Ending::Silent)),
    });
    let mut command = capatch(["copy", &scene.source(&image), &format!("{}/a:1", registry.host())]);
    command.env("XDG_STATE_HOME", scene.path("state"));
    start(command).failed(4, &["DENIED"]);
    let log = registry.log();
    let sessions = |of: &dyn Fn(&Request) -> bool| {
        let mut paths: Vec<_> = log.iter().filter(|r| of(r)).map(|r| r.path.clone()).collect();
        paths.sort();
        paths
    };
    let cancelled = sessions(&|r| r.method == "DELETE");
    assert_eq!(cancelled, sessions(&|r| r.method == "PUT" && r.body.len() < 9), "{:?}", registry.lines());
    assert_eq!(cancelled.len(), 3, "what has arrived of the large one is kept");
    assert_eq!(answered.load(Ordering::SeqCst), 3, "it ends when they are cancelled");
}

// faults.md E29
#[tokio::test]
async fn uploads_are_cancelled_that_came_to_nothing_and_no_others() {
    let bytes = content(9 * MIB);
    for (name, length, cancelled) in
        [("lost", 9, 1), ("only its answer was lost", 9, 0), ("not in the journal", 9 * MIB, 2)]
    {
        let (registry, state) = (Registry::start(), tempfile::tempdir().unwrap());
        let journal = state.path().join("uploads");
        let options = Options { journal_dir: Some(journal.clone()), ..options() };
        let client = Client::new(options).unwrap();
        let bytes = &bytes[..length as usize];
        let descriptor = Descriptor::new("x", Digest::of(bytes), length).unwrap();
        registry.fault(move |r, answer| match r.method.as_str() {
            "PUT" if name == "lost" && r.path.ends_with("/1") => Some(Reply::new(201).ending(Ending::Dropped)),
            "PUT" if length == 9 => {
                answer();
                Some(Reply::new(201).ending(Ending::Dropped))
            }
            // That session is at its end too.
            "PUT" => Some(Reply::new(413)),
            "PATCH" if r.header("content-range").is_some_and(|range| range.starts_with("0-")) => {
                std::fs::remove_dir_all(&journal).unwrap();
                None
            }
            "PATCH" => Some(Reply::new(202).ending(Ending::Silent)),
            _ => None,
        });
        let repository = repository_of(&client, &registry);
        let source = capatch::blob::Spool::from_reader(&mut std::io::Cursor::new(bytes)).unwrap().into();
        {
            let push = repository.push_blob(&descriptor, &source, None);
            let hangs = async {
                while registry.count("PATCH", "/uploads/") < 2 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                pushed = push => assert_eq!(pushed.unwrap(), Pushed::Uploaded, "{name}"),
                () = hangs => {}
            }
        }
        client.wait_for_cancels().await;
        let lines = registry.lines();
        assert_eq!(
            (registry.count("DELETE", "/uploads/"), registry.open_uploads()),
            (cancelled, 0),
            "{name}: {lines:?}"
        );
    }
}

#[test]
fn a_journal_is_believed_as_far_as_a_location_is() {
    for (name, spoil) in [
        (
            "another host",
            (|text, _, evil| text.replace("http://", "https://").replace(":1", evil)) as fn(&str, &str, &str) -> String,
        ),
        ("an attacker", |text, host, evil| text.replace(host, evil)),
        ("a login", |text, host, _| text.replace(host, &format!("user:secret@{host}"))),
        ("no session", |text, _, _| text.replace("uploads/", "uploads/9")),
        ("garbage", |_, _, _| "{".into()),
        ("long ago", |text, _, _| text.replace("\"time\":", "\"time\":1,\"was\":")),
    ] {
        let killed = Killed::new(9 * MIB);
        let (registry, attacker) = (Registry::start(), Registry::start());
        killed.run_until(&registry, 5 * MIB);
        let [entry] = &killed.entries()[..] else { panic!("{name}: one entry") };
        let text = std::fs::read_to_string(entry).unwrap();
        assert!(text.contains(&registry.host()), "{text}");
        std::fs::write(entry, spoil(&text, &registry.host(), &attacker.host())).unwrap();
        start(killed.copy(&registry)).succeeded();
        assert!(registry.blob("a", &Digest::of(&killed.layer)).unwrap() == killed.layer, "{name}");
        assert!(attacker.log().is_empty(), "{name}: {:?}", attacker.lines());
        assert!(sent(&registry).contains(&format!("PUT - {}", 9 * MIB)), "{name}: {:?}", sent(&registry));
        assert!(killed.entries().is_empty(), "{name}");
    }
}

#[test]
fn without_a_home_there_is_no_journal_and_no_complaint() {
    let killed = Killed::new(9 * MIB);
    let registry = Registry::start();
    let mut command = killed.copy(&registry);
    command.env("XDG_STATE_HOME", "/proc/nowhere");
    let run = start(command).succeeded();
    assert_eq!(run.stderr, "", "{run:?}");
    assert!(registry.blob("a", &Digest::of(&killed.layer)).unwrap() == killed.layer);
    let registry = Registry::start();
    let mut command = killed.copy(&registry);
    command.env_remove("XDG_STATE_HOME").env_remove("HOME");
    assert_eq!(start(command).succeeded().stderr, "");
}
