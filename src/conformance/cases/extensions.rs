//! What a server need not be able to do, as far as an agent alone can see it: it says so, or leaves it.

use crate::conformance::{
    agent::{Agent, can},
    case::{Step, Verdict, cases, ensure, skip},
    context::{Context, no_error},
    protobuf::Message,
    reply::{Reply, capability},
    websocket::Socket,
};

cases! {
    "EXT-01" Must WebSocket "CustomMessage" "a custom message of a capability that nobody knows is ignored"
        ignores_custom_messages;
    "EXT-02" Must WebSocket "CustomMessage" "an agent without custom capabilities is sent no custom message"
        sends_no_custom_messages;
    "EXT-03" Field WebSocket "CustomMessage" "a custom message of 1 MiB is survived" survives_large_custom_messages;
    "EXT-04" Must WebSocket "CustomCapabilities" "the server's custom capabilities are names, each once" names_are_unique;
    "EXT-05" Should WebSocket "AvailableComponents.hash" "an unknown hash of components is asked about"
        asks_for_components;
    "EXT-06" Field WebSocket "AvailableComponents.hash" "components are asked for once, not with every reply"
        asks_for_components_once;
    "EXT-07" Field WebSocket "AvailableComponents.hash" "components that were told in full are not asked for"
        asks_for_no_known_components;
    "EXT-08" Field WebSocket "AvailableComponents.hash" "components that one agent told are not asked of the next"
        remembers_components;
    "EXT-09" Field WebSocket "AvailableComponents.hash" "an agent without ReportsAvailableComponents is not asked"
        asks_only_the_capable;
    "EXT-10" Must WebSocket "ConnectionSettingsRequest Message" "a request that is no CSR is BAD_REQUEST, where requests are taken"
        refuses_bad_requests;
    "EXT-11" Must WebSocket "ConnectionSettingsRequest Message" "a server that takes no requests is not upset by one"
        survives_requests;
    "EXT-12" Must WebSocket "AgentToServer.capabilities" "an agent that accepts nothing is offered nothing" offers_nothing;
    "EXT-13" Must WebSocket "ConnectionSettingsOffers.hash" "connection settings have a hash" settings_have_hashes;
    "EXT-14" Must WebSocket "PackagesAvailable Message" "packages have their hashes" packages_have_hashes;
    "EXT-15" Must WebSocket "ServerToAgent.command" "no command is sent to an agent that does not accept it"
        commands_nobody;
    "EXT-16" Must WebSocket "ServerToAgent.capabilities" "who offers packages or settings says so" declares_what_it_offers;
    "EXT-17" Field WebSocket "PackageStatuses Message" "statuses of packages are taken" takes_package_statuses;
    "EXT-18" Field WebSocket "ConnectionSettingsStatus Message" "statuses of connection settings are taken"
        takes_settings_statuses;
}

/// Everything that an agent can accept.
const ALL: u64 = can::CONFIG
    | can::ACCEPT_PACKAGES
    | can::REPORT_PACKAGE_STATUSES
    | can::REPORT_OWN_METRICS
    | can::ACCEPT_OPAMP_SETTINGS
    | can::ACCEPT_OTHER_SETTINGS
    | can::ACCEPT_RESTART
    | can::REPORT_HEARTBEAT
    | can::REPORT_SETTINGS_STATUS;

/// What comes in answer to this message, and after it.
async fn told(cx: &Context, agent: &mut Agent, message: &Message) -> Step<(Socket, Vec<Reply>)> {
    let mut socket = cx.connect().await?;
    let mut replies = vec![socket.say(message).await?];
    for _ in 0..2 {
        replies.extend(socket.during(cx.quiet / 3).await?);
        replies.push(socket.say(&agent.heartbeat()).await?);
    }
    Ok((socket, replies))
}

fn custom_message(capability: &str, data: &[u8]) -> Message {
    Message::new().bytes(1, capability).bytes(2, "hello").bytes(3, data)
}

async fn ignores_custom_messages(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let message = agent.heartbeat().message(13, &custom_message("org.example.nobody-knows-this", b"x"));
    no_error(&socket.say(&message).await?)?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn sends_no_custom_messages(cx: &Context) -> Verdict {
    let mut agent = cx.agent().with(ALL);
    let full = agent.full();
    let (_, replies) = told(cx, &mut agent, &full).await?;
    ensure!(replies.iter().all(|reply| reply.custom_message.is_none()), "a custom message comes");
    Ok(())
}

async fn survives_large_custom_messages(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let capability = Message::new().bytes(1, "org.example.large");
    let message = agent.heartbeat().message(12, &capability);
    let message = message.message(13, &custom_message("org.example.large", &vec![7; 1 << 20]));
    // It may be refused.
    socket.say(&message).await?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn names_are_unique(cx: &Context) -> Verdict {
    let (_, reply) = cx.online(&mut cx.agent()).await?;
    let mut names = reply.custom_capabilities.clone();
    names.sort();
    names.dedup();
    let is_proper = names.len() == reply.custom_capabilities.len() && names.iter().all(|name| !name.is_empty());
    ensure!(is_proper, "they are {:?}", reply.custom_capabilities);
    Ok(())
}

/// An agent's components: their hash, and, if told in full, one of them.
fn components(hash: &[u8], is_full: bool) -> Message {
    let message = Message::new().bytes(2, hash);
    if !is_full {
        return message;
    }
    let metadata = crate::conformance::agent::text_attribute("code.namespace", "org.example");
    Message::new().entry(1, "receivers", &Message::new().message(1, &metadata)).bytes(2, hash)
}

fn component_agent(cx: &Context) -> Agent {
    cx.agent().with(can::REPORT | can::REPORT_COMPONENTS)
}

/// How often an agent that tells a hash alone is asked for its components.
async fn asks_about(cx: &Context, agent: &mut Agent, hash: &[u8]) -> Step<usize> {
    let message = agent.full().message(14, &components(hash, false));
    let (mut socket, mut replies) = told(cx, agent, &message).await?;
    for _ in 0..10 {
        replies.push(socket.say(&agent.heartbeat()).await?);
    }
    Ok(replies.iter().filter(|reply| reply.asks_components()).count())
}

async fn asks_for_components(cx: &Context) -> Verdict {
    let asks = asks_about(cx, &mut component_agent(cx), &rand::random::<[u8; 32]>()).await?;
    ensure!(asks > 0, "no reply has ReportAvailableComponents");
    Ok(())
}

async fn asks_for_components_once(cx: &Context) -> Verdict {
    let asks = asks_about(cx, &mut component_agent(cx), &rand::random::<[u8; 32]>()).await?;
    ensure!(asks <= 1, "{asks} replies have ReportAvailableComponents");
    Ok(())
}

async fn asks_for_no_known_components(cx: &Context) -> Verdict {
    let mut agent = component_agent(cx);
    let message = agent.full().message(14, &components(&rand::random::<[u8; 32]>(), true));
    let (_, replies) = told(cx, &mut agent, &message).await?;
    ensure!(!replies.iter().any(Reply::asks_components), "a reply has ReportAvailableComponents");
    Ok(())
}

async fn remembers_components(cx: &Context) -> Verdict {
    let hash = rand::random::<[u8; 32]>();
    let mut first = component_agent(cx);
    let message = first.full().message(14, &components(&hash, true));
    told(cx, &mut first, &message).await?;
    let asks = asks_about(cx, &mut component_agent(cx), &hash).await?;
    ensure!(asks == 0, "another agent with the same hash is asked {asks} times");
    Ok(())
}

async fn asks_only_the_capable(cx: &Context) -> Verdict {
    let asks = asks_about(cx, &mut cx.agent(), &rand::random::<[u8; 32]>()).await?;
    ensure!(asks == 0, "{asks} replies have ReportAvailableComponents");
    Ok(())
}

/// The reply to a request for connection settings whose CSR is none, and the server's capabilities.
async fn after_bad_csr(cx: &Context) -> Step<(Socket, Agent, Reply, u64)> {
    let mut agent = cx.agent().with(can::REPORT | can::ACCEPT_OPAMP_SETTINGS);
    let (mut socket, first) = cx.online(&mut agent).await?;
    let csr = Message::new()
        .bytes(1, "-----BEGIN CERTIFICATE REQUEST-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE REQUEST-----\n");
    let request = Message::new().message(1, &Message::new().message(1, &csr));
    let reply = socket.say(&agent.heartbeat().message(11, &request)).await?;
    Ok((socket, agent, reply, first.capabilities))
}

async fn refuses_bad_requests(cx: &Context) -> Verdict {
    let (mut socket, mut agent, mut reply, capabilities) = after_bad_csr(cx).await?;
    if capabilities & capability::ACCEPTS_CONNECTION_SETTINGS_REQUEST == 0 {
        skip!("the server does not say AcceptsConnectionSettingsRequest");
    }
    if !reply.is_bad_request() {
        // A request may be decided elsewhere, after it was received.
        reply = socket.until("BAD_REQUEST", Reply::is_bad_request).await?;
    }
    ensure!(reply.error.is_some_and(|error| !error.text.is_empty()), "the BAD_REQUEST has no error_message");
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn survives_requests(cx: &Context) -> Verdict {
    // An error may come: the request is no proper one either.
    let (mut socket, mut agent, reply, capabilities) = after_bad_csr(cx).await?;
    if capabilities & capability::ACCEPTS_CONNECTION_SETTINGS_REQUEST != 0 {
        skip!("the server says AcceptsConnectionSettingsRequest (EXT-10)");
    }
    ensure!(reply.connection_settings.is_none(), "connection settings are offered all the same");
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn offers_nothing(cx: &Context) -> Verdict {
    let mut agent = cx.agent().with(can::REPORT_STATUS);
    let full = agent.full();
    let (_, replies) = told(cx, &mut agent, &full).await?;
    for reply in replies {
        for (what, is_there) in [
            ("a remote_config", reply.remote_config.is_some()),
            ("connection_settings", reply.connection_settings.is_some()),
            ("packages_available", reply.packages.is_some()),
        ] {
            ensure!(!is_there, "it is offered {what}");
        }
    }
    Ok(())
}

/// What an agent that accepts everything is sent.
async fn everything(cx: &Context) -> Step<Vec<Reply>> {
    let mut agent = cx.agent().with(ALL);
    let full = agent.full();
    Ok(told(cx, &mut agent, &full).await?.1)
}

async fn settings_have_hashes(cx: &Context) -> Verdict {
    for settings in everything(cx).await?.iter().filter_map(|reply| reply.connection_settings.as_ref()) {
        ensure!(settings.bytes(1)?.is_some_and(|hash| !hash.is_empty()), "the offer's hash is empty");
        for number in [2, 3, 4, 5] {
            let endpoint = settings.message(number)?.map(|it| it.text(1)).transpose()?.unwrap_or_default();
            ensure!(endpoint.is_empty() || endpoint.contains("://"), "an endpoint is {endpoint:?}");
        }
    }
    Ok(())
}

async fn packages_have_hashes(cx: &Context) -> Verdict {
    for packages in everything(cx).await?.iter().filter_map(|reply| reply.packages.as_ref()) {
        ensure!(packages.bytes(2)?.is_some_and(|hash| !hash.is_empty()), "all_packages_hash is empty");
        for (name, package) in packages.map(1)? {
            ensure!(package.bytes(4)?.is_some_and(|hash| !hash.is_empty()), "the hash of package {name} is empty");
            let file = package.message(3)?.unwrap_or_default();
            let length = file.bytes(2)?.map_or(0, <[u8]>::len);
            ensure!(length == 32, "the content_hash of package {name} has {length} bytes");
        }
    }
    Ok(())
}

async fn commands_nobody(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let full = agent.full();
    let (_, replies) = told(cx, &mut agent, &full).await?;
    ensure!(replies.iter().all(|reply| reply.command.is_none()), "a command comes");
    Ok(())
}

async fn declares_what_it_offers(cx: &Context) -> Verdict {
    let replies = everything(cx).await?;
    let said = replies.iter().fold(0, |bits, reply| bits | reply.capabilities);
    for reply in &replies {
        for (what, is_there, bit) in [
            ("a remote_config", reply.remote_config.is_some(), capability::OFFERS_REMOTE_CONFIG),
            ("packages_available", reply.packages.is_some(), capability::OFFERS_PACKAGES),
            ("connection_settings", reply.connection_settings.is_some(), capability::OFFERS_CONNECTION_SETTINGS),
        ] {
            ensure!(!is_there || said & bit != 0, "{what} comes from a server that says {said:#x}");
        }
    }
    Ok(())
}

async fn takes_package_statuses(cx: &Context) -> Verdict {
    let mut agent = cx.agent().with(can::REPORT | can::ACCEPT_PACKAGES | can::REPORT_PACKAGE_STATUSES);
    let (mut socket, _) = cx.online(&mut agent).await?;
    let status = Message::new().bytes(1, "otelcol").bytes(2, "0.149.0").bytes(3, [1; 32]).uint(6, 1);
    let downloading =
        Message::new().bytes(1, "rules").uint(6, 4).message(8, &Message::new().fixed64(1, 1f64.to_bits()));
    let statuses = Message::new().entry(1, "otelcol", &status).entry(1, "rules", &downloading).bytes(2, [2; 32]);
    no_error(&socket.say(&agent.heartbeat().message(8, &statuses)).await?)?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn takes_settings_statuses(cx: &Context) -> Verdict {
    let mut agent = cx.agent().with(can::REPORT | can::ACCEPT_OPAMP_SETTINGS | can::REPORT_SETTINGS_STATUS);
    let (mut socket, _) = cx.online(&mut agent).await?;
    let status = Message::new().bytes(1, [3; 32]).uint(2, 3).bytes(3, "no such host");
    no_error(&socket.say(&agent.heartbeat().message(15, &status)).await?)?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}
