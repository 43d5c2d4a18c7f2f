//! WebSocket as a client speaks it, by hand: frames as a case wants them, good or broken, and the server's checked.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    case::{Step, Stop},
    protobuf::Message,
    reply::Reply,
    target::Stream,
};

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MAX_MESSAGE_BYTES: u64 = 72 << 20;

/// What `Sec-WebSocket-Accept` must be.
pub fn accept_of(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{GUID}")))
}

/// A frame to be sent.
#[derive(Clone, Debug)]
pub struct Frame {
    pub is_final: bool,
    /// The three reserved bits.
    pub reserved: u8,
    pub opcode: u8,
    pub is_masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { is_final: true, reserved: 0, opcode, is_masked: true, payload: payload.into() }
    }

    /// A fragment that others follow.
    pub fn fragment(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { is_final: false, ..Self::new(opcode, payload) }
    }

    /// The header that announces a payload of this length.
    pub fn header(&self, length: u64) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.is_final) << 7 | self.reserved << 4 | self.opcode];
        let mask = u8::from(self.is_masked) << 7;
        match length {
            0..=125 => bytes.push(mask | length as u8),
            126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend(length.to_be_bytes());
            }
        }
        if self.is_masked {
            bytes.extend(MASK);
        }
        bytes
    }

    pub fn encoded(&self) -> Vec<u8> {
        let mut bytes = self.header(self.payload.len() as u64);
        let start = bytes.len();
        bytes.extend_from_slice(&self.payload);
        if self.is_masked {
            mask(&mut bytes[start..]);
        }
        bytes
    }
}

/// Eight bytes at a time: some cases send what is too large for any server.
fn mask(payload: &mut [u8]) {
    let [a, b, c, d] = MASK;
    let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        if let Some(word) = word.first_chunk_mut::<8>() {
            *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip([MASK, MASK].as_flattened()) {
        *byte ^= mask;
    }
}

/// A message with OpAMP's header in front, as it goes into a frame.
pub fn framed(message: &Message) -> Vec<u8> {
    [&[0], message.encoded()].concat()
}

/// What a server sent. Messages are whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Binary(Vec<u8>),
    Text(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Vec<u8>),
    /// The TCP connection is over.
    End,
}

impl Event {
    /// The code of a Close that has one.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Self::Close(payload) => payload.first_chunk().map(|code| u16::from_be_bytes(*code)),
            _ => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Binary(_) => "a message".to_owned(),
            Self::Text(_) => "a text frame".to_owned(),
            Self::Ping(_) => "a ping".to_owned(),
            Self::Pong(_) => "a pong".to_owned(),
            Self::Close(payload) if payload.len() >= 2 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                format!("a Close with code {code} {:?}", String::from_utf8_lossy(&payload[2..]))
            }
            Self::Close(_) => "a Close".to_owned(),
            Self::End => "the end of the connection".to_owned(),
        }
    }
}

/// A connection that was upgraded.
pub struct Socket {
    pub stream: Stream,
    pub buffer: Vec<u8>,
    pub patience: Duration,
}

impl Socket {
    pub async fn send(&mut self, message: &Message) -> Step<()> {
        self.send_frame(&Frame::new(BINARY, framed(message))).await
    }

    pub async fn send_frame(&mut self, frame: &Frame) -> Step<()> {
        self.send_bytes(&frame.encoded()).await
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Step<()> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let patience = self.patience;
        match tokio::time::timeout(patience, sent).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Stop::Fail(format!("the server takes nothing for {patience:?}"))),
        }
    }

    /// Sends what a server may refuse before it has all been sent.
    pub async fn send_unwelcome(&mut self, bytes: &[u8]) {
        let sent = async {
            let _ = self.stream.write_all(bytes).await;
            let _ = self.stream.flush().await;
        };
        let _ = tokio::time::timeout(self.patience, sent).await;
    }

    /// Sends a message, and reads the next of the server's.
    pub async fn say(&mut self, message: &Message) -> Step<Reply> {
        self.send(message).await?;
        self.reply().await
    }

    /// The server's next message. Pings are answered.
    pub async fn reply(&mut self) -> Step<Reply> {
        match self.message_within(self.patience).await? {
            Some(reply) => Ok(reply),
            None => Err(Stop::Fail(format!("no message within {:?}", self.patience))),
        }
    }

    /// The first of the server's messages that is so.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Reply) -> bool) -> Step<Reply> {
        let deadline = Instant::now() + self.patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.message_within(left).await? {
                Some(reply) if is_so(&reply) => return Ok(reply),
                Some(_) => {}
                None => return Err(Stop::Fail(format!("{what}: not within {:?}", self.patience))),
            }
        }
    }

    /// Every message that comes within this time.
    pub async fn during(&mut self, time: Duration) -> Step<Vec<Reply>> {
        let deadline = Instant::now() + time;
        let mut replies = Vec::new();
        while let Some(reply) = self.message_within(deadline.saturating_duration_since(Instant::now())).await? {
            replies.push(reply);
        }
        Ok(replies)
    }

    /// The next message, if one comes within this time.
    pub async fn message_within(&mut self, time: Duration) -> Step<Option<Reply>> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.event_within(left).await? {
                None => return Ok(None),
                Some(Event::Binary(message)) => return Ok(Some(Reply::read_framed(&message)?)),
                Some(Event::Ping(payload)) => self.send_frame(&Frame::new(PONG, payload)).await?,
                Some(Event::Pong(_)) => {}
                Some(other) => return Err(Stop::Fail(format!("{} instead of a message", other.name()))),
            }
        }
    }

    /// The next of anything, which must come.
    pub async fn event(&mut self) -> Step<Event> {
        let patience = self.patience;
        self.event_within(patience).await?.ok_or_else(|| Stop::Fail(format!("nothing within {patience:?}")))
    }

    /// The next that is neither a message nor a ping.
    pub async fn control(&mut self) -> Step<Event> {
        loop {
            match self.event().await? {
                Event::Binary(_) => {}
                Event::Ping(payload) => self.send_frame(&Frame::new(PONG, payload)).await?,
                other => return Ok(other),
            }
        }
    }

    /// The next of anything, if it comes within this time.
    pub async fn event_within(&mut self, time: Duration) -> Step<Option<Event>> {
        let deadline = tokio::time::Instant::now() + time;
        let mut message: Option<(u8, Vec<u8>)> = None;
        loop {
            let Some((header, length)) = self.frame_header(deadline).await? else { return Ok(None) };
            let [first, second] = header;
            if header == [0, 0] && length == u64::MAX {
                return Ok(Some(Event::End));
            }
            let payload = self.payload(length, deadline).await?;
            let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
            if first & 0x70 != 0 {
                return Err("the server sent a frame with reserved bits".into());
            }
            if second & 0x80 != 0 {
                return Err("the server sent a masked frame".into());
            }
            if opcode >= CLOSE {
                if !is_final || length > 125 {
                    return Err("the server sent a control frame in fragments or of more than 125 bytes".into());
                }
                if message.is_some() && opcode != CLOSE {
                    // Between fragments: seen, and answered, but the message is what is waited for.
                    if opcode == PING {
                        self.send_frame(&Frame::new(PONG, payload)).await?;
                    }
                    continue;
                }
                return match opcode {
                    CLOSE => Ok(Some(Event::Close(payload))),
                    PING => Ok(Some(Event::Ping(payload))),
                    PONG => Ok(Some(Event::Pong(payload))),
                    _ => Err(Stop::Fail(format!("the server sent a frame with the reserved opcode {opcode:#x}"))),
                };
            }
            let whole = match (opcode, message.take()) {
                (TEXT | BINARY, None) => (opcode, payload),
                (CONTINUATION, Some((opcode, start))) => (opcode, [start, payload].concat()),
                _ => return Err(Stop::Fail(format!("the server's fragments do not fit together: opcode {opcode:#x}"))),
            };
            match whole {
                (TEXT, text) if is_final => return Ok(Some(Event::Text(text))),
                (_, bytes) if is_final => return Ok(Some(Event::Binary(bytes))),
                unfinished => message = Some(unfinished),
            }
        }
    }

    /// The first two bytes of a frame and the length of its payload. At the end of the connection zeros and the largest
    /// length; nothing when the time is over.
    async fn frame_header(&mut self, deadline: tokio::time::Instant) -> Step<Option<([u8; 2], u64)>> {
        loop {
            if let [first, second, rest @ ..] = self.buffer.as_slice() {
                let (length, taken) = match (second & 0x7f, rest) {
                    (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
                    (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
                    (short @ 0..=125, _) => (u64::from(short), 2),
                    _ => (0, 0),
                };
                if taken > 0 {
                    let header = [*first, *second];
                    self.buffer.drain(..taken);
                    return Ok(Some((header, length)));
                }
            }
            match tokio::time::timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
                Err(_) => return Ok(None),
                Ok(Ok(0) | Err(_)) if self.buffer.is_empty() => return Ok(Some(([0, 0], u64::MAX))),
                Ok(Ok(0)) => return Err("the connection ended within a frame".into()),
                Ok(result) => result.map(|_| ())?,
            }
        }
    }

    async fn payload(&mut self, length: u64, deadline: tokio::time::Instant) -> Step<Vec<u8>> {
        if length > MAX_MESSAGE_BYTES {
            return Err(Stop::Fail(format!("the server announced a frame of {length} bytes")));
        }
        let length = length as usize;
        // What has begun may take a little longer.
        let deadline = deadline + self.patience;
        while self.buffer.len() < length {
            match tokio::time::timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
                Err(_) => return Err("the rest of a frame does not come".into()),
                Ok(Ok(0)) => return Err("the connection ended within a frame".into()),
                Ok(result) => result.map(|_| ())?,
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_as_the_rfc_does() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_are_those_of_the_rfc() {
        let hello = Frame::new(TEXT, "Hello").encoded();
        assert_eq!(hello, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        let open = Frame { is_masked: false, ..Frame::fragment(TEXT, "Hel") }.encoded();
        assert_eq!(open, [0x01, 0x03, 0x48, 0x65, 0x6c]);
        let long = Frame { is_masked: false, ..Frame::new(BINARY, vec![0; 65_536]) }.encoded();
        assert_eq!(long[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[tokio::test]
    async fn reads_what_a_server_may_send_and_refuses_the_rest() {
        let read = async |bytes: &[u8]| {
            let (ours, mut theirs) = tokio::io::duplex(1 << 20);
            theirs.write_all(bytes).await.unwrap();
            drop(theirs);
            let mut socket = Socket { stream: Box::new(ours), buffer: Vec::new(), patience: Duration::from_secs(60) };
            socket.event().await
        };
        assert_eq!(read(b"\x01\x03Hel\x8a\x00\x80\x02lo").await, Ok(Event::Text(b"Hello".to_vec())));
        assert_eq!(read(b"\x88\x02\x03\xe8").await.unwrap().close_code(), Some(1000));
        assert_eq!(read(b"").await, Ok(Event::End));
        for broken in [&b"\x82\x81abcde"[..], b"\xc2\x00", b"\x80\x00", b"\x82\x05ab", b"\x09\x00", b"\x83\x00"] {
            assert!(read(broken).await.is_err(), "{broken:?}");
        }
    }
}
