//! The contract: tokens and the audit log.

use muster::{
    model::UnixMs,
    store::{Actor, Error, NewToken, SharedStore, Token, TokenDigest, TokenKind},
};

use super::{NOW, actor};

fn token(id: &str, kind: TokenKind, name: &str, expires_at: Option<UnixMs>) -> NewToken {
    let mut sha256 = [0; 32];
    sha256[..id.len()].copy_from_slice(id.as_bytes());
    NewToken { id: id.into(), kind, name: name.into(), sha256, expires_at }
}

pub async fn tokens_live_until_they_expire_or_are_revoked(store: &SharedStore) {
    use TokenKind::{Agent, Operator};
    let (short, long) = (token("t1", Operator, "short", Some(NOW + 10)), token("t0", Operator, "long", None));
    let made = store.create_token(&short, &actor()).await.unwrap();
    let expected = Token {
        id: "t1".into(),
        kind: Operator,
        name: "short".into(),
        created_at: NOW,
        created_by: "ada".into(),
        expires_at: Some(NOW + 10),
        revoked_at: None,
    };
    assert_eq!(made, expected);
    let long_made = store.create_token(&long, &actor()).await.unwrap();
    assert_eq!(store.list_tokens().await.unwrap(), [made.clone(), long_made.clone()], "in the order of their making");

    let find = async |kind, token: &NewToken, now| store.find_token(kind, &token.sha256, now).await.unwrap();
    assert_eq!(find(Operator, &short, NOW + 9).await, Some(made));
    assert_eq!(find(Operator, &short, NOW + 10).await, None);
    assert_eq!(find(Operator, &long, UnixMs::MAX).await, Some(long_made.clone()));
    assert_eq!(find(Agent, &long, NOW).await, None);
    assert_eq!(find(Operator, &token("t9", Operator, "", None), NOW).await, None);

    let revoked = store.revoke_token("t0", NOW + 1, &actor()).await.unwrap();
    assert_eq!(revoked, Token { revoked_at: Some(NOW + 1), ..long_made });
    assert_eq!(find(Operator, &long, NOW).await, None);
    assert_eq!(store.revoke_token("t0", NOW + 5, &actor()).await.unwrap(), revoked, "once is enough");
    assert!(matches!(store.revoke_token("t9", NOW, &actor()).await, Err(Error::NotFound { kind: "token", .. })));
    assert_eq!(store.list_tokens().await.unwrap().len(), 2);
}

pub async fn names_are_unique_while_alive(store: &SharedStore) {
    use TokenKind::{Agent, Operator};
    store.create_token(&token("t1", Agent, "n", None), &actor()).await.unwrap();
    let same_name = token("t2", Agent, "n", None);
    let error = store.create_token(&same_name, &actor()).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { kind: "token", .. }), "{error}");
    store.create_token(&token("t3", Operator, "n", None), &actor()).await.unwrap();
    let error = store.revoke_token("n", NOW, &actor()).await.unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "which of the two? {error}");
    store.revoke_token("t3", NOW, &actor()).await.unwrap();
    assert_eq!(store.revoke_token("n", NOW, &actor()).await.unwrap().id, "t1");
    store.create_token(&same_name, &actor()).await.unwrap();
    // An id goes before a name.
    store.create_token(&token("t4", Agent, "t2", None), &actor()).await.unwrap();
    assert_eq!(store.revoke_token("t2", NOW, &actor()).await.unwrap().id, "t2");
    assert_eq!(store.revoke_token("t2", NOW, &actor()).await.unwrap().id, "t2");
}

pub async fn the_list_of_agent_tokens_has_a_version(store: &SharedStore) {
    use TokenKind::{Agent, Operator};
    let (first, none) = store.agent_tokens(NOW).await.unwrap();
    assert_eq!(none, []);
    let new = token("t1", Agent, "n", Some(NOW + 10));
    store.create_token(&new, &actor()).await.unwrap();
    let digest = TokenDigest { id: "t1".into(), sha256: new.sha256, expires_at: Some(NOW + 10) };
    let (second, tokens) = store.agent_tokens(NOW).await.unwrap();
    assert_eq!(tokens, [digest]);
    assert!(second > first);
    assert_eq!(store.agent_tokens(NOW + 10).await.unwrap(), (second, vec![]));

    store.create_token(&token("t2", Operator, "n", None), &actor()).await.unwrap();
    store.create_token(&token("t3", Agent, "n", None), &actor()).await.unwrap_err();
    store.revoke_token("t2", NOW, &actor()).await.unwrap();
    assert_eq!(store.agent_tokens(NOW).await.unwrap().0, second, "no agent token has changed");
    store.revoke_token("t1", NOW, &actor()).await.unwrap();
    let (third, none) = store.agent_tokens(NOW).await.unwrap();
    assert_eq!(none, []);
    assert!(third > second);
    store.revoke_token("t1", NOW, &actor()).await.unwrap();
    assert_eq!(store.agent_tokens(NOW).await.unwrap().0, third);
}

pub async fn the_audit_log_tells_all_changes(store: &SharedStore) {
    store.create_token(&token("t1", TokenKind::Agent, "n", None), &actor()).await.unwrap();
    let other = Actor { name: "system".into(), token_id: String::new(), now: NOW + 1 };
    store.revoke_token("n", NOW, &other).await.unwrap();
    store.create_token(&token("t1", TokenKind::Agent, "n", None), &actor()).await.unwrap_err();
    store.revoke_token("t1", NOW, &actor()).await.unwrap();
    let all = store.list_audit(None, 10).await.unwrap();
    let told: Vec<_> = all.iter().map(|e| (e.action.as_str(), e.target.as_str(), e.actor.as_str(), e.at)).collect();
    assert_eq!(told, [("token.revoke", "t1", "system", NOW + 1), ("token.create", "t1", "ada", NOW)]);
    assert_eq!(all[1].token_id, "t1");
    assert_eq!(all[1].detail["kind"], "agent");
    assert!(all[0].id > all[1].id);
    assert_eq!(store.list_audit(Some(all[0].id), 10).await.unwrap(), all[1..]);
    assert_eq!(store.list_audit(None, 1).await.unwrap(), all[..1]);
}
