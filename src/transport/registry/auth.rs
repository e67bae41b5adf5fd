//! Answers to challenges: which `Authorization` a request carries, and where tokens come from.
//!
//! Source: distribution `docs/content/spec/auth/token.md` and `oauth.md`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::challenge::Challenge;
use super::credentials::{Credential, Login, Secret};
use super::http::{self, Outcome, Request};
use super::mirrors::Settings;
use super::origin::{self, Origin, Reach};
use super::{Shared, lock, origin::redacted};
use crate::error::{Error, Kind, Result};

/// What a request is allowed to touch: `repository:PATH:ACTIONS`.
pub(super) type Scopes = Vec<String>;

/// Tokens by what they are for, and the last challenge of each registry.
#[derive(Default)]
pub(super) struct Cache {
    challenges: Mutex<HashMap<Origin, Challenge>>,
    tokens: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Option<Token>>>>>,
}

/// A token of one registry, service, set of scopes and credential is never used for another (faults.md A23).
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    home: Origin,
    realm: Url,
    service: Option<String>,
    scopes: BTreeSet<String>,
    credential: Option<String>,
}

struct Token {
    value: Secret,
    expires: Instant,
}

/// An `Authorization` header, marked so that no log shows it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authorization(pub(super) HeaderValue);

impl Authorization {
    fn new(text: String) -> Result<Self> {
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| Error::new(Kind::Denied, "a token or password has characters that no header can carry"))?;
        value.set_sensitive(true);
        Ok(Authorization(value))
    }

    /// Whether it is a token: then some service accepted the credentials that it came from.
    pub(super) fn is_token(&self) -> bool {
        self.0.as_bytes().starts_with(b"Bearer ")
    }

    fn bearer(token: &Secret) -> Result<Self> {
        Authorization::new(format!("Bearer {}", token.expose()))
    }

    fn basic(user: &str, password: &Secret) -> Result<Self> {
        Authorization::new(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose()))))
    }
}

/// Who is asking, and for what.
pub(super) struct Access<'a> {
    /// The registry's origin; nobody else ever gets an answer to a challenge.
    pub(super) home: &'a Origin,
    /// `docker.io/library/kong`: what credentials are looked up by.
    pub(super) repository: &'a crate::oci::reference::Repository,
    /// What the request needs.
    pub(super) scopes: &'a [String],
    /// How to talk to the registry.
    pub(super) settings: &'a Arc<Settings>,
}

/// What to send without being asked: the answer to the registry's last challenge, if there was one.
pub(super) async fn expected(shared: &Shared, access: &Access<'_>) -> Result<Option<Authorization>> {
    let known = lock(&shared.auth.challenges).get(access.home).cloned();
    match known {
        Some(challenge) => answer(shared, access, &challenge, None, access.scopes).await,
        None => Ok(None),
    }
}

/// The answer to a challenge; `rejected` is what was just refused and must not be sent again.
pub(super) async fn challenged(
    shared: &Shared,
    access: &Access<'_>,
    challenge: Option<Challenge>,
    rejected: Option<&Authorization>,
) -> Result<Option<Authorization>> {
    let challenge = match challenge {
        Some(challenge) => challenge,
        // gcr.io may answer 401 without a challenge (faults.md A28).
        None => match lock(&shared.auth.challenges).get(access.home).cloned() {
            Some(challenge) => challenge,
            None => return Ok(None),
        },
    };
    lock(&shared.auth.challenges).insert(access.home.clone(), challenge.clone());
    let asked = match &challenge {
        Challenge::Bearer { scope: Some(scope), .. } => merge_scopes(scope, access.scopes),
        _ => access.scopes.to_vec(),
    };
    let answer = answer(shared, access, &challenge, rejected, &asked).await?;
    Ok(answer.filter(|a| Some(a) != rejected))
}

async fn answer(
    shared: &Shared,
    access: &Access<'_>,
    challenge: &Challenge,
    rejected: Option<&Authorization>,
    scopes: &[String],
) -> Result<Option<Authorization>> {
    let credential = shared.credentials.find(access.repository).await?;
    match (challenge, credential.as_ref().map(|c| &c.login)) {
        (_, Some(Login::Token(token))) => Authorization::bearer(token).map(Some),
        (Challenge::Basic, Some(Login::Password { user, password })) => Authorization::basic(user, password).map(Some),
        (Challenge::Basic, Some(Login::Identity(_))) => Err(Error::new(
            Kind::Denied,
            format!("{} wants a user name and password, but the credentials hold an identity token", access.home),
        )),
        (Challenge::Basic, None) => Ok(None),
        (Challenge::Bearer { realm, service, .. }, _) => {
            let key = Key {
                home: access.home.clone(),
                realm: realm.clone(),
                service: service.clone(),
                scopes: access.scopes.iter().cloned().collect(),
                credential: credential.as_ref().map(|c| c.id.clone()),
            };
            let slot = lock(&shared.auth.tokens).entry(key).or_default().clone();
            // Held while fetching, so that many workers fetch one token; an error leaves nothing behind (B30).
            let mut slot = slot.lock().await;
            if let Some(token) = slot.as_ref().filter(|token| token.expires > Instant::now()) {
                let cached = Authorization::bearer(&token.value)?;
                if Some(&cached) != rejected {
                    return Ok(Some(cached));
                }
            }
            let request = request(shared, access, realm, service.as_deref(), scopes, credential.as_ref()).await?;
            let token = fetch(shared, access, realm, &request, credential.as_ref()).await?;
            let authorization = Authorization::bearer(&token.value)?;
            *slot = Some(token);
            Ok(Some(authorization))
        }
    }
}

async fn fetch(
    shared: &Shared,
    access: &Access<'_>,
    realm: &Url,
    request: &Request,
    credential: Option<&Credential>,
) -> Result<Token> {
    let place = Origin::of(realm)?;
    let what = format!("token service {place}");
    match Box::pin(http::fetch_small(shared, None, request, shared.options.limits.header(), &what)).await? {
        Outcome::Success((_, body)) => parse_token(&body)
            .ok_or_else(|| Error::new(Kind::Denied, format!("{}: the answer has no token", redacted(realm)))),
        Outcome::Refused(refusal)
            if matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST)
                && credential.is_some() =>
        {
            let source = credential.map(|c| c.source.as_str()).unwrap_or_default();
            Err(Error::new(
                Kind::Denied,
                format!("{place} refused the credentials for {} from {source}{}", access.repository, refusal.said()),
            )
            .hint(format!("log in again: skopeo login {}", access.repository.registry)))
        }
        Outcome::Refused(mut refusal) if matches!(refusal.status.as_u16(), 401 | 403) => {
            refusal.registry = Some(access.repository.registry.clone());
            Err(refusal.into_error(&what))
        }
        Outcome::Refused(refusal) => {
            Err(Error::failed(format!("{what} answered {}{}", refusal.status, refusal.said())))
        }
        Outcome::Lost(error) => Err(error.context(what)),
    }
}

/// The request for a token; an error if `realm` may not be asked.
async fn request(
    shared: &Shared,
    access: &Access<'_>,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    credential: Option<&Credential>,
) -> Result<Request> {
    let reach = permitted(shared, access.home, realm, credential.is_some()).await?;
    let mut url = realm.clone();
    let mut request = match credential.map(|credential| &credential.login) {
        Some(Login::Identity(token)) => {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("client_id", "capatch")
                .append_pair("scope", &scopes.join(" "))
                .append_pair("refresh_token", token.expose())
                .finish();
            let mut request = Request::new(Method::POST, url);
            request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            request.bytes(form.into())
        }
        login => {
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = service {
                    query.append_pair("service", service);
                }
                // Some registries honour the first scope only (faults.md A25).
                for scope in scopes {
                    query.append_pair("scope", scope);
                }
            }
            let mut request = Request::new(Method::GET, url);
            if let Some(Login::Password { user, password }) = login {
                request.authorization = Some(Authorization::basic(user, password)?);
            }
            request
        }
    };
    request.reach = reach;
    if Origin::of(realm)? == *access.home {
        // A token service at the registry's own address is trusted as the registry is.
        request.settings = access.settings.clone();
    }
    request.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    Ok(request)
}

/// How far the address of a token service may reach, if `home` names it and not the user. An error if it may not be asked,
/// or not with `credentials`.
async fn permitted(shared: &Shared, home: &Origin, realm: &Url, credentials: bool) -> Result<Option<Reach>> {
    let place = Origin::of(realm)?;
    let hosts = &shared.options.realm_hosts;
    let named = hosts.iter().any(|entry| place.is_named(entry));
    if !named {
        let from = Url::parse(&home.to_string()).map_err(|_| Error::failed(format!("{home} is not a URL")))?;
        origin::allow_hop(&from, realm, http::reach(shared, home).await).map_err(|e| e.context("token service"))?;
    } else if home.is_https() && !place.is_https() {
        return Err(Error::content(format!("the token service {place} of {home} is not reached over https")));
    }
    if credentials && !origin::may_have_credentials(home, &place, hosts) {
        return Err(Error::new(
            Kind::Denied,
            format!("{home} wants the credentials sent to another host, {place}: refused"),
        )
        .hint(format!("if you trust that host with them, say --realm-host {}", place.name())));
    }
    Ok(if named || place == *home { None } else { Some(http::reach(shared, home).await) })
}

/// Token services name the token `token` or `access_token`. Expiry: a minute if nothing sensible is said, an hour at
/// most (faults.md A31).
fn parse_token(body: &[u8]) -> Option<Token> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text("token").or_else(|| text("access_token"))?;
    let seconds = value.get("expires_in").and_then(Value::as_f64).unwrap_or(60.0).clamp(60.0, 3600.0);
    // Ten seconds less, for a token must not run out on its way.
    let expires = Instant::now() + Duration::from_secs_f64(seconds) - Duration::from_secs(10);
    Some(Token { value: Secret::new(token), expires })
}

/// The scopes of a challenge first, then what else the request needs. `delete` is never asked for: Quay would refuse
/// the whole token (faults.md A26).
fn merge_scopes(challenge: &str, ours: &[String]) -> Scopes {
    let mut merged: Vec<(String, BTreeSet<String>)> = Vec::new();
    for scope in challenge.split_ascii_whitespace().chain(ours.iter().map(String::as_str)) {
        // `repository:host:5000/a:pull`: the actions are behind the last colon.
        let Some((resource, actions)) = scope.rsplit_once(':') else { continue };
        let actions = actions.split(',').filter(|a| !matches!(*a, "" | "delete")).map(str::to_owned);
        match merged.iter_mut().find(|(r, _)| r == resource) {
            Some((_, known)) => known.extend(actions),
            None => merged.push((resource.to_owned(), actions.collect())),
        }
    }
    merged
        .into_iter()
        .filter(|(_, actions)| !actions.is_empty())
        .map(|(resource, actions)| format!("{resource}:{}", actions.into_iter().collect::<Vec<_>>().join(",")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_leniently_and_expire_soon() {
        for (body, expected) in [
            (r#"{"token":"a"}"#, Some(("a", 60))),
            (r#"{"access_token":"a","expires_in":300}"#, Some(("a", 300))),
            (r#"{"token":"a","access_token":"b","expires_in":0}"#, Some(("a", 60))),
            (r#"{"token":"","access_token":"b","expires_in":-1}"#, Some(("b", 60))),
            (r#"{"token":"a","expires_in":1e18,"issued_at":"2999-01-01T00:00:00Z"}"#, Some(("a", 3600))),
            (r#"{"token":"a","expires_in":1000000000000000000}"#, Some(("a", 3600))),
            (r#"{"token":"a","expires_in":"soon"}"#, Some(("a", 60))),
            (r#"{"token":7}"#, None),
            ("{}", None),
            ("[]", None),
            ("<html>", None),
            ("", None),
        ] {
            let token = parse_token(body.as_bytes());
            assert_eq!(token.is_some(), expected.is_some(), "{body}");
            if let (Some(token), Some((value, seconds))) = (token, expected) {
                assert_eq!(token.value.expose(), value);
                let left = token.expires.duration_since(Instant::now()).as_secs();
                assert!((seconds - 12..seconds - 9).contains(&left), "{body}: {left}");
            }
        }
    }

    fn origin(text: &str) -> Origin {
        Origin::of(&Url::parse(text).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn which_token_services_are_asked() {
        let options = super::super::Options { realm_hosts: vec!["auth.corp".into()], ..Default::default() };
        let shared = super::super::Client::new(options).unwrap().0;
        for (home, reach) in [("https://registry.io", Reach::Public), ("https://r.corp", Reach::Private)] {
            lock(&shared.reaches).insert(origin(home), reach);
        }
        let repository = crate::oci::reference::Repository { registry: "r".into(), path: "a".into() };
        let settings = Arc::default();
        // Without credentials, and with them.
        for (home, realm, asked, trusted) in [
            ("https://registry.io", "https://registry.io/token", Some(None), true),
            ("https://registry.io", "https://auth.registry.io/token", Some(Some(Reach::Public)), true),
            ("https://registry.io", "https://evil.com/token", Some(Some(Reach::Public)), false),
            ("https://registry.io", "https://auth.corp/token", Some(None), true),
            ("https://registry.io", "http://auth.corp/token", None, false),
            ("https://registry.io", "http://registry.io/token", None, false),
            ("https://registry.io", "https://10.0.0.1/token", None, false),
            ("https://r.corp", "https://10.0.0.1/token", Some(Some(Reach::Private)), false),
            ("https://r.corp", "https://127.0.0.1/token", None, false),
            ("https://10.0.0.1:5000", "https://10.0.0.1:5000/token", Some(None), true),
        ] {
            let realm = Url::parse(realm).unwrap();
            assert_eq!(permitted(&shared, &origin(home), &realm, false).await.ok(), asked, "{home} {realm}");
            assert_eq!(permitted(&shared, &origin(home), &realm, true).await.is_ok(), trusted, "{home} {realm}");
            // And they are asked no further away.
            let access = Access { home: &origin(home), repository: &repository, scopes: &[], settings: &settings };
            let request = request(&shared, &access, &realm, None, &[], None).await;
            assert_eq!(request.ok().map(|request| request.reach), asked, "{home} {realm}");
        }
    }

    #[tokio::test]
    async fn a_token_is_used_until_it_ends() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let home = origin(&format!("http://{closed}"));
        let (nobody, retry_base) = (tempfile::NamedTempFile::new().unwrap(), Duration::from_millis(1));
        let options = super::super::Options { auth_file: Some(nobody.path().into()), retry_base, ..Default::default() };
        let shared = super::super::Client::new(options).unwrap().0;
        let repository = crate::oci::reference::Repository { registry: closed.to_string(), path: "a".into() };
        let (settings, scopes) = (Arc::default(), ["repository:a:pull".to_owned()]);
        let access = Access { home: &home, repository: &repository, scopes: &scopes, settings: &settings };
        let realm = Url::parse(&format!("{home}/token")).unwrap();
        let challenge = Challenge::Bearer { realm: realm.clone(), service: None, scope: None };
        lock(&shared.auth.challenges).insert(home.clone(), challenge);
        for (left, used) in [(Duration::from_secs(9), true), (Duration::ZERO, false)] {
            let token = Token { value: Secret::new("t"), expires: Instant::now() + left };
            let scopes = scopes.iter().cloned().collect();
            let key = Key { home: home.clone(), realm: realm.clone(), service: None, scopes, credential: None };
            lock(&shared.auth.tokens).insert(key, Arc::new(tokio::sync::Mutex::new(Some(token))));
            // Nobody is there to give another one.
            assert_eq!(expected(&shared, &access).await.is_ok(), used, "{left:?}");
        }
    }

    #[test]
    fn an_authorization_is_not_shown() {
        let password = Authorization::basic("user", &Secret::new("hunter2")).unwrap();
        let token = Authorization::bearer(&Secret::new("token-1")).unwrap();
        assert_eq!(format!("{:?} {:?}", password.0, token.0), "Sensitive Sensitive");
    }

    #[test]
    fn scopes_of_the_challenge_come_first() {
        let ours = ["repository:b:pull,push".to_owned(), "repository:a:pull".to_owned()];
        for (challenge, merged) in [
            ("repository:b:pull", &["repository:b:pull,push", "repository:a:pull"][..]),
            ("repository:a:pull,delete", &["repository:a:pull", "repository:b:pull,push"]),
            ("x:h:5000/y:z", &["x:h:5000/y:z", "repository:b:pull,push", "repository:a:pull"]),
            ("junk repository:c:delete", &["repository:b:pull,push", "repository:a:pull"]),
            ("", &["repository:b:pull,push", "repository:a:pull"]),
        ] {
            assert_eq!(merge_scopes(challenge, &ours), merged, "{challenge}");
        }
    }
}
