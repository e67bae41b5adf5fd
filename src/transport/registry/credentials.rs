//! Credentials as Docker and Podman keep them: `config.json`, `auth.json`, and credential helpers.
//!
//! Sources: docker/cli `cli/config`, containers-auth.json(5), docker-credential-helpers' protocol.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;

use super::helper;
use crate::error::{Error, Kind, Result};
use crate::oci::reference::Repository;

const FILE_LIMIT: u64 = 4 << 20;

/// Text that no log, error or `Debug` may show.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

/// What to log in with.
#[derive(Clone)]
pub(super) enum Login {
    /// A user name and a password.
    Password { user: String, password: Secret },
    /// A refresh token, to be exchanged for access tokens.
    Identity(Secret),
    /// A token that goes to the registry as it is.
    Token(Secret),
}

/// A login and where it was found.
#[derive(Clone)]
pub(super) struct Credential {
    pub(super) login: Login,
    /// Tells this credential from others, without its secret.
    pub(super) id: String,
    /// For messages: the file, or the helper.
    pub(super) source: String,
}

/// Where credentials are looked for, first match wins.
pub(super) struct Credentials {
    places: Vec<Place>,
    found: tokio::sync::Mutex<HashMap<Repository, Option<Credential>>>,
}

enum Place {
    /// The content of a config file, and the name of the variable that holds it.
    Text(String, String),
    /// A file; it must exist if the user named it.
    File { path: PathBuf, named: bool },
}

impl Credentials {
    /// The places that the environment names; just `file` if there is one.
    pub(super) fn new(file: Option<PathBuf>, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let places = match file {
            Some(path) => vec![Place::File { path, named: true }],
            None => {
                let home = set("HOME").map(PathBuf::from);
                let text = set("DOCKER_AUTH_CONFIG")
                    .map(|text| Place::Text("DOCKER_AUTH_CONFIG".into(), text.to_string_lossy().into_owned()));
                let named = set("REGISTRY_AUTH_FILE").map(|path| Place::File { path: path.into(), named: true });
                let default = |path: PathBuf| Place::File { path, named: false };
                let podman = [
                    set("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("containers/auth.json")),
                    set("XDG_CONFIG_HOME")
                        .map(PathBuf::from)
                        .or_else(|| home.as_ref().map(|home| home.join(".config")))
                        .map(|dir| dir.join("containers/auth.json")),
                ];
                let podman = podman.into_iter().flatten().map(default).filter(|_| named.is_none()).collect::<Vec<_>>();
                let docker = set("DOCKER_CONFIG")
                    .map(PathBuf::from)
                    .or_else(|| home.as_ref().map(|home| home.join(".docker")))
                    .map(|dir| default(dir.join("config.json")));
                text.into_iter().chain(named).chain(podman).chain(docker).collect()
            }
        };
        Credentials { places, found: tokio::sync::Mutex::default() }
    }

    /// The credential for a repository, if there is one.
    pub(super) async fn find(&self, repository: &Repository) -> Result<Option<Credential>> {
        let mut found = self.found.lock().await;
        if let Some(known) = found.get(repository) {
            return Ok(known.clone());
        }
        let mut credential = None;
        for place in &self.places {
            let (name, text) = match place {
                Place::Text(name, text) => (name.clone(), text.clone()),
                Place::File { path, named } => match read_file(path).await {
                    Ok(text) => (path.display().to_string(), text),
                    Err(e) if e.kind() != Kind::NotFound => return Err(e),
                    Err(_) if !named => continue,
                    Err(e) => return Err(Error::usage(e.to_string()).hint("it is named by REGISTRY_AUTH_FILE")),
                },
            };
            credential = match look_up(&text, repository) {
                Ok(Some(Entry::Login(login, key))) => {
                    Some(Credential { login, id: format!("{name}#{key}"), source: name })
                }
                Ok(Some(Entry::Helper { helper, server })) => {
                    helper::get(&helper, &server).await.map_err(|e| e.context(&name))?.map(|login| Credential {
                        login,
                        id: format!("{name}#{helper}#{server}"),
                        source: format!("docker-credential-{helper}"),
                    })
                }
                Ok(None) => None,
                Err(e) => return Err(e.context(name)),
            };
            if credential.is_some() {
                break;
            }
        }
        found.insert(repository.clone(), credential.clone());
        Ok(credential)
    }
}

async fn read_file(path: &PathBuf) -> Result<String> {
    let io = |e: std::io::Error| Error::io(path.display(), &e);
    let file = tokio::fs::File::open(path).await.map_err(io)?;
    let mut text = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut text).await.map_err(io)?;
    String::from_utf8(text).map_err(|_| Error::failed(format!("{}: not UTF-8", path.display())))
}

/// What a config file says about a repository.
pub(super) enum Entry {
    Login(Login, String),
    Helper { helper: String, server: String },
}

/// Values never get into a message, for they may be secrets (faults.md A35).
pub(super) fn look_up(text: &str, repository: &Repository) -> Result<Option<Entry>> {
    // `docker logout` may leave an empty file.
    if text.trim().is_empty() {
        return Ok(None);
    }
    let config: Value = serde_json::from_str(text)
        .map_err(|e| Error::failed(format!("malformed JSON in line {}, column {}", e.line(), e.column())))?;
    let Value::Object(config) = config else { return Err(Error::failed("not a JSON object")) };
    let object = |name: &str| match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(Error::failed(format!("'{name}' is not an object"))),
    };
    let (auths, helpers) = (object("auths")?, object("credHelpers")?);
    for wanted in candidates(repository) {
        if let Some((key, helper)) = find_key(helpers, &wanted) {
            let helper =
                helper.as_str().ok_or_else(|| Error::failed(format!("credHelpers '{key}' is not a string")))?;
            return Ok(Some(Entry::Helper { helper: helper.to_owned(), server: server_name(&wanted) }));
        }
        if let Some((key, entry)) = find_key(auths, &wanted) {
            let login = login(entry).map_err(|e| e.context(format!("auths '{key}'")))?;
            if let Some(login) = login {
                return Ok(Some(Entry::Login(login, key.clone())));
            }
        }
    }
    match config.get("credsStore") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(helper)) if helper.is_empty() => Ok(None),
        Some(Value::String(helper)) => {
            Ok(Some(Entry::Helper { helper: helper.clone(), server: server_name(&repository.registry) }))
        }
        Some(_) => Err(Error::failed("'credsStore' is not a string")),
    }
}

/// `h.io/a/b`, `h.io/a`, `h.io`: the most specific key first (faults.md A24).
fn candidates(repository: &Repository) -> Vec<String> {
    let whole = repository.to_string();
    let cuts = whole.match_indices('/').map(|(at, _)| at).chain([whole.len()]).collect::<Vec<_>>();
    cuts.into_iter().rev().map(|at| whole[..at].to_owned()).collect()
}

fn find_key<'a>(entries: Option<&'a Map<String, Value>>, wanted: &str) -> Option<(&'a String, &'a Value)> {
    let entries = entries?;
    // As written first; the old spellings count only if that is not there.
    entries.get_key_value(wanted).or_else(|| entries.iter().find(|(key, _)| normal_key(key) == wanted))
}

/// `https://index.docker.io/v1/` and its like, in the one spelling that references have.
fn normal_key(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let bare = bare.trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    let (host, path) = match bare.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (bare, None),
    };
    let host = match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    };
    path.map_or(host.clone(), |path| format!("{host}/{path}"))
}

/// What helpers call a registry.
fn server_name(registry: &str) -> String {
    if registry == "docker.io" { "https://index.docker.io/v1/".to_owned() } else { registry.to_owned() }
}

fn login(entry: &Value) -> Result<Option<Login>> {
    let entry = match entry {
        Value::Null => return Ok(None),
        Value::Object(entry) => entry,
        _ => return Err(Error::failed("not an object")),
    };
    let text = |name: &str| match entry.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Error::failed(format!("'{name}' is not a string"))),
    };
    if let Some(token) = text("identitytoken")? {
        return Ok(Some(Login::Identity(Secret::new(token))));
    }
    if let Some(token) = text("registrytoken")? {
        return Ok(Some(Login::Token(Secret::new(token))));
    }
    if let Some(auth) = text("auth")? {
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &ALPHABET,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let malformed = || Error::failed("'auth' is not the base64 of USER:PASSWORD");
        let decoded = LENIENT.decode(auth.trim()).map_err(|_| malformed())?;
        let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
        let (user, password) = decoded.split_once(':').ok_or_else(malformed)?;
        // Docker pads with NUL.
        return Ok(Some(password_login(user, password.trim_end_matches('\0'))));
    }
    match (text("username")?, text("password")?) {
        (Some(user), Some(password)) => Ok(Some(password_login(user, password))),
        _ => Ok(None),
    }
}

/// The user name `<token>` marks a refresh token.
pub(super) fn password_login(user: &str, password: &str) -> Login {
    match user {
        "<token>" => Login::Identity(Secret::new(password)),
        user => Login::Password { user: user.to_owned(), password: Secret::new(password) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(text: &str) -> Repository {
        let (registry, path) = text.split_once('/').unwrap();
        Repository { registry: registry.into(), path: path.into() }
    }

    fn shown(entry: Option<Entry>) -> String {
        match entry {
            None => "none".into(),
            Some(Entry::Helper { helper, server }) => format!("helper {helper} {server}"),
            Some(Entry::Login(Login::Identity(token), _)) => format!("identity {}", token.expose()),
            Some(Entry::Login(Login::Token(token), _)) => format!("token {}", token.expose()),
            Some(Entry::Login(Login::Password { user, password }, _)) => format!("{user}:{}", password.expose()),
        }
    }

    #[test]
    fn files_in_all_their_forms() {
        // "dTpw" is u:p, "dTpwOnE=" is u:p:q, "cjpwAA==" is r:p\0, "PHRva2VuPjp0" is <token>:t
        for (file, name, expected) in [
            ("", "h.io/a", "none"),
            (" \n", "h.io/a", "none"),
            ("{}", "h.io/a", "none"),
            (r#"{"auths":null}"#, "h.io/a", "none"),
            (r#"{"auths":{"h.io":{}}}"#, "h.io/a", "none"),
            (r#"{"auths":{"h.io":null}}"#, "h.io/a", "none"),
            (r#"{"auths":{"h.io":{"auth":"dTpw"}}}"#, "h.io/a", "u:p"),
            (r#"{"auths":{"h.io":{"auth":"dTpwOnE="}}}"#, "h.io/a", "u:p:q"),
            (r#"{"auths":{"h.io":{"auth":"dTpwOnE"}}}"#, "h.io/a", "u:p:q"),
            (r#"{"auths":{"h.io":{"auth":"cjpwAA=="}}}"#, "h.io/a", "r:p"),
            (r#"{"auths":{"h.io":{"auth":"PHRva2VuPjp0"}}}"#, "h.io/a", "identity t"),
            (r#"{"auths":{"h.io":{"auth":"dTpw","identitytoken":"t"}}}"#, "h.io/a", "identity t"),
            (r#"{"auths":{"h.io":{"registrytoken":"t"}}}"#, "h.io/a", "token t"),
            (r#"{"auths":{"h.io":{"username":"u","password":"p"}}}"#, "h.io/a", "u:p"),
            (r#"{"auths":{"https://H.io/v2/":{"auth":"dTpw"}}}"#, "h.io/a", "u:p"),
            (r#"{"auths":{"h.io:5000":{"auth":"dTpw"}}}"#, "h.io/a", "none"),
            (r#"{"auths":{"http://h.io:5000":{"auth":"dTpw"}}}"#, "h.io:5000/a", "u:p"),
            (r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#, "docker.io/library/kong", "u:p"),
            (r#"{"auths":{"registry-1.docker.io":{"auth":"dTpw"}}}"#, "docker.io/library/kong", "u:p"),
            (r#"{"auths":{"docker.io":{"auth":"dTpw"}}}"#, "docker.io/library/kong", "u:p"),
            (r#"{"auths":{"h.io":{"auth":"dTpw"},"h.io/a/b":{"auth":"dTpwOnE="}}}"#, "h.io/a/b/c", "u:p:q"),
            (r#"{"auths":{"h.io":{"auth":"dTpw"},"h.io/a/b":{"auth":"dTpwOnE="}}}"#, "h.io/a/bc", "u:p"),
            (r#"{"credHelpers":{"h.io":"x"},"credsStore":"y"}"#, "h.io/a", "helper x h.io"),
            (r#"{"credHelpers":{"h.io":"x"},"credsStore":"y"}"#, "g.io/a", "helper y g.io"),
            (r#"{"credsStore":"y"}"#, "docker.io/a/b", "helper y https://index.docker.io/v1/"),
            (r#"{"credsStore":""}"#, "h.io/a", "none"),
        ] {
            assert_eq!(shown(look_up(file, &repository(name)).unwrap()), expected, "{file} {name}");
        }
    }

    #[test]
    fn malformed_files_are_errors_without_values() {
        for file in [
            r#"{"auths":"hunter2"}"#,
            r#"{"auths":{"h.io":"hunter2"}}"#,
            r#"{"auths":{"h.io":{"auth":"hunter2!"}}}"#,
            r#"{"auths":{"h.io":{"auth":"aHVudGVyMg=="}}}"#,
            r#"{"auths":{"h.io":{"auth":["hunter2"]}}}"#,
            r#"{"auths":{"h.io":{"identitytoken":7}}}"#,
            r#"{"credHelpers":["hunter2"]}"#,
            r#"{"credsStore":{"hunter2":1}}"#,
            r#"["hunter2"]"#,
            "hunter2",
            "\u{feff}{}",
            r#"{"auths":{"h.io":{"auth":"hunter2"#,
        ] {
            let Err(error) = look_up(file, &repository("h.io/a")) else { panic!("{file}") };
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_file_is_no_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("config.json")).unwrap();
        let own = |name: &str| (name == "DOCKER_CONFIG").then(|| directory.path().into());
        assert!(Credentials::new(None, own).find(&repository("h.io/a")).await.is_err());
        let nowhere = |name: &str| (name == "DOCKER_CONFIG").then(|| "/does/not/exist".into());
        assert!(Credentials::new(None, nowhere).find(&repository("h.io/a")).await.unwrap().is_none());
    }
}
