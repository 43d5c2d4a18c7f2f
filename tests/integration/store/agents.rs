//! The contract: agents.

use std::collections::BTreeMap;

use muster::{
    model::{
        AgentRecord, ContentHash,
        agent::{Certificate, Desired, Forgotten, Lost, Observed, OfferStatus, Presence, Reported, Transport, Wanted},
        effective::Effective,
        offer::{self, Convergence},
        policy::PolicyKind,
        proof::Unproven,
        status::status,
        uid::SHARD_COUNT,
    },
    proto::opamp::{PackageStatus, PackageStatusEnum, PackageStatuses},
    store::{AgentFilter, DesiredWrite, Error, FleetSummary, LabelChanges, SharedStore, VersionCount},
};

use prost::Message;

use super::{NOW, actor, agent, body, description, read, stored, uid};

/// Each field at a value that a careless mapping would lose.
pub fn extreme(n: u128) -> AgentRecord {
    let reported = Reported {
        status: OfferStatus::Failed,
        hash: vec![0, 1].into(),
        error: "nul \0, quote ', ünïcode \u{10ffff}".into(),
    };
    let failed = PackageStatus {
        name: "one".into(),
        status: PackageStatusEnum::InstallFailed as i32,
        error_message: "no room".into(),
        ..Default::default()
    };
    let statuses = PackageStatuses {
        packages: [("one".to_owned(), failed)].into(),
        server_provided_all_packages_hash: b"all"[..].into(),
        ..Default::default()
    };
    let wanted = Wanted {
        hash: Some(ContentHash([0; 32])),
        generation: i64::MAX as u64,
        quarantined: Some(ContentHash([7; 32])),
        refusal: "no\0".into(),
        offered_at: Some(i64::MIN),
        offer_attempts: u16::MAX,
        unproven: Some(Unproven { since: i64::MIN, returns: u16::MAX }),
        forgotten: Forgotten { times: u16::MAX, offered_at: i64::MIN },
    };
    AgentRecord {
        observed: Box::new(Observed {
            complete: true,
            description: vec![0, 0xff, 0xfe].into(),
            capabilities: u64::MAX,
            health: vec![0x80; 3].into(),
            healthy: Some(false),
            effective_config: Some(ContentHash([0xff; 32])),
            config: reported.clone(),
            packages: Reported { hash: b"all"[..].into(), error: "one: no room".into(), ..reported.clone() },
            package_statuses: statuses.encode_to_vec().into(),
            connection_settings: reported,
            sent_connection_settings: Some(ContentHash([0; 32])),
            sent_connection_settings_at: i64::MIN,
        }),
        presence: Presence {
            connected: true,
            transport: Transport::Http,
            gateway: "gateway-é".into(),
            connection_generation: i64::MAX as u64,
            report_number: u64::MAX,
            sequence_num: u64::MAX - 1,
            last_seen: -1,
        },
        desired: Box::new(Desired {
            config: wanted.clone(),
            packages: wanted.clone(),
            connection_settings: wanted,
            effective: Effective::Drifted,
            epoch: i64::MAX as u64 - 1,
            connection_settings_parts: ["own_metrics".to_owned(), "other_connections/\0".to_owned()].into(),
            certificate: Some(Certificate {
                certificate: "pem".into(),
                issuer: "ca".into(),
                serial: vec![7; 16].into(),
                not_after: -5,
                is_used: true,
            }),
            unrendered: "template \"ä\0\"".into(),
            lost_packages: Lost { connections: u16::MAX, offered_at: i64::MAX },
            placement: Some(uid(77)),
            reached: [uuid::Uuid::nil(), uuid::Uuid::max()].into(),
        }),
        first_seen: 5,
        ..agent(n)
    }
}

pub async fn every_value_comes_back_as_it_went(store: &SharedStore) {
    let uids = [1, u128::MAX];
    // First as inserted, then as updated; and the other way round.
    let mut expected = stored(&**store, vec![extreme(uids[0]), agent(uids[1])]).await;
    for _ in 0..2 {
        let mut found = store.read_agents(&uids.map(uid)).await.unwrap();
        found.sort_by_key(|agent| agent.uid);
        assert_eq!(found, expected);
        let swapped = [(0, 1), (1, 0)].map(|(here, there): (usize, usize)| {
            let AgentRecord { observed, presence, desired, .. } = expected[there].clone();
            AgentRecord { observed, presence, desired, ..expected[here].clone() }
        });
        expected = stored(&**store, swapped.to_vec()).await;
    }
    assert_eq!(store.read_agents(&[uid(99)]).await.unwrap(), []);
    assert_eq!(store.read_agents(&[]).await.unwrap(), []);
}

pub async fn only_the_stored_version_can_be_written(store: &SharedStore) {
    let first = stored(&**store, vec![agent(1)]).await.remove(0);
    assert_eq!(first.version, 1);
    let mut newer = first.clone();
    newer.observed.capabilities = 5;
    // One that exists, one with a version that it does not have, one that does not exist, and one that does.
    let batch = [agent(1), AgentRecord { version: 7, ..agent(2) }, agent(3), newer.clone()];
    let mut not_written = store.write_agents(&batch, &[]).await.unwrap();
    not_written.sort();
    assert_eq!(not_written, [uid(1), uid(2)], "of the two records of agent 1, the first had the wrong version");
    assert_eq!(store.write_agents(&[newer.clone()], &[]).await.unwrap(), []);
    assert_eq!(store.write_agents(&[first], &[]).await.unwrap(), [uid(1)]);
    assert_eq!(read(&**store, uid(1)).await, Some(AgentRecord { version: 2, ..newer }));
    assert_eq!(read(&**store, uid(2)).await, None);
    assert_eq!(read(&**store, uid(3)).await.unwrap().version, 1);
    assert_eq!(store.write_agents(&[], &[]).await.unwrap(), []);
}

pub async fn what_is_desired_is_written_alone(store: &SharedStore) {
    let before = stored(&**store, vec![extreme(1), agent(2), agent(3)]).await;
    let set =
        |agent: &AgentRecord, version, desired| DesiredWrite::of(&AgentRecord { version, desired, ..agent.clone() });
    let all = extreme(9).desired;
    // An agent with another version, one that is not stored, one that comes twice, and one that is as it should be.
    let batch = [
        set(&before[0], 1, Box::default()),
        set(&before[1], 2, all.clone()),
        set(&agent(4), 0, all.clone()),
        set(&before[2], 1, all.clone()),
        set(&before[2], 1, Box::default()),
    ];
    let mut not_written = store.write_desired(&batch).await.unwrap();
    not_written.sort();
    assert_eq!(not_written, [uid(2), uid(3), uid(4)]);
    let cleared = AgentRecord { version: 2, desired: Box::default(), ..before[0].clone() };
    assert_eq!(read(&**store, uid(1)).await.as_ref(), Some(&cleared));
    assert_eq!(read(&**store, uid(2)).await.as_ref(), Some(&before[1]));
    assert_eq!(read(&**store, uid(3)).await, Some(AgentRecord { version: 2, desired: all, ..before[2].clone() }));
    // Whoever decided from the row as it was decides again.
    assert_eq!(store.write_agents(&before[..1], &[]).await.unwrap(), [uid(1)]);
    assert_eq!(store.write_desired(&[]).await.unwrap(), []);
}

fn changes(changes: &[(&str, Option<&str>)]) -> LabelChanges {
    changes.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect()
}

pub async fn labels_belong_to_operators(store: &SharedStore) {
    let before = stored(&**store, vec![agent(1)]).await.remove(0);
    let set = changes(&[("env", Some("prod")), ("ünï", Some("'\"\\"))]);
    let labelled = store.set_labels(uid(1), &set, Some(&before.etag()), &actor()).await.unwrap();
    assert_eq!(labelled.labels.len(), 2);
    assert_eq!(read(&**store, uid(1)).await.as_ref(), Some(&labelled));

    // A decision made from the row as it was before must be made again.
    assert_eq!(store.write_agents(std::slice::from_ref(&before), &[]).await.unwrap(), [uid(1)]);
    // A write leaves labels alone, whatever it carries.
    let mut write = labelled.clone();
    write.labels.clear();
    write.presence.report_number = 3;
    assert_eq!(store.write_agents(&[write], &[]).await.unwrap(), []);
    let written = read(&**store, uid(1)).await.unwrap();
    assert_eq!((written.labels.clone(), written.presence.report_number), (labelled.labels.clone(), 3));
    // Nor does it change the etag.
    let removed = changes(&[("env", None), ("missing", None)]);
    let removed = store.set_labels(uid(1), &removed, Some(&labelled.etag()), &actor()).await.unwrap();
    assert_eq!(removed.labels.keys().collect::<Vec<_>>(), ["ünï"]);

    let error = store.set_labels(uid(1), &set, Some(&labelled.etag()), &actor()).await.unwrap_err();
    assert!(matches!(error, Error::EtagMismatch { kind: "agent", .. }), "{error}");
    let again = store.set_labels(uid(1), &changes(&[("env", None)]), None, &actor()).await.unwrap();
    assert_eq!(again, removed, "nothing changed");
    assert_eq!(read(&**store, uid(1)).await, Some(removed));
    let error = store.set_labels(uid(2), &set, None, &actor()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { kind: "agent", .. }), "{error}");
    let audit = store.list_audit(None, 10).await.unwrap();
    assert_eq!(audit.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(), ["agent.label", "agent.label"]);
    assert_eq!(audit[0].detail["labels"]["env"], serde_json::Value::Null);
    assert_eq!(audit[1].target, uid(1).to_string());
}

pub async fn a_write_stores_bodies(store: &SharedStore) {
    let bodies = [body("one"), body("two")];
    assert_eq!(store.write_agents(&[agent(1)], &bodies).await.unwrap(), []);
    // Also when no agent is written, and when they are there already.
    assert_eq!(store.write_agents(&[agent(1)], &[body("three"), body("two")]).await.unwrap(), [uid(1)]);
    let hashes = ["one", "two", "three"].map(|text| body(text).0);
    assert_eq!(store.get_contents(&hashes).await.unwrap().len(), 3);
}

pub async fn pages_are_in_order_and_filtered(store: &SharedStore) {
    let hash = ContentHash([3; 32]);
    let agents = (1..=300u128).rev().map(|n| {
        let mut agent = agent(n << 100);
        agent.presence.connected = n % 2 == 0;
        agent.desired.config.hash = (n % 3 > 0).then_some(hash);
        agent.desired.config.quarantined = [None, Some(hash), Some(ContentHash([4; 32]))][(n / 3 % 3) as usize];
        agent.observed.config.status = OfferStatus::from_number((n / 9 % 4) as i32);
        agent.observed.capabilities = if n % 5 == 0 { !2 } else { 2 };
        agent.observed.config.hash = if n % 3 == 1 { hash.to_bytes() } else { Default::default() };
        agent
    });
    let mut all = stored(&**store, agents.collect()).await;
    all.sort_by_key(|agent| agent.uid);

    for shard in [None, Some(all[0].uid.shard())] {
        for connected in [None, Some(true), Some(false)] {
            for only_behind in [false, true] {
                let filter = AgentFilter { shard, connected, only_behind };
                let expected: Vec<_> = all
                    .iter()
                    .filter(|agent| shard.is_none_or(|shard| agent.uid.shard() == shard))
                    .filter(|agent| connected.is_none_or(|connected| agent.presence.connected == connected))
                    .filter(|agent| {
                        !only_behind
                            || PolicyKind::ALL
                                .iter()
                                .any(|kind| offer::convergence(agent, *kind) == Convergence::Behind)
                    })
                    .cloned()
                    .collect();
                assert!(!expected.is_empty() || shard.is_some());
                assert_eq!(walk(store, filter).await, expected, "{filter:?}");
            }
        }
    }
    let mut count = 0;
    for shard in 0..SHARD_COUNT {
        count += walk(store, AgentFilter { shard: Some(shard), ..AgentFilter::default() }).await.len();
    }
    assert_eq!(count, all.len());
}

/// All pages, of 7 agents each.
async fn walk(store: &SharedStore, filter: AgentFilter) -> Vec<AgentRecord> {
    let mut all: Vec<AgentRecord> = Vec::new();
    loop {
        let page = store.page_agents(filter, all.last().map(|agent| agent.uid), 7).await.unwrap();
        assert!(page.len() <= 7);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

pub async fn quarantine_is_lifted(store: &SharedStore) {
    let mut held = agent(1);
    let hash = ContentHash([1; 32]);
    for kind in PolicyKind::ALL {
        let wanted = held.desired.of_mut(kind);
        *wanted = Wanted {
            hash: Some(hash),
            generation: 3,
            quarantined: Some(hash),
            refusal: "no".into(),
            offered_at: Some(4),
            offer_attempts: 9,
            unproven: None,
            forgotten: Forgotten { times: 3, offered_at: 4 },
        };
    }
    let held = stored(&**store, vec![held, agent(2)]).await.remove(0);
    let lifted = store.lift_quarantine(uid(1), &actor()).await.unwrap();
    let wanted = Wanted { hash: Some(hash), generation: 3, ..Default::default() };
    let desired = Desired {
        config: wanted.clone(),
        packages: wanted.clone(),
        connection_settings: wanted,
        ..*held.desired.clone()
    };
    assert_eq!(lifted, AgentRecord { desired: Box::new(desired), version: 2, ..held });
    assert_eq!(read(&**store, uid(1)).await, Some(lifted));
    let untouched = store.lift_quarantine(uid(2), &actor()).await.unwrap();
    assert_eq!(read(&**store, uid(2)).await, Some(untouched.clone()));
    assert_eq!(untouched.version, 1, "there was nothing to lift");
    let audit = store.list_audit(None, 10).await.unwrap();
    assert_eq!(audit.len(), 1);
    assert_eq!(audit[0].action, "agent.lift_quarantine");
    for kind in PolicyKind::ALL {
        assert_eq!(audit[0].detail[kind.name()], hash.to_string());
    }
    assert!(matches!(store.lift_quarantine(uid(3), &actor()).await, Err(Error::NotFound { .. })));
}

pub async fn a_forgotten_agent_is_gone(store: &SharedStore) {
    let known = stored(&**store, vec![agent(1), agent(2)]).await.remove(0);
    let error = store.forget_agent(uid(1), Some("other"), &actor()).await.unwrap_err();
    assert!(matches!(error, Error::EtagMismatch { .. }), "{error}");
    assert_eq!(read(&**store, uid(1)).await.as_ref(), Some(&known));
    store.forget_agent(uid(1), Some(&known.etag()), &actor()).await.unwrap();
    assert_eq!(read(&**store, uid(1)).await, None);
    assert!(read(&**store, uid(2)).await.is_some());
    assert!(matches!(store.forget_agent(uid(1), None, &actor()).await, Err(Error::NotFound { .. })));
    // A decision made from the old row does not bring it back; a new agent does.
    assert_eq!(store.write_agents(&[known], &[]).await.unwrap(), [uid(1)]);
    assert_eq!(store.write_agents(&[agent(1)], &[]).await.unwrap(), []);
}

pub async fn a_gateways_agents_are_disconnected(store: &SharedStore) {
    let on = |n, gateway: &str, connected| {
        let mut agent = agent(n);
        agent.presence = Presence { connected, gateway: gateway.into(), ..agent.presence };
        agent
    };
    let agents = vec![on(1, "g1", true), on(2, "g2", true), on(3, "g1", false), on(4, "g1", true)];
    let agents = stored(&**store, agents).await;
    assert_eq!(store.gateways_in_use().await.unwrap(), [("g1".into(), 2), ("g2".into(), 1)]);
    assert_eq!(store.disconnect_gateway("g1").await.unwrap(), 2);
    assert_eq!(store.disconnect_gateway("g1").await.unwrap(), 0);
    assert_eq!(store.gateways_in_use().await.unwrap(), [("g2".into(), 1)]);
    let marked = read(&**store, uid(1)).await.unwrap();
    assert!(!marked.presence.connected);
    assert_eq!(marked.presence.gateway, "g1");
    // Whoever decided from the rows as they were decides again; the others need not.
    let mut not_written = store.write_agents(&agents, &[]).await.unwrap();
    not_written.sort();
    assert_eq!(not_written, [uid(1), uid(4)]);
}

pub async fn the_fleet_is_counted(store: &SharedStore) {
    assert_eq!(store.fleet_summary().await.unwrap(), FleetSummary::default());
    let hash = ContentHash([1; 32]);
    let row = |n, connected, healthy, status, reported: bool, version: &str| {
        let mut agent = agent(n);
        agent.presence = Presence { connected, gateway: format!("g{}", n % 2), last_seen: NOW, ..agent.presence };
        agent.observed.healthy = healthy;
        agent.observed.config.status = status;
        agent.observed.description = description("otelcol\0", version);
        agent.desired.config.hash = (n != 6).then_some(hash);
        agent.observed.config.hash = if reported { hash.to_bytes() } else { Default::default() };
        agent
    };
    use OfferStatus::{Applied, Applying, Failed, Unset};
    let agents = vec![
        row(1, true, Some(true), Applied, true, "2"),
        row(2, true, Some(false), Failed, true, "2"),
        row(3, true, None, Applying, true, "1"),
        row(4, false, Some(true), Applied, true, "1"),
        row(5, true, Some(true), Applied, false, "2"),
        row(6, false, Some(false), Unset, true, "3"),
    ];
    let mut statuses = BTreeMap::new();
    for (agent, kind) in agents.iter().flat_map(|agent| PolicyKind::ALL.map(|kind| (agent, kind))) {
        *statuses.entry((kind, status(agent, kind))).or_default() += 1;
    }
    stored(&**store, agents).await;
    let version = |version: &str, agents| VersionCount {
        // Counting is not verbatim: Postgres cannot hold U+0000.
        service_name: "otelcol\u{fffd}".into(),
        service_version: version.into(),
        agents,
    };
    let expected = FleetSummary {
        agents: 6,
        connected: 4,
        healthy: 2,
        unhealthy: 1,
        config_unset: 1,
        config_applied: 3,
        config_applying: 1,
        config_failed: 1,
        desired: 5,
        converged: 2,
        versions: vec![version("2", 3), version("1", 2), version("3", 1)],
        gateways: vec![("g1".into(), 3), ("g0".into(), 1)],
        statuses,
    };
    assert_eq!(store.fleet_summary().await.unwrap(), expected);
}
