//! The file: documents that are read, and those that are refused, by the types and by the schema alike.

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A document with one image: the members in `image`, each on a line of its own.
fn with(image: &str) -> String {
    let members = image.replace('\n', "\n    ");
    format!("version: 1\nimages:\n  - source: r.io/kong\n    destination: s.io/kong\n    {members}\n")
}

/// The document as the schema sees it.
fn schema_accepts(document: &str) -> bool {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let document: serde_json::Value = yaml::read(document, "f.yaml").unwrap_or(serde_json::Value::Null);
    jsonschema::draft202012::options().build(&schema).unwrap().is_valid(&document)
}

#[test]
fn the_schema_is_one() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    let profiles: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
    let of_patch = &schema["$defs"]["patch"]["oneOf"][1]["properties"];
    assert_eq!(of_patch["profile"]["enum"], serde_json::json!(profiles));
    assert_eq!(of_patch["cap"]["default"], PROFILES[0].capabilities);
}

#[test]
fn good_documents_are_read() {
    for document in [
        with("tags: [3.9, 3.10, latest, 1e3, 3]"),
        with(&format!("tags: [\"3.9@{DIGEST}\"]")),
        with("tags: {newest: 3}"),
        with("tags: {semver: '>=3.4 <4', prerelease: true, newest: 3}"),
        with("tags: {semver: 3.4}"),
        with("tags:\n  regex:\n    allow: ['3\\..*', 4]\n    deny: [.*-rc.*]\ntag-template: '{{ .Name }}-{{ .Tag }}'"),
        with("tags: [a]\nplatforms: [linux/amd64, linux/arm64/v8]\nreferrers: true\nforce: true"),
        with("tags: [a]\npatch: true"),
        with("tags: [a]\npatch: false\nreferrers: true"),
        with("tags: [a]\npatch: {}"),
        with("tags: [a]\npatch: {cap: cap_net_raw+ep, replace-caps: true, files: [/a, /b], expose: [80, 53/udp], unexpose: [8000/TCP]}"),
        with("tags: [a]\npatch: {listen: true, env: {A: 1, B: 'x y', C: true}, labels: {a.b: 1.10}}"),
        with("tags: [a]\npatch: {listen: '0.0.0.0:80'}"),
        with("tags: [a]\npatch: {profile: none, files: [/bin/x], expose: []}"),
        with("tags: [a]\npatch: {remove-caps: true, replace-caps: false, files: [/a], expose: [80]}"),
        with("tags: [a]\npatch: {remove-caps: false, replace-caps: true, cap: cap_net_raw+ep}"),
        "{\"version\": 1, \"images\": [{\"source\": \"a:1\", \"destination\": [\"oci:x\", \"oci:y:1\"]}]}".to_owned(),
        format!("version: 1\nimages:\n- {{source: 'r.io/kong@{DIGEST}', destination: 's.io/kong:3.9'}}"),
        "version: 1\nlimits: {max-unpacked: 100GiB, max-ratio: 5000, max-memory: 1073741824, max-depth: 64}\nimages: [{source: 'a:1', destination: b}]".to_owned(),
        "version: 1\ndefaults: {tag-template: x, platforms: [linux/amd64], referrers: true, force: false, patch: {}}\nimages: [{source: 'a:1', destination: b}]".to_owned(),
        "version: 1\nimages:\n- {source: a, tags: [b], destination: c, patch: &p {env: {A: b}}}\n- {source: a, tags: [c], destination: d, patch: *p}".to_owned(),
    ] {
        Spec::parse(&document, "f.yaml").unwrap_or_else(|e| panic!("{e} {:?}\n{document}", e.hint_text()));
        assert!(schema_accepts(&document), "{document}");
    }
}

#[test]
fn mistakes_are_named_with_their_line_and_refused_by_the_schema_too() {
    for (document, words) in [
        (String::new(), "the file ends here"),
        ("version: 1".to_owned(), "images"),
        ("version: 1\nimages: []".to_owned(), "no images"),
        ("images: [{source: 'a:1', destination: b}]".to_owned(), "version"),
        ("version: 2\nimages: [{source: 'a:1', destination: b}]".to_owned(), ":1:10: version 2"),
        (
            "version: 1\nimages:\n- source: a:1\n  destination: b\n  credentials: x".to_owned(),
            ":5:3: unknown field `credentials`",
        ),
        ("version: 1\nimages:\n- source: a:1".to_owned(), "destination"),
        ("version: 1\nimages:\n- source: a:1\n  destination: []".to_owned(), "empty list"),
        ("version: 1\nimages:\n- source: a:1\n  destination: {x: y}".to_owned(), "text or a list"),
        ("version: 1\nimages: [{source: 'a:1', destination: b}]\nimages: []".to_owned(), "duplicate"),
        (
            "version: 1\ndefaults: {tags: [a]}\nimages: [{source: 'a:1', destination: b}]".to_owned(),
            "unknown field `tags`",
        ),
        (
            "version: 1\nlimits: {max-memory: 1GB}\nimages: [{source: 'a:1', destination: b}]".to_owned(),
            ":2:22: '1GB' is no number of bytes",
        ),
        (
            "version: 1\nlimits: {max-ratio: 0}\nimages: [{source: 'a:1', destination: b}]".to_owned(),
            "'0' is no number",
        ),
        (
            "version: 1\nlimits: {max-depth: 65}\nimages: [{source: 'a:1', destination: b}]".to_owned(),
            "'65' is no number of levels",
        ),
        (with("tags: []"), "empty list"),
        (with("tags: {}"), "no filter"),
        (with("tags: {prerelease: true}"), "no filter"),
        (with("tags: all"), "a list or a mapping"),
        (with("tags: {regexp: {}}"), ":5:12: unknown field `regexp`"),
        (with("tags: [a, 'b c']"), ":5:15: 'b c' is not a tag"),
        (with("tags: {newest: 0}"), "'0' is no number"),
        (with("tags: {newest: -1}"), "'-1' is no number"),
        (with("tags: {newest: many}"), "'many' is no number"),
        (with("tags: [a]\ntag-template: ''"), "empty tag template"),
        (with("tags: [a]\nplatforms: [linux]"), ":6:17: 'linux' is not a platform"),
        (with("tags: [a]\nplatforms: linux/amd64"), ":6:16: expected a list"),
        (with("tags: [a]\nreferrers: maybe"), "true or false"),
        (with("tags: [a]\npatch: yes"), "expected true, false or a mapping"),
        (with("tags: [a]\npatch:"), ":6:5: nothing stands here"),
        (with("tags: [a]\npatch: {cap: null}"), ":6:"),
        (with("tags:"), ":5:"),
        (with("tags: {newest: null}"), ":5:"),
        (with("tags: [a]\nplatforms: ~"), ":6:"),
        (with("tags: [a]\nreferrers:"), ":6:"),
        (with("tags: [a]\npatch: {capability: x}"), "unknown field `capability`"),
        (with("tags: [a]\npatch: {profile: apache}"), "no profile"),
        (with("tags: [a]\npatch: {files: [nginx]}"), "no absolute path"),
        (with("tags: [a]\npatch: {remove-caps: true, cap: cap_net_raw+ep}"), "are to be removed and to be set"),
        (with("tags: [a]\npatch: {remove-caps: true, replace-caps: true}"), "are to be removed and to be set"),
        (with("tags: [a]\npatch: {expose: [http]}"), "'http' is not a port"),
        (with("tags: [a]\npatch: {env: {'A=B': c}}"), "no name of an environment variable"),
        (with("tags: [a]\npatch: {env: {A: null}}"), "null"),
        (with("tags: [a]\npatch: {labels: {dev.capatch.patch: x}}"), "written by capatch itself"),
        (with("tags: [a]\npatch: {labels: {a: [b]}}"), ":6:25: expected text"),
    ] {
        refused(&document, words);
        assert!(!schema_accepts(&document), "{document}");
    }
}

#[test]
fn what_a_schema_cannot_say_is_refused_too() {
    for (document, words) in [
        ("version: 1\nimages: [{source: 'a b', destination: b}]".to_owned(), ":2:19: 'a b'"),
        ("version: 1\nimages: [{source: 'user:hunter2@r.io/a:1', destination: b}]".to_owned(), "no password"),
        (
            "version: 1\nimages: [{source: 'a:1', destination: ['b', 'https://user:hunter2@r.io/b']}]".to_owned(),
            "no password",
        ),
        ("version: 1\nimages:\n- {source: a, destination: b}".to_owned(), ":3:3: docker.io/library/a has no tag"),
        (format!("version: 1\nimages: [{{source: 'a:1', destination: 'b@{DIGEST}'}}]"), "is a digest"),
        ("version: 1\nimages: [{source: 'a:1', destination: b, tags: [c]}]".to_owned(), "the source names 1"),
        ("version: 1\nimages: [{source: a, destination: 'b:1', tags: [c, d]}]".to_owned(), "several images"),
        ("version: 1\nimages: [{source: a, destination: 'b:1', tags: {newest: 1}}]".to_owned(), "several images"),
        ("version: 1\nimages: [{source: 'a:1', destination: 'b:1', tag-template: c}]".to_owned(), "tag-template"),
        (with("tags: {regex: {allow: ['(']}}"), "regular expression"),
        (with("tags: {semver: new}"), "range of versions"),
        (with("tags: {regex: {allow: [a]}, prerelease: true}"), "prerelease"),
        (with("tags: [a]\ntag-template: '{{ .Digest }}'"), "no field '.Digest'"),
        (with("tags: [a]\npatch: {}\nreferrers: true"), "referrers belong"),
        (with("tags: [a]\npatch: {cap: cap_net}"), "cap_net"),
        (with("tags: [a]\npatch: {expose: [80], unexpose: [80]}"), "80/tcp is to be exposed and not"),
        (with("tags: [a]\npatch: {profile: none}"), "names no file"),
        (with("tags: [a]\npatch: {profile: none, files: [/a], listen: true}"), "no listen variable"),
    ] {
        refused(&document, words);
    }
}

fn refused(document: &str, words: &str) {
    let error = Spec::parse(document, "f.yaml").expect_err(document);
    let text = format!("{error} {:?}", error.hint_text());
    assert_eq!(error.kind(), crate::error::Kind::Usage, "{text}");
    assert!(text.starts_with("f.yaml:") && text.contains(words), "{words} in {text}\n{document}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn limits_are_those_of_the_file_or_the_usual_ones() {
    let limits = |limits: &str| {
        Spec::parse(&format!("version: 1\n{limits}images: [{{source: 'a:1', destination: b}}]"), "f").unwrap().limits
    };
    assert_eq!(limits(""), Limits::default());
    let all = Limits { unpacked: 100 << 30, ratio: 7, memory: 1 << 30, depth: 9 };
    assert_eq!(limits("limits: {max-unpacked: 100GiB, max-ratio: 7, max-memory: 1G, max-depth: 9}\n"), all);
}

#[test]
fn an_image_wins_over_the_defaults() {
    let spec = Spec::parse(
        "version: 1
defaults: {referrers: true, force: true, platforms: [linux/amd64], patch: {env: {A: b}}, tag-template: x}
images:
  - {source: a, tags: [b], destination: c}
  - {source: a, tags: [b], destination: c, patch: false, force: false, platforms: [], tag-template: y}
  - {source: a, tags: [b], destination: c, patch: true}
",
        "f.yaml",
    )
    .unwrap();
    let said = |image: &Image| {
        let env = image.options().unwrap().map(|options| options.env.len());
        (env, image.referrers, image.force, image.platforms.len(), image.template.clone())
    };
    let template = |text: &str| text.parse::<Template>().unwrap();
    assert_eq!(said(&spec.images[0]), (Some(1), false, true, 1, template("x")), "a patch has no referrers");
    assert_eq!(said(&spec.images[1]), (None, true, false, 0, template("y")));
    assert_eq!(said(&spec.images[2]), (Some(0), false, true, 1, template("x")), "options are not mixed");
    assert_eq!(spec.images[1].place, "f.yaml:5:5");
}
