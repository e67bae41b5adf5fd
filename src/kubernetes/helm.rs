//! Values for Kong's Helm chart (chart kong 3.x), which renders the manifests itself.

use super::{Options, UNPRIVILEGED_PORT_START, Way};
use crate::error::{Error, Result};

/// The values in YAML.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) if the image has neither tag nor digest.
pub fn values(options: &Options) -> Result<String> {
    let service = if options.keep_service { "" } else { "  type: ClusterIP\n" };
    let ports = format!("proxy:\n{service}  http:\n    containerPort: 80\n  tls:\n    containerPort: 443\n");
    let image = match &options.way {
        Way::Sysctl => {
            return Ok(format!(
                "# Values for the chart kong 3.x; kubelet refuses the sysctl together with deployment.hostNetwork.\n\
                 # In those of the chart ingress they belong below `gateway:`.\n\
                 securityContext:\n  sysctls:\n  - name: {UNPRIVILEGED_PORT_START}\n    value: \"80\"\n{ports}"
            ));
        }
        Way::Capability { written, .. } => written,
    };
    let (name, digest) = image.split_once('@').map_or((image.as_str(), None), |(name, digest)| (name, Some(digest)));
    let (repository, tag) = match (name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')), digest) {
        (Some((repository, tag)), None) => (repository.to_owned(), tag.to_owned()),
        // The chart knows no digests, and puts a colon between these two.
        (Some((repository, tag)), Some(digest)) => (repository.to_owned(), format!("{tag}@{digest}")),
        (None, Some(digest)) => match digest.split_once(':') {
            Some((algorithm, hex)) => (format!("{name}@{algorithm}"), hex.to_owned()),
            None => return Err(Error::usage(format!("{digest} is not a digest"))),
        },
        (None, None) => {
            return Err(Error::usage(format!("{image} has neither tag nor digest")).hint("write --image NAME:TAG"));
        }
    };
    Ok(format!(
        "# Values for the chart kong 3.x: helm upgrade --install kong kong/kong -f FILE\n\
         # In those of the chart ingress they belong below `gateway:`.\n\
         image:\n  repository: \"{repository}\"\n  tag: \"{tag}\"\n\
         deployment:\n  daemonset: true\n  hostNetwork: true\n\
         dnsPolicy: ClusterFirstWithHostNet\n\
         {ports}\
         containerSecurityContext:\n  allowPrivilegeEscalation: true\n  capabilities:\n    drop: [ALL]\n    \
         add: [NET_BIND_SERVICE]\n"
    ))
}
