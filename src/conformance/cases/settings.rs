//! Connection settings that an operator's policy makes the server offer.

use crate::{
    admin_client::{Destination, OtherConnection, Settings},
    conformance::{
        agent::{APPLIED, Agent, FAILED, can, remote_config_status},
        case::{Step, Verdict, cases, ensure, skip},
        context::{Context, no_error},
        offers,
        protobuf::{Fields, Message},
        reply::capability,
        websocket::Socket,
    },
};

cases! {
    "SET-01" Must WebSocket "ConnectionSettingsOffers.opamp" "an agent that accepts OpAMP settings is offered them" offers;
    "SET-02" Must WebSocket "ConnectionSettingsOffers.hash" "the offer has a hash" has_hash;
    "SET-03" Must WebSocket "AgentToServer.capabilities" "an agent that accepts no settings is offered none"
        offers_only_to_the_capable;
    "SET-04" Field WebSocket "OpAMPConnectionSettings.headers" "OpAMP settings are complete: every header is there"
        has_headers;
    "SET-05" Field WebSocket "OpAMPConnectionSettings.heartbeat_interval_seconds"
        "an agent that sends heartbeats is never offered an interval of 0" has_heartbeat;
    "SET-06" Must WebSocket "ConnectionSettingsOffers.own_metrics" "an agent that reports own metrics is told where to"
        offers_own_metrics;
    "SET-07" Must WebSocket "AgentToServer.capabilities" "an offer has no parts that the agent does not accept"
        leaves_parts_out;
    "SET-08" Field WebSocket "ConnectionSettingsStatus.last_connection_settings_hash" "what was applied is not offered again"
        offers_nothing_known;
    "SET-09" Field WebSocket "OpAMP Connection Setting Offer Flow"
        "an agent that starts anew with the settings, and says nothing of them, is not offered them again" remembers_offers;
    "SET-10" Field WebSocket "ConnectionSettingsStatus.status" "settings that FAILED are not offered again" leaves_failures;
    "SET-11" Field WebSocket "ConnectionSettingsOffers.hash" "the hash of the same settings is the same for every agent"
        hashes_are_stable;
    "SET-12" Must WebSocket "ConnectionSettingsOffers.hash" "other settings have another hash" hashes_differ;
    "SET-13" Must WebSocket "ConnectionSettingsOffers.other_connections" "other connections come with their settings"
        offers_other_connections;
    "SET-14" Field WebSocket "ConnectionSettingsOffers.own_metrics" "a destination that is withdrawn becomes an empty endpoint"
        withdraws;
    "SET-15" Must Http "Plain HTTP Transport" "settings come with the answer to a poll" offers_by_poll;
    "SET-16" Field WebSocket "ConnectionSettingsStatus.last_connection_settings_hash"
        "an agent that comes back with other settings than it was sent is offered them again" offers_what_was_lost;
}

const OPAMP: &str = "wss://opamp.example.com:4320/v1/opamp";
const METRICS: &str = "https://otlp.example.com:4318/v1/metrics";
const HEADERS: [(&str, &str); 2] = [("Authorization", "Bearer of-the-conformance-run"), ("X-Tenant", "a")];

fn destination(endpoint: &str) -> Destination {
    let headers = HEADERS.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    Destination { endpoint: endpoint.to_owned(), headers, heartbeat_s: 0 }
}

fn opamp(endpoint: &str) -> Settings {
    Settings { opamp: Some(destination(endpoint)), ..Settings::default() }
}

fn agent(cx: &Context) -> Agent {
    cx.agent().with(can::REPORT | can::ACCEPT_OPAMP_SETTINGS | can::REPORT_HEARTBEAT | can::REPORT_SETTINGS_STATUS)
}

/// What is offered to an agent that comes, of what the operator made for it.
async fn offered(cx: &Context, settings: &Settings, agent: &mut Agent) -> Step<(Socket, Fields)> {
    cx.offer_settings("s", settings).await?;
    offers::CONNECTION_SETTINGS.first(cx, agent).await
}

fn hash(offer: &Fields) -> Step<Vec<u8>> {
    Ok(offer.bytes(1)?.unwrap_or_default().to_vec())
}

/// The endpoint and the headers of a part.
fn part(offer: &Fields, number: u32) -> Step<(String, Vec<(String, String)>)> {
    let part = offer.message(number)?.ok_or_else(|| format!("the offer has no field {number}"))?;
    let headers = part.message(2)?.unwrap_or_default().messages(1)?;
    let headers = headers.iter().map(|header| Ok::<_, String>((header.text(1)?, header.text(2)?)));
    Ok((part.text(1)?, headers.collect::<Result<_, _>>()?))
}

async fn report(socket: &mut Socket, agent: &mut Agent, hash: &[u8], status: u64) -> Verdict {
    // It is built like the status of a configuration.
    let message = agent.heartbeat().message(15, &remote_config_status(hash, status, ""));
    no_error(&socket.say(&message).await?)
}

async fn offers(cx: &Context) -> Verdict {
    let (_, offer) = offered(cx, &opamp(OPAMP), &mut agent(cx)).await?;
    let (endpoint, _) = part(&offer, 2)?;
    ensure!(endpoint == OPAMP, "the endpoint is {endpoint:?}");
    Ok(())
}

async fn has_hash(cx: &Context) -> Verdict {
    let (_, offer) = offered(cx, &opamp(OPAMP), &mut agent(cx)).await?;
    ensure!(!hash(&offer)?.is_empty(), "the hash is empty");
    Ok(())
}

async fn offers_only_to_the_capable(cx: &Context) -> Verdict {
    cx.offer_settings("s", &opamp(OPAMP)).await?;
    let mut agent = cx.agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    offers::CONNECTION_SETTINGS.stays_away(cx, &mut socket, &mut agent, Some(first)).await
}

async fn has_headers(cx: &Context) -> Verdict {
    let (_, offer) = offered(cx, &opamp(OPAMP), &mut agent(cx)).await?;
    let (_, headers) = part(&offer, 2)?;
    for (key, value) in HEADERS {
        let is_there = headers.iter().any(|(k, v)| (k.as_str(), v.as_str()) == (key, value));
        ensure!(is_there, "the header {key} is not there as it was given");
    }
    Ok(())
}

async fn has_heartbeat(cx: &Context) -> Verdict {
    let (_, offer) = offered(cx, &opamp(OPAMP), &mut agent(cx)).await?;
    let interval = offer.message(2)?.unwrap_or_default().uint(4)?;
    ensure!(interval > 0, "heartbeat_interval_seconds is 0");
    Ok(())
}

fn metrics() -> Settings {
    Settings { own_metrics: Some(destination(METRICS)), ..opamp(OPAMP) }
}

async fn offers_own_metrics(cx: &Context) -> Verdict {
    let mut agent = cx.agent().with(can::REPORT | can::REPORT_OWN_METRICS);
    let (_, offer) = offered(cx, &metrics(), &mut agent).await?;
    let (endpoint, _) = part(&offer, 3)?;
    ensure!(endpoint == METRICS, "the endpoint is {endpoint:?}");
    Ok(())
}

async fn leaves_parts_out(cx: &Context) -> Verdict {
    let (_, offer) = offered(cx, &metrics(), &mut agent(cx)).await?;
    ensure!(!offer.has(3), "the offer has own_metrics");
    Ok(())
}

async fn applied(cx: &Context, status: u64) -> Step<(Socket, Agent)> {
    let mut agent = agent(cx);
    let (mut socket, offer) = offered(cx, &opamp(OPAMP), &mut agent).await?;
    report(&mut socket, &mut agent, &hash(&offer)?, status).await?;
    Ok((socket, agent))
}

async fn offers_nothing_known(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = applied(cx, APPLIED).await?;
    offers::CONNECTION_SETTINGS.stays_away(cx, &mut socket, &mut agent, None).await
}

async fn remembers_offers(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = applied(cx, APPLIED).await?;
    no_error(&socket.say(&agent.goodbye()).await?)?;
    drop(socket);
    // As the Supervisor does: a new client, which begins at 0 and has forgotten what it was offered.
    agent.next = 0;
    let (mut socket, first) = cx.online(&mut agent).await?;
    offers::CONNECTION_SETTINGS.stays_away(cx, &mut socket, &mut agent, Some(first)).await
}

async fn leaves_failures(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = applied(cx, FAILED).await?;
    offers::CONNECTION_SETTINGS.stays_away(cx, &mut socket, &mut agent, None).await
}

async fn hashes_are_stable(cx: &Context) -> Verdict {
    let (_, first) = offered(cx, &opamp(OPAMP), &mut agent(cx)).await?;
    let (_, second) = offered(cx, &opamp(OPAMP), &mut agent(cx)).await?;
    let (first, second) = (hash(&first)?, hash(&second)?);
    ensure!(first == second, "{} and {}", hex::encode(first), hex::encode(second));
    Ok(())
}

async fn hashes_differ(cx: &Context) -> Verdict {
    let mut agent = agent(cx);
    let (mut socket, first) = offered(cx, &opamp(OPAMP), &mut agent).await?;
    report(&mut socket, &mut agent, &hash(&first)?, APPLIED).await?;
    cx.offer_settings("s", &opamp("wss://opamp.example.com/another")).await?;
    let second = offers::CONNECTION_SETTINGS.next(&mut socket).await?;
    ensure!(hash(&first)? != hash(&second)?, "both have the hash {}", hex::encode(hash(&first)?));
    Ok(())
}

async fn offers_other_connections(cx: &Context) -> Verdict {
    let topic = vec![("topic".to_owned(), "logs".to_owned())];
    let other =
        vec![OtherConnection { name: "kafka".to_owned(), to: destination("kafka.example.com:9092"), settings: topic }];
    let mut agent = cx.agent().with(can::REPORT | can::ACCEPT_OTHER_SETTINGS);
    let (_, offer) = offered(cx, &Settings { other, ..Settings::default() }, &mut agent).await?;
    let connections = offer.map(6)?;
    let kafka = connections.iter().find(|(name, _)| name == "kafka").map(|(_, connection)| connection);
    let kafka = kafka.ok_or("the offer has no connection of this name")?;
    let endpoint = kafka.text(1)?;
    ensure!(endpoint == "kafka.example.com:9092", "the endpoint is {endpoint:?}");
    let entries = kafka.messages(4)?;
    let has_topic =
        entries.iter().any(|entry| (entry.text(1), entry.text(2)) == (Ok("topic".into()), Ok("logs".into())));
    ensure!(has_topic, "other_settings are not there as they were given");
    Ok(())
}

async fn withdraws(cx: &Context) -> Verdict {
    let mut agent = cx.agent().with(can::REPORT | can::REPORT_OWN_METRICS | can::REPORT_SETTINGS_STATUS);
    let settings = Settings { own_metrics: Some(destination(METRICS)), ..Settings::default() };
    let (mut socket, offer) = offered(cx, &settings, &mut agent).await?;
    report(&mut socket, &mut agent, &hash(&offer)?, APPLIED).await?;
    cx.withdraw("s").await?;
    let (endpoint, _) = part(&offers::CONNECTION_SETTINGS.next(&mut socket).await?, 3)?;
    ensure!(endpoint.is_empty(), "the endpoint is {endpoint:?}");
    Ok(())
}

async fn offers_by_poll(cx: &Context) -> Verdict {
    cx.offer_settings("s", &opamp(OPAMP)).await?;
    let (mut http, mut agent) = (cx.http().await?, agent(cx));
    let mut message: Message = agent.full();
    for _ in 0..10 {
        let reply = http.say(&message).await?;
        if reply.capabilities & capability::OFFERS_CONNECTION_SETTINGS == 0 {
            skip!("the server does not say OffersConnectionSettings");
        }
        if reply.connection_settings.is_some() {
            return Ok(());
        }
        tokio::time::sleep(cx.quiet / 5).await;
        message = agent.heartbeat();
    }
    Err("no poll is answered with connection settings".into())
}

async fn offers_what_was_lost(cx: &Context) -> Verdict {
    let mut agent = agent(cx);
    let (socket, first) = offered(cx, &opamp(OPAMP), &mut agent).await?;
    drop(socket);
    let mut socket = cx.connect().await?;
    let message = agent.full().message(15, &remote_config_status(b"another", APPLIED, ""));
    let reply = socket.say(&message).await?;
    no_error(&reply)?;
    let again = match reply.connection_settings {
        Some(offer) => offer,
        None => offers::CONNECTION_SETTINGS.next(&mut socket).await?,
    };
    let (first, again) = (hash(&first)?, hash(&again)?);
    ensure!(first == again, "{} and {}", hex::encode(first), hex::encode(again));
    Ok(())
}
