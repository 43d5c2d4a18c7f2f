//! Turns for package files on their way out. Who takes hardly anything of its file while others wait loses its turn.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::packages::Error;

/// So often one of those who wait looks for one that takes too little.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Agents take a refusal for a failed installation; but nobody waits for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct Downloads {
    turns: Arc<Semaphore>,
    /// What is to be taken on average in each time of `window`, if others wait.
    bytes_per_second: u32,
    window: Duration,
    running: Mutex<HashMap<u64, Running>>,
    /// Held by the one that looks, of those who wait.
    look: tokio::sync::Mutex<()>,
    started: AtomicU64,
}

#[derive(Debug)]
struct Running {
    /// Held as long as it is here.
    _permit: OwnedSemaphorePermit,
    pace: Pace,
}

/// What was taken in the present window, and whether that was enough in the one before.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: Instant,
    bytes: u64,
    was_slow: bool,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, was_slow: false }
    }

    fn is_slow(&self, now: Instant, window: Duration, bytes_per_second: u32) -> bool {
        let elapsed = now.saturating_duration_since(self.since);
        match elapsed < window {
            true => self.was_slow,
            false => (self.bytes as f64) < elapsed.as_secs_f64() * f64::from(bytes_per_second),
        }
    }

    fn took(&mut self, bytes: u64, now: Instant, window: Duration, bytes_per_second: u32) {
        if now.saturating_duration_since(self.since) >= window {
            *self = Self { since: now, bytes: 0, was_slow: self.is_slow(now, window, bytes_per_second) };
        }
        self.bytes += bytes;
    }
}

/// The turn of one download, given back when it is dropped.
#[derive(Debug)]
pub struct Turn {
    downloads: Arc<Downloads>,
    number: u64,
}

impl Downloads {
    pub fn new(most: usize, bytes_per_second: u32, window: Duration) -> Self {
        let (running, look, started) = (Mutex::default(), Default::default(), AtomicU64::new(0));
        Self { turns: Arc::new(Semaphore::new(most)), bytes_per_second, window, running, look, started }
    }

    /// Waits for a turn; `None` if none came in a long time.
    pub async fn turn(self: &Arc<Self>) -> Option<Turn> {
        tokio::select! {
            biased;
            // The semaphore is never closed.
            permit = self.turns.clone().acquire_owned() => Some(self.begin(permit.ok()?)),
            () = self.keep_making_room() => None,
            () = tokio::time::sleep(LONGEST_WAIT) => None,
        }
    }

    /// For all who wait: the others wait here until the one that looks has its turn. Never ends.
    async fn keep_making_room(&self) {
        let _looks = self.look.lock().await;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            look.tick().await;
            self.make_room(Instant::now());
        }
    }

    fn begin(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Turn {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let running = Running { _permit: permit, pace: Pace::new(Instant::now()) };
        self.running.lock().insert(number, running);
        Turn { downloads: self.clone(), number }
    }

    /// Takes the turn of the one that has been slow for longest, if any is.
    fn make_room(&self, now: Instant) {
        let mut running = self.running.lock();
        let slow = running.iter().filter(|(_, it)| it.pace.is_slow(now, self.window, self.bytes_per_second));
        let slowest = slow.min_by_key(|(_, it)| it.pace.since).map(|(number, _)| *number);
        if let Some(number) = slowest {
            running.remove(&number);
        }
    }
}

impl Turn {
    /// Takes note that the peer took so much; an error if the turn is over.
    pub fn took(&self, bytes: usize) -> Result<(), Error> {
        let Downloads { window, bytes_per_second, .. } = *self.downloads;
        match self.downloads.running.lock().get_mut(&self.number) {
            Some(running) => {
                running.pace.took(bytes as u64, Instant::now(), window, bytes_per_second);
                Ok(())
            }
            None => Err(Error::TooSlow),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.downloads.running.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn who_takes_too_little_in_a_window_is_slow_until_it_takes_enough_in_another() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut after = |seconds: u64, bytes: u64| {
            let now = start + Duration::from_secs(seconds);
            let is_slow = pace.is_slow(now, WINDOW, 100);
            pace.took(bytes, now, WINDOW, 100);
            is_slow
        };
        assert!(!after(0, 10), "it has just begun");
        assert!(!after(9, 10));
        assert!(after(10, 500), "20 bytes in ten seconds");
        assert!(after(15, 600), "until the next window");
        assert!(!after(20, 5_000), "1,100 bytes in ten seconds");
        assert!(!after(29, 0));
        assert!(after(90, 1), "what was enough for one window is not for seven");
    }

    #[tokio::test]
    async fn a_turn_is_taken_only_from_who_is_slow() {
        let downloads = Arc::new(Downloads::new(2, 100, WINDOW));
        let (slow, quick) = (downloads.turn().await.unwrap(), downloads.turn().await.unwrap());
        quick.took(1 << 20).unwrap();
        downloads.make_room(Instant::now());
        slow.took(1).unwrap();
        downloads.make_room(Instant::now() + WINDOW);
        downloads.make_room(Instant::now() + WINDOW);
        assert!(slow.took(1).is_err() && quick.took(1).is_ok());
        let third = downloads.turn().await.unwrap();
        drop((quick, slow));
        assert_eq!(downloads.turns.available_permits(), 1);
        drop(third);
        assert_eq!(downloads.turns.available_permits(), 2);
    }
}
