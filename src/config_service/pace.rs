//! How fast offers may go out.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Offers of one change that are made together are what this takes at the change's rate.
const CHUNK: Duration = Duration::from_millis(100);
/// Paces remembered; beyond, those that have nothing outstanding are dropped.
const MAX_PACES: usize = 1_024;

/// Reserves time for offers, by what they are limited by.
#[derive(Default)]
pub struct Pacer {
    /// From when on the next offer may be made.
    free_at: Mutex<HashMap<String, Instant>>,
}

impl Pacer {
    /// How many offers to make at a time, at most.
    pub fn chunk(per_second: f64) -> usize {
        ((per_second * CHUNK.as_secs_f64()) as usize).max(1)
    }

    /// When `count` offers under `name` may be made. They are counted as made then.
    pub fn reserve(&self, name: &str, per_second: f64, count: usize, now: Instant) -> Instant {
        let mut free_at = self.free_at.lock();
        if free_at.len() >= MAX_PACES {
            free_at.retain(|_, free_at| *free_at > now);
        }
        let start = free_at.get(name).copied().unwrap_or(now).max(now);
        free_at.insert(name.to_owned(), start + Duration::from_secs_f64(count as f64 / per_second));
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_spread_by_their_rate_and_idle_time_is_not_saved_up() {
        let (pacer, now) = (Pacer::default(), Instant::now());
        assert_eq!(Pacer::chunk(500.0), 50);
        assert_eq!(Pacer::chunk(0.5), 1);
        assert_eq!(pacer.reserve("a", 500.0, 50, now), now);
        assert_eq!(pacer.reserve("a", 500.0, 50, now), now + Duration::from_millis(100));
        assert_eq!(pacer.reserve("b", 500.0, 50, now), now);
        let later = now + Duration::from_secs(60);
        assert_eq!(pacer.reserve("a", 500.0, 50, later), later);
        assert_eq!(pacer.reserve("a", 500.0, 50, later), later + Duration::from_millis(100));
    }
}
