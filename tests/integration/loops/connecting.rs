//! L1: upgrades that are followed by a Close. opamp-go comes back at once, a thousand times a second.

use muster::{gateway::Config, proto::opamp::AgentToServer};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error as WsError, Message},
};

use super::client::{Client, Manner, Node, World};
use crate::gateway::harness;

const ATTEMPTS: usize = 40;

/// A client that connects, says its first message, and connects again whenever it is closed, as often as it may.
async fn upgrades(node: &Node, first_message: &[u8]) -> usize {
    let mut upgrades = 0;
    for _ in 0..ATTEMPTS {
        match connect_async(format!("ws://{}/v1/opamp", node.address)).await {
            Ok((socket, _)) => {
                upgrades += 1;
                let mut agent = harness::Agent { socket };
                agent.send_frame(Message::Binary(first_message.to_vec().into())).await;
                agent.send_frame(Message::Ping("done".into())).await;
                // Kept: it would stay connected.
                if is_kept(&mut agent).await {
                    return upgrades;
                }
            }
            Err(WsError::Http(answer)) => {
                assert_eq!(answer.status().as_u16(), 503);
                assert!(answer.headers().contains_key("retry-after"));
            }
            Err(error) => panic!("neither let in nor refused: {error}"),
        }
    }
    upgrades
}

/// Whether the connection outlives what was said. Nothing in text comes on it.
async fn is_kept(agent: &mut harness::Agent) -> bool {
    loop {
        match agent.frame().await {
            Some(Message::Pong(_)) => return true,
            Some(Message::Close(_)) | None => return false,
            Some(Message::Text(text)) => panic!("opamp-go ends the connection at a text frame: {text}"),
            Some(_) => {}
        }
    }
}

#[tokio::test]
async fn nobody_is_let_in_to_be_closed() {
    let mut world = World::start(0).await;
    let limits = [
        Config { max_connections: 0, ..harness::config() },
        Config { admission_per_second: 0, admission_burst: 1, ..harness::config() },
        Config { max_agents: 0, ..harness::config() },
        // Nothing can be kept of what it says.
        Config { max_pending_bytes: 0, ..harness::config() },
    ];
    let expected = [0, 1, 1, 1];
    for (number, config) in limits.into_iter().enumerate() {
        world.add_gateway(&format!("limited-{number}"), config).await;
        let message = prost::Message::encode_to_vec(&harness::full(1, 0));
        let upgrades = upgrades(&world.gateways[number], &message).await;
        assert!(upgrades <= expected[number], "{upgrades} upgrades at limit {number}");
    }
}

/// Nothing that an agent can say in an OpAMP message ends its connection.
#[tokio::test]
async fn nobody_is_closed_for_what_it_says() {
    let world = World::start(1).await;
    let uid_of_15 = AgentToServer { instance_uid: vec![1; 15].into(), ..Default::default() };
    let messages: [&[u8]; 7] = [
        &[],
        &[0],
        &[1, 2, 3],
        &[0, 0x0a, 16, 1],
        b"hello",
        &prost::Message::encode_to_vec(&uid_of_15),
        &prost::Message::encode_to_vec(&AgentToServer::default()),
    ];
    for message in messages {
        assert_eq!(upgrades(&world.gateways[0], message).await, 1, "{message:?}");
    }
    let mut client = Client::start(1, Manner::default(), &world.gateways[0]).await;
    let heartbeat = client.heartbeat();
    client.say(heartbeat).await;
    assert_eq!(client.seen.errors, 0);
}

/// While a gateway leaves, and after the Close with which it sent everybody away.
#[tokio::test]
async fn who_comes_back_to_a_gateway_that_leaves_is_refused_before_the_upgrade() {
    let mut world = World::start(0).await;
    let slow = Config { drain_grace: std::time::Duration::from_secs(1), ..harness::config() };
    world.add_gateway("leaving", slow).await;
    let node = &world.gateways[0];
    let _client = Client::start(1, Manner::default(), node).await;
    node.shutdown.cancel();
    crate::support::eventually("it leaves", async || (!node.handle.is_ready()).then_some(())).await;
    let message = prost::Message::encode_to_vec(&harness::full(2, 0));
    assert_eq!(upgrades(node, &message).await, 0);
}
