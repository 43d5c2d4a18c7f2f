//! SQLite, for `standalone`: one file, one process.
//!
//! All writes go through one connection, so that they queue in this process and never fail as busy; reads
//! have connections of their own and, the file being in WAL mode, do not wait for writes.

mod agent_batches;
mod command_batches;
mod content_batches;
mod move_batches;
mod news_batches;

#[path = "../shared/mod.rs"]
mod shared;

use std::{path::Path, time::Duration};

use sqlx::{
    SqliteConnection as Connection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::Result;

use SqliteStore as Backend;

type Tx = sqlx::SqliteTransaction<'static>;

/// By OpenTelemetry's conventions.
const DATABASE: &str = "sqlite";

/// A rolled-back program may meet migrations that it does not know; see `shared::schema`.
static MIGRATOR: Migrator = Migrator { ignore_missing: true, ..sqlx::migrate!("migrations/sqlite") };

/// Enough for the admin API of one machine beside the reads of ingest.
const READERS: u32 = 4;
/// Another process that looks into the file may hold it for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a connection: writes queue for the one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest operation, so that a stuck disk shows as an error.
const OPERATION_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteStore {
    const MAINTENANCE_LIMIT: Duration = Duration::from_secs(600);

    /// Opens the file, makes it (for its owner alone) if there is none, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self> {
        make_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A report is acknowledged when its transaction has ended; it must outlive a loss of power.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = || SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).idle_timeout(None).max_lifetime(None);
        let writer = pool().max_connections(1).connect_with(options.clone()).await?;
        let readers = pool().max_connections(READERS).connect_lazy_with(options.pragma("query_only", "on"));
        let store = Self { writer, readers };
        store.run_migrations().await?;
        Ok(store)
    }

    /// Ends the connections; writes what the write-ahead log holds into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn run_migrations(&self) -> Result<()> {
        // One transaction around them all keeps other processes out: sqlx has no lock for SQLite.
        let mut tx = self.begin().await?;
        MIGRATOR.run_direct(None, &mut *tx, false).await?;
        Ok(tx.commit().await?)
    }

    fn reader(&self) -> &SqlitePool {
        &self.readers
    }

    /// A transaction that writes. It takes the lock at once: one that turned from reading to writing could fail as
    /// busy.
    async fn begin(&self) -> sqlx::Result<Tx> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// A transaction whose reads all see the same moment.
    async fn snapshot(&self) -> sqlx::Result<Tx> {
        self.readers.begin().await
    }

    fn limit(&self) -> Duration {
        OPERATION_LIMIT
    }
}

/// Makes the file if there is none: configurations hold secrets. SQLite makes the files beside it with the same mode.
fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(sqlx::Error::Io(error).into()),
        _ => Ok(()),
    }
}
