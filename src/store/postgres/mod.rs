//! Postgres, for production: shared by any number of config service replicas.

mod agent_batches;
mod command_batches;
mod content_batches;
mod desired;
mod move_batches;
mod news_batches;
mod tls_files;

#[path = "../shared/mod.rs"]
mod shared;

use std::{str::FromStr, time::Duration};

use sqlx::{
    Connection as _, PgConnection as Connection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{Error, Result};

use PostgresStore as Backend;

type Tx = sqlx::PgTransaction<'static>;

/// By OpenTelemetry's conventions.
const DATABASE: &str = "postgresql";

/// A rolled-back program may meet migrations that it does not know; see `shared::schema`.
static MIGRATOR: Migrator = Migrator { ignore_missing: true, ..sqlx::migrate!("migrations/postgres") };

/// What an operation may take beyond waiting for a connection and its statements, before it is given up: the server may
/// have gone without a word.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// How to use the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most connections of this process.
    pub max_connections: u32,
    /// Longest wait for one of them; also how long an operation tries to reach a server that is down.
    pub acquire_timeout: Duration,
    /// Longest that the server works on one statement; migrations and the collection of garbage excepted.
    pub statement_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Ingest writes with a few connections at most; more only queue in the server.
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
        }
    }
}

#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: PgPool,
    limit: Duration,
}

impl PostgresStore {
    const MAINTENANCE_LIMIT: Duration = Duration::from_secs(600);

    /// Fails if the URL or the settings cannot work; the server is first spoken to by the first operation. Must be
    /// called within a Tokio runtime.
    pub fn connect(url: &str, config: Config) -> Result<Self> {
        let options = PgConnectOptions::from_str(url).map_err(|error| Error::Settings(format!("its URL: {error}")))?;
        tls_files::check(url, options.get_ssl_mode())?;
        let statement_timeout = format!("{}ms", config.statement_timeout.as_millis());
        // Without remarks such as that a table is there already, which would be log lines at every migration.
        let session = [("statement_timeout", statement_timeout.as_str()), ("client_min_messages", "warning")];
        let options = options.application_name("muster").options(session);
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(config.acquire_timeout)
            .connect_lazy_with(options);
        Ok(Self { pool, limit: config.acquire_timeout + config.statement_timeout + SILENCE_LIMIT })
    }

    /// Ends the connections, once each has ended its work.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// On a connection of its own, which the lock of sqlx (an advisory lock) leaves together with the connection if
    /// this is given up half way.
    async fn run_migrations(&self) -> Result<()> {
        let mut connection = Connection::connect_with(&self.pool.connect_options()).await?;
        sqlx::query("SET statement_timeout = 0").execute(&mut connection).await?;
        MIGRATOR.run_direct(None, &mut connection, false).await?;
        Ok(connection.close().await?)
    }

    fn reader(&self) -> &PgPool {
        &self.pool
    }

    /// A transaction that writes.
    async fn begin(&self) -> sqlx::Result<Tx> {
        let pool = self.pool.clone();
        begun(async move { pool.begin().await }).await
    }

    /// A transaction whose reads all see the same moment.
    async fn snapshot(&self) -> sqlx::Result<Tx> {
        let pool = self.pool.clone();
        begun(async move { pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await }).await
    }

    fn limit(&self) -> Duration {
        self.limit
    }
}

/// Begins a transaction in a task of its own, which ends even if nobody waits for it any more: sqlx 0.9 forgets a BEGIN that is
/// given up half way, and its connection would go back to the pool within a transaction, for later writes to be lost in.
async fn begun(begin: impl Future<Output = sqlx::Result<Tx>> + Send + 'static) -> sqlx::Result<Tx> {
    match tokio::spawn(begin).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends.
        Err(_) => Err(sqlx::Error::PoolClosed),
    }
}
