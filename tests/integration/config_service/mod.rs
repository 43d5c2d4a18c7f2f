//! The config service over real stores and buses, with gateways played by a script.

#![allow(clippy::unwrap_used)]

mod certificates;
pub mod cluster;
mod commands;
mod drift;
mod gateway;
mod moves;
mod offers;
mod openings;
mod outages;
mod packages;
mod replicas;
mod settings;
mod templates;

/// Every test, over SQLite and the in-process bus and over Postgres and Redis.
macro_rules! on_both {
    ($($module:ident: $($test:ident)*;)*) => {
        on_both!(in_process, InProcess, $($module $($test)*;)*);
        on_both!(servers, Servers, $($module $($test)*;)*);
    };
    ($name:ident, $backend:ident, $($module:ident $($test:ident)*;)*) => {
        mod $name {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$module::$test(super::cluster::Backend::$backend).await;
                }
            )*)*
        }
    };
}

on_both! {
    certificates:
        an_agent_gets_the_certificate_that_it_asks_for
        gateways_are_told_by_themselves_whether_certificates_are_issued
        an_operator_decides_and_a_renewal_is_not_asked_about
        a_request_that_is_refused_is_answered_with_the_reason
        a_new_key_each_time_comes_to_an_end
        a_certificate_works_until_the_next_is_used
        of_two_live_agents_the_second_gets_a_certificate_of_its_own;
    commands:
        a_restart_goes_to_the_connection_of_each_agent_that_can
        an_unanswered_command_is_published_again_for_the_same_connection
        an_agent_that_has_moved_gets_it_where_it_is
        what_is_held_for_a_connection_ends_with_it
        another_replica_takes_up_what_is_under_way
        a_gateway_that_dies_takes_the_fate_of_its_commands_along
        a_command_keeps_to_its_rate
        a_message_goes_to_agents_that_announced_its_capability
        transitions_of_health_are_recorded_and_reports_are_not
        components_are_asked_of_one_agent_for_all
        an_agent_that_does_not_answer_holds_up_nobody;
    moves:
        the_record_of_an_agent_goes_with_it
        the_next_connection_may_ask_as_well
        who_asks_beside_a_living_agent_is_a_new_one
        who_comes_back_under_the_old_uid_has_its_record_there
        the_same_request_at_another_gateway_is_answered_by_the_same_uid
        who_leaves_before_it_hears_of_its_uid_leaves_nothing
        two_owners_move_an_agent_once
        a_command_goes_to_the_agent_by_its_new_uid;
    drift:
        an_agent_drifts_from_what_it_applied_and_comes_back
        what_never_was_the_same_has_not_drifted
        what_is_right_again_without_a_report_is_found;
    offers:
        a_verdict_offers_and_the_body_comes_on_request
        a_change_of_policies_reaches_every_gateway_with_its_body_first
        a_policy_that_nobody_was_told_of_is_found_by_the_timer
        a_refused_config_stays_away_until_it_is_lifted_or_changed
        labels_change_what_an_agent_gets
        an_offer_that_was_not_answered_is_repeated_by_the_sweep
        an_agent_that_cannot_answer_gets_an_offer_that_was_lost
        agent_tokens_come_on_request_and_on_change
        a_quarantine_that_was_lifted_unheard_is_found_by_the_sweep
        a_slow_policy_holds_up_nobody_else
        agents_that_come_back_keep_to_the_pace
        whoever_watches_agents_hears_of_visible_changes;
    openings:
        a_first_full_report_is_stored_and_a_lost_verdict_repeated
        an_unknown_agents_delta_and_a_gap_ask_for_everything
        after_a_clean_close_an_empty_delta_elsewhere_is_enough
        a_connection_that_is_gone_is_taken_over_with_its_number
        a_probe_without_an_answer_ends_in_a_takeover
        who_lives_on_after_a_probe_that_was_not_answered_is_not_forgotten
        the_end_of_the_old_connection_answers_its_probe
        a_live_duplicate_gets_a_uid_of_its_own
        several_reports_of_one_agent_in_a_batch_are_all_taken;
    packages:
        packages_are_offered_until_they_are_installed
        a_failed_installation_is_not_offered_again_unchanged
        packages_that_end_their_agent_are_not_offered_for_ever
        packages_are_withdrawn_only_where_a_policy_says_so
        uploaded_packages_come_with_where_they_are;
    replicas:
        no_offer_is_wasted_on_a_bus_that_is_away
        two_owners_of_every_shard_do_no_harm
        another_replica_takes_over_from_one_that_was_killed
        agents_that_report_while_policies_change_end_with_the_newest
        a_dead_gateways_agents_are_marked_and_come_back_elsewhere
        a_restart_asks_nobody_for_anything;
    settings:
        what_was_sent_is_remembered_by_every_node
        refused_settings_are_not_offered_again
        a_new_capability_brings_an_offer;
    templates:
        each_agent_gets_what_is_written_for_it
        equal_results_are_one_and_stay_for_as_long_as_they_are_used
        labels_and_attributes_write_anew
        what_cannot_be_written_is_not_offered_in_part
        a_template_that_comes_to_the_same_changes_nothing;
}
