//! Many scripted agents.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    /// Each poll goes to another gateway than the one before.
    Http,
}

/// As often as agents send heartbeats, unless a test says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(5);

struct Member {
    agent: Arc<Mutex<Agent>>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Fleet {
    /// `count` agents of one service, spread over the gateways, that connect with this token.
    pub fn start(count: usize, service: &str, gateways: Vec<SocketAddr>, token: &str) -> Self {
        let agents = (0..count).map(|index| Agent::new(index, service)).collect();
        Self::of(agents, Transport::WebSocket, HEARTBEAT, gateways, token)
    }

    /// As [`Self::start`], of agents that send heartbeats only when told.
    pub fn start_quiet(count: usize, service: &str, gateways: Vec<SocketAddr>, token: &str) -> Self {
        let agents = (0..count).map(|index| Agent::new(index, service)).collect();
        Self::of(agents, Transport::WebSocket, Duration::from_secs(24 * 60 * 60), gateways, token)
    }

    /// These agents, each of which sends something at least this often. They connect to the gateways in turn.
    pub fn of(
        agents: Vec<Agent>,
        transport: Transport,
        heartbeat: Duration,
        gateways: Vec<SocketAddr>,
        token: &str,
    ) -> Self {
        let gateways = Arc::new(Mutex::new(gateways));
        let token: Arc<str> = token.into();
        let mut tasks = JoinSet::new();
        let members = agents
            .into_iter()
            .enumerate()
            .map(|(index, agent)| {
                let agent = Arc::new(Mutex::new(agent));
                let (orders, receiver) = mpsc::unbounded_channel();
                let link = Link {
                    agent: agent.clone(),
                    orders: receiver,
                    gateways: gateways.clone(),
                    next: index,
                    token: token.clone(),
                    heartbeat,
                };
                match transport {
                    Transport::WebSocket => tasks.spawn(link.run()),
                    Transport::Http => tasks.spawn(link.run_polling()),
                };
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
        self.order(|| Order::Drop);
    }

    /// Every agent connects elsewhere, as after a failure of the network that its old gateway has not noticed.
    pub fn leave_connections_half_open(&self) {
        self.order(|| Order::HalfOpen);
    }

    pub fn heartbeat(&self) {
        self.order(|| Order::Heartbeat);
    }

    /// Every agent asks for another uid, until it has one.
    pub fn ask_for_uids(&self) {
        self.members.iter().for_each(|member| member.agent.lock().wants_uid());
        self.order(|| Order::AskForUid);
    }

    fn order(&self, order: impl Fn() -> Order) {
        for member in &self.members {
            let _ = member.orders.send(order());
        }
    }

    /// Takes note that a gateway is about to be killed: what only that knows of its agents they will be asked for again.
    pub fn gateway_dies(&self, gateway: SocketAddr) {
        for member in &self.members {
            let mut agent = member.agent.lock();
            if agent.gateway == Some(gateway) {
                agent.gateway_died();
            }
        }
    }

    /// Takes note that what was said may be lost, whichever gateway was told.
    pub fn may_have_lost(&self) {
        self.members.iter().for_each(|member| member.agent.lock().may_have_lost = true);
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

    /// Waits until this holds for every two neighbours: the first and the second, the third and the fourth, and so on.
    pub async fn all_pairs(&self, what: &str, holds: impl Fn(&Agent, &Agent) -> bool) {
        eventually(what, async || self.agents().chunks(2).all(|pair| holds(&pair[0], &pair[1])).then_some(())).await;
    }

    pub async fn all_connected(&self) {
        self.all("agents are connected", |agent| agent.seen.is_connected).await;
    }

    /// Waits until every agent runs a configuration whose file `name` has this text.
    pub async fn all_run(&self, name: &str, text: &str) {
        self.all(&format!("agents run {text:?}"), |agent| agent.file(name).as_deref() == Some(text)).await;
    }
}
