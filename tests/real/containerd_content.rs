//! What the library stores in containerd, and what containerd's garbage collector leaves of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use capatch::error::{Error, Kind};
use capatch::limits::Limits;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::{Algorithm, Digest, Hasher};
use capatch::oci::media_type;
use capatch::transport::containerd::{Containerd as Client, Options};
use capatch::transport::registry::Stored;
use capatch::transport::{ByteStream, Content};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::containerd::Containerd;
use crate::tools;

const MIB: usize = 1 << 20;

fn client(containerd: &Containerd) -> Client {
    client_in(containerd, &containerd.namespace)
}

fn client_in(containerd: &Containerd, namespace: &str) -> Client {
    // A document has a 32nd of this: 1 MiB.
    let limits = Limits { memory: 32 * MIB as u64, ..Limits::default() };
    Client::new(Options { address: containerd.socket(), namespace: namespace.to_owned() }, limits)
}

fn bytes(seed: u32, length: usize) -> Bytes {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

fn blob(seed: u32, length: usize) -> (Descriptor, Bytes) {
    let bytes = bytes(seed, length);
    (Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(&bytes), length as u64).unwrap(), bytes)
}

/// A manifest whose config and layer are `blobs`.
fn manifest(blobs: &[&Descriptor]) -> (Descriptor, Bytes) {
    let entry = |media_type: &str, blob: &Descriptor| {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#, blob.digest, blob.size)
    };
    let layers: Vec<_> = blobs[1..].iter().map(|blob| entry(media_type::OCI_LAYER_GZIP, blob)).collect();
    let bytes: Bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media_type::OCI_MANIFEST,
        entry(media_type::OCI_CONFIG, blobs[0]),
        layers.join(",")
    )
    .into();
    (Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&bytes), bytes.len() as u64).unwrap(), bytes)
}

/// Content that notes at which offsets it is opened.
fn noted(bytes: &Bytes) -> (Content, Arc<Mutex<Vec<u64>>>) {
    let (bytes, offsets) = (bytes.clone(), Arc::new(Mutex::new(Vec::new())));
    let noted = offsets.clone();
    let content = Content::elsewhere("from", move |offset| {
        noted.lock().unwrap().push(offset);
        let content = Content::Bytes(bytes.clone());
        async move { content.open(offset).await }
    });
    (content, offsets)
}

/// Content that breaks off with an error after `length` bytes.
fn broken(bytes: &Bytes, length: usize, error: Error) -> Content {
    let bytes = bytes.clone();
    Content::elsewhere("from", move |offset| {
        let rest = bytes.slice(offset as usize..length);
        let pieces = vec![Ok(rest), Err(error.clone())];
        async move { Ok(Box::pin(stream::iter(pieces)) as ByteStream) }
    })
}

async fn read(client: &Client, descriptor: &Descriptor, offset: u64) -> Vec<u8> {
    let stream = client.blob(descriptor, offset).await.unwrap();
    stream.try_fold(Vec::new(), async |all, piece| Ok([all, piece.to_vec()].concat())).await.unwrap()
}

/// What `ctr content active` lists.
fn active(containerd: &Containerd) -> Vec<String> {
    let list = tools::run(&mut containerd.ctr(&["content", "active"]));
    list.lines().skip(1).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_back_as_they_went() {
    for containerd in Containerd::start_each("") {
        let client = client(&containerd);
        for (seed, length) in [(1, 0), (2, 1), (3, MIB), (4, 3 * MIB + 7)] {
            let (descriptor, bytes) = blob(seed, length);
            assert!(!client.has_blob(&descriptor).await.unwrap());
            assert_eq!(client.small(&descriptor.digest).await.unwrap(), None);
            for _ in 0..2 {
                client.push_blob(&descriptor, &bytes.clone().into(), None).await.unwrap();
                assert!(client.has_blob(&descriptor).await.unwrap());
            }
            assert_eq!(read(&client, &descriptor, 0).await, bytes);
            let offset = length / 3;
            assert_eq!(read(&client, &descriptor, offset as u64).await, bytes[offset..]);
            assert!(client.blob(&descriptor, length as u64 + 1).await.is_err());
            let small = client.small(&descriptor.digest).await;
            assert_eq!(small.is_ok(), length <= MIB, "a limit is a limit");
            let longer = Descriptor::new("x", descriptor.digest.clone(), descriptor.size + 1).unwrap();
            assert!(!client.has_blob(&longer).await.unwrap(), "the size counts too");
            assert!(client.push_blob(&longer, &bytes.clone().into(), None).await.is_err());
        }
        assert_eq!(active(&containerd), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_nobody_reads_at_the_moment_holds_up_no_other() {
    for containerd in Containerd::start_each("") {
        let client = client(&containerd);
        let (descriptor, bytes) = blob(1, 8 * MIB);
        client.push_blob(&descriptor, &bytes.clone().into(), None).await.unwrap();
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut stream = client.blob(&descriptor, 0).await.unwrap();
            stream.next().await.unwrap().unwrap();
            open.push(stream);
        }
        let read = tokio::time::timeout(Duration::from_secs(20), read(&client, &descriptor, 0));
        assert_eq!(read.await.expect("the others are in the way"), bytes);
        drop(open);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_an_image_is_kept_and_nothing_else() {
    // A lease that ends has containerd collect by itself, unless that must be a very small share of the time.
    let settings = "[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.00001\n";
    for containerd in Containerd::start_each(settings) {
        let client = client(&containerd);
        let (config, config_bytes) = blob(1, 100);
        let (orphan, orphan_bytes) = blob(2, 200);
        let (layer, layer_bytes) = blob(3, 300);
        let (unused, unused_bytes) = blob(4, 400);
        // Somebody else's, to which nothing refers.
        let leased = client_in(&containerd, &containerd.namespace);
        for (descriptor, bytes) in [(&orphan, &orphan_bytes), (&unused, &unused_bytes)] {
            leased.push_blob(descriptor, &bytes.clone().into(), None).await.unwrap();
        }
        containerd.collect_garbage();
        leased.finish().await;

        // Looking changes nothing; the first write holds what was found before.
        assert!(client.has_blob(&orphan).await.unwrap());
        assert_eq!(tools::run(&mut containerd.ctr(&["leases", "ls", "--quiet"])), "");
        client.push_blob(&config, &config_bytes.clone().into(), None).await.unwrap();
        client.push_blob(&layer, &layer_bytes.clone().into(), None).await.unwrap();
        containerd.collect_garbage();
        let mut kept: Vec<_> = [&config, &orphan, &layer].iter().map(|d| d.digest.to_string()).collect();
        kept.sort();
        assert_eq!(containerd.content(), kept);

        let (image, image_bytes) = manifest(&[&config, &orphan, &layer]);
        assert!(matches!(client.push_manifest(&image, &image_bytes).await.unwrap(), Stored::Stored));
        assert_eq!(client.image("kept.example/a:1").await.unwrap().map(|d| d.digest), None);
        for name in ["kept.example/a:1", "kept.example/b:1", "kept.example/a:1"] {
            assert!(matches!(client.publish(name, &image, &image_bytes).await.unwrap(), Stored::Stored));
        }
        let leases = tools::run(&mut containerd.ctr(&["leases", "ls"]));
        assert!(leases.contains("containerd.io/gc.expire=20"), "{leases}");
        client.finish().await;
        assert_eq!(tools::run(&mut containerd.ctr(&["leases", "ls", "--quiet"])), "");
        kept.push(image.digest.to_string());
        kept.sort();
        containerd.collect_garbage();
        assert_eq!(containerd.content(), kept);
        tools::run(&mut containerd.ctr(&["images", "rm", "--sync", "kept.example/a:1"]));
        assert_eq!(containerd.content(), kept, "the other name needs it all");
        let target = client.image("kept.example/b:1").await.unwrap().unwrap();
        assert_eq!((&target.media_type, &target.digest, target.size), (&image.media_type, &image.digest, image.size));
        assert_eq!(client.names().await.unwrap(), ["kept.example/b:1"]);

        let names = client.no_image("kept.example/b:2").await;
        assert!(names.hint_text().unwrap().contains("kept.example/b:1"), "{names:?}");
        let elsewhere = client_in(&containerd, "other").no_image("kept.example/b:1").await;
        assert!(elsewhere.hint_text().unwrap().contains(&containerd.namespace), "{elsewhere:?}");

        tools::run(&mut containerd.ctr(&["images", "rm", "--sync", "kept.example/b:1"]));
        assert_eq!(containerd.content(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_collected_before_it_is_held_is_found_missing() {
    for containerd in Containerd::start_each("") {
        let client = client(&containerd);
        let (config, config_bytes) = blob(1, 100);
        let (layer, layer_bytes) = blob(2, 200);
        let other = client_in(&containerd, &containerd.namespace);
        other.push_blob(&layer, &layer_bytes.clone().into(), None).await.unwrap();
        other.finish().await;
        let there = client.has_blob(&layer).await.unwrap();
        containerd.collect_garbage();
        assert!(there && containerd.content().is_empty());

        client.push_blob(&config, &config_bytes.clone().into(), None).await.unwrap();
        let (image, bytes) = manifest(&[&config, &layer]);
        assert!(matches!(client.publish("a.example/a:1", &image, &bytes).await.unwrap(), Stored::BlobUnknown(_)));
        assert!(client.image("a.example/a:1").await.unwrap().is_none(), "an incomplete image was published");
        client.push_blob(&layer, &layer_bytes.into(), None).await.unwrap();
        assert!(matches!(client.publish("a.example/a:1", &image, &bytes).await.unwrap(), Stored::Stored));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_arrived_counts_unless_it_was_wrong() {
    for containerd in Containerd::start_each("") {
        let (descriptor, bytes) = blob(1, 5 * MIB);
        let cut = Error::failed("the network is down");
        // Each run has a client of its own. The first is cut and never gives up its lease.
        let error = client(&containerd).push_blob(&descriptor, &broken(&bytes, 3 * MIB, cut.clone()), None).await;
        assert_eq!(error.unwrap_err().to_string(), "from: the network is down");
        assert_eq!(active(&containerd).len(), 1, "what arrived is gone");
        containerd.collect_garbage();
        let (content, offsets) = noted(&bytes);
        client(&containerd).push_blob(&descriptor, &content, None).await.unwrap();
        assert_eq!(*offsets.lock().unwrap(), [3 * MIB as u64]);
        assert_eq!(read(&client(&containerd), &descriptor, 0).await, bytes);

        // What is complete but was not committed is committed, and not sent again.
        let (descriptor, bytes) = blob(2, 2 * MIB);
        let error = client(&containerd).push_blob(&descriptor, &broken(&bytes, 2 * MIB, cut.clone()), None).await;
        assert_eq!(error.unwrap_err().to_string(), "from: the network is down");
        let (content, offsets) = noted(&bytes);
        client(&containerd).push_blob(&descriptor, &content, None).await.unwrap();
        assert_eq!(*offsets.lock().unwrap(), [0_u64; 0]);

        // Something wrong is in the ingest: found out by containerd, and sent again from the beginning.
        let (descriptor, bytes) = blob(3, 3 * MIB);
        let (_, wrong) = blob(4, 3 * MIB);
        let error = client(&containerd).push_blob(&descriptor, &broken(&wrong, 2 * MIB, cut.clone()), None).await;
        assert_eq!(error.unwrap_err().to_string(), "from: the network is down");
        let (content, offsets) = noted(&bytes);
        client(&containerd).push_blob(&descriptor, &content, None).await.unwrap();
        assert_eq!(*offsets.lock().unwrap(), [2 * MIB as u64, 0]);
        assert_eq!(read(&client(&containerd), &descriptor, 0).await, bytes);

        // Wrong content is neither committed nor kept.
        let (descriptor, bytes) = blob(5, 2 * MIB);
        for wrong in [&wrong.slice(..2 * MIB), &bytes.slice(1..), &wrong, &Bytes::new()] {
            let error = client(&containerd).push_blob(&descriptor, &wrong.clone().into(), None).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Content, "{error}");
            assert!(!client(&containerd).has_blob(&descriptor).await.unwrap());
        }
        assert_eq!(active(&containerd), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_of_one_blob_wait_for_each_other() {
    for containerd in Containerd::start_each("") {
        let (descriptor, bytes) = blob(1, 8 * MIB);
        let sent = Arc::new(AtomicU64::new(0));
        let content = Content::elsewhere("from", {
            let sent = sent.clone();
            move |offset| {
                let (rest, sent) = (bytes.slice(offset as usize..), sent.clone());
                let pieces: Vec<_> = rest.chunks(MIB).map(Bytes::copy_from_slice).collect();
                let slowly = stream::iter(pieces).then(move |piece| {
                    let sent = sent.clone();
                    async move {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                        Ok(piece)
                    }
                });
                async move { Ok(Box::pin(slowly) as ByteStream) }
            }
        });
        let writers = (0..6).map(|_| {
            let (client, descriptor, content) = (client(&containerd), descriptor.clone(), content.clone());
            tokio::spawn(async move { client.push_blob(&descriptor, &content, None).await })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap().unwrap();
        }
        assert_eq!(sent.load(Ordering::Relaxed), descriptor.size, "it was sent more than once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_another_namespace_is_taken_from_there_unless_they_are_isolated() {
    let isolated = "[plugins.'io.containerd.metadata.v1.bolt']\ncontent_sharing_policy = 'isolated'\n";
    for (settings, opened) in [("", 0), (isolated, 1)] {
        for containerd in Containerd::start_each(settings) {
            let (descriptor, bytes) = blob(1, MIB + 1);
            client_in(&containerd, "other").push_blob(&descriptor, &bytes.clone().into(), None).await.unwrap();
            let client = client(&containerd);
            assert!(!client.has_blob(&descriptor).await.unwrap());
            let (content, offsets) = noted(&bytes);
            client.push_blob(&descriptor, &content, None).await.unwrap();
            assert_eq!(offsets.lock().unwrap().len(), opened, "{settings}");
            assert_eq!(read(&client, &descriptor, 0).await, bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_named_by_sha512_is_stored_or_refused_with_a_reason() {
    for (old, containerd) in Containerd::start_each("").into_iter().enumerate().map(|(i, c)| (i == 0, c)) {
        let bytes = bytes(1, 2 * MIB);
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(&bytes);
        let descriptor = Descriptor::new("x", hasher.finish(), bytes.len() as u64).unwrap();
        let client = client(&containerd);
        match client.push_blob(&descriptor, &bytes.clone().into(), None).await {
            Ok(()) => assert_eq!(read(&client, &descriptor, 0).await, bytes),
            Err(error) => assert!(old && error.to_string().contains("SHA-256"), "{error}"),
        }
        assert_eq!(active(&containerd), Vec::<String>::new());
    }
}
