//! Asking again until something holds, where there is no event to wait for.

use std::future::Future;
use std::time::Duration;

/// How long anything may take before a test gives up on it. No test waits for it in good weather.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer; panics at the deadline.
pub async fn poll_until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for an event, but not for ever.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
