//! Pauses between attempts to reconnect.

use std::time::Duration;

/// Short, since a restarted Redis is back in a moment and every report waits for it.
const FIRST_MS: u64 = 50;

/// A Redis that is away for minutes is tried this often by every node.
const LONGEST_MS: u64 = 2_000;

#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure: doubling up to a cap, and then between half and all of it, so that the nodes
    /// of a fleet do not come back in step.
    pub(super) fn next_pause(&mut self) -> Duration {
        let ceiling_ms = FIRST_MS.checked_shl(self.failures).map_or(LONGEST_MS, |ms| ms.min(LONGEST_MS));
        self.failures = (self.failures + 1).min(16);
        Duration::from_millis(rand::random_range(ceiling_ms / 2..=ceiling_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap_and_start_over() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next_pause().as_millis() as u64).collect();
        assert!(pauses[0] <= FIRST_MS && pauses[39] >= LONGEST_MS / 2, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_MS), "{pauses:?}");
        backoff.reset();
        assert!(backoff.next_pause().as_millis() as u64 <= FIRST_MS);
    }
}
