//! A server broken on purpose: a proxy in front of a good one that understands HTTP, WebSocket and OpAMP well enough to
//! spoil any of them.

mod messages;

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use muster::proto::opamp::{AgentToServer, ServerToAgent};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
};

pub use messages::{Frame, Request, Response};

/// A client that does not finish its request is given up, unless the fault is that it is not.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Larger frames go through as they come.
const MAX_FRAME_BYTES: u64 = 2 << 20;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// What becomes of a request.
pub enum Then {
    Forward,
    Answer(Response),
    /// It is never answered.
    Never,
}

/// What becomes of a frame.
pub enum Act {
    Pass,
    Drop,
    /// This goes to the client in its place.
    Send(Vec<u8>),
    /// The frame goes through, and the client is sent this as well.
    Also(Vec<u8>),
    /// The connection ends.
    End,
}

type OnRequest = dyn Fn(&mut Request, &Link) -> Then + Send + Sync;
type OnResponse = dyn Fn(&Request, &mut Response, &Link) + Send + Sync;
type OnFrame = dyn Fn(&mut Frame, &Link) -> Act + Send + Sync;

/// How the server is broken.
#[derive(Default)]
pub struct Fault {
    pub request: Option<Box<OnRequest>>,
    pub response: Option<Box<OnResponse>>,
    /// What the client sends.
    pub up: Option<Box<OnFrame>>,
    /// What the server sends.
    pub down: Option<Box<OnFrame>>,
    /// Before an answer or a frame of the server goes on.
    pub delay: Duration,
    /// A WebSocket on which nothing comes from the client for so long is dropped.
    pub idle_limit: Option<Duration>,
    /// The answer to what cannot be read as HTTP.
    pub to_garbage: Option<&'static [u8]>,
    pub waits_for_ever: bool,
    pub closes_after_answer: bool,
    /// The client's connection stays open when the server has ended its own.
    pub keeps_tcp: bool,
    /// The connection to the server stays open when the client has ended its own.
    pub keeps_server: bool,
    /// A frame that comes in pieces ends the connection.
    pub needs_whole_frames: bool,
    pub max_connections: Option<usize>,
    /// `100 Continue` is not said.
    pub says_no_continue: bool,
    /// Frames that are too long to be looked at are never answered.
    pub drops_huge_frames: bool,
}

/// What the fault remembers over all connections.
#[derive(Default)]
pub struct World {
    connections: AtomicUsize,
    open: AtomicUsize,
    counts: Mutex<HashMap<String, usize>>,
    /// The offers and messages that were last sent to anybody.
    pub sent: Mutex<ServerToAgent>,
}

impl World {
    /// How often this was asked before.
    pub fn count(&self, what: impl Into<String>) -> usize {
        let mut counts = self.counts.lock();
        let count = counts.entry(what.into()).or_default();
        *count += 1;
        *count - 1
    }

    pub fn has(&self, what: &str) -> bool {
        self.counts.lock().contains_key(what)
    }
}

/// One connection of a client.
pub struct Link {
    pub world: Arc<World>,
    /// Which of the proxies it came to.
    pub node: usize,
    pub proxy: SocketAddr,
    /// The number of the connection.
    pub number: usize,
    counts: Mutex<HashMap<&'static str, usize>>,
    /// The last message that the client sent.
    pub last: Mutex<AgentToServer>,
}

impl Link {
    /// How often this was asked before on this connection.
    pub fn count(&self, what: &'static str) -> usize {
        let mut counts = self.counts.lock();
        let count = counts.entry(what).or_default();
        *count += 1;
        *count - 1
    }

    pub fn last(&self) -> AgentToServer {
        self.last.lock().clone()
    }
}

pub struct Proxy {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(upstream: SocketAddr, fault: Arc<Fault>, world: Arc<World>, node: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let number = world.connections.fetch_add(1, Ordering::Relaxed);
                if fault.max_connections.is_some_and(|max| world.open.load(Ordering::Relaxed) >= max) {
                    continue;
                }
                let link = Arc::new(Link {
                    world: world.clone(),
                    node,
                    proxy: address,
                    number,
                    counts: Mutex::default(),
                    last: Mutex::default(),
                });
                let fault = fault.clone();
                clients.spawn(async move {
                    link.world.open.fetch_add(1, Ordering::Relaxed);
                    serve(socket, upstream, &fault, &link).await;
                    link.world.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, task }
    }
}

/// HTTP until the connection is upgraded or ends. Whatever fails ends it.
async fn serve(mut client: TcpStream, upstream: SocketAddr, fault: &Arc<Fault>, link: &Arc<Link>) {
    client.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    loop {
        let read = read_request(&mut client, &mut buffer, fault);
        let request = if fault.waits_for_ever {
            read.await
        } else {
            match tokio::time::timeout(REQUEST_TIMEOUT, read).await {
                Ok(request) => request,
                // Nothing at all may be said for as long as one likes.
                Err(_) if buffer.is_empty() => continue,
                Err(_) => return,
            }
        };
        let mut request = match request {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(()) => {
                let _ =
                    client.write_all(fault.to_garbage.unwrap_or(b"HTTP/1.1 400 x\r\ncontent-length: 0\r\n\r\n")).await;
                return;
            }
        };
        if request.header("content-encoding").is_none()
            && let Ok(message) = AgentToServer::decode(&request.body[..])
        {
            *link.last.lock() = message;
        }
        let then = fault.request.as_ref().map_or(Then::Forward, |fault| fault(&mut request, link));
        let (mut response, server) = match then {
            Then::Answer(response) => (response, None),
            Then::Never => std::future::pending().await,
            Then::Forward => match ask(upstream, &request).await {
                Some((response, server, rest)) => (response, Some((server, rest))),
                None => return,
            },
        };
        if let Some(fault) = &fault.response {
            fault(&request, &mut response, link);
        }
        tokio::time::sleep(fault.delay).await;
        if client.write_all(&response.encoded()).await.is_err() {
            return;
        }
        if response.status == 101 {
            if let Some((server, rest)) = server {
                relay(client, buffer, server, rest, fault, link).await;
            }
            return;
        }
        if fault.closes_after_answer {
            return;
        }
    }
}

/// The next request; nothing at the end of the connection, an error for what is no HTTP.
async fn read_request(client: &mut TcpStream, buffer: &mut Vec<u8>, fault: &Fault) -> Result<Option<Request>, ()> {
    let Some(head) = read_head(client, buffer).await else { return Ok(None) };
    let (line, headers) = parse_head(&head).ok_or(())?;
    let mut words = line.split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        return Err(());
    };
    let mut request =
        Request { method: method.to_owned(), path: path.to_owned(), headers, body: Vec::new(), is_chunked: false };
    request.is_chunked = request.header("transfer-encoding").is_some();
    if request.header("expect").is_some() {
        let answer: &[u8] = if fault.says_no_continue {
            b"HTTP/1.1 417 x\r\ncontent-length: 0\r\n\r\n"
        } else {
            b"HTTP/1.1 100 Continue\r\n\r\n"
        };
        client.write_all(answer).await.map_err(|_| ())?;
    }
    if request.is_chunked {
        request.body = read_chunks(client, buffer).await.ok_or(())?;
    } else if let Some(length) = request.header("content-length").and_then(|length| length.parse().ok()) {
        let Some(body) = read_exactly(client, buffer, length).await else { return Ok(None) };
        request.body = body;
    }
    Ok(Some(request))
}

/// The server's answer, the connection to it, and what came after the answer.
async fn ask(upstream: SocketAddr, request: &Request) -> Option<(Response, TcpStream, Vec<u8>)> {
    let server = TcpStream::connect(upstream).await.ok()?;
    server.set_nodelay(true).ok()?;
    let bytes = request.encoded();
    let (mut reader, mut writer) = server.into_split();
    let writing = tokio::spawn(async move {
        // The server may answer before it has taken all.
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut buffer = Vec::new();
    let head = read_head(&mut reader, &mut buffer).await?;
    let (line, headers) = parse_head(&head)?;
    let mut response = Response { status: line.get(9..12)?.parse().ok()?, headers, body: Vec::new() };
    if response.status != 101 {
        response.body = if response.header("transfer-encoding").is_some() {
            read_chunks(&mut reader, &mut buffer).await?
        } else {
            let length = response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            read_exactly(&mut reader, &mut buffer, length).await?
        };
    }
    let server = reader.reunite(writing.await.ok()?).ok()?;
    Some((response, server, buffer))
}

async fn read_head(reader: &mut (impl AsyncReadExt + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 4);
            return Some(head);
        }
        more(reader, buffer).await?;
    }
}

fn parse_head(head: &str) -> Option<(String, Vec<(String, String)>)> {
    let (line, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let headers = rest.split("\r\n").filter(|line| !line.is_empty());
    let headers =
        headers.map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    Some((line.to_owned(), headers.collect::<Option<_>>()?))
}

async fn read_chunks(reader: &mut (impl AsyncReadExt + Unpin), buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            match buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                Some(end) => break end,
                None => more(reader, buffer).await?,
            }
        };
        let size = usize::from_str_radix(std::str::from_utf8(&buffer[..end]).ok()?, 16).ok()?;
        buffer.drain(..end + 2);
        body.extend(read_exactly(reader, buffer, size).await?);
        read_exactly(reader, buffer, 2).await?;
        if size == 0 {
            return Some(body);
        }
    }
}

async fn read_exactly(
    reader: &mut (impl AsyncReadExt + Unpin),
    buffer: &mut Vec<u8>,
    length: usize,
) -> Option<Vec<u8>> {
    while buffer.len() < length {
        more(reader, buffer).await?;
    }
    let rest = buffer.split_off(length);
    Some(std::mem::replace(buffer, rest))
}

async fn more(reader: &mut (impl AsyncReadExt + Unpin), buffer: &mut Vec<u8>) -> Option<()> {
    match reader.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}

/// A WebSocket, both ways.
async fn relay(
    client: TcpStream,
    from_client: Vec<u8>,
    server: TcpStream,
    from_server: Vec<u8>,
    fault: &Arc<Fault>,
    link: &Arc<Link>,
) {
    let (client_reader, client_writer) = client.into_split();
    let (server_reader, mut server_writer) = server.into_split();
    let (to_client, bytes) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write(client_writer, bytes));
    {
        let mut up = pin!(pump_up(client_reader, from_client, &mut server_writer, to_client.clone(), fault, link));
        let mut down = pin!(pump_down(server_reader, from_server, to_client, fault, link));
        let stays = tokio::select! {
            () = &mut up => fault.keeps_server,
            () = &mut down => fault.keeps_tcp,
        };
        if stays {
            std::future::pending::<()>().await;
        }
    }
    // What was to be said is said before the end.
    let _ = tokio::time::timeout(REQUEST_TIMEOUT, writing).await;
}

async fn write(mut writer: OwnedWriteHalf, mut bytes: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = bytes.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn pump_up(
    mut reader: OwnedReadHalf,
    mut buffer: Vec<u8>,
    writer: &mut OwnedWriteHalf,
    to_client: mpsc::UnboundedSender<Vec<u8>>,
    fault: &Fault,
    link: &Link,
) {
    loop {
        let read = read_frame(&mut reader, &mut buffer, fault.needs_whole_frames);
        let read = match fault.idle_limit {
            Some(limit) => tokio::time::timeout(limit, read).await.ok().flatten(),
            None => read.await,
        };
        let Some(read) = read else { return };
        let mut frame = match read {
            Read::Frame(frame) => frame,
            Read::Huge { .. } if fault.drops_huge_frames => {
                std::future::pending::<()>().await;
                return;
            }
            Read::Huge { header, left } => {
                if writer.write_all(&header).await.is_err()
                    || tokio::io::copy(&mut (&buffer[..]).take(left), &mut *writer).await.is_err()
                {
                    return;
                }
                let left = left.saturating_sub(buffer.len() as u64);
                buffer.clear();
                if tokio::io::copy(&mut (&mut reader).take(left), &mut *writer).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let payload = frame.payload.strip_prefix(&[0]).unwrap_or(&frame.payload);
        if frame.is_message()
            && let Ok(message) = AgentToServer::decode(payload)
        {
            *link.last.lock() = message;
        }
        let act = fault.up.as_ref().map_or(Act::Pass, |fault| fault(&mut frame, link));
        match act {
            Act::Pass => {}
            Act::Drop => continue,
            Act::Send(bytes) => {
                let _ = to_client.send(bytes);
                continue;
            }
            Act::Also(bytes) => {
                let _ = to_client.send(bytes);
            }
            Act::End => return,
        }
        if writer.write_all(&frame.encoded()).await.is_err() {
            return;
        }
    }
}

async fn pump_down(
    mut reader: OwnedReadHalf,
    mut buffer: Vec<u8>,
    to_client: mpsc::UnboundedSender<Vec<u8>>,
    fault: &Fault,
    link: &Link,
) {
    while let Some(Read::Frame(mut frame)) = read_frame(&mut reader, &mut buffer, false).await {
        let act = fault.down.as_ref().map_or(Act::Pass, |fault| fault(&mut frame, link));
        tokio::time::sleep(fault.delay).await;
        let bytes = match act {
            Act::Pass => frame.encoded(),
            Act::Drop => continue,
            Act::Send(bytes) => bytes,
            Act::Also(bytes) => [frame.encoded(), bytes].concat(),
            Act::End => return,
        };
        let _ = to_client.send(bytes);
    }
}

enum Read {
    Frame(Frame),
    /// The start of a frame that is too long to be looked at, and how much more there is.
    Huge {
        header: Vec<u8>,
        left: u64,
    },
}

async fn read_frame(reader: &mut OwnedReadHalf, buffer: &mut Vec<u8>, is_strict: bool) -> Option<Read> {
    loop {
        if let Some((first, mask, length, taken)) = parse_frame_header(buffer) {
            if length > MAX_FRAME_BYTES {
                return Some(Read::Huge { header: buffer.drain(..taken).collect(), left: length });
            }
            let length = length as usize;
            if buffer.len() >= taken + length {
                let mut payload: Vec<u8> = buffer.drain(..taken + length).skip(taken).collect();
                if let Some(mask) = mask {
                    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
                }
                return Some(Read::Frame(Frame { first, is_masked: mask.is_some(), payload }));
            }
        }
        if is_strict && !buffer.is_empty() {
            return None;
        }
        more(reader, buffer).await?;
    }
}

type Mask = Option<[u8; 4]>;

/// The first byte, the mask, the length of the payload, and the length of the header.
fn parse_frame_header(buffer: &[u8]) -> Option<(u8, Mask, u64, usize)> {
    let (first, second) = (*buffer.first()?, *buffer.get(1)?);
    let (length, mut taken) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let mut mask = None;
    if second & 0x80 != 0 {
        mask = Some(buffer.get(taken..taken + 4)?.try_into().ok()?);
        taken += 4;
    }
    Some((first, mask, length, taken))
}
