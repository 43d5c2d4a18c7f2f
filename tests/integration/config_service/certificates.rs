//! Certificates: asked for in reports, offered as connection settings, and superseded.

use std::{sync::Arc, time::Duration};

use muster::{
    config_service::{Approval, Config},
    model::{
        InstanceUid,
        certificate::{MAX_REQUESTS, Request, State},
    },
    pki::{Authority, Issuer},
    proto::{
        bus,
        opamp::{
            AgentCapabilities, AgentToServer, CertificateRequest, ConnectionSettingsOffers, ConnectionSettingsRequest,
            OpAmpConnectionSettings, OpAmpConnectionSettingsRequest,
        },
    },
};
use prost::{Message, bytes::Bytes};

use super::{
    cluster::{Backend, Cluster, actor, quick},
    gateway::{Gateway, Heard, full, opening, report, uid},
};
use crate::support::tls::Key;

const HERE: &str = "wss://muster.test/v1/opamp";
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

fn issuer(validity: Duration) -> Issuer {
    let (certificate, key) = Authority::generate(now()).unwrap();
    Issuer { authority: Arc::new(Authority::load(&certificate, &key, now()).unwrap()), validity }
}

fn config(certificate_approval: Approval) -> Config {
    Config { certificate_approval, opamp_url: HERE.into(), ..quick() }
}

fn agent() -> AgentToServer {
    let capabilities = AgentCapabilities::ReportsStatus as u64
        | AgentCapabilities::AcceptsOpAmpConnectionSettings as u64
        | AgentCapabilities::ReportsHeartbeat as u64;
    AgentToServer { capabilities, ..full("web") }
}

fn asks(key: &Key) -> AgentToServer {
    let certificate_request = Some(CertificateRequest { csr: key.request("collector").into() });
    let opamp = Some(OpAmpConnectionSettingsRequest { certificate_request });
    AgentToServer { connection_settings_request: Some(ConnectionSettingsRequest { opamp }), ..Default::default() }
}

/// Of the first, what the verdict offers.
fn offered(verdict: &bus::Verdict) -> Option<Bytes> {
    assert_eq!(verdict.refusal, "");
    assert!(verdict.offers.iter().all(|offer| offer.kind() == bus::OfferKind::ConnectionSettings), "{verdict:?}");
    verdict.offers.first().map(|offer| offer.hash.clone())
}

async fn settings(gateway: &mut Gateway, hash: &Bytes) -> OpAmpConnectionSettings {
    let wanted = bus::ShardBatch { wanted_hashes: vec![hash.clone()], ..Default::default() };
    gateway.send(uid(1), wanted).await;
    let body = gateway.hear(|heard| match heard {
        Heard::Body(body) if body.hash == *hash => Some(body.clone()),
        _ => None,
    });
    ConnectionSettingsOffers::decode(body.await.body).unwrap().opamp.unwrap()
}

/// All requests of an agent, oldest first.
async fn requests(cluster: &Cluster, uid: InstanceUid) -> Vec<Request> {
    let mut requests = cluster.store.agent_certificates(uid).await.unwrap();
    requests.reverse();
    requests
}

fn serial(request: &Request) -> Bytes {
    Bytes::copy_from_slice(&request.issued.as_ref().expect("it was issued").serial)
}

pub async fn an_agent_gets_the_certificate_that_it_asks_for(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let issuer = issuer(90 * DAY);
    let _replica = cluster.issuing_replica("one", config(Approval::Automatic), issuer.clone()).await;
    let _other = cluster.issuing_replica("two", config(Approval::Automatic), issuer.clone()).await;
    let (mut gateway, key) = (cluster.gateway("g").await, Key::new());
    assert_eq!(offered(&gateway.tell(opening(uid(1), 10, 1, &agent())).await), None);

    let verdict = gateway.tell(report(uid(1), 10, 2, &asks(&key))).await;
    let hash = offered(&verdict).expect("an offer");
    let own = settings(&mut gateway, &hash).await;
    assert_eq!(own.destination_endpoint, HERE, "complete, for some clients know nothing else afterwards");
    assert!(own.heartbeat_interval_seconds > 0);
    let certificate = own.certificate.expect("a certificate");
    assert_eq!(certificate.private_key, "", "that is the agent's own");
    assert_eq!(certificate.ca_cert, issuer.authority.pem());
    assert_eq!(certificate.cert, requests(&cluster, uid(1)).await[0].issued.as_ref().unwrap().certificate);

    // The same request, again and from elsewhere, is answered with the same.
    assert_eq!(offered(&gateway.tell(report(uid(1), 10, 3, &asks(&key))).await), None, "it is on its way");
    let mut elsewhere = cluster.gateway("h").await;
    let ending = bus::Report { ending: Some(bus::Ending::default()), ..report(uid(1), 10, 4, &Default::default()) };
    gateway.tell(ending).await;
    let mut again = opening(uid(1), 20, 5, &agent());
    again.message = [agent().encode_to_vec(), asks(&key).encode_to_vec()].concat().into();
    assert_eq!(offered(&elsewhere.tell(again.clone()).await), Some(hash.clone()));
    assert_eq!(requests(&cluster, uid(1)).await.len(), 1);
    // Once it has been put on the agent's connection, it is not offered again.
    let sent = bus::Report { sent_connection_settings: hash.clone(), ..report(uid(1), 20, 2, &Default::default()) };
    elsewhere.tell(sent).await;
    again = bus::Report { connection_generation: 30, ..again };
    assert_eq!(offered(&elsewhere.tell(again).await), None);
    assert_eq!(requests(&cluster, uid(1)).await.len(), 1);
}

pub async fn an_operator_decides_and_a_renewal_is_not_asked_about(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let issuer = issuer(90 * DAY);
    let _replica = cluster.issuing_replica("one", config(Approval::Manual), issuer.clone()).await;
    let (mut gateway, key) = (cluster.gateway("g").await, Key::new());
    gateway.tell(opening(uid(1), 10, 1, &agent())).await;
    for number in 2..4 {
        assert_eq!(offered(&gateway.tell(report(uid(1), 10, number, &asks(&key))).await), None);
    }
    let [request] = requests(&cluster, uid(1)).await.try_into().expect("it asked for one");
    assert_eq!(request.state, State::Pending);

    let issued = issuer.issue(uid(1), &request.public_key, now()).unwrap();
    cluster.store.approve_certificate(request.id, &issued, &actor()).await.unwrap();
    cluster.hint(bus::Hint { agents_to_reconcile: uid(1).to_bytes(), ..Default::default() }).await;
    let offer = gateway.offer_to(uid(1)).await;
    let own = settings(&mut gateway, &offer.config_hash.into()).await;
    assert_eq!(own.certificate.expect("a certificate").cert, issued.certificate);

    // With it, it asks for another: nobody else can have sent that.
    let next = bus::Report {
        certificate_serial: issued.serial.to_vec().into(),
        ..opening(uid(1), 20, 4, &AgentToServer::default())
    };
    gateway.tell(next).await;
    let renewal =
        bus::Report { certificate_serial: issued.serial.to_vec().into(), ..report(uid(1), 20, 2, &asks(&Key::new())) };
    assert!(offered(&gateway.tell(renewal).await).is_some());
    let states: Vec<_> = requests(&cluster, uid(1)).await.iter().map(|request| request.state).collect();
    assert_eq!(states, [State::Issued, State::Issued]);
}

pub async fn a_request_that_is_refused_is_answered_with_the_reason(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let replica = cluster.replica("one", config(Approval::Automatic)).await;
    let (mut gateway, key) = (cluster.gateway("g").await, Key::new());
    gateway.tell(opening(uid(1), 10, 1, &agent())).await;
    let verdict = gateway.tell(report(uid(1), 10, 2, &asks(&key))).await;
    assert_eq!((verdict.refusal.as_str(), verdict.report_number), ("this server issues no certificates", 2));
    replica.stop().await;

    let replica = cluster.issuing_replica("two", config(Approval::Off), issuer(DAY)).await;
    let verdict = gateway.insist(report(uid(1), 10, 3, &asks(&key))).await;
    assert_eq!(verdict.refusal, "this server issues no certificates");
    replica.stop().await;

    let _replica = cluster.issuing_replica("three", config(Approval::Manual), issuer(DAY)).await;
    assert_eq!(gateway.insist(report(uid(1), 10, 4, &asks(&key))).await.refusal, "");
    let request = requests(&cluster, uid(1)).await.remove(0);
    cluster.store.deny_certificate(request.id, &actor()).await.unwrap();
    let denied = gateway.tell(report(uid(1), 10, 5, &asks(&key))).await;
    assert_eq!((denied.refusal.as_str(), denied.report_number), ("the request for a certificate was denied", 5));
    // A verdict that was lost is given again.
    assert_eq!(gateway.tell(report(uid(1), 10, 5, &asks(&key))).await.refusal, denied.refusal);
    assert_eq!(requests(&cluster, uid(1)).await.len(), 1);
}

pub async fn a_new_key_each_time_comes_to_an_end(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let _replica = cluster.issuing_replica("one", config(Approval::Automatic), issuer(90 * DAY)).await;
    let mut gateway = cluster.gateway("g").await;
    gateway.tell(opening(uid(1), 10, 1, &agent())).await;
    let mut refusals = 0;
    for number in 0..MAX_REQUESTS as u64 + 3 {
        let verdict = gateway.tell(report(uid(1), 10, number + 2, &asks(&Key::new()))).await;
        refusals += u64::from(verdict.refusal.contains("too many requests"));
    }
    assert_eq!(refusals, 3);
    assert_eq!(requests(&cluster, uid(1)).await.len(), MAX_REQUESTS);
}

pub async fn a_certificate_works_until_the_next_is_used(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let _replica = cluster.issuing_replica("one", config(Approval::Automatic), issuer(90 * DAY)).await;
    let mut gateway = cluster.gateway("g").await;
    gateway.tell(opening(uid(1), 10, 1, &agent())).await;
    for number in 2..4 {
        gateway.tell(report(uid(1), 10, number, &asks(&Key::new()))).await;
    }
    let issued: Vec<Bytes> = requests(&cluster, uid(1)).await.iter().map(serial).collect();
    let with = |index: usize, generation: u64| bus::Report {
        certificate_serial: issued[index].clone(),
        ..opening(uid(1), generation, generation, &agent())
    };
    // Both are good as long as the second has not been used.
    for generation in [20, 30] {
        let verdict = gateway.tell(with(0, generation)).await;
        assert!(!verdict.refuses_certificate && verdict.report_number == 1, "{verdict:?}");
    }
    assert!(!gateway.tell(with(1, 40)).await.refuses_certificate);
    let row = cluster.row(uid(1)).await.unwrap();
    assert!(row.desired.certificate.as_ref().is_some_and(|own| own.is_used && own.serial == issued[1]));

    let mut other = cluster.gateway("h").await;
    let refused = gateway.tell(with(0, 50)).await;
    assert!(refused.refuses_certificate && refused.report_number == 0, "{refused:?}");
    assert!(refused.refusal.contains("a later certificate"), "{}", refused.refusal);
    assert_eq!(cluster.row(uid(1)).await.unwrap().presence.connection_generation, 40, "nothing of it was taken");
    let heard = other.hear(|heard| match heard {
        Heard::Refused(refused) => Some(refused.clone()),
        _ => None,
    });
    let expected = bus::RefusedCertificate { serial: issued[0].clone(), reason: refused.refusal };
    assert_eq!(heard.await, expected, "whoever shows it may go there next");
    let states: Vec<_> = requests(&cluster, uid(1)).await.iter().map(|request| request.state).collect();
    assert_eq!(states, [State::Superseded, State::Issued]);
    assert!(!gateway.tell(with(1, 60)).await.refuses_certificate);

    // Revoked, it is not offered any more either, and gateways are told.
    let id = requests(&cluster, uid(1)).await[1].id;
    cluster.store.deny_certificate(id, &actor()).await.unwrap();
    cluster.hint(bus::Hint { agent_tokens_changed: true, ..Default::default() }).await;
    let serial = issued[1].clone();
    let told = gateway.hear(|heard| match heard {
        Heard::Tokens(tokens) => tokens.revoked_certificates.contains(&serial).then_some(()),
        _ => None,
    });
    told.await;
    assert!(gateway.tell(with(1, 70)).await.refusal.contains("revoked"));
    assert_eq!(cluster.row(uid(1)).await.unwrap().desired.certificate, None);
}

/// Settings change when replicas are started anew, and no list of tokens does.
pub async fn gateways_are_told_by_themselves_whether_certificates_are_issued(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let mut gateway = cluster.gateway("g").await;
    for (approval, is_issued) in [(Approval::Manual, true), (Approval::Off, false), (Approval::Automatic, true)] {
        let replica = cluster.issuing_replica("one", config(approval), issuer(90 * DAY)).await;
        let is_told = |heard: &Heard| match heard {
            Heard::Tokens(tokens) => (tokens.issues_certificates == is_issued).then_some(tokens.authorities.len()),
            _ => None,
        };
        assert_eq!(gateway.hear(is_told).await, 1, "what was issued before is believed all the same");
        replica.stop().await;
    }
    let replica = cluster.replica("one", config(Approval::Automatic)).await;
    let is_told = |heard: &Heard| match heard {
        Heard::Tokens(tokens) => (!tokens.issues_certificates).then_some(tokens.authorities.len()),
        _ => None,
    };
    assert_eq!(gateway.hear(is_told).await, 0, "there is no authority");
    replica.stop().await;
}

/// Not one for the uid that it shares with another.
pub async fn of_two_live_agents_the_second_gets_a_certificate_of_its_own(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let _replica = cluster.issuing_replica("one", config(Approval::Automatic), issuer(90 * DAY)).await;
    let (mut gateway, mut other) = (cluster.gateway("g").await, cluster.gateway("h").await);
    gateway.tell(opening(uid(1), 10, 1, &agent())).await;
    let mut first = opening(uid(1), 20, 1, &agent());
    first.message = [agent().encode_to_vec(), asks(&Key::new()).encode_to_vec()].concat().into();
    other.report(first.clone()).await;
    let probe = gateway.hear(|heard| match heard {
        Heard::Probe(probe) => Some(probe.clone()),
        _ => None,
    });
    let probe = probe.await;
    gateway.answer_probe(probe, true, None).await;
    let verdict = other.verdict_on(&first).await;
    let new_uid = InstanceUid::from_slice(&verdict.new_instance_uid).expect("a uid of its own");
    assert_eq!(requests(&cluster, uid(1)).await, []);
    assert_eq!(requests(&cluster, new_uid).await.len(), 1);
}
