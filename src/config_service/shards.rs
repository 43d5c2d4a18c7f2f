//! Membership of this replica, and the shards that it owns.
//!
//! While the bus is away the last shards are kept: nothing arrives anyway, and reconciliation by two owners is harmless.

use std::{collections::BTreeSet, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::shared::{Outage, Shared, isolated};
use crate::bus::{self, Role, rendezvous};

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("announcing this replica");
    let interval = shared.config.membership_ttl / 3;
    loop {
        if let Some(result) = isolated("membership", stop.run_until_cancelled(renew(&shared))).await {
            result.map(|result| outage.note(result));
        }
        if stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
            break;
        }
    }
    // So that others take over at once. If it fails they do so when the membership expires.
    if let Err(error) = shared.bus.withdraw(Role::ConfigService, &shared.node).await {
        tracing::debug!(%error, "membership not withdrawn");
    }
}

async fn renew(shared: &Shared) -> Result<(), bus::Error> {
    shared.bus.announce(Role::ConfigService, &shared.node, shared.config.membership_ttl).await?;
    let mut members = shared.bus.members(Role::ConfigService).await?;
    if !members.contains(&shared.node) {
        members.push(shared.node.clone());
    }
    let owned: BTreeSet<_> = rendezvous::owned(&shared.node, &members).into_iter().collect();
    let count = owned.len();
    if shared.own(owned) {
        tracing::info!(node = %shared.node, shards = count, replicas = members.len(), "shards divided");
        shared.reconcile.look_at_shards();
    }
    Ok(())
}
