//! Blocking work beside async code.

use std::time::Duration;

use crate::error::{Error, Result};

/// How long a thread is waited for. tokio waits for ever for one that is busy if the system gives no other, and that may be
/// waiting for us.
const THREAD_PATIENCE: Duration = Duration::from_secs(10);

/// Runs blocking work beside the async code.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    begun_within(THREAD_PATIENCE, work).await
}

async fn begun_within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (begun, begin) = tokio::sync::oneshot::channel();
    let work = tokio::task::spawn_blocking(move || {
        let _ = begun.send(());
        work()
    });
    if tokio::time::timeout(patience, begin).await.is_err() {
        work.abort();
        return Err(Error::failed("the system gives us no more threads")
            .hint("there may be too many processes, or too little memory: see ulimit -a, or lower --jobs")
            .placed());
    }
    work.await.unwrap_or_else(|e| Err(Error::failed(format!("internal error: {e}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    // faults.md G5
    #[test]
    fn work_that_gets_no_thread_is_an_error() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || held.recv().is_err());
            let error = begun_within(Duration::from_millis(50), || Ok(())).await.unwrap_err();
            assert!(error.to_string().contains("no more threads") && error.hint_text().is_some(), "{error}");
            assert_eq!(error.clone().at("r.io/from"), error);
            drop(release);
            assert!(busy.await.unwrap());
            begun_within(Duration::from_secs(60), || Ok(())).await.unwrap();
        });
    }
}
