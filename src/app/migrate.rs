//! `muster migrate`.

use anyhow::Context;

use crate::{
    settings::MigrateRole,
    store::{Store, postgres::PostgresStore},
};

pub async fn run(role: MigrateRole) -> anyhow::Result<()> {
    let store = PostgresStore::connect(role.store.url()?.expose(), role.store.config())?;
    store.migrate().await.context("cannot migrate")?;
    store.check().await.context("the schema after the migration")?;
    store.close().await;
    tracing::info!("the schema is up to date");
    Ok(())
}
