//! `capatch getcap`.

use std::fmt::Write;

use serde::Serialize;

use super::{Common, Opened, bars, parse_platform, parse_reference};
use crate::error::{Error, Result, printable};
use crate::image::UnreadableLayer;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::transport::FOREIGN;
use crate::validate;

/// List the file capabilities inside an image, in the words of getcap(8)
///
/// Reads every layer of each platform and looks at the files as a container would see them. If a layer that is marked as
/// not to be distributed is not there, the others are read, and the exit code is 3. An image with a layer that is no tar,
/// such as an encrypted one, is passed over; if it may be for Linux, the exit code is 5.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image, in any place that capatch --help lists
    #[arg(value_parser = parse_reference)]
    image: Reference,
    /// Only this file, or the files below this directory
    path: Option<String>,
    /// Only these platforms
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', value_parser = parse_platform)]
    platform: Vec<Platform>,
}

#[derive(Serialize)]
struct Report {
    image: String,
    digest: String,
    images: Vec<Listing>,
}

#[derive(Serialize)]
struct Listing {
    platform: String,
    digest: String,
    files: Vec<validate::FileWithCapabilities>,
    /// Layers that may not be distributed and are not there: what is in them is not in the list.
    left_out: Vec<Digest>,
    /// A layer that is no tar: if there is one, no file was looked at.
    unreadable: Option<UnreadableLayer>,
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    let reference = &arguments.image;
    let progress = bars::bars(common);
    let Opened { place, root, images, .. } = Opened::new(reference, &arguments.platform, common).await?;
    let mut report =
        Report { image: reference.to_string(), digest: root.descriptor.digest.to_string(), images: vec![] };
    let mut lacks = None;
    for image in images {
        let context = |e: Error| e.context(&image.platform).context(reference);
        let path = arguments.path.as_deref();
        let found = validate::capabilities(&place, &image, path, common.limits(), &progress).await.map_err(context)?;
        let validate::Capabilities { files, left_out, unreadable } = found;
        if let Some(layer) = &unreadable {
            let note = format!("{}: {layer}: its files were not looked at", image.platform);
            common.output().say(&format!("note: {}", printable(&note)));
            // No other system has file capabilities, and so the list lacks none.
            if image.may_run_on_linux() && lacks.is_none() {
                lacks = Some(context(layer.error()));
            }
        }
        let (platform, digest) = (image.platform.to_string(), image.descriptor.digest.to_string());
        report.images.push(Listing { platform, digest, files, left_out, unreadable });
    }
    let several = report.images.len() > 1;
    let mut text = String::new();
    for listing in &report.images {
        // Writing to a String cannot fail.
        if several {
            let _ = writeln!(text, "{}:", printable(&listing.platform));
        }
        for file in &listing.files {
            let _ = writeln!(text, "{} {}", printable(&file.path), file);
        }
    }
    common.output().result(&report, &text)?;
    // A list that may lack something is not taken for a whole one.
    let left_out = report.images.iter().find_map(|image| Some((image, image.left_out.first()?)));
    let lacks = lacks.or_else(|| {
        let (Listing { platform, .. }, layer) = left_out?;
        let what = format!("the layer {layer} for {platform} is marked as not to be distributed and was left out");
        Some(Error::not_found(format!("{reference}: {what}: its files are not in the list")).hint(FOREIGN))
    });
    lacks.map_or(Ok(()), |error| Err(error.reported()))
}
