//! A panic, told as an error.

use std::panic::PanicHookInfo;

use super::output::{Output, given};
use crate::error::Error;

/// Reports a panic and says with which code the process is to end. What the panic itself says is left out, for it may
/// come from an image or be a secret, unless the system refused something, which libraries make panics of.
pub fn report_panic(panic: &PanicHookInfo<'_>) -> u8 {
    let place = panic.location().map_or("an unknown place".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    let error = error(text.unwrap_or_default(), &place);
    Output { json: given("--json"), quiet: false, piped: false }.error(&error);
    error.kind().exit_code()
}

fn error(said: &str, place: &str) -> Error {
    if said.contains("(os error") || said.contains("Os { code") {
        return Error::failed(format!("the system refused something: {said}"))
            .hint("there may be too many processes or open files, or too little memory: see ulimit -a");
    }
    // Of a library, the path on the machine that built this says nothing.
    let place = place.rsplit_once("/registry/src/").map_or(place, |(_, library)| library);
    Error::failed(format!("internal error at {place}")).hint(
        "this is a bug in capatch: please report that line and what you did. RUST_BACKTRACE=1 shows more; look for secrets in it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_told_without_what_they_say() {
        for (said, place, expected) in [
            ("index out of bounds: hunter2", "src/a.rs:1", "internal error at src/a.rs:1"),
            (
                "hunter2",
                "/home/x/.cargo/registry/src/index-1/tokio-1/src/a.rs:1",
                "internal error at index-1/tokio-1/src/a.rs:1",
            ),
            (
                "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)",
                "a.rs:1",
                "the system refused something: OS can't spawn worker thread: Resource temporarily unavailable (os error 11)",
            ),
        ] {
            let error = error(said, place);
            assert_eq!((error.to_string().as_str(), error.kind().exit_code()), (expected, 1));
            assert!(error.hint_text().is_some());
        }
    }
}
