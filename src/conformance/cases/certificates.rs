//! Certificates that agents ask for, by a request that they sign with their own key.

use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::conformance::{
    agent::{APPLIED, Agent, can, remote_config_status, uid_text},
    case::{Step, Verdict, cases, ensure, skip},
    context::{Context, no_error},
    protobuf::{Fields, Message},
    reply::{Reply, capability},
    websocket::Socket,
};

cases! {
    "CERT-01" Must WebSocket "Agent-initiated CSR Flow" "a request for a certificate that is approved gets one for its key" issues;
    "CERT-02" Must WebSocket "Agent-initiated CSR Flow" "no private key comes with a certificate that was asked for" keeps_keys;
    "CERT-03" Must WebSocket "TLSCertificate.ca_cert" "a certificate comes with that of its authority" tells_authorities;
    "CERT-04" Must WebSocket "OpAMPConnectionSettings.destination_endpoint"
        "the offer of a certificate has a hash, and says where to connect" is_complete;
    "CERT-05" Must WebSocket "Agent-initiated CSR Flow" "a request that is denied is answered with BAD_REQUEST" tells_denials;
    "CERT-06" Must WebSocket "Using instance_uid in the CSR" "a request that names another agent is BAD_REQUEST"
        refuses_other_names;
    "CERT-07" Must WebSocket "ConnectionSettingsRequest Message" "a request that its key has not signed is BAD_REQUEST"
        checks_signatures;
    "CERT-08" Field WebSocket "Agent-initiated CSR Flow" "a request that comes twice gets no second certificate" issues_once;
    "CERT-09" Field WebSocket "OpAMP Connection Setting Offer Flow"
        "an agent that starts anew with its certificate is not offered it again" remembers_certificates;
    "CERT-10" Must Http "Plain HTTP Transport" "a certificate comes with the answer to a poll" issues_by_poll;
}

fn agent(cx: &Context) -> Agent {
    cx.agent().with(can::REPORT | can::ACCEPT_OPAMP_SETTINGS | can::REPORT_HEARTBEAT | can::REPORT_SETTINGS_STATUS)
}

fn new_key() -> Step<KeyPair> {
    Ok(KeyPair::generate().map_err(|error| error.to_string())?)
}

/// A request for a certificate, in DER.
fn csr(key: &KeyPair, common_name: &str) -> Step<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params.serialize_request(key).map_err(|error| error.to_string())?.der().to_vec())
}

/// A heartbeat that asks for a certificate.
fn asking(agent: &mut Agent, csr: &[u8]) -> Message {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let lines: Vec<String> =
        STANDARD.encode(csr).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"));
    let request = Message::new().message(1, &Message::new().message(1, &Message::new().bytes(1, pem)));
    agent.heartbeat().message(11, &request)
}

/// An agent that is known, to a server that takes requests.
async fn connected(cx: &Context) -> Step<(Socket, Agent)> {
    let mut agent = agent(cx);
    let (socket, first) = cx.online(&mut agent).await?;
    takes_requests(&first)?;
    cx.will_ask_certificates(agent.uid);
    Ok((socket, agent))
}

fn takes_requests(first: &Reply) -> Verdict {
    if first.capabilities & capability::ACCEPTS_CONNECTION_SETTINGS_REQUEST == 0 {
        skip!("the server does not say AcceptsConnectionSettingsRequest");
    }
    Ok(())
}

fn certificate_of(reply: &Reply) -> Option<Fields> {
    let opamp = reply.connection_settings.as_ref()?.message(2).ok()??;
    opamp.message(3).ok()?
}

/// An offer with a certificate, which somebody may have to approve.
async fn issued(cx: &Context, socket: &mut Socket, agent: &Agent, reply: Reply) -> Step<Reply> {
    no_error(&reply)?;
    if certificate_of(&reply).is_some() {
        return Ok(reply);
    }
    let is_it = |reply: &Reply| reply.is_bad_request() || certificate_of(reply).is_some();
    let offer = if cx.admin().is_ok() {
        cx.decide_certificate(&agent.uid, true).await?;
        socket.until("a certificate", is_it).await?
    } else {
        let replies = socket.during(cx.watch).await?;
        let Some(offer) = replies.into_iter().find(is_it) else {
            skip!("needs --admin: nobody approves the request by itself");
        };
        offer
    };
    no_error(&offer)?;
    Ok(offer)
}

async fn asked(cx: &Context) -> Step<(Socket, Agent, KeyPair, Reply)> {
    let (mut socket, mut agent) = connected(cx).await?;
    let key = new_key()?;
    let request = csr(&key, &uid_text(&agent.uid))?;
    let message = asking(&mut agent, &request);
    let reply = socket.say(&message).await?;
    let offer = issued(cx, &mut socket, &agent, reply).await?;
    Ok((socket, agent, key, offer))
}

/// The certificate of an offer in DER.
fn der(offer: &Reply) -> Step<CertificateDer<'static>> {
    let certificate = certificate_of(offer).ok_or("the offer has no certificate")?;
    let pem = certificate.bytes(1)?.unwrap_or_default();
    Ok(CertificateDer::from_pem_slice(pem).map_err(|error| format!("cert is no certificate in PEM: {error}"))?)
}

fn is_for_key(offer: &Reply, key: &KeyPair) -> Verdict {
    let der = der(offer)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| format!("cert is not X.509: {error}"))?;
    let found = certificate.public_key().raw;
    ensure!(found == key.subject_public_key_info(), "the certificate is for the key {}", hex::encode(found));
    Ok(())
}

async fn issues(cx: &Context) -> Verdict {
    let (_, _, key, offer) = asked(cx).await?;
    is_for_key(&offer, &key)
}

async fn keeps_keys(cx: &Context) -> Verdict {
    let (_, _, _, offer) = asked(cx).await?;
    let certificate = certificate_of(&offer).unwrap_or_default();
    ensure!(certificate.bytes(2)?.unwrap_or_default().is_empty(), "private_key is there");
    Ok(())
}

async fn tells_authorities(cx: &Context) -> Verdict {
    let (_, _, _, offer) = asked(cx).await?;
    let der = der(&offer)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| format!("cert is not X.509: {error}"))?;
    if certificate.issuer() == certificate.subject() {
        skip!("the server signs no certificates: this one is its own authority");
    }
    let authority = certificate_of(&offer).unwrap_or_default().bytes(3)?.unwrap_or_default().to_vec();
    let authority = CertificateDer::from_pem_slice(&authority);
    let authority = authority.map_err(|error| format!("ca_cert is no certificate in PEM: {error}"))?;
    let (_, authority) = X509Certificate::from_der(&authority).map_err(|error| format!("ca_cert: {error}"))?;
    let is_signed = certificate.verify_signature(Some(authority.public_key())).is_ok();
    ensure!(is_signed, "the certificate is not signed by that in ca_cert");
    Ok(())
}

async fn is_complete(cx: &Context) -> Verdict {
    let (_, _, _, offer) = asked(cx).await?;
    let settings = offer.connection_settings.unwrap_or_default();
    ensure!(settings.bytes(1)?.is_some_and(|hash| !hash.is_empty()), "the hash is empty");
    let endpoint = settings.message(2)?.unwrap_or_default().text(1)?;
    ensure!(endpoint.contains("://"), "destination_endpoint is {endpoint:?}");
    Ok(())
}

async fn tells_denials(cx: &Context) -> Verdict {
    cx.admin()?;
    let (mut socket, mut agent) = connected(cx).await?;
    let request = csr(&new_key()?, &uid_text(&agent.uid))?;
    let message = asking(&mut agent, &request);
    let reply = socket.say(&message).await?;
    no_error(&reply)?;
    if certificate_of(&reply).is_some() || !cx.decide_certificate(&agent.uid, false).await? {
        skip!("the server approves requests by itself");
    }
    let reply = socket.until("BAD_REQUEST", Reply::is_bad_request).await?;
    ensure!(reply.error.is_some_and(|error| !error.text.is_empty()), "the BAD_REQUEST has no error_message");
    no_error(&socket.say(&agent.heartbeat()).await?)
}

/// Sends a request that must be refused.
async fn is_refused(cx: &Context, make: impl FnOnce(&KeyPair) -> Step<Vec<u8>>) -> Verdict {
    let (mut socket, mut agent) = connected(cx).await?;
    let message = asking(&mut agent, &make(&new_key()?)?);
    let mut reply = socket.say(&message).await?;
    if !reply.is_bad_request() {
        // A request may be decided elsewhere, after it was received.
        reply = socket.until("BAD_REQUEST", Reply::is_bad_request).await?;
    }
    ensure!(reply.uid == agent.uid, "the BAD_REQUEST is for {}", hex::encode(&reply.uid));
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn refuses_other_names(cx: &Context) -> Verdict {
    let other = uid_text(uuid::Uuid::now_v7().as_bytes());
    is_refused(cx, |key| csr(key, &other)).await
}

async fn checks_signatures(cx: &Context) -> Verdict {
    is_refused(cx, |key| {
        let mut request = csr(key, "conformance")?;
        // The signature is its end.
        request.iter_mut().rev().take(4).for_each(|byte| *byte ^= 0x55);
        Ok(request)
    })
    .await
}

async fn issues_once(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = connected(cx).await?;
    let key = new_key()?;
    let request = csr(&key, &uid_text(&agent.uid))?;
    let reply = socket.say(&asking(&mut agent, &request)).await?;
    let offer = issued(cx, &mut socket, &agent, reply).await?;
    let mut replies = Vec::new();
    for _ in 0..2 {
        replies.push(socket.say(&asking(&mut agent, &request)).await?);
        replies.extend(socket.during(cx.quiet / 2).await?);
    }
    for reply in replies.iter().filter(|reply| certificate_of(reply).is_some()) {
        ensure!(der(reply)? == der(&offer)?, "another certificate is offered for the same request");
    }
    Ok(())
}

async fn remembers_certificates(cx: &Context) -> Verdict {
    let (mut socket, mut agent, _, offer) = asked(cx).await?;
    let hash = offer.connection_settings.unwrap_or_default().bytes(1)?.unwrap_or_default().to_vec();
    no_error(&socket.say(&agent.heartbeat().message(15, &remote_config_status(&hash, APPLIED, ""))).await?)?;
    no_error(&socket.say(&agent.goodbye()).await?)?;
    drop(socket);
    agent.next = 0;
    let (mut socket, first) = cx.online(&mut agent).await?;
    let mut replies = vec![first];
    for _ in 0..3 {
        replies.push(socket.say(&agent.heartbeat()).await?);
        replies.extend(socket.during(cx.quiet / 3).await?);
    }
    ensure!(replies.iter().all(|reply| reply.connection_settings.is_none()), "connection settings are offered");
    Ok(())
}

async fn issues_by_poll(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, agent(cx));
    takes_requests(&http.say(&agent.full()).await?)?;
    cx.will_ask_certificates(agent.uid);
    let key = new_key()?;
    let request = csr(&key, &uid_text(&agent.uid))?;
    let message = asking(&mut agent, &request);
    let mut reply = http.say(&message).await?;
    no_error(&reply)?;
    if certificate_of(&reply).is_none() && cx.admin().is_ok() {
        cx.decide_certificate(&agent.uid, true).await?;
    }
    for _ in 0..10 {
        if certificate_of(&reply).is_some() {
            return is_for_key(&reply, &key);
        }
        tokio::time::sleep(cx.quiet / 5).await;
        reply = http.say(&agent.heartbeat()).await?;
        no_error(&reply)?;
    }
    if cx.admin().is_err() {
        skip!("needs --admin: nobody approves the request by itself");
    }
    Err("no poll is answered with a certificate".into())
}
