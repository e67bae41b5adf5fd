use proptest::prelude::*;

use super::*;

const NONE: CapabilitySet = CapabilitySet::EMPTY;
const NET_BIND: CapabilitySet = CapabilitySet::from_bits(1 << 10);
/// What Docker and containerd give a container by default.
const DEFAULT: CapabilitySet = CapabilitySet::from_bits(0xa804_25fb);
const HOST: Network = Network { unprivileged_port_start: 1024, owned: true };

fn program(capabilities: &str) -> Program {
    Program::from(&capabilities.parse().unwrap())
}

/// The programs executed one after the other; of the last one whether it may bind port 80, and `AT_SECURE`.
fn chain(process: &Process, programs: &[Program]) -> Result<(bool, bool), Refusal> {
    let mut process = process.clone();
    let mut secure = false;
    for program in programs {
        Executed { process, secure } = process.exec(program)?;
    }
    Ok((process.may_bind(80, HOST), secure))
}

#[test]
fn what_happens_in_containers() {
    let (shell, ep) = (Program::default(), program("cap_net_bind_service=ep"));
    let (direct, plain) = (std::slice::from_ref(&ep), std::slice::from_ref(&shell));
    let hop = [shell.clone(), ep.clone()];
    let kubernetes = Process::of_container;
    let ambient = Process { inheritable: NET_BIND, ambient: NET_BIND, ..kubernetes(1000, NET_BIND, true) };
    let eperm = Err(Refusal::NotPermitted);
    for (name, process, programs, expected) in [
        ("non-root", kubernetes(1000, DEFAULT, false), &hop[..], Ok((true, true))),
        ("non-root, NNP, hop", kubernetes(1000, DEFAULT, true), &hop, Ok((false, true))),
        ("non-root, NNP, direct", kubernetes(1000, DEFAULT, true), direct, Ok((true, true))),
        ("the same in Docker", Process::of_docker_container(1000, DEFAULT, true), direct, Ok((false, true))),
        ("NNP, hop with capabilities", kubernetes(1000, DEFAULT, true), &[ep.clone(), ep.clone()], Ok((true, true))),
        ("dropped", kubernetes(1000, NONE, false), &hop, eperm),
        ("dropped, root", kubernetes(0, NONE, true), direct, eperm),
        ("ambient, NNP", ambient.clone(), &hop, Ok((true, true))),
        ("ambient without file capability", ambient, plain, Ok((true, false))),
        ("root, all but one dropped, NNP", kubernetes(0, NET_BIND, true), &hop, Ok((true, false))),
        ("=p", kubernetes(1000, DEFAULT, false), &[program("cap_net_bind_service=p")], Ok((false, true))),
        ("=p, dropped", kubernetes(1000, NONE, false), &[program("cap_net_bind_service=p")], Ok((false, false))),
        ("=eip", kubernetes(1000, NET_BIND, false), &[program("cap_net_bind_service=eip")], Ok((true, true))),
        ("=ei", kubernetes(1000, DEFAULT, false), &[program("cap_net_bind_service=ei")], Ok((false, true))),
        ("nosuid", kubernetes(1000, NONE, false), &[Program { nosuid: true, ..ep.clone() }], Ok((false, false))),
        ("empty attribute", kubernetes(0, DEFAULT, false), &[Program { xattr: Some(vec![]), ..shell.clone() }], {
            Err(Refusal::Invalid)
        }),
        ("root without capabilities", kubernetes(0, NONE, false), plain, Ok((false, false))),
    ] {
        assert_eq!(chain(&process, programs), expected, "{name}");
    }
}

#[test]
fn capabilities_for_one_user_namespace() {
    let file = FileCapabilities { permitted: NET_BIND, effective: true, root_id: 100_000, ..Default::default() };
    let (v3, v2) = (Program::from(&file), program("cap_net_bind_service=ep"));
    for (root_id, program, gained) in
        [(0, &v2, true), (0, &v3, false), (100_000, &v2, true), (100_000, &v3, true), (200_000, &v3, false)]
    {
        let process = Process { root_id, bounding: DEFAULT, uid: 1000, euid: 1000, ..Process::default() };
        let executed = process.exec(program).unwrap();
        assert_eq!((executed.process.effective == NET_BIND, executed.secure), (gained, gained), "{root_id}");
    }
    let foreign = Network { owned: false, ..HOST };
    let root = Process::of_container(0, CapabilitySet::NAMED, false);
    assert!(root.may_bind(80, HOST) && !root.may_bind(80, foreign) && root.may_bind(1024, foreign));
}

#[test]
fn ports_that_are_free_to_all() {
    let nobody = Process::of_container(65534, NONE, true);
    for (start, port, free) in
        [(1024, 0, true), (1024, 80, false), (1024, 1023, false), (1024, 1024, true), (0, 1, true), (80, 80, true)]
    {
        assert_eq!(nobody.may_bind(port, Network { unprivileged_port_start: start, owned: true }), free, "{port}");
    }
}

#[test]
fn set_user_id_programs() {
    let user = Process::of_docker_container(1000, DEFAULT, false);
    let su = Program { set_user_id: Some(0), ..Program::default() };
    let root = user.exec(&su).unwrap();
    assert!(root.secure);
    assert_eq!((root.process.uid, root.process.euid, root.process.effective), (1000, 0, DEFAULT));
    let both = Program { set_user_id: Some(0), ..program("cap_net_bind_service=p") };
    let both = user.exec(&both).unwrap().process;
    assert_eq!((both.euid, both.permitted, both.effective), (0, NET_BIND, NONE));
    for (process, su) in [
        (Process { no_new_privileges: true, ..user.clone() }, su.clone()),
        (user.clone(), Program { nosuid: true, ..su.clone() }),
    ] {
        let executed = process.exec(&su).unwrap();
        assert_eq!((executed.process.euid, executed.process.permitted, executed.secure), (1000, NONE, false));
    }
    let plain = Process { no_root: true, ..user }.exec(&su).unwrap().process;
    assert_eq!((plain.euid, plain.permitted), (0, NONE));
}

#[test]
fn changing_the_user() {
    let root = Process::of_container(0, DEFAULT, false);
    let user = root.set_user(1000).unwrap();
    assert_eq!((user.uid, user.permitted, user.effective, user.bounding), (1000, NONE, NONE, DEFAULT));
    assert_eq!(chain(&user, &[program("cap_net_bind_service=ep")]), Ok((true, true)));
    assert_eq!(Process { no_setuid_fixup: true, ..root.clone() }.set_user(1000).unwrap().permitted, DEFAULT);
    assert_eq!(Process::of_container(0, NET_BIND, false).set_user(1000), Err(Refusal::NotPermitted));
    assert_eq!(user.set_user(1000), Ok(user));
    let back = Process { effective: Capability::SETUID.into(), ..Process::of_container(1000, DEFAULT, false) };
    assert_eq!(back.set_user(0).unwrap().effective, DEFAULT);
}

fn any_set() -> impl Strategy<Value = CapabilitySet> {
    // Of six capabilities, so that sets often meet; the last one has no name.
    let numbers = [0, 7, 10, 13, 40, 50];
    (0..1_u64 << numbers.len())
        .prop_map(move |mask| (0..numbers.len()).filter(|i| mask >> i & 1 == 1).map(|i| 1 << numbers[i]).sum())
        .prop_map(CapabilitySet::from_bits)
}

fn any_process() -> impl Strategy<Value = Process> {
    process_of(prop_oneof![Just(0), Just(1000), Just(2000)])
}

fn any_user() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1000), Just(2000)]
}

prop_compose! {
    fn process_of(users: impl Strategy<Value = u32> + Clone)(
        (uid, euid, root_id) in (users.clone(), users, any_user()),
        (permitted, inheritable, effective, bounding, ambient) in
            (any_set(), any_set(), any_set(), any_set(), any_set()),
        (no_new_privileges, no_root, no_setuid_fixup) in any::<(bool, bool, bool)>(),
    ) -> Process {
        let known = |set: CapabilitySet| set.intersection(CapabilitySet::NAMED);
        Process {
            uid, euid, permitted: known(permitted), inheritable: known(inheritable),
            effective: known(effective.intersection(permitted)), bounding: known(bounding),
            ambient: known(ambient.intersection(permitted).intersection(inheritable)),
            no_new_privileges, no_root, no_setuid_fixup, root_id,
        }
    }
}

prop_compose! {
    fn any_program()(
        (permitted, inheritable) in (any_set(), any_set()),
        (effective, capable, nosuid) in any::<(bool, bool, bool)>(),
        root_id in any_user(),
        set_user_id in proptest::option::of(any_user()),
    ) -> Program {
        let file = FileCapabilities { permitted, inheritable, effective, root_id };
        Program { xattr: capable.then(|| file.encode()), set_user_id, nosuid }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn whatever_is_executed(process in any_process(), program in any_program()) {
        let Ok(Executed { process: new, .. }) = process.exec(&program) else {
            // Not even root is excepted, and only the effective bit asks for everything.
            let file = FileCapabilities::decode(program.xattr.as_deref().unwrap()).unwrap();
            prop_assert!(file.effective && !file.permitted.is_subset(process.bounding) && !program.nosuid);
            return Ok(());
        };
        prop_assert!(new.effective.is_subset(new.permitted));
        prop_assert!(new.ambient.is_subset(new.permitted.intersection(new.inheritable)));
        prop_assert!(new.ambient.is_subset(process.ambient));
        prop_assert!(new.permitted.is_subset(process.bounding.union(process.inheritable).union(process.ambient)));
        if process.no_new_privileges {
            prop_assert!(new.permitted.is_subset(process.permitted));
            prop_assert!(new.euid == process.euid || new.euid == process.uid);
        }
        let Process { euid, permitted, effective, ambient, .. } = new.clone();
        prop_assert_eq!(new, Process { euid, permitted, effective, ambient, ..process });
    }

    #[test]
    fn a_plain_program_passes_on_what_is_ambient(
            process in process_of(prop_oneof![Just(1000), Just(2000)]),
            program in any_program(),
        ) {
        let Executed { process: new, secure } = process.exec(&Program::default()).unwrap();
        prop_assert_eq!((new.permitted, new.effective), (process.ambient, process.ambient));
        prop_assert_eq!(secure, process.uid != process.euid);
        prop_assert_eq!(process.exec(&Program { nosuid: true, ..program }), process.exec(&Program::default()));
    }

    #[test]
    fn whoever_it_becomes(process in any_process(), uid in any_user()) {
        let Ok(new) = process.set_user(uid) else {
            prop_assert!(uid != process.uid && !process.effective.contains(Capability::SETUID));
            return Ok(());
        };
        prop_assert_eq!((new.uid, new.euid), (uid, uid));
        prop_assert!(new.effective.is_subset(new.permitted) && new.permitted.is_subset(process.permitted));
        prop_assert!(new.ambient.is_subset(new.permitted));
    }
}
