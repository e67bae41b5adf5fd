//! Answers that containerd would not give.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::codegen::http::{HeaderMap, HeaderValue, Response};

use super::proto::{
    CreateLeaseResponse, Descriptor as Target, Image, ImageResponse, Info, InfoResponse, Labels, Lease, ReadResponse,
    Status, StatusResponse, WriteResponse,
};
use super::*;
use crate::transport::Content;

/// What is answered to the method of this name: messages, and then a status.
type Answer = (&'static str, Vec<Vec<u8>>, &'static str);

/// A daemon that gives these answers without waiting for questions; all other methods succeed with an empty message.
fn daemon(answers: Vec<Answer>) -> (tempfile::TempDir, Containerd) {
    let directory = tempfile::tempdir().unwrap();
    let address = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&address).unwrap();
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let answers = answers.clone();
            tokio::spawn(async move {
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                    let answer = answers.iter().find(|(name, ..)| *name == method).cloned();
                    let (_, messages, status) = answer.unwrap_or(("", vec![Vec::new()], "0"));
                    tokio::spawn(answer_with(respond, messages, status));
                }
            });
        }
    });
    (directory, Containerd::new(Options { address, namespace: "default".to_owned() }, Limits::default()))
}

async fn answer_with(mut respond: h2::server::SendResponse<Bytes>, messages: Vec<Vec<u8>>, status: &str) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    for message in messages {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.extend_from_slice(&message);
        let _ = stream.send_data(frame.freeze(), false);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
    trailers.insert("grpc-message", HeaderValue::from_static("locked%1B[2J"));
    let _ = stream.send_trailers(trailers);
}

fn image(digest: &str, size: i64) -> Vec<u8> {
    let target = Target { media_type: "m".to_owned(), digest: digest.to_owned(), size };
    ImageResponse { image: Some(Image { name: "n".to_owned(), target: Some(target) }) }.encode_to_vec()
}

fn info(digest: &Digest, size: i64) -> Vec<u8> {
    InfoResponse { info: Some(Info { digest: digest.to_string(), size, labels: Labels::new() }) }.encode_to_vec()
}

fn piece(data: &'static [u8]) -> Vec<u8> {
    ReadResponse { data: Bytes::from_static(data) }.encode_to_vec()
}

#[tokio::test]
async fn images_that_cannot_be_are_errors() {
    let digest = Digest::of(b"");
    for (message, status, kind) in [
        (image(digest.as_str(), 5), "0", None),
        (Vec::new(), "0", Some(Kind::Content)),
        (image("sha256:../../etc/passwd", 5), "0", Some(Kind::Content)),
        (image(digest.as_str(), -1), "0", Some(Kind::Content)),
        (image("", 0), "0", Some(Kind::Content)),
        (b"\x0a\x03\x0a\x01\xff".to_vec(), "0", Some(Kind::Failed)),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(), "0", Some(Kind::Failed)),
        (vec![0; 17 << 20], "0", Some(Kind::Failed)),
        (Vec::new(), "7", Some(Kind::Denied)),
        (Vec::new(), "13", Some(Kind::Failed)),
        (Vec::new(), "no number", Some(Kind::Failed)),
    ] {
        let messages = if status == "0" { vec![message.clone()] } else { Vec::new() };
        let (_directory, containerd) = daemon(vec![("Get", messages, status)]);
        let answer = containerd.image("n").await;
        let said = message.escape_ascii().to_string().chars().take(100).collect::<String>();
        assert_eq!(answer.as_ref().err().map(Error::kind), kind, "{said} {status}: {answer:?}");
        if let Err(error) = answer {
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }
    let (_directory, containerd) = daemon(vec![("Get", Vec::new(), "5")]);
    assert!(containerd.image("n").await.unwrap().is_none());
}

#[tokio::test]
async fn content_is_what_was_asked_for_or_an_error() {
    let digest = Digest::of(b"hello");
    let other = Digest::of(b"other");
    for (about, pieces, expected) in [
        (info(&digest, 5), vec![piece(b"hel"), piece(b"lo")], Some("hello")),
        (info(&digest, 5), vec![piece(b"hel"), piece(b"lx")], None),
        (info(&digest, 5), vec![piece(b"hel")], None),
        (info(&digest, 5), vec![piece(b"hel"), piece(b"lo!")], None),
        (info(&digest, 5), vec![piece(b"hel"), piece(b""), piece(b"lo")], None),
        (info(&digest, 5), vec![], None),
        (info(&digest, 4), vec![piece(b"hell")], None),
        (info(&digest, 11), vec![], None),
        (info(&digest, -5), vec![piece(b"hello")], None),
        (info(&digest, i64::MAX), vec![piece(b"hello")], None),
        (info(&other, 5), vec![piece(b"hello")], None),
        (Vec::new(), vec![piece(b"hello")], None),
    ] {
        let (_directory, containerd) = daemon(vec![("Info", vec![about], "0"), ("Read", pieces.clone(), "0")]);
        match containerd.small(&digest).await {
            Ok(bytes) => assert_eq!(bytes.as_deref(), expected.map(str::as_bytes), "{pieces:?}"),
            Err(error) => assert_eq!((error.kind(), expected), (Kind::Content, None), "{pieces:?}: {error}"),
        }
    }
}

#[tokio::test]
async fn another_writer_is_waited_for_while_it_gets_on() {
    let lease = CreateLeaseResponse { lease: Some(Lease { id: "l".to_owned() }) }.encode_to_vec();
    let status = StatusResponse { status: Some(Status { offset: 3 }) }.encode_to_vec();
    let (_directory, containerd) =
        daemon(vec![("Create", vec![lease], "0"), ("Write", vec![], "14"), ("Status", vec![status], "0")]);
    let shared = Shared {
        options: containerd.0.options.clone(),
        limits: Limits::default(),
        channel: OnceCell::new(),
        leased: Mutex::default(),
        stall: Duration::from_millis(300),
    };
    let descriptor = Descriptor::new("m", Digest::of(b"hello"), 5).unwrap();
    let content = Content::Bytes(Bytes::from_static(b"hello"));
    let error = Containerd(Arc::new(shared)).push_blob(&descriptor, &content, None).await.unwrap_err();
    assert!(error.to_string().contains("being written by another program"), "{error}");
}

#[tokio::test]
async fn a_writer_that_counts_wrongly_is_not_believed() {
    let lease = CreateLeaseResponse { lease: Some(Lease { id: "l".to_owned() }) }.encode_to_vec();
    let at = |offset| WriteResponse { offset }.encode_to_vec();
    let descriptor = Descriptor::new("m", Digest::of(b"hello"), 5).unwrap();
    for (lease, offsets, ok) in [
        (lease.clone(), vec![at(0), at(5), at(5)], true),
        (lease.clone(), vec![at(3), at(5), at(5)], true),
        (lease.clone(), vec![at(0), at(4), at(5)], false),
        (lease.clone(), vec![at(0), at(-5), at(5)], false),
        (lease.clone(), vec![at(-1), at(5), at(5)], false),
        (lease.clone(), vec![at(i64::MAX), at(6), at(6)], false),
        (Vec::new(), vec![at(0), at(5), at(5)], false),
        (CreateLeaseResponse { lease: Some(Lease { id: "a\nb".to_owned() }) }.encode_to_vec(), vec![at(0)], false),
    ] {
        let (_directory, containerd) = daemon(vec![("Create", vec![lease], "0"), ("Write", offsets.clone(), "0")]);
        let content = Content::Bytes(Bytes::from_static(b"hello"));
        let pushed = containerd.push_blob(&descriptor, &content, None).await;
        assert_eq!(pushed.is_ok(), ok, "{offsets:?}: {pushed:?}");
    }
}

#[test]
fn addresses_have_one_form() {
    let at = |address: &str, namespace: &str| {
        Containerd::new(Options { address: address.into(), namespace: namespace.into() }, Limits::default())
    };
    let plain = at("/run/containerd/containerd.sock", "default");
    assert_eq!(plain.0.options.address.to_str(), Some("/run/containerd/containerd.sock"));
    for (address, namespace, same) in [
        ("/run/containerd/containerd.sock", "default", true),
        ("unix:///run/containerd/containerd.sock", "default", true),
        ("/run/containerd/containerd.sock", "k8s.io", false),
        ("/run/k3s/containerd/containerd.sock", "default", false),
    ] {
        assert_eq!(plain.is_same(&at(address, namespace)), same, "{address} {namespace}");
    }
}
