//! What is sent: made from a seed and a number, so that one input can be made again.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use muster::proto::opamp::{
    AgentDescription, AgentToServer, AnyValue, ComponentHealth, KeyValue, RemoteConfigStatus, any_value::Value,
};
use prost::Message as _;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// Over the limit of 4 MiB.
const OVERSIZED_BYTES: usize = 5 << 20;
const BOMB_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub enum Input {
    /// Instead of a request.
    BeforeUpgrade(Vec<u8>),
    /// The body of a POST; true if its headers say gzip.
    Body(Vec<u8>, bool),
    /// As the payloads of binary frames on one connection.
    Messages(Vec<Vec<u8>>),
    /// After the upgrade, instead of frames.
    AfterUpgrade(Vec<u8>),
}

impl Input {
    pub fn new(seed: u64, number: usize) -> Self {
        let random = &mut StdRng::seed_from_u64(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match (number % 250, number % 5) {
            (0, _) => Self::Body(vec![0; OVERSIZED_BYTES], false),
            (1, _) => Self::Body(gzip(&vec![0; BOMB_BYTES]), true),
            (2, _) => Self::AfterUpgrade(frame_head(OVERSIZED_BYTES as u64)),
            (3, _) => Self::AfterUpgrade(frame_head(random.random())),
            (_, 0) => Self::BeforeUpgrade(request(random)),
            (_, 1) => Self::Body(hostile(random), false),
            (_, 2) => Self::Body(zipped(random), true),
            (_, 3) => Self::Messages((0..random.random_range(1..4)).map(|_| hostile(random)).collect()),
            _ => Self::AfterUpgrade(frames(random)),
        }
    }

    pub fn name(&self) -> String {
        let (name, bytes) = match self {
            Self::BeforeUpgrade(bytes) => ("before the upgrade", bytes),
            Self::Body(bytes, true) => ("as a gzip body", bytes),
            Self::Body(bytes, false) => ("as a body", bytes),
            Self::Messages(messages) => return format!("as messages {messages:02x?}"),
            Self::AfterUpgrade(bytes) => ("after the upgrade", bytes),
        };
        format!("{name}, {} bytes {:02x?}", bytes.len(), &bytes[..bytes.len().min(200)])
    }
}

/// A report in full, as a client would send it.
pub fn report(uid: uuid::Uuid, sequence_num: u64, name: &str) -> AgentToServer {
    let value = AnyValue { value: Some(Value::StringValue(name.to_owned())) };
    let attribute = KeyValue { key: "service.name".to_owned(), value: Some(value) };
    AgentToServer {
        instance_uid: Bytes::copy_from_slice(uid.as_bytes()),
        sequence_num,
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![attribute],
            ..AgentDescription::default()
        }),
        capabilities: 0x3807,
        health: Some(ComponentHealth { healthy: true, status: "fine".to_owned(), ..ComponentHealth::default() }),
        remote_config_status: Some(RemoteConfigStatus { status: 1, ..RemoteConfigStatus::default() }),
        ..AgentToServer::default()
    }
}

fn valid(random: &mut StdRng) -> Vec<u8> {
    // Of few agents, so that they get in each other's way too.
    let uid =
        uuid::Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 | u128::from(random.random_range(1..50u8)));
    report(uid, random.random_range(0..5), "hostile").encode_to_vec()
}

/// A message that is random, or was a valid one.
fn hostile(random: &mut StdRng) -> Vec<u8> {
    if random.random_bool(0.3) { noise(random) } else { mutated(valid(random), random) }
}

fn noise(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..300)];
    random.fill_bytes(&mut bytes);
    bytes
}

fn mutated(mut bytes: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    match random.random_range(0..4) {
        0 => bytes.truncate(random.random_range(0..=bytes.len())),
        1 => bytes.extend(noise(random)),
        2 => {
            let at = random.random_range(0..=bytes.len());
            bytes.splice(at..at, noise(random));
        }
        _ => {}
    }
    for _ in 0..random.random_range(0..4) {
        if !bytes.is_empty() {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
    }
    bytes
}

fn zipped(random: &mut StdRng) -> Vec<u8> {
    let zipped = gzip(&hostile(random));
    if random.random_bool(0.5) { zipped } else { mutated(zipped, random) }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn request(random: &mut StdRng) -> Vec<u8> {
    const REQUESTS: [&str; 4] = [
        "GET /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "POST /v1/opamp HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 3\r\n\r\nabc",
        "POST /v1/opamp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        "PUT http://x/v1/opamp?y=z HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 18446744073709551615\r\n\r\n",
    ];
    match random.random_range(0..REQUESTS.len() + 1) {
        known if known < REQUESTS.len() => mutated(REQUESTS[known].as_bytes().to_vec(), random),
        _ => noise(random),
    }
}

/// Frames of all kinds, some of them broken; or no frames at all.
fn frames(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let payload = hostile(random);
        let first = if random.random_bool(0.7) { 0x80 | random.random_range(0..11u8) } else { random.random() };
        bytes.extend(frame(first, &payload));
    }
    if random.random_bool(0.5) { bytes } else { mutated(bytes, random) }
}

/// A client's frame. Its mask is zero, which is one as good as another.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let head = match u16::try_from(payload.len()).unwrap() {
        short @ 0..=125 => vec![first, 0x80 | short as u8],
        long => [&[first, 0x80 | 126][..], &long.to_be_bytes()].concat(),
    };
    [&head, &[0; 4][..], payload].concat()
}

/// The head of a binary frame that claims to be so long, and the start of its payload.
fn frame_head(bytes: u64) -> Vec<u8> {
    [&[0x82, 0x80 | 127][..], &bytes.to_be_bytes(), &[0; 4], &[7; 100]].concat()
}
