//! A listener that a registry sends the client to. It gives everybody the same answer and keeps every byte that it hears.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The listener; its threads end with the process.
pub struct Attacker {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Attacker {
    /// Answers every request with the bytes that `answer` makes of the listener's own address, `http://127.0.0.1:PORT`.
    pub fn start(answer: impl FnOnce(&str) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let attacker = Attacker { port: listener.local_addr().unwrap().port(), heard: Arc::default() };
        let (answer, heard) = (answer(&attacker.url("")), attacker.heard.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (answer, heard) = (answer.clone(), heard.clone());
                std::thread::spawn(move || {
                    // The answer comes early; whoever still sends then is still listened to.
                    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                    let (mut buffer, mut answered) = ([0; 4096], false);
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        heard.lock().unwrap().extend_from_slice(&buffer[..read]);
                        if !std::mem::replace(&mut answered, true) && stream.write_all(answer.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        attacker
    }

    /// `http://127.0.0.1:PORT` and `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).to_ascii_lowercase()
    }

    /// Nobody said a word.
    #[track_caller]
    pub fn was_left_alone(&self) {
        assert_eq!(self.heard(), "");
    }

    /// Somebody asked, so often, and gave none of `secrets` away, nor any header that is one.
    #[track_caller]
    pub fn learned_nothing(&self, asked: usize, secrets: &[&str]) {
        let heard = self.heard();
        assert_eq!(heard.matches(" http/1.1\r\n").count(), asked, "{heard}");
        for secret in ["authorization:", "cookie:", "referer:", "refresh_token", "password"].iter().chain(secrets) {
            assert!(!heard.contains(&secret.to_ascii_lowercase()), "{secret} in {heard}");
        }
    }
}
