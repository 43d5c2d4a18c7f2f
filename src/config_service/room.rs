//! Room for reports that wait: so many of them, and so many bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a report takes up besides its message.
const REPORT_BYTES: usize = 256;
/// Bytes are counted in units of so many, for a semaphore has few permits.
const UNIT_BYTES: usize = 1 << 10;

pub struct Room {
    reports: Bound,
    units: Bound,
}

struct Bound {
    free: Arc<Semaphore>,
    all: usize,
}

/// Taken up until this is dropped.
pub struct Taken {
    _reports: OwnedSemaphorePermit,
    _units: OwnedSemaphorePermit,
}

impl Room {
    pub fn new(reports: usize, bytes: usize) -> Self {
        Self { reports: Bound::new(reports), units: Bound::new(bytes / UNIT_BYTES) }
    }

    /// Room for `reports`, whose messages have so many bytes together. More than there is in all is taken when nothing else waits.
    pub fn try_take(&self, reports: usize, message_bytes: usize) -> Option<Taken> {
        let bytes = message_bytes.saturating_add(reports.saturating_mul(REPORT_BYTES));
        Some(Taken {
            _reports: self.reports.try_take(reports)?,
            _units: self.units.try_take(bytes.div_ceil(UNIT_BYTES))?,
        })
    }
}

impl Bound {
    fn new(all: usize) -> Self {
        let all = all.clamp(1, u32::MAX as usize >> 3);
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    fn try_take(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        // Refused for want of room only: nobody closes the semaphore.
        self.free.clone().try_acquire_many_owned(count.clamp(1, self.all) as u32).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_and_for_so_many_bytes() {
        let room = Room::new(10, 100 << 10);
        let few_and_large = room.try_take(2, 80 << 10).expect("it is empty");
        assert!(room.try_take(1, 30 << 10).is_none(), "too many bytes");
        let many_and_small = room.try_take(8, 1 << 10).expect("they are small");
        assert!(room.try_take(1, 0).is_none(), "too many");
        drop((few_and_large, many_and_small));
        let larger_than_all = room.try_take(20, 1 << 30).expect("nothing else waits");
        assert!(room.try_take(1, 0).is_none());
        drop(larger_than_all);
        assert!(room.try_take(10, 90 << 10).is_some());
    }
}
