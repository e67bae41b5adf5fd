//! Files of the repository.

use std::fs;

/// The absolute path of the file or directory `name`.
pub fn at(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The text of the file `name`.
pub fn read(name: &str) -> String {
    fs::read_to_string(at(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The image of two platforms that the README patches.
pub fn kong() -> String {
    format!("oci:{}:3.9", at("testdata/kong"))
}
