//! What the registry client logs. Alone in its process, because other threads would change what is logged here.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::reference;
use capatch::transport::registry::{Client, Options};
use common::registry::{Auth, Bearer, Ending, Registry, Reply, basic};
use futures_util::TryStreamExt;

const SECRET: &str = "hunter2";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_logged_however_much_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let bytes = [7; 1000];
    let descriptor = Descriptor::new("x", Digest::of(&bytes), 1000).unwrap();
    for entry in [r#""username":"user","password":"hunter2""#, r#""identitytoken":"refresh-me""#] {
        let bearer = Bearer { user: "user", password: SECRET, identity: "refresh-me", ..Bearer::default() };
        let (registry, elsewhere) = (Registry::with(Auth::Bearer(bearer)), Registry::start());
        registry.put_blob("a", &bytes);
        elsewhere.put_blob("a", &bytes);
        let target = elsewhere.url("");
        registry.fault(move |r, real| {
            let redirected = r.path.contains("/blobs/sha256") && real().status != 401;
            redirected.then(|| Reply::new(307).header("location", format!("{target}{}?sig=s3cret", r.path)))
        });
        let mut auth_file = tempfile::NamedTempFile::new().unwrap();
        write!(auth_file, r#"{{"auths":{{"{}":{{{entry}}}}}}}"#, registry.host()).unwrap();
        let options = Options {
            auth_file: Some(auth_file.path().into()),
            retry_base: Duration::from_millis(1),
            ..Options::default()
        };
        let name = reference::Repository { registry: registry.host(), path: "a".into() };
        let repository = Client::new(options).unwrap().repository(&name).unwrap();
        let stream = repository.blob(&descriptor, 0).await.unwrap();
        let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(pieces.concat(), bytes);
        // Not even when the storage is gone, and an error speaks of it.
        elsewhere.fault(|_, real| Some(real().ending(Ending::Dropped)));
        let message = match repository.blob(&descriptor, 0).await {
            Ok(_) => panic!("nobody sent this"),
            Err(error) => error.to_string(),
        };
        assert!(!message.contains("s3cret"), "{message}");
    }
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("/v2/a/blobs/"), "nothing was logged");
    let basic = basic("user", SECRET);
    for secret in [SECRET, "refresh-me", "s3cret", "token-", basic.trim_start_matches("Basic ")] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret}: {line:?}");
    }
}
