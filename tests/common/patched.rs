//! A patched Kong for `capatch doctor`, and a directory for the manifests that run it.

use std::fs;

use super::cli::ok;
use super::files::kong;

/// A patched Kong, and a directory for manifests.
pub struct Patched(tempfile::TempDir);

impl Patched {
    pub fn new() -> Self {
        let patched = Patched(tempfile::tempdir().unwrap());
        ok(["patch", &kong(), &patched.image(), "--listen"]);
        patched
    }

    pub fn image(&self) -> String {
        format!("oci:{}:1", self.0.path().join("kong").display())
    }

    /// Writes a manifest, and says where it is.
    pub fn write(&self, text: &str) -> String {
        let path = self.0.path().join("manifest.yaml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
