//! A simulated agent that polls over plain HTTP, on a connection that it keeps.

use std::io;

use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{
    Shared,
    endpoint::Endpoint,
    head::Head,
    session::{Awaited, Connected, Ending, Kind, Life},
    stats::{add, record},
    transport,
};

/// Largest reply taken, the limit of the opamp-go client.
const MAX_BODY_BYTES: usize = 64 << 20;

/// One connection from the attempt to its end.
pub async fn run(life: &mut Life, shared: &Shared) -> Ending {
    let polled = tokio::select! {
        () = shared.stop.cancelled() => return Ending::Stopped,
        connected = connect(life, shared) => match connected {
            Ok((stream, endpoint)) => poll(life, shared, stream, endpoint).await,
            Err(error) => {
                shared.stats.error(format!("connect: {error}"));
                return Ending::Unreachable;
            }
        },
    };
    polled.unwrap_or_else(|error| {
        shared.stats.error(format!("poll: {error}"));
        Ending::Lost
    })
}

async fn connect<'a>(life: &Life, shared: &'a Shared) -> io::Result<(TcpStream, &'a Endpoint)> {
    let endpoint = life.turn(&shared.plan.endpoints).ok_or_else(|| io::Error::other("no endpoint"))?;
    let source = life.turn(&shared.plan.source_addresses).copied();
    let started = Instant::now();
    let stream = transport::connect(&endpoint.authority, source).await?;
    record(&mut shared.stats.latencies.lock().connect, started.elapsed());
    add(&shared.stats.counters.connects, 1);
    Ok((stream, endpoint))
}

/// Polls until something ends the connection.
async fn poll(life: &mut Life, shared: &Shared, mut stream: TcpStream, endpoint: &Endpoint) -> io::Result<Ending> {
    let drop_at = life.drop_at(&shared.plan);
    let mut awaited = Awaited::default();
    let mut connected = None;
    let (mut kind, mut answer) = (Kind::First, None);
    loop {
        let message = life.unsent.take().or(answer).unwrap_or_else(|| match kind {
            Kind::First => life.agent.first(&shared.reports),
            _ => life.agent.heartbeat(),
        });
        awaited.sent(kind, &shared.stats);
        // Kept until it is answered: a message that may have been lost is sent again as it is.
        let message = life.unsent.insert(message);
        let reply = transport::timely(exchange(&mut stream, endpoint, shared, message)).await?;
        if reply.head.status != 200 {
            return Ok(Ending::Refused(reply.head.status, reply.head.retry_after));
        }
        life.unsent = None;
        awaited.received(&shared.stats);
        connected.get_or_insert_with(|| Connected::new(&shared.stats));
        answer = life.take(shared, &reply.body);
        if reply.head.closes {
            life.unsent = answer;
            return Ok(Ending::Lost);
        }
        if answer.is_some() {
            kind = Kind::Status;
            continue;
        }
        kind = Kind::Heartbeat;
        let next = Instant::now() + shared.plan.heartbeat;
        tokio::select! {
            () = shared.stop.cancelled() => {
                life.wait_to_leave(&shared.plan).await;
                let farewell = life.agent.farewell();
                awaited.sent(Kind::Status, &shared.stats);
                transport::timely(exchange(&mut stream, endpoint, shared, &farewell)).await?;
                return Ok(Ending::Stopped);
            }
            () = sleep_until(drop_at.map_or(next, |drop_at| drop_at.min(next))) => {
                if drop_at.is_some_and(|drop_at| drop_at <= next) {
                    return Ok(Ending::Dropped);
                }
            }
        }
    }
}

struct Reply {
    head: Head,
    body: Vec<u8>,
}

async fn exchange(stream: &mut TcpStream, endpoint: &Endpoint, shared: &Shared, message: &[u8]) -> io::Result<Reply> {
    let mut request = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n",
        endpoint.path,
        endpoint.authority,
        message.len()
    )
    .into_bytes();
    if let Some(token) = &shared.plan.token {
        request.extend_from_slice(format!("Authorization: Bearer {token}\r\n").as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(message);
    add(&shared.stats.counters.sent_bytes, request.len());
    transport::write(stream, &request).await?;
    drop(request);

    let mut received = Vec::new();
    loop {
        let more = transport::read(stream, |bytes| received.extend_from_slice(bytes)).await?;
        if let Some((head, length)) = Head::parse(&received).map_err(io::Error::other)?
            && let Some(body) = body(&head, &received[length..], more.is_none())?
        {
            add(&shared.stats.counters.received_bytes, received.len());
            return Ok(Reply { head, body });
        }
        if more.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The body at the start of `bytes`, once it is complete.
fn body(head: &Head, bytes: &[u8], at_end: bool) -> io::Result<Option<Vec<u8>>> {
    if bytes.len() > MAX_BODY_BYTES {
        return Err(io::Error::other("reply too large"));
    }
    if head.is_chunked {
        return chunked(bytes);
    }
    match head.content_length {
        Some(length) => Ok(bytes.get(..length).map(<[u8]>::to_vec)),
        None => Ok(at_end.then(|| bytes.to_vec())),
    }
}

fn chunked(mut bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = bytes.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&bytes[..line_end]).map_err(io::Error::other)?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16).map_err(io::Error::other)?;
        if size > MAX_BODY_BYTES {
            return Err(io::Error::other("reply too large"));
        }
        // Trailers are not awaited beyond the empty line, which is all that OpAMP servers send.
        let Some(chunk) = bytes.get(line_end + 2..line_end + 2 + size + 2) else { return Ok(None) };
        if size == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(&chunk[..size]);
        bytes = &bytes[line_end + 2 + size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_where_the_head_says() {
        let head = |text: &str| Head::parse(text.as_bytes()).unwrap().unwrap().0;
        let sized = head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
        assert_eq!(body(&sized, b"ab", false).unwrap(), None);
        assert_eq!(body(&sized, b"abc", false).unwrap(), Some(b"abc".to_vec()));
        let chunked = head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let whole = b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(body(&chunked, &whole[..end], false).unwrap(), None, "cut at {end}");
        }
        assert_eq!(body(&chunked, whole, false).unwrap(), Some(b"abc".to_vec()));
        assert!(body(&chunked, b"zz\r\n", false).is_err());
        let until_end = head("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(body(&until_end, b"abc", false).unwrap(), None);
        assert_eq!(body(&until_end, b"abc", true).unwrap(), Some(b"abc".to_vec()));
    }
}
