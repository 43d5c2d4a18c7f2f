use proptest::prelude::*;

use super::*;

const MAX: usize = 100_000;

fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut header = [0; MAX_SENT_HEADER_BYTES];
    let length = binary_header(payload.len(), &mut header);
    header[0] = first;
    header[1] |= 0x80;
    let mut payload = payload.to_vec();
    unmask(&mut payload, mask);
    [&header[..length], &mask, &payload].concat()
}

fn read(input: &[u8], chunk: usize) -> Result<Vec<(char, Vec<u8>)>, Violation> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in input.chunks(chunk) {
        decoder.feed(&mut piece.to_vec(), MAX, |frame| {
            frames.push(match frame {
                Frame::Binary(bytes) => ('b', bytes.to_vec()),
                Frame::Text(bytes) => ('t', bytes.to_vec()),
                Frame::Ping(bytes) => ('i', bytes.to_vec()),
                Frame::Pong(bytes) => ('o', bytes.to_vec()),
                Frame::Close(bytes) => ('c', bytes.to_vec()),
            });
        })?;
    }
    assert!(decoder.is_idle(), "nothing stays buffered behind a whole message");
    Ok(frames)
}

#[test]
fn the_pointer_is_all_that_an_idle_connection_keeps() {
    assert_eq!(size_of::<Decoder>(), size_of::<usize>());
}

#[test]
fn pings_may_interleave_with_fragments() {
    let bytes = [
        masked(0x02, b"one ", [1, 2, 3, 4]),
        masked(0x89, b"beat", [9, 8, 7, 6]),
        masked(0x00, b"two", [5, 5, 0, 5]),
        masked(0x80, b"", [0, 1, 0, 1]),
        masked(0x88, &[3, 0xe8], [1, 1, 1, 1]),
    ]
    .concat();
    let expected = vec![('i', b"beat".to_vec()), ('b', b"one two".to_vec()), ('c', vec![3, 0xe8])];
    for chunk in 1..=bytes.len() {
        assert_eq!(read(&bytes, chunk).as_ref(), Ok(&expected), "in pieces of {chunk}");
    }
}

#[test]
fn what_the_protocol_forbids_is_refused() {
    let cases: [(&str, Vec<u8>); 8] = [
        ("no mask", vec![0x82, 1, 7]),
        ("reserved bit", masked(0xc2, b"x", [0; 4])),
        ("unknown opcode", masked(0x83, b"x", [0; 4])),
        ("continuation first", masked(0x80, b"x", [0; 4])),
        ("message in message", [masked(0x02, b"x", [0; 4]), masked(0x82, b"y", [0; 4])].concat()),
        ("fragmented ping", masked(0x09, b"x", [0; 4])),
        ("long ping", masked(0x89, &[0; 126], [0; 4])),
        ("half a close code", masked(0x88, b"x", [0; 4])),
    ];
    for (what, bytes) in cases {
        for chunk in [1, bytes.len()] {
            assert!(matches!(read(&bytes, chunk), Err(Violation::Protocol(_))), "{what} in pieces of {chunk}");
        }
    }
}

#[test]
fn size_is_decided_on_the_header() {
    let mut decoder = Decoder::default();
    let whole = masked(0x82, &vec![0; MAX + 1], [0; 4]);
    assert_eq!(decoder.feed(&mut whole[..14].to_vec(), MAX, |_| panic!("no frame")), Err(Violation::TooBig));
    let second_fragment = [masked(0x02, &vec![0; MAX], [0; 4]), masked(0x80, b"x", [0; 4])].concat();
    assert_eq!(read(&second_fragment, 4096), Err(Violation::TooBig));
    let absurd = [&[0x82, 0xff][..], &[0xff; 8], &[0; 4]].concat();
    assert_eq!(read(&absurd, 100), Err(Violation::TooBig));
}

prop_compose! {
    fn message()(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..4),
        mask in any::<[u8; 4]>(),
        ping in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..126)),
    ) -> (Vec<u8>, Vec<(char, Vec<u8>)>) {
        let mut bytes = Vec::new();
        let mut frames = Vec::new();
        let last = parts.len() - 1;
        for (index, part) in parts.iter().enumerate() {
            let opcode = if index == 0 { BINARY } else { CONTINUATION };
            bytes.extend(masked(opcode | if index == last { 0x80 } else { 0 }, part, mask));
            if index < last && let Some(ping) = &ping {
                bytes.extend(masked(0x89, ping, mask));
                frames.push(('i', ping.clone()));
            }
        }
        frames.push(('b', parts.concat()));
        (bytes, frames)
    }
}

proptest! {
    /// However the network cuts the bytes, the same frames come out.
    #[test]
    fn chunking_does_not_matter(messages in proptest::collection::vec(message(), 1..5), chunk in 1usize..700) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: Vec<_> = messages.iter().flat_map(|(_, frames)| frames.clone()).collect();
        prop_assert_eq!(read(&bytes, chunk), Ok(expected));
    }

    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), chunk in 1usize..50) {
        let mut decoder = Decoder::default();
        for piece in bytes.chunks(chunk) {
            if decoder.feed(&mut piece.to_vec(), 64, |_| ()).is_err() {
                break;
            }
        }
    }
}

#[test]
fn codes_that_may_not_be_sent_are_known() {
    for code in [1000u16, 1001, 1003, 1007, 1011, 3000, 4999] {
        assert!(is_close_code(&code.to_be_bytes()), "{code}");
    }
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        assert!(!is_close_code(&code.to_be_bytes()), "{code}");
    }
    assert!(is_close_code(b""));
}
