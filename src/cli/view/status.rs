//! Statuses of agents.

use crate::{model::status::Status, proto::admin::AgentStatus};

const PREFIX: &str = "AGENT_STATUS_";

/// Without the prefix of the API.
pub fn name(status: AgentStatus) -> String {
    status.as_str_name().trim_start_matches(PREFIX).to_owned()
}

/// As requests have them.
pub fn numbers(statuses: &[Status]) -> Vec<i32> {
    let number = |status: &Status| AgentStatus::from_str_name(&format!("{PREFIX}{status}"));
    statuses.iter().filter_map(number).map(i32::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_asked_for() {
        assert_eq!(numbers(&Status::EVERY).len(), Status::EVERY.len());
        assert_eq!(name(AgentStatus::RolledBack), "ROLLED_BACK");
    }
}
