//! Cases that show from outside what an OpAMP server does: any server, over its own sockets.
//!
//! Each case plays one or more agents by hand and judges what comes back. A case that needs what it was not given (the
//! admin API, a second node) or what the server says it cannot do is skipped, with the reason.
//!
//! Architecture invariant: shares no code with the server: neither its protocol and gateway nor its generated types, and no
//! WebSocket, HTTP or protobuf library that it uses. A mistake in one of those cannot hide itself here.

mod agent;
mod case;
mod cases;
mod context;
mod http;
mod offers;
mod pattern;
mod protobuf;
mod reach;
mod reply;
mod report;
mod target;
mod websocket;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

pub use case::{Case, Level, Transport};
pub use pattern::Pattern;
pub use report::{CaseReport, Report, Result};
pub use target::{InvalidUrl, Trust, Url};

use self::{case::Stop, context::Context, context::World, target::Target};
use crate::admin_client::{self, AdminClient};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    pub url: Url,
    pub second_url: Option<Url>,
    /// Shown to the server as a bearer token.
    pub token: Option<String>,
    /// The admin API's URL and an operator token for it.
    pub admin: Option<(String, String)>,
    /// Only cases that match; all if empty.
    pub only: Vec<Pattern>,
    /// How long an answer may take.
    pub patience: Duration,
    /// Answers are waited for so many times as long; what must not come is not. For machines that are busy with other things
    /// than the server. At least 1.
    pub slack: u32,
    /// Cases at a time.
    pub parallel: usize,
    pub trust: Trust,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Unreachable(String),
    #[error("{url} refuses us with status {status}: {}", if *has_token { "it does not take the token, or wants a client certificate" } else { "it wants a token" })]
    Refused { url: String, status: u16, has_token: bool },
    #[error("nothing at {url} speaks OpAMP: WebSocket: {upgrade}; plain HTTP: {post}")]
    NoServer { url: String, upgrade: String, post: String },
    #[error("the admin API: {0}")]
    Admin(#[from] admin_client::Error),
    #[error("{0}")]
    Trust(String),
    #[error("no case matches {0}")]
    NoCase(String),
}

/// A case that takes this many times the patience is given up.
const CASE_LIMIT: u32 = 20;

/// Every case there is, in the order of the list.
pub fn all() -> Vec<Case> {
    cases::ALL.iter().flat_map(|cases| cases.iter().copied()).collect()
}

/// Runs the cases that are asked for.
pub async fn run(plan: &Plan) -> std::result::Result<Report, Error> {
    let cases: Vec<Case> = all().into_iter().filter(|case| pattern::matches_any(&plan.only, case)).collect();
    if cases.is_empty() {
        let patterns: Vec<String> = plan.only.iter().map(ToString::to_string).collect();
        return Err(Error::NoCase(patterns.join(", ")));
    }
    let world = world(plan).await?;
    // Each in a task of its own: the work of one does not hold up the others.
    let judged = stream::iter(cases).map(|case| {
        let world = world.clone();
        async move { tokio::spawn(judge(world, case)).await.unwrap_or_else(|error| panicked(&case, &error)) }
    });
    let reports = judged.buffered(plan.parallel.max(1)).collect::<Vec<_>>().await;
    Ok(Report::new(plan.url.to_string(), reports))
}

/// Finds out whether there is anybody to ask.
async fn world(plan: &Plan) -> std::result::Result<Arc<World>, Error> {
    let target = |url: &Url| Target::new(url.clone(), &plan.trust).map_err(Error::Trust);
    let (target, second) = (target(&plan.url)?, plan.second_url.as_ref().map(target).transpose()?);
    let admin = match &plan.admin {
        Some((url, token)) => {
            let client = AdminClient::connect(url, token).await?;
            client.check().await?;
            Some(client)
        }
        None => None,
    };
    let run = hex::encode(rand::random::<[u8; 4]>());
    let (token, trust) = (plan.token.clone(), plan.trust.clone());
    let (watch, patience) = (plan.patience, plan.patience * plan.slack.max(1));
    let world = Arc::new(World { target, second, token, trust, admin, watch, patience, run });
    let context = Context::new(world.clone(), "reach");
    for target in [Some(&world.target), world.second.as_ref()].into_iter().flatten() {
        reach::reach(&context, target).await?;
    }
    Ok(world)
}

async fn judge(world: Arc<World>, case: Case) -> CaseReport {
    let started = Instant::now();
    let context = Context::new(world, case.id);
    let limit = context.patience * CASE_LIMIT;
    let verdict = match tokio::time::timeout(limit, (case.run)(&context)).await {
        Ok(verdict) => verdict,
        Err(_) => Err(Stop::Fail(format!("not done after {limit:?}"))),
    };
    let duration_ms = started.elapsed().as_millis() as u64;
    // A server that does not answer is not waited for with each thing that is to be put away.
    let _ = tokio::time::timeout(context.patience * 2, context.clean_up()).await;
    let (result, detail) = match verdict {
        Ok(()) => (Result::Pass, String::new()),
        Err(Stop::Fail(why)) => (Result::Fail, why),
        Err(Stop::Skip(why)) => (Result::Skip, why),
    };
    reported(&case, result, detail, duration_ms)
}

/// A bug of the runner, which says nothing of the server.
fn panicked(case: &Case, error: &tokio::task::JoinError) -> CaseReport {
    reported(case, Result::Fail, format!("the runner: {error}"), 0)
}

fn reported(case: &Case, result: Result, detail: String, duration_ms: u64) -> CaseReport {
    let Case { id, title, level, section, transport, .. } = *case;
    CaseReport { id, title, level, section, transport, result, detail, duration_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_have_ids_of_their_own_and_say_what_they_are() {
        let cases = all();
        let mut ids: Vec<&str> = cases.iter().map(|case| case.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), cases.len(), "an id is given twice");
        assert!(cases.len() >= 120, "{} cases", cases.len());
        let mut titles: Vec<(&str, Transport)> = cases.iter().map(|case| (case.title, case.transport)).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), cases.len(), "a title is given twice");
    }
}
