//! Deleting contents and configurations that nothing refers to any more, and histories that are old.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    components, metrics, moves,
    shared::{Outage, Shared, isolated, unix_ms},
};
use crate::{model::UnixMs, store};

/// One replica is enough: the owner of this shard does it.
const SHARD: u16 = 0;

/// Commands are kept for so long after they were finished.
const COMMANDS_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Certificates are kept for so long after they have expired, requests that came to nothing after they were made.
const CERTIFICATES_KEPT: Duration = Duration::from_secs(90 * 86_400);

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("deleting unused contents");
    let mut history_outage = Outage::new("deleting old history");
    let min_age = UnixMs::try_from(shared.config.gc_min_age.as_millis()).unwrap_or(UnixMs::MAX);
    while stop.run_until_cancelled(tokio::time::sleep(shared.config.gc_interval)).await.is_some() {
        if !shared.owned().contains(&SHARD) {
            continue;
        }
        let collect = shared.store.collect_garbage(unix_ms().saturating_sub(min_age));
        let Some(result) = isolated("deleting unused contents", collect).await else {
            continue;
        };
        if let Some(deleted) = outage.note(result) {
            ::metrics::counter!(metrics::COLLECTED).increment(deleted);
            tracing::debug!(deleted, "unused contents deleted");
        }
        if let Some(result) = isolated("deleting old history", forget(&shared)).await {
            history_outage.note(result);
        }
    }
}

async fn forget(shared: &Shared) -> store::Result<()> {
    let before = |age: Duration| unix_ms().saturating_sub(UnixMs::try_from(age.as_millis()).unwrap_or(UnixMs::MAX));
    shared.store.forget_health(before(shared.config.health_history)).await?;
    shared.store.forget_commands(before(COMMANDS_KEPT)).await?;
    components::forget(&shared.store).await?;
    shared.store.forget_certificates(before(CERTIFICATES_KEPT)).await?;
    shared.store.forget_former_uids(before(moves::TEMPORARY_FOR)).await?;
    Ok(())
}
