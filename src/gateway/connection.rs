//! One WebSocket after its handshake: a small task that reads, and a shared half that anybody may write to.
//!
//! Architecture invariant: an idle connection has no buffer, no timer and no channel. Bytes are read into a buffer that all
//! connections of a thread share; time is kept by the sweeper.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::tcp::OwnedReadHalf,
};

use super::{
    Shared, exchange,
    outbox::{Flushed, Outbox},
    pace,
    tls::SessionReader,
    websocket::{self, Decoder, Frame, Violation, code},
};

/// Read by one call; shared by all connections of a thread.
const SCRATCH_BYTES: usize = 64 << 10;
/// While more than this is queued for a peer nothing more is read from it: a peer that does not read its replies is slowed
/// down, not fed.
const PAUSE_READING_BYTES: usize = 64 << 10;
/// Pings that ask whether an agent still lives begin with this; the sweeper's are empty.
pub const PROBE_PAYLOAD: &[u8] = b"muster-probe";

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// What everybody else knows of a WebSocket.
#[derive(Debug)]
pub struct Connection {
    /// The token or certificate it was opened with, if it was with one.
    pub credential: Option<Arc<super::auth::Credential>>,
    /// Where it is in the table of connections.
    pub slot: AtomicU32,
    /// When the peer was last heard, by the gateway's clock.
    pub heard_s: AtomicU32,
    /// When it was last pinged since it was heard; 0 if it was not.
    pub pinged_s: AtomicU32,
    pub outbox: Outbox,
    /// Counts it among the open ones.
    pub _ticket: super::registry::Ticket,
}

/// The task that reads a connection. Its size is most of what an idle agent costs beyond the kernel's share.
pub struct Reader<S = OwnedReadHalf> {
    socket: S,
    listener: Listener,
}

/// What takes the bytes that come.
struct Listener {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    decoder: Decoder,
    /// Nothing more that comes is listened to: a Close has been sent, and the peer is given time to read it.
    is_deaf: bool,
    /// Frames that came and are not worked off yet, at the second `counted_s` of the gateway's clock.
    frames: u16,
    counted_s: u32,
}

/// The receiving side of a socket.
pub trait Source: Unpin {
    /// Reads once, into `scratch`; `take` gets what came, in plain. `false` at the end.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        take: impl FnMut(&mut [u8]),
    ) -> Poll<std::io::Result<bool>>;
}

impl Source for OwnedReadHalf {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        mut take: impl FnMut(&mut [u8]),
    ) -> Poll<std::io::Result<bool>> {
        let mut buffer = ReadBuf::new(scratch);
        std::task::ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        let read = buffer.filled_mut();
        if read.is_empty() {
            return Poll::Ready(Ok(false));
        }
        take(read);
        Poll::Ready(Ok(true))
    }
}

impl Source for SessionReader {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        take: impl FnMut(&mut [u8]),
    ) -> Poll<std::io::Result<bool>> {
        self.poll_read(cx, scratch, take)
    }
}

impl<S> Reader<S> {
    pub fn new(socket: S, connection: Arc<Connection>, shared: Arc<Shared>) -> Self {
        Self {
            socket,
            listener: Listener {
                connection,
                shared,
                decoder: Decoder::default(),
                is_deaf: false,
                frames: 0,
                counted_s: 0,
            },
        }
    }

    /// Takes bytes that came from the peer.
    pub fn take(&mut self, input: &mut [u8]) {
        self.listener.take(input);
    }
}

impl Listener {
    fn take(&mut self, input: &mut [u8]) {
        let now_s = self.shared.clock.now_s();
        self.connection.heard_s.store(now_s, Ordering::Relaxed);
        self.connection.pinged_s.store(0, Ordering::Relaxed);
        if self.is_deaf {
            return;
        }
        self.work_off(now_s);
        let (shared, connection) = (&self.shared, &self.connection);
        let mut is_closed = false;
        let limit = shared.config.max_received_bytes;
        let frames = &mut self.frames;
        let result = self.decoder.feed(input, limit, |frame| {
            *frames = frames.saturating_add(1);
            if !is_closed {
                is_closed = take_frame(shared, connection, frame);
            }
        });
        // A peer that sends nothing more at all is left to the sweeper.
        let unfinished_s = self.decoder.unfinished_for_s(now_s);
        let is_too_slow = u64::from(unfinished_s) > shared.config.body_timeout.as_secs();
        let result = if is_too_slow { result.and(Err(Violation::TooSlow)) } else { result };
        if let Err(violation) = result {
            refuse(connection, violation);
            is_closed = true;
        }
        if is_closed {
            self.is_deaf = true;
            self.decoder = Decoder::default();
        }
    }

    /// Whether the peer has sent more than its agents may in a second, and is to be left unread for a moment.
    fn is_ahead(&mut self) -> bool {
        if u32::from(self.frames) <= self.shared.messages_per_second() {
            return false;
        }
        let now_s = self.shared.clock.now_s();
        self.work_off(now_s);
        let is_ahead = u64::from(self.frames) > self.allowed_per_second();
        if is_ahead {
            // It is not silent: what it says has not been read.
            self.connection.heard_s.store(now_s, Ordering::Relaxed);
        }
        is_ahead
    }

    fn work_off(&mut self, now_s: u32) {
        let elapsed_s = now_s.saturating_sub(self.counted_s);
        self.counted_s = now_s;
        if elapsed_s > 0 && self.frames > 0 {
            let is_usual = u32::from(self.frames) <= self.shared.messages_per_second();
            self.frames = if is_usual { 0 } else { pace::left(self.frames, elapsed_s, self.allowed_per_second()) };
        }
    }

    fn allowed_per_second(&self) -> u64 {
        let agents = self.connection.outbox.with_uids(|uids| uids.len()).max(1);
        u64::from(self.shared.messages_per_second()) * agents as u64
    }
}

impl<S: Source> Future for Reader<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { socket, listener } = self.get_mut();
        loop {
            match listener.connection.outbox.poll_flush(cx) {
                Flushed::Gone => return Poll::Ready(()),
                Flushed::Queued(bytes) if bytes > PAUSE_READING_BYTES => return Poll::Pending,
                Flushed::Queued(_) | Flushed::All => {}
            }
            if listener.is_ahead() {
                listener.shared.paused.add(cx.waker());
                listener.shared.metrics.pauses.increment(1);
                return Poll::Pending;
            }
            let read = SCRATCH.with_borrow_mut(|scratch| socket.poll_take(cx, scratch, |input| listener.take(input)));
            match std::task::ready!(read) {
                Ok(false) => return Poll::Ready(()),
                Ok(true) => {}
                Err(error) => {
                    tracing::trace!(%error, "connection lost");
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl Drop for Listener {
    /// However the task ends, its agents are let go of.
    fn drop(&mut self) {
        self.connection.outbox.kill();
        self.shared.connection_ended(&self.connection);
    }
}

/// Returns whether the connection is closed now.
fn take_frame(shared: &Arc<Shared>, connection: &Arc<Connection>, frame: Frame<'_>) -> bool {
    match frame {
        Frame::Binary(message) => exchange::receive_websocket(shared, connection, message),
        Frame::Text(_) => exchange::refuse_text(shared, connection),
        Frame::Ping(payload) => connection.outbox.send(websocket::pong(payload).into(), None),
        Frame::Pong(payload) => {
            if payload == PROBE_PAYLOAD {
                super::duplicates::connection_answered(shared, connection);
            }
        }
        Frame::Close(payload) => {
            if !websocket::is_close_code(payload) {
                refuse(connection, Violation::Protocol("close code that may not be sent"));
                return true;
            }
            // Echoed with its code; the reason is the peer's own.
            let echo = &payload[..payload.len().min(2)];
            connection.outbox.close(websocket::close(echo).into(), true);
            return true;
        }
    }
    false
}

fn refuse(connection: &Connection, violation: Violation) {
    let reason = match violation {
        Violation::TooBig => "too_big",
        Violation::TooSlow => "message_timeout",
        Violation::Protocol(_) => "protocol_error",
    };
    tracing::debug!(%violation, "WebSocket closed");
    connection.close(violation.close_code(), &violation.to_string(), reason);
}

impl Connection {
    /// Says goodbye; the reader ends when the peer has answered, or the sweeper ends it.
    pub fn close(&self, code: u16, text: &str, reason: &'static str) {
        let payload = [&code.to_be_bytes()[..], text.as_bytes()].concat();
        if self.outbox.close(websocket::close(&payload).into(), false) {
            super::metrics::closed(reason);
        }
    }

    /// Ends a connection whose peer is not expected to answer.
    pub fn abandon(&self, reason: &'static str) {
        self.close(code::GOING_AWAY, reason, reason);
        self.outbox.kill();
    }

    pub fn probe(&self) {
        self.outbox.send(websocket::ping(PROBE_PAYLOAD).into(), None);
    }
}
