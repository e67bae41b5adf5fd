//! Values of Kong's Helm charts (kong 3.4.1, and ingress 0.24, which has it as `gateway`): the pods and the Services that
//! the chart renders with them, as far as they matter here.

use std::collections::HashMap;

use super::chart::Chart;
use super::environment::ConfigMaps;
use super::overlay::{Rules, overlay};
use super::pod::{self, Cluster};
use super::tree::{Budget, Tree, Value, resolve};
use super::{Format, Found, Images, service};
use crate::error::{Error, Result};
use crate::kubernetes::yaml;

const DEFAULTS: &str = include_str!("chart.yaml");

/// Keys of the chart that others hardly have.
const KEYS: [&str; 9] = [
    "proxy",
    "env",
    "deployment",
    "containerSecurityContext",
    "ingressController",
    "admin",
    "migrations",
    "dblessConfig",
    "image",
];

/// What else there is in values of the chart: a file may have nothing but these.
const OTHER_KEYS: [&str; 46] = [
    "affinity",
    "args",
    "autoscaling",
    "certificates",
    "cluster",
    "clusterCaSecretName",
    "clustertelemetry",
    "customEnv",
    "deploymentAnnotations",
    "dnsConfig",
    "dnsPolicy",
    "enterprise",
    "envFrom",
    "extraConfigMaps",
    "extraLabels",
    "extraObjects",
    "extraSecrets",
    "fullnameOverride",
    "initContainerResources",
    "lifecycle",
    "livenessProbe",
    "manager",
    "nameOverride",
    "namespace",
    "nodeSelector",
    "plugins",
    "podAnnotations",
    "podDisruptionBudget",
    "podLabels",
    "podSecurityPolicy",
    "portal",
    "portalapi",
    "postgresql",
    "priorityClassName",
    "readinessProbe",
    "replicaCount",
    "resources",
    "secretVolumes",
    "securityContext",
    "serviceMonitor",
    "startupProbe",
    "status",
    "terminationGracePeriodSeconds",
    "tolerations",
    "udpProxy",
    "updateStrategy",
];

/// Under which key the values of the chart are: at the top, or those of a subchart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parent {
    Top,
    Kong,
    /// Of the chart `ingress`, beside `controller`, which runs no Kong.
    Gateway,
}

/// Whether a document is values of the chart.
pub(super) fn are_these(tree: &Tree<'_>) -> bool {
    of_chart(tree).is_some()
}

fn of_chart<'t, 'a>(tree: &'t Tree<'a>) -> Option<(Parent, &'t Tree<'a>)> {
    let is_map = |value: &Tree<'_>| matches!(value.value, Value::Map(_));
    let known = |tree: &Tree<'_>| {
        let keys = || tree.entries().iter().map(|(key, _)| key.as_ref());
        KEYS.iter().any(|key| tree.get(key).is_some_and(is_map))
            || keys().next().is_some() && keys().all(|key| KEYS.contains(&key) || OTHER_KEYS.contains(&key))
    };
    let below = [(Parent::Gateway, "gateway"), (Parent::Kong, "kong")];
    let below = below.into_iter().filter_map(|(parent, key)| Some((parent, tree.get(key)?)));
    // `deployment` is a key of the chart `ingress` too.
    below.chain([(Parent::Top, tree)]).find(|(_, tree)| known(tree))
}

/// Takes the containers of the image out of what the chart renders with files of values, of which each is laid over those
/// before it.
pub(super) fn read(
    files: Vec<Tree<'_>>,
    images: &mut Images<'_>,
    found: &mut Found,
    budget: &mut Budget,
) -> Result<()> {
    let Some(file) = files.first().map(|tree| tree.file) else { return Ok(()) };
    let stream = yaml::read(DEFAULTS, file)?;
    let root = stream.documents.first().and_then(|document| document.root.as_ref());
    let root = root.ok_or_else(|| Error::failed("internal error: the chart has no values"))?;
    let mut values = nowhere(resolve(root, file, budget)?);
    let files: Vec<_> = files.iter().filter_map(of_chart).collect();
    if files.iter().any(|(parent, _)| *parent == Parent::Gateway)
        && let Some(gateway) = stream.documents.get(1).and_then(|document| document.root.as_ref())
    {
        values = overlay(values, nowhere(resolve(gateway, file, budget)?), Rules::Helm);
    }
    for (_, tree) in files {
        values = overlay(values, tree.clone(), Rules::Helm);
    }
    let before = (found.details.len(), found.findings.len());
    let chart = Chart { file, values: &values };
    let cluster = Cluster { configs: ConfigMaps::default(), namespaces: HashMap::new() };
    for object in chart.objects(budget)? {
        match object.text_at(&["kind"]) {
            Some("Service") => found.services.extend(service::read(&object)),
            _ => pod::read(&object, &cluster, images, found, budget)?,
        }
    }
    for detail in found.details.iter_mut().skip(before.0) {
        detail.format = Format::Values;
        detail.title = "values of the chart kong".to_owned();
        (detail.indent, detail.path) = (0, "containerSecurityContext".to_owned());
    }
    for finding in found.findings.iter_mut().skip(before.1) {
        finding.what = finding.what.replace("kubectl apply fails", "helm install fails");
        finding.fix = fix(finding.code).map(str::to_owned).or(finding.fix.take());
    }
    Ok(())
}

/// What mends a finding in values instead of in a pod.
fn fix(code: &str) -> Option<&'static str> {
    match code {
        "dns-policy" => Some("dnsPolicy: ClusterFirstWithHostNet"),
        "surge-with-host-ports" => {
            Some("updateStrategy:\n  type: RollingUpdate\n  rollingUpdate:\n    maxSurge: 0\n    maxUnavailable: 1")
        }
        "replicas-share-host-ports" => Some("deployment:\n  daemonset: true"),
        "root-not-needed" => Some("containerSecurityContext:\n  runAsUser: 1000\n  runAsNonRoot: true"),
        "pod-level-security-context" => Some(
            "containerSecurityContext:\n  allowPrivilegeEscalation: true\n  capabilities:\n    drop: [ALL]\n    add: [NET_BIND_SERVICE]",
        ),
        _ => None,
    }
}

/// Takes the places away: defaults are in no file of the user.
fn nowhere(tree: Tree<'_>) -> Tree<'_> {
    let value = match tree.value {
        Value::List(items) => Value::List(items.into_iter().map(nowhere).collect()),
        Value::Map(entries) => Value::Map(entries.into_iter().map(|(key, value)| (key, nowhere(value))).collect()),
        other => other,
    };
    Tree::made(tree.file, value)
}
