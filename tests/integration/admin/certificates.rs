//! Certificates: listed, approved, denied.

use muster::{
    bus::{Event, Topic},
    model::certificate::{Request as Asked, State},
    pki::Request as Csr,
    proto::{
        admin::{
            ApproveCertificateRequest, Certificate, CertificateState, DenyCertificateRequest, ListCertificatesRequest,
            certificates_client::CertificatesClient,
        },
        bus::GatewayBatch,
    },
    store::Actor,
};
use prost::Message;
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

use super::{
    musterctl,
    world::{World, agent, reason, uid, violated},
};
use crate::support::{PATIENCE, tls::Key};

fn client(world: &World) -> CertificatesClient<Channel> {
    CertificatesClient::new(world.channel.clone())
}

/// A request of the agent `n` that waits.
async fn ask(world: &World, id: u128, n: u128) -> String {
    let csr = Csr::parse(Key::new().request("collector").as_bytes()).unwrap();
    let asked = Asked {
        id: Uuid::from_u128(id),
        uid: uid(n),
        public_key: csr.public_key.into(),
        generation: 1,
        state: State::Pending,
        requested_at: 1_700_000_000_000,
        decided_at: None,
        decided_by: String::new(),
        issued: None,
        used_at: None,
    };
    let actor = Actor { name: "system".into(), token_id: String::new(), now: 1 };
    world.store.request_certificate(&asked, &actor).await.unwrap().id.to_string()
}

async fn approve(world: &World, id: &str) -> Result<Certificate, Status> {
    let request = world.request(ApproveCertificateRequest { id: id.to_owned() });
    client(world).approve_certificate(request).await.map(|answer| answer.into_inner())
}

async fn deny(world: &World, id: &str) -> Result<Certificate, Status> {
    let request = world.request(DenyCertificateRequest { id: id.to_owned() });
    client(world).deny_certificate(request).await.map(|answer| answer.into_inner())
}

async fn list(world: &World, request: ListCertificatesRequest) -> Vec<String> {
    let mut request = ListCertificatesRequest { page_size: 1, ..request };
    let mut ids = Vec::new();
    loop {
        let page = client(world).list_certificates(world.request(request.clone())).await.unwrap().into_inner();
        ids.extend(page.certificates.into_iter().map(|certificate| certificate.id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_issues_and_a_denial_revokes() {
    let world = World::start().await;
    world.put(&[agent(1, &[])]).await;
    let id = ask(&world, 1, 1).await;
    let mut hints = world.hints().await;
    let approved = approve(&world, &id).await.unwrap();
    assert_eq!((approved.state(), &*approved.decided_by), (CertificateState::Issued, "root"));
    assert_eq!(approved.instance_uid, uid(1).to_string());
    assert!(approved.certificate.starts_with("-----BEGIN CERTIFICATE-----") && approved.expire_time.is_some());
    assert_eq!(hints.next().await.agents_to_reconcile, uid(1).to_bytes());
    let own = world.store.read_agents(&[uid(1)]).await.unwrap().remove(0).desired.certificate.unwrap();
    assert_eq!(own.certificate, approved.certificate);
    assert_eq!(hex::encode(&own.serial), approved.serial);
    let again = approve(&world, &id).await.unwrap_err();
    assert_eq!((again.code(), reason(&again)), (Code::FailedPrecondition, "CERTIFICATE_WRONG_STATE".to_owned()));

    let revoked = deny(&world, &id).await.unwrap();
    assert_eq!(revoked.state(), CertificateState::Revoked);
    assert!(hints.next().await.agent_tokens_changed, "gateways are to know at once");
    assert_eq!(deny(&world, &id).await.unwrap(), revoked);
    let actions: Vec<_> = world.store.list_audit(None, 10).await.unwrap().into_iter().map(|it| it.action).collect();
    assert!(["approve", "revoke"].iter().all(|what| actions.contains(&format!("certificate.{what}"))), "{actions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_denied_one_is_told_where_it_is_connected() {
    let world = World::start().await;
    world.put(&[agent(1, &[])]).await;
    let id = ask(&world, 1, 1).await;
    let gateway = world.store.read_agents(&[uid(1)]).await.unwrap().remove(0).presence.gateway;
    let mut subscription = world.bus.subscribe();
    subscription.set_topics(vec![Topic::Gateway(gateway)]).await;
    deny(&world, &id).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a message");
    let Event::Message { payload, .. } = event else { panic!("{event:?}") };
    let batch = GatewayBatch::decode(payload).unwrap();
    let [verdict] = &batch.verdicts[..] else { panic!("{batch:?}") };
    assert_eq!((&verdict.instance_uid, verdict.report_number), (&uid(1).to_bytes(), 0), "nothing is acknowledged");
    assert!(verdict.refusal.contains("denied"), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decided_is_refused_by_name() {
    let world = World::start().await;
    for id in ["", "x"] {
        assert!(violated(&approve(&world, id).await.unwrap_err()).contains("id"));
        assert!(violated(&deny(&world, id).await.unwrap_err()).contains("id"));
    }
    let missing = approve(&world, &Uuid::from_u128(7).to_string()).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing)), (Code::NotFound, "CERTIFICATE_NOT_FOUND".to_owned()));
    let nobody = World::without_packages().await;
    let id = ask(&nobody, 1, 1).await;
    let refused = approve(&nobody, &id).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "NO_AUTHORITY".to_owned()));
    let nonsense = ListCertificatesRequest { instance_uid: "x".into(), ..Default::default() };
    let refused = client(&world).list_certificates(world.request(nonsense)).await.unwrap_err();
    assert!(violated(&refused).contains("instance_uid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_listed_by_agent_and_state() {
    let world = World::start().await;
    let ids = [ask(&world, 1, 1).await, ask(&world, 2, 2).await, ask(&world, 3, 1).await];
    deny(&world, &ids[2]).await.unwrap();
    assert_eq!(list(&world, ListCertificatesRequest::default()).await, ids);
    let of_one = ListCertificatesRequest { instance_uid: uid(1).to_string(), ..Default::default() };
    assert_eq!(list(&world, of_one.clone()).await, [&ids[0], &ids[2]].map(String::clone));
    let pending = ListCertificatesRequest { state: CertificateState::Pending.into(), ..of_one };
    assert_eq!(list(&world, pending).await, [ids[0].clone()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn musterctl_decides() {
    let world = World::start().await;
    let (one, two) = (ask(&world, 1, 1).await, ask(&world, 2, 2).await);
    let table = musterctl::run(&world, &["get", "certificates"]).await;
    assert!(table.starts_with("ID ") && table.matches("pending").count() == 2, "{table}");
    let agent = uid(1).to_string();
    let said = musterctl::run(&world, &["approve", "certificate", &one]).await;
    assert_eq!(said, format!("certificate/{one} approved for agent {agent}\n"));
    let said = musterctl::run(&world, &["deny", "certificate", &two]).await;
    assert_eq!(said, format!("certificate/{two} denied to agent {}\n", uid(2)));
    let shown = musterctl::json(&world, &["get", "certificates", "--agent", &agent, "--state", "issued"]).await;
    let [shown] = &shown.as_array().expect("an array")[..] else { panic!("{shown}") };
    assert_eq!((&shown["id"], &shown["instance_uid"], &shown["state"]), (&one.into(), &agent.into(), &"issued".into()));
    assert_eq!((&shown["decided_by"], &shown["used_at"]), (&"root".into(), &serde_json::Value::Null));
    assert_eq!(shown["serial"].as_str().map(str::len), Some(32));
    let said = musterctl::run(&world, &["deny", "certificate", shown["id"].as_str().unwrap()]).await;
    assert!(said.ends_with("revoked\n"), "{said}");
    let error = musterctl::fails(&world, &["approve", "certificate", "x"]).await;
    assert!(error.contains("INVALID_FIELD"), "{error}");
}
