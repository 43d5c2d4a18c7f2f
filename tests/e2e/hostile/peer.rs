//! Who sends it, and what counts as an answer.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use muster::proto::opamp::ServerToAgent;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::inputs::{Input, frame};

/// Statuses that say something about a POST.
const ANSWERS: [&str; 5] = ["200", "400", "413", "415", "503"];
const PING: u8 = 0x89;
const BINARY: u8 = 0x82;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;

#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    pub token: Arc<str>,
}

type Verdict = Result<(), String>;

impl Peer {
    pub async fn try_on(&self, input: Input) -> Verdict {
        match input {
            Input::BeforeUpgrade(bytes) => self.before_upgrade(&bytes).await,
            Input::Body(body, is_gzip) => self.body(&body, is_gzip).await,
            Input::Messages(messages) => self.messages(&messages).await,
            Input::AfterUpgrade(bytes) => self.after_upgrade(&bytes).await,
        }
    }

    /// Says what it wants a byte at a time, until it is cut off.
    pub async fn slow_headers(&self, number: usize) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET /v1/opamp?{number} HTTP/1.1\r\nX: {}", "x".repeat(1_000));
        let mut answer = Vec::new();
        for byte in request.bytes() {
            let pause = Duration::from_millis(200);
            match tokio::time::timeout(pause, socket.read_buf(&mut answer)).await {
                Err(_) if socket.write_all(&[byte]).await.is_ok() => {}
                Err(_) | Ok(_) => break,
            }
        }
        assert!(answer.starts_with(b"HTTP/1.1 408"), "slow headers: {}", String::from_utf8_lossy(&answer));
    }

    /// A status, or an end without a word to what is no request.
    async fn before_upgrade(&self, bytes: &[u8]) -> Verdict {
        let mut socket = self.connect().await?;
        let answer = send_all(&mut socket, bytes).await?;
        check(answer.is_empty() || answer.starts_with(b"HTTP/1."), "not HTTP", &answer)
    }

    async fn body(&self, body: &[u8], is_gzip: bool) -> Verdict {
        let encoding = if is_gzip { "Content-Encoding: gzip\r\n" } else { "" };
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/x-protobuf\r\n{encoding}Content-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let mut socket = self.connect().await?;
        let io = |error: std::io::Error| error.to_string();
        socket.write_all(&[head.as_bytes(), body].concat()).await.map_err(io)?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.map_err(io)?;
        let status = answer.get(9..12).unwrap_or_default();
        check(ANSWERS.iter().any(|known| known.as_bytes() == status), "no clear status", &answer)?;
        if status != b"200" {
            return Ok(());
        }
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len()) + 4;
        let body = answer.get(end..).unwrap_or_default();
        check(!body.is_empty() && ServerToAgent::decode(body).is_ok(), "no ServerToAgent", &answer)
    }

    /// Each message has one answer, and the connection lives on.
    async fn messages(&self, messages: &[Vec<u8>]) -> Verdict {
        let Some(mut socket) = self.upgrade().await? else { return Ok(()) };
        let mut bytes: Vec<u8> = messages.iter().flat_map(|message| frame(BINARY, message)).collect();
        bytes.extend(frame(PING, b"still there?"));
        socket.write_all(&bytes).await.map_err(|error| error.to_string())?;
        let (mut replies, mut is_alive) = (0, false);
        while replies < messages.len() || !is_alive {
            match read_frame(&mut socket).await? {
                (BINARY, payload) => {
                    let is_message = payload.first() == Some(&0) && ServerToAgent::decode(&payload[1..]).is_ok();
                    check(is_message, "no ServerToAgent", &payload)?;
                    replies += 1;
                }
                (PONG, payload) => is_alive |= payload == b"still there?",
                // It may have been taken for dead by another that has its uid.
                (CLOSE, _) => return Ok(()),
                (PING, payload) => {
                    let pong = frame(PONG, &payload);
                    socket.write_all(&pong).await.map_err(|error| error.to_string())?;
                }
                (other, payload) => return check(false, &format!("opcode {other:02x}"), &payload),
            }
        }
        Ok(())
    }

    /// Frames, of which all but the last are whole, and an end.
    async fn after_upgrade(&self, bytes: &[u8]) -> Verdict {
        let Some(mut socket) = self.upgrade().await? else { return Ok(()) };
        let answer = send_all(&mut socket, bytes).await?;
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let Ok((first, payload)) = read_frame(&mut rest).await else {
                return check(false, "half a frame", &answer);
            };
            check([BINARY, PING, PONG, CLOSE].contains(&first), "not a frame that a server sends", &payload)?;
        }
        Ok(())
    }

    /// A WebSocket; `None` if there are too many of them now.
    async fn upgrade(&self) -> Result<Option<TcpStream>, String> {
        let mut socket = self.connect().await?;
        let request = format!(
            "GET /v1/opamp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.token
        );
        socket.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.map_err(|error| error.to_string())?);
        }
        match head.get(9..12) {
            Some(b"101") => Ok(Some(socket)),
            Some(b"503") => Ok(None),
            _ => Err(format!("no upgrade: {}", String::from_utf8_lossy(&head))),
        }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        TcpStream::connect(self.address).await.map_err(|error| format!("no connection: {error}"))
    }
}

/// Sends and ends; returns all that comes until the other side ends too. That it does not want to hear all is fine.
async fn send_all(socket: &mut TcpStream, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let _ = socket.write_all(bytes).await;
    let _ = socket.shutdown().await;
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer).await {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error.to_string()),
        Ok(_) | Err(_) => Ok(answer),
    }
}

/// The first byte and the payload of a server's frame.
async fn read_frame(from: &mut (impl AsyncReadExt + Unpin)) -> Result<(u8, Vec<u8>), String> {
    let read = async {
        let first = from.read_u8().await?;
        let length = match from.read_u8().await? {
            126 => usize::from(from.read_u16().await?),
            127 => from.read_u64().await? as usize,
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        Ok::<_, std::io::Error>((first, payload))
    };
    read.await.map_err(|error| format!("while a frame is awaited: {error}"))
}

fn check(holds: bool, problem: &str, answer: &[u8]) -> Verdict {
    if holds { Ok(()) } else { Err(format!("{problem}: {}", String::from_utf8_lossy(answer))) }
}
