//! The labels by which containerd's garbage collector follows content, and by which it knows where content came from.
//!
//! Source: containerd `docs/garbage-collection.md`; the names are those that containerd gives when it pulls, so that
//! an image has the same labels whoever stored it.

use std::collections::HashMap;

use super::proto::Labels;
use crate::oci::manifest::Document;
use crate::oci::media_type::{self, Kind};
use crate::oci::reference::Repository;

/// When a lease ends by itself, RFC 3339.
pub(super) const EXPIRE: &str = "containerd.io/gc.expire";

const REFERENCE: &str = "containerd.io/gc.ref.content.";
const SOURCE: &str = "containerd.io/distribution.source.";

/// Bytes that the name and the value of a label may have together.
const LIMIT: usize = 4096;

/// The labels of a manifest or index that let garbage collection follow its children. A child that is absent (a
/// foreign layer, a platform that was not copied) has one too: it is followed once it is there, and ignored until then.
pub(super) fn of_children(document: &Document) -> Labels {
    let mut counts = HashMap::new();
    let label = |child: &crate::oci::descriptor::Descriptor| {
        let group = group(&child.media_type);
        let count = counts.entry(group).or_insert(0_u32);
        let name = match *count {
            0 if !group.is_empty() && !group.ends_with('.') => format!("{REFERENCE}{group}"),
            number => format!("{REFERENCE}{group}{number}"),
        };
        *count += 1;
        (name, child.digest.to_string())
    };
    document.children().into_iter().map(label).collect()
}

/// What stands before the number.
fn group(media_type: &str) -> &'static str {
    match media_type::kind(media_type) {
        Kind::Config(_) => "config",
        Kind::Manifest(_) => "m.",
        Kind::Layer { .. } => "l.",
        // Encrypted layers, for example.
        _ if media_type.starts_with("application/vnd.oci.image.layer.") => "l.",
        _ if media_type.starts_with("application/vnd.docker.image.rootfs.") => "l.",
        _ if media_type == "application/vnd.erofs.layer.v1" => "l.",
        _ => "",
    }
}

/// The label that says in which repository of a registry content can be found: its host without the port, and
/// `repository`'s path added to what `present` says already. `None` if that would be too long for a label.
pub(super) fn of_source(repository: &Repository, present: &Labels) -> Option<(String, String)> {
    let registry = &repository.registry;
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    let name = format!("{SOURCE}{host}");
    let mut paths: Vec<&str> = present.get(&name).map(|value| value.split(',').collect()).unwrap_or_default();
    paths.push(&repository.path);
    paths.retain(|path| !path.is_empty());
    paths.sort_unstable();
    paths.dedup();
    let value = paths.join(",");
    (name.len() + value.len() <= LIMIT).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;

    fn document(media_type: &str, members: &[(&str, &[&str])]) -> Document {
        let mut number = 0;
        let mut body = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}""#);
        for (name, types) in members {
            let list: Vec<_> = types
                .iter()
                .map(|child| {
                    number += 1;
                    let digest = Digest::of(format!("{}", number - 1).as_bytes());
                    format!(r#"{{"mediaType":"{child}","digest":"{digest}","size":1}}"#)
                })
                .collect();
            let list = list.join(",");
            body += &if *name == "config" { format!(r#","config":{list}"#) } else { format!(r#","{name}":[{list}]"#) };
        }
        Document::parse(format!("{body}}}").as_bytes(), None).unwrap()
    }

    #[test]
    fn children_have_the_labels_that_containerd_gives_them() {
        const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        const EMPTY: &str = "application/vnd.oci.empty.v1+json";
        const INTOTO: &str = "application/vnd.in-toto+json";
        let (docker, oci) = (media_type::DOCKER_MANIFEST, media_type::OCI_MANIFEST);
        type Members<'a> = &'a [(&'a str, &'a [&'a str])];
        let cases: [(&str, Members, &[&str]); 7] = [
            (
                docker,
                &[
                    ("config", &[media_type::DOCKER_CONFIG]),
                    ("layers", &[media_type::DOCKER_LAYER_GZIP, FOREIGN, media_type::DOCKER_LAYER_GZIP]),
                ],
                &["config", "l.0", "l.1", "l.2"],
            ),
            (
                oci,
                &[("config", &[media_type::OCI_CONFIG]), ("layers", &[media_type::OCI_LAYER_GZIP, ENCRYPTED])],
                &["config", "l.0", "l.1"],
            ),
            (oci, &[("config", &[media_type::OCI_CONFIG]), ("layers", &[])], &["config"]),
            (oci, &[("config", &[EMPTY]), ("layers", &[EMPTY, INTOTO])], &["0", "1", "2"]),
            (oci, &[("config", &[media_type::OCI_CONFIG]), ("layers", &[INTOTO])], &["config", "0"]),
            (media_type::DOCKER_INDEX, &[("manifests", &[docker, docker])], &["m.0", "m.1"]),
            (media_type::OCI_INDEX, &[("manifests", &[oci, media_type::OCI_INDEX, oci])], &["m.0", "0", "m.1"]),
        ];
        for (media_type, members, names) in cases {
            let expected: Labels = names
                .iter()
                .enumerate()
                .map(|(i, name)| (format!("containerd.io/gc.ref.content.{name}"), Digest::of(i.to_string().as_bytes())))
                .map(|(name, digest)| (name, digest.to_string()))
                .collect();
            assert_eq!(of_children(&document(media_type, members)), expected, "{media_type} {members:?}");
        }
    }

    #[test]
    fn sources_are_added_once_and_in_order() {
        let long = "a,".repeat(2100);
        for (registry, path, present, expected) in [
            ("docker.io", "library/kong", None, Some(("docker.io", "library/kong"))),
            ("127.0.0.1:5000", "kong", None, Some(("127.0.0.1", "kong"))),
            ("[::1]:5000", "kong", None, Some(("::1", "kong"))),
            ("r.io", "b", Some("a,c"), Some(("r.io", "a,b,c"))),
            ("r.io", "b", Some("b"), Some(("r.io", "b"))),
            ("r.io", "b", Some(""), Some(("r.io", "b"))),
            ("r.io", "b", Some(&long[..]), Some(("r.io", "a,b"))),
        ] {
            let repository = Repository { registry: registry.to_owned(), path: path.to_owned() };
            let name = |host: &str| format!("containerd.io/distribution.source.{host}");
            let present: Labels = present.map(|value| (name("r.io"), value.to_owned())).into_iter().collect();
            let expected = expected.map(|(host, value)| (name(host), value.to_owned()));
            assert_eq!(of_source(&repository, &present), expected, "{registry}/{path}");
        }
        let repository = Repository { registry: "r.io".to_owned(), path: "z".to_owned() };
        let full: Vec<_> = (0..800).map(|i| format!("{i:05}")).collect();
        let present = Labels::from([("containerd.io/distribution.source.r.io".to_owned(), full.join(","))]);
        assert_eq!(of_source(&repository, &present), None, "a label has an end");
    }
}
