//! Start scripts that run what is in a directory, and those of official images: stand-ins of the same shape.

use super::*;

/// Files beside the start script: what is in them, and whether anybody may execute them.
fn ways(script: &str, others: &[(&str, &str)], argv: &[&str], env: &[(&str, &str)]) -> String {
    let argv: Vec<&str> = ["/entry.sh"].iter().chain(argv).copied().collect();
    let scripts: Vec<(&str, &str)> = [("/entry.sh", script)].iter().chain(others).copied().collect();
    runs(&scripts, &argv, "", env).iter().map(short).collect::<Vec<_>>().join(" | ")
}

/// Entry points that run what is in a directory, each with the same three files in it.
#[test]
fn directories_of_scripts_are_run() {
    let others = [
        ("/start.d/10-caps.sh", "#!/bin/sh\nsetcap cap_net_raw+ep /usr/local/openresty/nginx/sbin/nginx\n"),
        ("/start.d/9-own.envsh", "chown -R kong /usr/local/openresty\n"),
        ("/start.d/readme", ""),
    ];
    let own = |line: u32| format!("{line}own");
    for (script, expected) in [
        ("for f in /start.d/*.sh; do\n\"$f\"\ndone\nexec nginx", "3[x 10-caps.sh 2cap cap_net_raw+ep]".to_owned()),
        ("for f in /start.d/*sh; do\n. \"$f\"\ndone\nexec nginx", format!("2cap cap_net_raw+ep {}", own(1))),
        ("for f in /start.d/*; do case $f in *.envsh) . $f;; *) continue;; esac; done\nexec nginx", own(1)),
        ("D=/start.d; for f in \"$D\"/9-*; do source \"$f\"; done\nexec nginx", own(1)),
        ("cd /start.d; for f in *.envsh; do . ./$f; done\nexec nginx", own(1)),
        ("for f in /start.d/[0-9]-own.envs?; do . $f; done\nexec nginx", own(1)),
        ("for f in $(find /start.d -name '*.envsh'); do . $f; done\nexec nginx", own(1)),
        ("for f in $(ls /start.d); do [ \"${f#*.}\" = envsh ] && . /start.d/$f; done\nexec nginx", own(1)),
        (
            "find /start.d/ -follow -type f -print | sort -V | while read -r f; do\n. $f\ndone\nexec nginx",
            format!("2[{} 2cap cap_net_raw+ep]", own(1)),
        ),
        ("while IFS= read -r f; do . $f; done < <(find /start.d -type f ! -name '*.sh')\nexec nginx", own(1)),
        (
            "if find /start.d -mindepth 1 -print -quit 2>/dev/null | read v; then . /start.d/9-own.envsh; fi\nexec nginx",
            own(1),
        ),
        ("if find /none -print -quit | read v; then . /start.d/9-own.envsh; fi\nexec nginx", String::new()),
        ("[ -z \"$(find /start.d -name 9-own.envsh)\" ] || . /start.d/9-own.envsh\nexec nginx", own(1)),
        // A pattern without a file stands for itself, and there is no such file.
        ("for f in /none/*.sh; do [ -x \"$f\" ] && . \"$f\"; done\nexec nginx", String::new()),
        ("shopt -s nullglob; for f in /none/*.sh; do . \"$f\"; done\nexec nginx", String::new()),
        ("for f in /start.d/*; do for g in 1 2; do break 2; done; . $f; done\nexec nginx", String::new()),
        ("for f in '/start.d/*'; do [ -e \"$f\" ] && exit 1; done\nexec nginx", String::new()),
    ] {
        let found = ways(&format!("#!/bin/bash\n{script}"), &others, &[], &[]);
        let expected = ["x bash", &expected, "x nginx = nginx serves"].into_iter().filter(|part| !part.is_empty());
        assert_eq!(found.replace("x entry.sh", "x bash"), expected.collect::<Vec<_>>().join(" "), "{script}");
    }
    // What is mounted, or made, is not the image's.
    for script in
        ["for f in /mnt/*.sh; do . $f; done", "cp /x /start.d/11.envsh; for f in /start.d/*.envsh; do . $f; done"]
    {
        let found = ways(&format!("#!/bin/bash\n{script}\nexec nginx"), &others, &[], &[]);
        assert!(found.contains("it goes on with a file that is known only when it runs"), "{script}: {found}");
    }
}

/// What bash has beside a shell of POSIX.
#[test]
fn arrays_slices_and_arms() {
    const EXEC: &str = "x entry.sh x nginx = nginx serves";
    for (script, args, expected) in [
        ("args=(-c \"a b\"); exec nginx \"${args[@]}\"", &[][..], EXEC),
        ("cmd=(nginx -g x); exec \"${cmd[@]}\"", &[], EXEC),
        ("cmd=(\n  nginx # the program\n  -g x\n)\nexec ${cmd[*]}", &[], EXEC),
        ("cmd=(); cmd+=(nginx); cmd+=(\"$@\"); [ ${#cmd[@]} = 3 ] && exec \"${cmd[@]}\"", &["a", "b"], EXEC),
        ("f() { local -a cmd=(a nginx); exec \"${cmd[1]}\"; }; f", &[], EXEC),
        ("cmd=(a nginx x); exec \"${cmd[@]:1}\"", &[], EXEC),
        ("exec \"${@:2}\"", &["x", "nginx", "-v x"], EXEC),
        ("[ \"$1\" = x ] && exec ${@:2}", &["x", "nginx"], EXEC),
        ("n=nginx; [ ${#n} -eq 5 ] && exec $n", &[], EXEC),
        ("declare -A map=([a]=b); exec nginx", &[], EXEC),
        ("set -- nginx; set -- \"$@\" x; exec \"$@\"", &[], EXEC),
        ("case x in a) exit 1;; x) n=nginx;;& y) exit 1;; *) exec $n;; esac", &[], EXEC),
        ("case x in x) n=nginx;& y) exec $n;; esac", &[], EXEC),
        ("D=$(cd \"$(dirname \"$0\")\" && pwd); [ \"$D\" = / ] && exec nginx", &[], EXEC),
        ("D=\"$( cd /usr/local/openresty/bin/../nginx ; pwd -P )\"; exec $D/sbin/nginx", &[], EXEC),
        ("exec -a name nginx", &[], EXEC),
        ("command -v nginx >/dev/null 2>&1 && exec nginx", &[], EXEC),
        ("command -v no-such >/dev/null || exec nginx", &[], EXEC),
        ("exec env -i A=1 nginx", &[], "x entry.sh x env x nginx = nginx serves"),
        (
            "export KONG_PROXY_LISTEN=0.0.0.0:80; exec env -i kong start",
            &[],
            "x entry.sh x env = ? /entry.sh:2: env starts it without the variable KONG_PROXY_LISTEN",
        ),
        ("usermod -u 77 kong; exec su-exec kong nginx", &[], "x entry.sh 2[] x su-exec u 77 x nginx = nginx serves"),
    ] {
        let script = format!("#!/bin/bash\n{script}");
        let found = ways(&script, &[("/plain", "#!/bin/sh\nexec nginx\n")], args, &[]);
        assert_eq!(found, expected, "{script}");
    }
}

const BITNAMI: [(&str, &str); 5] = [
    (
        "/opt/scripts/entrypoint.sh",
        "#!/bin/bash
set -o errexit
set -o nounset
set -o pipefail
. /opt/scripts/libbase.sh
. /opt/scripts/libweb.sh
. /opt/scripts/web-env.sh
print_welcome
cp -nr \"$WEB_DEFAULT_DIR\"/. \"$WEB_CONF_DIR\" || true
if [[ \"$1\" = \"/opt/scripts/run.sh\" ]]; then
    info \"** Starting setup **\"
    /opt/scripts/setup.sh
    info \"** Setup finished **\"
fi
echo \"\"
exec \"$@\"
",
    ),
    (
        "/opt/scripts/libbase.sh",
        "RESET='\\033[0m'
log() { stderr_print \"${CYAN:-}${MODULE:-} $(date \"+%T.%2N \")${RESET}${*}\"; }
stderr_print() {
    local bool=\"${QUIET:-false}\"
    shopt -s nocasematch
    if ! [[ \"$bool\" = 1 || \"$bool\" =~ ^(yes|true)$ ]]; then
        printf \"%b\\\\n\" \"${*}\" >&2
    fi
}
info() { log \"INFO ==> ${*}\"; }
is_boolean_yes() {
    local -r bool=\"${1:-}\"
    shopt -s nocasematch
    if [[ \"$bool\" = 1 || \"$bool\" =~ ^(yes|true)$ ]]; then
        true
    else
        false
    fi
}
am_i_root() {
    if [[ \"$(id -u)\" = \"0\" ]]; then true; else false; fi
}
print_welcome() {
    if [[ -z \"${DISABLE_WELCOME:-}\" ]]; then
        log \"\"
    fi
}
",
    ),
    (
        "/opt/scripts/libweb.sh",
        "web_validate() {
    local error_code=0
    local args=()
    ! am_i_root && args+=(\"-unprivileged\")
    [[ \"${#args[@]}\" -gt 0 ]] && info \"${args[@]}\"
    return \"$error_code\"
}
web_initialize() {
    if am_i_root; then
        chown -R \"${WEB_USER:-}\" \"$WEB_DIR/bin\"
    fi
}
web_init_scripts() {
    if [[ -n $(find \"${WEB_SCRIPTS_DIR}/\" -type f -name \"*.sh\") ]]; then
        while read -r f; do
            case \"$f\" in
            *.sh)
                if [[ -x \"$f\" ]]; then \"$f\"; else . \"$f\"; fi
                ;;
            *)
                info \"Ignoring $f\"
                ;;
            esac
        done < <(find \"${WEB_SCRIPTS_DIR}/\" -type f -name '*.sh' | sort)
    else
        info \"No custom scripts\"
    fi
}
",
    ),
    (
        "/opt/scripts/web-env.sh",
        "export WEB_DIR=/usr/local/openresty
export WEB_SBIN_DIR=\"${WEB_DIR}/nginx/sbin\" WEB_CONF_DIR=\"${WEB_DIR}/conf\" WEB_DEFAULT_DIR=/x
export WEB_SCRIPTS_DIR=/docker-entrypoint-initdb.d WEB_USER=kong
web_env_vars=(
    WEB_PORT
    WEB_TLS
)
for env_var in \"${web_env_vars[@]}\"; do
    file_env_var=\"${env_var}_FILE\"
    if [[ -n \"${!file_env_var:-}\" ]]; then
        export \"${env_var}=$(< \"${!file_env_var}\")\"
        unset \"${file_env_var}\"
    fi
done
unset web_env_vars
",
    ),
    (
        "/opt/scripts/run.sh",
        "#!/bin/bash
set -o errexit
. /opt/scripts/libbase.sh
. /opt/scripts/web-env.sh
flags=(\"-c\" \"$WEB_CONF_DIR/nginx.conf\" \"-g\" \"daemon off;\")
[[ -z \"${WEB_EXTRA_FLAGS:-}\" ]] || read -r -a extra <<<\"$WEB_EXTRA_FLAGS\"
exec \"${WEB_SBIN_DIR}/nginx\" \"${flags[@]}\"
",
    ),
];

const SETUP: &str = "#!/bin/bash
set -o errexit
. /opt/scripts/libbase.sh
. /opt/scripts/libweb.sh
. /opt/scripts/web-env.sh
web_validate
web_initialize
web_init_scripts
";

const CONF_D: &str = "#!/bin/sh
set -e
say() {
    if [ -z \"${QUIET:-}\" ]; then
        echo \"$@\"
    fi
}
if [ \"$1\" = \"nginx\" ] || [ \"$1\" = \"nginx-debug\" ]; then
    if /usr/bin/find \"/start.d/\" -mindepth 1 -maxdepth 1 -type f -print -quit 2>/dev/null | read v; then
        find \"/start.d/\" -follow -type f -print | sort -V | while read -r f; do
            case \"$f\" in
                *.envsh) if [ -x \"$f\" ]; then say \"$0: Sourcing $f\"; . \"$f\"; fi ;;
                *.sh)
                    if [ -x \"$f\" ]; then
                        \"$f\"
                    else
                        say \"$0: Ignoring $f, not executable\";
                    fi
                    ;;
                *) say \"$0: Ignoring $f\";;
            esac
        done
    else
        say \"$0: nothing in /start.d/\"
    fi
fi
exec \"$@\"
";

const LEVEL: &str = "#!/usr/bin/env sh
set -e
loglevel=\"${loglevel:-}\"
USERID=$(id -u)
if [ \"${1#-}\" != \"$1\" ]; then
    set -- nginx \"$@\"
fi
if [ \"$1\" = 'nginx' ]; then
    if [ -n \"$loglevel\" ]; then
        set -- \"$@\" --log-level \"$loglevel\"
    fi
fi
if [ \"$RUN_UID\" != \"0\" ] && [ \"$USERID\" = 0 ]; then
    if [ -n \"$RUN_UID\" ]; then
        usermod -u \"$RUN_UID\" kong
    fi
    chown kong:kong /dev/stdout /dev/stderr || true
    exec su-exec kong \"${@}\"
else
    exec \"${@}\"
fi
";

const SUPERVISED: &str = "#!/bin/sh
set -e
if [ \"${1#-}\" != \"$1\" ]; then
    set -- haproxy \"$@\"
fi
if [ \"$1\" = 'haproxy' ]; then
    shift
    set -- \"$(command -v nginx)\" -p /run/x.pid \"$@\"
fi
if [ \"$SYSLOGD\" -eq 1 ]; then
    tini -- syslogd -nLO- &
fi
exec \"$@\"
";

/// The ways through start scripts of official images end in the program, and none of them is told to be unknown.
#[test]
fn entry_points_of_official_images() {
    let bitnami: Vec<(&str, &str)> = BITNAMI.into_iter().chain([("/opt/scripts/setup.sh", SETUP)]).collect();
    let with = |more: &[(&'static str, &'static str)]| [&bitnami[..], more].concat();
    let usermod = ("/usr/bin/usermod", "#!/bin/sh\nexit 0\n");
    let argv = ["/opt/scripts/entrypoint.sh", "/opt/scripts/run.sh"];
    const WEB: &str = "x entrypoint.sh x run.sh x nginx = nginx serves";
    for (scripts, argv, user, env, expected) in [
        (with(&[]), &argv[..], "1000", &[][..], WEB.to_owned()),
        (
            with(&[("/docker-entrypoint-initdb.d/a.sh", "#!/bin/sh\nnginx -t\n")]),
            &argv,
            "1000",
            &[],
            WEB.replace("x run.sh", "12[x setup.sh 18[x a.sh 2[x nginx]]] x run.sh"),
        ),
        (
            vec![("/start.sh", CONF_D), ("/start.d/10-listen.sh", "#!/bin/sh\nchown kong /usr/local/bin/nginx\n")],
            &["/start.sh", "nginx", "-g", "daemon off;"],
            "",
            &[],
            "x start.sh 10[15[x 10-listen.sh 2own]] x nginx = nginx serves".to_owned(),
        ),
        (vec![("/start.sh", CONF_D)], &["/start.sh", "nginx"], "", &[], "x start.sh x nginx = nginx serves".to_owned()),
        (
            vec![("/start.sh", LEVEL), usermod],
            &["/start.sh", "-c", "x"],
            "",
            &[("RUN_UID", "77")],
            "x env x sh x su-exec u 77 x nginx = nginx serves".to_owned(),
        ),
        (
            vec![("/start.sh", LEVEL)],
            &["/start.sh", "nginx"],
            "",
            &[("RUN_UID", "0")],
            "x env x sh x nginx = nginx serves".to_owned(),
        ),
        (
            vec![("/start.sh", LEVEL)],
            &["/start.sh", "nginx"],
            "1000",
            &[],
            "x env x sh x nginx = nginx serves".to_owned(),
        ),
        (
            vec![("/start.sh", SUPERVISED)],
            &["/start.sh", "haproxy", "-f", "x"],
            "1000",
            &[],
            "x start.sh x nginx = nginx serves".to_owned(),
        ),
        (
            vec![("/start.sh", SUPERVISED)],
            &["tini", "--", "/start.sh", "haproxy"],
            "1000",
            &[],
            "x tini x start.sh x nginx = nginx serves".to_owned(),
        ),
    ] {
        let found: Vec<String> = runs(&scripts, argv, user, env).iter().map(short).collect();
        assert_eq!(found.join(" | "), expected, "{argv:?} {user} {env:?}");
    }
}
