//! A whole deployment as processes: gateways, config service replicas, Postgres, Redis.

use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::task::block_in_place;

use super::{
    ctl::Ctl,
    eventually,
    node::Node,
    postgres::{self, Stop},
    process::Process,
    redis,
};

pub struct Cluster {
    pub gateways: Vec<Node>,
    pub services: Vec<Node>,
    pub redis: redis::Server,
    postgres: postgres::Server,
    database: String,
    agent_token: String,
    /// Logs and listen files.
    _folder: TempDir,
}

const OPERATOR_TOKEN: &str = "muster_operator_of-the-end-to-end-tests-0000000000000000000";

impl Cluster {
    /// A deployment that is ready.
    pub async fn start(gateways: usize, services: usize) -> Self {
        Self::start_with(gateways, services, &[]).await
    }

    /// A deployment whose nodes have these variables in their environment.
    pub async fn start_with(gateways: usize, services: usize, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let redis = redis::Server::start().await;
        let postgres = block_in_place(postgres::Server::start);
        let database = postgres.new_database().await;
        migrate(&folder, &database).await;
        let services: Vec<Node> =
            (0..services).map(|index| config_service(index, &folder, &database, &redis.url(), environment)).collect();
        let gateways: Vec<Node> =
            (0..gateways).map(|index| gateway(index, &folder, &redis.url(), environment)).collect();
        let agent_token = String::new();
        let mut cluster = Self { gateways, services, redis, postgres, database, agent_token, _folder: folder };
        for node in &mut cluster.services {
            node.start().await;
        }
        for node in &mut cluster.services {
            node.ready().await;
        }
        cluster.agent_token = cluster.ctl(0).run(&["token", "create", "agent"]).await.trim().to_owned();
        // A gateway is ready once it knows the agents' tokens.
        for node in &mut cluster.gateways {
            node.start().await;
        }
        for node in &mut cluster.gateways {
            node.ready().await;
        }
        cluster
    }

    /// `musterctl` against one config service replica.
    pub fn ctl(&self, service: usize) -> Ctl {
        Ctl::new(self.services[service].admin(), self.operator_token())
    }

    pub fn agent_token(&self) -> &str {
        &self.agent_token
    }

    pub fn operator_token(&self) -> &str {
        OPERATOR_TOKEN
    }

    /// Where each gateway takes agents.
    pub fn opamp(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(Node::opamp).collect()
    }

    /// Waits until no gateway has anything that is not stored.
    pub async fn nothing_is_pending(&self) {
        for gateway in &self.gateways {
            eventually(&format!("{} has handed over every report", gateway.name), async || {
                (gateway.metric("muster_gateway_reports_pending").await? == 0.0).then_some(())
            })
            .await;
        }
    }

    /// The URL of the deployment's database.
    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn stop_postgres(&self, how: Stop) {
        block_in_place(|| self.postgres.stop(how));
    }

    pub fn start_postgres(&self) {
        block_in_place(|| self.postgres.start_again());
    }
}

async fn migrate(folder: &TempDir, database: &str) {
    let mut command = super::node::clean(env!("CARGO_BIN_EXE_muster"));
    command.args(["migrate", "--database-url", database]).current_dir(folder);
    let mut process = Process::spawn("migrate", &mut command, folder.path().join("migrate.log"));
    let status = process.ended(super::PATIENCE).await;
    assert!(status.success(), "{}", process.output());
}

fn config_service(index: usize, folder: &TempDir, database: &str, redis: &str, environment: &[(&str, &str)]) -> Node {
    let name = format!("config-service-{index}");
    let arguments = ["config-service", "--redis-url", redis, "--database-url", database];
    let service = node(&name, folder, &["admin", "metrics"], &arguments).env("MUSTER_OPERATOR_TOKEN", OPERATOR_TOKEN);
    with(service, environment)
}

fn gateway(index: usize, folder: &TempDir, redis: &str, environment: &[(&str, &str)]) -> Node {
    let arguments = ["gateway", "--redis-url", redis];
    with(node(&format!("gateway-{index}"), folder, &["opamp", "metrics"], &arguments), environment)
}

fn with(node: Node, environment: &[(&str, &str)]) -> Node {
    environment.iter().fold(node, |node, (name, value)| node.env(name, value))
}

/// A node that goes by `name`.
fn node(name: &str, folder: &TempDir, listeners: &[&str], arguments: &[&str]) -> Node {
    let listen_file = folder.path().join(format!("{name}.listen.json"));
    let named = ["--node-id", name, "--listen-file", &*listen_file.to_string_lossy()];
    Node::new(name, folder.path().to_owned(), listen_file.clone(), listeners, &[arguments, &named].concat())
}
