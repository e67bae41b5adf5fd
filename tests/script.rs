//! Registries that lie, cut off, stall or never end, byte by byte. The rows are those of `faults.md`.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use capatch::error::{Error, Kind, Result};
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::reference::{self, Target};
use capatch::transport::registry::{Client, Manifest, Options, Repository};
use common::library::auth_file;
use common::script::{Script, Step, Then};
use futures_util::TryStreamExt;

const MANIFEST: &str = r#"{"schemaVersion":2}"#;
const BLOB: &str = "0123456789";

fn repository(script: &Script) -> Repository {
    let options = Options {
        auth_file: Some(auth_file("")),
        registries_conf: Some("/dev/null".into()),
        hosts_dir: Some("/dev/null".into()),
        retry_base: Duration::from_millis(1),
        stall: Duration::from_millis(300),
        chunk: 4,
        ..Options::default()
    };
    let name = reference::Repository { registry: script.host(), path: "a".into() };
    Client::new(options).unwrap().repository(&name).unwrap()
}

fn step(request: &str, answer: impl AsRef<[u8]>, then: Then) -> Step {
    Step(request.into(), answer.as_ref().into(), then)
}

/// An answer to the question for the manifest.
fn manifest_step(answer: impl AsRef<[u8]>, then: Then) -> Step {
    step("GET /v2/a/manifests/1", answer, then)
}

/// An answer to the question for the blob.
fn blob_step(answer: &str, then: Then) -> Step {
    step(&format!("GET /v2/a/blobs/{}", Digest::of(BLOB.as_bytes())), answer, then)
}

async fn manifest(script: &Script) -> Result<Option<Manifest>> {
    repository(script).manifest(&Target::Tag("1".into())).await
}

async fn blob(script: &Script) -> Result<Vec<u8>> {
    let descriptor = Descriptor::new("x", Digest::of(BLOB.as_bytes()), BLOB.len() as u64).unwrap();
    let stream = repository(script).blob(&descriptor, 0).await?;
    stream.try_fold(Vec::new(), async |all, piece| Ok([all, piece.to_vec()].concat())).await
}

#[track_caller]
fn failure<T>(result: Result<T>) -> Error {
    result.err().expect("this should have failed")
}

/// The script was played to its end, and not much was read of what it repeated.
#[track_caller]
fn ends_soon(script: Script, limit: usize) {
    // What is sent and not read fills the buffers of both ends.
    let repeated = script.repeated();
    assert!(repeated <= limit + (16 << 20), "{repeated} bytes");
    script.finish();
}

// A31
#[tokio::test]
async fn a_token_without_end_is_refused_at_its_limit() {
    let script = Script::start(|host| {
        let asks = format!("HTTP/1.1 401 X\r\nwww-authenticate: Bearer realm=\"http://{host}/token\"\r\n");
        vec![
            manifest_step(format!("{asks}content-length: 0\r\n\r\n"), Then::Ends),
            step("GET /token?scope=repository%3Aa%3Apull", "HTTP/1.1 200 X\r\n\r\n{\"token\":\"", Then::Repeats("a")),
        ]
    });
    let error = failure(manifest(&script).await);
    assert!(error.kind() == Kind::Content && error.to_string().ends_with("the limit is 1 MiB"), "{error}");
    ends_soon(script, 1 << 20);
}

// C7
#[tokio::test]
async fn a_manifest_without_end_is_refused_at_its_limit() {
    for head in ["", "content-length: 99999999999\r\n"] {
        let answer = format!("HTTP/1.1 200 X\r\n{head}\r\n{{");
        let script = Script::start(|_| vec![manifest_step(&answer, Then::Repeats(" "))]);
        let error = failure(manifest(&script).await);
        assert!(error.kind() == Kind::Content && error.to_string().ends_with("the limit is 4 MiB"), "{error}");
        ends_soon(script, 4 << 20);
    }
}

// B13
#[tokio::test]
async fn a_blob_without_end_is_refused_behind_its_last_byte() {
    for (body, then) in [
        (format!("\r\n{BLOB}"), Then::Repeats("x")),
        // More that comes with the last bytes, and more that comes behind them.
        (format!("transfer-encoding: chunked\r\n\r\nb\r\n{BLOB}x\r\n0\r\n\r\n"), Then::Ends),
        (format!("transfer-encoding: chunked\r\n\r\na\r\n{BLOB}\r\n1\r\nx\r\n0\r\n\r\n"), Then::Ends),
    ] {
        let script = Script::start(|_| vec![blob_step(&format!("HTTP/1.1 200 X\r\n{body}"), then)]);
        let error = failure(blob(&script).await);
        assert!(error.kind() == Kind::Content && error.to_string().contains("sends more than its 10 bytes"), "{error}");
        ends_soon(script, 0);
    }
}

// B24
#[tokio::test]
async fn of_a_refusal_without_end_the_beginning_is_shown() {
    let script = Script::start(|_| {
        vec![
            manifest_step("HTTP/1.1 404 X\r\n\r\n", Then::Repeats("x")),
            blob_step("HTTP/1.1 403 X\r\n\r\nno\x1b[2J entry", Then::Repeats(" ")),
        ]
    });
    assert!(manifest(&script).await.unwrap().is_none());
    let error = failure(blob(&script).await);
    assert!(error.to_string().contains("no\\u{1b}[2J entry") && error.to_string().len() < 5000, "{error}");
    ends_soon(script, 64 << 10);
}

// B18
#[tokio::test]
async fn a_download_that_stalls_is_begun_again_where_it_was() {
    let script = Script::start(|_| {
        vec![
            blob_step("HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\n0123", Then::Waits),
            blob_step("HTTP/1.1 206 X\r\ncontent-range: bytes 4-9/10\r\ncontent-length: 6\r\n\r\n", Then::Waits),
            blob_step("HTTP/1.1 206 X\r\ncontent-range: bytes 4-9/10\r\ncontent-length: 6\r\n\r\n456789", Then::Ends),
        ]
    });
    let begin = Instant::now();
    assert_eq!(blob(&script).await.unwrap(), BLOB.as_bytes());
    assert!(begin.elapsed() < Duration::from_secs(20));
    let heads = script.finish();
    assert!(!heads[0].contains("range:") && heads[1..].iter().all(|head| head.contains("range: bytes=4-9\r\n")));
}

// B18
#[tokio::test]
async fn a_server_that_never_answers_is_given_up_on() {
    let script = Script::start(|_| (0..5).map(|_| manifest_step("", Then::Waits)).collect());
    let begin = Instant::now();
    let error = failure(manifest(&script).await);
    assert!(error.to_string().contains("sent nothing for"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(20));
    script.finish();
    // A refusal need not be heard to its end.
    let script =
        Script::start(|_| vec![manifest_step("HTTP/1.1 403 X\r\ncontent-length: 99\r\n\r\nno ent", Then::Waits)]);
    let error = failure(manifest(&script).await);
    assert!(error.kind() == Kind::Denied && error.to_string().contains("no ent"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(40));
    script.finish();
}

// B6
#[tokio::test]
async fn a_part_that_ends_early_is_continued() {
    let script = Script::start(|_| {
        vec![
            blob_step("HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\n01", Then::Ends),
            blob_step("HTTP/1.1 206 X\r\ncontent-range: bytes 2-4/10\r\ncontent-length: 3\r\n\r\n234", Then::Ends),
            blob_step("HTTP/1.1 206 X\r\ncontent-range: bytes 5-9/10\r\ncontent-length: 5\r\n\r\n56789", Then::Ends),
        ]
    });
    assert_eq!(blob(&script).await.unwrap(), BLOB.as_bytes());
    let heads = script.finish();
    assert!(heads[1].contains("range: bytes=2-9\r\n") && heads[2].contains("range: bytes=5-9\r\n"), "{heads:?}");
}

// B7
#[tokio::test]
async fn parts_that_are_not_what_was_asked_for_are_begun_again() {
    for part in [
        "content-range: bytes 0-5/10\r\n",
        "content-range: bytes 4-9/11\r\n",
        "content-range: bytes 4-9/10\r\ncontent-range: bytes 0-5/10\r\n",
        "content-range: bytes 9-4/10\r\n",
        "content-type: multipart/byteranges; boundary=x\r\n",
        "",
    ] {
        let part = format!("HTTP/1.1 206 X\r\n{part}content-length: 6\r\n\r\nxxxxxx");
        let script = Script::start(|_| {
            vec![
                blob_step("HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\n0123", Then::Ends),
                blob_step(&part, Then::Ends),
                blob_step(&format!("HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\n{BLOB}"), Then::Ends),
            ]
        });
        assert_eq!(blob(&script).await.unwrap(), BLOB.as_bytes(), "{part}");
        assert!(!script.finish()[2].contains("range:"), "{part}");
    }
}

// E9
#[tokio::test]
async fn a_piece_that_was_taken_in_part_is_continued() {
    let digest = Digest::of(BLOB.as_bytes());
    let script = Script::start(|_| {
        let answer =
            |status: u16, header: &str| format!("HTTP/1.1 {status} X\r\n{header}\r\ncontent-length: 0\r\n\r\n");
        let patch =
            |status, reached: u8| step("PATCH /u/2", answer(status, &format!("range: 0-{reached}")), Then::Ends);
        vec![
            step("POST /v2/a/blobs/uploads/", answer(202, "location: /u/1"), Then::Ends),
            step(&format!("PUT /u/1?digest={digest}"), answer(413, "x: y"), Then::Ends),
            step("DELETE /u/1", answer(405, "x: y"), Then::Ends),
            step("POST /v2/a/blobs/uploads/", answer(202, "location: /u/2"), Then::Ends),
            patch(202, 1),
            patch(202, 3),
            patch(416, 5),
            patch(202, 7),
            patch(202, 9),
            step(&format!("PUT /u/2?digest={digest}"), answer(201, "x: y"), Then::Ends),
        ]
    });
    let descriptor = Descriptor::new("x", digest, BLOB.len() as u64).unwrap();
    let pushed = repository(&script).push_blob(&descriptor, &Bytes::from_static(BLOB.as_bytes()).into(), None).await;
    let heads = script.finish();
    pushed.unwrap();
    for (head, range) in heads[4..].iter().zip(["0-3", "2-3", "4-7", "6-7", "8-9"]) {
        assert!(head.contains(&format!("content-range: {range}\r\n")), "{range} in {head}");
    }
}

#[tokio::test]
async fn a_location_beyond_ascii_is_percent_encoded() {
    let answer = |head: &str, location: &[u8]| {
        [format!("HTTP/1.1 {head} X\r\ncontent-length: 0\r\nlocation: ").as_bytes(), location, b"\r\n\r\n"].concat()
    };
    let digest = Digest::of(BLOB.as_bytes());
    for (location, path) in [("/u/é".as_bytes(), "/u/%C3%A9"), (b"/u/\xe9", "/u/%E9")] {
        let script = Script::start(|_| {
            vec![
                manifest_step(answer("307", location), Then::Ends),
                step(&format!("GET {path}"), format!("HTTP/1.1 200 X\r\n\r\n{MANIFEST}"), Then::Ends),
            ]
        });
        assert_eq!(manifest(&script).await.unwrap().unwrap().bytes, MANIFEST);
        script.finish();
        let script = Script::start(|_| {
            vec![
                step("POST /v2/a/blobs/uploads/", answer("202", location), Then::Ends),
                step(&format!("PUT {path}?digest={digest}"), answer("201", location), Then::Ends),
            ]
        });
        let descriptor = Descriptor::new("x", digest.clone(), BLOB.len() as u64).unwrap();
        repository(&script).push_blob(&descriptor, &Bytes::from_static(BLOB.as_bytes()).into(), None).await.unwrap();
        script.finish();
    }
}

// B25
#[tokio::test]
async fn two_lengths_for_one_answer_are_an_error() {
    let body = format!("{MANIFEST}and more");
    let lengths = format!("content-length: {}\r\ncontent-length: {}\r\n", MANIFEST.len(), body.len());
    let answer = format!("HTTP/1.1 200 X\r\n{lengths}\r\n{body}");
    let script = Script::start(|_| (0..5).map(|_| manifest_step(&answer, Then::Ends)).collect());
    failure(manifest(&script).await);
    script.finish();
    // Headers without end are cut off too.
    let script =
        Script::start(|_| (0..5).map(|_| manifest_step("HTTP/1.1 200 X\r\nx: ", Then::Repeats("x"))).collect());
    failure(manifest(&script).await);
    script.finish();
}
