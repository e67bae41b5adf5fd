//! `capatch verify`.

use std::fmt::Write;

use serde::Serialize;

use super::output::{bytes, plural};
use super::{Common, bars, parse_reference};
use crate::error::{Error, Kind, Result, printable};
use crate::image;
use crate::oci::reference::Reference;
use crate::transport::Place;
use crate::validate::{self, Subject};

/// Re-derive the digests, sizes and diff IDs of an image, and prove that nothing undeclared changed
///
/// Exits with 5 if content does not match, with 8 if something differs from the base that the patch did not declare, or the
/// files of an image that may be for Linux could not be looked at.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image, in any place that capatch --help lists
    #[arg(value_parser = parse_reference)]
    image: Reference,
    /// Compare with the image that this one was made from: all files with all metadata, and the configs
    #[arg(long, value_name = "IMAGE", value_parser = parse_reference)]
    base: Option<Reference>,
    /// Take what is warned of for a finding too: a layer whose media type is not what its bytes are, capabilities that depend
    /// on the container engine
    #[arg(long)]
    strict: bool,
}

#[derive(Serialize)]
struct Report {
    image: String,
    base: Option<String>,
    ok: bool,
    #[serde(flatten)]
    verified: validate::Report,
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    let transports = common.transports()?;
    let progress = bars::bars(common);
    let reference = &arguments.image;
    let place = Place::of(reference, &transports)?;
    let root = image::resolve(&place, reference).await?;
    let base = match &arguments.base {
        None => None,
        Some(base) => {
            let place = Place::of(base, &transports)?;
            let root = image::resolve(&place, base).await?;
            Some((place, root))
        }
    };
    let base = base.as_ref().map(|(place, root)| Subject { place, root });
    let subject = Subject { place: &place, root: &root };
    let mut verified =
        validate::verify(subject, base, common.limits(), &progress).await.map_err(|e| e.context(reference))?;
    if arguments.strict {
        verified.findings.append(&mut verified.warnings);
    }
    verified.warnings.iter().for_each(|warning| tracing::warn!("{}", printable(warning)));
    let findings = verified.findings.len();
    let base = arguments.base.as_ref().map(Reference::to_string);
    let report = Report { image: reference.to_string(), base, ok: findings == 0, verified };
    common.output().result(&report, &text(&report))?;
    match findings {
        0 => Ok(()),
        _ => Err(Error::new(Kind::Findings, format!("{reference}: {findings} finding{}", plural(findings)))),
    }
}

fn text(report: &Report) -> String {
    let validate::Report { digest, manifests, blobs, bytes: size, images, differences, findings, .. } =
        &report.verified;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} {digest}", report.image);
    let (manifests, blobs) =
        (format!("{manifests} manifest{}", plural(*manifests)), format!("{blobs} blob{}", plural(*blobs)));
    let _ = writeln!(text, "{manifests} and {blobs} ({}) match their digests and sizes", bytes(*size));
    for image in images {
        let _ = writeln!(text, "{}", printable(&image.platform));
        for file in &image.capabilities {
            let _ = writeln!(text, "  caps     {} {}", printable(&file.path), file);
        }
        if let Some(layer) = &image.unreadable {
            let _ = writeln!(text, "  files    not looked at: {}", printable(&layer.to_string()));
        }
        changes(&mut text, &image.differences);
        if image.compared && image.differences.is_empty() {
            let _ = writeln!(text, "  identical with the base");
        }
    }
    if !differences.is_empty() {
        let _ = writeln!(text, "index");
        changes(&mut text, differences);
    }
    for finding in findings {
        let _ = writeln!(text, "FINDING: {}", printable(finding));
    }
    if findings.is_empty() && report.base.is_some() {
        let _ = writeln!(text, "nothing differs from the base but what the patch declares");
    }
    text
}

fn changes(text: &mut String, changes: &[validate::Change]) {
    for change in changes {
        let mark = if change.declared { "declared" } else { "CHANGED " };
        let _ = writeln!(text, "  {mark} {}", printable(&change.to_string()));
    }
}
