//! `muster standalone` with a data folder of its own.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::{ctl::Ctl, node::Node};

pub struct Standalone {
    pub node: Node,
    data: TempDir,
}

impl Standalone {
    /// A first start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with further arguments.
    pub async fn start_with(more: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().to_owned();
        let data_dir = folder.join("muster-data");
        let node = Node::new(
            "standalone",
            folder,
            data_dir.join("listen.json"),
            &["opamp", "admin", "metrics"],
            &[&["standalone", "--data-dir", &data_dir.to_string_lossy()], more].concat(),
        );
        let mut standalone = Self { node, data };
        standalone.node.start().await;
        standalone.node.ready().await;
        standalone
    }

    pub fn agent_token(&self) -> String {
        self.token("agent.token")
    }

    pub fn operator_token(&self) -> String {
        self.token("operator.token")
    }

    pub fn ctl(&self) -> Ctl {
        Ctl::new(self.node.admin(), &self.operator_token())
    }

    /// How many messages of agents it has read, by either transport.
    pub async fn messages_received(&self) -> Option<f64> {
        let websocket = self.node.metric("muster_gateway_websocket_messages_total").await?;
        Some(websocket + self.node.metric("muster_gateway_http_messages_total").await?)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("muster-data")
    }

    fn token(&self, file: &str) -> String {
        fs::read_to_string(self.data_dir().join(file)).unwrap().trim().to_owned()
    }
}
