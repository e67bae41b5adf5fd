//! The Kubernetes Indexed Job that runs a file in shards, with the file in a ConfigMap: one manifest for `kubectl apply`.

use crate::error::{Error, Result};
use crate::oci::reference::Reference;
use crate::sync::spec::Spec;

const MANIFEST: &str = include_str!("job.yaml");
/// What a ConfigMap may hold is 1 MiB, all of it together (Kubernetes, "ConfigMaps").
const MAX_FILE: usize = 1_000_000;
/// The Job controller puts `-INDEX-` and five letters behind it, and a pod's host name has 63 characters.
const MAX_NAME: usize = 52;

/// What the Job is to be like.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The name of the Job and of the ConfigMap.
    pub name: &'a str,
    /// The image that has capatch in it.
    pub image: &'a Reference,
    /// How many pods share the work.
    pub shards: u32,
    /// The Secret of type `kubernetes.io/dockerconfigjson` with the credentials; it may be absent.
    pub secret: &'a str,
    /// More arguments for each pod.
    pub arguments: &'a [String],
}

impl Job<'_> {
    /// The manifest for `file`, which was read as `spec`.
    pub fn manifest(&self, file: &str, spec: &Spec) -> Result<String> {
        for name in [self.name, self.secret] {
            let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty()
                || name.len() > MAX_NAME
                || !name.bytes().all(valid)
                || name.starts_with('-')
                || name.ends_with('-')
            {
                return Err(Error::usage(format!("'{name}' is no name for an object of Kubernetes"))
                    .hint(format!("write at most {MAX_NAME} lower case letters, digits and hyphens")));
            }
        }
        if !matches!(self.image, Reference::Registry { .. }) {
            return Err(Error::usage(format!("{} is in no registry that a cluster could pull it from", self.image)));
        }
        if file.len() > MAX_FILE {
            return Err(Error::usage(format!("the file has {} bytes, a ConfigMap holds {MAX_FILE}", file.len())));
        }
        for image in &spec.images {
            let mut references = image.destinations.iter().chain([&image.source]);
            if let Some(local) = references.find(|reference| !matches!(reference, Reference::Registry { .. })) {
                return Err(Error::usage(format!("{}: a pod has no {local}", image.place))
                    .hint("a Job can only work between registries"));
            }
        }
        let arguments: String =
            self.arguments.iter().map(|argument| format!("            - {}\n", quoted(argument))).collect();
        let values = [
            ("${NAME}", self.name.to_owned()),
            ("${SHARDS}", self.shards.to_string()),
            ("${SECRET}", self.secret.to_owned()),
            ("${IMAGE}", quoted(&self.image.to_string())),
            ("${ARGUMENTS}", arguments),
            // Last: whatever stands in it stays.
            ("${FILE}", block(file)),
        ];
        Ok(values.iter().fold(MANIFEST.to_owned(), |text, (name, value)| text.replace(name, value)))
    }
}

/// A double-quoted scalar: JSON's strings are YAML's too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `text` as a literal block indented by four, or quoted where a literal block would not give it back as it is.
fn block(text: &str) -> String {
    let literal = |c: char| c == '\n' || (!c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'));
    let whole = text.strip_suffix('\n').is_some_and(|rest| !rest.is_empty() && !rest.ends_with('\n'));
    if !whole || text.starts_with([' ', '\n']) || !text.chars().all(literal) {
        return format!("{}\n", quoted(text));
    }
    let lines = text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") });
    format!("|\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const FILE: &str = "version: 1\n\n# mirror\nimages:\n  - {source: 'a:1', destination: r.io/a}\n";

    fn manifest(file: &str, change: impl Fn(&mut Job)) -> Result<String> {
        let image = "r.io/capatch:1".parse().unwrap();
        let arguments = ["--plain-http=r.io".to_owned(), "--max-wait=\"5\"".to_owned()];
        let mut job = Job { name: "mirror", image: &image, shards: 4, secret: "login", arguments: &arguments };
        change(&mut job);
        job.manifest(file, &Spec::parse(file, "f.yaml").unwrap())
    }

    #[test]
    fn the_manifest_is_yaml_with_the_file_in_it() {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&manifest(FILE, |_| ()).unwrap()).unwrap();
        let [map, job] = &documents[..] else { panic!("{documents:?}") };
        assert_eq!((&map["kind"], &map["data"]["sync.yaml"]), (&Value::from("ConfigMap"), &Value::from(FILE)));
        let spec = &job["spec"];
        assert_eq!((&spec["completionMode"], &spec["completions"]), (&Value::from("Indexed"), &Value::from(4)));
        let pod = &spec["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(
            container["args"],
            serde_json::json!([
                "sync",
                "/etc/capatch/sync.yaml",
                "--shard=auto",
                "--shards=4",
                "--plain-http=r.io",
                "--max-wait=\"5\""
            ])
        );
        assert_eq!(container["image"], "r.io/capatch:1");
        assert_eq!(pod["volumes"][0]["configMap"]["name"], "mirror");
        assert_eq!(pod["volumes"][1]["secret"]["secretName"], "login");
        // Kubernetes, "Pod Security Standards", restricted.
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
    }

    #[test]
    fn any_file_comes_back_as_it_was() {
        for odd in [
            FILE.trim_end().to_owned(),
            format!("{FILE}\n\n"),
            format!(" # x\n{}", FILE),
            format!("\n{FILE}"),
            FILE.replace('\n', "\r\n"),
            FILE.replace("# mirror", "# a\tb \u{2028} é \u{1f600} \"\\ --- "),
            FILE.replace("# mirror", "# trailing  \n#   \n   \n"),
            format!("---\n{FILE}"),
        ] {
            let documents: Vec<Value> = serde_saphyr::from_multiple(&manifest(&odd, |_| ()).unwrap()).unwrap();
            assert_eq!(documents[0]["data"]["sync.yaml"], odd);
        }
    }

    #[test]
    fn what_a_cluster_cannot_do_is_refused() {
        let refused = |file: &str, change: fn(&mut Job)| manifest(file, change).unwrap_err().to_string();
        assert!(refused(&FILE.replace("r.io/a", "oci:dir"), |_| ()).contains("f.yaml:5:5: a pod has no oci:dir"));
        assert!(refused(FILE, |job| job.name = "My_Job").contains("no name"));
        assert!(refused(FILE, |job| job.secret = "a\nb").contains("no name"));
        assert!(refused(&format!("{FILE}#{}\n", "x".repeat(MAX_FILE)), |_| ()).contains("ConfigMap holds"));
    }
}
