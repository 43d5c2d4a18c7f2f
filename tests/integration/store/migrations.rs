//! Migrations are applied in whatever order they come to a database: what was written on two branches need not be numbered
//! in the order in which it is put together.

use std::{borrow::Cow, path::Path};

use muster::store::{
    Error, Store,
    postgres::{Config, PostgresStore},
    sqlite::SqliteStore,
};
use sqlx::{
    ConnectOptions, Connection, PgConnection,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};

use super::{certificates::pending, uid};
use crate::support::postgres::Server;

const LATE: &str = "certificates";

/// What is there but for the migration that comes late; and the number of that, which is smaller than another's.
async fn without_the_late(folder: &str) -> (Migrator, i64) {
    let all = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder)).await.unwrap();
    let late = all.iter().find(|it| it.description == LATE).expect("the migration that comes late").version;
    assert!(all.iter().any(|it| it.version > late));
    let others = all.iter().filter(|it| it.version != late).cloned().collect();
    (Migrator { migrations: Cow::Owned(others), ..all }, late)
}

const KEPT: &str = "INSERT INTO secrets (name, value) VALUES ('kept', $1)";
const COUNT: &str = "SELECT count(*) FROM secrets WHERE name = 'kept'";

/// Nothing is missing.
async fn is_whole(store: &dyn Store) {
    store.check().await.unwrap();
    let request = pending(1, uid(1), 7);
    assert_eq!(store.request_certificate(&request, &super::actor()).await.unwrap(), request);
    store.migrate().await.unwrap();
    assert_eq!(store.agent_certificates(uid(1)).await.unwrap(), [request], "applied once");
}

#[tokio::test]
async fn postgres_takes_a_lower_number_that_comes_later() {
    let url = Server::shared().new_database().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let (older, late) = without_the_late("postgres").await;
    older.run_direct(None, &mut connection, false).await.unwrap();
    sqlx::query(KEPT).bind(vec![1_u8]).execute(&mut connection).await.unwrap();

    let store = PostgresStore::connect(&url, Config::default()).unwrap();
    let error = store.check().await.unwrap_err();
    assert!(matches!(&error, Error::Schema(what) if what.contains(&format!("migration {late} is missing"))), "{error}");
    store.migrate().await.unwrap();
    is_whole(&store).await;
    assert_eq!(sqlx::query_as::<_, (i64,)>(COUNT).fetch_one(&mut connection).await.unwrap(), (1,));
}

#[tokio::test]
async fn sqlite_takes_a_lower_number_that_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("muster.db");
    let options =
        SqliteConnectOptions::new().filename(&path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let mut connection = options.connect().await.unwrap();
    let (older, _) = without_the_late("sqlite").await;
    older.run_direct(None, &mut connection, false).await.unwrap();
    sqlx::query(KEPT).bind(vec![1_u8]).execute(&mut connection).await.unwrap();

    let store = SqliteStore::open(&path).await.unwrap();
    is_whole(&store).await;
    assert_eq!(sqlx::query_as::<_, (i64,)>(COUNT).fetch_one(&mut connection).await.unwrap(), (1,));
}
