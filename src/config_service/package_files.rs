//! Clearing the package storage of what was left half done: uploads that were cut off, and deletions.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::shared::{Outage, Shared, isolated, unix_ms};
use crate::{
    model::ContentHash,
    packages::{self, Storage},
    store::{self, Actor},
};

/// No upload takes so long.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);
const PAGE: u32 = 1_000;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Storage(#[from] packages::Error),
}

/// Every replica may do this at any time.
pub async fn run(shared: Arc<Shared>, storage: Storage, stop: CancellationToken) {
    let mut outage = Outage::new("clearing the package storage");
    while stop.run_until_cancelled(tokio::time::sleep(shared.config.gc_interval)).await.is_some() {
        if let Some(result) = isolated("clearing the package storage", clear(&shared, &storage)).await {
            outage.note(result);
        }
    }
}

async fn clear(shared: &Shared, storage: &Storage) -> Result<(), Error> {
    let removed = storage.remove_leftovers(LEFTOVER_AGE).await?;
    if removed > 0 {
        tracing::info!(removed, "uploads of package files that were cut off have been cleared away");
    }
    let mut after: Option<ContentHash> = None;
    loop {
        let files = shared.store.list_package_files(after, PAGE).await?;
        for file in files.iter().filter(|file| file.deleting_since.is_some()) {
            let actor = Actor { name: "system".to_owned(), token_id: String::new(), now: unix_ms() };
            match shared.store.begin_delete_package_file(file.sha256, &actor).await {
                Ok(_) => {}
                // Somebody is about it.
                Err(store::Error::BeingDeleted { .. } | store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            storage.delete(&file.sha256).await?;
            shared.store.end_delete_package_file(file.sha256).await?;
            tracing::info!(file = %file.sha256, "the deletion of a package file has been finished");
        }
        match files.last() {
            Some(last) if files.len() == PAGE as usize => after = Some(last.sha256),
            _ => return Ok(()),
        }
    }
}
