//! RFC 6455 framing without buffers: bytes of a connection in, frames out.
//!
//! A frame that is whole within one read is handed out where it lies; only what is cut off by the end of a read is kept,
//! in a heap buffer that is freed as soon as the message is complete. Knows nothing of sockets or of OpAMP.

/// Close codes that this server sends.
pub mod code {
    pub const GOING_AWAY: u16 = 1001;
    pub const PROTOCOL_ERROR: u16 = 1002;
    pub const POLICY: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
}

/// A control frame's payload is never longer.
pub const MAX_CONTROL_BYTES: usize = 125;
/// The longest header that a client may send: two bytes, a 64-bit length and a mask.
const MAX_HEADER_BYTES: usize = 14;
/// The longest header that a server sends: it does not mask.
pub const MAX_SENT_HEADER_BYTES: usize = 10;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What a client sent. Payloads are unmasked; messages are whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Binary(&'a [u8]),
    Text(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The payload: empty, or a code of two bytes and a reason.
    Close(&'a [u8]),
}

/// Why nothing more can be read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("message too big")]
    TooBig,
    #[error("{0}")]
    Protocol(&'static str),
}

impl Violation {
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooBig => code::TOO_BIG,
            Self::Protocol(_) => code::PROTOCOL_ERROR,
        }
    }
}

/// Reads one connection's frames. Takes up a pointer while no frame is cut off.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

/// What is known of an unfinished frame or message.
#[derive(Debug, Default)]
struct Partial {
    /// A cut-off header, or a control frame that is cut off: at most header and payload of a control frame.
    raw: Vec<u8>,
    /// The data frame whose payload is arriving.
    frame: Option<Arriving>,
    /// `TEXT` or `BINARY` while a message is unfinished.
    kind: Option<u8>,
    /// The message's payload so far, unmasked.
    message: Vec<u8>,
}

#[derive(Debug)]
struct Arriving {
    remaining: usize,
    mask: [u8; 4],
    fin: bool,
}

struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    header_bytes: usize,
    payload_bytes: usize,
}

impl Decoder {
    /// Takes `input` (unmasking it in place) and hands each frame that is complete to `take`. Messages are limited
    /// to `max_bytes`, which is decided on their headers. After an error the decoder must not be used again.
    pub fn feed(
        &mut self,
        mut input: &mut [u8],
        max_bytes: usize,
        mut take: impl FnMut(Frame<'_>),
    ) -> Result<(), Violation> {
        while !input.is_empty() {
            input = match &mut self.partial {
                Some(partial) => partial.resume(input, max_bytes, &mut take)?,
                None => self.start(input, max_bytes, &mut take)?,
            };
            if self.partial.as_ref().is_some_and(|partial| partial.is_done()) {
                self.partial = None;
            }
        }
        Ok(())
    }

    /// Takes one frame from the start of `input`, no message being unfinished.
    fn start<'a>(
        &mut self,
        input: &'a mut [u8],
        max_bytes: usize,
        take: &mut impl FnMut(Frame<'_>),
    ) -> Result<&'a mut [u8], Violation> {
        let header = parse_header(input)?;
        match header {
            Some(header) if header.is_whole_in(input) && (header.is_control() || header.fin) => {
                header.check(None, 0, max_bytes)?;
                let (frame, rest) = input.split_at_mut(header.header_bytes + header.payload_bytes);
                let payload = &mut frame[header.header_bytes..];
                unmask(payload, header.mask);
                take(header.frame(header.opcode, payload));
                Ok(rest)
            }
            _ => self.partial.insert(Box::default()).begin(header, input, max_bytes),
        }
    }

    /// Whether anything is buffered.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.partial.is_none()
    }
}

impl Partial {
    fn is_done(&self) -> bool {
        self.raw.is_empty() && self.frame.is_none() && self.kind.is_none()
    }

    /// Takes the head of a frame that is not whole in `input`, or is one of several fragments.
    fn begin<'a>(
        &mut self,
        header: Option<Header>,
        input: &'a mut [u8],
        max_bytes: usize,
    ) -> Result<&'a mut [u8], Violation> {
        let Some(header) = header else {
            self.raw.extend_from_slice(input);
            return Ok(&mut []);
        };
        header.check(self.kind, self.message.len(), max_bytes)?;
        if header.is_control() {
            self.raw.extend_from_slice(input);
            return Ok(&mut []);
        }
        self.kind.get_or_insert(header.opcode);
        self.frame = Some(Arriving { remaining: header.payload_bytes, mask: header.mask, fin: header.fin });
        Ok(&mut input[header.header_bytes..])
    }

    fn resume<'a>(
        &mut self,
        input: &'a mut [u8],
        max_bytes: usize,
        take: &mut impl FnMut(Frame<'_>),
    ) -> Result<&'a mut [u8], Violation> {
        if self.frame.is_some() {
            return Ok(self.take_payload(input, take));
        }
        // A header, or a control frame whole. The first bytes may lie in `raw`.
        let before = self.raw.len();
        let wanted = MAX_HEADER_BYTES + MAX_CONTROL_BYTES - before;
        self.raw.extend_from_slice(&input[..input.len().min(wanted)]);
        let mut raw = std::mem::take(&mut self.raw);
        let Some(header) = parse_header(&raw)? else {
            self.raw = raw;
            return Ok(&mut []);
        };
        header.check(self.kind, self.message.len(), max_bytes)?;
        if !header.is_control() {
            self.kind.get_or_insert(header.opcode);
            self.frame = Some(Arriving { remaining: header.payload_bytes, mask: header.mask, fin: header.fin });
            let rest = &mut input[header.header_bytes - before..];
            // An empty last fragment has no payload that would end it.
            return Ok(if header.payload_bytes == 0 { self.take_payload(rest, take) } else { rest });
        }
        if !header.is_whole_in(&raw) {
            self.raw = raw;
            return Ok(&mut []);
        }
        let end = header.header_bytes + header.payload_bytes;
        unmask(&mut raw[header.header_bytes..end], header.mask);
        take(header.frame(header.opcode, &raw[header.header_bytes..end]));
        Ok(&mut input[end - before..])
    }

    fn take_payload<'a>(&mut self, input: &'a mut [u8], take: &mut impl FnMut(Frame<'_>)) -> &'a mut [u8] {
        let Some(frame) = &mut self.frame else { return input };
        let (payload, rest) = input.split_at_mut(input.len().min(frame.remaining));
        unmask(payload, frame.mask);
        self.message.extend_from_slice(payload);
        frame.mask.rotate_left(payload.len() % 4);
        frame.remaining -= payload.len();
        if frame.remaining == 0 {
            let fin = frame.fin;
            self.frame = None;
            if fin {
                let message = std::mem::take(&mut self.message);
                let is_text = self.kind.take() == Some(TEXT);
                take(if is_text { Frame::Text(&message) } else { Frame::Binary(&message) });
            }
        }
        rest
    }
}

impl Header {
    fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    fn is_whole_in(&self, input: &[u8]) -> bool {
        input.len() - self.header_bytes >= self.payload_bytes
    }

    /// Whether the frame may follow: `unfinished` is the message being received, of which `so_far` bytes are here.
    fn check(&self, unfinished: Option<u8>, so_far: usize, max_bytes: usize) -> Result<(), Violation> {
        match (self.opcode, unfinished) {
            (CLOSE | PING | PONG, _) if !self.fin => Err(Violation::Protocol("fragmented control frame")),
            (CLOSE | PING | PONG, _) if self.payload_bytes > MAX_CONTROL_BYTES => {
                Err(Violation::Protocol("control frame too long"))
            }
            (CLOSE, _) if self.payload_bytes == 1 => Err(Violation::Protocol("close frame with half a code")),
            (CLOSE | PING | PONG, _) => Ok(()),
            (CONTINUATION, None) => Err(Violation::Protocol("continuation of nothing")),
            (TEXT | BINARY, Some(_)) => Err(Violation::Protocol("new message inside a fragmented one")),
            (CONTINUATION | TEXT | BINARY, _) if self.payload_bytes > max_bytes - so_far.min(max_bytes) => {
                Err(Violation::TooBig)
            }
            (CONTINUATION | TEXT | BINARY, _) => Ok(()),
            _ => Err(Violation::Protocol("unknown opcode")),
        }
    }

    fn frame<'a>(&self, opcode: u8, payload: &'a [u8]) -> Frame<'a> {
        match opcode {
            TEXT => Frame::Text(payload),
            CLOSE => Frame::Close(payload),
            PING => Frame::Ping(payload),
            PONG => Frame::Pong(payload),
            _ => Frame::Binary(payload),
        }
    }
}

/// The header at the start of `input`, or `None` if it is cut off.
fn parse_header(input: &[u8]) -> Result<Option<Header>, Violation> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(Violation::Protocol("reserved bits set without an extension"));
    }
    if second & 0x80 == 0 {
        return Err(Violation::Protocol("client frame without a mask"));
    }
    let (payload_bytes, length_bytes) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8),
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 0),
    };
    let Some(&[a, b, c, d]) = rest.get(length_bytes..length_bytes + 4) else { return Ok(None) };
    Ok(Some(Header {
        fin: first & 0x80 != 0,
        opcode: first & 0x0f,
        mask: [a, b, c, d],
        header_bytes: 2 + length_bytes + 4,
        payload_bytes: usize::try_from(payload_bytes).map_err(|_| Violation::TooBig)?,
    }))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Writes the header of an unfragmented binary frame to `out`, which has room for it; returns its length.
pub fn binary_header(payload_bytes: usize, out: &mut [u8; MAX_SENT_HEADER_BYTES]) -> usize {
    out[0] = 0x80 | BINARY;
    match payload_bytes {
        0..=125 => {
            out[1] = payload_bytes as u8;
            2
        }
        126..=0xffff => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        }
    }
}

pub fn ping(payload: &[u8]) -> Vec<u8> {
    control(PING, payload)
}

pub fn pong(payload: &[u8]) -> Vec<u8> {
    control(PONG, payload)
}

/// `payload` is what a Close carries: empty, or a code and a reason.
pub fn close(payload: &[u8]) -> Vec<u8> {
    control(CLOSE, payload)
}

/// Whether a Close may carry this payload: nothing, or a code that RFC 6455 or its registry lets endpoints send.
pub fn is_close_code(payload: &[u8]) -> bool {
    match payload {
        [high, low, ..] => matches!(u16::from_be_bytes([*high, *low]), 1000..=1003 | 1007..=1014 | 3000..=4999),
        _ => payload.is_empty(),
    }
}

fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(MAX_CONTROL_BYTES)];
    [&[0x80 | opcode, payload.len() as u8], payload].concat()
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
