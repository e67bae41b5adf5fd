//! The image that gets patched, made once and kept under `target/real`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, io};

use serde_json::Value;

use crate::tools;

/// Where the real nginx is; `/usr/local/bin/nginx` is a symlink to it.
pub(crate) const NGINX: &str = "usr/local/openresty/nginx/sbin/nginx";

/// Skopeo's `dir:` form of the image.
pub(crate) fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        tools::need_root();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real");
        let mut hasher = DefaultHasher::new();
        for name in ["kong-image.sh", "docker-entrypoint.sh", "nginx.conf"] {
            fs::read(sources.join(name)).unwrap().hash(&mut hasher);
        }
        let cache = tools::target().join("real");
        let image = cache.join(format!("kong-{:016x}", hasher.finish()));
        if !image.exists() {
            fs::create_dir_all(&cache).unwrap();
            let unfinished = tempfile::tempdir_in(&cache).unwrap();
            tools::run(tools::command(sources.join("kong-image.sh")).arg(unfinished.path().join("image")));
            match fs::rename(unfinished.path().join("image"), &image) {
                Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => panic!("{error}"),
                _ => {}
            }
        }
        image
    })
}

pub(crate) fn manifest() -> Value {
    json(&fs::read_to_string(directory().join("manifest.json")).unwrap())
}

pub(crate) fn manifest_digest() -> String {
    sha256(&directory().join("manifest.json"))
}

pub(crate) fn config() -> Value {
    let digest = text(&manifest()["config"]["digest"]);
    json(&fs::read_to_string(directory().join(&digest["sha256:".len()..])).unwrap())
}

pub(crate) fn json(source: &str) -> Value {
    serde_json::from_str(source).unwrap_or_else(|error| panic!("not JSON: {error}\n{source}"))
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).to_owned()
}

/// By coreutils, not by the code under test.
pub(crate) fn sha256(file: &Path) -> String {
    format!("sha256:{}", &tools::run(tools::command("sha256sum").arg(file))[..64])
}
