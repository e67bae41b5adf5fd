//! `capatch doctor --explain`: errors from logs, through the binary.

mod common;

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::cli::{Run, capatch, fails, json, ok};

const DENIED: &str = "nginx: [emerg] bind() to 0.0.0.0:80 failed (13: Permission denied)";

fn piped(text: &[u8]) -> Run {
    let mut command = capatch(["doctor", "--explain", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = text.to_vec();
    // What is refused early is not read to its end.
    let writer = std::thread::spawn(move || stdin.write_all(&text));
    let run = child.wait_with_output().unwrap().into();
    let _ = writer.join().unwrap();
    run
}

#[test]
fn an_error_is_explained_as_text_and_as_data() {
    let text = ok(["doctor", "--explain", DENIED]).stdout;
    let start = format!("[low-port-denied-nginx] {DENIED}\n  nginx runs as an ordinary user");
    assert!(text.starts_with(&start), "{text}");
    let snippet = "    capatch patch IMAGE NEW-IMAGE      (Kong; --profile nginx or ingress-nginx for those)\n    and in the container that runs it:\n    securityContext:\n      allowPrivilegeEscalation: true\n      capabilities: {add: [NET_BIND_SERVICE]}      # drop: [ALL] may stay\n";
    assert!(text.contains(snippet), "{text}");
    assert!(text.contains("Adding NET_BIND_SERVICE to a container only allows it there"), "{text}");
    let data = json(["doctor", "--explain", DENIED]);
    let explanation = &data["explanations"][0];
    assert_eq!(explanation["code"], "low-port-denied-nginx");
    assert_eq!(explanation["line"], DENIED);
    for member in ["what", "why", "fix", "foretold", "see"] {
        assert!(text.contains(explanation[member].as_str().unwrap().lines().next().unwrap()), "{member}");
    }
}

#[test]
fn a_log_is_read_from_standard_input() {
    let log =
        format!("2026-01-01T00:00:00Z stdout F starting\n{DENIED}\r\n\u{1b}[2Jexec /x: operation not permitted\n");
    let run = piped(log.as_bytes()).succeeded();
    let (first, second) = run.stdout.split_once("\n\n").unwrap();
    assert!(first.starts_with("[low-port-denied-nginx] ") && second.starts_with("[exec-refused] "), "{run:#?}");
    piped(&[&[0xff, 0xfe, b'\n'][..], DENIED.as_bytes()].concat()).succeeded();
    piped(&vec![b'x'; (1 << 20) + 1]).failed(5, &["more than 1048576 bytes", "--tail"]);
    piped(b"").failed(3, &["no error that is known"]);
}

#[test]
fn a_log_may_be_utf_16() {
    let log = format!("größer\r\n{DENIED}\r\n");
    for bytes in [
        log.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(),
        log.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ] {
        let mark = if bytes[0] == 0 { [0xfe, 0xff] } else { [0xff, 0xfe] };
        for end in [&b""[..], b"\0", b"\x00\xd8"] {
            let run = piped(&[&mark, &bytes[..], end].concat()).succeeded();
            assert!(run.stdout.starts_with(&format!("[low-port-denied-nginx] {DENIED}\n")), "{run:#?}");
        }
    }
}

#[test]
fn a_line_of_a_megabyte_takes_no_time() {
    for text in ["é", "\u{fffd}x ", "exec /ü: "] {
        let line = text.repeat((1 << 20) / text.len());
        let start = Instant::now();
        piped(line.as_bytes()).failed(3, &[]);
        // Without optimisation; at boundaries of Unicode words it was minutes.
        assert!(start.elapsed() < Duration::from_secs(10), "{text}: {:?}", start.elapsed());
    }
}

#[test]
fn what_is_not_known_ends_with_3_and_says_where_to_look() {
    let run = fails(3, &["no error that is known here"], ["doctor", "--explain", "-v: everything is fine"]);
    assert!(run.hint().unwrap().contains("kubectl logs --previous"), "{run:#?}");
    fails(2, &["IMAGE"], ["doctor"]);
    fails(2, &["--explain"], ["doctor", "kong:3.9", "--explain", DENIED]);
}

#[test]
fn nothing_from_a_log_drives_the_terminal() {
    let text = ok(["doctor", "--explain", &format!("\u{1b}]0;pwn\u{7} {DENIED}")]).stdout;
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
}
