//! A socket that speaks HTTP, and where it is between requests: so that one which is slow to say what it wants is told so, while
//! one that is quiet between polls is left alone.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::tls::Stream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has come yet.
    New,
    /// A request's headers are coming.
    Head,
    /// A request is being served; that has time limits of its own.
    Serving,
    /// The last request has been answered, or its answer is being taken by the peer.
    Idle,
}

/// Where a connection is, and since when.
#[derive(Debug)]
pub struct Watch(Mutex<(Phase, Instant)>);

impl Watch {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((Phase::New, Instant::now()))))
    }

    pub fn phase(&self) -> Phase {
        self.0.lock().0
    }

    pub fn enter(&self, phase: Phase) {
        *self.0.lock() = (phase, Instant::now());
    }

    /// When the connection's time is over; `None` while a request is being served.
    pub fn deadline(&self, header_timeout: Duration, idle_timeout: Duration) -> Option<Instant> {
        let (phase, since) = *self.0.lock();
        match phase {
            Phase::New | Phase::Head => Some(since + header_timeout),
            Phase::Idle => Some(since + idle_timeout),
            Phase::Serving => None,
        }
    }

    fn read(&self) {
        let (phase, since) = &mut *self.0.lock();
        match phase {
            // The time of the first request's headers counts from the connection's start.
            Phase::New => *phase = Phase::Head,
            Phase::Idle => (*phase, *since) = (Phase::Head, Instant::now()),
            Phase::Head | Phase::Serving => {}
        }
    }
}

#[derive(Debug)]
pub struct Watched {
    pub socket: Stream,
    pub watch: Arc<Watch>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.read();
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
