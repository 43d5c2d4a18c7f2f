//! Following a rollout: drawn in place on a terminal, a line for each change elsewhere. A lost connection is made anew.

use std::{
    cell::Cell,
    pin::pin,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Code, Status, Streaming};

use crate::{
    cli::{
        connection::Client,
        error::{Error, Result},
        output::{self, Format},
        text::{self, Line, Live, Screen, Style},
        view::rollout::Rollout,
    },
    proto::admin::{self, GetRolloutRequest, RolloutState},
};

/// Between attempts to reach the server again.
const RECONNECT: Duration = Duration::from_secs(1);
/// How often times are shown anew.
const TICK: Duration = Duration::from_secs(1);
/// As shells have it for who ends a program by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Shows each change, until the rollout has ended, or also until it is paused; returns the last.
pub async fn follow(
    client: &Client,
    request: GetRolloutRequest,
    ends_when_paused: bool,
    format: Format,
) -> Result<admin::Rollout> {
    let is_lost = Cell::new(false);
    let mut watch = Watch { client, request, states: None, has_seen: false, is_lost: &is_lost };
    if format == Format::Table && text::is_steerable() {
        let mut live = Live::default();
        return draw(&mut watch, &mut live, ends_when_paused).await;
    }
    let mut printed = String::new();
    loop {
        let rollout = watch.next().await?;
        let view = Rollout::from(rollout.clone());
        match format {
            Format::Json => output::write(&(serde_json::to_string(&view).map_err(|e| e.to_string())? + "\n"))?,
            Format::Yaml => output::structured(format, &view)?,
            Format::Table | Format::Wide | Format::Name => {
                let line = output::plain_lines(&view.line());
                if line != printed {
                    output::write(&line)?;
                    printed = line;
                }
            }
        }
        if is_last(&rollout, ends_when_paused) {
            return Ok(rollout);
        }
    }
}

fn is_last(rollout: &admin::Rollout, ends_when_paused: bool) -> bool {
    rollout.end_time.is_some() || ends_when_paused && rollout.state() == RolloutState::Paused
}

async fn draw(watch: &mut Watch<'_>, live: &mut Live, ends_when_paused: bool) -> Result<admin::Rollout> {
    let failed = |error: std::io::Error| Error::Message(format!("signals: {error}"));
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut tick = tokio::time::interval(TICK);
    let is_lost = watch.is_lost;
    let mut last: Option<admin::Rollout> = None;
    loop {
        let mut next = pin!(watch.next());
        let rollout = loop {
            tokio::select! {
                rollout = &mut next => break rollout?,
                _ = interrupted.recv() => {
                    let text = "no longer watched; the rollout goes on".to_owned();
                    return Err(Error::Exit(INTERRUPTED, text));
                }
                _ = resized.recv() => {}
                _ = tick.tick() => {}
            }
            if let Some(last) = &last {
                live.draw(&picture(last, is_lost.get()))?;
            }
        };
        live.draw(&picture(&rollout, false))?;
        if is_last(&rollout, ends_when_paused) {
            return Ok(rollout);
        }
        last = Some(rollout);
    }
}

/// As wide as the terminal is now.
pub fn picture(rollout: &admin::Rollout, is_lost: bool) -> Vec<Line> {
    let counted = rollout.counts_time.map_or(0, |at| Timestamp::now().as_second().saturating_sub(at.seconds));
    let age_seconds = u64::try_from(counted).unwrap_or(0);
    let mut lines = Rollout::from(rollout.clone()).picture(Screen::now().width, age_seconds);
    if is_lost {
        lines.push(Line::new("  ").and(Style::Waiting, "the connection to the server is lost; trying again"));
    }
    lines
}

/// The states of one rollout, over as many connections as it takes.
struct Watch<'a> {
    client: &'a Client,
    /// Of the revision that was seen first.
    request: GetRolloutRequest,
    states: Option<Streaming<admin::Rollout>>,
    has_seen: bool,
    is_lost: &'a Cell<bool>,
}

impl Watch<'_> {
    /// The present state comes first on each connection, so that nothing is missed but what was between.
    async fn next(&mut self) -> Result<admin::Rollout> {
        let mut attempted = None;
        loop {
            match self.attempt().await {
                Ok(Some(rollout)) => {
                    self.has_seen = true;
                    self.request.revision = rollout.revision;
                    self.is_lost.set(false);
                    return Ok(rollout);
                }
                Ok(None) => {}
                // What was never reached is more likely wrong than away.
                Err(status) if self.has_seen && is_connection_lost(&status) => {}
                Err(status) => return Err(status.into()),
            }
            self.states = None;
            if !self.is_lost.replace(true) && !text::is_steerable() {
                eprintln!("note: the connection to the server is lost; trying again");
            }
            let since = attempted.replace(Instant::now()).map_or(Duration::ZERO, |at: Instant| at.elapsed());
            tokio::time::sleep(RECONNECT.saturating_sub(since)).await;
        }
    }

    async fn attempt(&mut self) -> std::result::Result<Option<admin::Rollout>, Status> {
        if self.states.is_none() {
            let request = self.client.request(self.request.clone());
            self.states = Some(self.client.rollouts().watch_rollout(request).await?.into_inner());
        }
        match &mut self.states {
            Some(states) => states.message().await,
            None => Ok(None),
        }
    }
}

/// What the server says carries details; the network's own errors do not, and come under several codes.
fn is_connection_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable
        || status.details().is_empty()
            && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_told_from_a_refusal() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled] {
            assert!(is_connection_lost(&Status::new(code, "broken pipe")));
        }
        assert!(!is_connection_lost(&Status::with_details(Code::Internal, "a bug", vec![1].into())));
        assert!(!is_connection_lost(&Status::new(Code::Unauthenticated, "revoked")));
        assert!(!is_connection_lost(&Status::new(Code::NotFound, "deleted")));
    }
}
