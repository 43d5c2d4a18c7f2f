//! Rollouts: how they stand, and what operators do with them.

use std::time::Duration;

use super::{
    PAGE_SIZE,
    rollout_watch::{self, picture},
};
use crate::{
    cli::{
        connection::Client,
        error::{Error, Result},
        output::{self, Format},
        text::Screen,
        view::rollout::Rollout,
    },
    proto::admin::{
        self, ControlRolloutRequest, GetRolloutRequest, ListRolloutsRequest, RolloutState, UndoRolloutRequest,
        control_rollout_request::Action,
    },
};

/// What `--wait` ends with, besides success.
const NOT_TAKEN: u8 = 3;
const PAUSED: u8 = 4;
const TIMED_OUT: u8 = 5;

/// Until when to follow a rollout.
pub enum Follow {
    /// Shows it once.
    No,
    /// Until it has ended.
    Watch,
    /// Until it has ended or stands still, whose outcome is the exit code.
    Wait { timeout: Option<Duration> },
}

/// `revision`: 0 for the newest.
pub async fn status(client: &Client, policy: String, revision: u64, follow: Follow, format: Format) -> Result<()> {
    let request = GetRolloutRequest { policy: policy.clone(), revision };
    match follow {
        Follow::No => {
            let rollout = client.rollouts().get_rollout(client.request(request)).await?.into_inner();
            show(&rollout, format)
        }
        Follow::Watch => rollout_watch::follow(client, request, false, format).await.map(drop),
        Follow::Wait { timeout } => {
            let waiting = rollout_watch::follow(client, request, true, format);
            let last = match timeout {
                None => waiting.await?,
                Some(timeout) => tokio::time::timeout(timeout, waiting).await.map_err(|_| {
                    let text =
                        format!("the rollout of {policy} has not ended within {}", humantime::format_duration(timeout));
                    Error::Exit(TIMED_OUT, text)
                })??,
            };
            let text = format!("the rollout of {policy} is {}: {}", Rollout::from(last.clone()).state, last.reason);
            match last.state() {
                RolloutState::Succeeded => Ok(()),
                RolloutState::Paused => Err(Error::Exit(PAUSED, text)),
                _ => Err(Error::Exit(NOT_TAKEN, text)),
            }
        }
    }
}

fn show(rollout: &admin::Rollout, format: Format) -> Result<()> {
    match format {
        Format::Table => output::write(&Screen::now().text(&picture(rollout, false))),
        _ => output::one(format, &Rollout::from(rollout.clone())),
    }
}

pub async fn list(client: &Client, format: Format) -> Result<()> {
    output::list(format, &all(client, String::new()).await?)
}

pub async fn history(client: &Client, policy: String, format: Format) -> Result<()> {
    output::list(format, &all(client, policy).await?)
}

/// Of a policy, or of all if it is empty, newest first.
pub async fn all(client: &Client, policy: String) -> Result<Vec<Rollout>> {
    let mut rollouts: Vec<Rollout> = Vec::new();
    let mut request = ListRolloutsRequest { policy, page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.rollouts().list_rollouts(client.request(request.clone())).await?.into_inner();
        rollouts.extend(page.rollouts.into_iter().map(Rollout::from));
        if page.next_page_token.is_empty() {
            return Ok(rollouts);
        }
        request.page_token = page.next_page_token;
    }
}

pub async fn control(client: &Client, policy: String, action: Action) -> Result<()> {
    let request = ControlRolloutRequest { policy, action: action.into(), revision: 0 };
    let rollout = client.rollouts().control_rollout(client.request(request)).await?.into_inner();
    say(rollout)
}

pub async fn undo(client: &Client, policy: String, to_revision: Option<u64>, message: String) -> Result<()> {
    let request = UndoRolloutRequest { policy, to_revision: to_revision.unwrap_or(0), message };
    let rollout = client.rollouts().undo_rollout(client.request(request)).await?.into_inner();
    say(rollout)
}

fn say(rollout: admin::Rollout) -> Result<()> {
    output::write(&output::plain_lines(&Rollout::from(rollout).line()))
}
