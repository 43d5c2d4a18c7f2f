//! Where a role listens.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub struct Node {
    /// Address of metrics (`/metrics`) and health (`/healthz`, `/readyz`); port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9320")]
    pub metrics_listen: SocketAddr,
    /// File that is written when the listeners are bound and removed at exit: a JSON object from listener to address.
    #[arg(long, value_name = "FILE")]
    pub listen_file: Option<PathBuf>,
    /// Name of this node; a random part is added, so that a restarted process is another node. By default the host's name.
    #[arg(long, value_name = "NAME")]
    pub node_id: Option<String>,
}
