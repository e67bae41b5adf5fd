//! One place for every request: authentication, redirects, waiting and trying again, time limits, refusals.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Method, Response};
use url::{Host, Url};

use super::auth::{self, Access, Authorization};
use super::challenge::{self, Challenge};
use super::mirrors::{Settings, Tls};
use super::origin::{Origin, Reach, allow_hop, join, redacted};
use super::refusal::Refusal;
use super::retry::{self, TRIES};
use super::{Shared, advice, lock, network};
use crate::error::{Error, Kind, Result, printable};

const REDIRECTS: usize = 5;

/// Makes the body of a request afresh each time it is sent.
pub(super) type MakeBody = Arc<dyn Fn() -> reqwest::Body + Send + Sync>;

/// A request that can be sent any number of times.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<MakeBody>,
    /// What to send to this origin if no [`Access`] says better.
    pub(super) authorization: Option<Authorization>,
    /// How to talk to this origin if no [`Access`] says better.
    pub(super) settings: Arc<Settings>,
    /// Not to be repeated when its effect is unknown: the answer was lost, or was a 5xx.
    pub(super) once: bool,
    /// How far the address may reach, if a registry's answer named it and not the user.
    pub(super) reach: Option<Reach>,
    /// Counts what the body gave, to tell a slow upload from one that hangs.
    pub(super) progress: Arc<AtomicU64>,
}

impl Request {
    pub(super) fn new(method: Method, url: Url) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Request {
            method,
            url,
            headers,
            body: None,
            authorization: None,
            settings: Arc::default(),
            once: false,
            reach: None,
            progress: Arc::default(),
        }
    }

    /// With a body that is in memory.
    pub(super) fn bytes(mut self, bytes: Bytes) -> Self {
        // Google's registry wants the length of an empty body too (faults.md E8).
        self.headers.insert(CONTENT_LENGTH, bytes.len().into());
        self.body = Some(Arc::new(move || bytes.clone().into()));
        self
    }

    fn is_read(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// How a request ended. Errors that no other attempt could mend are `Err` beside it.
pub(super) enum Outcome<T> {
    /// 2xx.
    Success(T),
    /// The final answer is another status.
    Refused(Box<Refusal>),
    /// No answer, or not all of it.
    Lost(Error),
}

impl<T> Outcome<T> {
    /// The success, or an error about `what`.
    pub(super) fn into_result(self, what: &str) -> Result<T> {
        match self {
            Outcome::Success(value) => Ok(value),
            Outcome::Refused(refusal) => Err(refusal.into_error(what)),
            Outcome::Lost(error) => Err(error.context(what)),
        }
    }
}

/// Sends `request`: answers one challenge, follows redirects, waits when told to and tries again where that can help.
pub(super) async fn send(
    shared: &Shared,
    access: Option<&Access<'_>>,
    request: &Request,
    what: &str,
) -> Result<Outcome<Response>> {
    let start = Origin::of(&request.url)?;
    let home = access.map_or(&start, |access| access.home);
    let settings = access.map_or(&request.settings, |access| access.settings);
    // There is another place to ask, sooner than a mirror recovers.
    let tries = if settings.mirror { 1 } else { TRIES };
    let mut authorization = match access {
        Some(access) => auth::expected(shared, access).await?,
        None => request.authorization.clone(),
    };
    let mut refreshed = false;
    let mut failures = 0;
    // Because of rate limits; the more of us there are, the more of us come too late again.
    let mut waited = Duration::ZERO;
    loop {
        wait_for_gate(shared, home).await;
        let response = match follow(shared, home, settings, request, authorization.as_ref()).await? {
            Ok(response) => response,
            Err(lost) => {
                failures += 1;
                if failures >= tries || (request.once && !lost.unsent) {
                    return Ok(Outcome::Lost(lost.error));
                }
                let wait = retry::backoff(shared.options.retry_base, failures);
                tracing::debug!("{}; trying again in {wait:?}", lost.error);
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        let status = response.status();
        if status.is_success() {
            lock(&shared.limited).remove(home);
            return Ok(Outcome::Success(response));
        }
        let at_home = Origin::of(response.url())? == *home;
        if let Some(access) = access.filter(|_| status == 401 && at_home && !refreshed) {
            let challenge = match Challenge::from_headers(response.headers(), response.url()) {
                None => ping(shared, home, settings).await?,
                some => some,
            };
            if let Some(answer) = auth::challenged(shared, access, challenge, authorization.as_ref()).await? {
                (refreshed, authorization) = (true, Some(answer));
                continue;
            }
        }
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| retry::retry_after(value.to_str().ok()?, SystemTime::now()));
        // What was answered already was understood.
        let challenge = match access {
            Some(_) if status == 401 && at_home && authorization.is_none() => {
                challenge::not_understood(response.headers(), response.url())
            }
            _ => None,
        };
        let mut refusal = Box::new(Refusal::read(response, shared.options.stall).await);
        (refusal.asked, refusal.challenge) = (asked, challenge);
        // Another host, such as the storage behind a registry, was never shown the credentials.
        if let Some(access) = access.filter(|_| at_home)
            && matches!(status.as_u16(), 401 | 403 | 429)
        {
            refusal.login = shared.credentials.find(access.repository).await.ok().flatten().map(|c| c.source);
            refusal.registry = Some(access.repository.registry.clone());
            refusal.token = authorization.as_ref().is_some_and(Authorization::is_token);
        }
        let limited = status == 429 || (status == 403 && (asked.is_some() || refusal.mentions_rate_limit()));
        if !limited {
            lock(&shared.limited).remove(home);
        }
        if !limited && (!retry::is_transient(status) || request.once) {
            return Ok(Outcome::Refused(refusal));
        }
        failures += 1;
        let wait = asked.unwrap_or_default().max(retry::backoff(shared.options.retry_base, failures));
        let too_long = wait > shared.options.max_wait || (failures >= TRIES && waited + wait > shared.options.max_wait);
        // What others waited for in vain is not waited for again: hundreds of images would make hours of it.
        let too_long = too_long || (limited && limited_for(shared, home) > shared.options.max_wait);
        if limited && (too_long || settings.mirror) {
            return Err(rate_limited(home, asked, &refusal).context(what));
        }
        if !limited && (failures >= tries || wait > shared.options.max_wait) {
            return Ok(Outcome::Refused(refusal));
        }
        if limited {
            waited += wait;
        }
        tracing::debug!("{status} from {home}; trying again in {wait:?}");
        if limited && close_gate(shared, home, wait) && wait > Duration::from_secs(1) {
            tracing::warn!("{}", waiting(home, wait, asked, &refusal));
        }
        tokio::time::sleep(wait).await;
    }
}

/// Sends `request` and reads the body of the answer, at most `limit` bytes.
pub(super) async fn fetch_small(
    shared: &Shared,
    access: Option<&Access<'_>>,
    request: &Request,
    limit: u64,
    what: &str,
) -> Result<Outcome<(HeaderMap, Bytes)>> {
    let mut failures = 0;
    loop {
        let mut response = match send(shared, access, request, what).await? {
            Outcome::Success(response) => response,
            Outcome::Refused(refusal) => return Ok(Outcome::Refused(refusal)),
            Outcome::Lost(error) => return Ok(Outcome::Lost(error)),
        };
        let mut body = BytesMut::new();
        let error = loop {
            match read_chunk(shared, &mut response).await {
                Ok(Some(chunk)) if (body.len() + chunk.len()) as u64 > limit => {
                    let said = format!("{what}: the answer has {} bytes or more", body.len() + chunk.len());
                    return Err(shared.options.limits.too_large(said, limit));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => {
                    // Nobody looks at what a PUT is answered with.
                    if request.method != Method::PUT {
                        refuse_encoded(response.headers(), &body, what)?;
                    }
                    return Ok(Outcome::Success((response.headers().clone(), body.freeze())));
                }
                Err(error) => break error,
            }
        };
        failures += 1;
        if failures >= TRIES {
            return Ok(Outcome::Lost(error));
        }
        tokio::time::sleep(retry::backoff(shared.options.retry_base, failures)).await;
    }
}

/// Documents are asked for as they are, and are UTF-8. A label alone does no harm (faults.md B10).
fn refuse_encoded(headers: &HeaderMap, body: &[u8], what: &str) -> Result<()> {
    let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|_| std::str::from_utf8(body).is_err()) else {
        return Ok(());
    };
    let encoding = String::from_utf8_lossy(encoding.as_bytes());
    let said = format!("{what}: the answer is encoded (Content-Encoding: {encoding}), which was not asked for");
    Err(Error::content(said)
        .hint("check whether a proxy in between compresses answers, and exempt the registry from that"))
}

/// The next piece of a body, counted; an error if none comes for too long.
pub(super) async fn read_chunk(shared: &Shared, response: &mut Response) -> Result<Option<Bytes>> {
    let host = host_port(response.url());
    match tokio::time::timeout(shared.options.stall, response.chunk()).await {
        Ok(Ok(chunk)) => {
            shared.traffic.downloaded.fetch_add(chunk.as_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
            Ok(chunk)
        }
        Ok(Err(error)) => Err(network::explain(error, &host).error),
        Err(_) => Err(silent(&host, shared.options.stall)),
    }
}

/// How far the registry's own address reaches; asks the name server once if it must.
pub(super) async fn reach(shared: &Shared, home: &Origin) -> Reach {
    if let Some(reach) = home.reach() {
        return reach;
    }
    if let Some(reach) = lock(&shared.reaches).get(home) {
        return *reach;
    }
    let Host::Domain(name) = home.host() else { return Reach::Public };
    let addresses = tokio::net::lookup_host((name.as_str(), 0)).await;
    // Unknown, as behind a proxy, is taken for public: the strictest.
    let reach = addresses.ok().and_then(|all| all.map(|a| Reach::of(a.ip())).min()).unwrap_or(Reach::Public);
    lock(&shared.reaches).insert(home.clone(), reach);
    reach
}

/// Sends once, through redirects. The inner error is for another attempt to mend.
pub(super) async fn follow(
    shared: &Shared,
    home: &Origin,
    settings: &Settings,
    request: &Request,
    authorization: Option<&Authorization>,
) -> Result<Result<Response, network::Lost>> {
    let mut url = request.url.clone();
    let mut away = false;
    for _ in 0..=REDIRECTS {
        let origin = Origin::of(&url)?;
        // Once away, always away: a hop back must not bring the secret out again.
        away |= origin != *home;
        let guard = if away { Some(reach(shared, home).await) } else { request.reach };
        // What the user's files say is about the host that they name.
        let client = if away {
            shared.network.client(&shared.options, &origin, guard, &Tls::default())?
        } else {
            shared.network.client(&shared.options, &origin, guard, &settings.tls)?
        };
        let mut headers = settings.headers.clone();
        headers.extend(request.headers.clone());
        if away {
            headers = HeaderMap::new();
            for name in [ACCEPT, ACCEPT_ENCODING, RANGE] {
                headers.extend(request.headers.get(&name).map(|value| (name.clone(), value.clone())));
            }
        } else if let Some(Authorization(value)) = authorization {
            headers.insert(reqwest::header::AUTHORIZATION, value.clone());
        }
        let mut builder = client.request(request.method.clone(), url.clone()).headers(headers);
        if let Some(body) = &request.body {
            builder = builder.body(body());
        }
        shared.traffic.requests.fetch_add(1, Ordering::Relaxed);
        // Storing what was sent may take a registry a while.
        let stall = shared.options.stall * if request.body.is_some() { 5 } else { 1 };
        let answer = while_it_moves(builder.send(), &request.progress, stall).await;
        let response = match answer {
            Some(Ok(response)) => {
                shared.network.note_answer(&origin);
                response
            }
            Some(Err(error)) => {
                let mut lost = network::explain(error, &host_port(&url));
                if !shared.network.has_answered(&origin) {
                    lost = advice::with_hint(lost, &url);
                }
                tracing::debug!("{} {}: {}", request.method, redacted(&url), lost.error);
                if lost.unsent && settings.mirror && !away {
                    lock(&shared.unreachable).insert(home.host_port());
                }
                return if lost.hopeless { Err(lost.error) } else { Ok(Err(lost)) };
            }
            None => {
                let error = silent(&host_port(&url), stall);
                if settings.mirror && !away {
                    // Another minute of silence for each blob would be no use.
                    lock(&shared.unreachable).insert(home.host_port());
                }
                return Ok(Err(network::Lost { error, unsent: false, hopeless: false }));
            }
        };
        tracing::debug!("{} {} {}", request.method, redacted(&url), response.status().as_u16());
        if !matches!(response.status().as_u16(), 300..=303 | 305..=308) {
            return Ok(Ok(response));
        }
        let unexpected = |why: &str| {
            Error::content(format!("{} answered {} with a redirect {why}", redacted(&url), response.status().as_u16()))
        };
        let location = response.headers().get(LOCATION);
        let next = location.and_then(|location| join(&url, location.as_bytes()));
        let next = next.ok_or_else(|| unexpected("that leads nowhere"))?;
        allow_hop(&url, &next, reach(shared, home).await)?;
        // A 301 to 303 would turn a PUT into a GET and look like success (faults.md A16).
        if !request.is_read() && (!matches!(response.status().as_u16(), 307 | 308) || Origin::of(&next)? != origin) {
            return Err(unexpected(&format!("of a {} to {}", request.method, redacted(&next))));
        }
        url = next;
    }
    Err(Error::content(format!("{} redirects more than {REDIRECTS} times", redacted(&request.url))))
}

/// Waits for `future` as long as something moves; `None` after a whole `stall` of silence.
async fn while_it_moves<F: Future>(future: F, progress: &AtomicU64, stall: Duration) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    loop {
        let before = progress.load(Ordering::Relaxed);
        match tokio::time::timeout(stall, &mut future).await {
            Ok(output) => return Some(output),
            Err(_) if progress.load(Ordering::Relaxed) == before => return None,
            Err(_) => {}
        }
    }
}

/// The challenge of `/v2/`, for registries whose 401 has none.
async fn ping(shared: &Shared, home: &Origin, settings: &Settings) -> Result<Option<Challenge>> {
    let Ok(url) = Url::parse(&format!("{home}/v2/")) else { return Ok(None) };
    match follow(shared, home, settings, &Request::new(Method::GET, url), None).await? {
        Ok(answer) if answer.status() == 401 && Origin::of(answer.url())? == *home => {
            Ok(Challenge::from_headers(answer.headers(), answer.url()))
        }
        _ => Ok(None),
    }
}

/// All requests to a registry that limits us wait, not just the one that was told (faults.md B19). Whether they did not
/// yet, or not nearly as long.
fn close_gate(shared: &Shared, home: &Origin, wait: Duration) -> bool {
    let until = Instant::now() + wait;
    let mut gates = lock(&shared.gates);
    let before = gates.get(home).copied();
    let is_new = before.is_none_or(|before| until > before + Duration::from_secs(1));
    if before.is_none_or(|before| until > before) {
        gates.insert(home.clone(), until);
    }
    is_new
}

async fn wait_for_gate(shared: &Shared, home: &Origin) {
    let until = lock(&shared.gates).get(home).copied();
    if let Some(wait) = until.and_then(|until| until.checked_duration_since(Instant::now())) {
        tokio::time::sleep(wait).await;
    }
}

/// For how long a host has answered nothing but that we ask too often.
fn limited_for(shared: &Shared, home: &Origin) -> Duration {
    lock(&shared.limited).entry(home.clone()).or_insert_with(Instant::now).elapsed()
}

/// Who limits us, for how long we wait, and why.
fn waiting(home: &Origin, wait: Duration, asked: Option<Duration>, refusal: &Refusal) -> String {
    let asks = if asked.is_some() { ", as it asks" } else { "" };
    let (seconds, said) = (wait.as_secs_f64().ceil(), refusal.said());
    printable(&format!("{home} limits the rate of requests: waiting {seconds} seconds{asks}{said}{}", refusal.limit()))
}

fn rate_limited(home: &Origin, asked: Option<Duration>, refusal: &Refusal) -> Error {
    let asks = asked.map(|asked| format!(" and asks to wait {} seconds", asked.as_secs())).unwrap_or_default();
    let error = format!("{home} limits the rate of requests{asks}{}{}", refusal.said(), refusal.limit());
    let login = match (&refusal.login, &refusal.registry) {
        (None, Some(registry)) => format!("; with a login (skopeo login {registry}) limits are often higher"),
        _ => String::new(),
    };
    Error::new(Kind::RateLimited, error).hint(format!("try again later, or raise --max-wait{login}"))
}

fn silent(host: &str, stall: Duration) -> Error {
    Error::failed(format!("{host} sent nothing for {} seconds", stall.as_secs()))
}

fn host_port(url: &Url) -> String {
    Origin::of(url).map_or_else(|_| redacted(url), |origin| origin.host_port())
}
