//! The metrics of the config service.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

use crate::model::rollout::State;

pub const REPORTS: &str = "muster_config_reports_total";
pub const REPORTS_DROPPED: &str = "muster_config_reports_dropped_total";
pub const BATCH_REPORTS: &str = "muster_config_batch_reports";
pub const BATCH_SECONDS: &str = "muster_config_batch_seconds";
pub const CONFLICTS: &str = "muster_config_write_conflicts_total";
pub const VERDICTS: &str = "muster_config_verdicts_total";
pub const FULL_STATE: &str = "muster_config_full_state_requests_total";
pub const HELD_OPENINGS: &str = "muster_config_held_openings";
pub const PROBES: &str = "muster_config_probes_total";
pub const OFFERS: &str = "muster_config_offers_total";
pub const OFFER_LAG_SECONDS: &str = "muster_config_offer_lag_seconds";
pub const ANSWERS: &str = "muster_config_offers_answered_total";
pub const CONVERGENCE_SECONDS: &str = "muster_config_convergence_seconds";
pub const SWEEP_SECONDS: &str = "muster_config_sweep_seconds";
pub const AGENTS: &str = "muster_config_agents";
pub const AGENTS_BEHIND: &str = "muster_config_agents_behind";
pub const RECONCILE_SECONDS: &str = "muster_config_shard_reconcile_seconds";
pub const RECONCILED: &str = "muster_config_agents_reconciled_total";
pub const OWNED_SHARDS: &str = "muster_config_owned_shards";
pub const POLICY_EPOCH: &str = "muster_config_policy_epoch";
pub const BODIES: &str = "muster_config_bodies_sent_total";
pub const DEAD_GATEWAYS: &str = "muster_config_dead_gateways_total";
pub const COMPONENT_ASKS: &str = "muster_config_component_asks_total";
pub const COMPONENTS_TOLD: &str = "muster_config_components_told_total";
pub const COMMAND_TARGETS: &str = "muster_config_command_targets_total";
pub const COLLECTED: &str = "muster_config_garbage_collected_total";
pub const ROLLOUTS: &str = "muster_config_rollouts";
pub const ROLLOUTS_STOPPED: &str = "muster_config_rollouts_stopped_total";
pub const ROLLOUT_AGENTS_READ: &str = "muster_config_rollout_agents_read_total";
pub const FAILURES: &str = "muster_config_failures_total";

pub fn describe() {
    describe_gauge!(ROLLOUTS, "Rollouts that have not ended");
    describe_counter!(ROLLOUTS_STOPPED, "Rollouts that were paused or rolled back because agents failed");
    describe_counter!(
        ROLLOUT_AGENTS_READ,
        "Agents read to see how rollouts go, of all or because they changed, by cause"
    );
    describe_counter!(REPORTS, "Reports taken from the bus");
    describe_counter!(REPORTS_DROPPED, "Reports dropped because too many waited; their gateways repeat them");
    describe_histogram!(BATCH_REPORTS, Unit::Count, "Reports in a batch");
    describe_histogram!(BATCH_SECONDS, Unit::Seconds, "Time to read, decide and write a batch of reports");
    describe_counter!(CONFLICTS, "Records that another replica wrote first, and that were decided again");
    describe_counter!(VERDICTS, "Verdicts sent to gateways");
    describe_counter!(FULL_STATE, "Verdicts that ask for an agent's full state");
    describe_gauge!(HELD_OPENINGS, "Openings that wait for a probe, by worker");
    describe_counter!(PROBES, "Probes of older connections, by what was found");
    describe_counter!(OFFERS, "Offers made, by what led to them");
    describe_histogram!(OFFER_LAG_SECONDS, Unit::Seconds, "Time from a policy's revision to an offer that it caused");
    describe_counter!(ANSWERS, "Offers that agents answered, by kind and by what they say of it");
    describe_histogram!(
        CONVERGENCE_SECONDS,
        Unit::Seconds,
        "Time from a policy's revision to each agent that says it has what it was offered because of it"
    );
    describe_histogram!(SWEEP_SECONDS, Unit::Seconds, "Time to look for what a lost message left undone");
    describe_gauge!(AGENTS, "Agents of this replica by kind of policy and status, as the full sweep last saw them");
    describe_gauge!(AGENTS_BEHIND, "Connected agents of this replica without what they should have, at the last sweep");
    describe_histogram!(RECONCILE_SECONDS, Unit::Seconds, "Time to bring one shard to a new policy epoch");
    describe_counter!(RECONCILED, "Agents whose desired state was computed by reconciliation and sweeps");
    describe_gauge!(OWNED_SHARDS, "Shards that this replica owns");
    describe_gauge!(POLICY_EPOCH, "Epoch of the policies in memory");
    describe_counter!(BODIES, "Bodies of configurations sent to gateways");
    describe_counter!(DEAD_GATEWAYS, "Gateways found dead, whose agents were marked as disconnected");
    describe_counter!(COMPONENT_ASKS, "Agents asked for the components that they are built from");
    describe_counter!(COMPONENTS_TOLD, "Sets of components that agents told, also those that were known");
    describe_counter!(COMMAND_TARGETS, "Agents' parts of commands, by the state that they came to");
    describe_counter!(COLLECTED, "Contents and configurations deleted because nothing referred to them");
    describe_counter!(FAILURES, "Failed attempts, by what was attempted; all are made again");
    // So that the first event is an increase.
    for name in [
        REPORTS,
        REPORTS_DROPPED,
        CONFLICTS,
        VERDICTS,
        FULL_STATE,
        BODIES,
        DEAD_GATEWAYS,
        COLLECTED,
        COMPONENT_ASKS,
        COMPONENTS_TOLD,
    ] {
        counter!(name).increment(0);
    }
    for state in [State::Paused, State::RollingBack] {
        counter!(ROLLOUTS_STOPPED, "state" => state.name()).increment(0);
    }
}
