//! A proxy in front of a registry that breaks some of what passes, for `tests/bench/soak.sh`.
//!
//!     fault_proxy LISTEN UPSTREAM PERCENT SEED
//!
//! Of each hundred requests, PERCENT meet one of the faults below. At the end of its input it prints how many requests
//! passed and how many met which fault, and ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// (name, what happens)
const FAULTS: [(&str, Fault); 9] = [
    ("500", Fault::Answer("500 Internal Server Error", "")),
    ("502", Fault::Answer("502 Bad Gateway", "")),
    ("503", Fault::Answer("503 Service Unavailable", "Retry-After: 0\r\n")),
    ("429", Fault::Answer("429 Too Many Requests", "Retry-After: 1\r\n")),
    ("no answer", Fault::NoAnswer),
    ("lost answer", Fault::LostAnswer),
    ("request cut", Fault::RequestCut),
    ("answer cut", Fault::AnswerCut),
    ("slow", Fault::Slow),
];

#[derive(Clone, Copy)]
enum Fault {
    /// The registry is not asked; this is the answer.
    Answer(&'static str, &'static str),
    /// The registry is not asked, and the connection ends.
    NoAnswer,
    /// The registry does it, and nobody hears.
    LostAnswer,
    /// The registry gets a part of the request.
    RequestCut,
    /// The client gets a part of the answer.
    AnswerCut,
    /// It takes its time.
    Slow,
}

static PASSED: AtomicU64 = AtomicU64::new(0);
static MET: [AtomicU64; FAULTS.len()] = [const { AtomicU64::new(0) }; FAULTS.len()];
static STATE: AtomicU64 = AtomicU64::new(0);

/// A random number below `limit` (SplitMix64).
fn random(limit: u64) -> u64 {
    let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % limit
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument =
        || arguments.next().ok_or_else(|| io::Error::other("usage: fault_proxy LISTEN UPSTREAM PERCENT SEED"));
    let listener = TcpListener::bind(argument()?)?;
    let upstream = argument()?;
    let percent: u64 = argument()?.parse().map_err(io::Error::other)?;
    STATE.store(argument()?.parse().map_err(io::Error::other)?, Ordering::Relaxed);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let upstream = upstream.clone();
            // A connection that breaks is what this is for.
            thread::spawn(move || drop(one_request(client, &upstream, percent)));
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
    println!("passed {}", PASSED.load(Ordering::Relaxed));
    for ((name, _), met) in FAULTS.iter().zip(&MET) {
        println!("{name} {}", met.load(Ordering::Relaxed));
    }
    Ok(())
}

/// Each connection is good for one request, so that each request has its own fate.
fn one_request(client: TcpStream, upstream: &str, percent: u64) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    let mut is_chunked = false;
    let mut length = 0u64;
    loop {
        let mut line = String::new();
        if reader.by_ref().take(1 << 16).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        is_chunked |= lower.starts_with("transfer-encoding:");
        if line == "\r\n" {
            break;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    let fault = (random(100) < percent).then(|| {
        let number = random(FAULTS.len() as u64) as usize;
        MET[number].fetch_add(1, Ordering::Relaxed);
        FAULTS[number].1
    });
    match fault {
        Some(Fault::Answer(status, headers)) => {
            let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
            (&client).write_all(answer.as_bytes())?;
            return close(client, reader);
        }
        Some(Fault::NoAnswer) => return client.shutdown(Shutdown::Both),
        Some(Fault::Slow) => thread::sleep(Duration::from_millis(20 + random(300))),
        None => drop(PASSED.fetch_add(1, Ordering::Relaxed)),
        Some(_) => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(head.as_bytes())?;
    let mut body = server.try_clone()?;
    // A body in chunks ends when the client closes or has its answer.
    let sent = match is_chunked {
        true => u64::MAX,
        false => length,
    };
    let sent = if matches!(fault, Some(Fault::RequestCut)) { random(sent.clamp(1, 1 << 20)) } else { sent };
    let copied = thread::spawn(move || io::copy(&mut reader.take(sent), &mut body));
    match fault {
        Some(Fault::RequestCut) => {
            let _ = copied.join();
            server.shutdown(Shutdown::Both)?;
        }
        Some(Fault::LostAnswer) => drop(io::copy(&mut server, &mut io::sink())),
        Some(Fault::AnswerCut) => {
            let part = 1 + random(if random(2) == 0 { 400 } else { 100_000 });
            io::copy(&mut server.take(part), &mut &client)?;
        }
        _ => drop(io::copy(&mut server, &mut &client)?),
    }
    client.shutdown(Shutdown::Both)
}

/// Takes what the client still sends, so that the answer is not lost with a reset connection.
fn close(client: TcpStream, mut reader: BufReader<TcpStream>) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    io::copy(&mut reader, &mut io::sink()).map(drop)
}
