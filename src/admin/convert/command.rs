//! Commands.

use super::timestamp;
use crate::{
    model::command::{Action, Target, TargetState},
    proto::admin,
    store::CommandProgress,
};

pub fn command(progress: &CommandProgress, not_sent: &[Target]) -> admin::Command {
    let CommandProgress { command, counts } = progress;
    let count = |state| counts.get(&state).copied().unwrap_or(0);
    let (action, capability, r#type) = match &command.action {
        Action::Restart => (admin::CommandAction::Restart, String::new(), String::new()),
        Action::Message(message) => (admin::CommandAction::Message, message.capability.clone(), message.r#type.clone()),
    };
    admin::Command {
        id: command.id.to_string(),
        action: action.into(),
        capability,
        r#type,
        addressee: command.addressee.clone(),
        per_second: command.per_second,
        author: command.author.clone(),
        create_time: Some(timestamp(command.created_at)),
        finish_time: command.finished_at.map(timestamp),
        waiting: count(TargetState::Waiting),
        under_way: count(TargetState::UnderWay),
        sent: count(TargetState::Sent),
        not_connected: count(TargetState::NotConnected),
        not_capable: count(TargetState::NotCapable),
        unknown: count(TargetState::Unknown),
        expired: count(TargetState::Expired),
        not_sent: not_sent.iter().map(target).collect(),
    }
}

pub fn target(target: &Target) -> admin::CommandTarget {
    admin::CommandTarget { instance_uid: target.uid.to_string(), outcome: outcome(target.state).into() }
}

fn outcome(state: TargetState) -> admin::CommandOutcome {
    match state {
        TargetState::Waiting => admin::CommandOutcome::Waiting,
        TargetState::UnderWay => admin::CommandOutcome::UnderWay,
        TargetState::Sent => admin::CommandOutcome::Sent,
        TargetState::NotConnected => admin::CommandOutcome::NotConnected,
        TargetState::NotCapable => admin::CommandOutcome::NotCapable,
        TargetState::Unknown => admin::CommandOutcome::Unknown,
        TargetState::Expired => admin::CommandOutcome::Expired,
    }
}
