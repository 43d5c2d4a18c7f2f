//! What must hold for any bytes. Each function is one fuzz target; `tests/integration/fuzz_corpus.rs` runs them all over the
//! corpus in every test run, so that what was found once stays mended.

#![allow(dead_code, reason = "each target uses its own")]

use std::{cell::RefCell, path::Path};

use bytes::Bytes;
use muster::{
    cli::manifest as reader,
    gateway::websocket::{Decoder, Frame, Violation},
    model::{Attributes, Labels, Selector, agent::Observed, selector::MAX_SELECTOR_BYTES},
    proto::opamp::AgentToServer,
    protocol::{Incoming, frame, merge as merging, observe},
};
use prost::Message;

/// WebSocket frames: wherever a read ends, the same comes out, and never a message above the limit.
pub fn frames(data: &[u8]) {
    const MAX_BYTES: usize = 1_000;
    // The first byte says how the rest comes: at once is compared with pieces of that size.
    let Some((piece, bytes)) = data.split_first() else { return };
    let read = |pieces: usize| {
        let (frames, mut decoder) = (RefCell::new(Vec::new()), Decoder::default());
        let take = |frame: Frame<'_>| {
            let (kind, payload) = match frame {
                Frame::Binary(payload) => ('b', payload),
                Frame::Text(payload) => ('t', payload),
                Frame::Ping(payload) => ('i', payload),
                Frame::Pong(payload) => ('o', payload),
                Frame::Close(payload) => ('c', payload),
            };
            frames.borrow_mut().push((kind, payload.to_vec()));
        };
        let mut end = Ok(());
        for piece in bytes.to_vec().chunks_mut(pieces) {
            end = decoder.feed(piece, MAX_BYTES, take);
            if end.is_err() {
                break;
            }
        }
        (frames.into_inner(), end)
    };
    let whole = read(usize::MAX);
    let in_pieces = read(usize::from(*piece).max(1));
    assert_eq!(whole, in_pieces);
    for (kind, payload) in &whole.0 {
        assert!(payload.len() <= if "bt".contains(*kind) { MAX_BYTES } else { 125 });
        // And on to the next layer.
        let _ = Incoming::parse(frame::payload(payload));
    }
    if let Err(violation) = whole.1 {
        assert!([1002, 1008, 1009].contains(&violation.close_code()));
        assert_eq!(violation == Violation::TooBig, violation.close_code() == 1009);
    }
}

/// Messages of an agent, merged while they wait: what is stored is the same as if each had been stored.
pub fn merge(data: &[u8]) {
    let Some((cut, rest)) = data.split_first() else { return };
    let (one, two) = rest.split_at(rest.len() * usize::from(*cut) / 256);
    let merged = merging::merge(one, two);
    let (Ok(_), Ok(second)) = (Incoming::parse(one), Incoming::parse(two)) else { return };
    let parsed = Incoming::parse(&merged).expect("two messages make a message");
    assert_eq!(parsed.uid, second.uid);
    assert_eq!(merging::merge(&merged, &[]), merged, "it is as short as it gets");
    assert_eq!(merging::merge(&merged, two), merged, "a message again says nothing new");
    assert_eq!(merging::merge(one, &merging::merge(two, one)), merging::merge(&merged, one), "in any order of merging");

    let readable = [one, two].iter().all(|message| AgentToServer::decode(*message).is_ok());
    let (mut apart, mut together) = (Observed::default(), Observed::default());
    let (one, two, merged) = (Bytes::copy_from_slice(one), Bytes::copy_from_slice(two), Bytes::from(merged));
    if readable && let (Ok(first), Ok(then)) = (observe::observe(&mut apart, &one), observe::observe(&mut apart, &two))
    {
        let at_once = observe::observe(&mut together, &merged).expect("what could be read apart can be read together");
        assert_eq!(apart, together);
        assert_eq!(then.effective_config.or(first.effective_config), at_once.effective_config);
    }
}

/// Selectors: what is taken has one way of being written, which is taken too; what is not has a place where it is wrong.
pub fn selector(data: &[u8]) {
    // Attributes of an agent go before the selector.
    let Some((cut, rest)) = data.split_first() else { return };
    let (description, text) = rest.split_at(usize::from(*cut).min(rest.len()));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let attributes = Attributes::decode(description);
    match text.parse::<Selector>() {
        Ok(selector) => {
            let written = selector.to_string();
            let again: Selector = written.parse().unwrap_or_else(|error| panic!("{} bytes: {error}", written.len()));
            assert_eq!(selector, again);
            assert_eq!(again.to_string(), written);
            assert_eq!(selector.matches(&attributes, &Labels::new()), again.matches(&attributes, &Labels::new()));
            assert_eq!(written.is_empty(), selector.matches_everything());
        }
        Err(error) => {
            assert!((1..=text.chars().count() + 1).contains(&error.position), "{error}");
            assert!(!error.problem.is_empty());
        }
    }
    assert!(text.len() <= MAX_SELECTOR_BYTES || text.parse::<Selector>().is_err());
}

/// Manifests: every error names a place in the file.
pub fn manifest(data: &[u8]) {
    // Files that it names are not what this is about, and the machine has some that never end.
    if data.windows(4).any(|window| window.eq_ignore_ascii_case(b"path") || window.contains(&b'\\')) {
        return;
    }
    let lines = data.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64 + 1;
    match reader::parse("m.yaml", Path::new("/nonexistent"), data) {
        Ok(documents) => {
            assert!(!documents.is_empty());
            for document in documents {
                assert!(document.place.line <= lines && document.place_of("selector").line <= lines);
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(problem.place.line <= lines, "{problem}");
                assert!(!problem.problem.is_empty(), "{problem:?}");
            }
        }
    }
}
