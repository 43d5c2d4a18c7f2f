//! Rollouts: how they stand, and what operators do with them.

use std::{io::IsTerminal, time::Duration};

use super::PAGE_SIZE;
use crate::{
    cli::{
        connection::Client,
        error::{Error, Result},
        output::{self, Format},
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

pub async fn status(client: &Client, policy: String, follow: Follow, format: Format) -> Result<()> {
    let request = GetRolloutRequest { policy: policy.clone() };
    match follow {
        Follow::No => {
            let rollout = client.rollouts().get_rollout(client.request(request)).await?.into_inner();
            show(&rollout, format)
        }
        Follow::Watch => self::follow(client, &policy, false, format).await.map(drop),
        Follow::Wait { timeout } => {
            let waiting = self::follow(client, &policy, true, format);
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
    let view = Rollout::from(rollout.clone());
    match format {
        Format::Table => output::write(&view.picture()),
        _ => output::one(format, &view),
    }
}

/// Shows each change; returns the last. A lost connection is made anew.
async fn follow(client: &Client, policy: &str, ends_when_paused: bool, format: Format) -> Result<admin::Rollout> {
    let request = GetRolloutRequest { policy: policy.to_owned() };
    let is_live = format == Format::Table && std::io::stdout().is_terminal();
    let mut lines_shown = 0;
    let mut last: Option<admin::Rollout> = None;
    loop {
        let mut states = match client.rollouts().watch_rollout(client.request(request.clone())).await {
            Ok(states) => states.into_inner(),
            Err(status) if status.code() == tonic::Code::Unavailable && last.is_some() => {
                tokio::time::sleep(RECONNECT).await;
                continue;
            }
            Err(status) => return Err(status.into()),
        };
        loop {
            let rollout = match states.message().await {
                Ok(Some(rollout)) => rollout,
                Ok(None) => break,
                Err(status) if status.code() == tonic::Code::Unavailable => break,
                Err(status) => return Err(status.into()),
            };
            let view = Rollout::from(rollout.clone());
            match format {
                Format::Table if is_live => {
                    let picture = output::plain_lines(&view.picture());
                    let back = if lines_shown > 0 { format!("\u{1b}[{lines_shown}A\u{1b}[J") } else { String::new() };
                    output::write(&format!("{back}{picture}"))?;
                    lines_shown = picture.lines().count();
                }
                Format::Table | Format::Wide | Format::Name => output::write(&output::plain_lines(&view.line()))?,
                Format::Json => output::write(&(serde_json::to_string(&view).map_err(|e| e.to_string())? + "\n"))?,
                Format::Yaml => output::structured(format, &view)?,
            }
            let has_ended = rollout.end_time.is_some();
            let is_paused = ends_when_paused && rollout.state() == RolloutState::Paused;
            if has_ended || is_paused {
                return Ok(rollout);
            }
            last = Some(rollout);
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

const RECONNECT: Duration = Duration::from_secs(1);

pub async fn list(client: &Client, format: Format) -> Result<()> {
    history_of(client, String::new(), format).await
}

pub async fn history(client: &Client, policy: String, format: Format) -> Result<()> {
    history_of(client, policy, format).await
}

async fn history_of(client: &Client, policy: String, format: Format) -> Result<()> {
    let mut rollouts: Vec<Rollout> = Vec::new();
    let mut request = ListRolloutsRequest { policy, page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.rollouts().list_rollouts(client.request(request.clone())).await?.into_inner();
        rollouts.extend(page.rollouts.into_iter().map(Rollout::from));
        if page.next_page_token.is_empty() {
            return output::list(format, &rollouts);
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
