//! Configurations that are written for each agent.

use std::{
    collections::{BTreeMap, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use muster::{
    model::{AgentRecord, offer, offer::Convergence, policy::PolicyKind},
    proto::{
        bus,
        opamp::{AgentRemoteConfig, RemoteConfigStatuses},
    },
    store::LabelChanges,
};
use prost::{Message, bytes::Bytes};

use super::{
    cluster::{Backend, Cluster, actor},
    gateway::{Gateway, Offered, full, opening, report, status, uid},
};

const REGION: &str = "region: {{ labels.region | default(\"eu\") | tojson }}\n";

async fn label(cluster: &Cluster, n: u64, region: Option<&str>) {
    let changes = LabelChanges::from([("region".to_owned(), region.map(str::to_owned))]);
    cluster.store.set_labels(uid(n), &changes, None, &actor()).await.unwrap();
    cluster.hint(bus::Hint { agents_to_reconcile: uid(n).to_bytes(), ..Default::default() }).await;
}

/// The files of a configuration, as a gateway gets them.
async fn files(gateway: &mut Gateway, hash: &[u8]) -> BTreeMap<String, String> {
    let body = gateway.body(bus::OfferKind::Config, &Bytes::copy_from_slice(hash)).await;
    let config = AgentRemoteConfig::decode(body).unwrap();
    assert_eq!(config.config_hash, hash);
    let files = config.config.unwrap().config_map.into_iter();
    files.map(|(name, file)| (name, String::from_utf8(file.body.to_vec()).unwrap())).collect()
}

fn standing(row: &AgentRecord) -> Convergence {
    offer::convergence(row, PolicyKind::Config)
}

pub async fn each_agent_gets_what_is_written_for_it(backend: Backend) {
    const AGENTS: u64 = 100;
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("g").await;
    for n in 0..AGENTS {
        gateway.tell(opening(uid(n), 10, 1, &full("web"))).await;
    }
    let template = "id: {{ instance_uid }}\ngroup: {{ attributes.group }}\n";
    cluster.apply_templates("base", "group = web", &[("a.yaml", template)]).await;
    cluster.hint(bus::Hint { policies_epoch: cluster.store.policy_epoch().await.unwrap(), ..Default::default() }).await;
    let mut offers = Vec::new();
    for n in 0..AGENTS {
        let offer = gateway.offer_to(uid(n)).await;
        assert!(!offer.repeat);
        offers.push((n, offer.config_hash));
    }
    let different: HashSet<_> = offers.iter().map(|(_, hash)| hash.clone()).collect();
    assert_eq!(different.len(), AGENTS as usize);
    for (n, hash) in offers {
        let expected = format!("id: {}\ngroup: web\n", uid(n));
        assert_eq!(files(&mut gateway, &hash).await, [("a.yaml".to_owned(), expected)].into());
    }
    // One that comes later, too.
    let hash = gateway.tell(opening(uid(AGENTS), 10, 1, &full("web"))).await.config_hash();
    assert!(files(&mut gateway, &hash).await["a.yaml"].contains(&uid(AGENTS).to_string()));
}

pub async fn equal_results_are_one_and_stay_for_as_long_as_they_are_used(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.apply_templates("base", "group = web", &[("a.yaml", REGION)]).await;
    cluster.settled().await;
    let mut gateway = cluster.gateway("g").await;
    let one = gateway.tell(opening(uid(1), 10, 1, &full("web"))).await.config_hash();
    let two = gateway.tell(opening(uid(2), 10, 1, &full("web"))).await.config_hash();
    assert_eq!(one, two);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let long_after = now + 3 * 86_400_000;
    assert_eq!(cluster.store.collect_garbage(long_after).await.unwrap(), 0, "all of it is in use");
    assert_eq!(files(&mut gateway, &one).await["a.yaml"], "region: \"eu\"\n");
    label(&cluster, 1, Some("us")).await;
    gateway.offer_to(uid(1)).await;
    label(&cluster, 2, Some("us")).await;
    gateway.offer_to(uid(2)).await;
    assert_eq!(cluster.store.collect_garbage(long_after).await.unwrap(), 2, "a configuration and its file");
}

pub async fn labels_and_attributes_write_anew(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let template = format!("{REGION}group: {{{{ attributes.group }}}}\n");
    cluster.apply_templates("base", "", &[("a.yaml", &template)]).await;
    cluster.settled().await;
    let mut gateway = cluster.gateway("g").await;
    let first = gateway.tell(opening(uid(1), 10, 1, &full("web"))).await.config_hash();
    gateway.tell(report(uid(1), 10, 2, &status(RemoteConfigStatuses::Applied, &first))).await;
    label(&cluster, 1, Some("us")).await;
    let second = gateway.offer_to(uid(1)).await.config_hash;
    assert_eq!(files(&mut gateway, &second).await["a.yaml"], "region: \"us\"\ngroup: web\n");
    let third = gateway.tell(report(uid(1), 10, 3, &full("db"))).await.config_hash();
    assert_eq!(files(&mut gateway, &third).await["a.yaml"], "region: \"us\"\ngroup: db\n");
    // What it was before is what it was before.
    label(&cluster, 1, None).await;
    gateway.offer_to(uid(1)).await;
    gateway.tell(report(uid(1), 10, 4, &full("web"))).await;
    assert_eq!(cluster.row(uid(1)).await.unwrap().desired.config.hash.unwrap().to_bytes(), first);
}

pub async fn what_cannot_be_written_is_not_offered_in_part(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "plain: 1").await;
    let mut gateway = cluster.gateway("g").await;
    let plain = gateway.tell(opening(uid(1), 10, 1, &full("web"))).await.config_hash();
    gateway.tell(report(uid(1), 10, 2, &status(RemoteConfigStatuses::Applied, &plain))).await;
    cluster.apply_templates("strict", "group = web", &[("b.yaml", "r: {{ labels.region }}\n")]).await;
    cluster.settled().await;
    let row = cluster.row_when(uid(1), |row| standing(row) == Convergence::Unrenderable).await;
    assert_eq!(row.desired.config.hash, None, "not even the other policy's file");
    let words = &row.desired.unrendered;
    assert!(words.starts_with("template \"b.yaml\" of policy strict, revision 1: line 1, column 7: "), "{words}");
    assert!(words.contains("labels.region"), "{words}");
    // Neither at once nor on a new connection.
    assert!(gateway.tell(opening(uid(1), 20, 3, &full("web"))).await.config_hash().is_empty());
    assert!(cluster.row(uid(1)).await.unwrap().desired.unrendered.contains("labels.region"), "it is still known why");

    label(&cluster, 1, Some("a: b")).await;
    let row = cluster.row_when(uid(1), |row| row.desired.unrendered.contains("not YAML")).await;
    assert_eq!(standing(&row), Convergence::Unrenderable);
    label(&cluster, 1, Some("us")).await;
    let offer = gateway.offer_to(uid(1)).await;
    let written = files(&mut gateway, &offer.config_hash).await;
    assert_eq!((written.len(), written["b.yaml"].as_str()), (2, "r: us\n"));
    let row = cluster.row(uid(1)).await.unwrap();
    assert_eq!((row.desired.unrendered.as_str(), standing(&row)), ("", Convergence::Behind));
}

pub async fn a_template_that_comes_to_the_same_changes_nothing(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "region: \"eu\"\n").await;
    let mut gateway = cluster.gateway("g").await;
    let plain = gateway.tell(opening(uid(1), 10, 1, &full("web"))).await.config_hash();
    gateway.tell(report(uid(1), 10, 2, &status(RemoteConfigStatuses::Applied, &plain))).await;
    let before = cluster.row(uid(1)).await.unwrap();
    cluster.apply_templates("base", "group = web", &[("collector.yaml", REGION)]).await;
    cluster.settled().await;
    let after = cluster.row(uid(1)).await.unwrap();
    assert_eq!(after.desired.config, before.desired.config);
}
