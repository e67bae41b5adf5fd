//! What Kong's Helm chart renders with values: its pods and Services, as far as they matter here.

use std::borrow::Cow;

use super::tree::{Budget, Tree, Value};
use crate::error::Result;

/// The chart with all its values.
pub(super) struct Chart<'t, 'a> {
    pub(super) file: &'a str,
    pub(super) values: &'t Tree<'a>,
}

impl<'a> Chart<'_, 'a> {
    fn made(&self, value: Value<'a>) -> Tree<'a> {
        Tree::made(self.file, value)
    }

    /// A tree that stands for what the chart makes of `deployment`.
    fn deployed(&self, tree: Tree<'a>) -> Tree<'a> {
        let places = [self.values.get("deployment"), Some(self.values)];
        let line = places.into_iter().flatten().map(|tree| tree.line).find(|line| *line != 0);
        Tree { line: line.unwrap_or_default(), ..tree }
    }

    fn text(&self, text: impl Into<Cow<'a, str>>) -> Tree<'a> {
        self.made(Value::Text(text.into(), false))
    }

    fn map(&self, entries: Vec<(&'static str, Tree<'a>)>) -> Tree<'a> {
        self.made(Value::Map(entries.into_iter().map(|(key, value)| (Cow::Borrowed(key), value)).collect()))
    }

    fn list(&self, items: Vec<Tree<'a>>) -> Tree<'a> {
        self.made(Value::List(items))
    }

    /// A copy of values, or null.
    fn at(&self, keys: &[&str], budget: &mut Budget) -> Result<Tree<'a>> {
        self.values.at(keys).map_or_else(|| Ok(self.made(Value::Null)), |tree| budget.copy(tree))
    }

    /// Whether a switch is on, as Go templates see it: everything is that is not false, zero or empty.
    fn is_on(&self, keys: &[&str]) -> bool {
        self.values.at(keys).is_some_and(|tree| match &tree.value {
            Value::Text(text, true) => tree.boolean() != Some(false) && !matches!(text.as_ref(), "" | "0"),
            Value::Text(text, false) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(entries) => !entries.is_empty(),
            Value::Null => false,
        })
    }

    /// The Deployment or DaemonSet, the jobs of the migrations, and the Services of what may have low ports.
    pub(super) fn objects(&self, budget: &mut Budget) -> Result<Vec<Tree<'a>>> {
        if !self.is_on(&["deployment", "kong", "enabled"]) {
            return Ok(Vec::new());
        }
        let database = self.values.text_at(&["env", "database"]) != Some("off");
        let mut objects = vec![self.application(database, budget)?];
        let jobs = [
            ("kong-init-migrations", "kong-migrations", &["bootstrap"][..], "init"),
            ("kong-pre-upgrade-migrations", "kong-upgrade-migrations", &["up"], "preUpgrade"),
            ("kong-post-upgrade-migrations", "kong-post-upgrade-migrations", &["finish"], "postUpgrade"),
        ];
        for (name, container, words, switch) in jobs {
            if database && self.is_on(&["migrations", switch]) {
                let args = ["kong", "migrations"].iter().chain(words).map(|word| self.text(*word)).collect();
                let container = self.container(container, vec![("args", self.list(args))], budget)?;
                let init: Vec<_> = self.wait_for_postgres().into_iter().collect();
                let spec = vec![("initContainers", self.list(init)), ("containers", self.list(vec![container]))];
                let spec = self.spec(spec, budget)?;
                objects.push(self.object("batch/v1", "Job", name, vec![("template", self.map(vec![("spec", spec)]))]));
            }
        }
        for (name, service) in [("kong-proxy", "proxy"), ("kong-admin", "admin")] {
            if self.is_on(&[service, "enabled"]) {
                objects.push(self.service(name, service, budget)?);
            }
        }
        Ok(objects)
    }

    /// What selects the pods of the application.
    fn labels(&self) -> Tree<'a> {
        self.map(vec![("app.kubernetes.io/component", self.text("app"))])
    }

    fn service(&self, name: &'static str, service: &str, budget: &mut Budget) -> Result<Tree<'a>> {
        let mut ports = Vec::new();
        for protocol in ["http", "tls"] {
            let key = |key: &'static str| [service, protocol, key];
            if self.is_on(&key("enabled")) && self.is_on(&key("servicePort")) {
                let overridden = self.is_on(&key("overrideServiceTargetPort")) && protocol == "tls";
                let target = if overridden { "overrideServiceTargetPort" } else { "containerPort" };
                ports.push(self.map(vec![
                    ("port", self.at(&key("servicePort"), budget)?),
                    ("targetPort", self.at(&key(target), budget)?),
                ]));
            }
        }
        let spec = vec![("selector", self.labels()), ("ports", self.list(ports))];
        Ok(self.object("v1", "Service", name, spec))
    }

    /// It runs a script of the chart's own, in its own image or in Kong's.
    fn wait_for_postgres(&self) -> Option<Tree<'a>> {
        let image = |key| self.values.get(key).and_then(|image| self.image(image));
        let image = self.is_on(&["postgresql", "enabled"]).then(|| image("waitImage").or(image("image")))??;
        let command = ["bash", "/wait_postgres/wait.sh"].map(|word| self.text(word));
        let mount = self.map(vec![("mountPath", self.text("/wait_postgres"))]);
        Some(self.map(vec![
            ("name", self.text("wait-for-postgres")),
            ("image", image),
            ("command", self.list(command.into())),
            ("volumeMounts", self.list(vec![mount])),
        ]))
    }

    fn object(
        &self,
        version: &'static str,
        kind: &'static str,
        name: &'static str,
        spec: Vec<(&'static str, Tree<'a>)>,
    ) -> Tree<'a> {
        self.deployed(self.map(vec![
            ("apiVersion", self.text(version)),
            ("kind", self.text(kind)),
            ("metadata", self.map(vec![("name", self.text(name))])),
            ("spec", self.map(spec)),
        ]))
    }

    fn application(&self, database: bool, budget: &mut Budget) -> Result<Tree<'a>> {
        let mut init = Vec::new();
        if self.is_on(&["deployment", "kong", "initContainers", "clearStalePid", "enabled"]) {
            let keys = ["deployment", "kong", "initContainers", "clearStalePid"];
            let command = self.at(&[&keys[..], &["command"]].concat(), budget)?;
            let mut container = self.container("clear-stale-pid", vec![("command", command)], budget)?;
            // It may have an image of its own.
            if let Some(image) = self.values.at(&keys).and_then(|pid| self.image(pid.get("image")?))
                && let Value::Map(entries) = &mut container.value
            {
                entries.retain(|(key, _)| key != "image");
                entries.push(("image".into(), image));
            }
            init.push(container);
        }
        if database && self.is_on(&["waitImage", "enabled"]) {
            let script = "until kong start; do echo 'waiting for db'; sleep 1; done; kong stop";
            let args = ["/bin/bash", "-c", script].into_iter().map(|word| self.text(word)).collect();
            init.push(self.container("wait-for-db", vec![("args", self.list(args))], budget)?);
        }
        let more = vec![
            ("lifecycle", self.at(&["lifecycle"], budget)?),
            ("livenessProbe", self.at(&["livenessProbe"], budget)?),
            ("readinessProbe", self.at(&["readinessProbe"], budget)?),
            ("startupProbe", self.at(&["startupProbe"], budget)?),
            ("ports", self.ports(budget)?),
        ];
        let mut containers = vec![self.container("proxy", more, budget)?];
        init.extend(self.at(&["deployment", "initContainers"], budget)?.items().iter().cloned());
        containers.extend(self.at(&["deployment", "sidecarContainers"], budget)?.items().iter().cloned());
        let mut spec = vec![("initContainers", self.list(init)), ("containers", self.list(containers))];
        if self.is_on(&["deployment", "hostNetwork"]) {
            spec.push(("hostNetwork", self.made(Value::Text("true".into(), true))));
        }
        for key in ["dnsPolicy", "nodeSelector"] {
            spec.push((key, self.at(&[key], budget)?));
        }
        let annotations = self.at(&["podAnnotations"], budget)?;
        let metadata = self.map(vec![("annotations", annotations), ("labels", self.labels())]);
        let template = self.map(vec![("metadata", metadata), ("spec", self.spec(spec, budget)?)]);
        let strategy = self.at(&["updateStrategy"], budget)?;
        let replicas = self.at(&["replicaCount"], budget)?;
        Ok(match self.is_on(&["deployment", "daemonset"]) {
            true => {
                self.object("apps/v1", "DaemonSet", "kong", vec![("updateStrategy", strategy), ("template", template)])
            }
            false => self.object(
                "apps/v1",
                "Deployment",
                "kong",
                vec![("replicas", replicas), ("strategy", strategy), ("template", template)],
            ),
        })
    }

    fn spec(&self, mut entries: Vec<(&'static str, Tree<'a>)>, budget: &mut Budget) -> Result<Tree<'a>> {
        entries.push(("securityContext", self.at(&["securityContext"], budget)?));
        Ok(self.deployed(self.map(entries)))
    }

    fn container(
        &self,
        name: &'static str,
        more: Vec<(&'static str, Tree<'a>)>,
        budget: &mut Budget,
    ) -> Result<Tree<'a>> {
        let image = self.values.get("image").and_then(|image| self.image(image));
        let mut entries = vec![
            ("name", self.text(name)),
            ("image", image.unwrap_or_else(|| self.made(Value::Null))),
            ("imagePullPolicy", self.at(&["image", "pullPolicy"], budget)?),
            ("env", self.environment(budget)?),
            ("envFrom", self.at(&["envFrom"], budget)?),
        ];
        let mut mounts: Vec<Tree<'a>> =
            ["/kong_prefix/", "/tmp"].iter().map(|path| self.map(vec![("mountPath", self.text(*path))])).collect();
        mounts.extend(self.at(&["deployment", "userDefinedVolumeMounts"], budget)?.items().iter().cloned());
        entries.push(("volumeMounts", self.list(mounts)));
        if self.is_on(&["containerSecurityContext", "enabled"]) {
            entries.push(("securityContext", self.at(&["containerSecurityContext"], budget)?));
        }
        entries.extend(more);
        let place = self.values.get("containerSecurityContext").or(self.values.get("image"));
        let line = place.map_or(0, |tree| tree.line);
        Ok(Tree { line, ..self.map(entries) })
    }

    /// `unifiedRepoTag`, or repository and tag.
    fn image(&self, image: &Tree<'_>) -> Option<Tree<'a>> {
        let text = |key| image.text_at(&[key]).filter(|text| !text.is_empty());
        match (text("unifiedRepoTag"), text("repository")) {
            (Some(unified), _) => Some(self.text(unified.to_owned())),
            (None, Some(repository)) => Some(self.text(format!("{repository}:{}", text("tag").unwrap_or_default()))),
            (None, None) => None,
        }
    }

    /// Listen values of the chart, then `env`, then `customEnv`: the last of a name wins.
    fn environment(&self, budget: &mut Budget) -> Result<Tree<'a>> {
        let variable = |name: String, value: Tree<'a>| {
            let place = (value.file, value.line, value.column);
            let value = match value.value {
                // A mapping is a valueFrom.
                Value::Map(entries) => {
                    Value::Map(entries.into_iter().chain([("name".into(), self.text(name))]).collect::<Vec<_>>())
                }
                Value::Text(text, _) => {
                    let quoted =
                        Tree { file: place.0, line: place.1, column: place.2, value: Value::Text(text, false) };
                    Value::Map(vec![("name".into(), self.text(name)), ("value".into(), quoted)])
                }
                _ => Value::Map(vec![("name".into(), self.text(name))]),
            };
            Tree { file: place.0, line: place.1, column: place.2, value }
        };
        let mut variables = Vec::new();
        for (name, service, local) in [
            ("KONG_ADMIN_LISTEN", "admin", !self.is_on(&["admin", "enabled"])),
            ("KONG_PROXY_LISTEN", "proxy", false),
            ("KONG_STATUS_LISTEN", "status", false),
        ] {
            variables.push(variable(name.to_owned(), self.listen(service, local)));
        }
        if self.is_on(&["proxy", "enabled"]) {
            variables.push(variable("KONG_PORT_MAPS".to_owned(), self.port_maps()));
        }
        variables.push(variable("KONG_NGINX_DAEMON".to_owned(), self.text("off")));
        for (section, prefix) in [("env", "KONG_"), ("customEnv", "")] {
            for (key, value) in self.values.get(section).map(Tree::entries).unwrap_or_default() {
                variables.push(variable(format!("{prefix}{}", key.to_uppercase()), budget.copy(value)?));
            }
        }
        Ok(self.list(variables))
    }

    fn number(&self, keys: &[&str]) -> String {
        self.values.text_at(keys).unwrap_or_default().to_owned()
    }

    /// As `kong.listen` of the chart joins addresses, ports and parameters.
    fn listen(&self, service: &str, local: bool) -> Tree<'a> {
        let mut listeners = Vec::new();
        for (protocol, flag) in [("http", ""), ("tls", "ssl")] {
            if !self.is_on(&[service, protocol, "enabled"]) {
                continue;
            }
            let texts = |keys: &[&str]| -> Vec<String> {
                let items = self.values.at(keys).map(Tree::items).unwrap_or_default();
                items.iter().filter_map(|item| Some(item.text()?.to_owned())).collect()
            };
            let mut addresses = texts(&[service, "addresses"]);
            if addresses.is_empty() {
                let default = if local { ["127.0.0.1", "[::1]"] } else { ["0.0.0.0", "[::]"] };
                addresses = default.map(str::to_owned).into();
            }
            let port = self.number(&[service, protocol, "containerPort"]);
            for address in addresses {
                let mut words = vec![format!("{address}:{port}")];
                words.extend(texts(&[service, protocol, "parameters"]));
                words.extend((!flag.is_empty() && !words.iter().any(|word| word == flag)).then(|| flag.to_owned()));
                listeners.push(words.join(" "));
            }
        }
        let place = self.values.at(&[service, "http", "containerPort"]).unwrap_or(self.values);
        let text = if listeners.is_empty() { "off".to_owned() } else { listeners.join(", ") };
        Tree { line: place.line, ..self.text(text) }
    }

    fn port_maps(&self) -> Tree<'a> {
        let map = |protocol: &&str| {
            let port = |key| self.number(&["proxy", protocol, key]);
            format!("{}:{}", port("servicePort"), port("containerPort"))
        };
        let on = |protocol: &&str| self.is_on(&["proxy", protocol, "enabled"]);
        self.text(
            ["http", "tls"].iter().copied().filter(on).map(|protocol| map(&protocol)).collect::<Vec<_>>().join(", "),
        )
    }

    fn ports(&self, budget: &mut Budget) -> Result<Tree<'a>> {
        let mut ports = Vec::new();
        for service in ["admin", "proxy", "status"] {
            for protocol in ["http", "tls"] {
                if self.is_on(&[service, "enabled"]) && self.is_on(&[service, protocol, "enabled"]) {
                    let suffix = if protocol == "tls" { "-tls" } else { "" };
                    ports.push(self.map(vec![
                        ("name", self.text(format!("{service}{suffix}"))),
                        ("containerPort", self.at(&[service, protocol, "containerPort"], budget)?),
                        ("hostPort", self.at(&[service, protocol, "hostPort"], budget)?),
                    ]));
                }
            }
        }
        Ok(self.list(ports))
    }
}
