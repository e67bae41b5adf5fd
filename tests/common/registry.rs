//! A registry in this process, on a port of 127.0.0.1: real storage, optional authentication, a log of all requests,
//! and a hook that can answer any request otherwise, or break off in the middle.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use capatch::oci::digest::{Digest, Hasher};

/// How the registry wants to be asked.
#[derive(Clone, Default)]
pub enum Auth {
    #[default]
    None,
    Basic(&'static str, &'static str),
    Bearer(Bearer),
}

/// Token authentication; the token service is the registry's own `/token` unless `realm` says otherwise.
#[derive(Clone, Default)]
pub struct Bearer {
    pub user: &'static str,
    pub password: &'static str,
    pub identity: &'static str,
    pub realm: Option<String>,
    /// Whether tokens to pull are given to anybody.
    pub public: bool,
    /// Requests that a token lasts for; 0 is for ever.
    pub uses: usize,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Off if the client broke off.
    pub complete: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// `GET /v2/`.
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path.contains(path)
    }

    /// Everything that was received, to look for secrets in.
    pub fn text(&self) -> String {
        format!("{self:?} {}", String::from_utf8_lossy(&self.body))
    }
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// As it should be.
    Complete,
    /// The length is announced, the connection ends after so many bytes.
    Cut(usize),
    /// No length; the end of the connection ends the body.
    Unannounced,
    /// The connection ends without an answer.
    Dropped,
    /// Nothing comes, and the connection stays.
    Silent,
    /// The body comes, and then nothing more, though more was announced and the connection stays.
    Stalled,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Reply { status, headers: Vec::new(), body: Vec::new(), ending: Ending::Complete }
    }

    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"because of {code}"}}]}}"#);
        Reply::new(status).body(body)
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }
}

type Fault = dyn Fn(&Request, &dyn Fn() -> Reply) -> Option<Reply> + Send + Sync;

#[derive(Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    /// Repository and digest.
    links: HashSet<(String, String)>,
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    tags: BTreeMap<(String, String), String>,
    uploads: HashMap<String, (String, Vec<u8>)>,
    /// Tokens: what they are for, and how often they were used.
    tokens: HashMap<String, (String, usize)>,
    log: Vec<Request>,
    counter: usize,
    no_mounts: bool,
    /// Whether there is a referrers API.
    referrers: bool,
    fault: Option<Arc<Fault>>,
    /// Bodies beyond this are refused before they are read.
    body_limit: Option<u64>,
    /// Where the next uploads are cut.
    cuts: VecDeque<Cut>,
}

/// Where a blob breaks off on its way here; what has arrived is kept.
#[derive(Clone, Copy)]
pub enum Cut {
    /// The connection ends after so many bytes of the body.
    Dropped(u64),
    /// So many bytes are kept, and the client waits for an answer for as long as it lives.
    Silent(u64),
}

/// The registry; its threads end with the process.
#[derive(Clone)]
pub struct Registry {
    port: u16,
    auth: Auth,
    state: Arc<Mutex<State>>,
}

impl Registry {
    pub fn start() -> Self {
        Registry::with(Auth::None)
    }

    pub fn with(auth: Auth) -> Self {
        Registry::listen(auth, None)
    }

    /// A registry that speaks https.
    pub fn https(config: rustls::ServerConfig) -> Self {
        Registry::listen(Auth::None, Some(Arc::new(config)))
    }

    fn listen(auth: Auth, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Registry { port: listener.local_addr().unwrap().port(), auth, state: Arc::default() };
        let server = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, tls) = (server.clone(), tls.clone());
                // Head and body are two writes; without this the second waits for the client's delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                std::thread::spawn(move || {
                    let _ = match tls {
                        None => server.serve(stream),
                        Some(config) => {
                            let connection = rustls::ServerConnection::new(config).unwrap();
                            server.serve(rustls::StreamOwned::new(connection, stream))
                        }
                    };
                });
            }
        });
        registry
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:PORT` and `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host())
    }

    /// Asks `fault` about every request from now on. It may give an answer of its own, or change the real one.
    pub fn fault(&self, fault: impl Fn(&Request, &dyn Fn() -> Reply) -> Option<Reply> + Send + Sync + 'static) {
        self.state().fault = Some(Arc::new(fault));
    }

    /// As [`Registry::fault`], for the first `times` requests for which `matches`.
    pub fn fault_times(
        &self,
        times: usize,
        matches: impl Fn(&Request) -> bool + Send + Sync + 'static,
        reply: impl Fn(&dyn Fn() -> Reply) -> Reply + Send + Sync + 'static,
    ) {
        let left = Mutex::new(times);
        self.fault(move |request, real| {
            if !matches(request) {
                return None;
            }
            {
                let mut left = left.lock().unwrap();
                if *left == 0 {
                    return None;
                }
                *left -= 1;
            }
            Some(reply(real))
        });
    }

    /// Answers 413 to longer bodies and ends the connection without reading them, as proxies do.
    pub fn limit_bodies(&self, limit: u64) {
        self.state().body_limit = Some(limit);
    }

    /// Breaks off the next uploads with a body that is longer than the cut.
    pub fn cut_uploads(&self, cuts: impl IntoIterator<Item = Cut>) {
        self.state().cuts.extend(cuts);
    }

    /// Waits until all those cuts were made.
    pub fn wait_for_cuts(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.state().cuts.is_empty() {
            assert!(Instant::now() < deadline, "nobody sends so much");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Bytes of blobs received so far, those of broken requests too.
    pub fn received(&self) -> u64 {
        let log = self.log();
        log.iter().filter(|r| r.path.contains("/blobs/uploads/")).map(|r| r.body.len() as u64).sum()
    }

    /// Answers every request to mount a blob by beginning an upload, as registries may.
    pub fn refuse_mounts(&self) {
        self.state().no_mounts = true;
    }

    /// Forgets a blob that a repository has.
    pub fn forget_blob(&self, repository: &str, digest: &str) {
        self.state().links.remove(&(repository.to_owned(), digest.to_owned()));
    }

    /// Forgets everything: what is stored, what was asked, and what to answer otherwise.
    pub fn reset(&self) {
        *self.state() = State::default();
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    /// All requests so far.
    pub fn log(&self) -> Vec<Request> {
        self.state().log.clone()
    }

    /// The requests so far as `METHOD /path`, without those for tokens.
    pub fn lines(&self) -> Vec<String> {
        let log = self.log();
        log.iter().filter(|r| r.path != "/token").map(|r| format!("{} {}", r.method, r.path)).collect()
    }

    /// How many requests so far had `method` and a path with `path` in it.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.log().iter().filter(|r| r.is(method, path)).count()
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.state();
        state.blobs.insert(digest.to_string(), bytes.to_vec());
        state.links.insert((repository.to_owned(), digest.to_string()));
        digest
    }

    pub fn put_manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.state();
        let key = (repository.to_owned(), digest.to_string());
        state.manifests.insert(key, (media_type.to_owned(), bytes.to_vec()));
        if let Some(tag) = tag {
            state.tags.insert((repository.to_owned(), tag.to_owned()), digest.to_string());
        }
        digest
    }

    /// The content of a blob, if `repository` has it.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        let state = self.state();
        let linked = state.links.contains(&(repository.to_owned(), digest.to_string()));
        linked.then(|| state.blobs.get(digest.as_str()).cloned()).flatten()
    }

    /// Media type and content of a manifest by tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Vec<u8>)> {
        let state = self.state();
        let tag = state.tags.get(&(repository.to_owned(), reference.to_owned())).cloned();
        state.manifests.get(&(repository.to_owned(), tag.unwrap_or(reference.to_owned()))).cloned()
    }

    /// What tags point to.
    pub fn tag(&self, repository: &str, tag: &str) -> Option<String> {
        self.state().tags.get(&(repository.to_owned(), tag.to_owned())).cloned()
    }

    /// Everything that is there: tags with what they point to, manifests, and which repository has which blob.
    pub fn holdings(&self) -> BTreeSet<String> {
        let state = self.state();
        let tags = state.tags.iter().map(|((repository, tag), digest)| format!("{repository}:{tag} {digest}"));
        let manifests = state.manifests.keys().map(|(repository, digest)| format!("{repository}@{digest}"));
        let blobs = state.links.iter().map(|(repository, digest)| format!("{repository} {digest}"));
        tags.chain(manifests).chain(blobs).collect()
    }

    /// Uploads that were begun and neither finished nor cancelled.
    pub fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn serve(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let limit = self.state().body_limit;
            let request = match read_request(&mut stream, limit, || self.state().cuts.front().copied()) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                // TLS, most likely.
                Err(_) => return stream.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
            };
            self.state().log.push(request.clone());
            if !request.complete && limit.is_none() {
                self.keep_what_arrived(&request);
                let cut = self.state().cuts.pop_front();
                if let Some(Cut::Silent(_)) = cut {
                    let _ = std::io::copy(&mut stream, &mut std::io::sink());
                }
                return Ok(());
            }
            if !request.complete {
                if limit.is_some() {
                    write_reply(stream.get_mut(), &request, &Reply::new(413))?;
                }
                return Ok(());
            }
            let fault = self.state().fault.clone();
            let reply = fault
                .and_then(|fault| fault(&request, &|| self.answer(&request)))
                .unwrap_or_else(|| self.answer(&request));
            if !write_reply(stream.get_mut(), &request, &reply)? {
                return Ok(());
            }
        }
    }

    fn keep_what_arrived(&self, request: &Request) {
        let id = request.path.rsplit('/').next().unwrap_or_default();
        if let Some((_, bytes)) = self.state().uploads.get_mut(id) {
            bytes.extend_from_slice(&request.body);
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        if request.path == "/token" {
            return self.token(request);
        }
        if let Some(refusal) = self.unauthorised(request) {
            return refusal;
        }
        let Some(path) = request.path.strip_prefix("/v2/") else { return Reply::new(404) };
        if path.is_empty() {
            return Reply::new(200);
        }
        if let Some((repository, id)) = path.split_once("/blobs/uploads/") {
            self.upload(request, repository, id)
        } else if let Some((repository, digest)) = path.split_once("/blobs/") {
            self.read_blob(request, repository, digest)
        } else if let Some((repository, reference)) = path.split_once("/manifests/") {
            match request.method.as_str() {
                "PUT" => self.write_manifest(request, repository, reference),
                _ => self.read_manifest(repository, reference),
            }
        } else if let Some((repository, subject)) = path.split_once("/referrers/")
            && self.state().referrers
        {
            self.list_referrers(repository, subject)
        } else if let Some(repository) = path.strip_suffix("/tags/list") {
            self.list_tags(repository)
        } else {
            Reply::error(404, "NAME_UNKNOWN")
        }
    }

    fn list_referrers(&self, repository: &str, subject: &str) -> Reply {
        let mut manifests = Vec::new();
        for ((_, digest), (media_type, bytes)) in self.state().manifests.iter().filter(|((r, _), _)| r == repository) {
            let document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            if document["subject"]["digest"] == subject {
                let artifact = document.get("artifactType").unwrap_or(&document["config"]["mediaType"]);
                manifests.push(serde_json::json!({
                    "mediaType": media_type, "digest": digest, "size": bytes.len(), "artifactType": artifact
                }));
            }
        }
        let index = "application/vnd.oci.image.index.v1+json";
        let body = serde_json::json!({"schemaVersion": 2, "mediaType": index, "manifests": manifests});
        Reply::new(200).header("content-type", index).body(body.to_string())
    }

    /// Answers the referrers API from now on.
    pub fn has_referrers_api(&self) {
        self.state().referrers = true;
    }

    fn list_tags(&self, repository: &str) -> Reply {
        let state = self.state();
        let tags: Vec<&str> =
            state.tags.keys().filter(|(of, _)| of == repository).map(|(_, tag)| tag.as_str()).collect();
        match tags.is_empty() {
            true => Reply::error(404, "NAME_UNKNOWN"),
            false => Reply::new(200).body(serde_json::json!({"name": repository, "tags": tags}).to_string()),
        }
    }

    fn read_blob(&self, request: &Request, repository: &str, digest: &str) -> Reply {
        let state = self.state();
        if !state.links.contains(&(repository.to_owned(), digest.to_owned())) {
            return Reply::error(404, "BLOB_UNKNOWN");
        }
        let bytes = &state.blobs[digest];
        let reply = Reply::new(200).header("content-type", "application/octet-stream");
        let Some(range) = request.header("range").and_then(|r| r.strip_prefix("bytes=")) else {
            return reply.body(bytes.clone());
        };
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap_or(bytes.len() - 1));
        if first >= bytes.len() || last >= bytes.len() {
            return Reply::new(416);
        }
        Reply { status: 206, ..reply }
            .header("content-range", format!("bytes {first}-{last}/{}", bytes.len()))
            .body(&bytes[first..=last])
    }

    fn read_manifest(&self, repository: &str, reference: &str) -> Reply {
        match self.manifest(repository, reference) {
            None => Reply::error(404, "MANIFEST_UNKNOWN"),
            Some((media_type, bytes)) => Reply::new(200)
                .header("content-type", media_type)
                .header("docker-content-digest", Digest::of(&bytes))
                .body(bytes),
        }
    }

    fn write_manifest(&self, request: &Request, repository: &str, reference: &str) -> Reply {
        let digest =
            if reference.contains(':') { hash_like(reference, &request.body) } else { Digest::of(&request.body) };
        if reference.contains(':') && digest.as_str() != reference {
            return Reply::error(400, "DIGEST_INVALID");
        }
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&request.body) else {
            return Reply::error(400, "MANIFEST_INVALID");
        };
        let mut state = self.state();
        let layers = document["layers"].as_array().into_iter().flatten();
        let blobs = layers.chain(document.get("config")).filter_map(|d| d["digest"].as_str());
        for blob in blobs {
            if !state.links.contains(&(repository.to_owned(), blob.to_owned())) {
                return Reply::error(404, "MANIFEST_BLOB_UNKNOWN");
            }
        }
        for child in document["manifests"].as_array().into_iter().flatten().filter_map(|d| d["digest"].as_str()) {
            if !state.manifests.contains_key(&(repository.to_owned(), child.to_owned())) {
                return Reply::error(404, "MANIFEST_BLOB_UNKNOWN");
            }
        }
        let media_type = request.header("content-type").unwrap_or_default().to_owned();
        state.manifests.insert((repository.to_owned(), digest.to_string()), (media_type, request.body.clone()));
        if !reference.contains(':') {
            state.tags.insert((repository.to_owned(), reference.to_owned()), digest.to_string());
        }
        Reply::new(201).header("docker-content-digest", digest)
    }

    fn upload(&self, request: &Request, repository: &str, id: &str) -> Reply {
        let mut state = self.state();
        if request.method == "POST" {
            if request.header("content-length") != Some("0") {
                return Reply::new(411);
            }
            if let (Some(digest), Some(from)) = (request.query("mount"), request.query("from"))
                && state.links.contains(&(from.to_owned(), digest.to_owned()))
                && !state.no_mounts
            {
                state.links.insert((repository.to_owned(), digest.to_owned()));
                return Reply::new(201);
            }
            state.counter += 1;
            let id = format!("{}", state.counter);
            state.uploads.insert(id.clone(), (repository.to_owned(), Vec::new()));
            return Reply::new(202).header("location", format!("/v2/{repository}/blobs/uploads/{id}?_state=a%2Bb"));
        }
        let Some((_, bytes)) = state.uploads.get_mut(id) else { return Reply::error(404, "BLOB_UPLOAD_UNKNOWN") };
        if request.query("_state") != Some("a+b") {
            return Reply::error(400, "BLOB_UPLOAD_INVALID");
        }
        let location = format!("{}?_state=a%2Bb", request.path);
        match request.method.as_str() {
            "PATCH" => {
                let start = request.header("content-range").and_then(|r| r.split('-').next()?.parse::<usize>().ok());
                if start.is_some_and(|start| start != bytes.len()) {
                    let last = bytes.len().saturating_sub(1);
                    return Reply::new(416).header("location", location).header("range", format!("0-{last}"));
                }
                bytes.extend_from_slice(&request.body);
                let last = bytes.len() - 1;
                Reply::new(202).header("location", location).header("range", format!("0-{last}"))
            }
            "PUT" => {
                bytes.extend_from_slice(&request.body);
                let bytes = bytes.clone();
                state.uploads.remove(id);
                let digest = request.query("digest").unwrap_or_default().to_owned();
                if hash_like(&digest, &bytes).as_str() != digest {
                    return Reply::error(400, "DIGEST_INVALID");
                }
                state.blobs.insert(digest.clone(), bytes);
                state.links.insert((repository.to_owned(), digest));
                Reply::new(201)
            }
            "GET" => {
                let last = bytes.len().saturating_sub(1);
                Reply::new(204).header("location", location).header("range", format!("0-{last}"))
            }
            "DELETE" => {
                state.uploads.remove(id);
                Reply::new(204)
            }
            _ => Reply::new(405),
        }
    }

    fn token(&self, request: &Request) -> Reply {
        let Auth::Bearer(bearer) = &self.auth else { return Reply::new(404) };
        let form: Vec<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
        let field = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let scopes: Vec<&str> = match request.method.as_str() {
            "POST" => field("scope").unwrap_or_default().split(' ').collect(),
            _ => request.query.iter().filter(|(n, _)| n == "scope").map(|(_, v)| v.as_str()).collect(),
        };
        let known = match (request.method.as_str(), request.header("authorization")) {
            ("POST", _) => field("refresh_token") == Some(bearer.identity) && !bearer.identity.is_empty(),
            (_, Some(header)) if header == basic(bearer.user, bearer.password) => true,
            (_, Some(_)) => return Reply::new(401).body(r#"{"details":"incorrect username or password"}"#),
            (_, None) => false,
        };
        let granted: Vec<&str> =
            scopes.into_iter().filter(|s| known || (bearer.public && s.ends_with(":pull"))).collect();
        let mut state = self.state();
        state.counter += 1;
        let token = format!("token-{}", state.counter);
        state.tokens.insert(token.clone(), (granted.join(" "), 0));
        Reply::new(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#))
    }

    fn unauthorised(&self, request: &Request) -> Option<Reply> {
        match &self.auth {
            Auth::None => None,
            Auth::Basic(user, password) => (request.header("authorization") != Some(&basic(user, password)))
                .then(|| Reply::error(401, "UNAUTHORIZED").header("www-authenticate", "Basic realm=\"test\"")),
            Auth::Bearer(bearer) => {
                let repository = request.path.strip_prefix("/v2/")?;
                let repository = ["/blobs/", "/manifests/"].iter().find_map(|mark| repository.split_once(mark))?.0;
                let action = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
                let wanted = [(repository, action)].into_iter().chain(request.query("from").map(|from| (from, "pull")));
                let mut state = self.state();
                let token = request.header("authorization").and_then(|h| h.strip_prefix("Bearer "));
                let grant = token.and_then(|token| state.tokens.get_mut(token));
                let allowed = grant.is_some_and(|(scopes, used)| {
                    *used += 1;
                    let allows = |(repository, action): (&str, &str)| {
                        scopes.split(' ').any(|scope| {
                            scope
                                .strip_prefix(&format!("repository:{repository}:"))
                                .is_some_and(|actions| actions.split(',').any(|a| a == action))
                        })
                    };
                    (bearer.uses == 0 || *used <= bearer.uses) && wanted.clone().all(allows)
                });
                let actions = if action == "pull" { "pull" } else { "pull,push" };
                let realm = bearer.realm.clone().unwrap_or_else(|| self.url("/token"));
                (!allowed).then(|| {
                    Reply::error(401, "UNAUTHORIZED").header(
                        "www-authenticate",
                        format!(
                            "Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:{repository}:{actions}\""
                        ),
                    )
                })
            }
        }
    }
}

/// An `Authorization` for `user` and `password`.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

fn hash_like(digest: &str, bytes: &[u8]) -> Digest {
    match digest.parse::<Digest>() {
        Ok(digest) => {
            let mut hasher = Hasher::new(digest.algorithm());
            hasher.update(bytes);
            hasher.finish()
        }
        Err(_) => Digest::of(bytes),
    }
}

fn read_request(
    reader: &mut impl BufRead,
    limit: Option<u64>,
    cut: impl FnOnce() -> Option<Cut>,
) -> std::io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines[0].split(' ');
    let (method, target) = (first.next().unwrap().to_owned(), first.next().unwrap());
    let target = url::Url::parse("http://x").unwrap().join(target).unwrap();
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut request = Request {
        method,
        path: target.path().to_owned(),
        query: target.query_pairs().into_owned().collect(),
        headers,
        body: Vec::new(),
        complete: true,
    };
    if let Some(length) = request.header("content-length") {
        let length: u64 = length.parse().unwrap();
        if limit.is_some_and(|limit| length > limit) {
            request.complete = false;
            return Ok(Some(request));
        }
        let end = match cut() {
            Some(Cut::Dropped(end) | Cut::Silent(end)) if length > end => end,
            _ => length,
        };
        let read = reader.take(end).read_to_end(&mut request.body);
        request.complete = read.is_ok_and(|read| read as u64 == length);
    } else if request.header("transfer-encoding").is_some() {
        panic!("no registry wants a chunked body: {request:?}");
    }
    Ok(Some(request))
}

/// Whether the connection can go on.
fn write_reply(writer: &mut impl Write, request: &Request, reply: &Reply) -> std::io::Result<bool> {
    match reply.ending {
        Ending::Dropped => return Ok(false),
        Ending::Silent => {
            std::thread::sleep(Duration::from_secs(60));
            return Ok(false);
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let announced = reply.ending != Ending::Unannounced
        && reply.status != 204
        && !reply.headers.iter().any(|(name, _)| name == "content-length");
    if announced {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    writer.write_all(format!("{head}\r\n").as_bytes())?;
    let end = match reply.ending {
        Ending::Cut(after) => after.min(reply.body.len()),
        _ => reply.body.len(),
    };
    if request.method != "HEAD" && reply.status != 204 {
        writer.write_all(&reply.body[..end])?;
    }
    writer.flush()?;
    if reply.ending == Ending::Stalled {
        std::thread::sleep(Duration::from_secs(60));
    }
    Ok(reply.ending == Ending::Complete)
}
