//! The contract: requests for certificates, and certificates.

use bytes::Bytes;
use muster::{
    model::{
        InstanceUid, UnixMs,
        certificate::{Issued, Request, State},
    },
    store::{CertificateFilter, Error, SharedStore},
};
use uuid::Uuid;

use super::{NOW, actor, agent, read, uid};

const DAY_MS: i64 = 86_400_000;

pub fn pending(n: u128, agent: InstanceUid, key: u8) -> Request {
    Request {
        id: Uuid::from_u128(n),
        uid: agent,
        public_key: vec![key; 90].into(),
        generation: 1,
        state: State::Pending,
        requested_at: NOW,
        decided_at: None,
        decided_by: String::new(),
        issued: None,
        used_at: None,
    }
}

fn certificate(n: u8, not_before: UnixMs) -> Issued {
    Issued {
        serial: [n; 16],
        certificate: Bytes::from(format!("certificate {n}")),
        issuer: "issuer".into(),
        not_before,
        not_after: not_before + 90 * DAY_MS,
    }
}

fn issued(n: u128, agent: InstanceUid, key: u8, not_before: UnixMs) -> Request {
    Request {
        state: State::Issued,
        decided_at: Some(NOW),
        decided_by: "system".into(),
        issued: Some(certificate(key, not_before)),
        ..pending(n, agent, key)
    }
}

async fn put(store: &SharedStore, request: &Request) -> Request {
    store.request_certificate(request, &actor()).await.unwrap()
}

async fn actions(store: &SharedStore) -> Vec<String> {
    let mut actions: Vec<_> = store.list_audit(None, 10).await.unwrap().into_iter().map(|it| it.action).collect();
    actions.reverse();
    actions
}

pub async fn a_certificate_is_requested_once(store: &SharedStore) {
    let first = issued(1, uid(1), 7, NOW);
    assert_eq!(put(store, &first).await, first);
    // Another replica came second, and is told what there is.
    assert_eq!(put(store, &pending(2, uid(1), 7)).await, first);
    let next = Request { generation: 2, ..pending(3, uid(1), 7) };
    assert_eq!(put(store, &next).await, next);
    put(store, &pending(4, uid(2), 7)).await;
    assert_eq!(store.agent_certificates(uid(1)).await.unwrap(), [next.clone(), first.clone()], "newest first");
    assert_eq!(store.get_certificate(first.id).await.unwrap(), first);
    let missing = store.get_certificate(Uuid::from_u128(9)).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { kind: "certificate", .. }), "{missing}");
    assert_eq!(actions(store).await, ["certificate.issue", "certificate.request", "certificate.request"]);
}

pub async fn an_approval_reaches_the_agents_record(store: &SharedStore) {
    store.write_agents(&[agent(1)], &[]).await.unwrap();
    let before = read(&**store, uid(1)).await.unwrap();
    for (n, agent) in [(1, uid(1)), (2, uid(2))] {
        put(store, &pending(n, agent, 7)).await;
    }
    let given = certificate(7, NOW);
    let approved = store.approve_certificate(Uuid::from_u128(1), &given, &actor()).await.unwrap();
    assert_eq!((approved.state, approved.decided_at, &*approved.decided_by), (State::Issued, Some(NOW), "ada"));
    assert_eq!(approved.issued.as_ref(), Some(&given));
    assert_eq!(store.get_certificate(approved.id).await.unwrap(), approved);
    let after = read(&**store, uid(1)).await.unwrap();
    assert_eq!(after.desired.certificate, Some(given.for_agent()));
    assert!(after.version > before.version, "what was decided from it as it was is decided again");
    // Of an agent that is not known here.
    let other = certificate(8, NOW);
    store.approve_certificate(Uuid::from_u128(2), &other, &actor()).await.unwrap();
    let again = store.approve_certificate(Uuid::from_u128(1), &certificate(9, NOW), &actor()).await.unwrap_err();
    assert!(matches!(again, Error::WrongState { state: "issued", .. }), "{again}");
    assert_eq!(read(&**store, uid(1)).await.unwrap().desired.certificate, Some(given.for_agent()));
}

pub async fn a_denial_takes_a_certificate_back(store: &SharedStore) {
    store.write_agents(&[agent(1)], &[]).await.unwrap();
    put(store, &pending(1, uid(1), 6)).await;
    let denied = store.deny_certificate(Uuid::from_u128(1), &actor()).await.unwrap();
    assert_eq!(denied.state, State::Denied);
    assert_eq!(store.deny_certificate(denied.id, &actor()).await.unwrap(), denied, "once is enough");
    assert!(store.revoked_certificates(NOW).await.unwrap().is_empty());
    let (version, _) = store.agent_tokens(NOW).await.unwrap();

    // An operator may think better of it, both ways.
    let given = certificate(6, NOW);
    store.approve_certificate(denied.id, &given, &actor()).await.unwrap();
    let revoked = store.deny_certificate(denied.id, &actor()).await.unwrap();
    assert_eq!((revoked.state, revoked.issued.as_ref()), (State::Revoked, Some(&given)));
    assert_eq!(read(&**store, uid(1)).await.unwrap().desired.certificate, None);
    assert!(store.agent_tokens(NOW).await.unwrap().0 > version, "gateways take the new list");
    assert_eq!(store.revoked_certificates(NOW).await.unwrap(), [[6; 16]]);
    let later = store.revoked_certificates(given.not_after).await.unwrap();
    assert!(later.is_empty(), "it is of no use by itself");
    assert_eq!(store.use_certificate([6; 16], NOW).await.unwrap(), Some(State::Revoked));
    let actions = actions(store).await;
    assert_eq!(actions, ["request", "deny", "approve", "revoke"].map(|action| format!("certificate.{action}")));

    // One that is not the newest leaves the newest where it is.
    let newest = certificate(8, NOW);
    put(store, &issued(2, uid(1), 7, NOW)).await;
    put(store, &pending(3, uid(1), 8)).await;
    store.approve_certificate(Uuid::from_u128(3), &newest, &actor()).await.unwrap();
    store.deny_certificate(Uuid::from_u128(2), &actor()).await.unwrap();
    assert_eq!(read(&**store, uid(1)).await.unwrap().desired.certificate, Some(newest.for_agent()));
}

pub async fn the_first_use_supersedes_what_came_before(store: &SharedStore) {
    for (n, key, not_before) in [(1, 1, NOW), (2, 2, NOW + 10), (3, 3, NOW + 10), (4, 4, NOW + 20)] {
        put(store, &issued(n, uid(1), key, not_before)).await;
    }
    put(store, &issued(5, uid(2), 5, NOW)).await;
    let states = async || {
        let mut states = Vec::new();
        for n in 1..=5 {
            states.push(store.get_certificate(Uuid::from_u128(n)).await.unwrap().state);
        }
        states
    };
    use State::{Issued, Superseded};
    assert_eq!(store.use_certificate([1; 16], NOW + 30).await.unwrap(), Some(Issued));
    assert_eq!(states().await, [Issued; 5]);
    assert_eq!(store.use_certificate([3; 16], NOW + 40).await.unwrap(), Some(Issued));
    assert_eq!(states().await, [Superseded, Superseded, Issued, Issued, Issued], "later ones and others' stay");
    assert_eq!(store.get_certificate(Uuid::from_u128(3)).await.unwrap().used_at, Some(NOW + 40));
    assert_eq!(store.use_certificate([3; 16], NOW + 50).await.unwrap(), Some(Issued));
    assert_eq!(store.get_certificate(Uuid::from_u128(3)).await.unwrap().used_at, Some(NOW + 40), "the first use");
    assert_eq!(store.use_certificate([1; 16], NOW + 60).await.unwrap(), Some(Superseded));
    assert_eq!(store.use_certificate([9; 16], NOW).await.unwrap(), None);
}

pub async fn certificates_are_listed_and_forgotten(store: &SharedStore) {
    put(store, &issued(1, uid(1), 1, NOW)).await;
    put(store, &pending(2, uid(2), 2)).await;
    put(store, &pending(3, uid(1), 3)).await;
    let ids = async |filter: CertificateFilter, after: Option<u128>, limit| {
        let found = store.list_certificates(filter, after.map(Uuid::from_u128), limit).await.unwrap();
        found.iter().map(|request| request.id.as_u128()).collect::<Vec<_>>()
    };
    let all = CertificateFilter::default();
    assert_eq!(ids(all, None, 10).await, [1, 2, 3]);
    assert_eq!(ids(all, None, 2).await, [1, 2]);
    assert_eq!(ids(all, Some(2), 2).await, [3]);
    assert_eq!(ids(CertificateFilter { uid: Some(uid(1)), ..all }, None, 10).await, [1, 3]);
    assert_eq!(ids(CertificateFilter { state: Some(State::Pending), ..all }, None, 10).await, [2, 3]);
    assert_eq!(ids(CertificateFilter { uid: Some(uid(1)), state: Some(State::Pending) }, None, 10).await, [3]);

    assert_eq!(store.forget_certificates(NOW).await.unwrap(), 0);
    assert_eq!(store.forget_certificates(NOW + 1).await.unwrap(), 2);
    assert_eq!(ids(all, None, 10).await, [1], "it has not expired");
    assert_eq!(store.forget_certificates(NOW + 90 * DAY_MS + 1).await.unwrap(), 1);
}
