//! Tokens that a deployment starts with, before there is an operator who could make any.

use anyhow::Context;

use crate::{
    auth::token,
    model::UnixMs,
    store::{Actor, Error, NewToken, SharedStore, Token, TokenKind},
};

/// Characters of a digest that make a token's id: enough that two never meet, and of no use to a thief.
const ID_BYTES: usize = 12;

/// Makes sure that the token with this text exists under `name`. Its id follows from the text, so that any number of
/// replicas may do this at once, and a token that an operator has revoked is not brought back.
pub async fn ensure(store: &SharedStore, kind: TokenKind, name: &str, text: &str) -> anyhow::Result<()> {
    let sha256 = token::digest(text);
    let id = format!("first-{}", hex::encode(&sha256[..ID_BYTES]));
    if let Some(known) = known(store, &id).await? {
        if known.revoked_at.is_some() {
            tracing::warn!(token = known.name, kind = kind.name(), "the given first token has been revoked");
        }
        return Ok(());
    }
    let actor = Actor { name: "system".to_owned(), token_id: String::new(), now: now_ms() };
    let new = |name: String| NewToken { id: id.clone(), kind, name, sha256, expires_at: None };
    match store.create_token(&new(name.to_owned()), &actor).await {
        Ok(_) => {
            tracing::info!(name, kind = kind.name(), "made the first token");
            Ok(())
        }
        Err(Error::AlreadyExists { .. }) => {
            // Another replica was faster, or this is another token than the last time; that one stays until it is revoked.
            if known(store, &id).await?.is_some() {
                return Ok(());
            }
            let name = format!("{name}-{}", &hex::encode(sha256)[..8]);
            tracing::warn!(name, kind = kind.name(), "made another first token; the one before stays valid");
            match store.create_token(&new(name), &actor).await {
                // So did another replica at the same moment.
                Err(Error::AlreadyExists { .. }) if known(store, &id).await?.is_some() => Ok(()),
                made => made.map(drop).context("cannot make the first token"),
            }
        }
        Err(error) => Err(error).context("cannot make the first token"),
    }
}

async fn known(store: &SharedStore, id: &str) -> anyhow::Result<Option<Token>> {
    let tokens = store.list_tokens().await.context("cannot list tokens")?;
    Ok(tokens.into_iter().find(|token| token.id == id))
}

fn now_ms() -> UnixMs {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::sqlite::SqliteStore;

    async fn names(store: &SharedStore) -> Vec<String> {
        store.list_tokens().await.unwrap().into_iter().map(|token| token.name).collect()
    }

    #[tokio::test]
    async fn replicas_may_make_the_same_token_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(SqliteStore::open(&folder.path().join("db")).await.unwrap());
        // The second text is that of a rotated token, which takes another name.
        for text in ["one", "two"] {
            let attempts = (0..8).map(|_| ensure(&store, TokenKind::Operator, "bootstrap", text));
            futures_util::future::try_join_all(attempts).await.unwrap();
        }
        assert_eq!(names(&store).await.len(), 2);
    }

    #[tokio::test]
    async fn a_first_token_is_made_once_and_stays_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(SqliteStore::open(&folder.path().join("db")).await.unwrap());
        let find = async |text: &str| store.find_token(TokenKind::Operator, &token::digest(text), now_ms()).await;
        for _ in 0..2 {
            ensure(&store, TokenKind::Operator, "bootstrap", "one").await.unwrap();
        }
        assert_eq!(names(&store).await, ["bootstrap"]);
        assert!(find("one").await.unwrap().is_some());

        ensure(&store, TokenKind::Operator, "bootstrap", "two").await.unwrap();
        assert_eq!(names(&store).await.len(), 2, "a rotated token is added");
        assert!(find("two").await.unwrap().is_some());

        let actor = Actor { name: "test".into(), token_id: String::new(), now: now_ms() };
        store.revoke_token("bootstrap", now_ms(), &actor).await.unwrap();
        ensure(&store, TokenKind::Operator, "bootstrap", "one").await.unwrap();
        assert!(find("one").await.unwrap().is_none(), "a revoked token is not brought back");
    }
}
