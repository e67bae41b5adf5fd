use super::*;
use crate::capability::CapabilitySet;
use crate::doctor::DEFAULT_CAPABILITIES;
use crate::doctor::start::tests::{files, layer};
use crate::doctor::users::User;

const NGINX: &str = "/usr/local/openresty/nginx/sbin/nginx";

/// What becomes of root without `dropped` that goes through `actions` to an nginx, which changes its user.
fn outcome(actions: &[Action], dropped: &[Capability], read_only: bool) -> String {
    let layer = layer(&[]);
    let target = files(&layer).file(NGINX).unwrap().unwrap();
    let step = |action: &Action| Step { place: "/start:1".to_owned(), action: action.clone(), fatal: true };
    let end = End::Runs { path: NGINX.to_owned(), serves: true };
    let run = Run { steps: actions.iter().map(step).collect(), end, assumed: Vec::new() };
    let bounding = DEFAULT_CAPABILITIES.minus(dropped.iter().copied().collect::<CapabilitySet>());
    let walk = Walk {
        process: Process::of_container(0, bounding, false),
        target: &target,
        read_only,
        ports: &[80],
        private: false,
        port_start: None,
        user_namespace: false,
        changes_user: true,
    };
    match walk.outcome(&run) {
        Outcome::CannotStart { place, error, .. } => format!("{place}: {error}"),
        other => other.to_string(),
    }
}

#[test]
fn what_is_done_as_root_needs_its_capabilities() {
    let user = || Action::User(User { uid: 1000, name: Some("kong".to_owned()), ..User::default() });
    let other = |own| Action::ChangeOtherOwner { path: "/usr/local/kong".to_owned(), own };
    let own = || other(false);
    let set = || Action::SetCapabilities(Some("cap_net_raw=+ep".to_owned()));
    let (chown, setgid, setuid) = (Capability::CHOWN, Capability::SETGID, Capability::SETUID);
    let refused = "starts, and cannot bind 80: bind() to 0.0.0.0:80 failed (13: Permission denied)";
    let not_kong = "/start:1: cannot become user kong: Operation not permitted";
    for (actions, dropped, read_only, expected) in [
        (&[][..], &[][..], false, "starts and binds 80 as uid 0"),
        (&[], &[Capability::NET_BIND_SERVICE], false, refused),
        (
            &[],
            &[chown, Capability::NET_BIND_SERVICE],
            false,
            "/usr/local/openresty/nginx/sbin/nginx: chown(\"…_temp\", …) failed (1: Operation not permitted)",
        ),
        (
            &[],
            &[setgid, setuid],
            false,
            "/usr/local/openresty/nginx/sbin/nginx: setgid(…) failed (1: Operation not permitted)",
        ),
        (&[], &[setuid], true, "/usr/local/openresty/nginx/sbin/nginx: setuid(…) failed (1: Operation not permitted)"),
        (&[user()], &[chown], false, refused),
        (&[user()], &[setgid], false, not_kong),
        (&[user()], &[setuid], false, not_kong),
        (&[own(), user()], &[], false, refused),
        (
            &[own(), user()],
            &[chown, setgid],
            false,
            "/start:1: chown: changing ownership of '/usr/local/kong': Operation not permitted",
        ),
        (
            &[own(), user()],
            &[],
            true,
            "/start:1: chown: changing ownership of '/usr/local/kong': Read-only file system",
        ),
        (&[user(), other(true)], &[], false, refused),
        (
            &[user(), own()],
            &[],
            false,
            "/start:1: chown: changing ownership of '/usr/local/kong': Operation not permitted",
        ),
        (
            &[set()],
            &[],
            true,
            "/start:1: Failed to set capabilities on file '/usr/local/openresty/nginx/sbin/nginx': Read-only file system",
        ),
    ] {
        assert_eq!(outcome(actions, dropped, read_only), expected, "{actions:?} {dropped:?} {read_only}");
    }
}

#[test]
fn what_happens_in_the_image_has_another_place_than_the_container() {
    let place = || "/start:1".to_owned();
    for outcome in [
        Outcome::CannotStart { place: place(), error: String::new(), cause: Cause::Missing },
        Outcome::Ends { place: place() },
        Outcome::Unknown { place: place(), why: String::new() },
    ] {
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!((&json["at"], json.get("place")), (&"/start:1".into(), None), "{outcome:?}");
    }
}
