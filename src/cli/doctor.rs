//! `capatch doctor`.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::k8s::OFFICIAL;
use super::output::plural;
use super::patch::profiles;
use super::{Common, Opened, bars, explain, input, parse_platform, parse_reference};
use crate::doctor::manifest::{self, Found};
use crate::doctor::{self, Examination, Fate, Finding, Level, Options};
use crate::error::{Error, Kind, Result, printable};
use crate::image;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::profile::{PROFILES, Profile};
use crate::transport::blocking;

/// Tell whether an image will start and bind its ports, before anybody runs it
///
/// Reads the image, follows its start chain without executing anything, and says what the kernel will make of it as the
/// manifests run it, or in the usual ways. Exit code 8 if something breaks it. With --explain, says what an error in a log
/// means instead.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image, in any place that capatch --help lists
    #[arg(value_parser = parse_reference, required_unless_present = "explain")]
    image: Option<Reference>,
    /// Only these platforms
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', value_parser = parse_platform)]
    platform: Vec<Platform>,
    /// What to assume about the image
    #[arg(long, value_name = "NAME", default_value = PROFILES[0].name, value_parser = profiles())]
    profile: &'static Profile,
    /// The program that binds the ports, instead of the profile's
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
    /// Manifests that run it: Kubernetes objects, Compose files, values of Kong's Helm charts; - is standard input
    #[arg(short = 'f', long = "manifest", value_name = "FILE", num_args = 1..)]
    manifests: Vec<PathBuf>,
    /// Explain an error from a log instead: one line or many; - is standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["image", "platform", "file", "manifests"])]
    explain: Option<String>,
}

#[derive(Serialize)]
struct Report {
    image: String,
    digest: String,
    /// Each for one platform, or for several of which the same is true.
    images: Vec<Examined>,
}

#[derive(Serialize)]
struct Examined {
    platforms: Vec<String>,
    digests: Vec<String>,
    #[serde(flatten)]
    examination: Examination,
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    match (&arguments.image, &arguments.explain) {
        (_, Some(text)) => explain::run(text, common),
        (Some(image), None) => examine(image, arguments, common).await,
        (None, None) => Err(Error::usage("no image is named")),
    }
}

async fn examine(reference: &Reference, arguments: &Arguments, common: &Common) -> Result<()> {
    let progress = bars::bars(common);
    let Opened { place, root, tree, images } = Opened::new(reference, &arguments.platform, common).await?;
    let options = Options {
        profile: arguments.profile,
        file: arguments.file.clone(),
        image: reference.to_string(),
        limits: common.limits(),
    };
    let mut report =
        Report { image: reference.to_string(), digest: root.descriptor.digest.to_string(), images: Vec::new() };
    let manifests = match arguments.manifests.is_empty() {
        true => None,
        false => Some(Arc::new(found(reference, arguments, image::base_name(&root, &images)?).await?)),
    };
    let linux: Vec<_> = images.iter().filter(|image| image.platform.is_linux()).collect();
    if linux.is_empty() {
        return Err(Error::content("there is no Linux image in it").context(reference));
    }
    for image in linux {
        let examination = doctor::examine(&place, &tree, image, &options, manifests.as_ref(), &progress)
            .await
            .map_err(|e| e.context(&image.platform).context(reference))?;
        let (platform, digest) = (image.platform.to_string(), image.descriptor.digest.to_string());
        match report.images.iter_mut().find(|known| known.examination == examination) {
            Some(known) => {
                known.platforms.push(platform);
                known.digests.push(digest);
            }
            None => report.images.push(Examined { platforms: vec![platform], digests: vec![digest], examination }),
        }
    }
    common.output().result(&report, &text(&report))?;
    let findings = report.images.iter().flat_map(|image| &image.examination.findings);
    match findings.filter(|finding| finding.level == Level::Breaks).count() {
        0 => Ok(()),
        count => Err(Error::new(
            Kind::Findings,
            format!("{count} finding{} that break{} it", plural(count), if count == 1 { "s" } else { "" }),
        )
        .context(reference)),
    }
}

/// The containers of the image, or of what it was made from, in the manifests.
async fn found(image: &Reference, arguments: &Arguments, base: Option<String>) -> Result<Found> {
    let manifests = arguments.manifests.iter().map(|file| input::read_manifest(file)).collect::<Result<Vec<_>>>()?;
    let base: Option<Reference> = base.and_then(|base| base.parse().ok());
    let name = image.to_string();
    let is_registry = matches!(image, Reference::Registry { .. });
    let meant: Vec<Reference> = match is_registry {
        true => base.into_iter().chain([image.clone()]).collect(),
        // It has no name that a manifest could have: any that looks like its base is taken for it.
        false if base.is_some() => base.into_iter().collect(),
        false if arguments.profile.name != "kong" => arguments.profile.name.parse().into_iter().collect(),
        false => OFFICIAL.iter().filter_map(|name| name.parse().ok()).collect(),
    };
    let repository = move |one: &Reference| match one {
        Reference::Registry { repository, .. } if is_registry => repository.to_string(),
        Reference::Registry { repository, .. } => last(&repository.to_string()).to_owned(),
        other => other.with_target(None).to_string(),
    };
    let names: Vec<String> = meant.iter().map(&repository).collect();
    let is_image = move |text: &str| text.parse::<Reference>().is_ok_and(|one| names.contains(&repository(&one)));
    blocking(move || manifest::read(&manifests, &name, is_image)).await
}

fn last(repository: &str) -> &str {
    repository.rsplit('/').next().unwrap_or(repository)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail. Everything from the image is made printable, for it may drive a terminal.
    for Examined { platforms, examination, .. } in &report.images {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "{}: {}", printable(&platforms.join(", ")), printable(&examination.verdict));
        describe(&mut text, examination);
    }
    text
}

fn describe(text: &mut String, examination: &Examination) {
    let Examination { program, capabilities, start, containers, findings, .. } = examination;
    let capabilities = capabilities.as_deref().unwrap_or("no capabilities");
    let _ = writeln!(text, "  program  {} ({capabilities})", printable(program));
    for (at, step) in start.iter().enumerate() {
        let _ = writeln!(text, "  {:<8} {}", if at == 0 { "start" } else { "" }, printable(step));
    }
    text.push('\n');
    let width = containers.iter().map(|fate| fate.name.chars().count()).max().unwrap_or(0);
    for Fate { name, outcome, .. } in containers {
        let _ = writeln!(text, "  {:<width$}  {}", printable(name), printable(&outcome.brief()));
    }
    for Finding { code, level, place, what, why, fix } in findings {
        let level = match level {
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Breaks => "breaks",
        };
        let _ = writeln!(text, "\n{level}[{code}] {}\n  {}", printable(place), printable(what));
        let _ = writeln!(text, "  why: {}", printable(why));
        if let Some(fix) = fix {
            let _ = writeln!(text, "  fix:");
            for line in fix.lines() {
                let _ = writeln!(text, "    {}", printable(line));
            }
        }
    }
}
