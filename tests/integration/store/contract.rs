//! Every test of the contract, run over both stores.

use super::{
    agents, certificates, commands, concurrency, contents, moves, overrides, package_files, policies, rollouts, sets,
    tokens,
};

macro_rules! contract {
    ($($module:ident: $($test:ident)*;)*) => {
        mod sqlite {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fixture = super::super::sqlite().await;
                    super::$module::$test(&fixture.store).await;
                }
            )*)*
        }

        mod postgres {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fixture = super::super::postgres().await;
                    super::$module::$test(&fixture.store).await;
                }
            )*)*
        }
    };
}

contract! {
    rollouts:
        a_revision_without_a_plan_is_for_everybody
        a_rollout_divides_the_fleet_until_it_ends
        only_the_next_state_of_the_stored_one_is_written
        a_new_revision_takes_the_place_of_a_rollout
        one_holds_a_lease;
    agents:
        every_value_comes_back_as_it_went
        only_the_stored_version_can_be_written
        what_is_desired_is_written_alone
        labels_belong_to_operators
        a_write_stores_bodies
        pages_are_in_order_and_filtered
        quarantine_is_lifted
        a_forgotten_agent_is_gone
        a_gateways_agents_are_disconnected
        the_fleet_is_counted;
    certificates:
        a_certificate_is_requested_once
        an_approval_reaches_the_agents_record
        a_denial_takes_a_certificate_back
        the_first_use_supersedes_what_came_before
        certificates_are_listed_and_forgotten;
    commands:
        a_command_is_made_once
        a_target_is_claimed_once_and_settled_once
        announcements_are_kept_field_by_field
        the_history_of_health_is_bounded
        components_are_asked_for_and_told_once;
    contents:
        bodies_and_configs_are_kept
        garbage_is_what_nothing_refers_to;
    overrides:
        overrides_are_made_together_and_once
        overrides_that_cannot_be_are_refused
        there_are_only_so_many_overrides
        overrides_go_with_their_policy_and_their_agent
        overrides_stand_while_a_rollout_goes_on
        overrides_expire;
    policies:
        revisions_follow_each_other
        nothing_is_written_when_only_validating
        etags_guard
        a_deleted_policy_starts_again
        bodies_must_be_known
        policies_are_listed_in_the_order_of_bytes
        progress_never_goes_back;
    moves:
        an_agent_moves_with_all_that_is_kept_of_it
        only_the_agent_that_was_read_is_moved_and_to_a_free_uid
        all_former_uids_lead_to_the_present_one
        temporary_uids_are_forgotten;
    sets:
        a_set_is_applied_with_one_epoch
        a_set_is_refused_as_a_whole
        validating_a_set_writes_nothing
        revisions_are_read_one_by_one;
    tokens:
        tokens_live_until_they_expire_or_are_revoked
        names_are_unique_while_alive
        the_list_of_agent_tokens_has_a_version
        the_audit_log_tells_all_changes;
    package_files:
        package_files_are_known_until_they_are_deleted
        a_package_file_that_a_policy_offers_stays
        a_package_file_that_agents_may_have_stays
        offering_and_deleting_a_package_file_take_turns
        the_package_key_is_made_once;
    concurrency:
        of_two_writers_one_wins
        of_two_applies_with_one_etag_one_wins
        applies_take_turns
        a_check_finds_the_schema;
}
