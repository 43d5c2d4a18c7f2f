//! TLS under a WebSocket: the session that its reader and its senders share.
//!
//! Lock order: a connection's outbox, then its session.

use std::{
    cell::RefCell,
    io::{self, IoSlice, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use rustls::ServerConnection;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// What is decrypted at a time: a TLS record's worth.
const PLAIN_BYTES: usize = 16 << 10;

thread_local! {
    static PLAIN: RefCell<Box<[u8]>> = RefCell::new(vec![0; PLAIN_BYTES].into_boxed_slice());
}

/// The sending side of a WebSocket's socket.
#[derive(Debug)]
pub enum Socket {
    Plain(OwnedWriteHalf),
    Tls(Arc<Session>),
}

#[derive(Debug)]
pub struct Session {
    socket: OwnedWriteHalf,
    tls: Mutex<Box<ServerConnection>>,
}

/// The receiving side.
#[derive(Debug)]
pub struct SessionReader {
    socket: OwnedReadHalf,
    session: Arc<Session>,
    /// What was decrypted before has been read.
    is_drained: bool,
}

impl Socket {
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.as_ref().poll_write_ready(cx),
            Self::Tls(session) => session.socket.as_ref().poll_write_ready(cx),
        }
    }

    /// Writes what can be written at once. Over TLS that may be kept, encrypted, until the next call: see [`Self::has_unsent`].
    pub fn try_write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write_vectored(parts),
            Self::Tls(session) => session.try_write(parts),
        }
    }

    /// Whether there is something that was written and has not been sent.
    pub fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(session) => session.tls.lock().wants_write(),
        }
    }
}

impl Session {
    /// Takes over a session whose handshake is over.
    pub fn split(socket: TcpStream, tls: ServerConnection) -> (SessionReader, Arc<Self>) {
        let (read, write) = socket.into_split();
        let session = Arc::new(Self { socket: write, tls: Mutex::new(Box::new(tls)) });
        (SessionReader { socket: read, session: session.clone(), is_drained: false }, session)
    }

    /// Nothing more is encrypted while something waits to be sent, so that what a slow peer does not take stays where it is
    /// counted.
    fn try_write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let tls = &mut **self.tls.lock();
        self.send(tls)?;
        let mut taken = 0;
        for part in parts {
            let count = tls.writer().write(part)?;
            taken += count;
            if count < part.len() {
                break;
            }
        }
        match self.send(tls) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn send(&self, tls: &mut ServerConnection) -> io::Result<()> {
        while tls.wants_write() {
            tls.write_tls(&mut AtOnce(&self.socket))?;
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tls.get_mut().send_close_notify();
        // A peer that takes nothing more need not be told.
        let _ = self.send(&mut self.tls.lock());
    }
}

impl SessionReader {
    /// Reads once from the socket into `scratch` and hands to `take` what that comes to, piece by piece; `take` may send.
    /// `false` at the end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        mut take: impl FnMut(&mut [u8]),
    ) -> Poll<io::Result<bool>> {
        if !std::mem::replace(&mut self.is_drained, true) && !self.drain(&mut take)? {
            return Poll::Ready(Ok(false));
        }
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let mut input = buffer.filled();
        if input.is_empty() {
            return Poll::Ready(Ok(false));
        }
        while !input.is_empty() {
            {
                let tls = &mut **self.session.tls.lock();
                tls.read_tls(&mut input)?;
                if let Err(error) = tls.process_new_packets() {
                    // The alert that says so.
                    let _ = self.session.send(tls);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
            if !self.drain(&mut take)? {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Hands over everything that is decrypted; `false` if the peer has said that nothing more comes.
    fn drain(&self, take: &mut impl FnMut(&mut [u8])) -> io::Result<bool> {
        PLAIN.with_borrow_mut(|plain| {
            loop {
                // Not held while `take` works, for that may send.
                let read = self.session.tls.lock().reader().read(plain);
                match read {
                    Ok(0) => return Ok(false),
                    Ok(count) => take(&mut plain[..count]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
        })
    }
}

/// Writes what the kernel takes at once.
struct AtOnce<'a>(&'a OwnedWriteHalf);

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
