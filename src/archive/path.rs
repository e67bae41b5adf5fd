//! Paths inside an image: bytes, relative to the image's root, never paths of the host.

use std::collections::VecDeque;

use crate::error::Error;

/// How many symbolic links one walk follows, as Linux does (path_resolution(7)).
pub const MAX_LINKS: usize = 40;
/// Bytes of the longest path that we accept, Linux's `PATH_MAX`.
pub const MAX_PATH: usize = 4096;

/// `raw` without leading, doubled and trailing slashes and without `.`; each `..` takes the component before it away
/// and stops at the root, as unpackers do (faults.md D21).
pub fn normalise(raw: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(raw.len().min(MAX_PATH));
    for component in raw.split(|&b| b == b'/') {
        push(&mut path, component);
    }
    path
}

/// Moves `path` by one component, which may be empty, `.` or `..`.
fn push(path: &mut Vec<u8>, component: &[u8]) {
    match component {
        b"" | b"." => {}
        b".." => path.truncate(parent(path).len()),
        name => {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
    }
}

/// The directory that holds `path`; the root's parent is the root.
pub fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(&[], |slash| &path[..slash])
}

/// The last component of `path`; the root has an empty one.
pub fn base(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(path, |slash| &path[slash + 1..])
}

/// `directory/name`.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    push(&mut path, name);
    path
}

/// Where a symbolic link at `link` points by its text, as if no component of that was a link again.
pub(crate) fn target(link: &[u8], text: &[u8]) -> Vec<u8> {
    let start = if text.starts_with(b"/") { &b""[..] } else { parent(link) };
    normalise(&[start, text].join(&b'/'))
}

/// Whether `path` lies somewhere below `directory`; everything but the root lies below the root.
pub fn is_below(path: &[u8], directory: &[u8]) -> bool {
    match directory {
        [] => !path.is_empty(),
        _ => path.len() > directory.len() && path.starts_with(directory) && path[directory.len()] == b'/',
    }
}

/// `a`, `a/b`, `a/b/c` for `a/b/c`; nothing for the root.
pub fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let inner = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &path[..at]);
    inner.chain((!path.is_empty()).then_some(path))
}

/// For messages: absolute, and lossy where the bytes are no UTF-8.
pub fn show(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

/// What a walk finds at one path.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A symbolic link with this target, to be followed.
    Link(Vec<u8>),
    /// Anything else, perhaps nothing at all.
    Stay,
}

/// Where a walk ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// No component of it is a symbolic link.
    pub path: Vec<u8>,
    /// The links that were followed: the path of each and its target as written.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A walk met more than [`MAX_LINKS`] symbolic links.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyLinks;

impl From<TooManyLinks> for Error {
    fn from(TooManyLinks: TooManyLinks) -> Self {
        Error::content(format!("more than {MAX_LINKS} symbolic links lead in circles"))
    }
}

/// Walks `path` from the root as Linux does (path_resolution(7)), inside the image: absolute targets start at the
/// image's root, and `..` stops there. `step` is asked for every component and told which ones follow; what does not
/// exist is walked through by its name.
pub fn walk<E: From<TooManyLinks>>(
    path: &[u8],
    mut step: impl FnMut(&[u8], &VecDeque<Vec<u8>>) -> Result<Step, E>,
) -> Result<Walked, E> {
    let mut walked = Walked::default();
    let split = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|&b| b == b'/').filter(|c| !matches!(*c, b"" | b".")).map(<[u8]>::to_vec).collect()
    };
    let mut ahead = VecDeque::from(split(path));
    while let Some(component) = ahead.pop_front() {
        let here = join(&walked.path, &component);
        if component == b".." {
            walked.path = here;
            continue;
        }
        match step(&here, &ahead)? {
            Step::Stay => walked.path = here,
            Step::Link(target) => {
                if walked.links.len() == MAX_LINKS {
                    return Err(TooManyLinks.into());
                }
                if target.first() == Some(&b'/') {
                    walked.path.clear();
                }
                for component in split(&target).into_iter().rev() {
                    ahead.push_front(component);
                }
                walked.links.push((here, target));
            }
        }
    }
    Ok(walked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_inside_the_root() {
        for (raw, expected) in [
            ("usr/bin", "usr/bin"),
            ("./usr//bin/", "usr/bin"),
            ("/usr/./bin", "usr/bin"),
            ("../../etc", "etc"),
            ("usr/../../etc/..", ""),
            (".", ""),
            ("", ""),
            ("a/.../b", "a/.../b"),
            ("a\\..\\b", "a\\..\\b"),
        ] {
            assert_eq!(normalise(raw.as_bytes()), expected.as_bytes(), "{raw}");
        }
        assert_eq!(
            (parent(b"a/b"), base(b"a/b"), parent(b"a"), base(b"a")),
            (&b"a"[..], &b"b"[..], &b""[..], &b"a"[..])
        );
        assert_eq!(prefixes(b"a/b/c").collect::<Vec<_>>(), [&b"a"[..], b"a/b", b"a/b/c"]);
        assert_eq!(prefixes(b"").count(), 0);
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b"") && !is_below(b"ab", b"a") && !is_below(b"a", b"a"));
    }

    #[test]
    fn walks_follow_links_inside_the_root() {
        let links = [
            ("sbin", "usr/sbin"),
            ("usr/sbin/nginx", "/opt/./nginx/../nginx/bin"),
            ("up", "../../../etc"),
            ("loop", "loop"),
            ("a", "b/x"),
            ("b", "/a"),
            ("self", "."),
        ];
        let go = |path: &str| {
            walk(path.as_bytes(), |here, _| -> Result<Step, TooManyLinks> {
                let target = links.iter().find(|(from, _)| from.as_bytes() == here);
                Ok(target.map_or(Step::Stay, |(_, to)| Step::Link(to.as_bytes().to_vec())))
            })
            .map(|walked| (String::from_utf8(walked.path).unwrap(), walked.links.len()))
        };
        for (path, expected) in [
            ("/sbin/nginx", Ok(("opt/nginx/bin".to_owned(), 2))),
            ("sbin/../lib", Ok(("usr/lib".to_owned(), 1))),
            ("up/passwd", Ok(("etc/passwd".to_owned(), 1))),
            ("self/self/x", Ok(("x".to_owned(), 2))),
            ("../..", Ok((String::new(), 0))),
            ("loop", Err(TooManyLinks)),
            ("a/y", Err(TooManyLinks)),
        ] {
            assert_eq!(go(path), expected, "{path}");
        }
    }
}
