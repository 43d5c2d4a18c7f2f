//! What a rollout costs where many agents are known and some of them connected: over Postgres, with the admin API.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use muster::{
    admin,
    auth::token,
    bus::{Bus, Topic, in_process::InProcess},
    config_service::{Config, ConfigService},
    model::{
        AgentRecord,
        rollout::{Plan, State},
    },
    proto::{
        admin::{
            ApplyPolicyRequest, GetRolloutRequest, PolicyFile, PolicyKind, RolloutPlan,
            policies_client::PoliciesClient, rollouts_client::RolloutsClient,
        },
        bus,
    },
    store::{Actor, NewToken, SharedStore, TokenKind, postgres},
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Request, transport::Channel};

use super::{cpu, fleet, gateway::Gateway, rate, service, support, support::eventually, time};

/// Of the agents that are known, one in so many is connected.
const ONE_CONNECTED_IN: u64 = 10;
const POLICY: &str = "base";
/// How long the rollout is left waiting, to see what that costs.
const WAITING_S: u64 = 30;
const STATUS_CALLS: u32 = 200;
/// A driver that took long to see all agents takes its time until it looks again.
const PATIENCE: Duration = Duration::from_secs(900);

/// On a database of its own. Returns Postgres' plans of what was asked of it, if they are wanted.
pub async fn measure(server: &support::postgres::Server, known: u64, wants_plans: bool) -> Option<String> {
    let connected = known.div_ceil(ONE_CONNECTED_IN);
    println!("\nrollout over postgres, {known} agents known, {connected} connected");
    let url = server.new_database().await;
    let store = connect(&url).await;
    insert(&store, known).await;
    let store = match wants_plans {
        true => {
            server.explain(&url).await;
            connect(&url).await
        }
        false => store,
    };
    let bus = InProcess::new();
    let mut gateway = Gateway::start(bus.clone()).await;
    let replica = ConfigService::new(Config::default(), "bench".into(), store.clone(), bus.clone());
    let (handle, stop) = (replica.handle(), CancellationToken::new());
    let task = tokio::spawn(replica.run(stop.clone()));
    eventually("the replica is ready", async || handle.is_ready().then_some(())).await;
    let operator = Operator::start(&store, &bus, &stop).await;

    // What agents have before: to all at once.
    service::apply(&store, 0, None).await;
    tell(&store, &bus).await;
    let hash = gateway.offers(connected as usize, |_| {}).await;
    gateway.report(2, applied(known, &hash)).await;
    reach(&store, State::Succeeded).await;

    let started = Instant::now();
    let agents = operator.apply(true).await;
    rate("dry run", known, started.elapsed());
    assert_eq!(agents, Some(known));
    let started = Instant::now();
    operator.apply(false).await;
    time("apply answers", started.elapsed());
    tell(&store, &bus).await;
    let hash = gateway.offers(connected_in_first_step(&store).await, |_| {}).await;
    time("apply: the first step is offered to all of it", started.elapsed());
    gateway.report(3, applied(known, &hash)).await;
    reach(&store, State::Baking).await;
    time("apply: the first step bakes", started.elapsed());

    let started = Instant::now();
    for _ in 0..STATUS_CALLS {
        operator.status().await;
    }
    time("status, one call", started.elapsed() / STATUS_CALLS);
    let before = (cpu::of_this(), cpu::of_family(server.pid()));
    tokio::time::sleep(Duration::from_secs(WAITING_S)).await;
    let after = (cpu::of_this(), cpu::of_family(server.pid()));
    let percent = |before: f64, after: f64| (after - before) / WAITING_S as f64 * 100.0;
    println!("  {:<48} {:>9.2} %", "waiting: CPU of the replica, sweeps included", percent(before.0, after.0));
    println!("  {:<48} {:>9.2} %", "waiting: CPU of Postgres", percent(before.1, after.1));
    stop.cancel();
    task.await.unwrap().unwrap();
    wants_plans.then(|| server.plans())
}

async fn connect(url: &str) -> SharedStore {
    let store = postgres::PostgresStore::connect(url, Default::default()).unwrap();
    muster::store::Store::migrate(&store).await.unwrap();
    std::sync::Arc::new(store)
}

async fn insert(store: &SharedStore, known: u64) {
    let agent = |n: u64| {
        let mut agent = fleet::agent(n);
        agent.presence.connected = n.is_multiple_of(ONE_CONNECTED_IN);
        agent
    };
    let started = Instant::now();
    for start in (0..known).step_by(1_000) {
        let agents: Vec<AgentRecord> = (start..known.min(start + 1_000)).map(agent).collect();
        store.write_agents(&agents, &[]).await.unwrap();
    }
    rate("insert", known, started.elapsed());
}

fn applied(known: u64, hash: &[u8]) -> Vec<(muster::model::InstanceUid, bytes::Bytes)> {
    let applied = fleet::applied_message(hash);
    (0..known).step_by(ONE_CONNECTED_IN as usize).map(|n| (fleet::uid(n), applied.clone())).collect()
}

async fn tell(store: &SharedStore, bus: &InProcess) {
    let hint = bus::Hint { policies_epoch: store.policy_epoch().await.unwrap(), ..Default::default() };
    bus.publish(&Topic::ConfigService, hint.encode_to_vec().into()).await.unwrap();
}

async fn reach(store: &SharedStore, state: State) {
    let has_it = async || (store.get_rollout(POLICY).await.unwrap().state == state).then_some(());
    support::eventually_within(PATIENCE, state.name(), has_it).await;
}

/// About one in a hundred of those that are connected: the step is one in a hundred of all.
async fn connected_in_first_step(store: &SharedStore) -> usize {
    support::eventually_within(PATIENCE, "the first step is counted", async || {
        let rollout = store.get_rollout(POLICY).await.unwrap();
        let connected = rollout.counts.in_cohort.saturating_sub(rollout.counts.disconnected);
        (rollout.step == 1 && connected > 0).then_some(connected as usize)
    })
    .await
}

/// How the revision goes out.
fn plan() -> Plan {
    let steps = ["1%", "10%", "100%"].map(|step| step.parse().unwrap());
    Plan { steps: steps.into(), bake_seconds: 3_600, ..Plan::default() }
}

/// Calls the admin API.
struct Operator {
    channel: Channel,
    token: String,
}

impl Operator {
    async fn start(store: &SharedStore, bus: &std::sync::Arc<InProcess>, stop: &CancellationToken) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let server = admin::Server::new(admin::Config::default(), store.clone(), bus.clone());
        tokio::spawn(server.run(listener, stop.clone()));
        let text = token::generate(TokenKind::Operator);
        let new = NewToken {
            id: "bench".into(),
            kind: TokenKind::Operator,
            name: "bench".into(),
            sha256: token::digest(&text),
            expires_at: None,
        };
        let actor = Actor { name: "bench".into(), token_id: String::new(), now: 1 };
        store.create_token(&new, &actor).await.unwrap();
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { channel, token: text }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    /// Applies the revision that goes out in steps; how many agents were looked at, where it only asks.
    async fn apply(&self, is_dry_run: bool) -> Option<u64> {
        let file = PolicyFile {
            name: "collector.yaml".into(),
            content_type: "text/yaml".into(),
            body: b"a: another\n".to_vec().into(),
            ..Default::default()
        };
        let plan = plan();
        let request = ApplyPolicyRequest {
            name: POLICY.into(),
            kind: PolicyKind::Config.into(),
            selector: "os.type = linux".into(),
            files: vec![file],
            validate_only: is_dry_run,
            preview: is_dry_run,
            rollout: Some(RolloutPlan {
                steps: plan.steps.iter().map(ToString::to_string).collect(),
                bake_seconds: plan.bake_seconds,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut policies = PoliciesClient::new(self.channel.clone());
        let response = policies.apply_policy(self.request(request)).await.unwrap().into_inner();
        response.preview.map(|preview| preview.gaining + preview.losing + preview.changing + preview.unchanged)
    }

    async fn status(&self) {
        let request = GetRolloutRequest { policy: POLICY.into(), revision: 0 };
        let mut rollouts = RolloutsClient::new(self.channel.clone());
        rollouts.get_rollout(self.request(request)).await.unwrap();
    }
}
