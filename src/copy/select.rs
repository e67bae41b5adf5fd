//! Some platforms of an image: the same index with fewer entries.

use std::collections::HashSet;

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::image::Node;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::{Child, Document};
use crate::oci::platform::Platform;

/// The tree without the images that are for none of `platforms`, and without what attests those. Every entry that stays
/// keeps its bytes. A tree that loses nothing is returned as it is.
pub(super) fn platforms(tree: Node, platforms: &[Platform]) -> Result<Node> {
    let absent: HashSet<Digest> = tree.absent().into_iter().map(|entry| entry.digest.clone()).collect();
    let Node::Index(descriptor, index, nodes, bytes) = tree else { return Ok(tree) };
    let mut dropped: Vec<String> = Vec::new();
    let mut kept = 0;
    let mut others = Vec::new();
    let mut children: Vec<(Child, Option<Node>)> = Vec::with_capacity(nodes.len());
    for (entry, node) in index.manifests.iter().zip(nodes) {
        let platform = entry.platform()?.filter(|platform| !platform.is_unknown());
        children.push(match (node, platform) {
            (Some(node @ Node::Index(..)), None) => match self::platforms(node, platforms) {
                Ok(node) => {
                    kept += 1;
                    let new = node.descriptor();
                    let child = if new.digest == entry.digest {
                        Child::Keep
                    } else {
                        Child::Replace(entry.with_content(new.digest.clone(), new.size)?)
                    };
                    (child, Some(node))
                }
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                Err(_) => {
                    dropped.push(entry.digest.to_string());
                    (Child::Drop, None)
                }
            },
            (node, Some(platform)) if !platforms.iter().any(|wanted| platform.matches(wanted)) => {
                others.push(platform.to_string());
                dropped.push(node.map_or(entry.digest.to_string(), |node| node.descriptor().digest.to_string()));
                (Child::Drop, None)
            }
            // Who pulls one platform does not pull what attests it; an image itself must be there.
            (None, None) if absent.contains(&entry.digest) => (Child::Drop, None),
            (None, Some(platform)) if absent.contains(&entry.digest) => {
                return Err(Error::not_found(format!("the image {} for {platform} is not there", entry.digest))
                    .hint("it was not pulled; choose a platform that was"));
            }
            (node, platform) => {
                kept += usize::from(platform.is_some());
                (Child::Keep, node)
            }
        });
    }
    for (entry, (child, node)) in index.manifests.iter().zip(&mut children) {
        if entry.attests().is_some_and(|digest| dropped.contains(&digest)) {
            (*child, *node) = (Child::Drop, None);
        }
    }
    if kept == 0 {
        let wanted: Vec<String> = platforms.iter().map(Platform::to_string).collect();
        return Err(Error::not_found(format!("there is no image for {}", wanted.join(", ")))
            .hint(format!("there are {}", others.join(", "))));
    }
    let (changes, nodes): (Vec<Child>, Vec<Option<Node>>) = children.into_iter().unzip();
    if changes.iter().all(|change| matches!(change, Child::Keep)) {
        return Ok(Node::Index(descriptor, index, nodes, bytes));
    }
    let nodes = changes.iter().zip(nodes).filter(|(change, _)| !matches!(change, Child::Drop)).map(|(_, node)| node);
    let nodes: Vec<Option<Node>> = nodes.collect();
    let bytes = Bytes::from(index.with_children(&changes, &[])?);
    let Document::Index(index) = Document::parse(&bytes, Some(&descriptor.media_type))? else {
        return Err(Error::failed("internal error: an index became something else"));
    };
    let descriptor = Descriptor::new(&descriptor.media_type, Digest::of(&bytes), bytes.len() as u64)?;
    Ok(Node::Index(descriptor, index, nodes, bytes))
}
