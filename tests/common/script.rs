//! A registry that says what a script says, byte by byte and in its order. Any other request fails the test.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What follows the bytes of an answer.
#[derive(Clone, Copy)]
pub enum Then {
    /// The connection ends.
    Ends,
    /// These bytes again and again, for as long as anybody reads them.
    Repeats(&'static str),
    /// Nothing, though the connection stays.
    Waits,
}

/// `METHOD /path?query`, and the bytes of the answer from the status line on.
pub struct Step(pub String, pub Vec<u8>, pub Then);

/// The registry; its threads end with the process.
pub struct Script {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    heads: Vec<String>,
    unexpected: Vec<String>,
    repeated: usize,
}

impl Script {
    /// Plays the steps that `steps` makes of the registry's address, `127.0.0.1:PORT`.
    pub fn start(steps: impl FnOnce(&str) -> Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = Script { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        script.state.lock().unwrap().steps = steps(&script.host()).into();
        let state = script.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || play(stream, &state));
            }
        });
        script
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The whole script was played, and nothing else was asked. The heads of the requests, in lower case.
    #[track_caller]
    pub fn finish(self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        assert_eq!(state.unexpected, Vec::<String>::new(), "not in the script");
        let left: Vec<&String> = state.steps.iter().map(|step| &step.0).collect();
        assert_eq!(left, Vec::<&String>::new(), "nobody asked");
        state.heads.clone()
    }

    /// Bytes of repetitions that were taken so far: what the client, or the network on its way, took.
    pub fn repeated(&self) -> usize {
        self.state.lock().unwrap().repeated
    }
}

fn play(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            return;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    // An answer to somebody who still sends might never arrive.
    let _ = std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut std::io::sink());
    let request = head.split(" HTTP/").next().unwrap_or_default().to_owned();
    let step = {
        let mut state = state.lock().unwrap();
        state.heads.push(head.to_ascii_lowercase());
        match state.steps.pop_front() {
            Some(step) if step.0 == request => step,
            other => {
                state.unexpected.push(request);
                state.steps.extend(other);
                return;
            }
        }
    };
    let Step(_, answer, then) = step;
    // Each step has a connection of its own.
    let end = answer.windows(2).position(|two| two == b"\r\n");
    let _ = stream.write_all(&match end.map(|end| answer.split_at(end)) {
        Some((status, rest)) => [status, b"\r\nconnection: close", rest].concat(),
        None => answer,
    });
    match then {
        Then::Ends => {}
        Then::Waits => std::thread::sleep(Duration::from_secs(60)),
        Then::Repeats(piece) => {
            let piece = piece.repeat(4096);
            while stream.write_all(piece.as_bytes()).is_ok() {
                state.lock().unwrap().repeated += piece.len();
            }
        }
    }
}
