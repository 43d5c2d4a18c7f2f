//! The sending half of a WebSocket: anybody may send, whole frames never interleave.
//!
//! What the kernel takes at once is never queued. Only the rest of a frame that a slow peer does not take waits here, and
//! the connection's reader task, which is woken for it, sends it on.

use std::{
    collections::VecDeque,
    io::IoSlice,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;

use super::{tls::Socket, uids::Uids};

/// Beyond the largest message, this much may wait for a slow peer; what is sent to it then is dropped. Reports are repeated
/// and offers are made again, so nothing is lost by it.
const SLACK_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub struct Outbox {
    socket: Socket,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Since when something has been queued without progress; 0 if nothing is. Set by the sweeper.
    stalled_s: u32,
    /// The reader task.
    waker: Option<Waker>,
    queue: Option<Box<Queue>>,
    /// The agents that speak on this connection.
    uids: Uids,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A Close has been sent or is the last in the queue; the peer's is awaited.
    Closing,
    /// Close frames have gone both ways but for what is queued.
    Finishing,
    Gone,
}

#[derive(Debug, Default)]
struct Queue {
    parts: VecDeque<Bytes>,
    bytes: usize,
    /// How much has ever been written from this queue: whether a slow peer makes progress.
    written: u64,
}

/// What is left to send.
pub enum Flushed {
    All,
    /// Bytes.
    Queued(usize),
    /// The connection is over.
    Gone,
}

impl Outbox {
    pub fn new(socket: Socket) -> Self {
        let state = State { phase: Phase::Open, stalled_s: 0, waker: None, queue: None, uids: Uids::default() };
        Self { socket, state: Mutex::new(state) }
    }

    /// Sends one frame, in up to two parts so that the second may be shared. Returns false if it was dropped, because the
    /// connection closes or the peer is too slow.
    pub fn try_send(&self, head: Bytes, tail: Option<Bytes>, max_bytes: usize) -> bool {
        let mut state = self.state.lock();
        let length = head.len() + tail.as_ref().map_or(0, Bytes::len);
        let queued = state.queue.as_ref().map_or(0, |queue| queue.bytes);
        if state.phase != Phase::Open || queued > 0 && queued + length > max_bytes + SLACK_BYTES {
            return false;
        }
        self.write(&mut state, head, tail);
        true
    }

    /// Sends a control frame or a short message.
    pub fn send(&self, head: Bytes, tail: Option<Bytes>) {
        self.try_send(head, tail, 0);
    }

    /// Sends `frame`, a Close, as the last. Returns whether it was the first.
    pub fn close(&self, frame: Bytes, is_answer: bool) -> bool {
        let mut state = self.state.lock();
        let is_first = state.phase == Phase::Open;
        if is_first {
            self.write(&mut state, frame, None);
            state.phase = Phase::Closing;
        }
        if is_answer && state.phase == Phase::Closing {
            state.phase = Phase::Finishing;
        }
        wake(&state);
        is_first
    }

    /// Ends the connection at once; what is queued is lost.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Gone;
        state.queue = None;
        wake(&state);
    }

    pub fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// The agents that speak here. Locked after an agent's shard, never before.
    pub fn with_uids<T>(&self, look: impl FnOnce(&mut Uids) -> T) -> T {
        look(&mut self.state.lock().uids)
    }

    /// For the reader task alone: sends what is queued, and has it woken when more can be sent.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Flushed {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        self.note_unsent(&mut state);
        while state.queue.is_some() {
            match self.socket.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => self.write_queued(&mut state),
                Poll::Ready(Err(_)) => state.phase = Phase::Gone,
                Poll::Pending => break,
            }
            if state.phase == Phase::Gone {
                state.queue = None;
            }
        }
        match (state.phase, &state.queue) {
            (Phase::Gone, _) | (Phase::Finishing, None) => Flushed::Gone,
            (_, Some(queue)) => Flushed::Queued(queue.bytes),
            (_, None) => Flushed::All,
        }
    }

    /// For the sweeper: how long, in seconds, the peer has taken nothing of what is queued or has not answered a Close.
    pub fn stalled_for_s(&self, now_s: u32) -> u32 {
        let mut state = self.state.lock();
        let made_progress = state.queue.as_mut().is_some_and(|queue| std::mem::take(&mut queue.written) > 0);
        if state.phase == Phase::Open && (state.queue.is_none() || made_progress) {
            state.stalled_s = 0;
            return 0;
        }
        match state.stalled_s {
            0 => {
                state.stalled_s = now_s;
                0
            }
            since => now_s.saturating_sub(since),
        }
    }

    fn write(&self, state: &mut State, head: Bytes, tail: Option<Bytes>) {
        let mut parts = [head, tail.unwrap_or_default()];
        if state.queue.is_none() {
            match self.write_parts(&parts) {
                Ok(written) => advance(&mut parts, written),
                Err(Stop::Later) => {}
                Err(Stop::Lost) => state.phase = Phase::Gone,
            }
        }
        if state.phase == Phase::Gone {
            wake(state);
            return;
        }
        let rest: usize = parts.iter().map(Bytes::len).sum();
        if rest > 0 {
            let queue = state.queue.get_or_insert_default();
            queue.parts.extend(parts.into_iter().filter(|part| !part.is_empty()));
            queue.bytes += rest;
            wake(state);
        } else if self.note_unsent(state) {
            wake(state);
        }
    }

    /// What TLS has encrypted and the peer has not taken makes a queue too, if only an empty one: the reader's task goes on
    /// with it, and the sweeper sees whether it moves.
    fn note_unsent(&self, state: &mut State) -> bool {
        let has_unsent = state.phase != Phase::Gone && self.socket.has_unsent();
        if has_unsent {
            state.queue.get_or_insert_default();
        }
        has_unsent
    }

    fn write_queued(&self, state: &mut State) {
        let Some(queue) = &mut state.queue else { return };
        let (first, second) = (queue.parts.front(), queue.parts.get(1));
        match self.write_parts(&[first.cloned().unwrap_or_default(), second.cloned().unwrap_or_default()]) {
            Ok(mut written) => {
                queue.bytes -= written;
                queue.written += written as u64;
                while let Some(part) = queue.parts.front_mut() {
                    let taken = written.min(part.len());
                    part.advance(taken);
                    written -= taken;
                    if !part.is_empty() {
                        break;
                    }
                    queue.parts.pop_front();
                }
                if queue.parts.is_empty() && !self.socket.has_unsent() {
                    state.queue = None;
                }
            }
            Err(Stop::Later) => {}
            Err(Stop::Lost) => state.phase = Phase::Gone,
        }
    }

    fn write_parts(&self, parts: &[Bytes; 2]) -> Result<usize, Stop> {
        let slices = [IoSlice::new(&parts[0]), IoSlice::new(&parts[1])];
        let count = if parts[1].is_empty() { 1 } else { 2 };
        match self.socket.try_write_vectored(&slices[..count]) {
            Ok(written) => Ok(written),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(Stop::Later),
            Err(_) => Err(Stop::Lost),
        }
    }
}

enum Stop {
    Later,
    Lost,
}

fn advance(parts: &mut [Bytes; 2], mut written: usize) {
    for part in parts {
        let taken = written.min(part.len());
        part.advance(taken);
        written -= taken;
    }
}

fn wake(state: &State) {
    if let Some(waker) = &state.waker {
        waker.wake_by_ref();
    }
}
