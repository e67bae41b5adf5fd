//! Runs that are killed, or that the disk fails, at each step of writing a layout: strace injects it. The rows are those of
//! `faults.md`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use capatch::oci::digest::Digest;
use common::cli::{capatch, ok, start};
use common::image::{Image, Packing, Scene, leftovers};
use common::tar::file;

/// What changes files, in whatever form the machine has it.
const STEPS: [&str; 5] = ["?rename,?renameat,?renameat2", "fsync", "ftruncate", "?mkdir,?mkdirat", "write"];

/// Copies `src:3.9` to `dst:new` under strace.
fn copy_traced(scene: &Scene, options: &[&str]) -> Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-s", "4096", "-o"]).arg(scene.path("trace")).args(options);
    command.arg(env!("CARGO_BIN_EXE_capatch")).args(["copy", &scene.reference("src:3.9"), &scene.reference("dst:new")]);
    command.env_clear().env("PATH", "/usr/bin:/bin").output().unwrap()
}

/// A source, and a destination that has the tag `precious`.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.source(&Image::kong().build());
    Image::kong_arm64().build().write(&scene.path("dst"), "precious");
    scene
}

/// No blob is anything but what its name says.
#[track_caller]
fn blobs_are_right(layout: &Path) {
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        assert_eq!(Digest::of(&fs::read(&path).unwrap()).hex(), path.file_name().unwrap().to_str().unwrap());
    }
}

// F1, F2
#[test]
fn killed_at_any_step_a_layout_is_what_it_was_or_what_it_was_to_be() {
    for step in STEPS {
        // strace counts for each thread, and threads come and go: so many are more than enough.
        let mut killed = 0;
        for at in 1..=6 {
            let scene = scene();
            let before = fs::read(scene.path("dst/index.json")).unwrap();
            let ended = copy_traced(&scene, &["-e", &format!("inject={step}:signal=KILL:when={at}")]);
            blobs_are_right(&scene.path("dst"));
            let after = fs::read_to_string(scene.path("dst/index.json")).unwrap();
            // A whole index, and if it names the image, then all of that is there.
            if after.as_bytes() != before {
                serde_json::from_str::<serde_json::Value>(&after).unwrap();
                ok(["verify", &scene.reference("dst:new")]);
            }
            if ended.status.success() {
                break;
            }
            killed += 1;
            ok(["copy", &scene.reference("src:3.9"), &scene.reference("dst:new")]);
            ok(["verify", &scene.reference("dst:new")]);
            ok(["verify", &scene.reference("dst:precious")]);
        }
        assert!(killed > 0, "{step}: nothing was injected");
    }
}

// F11
#[test]
fn a_disk_that_fails_at_any_step_leaves_the_index_as_it_was() {
    for (step, error, when, words) in [
        (STEPS[0], "ENOSPC", "1+", "o space left"),
        (STEPS[1], "EIO", "1+", "nput/output error"),
        // Of a thread the first is that of a file, and the second that of the directory.
        (STEPS[1], "EIO", "1", "nput/output error"),
        (STEPS[1], "EIO", "2", "nput/output error"),
        (STEPS[2], "EDQUOT", "1+", "uota"),
    ] {
        let scene = scene();
        let before = fs::read(scene.path("dst/index.json")).unwrap();
        let ended = copy_traced(&scene, &["-e", &format!("inject={step}:error={error}:when={when}")]);
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot write") && said.contains("dst") && said.contains(words), "{said}");
        assert_eq!(fs::read(scene.path("dst/index.json")).unwrap(), before);
        blobs_are_right(&scene.path("dst"));
        assert!(leftovers(&scene.path("dst")).is_empty(), "{step} {when}");
    }
}

// F11
#[test]
fn a_full_disk_is_told_by_what_the_user_knows_and_what_stays_there() {
    let scene = Scene::new();
    let image =
        Image::kong().layer([file("opt/big", vec![7; 3 << 20])]).packed(vec![0; 2 << 20], Packing::Plain).build();
    scene.source(&image);
    // A large layer, half of which has arrived, is gone on with.
    let layer = image.layers().into_iter().max_by_key(|layer| image.blobs[layer].len()).unwrap();
    let partial = scene.path("dst").join(format!(".capatch-{}", layer.replace(':', "-")));
    let partial = partial.to_str().unwrap();
    let ended = copy_traced(&scene, &["-P", partial, "-e", "inject=write:error=ENOSPC:when=3+"]);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && said.contains("cannot write") && said.contains("dst"), "{said}");
    assert!(!said.contains(".capatch-") && said.contains("it goes on from what has arrived"), "{said}");
    let (arrived, size) = (fs::metadata(partial).unwrap().len(), image.blobs[&layer].len() as u64);
    assert!(arrived > 0 && said.contains(&format!("{} of its {size} bytes are still to", size - arrived)), "{said}");
    ok(["copy", &scene.reference("src:3.9"), &scene.reference("dst:new")]);
    ok(["verify", &scene.reference("dst:new")]);
    // Where there was nothing and nothing could be written, nothing is.
    fs::remove_dir_all(scene.path("dst")).unwrap();
    let ended = copy_traced(&scene, &["-e", &format!("inject={}:error=ENOSPC:when=1+", STEPS[0])]);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && !said.contains(".capatch-") && said.contains("make room"), "{said}");
    assert!(!scene.path("dst").exists());
}

// F12
#[test]
fn a_source_that_cannot_be_read_is_named() {
    let scene = scene();
    let before = fs::read(scene.path("dst/index.json")).unwrap();
    let (blobs, archive) = (scene.path("src/blobs/sha256"), scene.path("a.tar"));
    ok(["copy", &scene.reference("src:3.9"), &format!("oci-archive:{}:1", archive.display())]);
    let largest = fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let archived = format!("oci-archive:{}", archive.display());
    for (source, broken) in [(scene.reference("src:3.9"), largest), (archived, archive)] {
        for command in ["copy", "verify"] {
            let mut strace = Command::new("strace");
            strace
                .args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=read,pread64:error=EIO:when=1+", "-P"])
                .arg(&broken);
            strace.args([env!("CARGO_BIN_EXE_capatch"), command, &source]).env_clear().env("PATH", "/usr/bin:/bin");
            if command == "copy" {
                strace.arg(scene.reference("dst:new"));
            }
            let name = broken.file_name().unwrap().to_str().unwrap();
            let said = start(strace).failed(1, &[name, "nput/output error"]);
            assert!(said.hint().unwrap().contains("dmesg"), "{said:?}");
        }
        assert_eq!(fs::read(scene.path("dst/index.json")).unwrap(), before);
        blobs_are_right(&scene.path("dst"));
        assert!(leftovers(&scene.path("dst")).is_empty());
    }
}

/// Copies `src:3.9` to `dst:new` in a shell that did `setup` before.
fn copy_after(scene: &Scene, setup: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{setup}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_capatch")]);
    command.args(["copy", &scene.reference("src:3.9"), &scene.reference("dst:new")]);
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command
}

// F12
#[test]
fn too_many_open_files_are_an_error_with_a_hint() {
    let mut refused = 0;
    for files in 4..40 {
        let scene = scene();
        let before = fs::read(scene.path("dst/index.json")).unwrap();
        // Debug builds of the standard library abort if it cannot open what it looks for at first.
        let ended = start(copy_after(&scene, &format!("ulimit -n {files}")));
        if ended.code == 0 {
            ok(["verify", &scene.reference("dst:new")]);
            break;
        }
        refused += 1;
        let said = ended.failed(1, &["oo many open files"]);
        assert!(said.hint().unwrap().contains("ulimit"), "{said:?}");
        assert_eq!(fs::read(scene.path("dst/index.json")).unwrap(), before);
        assert_eq!(leftovers(&scene.path("dst")), Vec::<PathBuf>::new(), "{files}: {said:?}");
    }
    assert!((4..30).contains(&refused), "{refused}");
}

// G5: libraries panic when the system gives them no thread.
#[test]
fn a_panic_is_an_error_and_ends_the_process() {
    let mut refused = 0;
    for at in 1..=8 {
        let scene = scene();
        let before = fs::read(scene.path("dst/index.json")).unwrap();
        let mut strace = Command::new("timeout");
        let inject = format!("inject=clone,clone3:error=EAGAIN:when={at}+");
        strace.args(["20", "strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject, env!("CARGO_BIN_EXE_capatch")]);
        strace.args(["copy", &scene.reference("src:3.9"), &scene.reference("dst:new"), "--json"]);
        let ended = start({
            strace.env_clear().env("PATH", "/usr/bin:/bin");
            strace
        });
        if ended.code == 0 {
            break;
        }
        refused += 1;
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains("the system refused something") && ended.hint().is_some(), "{ended:?}");
        assert!(ended.json()["error"]["message"].as_str().unwrap().contains("os error 11"), "{ended:?}");
        assert_eq!(fs::read(scene.path("dst/index.json")).unwrap(), before);
    }
    assert!((2..8).contains(&refused), "{refused}");
}

// F5
#[test]
fn a_lock_is_waited_for_and_goes_with_its_process() {
    let scene = scene();
    let lock = scene.path("dst/.capatch.lock");
    // flock(1) holds it until it is killed, as a run of capatch does.
    let mut flock = Command::new("flock");
    flock.arg(&lock).args(["sh", "-c", "echo; exec sleep 60"]).stdout(Stdio::piped()).process_group(0);
    let mut holder = flock.spawn().unwrap();
    holder.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let (source, to) = (scene.reference("src:3.9"), scene.reference("dst:new"));
    // An archive has the lock of its directory.
    let directory = scene.path("archives");
    fs::create_dir(&directory).unwrap();
    let archive = format!("oci-archive:{}:1", directory.join("a.tar").display());
    let directory = fs::File::open(directory).unwrap();
    directory.lock().unwrap();
    let file = scene.path("sync.yaml");
    fs::write(&file, format!("version: 1\nimages: [{{source: '{source}', destination: '{to}'}}]\n")).unwrap();
    for arguments in [&["copy", &source, &to][..], &["copy", &source, &archive], &["sync", file.to_str().unwrap()]] {
        let begin = Instant::now();
        let said = start(capatch([arguments, &["--lock-timeout", "0"]].concat()));
        assert!(said.code == 1 && begin.elapsed() < Duration::from_secs(20), "{said:?}");
        let told = format!("{}{}", said.stdout, said.stderr);
        assert!(told.contains("is locked by another run") && told.contains("hint: raise --lock-timeout"), "{said:?}");
    }
    let run = capatch(["copy", &source, &to]);
    let run = std::thread::spawn(move || start(run));
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!run.is_finished());
    let group = format!("-{}", holder.id());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
    holder.wait().unwrap();
    let said = run.join().unwrap().succeeded();
    assert!(said.stderr.contains(&format!("(process {}) to release {}", holder.id(), lock.display())), "{said:?}");
    ok(["verify", &scene.reference("dst:new")]);
}

// F6
#[test]
fn a_tag_of_a_program_without_our_lock_is_kept() {
    let scene = scene();
    let (index, source) = (scene.path("dst/index.json"), scene.reference("src:3.9"));
    let mut strace = Command::new("strace");
    // Time for the other program, between our reading of the index and our looking at it again.
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=openat:delay_enter=700ms", "-P"]).arg(&index);
    strace.args([env!("CARGO_BIN_EXE_capatch"), "copy", &source, &scene.reference("dst:new")]).env_clear();
    let run = std::thread::spawn(move || start(strace));
    let is_new_index = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.contains(r#"ref.name":"new""#));
    let begin = Instant::now();
    while !leftovers(&scene.path("dst")).iter().any(|path| is_new_index(path)) {
        assert!(!run.is_finished() && begin.elapsed() < Duration::from_secs(60), "there was no new index");
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = fs::read_to_string(&index).unwrap();
    let foreign = text.replace("precious", "foreign");
    assert_ne!(foreign, text);
    fs::write(&index, foreign).unwrap();
    run.join().unwrap().succeeded();
    ok(["verify", &scene.reference("dst:new")]);
    ok(["verify", &scene.reference("dst:foreign")]);
}

// G9
#[test]
fn temporary_files_have_no_name_that_others_could_take() {
    for has_unnamed_files in [true, false] {
        let scene = scene();
        // Everybody writes here, and nothing protects the files of others: links lie ready, to a file that matters.
        let (shared, precious) = (scene.path("shared"), scene.path("precious"));
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(&precious, "precious").unwrap();
        for name in [".tmp", ".capatch", "capatch", "layer", "spool"] {
            std::os::unix::fs::symlink(&precious, shared.join(name)).unwrap();
        }
        let before = fs::read_dir(&shared).unwrap().count();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-y", "-s", "4096", "-o"]).arg(scene.path("trace"));
        if !has_unnamed_files {
            strace.args(["-e", "inject=openat:error=EOPNOTSUPP:when=1+", "-P"]).arg(&shared);
        }
        strace.arg(env!("CARGO_BIN_EXE_capatch"));
        strace.args(["patch", &scene.reference("src:3.9"), &scene.reference("dst:new")]).env_clear();
        start({
            strace.env("TMPDIR", &shared).env("PATH", "/usr/bin:/bin");
            strace
        })
        .succeeded();
        ok(["verify", &scene.reference("dst:new")]);
        assert_eq!(
            (fs::read_dir(&shared).unwrap().count(), fs::read(&precious).unwrap()),
            (before, b"precious".to_vec())
        );
        let trace = fs::read_to_string(scene.path("trace")).unwrap();
        let place = shared.to_str().unwrap();
        let opened = |line: &&str| line.contains(" openat(") && line.contains(&format!("\"{place}"));
        let opens: Vec<&str> = trace.lines().filter(opened).collect();
        // (Where they are refused, the trace has nothing but that.)
        assert!(!opens.is_empty() && opens.iter().all(|line| line.contains("O_TMPFILE")), "{opens:?}");
    }
}

// F3
#[test]
fn blobs_are_durable_before_the_index_names_them() {
    let scene = scene();
    assert!(copy_traced(&scene, &["-e", &format!("trace=fsync,{}", STEPS[0])]).status.success());
    let trace = fs::read_to_string(scene.path("trace")).unwrap();
    let synced = |path: &str| trace.match_indices(&format!("<{path}>")).map(|(at, _)| at).collect::<Vec<_>>();
    let renames: Vec<(usize, &str, &str)> = trace
        .lines()
        .filter(|line| line.contains(" rename") && line.contains('"'))
        .map(|line| {
            let names: Vec<&str> = line.split('"').collect();
            (line.as_ptr() as usize - trace.as_ptr() as usize, names[1], names[3])
        })
        .collect();
    let &(last, _, index) = renames.last().unwrap();
    assert!(index.ends_with("dst/index.json") && renames.len() > 4, "{renames:?}");
    for (at, from, to) in &renames {
        // Beside its place, for a rename does not leave a file system (F14).
        assert!(Path::new(from).parent() == Some(&scene.path("dst")), "{from}");
        assert!(synced(from).iter().any(|sync| sync < at), "{from} has its name before it is durable");
        let parent = Path::new(to).parent().unwrap().to_str().unwrap();
        let until = if at == &last { usize::MAX } else { last };
        assert!(synced(parent).iter().any(|sync| (at..&until).contains(&sync)), "the name {to} is not durable");
    }
}
