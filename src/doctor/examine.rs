//! The whole examination of one image.

use std::sync::Arc;

use serde::Serialize;

use super::container::{Container, Role, Variable};
use super::facts::{Facts, Listen};
use super::files::{Files, ReadLayer};
use super::judge::{Judged, LOW_PORTS, judge};
use super::manifest::{Detail, Found};
use super::outcome::Outcome;
use super::start::{Action, End, Run, Step};
use super::{Finding, Level, checks, findings, pod_checks, provenance, ways};
use crate::error::{Error, Result};
use crate::image::{self, Image, Node};
use crate::kong::ports::{UNPRIVILEGED, low_ports};
use crate::limits::Limits;
use crate::oci::config::ImageConfig;
use crate::oci::platform::Platform;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::transport::{Place, blocking, retried};

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// What we know about the program.
    pub profile: &'static Profile,
    /// The program, instead of the profile's.
    pub file: Option<String>,
    /// The image as the user wrote it, for what is to be typed.
    pub image: String,
    /// What the image may take up.
    pub limits: Limits,
}

/// What was found out about one image, for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// In one sentence, about the first of `containers`, or the first of them that does not work.
    pub verdict: String,
    /// The program that binds the ports: its real path.
    pub program: String,
    /// Its capabilities in the words of getcap(8), if it has some that can be read.
    pub capabilities: Option<String>,
    /// `USER` of the image; empty if it has none.
    pub user: String,
    /// Where it listens by itself.
    pub listen: Listen,
    /// What is executed one after the other, as far as it matters.
    pub start: Vec<String>,
    /// The containers that were asked for, or the standard ways to run it.
    pub containers: Vec<Fate>,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
}

/// What becomes of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// What it is called.
    pub name: String,
    /// `FILE:LINE`, if a file says it.
    pub place: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The same in a few words.
    pub words: String,
}

/// Examines `image`, which was read from `place` and is part of `tree`; as `manifests` run it, or in the standard ways.
///
/// # Errors
/// The program is not in the image; a layer cannot be read or was refused; nonsense in the config.
pub async fn examine(
    place: &Place,
    tree: &Node,
    image: &Image,
    options: &Options,
    manifests: Option<&Arc<Found>>,
    progress: &Arc<dyn Progress>,
) -> Result<Examination> {
    let (subjects, place, source, options) = (place.clone(), place.clone(), image.clone(), options.clone());
    let (manifests, progress) = (manifests.cloned(), progress.clone());
    let mut examination = blocking(move || {
        let layers = source.layers()?;
        let descriptors: Vec<_> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let read: ReadLayer<'_> = Box::new(move |layer, scan| {
            let descriptor =
                descriptors.get(layer).ok_or_else(|| Error::failed("internal error: there is no such layer"))?;
            retried(|| image::read_layer(&place, descriptor, &progress, &mut *scan))
        });
        let mut files = Files::new(layers, options.limits, read);
        examine_files(&mut files, &source.config, &source.platform, &options, manifests.as_deref())
    })
    .await?;
    examination.findings.extend(provenance::attestations(tree, image));
    examination.findings.extend(provenance::referrers(&subjects, tree, image).await);
    examination.findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    Ok(examination)
}

fn examine_files(
    files: &mut Files<'_>,
    config: &ImageConfig,
    platform: &Platform,
    options: &Options,
    manifests: Option<&Found>,
) -> Result<Examination> {
    let facts = Facts::read(files, config, platform, options.profile, options.file.as_deref())?;
    let standard = manifests.is_none();
    let containers = manifests.map_or_else(ways::standard, |found| found.containers.clone());
    let mut found = Vec::new();
    let mut fates = Vec::new();
    let mut bad = None;
    let mut start = Vec::new();
    let mut followed = Vec::new();
    for (at, container) in containers.into_iter().enumerate() {
        let container = if standard { with_low_ports(&facts, container) } else { container };
        let judged = judge(&facts, files, &mut followed, &container)?;
        if at == 0 {
            start = judged.runs.first().map(|run| words(run, &facts.target.path)).unwrap_or_default();
        }
        // Of the standard ways only the first is what people are taken to want.
        if !standard || at == 0 {
            let detail = manifests.and_then(|found| found.details.get(at));
            let findings = of_container(&facts, options, &container, detail, &judged);
            let reasons = manifests.map(|found| found.reasons(at)).unwrap_or_default();
            found.extend(findings.into_iter().map(|finding| with_reason(finding, &reasons)));
        }
        // What only prepares or works may end.
        let may_end = container.role != Role::Main && matches!(judged.outcome, Outcome::Ends { .. });
        if bad.is_none() && judged.outcome.is_bad() && !may_end {
            bad = Some(at);
        }
        let Container { name, place, .. } = container;
        fates.push(Fate { name, place, words: judged.outcome.to_string(), outcome: judged.outcome });
    }
    let mut all = found;
    let mut said = Vec::new();
    if let Some(manifests) = manifests {
        said = of_manifests(&facts, options, manifests, &all);
        all.extend(said.iter().cloned());
    }
    let image = checks::image(&facts, files)?;
    all.extend(
        image.into_iter().filter(|finding| !manifests.is_some_and(|found| is_settled(finding, &found.containers))),
    );
    let mut unique: Vec<Finding> = Vec::new();
    for finding in all {
        if !unique
            .iter()
            .any(|known| (known.code, &known.place, &known.what) == (finding.code, &finding.place, &finding.what))
        {
            unique.push(finding);
        }
    }
    Ok(Examination {
        verdict: verdict(&fates, bad.filter(|_| !standard), standard, &said),
        program: facts.path(),
        capabilities: facts.capabilities.as_ref().and_then(|read| read.as_ref().ok()).map(ToString::to_string),
        user: facts.user.clone(),
        listen: facts.listen(&facts.env),
        start,
        containers: fates,
        findings: unique,
    })
}

/// The verdict is about the first of the standard ways; of containers that somebody wrote, about the first that fails, or
/// that serves.
fn verdict(fates: &[Fate], bad: Option<usize>, standard: bool, said: &[Finding]) -> String {
    let bad = bad.and_then(|at| fates.get(at));
    let serves = fates.iter().find(|fate| fate.outcome.serves()).filter(|_| !standard);
    let about = bad.or(serves).or(fates.first());
    let breaks = said.iter().find(|finding| finding.level == Level::Breaks);
    if let (None, Some(finding)) = (bad, breaks) {
        return format!("{}: {}", finding.place, finding.what);
    }
    match about {
        Some(Fate { outcome: Outcome::NotNeeded { .. }, words, .. }) => {
            format!("the patch is not needed here: it {words}")
        }
        Some(fate) if standard || fates.len() == 1 => fate.words.clone(),
        Some(fate) => format!("{}: {}", fate.name, fate.words),
        None => "nothing to run".to_owned(),
    }
}

/// What is wrong with a container, with what in its manifest makes it so and what mends it there.
fn with_reason(finding: Finding, reasons: &[Finding]) -> Finding {
    match reasons.iter().find(|reason| reason.code == finding.code) {
        Some(Finding { why, fix, .. }) => Finding { why: why.clone(), fix: fix.clone().or(finding.fix), ..finding },
        None => finding,
    }
}

/// Whether a note about the image is answered by all `containers` that run it.
fn is_settled(finding: &Finding, containers: &[Container]) -> bool {
    let mut serving = containers.iter().filter(|container| container.role == Role::Main);
    match finding.code {
        "writable" => containers.iter().all(|container| container.read_only),
        "named-user" => containers.iter().all(|container| container.user.is_some()),
        "listen-high" => serving.all(|container| container.env.iter().any(|variable| variable.name == finding.place)),
        _ => false,
    }
}

/// What is said about manifests beside what becomes of their containers.
fn of_manifests(facts: &Facts, options: &Options, manifests: &Found, known: &[Finding]) -> Vec<Finding> {
    let known = |code| known.iter().any(|finding| finding.code == code);
    let kong = pod_checks::Facts {
        version: facts.version.as_ref(),
        env: &facts.env,
        user: Some(&facts.user).filter(|user| !user.is_empty()).map(String::as_str),
        image: &options.image,
    };
    let mut findings = manifests.findings.clone();
    findings.extend(pod_checks::check(manifests, &kong));
    // The start script says so itself.
    findings.retain(|finding| finding.code != "capability-replaced" || !known("overwritten"));
    findings
}

/// The question is whether it could have low ports: the container says that it wants them.
fn with_low_ports(facts: &Facts, mut container: Container) -> Container {
    let listen = facts.listen(&facts.env);
    if let (Some(variable), None) = (&listen.variable, &listen.error)
        && !listen.ports.iter().any(|port| *port < UNPRIVILEGED)
    {
        let value = low_ports(&listen.value).unwrap_or_else(|_| LOW_PORTS.to_owned());
        container.env.push(Variable { place: container.place.clone(), name: variable.clone(), value: Some(value) });
    }
    container
}

fn of_container(
    facts: &Facts,
    options: &Options,
    container: &Container,
    detail: Option<&Detail>,
    judged: &Judged,
) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    found.extend(findings::of_outcome(facts, &options.image, container, detail, &judged.outcome));
    for (command, outcome) in &judged.broken {
        if let Some(finding) = findings::of_outcome(facts, &options.image, container, detail, outcome) {
            let what = format!("{}: {}", command.what, finding.what);
            found.push(Finding { what, place: command.place.clone(), ..finding });
        }
    }
    for (place, why) in judged.runs.iter().flat_map(|run| not_followed(&run.steps)) {
        found.push(Finding {
            code: "not-followed",
            level: Level::Note,
            what: "what another process does there is not looked into".to_owned(),
            place,
            why,
            fix: None,
        });
    }
    if judged.more {
        found.push(Finding {
            code: "more-ways",
            level: Level::Note,
            place: if container.image.is_empty() { "ENTRYPOINT".to_owned() } else { container.place.clone() },
            what: format!("only the first {} ways through its start script are looked into", judged.runs.len()),
            why: "each condition that is known only when it runs doubles them".to_owned(),
            fix: None,
        });
    }
    if let Some(place) = &judged.may_end {
        found.push(Finding {
            code: "may-end",
            level: Level::Note,
            place: place.clone(),
            what: "its start script may end there before the program starts".to_owned(),
            why: "that depends on files, programs or variables that are there only when it runs".to_owned(),
            fix: None,
        });
    }
    found
}

/// Where other processes cannot be followed, and why.
fn not_followed(steps: &[Step]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for step in steps {
        if let Action::Child { steps, end } = &step.action {
            found.extend(not_followed(steps));
            if let End::Unknown { place, why } = end {
                found.push((place.clone(), why.clone()));
            }
        }
    }
    found
}

/// The steps that matter, for people.
fn words(run: &Run, target: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    tell(&run.steps, target, "", &mut lines);
    lines.push(match &run.end {
        End::Runs { path, serves: true } => format!("{path} serves"),
        End::Runs { path, serves: false } => format!("{path} runs"),
        End::Exits { place, .. } => format!("{place} ends"),
        End::Fails { place, error } => format!("{place} fails: {error}"),
        End::Unknown { place, why } => format!("{place}: {why}"),
    });
    lines
}

fn tell(steps: &[Step], target: &[u8], indent: &str, lines: &mut Vec<String>) {
    for step in steps {
        let place = &step.place;
        match &step.action {
            Action::Exec { shown, .. } => lines.push(format!("{indent}{place} executes {shown}")),
            Action::User(user) => {
                lines.push(format!(
                    "{indent}{place} becomes user {}",
                    user.name.clone().unwrap_or_else(|| user.uid.to_string())
                ));
            }
            Action::Child { steps, .. } => {
                let executes =
                    |step: &Step| matches!(&step.action, Action::Exec { program, .. } if program.path == target);
                if steps.iter().any(executes) {
                    lines.push(format!("{indent}{place} runs the program in another process"));
                }
            }
            Action::SetCapabilities(text) => {
                let text = text.clone().unwrap_or_else(|| "-r".to_owned());
                lines.push(format!("{indent}{place} runs setcap {}", super::start::shown(&text)));
            }
            Action::ChangeOtherOwner { .. } => {}
            Action::SetCapabilitiesOfLink(file) => {
                lines.push(format!("{indent}{place} runs setcap on the link {file}"))
            }
            Action::ChangeOwner { command, .. } | Action::Write(command) => {
                lines.push(format!("{indent}{place} runs {command}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::start::tests::{files, layer};

    /// Layers are the bytes of an image: each is read once for all that is asked, or once more for what scripts ask.
    #[test]
    fn layers_are_read_once() {
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{
            "User":"kong","Env":["PATH=/usr/local/bin:/usr/bin:/bin","KONG_VERSION=3.9.3"],"Entrypoint":["/entry.sh"],
            "Cmd":["kong","docker-start"],"Healthcheck":{"Test":["CMD","kong","health"]}}}"#;
        let config = ImageConfig::parse(config.as_bytes()).unwrap();
        let platform = config.platform().unwrap();
        let profile = Profile::named("kong").unwrap();
        let options = Options { profile, file: None, image: "kong:3.9".to_owned(), limits: Limits::default() };
        for (script, times) in [
            ("#!/bin/sh\nset -e\nkong prepare\nexec /usr/local/openresty/nginx/sbin/nginx\n", 1),
            ("#!/usr/bin/env bash\nmkdir -p /x\nkong prepare\n. /opt/x.sh\nexec \"$BIN\"\n", 2),
        ] {
            let layer = layer(&[("/entry.sh", script), ("/opt/x.sh", "BIN=nginx\n")]);
            let mut files = files(&layer);
            let examination = examine_files(&mut files, &config, &platform, &options, None).unwrap();
            let expected = "starts, and cannot bind 80 and 443: bind() to 0.0.0.0:80 failed (13: Permission denied)";
            assert_eq!((examination.verdict.as_str(), files.scans()), (expected, vec![times]));
        }
    }
}
