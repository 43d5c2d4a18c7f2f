//! L4, L5 and L9: connection settings that are offered again and again, and hashes.

use std::collections::BTreeSet;

use bytes::Bytes;
use muster::proto::opamp::{
    ConnectionSettingsOffers, Header, Headers, OpAmpConnectionSettings, OtherConnectionSettings,
    TelemetryConnectionSettings,
};

use super::client::{Client, GROUP, Manner, Settings, World};

const REPORTS: Manner = Manner { settings: Settings::Reports, ..Manner::USUAL };
const MOVES: Manner = Manner { settings: Settings::Moves, ..Manner::USUAL };

async fn apply(world: &World, selector: &str, settings: ConnectionSettingsOffers) {
    world.cluster.apply_settings("settings", selector, settings).await;
    world.cluster.settled().await;
}

fn opamp(endpoint: &str) -> ConnectionSettingsOffers {
    let opamp = OpAmpConnectionSettings { destination_endpoint: endpoint.to_owned(), ..Default::default() };
    ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() }
}

/// With many names in it: whatever keeps them in no order has another each time.
fn everything(endpoint: &str) -> ConnectionSettingsOffers {
    let header = |n: u8| Header { key: format!("x-{n}"), value: n.to_string() };
    let headers = Some(Headers { headers: (0..12).map(header).collect() });
    let own_metrics = TelemetryConnectionSettings {
        destination_endpoint: endpoint.to_owned(),
        headers: headers.clone(),
        ..Default::default()
    };
    let other = |n: u8| {
        let other_settings = (0..12).map(|n| (format!("key-{n}"), n.to_string())).collect();
        let destination_endpoint = format!("{endpoint}/{n}");
        let headers = headers.clone();
        (
            format!("other-{n}"),
            OtherConnectionSettings { destination_endpoint, headers, other_settings, ..Default::default() },
        )
    };
    ConnectionSettingsOffers {
        own_metrics: Some(own_metrics),
        other_connections: (0..12).map(other).collect(),
        ..Default::default()
    }
}

/// L4: each first message comes without the hash, for the new client never heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn who_moves_and_forgets_why_is_told_once() {
    let mut world = World::start(2).await;
    apply(&world, GROUP, opamp(&world.gateways[1].url())).await;
    let mut client = Client::start(1, MOVES, &world.gateways[0]).await;
    world.go_on(&mut client).await;
    assert_eq!((client.seen.settings.len(), client.seen.taken_settings), (1, 1), "{:?}", client.seen);
    apply(&world, GROUP, opamp(&world.gateways[0].url())).await;
    world.go_on(&mut client).await;
    assert_eq!((client.seen.settings.len(), client.seen.taken_settings), (2, 2), "{:?}", client.seen);
}

/// As above, of a client that begins anew at every occasion, and polls.
#[tokio::test(flavor = "multi_thread")]
async fn who_polls_and_remembers_nothing_is_told_once() {
    let world = World::start(2).await;
    apply(&world, GROUP, everything("http://metrics")).await;
    let mut told = 0;
    for round in 0..12 {
        let mut client = Client::new(1, Manner { settings: Settings::Reports, ..Manner::USUAL });
        let full = client.full();
        client.poll(&world.gateways[round % 2], full, 2).await;
        told += client.seen.settings.len();
    }
    assert_eq!(told, 1);
}

/// L5: whatever is offered has a hash, also what takes everything back. opamp-go does something about an empty one each time.
#[tokio::test(flavor = "multi_thread")]
async fn every_offer_of_settings_has_a_hash_of_its_own() {
    let mut world = World::start(2).await;
    let mut client = Client::start(1, REPORTS, &world.gateways[0]).await;
    let steps = [
        (GROUP, everything("http://one")),
        (GROUP, everything("http://two")),
        ("!group", everything("http://two")),
        (GROUP, everything("http://three")),
    ];
    for (number, (selector, settings)) in (1..).zip(steps) {
        apply(&world, selector, settings).await;
        world.go_on(&mut client).await;
        assert_eq!((client.seen.settings.len(), client.seen.taken_settings), (number, number), "{:?}", client.seen);
    }
    let hashes: BTreeSet<&Bytes> = client.seen.settings.iter().collect();
    assert_eq!(hashes.len(), 4);
    assert!(hashes.iter().all(|hash| !hash.is_empty()));
}

/// L9: replicas, gateways and restarts come to the same hash. Of configurations, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_hash_is_the_same_everywhere_and_always() {
    const CLIENTS: u8 = 8;
    let mut world = World::start(2).await;
    world.add_replica().await;
    let names: Vec<String> = (0..12).map(|n| format!("{n}.yaml")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (&**name, &**name)).collect();
    world.cluster.apply_files("files", GROUP, &files, 0).await;
    apply(&world, GROUP, everything("http://metrics")).await;
    let (mut configs, mut settings) = (BTreeSet::new(), BTreeSet::new());
    for n in 1..=CLIENTS {
        // Their uids are in shards of either replica.
        let mut client = Client::start(n, REPORTS, &world.gateways[usize::from(n % 2)]).await;
        if n % 4 == 0 {
            world.go_on(&mut client).await;
        }
        client.report(&world, "at the end").await;
        assert_eq!((client.seen.offers.len(), client.seen.settings.len()), (1, 1), "{:?}", client.seen);
        configs.extend(client.seen.offers);
        settings.extend(client.seen.settings);
    }
    assert_eq!((configs.len(), settings.len()), (1, 1), "{configs:?} {settings:?}");
}
