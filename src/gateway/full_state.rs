//! When an agent is asked for its full state: at most one ask outstanding, and pauses that grow, so that a client whose
//! sequence numbers make no sense is not driven into a loop.

/// An ask that is not answered is repeated after this long, and after twice the time each time again.
const FIRST_REPEAT_MS: u64 = 30_000;
const MAX_DOUBLINGS: u32 = 7;
/// So many asks that were answered may follow each other at once; then they are spaced like those that were not.
const FREE_ASKS: u8 = 3;
/// An agent that needed no ask for this long starts afresh.
const FORGET_AFTER_MS: u64 = 600_000;
/// Likewise, one that sent so many messages without a gap.
const FORGET_AFTER_MESSAGES: u8 = 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullState {
    is_wanted: bool,
    is_outstanding: bool,
    /// The last sequence number before the first gap that has not been made good.
    before_gap: Option<u64>,
    asks: u8,
    /// By the gateway's clock; 0 before the first.
    last_ask_ms: u64,
}

/// What is kept of a [`FullState`] that is dropped: whether there was an ask lately. An agent whose every message follows a gap
/// would be asked each time otherwise, for it has answered each ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// 0 if there was none; otherwise one more than the messages that have followed each other since.
    messages: u8,
}

impl Asked {
    /// A message has come that follows the one before.
    pub fn followed(&mut self) {
        self.messages = match self.messages {
            0 | FORGET_AFTER_MESSAGES.. => 0,
            messages => messages + 1,
        };
    }
}

impl FullState {
    /// What is to be remembered of it when it is dropped.
    pub fn dropped(&self) -> Asked {
        Asked { messages: self.asks.min(1) }
    }

    /// Goes on where an earlier one was dropped.
    pub fn resume(&mut self, asked: Asked) {
        self.asks = self.asks.max(asked.messages.min(1));
    }

    pub fn is_outstanding(&self) -> bool {
        self.is_outstanding
    }

    /// State was missed after `before_gap`.
    pub fn missed(&mut self, before_gap: u64) {
        self.before_gap.get_or_insert(before_gap);
        self.wanted();
    }

    /// The config service needs it.
    pub fn wanted(&mut self) {
        self.is_wanted |= !self.is_outstanding;
    }

    /// The agent speaks on a new connection: an ask that was under way was lost with the old one.
    pub fn reconnected(&mut self) {
        self.is_wanted |= std::mem::take(&mut self.is_outstanding);
    }

    pub fn before_gap(&self) -> Option<u64> {
        self.before_gap
    }

    /// A full report has come.
    pub fn satisfied(&mut self) {
        (self.is_wanted, self.is_outstanding, self.before_gap) = (false, false, None);
    }

    pub fn is_due(&self, now_ms: u64) -> bool {
        self.is_wanted && now_ms >= self.last_ask_ms + self.pause_ms()
    }

    pub fn asked(&mut self, now_ms: u64) {
        (self.is_wanted, self.is_outstanding) = (false, true);
        self.asks = self.asks.saturating_add(1);
        self.last_ask_ms = now_ms;
    }

    /// Lets an unanswered ask be repeated when its time has come.
    pub fn tick(&mut self, now_ms: u64) {
        if self.is_outstanding && now_ms >= self.last_ask_ms + repeat_ms(self.asks) {
            (self.is_wanted, self.is_outstanding) = (true, false);
        }
    }

    /// There is nothing to be remembered.
    pub fn is_idle(&self, now_ms: u64) -> bool {
        let is_quiet = !self.is_wanted && !self.is_outstanding && self.before_gap.is_none();
        is_quiet && (self.asks <= 1 || now_ms >= self.last_ask_ms + FORGET_AFTER_MS)
    }

    fn pause_ms(&self) -> u64 {
        match self.asks {
            0..=FREE_ASKS => 0,
            asks => repeat_ms(asks - FREE_ASKS),
        }
    }
}

fn repeat_ms(asks: u8) -> u64 {
    FIRST_REPEAT_MS << u32::from(asks.saturating_sub(1)).min(MAX_DOUBLINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_ask_is_repeated_with_growing_pauses() {
        let mut state = FullState::default();
        let mut asked_at = Vec::new();
        state.missed(7);
        for now in (1_000..400_000).step_by(1_000) {
            state.missed(9);
            state.tick(now);
            if state.is_due(now) {
                state.asked(now);
                asked_at.push(now / 1_000);
            }
        }
        assert_eq!(asked_at, [1, 31, 91, 211], "{state:?}");
        assert_eq!(state.before_gap(), Some(7));
    }

    /// A client whose numbers skip each time answers each ask, and is asked again: the loop must slow down.
    #[test]
    fn answered_asks_do_not_make_a_loop() {
        let mut state = FullState::default();
        let asks = (0..600u64)
            .filter(|second| {
                state.missed(1);
                state.tick(second * 1_000);
                let is_due = state.is_due(second * 1_000);
                if is_due {
                    state.asked(second * 1_000);
                    state.satisfied();
                }
                is_due
            })
            .count();
        assert!((4..=9).contains(&asks), "{asks} asks in ten minutes");
    }

    #[test]
    fn an_ask_that_was_lost_with_its_connection_is_made_again_but_not_at_each_reconnect() {
        let mut state = FullState::default();
        state.wanted();
        let asks = (1..=29u64)
            .filter(|second| {
                state.reconnected();
                let is_due = state.is_due(second * 1_000);
                if is_due {
                    state.asked(second * 1_000);
                }
                is_due
            })
            .count();
        assert_eq!(asks, usize::from(FREE_ASKS) + 1);
        state.satisfied();
        state.reconnected();
        assert!(!state.is_due(u64::MAX / 2), "what was answered is not asked again");
    }

    /// As over HTTP, where the answer is stored before the next poll.
    #[test]
    fn answered_asks_do_not_make_a_loop_though_the_state_is_dropped_in_between() {
        let (mut kept, mut asked) = (None::<FullState>, Asked::default());
        let mut asks = 0;
        for second in 1..=60u64 {
            let state = kept.get_or_insert_default();
            state.resume(asked);
            state.missed(1);
            if state.is_due(second * 1_000) {
                state.asked(second * 1_000);
                asks += 1;
            }
            state.satisfied();
            if let Some(idle) = kept.take_if(|state| state.is_idle(second * 1_000)) {
                asked = idle.dropped();
            }
        }
        assert!((3..=6).contains(&asks), "{asks} asks in a minute");
        for _ in 0..FORGET_AFTER_MESSAGES {
            assert_ne!(asked, Asked::default());
            asked.followed();
        }
        assert_eq!(asked, Asked::default());
    }

    #[test]
    fn is_forgotten_when_all_is_well() {
        let mut state = FullState::default();
        state.wanted();
        state.asked(5);
        assert!(!state.is_idle(10), "an answer is awaited");
        state.satisfied();
        assert!(state.is_idle(10));
    }
}
