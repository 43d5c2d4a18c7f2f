//! Sockets of simulated agents.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::ready,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream, lookup_host},
};

/// One a thread, for all its agents: an agent that waits holds no buffer.
const SCRATCH_BYTES: usize = 64 << 10;

/// How long a connection attempt, an answer to it, or a write may take.
pub const IO_TIMEOUT: Duration = Duration::from_secs(30);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

pub async fn connect(authority: &str, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let address = resolve(authority).await?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = timely(socket.connect(address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn resolve(authority: &str) -> io::Result<SocketAddr> {
    if let Ok(address) = authority.parse() {
        return Ok(address);
    }
    let not_found = || io::Error::new(io::ErrorKind::NotFound, format!("{authority} has no address"));
    // Boxed: the resolver's future is large, and most fleets are given by address.
    Box::pin(lookup_host(authority)).await?.next().ok_or_else(not_found)
}

/// Waits for bytes and hands them to `take`; `None` at the end of the stream.
pub async fn read<T>(stream: &mut TcpStream, mut take: impl FnMut(&[u8]) -> T) -> io::Result<Option<T>> {
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            let filled = buffer.filled();
            std::task::Poll::Ready(Ok(if filled.is_empty() { None } else { Some(take(filled)) }))
        })
    })
    .await
}

pub async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    timely(stream.write_all(bytes)).await
}

/// Bounds a step by [`IO_TIMEOUT`].
pub async fn timely<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(IO_TIMEOUT, step).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")),
    }
}
