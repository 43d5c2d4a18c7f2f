//! From policies to agents.

use muster::{
    auth::token,
    model::{InstanceUid, agent::OfferStatus, offer, policy::PolicyKind},
    proto::{
        bus,
        opamp::{AgentRemoteConfig, AgentToServer, ComponentHealth, RemoteConfigStatuses},
    },
    store::{LabelChanges, NewToken, TokenKind},
};
use prost::Message;

use super::{
    cluster::{Backend, Cluster, actor},
    gateway::{Heard, Offered, ending, full, opening, report, status, uid},
};

pub async fn a_verdict_offers_and_the_body_comes_on_request(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "receivers: {}").await;
    let mut gateway = cluster.gateway("g").await;
    let verdict = gateway.tell(opening(uid(1), 10, 1, &full("web"))).await;
    let row = cluster.row(uid(1)).await.unwrap();
    assert_eq!(Some(&verdict.config_hash()[..]), row.desired.config.hash.as_ref().map(|hash| &hash.0[..]));
    assert_eq!(verdict.desired_generation(), row.desired.config.generation);
    let wanted = bus::ShardBatch { wanted_hashes: vec![verdict.config_hash().clone()], ..Default::default() };
    gateway.send(uid(1), wanted).await;
    let body = gateway.hear(matches_body).await;
    let offered = AgentRemoteConfig::decode(body.body).unwrap();
    assert_eq!(offered.config_hash, verdict.config_hash());
    let file = &offered.config.unwrap().config_map["collector.yaml"];
    assert_eq!((&file.body[..], file.content_type.as_str()), (&b"receivers: {}"[..], "text/yaml"));
    // Not an agent of this policy.
    assert!(gateway.tell(opening(uid(2), 10, 1, &full("db"))).await.config_hash().is_empty());
}

fn matches_body(heard: &Heard) -> Option<bus::OfferBody> {
    match heard {
        Heard::Body(body) => Some(body.clone()),
        _ => None,
    }
}

pub async fn a_change_of_policies_reaches_every_gateway_with_its_body_first(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateways = [cluster.gateway("one").await, cluster.gateway("other").await];
    for n in 0..200 {
        gateways[n as usize % 2].tell(opening(uid(n), 10, 1, &full("web"))).await;
    }
    cluster.apply("base", "group = web", "two").await;
    for n in 0..200 {
        let offer = gateways[n as usize % 2].offer_to(uid(n)).await;
        assert!(!offer.repeat);
        let row = cluster.row(uid(n)).await.unwrap();
        assert_eq!(
            (Some(&offer.config_hash[..]), offer.generation),
            (row.desired.config.hash.as_ref().map(|hash| &hash.0[..]), row.desired.config.generation)
        );
    }
    for gateway in &mut gateways {
        let rest = gateway.rest();
        assert!(rest.iter().filter_map(matches_body).count() == 1, "{rest:?}");
    }
}

pub async fn a_policy_that_nobody_was_told_of_is_found_by_the_timer(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("g").await;
    gateway.tell(opening(uid(1), 10, 1, &full("web"))).await;
    cluster.apply_quietly("base", "", "one").await;
    gateway.offer_to(uid(1)).await;
}

pub async fn a_refused_config_stays_away_until_it_is_lifted_or_changed(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "bad").await;
    let mut gateway = cluster.gateway("g").await;
    let offered = gateway.tell(opening(uid(1), 10, 1, &full("web"))).await.config_hash();
    gateway.tell(report(uid(1), 10, 2, &status(RemoteConfigStatuses::Failed, &offered))).await;
    let row = cluster.row(uid(1)).await.unwrap();
    assert_eq!(row.desired.config.quarantined, row.desired.config.hash);
    // Neither by another report nor on a new connection.
    let health = AgentToServer { health: Some(ComponentHealth::default()), ..Default::default() };
    assert!(gateway.tell(report(uid(1), 10, 3, &health)).await.config_hash().is_empty());
    assert!(gateway.tell(opening(uid(1), 20, 4, &full("web"))).await.config_hash().is_empty());
    assert!(!gateway.rest().iter().any(|heard| matches!(heard, Heard::Offer(_))));

    cluster.store.lift_quarantine(uid(1), &actor()).await.unwrap();
    cluster.hint(bus::Hint { agents_to_reconcile: uid(1).to_bytes(), ..Default::default() }).await;
    let again = gateway.offer_to(uid(1)).await;
    assert_eq!((&again.config_hash[..], again.repeat), (&offered[..], true));
    gateway.tell(report(uid(1), 20, 2, &status(RemoteConfigStatuses::Failed, &offered))).await;
    assert!(cluster.row(uid(1)).await.unwrap().desired.config.quarantined.is_some());

    cluster.apply("base", "group = web", "good").await;
    let fixed = gateway.offer_to(uid(1)).await;
    assert_ne!(fixed.config_hash[..], offered[..]);
    gateway.tell(report(uid(1), 20, 3, &status(RemoteConfigStatuses::Applied, &fixed.config_hash))).await;
    let row = cluster.row(uid(1)).await.unwrap();
    assert_eq!(row.observed.config.status, OfferStatus::Applied);
    assert_eq!(offer::convergence(&row, PolicyKind::Config), offer::Convergence::Converged);
}

pub async fn labels_change_what_an_agent_gets(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("canary", "tier = canary", "one").await;
    let mut gateway = cluster.gateway("g").await;
    assert!(gateway.tell(opening(uid(1), 10, 1, &full("web"))).await.config_hash().is_empty());
    let changes = LabelChanges::from([("tier".to_owned(), Some("canary".to_owned()))]);
    cluster.store.set_labels(uid(1), &changes, None, &actor()).await.unwrap();
    cluster.hint(bus::Hint { agents_to_reconcile: uid(1).to_bytes(), ..Default::default() }).await;
    gateway.offer_to(uid(1)).await;
}

pub async fn an_offer_that_was_not_answered_is_repeated_by_the_sweep(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "one").await;
    let mut gateway = cluster.gateway("g").await;
    gateway.tell(opening(uid(1), 10, 1, &full("web"))).await;
    // As if it had been long ago.
    let mut row = cluster.row(uid(1)).await.unwrap();
    row.desired.config.offered_at = Some(1);
    assert!(cluster.store.write_agents(&[row], &[]).await.unwrap().is_empty());
    assert!(gateway.offer_to(uid(1)).await.repeat);
    let row = cluster.row_when(uid(1), |row| row.desired.config.offered_at > Some(1)).await;
    assert_eq!(row.desired.config.offer_attempts, 2);
}

pub async fn an_agent_that_cannot_answer_gets_an_offer_that_was_lost(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "one").await;
    let mut gateway = cluster.gateway("g").await;
    let silent = AgentToServer { capabilities: 0x3, ..full("web") };
    let first = gateway.tell(opening(uid(1), 10, 1, &silent)).await;
    // As if that had been lost, long ago.
    let mut row = cluster.row(uid(1)).await.unwrap();
    row.desired.config.offered_at = Some(1);
    assert!(cluster.store.write_agents(&[row], &[]).await.unwrap().is_empty());
    let again = gateway.offer_to(uid(1)).await;
    // A gateway that has sent this generation on this connection drops it, and so sends it once.
    assert_eq!((&again.config_hash[..], again.generation), (&first.config_hash()[..], first.desired_generation()));
    assert!(!again.repeat);
}

pub async fn agent_tokens_come_on_request_and_on_change(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("g").await;
    let tokens = |heard: &Heard| match heard {
        Heard::Tokens(tokens) => Some(tokens.clone()),
        _ => None,
    };
    gateway.send(uid(1), bus::ShardBatch { wants_agent_tokens: true, ..Default::default() }).await;
    let before = gateway.hear(tokens).await;
    assert!(before.tokens.is_empty());
    let sha256 = token::digest("a token");
    let new = NewToken { id: "t1".into(), kind: TokenKind::Agent, name: "edge".into(), sha256, expires_at: None };
    cluster.store.create_token(&new, &actor()).await.unwrap();
    cluster.hint(bus::Hint { agent_tokens_changed: true, ..Default::default() }).await;
    // A replica that starts tells gateways by itself too.
    let after = gateway.hear(|heard| tokens(heard).filter(|list| list.version > before.version)).await;
    assert_eq!((after.tokens[0].id.as_str(), &after.tokens[0].sha256[..]), ("t1", &sha256[..]));
}

/// Agents that come back while a change goes out at its pace wait for it like the others. Those that have nothing do not wait, nor
/// do those that have the change already.
pub async fn agents_that_come_back_keep_to_the_pace(backend: Backend) {
    const PER_SECOND: u32 = 10;
    const RETURNING: std::ops::Range<u64> = 0..30;
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("g").await;
    cluster.settle("base", "group = web", "one").await;
    for n in RETURNING {
        let hash = gateway.tell(opening(uid(n), 10, 1, &full("web"))).await.config_hash();
        gateway.tell(report(uid(n), 10, 2, &status(RemoteConfigStatuses::Applied, &hash))).await;
        gateway.tell(ending(uid(n), 10, 3, 3)).await;
    }
    cluster.apply_paced("base", "group = web", "two", PER_SECOND).await;
    cluster.settled().await;
    let started = std::time::Instant::now();
    let newcomer = gateway.tell(opening(uid(100), 10, 1, &full("web"))).await.config_hash();
    assert!(!newcomer.is_empty(), "it has nothing");
    let mut has_it = full("web");
    has_it.remote_config_status = status(RemoteConfigStatuses::Applied, &newcomer).remote_config_status;
    let mut waiting = Vec::new();
    for n in RETURNING {
        let verdict = gateway.tell(opening(uid(n), 20, 4, &Default::default())).await;
        assert_eq!(verdict.report_number, 1);
        match verdict.config_hash() {
            hash if hash.is_empty() => waiting.push(uid(n)),
            hash => assert_eq!(hash, newcomer),
        }
    }
    assert_eq!(gateway.tell(opening(uid(101), 10, 1, &has_it)).await.config_hash(), "");
    for uid in waiting {
        assert_eq!(gateway.offer_to(uid).await.config_hash[..], newcomer[..]);
    }
    // Each of them took its tenth of a second, but the first.
    let least = std::time::Duration::from_millis(1_000 * (RETURNING.end - 1) / u64::from(PER_SECOND));
    assert!(started.elapsed() >= least, "all were offered it within {:?}", started.elapsed());
}

pub async fn whoever_watches_agents_hears_of_visible_changes(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut watcher = cluster.bus.subscribe();
    watcher.set_topics(vec![muster::bus::Topic::AgentsChanged]).await;
    let mut gateway = cluster.gateway("g").await;
    gateway.tell(opening(uid(1), 10, 1, &full("web"))).await;
    let event = tokio::time::timeout(crate::support::PATIENCE, watcher.next()).await.unwrap();
    let muster::bus::Event::Message { payload, .. } = event else { panic!("{event:?}") };
    let changed = bus::AgentsChanged::decode(payload).unwrap();
    assert_eq!(InstanceUid::from_slice(&changed.instance_uids).unwrap(), uid(1));
}

pub async fn a_quarantine_that_was_lifted_unheard_is_found_by_the_sweep(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "bad").await;
    let mut gateway = cluster.gateway("g").await;
    let offered = gateway.tell(opening(uid(1), 10, 1, &full("web"))).await.config_hash();
    gateway.tell(report(uid(1), 10, 2, &status(RemoteConfigStatuses::Failed, &offered))).await;
    cluster.store.lift_quarantine(uid(1), &actor()).await.unwrap();
    assert!(gateway.offer_to(uid(1)).await.repeat);
}

pub async fn a_slow_policy_holds_up_nobody_else(backend: Backend) {
    const SLOW: std::ops::Range<u64> = 0..200;
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("g").await;
    for n in SLOW {
        gateway.tell(opening(uid(n), 10, 1, &full("slow"))).await;
    }
    cluster.settle("fast", "group = fast", "one").await;
    gateway.tell(opening(uid(500), 10, 1, &full("fast"))).await;
    // Takes more than three minutes.
    cluster.apply_paced("slow", "group = slow", "one", 1).await;
    let is_slow = |heard: &Heard| matches!(heard, Heard::Offer(offer) if offer.uid != uid(500)).then_some(());
    gateway.hear(is_slow).await;

    // A sweep: as if the offer had been made long ago.
    let mut row = cluster.row(uid(500)).await.unwrap();
    row.desired.config.offered_at = Some(1);
    assert!(cluster.store.write_agents(&[row], &[]).await.unwrap().is_empty());
    assert!(gateway.offer_to(uid(500)).await.repeat);
    // Another policy.
    cluster.apply("fast", "group = fast", "two").await;
    assert!(!gateway.offer_to(uid(500)).await.repeat);
    // A single agent.
    let changes = LabelChanges::from([("tier".to_owned(), Some("canary".to_owned()))]);
    cluster.apply_quietly("canary", "tier = canary", "two").await;
    cluster.store.set_labels(uid(500), &changes, None, &actor()).await.unwrap();
    cluster.hint(bus::Hint { agents_to_reconcile: uid(500).to_bytes(), ..Default::default() }).await;
    gateway.offer_to(uid(500)).await;
    // And the slow one went on at its pace meanwhile.
    gateway.hear(is_slow).await;
    let rows = cluster.store.read_agents(&SLOW.map(uid).collect::<Vec<_>>()).await.unwrap();
    assert!(rows.iter().any(|row| row.desired.config.offered_at.is_none()));
}
