//! A running admin API, and what tests do with it. These tests are compiled twice: as `admin` over SQLite and the
//! in-process bus, as `admin_on_servers` over Postgres and Redis.

use std::{collections::HashSet, net::SocketAddr, path::Path, sync::Arc};

use muster::{
    admin::{self, validator},
    auth::token,
    bus::{Bus, Event, SharedBus, Subscription, Topic, in_process::InProcess, redis::Redis},
    model::{AgentRecord, ContentHash, InstanceUid, agent::Presence},
    packages::{Location, Storage},
    pki::{Authority, Issuer},
    proto::{
        admin::{
            ApplyPolicyRequest, PolicyFile, PolicyKind, agents_client::AgentsClient, commands_client::CommandsClient,
            fleet_client::FleetClient, policies_client::PoliciesClient, tokens_client::TokensClient,
        },
        bus::Hint,
        opamp,
    },
    store::{Actor, NewToken, SharedStore, Store, TokenKind, postgres::PostgresStore, sqlite::SqliteStore},
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::support::{postgres, redis};

pub struct World {
    pub store: SharedStore,
    pub bus: SharedBus,
    pub address: SocketAddr,
    /// An operator's.
    pub token: String,
    pub shutdown: CancellationToken,
    pub server: JoinHandle<Result<(), admin::Error>>,
    pub channel: Channel,
    pub folder: tempfile::TempDir,
    database: Database,
    /// Lives as long as the bus that goes over it.
    _redis: Option<redis::Server>,
}

const ON_SERVERS: bool = matches!(module_path!().as_bytes(), b"integration::admin_on_servers::world");

impl World {
    pub async fn start() -> Self {
        if !ON_SERVERS {
            return Self::with(admin::Config::default(), InProcess::new()).await;
        }
        let server = redis::Server::start().await;
        let bus = Redis::connect(&server.url(), "muster").expect("a bus");
        crate::support::eventually("the bus", async || bus.is_reachable().then_some(())).await;
        Self { _redis: Some(server), ..Self::with(admin::Config::default(), bus).await }
    }

    pub async fn with(config: admin::Config, bus: SharedBus) -> Self {
        Self::made(config, bus, true, None).await
    }

    /// Whose policies have to pass these.
    pub async fn validating(config: validator::Config) -> Self {
        let launcher = env!("CARGO_BIN_EXE_muster").into();
        let validators = validator::Validators::new(validator::Config { launcher, ..config }).expect("validators");
        Self::made(admin::Config::default(), InProcess::new(), true, Some(validators)).await
    }

    /// Without package files, and without anybody who issues certificates.
    pub async fn without_packages() -> Self {
        Self::made(admin::Config::default(), InProcess::new(), false, None).await
    }

    async fn made(
        config: admin::Config,
        bus: SharedBus,
        has_packages: bool,
        validators: Option<validator::Validators>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let packages = Location::Folder(folder.path().join("packages"));
        let packages = has_packages.then(|| Storage::open(&packages, []).expect("a folder"));
        let database = Database::new(folder.path()).await;
        let store = database.store();
        store.migrate().await.expect("a schema");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let issuer = has_packages.then(issuer);
        let mut server =
            admin::Server::new(config, store.clone(), bus.clone()).with_packages(packages, true).with_issuer(issuer);
        if let Some(validators) = validators {
            server = server.with_validators(validators);
        }
        let server = tokio::spawn(server.run(listener, shutdown.clone()));
        let channel = Channel::from_shared(format!("http://{address}")).expect("a URL");
        let channel = channel.connect().await.expect("a connection");
        let token = add_token(&*store, TokenKind::Operator, "root").await;
        Self { store, bus, address, token, shutdown, server, channel, folder, database, _redis: None }
    }

    pub fn request<T>(&self, message: T) -> Request<T> {
        with_token(message, &self.token)
    }

    pub fn agents(&self) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel.clone())
    }

    pub fn policies(&self) -> PoliciesClient<Channel> {
        PoliciesClient::new(self.channel.clone())
    }

    pub fn commands(&self) -> CommandsClient<Channel> {
        CommandsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.channel.clone())
    }

    pub fn tokens(&self) -> TokensClient<Channel> {
        TokensClient::new(self.channel.clone())
    }

    /// Stores agents; of those that are there already, the new state.
    pub async fn put(&self, agents: &[AgentRecord]) {
        let uids: Vec<_> = agents.iter().map(|agent| agent.uid).collect();
        let stored = self.store.read_agents(&uids).await.expect("agents");
        let mut agents = agents.to_vec();
        for agent in &mut agents {
            agent.version = stored.iter().find(|old| old.uid == agent.uid).map_or(0, |old| old.version);
        }
        let refused = self.store.write_agents(&agents, &[]).await.expect("a write");
        assert_eq!(refused, [], "another writer came first");
    }

    /// From now on the store does not answer.
    pub async fn close_store(&self) {
        match &self.database {
            Database::Sqlite(store) => store.close().await,
            Database::Postgres(store) => store.close().await,
        }
    }

    /// Hints to the config service, from now on.
    pub async fn hints(&self) -> Hints {
        let mut subscription = self.bus.subscribe();
        subscription.set_topics(vec![Topic::ConfigService]).await;
        Hints(subscription)
    }
}

/// For as long as anybody needs.
fn issuer() -> Issuer {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_millis() as i64;
    let (certificate, key) = Authority::generate(now).expect("an authority");
    let authority = Authority::load(&certificate, &key, now).expect("it can be taken up");
    Issuer { authority: Arc::new(authority), validity: std::time::Duration::from_secs(86_400) }
}

enum Database {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl Database {
    async fn new(folder: &Path) -> Self {
        if !ON_SERVERS {
            return Self::Sqlite(SqliteStore::open(&folder.join("muster.db")).await.expect("a database"));
        }
        let url = postgres::Server::shared().new_database().await;
        Self::Postgres(PostgresStore::connect(&url, Default::default()).expect("a database"))
    }

    fn store(&self) -> SharedStore {
        match self {
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Postgres(store) => Arc::new(store.clone()),
        }
    }
}

pub struct Hints(Box<dyn Subscription>);

impl Hints {
    pub async fn next(&mut self) -> Hint {
        match tokio::time::timeout(crate::support::PATIENCE, self.0.next()).await.expect("a hint") {
            Event::Message { payload, .. } => Hint::decode(payload).expect("a Hint"),
            Event::Gap => panic!("a gap"),
        }
    }
}

pub fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    request
}

/// Stores a token and gives its text.
pub async fn add_token(store: &dyn Store, kind: TokenKind, name: &str) -> String {
    let text = token::generate(kind);
    let new =
        NewToken { id: format!("id-{name}"), kind, name: name.into(), sha256: token::digest(&text), expires_at: None };
    store.create_token(&new, &actor()).await.expect("a token");
    text
}

pub fn actor() -> Actor {
    Actor { name: "system".into(), token_id: String::new(), now: 1_700_000_000_000 }
}

pub fn uid(n: u128) -> InstanceUid {
    InstanceUid::from_slice(&(0x0192_0000_0000_7000_8000_0000_0000_0000 + n).to_be_bytes()).expect("a uid")
}

/// A connected agent with these attributes.
pub fn agent(n: u128, attributes: &[(&str, &str)]) -> AgentRecord {
    let pair = |(key, value): &(&str, &str)| opamp::KeyValue {
        key: (*key).into(),
        value: Some(opamp::AnyValue { value: Some(opamp::any_value::Value::StringValue((*value).into())) }),
    };
    let description =
        opamp::AgentDescription { identifying_attributes: attributes.iter().map(pair).collect(), ..Default::default() };
    let mut record = AgentRecord::new(uid(n), 1_700_000_000_000);
    record.observed.description = description.encode_to_vec().into();
    record.observed.capabilities = 7;
    record.presence = Presence {
        connected: true,
        gateway: "gw-1".into(),
        connection_generation: 1,
        last_seen: 1_700_000_000_500,
        ..Default::default()
    };
    record
}

/// A policy with one file.
pub fn policy(name: &str, selector: &str, body: &str) -> ApplyPolicyRequest {
    ApplyPolicyRequest {
        name: name.into(),
        kind: PolicyKind::Config.into(),
        selector: selector.into(),
        files: vec![PolicyFile {
            name: "collector.yaml".into(),
            content_type: "text/yaml".into(),
            body: body.as_bytes().to_vec().into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The machine-readable reason of an error; every error has one.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "muster");
    info.reason
}

/// The fields that a request is refused for.
pub fn violated(status: &Status) -> HashSet<String> {
    let request = status.get_details_bad_request().expect("a BadRequest");
    request.field_violations.into_iter().map(|violation| violation.field).collect()
}

pub fn hash(byte: u8) -> ContentHash {
    ContentHash([byte; 32])
}
