//! Errors as sentences for the user: what happened, where and why, and on a line of its own what to do.

use std::{fmt, io};

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// What the system calls the failures for which [`std::io::ErrorKind`] has no name: errno(3).
const EIO: i32 = 5;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// A result whose error is a sentence for the user.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means to the caller; each kind has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Input, network or disk failed.
    Failed,
    /// The command line asks for something that does not exist or contradicts itself.
    Usage,
    /// The image, tag, platform or file is not there.
    NotFound,
    /// The registry or the file system said no.
    Denied,
    /// Content did not match its digest, or was refused as malformed or hostile.
    Content,
    /// A registry's rate limit would make us wait longer than allowed.
    RateLimited,
    /// The destination holds something that must not be replaced.
    DestinationRefused,
    /// The check itself worked and found something.
    Findings,
    /// A signal of this number asked us to stop.
    Stopped(u8),
}

impl Kind {
    /// What the kind is called in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Usage => "usage",
            Kind::NotFound => "not-found",
            Kind::Denied => "denied",
            Kind::Content => "content",
            Kind::RateLimited => "rate-limited",
            Kind::DestinationRefused => "destination-refused",
            Kind::Findings => "findings",
            Kind::Stopped(_) => "stopped",
        }
    }

    /// The process's exit code for this kind of error.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Denied => 4,
            Kind::Content => 5,
            Kind::RateLimited => 6,
            Kind::DestinationRefused => 7,
            Kind::Findings => 8,
            Kind::Stopped(signal) => 128 + (signal & 0x7f),
        }
    }
}

/// One sentence about what went wrong, its [`Kind`], and perhaps a hint about what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    placed: bool,
    reported: bool,
    retryable: bool,
}

impl Error {
    /// An error of `kind`; control characters in `message` are made visible, since parts of it come from images and registries.
    pub fn new(kind: Kind, message: impl AsRef<str>) -> Self {
        let message = printable(message.as_ref());
        Error(Box::new(Inner { kind, message, hint: None, placed: false, reported: false, retryable: false }))
    }

    /// [`Kind::Failed`].
    pub fn failed(message: impl AsRef<str>) -> Self {
        Error::new(Kind::Failed, message)
    }

    /// [`Kind::Usage`].
    pub fn usage(message: impl AsRef<str>) -> Self {
        Error::new(Kind::Usage, message)
    }

    /// [`Kind::NotFound`].
    pub fn not_found(message: impl AsRef<str>) -> Self {
        Error::new(Kind::NotFound, message)
    }

    /// [`Kind::Content`].
    pub fn content(message: impl AsRef<str>) -> Self {
        Error::new(Kind::Content, message)
    }

    /// An input or output error on `place`, a path or another thing that the user can name.
    pub fn io(place: impl fmt::Display, error: &io::Error) -> Self {
        // An error of ours that had to travel through `std::io::Read` comes out as it went in.
        if let Some(inner) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
            return inner.clone().context(place);
        }
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Failed,
        };
        let hint = match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::StorageFull, _) => Some("make room on that file system, and run it again"),
            (io::ErrorKind::QuotaExceeded, _) => {
                Some("make room within the quota on that file system, and run it again")
            }
            (io::ErrorKind::FileTooLarge, _) => {
                Some("raise the limit of file sizes with ulimit -f, or write to another file system")
            }
            (_, Some(EIO)) => Some("the disk, or the network behind it, failed: the kernel's log (dmesg) says more"),
            (_, Some(EMFILE | ENFILE)) => Some("raise the limit of open files with ulimit -n, or lower --jobs"),
            _ => None,
        };
        let error = Error::new(kind, format!("{place}: {error}"));
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// What to do about it, printed on a line of its own.
    #[must_use]
    pub fn hint(mut self, hint: impl AsRef<str>) -> Self {
        self.0.hint = Some(printable(hint.as_ref()));
        self
    }

    /// Says where it happened: `place: message`, unless the message begins with that place or says
    /// already where the fault is.
    #[must_use]
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        let place = printable(&place.to_string());
        if !self.0.placed && !self.0.message.strip_prefix(&place).is_some_and(|rest| rest.starts_with([':', ' '])) {
            self.0.message = format!("{place}: {}", self.0.message);
        }
        self
    }

    /// Says where the fault is, and that whoever passes the error on is elsewhere: [`Error::context`] adds nothing to it.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        let place = printable(&place.to_string());
        if !names(&self.0.message, &place) {
            self = self.context(place);
        }
        self.placed()
    }

    /// Marks an error that is about this machine, wherever it happened: neither [`Error::context`] nor [`Error::at`] adds to it.
    #[must_use]
    pub(crate) fn placed(mut self) -> Self {
        self.0.placed = true;
        self
    }

    /// Marks an error that only sums up what a report, printed already, says in full.
    #[must_use]
    pub fn reported(mut self) -> Self {
        self.0.reported = true;
        self
    }

    /// Whether a report that says it was printed already.
    pub fn is_reported(&self) -> bool {
        self.0.reported
    }

    /// Marks an error that the next attempt does not meet, since it asks others.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// Whether another attempt asks others.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// What the error means.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What to do about it, if we know.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_struct("Error", 4)?;
        members.serialize_field("kind", self.kind().name())?;
        members.serialize_field("exit_code", &self.kind().exit_code())?;
        members.serialize_field("message", &self.0.message)?;
        members.serialize_field("hint", &self.0.hint)?;
        members.end()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}

/// Whether `message` has `place`, or a path below it, as words of their own.
fn names(message: &str, place: &str) -> bool {
    message.match_indices(place).any(|(at, _)| {
        let (before, rest) = message.split_at(at);
        let after = rest.strip_prefix(place).unwrap_or(rest);
        let ends = after.is_empty() || after == ":" || after.starts_with([' ', ',', '/']) || after.starts_with(": ");
        ends && (before.is_empty() || before.ends_with(' '))
    })
}

/// `text` with every control character (newlines too, and those for the direction of writing) made visible, so that
/// nothing from an image or a registry can drive the terminal or show what it is not (faults.md A38).
pub fn printable(text: &str) -> String {
    let hidden = |c: char| c.is_control() || is_directional(c);
    text.chars().flat_map(|c| if hidden(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `Bidi_Control` of Unicode (UAX #9).
fn is_directional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_made_visible() {
        let error = Error::failed("registry said \u{1b}]0;pwn\u{7}").context("a\nb");
        assert_eq!(error.to_string(), "a\\nb: registry said \\u{1b}]0;pwn\\u{7}");
        for c in "\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}".chars() {
            let code = u32::from(c);
            assert_eq!(printable(&format!("a{c}b")), format!("a\\u{{{code:x}}}b"));
        }
        for plain in ["\u{200d}", "\u{2029}\u{2065}", "\u{5d0}\u{627}", "\u{202f}"] {
            assert_eq!(printable(plain), plain);
        }
    }

    #[test]
    fn a_place_is_said_once() {
        for (message, said) in [
            ("r.io/a:1: denied", "r.io/a:1: denied"),
            ("r.io/a:1 is immutable", "r.io/a:1 is immutable"),
            ("r.io/a:12: denied", "r.io/a:1: r.io/a:12: denied"),
            ("denied", "r.io/a:1: denied"),
        ] {
            assert_eq!(Error::failed(message).context("r.io/a:1").to_string(), said);
        }
    }

    #[test]
    fn where_the_fault_is_stands_alone() {
        for (message, said) in [
            ("other content", "r.io/from: other content"),
            ("blob x of r.io/from: 404", "blob x of r.io/from: 404"),
            ("blob x of r.io/from2: 404", "r.io/from: blob x of r.io/from2: 404"),
            ("blob x of r.io/from:2: 404", "r.io/from: blob x of r.io/from:2: 404"),
            ("r.io/from/blobs/x is no file", "r.io/from/blobs/x is no file"),
        ] {
            // A place may have spaces.
            for place in ["r.io/from", "my images/from"] {
                let (message, said) = (message.replace("r.io/from", place), said.replace("r.io/from", place));
                let error = Error::failed(message).at(place).context("r.io/to").at("r.io/to");
                assert_eq!(error.to_string(), said);
            }
        }
        assert_eq!(Error::failed("no thread").placed().at("r.io/from").context("r.io/to").to_string(), "no thread");
    }

    #[test]
    fn failures_of_the_system_have_hints() {
        for (number, words) in [
            (27, "ulimit -f"),
            (28, "room"),
            (122, "quota"),
            (EIO, "dmesg"),
            (ENFILE, "ulimit -n"),
            (EMFILE, "ulimit -n"),
        ] {
            let error = Error::io("blob", &io::Error::from_raw_os_error(number));
            assert!(error.hint_text().unwrap().contains(words), "{error}");
        }
        assert_eq!(Error::io("blob", &io::Error::from_raw_os_error(2)).hint_text(), None);
    }

    #[test]
    fn our_errors_survive_a_trip_through_io() {
        let io: std::io::Error = Error::content("digest mismatch").hint("fetch it again").retryable().into();
        let error = Error::io("layer 3", &io);
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Content, "layer 3: digest mismatch"));
        assert_eq!((error.hint_text(), error.is_retryable()), (Some("fetch it again"), true));
    }
}
