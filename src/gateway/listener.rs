//! Accepts TCP connections, as many as there may be.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;

use super::{
    Shared, http, metrics,
    tls::{self, Stream},
};

/// So many connections beyond the limit are taken for as long as it takes to tell them so with a 503. Beyond that they are
/// dropped: somebody has to stop talking.
const MAX_REFUSED_AT_ONCE: usize = 1_024;
/// After a failure to accept, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts, for ever.
pub async fn run(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                shared.metrics.accepted.increment(1);
                let limit = shared.config.max_connections;
                let count = shared.open.count();
                if count >= limit.saturating_add(MAX_REFUSED_AT_ONCE) {
                    metrics::refused("hard_limit");
                    continue;
                }
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::trace!(%error, "connection lost before its first byte");
                    continue;
                }
                let ticket = shared.open.enter();
                let (shared, is_surplus) = (shared.clone(), count >= limit);
                match shared.tls.clone() {
                    None => tokio::spawn(http::serve(shared, Stream::Plain(socket), None, ticket, is_surplus)),
                    Some(tls) => tokio::spawn(tls::serve(shared, tls, socket, ticket, is_surplus)),
                };
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
