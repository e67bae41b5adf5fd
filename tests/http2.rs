//! Single streams and whole connections of HTTP/2 that end in the middle. The rows are those of `faults.md` (B3).

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::reference;
use capatch::transport::Content;
use capatch::transport::registry::{Client, Options, Pushed, Repository};
use common::library::options;
use futures_util::TryStreamExt;
use h2::{Reason, RecvStream};
use rcgen::generate_simple_self_signed;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::codegen::http::{Request, Response};

/// Bytes of an answer that come before it breaks: few enough for any window.
const PART: usize = 40_000;

/// What happens to a request that moves a blob.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// RST_STREAM instead of an answer.
    Refused(Reason),
    /// RST_STREAM behind a part of the answer, or of the request.
    Reset(Reason),
    /// GOAWAY there, and the end of the connection.
    GoAway(Reason),
    /// GOAWAY that lets what is under way end.
    Farewell,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    faults: VecDeque<Fault>,
    /// `METHOD path range`, for each request.
    log: Vec<String>,
    connections: usize,
    uploads: usize,
}

type Shared = Arc<Mutex<State>>;

/// A registry that speaks HTTP/2, its log, and a repository in it.
async fn registry(blob: &[u8], faults: &[Fault]) -> (Shared, Repository) {
    let ours = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, ours.cert.pem()).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(ours.signing_key.serialize_der()));
    let mut config = builder.with_single_cert(vec![ours.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let state = Shared::default();
    state.lock().unwrap().faults = faults.iter().copied().collect();
    if !blob.is_empty() {
        state.lock().unwrap().blobs.insert(Digest::of(blob).to_string(), blob.to_vec());
    }
    let shared = state.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, shared) = (acceptor.clone(), shared.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
                shared.lock().unwrap().connections += 1;
                let (end, mut ended) = unbounded_channel();
                loop {
                    tokio::select! {
                        request = connection.accept() => {
                            let Some(Ok((request, answer))) = request else { return };
                            tokio::spawn(answer_to(request, answer, shared.clone(), end.clone()));
                        }
                        reason = ended.recv() => match reason.unwrap() {
                            Some(reason) => connection.abrupt_shutdown(reason),
                            None => connection.graceful_shutdown(),
                        },
                    }
                }
            });
        }
    });
    let client = Client::new(Options { ca_file: Some(ca), ..options() });
    let client = client.unwrap();
    let repository = client.repository(&reference::Repository { registry: host, path: "a".into() }).unwrap();
    // The file is read when the first connection is made.
    std::mem::forget(directory);
    (state, repository)
}

async fn answer_to(
    request: Request<RecvStream>,
    mut answer: h2::server::SendResponse<Bytes>,
    shared: Shared,
    end: UnboundedSender<Option<Reason>>,
) {
    let (head, mut body) = request.into_parts();
    let (method, path) = (head.method.as_str(), head.uri.path().to_owned());
    let range = head.headers.get("range").map_or("", |range| range.to_str().unwrap());
    let moves_a_blob = matches!(method, "GET" | "PUT" | "PATCH") && path.contains("/blobs/");
    let fault = {
        let mut state = shared.lock().unwrap();
        state.log.push(format!("{method} {path} {range}").trim_end().to_owned());
        if moves_a_blob { state.faults.pop_front() } else { None }
    };
    // What was sent gets there before what breaks it.
    let moment = || tokio::time::sleep(Duration::from_millis(150));
    let hurt = async |answer: &mut h2::server::SendResponse<Bytes>, fault: Fault| match fault {
        Fault::Refused(reason) | Fault::Reset(reason) => answer.send_reset(reason),
        Fault::GoAway(reason) => drop(end.send(Some(reason))),
        Fault::Farewell => drop(end.send(None)),
    };
    if let Some(fault @ Fault::Refused(_)) = fault {
        return hurt(&mut answer, fault).await;
    }
    let empty = |status: u16| Response::builder().status(status);
    if method == "GET" && path.contains("sha256:") {
        let blob = shared.lock().unwrap().blobs[path.rsplit('/').next().unwrap()].clone();
        let start = range.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap_or(0);
        let response = empty(if range.is_empty() { 200 } else { 206 }).header("content-length", blob.len() - start);
        let response = match range {
            "" => response,
            _ => response.header("content-range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
        };
        let mut stream = answer.send_response(response.body(()).unwrap(), false).unwrap();
        let rest = Bytes::from(blob).slice(start..);
        let Some(fault) = fault else { return drop(stream.send_data(rest, true)) };
        stream.send_data(rest.slice(..PART), false).unwrap();
        moment().await;
        hurt(&mut answer, fault).await;
        if let Fault::Farewell = fault {
            drop(stream.send_data(rest.slice(PART..), true));
        }
        moment().await;
        return;
    }
    let mut received = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        received.extend_from_slice(&piece);
        let _ = body.flow_control().release_capacity(piece.len());
        if received.len() >= PART
            && let Some(fault @ (Fault::Reset(_) | Fault::GoAway(_))) = fault
        {
            hurt(&mut answer, fault).await;
            moment().await;
            return;
        }
    }
    if let Some(fault @ Fault::Farewell) = fault {
        hurt(&mut answer, fault).await;
    }
    let response = match method {
        "POST" => {
            let mut state = shared.lock().unwrap();
            state.uploads += 1;
            empty(202).header("location", format!("/v2/a/blobs/uploads/{}", state.uploads))
        }
        "PUT" => {
            let digest = Digest::of(&received).to_string();
            let named = head.uri.query().unwrap().replace("%3A", ":").contains(&digest);
            shared.lock().unwrap().blobs.insert(digest, received);
            empty(if named { 201 } else { 400 })
        }
        _ => empty(404),
    };
    let _ = answer.send_response(response.body(()).unwrap(), true);
    moment().await;
}

fn noise(size: usize) -> Vec<u8> {
    (0..size as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8).collect()
}

#[tokio::test]
async fn a_download_goes_on_behind_a_reset_stream_and_a_closed_connection() {
    let blob = noise(300_000);
    let descriptor = Descriptor::new("x", Digest::of(&blob), blob.len() as u64).unwrap();
    let name = format!("GET /v2/a/blobs/{}", descriptor.digest);
    let from = |start: usize| format!("{name} bytes={start}-299999");
    for (faults, log, connections) in [
        (vec![Fault::Refused(Reason::REFUSED_STREAM)], vec![name.clone(), name.clone()], 1),
        (vec![Fault::Refused(Reason::INTERNAL_ERROR)], vec![name.clone(), name.clone()], 1),
        (vec![Fault::Reset(Reason::INTERNAL_ERROR)], vec![name.clone(), from(PART)], 1),
        (
            vec![Fault::Reset(Reason::CANCEL), Fault::Reset(Reason::NO_ERROR)],
            vec![name.clone(), from(PART), from(2 * PART)],
            1,
        ),
        (vec![Fault::GoAway(Reason::ENHANCE_YOUR_CALM)], vec![name.clone(), from(PART)], 2),
        (vec![Fault::GoAway(Reason::NO_ERROR)], vec![name.clone(), from(PART)], 2),
        (vec![Fault::Farewell], vec![name.clone()], 1),
    ] {
        let (state, repository) = registry(&blob, &faults).await;
        let stream = repository.blob(&descriptor, 0).await.unwrap();
        let arrived = stream.try_fold(Vec::new(), async |all, piece| Ok([&all[..], &piece[..]].concat())).await;
        assert!(arrived.unwrap_or_else(|e| panic!("{faults:?}: {e}")) == blob, "{faults:?}");
        let state = state.lock().unwrap();
        assert_eq!((&state.log, state.connections), (&log, connections), "{faults:?}");
    }
}

#[tokio::test]
async fn streams_that_are_always_reset_end_in_an_error() {
    let blob = noise(300_000);
    let descriptor = Descriptor::new("x", Digest::of(&blob), blob.len() as u64).unwrap();
    let (state, repository) = registry(&blob, &[Fault::Refused(Reason::INTERNAL_ERROR); 30]).await;
    let error = repository.blob(&descriptor, 0).await.err().unwrap();
    assert!(error.to_string().contains("blob sha256:") && error.to_string().contains("broke"), "{error}");
    assert_eq!(state.lock().unwrap().log.len(), 5);
}

#[tokio::test]
async fn an_upload_is_sent_again_behind_a_reset_stream_and_a_closed_connection() {
    let blob = noise(300_000);
    let descriptor = Descriptor::new("x", Digest::of(&blob), blob.len() as u64).unwrap();
    for fault in [
        Fault::Refused(Reason::REFUSED_STREAM),
        Fault::Reset(Reason::INTERNAL_ERROR),
        Fault::Reset(Reason::CANCEL),
        Fault::GoAway(Reason::ENHANCE_YOUR_CALM),
        Fault::GoAway(Reason::NO_ERROR),
        Fault::Farewell,
    ] {
        let (state, repository) = registry(&[], &[fault]).await;
        let pushed = repository.push_blob(&descriptor, &Content::from(Bytes::from(blob.clone())), None).await;
        let pushed = pushed.unwrap_or_else(|e| panic!("{fault:?}: {e}\n{:#?}", state.lock().unwrap().log));
        assert_eq!(pushed, Pushed::Uploaded);
        let state = state.lock().unwrap();
        assert!(state.blobs[descriptor.digest.as_str()] == blob && state.blobs.len() == 1, "{fault:?}");
        let sent = state.log.iter().filter(|line| line.starts_with("PUT")).count();
        assert_eq!(sent, if let Fault::Farewell = fault { 1 } else { 2 }, "{fault:?}: {:?}", state.log);
    }
}
