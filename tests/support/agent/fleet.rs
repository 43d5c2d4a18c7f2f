//! Many scripted agents.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Agent, Seen,
    link::{Link, Order},
};
use crate::support::eventually;

pub struct Fleet {
    members: Vec<Member>,
    gateways: Arc<Mutex<Vec<SocketAddr>>>,
    /// The agents run as long as the fleet is there.
    _tasks: JoinSet<()>,
}

struct Member {
    agent: Arc<Mutex<Agent>>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Fleet {
    /// `count` agents of one service, spread over the gateways, that connect with this token.
    pub fn start(count: usize, service: &str, gateways: Vec<SocketAddr>, token: &str) -> Self {
        let gateways = Arc::new(Mutex::new(gateways));
        let token: Arc<str> = token.into();
        let mut tasks = JoinSet::new();
        let members = (0..count)
            .map(|index| {
                let agent = Arc::new(Mutex::new(Agent::new(index, service)));
                let (orders, receiver) = mpsc::unbounded_channel();
                let link = Link {
                    agent: agent.clone(),
                    orders: receiver,
                    gateways: gateways.clone(),
                    next: index,
                    token: token.clone(),
                };
                tasks.spawn(link.run());
                Member { agent, orders }
            })
            .collect();
        Self { members, gateways, _tasks: tasks }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where agents that connect from now on try.
    pub fn set_gateways(&self, gateways: Vec<SocketAddr>) {
        *self.gateways.lock() = gateways;
    }

    pub fn agents(&self) -> Vec<Agent> {
        self.members.iter().map(|member| member.agent.lock().clone()).collect()
    }

    /// The sum of a count over all agents.
    pub fn count(&self, of: impl Fn(&Seen) -> u32) -> u32 {
        self.members.iter().map(|member| of(&member.agent.lock().seen)).sum()
    }

    /// Every `stride`th agent, from the `offset`th on, reports this as the status of its health.
    pub fn report_health(&self, status: &str, offset: usize, stride: usize) {
        for member in self.members.iter().skip(offset).step_by(stride) {
            let _ = member.orders.send(Order::ReportHealth(status.to_owned()));
        }
    }

    /// Every agent loses its connection.
    pub fn drop_connections(&self) {
        for member in &self.members {
            let _ = member.orders.send(Order::Drop);
        }
    }

    /// Waits until this holds for every agent.
    pub async fn all(&self, what: &str, holds: impl Fn(&Agent) -> bool) {
        let mut missing = usize::MAX;
        eventually(what, async || {
            let now_missing = self.members.iter().filter(|member| !holds(&member.agent.lock())).count();
            if now_missing != missing {
                missing = now_missing;
                println!("{what}: {missing} of {} to go", self.members.len());
            }
            (missing == 0).then_some(())
        })
        .await;
    }

    pub async fn all_connected(&self) {
        self.all("agents are connected", |agent| agent.seen.is_connected).await;
    }

    /// Waits until every agent runs a configuration whose file `name` has this text.
    pub async fn all_run(&self, name: &str, text: &str) {
        self.all(&format!("agents run {text:?}"), |agent| agent.file(name).as_deref() == Some(text)).await;
    }
}
