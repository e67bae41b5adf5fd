//! An outcome as a finding: what will be seen, why, and what mends it.

use super::container::{Container, Role};
use super::facts::Facts;
use super::fix::Mend;
use super::judge::LOW_PORTS;
use super::manifest::Detail;
use super::outcome::{Cause, Outcome, and_list};
use super::{Finding, Level};

/// What is wrong with a container of `image`, which a manifest may describe; nothing if it does what it should.
pub(super) fn of_outcome(
    facts: &Facts,
    image: &str,
    container: &Container,
    detail: Option<&Detail>,
    outcome: &Outcome,
) -> Option<Finding> {
    let explain = |cause| {
        let (code, why, mend) = explain(facts, image, container, cause);
        (code, why, mend.map(|mend| mend.text(detail)))
    };
    let place = |in_image: &str| match container.image.is_empty() {
        true => in_image.to_owned(),
        false => container.place.clone(),
    };
    let path = facts.path();
    match outcome {
        Outcome::CannotBind { ports, error, cause, .. } => {
            let (code, why, fix) = explain(cause);
            let what = format!("it starts, and cannot bind {}: {error}", and_list(ports));
            Some(Finding { code, level: Level::Breaks, place: place(&path), what, why, fix })
        }
        // It is said where the manifest says it.
        Outcome::CannotStart { cause: Cause::Platform, .. } => None,
        Outcome::CannotStart { place: at, error, cause } => {
            let (code, why, fix) = explain(cause);
            let (what, at) = (format!("it does not start: {error}"), place(at));
            Some(Finding { code, level: Level::Breaks, place: at, what, why, fix })
        }
        Outcome::Ends { place: at } if container.role == Role::Main => Some(Finding {
            code: "ends",
            level: Level::Breaks,
            place: place(at),
            what: "it ends without starting the program".to_owned(),
            why: format!("{path} is not executed on the way that its start takes to {at}"),
            fix: None,
        }),
        Outcome::DoesNotServe { program } if container.role == Role::Main => Some(Finding {
            code: "does-not-serve",
            level: Level::Warning,
            place: place("ENTRYPOINT"),
            what: format!("it executes {program} and does not serve with {path}"),
            why: "its capability counts for the program alone that has it; what this one executes is not looked into".to_owned(),
            fix: Some("name the program that binds the ports with --file".to_owned()).filter(|_| *program != path),
        }),
        Outcome::Unseen { variable, .. } => Some(Finding {
            code: "listen-unseen",
            level: Level::Warning,
            place: place(variable),
            what: format!("{outcome}"),
            why: "it comes from a ConfigMap, a Secret or a file that is not among the manifests".to_owned(),
            fix: Some(format!("give the ConfigMap with -f too, or write the variable out:\n{}", written(container, variable))),
        }),
        Outcome::Unknown { place: at, why } => Some(Finding {
            code: "not-followed",
            level: Level::Warning,
            place: place(at),
            what: format!("whether it starts cannot be told: {at}: {why}"),
            why: "start scripts are read and not run; what depends on files, programs or variables that are there only when it \
                  runs stays open"
                .to_owned(),
            fix: None,
        }),
        _ => None,
    }
}

/// A variable with which it has its low ports, as the manifest would say it.
fn written(container: &Container, variable: &str) -> String {
    match container.docker {
        true => format!("environment:\n  {variable}: {LOW_PORTS}"),
        false => format!("env:\n- name: {variable}\n  value: {LOW_PORTS}"),
    }
}

/// A stable name, the reason, and what mends it.
fn explain(facts: &Facts, image: &str, container: &Container, cause: &Cause) -> (&'static str, String, Option<Mend>) {
    let path = facts.path();
    let file = if facts.profile.files.first().is_some_and(|paths| paths.contains(&facts.asked.as_str())) {
        String::new()
    } else {
        format!(" --file {}", shell_word(&facts.asked))
    };
    let profile =
        if facts.profile.name == "kong" { String::new() } else { format!(" --profile {}", facts.profile.name) };
    let patch = |options: &str| {
        let (image, destination) = (shell_word(image), shell_word(&destination(image)));
        Some(Mend::Command(format!("capatch patch {image} {destination}{options}{profile}{file}")))
    };
    match cause {
        Cause::NoCapability => (
            "no-capability",
            format!(
                "{path} has no capability, and NET_BIND_SERVICE in a securityContext gives users other than root none"
            ),
            patch(""),
        ),
        Cause::OtherCapabilities { has } => {
            ("no-capability", format!("{path} has {has}, and not cap_net_bind_service"), patch(""))
        }
        Cause::NotEffective { has } => (
            "not-effective",
            format!("{path} has {has}: permitted, and not in effect, which the program would have to see to itself"),
            patch(" --cap cap_net_bind_service=+ep"),
        ),
        Cause::ForeignRoot { root_id } => (
            "foreign-root",
            format!(
                "the capability of {path} counts only in user namespaces whose root is user {root_id} (revision 3)"
            ),
            patch(" --replace-caps"),
        ),
        Cause::Malformed => (
            "malformed-capability",
            format!(
                "the value of security.capability on {path} is none that Linux stores, so nobody can unpack the image"
            ),
            // Each layer is unpacked, also below one that replaces the file.
            Some(Mend::Command(
                "build the layer that brings it anew; one more on top does not help, since each is unpacked".to_owned(),
            )),
        ),
        Cause::BoundingSet { missing } => (
            "bounding-set",
            format!(
                "the container may not have {missing}, and the kernel executes no file whose capabilities it cannot give"
            ),
            Some(Mend::Capabilities(missing.replace("cap_", "").replace(',', ", ").to_uppercase())),
        ),
        Cause::NoNewPrivileges => (
            "no-new-privileges",
            format!(
                "with allowPrivilegeEscalation: false (no-new-privileges) the kernel gives {path} none of its capabilities"
            ),
            Some(Mend::Capabilities("NET_BIND_SERVICE".to_owned())),
        ),
        Cause::UserNamespace => (
            "user-namespace",
            "capabilities of a user namespace do not count in the network of the node".to_owned(),
            Some(Mend::HostUsers),
        ),
        Cause::Overwritten { place, has } => (
            "overwritten",
            format!("{place} runs setcap, which puts {has} on {path} in place of what it has"),
            Some(Mend::User),
        ),
        Cause::Cleared { place, command } => {
            ("cleared", format!("{place} runs '{command}', which takes the capabilities off {path}"), Some(Mend::User))
        }
        Cause::Link => {
            ("symbolic-link", format!("setcap(8) refuses symbolic links; the program itself is {path}"), patch(""))
        }
        Cause::NotPermitted => (
            "not-permitted",
            "the container lacks the capabilities for what is done in it as root".to_owned(),
            Some(Mend::User),
        ),
        Cause::ReadOnly { prefix } => (
            "read-only-prefix",
            format!(
                "the root file system cannot be written, and Kong writes its configuration into {prefix} when it starts"
            ),
            Some(Mend::Writable(prefix.clone())),
        ),
        Cause::Missing => (
            "not-executable",
            "what is to be executed is not there, is no program, or not one that its user may execute".to_owned(),
            None,
        ),
        Cause::Platform => ("windows", "capabilities of files are of Linux".to_owned(), None),
        Cause::Listen => {
            ("listen-value", "Kong refuses to start with a listen value that it does not understand".to_owned(), None)
        }
        Cause::User if container.run_as_non_root => (
            "user",
            "runAsNonRoot is checked against a number, and the image has a name or root".to_owned(),
            Some(Mend::User),
        ),
        Cause::User => (
            "user",
            "a user or group that is written by name has to be in /etc/passwd or /etc/group of the image".to_owned(),
            Some(Mend::User),
        ),
    }
}

/// `text` as one word of a shell.
fn shell_word(text: &str) -> String {
    match text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:@+,=%".contains(c)) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A name for the patched image, to be changed by the user.
fn destination(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((_, tag)) if !tag.is_empty() => format!("{name}-lowport"),
        _ => format!("{name}:lowport"),
    }
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn a_pasted_command_has_the_words_that_were_meant() {
        for (text, expected) in [
            ("registry.example.com:5000/kong:3.9@sha256:0", "registry.example.com:5000/kong:3.9@sha256:0"),
            ("/opt/my app", "'/opt/my app'"),
            ("a'$(b)", r"'a'\''$(b)'"),
        ] {
            assert_eq!(shell_word(text), expected);
        }
    }
}
