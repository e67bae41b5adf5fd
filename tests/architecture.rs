//! The directions of the architecture, read from the `crate::` paths in the source. Tests inside modules may look
//! anywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may use, beside itself, `error` and `progress`. Lower ones come first, and none may use a later one.
const LAYERS: [(&str, &[&str]); 20] = [
    ("error", &[]),
    ("progress", &[]),
    ("limits", &[]),
    ("capability", &[]),
    ("oci", &[]),
    ("blob", &["limits", "oci"]),
    ("archive", &["limits", "oci"]),
    ("layer", &["limits", "capability", "oci", "blob", "archive"]),
    ("transport", &["limits", "oci", "blob", "archive"]),
    ("image", &["limits", "oci", "blob", "archive", "layer", "transport"]),
    ("profile", &["capability", "oci"]),
    ("kong", &["oci"]),
    ("kubernetes", &["oci", "kong"]),
    ("copy", &["oci", "blob", "transport", "image"]),
    (
        "patch",
        &["limits", "capability", "oci", "blob", "archive", "layer", "transport", "image", "profile", "kong", "copy"],
    ),
    (
        "validate",
        &["limits", "capability", "oci", "blob", "archive", "layer", "transport", "image", "kong", "copy", "patch"],
    ),
    (
        "doctor",
        &[
            "limits",
            "capability",
            "oci",
            "blob",
            "archive",
            "layer",
            "transport",
            "image",
            "profile",
            "kong",
            "kubernetes",
            "copy",
            "patch",
        ],
    ),
    ("sync", &["limits", "capability", "oci", "transport", "profile", "copy", "patch"]),
    (
        "cli",
        &[
            "limits",
            "capability",
            "oci",
            "blob",
            "archive",
            "layer",
            "transport",
            "image",
            "profile",
            "kong",
            "kubernetes",
            "copy",
            "patch",
            "validate",
            "doctor",
            "sync",
        ],
    ),
    ("main", &["cli"]),
];

const MAX_LINES: usize = 450;

struct Source {
    /// Below `src`.
    name: String,
    lines: usize,
    /// Without comments, text and tests.
    code: String,
}

impl Source {
    /// The module that it belongs to.
    fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Modules of the crate that it names.
    fn uses(&self) -> Vec<&str> {
        let root = if self.name == "main.rs" { "capatch::" } else { "crate::" };
        let code = self.code.as_str();
        let mut used = Vec::new();
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            assert!(
                !rest.starts_with('{') && !rest.starts_with('*'),
                "{}: one `use {root}` for each module",
                self.name
            );
            used.push(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap());
        }
        used
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(source(&root, path));
            }
        }
    }
    assert!(sources.len() > 40);
    sources
}

fn source(root: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().count();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    Source { name: path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), lines, code: code.join("\n") }
}

#[test]
fn modules_use_what_is_below_them_and_nothing_else() {
    let allowed: BTreeMap<_, _> = LAYERS.into_iter().collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.name != "lib.rs") {
        let module = source.module();
        let below = allowed.get(module).unwrap_or_else(|| panic!("{module} has no place in the architecture yet"));
        for used in source.uses() {
            let always = used == module || used == "error" || (used == "progress" && module != "error");
            if !always && !below.contains(&used) {
                wrong.push(format!("{}: {used}", source.name));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_table_itself_points_one_way() {
    for (at, (module, below)) in LAYERS.iter().enumerate() {
        for used in *below {
            let place = LAYERS.iter().position(|(name, _)| name == used);
            assert!(place.is_some_and(|place| place < at), "{module} uses {used}");
        }
    }
}

/// Files outside of `places` whose code has one of `words` in it.
fn only_in(places: &[&str], words: &[&str]) {
    for source in sources() {
        let allowed = places.iter().any(|place| source.name.starts_with(place));
        for word in words {
            assert!(allowed || !source.code.contains(word), "{} has {word}", source.name);
        }
    }
}

#[test]
fn only_the_command_line_prints() {
    only_in(&["cli/"], &["println!", "eprintln!", "print!(", "io::stderr", "stderr()"]);
    // An archive may be a pipe, which is data and no talk.
    only_in(&["cli/", "transport/archive/file.rs"], &["io::stdout", "stdout()"]);
}

#[test]
fn nothing_but_main_ends_the_process() {
    only_in(&["main.rs"], &["process::exit", "process::abort"]);
    only_in(&["main.rs", "cli/"], &["ExitCode"]);
}

#[test]
fn only_registries_and_engines_are_spoken_to() {
    only_in(&["transport/registry/", "transport/docker.rs"], &["reqwest"]);
}

#[test]
fn only_containerd_is_spoken_to_in_grpc() {
    only_in(&["transport/containerd/"], &["tonic", "prost"]);
}

#[test]
fn only_transports_and_the_command_line_touch_files() {
    only_in(&["transport/", "cli/", "blob.rs"], &["std::fs", "fs::", "File::open", "OpenOptions"]);
}

#[test]
fn nothing_is_unpacked_or_executed() {
    only_in(&[], &["unpack(", "unpack_in("]);
    only_in(&["transport/registry/helper.rs"], &["Command::new"]);
}

#[test]
fn no_file_is_too_long() {
    for source in sources() {
        assert!(source.lines <= MAX_LINES, "{} has {} lines", source.name, source.lines);
    }
}
