//! The registry client against distribution, the registry that most others are measured by.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::media_type::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use capatch::oci::reference::{self, Target};
use capatch::transport::registry::{Client, Options, Pushed, Stored};
use common::library::options;
use futures_util::TryStreamExt;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_image_goes_in_and_comes_out() {
    let directory = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
        directory.path().join("data").display()
    );
    let file = directory.path().join("config.yml");
    std::fs::File::create(&file).unwrap().write_all(config.as_bytes()).unwrap();
    let child =
        Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _running = Running(child.expect("docker-registry starts: tests/all.sh installs it"));

    let auth = tempfile::NamedTempFile::new().unwrap();
    let options = Options {
        auth_file: Some(auth.path().into()),
        // The registry may take a moment to start.
        retry_base: Duration::from_millis(500),
        ..options()
    };
    let client = Client::new(options).unwrap();
    let repository = |path: &str| {
        let name = reference::Repository { registry: format!("localhost:{port}"), path: path.into() };
        client.repository(&name).unwrap()
    };
    let describe =
        |media_type: &str, bytes: &[u8]| Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64).unwrap();
    let layer: Vec<u8> = (0..9_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (layer, config) = (Bytes::from(layer), Bytes::from_static(b"{}"));
    let (layer_is, config_is) = (describe(OCI_LAYER_GZIP, &layer), describe(OCI_CONFIG, &config));

    let one = repository("team/one");
    assert!(one.manifest(&Target::Tag("1".into())).await.unwrap().is_none());
    assert!(!one.has_blob(&layer_is).await.unwrap());
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        String::from_utf8(config_is.object().to_bytes()).unwrap(),
        String::from_utf8(layer_is.object().to_bytes()).unwrap()
    ));
    let tag = Target::Tag("1".into());
    let early = one.push_manifest(&tag, OCI_MANIFEST, manifest.clone()).await.unwrap();
    assert!(matches!(early, Stored::BlobUnknown(_)), "{early:?}");
    for (descriptor, bytes) in [(&layer_is, &layer), (&config_is, &config)] {
        assert_eq!(one.push_blob(descriptor, &bytes.clone().into(), None).await.unwrap(), Pushed::Uploaded);
        assert!(one.has_blob(descriptor).await.unwrap());
        let two = repository("team/two");
        assert_eq!(two.push_blob(descriptor, &bytes.clone().into(), Some("team/one")).await.unwrap(), Pushed::Mounted);
    }
    let wrong = Bytes::from_static(b"[]");
    assert!(repository("team/three").push_blob(&config_is, &wrong.into(), None).await.is_err());
    let three = repository("team/three");
    assert_eq!(three.push_blob(&config_is, &config.into(), Some("team/none")).await.unwrap(), Pushed::Uploaded);
    for path in ["team/one", "team/two"] {
        let repository = repository(path);
        assert!(matches!(repository.push_manifest(&tag, OCI_MANIFEST, manifest.clone()).await, Ok(Stored::Stored)));
        let stored = repository.manifest(&tag).await.unwrap().unwrap();
        assert_eq!((stored.bytes, stored.media_type.as_str()), (manifest.clone(), OCI_MANIFEST));
        for offset in [0, 1, 8_999_999] {
            let parts: Vec<Bytes> = repository.blob(&layer_is, offset).await.unwrap().try_collect().await.unwrap();
            assert!(parts.concat() == layer[offset as usize..]);
        }
    }
}
