//! Limits: what registries ask for, how the user is told, and how much is moved at a time.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::reference;
use capatch::transport::Place;
use capatch::transport::registry::{Client, Options};
use common::cli::{capatch, run, start};
use common::files::kong;
use common::image::Image;
use common::library::options;
use common::registry::{Registry, Reply};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};

#[test]
fn the_user_is_told_once_why_nothing_moves() {
    for (limited, expected) in [
        (
            Reply::error(429, "TOOMANYREQUESTS")
                .header("retry-after", 2)
                .header("ratelimit-limit", "100;w=21600")
                .header("ratelimit-remaining", "0;w=21600"),
            "limits the rate of requests: waiting 2 seconds, as it asks: TOOMANYREQUESTS, because of TOOMANYREQUESTS \
             (its limit is 100 requests in 6 hours, 0 are left)",
        ),
        (
            Reply::new(403).header("retry-after", 2).body("You have exceeded a secondary \x1b[2Jrate limit"),
            "limits the rate of requests: waiting 2 seconds, as it asks: You have exceeded a secondary \\u{1b}[2Jrate limit",
        ),
    ] {
        let registry = Registry::start();
        Image::kong().build().push(&registry, "kong", "3.9");
        let image = format!("{}/kong:3.9", registry.host());
        let reply = limited.clone();
        registry.fault_times(1, |_| true, move |_| reply.clone());
        let told = run(["getcap", &image]).succeeded().stderr;
        assert!(told.contains(&format!("http://{} {expected}", registry.host())), "{told}");
        assert_eq!(told.matches("waiting").count(), 1, "{told}");

        // Longer than we are ready for: not a second is waited, and the same is said.
        let reply = limited.header("retry-after", 3600);
        registry.fault_times(1, |_| true, move |_| reply.clone());
        let words = ["asks to wait 3600 seconds", expected.split(": ").last().unwrap(), "--max-wait"];
        run(["getcap", &image]).failed(6, &words);
    }
}

#[test]
fn many_that_wait_for_one_limit_say_it_once() {
    let registry = Registry::start();
    Image::kong().build().push(&registry, "kong", "3.9");
    // Every blob asked for at first is refused, until the wait is over.
    let begin = std::time::Instant::now();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    registry.fault(move |request, _| {
        let limited = request.is("HEAD", "/blobs/") && begin.elapsed() < Duration::from_secs(2);
        limited.then(|| {
            count.fetch_add(1, Ordering::SeqCst);
            // Others are under way before the first is told.
            std::thread::sleep(Duration::from_millis(300));
            Reply::new(429).header("retry-after", 3)
        })
    });
    let source = kong();
    let told = start(capatch(["patch", &source, &format!("{}/new:1", registry.host())])).succeeded().stderr;
    assert!(refused.load(Ordering::SeqCst) > 1);
    assert_eq!(told.matches("waiting 3 seconds").count(), 1, "{told}");
}

#[test]
fn one_job_is_enough_for_every_command() {
    let registry = Registry::start();
    Image::kong().build().push(&registry, "kong", "3.9");
    let image = |name: &str| format!("{}/{name}", registry.host());
    let (base, patched) = (image("kong:3.9"), image("new:1"));
    run(["patch", &base, &patched, "--jobs", "1"]).succeeded();
    run(["verify", &patched, "--base", &base, "--jobs", "1"]).succeeded();
    run(["copy", &patched, &image("copy:1"), "--jobs", "1"]).succeeded();
    run(["getcap", &image("copy:1"), "--jobs", "1"]).succeeded();
}

/// A registry that counts how many requests for which `counted` it answers at a time.
fn counting(counted: fn(&common::registry::Request) -> bool) -> (Registry, Arc<AtomicUsize>) {
    let registry = Registry::start();
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let highest = most.clone();
    registry.fault(move |request, real| {
        if !counted(request) {
            return None;
        }
        highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(30));
        now.fetch_sub(1, Ordering::SeqCst);
        Some(real())
    });
    (registry, most)
}

fn client(jobs: usize) -> Client {
    Client::new(Options { jobs, ..options() }).unwrap()
}

fn place(client: &Client, registry: &Registry, path: &str) -> Place {
    let name = reference::Repository { registry: registry.host(), path: path.into() };
    Place::Registry(client.repository(&name).unwrap())
}

#[tokio::test]
async fn so_many_blobs_are_moved_at_a_time_over_all_repositories() {
    let (source, reads) = counting(|r| r.is("GET", "/blobs/"));
    let (sink, writes) = counting(|r| r.method == "PUT" && r.path.contains("/blobs/"));
    let blobs: Vec<Vec<u8>> = (0..12_u8).map(|n| vec![n; 1000]).collect();
    for blob in &blobs {
        source.put_blob("a", blob);
        source.put_blob("b", blob);
    }
    let client = client(2);
    let copies = blobs.iter().enumerate().map(|(at, blob)| {
        let path = if at % 2 == 0 { "a" } else { "b" };
        let (from, to) = (place(&client, &source, path), place(&client, &sink, path));
        let descriptor = Descriptor::new("x", Digest::of(blob), 1000).unwrap();
        async move { to.push_blob(&descriptor, &from.content(&descriptor), None).await.unwrap() }
    });
    tokio::time::timeout(Duration::from_secs(20), join_all(copies)).await.unwrap();
    assert_eq!((reads.load(Ordering::SeqCst), writes.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn one_blob_at_a_time_from_a_registry_to_itself_moves_on() {
    let registry = Registry::start();
    registry.refuse_mounts();
    let client = client(1);
    let copies = (0..4_u8).map(|n| {
        let blob = vec![n; 100_000];
        registry.put_blob("a", &blob);
        let (from, to) = (place(&client, &registry, "a"), place(&client, &registry, "b"));
        let descriptor = Descriptor::new("x", Digest::of(&blob), blob.len() as u64).unwrap();
        async move { to.push_blob(&descriptor, &from.content(&descriptor), Some(&from)).await.unwrap() }
    });
    tokio::time::timeout(Duration::from_secs(20), join_all(copies)).await.unwrap();
    // A stream that was not read to its end gives its place back.
    let blob = vec![0; 100_000];
    let descriptor = Descriptor::new("x", Digest::of(&blob), blob.len() as u64).unwrap();
    let from = place(&client, &registry, "a");
    let mut begun = from.blob(&descriptor, 0).await.unwrap();
    begun.next().await.unwrap().unwrap();
    drop(begun);
    let again = tokio::time::timeout(Duration::from_secs(20), from.blob(&descriptor, 0)).await.unwrap().unwrap();
    assert_eq!(again.try_fold(0, async |sum, piece| Ok(sum + piece.len())).await.unwrap(), blob.len());
}
