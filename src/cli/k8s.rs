//! `capatch k8s`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use similar::TextDiff;

use super::{Common, Opened, input, parse_reference};
use crate::error::{Error, Result};
use crate::image;
use crate::kubernetes::{self, Change, Edited, Manifest, Options, Outcome, Warning, Way};
use crate::oci::reference::Reference;
use crate::transport::blocking;

/// The official images, for manifests that get no other one.
pub(super) const OFFICIAL: [&str; 3] = ["kong", "kong/kong", "kong/kong-gateway"];

/// Edit Kubernetes manifests that run Kong so that it listens on ports 80 and 443 of every node
///
/// The image, DaemonSet instead of Deployment, listen variables, container ports, host network, DNS policy, security
/// context, Service. Everything else keeps its bytes. The result goes to stdout unless -w or --diff is given.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Manifests in YAML or JSON; - is standard input. What belongs together is given together
    #[arg(value_name = "FILE", required_unless_present = "helm")]
    files: Vec<PathBuf>,
    /// The patched image, as it shall stand in the manifests
    #[arg(long, value_name = "IMAGE", required_unless_present = "without_capability")]
    image: Option<String>,
    /// The image to be replaced, any tag of it if none is given; may be repeated [default: what --image was made from]
    #[arg(long, value_name = "IMAGE", value_parser = parse_reference)]
    old: Vec<Reference>,
    /// Rewrite KONG_STREAM_LISTEN too
    #[arg(long)]
    stream: bool,
    /// Keep and retarget the Service instead of removing it
    #[arg(long)]
    keep_service: bool,
    /// No patched image and no host network: let the pod have low ports by sysctl
    #[arg(long, conflicts_with = "image")]
    without_capability: bool,
    /// Print values for the current Kong chart instead
    #[arg(long, conflicts_with_all = ["files", "write", "diff"])]
    helm: bool,
    /// Write the files in place
    #[arg(short, long)]
    write: bool,
    /// Show a unified diff instead of the result
    #[arg(long)]
    diff: bool,
}

#[derive(Serialize)]
struct Data<'a> {
    files: Vec<File<'a>>,
    warnings: &'a [Warning],
    /// Containers that run Kong.
    containers: usize,
}

#[derive(Serialize)]
struct File<'a> {
    file: &'a str,
    changes: &'a [Change],
    /// Whether the file was written.
    written: bool,
    /// The new text, unless it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    let output = common.output();
    let way = match &arguments.image {
        Some(written) => Way::Capability { image: registry_image(written)?, written: written.clone() },
        None => Way::Sysctl,
    };
    let Arguments { stream, keep_service, .. } = *arguments;
    let mut options = Options { way, old: arguments.old.clone(), stream, keep_service };
    if arguments.helm {
        let values = kubernetes::values(&options)?;
        return output.result(&serde_json::json!({ "values": values }), &values);
    }
    if arguments.write && arguments.files.iter().any(|file| input::is_stdin(file)) {
        return Err(Error::usage("-w cannot write to standard input").hint("leave -w out: the result goes to stdout"));
    }
    let manifests = arguments.files.iter().map(|file| input::read_manifest(file)).collect::<Result<Vec<_>>>()?;
    if options.old.is_empty() {
        options.old = old_images(&manifests, &options, common).await?;
    }
    let outcome = rewrite(&manifests, &options).await?;
    if outcome.containers == 0 {
        let names: Vec<String> = options.old.iter().map(Reference::to_string).collect();
        if let Some(compose) = manifests.iter().find(|manifest| is_compose(&manifest.text)) {
            return Err(Error::not_found(format!(
                "{}: this is a Compose file, and no Kubernetes manifest",
                compose.name
            ))
            .hint(COMPOSE));
        }
        let template = manifests.iter().any(|manifest| manifest.text.contains("{{"));
        let hint = if template {
            "templates cannot be edited: render the chart first (helm template), or use --helm"
        } else {
            "name the image that is to be replaced with --old IMAGE"
        };
        return Err(Error::not_found(format!("no container that can be edited uses {}", names.join(" or "))).hint(hint));
    }
    if arguments.write {
        for (file, edited) in
            arguments.files.iter().zip(&outcome.files).filter(|(_, edited)| !edited.changes.is_empty())
        {
            replace(file, &edited.manifest.text)?;
        }
    }
    let text = match (arguments.diff, arguments.write) {
        (true, _) => manifests.iter().zip(&outcome.files).map(|(old, new)| diff(old, new)).collect(),
        (false, true) => String::new(),
        (false, false) => together(&outcome),
    };
    output.result(&data(arguments, &manifests, &outcome), &text)?;
    for edited in &outcome.files {
        for change in &edited.changes {
            output.say(&format!("{}:{}: {}", edited.manifest.name, change.line, change.what));
        }
        let name = &edited.manifest.name;
        if edited.changes.is_empty() {
            output.say(&format!("{name}: unchanged"));
        } else if edited.manifest.text.trim().is_empty() {
            output.say(&format!("{name}: nothing is left in it"));
        }
    }
    for Warning { place, message } in &outcome.warnings {
        output.say(&format!("warning: {place}: {message}"));
    }
    Ok(())
}

/// What k8s would do, by hand.
const COMPOSE: &str = "edit it by hand: the patched image, KONG_PROXY_LISTEN with ports 80 and 443, cap_add: [NET_BIND_SERVICE] \
                       if there is a cap_drop, network_mode: host without ports:, and no no-new-privileges in security_opt";

/// Whether the file has services of its own, and no object of Kubernetes.
fn is_compose(text: &str) -> bool {
    let has = |key: &str| text.lines().any(|line| line.starts_with(key));
    has("services:") && !has("kind:")
}

/// Beside the code that waits for signals.
async fn rewrite(manifests: &[Manifest], options: &Options) -> Result<Outcome> {
    let (manifests, options) = (manifests.to_vec(), options.clone());
    blocking(move || kubernetes::rewrite(&manifests, &options)).await
}

fn registry_image(text: &str) -> Result<Reference> {
    match text.parse::<Reference>()? {
        image @ Reference::Registry { .. } if !text.starts_with("docker:") => Ok(image),
        _ => Err(Error::usage(format!("'{text}' is no image that Kubernetes can pull"))
            .hint("write NAME:TAG, in a registry that the nodes reach")),
    }
}

/// What `--image` was made from, as it says itself.
async fn old_images(manifests: &[Manifest], options: &Options, common: &Common) -> Result<Vec<Reference>> {
    let Way::Capability { image, .. } = &options.way else {
        return OFFICIAL.iter().map(|name| name.parse()).collect();
    };
    let error = match base_of(image, common).await {
        Ok(Some(base)) => return Ok(vec![base.parse::<Reference>()?.with_target(None)]),
        Ok(None) => Error::not_found(format!("{image} does not say what it was made from")),
        Err(error) => error,
    };
    // A second run has nothing to ask for.
    let uses = |outcome: Outcome| outcome.containers > 0;
    if rewrite(manifests, options).await.is_ok_and(uses) {
        return Ok(vec![image.with_target(None)]);
    }
    Err(error.context("cannot tell which image is to be replaced").hint("name it with --old IMAGE, such as --old kong"))
}

async fn base_of(image: &Reference, common: &Common) -> Result<Option<String>> {
    let Opened { root, images, .. } = Opened::new(image, &[], common).await?;
    image::base_name(&root, &images)
}

/// Replaces a file whole or not at all; a link stays a link, and the mode stays.
fn replace(file: &Path, text: &str) -> Result<()> {
    let error = |e: &io::Error| Error::io(format!("cannot write {}", file.display()), e);
    let path = fs::canonicalize(file).map_err(|e| error(&e))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mode = fs::metadata(&path).map_err(|e| error(&e))?.permissions();
    let mut temporary = tempfile::Builder::new().prefix(".capatch-").tempfile_in(directory).map_err(|e| error(&e))?;
    temporary.write_all(text.as_bytes()).map_err(|e| error(&e))?;
    temporary.as_file().set_permissions(mode).map_err(|e| error(&e))?;
    temporary.as_file().sync_all().map_err(|e| error(&e))?;
    temporary.persist(&path).map_err(|e| error(&e.error))?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(|e| error(&e))
}

fn diff(old: &Manifest, new: &Edited) -> String {
    let name = old.name.trim_start_matches('/');
    let (a, b) = (format!("a/{name}"), format!("b/{name}"));
    TextDiff::from_lines(&old.text, &new.manifest.text).unified_diff().header(&a, &b).to_string()
}

/// All results as one stream of documents.
fn together(outcome: &Outcome) -> String {
    let mut all = String::new();
    for text in outcome.files.iter().map(|edited| &edited.manifest.text).filter(|text| !text.trim().is_empty()) {
        if !all.is_empty() {
            if !all.ends_with('\n') {
                all.push('\n');
            }
            if !text.starts_with("---") && !all.ends_with("---\n") {
                all.push_str("---\n");
            }
        }
        all.push_str(text);
    }
    all
}

fn data<'a>(arguments: &Arguments, manifests: &[Manifest], outcome: &'a Outcome) -> Data<'a> {
    let file = |(old, edited): (&Manifest, &'a Edited)| File {
        file: &edited.manifest.name,
        changes: &edited.changes,
        written: arguments.write && !edited.changes.is_empty(),
        result: (!arguments.write).then_some(edited.manifest.text.as_str()),
        diff: arguments.diff.then(|| diff(old, edited)),
    };
    let files = manifests.iter().zip(&outcome.files).map(file).collect();
    Data { files, warnings: &outcome.warnings, containers: outcome.containers }
}
