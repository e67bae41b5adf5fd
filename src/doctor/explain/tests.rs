//! Pasted texts and what they are.

use proptest::prelude::*;

use super::*;

#[test]
fn colours_go_and_nothing_else() {
    for (line, expected) in [
        ("\u{1b}[31merror=\u{1b}[0m\u{1b}[1;31mx\u{1b}[0m", "error=x"),
        (" a [31m b ", "a [31m b"),
        ("\u{1b}[31é", "é"),
        ("\u{1b}[", ""),
        ("\u{1b}[31", ""),
    ] {
        assert_eq!(plain(line), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_is_explained_or_not(text in "(bind\\(\\) to |exec |/bin/x: |operation not permitted|:80|\u{1b}\\[|[0-9;]|m|é|\n|\\PC){0,20}") {
        prop_assert!(explain(&text).is_ok());
    }
}

fn codes(text: &str) -> Vec<&'static str> {
    explain(text).unwrap().into_iter().map(|explanation| explanation.code).collect()
}

#[test]
fn every_sample_is_its_own_entry() {
    for entry in entries() {
        assert!(!entry.seen.is_empty(), "{}", entry.code);
        for line in entry.seen {
            assert_eq!(codes(line), [entry.code], "{line}");
            assert_eq!(codes(&line.to_uppercase()), [entry.code], "{line}");
            // As runtimes, log collectors and JSON put it.
            let escaped = serde_json::to_string(&format!("{line}\n")).unwrap();
            for (before, after) in [
                ("2026-01-02T03:04:05.678901234Z stderr F ", ""),
                ("kong-7x2 proxy | \u{1b}[31m", "\u{1b}[0m"),
                (
                    "Jan  2 03:04:05 node1 kubelet[812]: E0102 03:04:05.6 pod_workers.go:1300] \"Error syncing pod\" err=\"",
                    "\"",
                ),
            ] {
                assert_eq!(codes(&format!("{before}{line}{after}")), [entry.code], "{before}{line}");
            }
            assert_eq!(codes(&format!("{{\"log\":{escaped},\"stream\":\"stderr\"}}")), [entry.code], "{escaped}");
        }
    }
}

#[test]
fn what_a_long_log_ends_with_is_explained() {
    let log = "GET / 200\n".repeat(50_000) + "nginx: [emerg] bind() to 0.0.0.0:80 failed (13: Permission denied)\n";
    assert_eq!(codes(&log), ["low-port-denied-nginx"]);
}

#[test]
fn the_table_is_sound() {
    let mut codes: Vec<&str> = entries().map(|entry| entry.code).collect();
    let count = codes.len();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!((codes.len(), patterns().unwrap().len()), (count, count));
    for entry in entries() {
        let sentences = [entry.what, entry.why];
        assert!(sentences.iter().all(|text| text.ends_with(['.', ')'])), "{}", entry.code);
        assert!(!entry.fix.is_empty() && !entry.see.is_empty(), "{}", entry.code);
        assert!(entry.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", entry.code);
        assert!([entry.what, entry.why].iter().all(|text| !text.contains("  ")), "{}", entry.code);
    }
}

#[test]
fn what_people_paste_is_known() {
    for (text, expected) in [
        ("nginx: [emerg] bind() to 0.0.0.0:1023 failed (13: Permission denied)", "low-port-denied-nginx"),
        ("nginx: [emerg] bind() to 0.0.0.0:1024 failed (13: Permission denied)", "port-denied"),
        ("nginx: [emerg] bind() to 0.0.0.0:8443 failed (13: Permission denied)", "port-denied"),
        ("nginx: [emerg] bind() to unix:/run/x.sock failed (13: Permission denied)", "port-denied"),
        ("nginx: [emerg] bind() to [::]:80 failed (98: Address already in use)", "port-in-use"),
        ("(98)Address already in use: AH00072: make_sock: could not bind to address 0.0.0.0:80", "port-in-use"),
        ("panic: listen udp :53: bind: permission denied", "low-port-denied-coredns"),
        ("listen tcp 0.0.0.0:8080: bind: permission denied", "port-denied"),
        ("exec /usr/bin/caddy: operation not permitted", "exec-refused"),
        ("nginx: /usr/local/openresty/nginx/sbin/nginx: Operation not permitted", "exec-refused"),
        ("sh: 1: /usr/sbin/nginx: Operation not permitted", "exec-refused"),
        ("env: /usr/local/openresty/bin/resty: Operation not permitted", "exec-refused"),
        (
            "Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec /docker-entrypoint.sh: operation not permitted",
            "exec-refused",
        ),
        ("Failed to set capabilities on file `/x' (Operation not permitted)", "setcap-unsupported"),
        (
            "ctr: failed to extract layer sha256:8a: failed to set xattr: lsetxattr: invalid argument",
            "layer-xattr-invalid",
        ),
        ("Error: admin_listen must be of form: [off] | <ip>:<port> [ssl]", "listen-grammar"),
        ("forbidden sysctl: \"kernel.msgmax\" not whitelisted", "sysctl-not-allowed"),
        ("x509: certificate signed by unknown authority", "authorities-not-found"),
        ("Warning: would violate PodSecurity \"baseline:v1.30\": host namespaces (hostNetwork=true)", "pod-security"),
        ("Reason: SysctlForbidden", "sysctl-not-allowed"),
        ("2026/01/01 lookup kong-postgresql on 10.0.0.2:53: no such host", "names-on-the-host-network"),
    ] {
        assert_eq!(codes(text), [expected], "{text}");
    }
}

#[test]
fn what_is_not_known_is_not_guessed() {
    for text in [
        "",
        "\n \n",
        "everything is fine",
        "nginx: [emerg] unknown directive \"foo\" in /etc/nginx/nginx.conf:1",
        "mkdir: /usr/local/kong: Operation not permitted",
        "mount: permission denied (are you root?)",
        "error mounting \"proc\" to rootfs at \"/proc\": operation not permitted",
        "dial tcp 10.0.0.1:80: connect: connection refused",
        "open /etc/kong/kong.conf: permission denied",
        "\u{0}\u{1b}[2J",
    ] {
        assert_eq!(codes(text), Vec::<&str>::new(), "{text}");
    }
}

#[test]
fn many_lines_are_explained_once_each_in_their_order() {
    let log = "starting\nnginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)\r\nexec /x: operation not permitted\n\
               nginx: [emerg] bind() to 0.0.0.0:443 failed (98: Address already in use)\n";
    let found = explain(log).unwrap();
    assert_eq!(found.iter().map(|e| e.code).collect::<Vec<_>>(), ["port-in-use", "exec-refused"]);
    assert_eq!(found[0].line, "nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)");
    // Broken by a terminal.
    assert_eq!(
        codes(
            "haproxy[51345]: [ALERT] Binding for frontend k8s: cannot bind\n  socket (Permission denied) for [0.0.0.0:80]"
        ),
        ["low-port-denied-haproxy"]
    );
    let long = format!("{}bind() to 0.0.0.0:80 failed (13: Permission denied)", "é".repeat(100_000));
    assert_eq!(explain(&long).unwrap()[0].line.chars().count(), MAX_SHOWN);
    assert_eq!(codes(&"x\n".repeat(1_000_000)), Vec::<&str>::new());
}
