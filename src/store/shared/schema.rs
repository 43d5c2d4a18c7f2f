//! Whether the schema is one that this program can use.

use std::collections::HashMap;

use super::{Backend, MIGRATOR};
use crate::store::{Error, Result};

/// A newer schema will do: migrations leave the previous version of the program working.
pub(super) async fn check(store: &Backend) -> Result<()> {
    let query = sqlx::query_as("SELECT version, success FROM _sqlx_migrations");
    let rows: Vec<(i64, bool)> = match query.fetch_all(store.reader()).await {
        Err(sqlx::Error::Database(error)) if is_undefined_table(error.code().as_deref()) => Vec::new(),
        other => other?,
    };
    let applied: HashMap<i64, bool> = rows.into_iter().collect();
    for migration in MIGRATOR.iter() {
        match applied.get(&migration.version) {
            Some(true) => {}
            Some(false) => return Err(Error::Schema(format!("migration {} was left half done", migration.version))),
            None => return Err(Error::Schema(format!("migration {} is missing; migrate first", migration.version))),
        }
    }
    Ok(())
}

/// Postgres' undefined_table, or SQLite's general error, which a query as simple as ours has for no other reason.
fn is_undefined_table(code: Option<&str>) -> bool {
    matches!(code, Some("42P01" | "1"))
}
