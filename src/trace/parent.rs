//! What of a span travels to other nodes: W3C trace context.

use std::num::{NonZeroU64, NonZeroU128};

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// On the bus: a trace id, a span id, and flags.
const BYTES: usize = 16 + 8 + 1;
const SAMPLED: u8 = 1;

/// A span that is recorded, of this node or another. Spans that are not recorded have none: nothing travels for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parent {
    trace: NonZeroU128,
    span: NonZeroU64,
}

/// What a caller's `traceparent` header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It is in a trace that is recorded.
    Recorded(Parent),
    /// It is in a trace that nobody records.
    NotRecorded,
    /// There is no such header, or none that can be read.
    Unknown,
}

impl Parent {
    pub fn to_bytes(self) -> bytes::Bytes {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend(self.trace.get().to_be_bytes());
        bytes.extend(self.span.get().to_be_bytes());
        bytes.push(SAMPLED);
        bytes.into()
    }

    /// `None` for what [`Self::to_bytes`] does not make, so also for no bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let (trace, rest) = bytes.split_first_chunk()?;
        let (span, flags) = rest.split_first_chunk()?;
        match flags {
            [flags] if flags & SAMPLED != 0 => Self::new(u128::from_be_bytes(*trace), u64::from_be_bytes(*span)),
            _ => None,
        }
    }

    fn new(trace: u128, span: u64) -> Option<Self> {
        Some(Self { trace: NonZeroU128::new(trace)?, span: NonZeroU64::new(span)? })
    }

    pub(super) fn of(context: &SpanContext) -> Option<Self> {
        let is_recorded = context.is_valid() && context.is_sampled();
        let trace = u128::from_be_bytes(context.trace_id().to_bytes());
        let span = u64::from_be_bytes(context.span_id().to_bytes());
        if is_recorded { Self::new(trace, span) } else { None }
    }

    pub(super) fn context(self) -> SpanContext {
        let (trace, span) = (self.trace.get().to_be_bytes(), self.span.get().to_be_bytes());
        let (trace, span) = (TraceId::from_bytes(trace), SpanId::from_bytes(span));
        SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE)
    }
}

impl Caller {
    /// Reads a `traceparent` header, of any version that keeps to the form of the first.
    pub fn from_traceparent(text: Option<&str>) -> Self {
        let Some(text) = text else { return Self::Unknown };
        let mut parts = text.trim().split('-');
        let mut number = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_hex = part.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
            if is_hex { u128::from_str_radix(part, 16).ok() } else { None }
        };
        let read = (number(2), number(32), number(16), number(2));
        let (Some(version), Some(trace), Some(span), Some(flags)) = read else { return Self::Unknown };
        let has_more = parts.next().is_some();
        let parent = Parent::new(trace, span as u64);
        match parent {
            Some(_) if version == 0xff || version == 0 && has_more => Self::Unknown,
            Some(parent) if flags as u8 & SAMPLED != 0 => Self::Recorded(parent),
            Some(_) => Self::NotRecorded,
            None => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_travels_arrives(trace in 1u128.., span in 1u64..) {
            let parent = Parent::new(trace, span).unwrap();
            let bytes = parent.to_bytes();
            prop_assert_eq!(bytes.len(), BYTES);
            prop_assert_eq!(Parent::from_slice(&bytes), Some(parent));
            prop_assert_eq!(Parent::of(&parent.context()), Some(parent));
            let header = format!("00-{trace:032x}-{span:016x}-01");
            prop_assert_eq!(Caller::from_traceparent(Some(&header)), Caller::Recorded(parent));
            let header = format!("00-{trace:032x}-{span:016x}-00");
            prop_assert_eq!(Caller::from_traceparent(Some(&header)), Caller::NotRecorded);
        }

        #[test]
        fn other_bytes_are_no_parent(bytes: Vec<u8>) {
            if let Some(parent) = Parent::from_slice(&bytes) {
                prop_assert_eq!(&parent.to_bytes()[..BYTES - 1], &bytes[..BYTES - 1]);
            }
        }

        #[test]
        fn any_header_can_be_read(text: String) {
            Caller::from_traceparent(Some(&text));
        }
    }

    #[test]
    fn what_is_not_by_the_standard_is_not_believed() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let upper = trace.to_uppercase();
        let bad = [
            String::new(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-1"),
            format!("00-{upper}-{span}-01"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-+{}-{span}-01", &trace[1..]),
        ];
        for text in bad {
            assert_eq!(Caller::from_traceparent(Some(&text)), Caller::Unknown, "{text}");
        }
        let later = format!("cc-{trace}-{span}-01-what-the-future-brings");
        assert!(matches!(Caller::from_traceparent(Some(&later)), Caller::Recorded(_)));
        assert!(Parent::from_slice(&[1; BYTES - 1]).is_none() && Parent::from_slice(&[1; BYTES + 1]).is_none());
        assert!(Parent::from_slice(&[0; BYTES]).is_none());
    }
}
