//! What goes through a proxy, as it is on the wire.

use muster::proto::opamp::ServerToAgent;
use prost::Message as _;

use super::BINARY;

pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub(super) is_chunked: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub fn is_upgrade(&self) -> bool {
        self.header("upgrade").is_some()
    }

    pub(super) fn encoded(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            if !["content-length", "transfer-encoding", "expect"].contains(&name.to_lowercase().as_str()) {
                head += &format!("{name}: {value}\r\n");
            }
        }
        if self.is_chunked {
            let chunk = [format!("{:x}\r\n", self.body.len()).as_bytes(), &self.body, b"\r\n"].concat();
            let chunk = if self.body.is_empty() { Vec::new() } else { chunk };
            return [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &chunk, b"0\r\n\r\n"].concat();
        }
        if self.method != "GET" {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

#[derive(Clone, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// A success that carries this message.
    pub fn message(message: &ServerToAgent) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".into(), "application/x-protobuf".into())],
            body: message.encode_to_vec(),
        }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(super) fn encoded(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} x\r\n", self.status);
        for (name, value) in &self.headers {
            if !["content-length", "transfer-encoding"].contains(&name.to_lowercase().as_str()) {
                head += &format!("{name}: {value}\r\n");
            }
        }
        if self.status != 101 {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

#[derive(Clone, Debug)]
pub struct Frame {
    /// The final bit, the reserved bits and the opcode.
    pub first: u8,
    pub is_masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { first: 0x80 | opcode, is_masked: false, payload: payload.into() }
    }

    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// A whole message, not a fragment of one.
    pub fn is_message(&self) -> bool {
        self.first == 0x80 | BINARY
    }

    pub fn encoded(&self) -> Vec<u8> {
        [&header(self.first, self.is_masked, self.payload.len() as u64)[..], &self.payload].concat()
    }
}

/// With a mask of zeros.
pub(super) fn header(first: u8, is_masked: bool, length: u64) -> Vec<u8> {
    let mask = u8::from(is_masked) << 7;
    let mut bytes = vec![first];
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
    if is_masked {
        bytes.extend([0; 4]);
    }
    bytes
}
