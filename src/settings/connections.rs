//! How to reach Redis and Postgres.

use std::{fs, path::PathBuf};

use clap::Args;

use super::{Error, Secret, secret};
use crate::{bus, store::postgres};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Bus")]
pub struct Bus {
    /// Redis, such as `redis://user:password@host:6379/0`, or `rediss://…` for TLS.
    #[arg(long, value_name = "SECRET", value_parser = Secret::parse)]
    redis_url: Option<Secret>,
    /// File with the URL of Redis.
    #[arg(long, value_name = "FILE")]
    redis_url_file: Option<PathBuf>,
    /// PEM file with the certificate authorities whose certificates Redis may show, in place of the machine's. Read at the start.
    #[arg(long, value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,
    /// What the names of this deployment's channels and keys begin with.
    #[arg(long, value_name = "TEXT", default_value = bus::redis::DEFAULT_PREFIX)]
    pub redis_prefix: String,
}

impl Bus {
    pub fn url(&self) -> Result<Secret, Error> {
        secret::required("redis_url", &self.redis_url, &self.redis_url_file)
    }

    /// In PEM.
    pub fn authorities(&self) -> Result<Option<Vec<u8>>, Error> {
        let read = |path: &PathBuf| {
            let error = |error: std::io::Error| Error::SecretFile {
                what: "redis-ca-file".to_owned(),
                path: path.clone(),
                error: error.to_string(),
            };
            fs::read(path).map_err(error)
        };
        self.redis_ca_file.as_ref().map(read).transpose()
    }
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
pub struct Store {
    /// Postgres, such as `postgres://user:password@host:5432/muster`; with `?sslmode=verify-full` only over TLS, and
    /// `&sslrootcert=FILE` for certificate authorities besides the machine's.
    #[arg(long, value_name = "SECRET", value_parser = Secret::parse)]
    database_url: Option<Secret>,
    /// File with the URL of Postgres.
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// Most connections to Postgres at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
    database_connections: u32,
}

impl Store {
    pub fn url(&self) -> Result<Secret, Error> {
        let url = secret::required("database_url", &self.database_url, &self.database_url_file)?;
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme)) {
            return Err(Error::Conflict("database-url must start with postgres:// or postgresql://".to_owned()));
        }
        Ok(url)
    }

    pub fn config(&self) -> postgres::Config {
        postgres::Config { max_connections: self.database_connections, ..postgres::Config::default() }
    }
}
