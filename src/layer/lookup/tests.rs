use super::*;
use crate::archive::testing::*;
use crate::layer::testing::Layer;

fn sources(layers: &[Layer]) -> Vec<LayerSource> {
    let source = |l: &Layer| LayerSource { descriptor: l.descriptor.clone(), diff_id: l.diff_id.clone() };
    layers.iter().map(source).collect()
}

/// `find`, as `path layer content`, or the error and its hint; and how often each layer was read.
fn find(layers: &[Vec<Vec<u8>>], path: &str) -> (Result<String, String>, Vec<usize>) {
    let layers: Vec<Layer> = layers.iter().map(|frames| Layer::of(frames)).collect();
    let mut stack =
        Stack::new(sources(&layers), Limits::default(), &Cache::default(), |at, scan| scan(&mut &layers[at].blob[..]));
    let found = stack.find(path.as_bytes()).map_err(|e| {
        let error = Error::from(e);
        format!("{error} ({})", error.hint_text().unwrap_or_default())
    });
    let found = found.map(|found| {
        let mut content = String::new();
        found.content.reader(0).read_to_string(&mut content).unwrap();
        assert_eq!((found.entry.path, found.entry.kind), (found.path.clone(), Kind::File));
        format!("{} {} {content}", path::show(&found.path), found.layer)
    });
    (found, stack.scans())
}

fn check(layers: &[Vec<Vec<u8>>], path: &str, expected: &str, scans: &[usize]) {
    let (found, seen) = find(layers, path);
    assert_eq!(found.as_deref(), Ok(expected), "{path}");
    assert_eq!(seen, scans, "{path}");
}

fn fails(layers: &[Vec<Vec<u8>>], path: &str, words: &[&str]) {
    let error = find(layers, path).0.unwrap_err();
    assert!(words.iter().all(|word| error.contains(word)), "{path}: {error}");
}

fn tree(dirs: &[&str], more: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    dirs.iter().map(|d| dir(d)).chain(more).collect()
}

#[test]
fn the_topmost_layer_decides_and_no_lower_one_is_opened() {
    let base = tree(&["usr", "usr/sbin", "etc"], vec![file("usr/sbin/nginx", b"one"), file("etc/a", b"a")]);
    let mid = tree(&["usr", "usr/sbin"], vec![file("usr/sbin/nginx", b"two")]);
    let top = tree(&["etc"], vec![file("etc/b", b"b")]);
    let layers = [base, mid, top];
    check(&layers, "/usr/sbin/nginx", "/usr/sbin/nginx 1 two", &[0, 1, 1]);
    check(&layers, "etc/b", "/etc/b 2 b", &[0, 0, 1]);
    check(&layers, "usr/../etc//./a", "/etc/a 0 a", &[1, 1, 1]);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let base = tree(&["d", "d/e"], vec![file("d/e/f", b"0"), file("d/g", b"0")]);
    for (upper, path, expected) in [
        (vec![file("d/e/.wh.f", b"")], "d/e/f", None),
        (vec![file("d/e/.wh.f", b""), file("d/e/f", b"1")], "d/e/f", Some("/d/e/f 1 1")),
        (vec![file("d/e/f", b"1"), file("d/e/.wh.f", b"")], "d/e/f", Some("/d/e/f 1 1")),
        (vec![file("d/.wh.e", b"")], "d/e/f", None),
        (vec![file(".wh.d", b"")], "d/g", None),
        (vec![file("d/.wh..wh..opq", b"")], "d/e/f", None),
        (vec![dir("d"), file("d/g", b"1"), file("d/.wh..wh..opq", b"")], "d/g", Some("/d/g 1 1")),
        (vec![dir("d"), dir("d/e"), file("d/e/.wh..wh..opq", b"")], "d/g", Some("/d/g 0 0")),
        (vec![file(".wh..wh..opq", b"")], "d/g", None),
        (vec![file("d/.wh..wh.aufs", b"")], "d/g", Some("/d/g 0 0")),
        (vec![file("d/.wh.other", b"")], "d/g", Some("/d/g 0 0")),
    ] {
        let (found, _) = find(&[base.clone(), upper], path);
        assert_eq!(found.as_deref().ok(), expected, "{path}: {found:?}");
    }
}

#[test]
fn what_replaces_a_directory_takes_all_of_it() {
    let base = || tree(&["d"], vec![file("d/f", b"0")]);
    for (upper, expected) in [
        (vec![vec![file("d", b"1")]], Err("/d is a regular file")),
        (vec![vec![file("d", b"1")], vec![dir("d")]], Err("no /d/f")),
        (vec![vec![symlink("d", "e")], vec![dir("d")]], Err("no /d/f")),
        (vec![vec![file("d", b"1"), dir("d")]], Err("no /d/f")),
        (vec![vec![dir("d")]], Ok("/d/f 0 0")),
        (vec![vec![symlink("d", "e"), dir("e"), file("e/f", b"1")]], Ok("/e/f 1 1")),
    ] {
        let layers: Vec<_> = [base()].into_iter().chain(upper).collect();
        match expected {
            Ok(expected) => assert_eq!(find(&layers, "d/f").0.as_deref(), Ok(expected)),
            Err(word) => fails(&layers, "d/f", &[word]),
        }
    }
}

#[test]
fn links_in_every_component_are_followed() {
    let base = tree(
        &["usr", "usr/sbin", "opt", "opt/nginx"],
        vec![
            symlink("sbin", "usr/sbin"),
            symlink("usr/sbin/nginx", "/opt/../opt/current"),
            symlink("opt/current", "nginx/nginx-1.2"),
            file("opt/nginx/nginx-1.2", b"elf"),
            file("opt/nginx/passwd", b"not that one"),
        ],
    );
    check(std::slice::from_ref(&base), "/sbin/nginx", "/opt/nginx/nginx-1.2 0 elf", &[2]);
    check(
        &[base.clone(), tree(&["etc"], vec![file("etc/x", b"")])],
        "sbin/nginx",
        "/opt/nginx/nginx-1.2 0 elf",
        &[2, 1],
    );
    // A target behind its link needs no second scan.
    let behind = tree(&["bin"], vec![symlink("bin/a", "b"), symlink("bin/b", "../bin/c"), file("bin/c", b"c")]);
    check(&[behind], "bin/a", "/bin/c 0 c", &[1]);
    fails(&[vec![symlink("a", "b"), symlink("b", "a")]], "a", &["/a leads through more than 40"]);
    fails(&[vec![symlink("a", "b/c")]], "a", &["/a leads nowhere", "'b/c'"]);
    // A link of the upper layer points at a file of the lower one, whose name nobody asked for at first.
    check(&[base, vec![symlink("x", "opt/nginx/passwd")]], "x", "/opt/nginx/passwd 0 not that one", &[1, 1]);
}

#[test]
fn entries_land_where_their_parents_lead() {
    let merged = || tree(&["usr", "usr/sbin"], vec![symlink("sbin", "usr/sbin"), file("usr/sbin/x", b"0")]);
    let through = vec![file("sbin/x", b"1")];
    // A second scan keeps what has another path than expected: the content of usr/sbin/x, the parents of sbin/x.
    check(&[merged(), through.clone()], "usr/sbin/x", "/usr/sbin/x 1 1", &[1, 2]);
    check(&[merged(), through.clone()], "sbin/x", "/usr/sbin/x 1 1", &[2, 1]);
    // With an entry of its own the directory replaces the link.
    check(&[merged(), tree(&["sbin"], through.clone())], "usr/sbin/x", "/usr/sbin/x 0 0", &[1, 1]);
    check(&[merged(), tree(&["sbin"], through)], "sbin/x", "/sbin/x 1 1", &[0, 1]);
    check(&[merged(), vec![file("sbin/.wh.x", b""), file("sbin/y", b"1")]], "usr/sbin/y", "/usr/sbin/y 1 1", &[1, 2]);
    fails(&[merged(), vec![file("sbin/.wh.x", b"")]], "usr/sbin/x", &["no /usr/sbin/x"]);
    fails(&[merged(), vec![file("sbin/.wh..wh..opq", b"")]], "usr/sbin/x", &["no /usr/sbin/x"]);
    let inside = tree(&["usr", "usr/lib"], vec![symlink("lib", "usr/lib"), file("lib/foo", b"f")]);
    check(&[inside], "usr/lib/foo", "/usr/lib/foo 0 f", &[2]);
    // Of two entries for one path the last counts (faults.md D25).
    check(&[vec![file("x", b"1"), file("x", b"2")]], "x", "/x 0 2", &[1]);
}

// faults.md D21
#[test]
fn names_that_only_look_alike_are_different_files() {
    let twins = ["x", "X", "x\\", "caf\u{e9}", "cafe\u{301}"];
    let layer: Vec<_> = twins.iter().map(|name| file(name, name.as_bytes())).collect();
    for name in twins {
        check(std::slice::from_ref(&layer), name, &format!("/{name} 0 {name}"), &[1]);
    }
}

// faults.md D23
#[test]
fn of_a_huge_file_no_more_than_was_said_is_kept() {
    let layers = [Layer::of(&[file("x", &[b'x'; 2000])])];
    let mut stack =
        Stack::new(sources(&layers), Limits::default(), &Cache::default(), |at, scan| scan(&mut &layers[at].blob[..]));
    stack.keep_at_most(1000);
    let found = stack.find(b"x").unwrap();
    assert_eq!((found.content.size(), found.entry.size), (1000, 2000));
}

#[test]
fn hard_links_lead_to_their_file() {
    let base = tree(
        &["bin"],
        vec![
            file("bin/a", b"inode"),
            hardlink("bin/b", "bin/a"),
            hardlink("bin/c", "./bin/b"),
            hardlink("bin/d", "/bin/a"),
        ],
    );
    let layers = [Layer::of(&base), Layer::of(&[file("bin/.wh.d", b"")])];
    let mut stack =
        Stack::new(sources(&layers), Limits::default(), &Cache::default(), |at, scan| scan(&mut &layers[at].blob[..]));
    let found = stack.find(b"bin/c").unwrap();
    assert_eq!((&found.path[..], found.layer, found.content.size()), (&b"bin/c"[..], 0, 5));
    assert_eq!(found.other_names, [b"bin/a", b"bin/b"]);
    assert_eq!(stack.find(b"bin/a").unwrap().other_names, [b"bin/b", b"bin/c"]);
    check(&[base.clone(), vec![hardlink("x", "bin/a")]], "x", "/x 0 inode", &[1, 1]);
    fails(&[vec![hardlink("x", "y")]], "x", &["hard link to /y, which is not there"]);
    fails(&[tree(&["d"], vec![hardlink("x", "d")])], "x", &["which is a directory"]);
    check(&[vec![file("f", b"1"), symlink("s", "f"), hardlink("h", "s")]], "h", "/f 0 1", &[2]);
}

/// What is found in so few steps that they grow with what there is, and not with its square.
#[test]
fn many_names_that_are_alike_and_long_chains_take_few_steps() {
    let limits = Limits { memory: 12 << 20, ..Limits::default() };
    let nested = |depth| vec!["d"; depth].join("/");
    let (deep, p) = (nested(150), format!("{}/p", nested(150)));
    let directories: Vec<_> = (1..=150).map(|depth| long(&nested(depth), b'5', b"", b"")).collect();
    let chain = (1..3000).map(|n| hardlink(&format!("h{n}"), &format!("h{}", n - 1)));
    let fan = (1..3000).map(|n| dir(&format!("{n}"))).chain((1..3000).map(|n| hardlink(&format!("{n}/p"), "p")));
    for (layer, path, others) in [
        ([directories, vec![long(&p, b'0', b"", b"x")]].concat(), &p[..], 0),
        (vec![long(&p, b'0', b"", b"x"), long(&format!("{deep}/q"), b'0', b"", b"x")], &p, 0),
        ([file("h0", b"x")].into_iter().chain(chain).collect(), "h2999", 2999),
        ([file("p", b"x")].into_iter().chain(fan).collect(), "p", 2999),
    ] {
        let layers = [Layer::of(&layer)];
        let mut stack =
            Stack::new(sources(&layers), limits, &Cache::default(), |at, scan| scan(&mut &layers[at].blob[..]));
        let found = stack.find(path.as_bytes()).unwrap();
        assert_eq!((found.content.size(), found.other_names.len()), (1, others));
    }
}

/// An entry whose name may be long.
fn long(name: &str, flag: u8, link: &[u8], body: &[u8]) -> Vec<u8> {
    [pax(&[(b"path", name.as_bytes())]), frame(flag, b"x", link, body, |_| {})].concat()
}

#[test]
fn parents_have_the_metadata_of_their_topmost_entry() {
    let owned = |name: &str, uid| frame(b'5', name.as_bytes(), b"", b"", |h| h.set_uid(uid));
    let base = [owned("usr", 1), owned("usr/local", 2), file("usr/local/x", b"")];
    let mid = [owned("usr", 3)];
    let top = [file("usr/local/new/x", b"top")];
    let layers = [Layer::of(&base), Layer::of(&mid), Layer::of(&top)];
    let mut stack =
        Stack::new(sources(&layers), Limits::default(), &Cache::default(), |at, scan| scan(&mut &layers[at].blob[..]));
    let found = stack.find(b"usr/local/new/x").unwrap();
    let parents: Vec<_> = found.parents.iter().map(|p| (path::show(&p.entry.path), p.entry.uid, p.implied)).collect();
    assert_eq!(
        parents,
        [("/usr".to_owned(), 3, false), ("/usr/local".to_owned(), 2, false), ("/usr/local/new".to_owned(), 0, true)]
    );
    assert_eq!(stack.scans(), [1, 1, 1]);
    assert_eq!(stack.entry(b"usr/local").unwrap().uid, 2);
    assert_eq!(stack.entry(b"/").unwrap().kind, Kind::Directory);
}

#[test]
fn what_is_no_file_is_said() {
    let layer = tree(
        &["usr", "usr/sbin", "opt"],
        vec![
            file("usr/sbin/nginx", b""),
            file("opt/kong", b""),
            frame(b'6', b"fifo", b"", b"", |_| {}),
            frame(b'3', b"null", b"", b"", |_| {}),
            [pax(&[(b"GNU.sparse.major", b"1")]), file("holes", b"")].concat(),
        ],
    );
    let layers = [layer];
    for (path, words) in [
        ("usr", &["/usr is a directory"][..]),
        ("/", &["/ is a directory"]),
        ("fifo", &["named pipe"]),
        ("null", &["character device"]),
        ("holes", &["sparse"]),
        ("usr/sbin/ngnix", &["no /usr/sbin/ngnix", "it has /usr/sbin/nginx"]),
        ("usr/bin/kong", &["no /usr/bin/kong", "/opt/kong"]),
        ("usr/sbin/a/b/c", &["no /usr/sbin/a/b/c", "deepest directory that exists is /usr/sbin"]),
        ("usr/sbin/nginx/x", &["/usr/sbin/nginx is a regular file"]),
    ] {
        fails(&layers, path, words);
    }
    fails(&[], "x", &["no /x"]);
}

#[test]
fn a_layer_that_does_not_verify_finds_nothing() {
    let good = Layer::of(&[file("a", b"1")]);
    for bad in [
        Layer { diff_id: Digest::of(b""), ..good.clone() },
        Layer { blob: Layer::of(&[file("a", b"2")]).blob, ..good.clone() },
    ] {
        let layers = [bad];
        let mut stack = Stack::new(sources(&layers), Limits::default(), &Cache::default(), |at, scan| {
            scan(&mut &layers[at].blob[..])
        });
        let error = Error::from(stack.find(b"a").unwrap_err());
        assert_eq!(error.kind(), crate::error::Kind::Content);
        assert!(error.to_string().starts_with("layer 1 of 1 (sha256:"), "{error}");
    }
}

/// Images that share layers read them once, and a layer whose scan does not answer is read again for all of them.
#[test]
fn a_run_reads_shared_layers_once() {
    let shared = Layer::of(&[dir("bin"), file("bin/nginx", b"n"), file("bin/other", b"o")]);
    let own = [Layer::of(&[file("one", b"1")]), Layer::of(&[file("two", b"2")])];
    let cache = Cache::default();
    for (own, asked, scans) in [
        (&own[0], "/bin/nginx", [1, 1]),
        (&own[1], "/bin/nginx", [0, 1]),
        (&own[0], "/bin/nginx", [0, 0]),
        (&own[0], "/bin/other", [1, 0]),
        (&own[1], "/bin/nginx", [0, 0]),
        (&own[1], "/bin/other", [0, 0]),
    ] {
        let layers = [&shared, own];
        let sources =
            layers.map(|layer| LayerSource { descriptor: layer.descriptor.clone(), diff_id: layer.diff_id.clone() });
        let mut stack =
            Stack::new(sources.to_vec(), Limits::default(), &cache, |at, scan| scan(&mut &layers[at].blob[..]));
        let found = stack.find(asked.as_bytes()).unwrap();
        let mut content = String::new();
        found.content.reader(0).read_to_string(&mut content).unwrap();
        assert_eq!(content, &asked[5..6], "{asked}");
        assert_eq!(stack.scans(), scans, "{asked}");
    }
}
