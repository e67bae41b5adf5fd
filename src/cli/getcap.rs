//! `capatch getcap`.

use std::fmt::Write;

use serde::Serialize;

use super::{Common, Named, bars, parse_platform, parse_reference};
use crate::error::Result;
use crate::image;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::validate;

/// List the file capabilities inside an image, in the words of getcap(8)
///
/// Reads every layer of each platform and looks at the files as a container would see them.
#[derive(clap::Args)]
pub(super) struct Arguments {
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
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    let client = common.client()?;
    let Named { reference, place } = Named::new(&arguments.image, &client)?;
    let progress = bars::bars(common);
    let root = image::resolve(&place, &reference).await?;
    let context = |e: crate::error::Error| e.context(&reference);
    let tree = image::tree(&place, &root).await.map_err(context)?;
    let mut report =
        Report { image: reference.to_string(), digest: root.descriptor.digest.to_string(), images: vec![] };
    for image in image::images(&place, &tree, &arguments.platform).await.map_err(context)? {
        let context = |e: crate::error::Error| e.context(&image.platform).context(&reference);
        let files =
            validate::capabilities(&place, &image, arguments.path.as_deref(), &progress).await.map_err(context)?;
        let (platform, digest) = (image.platform.to_string(), image.descriptor.digest.to_string());
        report.images.push(Listing { platform, digest, files });
    }
    let several = report.images.len() > 1;
    let mut text = String::new();
    for listing in &report.images {
        // Writing to a String cannot fail.
        if several {
            let _ = writeln!(text, "{}:", listing.platform);
        }
        for file in &listing.files {
            let _ = writeln!(text, "{} {}", file.path, file.capabilities);
        }
    }
    common.output().result(&report, &text)
}
