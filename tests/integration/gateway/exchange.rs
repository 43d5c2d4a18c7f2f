//! Messages and replies over WebSocket.

use muster::{
    gateway::Config,
    model::{ContentHash, uid::InstanceUid},
    proto::{
        bus::{GatewayBatch, OfferBody, OfferGroup, OfferKind, Transport, Verdict, ending::Reason},
        opamp::{AgentCapabilities, AgentDisconnect, AgentToServer, PackagesAvailable, ServerErrorResponseType},
    },
};
use prost::Message as _;
use tokio_tungstenite::tungstenite::Message;

use super::harness::*;

const FULL_STATE: u64 = 1;

#[tokio::test]
async fn a_first_message_is_reported_and_its_reply_carries_the_verdict() {
    let mut bench = Bench::start(config()).await;
    bench.service.keep_silent();
    let mut agent = bench.connect().await;
    agent.send(&heartbeat(1, 7)).await;
    let report = bench.service.report().await;
    assert_eq!(report.instance_uid, uid(1).to_bytes());
    assert_eq!((report.report_number, report.sequence_num), (1, 7));
    assert_eq!(report.transport(), Transport::Websocket);
    let opening = report.opening.expect("it is the first of its connection");
    assert_eq!((opening.first_sequence_num, opening.previous_sequence_num), (7, None));

    let hash = ContentHash::of(b"one");
    bench.service.body(hash).await;
    let verdict = Verdict {
        report_full_state: true,
        offers: vec![muster::proto::bus::Offer { hash: hash.to_bytes(), generation: 1, ..Default::default() }],
        ..acknowledgement(&report)
    };
    bench.service.verdict(verdict).await;
    let reply = agent.receive().await;
    assert_eq!(reply.instance_uid, uid(1).to_bytes());
    assert_eq!((reply.flags, reply.capabilities), (FULL_STATE, CAPABILITIES));
    assert_eq!(reply.remote_config.expect("the offer").config_hash, hash.to_bytes());
}

#[tokio::test]
async fn heartbeats_are_answered_from_memory_and_deltas_are_reported() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    assert_eq!(bench.service.report().await.report_number, 1);
    for sequence_num in 1..=20 {
        let reply = agent.say(&heartbeat(1, sequence_num)).await;
        assert_eq!((reply.flags, &reply.instance_uid), (0, &uid(1).to_bytes()));
    }
    agent.say(&health(1, 21, "disk")).await;
    // Had a heartbeat been reported, it would come first.
    let report = bench.service.report().await;
    assert_eq!((report.report_number, report.sequence_num), (2, 21));
    assert_eq!(message(&report).health.expect("the delta").last_error, "disk");
    assert_eq!(message(&report).agent_description, None, "what was acknowledged is not said again");
}

#[tokio::test]
async fn a_gap_asks_for_full_state_once_and_a_full_report_does_not() {
    let bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 3)).await;
    assert_eq!(agent.say(&heartbeat(1, 9)).await.flags, FULL_STATE);
    assert_eq!(agent.say(&heartbeat(1, 15)).await.flags, 0, "one ask is outstanding");
    assert_eq!(agent.say(&full(1, 40)).await.flags, 0, "full already");
    assert_eq!(agent.say(&heartbeat(1, 41)).await.flags, 0);
    assert_eq!(agent.say(&heartbeat(1, 41)).await.flags, 0, "a repetition is no gap");
    assert_eq!(agent.say(&heartbeat(1, 43)).await.flags, FULL_STATE, "another gap is asked about");
}

#[tokio::test]
async fn who_has_to_wait_to_be_asked_is_sent_nothing_meanwhile() {
    // One ask, and then none for ever.
    let mut bench = Bench::start(Config { full_state_per_second: 0, ..config() }).await;
    let (mut first, mut second) = (bench.connect().await, bench.connect().await);
    first.say(&full(1, 0)).await;
    assert_eq!(first.say(&heartbeat(1, 5)).await.flags, FULL_STATE);
    bench.service.report().await;
    second.say(&full(2, 0)).await;
    let report = bench.service.report().await;
    bench.service.verdict(Verdict { report_full_state: true, ..acknowledgement(&report) }).await;
    let hash = ContentHash::of(b"one");
    bench.service.body(hash).await;
    bench.service.offer(hash, &[(uid(2), 1)], false).await;
    let push = second.receive().await;
    assert!(push.remote_config.is_some() && push.flags == 0, "an empty push came first: {push:?}");
}

#[tokio::test]
async fn an_ask_that_was_lost_with_its_connection_is_made_on_the_next_one() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.service.report().await;
    assert_eq!(agent.say(&heartbeat(1, 5)).await.flags, FULL_STATE);
    bench.service.keep_silent();
    drop(agent);
    assert!(bench.service.report().await.ending.is_some());
    let mut agent = bench.connect().await;
    agent.send(&heartbeat(1, 6)).await;
    let opening = loop {
        let report = bench.service.report().await;
        if report.ending.is_none() {
            break report;
        }
    };
    bench.service.verdict(acknowledgement(&opening)).await;
    assert_eq!(agent.receive().await.flags, FULL_STATE);
}

#[tokio::test]
async fn capabilities_of_zero_change_nothing_and_other_ones_are_obeyed() {
    let mut bench = Bench::start(config()).await;
    let hash = ContentHash::of(b"one");
    bench.service.body(hash).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.service.report().await;
    agent.say(&AgentToServer { capabilities: 0, ..heartbeat(1, 1) }).await;
    bench.service.offer(hash, &[(uid(1), 1)], false).await;
    assert!(agent.receive().await.remote_config.is_some(), "it still accepts configurations");

    agent.say(&AgentToServer { capabilities: 1, ..heartbeat(1, 2) }).await;
    assert_eq!(message(&bench.service.report().await).capabilities, 1, "the change is reported");
    bench.service.offer(hash, &[(uid(1), 2)], false).await;
    bench.service.offer(hash, &[(uid(2), 2)], false).await;
    let reply = agent.say(&heartbeat(1, 3)).await;
    assert_eq!(reply.remote_config, None, "it no longer accepts configurations");
}

#[tokio::test]
async fn several_agents_share_a_socket() {
    let mut bench = Bench::start(config()).await;
    let mut socket = bench.connect().await;
    for n in 1..=5 {
        assert_eq!(socket.say(&full(n, 0)).await.instance_uid, uid(n).to_bytes());
        bench.service.report().await;
    }
    let hash = ContentHash::of(b"one");
    bench.service.body(hash).await;
    bench.service.offer(hash, &[(uid(4), 1), (uid(2), 1)], false).await;
    assert_eq!(socket.receive().await.instance_uid, uid(4).to_bytes());
    assert_eq!(socket.receive().await.instance_uid, uid(2).to_bytes());
    let bad = AgentToServer { instance_uid: vec![1; 15].into(), ..heartbeat(3, 1) };
    let error = socket.say(&bad).await.error_response.expect("a bad request");
    assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
    assert_eq!(socket.say(&heartbeat(3, 1)).await.error_response, None, "nobody is punished for another");
    drop(socket);
    let mut ended: Vec<_> = Vec::new();
    for _ in 1..=5 {
        let report = bench.service.report().await;
        assert_eq!(report.ending.expect("it ends").reason(), Reason::ConnectionClosed);
        assert_eq!(report.transport(), Transport::Websocket);
        ended.push(report.instance_uid.clone());
    }
    ended.sort();
    assert_eq!(ended, (1..=5).map(|n| uid(n).to_bytes()).collect::<Vec<_>>());
    bench.until(|bench| bench.handle.agents() == 0).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_alone_with_a_reason() {
    let bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    let cases: [(&str, Vec<u8>); 6] = [
        ("header alone", vec![0]),
        ("nothing", vec![]),
        ("another header", [&[1][..], &[0; 3]].concat()),
        ("truncated", vec![0, 0x0a, 16, 1, 2]),
        ("zero uid", [&[0, 0x0a, 16][..], &[0; 16]].concat()),
        ("broken status", [&[0, 0x0a, 16][..], &[1; 16], &[0x1a, 2, 0x0a, 9]].concat()),
    ];
    for (what, frame) in cases {
        agent.send_frame(Message::Binary(frame.into())).await;
        let reply = agent.receive().await;
        let error = reply.error_response.as_ref().expect(what);
        assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest, "{what}");
        assert!(!error.error_message.is_empty(), "{what}");
        assert_eq!((reply.flags, reply.capabilities), (0, 0), "{what}: an error travels alone");
    }
    agent.send_frame(Message::Text("hello".into())).await;
    assert!(agent.receive().await.error_response.is_some(), "a text frame is answered in binary");
    assert_eq!(bench.handle.agents(), 0, "nothing was made of all that");
    assert_eq!(agent.say(&full(1, 0)).await.error_response, None, "the connection survives");
    agent.send_frame(Message::Binary(vec![0].into())).await;
    assert_eq!(agent.receive().await.error_response, None, "an empty message of a known agent is valid");
}

#[tokio::test]
async fn a_disconnect_is_answered_and_the_agent_may_speak_again() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    let first = bench.service.report().await;
    let goodbye = AgentToServer { agent_disconnect: Some(AgentDisconnect {}), ..heartbeat(1, 1) };
    assert_eq!(agent.say(&goodbye).await.instance_uid, uid(1).to_bytes());
    let ending = bench.service.report().await;
    assert_eq!(ending.ending.expect("it left").reason(), Reason::AgentDisconnect);
    assert_eq!(ending.sequence_num, 1);
    bench.until(|bench| bench.handle.agents() == 0).await;
    agent.say(&heartbeat(1, 2)).await;
    let back = bench.service.report().await;
    assert!(back.connection_generation > first.connection_generation && back.opening.is_some());
}

#[tokio::test]
async fn offers_are_sent_once_in_order_and_asked_for_by_hash() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    let (old, new) = (ContentHash::of(b"old"), ContentHash::of(b"new"));
    bench.service.offer(old, &[(uid(1), 4)], false).await;
    assert_eq!(bench.service.wanted().await, old);
    bench.service.offer(new, &[(uid(1), 5)], false).await;
    assert_eq!(bench.service.wanted().await, new);
    bench.service.body(old).await;
    bench.service.body(new).await;
    let offered = agent.receive().await.remote_config.expect("an offer");
    assert_eq!(offered.config_hash, new.to_bytes(), "the latest wins");
    bench.service.offer(old, &[(uid(1), 4)], true).await;
    bench.service.offer(new, &[(uid(1), 5)], false).await;
    assert_eq!(agent.say(&heartbeat(1, 1)).await.remote_config, None, "neither is news");
    bench.service.offer(new, &[(uid(1), 5)], true).await;
    assert_eq!(agent.receive().await.remote_config.expect("again").config_hash, new.to_bytes());
}

#[tokio::test]
async fn a_new_uid_is_given_to_who_asks_and_the_state_goes_there() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    let asking = AgentToServer { flags: 1, ..full(1, 0) };
    let reply = agent.say(&asking).await;
    assert_eq!(reply.instance_uid, uid(1).to_bytes(), "addressed as it came");
    let given = reply.agent_identification.expect("a new uid").new_instance_uid;
    let uuid = InstanceUid::from_slice(&given).unwrap().as_uuid();
    assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
    assert_eq!(bench.service.report().await.instance_uid, given);
    let again = agent.say(&AgentToServer { flags: 1, ..heartbeat(1, 1) }).await;
    assert_eq!(again.agent_identification.expect("the same").new_instance_uid, given);
    let next = agent.say(&AgentToServer { instance_uid: given.clone(), ..heartbeat(1, 2) }).await;
    assert_eq!((next.flags, next.agent_identification), (0, None));
    assert_eq!(bench.handle.agents(), 1);
}

#[tokio::test]
async fn pushes_of_many_tasks_do_not_interleave() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.service.report().await;
    let hash = ContentHash::of(b"large");
    let large = muster::proto::opamp::AgentRemoteConfig { config: None, config_hash: vec![7; 100_000].into() };
    let body = muster::proto::bus::OfferBody {
        hash: hash.to_bytes(),
        body: prost::Message::encode_to_vec(&large).into(),
        ..Default::default()
    };
    bench.service.say(GatewayBatch { bodies: vec![body], ..Default::default() }).await;
    let mut offers = 0;
    for generation in 1..=20 {
        bench.service.offer(hash, &[(uid(1), generation)], false).await;
        agent.send(&heartbeat(1, generation)).await;
    }
    for _ in 0..40 {
        if let Some(config) = agent.receive().await.remote_config {
            assert_eq!(config.config_hash.len(), 100_000);
            offers += 1;
        }
        if offers == 20 {
            break;
        }
    }
    assert_eq!(offers, 20);
}

#[tokio::test]
async fn a_full_report_after_a_gap_is_not_asked_for_again() {
    let bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    // Nothing is pending, so nothing else is remembered of the agent.
    assert_eq!(agent.say(&heartbeat(1, 1)).await.flags, 0);
    assert_eq!(agent.say(&full(1, 9)).await.flags, 0);
    assert_eq!(agent.say(&heartbeat(1, 10)).await.flags, 0);
}

#[tokio::test]
async fn agents_that_share_a_temporary_uid_get_one_each() {
    let bench = Bench::start(config()).await;
    let mut socket = bench.connect().await;
    let ask = |sequence_num, name: &str| AgentToServer {
        flags: 1,
        agent_description: Some(Default::default()),
        ..health(1, sequence_num, name)
    };
    let mut given = Vec::new();
    for (sequence_num, name) in [(0, "one"), (0, "two"), (0, "two"), (1, "two")] {
        let reply = socket.say(&ask(sequence_num, name)).await;
        assert_eq!(reply.flags, 0);
        given.push(reply.agent_identification.expect("a new uid").new_instance_uid);
    }
    assert_ne!(given[0], given[1]);
    assert!(given[1] == given[2] && given[2] == given[3], "who asks again gets the same");
}

#[tokio::test]
async fn settings_that_were_sent_are_reported_until_that_is_known() {
    let mut bench = Bench::start(config()).await;
    bench.service.keep_silent();
    let mut agent = bench.connect().await;
    let capabilities = AgentCapabilities::AcceptsRemoteConfig as u64 | AgentCapabilities::ReportsOwnMetrics as u64;
    agent.send(&AgentToServer { capabilities, ..heartbeat(1, 7) }).await;
    let report = bench.service.report().await;
    let (config, settings) = (ContentHash::of(b"one"), ContentHash::of(b"two"));
    bench.service.body(config).await;
    let offers = muster::proto::opamp::ConnectionSettingsOffers { hash: settings.to_bytes(), ..Default::default() };
    let kind = muster::proto::bus::OfferKind::ConnectionSettings as i32;
    let body = muster::proto::bus::OfferBody {
        kind,
        hash: settings.to_bytes(),
        body: prost::Message::encode_to_vec(&offers).into(),
    };
    bench.service.say(GatewayBatch { bodies: vec![body], ..Default::default() }).await;
    let offer = |kind, hash: ContentHash| muster::proto::bus::Offer {
        kind,
        hash: hash.to_bytes(),
        generation: 1,
        ..Default::default()
    };
    let verdict = Verdict { offers: vec![offer(kind, settings), offer(0, config)], ..acknowledgement(&report) };
    bench.service.verdict(verdict.clone()).await;
    let reply = agent.receive().await;
    assert_eq!(reply.remote_config.expect("the configuration").config_hash, config.to_bytes());
    assert_eq!(reply.connection_settings, Some(offers));
    let sent = bench.service.report().await;
    assert_eq!((sent.report_number, &sent.sent_connection_settings[..]), (2, &settings.0[..]));
    // The verdict on the first report comes again: nothing is sent twice, and the second report still stands.
    bench.service.verdict(verdict).await;
    let again = bench.service.report().await;
    assert_eq!((again.report_number, &again.sent_connection_settings[..]), (2, &settings.0[..]));
    bench.service.verdict(acknowledgement(&again)).await;
    agent.send(&heartbeat(1, 8)).await;
    assert_eq!(agent.receive().await.connection_settings, None);
}

/// The Go client says nothing when it is offered what it has, unless it is asked.
#[tokio::test]
async fn packages_that_are_offered_again_come_with_a_question() {
    let bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    let takes = AgentCapabilities::AcceptsPackages as u64 | AgentCapabilities::ReportsPackageStatuses as u64;
    agent.say(&AgentToServer { capabilities: takes | capabilities(), ..full(1, 0) }).await;
    let hash = ContentHash::of(b"packages");
    let packages = PackagesAvailable { all_packages_hash: hash.to_bytes(), ..Default::default() };
    let kind = OfferKind::Packages as i32;
    let body = OfferBody { kind, hash: hash.to_bytes(), body: packages.encode_to_vec().into() };
    bench.service.say(GatewayBatch { bodies: vec![body], ..Default::default() }).await;
    for (repeat, flags) in [(false, 0), (true, FULL_STATE)] {
        let instance_uids = uid(1).to_bytes();
        let offer = OfferGroup { kind, hash: hash.to_bytes(), instance_uids, generations: vec![1], repeat };
        bench.service.say(GatewayBatch { offers: vec![offer], ..Default::default() }).await;
        let push = agent.receive().await;
        assert_eq!((push.packages_available.as_ref(), push.flags), (Some(&packages), flags));
    }
}
