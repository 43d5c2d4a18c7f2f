//! `muster standalone`: everything in one process, on SQLite and the in-process bus.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    authority,
    data_dir::{DataDir, FirstToken},
    first_token,
    health::Health,
    listeners::{self, ListenFile},
    node, output, shutdown,
    stages::Stages,
};
use crate::{
    admin,
    bus::{self, SharedBus, in_process::InProcess},
    config_service::{Approval, ConfigService},
    gateway::{self, Gateway},
    load::{Endpoint, Fleet, Plan, Transport},
    packages::base_url,
    settings::StandaloneRole,
    store::{self, SharedStore, TokenKind, sqlite::SqliteStore},
    telemetry::{Metrics, otlp},
};

/// Simulated agents inside are the same ones after a restart.
const DEMO_SEED: u64 = 1;
/// Often enough that something moves while one looks.
const DEMO_HEARTBEAT: Duration = Duration::from_secs(10);
const DEMO_CONNECTS_PER_SECOND: u32 = 200;

/// How long the start may take until it is announced all the same, and how often to look.
const READY_WITHIN: Duration = Duration::from_secs(10);
const READY_CHECK: Duration = Duration::from_millis(10);

struct Addresses {
    opamp: SocketAddr,
    admin: SocketAddr,
    metrics: SocketAddr,
}

pub async fn run(role: StandaloneRole, metrics: Metrics) -> anyhow::Result<()> {
    bus::metrics::describe();
    store::metrics::describe();
    admin::metrics::describe();
    gateway::metrics::describe();
    let shutdown = shutdown::on_signal().context("signals")?;
    let (gateway_config, mut service_config) = (role.gateway.config()?, role.config_service.config()?);
    let tls = listeners::tls(&role.gateway)?;
    if tls.is_some() && role.demo > 0 {
        anyhow::bail!("demo does not work with TLS: its agents speak plain text");
    }
    let is_tls = tls.is_some();
    let folder = DataDir::open(&role.data_dir)?;
    let packages = role.packages.storage_or(&folder.packages())?;
    let validators = admin::validator::Validators::new(role.admin.validators())?;
    let issuer = authority::issuer(&role.config_service, Some(&folder))?;
    listeners::warn_if_open(&role.gateway, role.opamp_listen);
    let opamp = listeners::bind("OpAMP", role.opamp_listen)?;
    let calls = listeners::bind("the admin API", role.admin_listen)?;
    let scrapes = listeners::bind("metrics", role.metrics_listen)?;
    let addresses =
        Addresses { opamp: opamp.local_addr()?, admin: calls.local_addr()?, metrics: scrapes.local_addr()? };

    if service_config.opamp_url.is_empty() {
        let scheme = if is_tls { "wss" } else { "ws" };
        service_config.opamp_url = format!("{scheme}://{}{}", reachable(addresses.opamp), role.gateway.path());
        service_config.package_url = base_url(&service_config.opamp_url).unwrap_or_default();
    }

    if gateway_config.client_certificates == gateway::ClientCertificates::Off {
        // Nobody could connect with one.
        service_config.certificate_approval = Approval::Off;
        service_config.no_certificates =
            "this server issues no certificates, for it takes none: client-certificates is off";
    }

    let sqlite = SqliteStore::open(&folder.database()).await.context("cannot open the database")?;
    let store: SharedStore = Arc::new(sqlite.clone());
    let agent_token = first_token(&folder, &store, TokenKind::Agent).await?;
    let operator_token = first_token(&folder, &store, TokenKind::Operator).await?;
    let bus: SharedBus = InProcess::new();
    let node = node::id(None);
    let otlp = otlp::start(&role.telemetry.otlp(), "muster-standalone", &node, &metrics)?;
    let service = ConfigService::new(service_config, node.clone(), store.clone(), bus.clone())
        .with_packages(Some(packages.clone()))
        .with_issuer(issuer.clone());
    let admin = admin::Server::new(role.admin.config(), store, bus.clone())
        .with_packages(Some(packages.clone()), true)
        .with_issuer(issuer)
        .with_validators(validators);
    let gateway_config = gateway::Config { package_storage: Some(packages), ..gateway_config };
    let gateway = Gateway::with_tls(gateway_config, tls, node, bus);

    let mut health = Health::new(metrics);
    health.shutdown(&shutdown);
    health.config_service(service.handle());
    health.gateway(gateway.handle());

    let mut stages = Stages::default();
    stages.start("metrics listener", |stop| health.run(scrapes, stop));
    stages.start("config service", |stop| async move { Ok(service.run(stop).await?) });
    stages.start("admin API", |stop| async move { Ok(admin.run(calls, stop).await?) });
    let handle = gateway.handle();
    stages.start("gateway", |stop| async move { Ok(gateway.run(opamp, stop).await?) });
    let _listen_file = ListenFile::write(
        &folder.listen_file(),
        &[("opamp", addresses.opamp), ("admin", addresses.admin), ("metrics", addresses.metrics)],
    )?;
    ready(&handle, &stages, &shutdown).await;
    if role.demo > 0 {
        let plan = demo(&role, &addresses, &agent_token);
        stages.start("demonstration", |stop| run_demo(plan, stop));
    }
    if !stages.has_ended() {
        greet(&role, &folder, &addresses, is_tls, &[agent_token, operator_token]);
    }
    let result = stages.run(&shutdown).await;
    sqlite.close().await;
    otlp.finish().await;
    result
}

/// Waits until agents are taken, so that the greeting is true and the simulated agents are not sent away; for a while only,
/// as the health page says what is wrong.
async fn ready(gateway: &gateway::Handle, stages: &Stages, shutdown: &CancellationToken) {
    let deadline = Instant::now() + READY_WITHIN;
    while !gateway.is_ready() && !stages.has_ended() && !shutdown.is_cancelled() && Instant::now() < deadline {
        tokio::time::sleep(READY_CHECK).await;
    }
}

async fn first_token(folder: &DataDir, store: &SharedStore, kind: TokenKind) -> anyhow::Result<FirstToken> {
    let token = folder.token(kind)?;
    first_token::ensure(store, kind, &format!("standalone-{}", kind.name()), &token.text).await?;
    Ok(token)
}

fn demo(role: &StandaloneRole, addresses: &Addresses, token: &FirstToken) -> Plan {
    let authority = reachable(addresses.opamp).to_string();
    let path = role.gateway.path().to_owned();
    Plan {
        endpoints: vec![Endpoint { authority, path, transport: Transport::WebSocket }],
        transport: Transport::WebSocket,
        token: Some(token.text.clone()),
        agents: role.demo,
        connects_per_second: DEMO_CONNECTS_PER_SECOND,
        heartbeat: DEMO_HEARTBEAT,
        report_bytes: 0,
        attributes: vec![("muster.demo".to_owned(), "true".to_owned())],
        fail_percent: 0.0,
        reconnect: None,
        duration: None,
        source_addresses: Vec::new(),
        seed: DEMO_SEED,
    }
}

async fn run_demo(plan: Plan, stop: CancellationToken) -> anyhow::Result<()> {
    Fleet::start(plan, stop).finish().await;
    Ok(())
}

/// Where to connect to for what listens on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

/// Tells people where everything is.
fn greet(role: &StandaloneRole, folder: &DataDir, addresses: &Addresses, is_tls: bool, tokens: &[FirstToken]) {
    let (ws, http) = if is_tls { ("wss", "https") } else { ("ws", "http") };
    let (opamp, path) = (reachable(addresses.opamp), role.gateway.path());
    let mut lines = vec![
        format!("Muster {} is up.", env!("CARGO_PKG_VERSION")),
        format!("  OpAMP           {ws}://{opamp}{path} and {http}://{opamp}{path}"),
        format!("  admin API       http://{}", reachable(addresses.admin)),
        format!("  metrics         http://{}/metrics", reachable(addresses.metrics)),
        format!("  data            {}", folder.path().display()),
    ];
    for (name, token) in ["agent token", "operator token"].iter().zip(tokens) {
        let text = if token.is_new { format!("{} ", token.text) } else { String::new() };
        lines.push(format!("  {name:<15} {text}in {}", token.path.display()));
    }
    if role.demo > 0 {
        lines.push(format!("  demonstration   {} simulated agents", role.demo));
    }
    output::write(&lines.join("\n"));
}
