//! The header in front of each WebSocket message: a varint, 0 in this version of the protocol.

use super::fields;

/// The header that is put in front of everything sent.
pub const HEADER: u8 = 0;

/// What follows the header. Some clients leave it out: as no protobuf message starts with a zero byte, a message that
/// does not is taken to have none. A header other than zero is then found out as [`super::InvalidMessage`].
///
/// An empty payload, and one of a header alone, is a valid empty message.
pub fn payload(frame: &[u8]) -> &[u8] {
    match fields::varint(frame, 0) {
        Some((0, end)) => &frame[end..],
        _ => frame,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_stripped_and_may_be_missing() {
        assert_eq!(payload(&[0, 10, 1, 7]), [10, 1, 7]);
        assert_eq!(payload(&[0x80, 0, 10, 1, 7]), [10, 1, 7]);
        assert_eq!(payload(&[10, 1, 7]), [10, 1, 7]);
        assert_eq!(payload(&[0]), [0u8; 0]);
        assert_eq!(payload(&[]), [0u8; 0]);
    }
}
