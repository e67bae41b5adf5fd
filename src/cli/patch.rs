//! `capatch patch`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::copy::ForeignLayers;
use super::output::{Report, bytes, check_digestfile, moved, short, would_move, write_digestfile};
use super::{Common, bars, parse_platform, parse_reference, with_hint};
use crate::capability::FileCapabilities;
use crate::copy::Memory;
use crate::error::{Error, Result, printable};
use crate::oci::config::Port;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::patch::{self, Edit, FileChange, ImageChange, Options, Outcome, Plan, Route};
use crate::profile::{PROFILES, Profile};
use crate::transport::Place;

/// Put a file capability on a program inside an image, or take it away, and publish the result
///
/// The result is the source plus one layer, in which the program carries its capability; every other byte of it is the
/// source's. All platforms of an index are patched, each with its own program.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image to start from, in any place that capatch --help lists
    #[arg(value_parser = parse_reference)]
    source: Reference,
    /// Where the result goes, with a tag, in any of these places
    #[arg(value_parser = parse_reference)]
    destination: Reference,
    /// The capabilities, in the words of setcap(8) and cap_from_text(3) [default: the profile's, cap_net_bind_service=+ep]
    ///
    /// Names with commas between them, or `all`, then an operator and flags, such as cap_net_raw,cap_net_bind_service=+ep.
    /// = sets, + adds, - takes away. The flags are e (effective), i (inheritable) and p (permitted), in small letters; a file
    /// has one e for all. Clauses with spaces between them are read from left to right.
    #[arg(long, value_name = "TEXT", value_parser = parse_capabilities)]
    cap: Option<FileCapabilities>,
    /// Set exactly these capabilities instead of adding them to those that the file has
    #[arg(long)]
    replace_caps: bool,
    /// Take the capabilities away instead, as setcap -r does; exposes only the ports that are named
    #[arg(long, conflicts_with_all = ["cap", "replace_caps"])]
    remove_caps: bool,
    /// The program, instead of the profile's; may be repeated
    #[arg(long, value_name = "PATH")]
    file: Vec<String>,
    /// What to assume about the image
    #[arg(long, value_name = "NAME", default_value = PROFILES[0].name, value_parser = profiles())]
    profile: &'static Profile,
    /// Ports to expose beside those of the image [default: the profile's, such as 80/tcp and 443/tcp]
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = parse_port)]
    expose: Option<Vec<Port>>,
    /// Ports not to expose any more
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = parse_port)]
    unexpose: Vec<Port>,
    /// Bake the listen variable (KONG_PROXY_LISTEN): the image's own value with its ports made 80 and 443, or VALUE
    #[arg(long, value_name = "VALUE", num_args = 0..=1, require_equals = true)]
    listen: Option<Option<String>>,
    /// Set an environment variable in the config; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// Set a label in the config; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,
    /// Patch only these platforms, such as linux/amd64; the others stay as they are
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', value_parser = parse_platform)]
    platform: Vec<Platform>,
    #[command(flatten)]
    foreign_layers: ForeignLayers,
    /// Print what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace whatever the destination tag holds
    #[arg(long)]
    force: bool,
    /// Write the digest of the result into this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    let output = common.output().beside(&arguments.destination)?;
    let transports = common.transports()?;
    let (source, destination) = (&arguments.source, &arguments.destination);
    let options = options(arguments, common)?;
    let digestfile = arguments.digestfile.as_deref().filter(|_| !arguments.dry_run);
    check_digestfile(digestfile)?;
    let (from, to) = (Place::of(source, &transports)?, Place::of(destination, &transports)?.for_push(source));
    let route = Route { from: &from, source, to: &to, destination };
    let progress = bars::bars(common);
    let outcome = patch::apply(&route, &options, arguments.dry_run, &progress).await?;
    to.finish(&progress).await.map_err(|e| e.context(destination))?;

    let digest = match &outcome {
        Outcome::Unchanged { digest, .. } => digest,
        Outcome::Planned { plan, .. } | Outcome::Patched { plan, .. } => {
            plan.notes.iter().for_each(|note| output.say(&format!("note: {note}")));
            ForeignLayers::say(&plan.foreign_layers, output);
            for image in &plan.images {
                image
                    .warnings
                    .iter()
                    .for_each(|warning| output.say(&format!("warning: {}: {warning}", image.platform)));
            }
            &plan.digest
        }
    };
    // The image is published: its digest is told in every way that works, even if another one fails.
    let written = write_digestfile(digestfile, digest);
    let report = Report::new(&route, &outcome, &transports);
    output.result(&report, &text(&report))?;
    written
}

fn options(arguments: &Arguments, common: &Common) -> Result<Options> {
    let profile = arguments.profile;
    let capabilities = Edit::asked(profile, arguments.cap, arguments.replace_caps, arguments.remove_caps)?;
    let options = Options {
        profile,
        capabilities,
        files: arguments.file.clone(),
        expose: arguments.expose.clone().map_or_else(|| capabilities.exposed(profile), Ok)?,
        unexpose: arguments.unexpose.clone(),
        listen: arguments.listen.clone(),
        env: arguments.env.clone(),
        labels: arguments.label.clone(),
        platforms: arguments.platform.clone(),
        created: source_date_epoch()?,
        foreign_layers: arguments.foreign_layers.copied,
        force: arguments.force,
        jobs: usize::from(common.jobs),
        memory: Memory::default(),
        layers: patch::Cache::default(),
        limits: common.limits(),
    };
    options.check()?;
    Ok(options)
}

/// When a patched image was created, in seconds since 1970, if the environment says it.
pub(super) fn source_date_epoch() -> Result<Option<u64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let text = text.to_string_lossy();
    // Up to the year 9999, the last that RFC 3339 can write.
    let seconds = text.parse().ok().filter(|seconds| *seconds < 253_402_300_800_u64);
    seconds.map(Some).ok_or_else(|| {
        Error::usage(format!(
            "SOURCE_DATE_EPOCH is '{text}', which is no number of seconds from 1970 to the end of 9999"
        ))
        .hint("unset it, or set it to something like $(git log -1 --format=%ct)")
    })
}

fn text(report: &Report<'_, Outcome>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match report.outcome {
        Outcome::Unchanged { digest, .. } => {
            let _ = writeln!(text, "unchanged: this is that patch of {} already", report.source);
            writeln!(text, "{}", report.pinned(digest))
        }
        Outcome::Planned { plan, moves } => {
            describe(&mut text, plan);
            let _ = writeln!(text, "{}", would_move(moves));
            writeln!(text, "{}\nnothing was written: this is a dry run", report.pinned(&plan.digest))
        }
        Outcome::Patched { plan, moves, replaced } => {
            describe(&mut text, plan);
            if let Some(replaced) = replaced {
                let _ = writeln!(text, "replaced {replaced}");
            }
            let _ = writeln!(text, "{}", moved(moves, report.downloaded));
            writeln!(text, "{}", report.pinned(&plan.digest))
        }
    };
    text
}

fn describe(text: &mut String, plan: &Plan) {
    for ImageChange { platform, files, layer, exposed_ports, env, .. } in &plan.images {
        let _ = writeln!(text, "{}", printable(platform));
        for file in files {
            let FileChange { asked, path, layer, layer_digest, mode, uid, gid, size, .. } = file;
            let (size, from, path) = (bytes(*size), short(layer_digest), &printable(path));
            let _ = writeln!(text, "  file    {path}  ({mode} {uid}:{gid}, {size}, in layer {layer} {from})");
            if *asked != file.path {
                let _ = writeln!(text, "          found through the link {}", printable(asked));
            }
            let words = |capabilities: &Option<String>| capabilities.clone().unwrap_or_else(|| "none".to_owned());
            let (before, after) = (words(&file.capabilities_before), words(&file.capabilities));
            let _ = match file.changed {
                true => writeln!(text, "  caps    {before} → {after}"),
                false => writeln!(text, "  caps    {after} (already)"),
            };
        }
        if let Some(layer) = layer {
            let _ = writeln!(text, "  layer   {} ({})", short(&layer.digest), bytes(layer.size));
        }
        let _ = writeln!(text, "  ports   {}", printable(&exposed_ports.join(" ")));
        for variable in env {
            let _ = writeln!(text, "  env     {}", printable(variable));
        }
    }
}

fn parse_capabilities(text: &str) -> Result<FileCapabilities, String> {
    text.parse().map_err(with_hint)
}

pub(super) fn profiles() -> impl TypedValueParser<Value = &'static Profile> {
    let values = PROFILES.iter().map(|profile| PossibleValue::new(profile.name).help(profile.about));
    PossibleValuesParser::new(values).try_map(|name| Profile::named(&name))
}

fn parse_port(text: &str) -> Result<Port, String> {
    text.parse().map_err(with_hint)
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write NAME=VALUE".to_owned())
}
