//! `muster gateway`.

use anyhow::Context;

use super::{
    health::Health,
    listeners::{self, ListenFile},
    node, shutdown,
    stages::Stages,
};
use crate::{
    bus::{self, SharedBus},
    gateway::{self, Gateway},
    settings::GatewayRole,
    telemetry::{Metrics, otlp},
};

pub async fn run(role: GatewayRole, metrics: Metrics) -> anyhow::Result<()> {
    bus::metrics::describe();
    gateway::metrics::describe();
    let shutdown = shutdown::on_signal().context("signals")?;
    let node = node::id(role.node.node_id.clone());
    let otlp = otlp::start(&role.telemetry.otlp(), "muster-gateway", &node, &metrics)?;
    let config = gateway::Config { package_storage: role.packages.storage()?, ..role.gateway.config()? };
    let tls = listeners::tls(&role.gateway)?;
    let (redis_url, redis_authorities) = (role.bus.url()?, role.bus.authorities()?);
    listeners::warn_if_open(&role.gateway, role.opamp_listen);
    let opamp = listeners::bind("OpAMP", role.opamp_listen)?;
    let scrapes = listeners::bind("metrics", role.node.metrics_listen)?;
    let addresses = [("opamp", opamp.local_addr()?), ("metrics", scrapes.local_addr()?)];

    let bus: SharedBus = bus::redis::Redis::connect_with_authorities(
        redis_url.expose(),
        redis_authorities.as_deref(),
        &role.bus.redis_prefix,
    )?;
    let gateway = Gateway::with_tls(config, tls, node.clone(), bus);

    let mut health = Health::new(metrics);
    health.shutdown(&shutdown);
    health.gateway(gateway.handle());

    let mut stages = Stages::default();
    stages.start("metrics listener", |stop| health.run(scrapes, stop));
    stages.start("gateway", |stop| async move { Ok(gateway.run(opamp, stop).await?) });
    let _listen_file = role.node.listen_file.as_deref().map(|path| ListenFile::write(path, &addresses)).transpose()?;
    tracing::info!(node, opamp = %addresses[0].1, metrics = %addresses[1].1, "gateway started");
    let result = stages.run(&shutdown).await;
    otlp.finish().await;
    result
}
