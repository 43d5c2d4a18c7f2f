//! A client's half of RFC 6455 framing.

/// Largest message taken, the limit of the opamp-go client.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

pub mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Appends a final, masked frame to `out`.
pub fn write(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: u32) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = mask.to_be_bytes();
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// What a server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Binary(&'a [u8]),
    Text,
    Ping(&'a [u8]),
    /// The close code, 1005 if there is none.
    Close(u16),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("WebSocket: {0}")]
pub struct ProtocolError(&'static str);

/// Frames out of a stream of bytes. Holds memory only while a frame or a fragmented message is incomplete.
#[derive(Default)]
pub struct Reader {
    incomplete: Vec<u8>,
    /// Opcode and fragments of a message so far.
    fragments: Option<Box<(u8, Vec<u8>)>>,
}

impl Reader {
    /// Takes what has arrived and hands out the events that it completes.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Event<'_>)) -> Result<(), ProtocolError> {
        if self.incomplete.is_empty() {
            let used = self.frames(bytes, &mut on)?;
            if used < bytes.len() {
                self.incomplete = bytes[used..].to_vec();
            }
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.incomplete);
        joined.extend_from_slice(bytes);
        let used = self.frames(&joined, &mut on)?;
        if used < joined.len() {
            joined.drain(..used);
            self.incomplete = joined;
        }
        Ok(())
    }

    /// Handles the complete frames of `bytes`; returns how many bytes they took.
    fn frames(&mut self, bytes: &[u8], on: &mut impl FnMut(Event<'_>)) -> Result<usize, ProtocolError> {
        let mut used = 0;
        while let Some((header, start)) = Header::parse(&bytes[used..])? {
            let Some(payload) = bytes.get(used + start..used + start + header.length) else {
                break;
            };
            self.frame(&header, payload, on)?;
            used += start + header.length;
        }
        Ok(used)
    }

    fn frame(&mut self, header: &Header, payload: &[u8], on: &mut impl FnMut(Event<'_>)) -> Result<(), ProtocolError> {
        match (header.opcode, header.is_final, self.fragments.as_mut()) {
            (opcode::BINARY, true, None) => on(Event::Binary(payload)),
            (opcode::TEXT, true, None) => on(Event::Text),
            (opcode::BINARY | opcode::TEXT, false, None) => {
                self.fragments = Some(Box::new((header.opcode, payload.to_vec())));
            }
            (opcode::CONTINUATION, is_final, Some(fragments)) => {
                fragments.1.extend_from_slice(payload);
                if fragments.1.len() > MAX_MESSAGE_BYTES {
                    return Err(ProtocolError("message too large"));
                }
                if is_final && let Some(message) = self.fragments.take() {
                    on(if message.0 == opcode::TEXT { Event::Text } else { Event::Binary(&message.1) });
                }
            }
            (opcode::PING, true, _) => on(Event::Ping(payload)),
            (opcode::PONG, true, _) => {}
            (opcode::CLOSE, true, _) => {
                let code = payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                on(Event::Close(code));
            }
            _ => return Err(ProtocolError("unexpected frame")),
        }
        Ok(())
    }
}

struct Header {
    opcode: u8,
    is_final: bool,
    length: usize,
}

impl Header {
    /// The header at the start of `bytes` and its own length, once it is complete.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(ProtocolError("reserved bits set"));
        }
        if second & 0x80 != 0 {
            return Err(ProtocolError("masked frame from a server"));
        }
        let (length, size) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 10),
                None => return Ok(None),
            },
            length => (u64::from(length), 2),
        };
        let length = usize::try_from(length).ok().filter(|&length| length <= MAX_MESSAGE_BYTES);
        let length = length.ok_or(ProtocolError("message too large"))?;
        Ok(Some((Self { opcode: first & 0x0f, is_final: first & 0x80 != 0, length }, size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(length as u8),
            length => {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn texts(chunks: &[&[u8]]) -> Result<Vec<String>, ProtocolError> {
        let (mut reader, mut events) = (Reader::default(), Vec::new());
        for chunk in chunks {
            reader.feed(chunk, |event| events.push(format!("{event:?}")))?;
        }
        assert!(reader.incomplete.is_empty() && reader.incomplete.capacity() == 0, "no buffer is kept");
        Ok(events)
    }

    #[test]
    fn frames_arrive_however_they_are_cut() {
        let stream = [
            server_frame(0x82, &[1, 2]),
            server_frame(0x02, &[3]),
            server_frame(0x89, b"p"),
            server_frame(0x80, &[4]),
            server_frame(0x82, &[7; 300]),
            server_frame(0x88, &[3, 233]),
        ]
        .concat();
        let whole = texts(&[&stream]).unwrap();
        assert_eq!(whole[..3], ["Binary([1, 2])", "Ping([112])", "Binary([3, 4])"]);
        assert_eq!(whole[4], "Close(1001)");
        for size in [1, 2, 3, 7, 100] {
            assert_eq!(texts(&stream.chunks(size).collect::<Vec<_>>()).unwrap(), whole, "cut into {size}");
        }
    }

    #[test]
    fn refuses_what_no_server_may_send() {
        for frame in [&[0x82, 0x81, 0, 0, 0, 0, 1][..], &[0xc2, 0], &[0x80, 0], &[0x09, 0]] {
            assert!(texts(&[frame]).is_err(), "{frame:?}");
        }
    }

    #[test]
    fn written_frames_are_masked() {
        for length in [0usize, 125, 126, 70_000] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut out = Vec::new();
            write(&mut out, opcode::BINARY, &payload, 0x1234_5678);
            let mut cursor = std::io::Cursor::new(&out);
            use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
            let (header, claimed) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert_eq!((claimed as usize, header.mask), (length, Some([0x12, 0x34, 0x56, 0x78])));
            let body = &out[cursor.position() as usize..];
            let unmasked: Vec<u8> =
                body.iter().zip([0x12, 0x34, 0x56, 0x78].iter().cycle()).map(|(b, m)| b ^ m).collect();
            assert_eq!(unmasked, payload);
        }
    }
}
