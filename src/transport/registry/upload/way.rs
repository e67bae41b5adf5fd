//! How a blob is sent: whole or in pieces, and what a refusal changes about that.

use reqwest::StatusCode;

use super::super::retry;

/// Smaller pieces than this are not tried.
const SMALLEST: usize = 256 << 10;

/// How a blob is sent. Refusals change it.
pub(super) struct Way {
    pub(super) in_pieces: bool,
    /// Of a piece.
    pub(super) length: usize,
    /// Whether to go on where it broke off.
    pub(super) resumes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum After {
    /// At once, for it was the way that was refused.
    OtherWay,
    /// As after a broken connection.
    Again,
    GiveUp,
}

impl Way {
    /// What to do about a refusal, when `begun` bytes had arrived before.
    pub(super) fn after(&mut self, status: StatusCode, code: &str, begun: u64) -> After {
        let number = status.as_u16();
        // Some registries that want pieces say this of a whole blob (faults.md E7).
        if is_mismatch(code) && begun == 0 && !self.in_pieces {
            self.in_pieces = true;
            return After::OtherWay;
        }
        if is_mismatch(code) {
            // What is there from before may not be what was sent: once more, from the start.
            self.resumes = false;
            return if begun > 0 { After::Again } else { After::GiveUp };
        }
        // Some registries refuse a whole blob and take pieces (faults.md E7), proxies limit sizes.
        let of_whole =
            matches!(number, 400 | 405 | 411 | 413 | 415 | 501) || (begun == 0 && matches!(number, 404 | 416));
        if !self.in_pieces && of_whole && !(begun > 0 && code.starts_with("BLOB_UPLOAD")) {
            self.in_pieces = true;
            return After::OtherWay;
        }
        // nginx takes 1 MiB unless it is told otherwise.
        if self.in_pieces && number == 413 && self.length > SMALLEST {
            self.length /= 4;
            return After::OtherWay;
        }
        // A session may be lost on the way (faults.md E11), or the registry have another idea of it.
        if number == 404 || code.starts_with("BLOB_UPLOAD") {
            self.resumes &= begun == 0;
            return After::Again;
        }
        if number == 416 || retry::is_transient(status) { After::Again } else { After::GiveUp }
    }
}

pub(super) fn is_mismatch(code: &str) -> bool {
    matches!(code, "DIGEST_INVALID" | "SIZE_INVALID")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_refusal() {
        let fresh = || Way { in_pieces: false, length: 4 << 20, resumes: true };
        let pieces = || Way { in_pieces: true, ..fresh() };
        // In pieces, their length and going on afterwards.
        for (mut way, status, code, begun, after, changed) in [
            (fresh(), 400, "", 0, After::OtherWay, (true, 4 << 20, true)),
            (fresh(), 404, "", 0, After::OtherWay, (true, 4 << 20, true)),
            (fresh(), 413, "", 0, After::OtherWay, (true, 4 << 20, true)),
            (fresh(), 413, "", 9, After::OtherWay, (true, 4 << 20, true)),
            (fresh(), 404, "BLOB_UPLOAD_UNKNOWN", 9, After::Again, (false, 4 << 20, false)),
            (fresh(), 400, "BLOB_UPLOAD_INVALID", 9, After::Again, (false, 4 << 20, false)),
            (fresh(), 416, "", 9, After::Again, (false, 4 << 20, true)),
            (fresh(), 503, "", 9, After::Again, (false, 4 << 20, true)),
            (fresh(), 400, "DIGEST_INVALID", 0, After::OtherWay, (true, 4 << 20, true)),
            (fresh(), 400, "SIZE_INVALID", 0, After::OtherWay, (true, 4 << 20, true)),
            (pieces(), 400, "DIGEST_INVALID", 0, After::GiveUp, (true, 4 << 20, false)),
            (fresh(), 400, "DIGEST_INVALID", 9, After::Again, (false, 4 << 20, false)),
            (fresh(), 403, "DENIED", 0, After::GiveUp, (false, 4 << 20, true)),
            (pieces(), 413, "", 0, After::OtherWay, (true, 1 << 20, true)),
            (pieces(), 404, "", 0, After::Again, (true, 4 << 20, true)),
            (pieces(), 416, "", 0, After::Again, (true, 4 << 20, true)),
            (pieces(), 400, "", 0, After::GiveUp, (true, 4 << 20, true)),
            (Way { length: SMALLEST, ..pieces() }, 413, "", 0, After::GiveUp, (true, SMALLEST, true)),
        ] {
            let did = way.after(StatusCode::from_u16(status).unwrap(), code, begun);
            let now = (way.in_pieces, way.length, way.resumes);
            assert_eq!((did, now), (after, changed), "{status} {code} at {begun}");
        }
    }
}
