//! Clearing overrides that have expired.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::shared::{Outage, Shared, isolated, unix_ms};
use crate::store;

/// One replica is enough: the owner of this shard does it.
const SHARD: u16 = 0;

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("clearing expired overrides");
    while stop.run_until_cancelled(tokio::time::sleep(shared.config.policy_poll_interval)).await.is_some() {
        if shared.owned().contains(&SHARD)
            && let Some(result) = isolated("clearing expired overrides", expire(&shared)).await
        {
            outage.note(result);
        }
    }
}

async fn expire(shared: &Shared) -> store::Result<()> {
    let expired = shared.store.expire_overrides(unix_ms()).await?;
    if expired > 0 {
        tracing::info!(expired, "overrides have expired");
        shared.reconcile.check_policies();
        shared.outbox.policies_changed(shared.store.policy_epoch().await?).await;
    }
    Ok(())
}
