//! The server: its services, the layers in front of them, and its end.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_web::GrpcWebLayer;

use super::{
    Config, agents, certificates, commands, context::Context, cors::Cors, fleet, gate::Gate, listener, overrides,
    package_files, policies, rollouts, tokens, validator::Validators,
};
use crate::{
    bus::SharedBus,
    packages::Storage,
    pki::Issuer,
    proto::{
        self,
        admin::{
            agents_server::AgentsServer, certificates_server::CertificatesServer, commands_server::CommandsServer,
            fleet_server::FleetServer, overrides_server::OverridesServer, package_files_server::PackageFilesServer,
            policies_server::PoliciesServer, rollouts_server::RolloutsServer, tokens_server::TokensServer,
        },
    },
    store::SharedStore,
};

/// Requests other than applies are small: a selector, some labels.
const MAX_SMALL_REQUEST_BYTES: usize = 1024 * 1024;
/// A configuration as agents may report it, twice over.
const MAX_RESPONSE_BYTES: usize = 128 * 1024 * 1024;
/// Calls at a time on one connection.
const MAX_CALLS_PER_CONNECTION: u32 = 64;
/// A peer that is gone is noticed after this long and [`KEEPALIVE_TIMEOUT`].
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Whoever connects is to say something within this.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the store is asked, for gRPC health.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("admin API: {0}")]
    Serve(#[from] transport::Error),
    #[error("admin API, reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The admin API of one node.
pub struct Server {
    config: Config,
    store: SharedStore,
    bus: SharedBus,
    packages: Option<Storage>,
    is_package_url_known: bool,
    issuer: Option<Issuer>,
    validators: Option<Validators>,
}

impl Server {
    pub fn new(config: Config, store: SharedStore, bus: SharedBus) -> Self {
        Self { config, store, bus, packages: None, is_package_url_known: false, issuer: None, validators: None }
    }

    /// Takes package files for this storage. Policies may offer them if it is known where agents fetch them.
    pub fn with_packages(self, storage: Option<Storage>, is_package_url_known: bool) -> Self {
        Self { packages: storage, is_package_url_known, ..self }
    }

    /// Has certificates issued by it.
    pub fn with_issuer(self, issuer: Option<Issuer>) -> Self {
        Self { issuer, ..self }
    }

    /// Revisions have to pass these.
    pub fn with_validators(self, validators: Validators) -> Self {
        Self { validators: Some(validators), ..self }
    }

    /// Serves until `shutdown`, and then until calls under way have ended or the drain time-out is over.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { config, store, bus, packages, is_package_url_known, issuer, validators } = self;
        let hosts_packages = packages.is_some() && is_package_url_known;
        let context = Context::new(store.clone(), bus, hosts_packages, issuer, validators, shutdown.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        let routes = routes(&config, &context, packages)?.add_service(health_service);
        let serve = transport::Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(Cors::new(config.cors_origins))
            .layer(GrpcWebLayer::new())
            .layer(Gate::new(context.operators.clone(), config.request_timeout))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                listener::connections(listener, config.max_connections, FIRST_BYTE_TIMEOUT),
                shutdown.clone().cancelled_owned(),
            );
        let drained = async {
            shutdown.cancelled().await;
            tokio::time::sleep(config.drain_timeout).await;
        };
        tokio::select! {
            result = serve => Ok(result?),
            () = drained => {
                tracing::info!("admin calls that were still under way at the end of the drain were cut off");
                Ok(())
            }
            () = watch_health(store, health) => Ok(()),
        }
    }
}

fn routes(
    config: &Config,
    context: &Arc<Context>,
    packages: Option<Storage>,
) -> Result<Routes, tonic_reflection::server::Error> {
    let agents = AgentsServer::new(agents::Service(context.clone()))
        .max_decoding_message_size(MAX_SMALL_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let policies = PoliciesServer::new(policies::Service(context.clone()))
        .max_decoding_message_size(config.max_request_bytes)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let fleet = FleetServer::new(fleet::Service(context.clone())).max_decoding_message_size(MAX_SMALL_REQUEST_BYTES);
    let tokens = TokensServer::new(tokens::Service(context.clone())).max_decoding_message_size(MAX_SMALL_REQUEST_BYTES);
    let commands = CommandsServer::new(commands::Service(context.clone()))
        .max_decoding_message_size(MAX_SMALL_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let package_files = PackageFilesServer::new(package_files::Service {
        context: context.clone(),
        storage: packages,
        max_file_bytes: config.max_package_file_bytes,
        message_timeout: config.request_timeout,
    })
    .max_decoding_message_size(package_files::MAX_MESSAGE_BYTES);
    let certificates = CertificatesServer::new(certificates::Service(context.clone()))
        .max_decoding_message_size(MAX_SMALL_REQUEST_BYTES);
    let rollouts =
        RolloutsServer::new(rollouts::Service(context.clone())).max_decoding_message_size(MAX_SMALL_REQUEST_BYTES);
    let overrides = OverridesServer::new(overrides::Service(context.clone()))
        .max_decoding_message_size(MAX_SMALL_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(agents)
        .add_service(policies)
        .add_service(fleet)
        .add_service(tokens)
        .add_service(commands)
        .add_service(package_files)
        .add_service(certificates)
        .add_service(rollouts)
        .add_service(overrides)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

/// The API is healthy while its store is. Never ends.
async fn watch_health(store: SharedStore, health: HealthReporter) {
    loop {
        let status = match store.check().await {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        health.set_service_status("", status).await;
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}
