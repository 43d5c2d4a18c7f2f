//! The Tokens service.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    authorized::Authorized,
    context::Context,
    convert,
    errors::{self, Violations, from_store},
    pages,
    pages::Pages,
};
use crate::{
    auth::token,
    model::UnixMs,
    proto::admin::{
        self, CreateTokenRequest, CreateTokenResponse, ListTokensRequest, ListTokensResponse, RevokeTokenRequest,
        tokens_server::Tokens,
    },
    store::{NewToken, TokenKind},
};

const MAX_NAME_CHARS: usize = 63;
const TEN_YEARS_MS: i64 = 10 * 366 * 24 * 3600 * 1000;

pub struct Service(pub Arc<Context>);

#[tonic::async_trait]
impl Tokens for Service {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        self.create(Authorized::of(request)?).await.map(Response::new)
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        self.list(Authorized::of(request)?).await.map(Response::new)
    }

    async fn revoke_token(&self, request: Request<RevokeTokenRequest>) -> Result<Response<admin::Token>, Status> {
        self.revoke(Authorized::of(request)?).await.map(Response::new)
    }
}

impl Service {
    async fn create(&self, request: Authorized<CreateTokenRequest>) -> Result<CreateTokenResponse, Status> {
        let actor = request.actor();
        let (kind, text, new) = new_token(&request.message, actor.now)?;
        let token = self.0.store.create_token(&new, &actor).await.map_err(from_store)?;
        self.changed(kind).await;
        Ok(CreateTokenResponse { token: Some(convert::token::token(token)), text })
    }

    async fn list(&self, request: Authorized<ListTokensRequest>) -> Result<ListTokensResponse, Status> {
        let size = pages::size(request.message.page_size)?;
        let pages = Pages::of(&["tokens"]);
        let after = pages.after(&request.message.page_token)?;
        let tokens = self.0.store.list_tokens().await.map_err(from_store)?;
        let start = match after {
            None => 0,
            Some(last) => {
                let at = tokens.iter().position(|token| token.id.as_bytes() == last);
                at.ok_or_else(pages::invalid_token)? + 1
            }
        };
        let page: Vec<_> = tokens.iter().skip(start).take(size).cloned().collect();
        let last = page.last().filter(|_| start + page.len() < tokens.len());
        Ok(ListTokensResponse {
            next_page_token: last.map(|token| pages.token(token.id.as_bytes())).unwrap_or_default(),
            tokens: page.into_iter().map(convert::token::token).collect(),
        })
    }

    async fn revoke(&self, request: Authorized<RevokeTokenRequest>) -> Result<admin::Token, Status> {
        let actor = request.actor();
        let id_or_name = errors::name("token", &request.message.token)?;
        let revoked = self.0.store.revoke_token(id_or_name, actor.now, &actor).await;
        let revoked = revoked.map_err(from_store)?;
        self.changed(revoked.kind).await;
        Ok(convert::token::token(revoked))
    }

    /// On this node at once; gateways are told, other replicas of the admin API notice within seconds.
    async fn changed(&self, kind: TokenKind) {
        match kind {
            TokenKind::Agent => self.0.publisher.agent_tokens_changed().await,
            TokenKind::Operator => self.0.operators.forget(),
        }
    }
}

fn new_token(request: &CreateTokenRequest, now: UnixMs) -> Result<(TokenKind, String, NewToken), Status> {
    let mut violations = Violations::default();
    let kind = match request.kind() {
        admin::TokenKind::Agent => Some(TokenKind::Agent),
        admin::TokenKind::Operator => Some(TokenKind::Operator),
        admin::TokenKind::Unspecified => violations.take("kind", Err("must be AGENT or OPERATOR".to_owned())),
    };
    if !request.name.is_empty() {
        violations.take("name", check_name(&request.name));
    }
    let expires_at = request.expires_in.and_then(|after| violations.take("expires_in", expiry(&after, now)));
    violations.check()?;
    let kind = kind.ok_or_else(|| Status::internal("a field was not checked"))?;
    let id = uuid::Uuid::now_v7().to_string();
    let text = token::generate(kind);
    let name = match request.name.as_str() {
        // The end of the id is its random part.
        "" => format!("{}-{}", kind.name(), &id[id.len() - 8..]),
        name => name.to_owned(),
    };
    let sha256 = token::digest(&text);
    Ok((kind, text, NewToken { id, kind, name, sha256, expires_at }))
}

fn check_name(name: &str) -> Result<(), String> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let ends = |c: char| c.is_ascii_alphanumeric();
    if name.len() > MAX_NAME_CHARS || !name.chars().all(is_inner) || !name.starts_with(ends) || !name.ends_with(ends) {
        let problem = "letters, digits, ., _ and -, with a letter or digit at both ends";
        return Err(format!("must have 1 to {MAX_NAME_CHARS} {problem}"));
    }
    Ok(())
}

/// When something ends that is good for so long.
pub fn expiry(after: &prost_types::Duration, now: UnixMs) -> Result<UnixMs, String> {
    let after_ms = after.seconds.saturating_mul(1000).saturating_add(i64::from(after.nanos / 1_000_000));
    if !(1000..=TEN_YEARS_MS).contains(&after_ms) {
        return Err("must be between a second and ten years".to_owned());
    }
    Ok(now.saturating_add(after_ms))
}
