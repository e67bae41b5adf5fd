//! The command line: arguments, one library call for each command, and its report. The only module that prints.
//!
//! stdout is data, stderr is talk. Exit codes: see [`crate::error::Kind`].

mod bars;
mod bug;
mod copy;
mod doctor;
mod explain;
mod getcap;
mod input;
mod inspect;
mod k8s;
mod output;
mod patch;
mod sync;
mod verify;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

pub use self::bug::report_panic;
use self::output::{Output, given};
use crate::error::{Error, Kind, Result};
use crate::image::{self, Image, Node};
use crate::limits::{Depth, Limits, Size};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::transport::registry::{Client, Options};
use crate::transport::{LOCK_TIMEOUT, Place, Root, Transports, containerd};

/// A file would become larger than `ulimit -f` allows: the number everywhere but on MIPS and PA-RISC (signal(7)).
const SIGXFSZ: i32 = 25;

const ABOUT: &str =
    "Set a Linux file capability on a program inside an OCI image that already exists, and publish the result.";

const AFTER: &str = "\
An IMAGE is one of
  NAME[:TAG|@DIGEST], docker://NAME...  in a registry
  oci:DIR[:TAG|@DIGEST]                 in an OCI image layout
  oci-archive:FILE[:TAG], docker-archive:FILE[:NAME]
                                        in a tar, plain or compressed; FILE may be - for a pipe
  containerd:NAME[:TAG|@DIGEST]         in containerd (--containerd-namespace, --containerd-address)
  docker-daemon:NAME[:TAG]              in a Docker engine

Exit codes:
  0  done, or already so         5  content did not verify, or was refused
  1  failed                      6  rate limited
  2  usage                       7  the destination holds something else
  3  not found                   8  findings
  4  denied                    130  interrupted (143 terminated)";

/// The whole command line.
#[derive(Parser)]
#[command(name = "capatch", version, max_term_width = 110, about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    Patch(Box<patch::Arguments>),
    Copy(copy::Arguments),
    Sync(Box<sync::Arguments>),
    Getcap(getcap::Arguments),
    Verify(verify::Arguments),
    Inspect(inspect::Arguments),
    Doctor(Box<doctor::Arguments>),
    K8s(Box<k8s::Arguments>),
}

/// What every command takes.
#[derive(Args)]
struct Common {
    /// Print JSON instead of text
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(short, long, global = true, help_heading = "Output")]
    quiet: bool,
    /// Say more; twice: every request
    #[arg(short, long, global = true, help_heading = "Output", action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Speak plain http with this registry; loopback registries do anyway
    #[arg(long, global = true, value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = parse_host, help_heading = "Registries")]
    plain_http: Vec<String>,
    /// Trust these certificate authorities too (PEM)
    #[arg(long, global = true, value_name = "FILE", help_heading = "Registries")]
    ca_file: Option<PathBuf>,
    /// Directory of HOST[:PORT]/{*.crt,*.cert,*.key} [default: certs.d of containers and docker]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Registries")]
    cert_dir: Option<PathBuf>,
    /// Read credentials from this file only [default: those of docker and podman]
    #[arg(long, alias = "authfile", global = true, value_name = "FILE", help_heading = "Registries")]
    auth_file: Option<PathBuf>,
    /// Read this registries.conf only [default: those of containers-registries.conf(5)]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Registries")]
    registries_conf: Option<PathBuf>,
    /// Directory of HOST[:PORT]/hosts.toml [default: /etc/containerd/certs.d]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Registries")]
    hosts_dir: Option<PathBuf>,
    /// Let this token service have the credentials of a registry elsewhere
    #[arg(long, global = true, value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = parse_host, help_heading = "Registries")]
    realm_host: Vec<String>,
    /// How long to put up with a registry's rate limit, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60, help_heading = "Registries")]
    max_wait: u64,
    /// Blobs that move at the same time, to or from one host
    #[arg(long, global = true, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64), help_heading = "Registries")]
    jobs: u8,
    /// What one layer, or a compressed archive, may unpack to [default: 64GiB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size, help_heading = "Limits")]
    max_unpacked: Option<Size>,
    /// How many times its size a layer may unpack to [default: 2000]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Limits")]
    max_ratio: Option<u64>,
    /// Memory for one image; manifests, lists of files and windows of zstd have shares of it [default: 128MiB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size, help_heading = "Limits")]
    max_memory: Option<Size>,
    /// How deep indexes may be nested, 1 to 64 [default: 8]
    #[arg(long, global = true, value_name = "N", value_parser = parse_depth, help_heading = "Limits")]
    max_depth: Option<Depth>,
    /// How long to wait for another run that writes the same layout or archive, in seconds; 0 is not at all
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = LOCK_TIMEOUT.as_secs(), help_heading = "Layouts and archives")]
    lock_timeout: u64,
    /// The socket of containerd, for containerd:NAME [default: CONTAINERD_ADDRESS or /run/containerd/containerd.sock]
    #[arg(long, global = true, value_name = "SOCKET", help_heading = "Engines")]
    containerd_address: Option<PathBuf>,
    /// The namespace in containerd; Kubernetes uses k8s.io [default: CONTAINERD_NAMESPACE or default]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Engines")]
    containerd_namespace: Option<String>,
    /// Whose unfinished uploads are cancelled at the end.
    #[arg(skip)]
    registries: OnceLock<Client>,
}

/// An environment variable; an empty one is none.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

impl Common {
    fn transports(&self) -> Result<Transports> {
        self.transports_within(self.limits())
    }

    fn transports_within(&self, limits: Limits) -> Result<Transports> {
        let registries = Client::new(Options {
            plain_http: self.plain_http.clone(),
            ca_file: self.ca_file.clone(),
            cert_dir: self.cert_dir.clone(),
            auth_file: self.auth_file.clone(),
            registries_conf: self.registries_conf.clone(),
            hosts_dir: self.hosts_dir.clone(),
            realm_hosts: self.realm_host.clone(),
            max_wait: Duration::from_secs(self.max_wait),
            jobs: self.jobs.into(),
            journal_dir: journal_dir(),
            limits,
            ..Options::default()
        })?;
        let _ = self.registries.set(registries.clone());
        let address = self.containerd_address.clone().or_else(|| variable("CONTAINERD_ADDRESS").map(PathBuf::from));
        let namespace = self.containerd_namespace.clone();
        let containerd = containerd::Options {
            address: address.unwrap_or_else(|| PathBuf::from("/run/containerd/containerd.sock")),
            namespace: namespace
                .or_else(|| variable("CONTAINERD_NAMESPACE")?.into_string().ok())
                .unwrap_or_else(|| "default".to_owned()),
        };
        let docker = std::env::var("DOCKER_HOST").unwrap_or_default();
        let lock_timeout = Duration::from_secs(self.lock_timeout);
        Ok(Transports { registries, containerd, docker, limits, lock_timeout })
    }

    fn limits(&self) -> Limits {
        self.limits_or(Limits::default())
    }

    /// `limits`, with what the command line says instead.
    fn limits_or(&self, limits: Limits) -> Limits {
        Limits {
            unpacked: self.max_unpacked.map_or(limits.unpacked, |Size(size)| size),
            ratio: self.max_ratio.unwrap_or(limits.ratio),
            memory: self.max_memory.map_or(limits.memory, |Size(size)| size),
            depth: self.max_depth.map_or(limits.depth, |Depth(depth)| depth),
        }
    }

    fn output(&self) -> Output {
        Output { json: self.json, quiet: self.quiet, piped: false }
    }
}

/// Where unfinished uploads are remembered (XDG Base Directory Specification, "state").
fn journal_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("capatch/uploads"))
}

/// Reads the command line; what it asks to be printed (help, version, a mistake) is printed here.
pub fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|mut error| {
        if error.kind() == ErrorKind::UnknownArgument && given("--listen") {
            let tip = "a value goes behind an equals sign: --listen=VALUE";
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
        // A login in a reference is refused; its password is not repeated.
        let login = |value: &str| {
            value.split_once('@').map(|(_, rest)| rest).filter(|rest| rest.contains('/')).map(str::to_owned)
        };
        if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
            && let Some(rest) = login(value)
        {
            error.insert(ContextKind::InvalidValue, ContextValue::String(format!("***@{rest}")));
        }
        let printed = error.print();
        if !error.use_stderr() {
            return match output::written(printed) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    Output { json: given("--json"), quiet: false, piped: false }.error(&error);
                    ExitCode::from(error.kind().exit_code())
                }
            };
        }
        if given("--json") {
            let text = error.render().to_string();
            let words: Vec<&str> = text.split("\n\n").next().unwrap_or_default().split_whitespace().collect();
            output::error_as_data(&Error::usage(words.join(" ").trim_start_matches("error: ")));
        }
        ExitCode::from(Kind::Usage.exit_code())
    })
}

/// Does what the command line says.
pub fn run(arguments: &Arguments) -> Result<()> {
    let common = &arguments.common;
    let level = match common.verbose {
        _ if common.quiet => "error",
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::new(format!("capatch={level}"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let _ = log.without_time().with_target(false).try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        // More than all --jobs need, so that a thread is waited for only if the system gives none.
        .max_blocking_threads(4096)
        .build()
        .map_err(|e| Error::io("cannot start", &e))?;
    let result = runtime.block_on(async {
        // Else it ends the process; once there is a handler, writing fails instead (signal(7), setrlimit(2); faults.md F11).
        let _ = signal(SignalKind::from_raw(SIGXFSZ));
        let work = async {
            match &arguments.command {
                Command::Patch(command) => patch::run(command, common).await,
                Command::Copy(command) => copy::run(command, common).await,
                Command::Sync(command) => sync::run(command, common).await,
                Command::Getcap(command) => getcap::run(command, common).await,
                Command::Verify(command) => verify::run(command, common).await,
                Command::Inspect(command) => inspect::run(command, common).await,
                Command::Doctor(command) => doctor::run(command, common).await,
                Command::K8s(command) => k8s::run(command, common).await,
            }
        };
        tokio::select! {
            result = work => result,
            error = stopped() => Err(error),
        }
    });
    wind_up(runtime, common.registries.get().cloned());
    result
}

/// Ends what still works. There is time to cancel the uploads of `registries` and for threads to remove their temporary
/// files, and no more; none if a signal comes (faults.md G3).
fn wind_up(runtime: tokio::runtime::Runtime, registries: Option<Client>) {
    const TIME: Duration = Duration::from_secs(2);
    let (over, end) = tokio::sync::oneshot::channel();
    let ending = std::thread::Builder::new().spawn(move || {
        let begin = Instant::now();
        if let Some(registries) = registries {
            runtime.block_on(registries.wait_for_cancels());
        }
        runtime.shutdown_timeout(TIME.saturating_sub(begin.elapsed()));
        let _ = over.send(());
    });
    let listener = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match (ending, listener) {
        (Ok(_), Ok(listener)) => listener.block_on(async {
            tokio::select! {
                _ = end => (),
                _ = stopped() => (),
            }
        }),
        // There may be too many open files for a second listener.
        (Ok(ending), Err(_)) => drop(ending.join()),
        (Err(_), _) => {}
    }
}

/// Waits for a signal that asks us to stop. The destination tag moves in one last request, so it has moved or it has not.
async fn stopped() -> Error {
    let received = |kind: SignalKind| async move {
        if is_ignored(kind) {
            return None;
        }
        signal(kind).ok()?.recv().await
    };
    tokio::select! {
        Some(()) = received(SignalKind::hangup()) => Error::new(Kind::Stopped(1), "the terminal was closed"),
        Some(()) = received(SignalKind::interrupt()) => Error::new(Kind::Stopped(2), "interrupted"),
        Some(()) = received(SignalKind::terminate()) => Error::new(Kind::Stopped(15), "terminated"),
        else => std::future::pending().await,
    }
}

/// Whether we were started so that this signal stops nothing, as by nohup(1) or as a script's background job:
/// proc_pid_status(5).
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// Prints an error: a sentence, and the hint on a line of its own.
pub fn report(error: &Error, arguments: &Arguments) -> ExitCode {
    arguments.common.output().error(error);
    ExitCode::from(error.kind().exit_code())
}

/// What an IMAGE that is read turned out to be.
struct Opened {
    place: Place,
    root: Root,
    tree: Node,
    images: Vec<Image>,
}

impl Opened {
    /// Reads the manifests of `reference`, and the configs of the images for `platforms`; none means all.
    async fn new(reference: &Reference, platforms: &[Platform], common: &Common) -> Result<Opened> {
        let place = Place::of(reference, &common.transports()?)?;
        let root = image::resolve(&place, reference).await?;
        let tree = image::tree_of_what_is_there(&place, &root).await.map_err(|e| e.context(reference))?;
        let images = image::images(&place, &tree, platforms).await.map_err(|e| e.context(reference))?;
        Ok(Opened { place, root, tree, images })
    }
}

/// What would silently match no host is a mistake.
fn parse_host(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c == '/' || c == '@' || c.is_whitespace()) {
        return Err("write HOST or HOST:PORT, without http:// and without a path".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_size(text: &str) -> Result<Size, String> {
    text.parse().map_err(with_hint)
}

fn parse_depth(text: &str) -> Result<Depth, String> {
    text.parse().map_err(with_hint)
}

fn parse_platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(with_hint)
}

fn parse_reference(text: &str) -> Result<Reference, String> {
    text.parse().map_err(with_hint)
}

/// An error as clap prints it.
fn with_hint(error: Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error}\n  hint: {hint}"),
        None => error.to_string(),
    }
}
