//! Checking of operator tokens, with a short memory so that a busy client costs the store little.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use super::token;
use crate::store::{Actor, SharedStore, TokenKind};

/// How long a token that was found good is taken for good: how long a revocation may take to work.
const REMEMBER_GOOD: Duration = Duration::from_secs(5);
/// How long one that was not is refused unasked. Short, for it may just have been made.
const REMEMBER_BAD: Duration = Duration::from_secs(1);
/// Most answers remembered: far more than operators use at a time; 100 bytes each.
const MAX_REMEMBERED: usize = 1024;

/// An operator whose token was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The token's name.
    pub name: String,
    pub token_id: String,
    digest: [u8; 32],
}

impl Operator {
    /// As the maker of a change at `now` (Unix milliseconds).
    pub fn actor(&self, now: i64) -> Actor {
        Actor { name: self.name.clone(), token_id: self.token_id.clone(), now }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such operator token, or it is expired or revoked.
    #[error("the operator token is not valid: it is unknown, expired or revoked")]
    Invalid,
    /// Nothing can be said of the token now.
    #[error("operator tokens cannot be checked now: {0}")]
    Unavailable(String),
}

/// Checks operators' tokens against the store.
pub struct Operators {
    store: SharedStore,
    remembered: Mutex<HashMap<[u8; 32], Answer>>,
}

struct Answer {
    operator: Option<Operator>,
    until: Instant,
}

impl Operators {
    pub fn new(store: SharedStore) -> Self {
        Self { store, remembered: Mutex::default() }
    }

    /// Whose token `text` is.
    pub async fn authenticate(&self, text: &str) -> Result<Operator, Refusal> {
        self.check(token::digest(text)).await
    }

    /// Whether the token of an operator who was authenticated before is still good.
    pub async fn confirm(&self, operator: &Operator) -> Result<(), Refusal> {
        self.check(operator.digest).await.map(drop)
    }

    /// Forgets all answers, after a change of the tokens on this node.
    pub fn forget(&self) {
        self.remembered.lock().clear();
    }

    async fn check(&self, digest: [u8; 32]) -> Result<Operator, Refusal> {
        let answer = match self.recall(&digest) {
            Some(answer) => answer,
            None => {
                let found = self.store.find_token(TokenKind::Operator, &digest, unix_ms()).await;
                let found = found.map_err(|error| Refusal::Unavailable(error.to_string()))?;
                let operator = found.map(|token| Operator { name: token.name, token_id: token.id, digest });
                self.remember(digest, operator.clone());
                operator
            }
        };
        answer.ok_or(Refusal::Invalid)
    }

    fn recall(&self, digest: &[u8; 32]) -> Option<Option<Operator>> {
        let remembered = self.remembered.lock();
        let answer = remembered.get(digest).filter(|answer| answer.until > Instant::now())?;
        Some(answer.operator.clone())
    }

    fn remember(&self, digest: [u8; 32], operator: Option<Operator>) {
        let now = Instant::now();
        let until = now + if operator.is_some() { REMEMBER_GOOD } else { REMEMBER_BAD };
        let mut remembered = self.remembered.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, answer| answer.until > now);
        }
        if remembered.len() >= MAX_REMEMBERED {
            // Someone tries many tokens; asking the store again for the good ones is cheap.
            remembered.clear();
        }
        remembered.insert(digest, Answer { operator, until });
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
