//! What `capatch doctor -f` gives to be put into a manifest is put there: then what it is for is gone, and nothing worse is there.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use common::cli::run;
use common::files;
use common::patched::Patched;
use serde_json::{Map, Value, json};

/// What is said of some manifests.
struct Said(Vec<Value>);

fn look(patched: &Patched, documents: &[Value]) -> Result<Said, String> {
    // JSON is YAML.
    let text: String =
        documents.iter().map(|one| format!("---\n{}\n", serde_json::to_string_pretty(one).unwrap())).collect();
    let run = run(["doctor", &patched.image(), "--json", "-f", &patched.write(&text)]);
    let json: Value = serde_json::from_str(&run.stdout).map_err(|_| format!("{} {}", run.stdout, run.stderr))?;
    match json["images"][0]["findings"].as_array() {
        Some(findings) => Ok(Said(findings.clone())),
        None => Err(json.to_string()),
    }
}

impl Said {
    /// How many findings break something.
    fn breaks(&self) -> usize {
        self.0.iter().filter(|finding| finding["level"] == "breaks").count()
    }

    /// How often each code is there among those of a level.
    fn count(&self, level: Option<&str>) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for finding in self.0.iter().filter(|finding| level.is_none_or(|level| finding["level"] == level)) {
            *count.entry(finding["code"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        count
    }
}

/// Whether only the next thing is seen when this is mended: nodes that do not run Linux, a user that the kubelet refuses,
/// a program that is not executed, ports that need no capability.
fn hides(code: &str) -> bool {
    ["windows", "user", "bounding-set", "no-new-privileges", "not-permitted", "listen-overridden"].contains(&code)
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The objects with a title such as `DaemonSet kong`, also in a list.
fn objects<'v>(documents: &'v mut [Value], title: &str) -> Vec<&'v mut Value> {
    let all = documents.iter_mut().flat_map(|document| match document["items"].is_array() {
        true => document["items"].as_array_mut().unwrap().iter_mut().collect(),
        false => vec![document],
    });
    let is_it = |one: &&mut Value| {
        let name = one["metadata"]["name"].as_str().or(one["metadata"]["generateName"].as_str()).unwrap_or("?");
        one["kind"].as_str().is_some_and(|kind| format!("{kind} {name}") == title)
    };
    all.filter(is_it).collect()
}

/// What is at a path such as `spec.containers[kong]`, made if it is not there, but for what is in a list.
fn at<'v>(mut value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, name) = match part.split_once('[') {
            Some((key, name)) => (key, name.strip_suffix(']')),
            None => (part, None),
        };
        if value.is_null() {
            *value = json!({});
        }
        value = &mut value[key];
        if let Some(name) = name {
            let mut items = value.as_array_mut()?.iter_mut();
            value = match name.parse() {
                Ok(number) => items.nth(number)?,
                Err(_) => items.find(|item| item["name"] == name)?,
            };
        }
    }
    Some(value)
}

/// Strategic merge (kubernetes.io, «Update API Objects in Place Using kubectl patch»): lists of objects by their key, others
/// are replaced.
fn merge(into: &mut Value, from: &Value) {
    const KEYS: [&str; 4] = ["name", "mountPath", "containerPort", "port"];
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                    continue;
                }
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if !from.is_empty() && from.iter().all(Value::is_object) => {
            for item in from {
                let key = KEYS.into_iter().find(|key| item.get(key).is_some());
                let same = key.and_then(|key| into.iter_mut().find(|other| other.get(key) == item.get(key)));
                match same {
                    Some(same) => merge(same, item),
                    None => into.push(item.clone()),
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// A snippet with its place: title, path, and what is to be merged in there. Nothing if it is a command or a sentence.
fn snippet(fix: &str) -> Option<(String, String, Value)> {
    let (head, body) = fix.split_once('\n')?;
    let (title, path) = head.strip_prefix("# ")?.rsplit_once(": ")?;
    let value = documents(body).pop()?;
    value.is_object().then(|| (title.to_owned(), path.to_owned(), value))
}

fn put(all: &[Value], (title, path, value): &(String, String, Value)) -> Vec<Value> {
    let mut all = all.to_vec();
    let roots: Vec<&mut Value> = match (&title[..], &path[..]) {
        (_, "top level") => all.iter_mut().take(1).collect(),
        (_, path) if path.starts_with("services.") => {
            all.iter_mut().filter(|one| one["services"].is_object()).collect()
        }
        _ => objects(&mut all, title),
    };
    let path = if path == "top level" { "" } else { path };
    let place = roots.into_iter().find_map(|root| at(root, path));
    merge(place.unwrap_or_else(|| panic!("no {title}: {path}")), value);
    all
}

#[test]
fn every_snippet_mends_what_it_is_for() {
    let patched = Patched::new();
    let (mut tried, mut wrong, mut without) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    for (name, all) in manifests() {
        let before = match look(&patched, &all) {
            Ok(said) => said,
            Err(error) => panic!("{name}: {error}"),
        };
        for finding in &before.0 {
            let Some(fix) = finding["fix"].as_str() else { continue };
            let (code, level) = (finding["code"].as_str().unwrap(), finding["level"].as_str().unwrap());
            let Some(snippet) = snippet(fix) else {
                without.insert(format!("{code}: {fix}"));
                continue;
            };
            tried.insert(code.to_owned());
            let after = match look(&patched, &put(&all, &snippet)) {
                Ok(said) => said,
                Err(error) => {
                    wrong.push(format!("{name}: {code}: {error}\n{fix}"));
                    continue;
                }
            };
            let (was, is) = (before.count(None), after.count(None));
            if is.get(code) >= was.get(code) {
                wrong.push(format!("{name}: {level} {code} is still there\n{fix}"));
            }
            // What was hidden behind it may come to light, in its place.
            let (was, is) = (before.breaks() - usize::from(level == "breaks"), after.breaks());
            if is > was && !hides(code) {
                let left = after.count(Some("breaks"));
                wrong.push(format!("{name}: {code} is mended, and {is} break instead of {was}: {left:?}\n{fix}"));
            }
        }
    }
    println!("{tried:#?}\n{}", without.into_iter().collect::<Vec<_>>().join("\n--\n"));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// One after the other they lead to a manifest in which nothing is left that a snippet is given for.
#[test]
fn snippets_come_to_an_end() {
    const ROUNDS: usize = 8;
    let patched = Patched::new();
    let mut wrong = Vec::new();
    for (name, mut all) in manifests() {
        let mut seen = Vec::new();
        for round in 0..=ROUNDS {
            let said = look(&patched, &all).unwrap_or_else(|error| panic!("{name}: {error}"));
            let breaks = said.0.iter().filter(|finding| finding["level"] == "breaks");
            let found = breaks.filter_map(|one| Some((one["code"].clone(), snippet(one["fix"].as_str()?)?))).next();
            let Some((code, snippet)) = found else { break };
            seen.push(code);
            if round == ROUNDS {
                wrong.push(format!("{name}: {seen:?}"));
            }
            all = put(&all, &snippet);
        }
    }
    assert!(wrong.is_empty(), "{} without an end:\n{}", wrong.len(), wrong.join("\n"));
}

/// What breaks something is foretold in words that `--explain` knows when they are seen in a log.
#[test]
fn what_is_foretold_is_explained() {
    // The code of a finding, and of the entries that explain what it says.
    const EXPLAINED: [(&str, &[&str]); 16] = [
        ("bounding-set", &["exec-refused"]),
        ("dns-policy", &["names-on-the-host-network"]),
        ("host-port-mismatch", &["host-network-ports"]),
        ("no-new-privileges", &["low-port-denied-nginx"]),
        ("not-executable", &["program-missing"]),
        ("not-permitted", &["root-without-chown"]),
        ("pod-level-security-context", &["low-port-denied-nginx", "capabilities-of-a-pod"]),
        ("pod-security", &["pod-security"]),
        ("privileged-without-escalation", &["privileged-and-no-escalation"]),
        ("refused-by-api-server", &["surge-of-a-daemon-set"]),
        ("replicas-share-host-ports", &["port-in-use"]),
        ("sysctl-with-host-network", &["sysctl-host-network"]),
        ("user", &["run-as-root", "user-by-name"]),
        ("user-namespace", &["low-port-denied-nginx"]),
        ("user-namespace-with-host-network", &["user-namespace-of-a-pod"]),
        ("windows", &["other-system"]),
    ];
    let patched = Patched::new();
    let (mut said, mut wrong) = (BTreeSet::new(), Vec::new());
    for (name, all) in manifests() {
        let found = look(&patched, &all).unwrap_or_else(|error| panic!("{name}: {error}"));
        for finding in found.0.iter().filter(|finding| finding["level"] == "breaks") {
            let (code, what) = (finding["code"].as_str().unwrap(), finding["what"].as_str().unwrap());
            let entries = EXPLAINED.iter().find(|(known, _)| *known == code).map(|(_, entries)| *entries);
            let explained = capatch::doctor::explain(what).unwrap();
            if !explained.iter().any(|one| entries.is_some_and(|entries| entries.contains(&one.code))) {
                let by: Vec<_> = explained.iter().map(|one| one.code).collect();
                wrong.push(format!("{code}: {what}: {by:?}"));
            }
            said.insert(code.to_owned());
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(said.into_iter().collect::<Vec<_>>(), EXPLAINED.map(|(code, _)| code), "all of them are said");
}

/// Manifests by name: those of the test data, and one of each kind with everything in it that may be wrong.
fn manifests() -> Vec<(String, Vec<Value>)> {
    let mut all = Vec::new();
    for directory in ["k8s", "doctor"] {
        for entry in fs::read_dir(files::at(&format!("testdata/{directory}"))).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            // Tabs are no YAML; the others do not run Kong.
            if ["write-up-tabs.yaml", "ingress-controller.yaml"].contains(&&name[..]) {
                continue;
            }
            all.push((name, documents(&fs::read_to_string(&path).unwrap())));
        }
    }
    let contexts = [
        json!({}),
        json!({"capabilities": {"drop": ["ALL"]}}),
        json!({"capabilities": {"drop": ["ALL", "NET_BIND_SERVICE"], "add": ["CHOWN"]}}),
        json!({"capabilities": {"drop": ["NET_BIND_SERVICE"]}, "runAsUser": 0}),
        json!({"allowPrivilegeEscalation": false}),
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true}),
        json!({"readOnlyRootFilesystem": true}),
        json!({"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}),
        json!({"privileged": true, "allowPrivilegeEscalation": false}),
        json!({"capabilities": {"add": ["CAP_NET_BIND_SERVICE"], "drop": ["ALL"]}}),
    ];
    let pods = [
        json!({}),
        json!({"hostNetwork": true}),
        json!({"hostNetwork": true, "hostUsers": false}),
        json!({"securityContext": {"runAsNonRoot": true, "allowPrivilegeEscalation": false}}),
        json!({"securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}}, "hostNetwork": true}),
        json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}}),
        json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
    ];
    let more = [
        json!({}),
        json!({"env": [{"name": "KONG_PROXY_LISTEN", "value": "0.0.0.0:8000"}], "ports": [{"name": "proxy", "containerPort": 80}]}),
        json!({"env": [{"name": "KONG_ADMIN_LISTEN", "value": "0.0.0.0:8001"}], "ports": [{"name": "proxy", "containerPort": 8000, "hostPort": 80}]}),
        json!({"envFrom": [{"secretRef": {"name": "kong"}}]}),
    ];
    for (c, context) in contexts.iter().enumerate() {
        for (p, pod) in pods.iter().enumerate() {
            let own = &more[(c + p) % more.len()];
            let mut container = json!({"name": "proxy", "image": "kong:3.9", "securityContext": context});
            merge(&mut container, own);
            let mut spec = json!({"containers": [container]});
            merge(&mut spec, pod);
            let object = json!({"apiVersion": "apps/v1", "kind": if p % 2 == 0 { "Deployment" } else { "DaemonSet" },
                "metadata": {"name": "kong"},
                "spec": {"selector": {"matchLabels": {"app": "kong"}},
                    "template": {"metadata": {"labels": {"app": "kong"}}, "spec": spec}}});
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kong"},
                "spec": {"selector": {"app": "kong"}, "ports": [{"name": "proxy", "port": 80, "targetPort": 8000}]}});
            all.push((format!("{context} {pod} {own}"), vec![object, service]));
        }
        let mut values = Map::new();
        values.insert("image".to_owned(), json!({"repository": "kong", "tag": "3.9"}));
        values.insert("containerSecurityContext".to_owned(), context.clone());
        values.insert("deployment".to_owned(), json!({"daemonset": true, "hostNetwork": true}));
        all.push((format!("values {context}"), vec![Value::Object(values)]));
    }
    for service in [
        json!({"cap_drop": ["ALL"]}),
        json!({"cap_drop": ["ALL", "CAP_NET_BIND_SERVICE"], "cap_add": ["CHOWN"]}),
        json!({"security_opt": ["no-new-privileges:true"]}),
        json!({"security_opt": ["no-new-privileges"], "cap_drop": ["NET_BIND_SERVICE"], "user": "kong"}),
        json!({"read_only": true}),
        json!({"user": "root", "cap_drop": ["ALL"]}),
        json!({"sysctls": {"net.ipv4.ip_unprivileged_port_start": 0}}),
        json!({"env_file": ["x.env"]}),
        json!({"deploy": {"replicas": 2}, "ports": ["80:8000"]}),
        json!({"environment": {"KONG_ADMIN_LISTEN": "0.0.0.0:8001"}}),
    ] {
        for network in [
            json!({}),
            json!({"network_mode": "host"}),
            json!({"sysctls": ["net.ipv4.ip_unprivileged_port_start=1024"]}),
        ] {
            let mut one = json!({"image": "kong:3.9"});
            merge(&mut one, &service);
            merge(&mut one, &network);
            all.push((format!("compose {service} {network}"), vec![json!({"services": {"kong": one}})]));
        }
    }
    all
}
