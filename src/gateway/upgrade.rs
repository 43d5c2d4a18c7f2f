//! From the handshake to the connection's own task. Nothing of HTTP lives on: its buffers are many times what an idle
//! connection costs.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{
    Shared,
    auth::Credential,
    connection::{Connection, Reader, Source},
    outbox::Outbox,
    registry::Ticket,
    tls::{Session, Socket, Stream},
    watched::Watched,
};

/// Waits for the end of the handshake and starts the connection's task.
pub async fn establish(shared: Arc<Shared>, upgraded: OnUpgrade, credential: Option<Arc<Credential>>, ticket: Ticket) {
    let upgraded = match upgraded.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::trace!(%error, "connection lost during its handshake");
            return;
        }
    };
    match upgraded.downcast::<TokioIo<Watched>>() {
        Ok(parts) => match parts.io.into_inner().socket {
            Stream::Plain(socket) => {
                let (read, write) = socket.into_split();
                start(shared, read, Socket::Plain(write), &parts.read_buf, credential, ticket);
            }
            Stream::Tls(stream) => {
                let (socket, session) = stream.into_inner();
                let (read, session) = Session::split(socket, session);
                start(shared, read, Socket::Tls(session), &parts.read_buf, credential, ticket);
            }
        },
        Err(_) => tracing::error!("the upgraded connection is not the socket that was accepted"),
    }
}

fn start<S: Source + Send + 'static>(
    shared: Arc<Shared>,
    read: S,
    write: Socket,
    early: &[u8],
    credential: Option<Arc<Credential>>,
    ticket: Ticket,
) {
    let connection = Arc::new(Connection {
        credential,
        slot: AtomicU32::new(0),
        heard_s: AtomicU32::new(shared.clock.now_s()),
        pinged_s: AtomicU32::new(0),
        outbox: Outbox::new(write),
        _ticket: ticket,
    });
    shared.connections.insert(connection.clone());
    shared.metrics.upgrades.increment(1);
    let is_draining = shared.is_draining.load(Ordering::Relaxed);
    let mut reader = Reader::new(read, connection, shared);
    if !is_draining && !early.is_empty() {
        reader.take(&mut early.to_vec());
    }
    tokio::spawn(reader);
}
