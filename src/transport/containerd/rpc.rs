//! One way to ask containerd something: connected once, in our namespace, with a limit on silence and on sizes.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::Stream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

use super::Shared;
use crate::error::{Error, Kind, Result};

/// Bytes that one message may have, ours and theirs: containerd's own default.
const MESSAGE_LIMIT: usize = 16 << 20;
/// Bytes that containerd may send on one stream before we have read them.
const STREAM_WINDOW: u32 = 4 << 20;
/// On all streams together: so much that streams which nobody reads at the moment hold up no other.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Where containerd listens in the distributions that bring their own.
const USUAL: [(&str, &str); 5] = [
    ("/run/containerd/containerd.sock", "default"),
    ("/run/k3s/containerd/containerd.sock", "k8s.io"),
    ("/run/docker/containerd/containerd.sock", "moby"),
    ("/run/k0s/containerd.sock", "k8s.io"),
    ("/var/snap/microk8s/common/run/containerd.sock", "k8s.io"),
];

/// What containerd answers instead of what was asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
    /// The connection broke or the daemon is stopping, so that a new one may help.
    pub(super) lost: bool,
}

impl Refusal {
    /// Whether another writer has the ingest.
    pub(super) fn is_locked(&self) -> bool {
        self.code == Code::Unavailable && self.message.contains("locked")
    }

    /// A sentence about `what`.
    pub(super) fn into_error(self, what: &str) -> Error {
        let kind = match self.code {
            Code::NotFound => Kind::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
            _ => Kind::Failed,
        };
        // The daemon may say anything, and as much as it likes.
        let message: String = self.message.chars().take(500).collect();
        let said = if message.is_empty() { self.code.description().to_owned() } else { message };
        let error = Error::new(kind, format!("{what}: containerd says: {said}"));
        match self.code {
            Code::Unimplemented => error.hint("this containerd is too old, or the plugin for it is disabled"),
            _ if self.lost => error.hint("containerd may be stopping or starting, or this is not its socket"),
            _ => error,
        }
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        // What the daemon itself says has no cause.
        let lost = status.source().is_some() || matches!(status.code(), Code::Unavailable | Code::Cancelled);
        Refusal { code: status.code(), message: status.message().to_owned(), lost }
    }
}

/// One question and one answer.
pub(super) async fn call<Q, A>(
    shared: &Shared,
    method: &'static str,
    question: Q,
    lease: Option<&str>,
) -> Result<Result<A, Refusal>>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let request = request(shared, question, lease)?;
    let mut client = client(shared).await?;
    let answer = within(shared.stall, async {
        client.ready().await.map_err(unready)?;
        client.unary(request, PathAndQuery::from_static(method), ProstCodec::<Q, A>::default()).await
    });
    Ok(answer.await?.map(tonic::Response::into_inner).map_err(Refusal::from))
}

/// One question and many answers.
pub(super) async fn stream<Q, A>(
    shared: &Shared,
    method: &'static str,
    question: Q,
) -> Result<Result<Streaming<A>, Refusal>>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let request = request(shared, question, None)?;
    let mut client = client(shared).await?;
    let answer = within(shared.stall, async {
        client.ready().await.map_err(unready)?;
        client.server_streaming(request, PathAndQuery::from_static(method), ProstCodec::<Q, A>::default()).await
    });
    Ok(answer.await?.map(tonic::Response::into_inner).map_err(Refusal::from))
}

/// Many questions, each with an answer; `patience` is for the first one.
pub(super) async fn dialog<Q, A>(
    shared: &Shared,
    method: &'static str,
    questions: impl Stream<Item = Q> + Send + 'static,
    lease: &str,
    patience: Duration,
) -> Result<Result<Streaming<A>, Refusal>>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let request = request(shared, questions, Some(lease))?;
    let mut client = client(shared).await?;
    let answer = within(patience, async {
        client.ready().await.map_err(unready)?;
        client.streaming(request, PathAndQuery::from_static(method), ProstCodec::<Q, A>::default()).await
    });
    Ok(answer.await?.map(tonic::Response::into_inner).map_err(Refusal::from))
}

/// The next answer of a stream; `None` at its end.
pub(super) async fn next<A>(answers: &mut Streaming<A>, patience: Duration) -> Result<Result<Option<A>, Refusal>> {
    Ok(within(patience, answers.message()).await?.map_err(Refusal::from))
}

async fn within<T>(patience: Duration, answer: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(patience, answer).await.map_err(|_| {
        Error::failed(format!("containerd does not answer for {} s", patience.as_secs()))
            .hint("see whether it is well, for example with: ctr version")
    })
}

fn unready(error: tonic::transport::Error) -> tonic::Status {
    tonic::Status::unavailable(innermost(&error))
}

fn request<T>(shared: &Shared, message: T, lease: Option<&str>) -> Result<Request<T>> {
    let namespace = &shared.options.namespace;
    if !is_identifier(namespace) {
        return Err(Error::usage(format!("'{namespace}' is not a containerd namespace"))
            .hint("use letters and digits, joined by '.', '_' or '-', such as default or k8s.io"));
    }
    let value = |text: &str| {
        MetadataValue::try_from(text).map_err(|_| Error::failed(format!("'{text}' cannot be sent to containerd")))
    };
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", value(namespace)?);
    if let Some(lease) = lease {
        request.metadata_mut().insert("containerd-lease", value(lease)?);
    }
    Ok(request)
}

/// The grammar of names in containerd, `pkg/identifiers`: at most 76 letters and digits, joined by single `.`, `_`, `-`.
fn is_identifier(text: &str) -> bool {
    text.len() <= 76
        && text.split(['.', '_', '-']).all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

async fn client(shared: &Shared) -> Result<Grpc<Channel>> {
    let channel = shared.channel.get_or_try_init(|| connect(&shared.options.address, shared.stall)).await?;
    Ok(Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT))
}

async fn connect(address: &Path, patience: Duration) -> Result<Channel> {
    let place = address.display();
    let Some(path) = address.to_str().filter(|path| path.starts_with('/')) else {
        return Err(Error::usage(format!("{place} is not the absolute path of a socket"))
            .hint("name containerd's socket with --containerd-address"));
    };
    let endpoint = Endpoint::from_shared(format!("unix:{path}"))
        .map_err(|e| Error::usage(format!("{place} cannot be connected to: {}", innermost(&e))))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    within(patience, endpoint.connect()).await?.map_err(|e| unconnected(address, &e))
}

fn unconnected(address: &Path, error: &tonic::transport::Error) -> Error {
    let place = address.display();
    match io_kind(error) {
        Some(io::ErrorKind::NotFound) => {
            Error::not_found(format!("there is no containerd socket {place}")).hint(elsewhere(address))
        }
        Some(io::ErrorKind::PermissionDenied) => {
            Error::new(Kind::Denied, format!("containerd's socket {place} is not for you to use"))
                .hint("containerd takes orders from root only: use sudo, or --containerd-address for one of your own")
        }
        Some(io::ErrorKind::ConnectionRefused) => {
            Error::failed(format!("nobody listens at {place}")).hint("start containerd")
        }
        _ => Error::failed(format!("cannot connect to containerd at {place}: {}", innermost(error)))
            .hint("name containerd's socket with --containerd-address"),
    }
}

/// What to do if there is no socket at `address`.
fn elsewhere(address: &Path) -> String {
    match USUAL.iter().find(|(usual, _)| Path::new(usual) != address && Path::new(usual).exists()) {
        Some((usual, namespace)) => {
            format!("there is one here: --containerd-address {usual} --containerd-namespace {namespace}")
        }
        None => "is containerd running? name its socket with --containerd-address".to_owned(),
    }
}

fn io_kind(error: &tonic::transport::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = cause.source();
    }
    None
}

fn innermost(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::transport::containerd::{Containerd, Options};

    #[test]
    fn namespaces_are_identifiers() {
        let long = "a".repeat(76);
        for (name, ok) in [
            ("default", true),
            ("k8s.io", true),
            ("a-b_c.D9", true),
            (&long, true),
            (&format!("{long}a"), false),
            ("", false),
            (".", false),
            ("a..b", false),
            ("a-", false),
            ("a b", false),
            ("a/b", false),
            ("a\r\nx: y", false),
            ("ä", false),
        ] {
            assert_eq!(is_identifier(name), ok, "{name:?}");
        }
    }

    #[test]
    fn refusals_are_short_printable_sentences() {
        for (code, message, kind, text) in [
            (Code::NotFound, "gone", Kind::NotFound, "x: containerd says: gone"),
            (Code::PermissionDenied, "no", Kind::Denied, "x: containerd says: no"),
            (Code::Internal, "a\u{1b}[2J\n", Kind::Failed, "x: containerd says: a\\u{1b}[2J\\n"),
            (
                Code::Unimplemented,
                "",
                Kind::Failed,
                "x: containerd says: Operation is not implemented or not supported",
            ),
        ] {
            let error = Refusal { code, message: message.to_owned(), lost: false }.into_error("x");
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
        }
        let long = Refusal { code: Code::Internal, message: "x".repeat(1 << 20), lost: false };
        assert!(long.into_error("x").to_string().len() < 600);
    }

    #[tokio::test]
    async fn what_is_no_socket_of_containerd_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        drop(std::os::unix::net::UnixListener::bind(path("left")).unwrap());
        let long = path(&"x".repeat(120));
        for (address, namespace, kind, says) in [
            (path("none"), "default", Kind::NotFound, "there is no containerd socket"),
            (path("file"), "default", Kind::Failed, "nobody listens"),
            (path("left"), "default", Kind::Failed, "nobody listens"),
            (long, "default", Kind::Failed, "cannot connect"),
            ("relative".into(), "default", Kind::Usage, "not the absolute path"),
            (path("none"), "a b", Kind::Usage, "not a containerd namespace"),
        ] {
            let containerd = Containerd::new(
                Options { address: address.clone(), namespace: namespace.to_owned() },
                Limits::default(),
            );
            let error = containerd.image("docker.io/library/kong:3.9").await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.hint_text().is_some(), "{error}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_is_silent_or_not_containerd_does_not_hold_us() {
        use tokio::io::AsyncWriteExt;
        let directory = tempfile::tempdir().unwrap();
        for (name, says) in [("silent", None), ("http", Some("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))]
        {
            let address = directory.path().join(name);
            let listener = tokio::net::UnixListener::bind(&address).unwrap();
            tokio::spawn(async move {
                let mut open = Vec::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    stream.write_all(says.unwrap_or_default().as_bytes()).await.unwrap();
                    open.push(stream);
                }
            });
            let shared = Shared {
                options: Options { address, namespace: "default".to_owned() },
                limits: Limits::default(),
                channel: tokio::sync::OnceCell::new(),
                leased: tokio::sync::Mutex::default(),
                stall: Duration::from_millis(200),
            };
            let error = super::super::images::get(&shared, "a").await.unwrap_err();
            assert_eq!(error.kind(), Kind::Failed, "{name}: {error}");
        }
    }
}
