//! `muster migrate`.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use crate::{
    settings::MigrateRole,
    store::{self, Store, postgres::PostgresStore},
};

/// How often a database that is away is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub async fn run(role: MigrateRole) -> anyhow::Result<()> {
    let store = PostgresStore::connect(role.store.url()?.expose(), role.store.config())?;
    migrate(&store, role.database_wait).await.context("cannot migrate")?;
    store.check().await.context("the schema after the migration")?;
    store.close().await;
    tracing::info!("the schema is up to date");
    Ok(())
}

/// Tries again while the database cannot be reached. A migration that was broken off is begun again: each is a transaction.
async fn migrate(store: &PostgresStore, database_wait: Duration) -> Result<(), store::Error> {
    let (started, mut is_known) = (Instant::now(), false);
    loop {
        match store.migrate().await {
            Err(error @ store::Error::Unreachable(_)) if started.elapsed() < database_wait => {
                if !is_known {
                    tracing::warn!(%error, "waiting for the database");
                    is_known = true;
                }
                tokio::time::sleep(RETRY).await;
            }
            result => return result,
        }
    }
}
