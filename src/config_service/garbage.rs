//! Deleting contents and configurations that nothing refers to any more.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    metrics,
    shared::{Outage, Shared, isolated, unix_ms},
};
use crate::model::UnixMs;

/// One replica is enough: the owner of this shard does it.
const SHARD: u16 = 0;

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("deleting unused contents");
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
    }
}
