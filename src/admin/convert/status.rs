//! Statuses of agents.

use tonic::Status as Refusal;

use crate::{
    admin::errors,
    model::{effective::Effective, status::Status},
    proto::admin::{AgentStatus, EffectiveConfigState},
};

pub fn word(status: Status) -> AgentStatus {
    match status {
        Status::NothingDesired => AgentStatus::NothingDesired,
        Status::NotCapable => AgentStatus::NotCapable,
        Status::Pending => AgentStatus::Pending,
        Status::Offered => AgentStatus::Offered,
        Status::Delivered => AgentStatus::Delivered,
        Status::Applying => AgentStatus::Applying,
        Status::Applied => AgentStatus::Applied,
        Status::Healthy => AgentStatus::Healthy,
        Status::Unhealthy => AgentStatus::Unhealthy,
        Status::Failed => AgentStatus::Failed,
        Status::Quarantined => AgentStatus::Quarantined,
        Status::RolledBack => AgentStatus::RolledBack,
        Status::Unreachable => AgentStatus::Unreachable,
        Status::Drifted => AgentStatus::Drifted,
        Status::Unrenderable => AgentStatus::Unrenderable,
    }
}

pub fn effective(effective: Effective) -> EffectiveConfigState {
    match effective {
        Effective::Unknown => EffectiveConfigState::Unknown,
        Effective::Matches => EffectiveConfigState::Matches,
        Effective::Differs => EffectiveConfigState::Differs,
        Effective::Drifted | Effective::Retried => EffectiveConfigState::Drifted,
    }
}

/// The statuses of a request's field `statuses`.
pub fn asked(numbers: &[i32]) -> Result<Vec<Status>, Refusal> {
    let asked = numbers.iter().enumerate().map(|(index, number)| {
        let found = Status::EVERY.into_iter().find(|status| word(*status) as i32 == *number);
        found.ok_or_else(|| errors::invalid(&format!("statuses[{index}]"), "is no status"))
    });
    asked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_a_word_of_its_name() {
        for status in Status::EVERY {
            assert_eq!(word(status).as_str_name(), format!("AGENT_STATUS_{}", status.name()));
            assert_eq!(asked(&[word(status).into()]).unwrap(), [status]);
        }
        assert!(asked(&[0]).is_err() && asked(&[99]).is_err());
    }
}
