//! What the operator sees of an agent: the server's memory of what it was told.

use serde_json::{Value, json};

use crate::conformance::{
    agent::{APPLIED, APPLYING, FAILED, can, effective_config, health, uid_text},
    case::{Verdict, cases, ensure},
    context::{Context, no_error},
    protobuf::Message,
    websocket::{BINARY, Frame, framed},
};

cases! {
    "SEEN-01" Must WebSocket "AgentDescription Message" "a connected agent is seen with its attributes" sees_agents;
    "SEEN-02" Field WebSocket "AgentDescription Message" "attribute values of every kind are kept" keeps_every_value;
    "SEEN-03" Field WebSocket "ComponentHealth.component_health_map" "the health of nested components is kept"
        keeps_nested_health;
    "SEEN-04" Field WebSocket "EffectiveConfig.config_map" "an effective configuration that is not UTF-8 is kept"
        keeps_bytes;
    "SEEN-05" Must WebSocket "Agent Status Compression" "what a message leaves out is unchanged" keeps_what_is_left_out;
    "SEEN-06" Must WebSocket "Agent Status Compression" "what a message has, even if empty, replaces" replaces_with_empty;
    "SEEN-07" Must WebSocket "AgentToServer.agent_disconnect" "after agent_disconnect the agent is not connected"
        sees_goodbye;
    "SEEN-08" Should Http "AgentToServer.agent_disconnect" "after agent_disconnect over plain HTTP it is not connected"
        sees_http_goodbye;
    "SEEN-09" Field WebSocket "Closing Connection" "an agent whose connection broke is not connected" sees_broken_connections;
    "SEEN-10" Field WebSocket "Bad Request" "a malformed message makes no agent" forgets_malformed;
    "SEEN-11" Must WebSocket "RemoteConfigStatus.status" "a configuration that FAILED is seen with its error" sees_failures;
    "SEEN-12" Field WebSocket "RemoteConfigStatus.status" "APPLYING is not taken for success" sees_applying;
    "SEEN-13" Field WebSocket "RemoteConfigStatus.status" "APPLIED that turns FAILED later is seen" sees_late_failures;
    "SEEN-14" Must Http "Status Reporting" "a report over plain HTTP is seen" sees_http_agents;
    "SEEN-15" Must WebSocket "AgentToServer.capabilities" "a change of capabilities is seen" sees_capabilities;
    "SEEN-16" Field WebSocket "ServerToAgent.agent_identification" "the state of a re-keyed agent is seen under its new uid"
        sees_new_uids;
    "SEEN-17" Should WebSocket "Authentication" "a new token is taken, and a revoked one refused" obeys_tokens;
    "SEEN-18" Should WebSocket "Revoking Access" "when a token is revoked its connection ends" ends_revoked;
}

async fn sees_agents(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    let (_socket, _) = cx.online(&mut agent).await?;
    let name = Value::from("opamp-conformance");
    cx.seen_as(&agent.uid, "it is connected, with its service.name", |state| {
        state.is_connected && state.attributes.get("service.name") == Some(&name)
    })
    .await
    .map(|_| ())
}

async fn keeps_every_value(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    agent.extra = super::exchange::every_value();
    let (_socket, _) = cx.online(&mut agent).await?;
    let state = cx.seen_as(&agent.uid, "it has attributes", |state| !state.attributes.is_empty()).await?;
    for (key, value) in [
        ("t.text", json!("Grüße")),
        ("t.bool", json!(true)),
        ("t.int", json!(-42)),
        ("t.double", json!(1.5)),
        ("t.list", json!(["a", 2])),
        ("t.map", json!({"inner": "x"})),
        ("t.bytes", json!({"bytes": "009f9296"})),
    ] {
        let found = state.attributes.get(key);
        ensure!(found == Some(&value), "{key} is {found:?} instead of {value}");
    }
    Ok(())
}

async fn keeps_nested_health(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let inner = health(true, "pipelines").entry(6, "receiver", &health(false, "stuck"));
    let message = agent.heartbeat().message(5, &health(true, "degraded").entry(6, "pipelines", &inner));
    no_error(&socket.say(&message).await?)?;
    let state = cx.seen_as(&agent.uid, "it is degraded", |state| state.health_status == "degraded").await?;
    let found = &state.components["pipelines"]["components"]["receiver"];
    ensure!(found["status"] == "stuck" && found["last_error"] == "broken", "the components are {}", state.components);
    Ok(())
}

async fn keeps_bytes(cx: &Context) -> Verdict {
    let admin = cx.admin()?;
    let mut agent = cx.agent();
    let body = [0xff, 0xfe, 0, b'a', 0x80];
    let (mut socket, _) = cx.online(&mut agent).await?;
    no_error(&socket.say(&agent.heartbeat().message(6, &effective_config(body))).await?)?;
    let deadline = tokio::time::Instant::now() + cx.patience;
    loop {
        let files = admin.effective_config(&uid_text(&agent.uid)).await.map_err(|error| error.to_string())?;
        if files.iter().any(|file| file.body == body) {
            return Ok(());
        }
        let bodies: Vec<String> = files.iter().map(|file| hex::encode(&file.body)).collect();
        ensure!(tokio::time::Instant::now() < deadline, "the effective configuration is {bodies:?}");
        tokio::time::sleep(cx.quiet / 10).await;
    }
}

async fn keeps_what_is_left_out(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    no_error(&socket.say(&agent.heartbeat().message(5, &health(false, "later"))).await?)?;
    let state = cx.seen_as(&agent.uid, "its new health", |state| state.health_status == "later").await?;
    ensure!(state.attributes.contains_key("service.name"), "the attributes are {:?}", state.attributes);
    Ok(())
}

async fn replaces_with_empty(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    cx.seen_as(&agent.uid, "it runs", |state| state.health_status == "running").await?;
    no_error(&socket.say(&agent.heartbeat().message(5, &Message::new())).await?)?;
    cx.seen_as(&agent.uid, "its health is empty", |state| state.health_status.is_empty()).await.map(|_| ())
}

async fn sees_goodbye(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    cx.seen_as(&agent.uid, "it is connected", |state| state.is_connected).await?;
    no_error(&socket.say(&agent.goodbye()).await?)?;
    cx.seen_as(&agent.uid, "it has left", |state| !state.is_connected).await.map(|_| ())
}

async fn sees_http_goodbye(cx: &Context) -> Verdict {
    cx.admin()?;
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    no_error(&http.say(&agent.full()).await?)?;
    cx.seen_as(&agent.uid, "it is connected", |state| state.is_connected).await?;
    no_error(&http.say(&agent.goodbye()).await?)?;
    cx.seen_as(&agent.uid, "it has left", |state| !state.is_connected).await.map(|_| ())
}

async fn sees_broken_connections(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    let (socket, _) = cx.online(&mut agent).await?;
    cx.seen_as(&agent.uid, "it is connected", |state| state.is_connected).await?;
    drop(socket);
    cx.seen_as(&agent.uid, "its connection is gone", |state| !state.is_connected).await.map(|_| ())
}

async fn forgets_malformed(cx: &Context) -> Verdict {
    cx.admin()?;
    let (mut socket, mut agent, mut other) = (cx.connect().await?, cx.agent(), cx.agent());
    let message = framed(&agent.full());
    socket.send_frame(&Frame::new(BINARY, &message[..message.len() - 5])).await?;
    socket.reply().await?;
    // What another agent says afterwards is there: so this one would be.
    no_error(&socket.say(&other.full()).await?)?;
    cx.seen_as(&other.uid, "it is connected", |state| state.is_connected).await?;
    ensure!(cx.seen(&agent.uid).await?.is_none(), "the agent is known");
    Ok(())
}

async fn sees_failures(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.config_agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    no_error(&socket.say(&agent.config_status(&[7; 32], FAILED)).await?)?;
    let what = "its configuration FAILED, and why";
    cx.seen_as(&agent.uid, what, |state| {
        (state.config_status, state.config_error.as_str()) == ("FAILED", "refused")
            && state.reported_config_hash == [7; 32]
    })
    .await
    .map(|_| ())
}

async fn sees_applying(cx: &Context) -> Verdict {
    cx.offer("a", "a: 1").await?;
    let mut agent = cx.config_agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    let reply = if first.remote_config.is_some() {
        first
    } else {
        socket.until("an offer", |reply| reply.remote_config.is_some()).await?
    };
    let hash = reply.remote_config.unwrap_or_default().hash;
    no_error(&socket.say(&agent.config_status(&hash, APPLYING)).await?)?;
    let state = cx.seen_as(&agent.uid, "it is APPLYING", |state| state.config_status == "APPLYING").await?;
    ensure!(!state.is_converged, "it is taken to have converged");
    no_error(&socket.say(&agent.config_status(&hash, APPLIED)).await?)?;
    cx.seen_as(&agent.uid, "it has converged", |state| state.is_converged).await.map(|_| ())
}

async fn sees_late_failures(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.config_agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    for (status, name) in [(APPLIED, "APPLIED"), (FAILED, "FAILED")] {
        no_error(&socket.say(&agent.config_status(&[7; 32], status)).await?)?;
        cx.seen_as(&agent.uid, name, |state| state.config_status == name).await?;
    }
    Ok(())
}

async fn sees_http_agents(cx: &Context) -> Verdict {
    cx.admin()?;
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    no_error(&http.say(&agent.full()).await?)?;
    cx.seen_as(&agent.uid, "it runs", |state| state.is_connected && state.health_status == "running").await.map(|_| ())
}

async fn sees_capabilities(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    agent.capabilities = can::REPORT | can::ACCEPT_RESTART;
    no_error(&socket.say(&agent.heartbeat()).await?)?;
    let what = "it accepts restarts";
    cx.seen_as(&agent.uid, what, |it| it.capabilities.iter().any(|it| it == "AcceptsRestartCommand")).await.map(|_| ())
}

async fn sees_new_uids(cx: &Context) -> Verdict {
    cx.admin()?;
    let (mut socket, mut agent) = (cx.connect().await?, cx.agent());
    let reply = socket.say(&agent.full().uint(10, crate::conformance::agent::REQUEST_INSTANCE_UID)).await?;
    let uid = reply.new_uid.ok_or("no agent_identification")?;
    if let Ok(uid) = uid.as_slice().try_into() {
        cx.remember(uid);
    }
    cx.seen_as(&uid, "it runs", |state| state.is_connected && state.health_status == "running").await.map(|_| ())
}

/// The status of an upgrade with this token, once it is that, or the last one.
async fn status_with(cx: &Context, token: &str, wanted: u16) -> crate::conformance::case::Step<u16> {
    let deadline = tokio::time::Instant::now() + cx.patience;
    loop {
        let request = cx.upgrade().0.header("Authorization", &format!("Bearer {token}"));
        let status = cx.ask(&request).await?.status;
        if status == wanted || tokio::time::Instant::now() >= deadline {
            return Ok(status);
        }
        tokio::time::sleep(cx.quiet / 10).await;
    }
}

async fn obeys_tokens(cx: &Context) -> Verdict {
    let token = cx.new_token("t").await?;
    let status = status_with(cx, &token, 101).await?;
    ensure!(status == 101, "a new token is answered with status {status}");
    cx.revoke_token("t").await?;
    let status = status_with(cx, &token, 401).await?;
    ensure!(status == 401, "a revoked token is answered with status {status}");
    Ok(())
}

async fn ends_revoked(cx: &Context) -> Verdict {
    let token = cx.new_token("t").await?;
    let status = status_with(cx, &token, 101).await?;
    ensure!(status == 101, "a new token is answered with status {status}");
    let (request, key) = cx.upgrade();
    let request = request.header("Authorization", &format!("Bearer {token}"));
    let mut socket = cx.connect_with(&cx.world.target, &request, &key).await?;
    no_error(&socket.say(&cx.agent().full()).await?)?;
    cx.revoke_token("t").await?;
    // A Close, or the end.
    socket.control().await.map(|_| ())
}
