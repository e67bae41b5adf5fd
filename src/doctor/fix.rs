//! Snippets that mend a manifest, with the place that they belong to.

use super::manifest::{Detail, Format};

/// Lines of YAML below a comment that says where they belong, indented as their neighbours there are.
pub(super) fn snippet(title: &str, path: &str, column: usize, lines: &[&str]) -> String {
    // Nobody copies from a column that far to the right.
    let indent = " ".repeat(column.min(40));
    let mut text = format!("# {title}: {path}");
    for line in lines {
        text.push('\n');
        text.push_str(&indent);
        text.push_str(line);
    }
    text
}

/// What mends a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// A command to be typed, or a sentence.
    Command(String),
    /// Nothing but these capabilities, as they are called in manifests, and no_new_privs not set.
    Capabilities(String),
    /// Another user than root.
    User,
    /// The user namespace of the node.
    HostUsers,
    /// A directory that can be written at this path.
    Writable(String),
}

impl Mend {
    /// As it is to be written where a container is described, or as Kubernetes has it if nothing describes it.
    pub(super) fn text(&self, detail: Option<&Detail>) -> String {
        let format = detail.map_or(Format::Kubernetes, |detail| detail.format);
        let lines = match (self, format) {
            (Mend::Command(command), _) => return command.clone(),
            (_, Format::Compose) => self.compose(),
            (_, Format::Kubernetes) => self.kubernetes("securityContext", detail),
            (_, Format::Values) => self.kubernetes("containerSecurityContext", detail),
        };
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let Some(Detail { title, path, indent, .. }) = detail else { return lines.join("\n") };
        match (self, format, path.rsplit_once('.')) {
            (_, Format::Values, _) => snippet(title, "top level", 0, &lines),
            (Mend::HostUsers | Mend::Writable(_), Format::Kubernetes, Some((pod, _))) => {
                snippet(title, pod, indent.saturating_sub(2), &lines)
            }
            _ => snippet(title, path, *indent, &lines),
        }
    }

    fn kubernetes(&self, context: &str, detail: Option<&Detail>) -> Vec<String> {
        let lines = match self {
            Mend::Command(command) => return vec![command.clone()],
            Mend::Capabilities(names) => format!(
                "{context}:\n  allowPrivilegeEscalation: true\n  capabilities:\n    drop: [ALL]\n    add: [{names}]"
            ),
            Mend::User => format!("{context}:\n  runAsUser: 1000\n  runAsNonRoot: true"),
            Mend::HostUsers => "hostUsers: true".to_owned(),
            Mend::Writable(path) => match detail {
                Some(Detail { format: Format::Values, .. }) => format!(
                    "deployment:\n  userDefinedVolumes:\n  - name: writable\n    emptyDir: {{}}\n  userDefinedVolumeMounts:\n  - name: writable\n    mountPath: {path}"
                ),
                _ => {
                    let last = detail.and_then(|detail| detail.path.rsplit('.').next()).unwrap_or("containers[kong]");
                    let (list, name) = last.trim_end_matches(']').split_once('[').unwrap_or(("containers", last));
                    format!(
                        "{list}:\n- name: {name}\n  volumeMounts:\n  - name: writable\n    mountPath: {path}\nvolumes:\n- name: writable\n  emptyDir: {{}}"
                    )
                }
            },
        };
        lines.lines().map(str::to_owned).collect()
    }

    fn compose(&self) -> Vec<String> {
        let lines = match self {
            Mend::Command(command) => command.clone(),
            Mend::Capabilities(names) => {
                format!("cap_drop: [ALL]\ncap_add: [{names}]\nsecurity_opt: [\"no-new-privileges:false\"]")
            }
            Mend::User => "user: \"1000\"".to_owned(),
            Mend::HostUsers => "userns_mode: host".to_owned(),
            Mend::Writable(path) => format!("tmpfs: [\"{path}\"]"),
        };
        lines.lines().map(str::to_owned).collect()
    }
}
