//! Writes the seeds of all targets to `corpus/TARGET/`, made of the fixtures of the integration tests.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use capatch_fuzz::common::image::{Content, Image, Index, Packing};
use capatch_fuzz::common::tar::{self, Entry, caps, device, dir, file, hard_link, symlink, whiteout};
use libfuzzer_sys::fuzz_target;

// A target too, because what is made for fuzzing cannot be linked without the fuzzer; it is run for nothing but this.
fuzz_target!(init: write().expect("the directory can be written to"), |_data: &[u8]| {});

fn write() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (target, seeds) in seeds(root) {
        let directory = root.join("corpus").join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}

type Seeds = Vec<Vec<u8>>;

fn seeds(root: &Path) -> BTreeMap<&'static str, Seeds> {
    let images = images();
    let contents: Vec<Content> = images.iter().map(Image::build).collect();
    let (one, two) = (&contents[0], &contents[1]);
    let index = Index::new().platform(one, "amd64").platform(two, "arm64").attestation(&one.digest).build();
    let list = Index::new().docker().platform(&contents[2], "amd64").members(r#","x":1.10"#).build();
    BTreeMap::from([
        ("www_authenticate", texts(&CHALLENGES)),
        (
            "location_join",
            LOCATIONS.iter().flat_map(|text| (0..8u8).map(move |n| [&[n], text.as_bytes()].concat())).collect(),
        ),
        (
            "content_range",
            RANGES
                .iter()
                .flat_map(|text| [[1, 3, 64, 61, 0], [0, 0, 64, 64, 3]].map(|n| [&n[..], text.as_bytes()].concat()))
                .collect(),
        ),
        ("reference", texts(&REFERENCES)),
        ("digest", texts(&DIGESTS)),
        ("manifest_or_index", contents.iter().chain([&index, &list]).flat_map(documents).collect()),
        ("config_edit", contents.iter().flat_map(configs).collect()),
        ("index_json", indexes(root, one)),
        ("docker_config_json", logins()),
        ("tar_scan", tars().into_iter().map(|tar| [vec![0], tar].concat()).collect()),
        ("layer_stream", layers()),
        ("archive_import", contents.iter().chain([&index, &list]).flat_map(archives).collect()),
        ("push", scripts()),
        ("pull", scripts()),
    ])
}

fn texts(texts: &[&str]) -> Seeds {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const CHALLENGES: [&str; 8] = [
    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/kong:pull""#,
    "Basic realm=\"x\"\nBearer realm=\"/token\", service=a, scope=b",
    r#"Negotiate, Bearer realm="https://r.example/token?x=\"y\"",error="invalid_token", Basic"#,
    r#"bearer REALM = "http://127.0.0.1/t" , Service="a\\b""#,
    "Bearer service=\"x\"\nBasic",
    "Digest qop=\"auth, auth-int\", nonce=\"==\", algorithm=MD5",
    "Bearer realm=\"https://r.example/token",
    ",,=,\"Bearer\" realm==",
];

const LOCATIONS: [&str; 16] = [
    "/v2/a/blobs/uploads/1?_state=x",
    "https://registry.example.com/v2/",
    "https://auth.example.com/token",
    "https://registry.example.com.evil.net/",
    "http://registry.example.com/",
    "//evil.example.com/x",
    "https://user:a-long-password@registry.example.com/",
    "https://registry.example.com.:443/",
    "https://0x7f.1/",
    "http://[::ffff:127.0.0.1]:5000/",
    "http://169.254.169.254/latest",
    "http://10.0.0.5:80",
    "file:///etc/passwd",
    "?n=1&last=b",
    "<https://registry.example.com/v2/a/tags/list?n=2>; rel=\"next\"",
    "</v2/a>; rel=prev, </v2/b>; rel=next",
];

const RANGES: [&str; 14] = [
    "bytes 3-63/64",
    "bytes 0-63/64",
    "bytes 3-63/*",
    "bytes */64",
    "bytes=0-7",
    "0-63",
    "0-18446744073709551615",
    "120",
    " 99999999999999999999",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Wed, 31 Dec 9999 23:59:60 GMT",
    "Thu, 29 Feb 2024 00:00:00 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "bytes 5-2/1",
];

const REFERENCES: [&str; 22] = [
    "kong",
    "kong:3.9",
    "library/kong@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "docker.io/kong/kong-gateway:3.10.0.1-ubuntu",
    "index.docker.io/kong",
    "localhost/a:b",
    "LOCALHOST:5000/a",
    "127.0.0.1:5000/team/app:1",
    "[2001:db8::1]:5000/a/b:latest",
    "r.example/a__b/c--d.e_f:T",
    "docker://ghcr.io/x/y",
    "oci:dir:tag",
    "oci:/a/b@c:latest",
    "oci:dir@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "oci-archive:file.tar:docker.io/library/kong:3.9",
    "docker-archive:-:kong:3.9",
    "containerd:kong:3.9",
    "docker-daemon:kong",
    "user:password@r.example/a",
    "https://r.example/a",
    "dir:/x",
    "a:b@sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
];

const DIGESTS: [&str; 6] = [
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
    "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
    "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
    "sha256:../../../../etc/passwd",
    "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
];

fn images() -> [Image; 3] {
    let mut arm = Image::kong_arm64();
    arm.manifest_members = r#","annotations":{"a":"b"},"subject":{"mediaType":"x/y","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#.into();
    [Image::empty().packed(tars().remove(0), Packing::Plain), arm, Image::kong().docker()]
}

/// Each document with a media type that is right, another, and none.
fn documents(content: &Content) -> Seeds {
    let of = |(media_type, bytes): &(String, Vec<u8>)| {
        [media_type.as_str(), "", "text/plain", "application/vnd.oci.image.index.v1+json"]
            .map(|claimed| [claimed.as_bytes(), b"\n", bytes].concat())
    };
    content.manifests.values().flat_map(of).collect()
}

fn configs(content: &Content) -> Seeds {
    let edits = [
        "expose 80/tcp\nexpose 443/tcp\nunexpose 8000/tcp",
        "env A=B\nenv KONG_VERSION=3.9\nlabel maintainer=me\ncreated 2024-01-01T00:00:00Z",
        "listen 0.0.0.0:80, 0.0.0.0:443 ssl\nexpose 80",
        "listen \nlabel a=b",
    ];
    let configs = content.blobs.values().filter(|bytes| bytes.starts_with(b"{"));
    configs.flat_map(|config| edits.map(|edit| [edit.as_bytes(), b"\n\n", config].concat())).collect()
}

fn indexes(root: &Path, image: &Content) -> Seeds {
    let flat = |members: &str| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]{members}}}"#,
            image.descriptor(r#","annotations":{"org.opencontainers.image.ref.name":"1","x":"y"}"#)
        )
    };
    let platform = |name: &str| {
        image.descriptor(&format!(r#","platform":{{"architecture":"{name}","os":"linux"}},"annotations":{{"io.containerd.image.name":"docker.io/library/kong:3.9","org.opencontainers.image.ref.name":"3.9"}}"#))
    };
    let both = format!(r#"{{"manifests":[{},{}],"schemaVersion":2}}"#, platform("amd64"), platform("arm64"));
    let fixture = fs::read_to_string(root.join("../../testdata/kong/index.json")).expect("the fixture is there");
    let empty = r#"{"schemaVersion":2,"manifests":[]}"#.to_owned();
    let all = [flat(""), flat(r#","annotations":{"a":1.10}"#), both, fixture, empty, String::new(), "{}".to_owned()];
    ["1", "3.9", "docker.io/library/kong:3.9"]
        .iter()
        .flat_map(|tag| all.iter().map(move |index| format!("{tag}\n{index}").into_bytes()))
        .collect()
}

fn logins() -> Seeds {
    let files = [
        r#"{"auths":{"r.example":{"auth":"dXNlcjpjYW5hcnktcGFzc3dvcmQ="}}}"#,
        r#"{"auths":{"https://index.docker.io/v1/":{"username":"u","password":"canary"},"r.example/team":{"identitytoken":"canary-token"}}}"#,
        r#"{"credHelpers":{"r.example":"pass","docker.io":""},"credsStore":"desktop"}"#,
        r#"{"auths":{"R.EXAMPLE:443":{},"r.example":{"auth":"canary-no-base64"}},"HttpHeaders":{"X":"canary"}}"#,
        r#"{"auths":{"r.example":{"registrytoken":"canary-registry"}},"credsStore":null}"#,
        "",
    ];
    let names = ["r.example/team/app", "kong", "r.example:443/a"];
    names.iter().flat_map(|name| files.map(|file| format!("{name}\n{file}").into_bytes())).collect()
}

fn entries() -> Vec<Entry> {
    vec![
        dir("usr").owner(1000),
        file("usr/program", "content").xattr("security.capability", &caps(0x400, true)),
        file("usr/newlines", "x")
            .xattr("security.capability", &caps(0x0a, true))
            .xattr("user.x", b"\n22 linkpath=/etc/evil\n"),
        symlink("usr/link", "/etc/passwd"),
        hard_link("usr/hard", "usr/program"),
        device("dev"),
        whiteout("usr/gone"),
        file("usr/.wh..wh..opq", ""),
        file("short", "y").pax("path", b"a/long/name/../x").pax("mtime", b"1704067200.5").pax("uid", b"70000"),
        file("sized", "zz").pax("size", b"2").mtime(0),
        file("v7/", "").kind(0),
        hard_link("odd", "usr/program").size(0),
    ]
}

/// GNU's long names, which the builder of the tests does not write.
fn gnu() -> Vec<u8> {
    let long = "n/".repeat(80);
    let name = |kind: u8, text: &str| file("././@LongLink", format!("{text}\0")).kind(kind);
    tar::tar(&[
        name(b'L', &long),
        name(b'K', &long),
        symlink("x", "y"),
        file("g", "").kind(b'g').size(0),
        file("z", "1"),
    ])
}

fn tars() -> Seeds {
    let all = entries();
    let single = all.iter().map(|entry| tar::tar(std::slice::from_ref(entry)));
    let mut tars: Seeds = vec![tar::tar(&all), gnu(), tar::unfinished(&all[..3]), vec![0; 1024], Vec::new()];
    tars.extend(single);
    tars
}

fn layers() -> Seeds {
    let tars = [tar::tar(&entries()), gnu()];
    let repaired = tars.iter().flat_map(|tar| (0..8u8).map(move |how| [&[how << 1], &tar[..]].concat()));
    let packings = [Packing::Gzip, Packing::Members(700), Packing::Zstd, Packing::Plain, Packing::Fast];
    let raw = packings.iter().map(|packing| [vec![1], packing.pack(&tars[0])].concat());
    let bomb = zstd::encode_all(&vec![0; 8 << 20][..], 1).expect("memory is there");
    repaired.chain(raw).chain([[vec![1], bomb].concat()]).collect()
}

fn archives(content: &Content) -> Seeds {
    let member = |name: &str, bytes: &[u8]| file(name, bytes).mode(0o644);
    let blob = |digest: &str, bytes: &[u8]| member(&format!("blobs/{}", digest.replace(':', "/")), bytes);
    let manifests = content.manifests.iter().map(|(digest, (_, bytes))| blob(digest, bytes));
    let blobs: Vec<Entry> = content.blobs.iter().map(|(digest, bytes)| blob(digest, bytes)).chain(manifests).collect();
    let named = content.descriptor(r#","annotations":{"org.opencontainers.image.ref.name":"1"}"#);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#);
    let layout = [
        member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        member("index.json", index.as_bytes()),
        dir("blobs"),
        dir("blobs/sha256"),
    ];
    let oci = tar::tar(&[&layout[..], &blobs].concat());
    let mut seeds = vec![[vec![0], oci.clone()].concat(), [vec![1], oci].concat()];
    if content.manifests.len() == 1 {
        let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
        let layers: Vec<String> = content.layers().iter().map(|digest| format!("\"{}\"", path(digest))).collect();
        let saved = format!(
            r#"[{{"Config":"{}","RepoTags":["kong:3.9"],"Layers":[{}]}}]"#,
            path(&content.config()),
            layers.join(",")
        );
        let docker = tar::tar(&[&[member("manifest.json", saved.as_bytes())], &blobs[..]].concat());
        seeds.extend([[vec![2], docker.clone()].concat(), [vec![3], docker].concat()]);
    }
    seeds
}

/// Bytes that `Arbitrary` makes scripts of.
fn scripts() -> Seeds {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..60).map(|number| (0..number * 2).map(|_| noise()).collect()).collect()
}
