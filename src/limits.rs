//! What content may take up before it is refused. Whatever has to be in memory has a share of it, so that one option raises
//! them all and the memory stays bounded. What no container engine would take, nor a kernel, is a constant where it applies.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Up to so many unpacked bytes it does not matter how they were reached.
const HARMLESS: u64 = 64 << 20;

/// The limits that can be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that one layer, or one compressed archive, may unpack to (faults.md D1, D2); `--max-unpacked`.
    pub unpacked: u64,
    /// How many times its size a layer may unpack to; `--max-ratio`. gzip reaches 1032, a file of zeros in zstd 32768.
    pub ratio: u64,
    /// Bytes of memory that one image may make a run take (faults.md G6); `--max-memory`.
    pub memory: u64,
    /// Indexes inside each other, and referrers of referrers (faults.md C17, C29), at most [`MAX_DEPTH`]; `--max-depth`.
    pub depth: usize,
}

/// The largest [`Limits::depth`]: each level takes some of the stack.
pub const MAX_DEPTH: usize = 64;

impl Default for Limits {
    fn default() -> Self {
        Limits { unpacked: 64 << 30, ratio: 2000, memory: 128 << 20, depth: 8 }
    }
}

impl Limits {
    /// Refuses `what`, of `size` bytes if that is known, once `unpacked` bytes have come out of it.
    pub fn check_unpacked(&self, unpacked: u64, size: Option<u64>, what: &str) -> Result<()> {
        if unpacked > self.unpacked {
            let message = format!("{what} unpacks to more than {}", Size(self.unpacked));
            return Err(Error::content(message).hint("if it is right, raise the limit with --max-unpacked"));
        }
        if let Some(size) = size
            && unpacked > HARMLESS.max(size.saturating_mul(self.ratio))
        {
            let message = format!("{what} unpacks to more than {} times its {size} bytes", self.ratio);
            return Err(Error::content(message).hint(
                "it looks made to fill memory or disks; if it is right, raise the limit with --max-ratio, or compress it with gzip",
            ));
        }
        Ok(())
    }

    /// The largest window that a zstd frame may ask for, as a power of two: an eighth of the memory, since two images are
    /// unpacked at a time. Image builders use 8 MiB, which every decoder should support (RFC 8878 §3.1.1.1.2).
    pub fn window_log(&self) -> u32 {
        (self.memory / 8).checked_ilog2().unwrap_or_default().clamp(10, 31)
    }

    /// Bytes that one document may have (faults.md §5): a manifest, an index, a config, a list of images, an answer of a
    /// registry or an engine.
    pub fn document(&self) -> u64 {
        self.memory / 32
    }

    /// Bytes that an extended header of a tar may have (faults.md D17), and an answer of a token service (A31).
    pub fn header(&self) -> u64 {
        self.memory / 128
    }

    /// Bytes that a list in pages may have, and all configs of an image.
    pub fn documents(&self) -> u64 {
        self.memory / 8
    }

    /// Bytes that the manifests of an image, or what refers to it, may take in memory.
    pub fn manifests(&self) -> u64 {
        self.memory / 2
    }

    /// Bytes that the names of an archive's members may take in memory (faults.md F16).
    pub fn members(&self) -> u64 {
        self.memory / 8 * 3
    }

    /// Steps that looking for files in an image may take: the more may be remembered, the more there is to look at.
    pub fn steps(&self) -> u64 {
        self.memory / 8 * 3
    }

    /// Bytes that the files of an image may take in memory while they are compared or listed.
    pub fn files(&self) -> u64 {
        self.memory / 8 * 5
    }

    /// Bytes that may be remembered of the layers of an image while files are looked up in them; two images at a time.
    pub fn lookup(&self) -> u64 {
        self.memory / 4
    }

    /// Refuses `what`, which takes `used` bytes of memory, if that is more than its `part`.
    pub fn check_memory(&self, used: u64, part: u64, what: &str) -> Result<()> {
        if used > part { Err(self.exceeded(what, part)) } else { Ok(()) }
    }

    /// An error about `what` that takes more than `part` of the memory.
    pub fn exceeded(&self, what: &str, part: u64) -> Error {
        Error::content(format!("{what} more than {} of memory, of {} for everything", Size(part), Size(self.memory)))
            .hint("if the image is right, raise the limit with --max-memory")
    }

    /// Refuses the document `what` of `size` bytes if it is too large.
    pub fn check_document(&self, size: u64, what: impl fmt::Display) -> Result<()> {
        self.check_size(size, self.document(), what)
    }

    /// Refuses the extended header `what` of `size` bytes if it is too large.
    pub fn check_header(&self, size: u64, what: impl fmt::Display) -> Result<()> {
        self.check_size(size, self.header(), what)
    }

    fn check_size(&self, size: u64, limit: u64, what: impl fmt::Display) -> Result<()> {
        if size > limit { Err(self.too_large(format!("{what} has {size} bytes"), limit)) } else { Ok(()) }
    }

    /// An error that says how large something is, `said`, and that it may have `limit`, a share of the memory.
    pub fn too_large(&self, said: impl fmt::Display, limit: u64) -> Error {
        let share = self.memory / limit.max(1);
        Error::content(format!("{said}, the limit is {}", Size(limit))).hint(format!(
            "if it is right, raise the limit with --max-memory: it is 1/{share} of that, now {}",
            Size(self.memory)
        ))
    }

    /// Refuses `what` that is `depth` levels below the top.
    pub fn check_depth(&self, depth: usize, what: &str) -> Result<()> {
        if depth > self.depth {
            let message = format!("{what} deeper than {} levels", self.depth);
            return Err(Error::content(message).hint("if it is right, raise the limit with --max-depth"));
        }
        Ok(())
    }
}

/// Bytes of memory that a manifest or index of `size` bytes takes, about, with what it means.
pub fn of_manifest(size: u64) -> u64 {
    size.saturating_mul(7).saturating_add(20 << 10)
}

/// A number of bytes, as people write it: `1073741824`, `512MiB`, `64G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift) {
            Some((unit, shift)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim_start());
        let known = |(name, shift): &(&str, u32)| (*name == unit || &name[..1] == unit).then_some(*shift);
        let shift = if unit.is_empty() { Some(0) } else { UNITS.iter().find_map(known) };
        let size = shift.and_then(|shift| number.parse::<u64>().ok()?.checked_mul(1 << shift)).filter(|size| *size > 0);
        size.map(Size).ok_or_else(|| {
            Error::usage(format!("'{text}' is no number of bytes"))
                .hint("write a number and KiB, MiB, GiB or TiB: 512MiB")
        })
    }
}

/// A number of levels, from 1 to [`MAX_DEPTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth(pub usize);

impl FromStr for Depth {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let depth = text.parse().ok().filter(|depth| (1..=MAX_DEPTH).contains(depth));
        depth.map(Depth).ok_or_else(|| {
            Error::usage(format!("'{text}' is no number of levels"))
                .hint(format!("write a number from 1 to {MAX_DEPTH}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, size) in [
            ("1", Some(1)),
            ("1000", Some(1000)),
            ("4KiB", Some(4096)),
            ("512MiB", Some(512 << 20)),
            ("512 MiB", Some(512 << 20)),
            ("64G", Some(64 << 30)),
            ("2TiB", Some(2 << 40)),
            ("16777215T", Some(16_777_215 << 40)),
            ("16777216T", None),
            ("0", None),
            ("0G", None),
            ("", None),
            ("G", None),
            ("-1", None),
            ("+1", None),
            ("1.5G", None),
            ("1g", None),
            ("1GB", None),
            ("1Gi", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(text.parse().ok(), size.map(Size), "{text}");
        }
        for (size, text) in
            [(1, "1 bytes"), (1025, "1025 bytes"), (3 << 10, "3 KiB"), (128 << 20, "128 MiB"), (1 << 40, "1 TiB")]
        {
            assert_eq!(Size(size).to_string(), text);
        }
    }

    #[test]
    fn what_is_allowed_follows_from_the_limits() {
        let limits = Limits::default();
        assert_eq!((limits.window_log(), limits.files(), limits.lookup()), (24, 80 << 20, 32 << 20));
        assert_eq!((limits.document(), limits.header(), limits.documents()), (4 << 20, 1 << 20, 16 << 20));
        assert_eq!((limits.manifests(), limits.members(), limits.steps()), (64 << 20, 48 << 20, 50_331_648));
        for (memory, window) in [(0, 10), (1, 10), (1 << 30, 27), (u64::MAX, 31)] {
            assert_eq!(Limits { memory, ..limits }.window_log(), window, "{memory}");
        }
        for (unpacked, size, allowed) in [
            (64 << 30, None, true),
            ((64 << 30) + 1, None, false),
            (HARMLESS, Some(0), true),
            (HARMLESS + 1, Some(1), false),
            (2000 << 20, Some(1 << 20), true),
            ((2000 << 20) + 1, Some(1 << 20), false),
            (1 << 30, Some(u64::MAX), true),
        ] {
            assert_eq!(limits.check_unpacked(unpacked, size, "it").is_ok(), allowed, "{unpacked} of {size:?}");
        }
        assert!(Limits { ratio: 3000, ..limits }.check_unpacked((2000 << 20) + 1, Some(1 << 20), "it").is_ok());
    }

    #[test]
    fn one_more_than_a_limit_is_refused_with_the_option_that_raises_it() {
        let usual = Limits::default();
        let raised = Limits { memory: 256 << 20, depth: 9, ..usual };
        type Check = fn(&Limits, u64) -> Result<()>;
        let cases: [(u64, Check, &str, &str); 4] = [
            (
                4 << 20,
                |limits, size| limits.check_document(size, "it"),
                "it has 4194305 bytes, the limit is 4 MiB",
                "if it is right, raise the limit with --max-memory: it is 1/32 of that, now 128 MiB",
            ),
            (
                1 << 20,
                |limits, size| limits.check_header(size, "it"),
                "it has 1048577 bytes, the limit is 1 MiB",
                "if it is right, raise the limit with --max-memory: it is 1/128 of that, now 128 MiB",
            ),
            (
                48 << 20,
                |limits, used| limits.check_memory(used, limits.members(), "they take"),
                "they take more than 48 MiB of memory, of 128 MiB for everything",
                "if the image is right, raise the limit with --max-memory",
            ),
            (
                8,
                |limits, depth| limits.check_depth(depth as usize, "it is"),
                "it is deeper than 8 levels",
                "if it is right, raise the limit with --max-depth",
            ),
        ];
        for (limit, check, sentence, hint) in cases {
            check(&usual, limit).unwrap();
            check(&raised, limit + 1).unwrap();
            let error = check(&usual, limit + 1).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Content, sentence));
            assert_eq!(error.hint_text(), Some(hint));
        }
        let tiny = Limits { memory: 1, ..usual };
        assert!(tiny.check_document(1, "it").is_err(), "a share of nothing is nothing");
        for (text, depth) in [("1", Some(1)), ("64", Some(64)), ("65", None), ("0", None), ("-1", None), ("", None)] {
            assert_eq!(text.parse().ok(), depth.map(Depth), "{text}");
        }
    }
}
