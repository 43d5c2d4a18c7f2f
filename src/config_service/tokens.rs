//! Sending the list of agent tokens, with what is to be known of certificates, to gateways: to one that asks, and to all when it changes.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::shared::{Outage, Shared, isolated, unix_ms};
use crate::{
    bus::Role,
    proto::bus,
    store::{self, TokenDigest},
};

/// Requests answered with one reading of the store.
const MAX_REQUESTS_AT_ONCE: usize = 256;

/// `None` in `requests` means all gateways.
pub async fn run(shared: Arc<Shared>, mut requests: mpsc::Receiver<Option<String>>, stop: CancellationToken) {
    let mut outage = Outage::new("reading agent tokens");
    let mut waiting = Vec::new();
    while let Some(count) = stop.run_until_cancelled(requests.recv_many(&mut waiting, MAX_REQUESTS_AT_ONCE)).await {
        if count == 0 {
            return;
        }
        let requests = std::mem::take(&mut waiting);
        if let Some(result) = isolated("agent tokens", answer(&shared, requests)).await {
            outage.note(result);
        }
    }
}

async fn answer(shared: &Shared, requests: Vec<Option<String>>) -> store::Result<()> {
    let (version, tokens) = shared.store.agent_tokens(unix_ms()).await?;
    let package_key = shared.store.package_key().await?.to_vec().into();
    let revoked = shared.store.revoked_certificates(unix_ms()).await?;
    let authorities = shared.issuer.iter().flat_map(|issuer| issuer.authority.certificates());
    let tokens = bus::AgentTokens {
        version,
        tokens: tokens.into_iter().map(to_wire).collect(),
        authorities: authorities.map(|certificate| certificate.to_vec().into()).collect(),
        revoked_certificates: revoked.into_iter().map(|serial| serial.to_vec().into()).collect(),
        issues_certificates: shared.issuer().is_some(),
        package_key,
    };
    let mut gateways = match requests.contains(&None) {
        // While the list cannot be read nothing can be sent; gateways ask every minute.
        true => shared.bus.members(Role::Gateway).await.unwrap_or_default(),
        false => Vec::new(),
    };
    gateways.extend(requests.into_iter().flatten());
    gateways.sort();
    gateways.dedup();
    for gateway in gateways {
        let batch = bus::GatewayBatch { agent_tokens: Some(tokens.clone()), ..Default::default() };
        shared.outbox.to_gateway(&gateway, batch).await;
    }
    Ok(())
}

fn to_wire(token: TokenDigest) -> bus::AgentToken {
    bus::AgentToken {
        id: token.id,
        sha256: token.sha256.to_vec().into(),
        // Never 0, which would mean that it does not expire.
        expires_unix_ms: token.expires_at.map_or(0, |at| u64::try_from(at).unwrap_or(0).max(1)),
    }
}
