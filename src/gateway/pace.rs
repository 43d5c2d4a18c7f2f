//! A token bucket, connections that are left unread for a moment, and the gateway's own clock.

use std::{
    task::Waker,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

/// Lets through so many a second on average, and `burst` at once after a quiet time.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    pub fn new(per_second: u32, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second: f64::from(per_second), burst, state: Mutex::new((burst, Instant::now())) }
    }

    pub fn try_take(&self) -> bool {
        self.try_take_at(Instant::now())
    }

    fn try_take_at(&self, now: Instant) -> bool {
        let (tokens, last) = &mut *self.state.lock();
        let gained = now.saturating_duration_since(*last).as_secs_f64() * self.per_second;
        *tokens = (*tokens + gained).min(self.burst);
        *last = now.max(*last);
        let is_free = *tokens >= 1.0;
        if is_free {
            *tokens -= 1.0;
        }
        is_free
    }
}

/// Whoever sends too much is not left unread for longer: its Close, too, is to be read.
const LONGEST_PAUSE_S: u64 = 10;

/// What is left of so many frames after a time in which they were worked off at a rate.
pub fn left(frames: u16, elapsed_s: u32, per_second: u64) -> u16 {
    let most = per_second.saturating_mul(LONGEST_PAUSE_S);
    let left = u64::from(frames).min(most).saturating_sub(per_second.saturating_mul(elapsed_s.into()));
    u16::try_from(left).unwrap_or(u16::MAX)
}

/// Tasks of connections that are left unread for a moment.
#[derive(Debug, Default)]
pub struct Paused(Mutex<Vec<Waker>>);

impl Paused {
    /// Has the task look again soon.
    pub fn add(&self, waker: &Waker) {
        self.0.lock().push(waker.clone());
    }

    /// To be called several times a second.
    pub fn wake(&self) {
        std::mem::take(&mut *self.0.lock()).into_iter().for_each(Waker::wake);
    }
}

/// Time since the gateway began, in units small enough to be kept for each agent.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds; 1 at the least, so that 0 can stand for never.
    pub fn now_ms(self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// Seconds, from 1.
    pub fn now_s(self) -> u32 {
        (self.start.elapsed().as_secs() as u32).saturating_add(1)
    }
}

/// Microseconds since the Unix epoch.
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    unix_us() / 1000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn frames_are_worked_off_and_the_pause_has_an_end() {
        assert_eq!((left(250, 1, 100), left(250, 2, 100), left(250, 3, 100)), (150, 50, 0));
        assert_eq!(left(u16::MAX, 1, 100), 900, "after ten seconds it is read again, whatever it sent");
        assert_eq!(left(u16::MAX, 1, 1_000_000), 0);
    }

    #[test]
    fn bucket_gives_its_burst_and_then_its_rate() {
        let bucket = Bucket::new(10, 3);
        let start = Instant::now();
        assert_eq!((0..5).filter(|_| bucket.try_take_at(start)).count(), 3);
        let later = start + Duration::from_millis(250);
        assert_eq!((0..5).filter(|_| bucket.try_take_at(later)).count(), 2);
        let much_later = start + Duration::from_secs(60);
        assert_eq!((0..9).filter(|_| bucket.try_take_at(much_later)).count(), 3);
    }
}
