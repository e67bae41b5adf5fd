//! `capatch copy`.

use std::fmt::Write;
use std::path::PathBuf;

use super::output::{Output, Report, check_digestfile, moved, plural, would_move, write_digestfile};
use super::{Common, bars, parse_platform, parse_reference};
use crate::copy::{self, Copied, Memory, Options, Outcome, Referrers, Route};
use crate::error::{Error, Result};
use crate::image;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::transport::{Place, Transports};

/// Copy an image from any place to any other, byte for byte
///
/// The digest stays the same: all platforms, attestations and unknown media types are taken as they are. What the
/// destination has is not sent, what another repository of its registry has is mounted, and a copy that was cut off or
/// killed goes on where it stopped. The tag moves last.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image to copy, in any place that capatch --help lists
    #[arg(value_parser = parse_reference)]
    source: Reference,
    /// Where it goes, with a tag, in any of these places
    #[arg(value_parser = parse_reference)]
    destination: Reference,
    /// Copy only these platforms, such as linux/amd64, under a new index: the digest changes
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', value_parser = parse_platform)]
    platform: Vec<Platform>,
    /// Copy signatures, SBOMs and whatever else refers to the image or to one of its platforms
    #[arg(long)]
    referrers: bool,
    /// Leave out of an archive the blobs that this image has: a delta, for where it is already
    #[arg(long, value_name = "IMAGE", value_parser = parse_reference)]
    since: Option<Reference>,
    #[command(flatten)]
    foreign_layers: ForeignLayers,
    /// Print what would move, and move nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace whatever the destination tag holds, and ask for every blob again
    #[arg(long)]
    force: bool,
    /// Write the digest of the result into this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
}

/// What becomes of layers that may not be distributed, for every command that copies.
#[derive(clap::Args)]
pub(super) struct ForeignLayers {
    /// Copy layers that are marked as not to be distributed too
    #[arg(long = "foreign-layers")]
    pub(super) copied: bool,
}

impl ForeignLayers {
    /// Says which were left out.
    pub(super) fn say(left_out: &[Digest], output: Output) {
        for layer in left_out {
            output.say(&format!(
                "note: the layer {layer} is marked as not to be distributed and was left out (--foreign-layers)"
            ));
        }
    }
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    let Arguments { source, destination, digestfile, .. } = arguments;
    let output = common.output().beside(destination)?;
    let transports = common.transports()?;
    let digestfile = digestfile.as_deref().filter(|_| !arguments.dry_run);
    check_digestfile(digestfile)?;
    let (from, to) = (Place::of(source, &transports)?, Place::of(destination, &transports)?.for_push(source));
    if let Some(since) = &arguments.since {
        leave_out(since, &to, &transports).await?;
    }
    let options = Options {
        platforms: arguments.platform.clone(),
        referrers: arguments.referrers,
        foreign_layers: arguments.foreign_layers.copied,
        replace: arguments.force,
        force: arguments.force,
        dry_run: arguments.dry_run,
        jobs: usize::from(common.jobs),
        memory: Memory::default(),
    };
    let route = Route { from: &from, source, to: &to, destination };
    let progress = bars::bars(common);
    let outcome = copy::image(&route, &options, &progress).await?;
    to.finish(&progress).await.map_err(|e| e.context(destination))?;
    let digest = match &outcome {
        Outcome::Unchanged { digest, .. } => digest,
        Outcome::Planned(copied) | Outcome::Copied(copied) => {
            if copied.digest != copied.source_digest {
                output.say(&format!(
                    "note: with some of the platforms only, the digest is another one than that of the source, {}",
                    copied.source_digest
                ));
            }
            ForeignLayers::say(&copied.foreign_layers, output);
            &copied.digest
        }
    };
    // The image is published: its digest is told in every way that works, even if another one fails.
    let written = write_digestfile(digestfile, digest);
    let report = Report::new(&route, &outcome, &transports);
    output.result(&report, &text(&report))?;
    written
}

/// Makes the archive `to` a delta.
async fn leave_out(since: &Reference, to: &Place, transports: &Transports) -> Result<()> {
    let Place::Archive(archive) = to else {
        return Err(Error::usage("--since is for archives: other places are asked for what they have")
            .hint("name an oci-archive: as the destination, or leave --since out"));
    };
    let place = Place::of(since, transports)?;
    let root = image::resolve(&place, since).await?;
    let tree = image::tree(&place, &root).await.map_err(|e| e.context(since))?;
    // A path of this machine says nothing where the archive is read.
    let digest = &root.descriptor.digest;
    let name = since.name().map_or(digest.to_string(), |(repository, _)| format!("{repository}@{digest}"));
    archive.since(copy::blobs_of(&tree).into_iter().map(|blob| blob.digest).collect(), name);
    Ok(())
}

fn text(report: &Report<'_, Outcome>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match report.outcome {
        Outcome::Unchanged { digest, referrers } => {
            let _ = writeln!(text, "unchanged: it is there already");
            list(&mut text, referrers);
            writeln!(text, "{}", report.pinned(digest))
        }
        Outcome::Planned(copied) => {
            describe(&mut text, copied);
            let _ = writeln!(text, "{}", would_move(&copied.moves));
            writeln!(text, "{}\nnothing was written: this is a dry run", report.pinned(&copied.digest))
        }
        Outcome::Copied(copied) => {
            describe(&mut text, copied);
            if let Some(replaced) = &copied.replaced {
                let _ = writeln!(text, "replaced {replaced}");
            }
            let _ = writeln!(text, "{}", moved(&copied.moves, report.downloaded));
            writeln!(text, "{}", report.pinned(&copied.digest))
        }
    };
    text
}

fn describe(text: &mut String, copied: &Copied) {
    let _ = writeln!(text, "{} manifest{}", copied.manifests, plural(copied.manifests));
    list(text, &copied.referrers);
}

fn list(text: &mut String, referrers: &Referrers) {
    for referrer in &referrers.manifests {
        let kind = crate::error::printable(referrer.artifact_type.as_deref().unwrap_or("of no type"));
        let _ = writeln!(text, "  referrer {} {kind}", referrer.digest);
    }
    for tag in &referrers.tags {
        let _ = writeln!(text, "  tag      {tag}");
    }
}
