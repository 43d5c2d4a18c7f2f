//! Agents: lists, labels, configuration, forgetting.

use std::{collections::BTreeSet, time::Duration};

use muster::{
    bus::Role,
    model::{agent::OfferStatus, health::Transition},
    proto::{
        admin::{
            self, AgentStatus, ForgetAgentRequest, GetAgentConfigRequest, GetAgentHealthRequest, GetAgentRequest,
            ListAgentsRequest, ListHealthTransitionsRequest, RetryConfigRequest, SetLabelsRequest,
        },
        opamp,
    },
    store::News,
};
use prost::Message;
use tonic::Code;

use super::world::{World, agent, hash, policy, reason, uid, violated};

async fn list(world: &World, request: ListAgentsRequest) -> Vec<admin::ListAgentsResponse> {
    let mut pages = Vec::new();
    let mut request = request;
    loop {
        let page = world.agents().list_agents(world.request(request.clone())).await.unwrap().into_inner();
        let next = page.next_page_token.clone();
        pages.push(page);
        if next.is_empty() {
            return pages;
        }
        request.page_token = next;
    }
}

fn uids_of(numbers: &[u128]) -> Vec<String> {
    numbers.iter().map(|n| uid(*n).to_string()).collect()
}

fn uids(pages: &[admin::ListAgentsResponse]) -> Vec<String> {
    pages.iter().flat_map(|page| &page.agents).map(|agent| agent.instance_uid.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_match_once() {
    let world = World::start().await;
    let os = |n: u128| if n.is_multiple_of(3) { "windows" } else { "linux" };
    let agents: Vec<_> = (0..2500).map(|n| agent(n, &[("os.type", os(n))])).collect();
    world.put(&agents).await;
    let request = ListAgentsRequest { selector: "os.type = windows".into(), page_size: 100, ..Default::default() };
    let pages = list(&world, request).await;
    assert!(pages.iter().all(|page| page.agents.len() <= 100));
    let expected: Vec<_> = (0..2500).filter(|n| os(*n) == "windows").map(|n| uid(n).to_string()).collect();
    assert_eq!(uids(&pages), expected);
    let all = list(&world, ListAgentsRequest { page_size: 1_000_000, ..Default::default() }).await;
    assert_eq!((uids(&all).len(), all[0].agents.len()), (2500, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_a_page_is_bounded_and_the_next_page_goes_on() {
    let world = World::start().await;
    for from in (0..12_000u128).step_by(4000) {
        world.put(&(from..from + 4000).map(|n| agent(n, &[])).collect::<Vec<_>>()).await;
    }
    world.put(&[agent(50_000, &[("rare", "yes")])]).await;
    let pages = list(&world, ListAgentsRequest { selector: "rare".into(), ..Default::default() }).await;
    assert_eq!(pages[0].agents.len(), 0, "the first call looked at everything");
    assert_eq!(uids(&pages), [uid(50_000).to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_belongs_to_its_selector() {
    let world = World::start().await;
    world.put(&[agent(1, &[]), agent(2, &[])]).await;
    let first = ListAgentsRequest { page_size: 1, ..Default::default() };
    let token = world.agents().list_agents(world.request(first)).await.unwrap().into_inner().next_page_token;
    for request in [
        ListAgentsRequest { selector: "a".into(), page_token: token.clone(), ..Default::default() },
        ListAgentsRequest { connected: Some(true), page_token: token, ..Default::default() },
        ListAgentsRequest { page_token: "made up".into(), ..Default::default() },
    ] {
        let status = world.agents().list_agents(world.request(request)).await.unwrap_err();
        assert_eq!((status.code(), violated(&status)), (Code::InvalidArgument, ["page_token".into()].into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_selector_is_refused_with_its_position() {
    let world = World::start().await;
    let request = ListAgentsRequest { selector: "os.type in (".into(), ..Default::default() };
    let status = world.agents().list_agents(world.request(request)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert_eq!(status.message(), "selector: position 13: expected a value, found the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_shows_what_it_reported() {
    let world = World::start().await;
    let mut record = agent(1, &[("service.name", "collector")]);
    let broken = opamp::ComponentHealth { last_error: "disk".into(), ..Default::default() };
    let health = opamp::ComponentHealth {
        healthy: false,
        status: "degraded".into(),
        last_error: "exporter".into(),
        component_health_map: [("exporter".to_owned(), broken)].into(),
        ..Default::default()
    };
    record.observed.health = health.encode_to_vec().into();
    record.observed.healthy = Some(false);
    record.observed.config.status = OfferStatus::Failed;
    record.observed.config.error = "no such key".into();
    record.observed.config.hash = hash(7).to_bytes();
    record.desired.config.hash = Some(hash(7));
    record.desired.config.quarantined = Some(hash(7));
    world.put(&[record]).await;
    let get = || world.request(GetAgentRequest { instance_uid: uid(1).to_string() });
    let shown = world.agents().get_agent(get()).await.unwrap().into_inner();
    assert_eq!(
        (shown.healthy, shown.health_status.as_str(), shown.health_error.as_str()),
        (Some(false), "degraded", "exporter")
    );
    assert_eq!(shown.components["exporter"].last_error, "disk");
    assert_eq!((shown.config_status(), shown.config_error.as_str()), (admin::ConfigStatus::Failed, "no such key"));
    assert_eq!(shown.convergence(), admin::Convergence::Quarantined);
    assert_eq!((shown.desired_config_hash, shown.reported_config_hash), (hash(7).to_bytes(), hash(7).to_bytes()));
    assert_eq!(shown.capabilities, ["ReportsStatus", "AcceptsRemoteConfig", "ReportsEffectiveConfig"]);

    // Its gateway is not live: nothing later than the last message is known of it.
    assert_eq!(shown.last_seen.unwrap().seconds, 1_700_000_000);
    world.bus.announce(Role::Gateway, "gw-1", Duration::from_secs(600)).await.unwrap();
    crate::support::eventually("the live gateway to count", async || {
        let shown = world.agents().get_agent(get()).await.unwrap().into_inner();
        (shown.last_seen.unwrap().seconds > 1_700_000_000).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_listed_by_their_status() {
    use muster::model::effective::Effective;
    let world = World::start().await;
    let with = |n, change: fn(&mut muster::model::AgentRecord)| {
        let mut record = agent(n, &[]);
        (record.desired.config.hash, record.observed.config.hash) = (Some(hash(1)), hash(1).to_bytes());
        record.observed.config.status = OfferStatus::Applied;
        change(&mut record);
        record
    };
    let failed = |record: &mut muster::model::AgentRecord| {
        record.desired.config.quarantined = Some(hash(1));
        (record.observed.config.status, record.observed.config.error) = (OfferStatus::Failed, "no such key".into());
    };
    let went_back = |record: &mut muster::model::AgentRecord| {
        record.desired.config.quarantined = Some(hash(1));
        record.desired.config.refusal = "no such key".into();
        record.observed.config.hash = hash(2).to_bytes();
    };
    world
        .put(&[
            with(1, |_| {}),
            with(2, failed),
            with(3, went_back),
            with(4, |record| record.desired.effective = Effective::Drifted),
            with(5, |record| record.presence.connected = false),
            agent(6, &[]),
        ])
        .await;
    let listed = async |statuses: &[AgentStatus]| {
        let statuses = statuses.iter().map(|status| i32::from(*status)).collect();
        list(&world, ListAgentsRequest { statuses, page_size: 2, ..Default::default() }).await
    };
    assert_eq!(uids(&listed(&[AgentStatus::Failed, AgentStatus::Drifted]).await), uids_of(&[2, 4]));
    assert_eq!(uids(&listed(&[AgentStatus::Healthy, AgentStatus::Applied]).await), uids_of(&[1, 5]));
    assert_eq!(uids(&listed(&[AgentStatus::NothingDesired]).await), uids_of(&[6]));
    let went_back = listed(&[AgentStatus::RolledBack]).await.remove(0).agents.remove(0);
    assert_eq!((went_back.status(), went_back.offers[0].status()), (AgentStatus::RolledBack, AgentStatus::RolledBack));
    assert_eq!(went_back.offers[0].error, "no such key", "its words from before it went back");
    let unknown = ListAgentsRequest { statuses: vec![1, 99], ..Default::default() };
    let status = world.agents().list_agents(world.request(unknown)).await.unwrap_err();
    assert_eq!(violated(&status), ["statuses[1]".to_owned()].into());

    let summary = world.fleet().get_fleet_summary(world.request(admin::GetFleetSummaryRequest {})).await.unwrap();
    let counts: BTreeSet<_> =
        summary.into_inner().statuses.iter().map(|it| (it.kind(), it.status(), it.agents)).collect();
    let once = [
        AgentStatus::Healthy,
        AgentStatus::Failed,
        AgentStatus::RolledBack,
        AgentStatus::Drifted,
        AgentStatus::Applied,
        AgentStatus::NothingDesired,
    ];
    assert_eq!(counts, once.map(|status| (admin::PolicyKind::Config, status, 1)).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_malformed_uids_are_told_apart() {
    let world = World::start().await;
    let get = |text: &str| world.request(GetAgentRequest { instance_uid: text.into() });
    let status = world.agents().get_agent(get(&uid(9).to_string())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "AGENT_NOT_FOUND"));
    let status = world.agents().get_agent(get("nonsense")).await.unwrap_err();
    assert_eq!((status.code(), violated(&status)), (Code::InvalidArgument, ["instance_uid".into()].into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_merged_guarded_by_etag_and_hinted() {
    let world = World::start().await;
    world.put(&[agent(1, &[])]).await;
    let mut hints = world.hints().await;
    let set = |pairs: &[(&str, &str)], remove: &[&str], etag: Option<&str>| {
        world.request(SetLabelsRequest {
            instance_uid: uid(1).to_string(),
            set: pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            remove: remove.iter().map(|key| (*key).into()).collect(),
            etag: etag.map(Into::into),
        })
    };
    let first =
        world.agents().set_labels(set(&[("env", "prod"), ("tier", "1")], &[], None)).await.unwrap().into_inner();
    assert_eq!(hints.next().await.agents_to_reconcile, uid(1).to_bytes());
    let second = world.agents().set_labels(set(&[("env", "dev")], &["tier"], Some(&first.etag))).await.unwrap();
    assert_eq!(second.into_inner().labels, [("env".to_owned(), "dev".to_owned())].into());
    let status = world.agents().set_labels(set(&[("env", "x")], &[], Some(&first.etag))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    let listed = list(&world, ListAgentsRequest { selector: "env = dev".into(), ..Default::default() }).await;
    assert_eq!(uids(&listed).len(), 1);
    let many: Vec<_> = (0..64).map(|n| n.to_string()).collect();
    let many: Vec<_> = many.iter().map(|key| (key.as_str(), "x")).collect();
    let status = world.agents().set_labels(set(&many, &[], None)).await.unwrap_err();
    assert_eq!(violated(&status), ["set".into()].into(), "65 labels");
}

#[tokio::test(flavor = "multi_thread")]
async fn desired_files_name_the_policy_that_they_came_from() {
    let world = World::start().await;
    let mut record = agent(1, &[("os.type", "linux")]);
    let effective = opamp::EffectiveConfig {
        config_map: Some(opamp::AgentConfigMap {
            config_map: [("".to_owned(), opamp::AgentConfigObject { body: "running".into(), ..Default::default() })]
                .into(),
        }),
    };
    let body = bytes::Bytes::from(effective.encode_to_vec());
    let at = muster::model::ContentHash::of(&body);
    record.observed.effective_config = Some(at);
    world.store.write_agents(&[record], &[(at, body)]).await.unwrap();
    let mut low = policy("low", "os.type", "low");
    low.files.push(admin::PolicyFile { name: "extra".into(), body: "extra".into(), ..Default::default() });
    world.policies().apply_policy(world.request(low)).await.unwrap();
    let high = admin::ApplyPolicyRequest { priority: 5, ..policy("high", "os.type = linux", "high") };
    world.policies().apply_policy(world.request(high)).await.unwrap();
    world.policies().apply_policy(world.request(policy("other", "os.type = windows", "other"))).await.unwrap();
    let request = world.request(GetAgentConfigRequest { instance_uid: uid(1).to_string() });
    let config = world.agents().get_agent_config(request).await.unwrap().into_inner();
    let files: Vec<_> =
        config.desired.iter().map(|f| (f.name.as_str(), f.policy.as_str(), f.revision, &f.body[..])).collect();
    assert_eq!(files, [("collector.yaml", "high", 1, &b"high"[..]), ("extra", "low", 1, b"extra")]);
    assert_eq!((config.desired_config_hash.len(), config.assigned_config_hash.len()), (32, 0));
    assert!(config.has_effective);
    assert_eq!(config.effective[0].body, "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_lifts_the_quarantine_and_hints() {
    let world = World::start().await;
    let mut record = agent(1, &[]);
    (record.desired.config.hash, record.desired.config.quarantined) = (Some(hash(1)), Some(hash(1)));
    world.put(&[record]).await;
    let mut hints = world.hints().await;
    let request = world.request(RetryConfigRequest { instance_uid: uid(1).to_string() });
    let shown = world.agents().retry_config(request).await.unwrap().into_inner();
    assert_eq!(shown.convergence(), admin::Convergence::Behind);
    assert_eq!(hints.next().await.agents_to_reconcile, uid(1).to_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_agent_is_only_forgotten_by_force() {
    let world = World::start().await;
    let mut gone = agent(2, &[]);
    gone.presence.connected = false;
    world.put(&[agent(1, &[]), gone]).await;
    let forget =
        |n, force| world.request(ForgetAgentRequest { instance_uid: uid(n).to_string(), force, ..Default::default() });
    let status = world.agents().forget_agent(forget(1, false)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "AGENT_CONNECTED"));
    world.agents().forget_agent(forget(2, false)).await.unwrap();
    world.agents().forget_agent(forget(1, true)).await.unwrap();
    assert_eq!(uids(&list(&world, ListAgentsRequest::default()).await), [""; 0]);
    let audited: BTreeSet<_> =
        world.store.list_audit(None, 10).await.unwrap().into_iter().map(|e| (e.actor, e.target)).collect();
    assert!(audited.contains(&("root".to_owned(), uid(1).to_string())), "{audited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_health_comes_in_pages_newest_first() {
    let world = World::start().await;
    let mut record = agent(1, &[]);
    let part = opamp::ComponentHealth { status_time_unix_nano: 1_700_000_000_000_000_000, ..Default::default() };
    let health = opamp::ComponentHealth {
        healthy: true,
        component_health_map: [("otlp".to_owned(), part)].into(),
        ..Default::default()
    };
    (record.observed.health, record.observed.healthy) = (health.encode_to_vec().into(), Some(true));
    let transitions = (0..5).map(|n| Transition {
        at: 1_700_000_000_000 + n,
        component: if n == 4 { vec!["pipeline:traces".into(), "otlp".into()] } else { Vec::new() },
        healthy: (n != 4).then_some(n % 2 == 0),
        status: format!("s{n}"),
        last_error: String::new(),
    });
    let news =
        News { uid: uid(1), custom_capabilities: None, components_hash: None, transitions: transitions.collect() };
    assert_eq!(world.store.write_reports(&[record], &[], &[news]).await.unwrap(), []);
    world.put(&[agent(2, &[])]).await;

    let get = async |n| {
        let request = GetAgentHealthRequest { instance_uid: uid(n).to_string() };
        world.agents().get_agent_health(world.request(request)).await.unwrap().into_inner().health
    };
    assert_eq!(get(2).await, None);
    let health = get(1).await.expect("health");
    assert_eq!((health.healthy, health.components["otlp"].healthy), (true, false));
    assert_eq!(health.components["otlp"].status_time.as_ref().map(|at| at.seconds), Some(1_700_000_000));

    let mut request =
        ListHealthTransitionsRequest { instance_uid: uid(1).to_string(), page_size: 2, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = world.agents().list_health_transitions(world.request(request.clone())).await.unwrap().into_inner();
        seen.extend(page.transitions);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen.iter().map(|it| it.status.as_str()).collect::<Vec<_>>(), ["s4", "s3", "s2", "s1", "s0"]);
    assert_eq!((seen[0].healthy, seen[0].component.len(), seen[1].healthy), (None, 2, Some(false)));
    let other = ListHealthTransitionsRequest {
        instance_uid: uid(2).to_string(),
        page_token: request.page_token,
        ..Default::default()
    };
    let status = world.agents().list_health_transitions(world.request(other)).await.unwrap_err();
    assert_eq!(violated(&status), ["page_token".to_owned()].into());
}
