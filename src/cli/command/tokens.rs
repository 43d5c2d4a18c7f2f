//! Tokens: make, list, revoke.

use std::time::Duration;

use super::PAGE_SIZE;
use crate::{
    cli::{
        args::TokenKind,
        connection::Client,
        error::Result,
        output::{self, Format},
        view::token::Token,
    },
    proto::admin::{self, CreateTokenRequest, ListTokensRequest, RevokeTokenRequest},
};

/// The token alone goes to stdout, so that `TOKEN=$(musterctl token create agent)` works.
pub async fn create(client: &Client, kind: TokenKind, name: String, expires: Option<Duration>) -> Result<()> {
    let kind = match kind {
        TokenKind::Agent => admin::TokenKind::Agent,
        TokenKind::Operator => admin::TokenKind::Operator,
    };
    let expires_in = expires.map(prost_types::Duration::try_from).transpose();
    let expires_in = expires_in.map_err(|_| "--expires is too long".to_owned())?;
    let request = CreateTokenRequest { kind: kind.into(), name, expires_in };
    let created = client.tokens().create_token(client.request(request)).await?.into_inner();
    let token = Token::from(created.token.unwrap_or_default());
    let expiry = token.expires_at.map_or_else(|| "does not expire".to_owned(), |at| format!("expires at {at}"));
    eprintln!("{} token {} ({expiry}); it is shown this once:", token.kind, token.name);
    output::write(&(created.text + "\n"))
}

pub async fn list(client: &Client, format: Format) -> Result<()> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut request = ListTokensRequest { page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.tokens().list_tokens(client.request(request.clone())).await?.into_inner();
        tokens.extend(page.tokens.into_iter().map(Token::from));
        if page.next_page_token.is_empty() {
            return output::list(format, &tokens);
        }
        request.page_token = page.next_page_token;
    }
}

pub async fn revoke(client: &Client, token: String) -> Result<()> {
    let revoked = client.tokens().revoke_token(client.request(RevokeTokenRequest { token })).await?.into_inner();
    output::write(&format!("token/{} revoked\n", revoked.name))
}
