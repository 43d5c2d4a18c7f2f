//! How long configurations take to reach the agents.

use std::collections::HashMap;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::{
    agent::Taken,
    stats::{new_histogram, record_ms, unix_ms},
};

/// Most configurations told apart; later ones are counted as offers only.
const MAX_TRACKED: usize = 64;

/// A line of a configuration file with this in it says when the operator sent it, in Unix milliseconds.
pub const SENT_AT_MARKER: &str = "muster-load-sent-unix-ms:";

/// The time in a body's marker line, if it has one.
pub fn sent_at_unix_ms(body: &[u8]) -> Option<u64> {
    let at = body.windows(SENT_AT_MARKER.len()).position(|window| window == SENT_AT_MARKER.as_bytes())?;
    let rest = &body[at + SENT_AT_MARKER.len()..];
    let digits = rest.iter().skip_while(|byte| **byte == b' ').take_while(|byte| byte.is_ascii_digit()).take(19);
    let digits: Vec<u8> = digits.copied().collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// One configuration's way.
pub struct Arrival {
    /// The time comes from the body rather than from the first arrival.
    pub is_from_body: bool,
    first: Instant,
    pub latency: Histogram<u64>,
    order: usize,
}

#[derive(Default)]
pub struct Arrivals(HashMap<Bytes, Arrival>);

impl Arrivals {
    /// An agent was offered `taken`, which it did not have.
    pub fn record(&mut self, taken: &Taken) {
        let now = Instant::now();
        let order = self.0.len();
        if order >= MAX_TRACKED && !self.0.contains_key(&taken.hash) {
            return;
        }
        let arrival = self.0.entry(taken.hash.clone()).or_insert_with(|| Arrival {
            is_from_body: taken.sent_at_unix_ms.is_some(),
            first: now,
            latency: new_histogram(),
            order,
        });
        let latency_ms = match taken.sent_at_unix_ms {
            Some(sent_at) => unix_ms().saturating_sub(sent_at) as f64,
            None => (now - arrival.first).as_secs_f64() * 1e3,
        };
        record_ms(&mut arrival.latency, latency_ms);
    }

    /// In the order in which they first arrived.
    pub fn in_order(&self) -> Vec<(&Bytes, &Arrival)> {
        let mut arrivals: Vec<_> = self.0.iter().collect();
        arrivals.sort_by_key(|(_, arrival)| arrival.order);
        arrivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_is_found_anywhere() {
        assert_eq!(sent_at_unix_ms(b"x\n# muster-load-sent-unix-ms: 1700000000123\ny"), Some(1_700_000_000_123));
        assert_eq!(sent_at_unix_ms(b"muster-load-sent-unix-ms:5"), Some(5));
        assert_eq!(sent_at_unix_ms(b"muster-load-sent-unix-ms: soon"), None);
        assert_eq!(sent_at_unix_ms(b"nothing"), None);
    }
}
