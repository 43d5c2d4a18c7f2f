//! Protobuf's wire format: fields out one by one, messages in as lists of fields.
//!
//! Written for this runner alone, so that a mistake in a library that the server uses too cannot hide itself here.

/// An encoded message, or the beginning of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn uint(mut self, number: u32, value: u64) -> Self {
        self.key(number, 0);
        varint(&mut self.0, value);
        self
    }

    pub fn fixed64(mut self, number: u32, value: u64) -> Self {
        self.key(number, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, number: u32, value: impl AsRef<[u8]>) -> Self {
        self.key(number, 2);
        varint(&mut self.0, value.as_ref().len() as u64);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    pub fn message(self, number: u32, value: &Message) -> Self {
        self.bytes(number, &value.0)
    }

    /// An entry of a `map<string, …>`.
    pub fn entry(self, number: u32, key: &str, value: &Message) -> Self {
        self.message(number, &Self::new().bytes(1, key).message(2, value))
    }

    /// Bytes as they are, for what no encoder would write.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    fn key(&mut self, number: u32, wire_type: u8) {
        varint(&mut self.0, u64::from(number) << 3 | u64::from(wire_type));
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Varint(u64),
    Fixed64(u64),
    Bytes(Vec<u8>),
    Fixed32(u32),
}

/// A message that was received: its fields in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(u32, Value)>);

impl Fields {
    pub fn read(mut input: &[u8]) -> Result<Self, String> {
        let mut fields = Vec::new();
        while !input.is_empty() {
            let key = read_varint(&mut input)?;
            let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0).ok_or("a field number is wrong")?;
            let value = match key & 7 {
                0 => Value::Varint(read_varint(&mut input)?),
                1 => Value::Fixed64(u64::from_le_bytes(take(&mut input, 8)?.try_into().unwrap_or_default())),
                2 => {
                    let length = read_varint(&mut input)?;
                    let length = usize::try_from(length).map_err(|_| "a field is too long")?;
                    Value::Bytes(take(&mut input, length)?.to_vec())
                }
                5 => Value::Fixed32(u32::from_le_bytes(take(&mut input, 4)?.try_into().unwrap_or_default())),
                other => return Err(format!("field {number} has wire type {other}")),
            };
            fields.push((number, value));
        }
        Ok(Self(fields))
    }

    /// 0 when the field is left out.
    pub fn uint(&self, number: u32) -> Result<u64, String> {
        match self.last(number) {
            None => Ok(0),
            Some(Value::Varint(value)) => Ok(*value),
            Some(_) => Err(format!("field {number} is not a number")),
        }
    }

    pub fn bytes(&self, number: u32) -> Result<Option<&[u8]>, String> {
        match self.last(number) {
            None => Ok(None),
            Some(Value::Bytes(value)) => Ok(Some(value)),
            Some(_) => Err(format!("field {number} is not a text, bytes or a message")),
        }
    }

    /// Empty when the field is left out.
    pub fn text(&self, number: u32) -> Result<String, String> {
        let bytes = self.bytes(number)?.unwrap_or_default().to_vec();
        String::from_utf8(bytes).map_err(|_| format!("the text of field {number} is not UTF-8"))
    }

    pub fn message(&self, number: u32) -> Result<Option<Self>, String> {
        let found = self.bytes(number)?.map(Self::read).transpose();
        found.map_err(|error| format!("in field {number}: {error}"))
    }

    pub fn messages(&self, number: u32) -> Result<Vec<Self>, String> {
        self.all(number)?.into_iter().map(Self::read).collect()
    }

    /// Every value of a repeated field.
    pub fn all(&self, number: u32) -> Result<Vec<&[u8]>, String> {
        let values = self.0.iter().filter(|(found, _)| *found == number);
        let bytes = values.map(|(_, value)| match value {
            Value::Bytes(bytes) => Ok(bytes.as_slice()),
            _ => Err(format!("field {number} is not a text, bytes or a message")),
        });
        bytes.collect()
    }

    /// The entries of a `map<string, message>`, in their order.
    pub fn map(&self, number: u32) -> Result<Vec<(String, Self)>, String> {
        let entries = self.messages(number)?;
        entries.iter().map(|entry| Ok((entry.text(1)?, entry.message(2)?.unwrap_or_default()))).collect()
    }

    pub fn has(&self, number: u32) -> bool {
        self.last(number).is_some()
    }

    /// The numbers of the fields that are set.
    pub fn numbers(&self) -> Vec<u32> {
        self.0.iter().map(|(number, _)| *number).collect()
    }

    fn last(&self, number: u32) -> Option<&Value> {
        self.0.iter().rev().find(|(found, _)| *found == number).map(|(_, value)| value)
    }
}

pub fn read_varint(input: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for (index, byte) in input.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *input = &input[index + 1..];
            return Ok(value);
        }
    }
    Err("a varint does not end".to_owned())
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    if length > input.len() {
        return Err(format!("a field of {length} bytes ends after {}", input.len()));
    }
    let (taken, rest) = input.split_at(length);
    *input = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::new().uint(1, 300).fixed64(2, u64::MAX);
        let whole = Message::new().bytes(1, [9; 200]).message(15, &inner).uint(4, 0).entry(6, "key", &inner);
        let fields = Fields::read(whole.encoded()).unwrap();
        assert_eq!(fields.bytes(1), Ok(Some(&[9; 200][..])));
        assert_eq!(fields.message(15).unwrap().unwrap().uint(1), Ok(300));
        assert_eq!(fields.map(6).unwrap()[0].0, "key");
        assert_eq!((fields.numbers(), fields.uint(99)), (vec![1, 15, 4, 6], Ok(0)));
        assert!(fields.uint(1).is_err() && fields.bytes(4).is_err());
    }

    /// The same bytes as the examples of protobuf's documentation.
    #[test]
    fn reads_what_others_write() {
        assert_eq!(Message::new().uint(1, 150).encoded(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::new().bytes(2, "testing").encoded(), b"\x12\x07testing");
        for broken in [&[0x08][..], &[0x12, 5, 1], &[0x0b], &[0x00, 1], &[0xff; 11]] {
            assert!(Fields::read(broken).is_err(), "{broken:?}");
        }
    }
}
