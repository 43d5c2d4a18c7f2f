//! Commands.

use serde::Serialize;

use super::rfc3339;
use crate::proto::admin;

#[derive(Serialize)]
pub struct Command {
    pub id: String,
    pub action: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub capability: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub r#type: String,
    pub addressee: String,
    pub per_second: u32,
    pub author: String,
    pub created_at: Option<String>,
    /// Null while anything is waiting or under way.
    pub finished_at: Option<String>,
    pub waiting: u64,
    pub under_way: u64,
    pub sent: u64,
    pub not_connected: u64,
    pub not_capable: u64,
    pub unknown: u64,
    pub expired: u64,
    /// Those that will not get it; at most 1000.
    pub not_sent: Vec<Outcome>,
}

#[derive(Serialize)]
pub struct Outcome {
    pub instance_uid: String,
    /// Such as `not_capable`.
    pub outcome: String,
}

impl From<admin::Command> for Command {
    fn from(command: admin::Command) -> Self {
        let action = match command.action() {
            admin::CommandAction::Restart => "restart",
            admin::CommandAction::Message => "message",
            admin::CommandAction::Unspecified => "command",
        };
        Self {
            action,
            id: command.id,
            capability: command.capability,
            r#type: command.r#type,
            addressee: command.addressee,
            per_second: command.per_second,
            author: command.author,
            created_at: rfc3339(command.create_time),
            finished_at: rfc3339(command.finish_time),
            waiting: command.waiting,
            under_way: command.under_way,
            sent: command.sent,
            not_connected: command.not_connected,
            not_capable: command.not_capable,
            unknown: command.unknown,
            expired: command.expired,
            not_sent: command.not_sent.into_iter().map(Outcome::from).collect(),
        }
    }
}

impl From<admin::CommandTarget> for Outcome {
    fn from(target: admin::CommandTarget) -> Self {
        let outcome = target.outcome().as_str_name().trim_start_matches("COMMAND_OUTCOME_").to_lowercase();
        Self { instance_uid: target.instance_uid, outcome }
    }
}
