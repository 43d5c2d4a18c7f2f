//! What holds for Postgres alone: plans, updates in place, outages, migrations from several processes.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
use muster::{
    model::AgentRecord,
    store::{
        AgentFilter, Error, MAX_BATCH, Store,
        postgres::{Config, PostgresStore},
    },
};
use sqlx::{Connection, FromRow, PgConnection};
use tokio::task::JoinSet;

use super::{actor, agent, apply, description, read, stored};
use crate::support::{
    eventually,
    postgres::{Server, Stop},
};

struct Database {
    url: String,
    store: PostgresStore,
    /// To look into it.
    connection: PgConnection,
}

async fn database() -> Database {
    database_on(Server::shared()).await
}

async fn database_on(server: &Server) -> Database {
    let url = server.new_database().await;
    let store = PostgresStore::connect(&url, Config::default()).unwrap();
    store.migrate().await.unwrap();
    let connection = PgConnection::connect(&url).await.unwrap();
    Database { url, store, connection }
}

impl Database {
    async fn one<T>(&mut self, query: &'static str) -> T
    where
        T: Send + Unpin + for<'r> FromRow<'r, sqlx::postgres::PgRow>,
    {
        sqlx::query_as(query).fetch_one(&mut self.connection).await.unwrap()
    }

    async fn run(&mut self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.connection).await.unwrap();
    }

    /// The statistics count what the store's connections did once they have ended.
    async fn end_connections(&mut self) {
        self.store.close().await;
        let connection = &mut self.connection;
        eventually("the store's connections have ended", async || {
            let query = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'muster'";
            let (count,): (i64,) = sqlx::query_as(query).fetch_one(&mut *connection).await.unwrap();
            (count == 0).then_some(())
        })
        .await;
        self.store = PostgresStore::connect(&self.url, Config::default()).unwrap();
    }

    /// Agents 1 to `count`, with realistic sizes.
    async fn fill(&self, count: usize) -> Vec<AgentRecord> {
        let mut agents: Vec<AgentRecord> = (1..=count as u128).map(|n| agent(n << 64)).collect();
        for agent in &mut agents {
            agent.observed.description = description(&"x".repeat(600), "1.0");
        }
        let mut all = Vec::new();
        for batch in agents.chunks(MAX_BATCH) {
            all.extend(stored(&self.store, batch.to_vec()).await);
        }
        all
    }
}

#[tokio::test]
async fn a_page_of_a_shard_walks_its_index() {
    let mut database = database().await;
    let agents = database.fill(6_000).await;
    database.run("ANALYZE agents").await;
    database.end_connections().await;
    let scans = "SELECT seq_scan, (SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'agents_by_shard')
        FROM pg_stat_user_tables WHERE relname = 'agents'";
    let before: (i64, i64) = database.one(scans).await;
    // More often than the five times after which Postgres may turn to a plan for any parameters.
    let filter = AgentFilter { shard: Some(agents[0].uid.shard()), ..AgentFilter::default() };
    let mut after = None;
    for _ in 0..12 {
        let page = database.store.page_agents(filter, after, 5).await.unwrap();
        assert_eq!(page.len(), 5);
        after = page.last().map(|agent| agent.uid);
    }
    database.end_connections().await;
    let (sequential, by_index): (i64, i64) = database.one(scans).await;
    assert_eq!((sequential - before.0, by_index - before.1), (0, 12));
}

#[tokio::test]
async fn updates_stay_in_their_page() {
    // Room is found again once no transaction needs the old rows, and Postgres asks for that of all databases at once:
    // those of other tests must not stand in the way.
    let server = Server::start();
    let mut database = database_on(&server).await;
    // No index may have a column that an update sets.
    let (columns,): (Vec<String>,) = database
        .one(
            "SELECT array_agg(DISTINCT attname::text ORDER BY attname::text) FROM pg_index
             JOIN pg_attribute ON attrelid = indexrelid WHERE indrelid = 'agents'::regclass",
        )
        .await;
    assert_eq!(columns, ["shard", "uid"]);

    let mut agents = database.fill(2_000).await;
    for round in 0..20 {
        // Every twentieth, as reports come from all over the table.
        let due: Vec<&mut AgentRecord> = agents.iter_mut().skip(round).step_by(20).collect();
        let mut batch: Vec<AgentRecord> = due.iter().map(|agent| (**agent).clone()).collect();
        for agent in &mut batch {
            agent.presence.report_number += 1;
            agent.presence.last_seen += 60_000;
            agent.observed.healthy = Some(round % 2 == 0);
        }
        assert_eq!(database.store.write_agents(&batch, &[]).await.unwrap(), []);
        due.into_iter().for_each(|agent| agent.version += 1);
    }
    database.end_connections().await;
    let (updates, in_place): (i64, i64) =
        database.one("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'agents'").await;
    assert_eq!(updates, 2_000);
    assert!(in_place * 100 >= updates * 95, "{in_place} of {updates}");
}

/// A large description that has not changed is not stored again with each update of the row.
#[tokio::test]
async fn large_values_that_stay_are_not_written_again() {
    let mut database = database().await;
    let mut large = agent(1);
    // Not compressible, so that it is stored outside of the row.
    let noise: Vec<u8> = (0..512u32).flat_map(|n| muster::model::ContentHash::of(&n.to_be_bytes()).0).collect();
    large.observed.description = Bytes::from(noise.clone());
    large.observed.health = Bytes::from(noise);
    let mut large = stored(&database.store, vec![large]).await.remove(0);
    let chunks = "SELECT n_tup_ins FROM pg_stat_all_tables
        WHERE relid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'agents'::regclass)";
    database.end_connections().await;
    let (before,): (i64,) = database.one(chunks).await;
    assert!(before > 4);
    for n in 0..5 {
        large.presence.report_number = n;
        large = stored(&database.store, vec![large]).await.remove(0);
    }
    database.end_connections().await;
    assert_eq!(database.one::<(i64,)>(chunks).await, (before,));
}

#[tokio::test]
async fn several_processes_may_migrate_at_once() {
    let url = Server::shared().new_database().await;
    let store = || PostgresStore::connect(&url, Config::default()).unwrap();
    let error = store().check().await.unwrap_err();
    assert!(matches!(error, Error::Schema(_)), "{error}");
    let mut migrations = JoinSet::new();
    for store in [store(), store(), store(), store()] {
        migrations.spawn(async move { store.migrate().await });
    }
    for result in migrations.join_all().await {
        result.unwrap();
    }
    store().check().await.unwrap();

    // The previous version of the program may run, and even be started, with a newer schema.
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'of a later version', true, '', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    store().check().await.unwrap();
    store().migrate().await.unwrap();
    // An older one may not.
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version < 9999").execute(&mut connection).await.unwrap();
    assert!(matches!(store().check().await, Err(Error::Schema(_))));
}

#[tokio::test]
async fn an_outage_passes() {
    let server = Server::start();
    let url = server.new_database().await;
    let config = Config { acquire_timeout: Duration::from_millis(300), ..Config::default() };
    server.stop(Stop::Fast);
    // A store can be made while the server is down.
    let store = PostgresStore::connect(&url, config).unwrap();
    for error in [store.check().await.unwrap_err(), store.migrate().await.unwrap_err()] {
        assert!(matches!(error, Error::Unreachable(_)), "{error}");
    }
    server.start_again();
    store.migrate().await.unwrap();
    let first = stored(&store, vec![agent(1)]).await.remove(0);
    for how in [Stop::Immediate, Stop::Fast] {
        server.stop(how);
        let errors = [
            store.write_agents(&[agent(2)], &[]).await.unwrap_err(),
            store.policy_set().await.unwrap_err(),
            store.apply_policy(apply("p", "x"), &actor()).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Unreachable(_)), "{error}");
        }
        server.start_again();
        // What was acknowledged has outlived it, and the store works as before.
        assert_eq!(read(&store, first.uid).await.as_ref(), Some(&first));
        store.check().await.unwrap();
    }
}

/// An operation can be given up at any point: its caller went away, or it took too long.
#[tokio::test]
async fn an_operation_that_is_given_up_leaves_no_transaction_open() {
    let mut database = database().await;
    for polls in 1..=12 {
        // The pool has a connection that it may give.
        database.store.check().await.unwrap();
        let policy = apply("p", &polls.to_string());
        let by = actor();
        let mut operation = pin!(database.store.apply_policy(policy, &by));
        let mut left = polls;
        poll_fn(|cx| {
            left -= 1;
            let is_done = operation.as_mut().poll(cx).is_ready();
            if is_done || left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    let connection = &mut database.connection;
    eventually("no transaction is open", async || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = 'muster' AND state <> 'idle'";
        let (count,): (i64,) = sqlx::query_as(query).fetch_one(&mut *connection).await.unwrap();
        (count == 0).then_some(())
    })
    .await;
}

/// What waits too long for a lock gives up, and says that it may be tried again.
#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let mut database = database().await;
    let config = Config { statement_timeout: Duration::from_millis(50), ..Config::default() };
    let impatient = PostgresStore::connect(&database.url, config).unwrap();
    let first = stored(&impatient, vec![agent(1)]).await.remove(0);
    database.run("BEGIN").await;
    database.run("SELECT FROM agents FOR UPDATE").await;
    let error = impatient.write_agents(std::slice::from_ref(&first), &[]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    database.run("ROLLBACK").await;
    assert_eq!(impatient.write_agents(&[first], &[]).await.unwrap(), []);
}
