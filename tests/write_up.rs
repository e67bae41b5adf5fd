//! `tests/write-up.md`, held to its word: every row is there, every test exists; and the README says when none of this is
//! needed.

mod common;

use common::claims::hold;
use common::files::read;

#[test]
fn every_row_has_a_test_or_says_why_not() {
    let rows: Vec<String> = (1..=52).map(|number| number.to_string()).collect();
    hold("tests/write-up.md", &rows);
}

#[test]
fn the_readme_says_when_it_is_needed_and_where_to_read_on() {
    let readme = read("README.md");
    let section = |name: &str| {
        let heading = format!("{name}\n");
        readme.split("\n## ").find(|section| section.starts_with(&heading)).unwrap_or_else(|| panic!("no {name}"))
    };
    let needed = section("Do I need this at all?");
    // A Service, hostPort, the sysctl, root, and the two ways to make it useless or worse.
    for word in
        ["Service", "hostPort", "ip_unprivileged_port_start", "runs as root", "allowPrivilegeEscalation", "drop: [ALL]"]
    {
        assert!(needed.contains(word), "{word}");
    }
    let links = section("Further reading");
    for link in [
        "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy",
        "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/",
        "https://man7.org/linux/man-pages/man7/capabilities.7.html",
        "https://man7.org/linux/man-pages/man8/setcap.8.html",
        "https://github.com/Kong/docker-kong/pull/213",
        "https://docs.konghq.com/gateway/latest/reference/configuration/#proxy_listen",
    ] {
        assert!(links.contains(link), "{link}");
    }
}
