//! Credential helpers: programs that keep credentials for Docker and Podman.
//!
//! A helper that fails is an error and never «no credentials»: the Docker CLI once went on without, and sent a password
//! to the wrong registry (CVE-2021-41092). What a helper says on stderr is not repeated.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::credentials::{Login, password_login};
use crate::error::{Error, Result};

const TIME: Duration = Duration::from_secs(30);
const OUTPUT: u64 = 64 << 10;

/// Asks `docker-credential-HELPER` for the login to `server`.
pub(super) async fn get(helper: &str, server: &str) -> Result<Option<Login>> {
    if helper.is_empty() || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(Error::failed("the name of a credential helper has characters that it cannot have"));
    }
    let program = format!("docker-credential-{helper}");
    let mut command = Command::new(&program);
    command.arg("get");
    ask(command, &program, server, TIME).await
}

async fn ask(mut command: Command, program: &str, server: &str, time: Duration) -> Result<Option<Login>> {
    let run = async {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| {
                Error::failed(format!("cannot run the credential helper {program}: {e}"))
                    .hint("install it, or remove it from the file that names it")
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper need not read what it was asked.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(OUTPUT + 1).read_to_end(&mut output).await.map_err(|e| Error::io(program, &e))?;
        }
        if output.len() as u64 > OUTPUT {
            return Err(Error::failed(format!("{program} says more than {OUTPUT} bytes")));
        }
        let status = child.wait().await.map_err(|e| Error::io(program, &e))?;
        Ok((status, output))
    };
    let (status, output) = tokio::time::timeout(time, run)
        .await
        .map_err(|_| Error::failed(format!("{program} did not answer within {} seconds", time.as_secs())))??;
    if !status.success() {
        // The one failure of the protocol that means «none», said on stdout.
        if String::from_utf8_lossy(&output).contains("credentials not found") {
            return Ok(None);
        }
        return Err(Error::failed(format!("{program} failed for {server} ({status})")));
    }
    let malformed = || Error::failed(format!("{program} did not answer with a user name and a secret"));
    let answer: Value = serde_json::from_slice(&output).map_err(|_| malformed())?;
    let text = |name: &str| answer.get(name).and_then(Value::as_str);
    match (text("Username"), text("Secret")) {
        (Some(user), Some(secret)) if !secret.is_empty() => Ok(Some(password_login(user, secret))),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_stay_names() {
        for name in ["", "../x", "a b", "x;y", "a/b"] {
            let error = get(name, "h.io").await.err().unwrap();
            assert!(error.to_string().contains("characters that it cannot have"), "{name}: {error}");
        }
        assert!(get("does-not-exist-anywhere", "h.io").await.is_err());
    }

    #[tokio::test]
    async fn what_helpers_do() {
        for (script, expected) in [
            (r#"read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"$s\",\"Secret\":\"p\"}""#, Ok("h.io:p")),
            (r#"echo '{"Username":"<token>","Secret":"t"}'"#, Ok("identity t")),
            ("echo 'credentials not found in native keychain'; exit 1", Ok("none")),
            ("echo hunter2 >&2; exit 1", Err("failed for h.io")),
            ("echo hunter2; exit 3", Err("failed for h.io")),
            ("echo hunter2", Err("did not answer with")),
            (r#"echo '{"Username":"u","Secret":""}'"#, Err("did not answer with")),
            ("exec cat /dev/zero", Err("says more than")),
            ("exec sleep 60", Err("did not answer within")),
        ] {
            let mut command = Command::new("sh");
            command.arg("-c").arg(script);
            let time = Duration::from_secs(if script.contains("sleep") { 1 } else { 20 });
            let answer = ask(command, "docker-credential-test", "h.io", time).await.map(|login| match login {
                None => "none".to_owned(),
                Some(Login::Password { user, password }) => format!("{user}:{}", password.expose()),
                Some(Login::Identity(token) | Login::Token(token)) => format!("identity {}", token.expose()),
            });
            match (answer, expected) {
                (Ok(answer), Ok(expected)) => assert_eq!(answer, expected, "{script}"),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{script}: {error}");
                    assert!(!error.to_string().contains("hunter2"), "{script}: {error}");
                }
                (answer, _) => panic!("{script}: {:?}", answer.map_err(|e| e.to_string())),
            }
        }
    }
}
