//! The top level of an encoded protobuf message, field by field, without decoding what is in the fields.

use std::ops::Range;

/// One occurrence of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub number: u32,
    pub value: Value,
    /// Tag and value together, as a range of the message.
    pub whole: Range<usize>,
}

/// What stands after the tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Varint(u64),
    /// Length-delimited: where the content is in the message.
    Bytes(Range<usize>),
    /// Fixed-width values and groups, which OpAMP does not use at the top level.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message: {problem} at byte {position}")]
pub struct Malformed {
    pub problem: &'static str,
    /// Counted from 0.
    pub position: usize,
}

/// The fields of `message` in their order; ends after the first error.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field, Malformed>> + '_ {
    let mut position = 0;
    std::iter::from_fn(move || {
        if position >= message.len() {
            return None;
        }
        let field = field_at(message, position);
        position = field.as_ref().map_or(message.len(), |field| field.whole.end);
        Some(field)
    })
}

fn field_at(message: &[u8], start: usize) -> Result<Field, Malformed> {
    let malformed = |problem, position| Malformed { problem, position };
    let (tag, after_tag) = varint(message, start).ok_or(malformed("bad tag", start))?;
    let number = u32::try_from(tag >> 3).ok().filter(|&number| (1..1 << 29).contains(&number));
    let number = number.ok_or(malformed("bad field number", start))?;
    let (value, end) = match tag & 7 {
        0 => {
            let (value, end) = varint(message, after_tag).ok_or(malformed("bad varint", after_tag))?;
            (Value::Varint(value), end)
        }
        1 => (Value::Other, after_tag + 8),
        2 => {
            let (length, from) = varint(message, after_tag).ok_or(malformed("bad length", after_tag))?;
            let end = usize::try_from(length).ok().and_then(|length| from.checked_add(length));
            let end = end.ok_or(malformed("bad length", after_tag))?;
            (Value::Bytes(from..end), end)
        }
        5 => (Value::Other, after_tag + 4),
        _ => return Err(malformed("unsupported wire type", start)),
    };
    if end > message.len() {
        return Err(malformed("truncated field", start));
    }
    Ok(Field { number, value, whole: start..end })
}

/// A varint at `start` and the position after it.
pub fn varint(bytes: &[u8], start: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.get(start..)?.iter().take(10).enumerate() {
        if index == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((value, start + index + 1));
        }
    }
    None
}
