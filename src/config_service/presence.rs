//! Which gateways live. When one has died, its agents are marked as disconnected.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    metrics,
    shared::{Outage, Shared, isolated},
};
use crate::{bus::Role, model::uid::Shard, store};

/// Agents of the dead are marked by the replica that owns this shard, so that each is marked once.
const DECIDING_SHARD: Shard = 0;
/// That replica asks the store which gateways its rows name once in so many checks of the membership list: it reads every row.
const CHECKS_PER_LOOK_AT_ROWS: u32 = 60;
/// The others do so only to forget the names of those that are long gone.
const CHECKS_PER_LOOK_OF_OTHERS: u32 = 20 * CHECKS_PER_LOOK_AT_ROWS;

/// What is known of the gateways.
pub struct Gateways {
    grace: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    alive: HashSet<String>,
    missing: HashMap<String, Missing>,
}

struct Missing {
    /// Since when, as far as the bus could be trusted all the time.
    since: Instant,
    /// Its agents have been marked.
    is_settled: bool,
}

impl Gateways {
    pub fn new(grace: Duration) -> Self {
        Self { grace, state: Mutex::default() }
    }

    /// Takes a membership list that could be read while the bus was well.
    pub fn list(&self, members: Vec<String>, now: Instant) {
        let mut state = self.state.lock();
        let members: HashSet<String> = members.into_iter().collect();
        let gone: Vec<String> = state.alive.difference(&members).cloned().collect();
        for gateway in gone {
            state.missing.entry(gateway).or_insert(Missing { since: now, is_settled: false });
        }
        state.missing.retain(|gateway, _| !members.contains(gateway));
        state.alive = members;
    }

    /// Takes the names of gateways that connected agents' rows name.
    pub fn in_use(&self, gateways: Vec<String>, now: Instant) {
        let mut state = self.state.lock();
        let named: HashSet<String> = gateways.into_iter().collect();
        state.missing.retain(|gateway, missing| !missing.is_settled || named.contains(gateway));
        for gateway in named {
            if !state.alive.contains(&gateway) {
                state.missing.entry(gateway).or_insert(Missing { since: now, is_settled: false }).is_settled = false;
            }
        }
    }

    /// The bus was away, or may have forgotten its members: whoever is missing is given the whole grace again.
    pub fn distrust(&self, now: Instant) {
        self.state.lock().missing.values_mut().for_each(|missing| missing.since = now);
    }

    /// Whether it has been missing for longer than the grace.
    pub fn is_dead(&self, gateway: &str) -> bool {
        self.state.lock().missing.get(gateway).is_some_and(|missing| missing.since.elapsed() >= self.grace)
    }

    /// The dead whose agents have not been marked yet.
    fn unsettled(&self, now: Instant) -> Vec<String> {
        let state = self.state.lock();
        let is_due = |missing: &Missing| !missing.is_settled && now.duration_since(missing.since) >= self.grace;
        state.missing.iter().filter(|(_, missing)| is_due(missing)).map(|(gateway, _)| gateway.clone()).collect()
    }

    fn settled(&self, gateway: &str) {
        if let Some(missing) = self.state.lock().missing.get_mut(gateway) {
            missing.is_settled = true;
        }
    }
}

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("watching gateways");
    let mut decided = false;
    for check in (0..CHECKS_PER_LOOK_OF_OTHERS).cycle() {
        let decides = shared.owned().contains(&DECIDING_SHARD);
        // Whoever has just become the one to decide finds what its predecessor left undone.
        let is_new = decides && !decided;
        decided = decides;
        let look_at_rows = check == 0 || is_new || decides && check % CHECKS_PER_LOOK_AT_ROWS == 0;
        let checked =
            isolated("watching gateways", stop.run_until_cancelled(look(&shared, look_at_rows, decides))).await;
        if let Some(Some(result)) = checked {
            outage.note(result);
        }
        let pause = tokio::time::sleep(shared.config.gateway_check_interval);
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

async fn look(shared: &Shared, look_at_rows: bool, decides: bool) -> store::Result<()> {
    match shared.bus.members(Role::Gateway).await {
        Ok(members) if shared.bus.is_reachable() => shared.gateways.list(members, Instant::now()),
        // Nothing is known while the bus is away, and nobody is declared dead; whoever watches the bus logs it.
        _ => {
            shared.gateways.distrust(Instant::now());
            return Ok(());
        }
    }
    if look_at_rows {
        let in_use = shared.store.gateways_in_use().await?;
        shared.gateways.in_use(in_use.into_iter().map(|(gateway, _)| gateway).collect(), Instant::now());
    }
    for gateway in shared.gateways.unsettled(Instant::now()) {
        if !decides {
            shared.gateways.settled(&gateway);
            continue;
        }
        let agents = shared.store.disconnect_gateway(&gateway).await?;
        shared.gateways.settled(&gateway);
        if agents > 0 {
            shared.outbox.some_agents_changed().await;
        }
        ::metrics::counter!(metrics::DEAD_GATEWAYS).increment(1);
        tracing::info!(gateway, agents, "gateway is gone; its agents are marked as disconnected");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_missing_gateway_is_dead_after_the_grace_and_settled_once() {
        let (gateways, start) = (Gateways::new(GRACE), Instant::now());
        gateways.list(names(&["a", "b"]), start);
        gateways.list(names(&["b"]), start);
        assert!(gateways.unsettled(start + GRACE - Duration::from_millis(1)).is_empty());
        assert_eq!(gateways.unsettled(start + GRACE), names(&["a"]));
        gateways.settled("a");
        assert!(gateways.unsettled(start + GRACE).is_empty());
        // A write that was under way named it again.
        gateways.in_use(names(&["a"]), start + GRACE);
        assert_eq!(gateways.unsettled(start + GRACE), names(&["a"]));
    }

    #[test]
    fn one_that_comes_back_lives() {
        let (gateways, start) = (Gateways::new(GRACE), Instant::now());
        gateways.list(names(&["a"]), start);
        gateways.list(names(&[]), start);
        gateways.list(names(&["a"]), start + GRACE);
        assert!(gateways.unsettled(start + 9 * GRACE).is_empty());
        assert!(!gateways.is_dead("a"));
    }

    #[test]
    fn an_untrusted_bus_starts_the_grace_again() {
        let (gateways, start) = (Gateways::new(GRACE), Instant::now());
        gateways.list(names(&["a"]), start);
        gateways.list(names(&[]), start);
        gateways.distrust(start + GRACE);
        assert!(gateways.unsettled(start + GRACE).is_empty());
        assert_eq!(gateways.unsettled(start + 2 * GRACE), names(&["a"]));
    }

    #[test]
    fn rows_of_unknown_gateways_count_from_when_they_were_first_seen() {
        let (gateways, start) = (Gateways::new(GRACE), Instant::now());
        gateways.list(names(&["a"]), start);
        gateways.in_use(names(&["a", "older"]), start);
        assert_eq!(gateways.unsettled(start + GRACE), names(&["older"]));
        gateways.settled("older");
        gateways.in_use(names(&["a"]), start + GRACE);
        assert!(gateways.state.lock().missing.is_empty());
    }
}
