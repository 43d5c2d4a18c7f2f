//! Postgres over TLS.

use std::{fs, path::Path};

use muster::store::{
    Error, Store,
    postgres::{Config, PostgresStore},
};
use sqlx::{Connection, PgConnection};

use crate::support::{postgres::Server, tls::Ca};

/// With `host` in place of the address, and these parameters.
fn url(plain: &str, host: &str, parameters: &str) -> String {
    format!("{}?{parameters}", plain.replace("127.0.0.1", host))
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    fs::write(folder.join(name), text).unwrap();
    folder.join(name).to_str().unwrap().to_owned()
}

async fn check(url: &str) -> Result<(), Error> {
    PostgresStore::connect(url, Config::default())?.check().await
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_and_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("of the database");
    let (ca_file, other_file) =
        (write(folder.path(), "ca.pem", &ca.pem), write(folder.path(), "other.pem", &Ca::new("another").pem));
    let server = Server::start_with_tls(&ca.server());
    let plain = server.new_database().await;

    let trusting = url(&plain, "localhost", &format!("sslmode=verify-full&sslrootcert={ca_file}"));
    let store = PostgresStore::connect(&trusting, Config::default()).unwrap();
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    let mut connection = PgConnection::connect(&plain).await.unwrap();
    let query = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
        WHERE application_name = 'muster' AND NOT ssl";
    let (in_plain_text,): (i64,) = sqlx::query_as(query).fetch_one(&mut connection).await.unwrap();
    assert_eq!(in_plain_text, 0);
    // Who asks for no proof is encrypted, too.
    for mode in ["prefer", "require"] {
        check(&url(&plain, "127.0.0.2", &format!("sslmode={mode}"))).await.unwrap();
    }
    check(&url(&plain, "127.0.0.2", &format!("sslmode=verify-ca&sslrootcert={ca_file}"))).await.unwrap();

    for (host, parameters, reason) in [
        ("localhost", format!("sslmode=verify-full&sslrootcert={other_file}"), "UnknownIssuer"),
        ("localhost", "sslmode=verify-full".to_owned(), "UnknownIssuer"),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other_file}"), "UnknownIssuer"),
        ("127.0.0.2", format!("sslmode=verify-full&sslrootcert={ca_file}"), "not valid for name"),
        ("localhost", "sslmode=verify-full&sslrootcert=/nonexistent/ca.pem".to_owned(), "/nonexistent/ca.pem"),
    ] {
        let error = check(&url(&plain, host, &parameters)).await.unwrap_err();
        assert!(matches!(&error, Error::Settings(text) if text.contains(reason)), "{parameters}: {error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_wanted() {
    let plain = Server::shared().new_database().await;
    let error = check(&url(&plain, "localhost", "sslmode=require")).await.unwrap_err();
    assert!(matches!(&error, Error::Settings(text) if text.contains("does not support TLS")), "{error}");
}
