//! `capatch sync`.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::output::bytes;
use super::patch::source_date_epoch;
use super::{Common, bars, input, parse_reference, with_hint};
use crate::error::{Error, Kind, Result, printable};
use crate::limits::{Depth, Size};
use crate::oci::reference::Reference;
use crate::sync::job::Job;
use crate::sync::report::{End, Report, Row};
use crate::sync::run::{self, Options};
use crate::sync::shard::Shard;
use crate::sync::spec::{SCHEMA, Spec};

/// Bytes that the file may have.
const MAX_FILE: u64 = 4 << 20;

/// Mirror and patch many images, as a YAML file says
///
/// What is up to date is skipped after a few small requests; nothing is remembered but in the destinations themselves.
/// One image that fails does not stop the others. Several machines share the work with --shard.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The file; - is standard input
    #[arg(required_unless_present = "schema")]
    file: Option<PathBuf>,
    /// Change nothing, and say what would change (exit code 8 if anything)
    #[arg(long)]
    check: bool,
    /// Begin nothing more after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Images that are worked on at the same time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    images: u8,
    /// Do only this part of the work: I/N, counted from 1, or auto in a Kubernetes Indexed Job or GitLab's parallel jobs
    #[arg(long, value_name = "I/N", value_parser = parse_shard)]
    shard: Option<ShardArgument>,
    /// How many parts there are, for --shard auto and --kubernetes-job
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    shards: Option<u32>,
    /// Print the JSON Schema of the file
    #[arg(long, conflicts_with_all = ["file", "check", "shard", "kubernetes_job"])]
    schema: bool,
    /// Print a Kubernetes Indexed Job that does this, with the file in a ConfigMap
    #[arg(long, requires_all = ["image", "shards"], conflicts_with_all = ["check", "shard"], help_heading = "Kubernetes")]
    kubernetes_job: bool,
    /// The image for the Job: its entry point is capatch, and it has CA certificates
    #[arg(long, value_name = "IMAGE", requires = "kubernetes_job", value_parser = parse_reference, help_heading = "Kubernetes")]
    image: Option<Reference>,
    /// The name of the Job and the ConfigMap
    #[arg(
        long,
        value_name = "NAME",
        requires = "kubernetes_job",
        default_value = "capatch-sync",
        help_heading = "Kubernetes"
    )]
    job_name: String,
    /// The Secret with the credentials, as kubectl create secret docker-registry makes it
    #[arg(
        long,
        value_name = "NAME",
        requires = "kubernetes_job",
        default_value = "capatch-credentials",
        help_heading = "Kubernetes"
    )]
    secret: String,
}

/// What `--shard` was given.
#[derive(Clone, Copy)]
enum ShardArgument {
    Auto,
    Given(Shard),
}

/// The report as data.
#[derive(Serialize)]
struct Data<'a> {
    check: bool,
    shard: String,
    #[serde(flatten)]
    report: &'a Report,
    /// Bytes that came over the network.
    downloaded: u64,
    /// HTTP requests.
    requests: u64,
}

pub(super) async fn run(arguments: &Arguments, common: &Common) -> Result<()> {
    let output = common.output();
    let Some(file) = arguments.file.as_ref().filter(|_| !arguments.schema) else {
        let schema: serde_json::Value =
            serde_json::from_str(SCHEMA).map_err(|e| Error::failed(format!("internal error: {e}")))?;
        return output.result(&schema, SCHEMA);
    };
    let name = file.display().to_string();
    let text = input::read_text(file, MAX_FILE, Kind::Usage)?;
    let spec = Spec::parse(&text, &name)?;
    if arguments.kubernetes_job {
        let manifest = job(arguments, common, &text, &spec)?;
        return output.result(&manifest, &manifest);
    }
    let shard = match (arguments.shard, arguments.shards) {
        (None, None) => Shard::ALL,
        (Some(ShardArgument::Auto), of) => Shard::from_environment(of, |name| std::env::var(name).ok())?,
        (Some(ShardArgument::Given(shard)), None) => shard,
        (_, Some(_)) => return Err(Error::usage("--shards goes with --shard auto").hint("--shard I/N says it already")),
    };
    let options = Options {
        shard,
        check: arguments.check,
        fail_fast: arguments.fail_fast,
        images: usize::from(arguments.images),
        jobs: usize::from(common.jobs),
        created: source_date_epoch()?,
    };
    let transports = common.transports_within(common.limits_or(spec.limits))?;
    let report = run::run(&spec, &transports, &options, &bars::bars(common)).await?;
    let traffic = transports.registries.traffic();
    let data = Data {
        check: options.check,
        shard: shard.to_string(),
        report: &report,
        downloaded: traffic.downloaded,
        requests: traffic.requests,
    };
    output.result(&data, &table(&data))?;
    report.error(options.check).map_or(Ok(()), Err)
}

fn job(arguments: &Arguments, common: &Common, text: &str, spec: &Spec) -> Result<String> {
    let files = [&common.ca_file, &common.cert_dir, &common.auth_file, &common.registries_conf, &common.hosts_dir];
    if files.into_iter().any(Option::is_some) {
        return Err(Error::usage("the pods have no files of this machine").hint(
            "leave --ca-file, --cert-dir, --auth-file, --registries-conf and --hosts-dir out, or edit the printed Job",
        ));
    }
    let (Some(image), Some(shards)) = (&arguments.image, arguments.shards) else {
        return Err(Error::usage("--kubernetes-job needs --image and --shards"));
    };
    let mut given = vec![
        format!("--images={}", arguments.images),
        format!("--jobs={}", common.jobs),
        format!("--max-wait={}", common.max_wait),
        format!("--lock-timeout={}", common.lock_timeout),
    ];
    given.extend(common.max_unpacked.map(|Size(size)| format!("--max-unpacked={size}")));
    given.extend(common.max_ratio.map(|ratio| format!("--max-ratio={ratio}")));
    given.extend(common.max_memory.map(|Size(size)| format!("--max-memory={size}")));
    given.extend(common.max_depth.map(|Depth(depth)| format!("--max-depth={depth}")));
    given.extend(common.plain_http.iter().map(|host| format!("--plain-http={host}")));
    given.extend(common.realm_host.iter().map(|host| format!("--realm-host={host}")));
    let job = Job { name: &arguments.job_name, image, shards, secret: &arguments.secret, arguments: &given };
    job.manifest(text, spec)
}

fn table(data: &Data<'_>) -> String {
    let Report { images, counts, moves } = data.report;
    let mut text = String::new();
    let width = images.iter().map(|row| row.destination.chars().count()).max().unwrap_or_default().min(80);
    // Writing to a String cannot fail.
    for Row { source, destination, end } in images {
        let line = match end {
            End::Unchanged { .. } => String::new(),
            End::Copied(change) | End::Patched(change) | End::WouldCopy(change) | End::WouldPatch(change) => {
                let moved = change.moves.map(|moves| bytes(moves.uploaded)).unwrap_or_default();
                format!("{moved:>10}  {}", change.why)
            }
            End::Failed { error } => format!("{:>10}  {error}", ""),
            End::Skipped => {
                format!("{:>10}  not tried, or not written, because of another one that failed: {source}", "")
            }
        };
        let line = format!("{:<11} {:<width$} {line}", end.name(), printable(destination));
        let _ = writeln!(text, "{}", line.trim_end());
        if let End::Failed { error } = end
            && let Some(hint) = error.hint_text()
        {
            let _ = writeln!(text, "            hint: {hint}");
        }
    }
    let would = if data.check { "would change" } else { "changed" };
    let skipped = if counts.skipped > 0 { format!(", {} skipped", counts.skipped) } else { String::new() };
    let _ =
        writeln!(text, "{} unchanged, {} {would}, {} failed{skipped}", counts.unchanged, counts.changed, counts.failed);
    let (up, mounted) = (bytes(moves.uploaded), bytes(moves.mounted));
    let (down, requests) = (bytes(data.downloaded), data.requests);
    let _ = if data.check {
        writeln!(text, "{requests} requests; nothing was written")
    } else {
        writeln!(text, "downloaded {down}, uploaded {up}, mounted {mounted}, {requests} requests")
    };
    text
}

fn parse_shard(text: &str) -> Result<ShardArgument, String> {
    match text {
        "auto" => Ok(ShardArgument::Auto),
        _ => text.parse().map(ShardArgument::Given).map_err(with_hint),
    }
}
