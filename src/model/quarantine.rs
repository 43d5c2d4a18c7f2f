//! When an agent's words mean that it refuses an offer.

use super::agent::{OfferStatus, Reported, Wanted};

/// Of an agent's words so many characters are kept beyond its next status.
const MAX_REFUSAL_CHARS: usize = 1_000;

/// Takes a status that the agent has just sent into its quarantine: `before` and `after` are what was known without
/// and with it. To be called only for a report that carries a status of this kind.
///
/// - FAILED with the desired hash: the agent refuses it. If it said so before and has not been offered it since (on this
///   connection), it only says it again, and a quarantine that an operator lifted stays lifted.
/// - APPLIED with another hash right after APPLYING with the desired one: the agent rolled back by itself. On a new
///   connection this proves nothing: the agent may have been restarted with an older configuration.
///   A rollback of which only the end arrives, because an outage merged the statuses, is not seen: APPLIED with the other
///   hash says nothing new. The offer is then repeated, after its usual pause, and that attempt is seen.
/// - APPLIED with the hash under quarantine: it has come round.
pub fn take_status(before: &Reported, after: &Reported, desired: &mut Wanted, new_connection: bool) {
    let reports = |hash: Option<super::ContentHash>| hash.is_some_and(|hash| after.hash[..] == hash.0);
    match after.status {
        OfferStatus::Failed if reports(desired.hash) => {
            let is_restated =
                before.status == OfferStatus::Failed && before.hash == after.hash && desired.offered_at.is_none();
            if !is_restated {
                desired.quarantined = desired.hash;
                desired.refusal = after.error.chars().take(MAX_REFUSAL_CHARS).collect();
            }
        }
        OfferStatus::Applied if reports(desired.quarantined) => {
            desired.quarantined = None;
            desired.refusal = String::new();
        }
        // If it is in quarantine already, what it said before it went back stays.
        OfferStatus::Applied
            if !new_connection && rolled_back(before, after, desired) && desired.quarantined != desired.hash =>
        {
            desired.quarantined = desired.hash;
            desired.refusal = String::new();
        }
        _ => {}
    }
    if reports(desired.hash) {
        desired.offer_attempts = 0;
    }
}

fn rolled_back(before: &Reported, after: &Reported, desired: &Wanted) -> bool {
    let was_applying =
        before.status == OfferStatus::Applying && desired.hash.is_some_and(|hash| before.hash[..] == hash.0);
    was_applying && !after.hash.is_empty() && after.hash != before.hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ContentHash;

    const A: ContentHash = ContentHash([1; 32]);
    const B: ContentHash = ContentHash([2; 32]);

    /// The quarantine after an agent that should have B said these, having been offered B on this connection.
    fn quarantined_after(statuses: &[(OfferStatus, ContentHash)]) -> Option<ContentHash> {
        let mut desired = Wanted { hash: Some(B), offered_at: Some(1), ..Wanted::default() };
        let mut before = Reported::default();
        for (status, hash) in statuses {
            let after = Reported { status: *status, hash: hash.to_bytes(), ..before.clone() };
            take_status(&before, &after, &mut desired, false);
            before = after;
        }
        desired.quarantined
    }

    #[test]
    fn the_supervisors_rollback_is_a_refusal() {
        use OfferStatus::{Applied, Applying, Failed};
        assert_eq!(quarantined_after(&[(Applied, A), (Applying, B), (Failed, B), (Applied, A)]), Some(B));
        // As a merge of reports may show it.
        assert_eq!(quarantined_after(&[(Applying, B), (Applied, A)]), Some(B));
    }

    #[test]
    fn what_an_agent_said_when_it_refused_is_kept_until_it_comes_round() {
        use OfferStatus::{Applied, Applying, Failed};
        let mut desired = Wanted { hash: Some(B), offered_at: Some(1), ..Wanted::default() };
        let mut before = Reported::default();
        let mut says = |status, hash: ContentHash, error: &str| {
            let after = Reported { status, hash: hash.to_bytes(), error: error.to_owned() };
            take_status(&before, &after, &mut desired, false);
            before = after;
            desired.refusal.clone()
        };
        says(Applying, B, "");
        assert_eq!(says(Failed, B, "no such receiver"), "no such receiver");
        assert_eq!(says(Applied, A, ""), "no such receiver");
        assert_eq!(says(Applied, B, ""), "");
        assert_eq!(says(Failed, B, &"x".repeat(5_000)).len(), 1_000);
    }

    #[test]
    fn a_rollback_that_was_merged_away_is_seen_at_the_next_attempt() {
        use OfferStatus::{Applied, Applying, Failed};
        let unseen = [(Applied, A), (Applied, A)];
        assert_eq!(quarantined_after(&unseen), None);
        assert_eq!(quarantined_after(&[&unseen[..], &[(Applying, B), (Failed, B), (Applied, A)]].concat()), Some(B));
    }

    #[test]
    fn success_and_other_hashes_are_not() {
        use OfferStatus::{Applied, Applying, Failed};
        assert_eq!(quarantined_after(&[(Applied, A), (Applying, B), (Applied, B)]), None);
        assert_eq!(quarantined_after(&[(Failed, A), (Applied, A)]), None);
        assert_eq!(quarantined_after(&[(Applying, B), (Applied, B), (Applied, A)]), None);
        assert_eq!(quarantined_after(&[(Failed, B), (Applied, B)]), None);
        // Applied, and later failed.
        assert_eq!(quarantined_after(&[(Applied, B), (Failed, B)]), Some(B));
    }

    #[test]
    fn an_older_configuration_on_a_new_connection_is_not_a_rollback() {
        let mut desired = Wanted { hash: Some(B), ..Wanted::default() };
        let state = |status, hash: ContentHash| Reported { status, hash: hash.to_bytes(), ..Reported::default() };
        take_status(&state(OfferStatus::Applying, B), &state(OfferStatus::Applied, A), &mut desired, true);
        assert_eq!(desired.quarantined, None);
    }

    #[test]
    fn a_lifted_quarantine_stays_lifted_until_the_agent_was_offered_it_again() {
        let failed = Reported { status: OfferStatus::Failed, hash: B.to_bytes(), ..Reported::default() };
        let mut desired = Wanted { hash: Some(B), ..Wanted::default() };
        take_status(&failed, &failed, &mut desired, true);
        assert_eq!(desired.quarantined, None);
        desired.offered_at = Some(1);
        take_status(&failed, &failed, &mut desired, false);
        assert_eq!(desired.quarantined, Some(B));
    }
}
