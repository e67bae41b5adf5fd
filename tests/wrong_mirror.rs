//! A mirror that gives other content of the right size (faults.md B14): whatever the command, it is passed over, by name.

#![allow(clippy::unwrap_used)]

mod common;

use common::cli::{Run, capatch, start};
use common::image::{Content, Image, Scene};
use common::registry::{Ending, Registry, Reply, Request};
use common::tar::file;

/// An image at a registry, and at a mirror of it that is not to be trusted.
struct Pair {
    scene: Scene,
    image: Content,
    registry: Registry,
    mirror: Registry,
    destination: Registry,
}

/// What can be wrong with bytes of the right number.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// No format at all, from the first byte on.
    Noise,
    /// One byte in the middle.
    Middle,
    /// The last byte.
    End,
    /// Wrong and cut off after so much; the registry goes on from there.
    Cut,
}

const ALL: [Wrong; 4] = [Wrong::Noise, Wrong::Middle, Wrong::End, Wrong::Cut];

impl Pair {
    fn new() -> Self {
        Pair::of(Image::kong().build())
    }

    fn of(image: Content) -> Self {
        let pair = Pair {
            scene: Scene::new(),
            image,
            registry: Registry::start(),
            mirror: Registry::start(),
            destination: Registry::start(),
        };
        for registry in [&pair.registry, &pair.mirror] {
            pair.image.push(registry, "kong", "3.9");
        }
        let text = format!(
            "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n",
            pair.registry.host(),
            pair.mirror.host()
        );
        std::fs::write(pair.scene.path("r.conf"), text).unwrap();
        pair
    }

    fn source(&self) -> String {
        format!("{}/kong@{}", self.registry.host(), self.image.digest)
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = capatch(arguments);
        command.arg("--registries-conf").arg(self.scene.path("r.conf")).arg("--hosts-dir").arg("/dev/null");
        start(command)
    }

    /// Forgets what was written.
    fn clear(&self) {
        for made in ["patched", "copied"] {
            let _ = std::fs::remove_dir_all(self.scene.path(made));
        }
        let _ = std::fs::remove_file(self.scene.path("a.tar"));
        self.destination.reset();
    }

    /// The ways to read the image, each with a destination of its own if it needs one.
    fn commands(&self) -> Vec<Vec<String>> {
        let source = self.source();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let elsewhere = format!("{}/copy:1", self.destination.host());
        vec![
            words(&["getcap", &source]),
            words(&["inspect", &source]),
            words(&["doctor", &source]),
            words(&["verify", &source]),
            words(&["verify", &source, "--base", &self.scene.reference("base:1")]),
            words(&["patch", &source, &self.scene.reference("patched:1")]),
            words(&["patch", &source, &elsewhere]),
            words(&["copy", &source, &self.scene.reference("copied:1"), "--jobs", "1"]),
            words(&["copy", &source, &elsewhere, "--jobs", "1"]),
            words(&["copy", &source, &format!("oci-archive:{}:1", self.scene.path("a.tar").display())]),
        ]
    }
}

/// Lets `registry` answer wrongly whatever it is asked for `digest`.
fn spoil(registry: &Registry, digest: &str, wrong: Wrong) {
    let digest = digest.to_owned();
    registry.fault(move |request: &Request, real| {
        if request.method != "GET" || !request.path.ends_with(&digest) {
            return None;
        }
        let mut reply = real();
        let length = reply.body.len();
        match wrong {
            Wrong::Noise => reply.body = vec![b'x'; length],
            Wrong::Middle => reply.body[length / 2] ^= 1,
            Wrong::End => reply.body[length - 1] ^= 1,
            Wrong::Cut if request.header("range").is_some() => return Some(Reply::new(500)),
            Wrong::Cut => {
                reply.body[length / 4] ^= 1;
                reply = reply.ending(Ending::Cut(length / 2));
            }
        }
        Some(reply)
    });
}

#[test]
fn every_command_passes_over_a_mirror_with_other_content() {
    let pair = Pair::new();
    start(capatch(["copy", &pair.source(), &pair.scene.reference("base:1")])).succeeded();
    let digest_of = |run: &Run| run.stdout.lines().next().map(str::to_owned);
    let blobs: Vec<String> = pair.image.layers().into_iter().chain([pair.image.config()]).collect();
    for command in pair.commands() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        let said = start(capatch(&arguments));
        let expected = digest_of(&said);
        pair.clear();
        assert!([0, 8].contains(&said.code), "{said:?}");
        for digest in &blobs {
            for wrong in ALL {
                pair.clear();
                spoil(&pair.mirror, digest, wrong);
                pair.mirror.clear_log();
                let said = pair.run(&arguments);
                let context = format!("{arguments:?} {digest} {wrong:?}: {said:#?} {:?}", pair.mirror.lines());
                assert!([0, 8].contains(&said.code), "{context}");
                let blamed = said.stderr.contains(&format!("the mirror {} gave other content", pair.mirror.host()));
                // A layer that nothing depends on is not read by some commands.
                assert_eq!(blamed, pair.mirror.count("GET", digest) > 0, "{context}");
                if arguments[0] == "patch" || arguments[0] == "getcap" {
                    assert_eq!(digest_of(&said), expected, "{context}");
                }
            }
        }
    }
}

/// An image with a layer that is much longer than what is read at once.
fn with_large_layer() -> Content {
    let noise: Vec<u8> = (0..1_000_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Image::kong().layer([file("opt/noise", noise)]).build()
}

/// Nonsense at the start of a large layer is refused long before its end tells whose fault it is.
#[test]
fn what_makes_no_sense_is_read_to_its_end() {
    let pair = Pair::of(with_large_layer());
    spoil(&pair.mirror, &pair.image.layer(3), Wrong::Noise);
    for command in ["getcap", "verify", "doctor"] {
        let said = pair.run(&[command, &pair.source()]);
        assert!([0, 8].contains(&said.code), "{said:#?}");
        assert!(said.stderr.contains(&format!("the mirror {} gave other content", pair.mirror.host())), "{said:#?}");
    }
    let said = pair.run(&["patch", &pair.source(), &pair.scene.reference("patched:1")]).succeeded();
    assert!(said.stderr.contains(&format!("the mirror {} gave other content", pair.mirror.host())), "{said:#?}");
}

/// Nor does a mirror decide that a layer is none.
#[test]
fn a_layer_whose_type_says_nothing_is_read_to_its_end() {
    let mut content = with_large_layer();
    let layers = ["application/vnd.oci.image.layer.v1.tar+gzip", "application/x"];
    let text = String::from_utf8(content.bytes().to_vec()).unwrap().replace(layers[0], layers[1]);
    content.manifest(&content.media_type.clone(), text.into_bytes());
    let pair = Pair::of(content);
    spoil(&pair.mirror, &pair.image.layer(3), Wrong::Noise);
    for command in ["getcap", "verify"] {
        let said = pair.run(&[command, &pair.source()]).succeeded();
        assert!(said.stderr.contains(&format!("the mirror {} gave other content", pair.mirror.host())), "{said:#?}");
        assert!(!said.stdout.contains("not looked at") && !said.stderr.contains("not looked at"), "{said:#?}");
    }
}

#[test]
fn a_manifest_that_is_another_is_asked_of_the_registry() {
    let pair = Pair::new();
    start(capatch(["copy", &pair.source(), &pair.scene.reference("base:1")])).succeeded();
    for wrong in [Wrong::Noise, Wrong::Middle, Wrong::End] {
        spoil(&pair.mirror, &pair.image.digest, wrong);
        for command in pair.commands() {
            pair.clear();
            let said = pair.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
            assert!([0, 8].contains(&said.code), "{command:?} {wrong:?}: {said:#?}");
            assert!(said.stderr.contains(&format!("mirror http://{} is passed over", pair.mirror.host())), "{said:#?}");
        }
    }
    // By tag there is no digest that the bytes could be held against, but it should be a manifest.
    spoil(&pair.mirror, "3.9", Wrong::Noise);
    let said = pair.run(&["getcap", &format!("{}/kong:3.9", pair.registry.host())]).succeeded();
    assert!(said.stderr.contains(&format!("mirror http://{} is passed over", pair.mirror.host())), "{said:#?}");
}

#[test]
fn if_nobody_has_the_right_bytes_all_are_named() {
    let pair = Pair::new();
    let layer = pair.image.layer(1);
    for digest in [&layer, &pair.image.config(), &pair.image.digest] {
        for registry in [&pair.registry, &pair.mirror] {
            spoil(registry, digest, Wrong::Middle);
        }
        for command in pair.commands().iter().filter(|command| !command.contains(&"--base".to_owned())) {
            pair.clear();
            let said = pair.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
            let said = said.failed(5, &[&pair.mirror.host(), &pair.registry.host(), "other content"]);
            assert!(said.stderr.contains(digest.as_str()), "{said:#?}");
            let error = said.stderr.split("capatch: ").nth(1).unwrap();
            assert!(error.contains(&pair.mirror.host()) && error.contains(&pair.registry.host()), "{said:#?}");
        }
    }
    assert!(pair.destination.tag("copy", "1").is_none() && !pair.scene.path("a.tar").exists());
}

/// An image that is malformed itself is not the mirror's fault.
#[test]
fn a_mirror_with_the_right_bytes_is_not_blamed_for_the_image() {
    let pair = Pair::new();
    let image = Image::empty().packed(b"no tar at all".repeat(99), common::image::Packing::Plain).build();
    image.push(&pair.registry, "bad", "1");
    image.push(&pair.mirror, "bad", "1");
    let said = pair.run(&["getcap", &format!("{}/bad:1", pair.registry.host())]).failed(5, &["neither gzip nor zstd"]);
    assert!(!said.stderr.contains("mirror"), "{said:#?}");
    assert_eq!((pair.mirror.count("GET", &image.layer(0)), pair.registry.count("GET", "/blobs/")), (1, 0));
}
