//! Start scripts as images have them, each followed without running it.

use super::*;
use crate::archive::testing::{dir, frame, symlink};
use crate::layer::lookup::LayerSource;
use crate::layer::testing::Layer;

const NGINX: &str = "/usr/local/openresty/nginx/sbin/nginx";

fn program(name: &str, content: &[u8]) -> Vec<u8> {
    frame(b'0', name.as_bytes(), b"", content, |header| header.set_mode(0o755))
}

/// An image shaped like Kong's with `scripts` in it, and what its users are.
pub(in crate::doctor) fn layer(scripts: &[(&str, &str)]) -> Layer {
    const ELF: &[u8] = b"\x7fELF\x02\x01\x01";
    let mut frames = vec![dir("bin"), dir("etc"), dir("usr"), dir("usr/bin"), dir("usr/local"), dir("usr/local/bin")];
    for name in [
        "bin/busybox",
        "usr/bin/perl",
        "usr/bin/env",
        "usr/bin/setcap",
        "usr/bin/su-exec",
        "usr/bin/tini",
        "usr/bin/supervisord",
    ] {
        frames.push(program(name, ELF));
    }
    frames.extend([symlink("bin/sh", "busybox"), symlink("bin/bash", "/bin/busybox")]);
    for directory in ["", "/bin", "/nginx", "/nginx/sbin"] {
        frames.push(dir(&format!("usr/local/openresty{directory}")));
    }
    frames.push(program(&NGINX[1..], ELF));
    frames.push(program("usr/local/openresty/bin/resty", b"#!/usr/bin/env perl\n"));
    frames.push(symlink("usr/local/bin/resty", "../openresty/bin/resty"));
    frames.push(symlink("usr/local/bin/nginx", NGINX));
    frames.push(program("usr/local/bin/kong", b"#!/usr/bin/env resty\n"));
    let passwd = b"root:x:0:0::/:/bin/sh\nkong:x:1000:1000::/:/bin/sh\n";
    frames.push(frame(b'0', b"etc/passwd", b"", passwd, |_| {}));
    frames.extend(scripts.iter().map(|(path, text)| program(path.trim_start_matches('/'), text.as_bytes())));
    Layer::of(&frames)
}

pub(in crate::doctor) fn files(layer: &Layer) -> Files<'_> {
    let source = LayerSource { descriptor: layer.descriptor.clone(), diff_id: layer.diff_id.clone() };
    Files::new(vec![source], crate::limits::Limits::default(), Box::new(|_, scan| scan(&mut &layer.blob[..])))
}

/// All ways of `argv` as `user`.
fn runs(scripts: &[(&str, &str)], argv: &[&str], user: &str, env: &[(&str, &str)]) -> Vec<Run> {
    let layer = layer(scripts);
    let mut files = files(&layer);
    let users = Users::read(&mut files).unwrap();
    let mut variables: BTreeMap<String, String> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    variables.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let start = Start {
        place: "ENTRYPOINT".to_owned(),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: variables,
        env_from: false,
        directory: "/".to_owned(),
        user: users.resolve(user).unwrap(),
        dac_override: true,
        docker: true,
        mounts: vec!["/mnt".to_owned()],
    };
    let mut image = Image { files: &mut files, users: &users, target: NGINX.as_bytes()[1..].to_vec() };
    follow(&mut image, &start).unwrap().0
}

/// One way in short: `x PATH` executes, `u UID`, `[…]` another process, `cap TEXT`, `own`, `other`, `write`; then the end.
fn short(run: &Run) -> String {
    fn all(steps: &[Step]) -> Vec<String> {
        let one = |step: &Step| {
            let at = step.place.rsplit_once(':').map_or("", |(_, line)| line);
            match &step.action {
                Action::Exec { shown, .. } => format!("x {}", base(shown)),
                Action::User(user) => format!("u {}", user.uid),
                Action::Child { steps: inner, .. } => format!("{at}[{}]", all(inner).join(" ")),
                Action::SetCapabilities(text) => format!("{at}cap {}", text.as_deref().map_or("-", |text| text)),
                Action::SetCapabilitiesOfLink(_) => format!("{at}link"),
                Action::ChangeOwner { .. } => format!("{at}own"),
                Action::ChangeOtherOwner { .. } => format!("{at}other"),
                Action::Write(_) => format!("{at}write"),
            }
        };
        steps.iter().map(one).collect()
    }
    let end = match &run.end {
        End::Runs { path, serves } => format!("{}{}", base(path), if *serves { " serves" } else { "" }),
        End::Exits { place, failed } => format!("{} {place}", if *failed { "fails" } else { "ends" }),
        End::Fails { error, .. } => error.clone(),
        End::Unknown { place, why } => format!("? {place}: {why}"),
    };
    format!("{} = {end}", all(&run.steps).join(" "))
}

fn way(script: &str, argv: &[&str], user: &str, env: &[(&str, &str)]) -> String {
    let argv: Vec<&str> = std::iter::once("/entry.sh").chain(argv.iter().copied()).collect();
    let runs = runs(&[("/entry.sh", script)], &argv, user, env);
    runs.iter().map(short).collect::<Vec<_>>().join(" | ")
}

/// What `kong prepare` comes to, at a line of the script.
const PREPARE: &str = "[x env x env x perl x nginx]";

const START: [&str; 2] = ["kong", "docker-start"];

/// The classes of kong-and-capabilities.md §1.1, written anew.
const LEGACY: &str = "#!/usr/bin/env bash
set -e
export KONG_NGINX_DAEMON=off
if [[ \"$1\" == kong ]]; then
  PREFIX=${KONG_PREFIX:=/usr/local/kong}
  mkdir -p $PREFIX
  kong prepare -p $PREFIX
  exec /usr/local/openresty/nginx/sbin/nginx -p $PREFIX -c nginx.conf
fi
exec \"$@\"
";

const TRANSPARENT: &str = "#!/bin/sh
set -e
wants() {
  echo \"$1\" | grep -E \"[^\\s,]+\\s+transparent\\b\" >/dev/null
}
if [ \"$1\" = \"kong\" ] && [ \"$2\" = \"docker-start\" ]; then
  PREFIX=${KONG_PREFIX:=/usr/local/kong}
  shift 2
  kong prepare -p \"$PREFIX\" \"$@\"
  chmod o+w /proc/self/fd/1 || true
  if [ \"$(id -u)\" != \"0\" ]; then
    exec /usr/local/openresty/nginx/sbin/nginx \\
      -p \"$PREFIX\" \\
      -c nginx.conf
  else
    if [ ! -z ${SET_CAP_NET_RAW} ] \\
        || wants \"$KONG_STREAM_LISTEN\" \\
        || wants \"$KONG_PROXY_LISTEN\";
    then
      setcap cap_net_raw=+ep /usr/local/openresty/nginx/sbin/nginx
    fi
    chown -R kong:0 /usr/local/kong
    exec su-exec kong /usr/local/openresty/nginx/sbin/nginx -p \"$PREFIX\"
  fi
fi
exec \"$@\"
";

const MODERN: &str = "#!/usr/bin/env bash
set -Eeo pipefail
from_file() {
  local name=\"$1\"
  local file_name=\"${name}_FILE\"
  local def=\"${2:-}\"
  if ! [ \"${!file_name:-}\" ]; then
    return
  elif [ \"${!name:-}\" ] && [ \"${!file_name:-}\" ]; then
    echo >&2 \"error: both $name and $file_name\"
    exit 1
  fi
  local val=\"$def\"
  if [ \"${!name:-}\" ]; then
    val=\"${!name}\"
  elif [ \"${!file_name:-}\" ]; then
    val=\"$(< \"${!file_name}\")\"
  fi
  export \"$name\"=\"$val\"
  unset \"$file_name\"
}
export KONG_NGINX_DAEMON=${KONG_NGINX_DAEMON:=off}
if [[ \"$1\" == \"kong\" ]]; then
  options=\"/usr/local/share/defaults.lua\"
  set +Eeo pipefail
  while IFS='' read -r LINE || [ -n \"${LINE}\" ]; do
    opt=$(echo \"$LINE\" | grep \"=\" | sed \"s/=.*$//\" | tr '[:lower:]' '[:upper:]')
    from_file \"KONG_$opt\"
  done <$options
  set -Eeo pipefail
  from_file KONG_PASSWORD
  PREFIX=${KONG_PREFIX:=/usr/local/kong}
  if [[ \"$2\" == \"docker-start\" ]]; then
    kong prepare -p \"$PREFIX\" \"$@\"
    warned=0
    for socket in \"$PREFIX\"/*; do
      if [ -S \"$socket\" ]; then
        if (( warned == 0 )); then
          printf >&2 '(%q) ' \"$PREFIX\"
          warned=1
        fi
        rm -f \"$socket\"
      fi
    done
    ln -sfn /dev/stdout $PREFIX/logs/access.log
    exec /usr/local/openresty/nginx/sbin/nginx \\
      -p \"$PREFIX\" \\
      -c nginx.conf
  fi
fi
exec \"$@\"
";

#[test]
fn classes_of_entry_points() {
    let raw = ("SET_CAP_NET_RAW", "1");
    let listen = ("KONG_PROXY_LISTEN", "0.0.0.0:80 transparent, 0.0.0.0:443 ssl");
    for (class, script, args, user, env, expected) in [
        ("A", LEGACY, &START[..], "kong", &[][..], format!("x env x bash 7{PREPARE} x nginx = nginx serves")),
        ("A", LEGACY, &["sleep", "9"], "kong", &[], "x env x bash = sleep: not found".to_owned()),
        ("B", TRANSPARENT, &START, "kong", &[], format!("x entry.sh 9{PREPARE} x nginx = nginx serves")),
        (
            "B root",
            TRANSPARENT,
            &START,
            "",
            &[],
            format!("x entry.sh 9{PREPARE} x su-exec u 1000 x nginx = nginx serves"),
        ),
        (
            "B raw",
            TRANSPARENT,
            &START,
            "",
            &[raw],
            format!("x entry.sh 9{PREPARE} 20cap cap_net_raw=+ep x su-exec u 1000 x nginx = nginx serves"),
        ),
        (
            "B transparent",
            TRANSPARENT,
            &START,
            "0",
            &[listen],
            format!("x entry.sh 9{PREPARE} 20cap cap_net_raw=+ep x su-exec u 1000 x nginx = nginx serves"),
        ),
        (
            "B as kong",
            TRANSPARENT,
            &START,
            "1000",
            &[raw, listen],
            format!("x entry.sh 9{PREPARE} x nginx = nginx serves"),
        ),
        (
            "B cli",
            TRANSPARENT,
            &["kong", "version"],
            "",
            &[],
            "x entry.sh x env x env x perl x nginx = nginx".to_owned(),
        ),
        ("G", MODERN, &START, "kong", &[], String::new()),
    ] {
        let found = way(script, args, user, env);
        if class == "G" {
            assert!(
                found.split(" | ").all(|way| way == format!("x env x bash 34{PREPARE} x nginx = nginx serves")),
                "{found}"
            );
        } else {
            assert_eq!(found, expected, "{class}");
        }
    }
}

#[test]
fn commands_are_followed() {
    const EXEC: &str = "x sh x nginx = nginx serves";
    for (script, args, expected) in [
        ("exec nginx", &[][..], EXEC),
        ("exec \"$@\"", &["nginx", "-g", "daemon off;"], EXEC),
        ("exec $@", &["nginx"], EXEC),
        ("set -- nginx \"$@\"\nexec \"$@\"", &["-g"], EXEC),
        ("if [ \"${1#-}\" != \"$1\" ]; then set -- nginx \"$@\"; fi; exec \"$@\"", &["-g"], EXEC),
        ("case \"$1\" in kong|x*) exec nginx;; *) exec false;; esac", &["xyz"], EXEC),
        ("case $1 in\n (a) ;;\n b)\n  exec nginx\nesac", &["b"], EXEC),
        ("main() { exec nginx \"$1\"; }\nmain \"$@\"", &["a"], EXEC),
        ("function main {\n exec nginx\n}\nmain", &[], EXEC),
        ("cat <<EOF\nexec false\nEOF\nexec nginx", &[], EXEC),
        ("cat <<-'A B'\n\tif\n\tA B\nexec nginx", &[], EXEC),
        ("# exec false\nexec nginx # all", &[], EXEC),
        ("P=/usr/local/bin; exec $P/nginx", &[], EXEC),
        ("exec \"${BIN:-nginx}\"", &[], EXEC),
        ("exec ${PATH:+nginx}", &[], EXEC),
        ("exec \"$(command -v nginx)\"", &[], EXEC),
        ("exec `echo nginx`", &[], EXEC),
        ("D=$(dirname /usr/local/bin/x); exec $D/nginx", &[], EXEC),
        ("false || exec nginx", &[], EXEC),
        ("true && exec nginx", &[], EXEC),
        ("[ -f /etc/passwd ] && exec nginx", &[], EXEC),
        ("[ -x /etc/passwd ] || exec nginx", &[], EXEC),
        ("! false && exec nginx", &[], EXEC),
        ("{ exec nginx; }", &[], EXEC),
        ("[[ $1 == k* && -z \"$2\" ]] && exec nginx", &["kong"], EXEC),
        ("[[ ( $1 = a || $1 = b ) && ! -n $2 ]] && exec nginx", &["b"], EXEC),
        ("while true; do sleep 1; done; exec nginx", &[], EXEC),
        ("[ \"$NONE\" -eq 1 ] || exec nginx", &[], EXEC),
        ("[[ $NONE -eq 0 ]] && exec nginx", &[], EXEC),
        ("missing & exec nginx", &[], "x sh 1[] x nginx = nginx serves"),
        ("set -e; { missing; } &\nexec nginx", &[], "x sh 1[1[]] x nginx = nginx serves"),
        ("exec nginx &\nwait", &[], "x sh 1[x nginx] = ends /entry.sh"),
        ("for f in a b; do x=$f; done; [ $x = b ] && exec nginx", &[], EXEC),
        ("eval 'exec nginx'", &[], EXEC),
        ("exec env A=1 nginx", &[], "x sh x env x nginx = nginx serves"),
        ("exec sh -c 'exec nginx'", &[], "x sh x sh x nginx = nginx serves"),
        ("exec sh -ec 'exec $0 $1' nginx", &[], "x sh x sh x nginx = nginx serves"),
        ("exec tini -- nginx", &[], "x sh x tini x nginx = nginx serves"),
        ("nginx -v\nexec nginx", &[], "x sh 1[x nginx] x nginx = nginx serves"),
        ("( nginx -t )\nexec nginx", &[], "x sh 1[1[x nginx]] x nginx = nginx serves"),
        ("echo x | nginx -t\nexec nginx", &[], "x sh 1[1[x nginx]] x nginx = nginx serves"),
        ("v=$(nginx -v)\nexec nginx", &[], "x sh 1[1[x nginx]] x nginx = nginx serves"),
        ("nginx", &[], "x sh 1[x nginx] = ends /entry.sh"),
        ("kong start", &[], "x sh 1[x env x env x perl x nginx x sh x nginx] = ends /entry.sh"),
        (
            "until kong health; do\n sleep 1\ndone\nexec nginx",
            &[],
            "x sh 1[x env x env x perl x nginx] x nginx = nginx serves",
        ),
        (
            "setcap -q cap_net_raw+ep /usr/local/openresty/nginx/sbin/nginx; exec nginx",
            &[],
            "x sh 1cap cap_net_raw+ep x nginx = nginx serves",
        ),
        ("setcap -r $(readlink -f /usr/local/bin/nginx)", &[], "x sh 1cap - = ends /entry.sh"),
        // setcap(8) refuses symbolic links.
        ("setcap cap_net_raw+ep $(which nginx)", &[], "x sh 1link = ends /entry.sh"),
        (
            "cd /usr/local/openresty/nginx/sbin; setcap cap_net_raw+ep nginx; setcap -r ../sbin/nginx",
            &[],
            "x sh 1cap cap_net_raw+ep 1cap - = ends /entry.sh",
        ),
        ("setcap cap_net_raw+ep /bin/busybox", &[], "x sh = ends /entry.sh"),
        ("chown -R kong /usr/local/openresty", &[], "x sh 1own = ends /entry.sh"),
        ("chown -R kong: /usr/local/kong /usr/local/openresty/bin", &[], "x sh 1other = ends /entry.sh"),
        ("chown kong /usr/local/bin/nginx", &[], "x sh 1own = ends /entry.sh"),
        ("chown kong /usr/local/openresty", &[], "x sh 1other = ends /entry.sh"),
        ("chgrp -hR 0 /", &[], "x sh 1own = ends /entry.sh"),
        ("cp /tmp/nginx /usr/local/openresty/nginx/sbin/nginx", &[], "x sh 1write = ends /entry.sh"),
        ("sed -i s/a/b/ /usr/local/bin/nginx", &[], "x sh 1write = ends /entry.sh"),
        ("echo > /usr/local/bin/nginx", &[], "x sh 1write = ends /entry.sh"),
        ("cp /usr/local/bin/nginx /tmp/x; chmod 755 /usr/local/bin/nginx", &[], "x sh = ends /entry.sh"),
        ("set -e\nfalse\nexec nginx", &[], "x sh = fails /entry.sh:2"),
        ("set -e\nmissing\nexec nginx", &[], "x sh 2[] = missing: not found"),
        ("missing\nexec nginx", &[], "x sh 1[] x nginx = nginx serves"),
        ("set -e; false || true; if false; then :; fi; exec nginx", &[], EXEC),
        ("exit 3", &[], "x sh = fails /entry.sh:1"),
        (". /entry.sh", &[], "x sh = ? /entry.sh:1: files include each other without end"),
        ("f() { f; }; f", &[], "x sh = ? /entry.sh:1: functions call each other without end"),
        ("a=(1 2)\nexec nginx", &[], EXEC),
        ("exec $UNSET", &[], "x sh = ends /entry.sh"),
        ("exec \"$@\"", &[], "x sh = ends /entry.sh"),
        ("[ $# = 1 ] || exec \"$BASH_SOURCE\" 1\nexec nginx", &[], EXEC),
        ("if [ $# = 0 ]; then exec \"${BASH_SOURCE[0]}\" 1; fi; exec nginx", &[], EXEC),
        ("exec nginx\r\n", &[], "x sh = nginx\r: not found"),
        (
            "cp /usr/local/bin/nginx /tmp/x\nexec /tmp/x",
            &[],
            "x sh = ? /entry.sh:2: /tmp/x is made by the script when it runs",
        ),
        (
            "cat > /tmp/x <<E\nexec nginx\nE\nexec sh /tmp/x",
            &[],
            "x sh x sh = ? /entry.sh:4: /tmp/x is made by the script when it runs",
        ),
        (
            "exec /usr/bin/perl -x nginx",
            &[],
            "x sh x perl = ? /entry.sh:1: whether and how /usr/bin/perl executes nginx is not known",
        ),
        (
            "exec supervisord",
            &[],
            "x sh x supervisord = ? /entry.sh:1: /usr/bin/supervisord executes what its own configuration names, which is not read",
        ),
        ("read cmd\nexec $cmd", &[], "x sh = ? /entry.sh:2: which program '…' is, is known only when it runs"),
        (
            "exec /mnt/x/run",
            &[],
            "x sh = ? /entry.sh:1: /mnt/x/run comes from /mnt, where something else than the image is mounted",
        ),
        (
            "exec sh /mnt/x/run",
            &[],
            "x sh x sh = ? /entry.sh:1: /mnt/x/run comes from /mnt, where something else than the image is mounted",
        ),
        (
            "cd /mnt\nexec ./run",
            &[],
            "x sh = ? /entry.sh:2: ./run comes from /mnt, where something else than the image is mounted",
        ),
        ("if true; then", &[], "x sh = ? /entry.sh:1: cannot follow no 'fi'"),
        ("echo \"a\n", &[], "x sh = ? /entry.sh:2: cannot follow a quote or brace without its end"),
        ("select x in a; do :; done", &[], "x sh = ? /entry.sh:1: cannot follow 'select'"),
    ] {
        let argv: Vec<&str> = ["sh", "/entry.sh"].iter().chain(args).copied().collect();
        let runs = runs(&[("/entry.sh", script)], &argv, "kong", &[]);
        let found: Vec<String> = runs.iter().map(short).collect();
        assert_eq!(found.join(" | "), expected, "{script}");
    }
}

// faults.md H8
#[test]
fn a_program_executes_its_dynamic_linker() {
    for (linker, expected) in [
        ("/bin/sh", "x sh x server = server"),
        (
            "/lib/ld.so",
            "x sh = exec /server: no such file or directory (its dynamic linker /lib/ld.so is not in the image)",
        ),
        ("/tmp/ld.so", "x sh = ? /entry.sh:2: /tmp/ld.so is made by the script when it runs"),
        (
            "/mnt/ld.so",
            "x sh = ? /entry.sh:2: /mnt/ld.so comes from /mnt, where something else than the image is mounted",
        ),
        ("ld.so", "x sh x server = server"),
    ] {
        let server = crate::patch::dynamic::tests::program(&[(3, format!("{linker}\0").as_bytes())]);
        let scripts = [
            ("/entry.sh", "cp /usr/bin/perl /tmp/ld.so\nexec /server"),
            ("/server", std::str::from_utf8(&server).unwrap()),
        ];
        let runs = runs(&scripts, &["sh", "/entry.sh"], "kong", &[]);
        assert_eq!(runs.iter().map(short).collect::<Vec<_>>().join(" | "), expected);
    }
}

mod directories;
