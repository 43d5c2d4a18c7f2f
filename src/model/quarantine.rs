//! When an agent's words mean that it refuses a configuration.

use super::agent::{ConfigStatus, Desired, Observed};

/// Takes a status that the agent has just sent into its quarantine: `before` and `after` are what was known without
/// and with it. To be called only for a report that carries a remote config status.
///
/// - FAILED with the desired hash: the agent refuses it. If it said so before and has not been offered it since (on this
///   connection), it only says it again, and a quarantine that an operator lifted stays lifted.
/// - APPLIED with another hash right after APPLYING with the desired one: the agent rolled back by itself. On a new
///   connection this proves nothing: the agent may have been restarted with an older configuration.
///   A rollback of which only the end arrives, because an outage merged the statuses, is not seen: APPLIED with the other
///   hash says nothing new. The offer is then repeated, after its usual pause, and that attempt is seen.
/// - APPLIED with the hash under quarantine: it has come round.
pub fn take_status(before: &Observed, after: &Observed, desired: &mut Desired, new_connection: bool) {
    let reports = |hash: Option<super::ContentHash>| hash.is_some_and(|hash| after.reported_config_hash[..] == hash.0);
    match after.config_status {
        ConfigStatus::Failed if reports(desired.config) => {
            let is_restated = before.config_status == ConfigStatus::Failed
                && before.reported_config_hash == after.reported_config_hash
                && desired.offered_at.is_none();
            if !is_restated {
                desired.quarantined = desired.config;
            }
        }
        ConfigStatus::Applied if reports(desired.quarantined) => desired.quarantined = None,
        ConfigStatus::Applied if !new_connection && rolled_back(before, after, desired) => {
            desired.quarantined = desired.config;
        }
        _ => {}
    }
    if reports(desired.config) {
        desired.offer_attempts = 0;
    }
}

fn rolled_back(before: &Observed, after: &Observed, desired: &Desired) -> bool {
    let was_applying = before.config_status == ConfigStatus::Applying
        && desired.config.is_some_and(|hash| before.reported_config_hash[..] == hash.0);
    was_applying && !after.reported_config_hash.is_empty() && after.reported_config_hash != before.reported_config_hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ContentHash;

    const A: ContentHash = ContentHash([1; 32]);
    const B: ContentHash = ContentHash([2; 32]);

    /// The quarantine after an agent that should have B said these, having been offered B on this connection.
    fn quarantined_after(statuses: &[(ConfigStatus, ContentHash)]) -> Option<ContentHash> {
        let mut desired = Desired { config: Some(B), offered_at: Some(1), ..Desired::default() };
        let mut before = Observed::default();
        for (config_status, hash) in statuses {
            let after =
                Observed { config_status: *config_status, reported_config_hash: hash.to_bytes(), ..before.clone() };
            take_status(&before, &after, &mut desired, false);
            before = after;
        }
        desired.quarantined
    }

    #[test]
    fn the_supervisors_rollback_is_a_refusal() {
        use ConfigStatus::{Applied, Applying, Failed};
        assert_eq!(quarantined_after(&[(Applied, A), (Applying, B), (Failed, B), (Applied, A)]), Some(B));
        // As a merge of reports may show it.
        assert_eq!(quarantined_after(&[(Applying, B), (Applied, A)]), Some(B));
    }

    #[test]
    fn a_rollback_that_was_merged_away_is_seen_at_the_next_attempt() {
        use ConfigStatus::{Applied, Applying, Failed};
        let unseen = [(Applied, A), (Applied, A)];
        assert_eq!(quarantined_after(&unseen), None);
        assert_eq!(quarantined_after(&[&unseen[..], &[(Applying, B), (Failed, B), (Applied, A)]].concat()), Some(B));
    }

    #[test]
    fn success_and_other_hashes_are_not() {
        use ConfigStatus::{Applied, Applying, Failed};
        assert_eq!(quarantined_after(&[(Applied, A), (Applying, B), (Applied, B)]), None);
        assert_eq!(quarantined_after(&[(Failed, A), (Applied, A)]), None);
        assert_eq!(quarantined_after(&[(Applying, B), (Applied, B), (Applied, A)]), None);
        assert_eq!(quarantined_after(&[(Failed, B), (Applied, B)]), None);
        // Applied, and later failed.
        assert_eq!(quarantined_after(&[(Applied, B), (Failed, B)]), Some(B));
    }

    #[test]
    fn an_older_configuration_on_a_new_connection_is_not_a_rollback() {
        let mut desired = Desired { config: Some(B), ..Desired::default() };
        let state = |config_status, hash: ContentHash| Observed {
            config_status,
            reported_config_hash: hash.to_bytes(),
            ..Observed::default()
        };
        take_status(&state(ConfigStatus::Applying, B), &state(ConfigStatus::Applied, A), &mut desired, true);
        assert_eq!(desired.quarantined, None);
    }

    #[test]
    fn a_lifted_quarantine_stays_lifted_until_the_agent_was_offered_it_again() {
        let failed =
            Observed { config_status: ConfigStatus::Failed, reported_config_hash: B.to_bytes(), ..Observed::default() };
        let mut desired = Desired { config: Some(B), ..Desired::default() };
        take_status(&failed, &failed, &mut desired, true);
        assert_eq!(desired.quarantined, None);
        desired.offered_at = Some(1);
        take_status(&failed, &failed, &mut desired, false);
        assert_eq!(desired.quarantined, Some(B));
    }
}
