//! Waiting for a thing itself.

use std::future::Future;
use std::time::Duration;

/// No test waits longer than this for anything; what takes longer is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer. The pause between two questions is no sleep that hides a race: without the answer the
/// test fails, saying what it waited for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    until_within(PATIENCE, what, ask).await
}

/// [`until`], with another patience.
pub async fn until_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    ask: impl FnMut() -> F,
) -> T {
    answer_within(patience, ask).await.unwrap_or_else(|| panic!("waited {patience:?} in vain for {what}"))
}

/// The answer, if there is one before patience ends.
pub async fn answer_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Option<T> {
    // 20 ms for what takes a minute at most. What takes longer is more to ask for, too.
    let pause = patience / 3_000;
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::time::timeout(patience, asking).await.ok()
}
