//! `muster config-service`: a config service replica and the admin API.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::time::Instant;

use super::{
    authority, first_token,
    health::Health,
    listeners::{self, ListenFile},
    node, shutdown,
    stages::Stages,
};
use crate::{
    admin,
    bus::{self, SharedBus},
    config_service::ConfigService,
    settings::{ConfigServiceRole, Secret},
    store::{self, SharedStore, TokenKind, postgres::PostgresStore},
    telemetry::{Metrics, otlp},
};

/// How often a database that is away, or not migrated yet, is looked at again at start.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Name of the token that `MUSTER_OPERATOR_TOKEN` gives.
const OPERATOR_TOKEN_NAME: &str = "bootstrap";

/// Name of the token that `MUSTER_AGENT_TOKEN` gives.
const AGENT_TOKEN_NAME: &str = "bootstrap-agent";

/// Tokens that are shorter than this are worth a warning.
const SHORT_TOKEN_CHARS: usize = 16;

pub async fn run(role: ConfigServiceRole, metrics: Metrics) -> anyhow::Result<()> {
    bus::metrics::describe();
    store::metrics::describe();
    admin::metrics::describe();
    let shutdown = shutdown::on_signal().context("signals")?;
    let node = node::id(role.node.node_id.clone());
    let otlp = otlp::start(&role.telemetry.otlp(), "muster-config-service", &node, &metrics)?;
    let config = role.config_service.config()?;
    let packages = role.packages.storage()?;
    let is_package_url_known = !config.package_url.is_empty();
    let validators = admin::validator::Validators::new(role.admin.validators())?;
    let issuer = authority::issuer(&role.config_service, None)?;
    anyhow::ensure!(
        issuer.is_none() || !config.opamp_url.is_empty(),
        "agent-ca-file needs opamp-url: agents that are given a certificate are told where to connect with it"
    );
    let first_tokens = [
        (TokenKind::Operator, OPERATOR_TOKEN_NAME, role.operator_token()?),
        (TokenKind::Agent, AGENT_TOKEN_NAME, role.agent_token()?),
    ];
    for (kind, _, token) in &first_tokens {
        if token.as_ref().is_some_and(|token| token.expose().len() < SHORT_TOKEN_CHARS) {
            tracing::warn!("the {} token is so short that it could be guessed", kind.name());
        }
    }
    let (database_url, redis_url) = (role.store.url()?, role.bus.url()?);
    let redis_authorities = role.bus.authorities()?;
    let calls = listeners::bind("the admin API", role.admin_listen)?;
    let scrapes = listeners::bind("metrics", role.node.metrics_listen)?;
    let addresses = [("admin", calls.local_addr()?), ("metrics", scrapes.local_addr()?)];

    let postgres = PostgresStore::connect(database_url.expose(), role.store.config())?;
    let store: SharedStore = Arc::new(postgres.clone());
    let bus: SharedBus = bus::redis::Redis::connect_with_authorities(
        redis_url.expose(),
        redis_authorities.as_deref(),
        &role.bus.redis_prefix,
    )?;
    tokio::select! {
        prepared = prepare(&store, role.schema_wait, &first_tokens) => prepared?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let service = ConfigService::new(config, node.clone(), store.clone(), bus.clone())
        .with_packages(packages.clone())
        .with_issuer(issuer.clone());
    let admin = admin::Server::new(role.admin.config(), store, bus)
        .with_packages(packages, is_package_url_known)
        .with_issuer(issuer)
        .with_validators(validators);

    let mut health = Health::new(metrics);
    health.shutdown(&shutdown);
    health.config_service(service.handle());

    let mut stages = Stages::default();
    stages.start("metrics listener", |stop| health.run(scrapes, stop));
    stages.start("config service", |stop| async move { Ok(service.run(stop).await?) });
    stages.start("admin API", |stop| async move { Ok(admin.run(calls, stop).await?) });
    let _listen_file = role.node.listen_file.as_deref().map(|path| ListenFile::write(path, &addresses)).transpose()?;
    tracing::info!(node, admin = %addresses[0].1, metrics = %addresses[1].1, "config service started");
    let result = stages.run(&shutdown).await;
    postgres.close().await;
    otlp.finish().await;
    result
}

/// Waits for the database, for its schema if that is wanted, and makes the first tokens.
async fn prepare(
    store: &SharedStore,
    schema_wait: Duration,
    first_tokens: &[(TokenKind, &str, Option<Secret>)],
) -> anyhow::Result<()> {
    let (started, mut is_known) = (Instant::now(), false);
    loop {
        match store.check().await {
            Ok(()) => break,
            Err(error @ store::Error::Unreachable(_)) => {
                if !is_known {
                    tracing::warn!(%error, "waiting for the database");
                    is_known = true;
                }
                tokio::time::sleep(STORE_RETRY).await;
            }
            Err(error @ store::Error::Schema(_)) if started.elapsed() < schema_wait => {
                if !is_known {
                    tracing::warn!(%error, "waiting for the migration of the database");
                    is_known = true;
                }
                tokio::time::sleep(STORE_RETRY).await;
            }
            Err(error @ store::Error::Schema(_)) => {
                return Err(error).context("the database is not usable; `muster migrate` brings it up to date");
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (kind, name, token) in first_tokens {
        if let Some(token) = token {
            first_token::ensure(store, *kind, name, token.expose()).await?;
        }
    }
    Ok(())
}
