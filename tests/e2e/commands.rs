//! Restarts and custom messages over two gateways and two config service replicas, some of which die meanwhile.

use std::{collections::BTreeMap, net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use muster::proto::opamp::{
    AgentCapabilities, AgentDescription, AgentToServer, AnyValue, CustomCapabilities, CustomMessage, KeyValue,
    ServerToAgent, any_value::Value as Attribute,
};
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::support::{PATIENCE, cluster::Cluster, eventually, node::clean};

const CAPABILITY: &str = "com.example.pause/v1";

#[derive(Clone, Debug, Default)]
struct Seen {
    is_connected: bool,
    connects: u32,
    restarts: u32,
    /// Restarts that did not come alone.
    in_company: u32,
    messages: Vec<CustomMessage>,
}

struct Agent {
    uid: uuid::Uuid,
    seen: Arc<Mutex<Seen>>,
    say: mpsc::UnboundedSender<CustomMessage>,
}

/// As a collector does, each agent starts afresh when it is told to restart: it connects to the next gateway, and says
/// everything.
fn start(tasks: &mut JoinSet<()>, gateways: &[SocketAddr], token: &str, index: usize, is_capable: bool) -> Agent {
    let (uid, seen) = (uuid::Uuid::now_v7(), Arc::new(Mutex::new(Seen::default())));
    let (say, mut said) = mpsc::unbounded_channel::<CustomMessage>();
    let (gateways, token, shared) = (gateways.to_vec(), token.to_owned(), seen.clone());
    tasks.spawn(async move {
        for gateway in gateways.iter().cycle().skip(index) {
            let url = format!("ws://{gateway}/v1/opamp");
            let mut request = url.into_client_request().unwrap();
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            let Ok((mut socket, _)) = connect_async(request).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            shared.lock().connects += 1;
            let mut sequence_num = 0;
            let mut next = first(uid, is_capable);
            'connection: loop {
                next.sequence_num = sequence_num;
                sequence_num += 1;
                let frame = [&[0][..], &next.encode_to_vec()].concat();
                if socket.send(Message::Binary(frame.into())).await.is_err() {
                    break;
                }
                loop {
                    let frame = tokio::select! {
                        message = said.recv() => {
                            let instance_uid = Bytes::copy_from_slice(uid.as_bytes());
                            next = AgentToServer { instance_uid, custom_message: message, ..Default::default() };
                            continue 'connection;
                        }
                        frame = socket.next() => frame,
                    };
                    match frame {
                        Some(Ok(Message::Binary(frame))) => {
                            let message = ServerToAgent::decode(&frame[1..]).unwrap();
                            let mut seen = shared.lock();
                            seen.is_connected = true;
                            seen.messages.extend(message.custom_message.clone());
                            if message.command.is_some() {
                                seen.restarts += 1;
                                seen.is_connected = false;
                                let alone = ServerToAgent {
                                    instance_uid: message.instance_uid.clone(),
                                    command: message.command,
                                    ..Default::default()
                                };
                                seen.in_company += u32::from(message != alone);
                                break 'connection;
                            }
                        }
                        Some(Ok(Message::Close(_)) | Err(_)) | None => break 'connection,
                        Some(Ok(_)) => {}
                    }
                }
            }
            shared.lock().is_connected = false;
        }
    });
    Agent { uid, seen, say }
}

fn first(uid: uuid::Uuid, is_capable: bool) -> AgentToServer {
    let value = Some(AnyValue { value: Some(Attribute::StringValue("web".into())) });
    let attribute = KeyValue { key: "service.name".into(), value };
    let (capabilities, custom) = match is_capable {
        true => (AgentCapabilities::AcceptsRestartCommand as u64, vec![CAPABILITY.to_owned()]),
        false => (0, Vec::new()),
    };
    AgentToServer {
        instance_uid: Bytes::copy_from_slice(uid.as_bytes()),
        capabilities: capabilities | AgentCapabilities::ReportsStatus as u64,
        agent_description: Some(AgentDescription { identifying_attributes: vec![attribute], ..Default::default() }),
        custom_capabilities: Some(CustomCapabilities { capabilities: custom }),
        ..Default::default()
    }
}

async fn all_known(cluster: &Cluster, service: usize, agents: &[Agent]) {
    let uids: Vec<_> = agents.iter().map(|agent| agent.uid.to_string()).collect();
    cluster.ctl(service).all_agents(uids.len(), "connected", |agent| agent["connected"] == true).await;
}

fn outcomes(command: &Value) -> BTreeMap<String, String> {
    let not_sent = command["not_sent"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    not_sent.map(|it| (text(&it["instance_uid"]), text(&it["outcome"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_is_restarted_once_while_a_replica_and_a_gateway_die() {
    const AGENTS: usize = 60;
    const INCAPABLE: usize = 3;
    let mut cluster = Cluster::start(2, 2).await;
    let mut tasks = JoinSet::new();
    let (opamp, token) = (cluster.opamp(), cluster.agent_token().to_owned());
    let agents: Vec<_> =
        (0..AGENTS).map(|index| start(&mut tasks, &opamp, &token, index, index >= INCAPABLE)).collect();
    all_known(&cluster, 1, &agents).await;

    let ctl = cluster.ctl(1);
    let restart = tokio::spawn(async move {
        let arguments = ["restart", "-l", "service.name = web", "--rate", "10"];
        ctl.json(&arguments).await
    });
    let restarted = || agents.iter().map(|agent| agent.seen.lock().restarts).sum::<u32>();
    eventually("some are restarted", async || (restarted() >= 10).then_some(())).await;
    cluster.services[0].kill();
    eventually("some more are restarted", async || (restarted() >= 25).then_some(())).await;
    cluster.gateways[0].kill();
    cluster.gateways[0].start().await;
    cluster.services[0].start().await;
    let command = tokio::time::timeout(PATIENCE * 2, restart).await.expect("it ends").unwrap();
    println!("{command}");

    let outcomes = outcomes(&command);
    let count = |name: &str| command[name].as_u64().unwrap() as usize;
    assert_eq!((count("not_capable"), count("waiting"), count("under_way")), (INCAPABLE, 0, 0));
    for (index, agent) in agents.iter().enumerate() {
        let seen = agent.seen.lock().clone();
        assert_eq!(seen.in_company, 0);
        let outcome = outcomes.get(&agent.uid.to_string()).map(String::as_str);
        match outcome {
            // An agent whose gateway was killed may have left between: nobody knows, and it is not told again.
            Some("unknown") => assert!(seen.restarts <= 1, "{index}: {seen:?}"),
            Some("not_capable") => assert!(index < INCAPABLE && seen.restarts == 0, "{index}: {seen:?}"),
            Some("not_connected") => assert_eq!(seen.restarts, 0, "{index}: {seen:?}"),
            None => assert_eq!(seen.restarts, 1, "{index}: {seen:?}"),
            other => panic!("{index}: {other:?} {seen:?}"),
        }
    }
    // Those who come back later are not told either.
    let before = restarted();
    all_known(&cluster, 1, &agents).await;
    cluster.nothing_is_pending().await;
    assert_eq!(restarted(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_over_both_gateways() {
    let cluster = Cluster::start(2, 2).await;
    let mut tasks = JoinSet::new();
    let (opamp, token) = (cluster.opamp(), cluster.agent_token().to_owned());
    let agents: Vec<_> = (0..4).map(|index| start(&mut tasks, &opamp, &token, index, index != 3)).collect();
    all_known(&cluster, 0, &agents).await;

    // To agents.
    let arguments =
        ["send", "-l", "service.name = web", "--capability", CAPABILITY, "--type", "pause", "--data", "5 s"];
    let command = cluster.ctl(0).json(&arguments).await;
    assert_eq!((&command["sent"], &command["not_capable"]), (&3.into(), &1.into()), "{command}");
    assert_eq!(outcomes(&command), BTreeMap::from([(agents[3].uid.to_string(), "not_capable".to_owned())]));
    let expected =
        CustomMessage { capability: CAPABILITY.into(), r#type: "pause".into(), data: b"5 s".to_vec().into() };
    for agent in &agents[..3] {
        eventually("the message has come", async || (agent.seen.lock().messages == [expected.clone()]).then_some(()))
            .await;
    }
    assert_eq!(agents[3].seen.lock().messages, []);
    let uid = agents[3].uid.to_string();
    let outcome = cluster.ctl(1).try_run(&["send", &uid, "--capability", CAPABILITY, "--type", "t"]).await;
    assert!(!outcome.succeeded && outcome.stderr.contains("not capable"), "{}", outcome.stderr);

    // From agents, to whoever watches at either replica.
    let mut command = tokio::process::Command::from(clean(env!("CARGO_BIN_EXE_musterctl")));
    let server = format!("http://{}", cluster.services[1].admin());
    command.args(["messages", "--capability", "com.example.answer", "-l", "service.name = web", "-o", "json"]);
    command.env("MUSTER_SERVER", server).env("MUSTER_TOKEN", cluster.operator_token());
    let mut watcher = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let message = |capability: &str, text: &str| CustomMessage {
        capability: capability.into(),
        r#type: "t".into(),
        data: text.as_bytes().to_vec().into(),
    };
    // What is said before it listens is not for it: so both say it until it is heard.
    let mut heard = BTreeMap::new();
    while heard.len() < 2 {
        for agent in &agents[..2] {
            agent.say.send(message("com.example.other", "other")).unwrap();
            agent.say.send(message("com.example.answer", "done")).unwrap();
        }
        while let Ok(line) = tokio::time::timeout(Duration::from_millis(300), lines.next_line()).await {
            let line: Value = serde_json::from_str(&line.unwrap().expect("it goes on")).unwrap();
            assert_eq!((&line["capability"], &line["type"]), (&"com.example.answer".into(), &"t".into()));
            assert_eq!(line["data"], "ZG9uZQ==");
            heard.insert(line["instance_uid"].as_str().unwrap().to_owned(), ());
        }
    }
    let uids = agents[..2].iter().map(|agent| (agent.uid.to_string(), ())).collect();
    assert_eq!(heard, uids);
}
