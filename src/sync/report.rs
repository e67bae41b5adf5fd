//! What became of everything that a file asked for.

use serde::Serialize;

use crate::copy::Moved;
use crate::error::{Error, Kind};
use crate::oci::digest::Digest;

/// What became of everything.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What could not even be tried, and then the rest in the order of the file.
    pub images: Vec<Row>,
    /// How many images came to each end.
    pub counts: Counts,
    /// What was moved.
    pub moves: Moved,
}

/// How many images came to each end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Were as they should be.
    pub unchanged: usize,
    /// Were copied or patched, or would be.
    pub changed: usize,
    /// Failed.
    pub failed: usize,
    /// Were not tried after a failure.
    pub skipped: usize,
}

/// What became of one image at one destination.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// From where.
    pub source: String,
    /// To where.
    pub destination: String,
    /// What became of it.
    #[serde(flatten)]
    pub end: End,
}

/// What became of an image.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum End {
    /// It is as it should be.
    Unchanged {
        /// What the destination names.
        digest: Digest,
    },
    /// It was copied.
    Copied(Change),
    /// It was patched.
    Patched(Change),
    /// It would be copied.
    WouldCopy(Change),
    /// It would be patched.
    WouldPatch(Change),
    /// It failed.
    Failed {
        /// Why.
        error: Error,
    },
    /// It was not tried, or not written, because of another one that failed.
    Skipped,
}

/// What was changed at a destination, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Why.
    pub why: &'static str,
    /// What the destination names after it; unknown for a patch that was not made.
    pub digest: Option<Digest>,
    /// What was moved; unknown for a patch that was not made.
    pub moves: Option<Moved>,
}

impl Report {
    /// Counts what became of `images`.
    pub fn of(images: Vec<Row>) -> Self {
        let mut report = Report { images, ..Report::default() };
        for row in &report.images {
            let count = match &row.end {
                End::Unchanged { .. } => &mut report.counts.unchanged,
                End::Failed { .. } => &mut report.counts.failed,
                End::Skipped => &mut report.counts.skipped,
                End::Copied(change) | End::Patched(change) | End::WouldCopy(change) | End::WouldPatch(change) => {
                    report.moves += change.moves.unwrap_or_default();
                    &mut report.counts.changed
                }
            };
            *count += 1;
        }
        report
    }

    /// The error that sums it up, if there is one: what failed, or what a check found.
    pub fn error(&self, check: bool) -> Option<Error> {
        let Counts { changed, failed, skipped, .. } = self.counts;
        let failures = self.images.iter().filter_map(|row| match &row.end {
            End::Failed { error } => Some(error.kind()),
            _ => None,
        });
        if failed > 0 {
            let limited = failures.into_iter().all(|kind| kind == Kind::RateLimited);
            let kind = if limited { Kind::RateLimited } else { Kind::Failed };
            let not_tried =
                if skipped > 0 { format!(", and {skipped} were not tried or not written") } else { String::new() };
            let message = format!("{failed} of {} failed{not_tried}", images(self.images.len()));
            return Some(Error::new(kind, message).reported());
        }
        (check && changed > 0).then(|| {
            Error::new(Kind::Findings, format!("{changed} of {} would change", images(self.images.len()))).reported()
        })
    }
}

fn images(count: usize) -> String {
    format!("{count} image{}", if count == 1 { "" } else { "s" })
}

impl End {
    /// In one word or two, as people read it.
    pub fn name(&self) -> &'static str {
        match self {
            End::Unchanged { .. } => "unchanged",
            End::Copied(_) => "copied",
            End::Patched(_) => "patched",
            End::WouldCopy(_) => "would copy",
            End::WouldPatch(_) => "would patch",
            End::Failed { .. } => "failed",
            End::Skipped => "skipped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_decides_how_a_run_ends() {
        let row = |end: &End| Row { source: String::new(), destination: String::new(), end: end.clone() };
        let failed = |kind| End::Failed { error: Error::new(kind, "x") };
        let change = Change { why: "x", digest: None, moves: None };
        let (limited, missing) = (failed(Kind::RateLimited), failed(Kind::NotFound));
        let (same, would) = (End::Unchanged { digest: Digest::of(b"") }, End::WouldPatch(change));
        for (check, ends, code) in [
            (false, vec![], 0),
            (false, vec![&same], 0),
            (false, vec![&same, &End::Copied(Change { why: "x", digest: None, moves: None })], 0),
            (true, vec![&same], 0),
            (true, vec![&same, &would], 8),
            (true, vec![&would, &missing], 1),
            (false, vec![&limited, &same], 6),
            (false, vec![&limited, &End::Skipped], 6),
            (false, vec![&limited, &missing], 1),
        ] {
            let report = Report::of(ends.into_iter().map(row).collect());
            let error = report.error(check);
            assert_eq!(error.as_ref().map_or(0, |error| error.kind().exit_code()), code, "{error:?}");
            assert!(error.is_none_or(|error| error.is_reported()));
        }
    }
}
