//! A simulated agent's WebSocket connection.

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Shared,
    agent::Agent,
    frame::{self, Event, opcode},
    head::Head,
    session::{Awaited, Connected, Ending, Kind, Life},
    stats::{add, record},
    transport,
};

const CLOSE_NORMAL: [u8; 2] = 1000u16.to_be_bytes();

/// One connection from the attempt to its end.
pub async fn run(life: &mut Life, shared: &Shared) -> Ending {
    let started = Instant::now();
    let upgraded = tokio::select! {
        () = shared.stop.cancelled() => return Ending::Stopped,
        upgraded = transport::timely(upgrade(life, shared)) => upgraded,
    };
    let (mut stream, early) = match upgraded {
        Ok(Upgrade::Done(stream, early)) => (stream, early),
        Ok(Upgrade::Refused(head)) => return Ending::Refused(head.status, head.retry_after),
        Err(error) => {
            shared.stats.error(format!("connect: {error}"));
            return Ending::Unreachable;
        }
    };
    record(&mut shared.stats.latencies.lock().connect, started.elapsed());
    add(&shared.stats.counters.connects, 1);
    let _connected = Connected::new(&shared.stats);
    let mut session = Session::new(life, shared);
    match session.talk(&mut stream, early).await {
        Ok(ending) => ending,
        Err(error) => {
            shared.stats.error(format!("connection: {error}"));
            Ending::Lost
        }
    }
}

enum Upgrade {
    /// And bytes that came with the answer.
    Done(TcpStream, Vec<u8>),
    Refused(Head),
}

async fn upgrade(life: &mut Life, shared: &Shared) -> io::Result<Upgrade> {
    let Some(endpoint) = life.turn(&shared.plan.endpoints) else {
        return Err(io::Error::other("no endpoint"));
    };
    let source = life.turn(&shared.plan.source_addresses).copied();
    let mut stream = transport::connect(&endpoint.authority, source).await?;
    let key = websocket_key(&mut life.agent);
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
        endpoint.path, endpoint.authority
    );
    if let Some(token) = &shared.plan.token {
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    transport::write(&mut stream, request.as_bytes()).await?;

    let mut received = Vec::new();
    loop {
        let more = transport::read(&mut stream, |bytes| received.extend_from_slice(bytes)).await?;
        match Head::parse(&received).map_err(io::Error::other)? {
            Some((head, length)) if head.status == 101 => {
                if head.accept_key.as_deref() != Some(&derive_accept_key(key.as_bytes())) {
                    return Err(io::Error::other("wrong Sec-WebSocket-Accept"));
                }
                return Ok(Upgrade::Done(stream, received.split_off(length)));
            }
            Some((head, _)) => return Ok(Upgrade::Refused(head)),
            None if more.is_none() => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    }
}

fn websocket_key(agent: &mut Agent) -> String {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&agent.random().to_be_bytes());
    key[8..].copy_from_slice(&agent.random().to_be_bytes());
    STANDARD.encode(key)
}

/// A connection after its upgrade.
struct Session<'a> {
    life: &'a mut Life,
    shared: &'a Shared,
    reader: frame::Reader,
    awaited: Awaited,
    /// Frames to be written; without memory while there are none.
    out: Vec<u8>,
    is_closed: bool,
}

impl<'a> Session<'a> {
    fn new(life: &'a mut Life, shared: &'a Shared) -> Self {
        let (reader, awaited) = (frame::Reader::default(), Awaited::default());
        Self { life, shared, reader, awaited, out: Vec::new(), is_closed: false }
    }

    async fn talk(&mut self, stream: &mut TcpStream, early: Vec<u8>) -> io::Result<Ending> {
        let shared = self.shared;
        let drop_at = self.life.drop_at(&shared.plan);
        let mut next_heartbeat = Instant::now() + shared.plan.heartbeat;
        let first = self.life.agent.first(&shared.reports);
        self.send(Kind::First, &first);
        drop(first);
        self.receive(&early)?;
        drop(early);
        loop {
            self.flush(stream).await?;
            if self.is_closed {
                return Ok(Ending::Lost);
            }
            let wake = drop_at.map_or(next_heartbeat, |drop_at| drop_at.min(next_heartbeat));
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => return self.leave(stream).await,
                received = transport::read(stream, |bytes| self.receive(bytes)) => match received? {
                    Some(result) => result?,
                    None => return Ok(Ending::Lost),
                },
                () = sleep_until(wake) => {
                    if drop_at.is_some_and(|drop_at| drop_at <= wake) {
                        return Ok(Ending::Dropped);
                    }
                    next_heartbeat = wake + shared.plan.heartbeat;
                    self.awaited.give_up(shared.plan.heartbeat / 2, &shared.stats);
                    let heartbeat = self.life.agent.heartbeat();
                    self.send(Kind::Heartbeat, &heartbeat);
                }
            }
        }
    }

    fn send(&mut self, kind: Kind, message: &[u8]) {
        self.awaited.sent(kind, &self.shared.stats);
        let mut payload = Vec::with_capacity(message.len() + 1);
        payload.push(0); // OpAMP's header.
        payload.extend_from_slice(message);
        frame::write(&mut self.out, opcode::BINARY, &payload, self.life.agent.random() as u32);
    }

    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        add(&self.shared.stats.counters.received_bytes, bytes.len());
        let mut reader = std::mem::take(&mut self.reader);
        let fed = reader.feed(bytes, |event| self.on(event));
        self.reader = reader;
        fed.map_err(io::Error::other)
    }

    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Binary(message) => {
                self.awaited.received(&self.shared.stats);
                let message = message.strip_prefix(&[0]).unwrap_or(message);
                if let Some(answer) = self.life.take(self.shared, message) {
                    self.send(Kind::Status, &answer);
                }
            }
            Event::Text => self.shared.stats.error("text frame".to_owned()),
            Event::Ping(payload) => {
                let mask = self.life.agent.random() as u32;
                frame::write(&mut self.out, opcode::PONG, payload, mask);
            }
            Event::Close(code) => {
                self.shared.stats.error(format!("closed by the server with code {code}"));
                frame::write(&mut self.out, opcode::CLOSE, &CLOSE_NORMAL, 0);
                self.is_closed = true;
            }
        }
    }

    async fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
        add(&self.shared.stats.counters.sent_bytes, out.len());
        transport::write(stream, &out).await
    }

    async fn leave(&mut self, stream: &mut TcpStream) -> io::Result<Ending> {
        self.life.wait_to_leave(&self.shared.plan).await;
        let farewell = self.life.agent.farewell();
        self.send(Kind::Status, &farewell);
        frame::write(&mut self.out, opcode::CLOSE, &CLOSE_NORMAL, 0);
        self.flush(stream).await?;
        // The server closes first, so that what it still sends meets an open socket; its patience is its own.
        while transport::timely(transport::read(stream, |_| ())).await?.is_some() {}
        Ok(Ending::Stopped)
    }
}
