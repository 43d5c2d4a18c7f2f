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

    /// As [`Self::reserve`], if they may be made now; else when they may at the earliest.
    pub fn try_reserve(&self, name: &str, per_second: f64, count: usize, now: Instant) -> Result<(), Instant> {
        let mut free_at = self.free_at.lock();
        match free_at.get(name) {
            Some(free_at) if *free_at > now => Err(*free_at),
            _ => {
                take(&mut free_at, name, per_second, count, now);
                Ok(())
            }
        }
    }

    /// When `count` offers under `name` may be made. They are counted as made then.
    pub fn reserve(&self, name: &str, per_second: f64, count: usize, now: Instant) -> Instant {
        take(&mut self.free_at.lock(), name, per_second, count, now)
    }
}

fn take(free_at: &mut HashMap<String, Instant>, name: &str, per_second: f64, count: usize, now: Instant) -> Instant {
    if free_at.len() >= MAX_PACES {
        free_at.retain(|_, free_at| *free_at > now);
    }
    let start = free_at.get(name).copied().unwrap_or(now).max(now);
    free_at.insert(name.to_owned(), start + Duration::from_secs_f64(count as f64 / per_second));
    start
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
        let after = now + Duration::from_millis(2);
        assert_eq!(pacer.try_reserve("c", 500.0, 1, now), Ok(()));
        assert_eq!(pacer.try_reserve("c", 500.0, 1, now), Err(after));
        assert_eq!(pacer.try_reserve("c", 500.0, 1, after), Ok(()), "who may not has taken nothing");
        let later = now + Duration::from_secs(60);
        assert_eq!(pacer.reserve("a", 500.0, 50, later), later);
        assert_eq!(pacer.reserve("a", 500.0, 50, later), later + Duration::from_millis(100));
    }
}
