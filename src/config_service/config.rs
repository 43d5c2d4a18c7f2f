//! Settings of the config service.

use std::time::Duration;

use super::{Approval, Error};

/// Settings, with defaults for production. Times are long enough to cost little and short enough that what a lost
/// message leaves undone is done before anyone asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where agents reach this deployment, such as `wss://opamp.example.com/v1/opamp`: offered to agents that are to connect
    /// with other credentials where no policy says where to. Empty if it is not known.
    pub opamp_url: String,
    /// Where agents fetch packages that are hosted here, such as `https://opamp.example.com/v1/packages/`: what stands in
    /// front of a file's hash. Empty if it is not known: such packages are not offered then.
    pub package_url: String,
    /// How long to wait for more reports before a batch that is not full is taken.
    pub batch_wait: Duration,
    /// Most reports in one batch: one read and one write of the store. At most [`crate::store::MAX_BATCH`].
    pub batch_size: usize,
    /// Tasks that take batches side by side. The shards are divided among them.
    pub ingest_workers: usize,
    /// Reports waiting for a worker; more are dropped, and come again because nobody acknowledged them.
    pub queue_reports: usize,
    /// Bytes of reports waiting for a worker, and as many again held back for a probe; more are dropped likewise.
    pub queue_bytes: usize,
    /// How long a gateway may take to say whether an older connection of an agent lives.
    pub probe_timeout: Duration,
    /// Openings held back in memory for a probe, for each worker; more are dropped, and come again.
    pub held_openings: usize,
    /// This replica's membership ends so long after its last announcement.
    pub membership_ttl: Duration,
    /// How often the list of live gateways is read.
    pub gateway_check_interval: Duration,
    /// A gateway is dead when it has been missing from the list for so long while the bus could be trusted.
    pub gateway_grace: Duration,
    /// How often it is looked whether the policies have changed; usually a hint comes first.
    pub policy_poll_interval: Duration,
    /// How often unanswered offers are looked for.
    pub sweep_interval: Duration,
    /// In how long a time every agent's desired state is computed again, whether or not anything seems to have changed.
    pub full_sweep_interval: Duration,
    /// Agents read, decided and written at a time by reconciliation. At most [`crate::store::MAX_BATCH`].
    pub page_size: u32,
    /// Shards reconciled side by side.
    pub reconcile_shards: usize,
    /// Offers a second that a change of policies makes, over all replicas, where the policy does not say; 0 for
    /// no limit.
    pub offers_per_second: u32,
    /// Assembled configurations kept in memory, in bytes.
    pub body_cache_bytes: usize,
    /// How often contents that nothing refers to are deleted.
    pub gc_interval: Duration,
    /// Contents younger than this are never deleted. The store makes them young again only when they are a day old, and
    /// this service relies on them for an hour after that: so two days.
    pub gc_min_age: Duration,
    /// Transitions of health are kept for so long.
    pub health_history: Duration,
    /// Whether agents get certificates. Without an authority nobody does.
    pub certificate_approval: Approval,
    /// What agents are told that ask for one where nobody gets any.
    pub no_certificates: &'static str,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            opamp_url: String::new(),
            package_url: String::new(),
            batch_wait: Duration::from_millis(3),
            batch_size: 1_000,
            ingest_workers: 2,
            queue_reports: 20_000,
            queue_bytes: 256 << 20,
            probe_timeout: Duration::from_secs(3),
            held_openings: 20_000,
            membership_ttl: Duration::from_secs(5),
            gateway_check_interval: Duration::from_secs(1),
            gateway_grace: Duration::from_secs(10),
            policy_poll_interval: Duration::from_secs(3),
            sweep_interval: Duration::from_secs(15),
            full_sweep_interval: Duration::from_secs(300),
            page_size: 2_000,
            reconcile_shards: 4,
            offers_per_second: 0,
            body_cache_bytes: 64 << 20,
            gc_interval: Duration::from_secs(3_600),
            gc_min_age: Duration::from_secs(2 * 86_400),
            health_history: Duration::from_secs(30 * 86_400),
            certificate_approval: Approval::Manual,
            no_certificates: "this server issues no certificates",
        }
    }
}

/// See [`Config::gc_min_age`].
const LEAST_GC_AGE: Duration = Duration::from_secs(26 * 3_600);

impl Config {
    /// Refuses settings that cannot work, by name.
    pub fn check(&self) -> Result<(), Error> {
        let max = crate::store::MAX_BATCH;
        let rules = [
            (self.batch_size >= 1 && self.batch_size <= max, "batch_size", "must be 1 to 5000"),
            (self.ingest_workers >= 1, "ingest_workers", "must be at least 1"),
            (self.queue_reports >= self.batch_size, "queue_reports", "must be at least batch_size"),
            (self.held_openings >= 1, "held_openings", "must be at least 1"),
            (self.page_size >= 1 && self.page_size as usize <= max, "page_size", "must be 1 to 5000"),
            (self.reconcile_shards >= 1, "reconcile_shards", "must be at least 1"),
            (!self.membership_ttl.is_zero(), "membership_ttl", "must not be 0"),
            (!self.gateway_check_interval.is_zero(), "gateway_check_interval", "must not be 0"),
            (!self.policy_poll_interval.is_zero(), "policy_poll_interval", "must not be 0"),
            (!self.sweep_interval.is_zero(), "sweep_interval", "must not be 0"),
            (self.full_sweep_interval >= self.sweep_interval, "full_sweep_interval", "must be at least sweep_interval"),
            (!self.gc_interval.is_zero(), "gc_interval", "must not be 0"),
            (self.gc_min_age >= LEAST_GC_AGE, "gc_min_age", "must be at least 26 hours"),
        ];
        match rules.iter().find(|(holds, _, _)| !holds) {
            Some((_, name, problem)) => Err(Error::Setting { name, problem }),
            None => Ok(()),
        }
    }
}
