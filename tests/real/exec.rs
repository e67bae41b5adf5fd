//! What `capability::Process` foretells, held against the running kernel: runc starts probes in every way that matters, and
//! what was foretold of each has to be what it says. `cargo test --test real exec -- --nocapture` shows the table.

use std::fs;

use capatch::capability::{Capability, CapabilitySet, Executed, FileCapabilities, Network, Process, Program};

use crate::probe::{Probes, said_of};
use crate::runc::Container;

const NONE: CapabilitySet = CapabilitySet::EMPTY;
/// What Docker and containerd give a container by default, 14 of them.
const DEFAULT: CapabilitySet = CapabilitySet::from_bits(0xa804_25fb);
/// Those that a probe asks for.
const PORTS: [u16; 3] = [80, 1023, 1024];
/// Root of the user namespaces.
const ROOT_ID: u32 = 100_000;
const OWN_NETWORK: Network = Network { unprivileged_port_start: 1024, owned: true };

type File = (&'static str, Program);

/// Files that are executed last: the common ones first, of which the large matrix is made.
fn files() -> Vec<File> {
    let with = |text: &str| Program::from(&text.parse().unwrap());
    let of_root_id =
        |root_id| Program::from(&FileCapabilities { root_id, .."cap_net_bind_service=ep".parse().unwrap() });
    let of_owner = |owner, program| Program { set_user_id: Some(owner), ..program };
    vec![
        ("none", Program::default()),
        ("ep", with("cap_net_bind_service=ep")),
        ("p", with("cap_net_bind_service=p")),
        ("eip", with("cap_net_bind_service=eip")),
        ("ei", with("cap_net_bind_service=ei")),
        ("e", with("cap_net_bind_service=e")),
        ("two-ep", with("cap_net_bind_service,cap_sys_admin=ep")),
        ("two-p", with("cap_net_bind_service,cap_sys_admin=p")),
        ("unknown-ep", with("cap_net_bind_service,63=ep")),
        ("empty-value", Program { xattr: Some(Vec::new()), ..Program::default() }),
        ("v3-ours", of_root_id(ROOT_ID)),
        ("v3-other", of_root_id(ROOT_ID + 1)),
        ("su-root", of_owner(0, Program::default())),
        ("su-root-ep", of_owner(0, with("cap_net_bind_service=ep"))),
        ("su-2000", of_owner(2000, Program::default())),
        ("su-ours", of_owner(ROOT_ID, Program::default())),
    ]
}

fn common_files() -> Vec<File> {
    files().into_iter().take(9).collect()
}

fn file(name: &str) -> Program {
    files().into_iter().find(|(known, _)| *known == name).unwrap().1
}

/// What happens between runc and the last program.
#[derive(Clone)]
enum Step {
    Exec(Program),
    SetUser(u32),
    Change(fn(&mut Process)),
}

/// A way from runc to the last program.
#[derive(Clone)]
struct Way {
    name: &'static str,
    /// What runc executes, or nothing if that is the last program itself. It gets all files as arguments and executes each
    /// in a child of its own, which is the same as a container for each: fork(2) keeps the credentials.
    args: &'static [&'static str],
    steps: Vec<Step>,
}

fn way(name: &'static str, args: &'static [&'static str], steps: impl Into<Vec<Step>>) -> Way {
    Way { name, args, steps: steps.into() }
}

fn plain() -> Step {
    Step::Exec(Program::default())
}

fn direct() -> Way {
    way("direct", &[], [])
}

fn script() -> Way {
    way("script", &["/each"], [plain()])
}

/// As `su-exec` does.
fn set_user() -> Way {
    way("setuid", &["/probe", "setuid", "1000", "each"], [plain(), Step::SetUser(1000)])
}

/// One row for each file.
struct Rows {
    name: String,
    process: Process,
    network: Network,
    host_network: bool,
    way: Way,
    files: Vec<File>,
}

fn rows(name: &str, process: &Process, way: Way, files: Vec<File>) -> Rows {
    let nnp = if process.no_new_privileges { ", no_new_privs" } else { "" };
    let name = format!("{name}, uid {}{nnp}", process.uid);
    Rows { name, process: process.clone(), network: OWN_NETWORK, host_network: false, way, files }
}

/// How a runtime starts the first process: user, no_new_privs.
type Start = fn(u32, bool) -> Process;

const STARTS: [(&str, Start); 3] = [
    ("default", |uid, nnp| Process::of_container(uid, DEFAULT, nnp)),
    ("drop all", |uid, nnp| Process::of_container(uid, NONE, nnp)),
    ("drop all, add one", |uid, nnp| Process::of_container(uid, Capability::NET_BIND_SERVICE.into(), nnp)),
];

/// Docker's own, that of engines before CVE-2022-24769, with an ambient capability, and with less than the bounding set.
const OTHER_STARTS: [(&str, Start); 4] = [
    ("Docker", |uid, nnp| Process::of_docker_container(uid, DEFAULT, nnp)),
    ("all inheritable", |uid, nnp| Process { inheritable: DEFAULT, ..Process::of_container(uid, DEFAULT, nnp) }),
    ("one ambient", |uid, nnp| {
        let one = Capability::NET_BIND_SERVICE.into();
        Process { inheritable: one, ambient: one, ..Process::of_container(uid, DEFAULT, nnp) }
    }),
    ("one permitted", |uid, nnp| {
        let one = Capability::NET_BIND_SERVICE.into();
        Process { permitted: one, effective: one, ..Process::of_container(uid, DEFAULT, nnp) }
    }),
];

fn started<'a>(starts: &'a [(&'a str, Start)]) -> impl Iterator<Item = (&'a str, Process)> {
    starts.iter().flat_map(|(name, start)| {
        [(0, false), (0, true), (1000, false), (1000, true)].map(|(uid, nnp)| (*name, start(uid, nnp)))
    })
}

fn all_rows() -> Vec<Rows> {
    let mut all = Vec::new();
    let capable = Step::Exec(file("ep"));
    for (name, process) in started(&STARTS) {
        let hop = way("ep", &["/files/ep", "each"], [capable.clone()]);
        let two = way("script, ep", &["/exec", "/files/ep", "each"], [plain(), capable.clone()]);
        all.extend([direct(), script(), hop, two].map(|way| rows(name, &process, way, common_files())));
    }
    for (name, process) in started(&OTHER_STARTS) {
        all.extend([direct(), script()].map(|way| rows(name, &process, way, files())));
    }
    for (name, process) in started(&STARTS[..2]) {
        let rest: Vec<_> = files().into_iter().skip(common_files().len()).collect();
        all.extend([direct(), script()].map(|way| rows(name, &process, way, rest.clone())));
        let nosuid = files().into_iter().map(|(name, program)| (name, Program { nosuid: true, ..program }));
        all.push(rows(name, &process, script(), nosuid.collect()));
        // The attribute of a script counts for nothing, and that of the shell would.
        all.push(rows(name, &process, way("script +ep", &["/each-ep"], [plain()]), common_files()));
    }
    for (name, process) in started(&STARTS).chain(started(&OTHER_STARTS)).filter(|(_, process)| process.uid == 0) {
        all.push(rows(name, &process, set_user(), files()));
    }
    all.extend(hops());
    all.extend(networks());
    all
}

/// Programs that change what they are, or have changed it by being executed.
fn hops() -> Vec<Rows> {
    let no_root = Step::Change(|process| process.no_root = true);
    let no_fixup = Step::Change(|process| process.no_setuid_fixup = true);
    let no_new_privileges = || Step::Change(|process| process.no_new_privileges = true);
    let anybody = [
        way("sets nnp", &["/probe", "nnp", "each"], [plain(), no_new_privileges()]),
        way("su-root", &["/files/su-root", "each"], [Step::Exec(file("su-root"))]),
        way("su-root-ep", &["/files/su-root-ep", "each"], [Step::Exec(file("su-root-ep"))]),
        way("su-2000", &["/files/su-2000", "each"], [Step::Exec(file("su-2000"))]),
    ];
    let root = [
        way("no root", &["/probe", "securebits", "1", "each"], [plain(), no_root]),
        // What it keeps shows only where nothing can be gained.
        way(
            "no fix-up",
            &["/probe", "securebits", "4", "setuid", "1000", "nnp", "each"],
            [plain(), no_fixup, Step::SetUser(1000), no_new_privileges()],
        ),
    ];
    let of = |uid, way| rows("default", &Process::of_container(uid, DEFAULT, false), way, files());
    // Before Linux 6.17 it would become 1000 again by executing anything, and not just what it would gain by.
    let steps = [Step::Exec(file("su-2000")), no_new_privileges()];
    let gains = of(1000, way("su-2000, nnp", &["/files/su-2000", "nnp", "each"], steps));
    let gains = Rows { files: vec![("ep", file("ep"))], ..gains };
    // The only way to have something inheritable that is not in the bounding set.
    let drop = Step::Change(|process| process.bounding = DEFAULT.minus(Capability::NET_BIND_SERVICE.into()));
    let drops = way("drops", &["/probe", "drop", "10", "each"], [plain(), drop]);
    let inheritable = Process { inheritable: DEFAULT, ..Process::of_container(0, DEFAULT, false) };
    let drops = rows("all inheritable", &inheritable, drops, files());
    let both = anybody.iter().flat_map(|way| [of(0, way.clone()), of(1000, way.clone())]);
    both.chain(root.map(|way| of(0, way))).chain([gains, drops]).collect()
}

/// User namespaces with their own network or the machine's, the machine's alone, and ports that are free to all, as Docker and
/// containerd 2 have them.
fn networks() -> Vec<Rows> {
    let mut all = Vec::new();
    let here = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim().parse().unwrap();
    for (name, root_id, host_network) in
        [("user namespace", ROOT_ID, false), ("user namespace, host network", ROOT_ID, true), ("host network", 0, true)]
    {
        let network = match host_network {
            true => Network { unprivileged_port_start: here, owned: root_id == 0 },
            false => OWN_NETWORK,
        };
        for (_, process) in started(&STARTS[..1]) {
            let process = Process { root_id, ..process };
            all.push(Rows { network, host_network, ..rows(name, &process, script(), files()) });
        }
    }
    for unprivileged_port_start in [0, 80, 1023] {
        let network = Network { unprivileged_port_start, owned: true };
        let name = format!("ports from {unprivileged_port_start}");
        for (_, process) in started(&STARTS[1..]) {
            all.push(Rows { network, ..rows(&name, &process, script(), common_files()) });
        }
    }
    all
}

/// What a program says at the end of the way, or why it or one before it is not executed.
fn foretell(process: &Process, steps: &[Step], program: &Program, network: Network) -> String {
    let mut process = process.clone();
    for step in steps {
        let next = match step {
            Step::Exec(program) => process.exec(program).map(|executed| executed.process),
            Step::SetUser(uid) => process.set_user(*uid),
            Step::Change(change) => {
                change(&mut process);
                Ok(process)
            }
        };
        match next {
            Ok(next) => process = next,
            Err(refusal) => return refusal.to_string(),
        }
    }
    match process.exec(program) {
        Ok(executed) => words_of_probe(&executed, network),
        Err(refusal) => refusal.to_string(),
    }
}

fn words_of_probe(Executed { process, secure }: &Executed, network: Network) -> String {
    let ports = PORTS.map(|port| if process.may_bind(port, network) { "ok" } else { "EACCES" });
    let Process { uid, euid, .. } = process;
    format!(
        "prm={:x} eff={:x} secure={} bind={} uid={uid},{euid},{euid} inh={:x} bnd={:x} amb={:x} nnp={} bits={:x}",
        process.permitted.bits(),
        process.effective.bits(),
        u8::from(*secure),
        ports.join(","),
        process.inheritable.bits(),
        process.bounding.bits(),
        process.ambient.bits(),
        u8::from(process.no_new_privileges),
        u8::from(process.no_root) | u8::from(process.no_setuid_fixup) << 2,
    )
}

/// The real ones.
fn words_of_kernel(probes: &Probes, rows: &Rows, paths: &[String]) -> Vec<String> {
    let start = rows.network.unprivileged_port_start;
    let sysctl = ("net.ipv4.ip_unprivileged_port_start".to_owned(), start.to_string());
    let container = Container {
        process: rows.process.clone(),
        host_network: rows.host_network,
        sysctls: if rows.network == OWN_NETWORK || rows.host_network { vec![] } else { vec![sysctl] },
        ..Container::default()
    };
    let Some(first) = rows.way.args.first() else {
        return paths.iter().map(|path| said_of(path, &probes.run(vec![path.clone()], &container), path)).collect();
    };
    let args = rows.way.args.iter().map(|arg| (*arg).to_owned()).chain(paths.iter().cloned()).collect();
    let words = probes.run(args, &container);
    paths.iter().map(|path| said_of(path, &words, first)).collect()
}

#[test]
fn the_kernel_does_what_was_foretold() {
    let probes = Probes::new(&files());
    let (mut count, mut wrong) = (0, Vec::new());
    for rows in all_rows() {
        let directory = |program: &Program| if program.nosuid { "/nosuid" } else { "/files" };
        let paths: Vec<_> = rows.files.iter().map(|(name, program)| format!("{}/{name}", directory(program))).collect();
        let real = words_of_kernel(&probes, &rows, &paths);
        for (((_, program), path), real) in rows.files.iter().zip(&paths).zip(real) {
            // Owners below the first user of the namespace are nobody's in it.
            let set_user_id = program.set_user_id.and_then(|owner| owner.checked_sub(rows.process.root_id));
            let program = Program { set_user_id, ..program.clone() };
            let foretold = foretell(&rows.process, &rows.way.steps, &program, rows.network);
            let row = format!("{:<50} {:<12} {path:<19}", rows.name, rows.way.name);
            let short = |words: &str| words.split(" uid=").next().unwrap_or_default().to_owned();
            println!("{row} | {:<60} | {}", short(&foretold), short(&real));
            count += 1;
            if foretold != real {
                wrong.push(format!("{row}\n  foretold: {foretold}\n  real:     {real}"));
            }
        }
    }
    println!("{count} rows, {} differ", wrong.len());
    assert!(wrong.is_empty(), "{} of {count} rows differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(count, 2065, "rows");
}
