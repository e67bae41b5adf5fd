//! Files that the user names, and standard input, read within a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::kubernetes::Manifest;

/// Bytes that a manifest may have.
const MAX_MANIFEST: u64 = 16 << 20;

pub(super) fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// The content of `file`, `-` for standard input. More than `most` bytes are an error of `kind`.
pub(super) fn read(file: &Path, most: u64, kind: Kind) -> Result<Vec<u8>> {
    let open = || -> io::Result<Box<dyn Read>> {
        Ok(if is_stdin(file) { Box::new(io::stdin()) } else { Box::new(File::open(file)?) })
    };
    let mut bytes = Vec::new();
    open().and_then(|from| from.take(most + 1).read_to_end(&mut bytes)).map_err(|e| Error::io(name(file), &e))?;
    if bytes.len() as u64 > most {
        return Err(Error::new(kind, format!("{} has more than {most} bytes", name(file))));
    }
    Ok(bytes)
}

/// The same, and what is not UTF-8 is an error of `kind` too.
pub(super) fn read_text(file: &Path, most: u64, kind: Kind) -> Result<String> {
    let text = String::from_utf8(read(file, most, kind)?);
    text.map_err(|_| Error::new(kind, format!("{} is not UTF-8", name(file))))
}

pub(super) fn read_manifest(file: &Path) -> Result<Manifest> {
    let text = read_text(file, MAX_MANIFEST, Kind::Content)?;
    Ok(Manifest { name: file.display().to_string(), text })
}

fn name(file: &Path) -> String {
    if is_stdin(file) { "standard input".to_owned() } else { file.display().to_string() }
}
