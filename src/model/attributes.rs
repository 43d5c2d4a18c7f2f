//! An agent's attributes, flattened for selectors.

use std::collections::BTreeMap;

use prost::Message;

use crate::proto::opamp::{AgentDescription, AnyValue, any_value::Value};

/// Identifying and non-identifying attributes by key. On the same key the identifying one wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(BTreeMap<String, Option<Value>>);

impl Attributes {
    /// From an encoded `AgentDescription`. Bytes that do not decode read as no attributes: the gateway has
    /// refused such messages already.
    pub fn decode(description: &[u8]) -> Self {
        AgentDescription::decode(description).map_or_else(|_| Self::default(), Self::from)
    }

    /// `Some(None)` for an attribute that is there without a value.
    pub fn get(&self, key: &str) -> Option<Option<&Value>> {
        self.0.get(key).map(Option::as_ref)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&Value>)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_ref()))
    }

    /// The attribute as text if it is a scalar; see [`scalar_text`].
    pub fn text(&self, key: &str) -> Option<String> {
        scalar_text(self.get(key)??)
    }
}

impl From<AgentDescription> for Attributes {
    fn from(description: AgentDescription) -> Self {
        let AgentDescription { identifying_attributes, non_identifying_attributes } = description;
        let both = non_identifying_attributes.into_iter().chain(identifying_attributes);
        Self(both.map(|pair| (pair.key, pair.value.and_then(|AnyValue { value }| value))).collect())
    }
}

/// A scalar as a user would write it: bytes in lower-case hex. `None` for arrays and lists of pairs.
pub fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::BoolValue(value) => Some(value.to_string()),
        Value::IntValue(value) => Some(value.to_string()),
        Value::DoubleValue(value) => Some(value.to_string()),
        Value::BytesValue(value) => Some(hex::encode(value)),
        Value::ArrayValue(_) | Value::KvlistValue(_) => None,
    }
}

/// Whether a scalar has the value that `text` writes, by the scalar's own type: `5` equals the string `5`,
/// the integer 5 and the double 5.0.
pub fn scalar_equals(value: &Value, text: &str) -> bool {
    match value {
        Value::StringValue(value) => value == text,
        Value::BoolValue(value) => text.parse() == Ok(*value),
        Value::IntValue(value) => text.parse() == Ok(*value),
        Value::DoubleValue(value) => text.parse() == Ok(*value),
        Value::BytesValue(value) => hex::decode(text).is_ok_and(|text| text == value[..]),
        Value::ArrayValue(_) | Value::KvlistValue(_) => false,
    }
}
