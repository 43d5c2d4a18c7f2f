//! Tokens.

use serde::Serialize;

use super::{age, or_dash, rfc3339, until};
use crate::{cli::output::View, proto::admin};

#[derive(Serialize)]
pub struct Token {
    pub id: String,
    pub kind: &'static str,
    pub name: String,
    pub created_at: Option<String>,
    pub created_by: String,
    /// Null: never.
    pub expires_at: Option<String>,
    /// Null: it is not.
    pub revoked_at: Option<String>,
    #[serde(skip)]
    created_age: String,
    #[serde(skip)]
    status: String,
}

impl From<admin::Token> for Token {
    fn from(token: admin::Token) -> Self {
        let kind = match token.kind() {
            admin::TokenKind::Agent => "agent",
            admin::TokenKind::Operator => "operator",
            admin::TokenKind::Unspecified => "",
        };
        let status = if token.revoke_time.is_some() { "revoked".to_owned() } else { until(token.expire_time) };
        Self {
            kind,
            id: token.id,
            name: token.name,
            created_at: rfc3339(token.create_time),
            created_by: token.created_by,
            expires_at: rfc3339(token.expire_time),
            revoked_at: rfc3339(token.revoke_time),
            created_age: age(token.create_time),
            status,
        }
    }
}

impl View for Token {
    const COLUMNS: &'static [&'static str] = &["NAME", "KIND", "CREATED", "EXPIRES", "ID"];
    const WIDE_COLUMNS: &'static [&'static str] = &["CREATED BY"];

    fn cells(&self) -> Vec<String> {
        let Self { name, kind, created_age, status, id, .. } = self;
        vec![name.clone(), (*kind).to_owned(), created_age.clone(), status.clone(), id.clone()]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![or_dash(&self.created_by)]
    }

    fn name(&self) -> String {
        format!("token/{}", self.name)
    }
}
