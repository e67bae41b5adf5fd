//! `capatch inspect`.

use std::fmt::Write;

use serde::Serialize;
use serde_json::value::RawValue;

use super::output::bytes;
use super::{Common, Opened, bars, parse_platform, parse_reference};
use crate::error::{Result, printable};
use crate::image::Image;
use crate::oci::descriptor::Descriptor;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::validate::{self, FileWithCapabilities};

/// Show platforms, layers, user, ports, start command, health check and file capabilities
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image, in any place that capatch --help lists
    #[arg(value_parser = parse_reference)]
    image: Reference,
    /// Only these platforms
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', value_parser = parse_platform)]
    platform: Vec<Platform>,
    /// Read no layer, and so list no file capabilities
    #[arg(long)]
    no_layers: bool,
}

#[derive(Serialize)]
struct Report {
    image: String,
    digest: String,
    media_type: String,
    images: Vec<Shown>,
    /// Entries of the index that are no container images: attestations and other artifacts.
    others: Vec<String>,
}

#[derive(Serialize)]
struct Shown {
    platform: String,
    digest: String,
    config: String,
    layers: Vec<Layer>,
    created: Option<String>,
    user: Option<String>,
    exposed_ports: Vec<String>,
    volumes: Vec<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Vec<String>,
    stop_signal: Option<String>,
    healthcheck: Option<Box<RawValue>>,
    /// None if not every layer was read.
    capabilities: Option<Vec<FileWithCapabilities>>,
}

#[derive(Serialize)]
struct Layer {
    digest: String,
    size: u64,
    media_type: String,
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    let reference = &arguments.image;
    let progress = bars::bars(common);
    let Opened { place, root, tree, images } = Opened::new(reference, &arguments.platform, common).await?;
    let is_other = |descriptor: &&Descriptor| !images.iter().any(|image| image.descriptor.digest == descriptor.digest);
    let mut report = Report {
        image: reference.to_string(),
        digest: root.descriptor.digest.to_string(),
        media_type: root.descriptor.media_type.clone(),
        images: Vec::new(),
        others: tree.manifests().into_iter().map(|(d, _)| d).filter(is_other).map(other).collect(),
    };
    report.others.extend(tree.absent().into_iter().map(|absent| format!("{} (not pulled)", other(absent))));
    for image in &images {
        let capabilities = match arguments.no_layers {
            true => None,
            false => {
                let found = validate::capabilities(&place, image, None, common.limits(), &progress).await;
                let found = found.map_err(|e| e.context(reference))?;
                let platform = &image.platform;
                if let Some(layer) = &found.unreadable {
                    let note = format!("{platform}: {layer}: the file capabilities are not known");
                    common.output().say(&format!("note: {}", printable(&note)));
                } else if let Some(layer) = found.left_out.first() {
                    common.output().say(&format!(
                        "note: the layer {layer} is marked as not to be distributed and was left out: the file capabilities are not known"
                    ));
                }
                (found.left_out.is_empty() && found.unreadable.is_none()).then_some(found.files)
            }
        };
        report.images.push(shown(image, capabilities).map_err(|e| e.context(reference))?);
    }
    common.output().result(&report, &text(&report))
}

fn other(descriptor: &Descriptor) -> String {
    match (descriptor.attests(), descriptor.platform()) {
        (Some(of), _) => format!("{} attests {of}", descriptor.digest),
        (None, Ok(Some(platform))) => format!("{} {platform}", descriptor.digest),
        (None, _) => descriptor.digest.to_string(),
    }
}

fn shown(image: &Image, capabilities: Option<Vec<FileWithCapabilities>>) -> Result<Shown> {
    let config = &image.config;
    let layer = |d: &Descriptor| Layer { digest: d.digest.to_string(), size: d.size, media_type: d.media_type.clone() };
    let raw = |text: &str| RawValue::from_string(text.to_owned()).ok();
    Ok(Shown {
        platform: image.platform.to_string(),
        digest: image.descriptor.digest.to_string(),
        config: image.manifest.config.digest.to_string(),
        layers: image.manifest.layers.iter().map(layer).collect(),
        created: config.created()?,
        user: config.run("User")?,
        exposed_ports: config.exposed_ports()?,
        volumes: config.volumes()?,
        entrypoint: config.run("Entrypoint")?,
        cmd: config.run("Cmd")?,
        env: config.env()?,
        stop_signal: config.run("StopSignal")?,
        healthcheck: config.run_object().raw("Healthcheck").and_then(raw),
        capabilities,
    })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail. Everything from the image is made printable, for it may drive a terminal.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<16}{}", printable(value));
    };
    line("image", &report.image);
    line("digest", &report.digest);
    line("type", &report.media_type);
    for image in &report.images {
        line("", "");
        line("platform", &image.platform);
        line("  digest", &image.digest);
        line("  config", &image.config);
        for (i, layer) in image.layers.iter().enumerate() {
            line(&format!("  layer {}", i + 1), &format!("{} {}", layer.digest, bytes(layer.size)));
        }
        line("  created", image.created.as_deref().unwrap_or("-"));
        line("  user", image.user.as_deref().filter(|user| !user.is_empty()).unwrap_or("root (not set)"));
        line("  ports", &or_dash(image.exposed_ports.join(" ")));
        line("  volumes", &or_dash(image.volumes.join(" ")));
        line("  entrypoint", &command(image.entrypoint.as_deref()));
        line("  cmd", &command(image.cmd.as_deref()));
        line("  stop signal", image.stop_signal.as_deref().unwrap_or("-"));
        line("  health check", image.healthcheck.as_ref().map_or("-", |raw| raw.get()));
        match &image.capabilities {
            None => line("  capabilities", "not read"),
            Some(files) if files.is_empty() => line("  capabilities", "none"),
            Some(files) => files.iter().for_each(|file| line("  capabilities", &format!("{} {file}", file.path))),
        }
    }
    for other in &report.others {
        line("other", other);
    }
    text
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn command(words: Option<&[String]>) -> String {
    words.map_or("-".to_owned(), |words| serde_json::to_string(words).unwrap_or_default())
}
