//! An HTTP proxy, for tunnels (CONNECT) and for plain http. Whatever it is asked for, it asks one registry.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::registry::{Registry, basic};

/// What a proxy does with requests.
#[derive(Clone, Copy)]
pub enum Policy {
    Pass,
    /// For who has this user name and password, and 407 for others.
    Login(&'static str, &'static str),
    /// This status for everybody.
    Refuse(u16),
    /// The end of the connection, without a word.
    HangUp,
}

/// The proxy; its threads end with the process.
pub struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn start(registry: &Registry, policy: Policy) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy { port: listener.local_addr().unwrap().port(), heads: Arc::default() };
        let (target, heads) = (registry.host(), proxy.heads.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (target, heads) = (target.clone(), heads.clone());
                std::thread::spawn(move || serve(stream, &target, policy, &heads));
            }
        });
        proxy
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn serve(mut client: TcpStream, target: &str, policy: Policy, heads: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(reader.read_line(&mut head), Ok(1..)) {
                return;
            }
        }
        heads.lock().unwrap().push(head.clone());
        let header = |name: &str| {
            let value = |line: &str| {
                line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
            };
            head.lines().find_map(value)
        };
        let status = match policy {
            Policy::Pass => None,
            Policy::Login(user, password) => {
                (header("proxy-authorization") != Some(basic(user, password))).then_some(407)
            }
            Policy::Refuse(status) => Some(status),
            Policy::HangUp => return,
        };
        if let Some(status) = status {
            let answer =
                format!("HTTP/1.1 {status} No\r\nproxy-authenticate: Basic realm=\"p\"\r\ncontent-length: 0\r\n\r\n");
            if client.write_all(answer.as_bytes()).is_err() {
                return;
            }
            continue;
        }
        let mut server = TcpStream::connect(target).unwrap();
        if head.starts_with("CONNECT ") {
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut upwards, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut server, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            let _ = std::io::copy(&mut reader, &mut upwards);
            let _ = upwards.shutdown(Shutdown::Both);
            return;
        }
        // «GET http://host/path HTTP/1.1» becomes «GET /path HTTP/1.1», and what is for the proxy stays here.
        let (method, rest) = head.split_once(" http://").unwrap();
        let path = &rest[rest.find('/').unwrap()..];
        let lines = path.lines().filter(|line| !line.to_ascii_lowercase().starts_with("proxy-"));
        let forwarded = format!("{method} {}\r\n", lines.collect::<Vec<_>>().join("\r\n"));
        let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        server.write_all(&[forwarded.as_bytes(), &body].concat()).unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        if std::io::copy(&mut server, &mut client).is_err() {
            return;
        }
    }
}
