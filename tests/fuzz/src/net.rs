//! A registry that a script makes unreliable, hostile or both, for the stateful targets `push` and `pull`.

use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use arbitrary::Arbitrary;
use capatch::copy::{self, Memory, Outcome, Route};
use capatch::error::Result;
use capatch::limits::Limits;
use capatch::oci::reference::Reference;
use capatch::progress::{Progress, Silent};
use capatch::transport::registry::{Client, Options};
use capatch::transport::{LOCK_TIMEOUT, Place, Transports, containerd};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::common::image::{Content, Image, Index, Packing};
use crate::common::registry::{Auth, Bearer, Ending, Registry, Reply, Request};
use crate::common::tar::{self, dir, file};
use crate::{directory, settle};

pub const REPOSITORY: &str = "team/app";
pub const TAG: &str = "1";
pub const PASSWORD: &str = "canary-password";
/// What every layer holds.
pub const CONTENT: &str = "canary-content";

/// How one request is answered.
#[derive(Arbitrary, Clone, Debug)]
pub enum Step {
    /// As it should be.
    Honest,
    /// With a status; what was asked for may have been done all the same.
    Status { status: u8, done: bool },
    /// Honestly, but with another header.
    Header { name: u8, value: u8 },
    /// Not at all; what was asked for may have been done.
    Dropped { done: bool },
    /// Honestly, up to a byte of the body.
    Cut(u16),
    /// Without a length, up to a byte of the body.
    Unannounced(u16),
    /// With a byte of the body changed.
    Flipped(u16),
    /// With a body that is longer.
    Longer(u8),
    /// With all of the body, though a part was asked for.
    Whole { partial: bool },
    /// With a redirect.
    Redirect { status: u8, to: u8 },
    /// With a demand for credentials.
    Challenge(u8),
}

const STATUSES: [u16; 28] = [
    200, 201, 202, 204, 206, 301, 304, 307, 400, 401, 403, 404, 405, 409, 411, 412, 413, 416, 425, 429, 500, 501, 502,
    503, 504, 507, 520, 599,
];

impl Step {
    /// Whether it may claim success for what was not done.
    pub fn lies(&self) -> bool {
        match self {
            Step::Status { status, done } => !done && STATUSES[usize::from(*status) % STATUSES.len()] < 300,
            Step::Redirect { .. } => true,
            _ => false,
        }
    }

    fn answer(&self, request: &Request, real: &dyn Fn() -> Reply, world: &World) -> Reply {
        let pick = |all: &[String], choice: u8| all[usize::from(choice) % all.len()].clone();
        match *self {
            Step::Honest => real(),
            Step::Status { status, done } => {
                if done {
                    real();
                }
                let status = STATUSES[usize::from(status) % STATUSES.len()];
                Reply::error(
                    status,
                    ["BLOB_UPLOAD_INVALID", "MANIFEST_BLOB_UNKNOWN", "DENIED", "UNKNOWN"][usize::from(status) % 4],
                )
            }
            Step::Header { name, value } => {
                let (name, values) = &world.headers[usize::from(name) % world.headers.len()];
                let reply = real().header(name, pick(values, value));
                // Who waits for more than there is must not wait for long.
                let length = reply.body.len();
                if *name == "content-length" { reply.ending(Ending::Cut(length)) } else { reply }
            }
            Step::Dropped { done } => {
                if done {
                    real();
                }
                Reply::new(200).ending(Ending::Dropped)
            }
            Step::Cut(at) => real().ending(Ending::Cut(at.into())),
            Step::Unannounced(at) => {
                let mut reply = real();
                reply.body.truncate(at.into());
                reply.ending(Ending::Unannounced)
            }
            Step::Flipped(at) => {
                let mut reply = real();
                let length = reply.body.len().max(1);
                if let Some(byte) = reply.body.get_mut(usize::from(at) % length) {
                    *byte ^= 1;
                }
                reply
            }
            Step::Longer(by) => {
                let mut reply = real();
                reply.body.extend(std::iter::repeat_n(b'x', by.into()));
                reply
            }
            Step::Whole { partial } => match request.path.split_once("/blobs/sha256:") {
                Some((_, hex)) if request.method == "GET" => {
                    let digest = format!("sha256:{hex}").parse().unwrap();
                    let Some(bytes) = world.registry().blob(REPOSITORY, &digest) else { return real() };
                    Reply::new(if partial { 206 } else { 200 }).body(bytes)
                }
                _ => real(),
            },
            Step::Redirect { status, to } => {
                let status = [301, 302, 303, 307, 308][usize::from(status) % 5];
                Reply::new(status).header("location", pick(&world.places, to))
            }
            Step::Challenge(choice) => {
                Reply::error(401, "UNAUTHORIZED").header("www-authenticate", pick(&world.challenges, choice))
            }
        }
    }
}

/// What happens in one run of a target.
#[derive(Arbitrary, Debug)]
pub struct Script {
    pub image: u8,
    pub steps: Vec<Step>,
}

/// The registry, the attacker, and the images; made once.
pub struct World {
    registry: Registry,
    attacker: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    headers: Vec<(&'static str, Vec<String>)>,
    places: Vec<String>,
    challenges: Vec<String>,
    pub images: Vec<Content>,
    pub directory: TempDir,
    runtime: Runtime,
}

pub static WORLD: LazyLock<World> = LazyLock::new(World::new);

impl World {
    fn new() -> Self {
        let bearer = Bearer { user: "user", password: PASSWORD, ..Bearer::default() };
        let registry = Registry::with(Auth::Bearer(bearer));
        let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
        let attacker = listen(heard.clone());
        let home = registry.host();
        let places = vec![
            format!("http://127.0.0.1:{attacker}/x"),
            format!("//127.0.0.1:{attacker}/v2/{REPOSITORY}/blobs/uploads/1"),
            format!("http://localhost:{attacker}/"),
            format!("https://{home}/v2/"),
            format!("http://user:{PASSWORD}@{home}/v2/{REPOSITORY}/blobs/uploads/1"),
            format!("http://{home}/v2/{REPOSITORY}/blobs/uploads/1?_state=a%2Bb"),
            "/v2/team/app/blobs/uploads/99".into(),
            "1?_state=a%2Bb".into(),
            "?".into(),
            "..".into(),
            "file:///etc/passwd".into(),
            "http://169.254.169.254/latest".into(),
            "http://[::]:1/".into(),
            "not a url ://".into(),
        ];
        let numbers: Vec<String> =
            ["0", "1", "-1", "99999999999999999999", "64", "5 ", "x"].into_iter().map(Into::into).collect();
        let ranges = [
            "0-0",
            "0-63",
            "0-9999999",
            "5-9",
            "bytes=0-7",
            "0-18446744073709551615",
            "bytes 0-63/64",
            "bytes 8-63/64",
        ];
        let ranges: Vec<String> = ranges.into_iter().chain(["bytes 0-0/*", "", "0"]).map(Into::into).collect();
        let wrong = format!("sha256:{}", "0".repeat(64));
        let headers = vec![
            ("location", places.clone()),
            ("range", ranges.clone()),
            ("content-range", ranges),
            ("retry-after", vec!["0".into(), "1".into(), "99999".into(), "x".into()]),
            ("docker-content-digest", vec![wrong, "x".into(), format!("sha512:{}", "a".repeat(128))]),
            ("content-type", ["text/html", "application/vnd.oci.image.index.v1+json", ""].map(Into::into).to_vec()),
            ("content-encoding", ["gzip", "identity", "br"].map(Into::into).to_vec()),
            ("oci-chunk-min-length", numbers.clone()),
            ("content-length", numbers),
            ("link", vec![format!("<http://127.0.0.1:{attacker}/>; rel=\"next\"")]),
        ];
        let realm = |url: &str, scope: &str| format!("Bearer realm=\"{url}\",service=\"test\",scope=\"{scope}\"");
        let challenges = vec![
            "Basic realm=\"x\"".into(),
            realm(&registry.url("/token"), "repository:team/app:pull,push"),
            realm(&registry.url("/token"), "repository:other:delete repository:team/app:*"),
            realm(&format!("http://127.0.0.1:{attacker}/token"), "repository:team/app:pull"),
            realm(&format!("http://user@127.0.0.1:{attacker}/token"), ""),
            realm("/token", ""),
            realm("http://169.254.169.254/", ""),
            "Bearer".into(),
            "Negotiate".into(),
        ];
        let directory = directory();
        let images = images();
        for (number, image) in images.iter().enumerate() {
            image.write(&directory.path().join(number.to_string()), TAG);
        }
        std::fs::create_dir(directory.path().join("empty")).unwrap();
        let auth = format!(r#"{{"auths":{{"{home}":{{"username":"user","password":"{PASSWORD}"}}}}}}"#);
        std::fs::write(directory.path().join("auth.json"), auth).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        World { registry, attacker, heard, headers, places, challenges, images, directory, runtime }
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn image(&self, script: &Script) -> (usize, &Content) {
        let number = usize::from(script.image) % self.images.len();
        (number, &self.images[number])
    }

    /// Answers by the script from now on; `watch` sees every answer before it is sent.
    pub fn play(&'static self, script: &Script, watch: impl Fn(&Request, &Reply) + Send + Sync + 'static) {
        let steps: Mutex<VecDeque<Step>> = Mutex::new(script.steps.iter().cloned().collect());
        self.registry.fault(move |request, real| {
            let step = steps.lock().unwrap().pop_front().unwrap_or(Step::Honest);
            let reply = step.answer(request, real, self);
            watch(request, &reply);
            Some(reply)
        });
    }

    /// Copies an image with nothing remembered from earlier runs, and without waiting for anything.
    pub fn copy(&self, source: &str, destination: &str) -> Result<Outcome> {
        let path = |name: &str| self.directory.path().join(name);
        let registries = Client::new(Options {
            auth_file: Some(path("auth.json")),
            cert_dir: Some(path("empty")),
            hosts_dir: Some(path("empty")),
            registries_conf: Some("/dev/null".into()),
            max_wait: Duration::ZERO,
            stall: Duration::from_secs(5),
            retry_base: Duration::ZERO,
            ..Options::default()
        })?;
        let socket = containerd::Options { address: path("none"), namespace: "none".into() };
        let transports = Transports {
            registries,
            containerd: socket,
            docker: String::new(),
            limits: Limits::default(),
            lock_timeout: LOCK_TIMEOUT,
        };
        let (source, destination): (Reference, Reference) = (source.parse()?, destination.parse()?);
        let (from, to) = (Place::of(&source, &transports)?, Place::of(&destination, &transports)?.for_push(&source));
        let options = copy::Options {
            platforms: Vec::new(),
            referrers: false,
            foreign_layers: true,
            replace: true,
            force: false,
            dry_run: false,
            jobs: 2,
            memory: Memory::default(),
        };
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        self.runtime.block_on(async {
            // As the command line does.
            to.prepare()?;
            let route = Route { from: &from, source: &source, to: &to, destination: &destination };
            copy::image(&route, &options, &progress).await
        })
    }

    /// As [`settle`].
    pub fn settle(&self, layout: &Path) {
        settle(&self.runtime, layout);
    }

    /// Fails if anybody but the registry learned anything, or if it was asked more often than `limit` times.
    #[track_caller]
    pub fn nothing_leaked(&self, limit: usize) {
        let heard = String::from_utf8_lossy(&std::mem::take(&mut *self.heard())).to_ascii_lowercase();
        for secret in ["authorization:", "cookie:", "referer:", "refresh_token", "canary", "token-"] {
            assert!(!heard.contains(secret), "{secret} in {heard}");
        }
        let asked = self.registry.log().len() + heard.matches(" http/1.1\r\n").count();
        assert!(asked <= limit, "{asked} requests, more than {limit}: {:#?}", self.registry.lines());
    }

    fn heard(&self) -> MutexGuard<'_, Vec<u8>> {
        self.heard.lock().unwrap()
    }

    /// The port where nothing may be learned.
    pub fn attacker(&self) -> u16 {
        self.attacker
    }
}

/// What a request would have stored, or shown to be there, if its answer is believed.
pub fn acknowledged(request: &Request, reply: &Reply) -> Option<String> {
    // A redirect says so too: whoever is there then may lie.
    if !(200..400).contains(&reply.status) || reply.ending == Ending::Dropped {
        return None;
    }
    let last = request.path.rsplit('/').next().unwrap_or_default().to_owned();
    match request.method.as_str() {
        "PUT" if request.path.contains("/blobs/") => request.query("digest").map(str::to_owned),
        "POST" => request.query("mount").filter(|_| reply.status == 201).map(str::to_owned),
        _ => Some(last),
    }
}

/// Digests of all that has to be there before the image's tag.
pub fn needed(image: &Content) -> HashSet<String> {
    let digests = image.blobs.keys().chain(image.manifests.keys());
    digests.filter(|digest| **digest != image.digest).cloned().collect()
}

fn images() -> Vec<Content> {
    let content = |seed: u64, length: usize| {
        let mut state = seed;
        let noise = std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        CONTENT.bytes().chain(noise.take(length)).collect::<Vec<u8>>()
    };
    let layer = |seed, length| tar::tar(&[dir("a"), file("a/b", content(seed, length))]);
    let small = Image::empty().packed(layer(1, 40), Packing::Plain);
    let large = Image::empty().packed(layer(2, 150_000), Packing::Plain).packed(layer(3, 10), Packing::Gzip).docker();
    let mut arm = Image::empty().packed(layer(4, 3000), Packing::Zstd);
    arm.architecture = "arm64".into();
    let (one, two) = (small.build(), arm.build());
    let digest = one.digest.clone();
    let index = Index::new().platform(&one, "amd64").platform(&two, "arm64").attestation(&digest).build();
    vec![one, large.build(), index]
}

/// Hears everything and answers what might tempt somebody to say more.
fn listen(heard: Arc<Mutex<Vec<u8>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, mut stream) in listener.incoming().flatten().enumerate() {
            let heard = heard.clone();
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    heard.lock().unwrap().extend_from_slice(&buffer[..read]);
                    let answer: &[u8] = match number % 3 {
                        0 => b"HTTP/1.1 200 X\r\ncontent-length: 18\r\n\r\n{\"token\":\"stolen\"}",
                        1 => b"HTTP/1.1 401 X\r\nwww-authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\n\r\n",
                        _ => b"HTTP/1.1 201 X\r\ncontent-length: 0\r\n\r\n",
                    };
                    if stream.write_all(answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}
