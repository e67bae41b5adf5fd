//! What the image itself says, however it is run.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::files::Files;
use super::judge::{ASSUMED_PORT, LOW_PORTS};
use super::start::{Action, End, Image, Start, Step, follow, is_at_or_below};
use super::users::User;
use super::{Finding, Level};
use crate::archive::path;
use crate::capability::{Capability, FileCapabilities};
use crate::error::Result;
use crate::kong::ports::{UNPRIVILEGED, low_ports};
use crate::patch::dynamic::dynamic;
use crate::patch::elf;

/// What glibc 2.36 takes out of the environment of a program that gained capabilities (`sysdeps/generic/unsecvars.h`).
const REMOVED_BY_GLIBC: [&str; 13] = [
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCALDOMAIN",
    "RES_OPTIONS",
    "RESOLV_HOST_CONF",
    "HOSTALIASES",
    "TMPDIR",
    "TZDIR",
    "LOCPATH",
    "NLSPATH",
    "GCONV_PATH",
    "GETCONF_DIR",
    "MALLOC_CHECK_",
];
/// What musl ignores.
const IGNORED_BY_MUSL: [&str; 2] = ["LD_LIBRARY_PATH", "LD_PRELOAD"];
/// What OpenSSL asks for with secure_getenv(3).
const IGNORED_BY_OPENSSL: [&str; 5] =
    ["OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES", "SSL_CERT_FILE", "SSL_CERT_DIR"];

fn note(code: &'static str, place: &str, what: String, why: &str) -> Finding {
    Finding { code, level: Level::Note, place: place.to_owned(), what, why: why.to_owned(), fix: None }
}

fn warning(code: &'static str, place: &str, what: String, why: &str) -> Finding {
    Finding { level: Level::Warning, ..note(code, place, what, why) }
}

fn breaks(code: &'static str, place: &str, what: String, why: &str) -> Finding {
    Finding { level: Level::Breaks, ..note(code, place, what, why) }
}

/// All findings about the image.
pub(super) fn image(facts: &Facts, files: &mut Files<'_>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    program(facts, &mut findings)?;
    capabilities(facts, &mut findings);
    user(facts, &mut findings);
    environment(facts, &mut findings);
    listen(facts, &mut findings);
    start(facts, files, &mut findings)?;
    healthcheck(facts, files, &mut findings)?;
    Ok(findings)
}

fn program(facts: &Facts, findings: &mut Vec<Finding>) -> Result<()> {
    let (path, target) = (facts.path(), &facts.target);
    if let Some((link, to)) = target.links.first() {
        let what = format!(
            "{} is {path}, through the symbolic link {} to {}",
            facts.asked,
            path::show(link),
            String::from_utf8_lossy(to)
        );
        findings.push(note("link", &facts.asked, what, "the capability counts on the file that a link leads to"));
    }
    if let Err(error) = elf::check(&target.content.head(elf::HEAD)?, &facts.platform) {
        let why = error.hint_text().unwrap_or("the kernel does not execute it on this platform");
        findings.push(breaks("no-program", &path, error.to_string(), why));
    }
    let mode = target.entry.mode;
    if mode & 0o111 == 0 {
        let what = format!("{path}: Permission denied");
        findings.push(breaks("not-executable", &path, what, &format!("its mode is {mode:04o}: nobody may execute it")));
    }
    if mode & 0o4000 != 0 {
        let why = "a set-user-ID program runs as its owner, whatever the user of the container is; a capability instead is less";
        findings.push(warning("setuid", &path, format!("it runs as user {} (mode {mode:04o})", target.entry.uid), why));
    }
    for name in &target.other_names {
        let name = path::show(name);
        let what =
            format!("{name} is another name of {path}, and would stay without the capability when that is patched");
        let why = "the patch puts a new file in place of one name; with containerd, a hard link in a later layer takes the \
                   capability off the file";
        findings.push(warning("hard-link", &name, what, why));
    }
    if let Some(link) = &target.disputed {
        let link = path::show(link);
        let what = format!("the entry of the hard link {link} has other capabilities than that of its file {path}");
        let why =
            "container engines disagree about which ones count: containerd and Docker take those of the last link";
        findings.push(warning("disputed-capabilities", &link, what, why));
    }
    for volume in facts.volumes.iter().filter(|volume| is_at_or_below(&path, volume)) {
        let what = format!("{path} is under the volume {volume}");
        findings.push(warning(
            "volume",
            volume,
            what,
            "what is mounted there hides the file of the image, with its capability",
        ));
    }
    Ok(())
}

fn capabilities(facts: &Facts, findings: &mut Vec<Finding>) {
    let path = facts.path();
    let Some(Ok(file)) = &facts.capabilities else { return };
    if file.root_id != 0 {
        let what = format!("{path} has {}", file.listed());
        findings.push(warning("foreign-root", &path, what, "revision 3 counts only in user namespaces of that root"));
    }
    let others = file.permitted.minus(Capability::NET_BIND_SERVICE.into());
    if !others.is_empty() && file.effective {
        let what = format!("a container without {others} cannot execute it: Operation not permitted");
        findings.push(note(
            "more-capabilities",
            &path,
            what,
            &format!("{path} has {file}, and the kernel wants to give all of it"),
        ));
    }
}

fn user(facts: &Facts, findings: &mut Vec<Finding>) {
    let Ok(user) = facts.users.resolve(&facts.user) else { return };
    let text = facts.user.split(':').next().unwrap_or_default();
    if user.uid == 0 {
        let what = "it starts as root, which has NET_BIND_SERVICE without the patch".to_owned();
        let why = "a process of root has the capabilities that the container is given; the patch is for other users, also for \
                   those that a start script becomes";
        findings.push(note("root", "USER", what, why));
    } else if text.parse::<u32>().is_err() {
        let what = format!(
            "with runAsNonRoot: true it needs runAsUser too: container has runAsNonRoot and image has non-numeric user ({text}), \
             cannot verify user is non-root"
        );
        let fix = Some(format!("securityContext:\n  runAsUser: {}", user.uid));
        findings.push(Finding {
            fix,
            ..note("named-user", "USER", what, "kubelets know the number of a user only if it is written")
        });
    }
    if user.uid != 0 {
        writable(facts, &user, findings);
    }
}

fn writable(facts: &Facts, user: &User, findings: &mut Vec<Finding>) {
    let target = &facts.target;
    let (path, entry) = (facts.path(), &target.entry);
    let parent = target
        .parents
        .iter()
        .map(|parent| &parent.entry)
        .find(|parent| parent.mode & 0o1000 == 0 && user.may_write(parent.uid, parent.gid, parent.mode));
    let what = if user.may_write(entry.uid, entry.gid, entry.mode) {
        format!("user {} may write {path} ({:04o} {}:{})", user.uid, entry.mode, entry.uid, entry.gid)
    } else if let Some(parent) = parent {
        let directory = path::show(&parent.path);
        format!(
            "user {} may replace {path}: it may write {directory} ({:04o} {}:{})",
            user.uid, parent.mode, parent.uid, parent.gid
        )
    } else {
        return;
    };
    let why = "Linux takes the capability off a file that is written, and a new file has none; gVisor kept it \
               (google/gvisor#13063)";
    let fix = Some("securityContext:\n  readOnlyRootFilesystem: true".to_owned());
    findings.push(Finding { fix, ..note("writable", &path, what, why) });
}

fn environment(facts: &Facts, findings: &mut Vec<Finding>) {
    let path = facts.path();
    let why = "a program that gains capabilities runs in secure mode (AT_SECURE, getauxval(3)), in which it must not be \
               steered from outside";
    let found = dynamic(&facts.target.content).unwrap_or_default();
    let musl =
        found.interpreter.as_ref().is_some_and(|interpreter| interpreter.windows(7).any(|name| name == b"ld-musl"));
    let linker: &[&str] = if musl { &IGNORED_BY_MUSL } else { &REMOVED_BY_GLIBC };
    let lost =
        facts.env.keys().filter(|name| linker.contains(&name.as_str()) || IGNORED_BY_OPENSSL.contains(&name.as_str()));
    for name in lost {
        let what = format!("with a capability, {path} ignores {name}");
        findings.push(warning("secure-variable", "ENV", what, why));
    }
    for run_path in found.run_paths.iter().filter(|text| text.contains("$ORIGIN") || text.contains("${ORIGIN}")) {
        let what = format!(
            "with a capability, {path} does not find libraries in {run_path}: error while loading shared libraries"
        );
        let fix =
            Some(format!("patchelf --set-rpath /absolute/path {path}   # in the image that this one is built from"));
        findings.push(Finding { fix, ..warning("run-path", &path, what, why) });
    }
}

fn listen(facts: &Facts, findings: &mut Vec<Finding>) {
    let listen = facts.listen(&facts.env);
    let Some(variable) = &listen.variable else {
        if listen.ports.is_empty() {
            let what = format!("where it listens is not known; port {ASSUMED_PORT} is assumed");
            let why = "neither the profile nor EXPOSE of the image names a port";
            findings.push(note("ports-assumed", &facts.path(), what, why));
        }
        return;
    };
    if let Some(error) = &listen.error {
        findings.push(breaks(
            "listen-value",
            variable,
            error.clone(),
            "Kong refuses to start with a listen value that it does not understand",
        ));
        return;
    }
    if facts.env.contains_key(&format!("{variable}_FILE")) && listen.set {
        let what = format!("error: both {variable} and {variable}_FILE are set (but are exclusive)");
        findings.push(breaks("file-conflict", variable, what, "entry points of Kong since 2.5.1 stop there"));
    }
    if !listen.ports.iter().any(|port| *port < UNPRIVILEGED) && !listen.ports.is_empty() {
        let low = low_ports(&listen.value).unwrap_or_else(|_| LOW_PORTS.to_owned());
        let what =
            format!("it listens on {} unless {variable} says something else", super::outcome::and_list(&listen.ports));
        let why = if listen.set { "that is what the image sets" } else { "that is the default of its version" };
        let fix = Some(format!("env:\n- name: {variable}\n  value: {low}"));
        findings.push(Finding { fix, ..note("listen-high", variable, what, why) });
    }
    if facts.env.contains_key("KONG_PORT_MAPS") && facts.profile.name == "kong" {
        let what = "KONG_PORT_MAPS is set: it maps ports for a Kong that does not have them itself".to_owned();
        findings.push(note("port-maps", "KONG_PORT_MAPS", what, "with ports 80 and 443 of its own, Kong needs no map"));
    }
}

/// What the start script can do to the file as root, whatever the variables are.
fn start(facts: &Facts, files: &mut Files<'_>, findings: &mut Vec<Finding>) -> Result<()> {
    let argv: Vec<String> = facts.entrypoint.iter().chain(&facts.cmd).cloned().collect();
    let start = Start {
        place: "ENTRYPOINT".to_owned(),
        argv,
        env: facts.env.clone(),
        env_from: true,
        directory: facts.directory.clone(),
        user: User { name: Some("root".to_owned()), ..User::default() },
        dac_override: true,
        docker: true,
        mounts: Vec::new(),
    };
    let mut image = Image { files, users: &facts.users, target: facts.target.path.clone() };
    let (runs, _) = follow(&mut image, &start)?;
    let mut seen = BTreeSet::new();
    for step in runs.iter().flat_map(|run| all_steps(&run.steps)) {
        let (code, what) = match &step.action {
            Action::SetCapabilities(Some(text)) => {
                let adds = text.parse::<FileCapabilities>().is_ok_and(|new| new.grants(Capability::NET_BIND_SERVICE));
                if adds {
                    continue;
                }
                (
                    "overwritten",
                    format!(
                        "started as root, it may run 'setcap {text}', which replaces the capability of the patch",
                        text = super::start::shown(text)
                    ),
                )
            }
            Action::SetCapabilities(None) => {
                ("cleared", "started as root, it may take the capabilities off with 'setcap -r'".to_owned())
            }
            Action::ChangeOwner { command, .. } | Action::Write(command) => {
                ("cleared", format!("started as root, it may run '{command}', which takes the capability off"))
            }
            _ => continue,
        };
        if seen.insert((step.place.clone(), what.clone())) {
            let why = "setcap(8) sets and does not add; a change of the owner or of the content clears the attribute";
            let fix = Some("securityContext:\n  runAsUser: 1000\n  runAsNonRoot: true".to_owned());
            findings.push(Finding { fix, ..warning(code, &step.place, what, why) });
        }
    }
    Ok(())
}

fn all_steps(steps: &[Step]) -> Vec<&Step> {
    let mut all = Vec::new();
    for step in steps {
        all.push(step);
        if let Action::Child { steps, .. } = &step.action {
            all.extend(all_steps(steps));
        }
    }
    all
}

fn healthcheck(facts: &Facts, files: &mut Files<'_>, findings: &mut Vec<Finding>) -> Result<()> {
    let Some(argv) = &facts.healthcheck else { return Ok(()) };
    let start = Start {
        place: "HEALTHCHECK".to_owned(),
        argv: argv.clone(),
        env: facts.env.clone(),
        env_from: false,
        directory: facts.directory.clone(),
        user: facts.users.resolve(&facts.user).unwrap_or_default(),
        dac_override: true,
        docker: true,
        mounts: Vec::new(),
    };
    let mut image = Image { files, users: &facts.users, target: facts.target.path.clone() };
    let (runs, _) = follow(&mut image, &start)?;
    let path = facts.path();
    let executes =
        |step: &&Step| matches!(&step.action, Action::Exec { program, .. } if program.path == facts.target.path);
    if runs.iter().any(|run| all_steps(&run.steps).iter().any(executes)) {
        let what = format!("the health check '{}' executes {path} too", argv.join(" "));
        let why = "where the container may not execute a program with that capability, the check fails as well, and so do 'kong \
                   quit' in a hook and 'kong migrations'";
        findings.push(note("healthcheck", "HEALTHCHECK", what, why));
    } else if let Some(End::Fails { error, .. }) = runs.first().map(|run| &run.end) {
        findings.push(warning(
            "healthcheck",
            "HEALTHCHECK",
            format!("the health check fails: {error}"),
            "what it executes is not in the image",
        ));
    }
    Ok(())
}
