//! What `capatch doctor` foretells, held against what happens: every container of the manifests in [`ways`] is started by
//! runc as the manifest says, and listens, or fails with the words that were foretold.
//! `cargo test --test real doctor -- --nocapture` shows the table.

mod images;
mod ways;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::Mutex;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use capatch::capability::{CapabilitySet, Process};
use capatch::doctor::{Container, manifest};
use capatch::kubernetes::Manifest;
use serde_json::{Value, json};

use self::images::{Image, Images};
use crate::image::{json as parsed, text};
use crate::runc;
use crate::tools;

/// Root of the user namespaces.
const ROOT_ID: u32 = 100_000;

/// What happens, or what is foretold to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Serves {
        uid: u32,
        ports: Vec<u16>,
    },
    /// It ends well.
    Ends,
    /// It ends badly with these words, or with these among others.
    Fails(String),
    /// Nobody said what.
    Untold(String),
}

impl Event {
    fn serves(&self) -> bool {
        matches!(self, Event::Serves { .. })
    }

    /// As in the tables of [`ways`].
    fn letter(&self) -> char {
        match self {
            Event::Serves { .. } => 'S',
            Event::Ends => 'E',
            Event::Fails(log) if log.contains("bind() to") => 'B',
            Event::Fails(_) | Event::Untold(_) => 'x',
        }
    }
}

/// What is started, and what was foretold of it.
struct Act<'a> {
    image: &'a Image,
    name: String,
    container: &'a Container,
    is_docker: bool,
    /// Instead of what the container starts with.
    argv: Option<&'a [String]>,
    unprivileged_port_start: u16,
    foretold: Event,
    words: String,
}

/// The manifests, and the containers in them.
struct Manifests {
    files: Vec<String>,
    containers: Vec<Container>,
}

impl Manifests {
    fn new(directory: &std::path::Path) -> Self {
        let texts = [("kubernetes.yaml", ways::kubernetes()), ("compose.yaml", ways::compose())];
        let manifests = texts.map(|(name, text)| {
            let name = directory.join(name).display().to_string();
            fs::write(&name, &text).unwrap();
            Manifest { name, text }
        });
        let containers = manifest::read(&manifests, "kong", |image| image == "kong:3.9").unwrap().containers;
        Manifests { files: manifests.into_iter().map(|manifest| manifest.name).collect(), containers }
    }

    fn is_docker(&self, container: &Container) -> bool {
        container.place.starts_with(&self.files[1])
    }
}

/// What `capatch doctor` says about an image in all these manifests.
fn report(image: &Image, manifests: &Manifests) -> Value {
    let mut doctor = tools::command(env!("CARGO_BIN_EXE_capatch"));
    doctor.args(["doctor", &image.reference, "--json", "-f"]).args(&manifests.files);
    let output = tools::output(&mut doctor);
    assert_eq!(output.status.code(), Some(8), "{}", tools::words(&output));
    parsed(&String::from_utf8(output.stdout).unwrap())["images"][0].clone()
}

/// Where low ports begin: as the manifest says, as on any node, or as both kinds of runtimes have it.
fn port_starts(container: &Container) -> Vec<u16> {
    match (container.host_network, container.unprivileged_port_start) {
        (true, _) => vec![1024],
        (false, Some(start)) => vec![start],
        (false, None) => vec![1024, 0],
    }
}

/// The acts of one image.
fn acts<'a>(image: &'a Image, manifests: &'a Manifests) -> Vec<Act<'a>> {
    let report = report(image, manifests);
    let fates: HashMap<String, &Value> =
        report["containers"].as_array().unwrap().iter().map(|fate| (text(&fate["place"]), fate)).collect();
    assert_eq!(fates.len(), manifests.containers.len());
    let findings = report["findings"].as_array().unwrap();
    let mut acts = Vec::new();
    for container in &manifests.containers {
        let fate = fates[&container.place];
        let is_docker = manifests.is_docker(container);
        let starts = port_starts(container);
        for &unprivileged_port_start in &starts {
            let (foretold, words) = foretold(fate, findings, container, unprivileged_port_start);
            let before = acts.last().filter(|_| unprivileged_port_start != starts[0]);
            if before.is_some_and(|before: &Act<'_>| before.foretold == foretold && !foretold.serves()) {
                continue;
            }
            let suffix =
                if starts.len() > 1 { format!(", ports from {unprivileged_port_start}") } else { String::new() };
            let name = format!("{}{suffix}", short(&container.name));
            let act = Act { image, name, container, is_docker, argv: None, unprivileged_port_start, foretold, words };
            acts.push(act);
        }
        for command in &container.commands {
            let (foretold, words) = foretold_of_command(findings, &command.place, &command.what);
            let (name, argv) = (format!("{}, {}", short(&container.name), command.what), Some(&command.argv[..]));
            let unprivileged_port_start = starts[0];
            acts.push(Act { image, name, container, is_docker, argv, unprivileged_port_start, foretold, words });
        }
    }
    acts
}

fn short(name: &str) -> String {
    name.replace(", container kong", "")
}

fn foretold(fate: &Value, findings: &[Value], container: &Container, start: u16) -> (Event, String) {
    // The runtime refuses before anything of the image counts.
    let refused = findings
        .iter()
        .find(|finding| finding["code"] == "sysctl-with-host-network" && finding["place"] == container.place.as_str());
    if let Some(finding) = refused {
        let words = text(&finding["what"]);
        let error = words.strip_prefix("the container does not start: ").map(str::to_owned);
        return (Event::Fails(error.unwrap_or_default()), words);
    }
    let ports = || fate["ports"].as_array().unwrap().iter().map(|port| port.as_u64().unwrap() as u16);
    let serves = || Event::Serves { uid: fate["uid"].as_u64().unwrap() as u32, ports: ports().collect() };
    let event = match fate["outcome"].as_str().unwrap() {
        "serves" => serves(),
        "not-needed" if start == 0 => serves(),
        "not-needed" => {
            Event::Fails(format!("bind() to 0.0.0.0:{} failed (13: Permission denied)", ports().min().unwrap()))
        }
        "cannot-bind" | "cannot-start" => Event::Fails(text(&fate["error"])),
        "does-not-serve" | "ends" => Event::Ends,
        _ => Event::Untold(text(&fate["words"])),
    };
    (event, text(&fate["words"]))
}

/// Nothing is said of a command that works.
fn foretold_of_command(findings: &[Value], place: &str, what: &str) -> (Event, String) {
    let beginning = format!("{what}: it does not start: ");
    let errors = findings.iter().filter(|finding| finding["place"] == place);
    match errors.filter_map(|finding| finding["what"].as_str()?.strip_prefix(&beginning)).next() {
        Some(error) => (Event::Fails(error.to_owned()), format!("will not start: {error}")),
        None => (Event::Ends, "works".to_owned()),
    }
}

impl Act<'_> {
    /// What it executes: Kubernetes API, «Container»; Compose has the same rules.
    fn args(&self) -> Vec<String> {
        let of_image = |name: &str| {
            let words = self.image.config["config"][name].as_array().cloned().unwrap_or_default();
            words.iter().map(text).collect::<Vec<_>>()
        };
        let Container { command, args, .. } = self.container;
        match (self.argv, command, args) {
            (Some(argv), ..) => argv.to_vec(),
            (None, Some(command), args) => [&command[..], args.as_deref().unwrap_or_default()].concat(),
            (None, None, Some(args)) => [of_image("Entrypoint"), args.clone()].concat(),
            (None, None, None) => [of_image("Entrypoint"), of_image("Cmd")].concat(),
        }
    }

    fn user(&self) -> (u32, u32) {
        let of_image = text(&self.image.config["config"]["User"]);
        match self.container.user.as_deref().unwrap_or(&of_image) {
            "" | "0" | "root" => (0, 0),
            "kong" | "1000" | "1000:1000" => (1000, 1000),
            other => (other.strip_suffix(":0").unwrap_or(other).parse().unwrap(), 0),
        }
    }

    fn container(&self) -> runc::Container {
        let Container { bounding, no_new_privileges, read_only, host_network, .. } = *self.container;
        let (uid, gid) = self.user();
        // What the first root has: runtimes do the same if they are not given all.
        let bounding = bounding.intersection(bounding_of_this_process());
        let process = match self.is_docker {
            true => Process::of_docker_container(uid, bounding, no_new_privileges),
            false => Process::of_container(uid, bounding, no_new_privileges),
        };
        let root_id = if self.container.user_namespace { ROOT_ID } else { 0 };
        let mut env: Vec<String> = self.image.config["config"]["Env"].as_array().unwrap().iter().map(text).collect();
        env.extend(self.container.env.iter().map(|variable| {
            format!("{}={}", variable.name, variable.value.as_ref().expect("all of these are written out"))
        }));
        let start = self.unprivileged_port_start.to_string();
        let has_sysctl = !host_network || self.container.unprivileged_port_start.is_some();
        // What an emptyDir is to a pod.
        let mounts = self
            .container
            .mounts
            .iter()
            .map(|path| json!({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}));
        runc::Container {
            root: self.image.root.clone(),
            read_only,
            args: self.args(),
            env,
            process: Process { root_id, ..process },
            gid: Some(gid),
            groups: self.container.groups.iter().map(|group| group.parse().unwrap()).collect(),
            host_network,
            sysctls: has_sysctl
                .then(|| ("net.ipv4.ip_unprivileged_port_start".to_owned(), start))
                .into_iter()
                .collect(),
            mounts: mounts.collect(),
        }
    }

    /// What really happens.
    fn act(&self) -> Event {
        let container = self.container();
        let mut running = container.start("/usr/local/kong");
        let wanted: BTreeSet<u16> = match &self.foretold {
            Event::Serves { ports, .. } => ports.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = running.ended() {
                return if status.success() { Event::Ends } else { Event::Fails(running.log()) };
            }
            // A master goes on without its workers.
            let log = running.log();
            if log.contains("exited with fatal code 2 and cannot be respawned") {
                return Event::Fails(log);
            }
            let late = Instant::now() > deadline;
            let listening = running.first_process().map(|pid| (pid, listening(pid)));
            if let Some((pid, ports)) = listening
                && !ports.is_empty()
                && (late || (ports.is_superset(&wanted) && answers(pid, &ports)))
            {
                let uid = uid(pid) - container.process.root_id;
                return Event::Serves { uid, ports: ports.into_iter().collect() };
            }
            if late {
                return Event::Untold(format!("neither serves nor ends: {}", running.log()));
            }
            sleep(Duration::from_millis(5));
        }
    }
}

fn bounding_of_this_process() -> CapabilitySet {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    CapabilitySet::from_bits(u64::from_str_radix(bits.trim(), 16).unwrap())
}

/// The ports that are listened on in the network of a process: proc_pid_net(5).
fn listening(pid: u32) -> BTreeSet<u16> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let port = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
        (state == "0A").then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
    };
    table.lines().filter_map(port).collect()
}

fn uid(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Whether something answers on each of these ports in the network of a process.
fn answers(pid: u32, ports: &BTreeSet<u16>) -> bool {
    let mut curl = tools::command("nsenter");
    curl.args(["--target", &pid.to_string(), "--net", "sh", "-c", "ip link set lo up && exec curl \"$@\"", "sh"]);
    curl.args(["--silent", "--fail", "--insecure", "--noproxy", "*", "--max-time", "2"]);
    for port in ports {
        let scheme = if port % 1000 == 443 { "https" } else { "http" };
        curl.arg(format!("{scheme}://127.0.0.1:{port}/"));
    }
    let output = tools::output(&mut curl);
    output.status.success() && output.stdout == b"kong is here\n".repeat(ports.len())
}

/// Whether these words are in a log: as they are, with anything for `…`; or, as programs say it in different ways, the last
/// word of what comes before the last colon and what comes after it, in one line.
fn says(log: &str, error: &str) -> bool {
    let has_all = |line: &&str| error.split('…').try_fold(*line, |rest, part| Some(rest.split_once(part)?.1)).is_some();
    if log.lines().any(|line| has_all(&line)) {
        return true;
    }
    let Some((who, why)) = error.rsplit_once(": ") else { return false };
    let who = match who.strip_prefix("cannot become user ") {
        Some(_) => "su-exec",
        None => who.rsplit(' ').next().unwrap_or(who),
    };
    log.lines().any(|line| line.contains(who) && line.contains(why))
}

/// Whether it happened as foretold.
fn is_as_foretold(foretold: &Event, real: &Event) -> bool {
    match (foretold, real) {
        (Event::Untold(_), _) | (_, Event::Untold(_)) => false,
        (Event::Fails(error), Event::Fails(log)) => says(log, error),
        _ => foretold == real,
    }
}

fn in_short(event: &Event) -> String {
    match event {
        Event::Serves { uid, ports } => format!("serves {ports:?} as uid {uid}"),
        Event::Ends => "ends well".to_owned(),
        Event::Fails(log) | Event::Untold(log) => {
            let lines: Vec<_> = log.lines().filter(|line| !line.starts_with("nginx version")).collect();
            let telling =
                |line: &&&str| line.contains("ermitted") || line.contains("denied") || line.contains("[emerg]");
            lines
                .iter()
                .find(telling)
                .or(lines.last())
                .map_or_else(String::new, |line| line[line.find("[emerg]").unwrap_or(0)..].to_owned())
        }
    }
}

#[test]
fn every_container_does_what_was_foretold() {
    tools::need_root();
    let images = Images::new();
    let work = tempfile::tempdir().unwrap();
    let manifests = Manifests::new(work.path());
    let acts: Vec<Act<'_>> = images.all.iter().flat_map(|image| acts(image, &manifests)).collect();
    let next = Mutex::new(acts.iter().enumerate());
    let seen = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((at, act)) = { next.lock().unwrap().next() } {
                    let real = act.act();
                    seen.lock().unwrap().push((at, real));
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort_by_key(|(at, _)| *at);
    let mut wrong = Vec::new();
    let mut happened: HashMap<&str, String> = HashMap::new();
    let mut before = None;
    for (act, (_, real)) in acts.iter().zip(&seen) {
        let row = format!("{:<8} {:<48}", act.image.name, act.name);
        println!("{row} | {:<90} | {}", act.words, in_short(real));
        if !is_as_foretold(&act.foretold, real) {
            wrong.push(format!("{row}\n  foretold: {:?}\n  real:     {real:?}", act.foretold));
        }
        let way = happened.entry(&act.container.place).or_default();
        let same =
            before.replace((act.image.name, &act.container.place)) == Some((act.image.name, &act.container.place));
        way.extend((!way.is_empty() && !same).then_some(' ').into_iter().chain([real.letter()]));
    }
    for ((name, letters), container) in ways::expected().into_iter().zip(&manifests.containers) {
        let happened = &happened[&*container.place];
        if happened != letters {
            wrong.push(format!("{name}: {letters} in the table of ways, {happened} in fact"));
        }
    }
    println!("{} rows, {} differ", seen.len(), wrong.len());
    assert!(wrong.is_empty(), "{} of {} rows differ:\n{}", wrong.len(), seen.len(), wrong.join("\n"));
    assert_eq!((seen.len(), ways::expected().len()), (444, manifests.containers.len()), "rows");
}
