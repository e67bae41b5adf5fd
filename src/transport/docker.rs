//! A Docker engine: what it saves and loads, over its HTTP API on a Unix socket.
//!
//! Source: Docker Engine API, "Images" (`/images/{name}/get`, `/images/load`, `/images/{name}/json`).

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::blob::{Spool, SpoolWriter, temporary_error};
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::transport::{ByteStream, blocking};

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long the engine may stay silent; it may have to pack a large layer before it says the first word.
const STALL: Duration = Duration::from_secs(300);

/// A Docker engine that can be asked.
#[derive(Clone, Debug)]
pub struct Engine {
    client: Client,
    socket: PathBuf,
    limits: Limits,
}

impl Engine {
    /// The engine at `host`, as `DOCKER_HOST` has it: `unix://PATH`, or a path. Nothing is connected yet.
    pub fn new(host: &str, limits: Limits) -> Result<Self> {
        let socket = match host.split_once("://") {
            Some(("unix", path)) => path,
            None => host,
            Some((scheme, _)) => {
                return Err(Error::usage(format!("a Docker engine at {scheme}:// is not supported here")).hint(
                    "use one with a Unix socket, or docker save and docker load with docker-archive:- in between",
                ));
            }
        };
        let socket = PathBuf::from(if socket.is_empty() { DEFAULT_SOCKET } else { socket });
        let client = Client::builder()
            .unix_socket(socket.as_path())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .tls_certs_only([])
            .read_timeout(STALL)
            .build()
            .map_err(|e| Error::failed(format!("cannot set up a connection to {}: {e}", socket.display())))?;
        Ok(Engine { client, socket, limits })
    }

    /// Whether both are one engine.
    pub fn is_same(&self, other: &Engine) -> bool {
        self.socket == other.socket
    }

    /// The ID that the engine has for the image `name`: the digest of its config, or of its manifest where images are in
    /// a containerd. `None`: it has no such image.
    pub async fn id(&self, name: &str) -> Result<Option<String>> {
        let response = self.send(self.request(Method::GET, &format!("images/{name}/json"))).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = self.json(response).await?;
        Ok(answer.get("Id").and_then(Value::as_str).map(str::to_owned))
    }

    /// The names of all images.
    pub async fn names(&self) -> Result<Vec<String>> {
        let answer = self.json(self.send(self.request(Method::GET, "images/json")).await?).await?;
        let images = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        let names = images.iter().filter_map(|image| image.get("RepoTags")?.as_array()).flatten();
        Ok(names.filter_map(Value::as_str).filter(|name| !name.starts_with('<')).map(str::to_owned).collect())
    }

    /// What `docker save` writes for the image `name`; `None`: it has no such image.
    pub async fn save(&self, name: &str) -> Result<Option<Spool>> {
        let response = self.send(self.request(Method::GET, &format!("images/{name}/get"))).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let mut response = self.check(response).await?;
        let mut spool = SpoolWriter::new()?;
        let mut total = 0;
        while let Some(piece) = response.chunk().await.map_err(|e| self.broken(&e))? {
            total += piece.len() as u64;
            self.limits.check_unpacked(total, None, &format!("{self}: {name}"))?;
            spool = blocking(move || {
                spool.write_all(&piece).map_err(|e| temporary_error(&e))?;
                Ok(spool)
            })
            .await?;
        }
        Ok(Some(spool.finish()))
    }

    /// Gives the engine an archive, as `docker load` does.
    pub async fn load(&self, archive: ByteStream) -> Result<()> {
        let request = self.request(Method::POST, "images/load?quiet=1").header("Content-Type", "application/x-tar");
        let response = self.send(request.body(Body::wrap_stream(archive))).await?;
        let said = self.text(self.check(response).await?).await?;
        // The status is sent before the work is done; an error comes as one of the lines.
        for line in said.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            if let Some(error) = line.get("error").and_then(Value::as_str) {
                return Err(Error::failed(format!("{self} could not load the image: {error}")));
            }
        }
        Ok(())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // A name with slashes is a path of the API as it stands; it was checked by the grammar of references.
        self.client.request(method, format!("http://docker/{path}"))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|e| self.broken(&e))
    }

    fn broken(&self, error: &reqwest::Error) -> Error {
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            if let Some(ours) = next.downcast_ref::<Error>() {
                return ours.clone();
            }
            if let Some(io) = next.downcast_ref::<std::io::Error>() {
                if let Some(ours) = io.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
                    return ours.clone();
                }
                match io.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        return Error::new(Kind::Denied, format!("{self}: permission denied"))
                            .hint("use the group docker, or root");
                    }
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                        return Error::not_found(format!("{self}: nothing answers there"))
                            .hint("start the engine, or say where it is with DOCKER_HOST=unix://PATH");
                    }
                    _ => {}
                }
            }
            cause = next;
        }
        Error::failed(format!("{self}: the connection broke: {cause}"))
    }

    /// The answer, if it is no refusal.
    async fn check(&self, response: Response) -> Result<Response> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = self.text(response).await?;
        let message = serde_json::from_str::<Value>(&text).ok();
        let message = message.as_ref().and_then(|value| value.get("message")?.as_str()).unwrap_or(&text);
        let message: String = message.chars().take(500).collect();
        Err(Error::failed(format!("{self} answered {status}: {message}")))
    }

    async fn json(&self, response: Response) -> Result<Value> {
        let text = self.text(self.check(response).await?).await?;
        serde_json::from_str(&text).map_err(|e| Error::content(format!("{self}: malformed answer: {e}")))
    }

    async fn text(&self, mut response: Response) -> Result<String> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.broken(&e))? {
            let (size, limit) = ((body.len() + piece.len()) as u64, self.limits.document());
            if size > limit {
                return Err(self.limits.too_large(format!("{self}: the answer has {size} bytes or more"), limit));
            }
            body.extend_from_slice(&piece);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the Docker engine at {}", self.socket.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_unix_sockets() {
        for (host, socket) in [
            ("", Some(DEFAULT_SOCKET)),
            ("unix://", Some(DEFAULT_SOCKET)),
            ("unix:///run/user/1000/docker.sock", Some("/run/user/1000/docker.sock")),
            ("/run/docker.sock", Some("/run/docker.sock")),
            ("tcp://10.0.0.1:2375", None),
            ("ssh://host", None),
        ] {
            let engine = Engine::new(host, Limits::default()).ok();
            assert_eq!(engine.map(|engine| engine.socket), socket.map(PathBuf::from), "{host}");
        }
    }
}
