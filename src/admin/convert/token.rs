//! Tokens.

use super::timestamp;
use crate::{
    proto::admin,
    store::{Token, TokenKind},
};

pub fn token(token: Token) -> admin::Token {
    admin::Token {
        id: token.id,
        kind: kind(token.kind).into(),
        name: token.name,
        create_time: Some(timestamp(token.created_at)),
        created_by: token.created_by,
        expire_time: token.expires_at.map(timestamp),
        revoke_time: token.revoked_at.map(timestamp),
    }
}

fn kind(kind: TokenKind) -> admin::TokenKind {
    match kind {
        TokenKind::Agent => admin::TokenKind::Agent,
        TokenKind::Operator => admin::TokenKind::Operator,
    }
}
