//! `capatch doctor IMAGE`: what it foretells of images built for it, through the binary.

mod common;

use std::time::{Duration, Instant};

use common::cli::{self, Run, capatch, fails, run, start};
use common::image::{Content, Image, Index, NGINX, NGINX_ENTRY, Scene};
use common::tar::{Entry, dir, file, hard_link, symlink};
use common::{elf, files};
use serde_json::Value;

/// `cap_net_bind_service=ep`
const BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `cap_net_raw=ep`
const RAW: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const PLAIN: &str = "#!/bin/sh\nset -e\nkong prepare\nexec /usr/local/openresty/nginx/sbin/nginx -p /usr/local/kong\n";

const GLIBC: &str = "/lib64/ld-linux-x86-64.so.2";

/// Class B of Kong's entry points, in our words: as root it may put another capability on nginx and becomes `kong`.
const CLASS_B: &str = "#!/bin/sh
set -e
if [ \"$(id -u)\" != \"0\" ]; then
  exec /usr/local/openresty/nginx/sbin/nginx
fi
if [ ! -z ${SET_CAP_NET_RAW} ]; then
  setcap cap_net_raw=+ep /usr/local/openresty/nginx/sbin/nginx
fi
chown -R kong:0 /usr/local/kong
exec su-exec kong /usr/local/openresty/nginx/sbin/nginx
";

/// Layers of an image that can start, with `nginx` for Kong's nginx and `script` for its entry point.
fn with_nginx(script: &str, nginx: Entry) -> Image {
    let program = |path: &str| file(path, elf::amd64());
    let mut image = Image::empty();
    image = image.layer([
        dir("bin"),
        program("bin/sh"),
        dir("etc"),
        file("etc/passwd", "root:x:0:0::/:/bin/sh\nkong:x:1000:1000::/:/bin/sh\n").mode(0o644),
        dir("usr"),
        dir("usr/bin"),
        program("usr/bin/env"),
        program("usr/bin/perl"),
        program("usr/bin/su-exec"),
        program("usr/bin/setcap"),
    ]);
    image = image.layer([
        dir("usr"),
        dir("usr/local"),
        dir("usr/local/openresty"),
        dir("usr/local/openresty/bin"),
        file("usr/local/openresty/bin/resty", "#!/usr/bin/env perl\n"),
        dir("usr/local/openresty/nginx"),
        dir("usr/local/openresty/nginx/sbin"),
        nginx,
        symlink("usr/bin/resty", "/usr/local/openresty/bin/resty"),
        symlink("usr/bin/nginx", NGINX),
        file("usr/bin/kong", "#!/usr/bin/env resty\n"),
    ]);
    image.layer([file("docker-entrypoint.sh", script)])
}

fn nginx() -> Entry {
    file(NGINX_ENTRY, elf::amd64())
}

/// The same, patched.
fn patched(script: &str) -> Image {
    with_nginx(script, nginx().xattr("security.capability", &BIND))
}

/// What doctor says of `content`, with these options besides.
fn examine(content: &Content, options: &[&str]) -> Run {
    let scene = Scene::new();
    let source = scene.source(content);
    let mut command = capatch(["doctor", &source]);
    command.args(options);
    start(command)
}

/// The data about the only image in it.
fn data(content: &Content, options: &[&str]) -> Value {
    let run = examine(content, &[&["--json"], options].concat());
    let report: Value = run.json();
    let images = report["images"].as_array().unwrap_or_else(|| panic!("{run:#?}"));
    assert_eq!(images.len(), 1, "{report:#}");
    let breaks = images[0]["findings"].as_array().unwrap().iter().any(|finding| finding["level"] == "breaks");
    assert_eq!(run.code, if breaks { 8 } else { 0 }, "{report:#}");
    images[0].clone()
}

fn verdict(image: &Image) -> String {
    data(&image.build(), &[])["verdict"].as_str().unwrap().to_owned()
}

/// Level and place of the finding with this code.
fn finding(data: &Value, code: &str) -> Option<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = data["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["code"] == code)?;
    assert!(["what", "why"].iter().all(|member| found[member].as_str().is_some_and(|text| !text.is_empty())));
    Some((text(&found["level"]), text(&found["place"])))
}

fn outcomes(data: &Value) -> Vec<&str> {
    data["containers"].as_array().unwrap().iter().map(|fate| fate["outcome"].as_str().unwrap()).collect()
}

#[test]
fn standard_ways_are_foretold() {
    let (serves, bind, start) = ("serves", "cannot-bind", "cannot-start");
    let table = |image: Image| data(&image.build(), &[]);
    assert_eq!(outcomes(&table(patched(PLAIN))), [serves, start, serves, bind, serves, serves, serves]);
    let unpatched = table(with_nginx(PLAIN, nginx()));
    assert_eq!(outcomes(&unpatched), [bind, bind, bind, bind, serves, bind, "not-needed"]);
    assert_eq!(unpatched["containers"][0]["error"], "bind() to 0.0.0.0:80 failed (13: Permission denied)");
    assert_eq!(finding(&unpatched, "no-capability"), Some(("breaks".into(), NGINX.into())));
    // What is executed on the way to nginx executes nginx too, and fails first.
    let drop_all = &table(patched(PLAIN))["containers"][1];
    assert_eq!(drop_all["error"], format!("{NGINX}: Operation not permitted"));
    assert_eq!(drop_all["at"], "/docker-entrypoint.sh:3");
    // What only works, as a job does, is refused too.
    let job = table(patched("#!/bin/sh\nkong migrations up && sleep 1\n"));
    assert_eq!(outcomes(&job)[..3], ["ends", start, "ends"]);
    // Without a script in between the runtime itself is refused.
    let direct = patched(PLAIN)
        .run(r#"["/docker-entrypoint.sh"]"#, r#"["nginx","-g","daemon off;"]"#)
        .run(r#""Cmd":["kong","docker-start"],"#, "");
    let direct = table(direct);
    assert_eq!(direct["containers"][1]["error"], "exec /usr/bin/nginx: operation not permitted");
    assert_eq!(direct["verdict"], "starts and binds 80 and 443 as uid 1000");
}

#[test]
fn verdicts_come_first() {
    let of = |script: &str| patched(script);
    let root = |image: Image| image.run(r#""User":"kong","#, "");
    let glibc = || {
        let nginx = file(NGINX_ENTRY, elf::dynamic(GLIBC)).xattr("security.capability", &BIND);
        with_nginx(&format!("#!/bin/sh\nexec {NGINX}\n"), nginx)
    };
    let raw = |image: Image| image.run(r#""A="#, r#""SET_CAP_NET_RAW=1","A="#);
    let exec = "exec /usr/local/openresty/nginx/sbin/nginx";
    let denied = "starts, and cannot bind 80 and 443: bind() to 0.0.0.0:80 failed (13: Permission denied)";
    for (image, expected) in [
        (of(PLAIN), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (of(CLASS_B), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (root(of(CLASS_B)), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (root(raw(of(CLASS_B))), denied.to_owned()),
        (raw(of(CLASS_B)), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (root(with_nginx(CLASS_B, nginx())), denied.to_owned()),
        (root(with_nginx(PLAIN, nginx())), "starts and binds 80 and 443 as uid 0".to_owned()),
        (root(of(&format!("#!/bin/sh\nchown -R kong /usr/local/openresty\n{exec}\n"))), "starts and binds 80 and 443 as uid 0".to_owned()),
        (root(of(&format!("#!/bin/sh\nchown -R kong /usr/local/openresty\nexec su-exec kong {NGINX}\n"))), denied.to_owned()),
        (of(&format!("#!/bin/sh\nexec su-exec root {NGINX}\n")), "will not start: cannot become user root: Operation not permitted".to_owned()),
        (
            of(PLAIN).layer([file("docker-entrypoint.sh", PLAIN).mode(0o700)]),
            "will not start: /bin/sh: /docker-entrypoint.sh: Permission denied".to_owned(),
        ),
        (
            of("#!/bin/sh\nexec nginx\n").layer([dir("usr/local/openresty").mode(0o750)]),
            "will not start: /usr/bin/nginx: Permission denied".to_owned(),
        ),
        (of("#!/bin/bash\n"), "will not start: exec /docker-entrypoint.sh: no such file or directory (its interpreter /bin/bash is not in the image)".to_owned()),
        (glibc(), format!("will not start: exec {NGINX}: no such file or directory (its dynamic linker {GLIBC} is not in the image)")),
        (glibc().layer([symlink("lib64", "usr/lib64"), file(&format!("usr{GLIBC}"), "")]), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (of("exec nginx\n"), "will not start: exec /docker-entrypoint.sh: exec format error".to_owned()),
        (of("#!/bin/sh\nset -e\nkong-migrate\nexec nginx\n"), "will not start: kong-migrate: not found".to_owned()),
        (of("#!/bin/sh\nsleep 9\n"), "ends at /docker-entrypoint.sh without starting the program".to_owned()),
        // The child serves: without `exec`, in the background, as a daemon.
        (of("#!/bin/sh\nset -e\nnginx -g 'daemon off;'\n"), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (of("#!/bin/sh\nnginx &\nwait\n"), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (of("#!/bin/sh\nkong start && exec perl\n"), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (root(of(&format!("#!/bin/sh\nsu-exec kong {NGINX}\n"))), "starts and binds 80 and 443 as uid 1000".to_owned()),
        (with_nginx("#!/bin/sh\n(nginx)\n", nginx()), denied.to_owned()),
        (of(&format!("#!/bin/sh\nsu-exec root {NGINX}\n")), "will not start: cannot become user root: Operation not permitted".to_owned()),
        (of("#!/bin/sh\nexec perl\n"), "executes /usr/bin/perl and does not serve".to_owned()),
        (
            of("#!/bin/sh\nfor f in a; do\n  wget -qO- http://x | while read l; do exec $l; done\n  . /tmp/$f.$RANDOM\ndone\n"),
            "cannot be told: /docker-entrypoint.sh:4: it goes on with a file that is known only when it runs (/tmp/a.…)".to_owned(),
        ),
        (of(PLAIN).run("\"kong\",\"Exp", "\"nobody\",\"Exp"), "will not start: unable to find user nobody: no matching entries in passwd file".to_owned()),
        (of(PLAIN).run("\"A=", "\"KONG_PROXY_LISTEN=0.0.0.0:81 ssl\",\"A="), "starts and binds 81 as uid 1000".to_owned()),
        (of(PLAIN).run("\"A=", "\"KONG_PROXY_LISTEN=0.0.0.0:80\",\"KONG_ADMIN_LISTEN=[::]:444 ssl\",\"A="), "starts and binds 80 and 444 as uid 1000".to_owned()),
        (
            of(PLAIN).run("\"A=", "\"KONG_PROXY_LISTEN=0.0.0.0:80 transparent\",\"A="),
            "will not start: listen value \"0.0.0.0:80 transparent\", listener 1: Kong 3.9.3 has no listen flag \"transparent\", known from 1.0 to 1.5".to_owned(),
        ),
    ] {
        assert_eq!(verdict(&image), expected);
    }
}

/// Programs of which neither the profile nor the image says where they listen.
#[test]
fn a_low_port_is_assumed() {
    let bare = |nginx| with_nginx(PLAIN, nginx).run(r#""ExposedPorts":{"8000/tcp":{}, "8443/tcp":{}},"#, "");
    for (image, expected) in [
        (bare(nginx().xattr("security.capability", &BIND)), "starts and binds 80 as uid 1000"),
        (bare(nginx()), "starts, and cannot bind 80: bind() to 0.0.0.0:80 failed (13: Permission denied)"),
    ] {
        let data = data(&image.build(), &["--profile", "none", "--file", NGINX]);
        assert_eq!(data["verdict"], expected);
        assert_eq!(finding(&data, "ports-assumed"), Some(("note".into(), NGINX.into())));
    }
}

#[test]
fn each_check_finds_what_it_is_for() {
    let capable = |value: &[u8]| with_nginx(PLAIN, nginx().xattr("security.capability", value));
    let mut v1 = vec![1, 0, 0, 1];
    v1.extend([0, 4, 0, 0, 0, 0, 0, 0]);
    let mut v3 = BIND.to_vec();
    v3[3] = 3;
    v3.extend([0xe8, 3, 0, 0]);
    let mut permitted = BIND;
    permitted[0] = 0;
    let both: Vec<u8> = BIND.iter().zip(RAW).map(|(a, b)| a | b).collect();
    let env = |text: &str| patched(PLAIN).run("\"A=", &format!("\"{text}\",\"A="));
    let arm = Image { architecture: "arm64".into(), ..patched(PLAIN) };
    let hard = with_nginx(PLAIN, nginx()).layer([dir("opt"), file("opt/n", elf::amd64()), hard_link("opt/m", "opt/n")]);
    let own = patched(PLAIN).layer([file(NGINX_ENTRY, elf::amd64()).owner(1000).xattr("security.capability", &BIND)]);
    let (breaks, warning, note) = ("breaks", "warning", "note");
    for (image, options, code, expected) in [
        (capable(&BIND[..19]), &[][..], "malformed-capability", Some((breaks, NGINX))),
        (capable(&v1), &[], "malformed-capability", Some((breaks, NGINX))),
        (capable(&BIND), &[], "malformed-capability", None),
        (capable(&v3), &[], "foreign-root", Some((breaks, NGINX))),
        (capable(&permitted), &[], "not-effective", Some((breaks, NGINX))),
        (capable(&both), &[], "more-capabilities", Some((note, NGINX))),
        (capable(&BIND), &[], "more-capabilities", None),
        (capable(&RAW), &[], "no-capability", Some((breaks, NGINX))),
        (arm, &[], "no-program", Some((breaks, NGINX))),
        (patched(PLAIN), &[], "no-program", None),
        (with_nginx(PLAIN, file(NGINX_ENTRY, "#!/bin/sh\n")), &[], "no-program", Some((breaks, NGINX))),
        (with_nginx(PLAIN, nginx().mode(0o644)), &[], "not-executable", Some((breaks, "/docker-entrypoint.sh:3"))),
        (with_nginx(PLAIN, nginx().mode(0o4755)), &[], "setuid", Some((warning, NGINX))),
        (patched(PLAIN), &["--file", "/usr/bin/nginx"], "link", Some((note, "/usr/bin/nginx"))),
        (hard, &["--file", "/opt/n"], "hard-link", Some((warning, "/opt/m"))),
        (patched(CLASS_B), &[], "overwritten", Some((warning, "/docker-entrypoint.sh:7"))),
        (patched(PLAIN), &[], "overwritten", None),
        (
            patched("#!/bin/sh\n[ $(id -u) = 0 ] && chown kong /usr/bin/nginx\nexec nginx\n"),
            &[],
            "cleared",
            Some((warning, "/docker-entrypoint.sh:2")),
        ),
        (patched(PLAIN).run(r#""User":"kong","#, r#""User":"0:0","#), &[], "root", Some((note, "USER"))),
        (patched(PLAIN), &[], "root", None),
        (patched(PLAIN), &[], "named-user", Some((note, "USER"))),
        (patched(PLAIN).run(r#""User":"kong","#, r#""User":"1000","#), &[], "named-user", None),
        (own, &[], "writable", Some((note, NGINX))),
        (patched(PLAIN), &[], "writable", None),
        (env("LD_LIBRARY_PATH=/x"), &[], "secure-variable", Some((warning, "ENV"))),
        (env("SSL_CERT_FILE=/x"), &[], "secure-variable", Some((warning, "ENV"))),
        (patched(PLAIN), &[], "secure-variable", None),
        (patched(PLAIN), &[], "listen-high", Some((note, "KONG_PROXY_LISTEN"))),
        (env("KONG_PROXY_LISTEN=0.0.0.0:80"), &[], "listen-high", None),
        (env("KONG_PROXY_LISTEN=nonsense"), &[], "listen-value", Some((breaks, "KONG_PROXY_LISTEN"))),
        (
            env(r#"KONG_PROXY_LISTEN=off","KONG_PROXY_LISTEN_FILE=/x"#),
            &[],
            "file-conflict",
            Some((breaks, "KONG_PROXY_LISTEN")),
        ),
        (env("KONG_PORT_MAPS=80:8000"), &[], "port-maps", Some((note, "KONG_PORT_MAPS"))),
        (patched(PLAIN), &[], "healthcheck", Some((note, "HEALTHCHECK"))),
        (patched(PLAIN).run(r#"["CMD","kong","health"]"#, r#"["NONE"]"#), &[], "healthcheck", None),
        (
            patched(PLAIN).run(r#"["CMD","kong","health"]"#, r#"["CMD-SHELL","exec kong health"]"#),
            &[],
            "healthcheck",
            Some((note, "HEALTHCHECK")),
        ),
        (
            patched(PLAIN).run("\"Labels\"", r#""Volumes":{"/usr/local/openresty":{}},"Labels""#),
            &[],
            "volume",
            Some((warning, "/usr/local/openresty")),
        ),
        (patched(PLAIN).run("\"Labels\"", r#""Volumes":{"/usr/local/open":{}},"Labels""#), &[], "volume", None),
    ] {
        let data = data(&image.build(), options);
        let expected = expected.map(|(level, place)| (level.to_owned(), place.to_owned()));
        assert_eq!(finding(&data, code), expected, "{code} {options:?} {data:#}");
    }
}

#[test]
fn platforms_are_grouped_by_what_is_true_of_them() {
    let amd64 = patched(PLAIN).build();
    let mut other = with_nginx(PLAIN, file(NGINX_ENTRY, elf::arm64()).xattr("security.capability", &BIND));
    other.architecture = "arm64".into();
    let mut unpatched = with_nginx(PLAIN, file(NGINX_ENTRY, elf::arm64()));
    unpatched.architecture = "arm64".into();
    let same = Index::new().platform(&amd64, "amd64").platform(&other.build(), "arm64").build();
    let text = examine(&same, &[]).succeeded().stdout;
    assert!(text.starts_with("linux/amd64, linux/arm64: starts and binds 80 and 443 as uid 1000\n"), "{text}");
    assert_eq!(text.matches("  program ").count(), 1, "{text}");
    let index =
        Index::new().platform(&amd64, "amd64").platform(&unpatched.build(), "arm64").attestation(&amd64.digest).build();
    let run = examine(&index, &["--json"]);
    let report = run.json();
    assert_eq!((run.code, report["images"].as_array().unwrap().len()), (8, 2));
    assert_eq!(finding(&report["images"][0], "attestations"), Some(("note".into(), "index".into())));
    assert_eq!(finding(&report["images"][1], "attestations"), None);
    assert_eq!(examine(&index, &["--platform", "linux/amd64"]).code, 0);
    assert!(run.stderr.contains("1 finding that breaks it"), "{run:#?}");
}

#[test]
fn what_refers_to_the_image_is_told() {
    let scene = Scene::new();
    let content = patched(PLAIN).build();
    let source = scene.source(&content);
    let codes = || {
        let mut command = capatch(["doctor", &source]);
        command.arg("--json");
        finding(&start(command).succeeded().json()["images"][0], "referrers")
    };
    assert_eq!(codes(), None);
    let signature = format!(r#","subject":{}"#, content.descriptor(""));
    let signature = Image { manifest_members: signature, ..Image::empty() }.build();
    Index::new().child(&signature, "").build().write(&scene.path("src"), &content.digest.replace(':', "-"));
    assert_eq!(codes(), Some(("note".into(), "index".into())));
}

#[test]
fn the_fix_of_an_unpatched_image_mends_it() {
    let scene = Scene::new();
    let source = scene.source(&with_nginx(PLAIN, nginx()).build());
    let report = start({
        let mut command = capatch(["doctor", &source]);
        command.arg("--json");
        command
    });
    let fixes = report.json()["images"][0]["findings"].clone();
    let fix =
        fixes.as_array().unwrap().iter().find(|finding| finding["code"] == "no-capability").unwrap()["fix"].clone();
    let words: Vec<&str> = fix.as_str().unwrap().split(' ').collect();
    assert_eq!(words[0], "capatch");
    start(capatch(&words[1..])).succeeded();
    cli::prove(words[3], &source);
    let after = run(["doctor", words[3]]).succeeded().stdout;
    assert!(after.contains(": starts and binds 80 and 443 as uid 1000\n"), "{after}");
}

#[test]
fn what_cannot_be_examined_is_an_error() {
    let scene = Scene::new();
    let source = scene.source(&patched(PLAIN).build());
    fails(2, &["--file"], ["doctor", &source, "--profile", "none"]);
    fails(3, &["/nowhere", "--file"], ["doctor", &source, "--file", "/nowhere"]);
    fails(3, &["does not exist"], ["doctor", &scene.reference("src:none")]);
    fails(3, &["linux/s390x"], ["doctor", &source, "--platform", "linux/s390x"]);
}

/// Images that want to cost us time or memory: each is answered, and fast.
#[test]
fn hostile_images_cost_no_more_than_their_size() {
    let exec = format!("\nexec {NGINX}\n");
    let big = format!("#!/bin/sh\n{}{exec}", "a=b; ".repeat(200_000));
    let huge = format!("#!/bin/sh\n{}{exec}", "#".repeat(2 << 20));
    let conditions = format!("#!/bin/sh\n{}{exec}", "if read x; then a=$x; fi\n".repeat(300));
    let bomb = format!("#!/bin/sh\nx=aaaaaaaaaaaaaaaa\n{}{exec}", "x=$x$x$x$x\n".repeat(40));
    let rounds = format!(
        "#!/bin/sh\n{}kong version{}{exec}",
        "for a in 1 2 3 4 5 6 7 8 9 0; do ".repeat(12),
        "; done".repeat(12)
    );
    let deep = |open: &str, close: &str| format!("#!/bin/sh\n{}exec nginx{}\n", open.repeat(5000), close.repeat(5000));
    // Scripts, functions and commands inside each other, all to their limits.
    let inside = |open: &str, close: &str| {
        let (open, close) = (open.repeat(25), close.repeat(25));
        format!("#!/bin/sh\nf() {{\n{open}f $1{close}\n}}\nf; {open}/docker-entrypoint.sh{close}\n")
    };
    let loops =
        patched(PLAIN).layer([symlink("docker-entrypoint.sh", "/other"), symlink("other", "/docker-entrypoint.sh")]);
    let stars = format!(
        "#!/bin/sh\nx={}\n{}{exec}",
        "a".repeat(4000),
        format!("y=${{x##{}b}}\n", "*a".repeat(50)).repeat(3000)
    );
    let passwd = patched(PLAIN).layer([file("etc/passwd", vec![b'a'; 80 << 20])]);
    let selves = patched("#!/docker-entrypoint.sh\n");
    for (name, image, expected) in [
        ("big", patched(&big), "cannot be told: /docker-entrypoint.sh:2: it takes too many commands"),
        ("huge", patched(&huge), "cannot be told: ENTRYPOINT: /docker-entrypoint.sh is larger than 1024 KiB"),
        ("conditions", patched(&conditions), "starts and binds"),
        ("bomb", patched(&bomb), "starts and binds"),
        ("stars", patched(&stars), "cannot be told"),
        ("rounds", patched(&rounds), "cannot be told"),
        (
            "if",
            patched(&deep("if true; then ", "; fi")),
            "cannot be told: /docker-entrypoint.sh:2: cannot follow more than 60",
        ),
        ("{", patched(&deep("{ ", "; }")), "cannot be told: /docker-entrypoint.sh:2: cannot follow more than 60"),
        ("$(", patched(&deep("$(", ")")), "cannot be told: /docker-entrypoint.sh:2: cannot follow more than 60"),
        (
            "\"${",
            patched(&deep("\"${x:-", "}\"")),
            "cannot be told: /docker-entrypoint.sh:2: cannot follow more than 60",
        ),
        ("!", patched(&deep("! ", "")), "starts and binds"),
        (
            "self",
            patched("#!/bin/sh\nexec /docker-entrypoint.sh\n"),
            "cannot be told: /docker-entrypoint.sh:2: more than 20 programs",
        ),
        ("functions", patched("#!/bin/sh\nf() { f; f; }\nf\n"), "cannot be told"),
        ("inside {", patched(&inside("{ ", "; }")), "cannot be told"),
        ("inside if", patched(&inside("if true; then ", "; fi")), "cannot be told"),
        ("inside $(", patched(&inside("$( ", " )")), "cannot be told"),
        ("inside (", patched(&inside("( ", " )")), ""),
        ("inside |", patched(&inside("true | { ", "; }")), ""),
        ("inside eval", patched("#!/bin/sh\nf() { eval 'eval \"eval f\"'; }\nf\n"), "cannot be told"),
        ("interpreter", selves, "cannot be told: ENTRYPOINT: more than 20 programs"),
        (
            "links",
            loops,
            "will not start: exec: \"/docker-entrypoint.sh\": stat /docker-entrypoint.sh: no such file or directory",
        ),
        ("passwd", passwd, "will not start: unable to find user kong"),
    ] {
        let content = image.build();
        let started = Instant::now();
        let verdict = data(&content, &[])["verdict"].as_str().unwrap().to_owned();
        assert!(verdict.starts_with(expected), "{name}: {verdict}");
        assert!(started.elapsed() < Duration::from_secs(20), "{name} takes {:?}", started.elapsed());
    }
    let more = finding(&data(&patched(&conditions).build(), &[]), "more-ways");
    assert_eq!(more, Some(("note".into(), "ENTRYPOINT".into())));
    let escape = patched("#!/bin/sh\nexec \u{1b}]0;pwn\u{7}\n");
    let run = examine(&escape.build(), &[]);
    assert!(!run.stdout.contains('\u{1b}') && run.stdout.contains("\\u{1b}"), "{run:#?}");
}

#[test]
fn the_readme_shows_what_is_printed() {
    let scene = Scene::new();
    let (source, result) = (files::kong(), scene.reference("dst:3.9-lowport"));
    start(capatch(["patch", &source, &result])).succeeded();
    let printed = run(["doctor", &result]).succeeded().stdout;
    let head: Vec<&str> = printed.lines().take(13).collect();
    let readme = files::read("README.md");
    let example = format!("$ capatch doctor oci:target/kong:3.9-lowport | head -13\n{}\n```\n", head.join("\n"));
    assert!(readme.contains(&example), "{example}");
}
