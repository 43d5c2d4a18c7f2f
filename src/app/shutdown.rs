//! Signals that end the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels. The second ends the process at once.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            }
        };
        let (name, _) = next().await;
        tracing::info!(signal = name, "shutting down; a second signal ends the process at once");
        cancelled.cancel();
        let (name, number) = next().await;
        tracing::warn!(signal = name, "ending at once");
        std::process::exit(128 + number);
    });
    Ok(token)
}
