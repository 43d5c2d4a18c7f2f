//! What a template may know of an agent.

use std::collections::BTreeMap;

use minijinja::Value;

use crate::{
    model::{Attributes, InstanceUid, Labels, attributes::scalar_text},
    proto::opamp::{AnyValue, any_value},
};

/// The names that templates find: the agent's uid as a text, its attributes by name, and its labels by name.
pub const NAMES: [&str; 3] = ["instance_uid", "attributes", "labels"];

/// Attributes nested deeper are left out.
const MAX_DEPTH: u32 = 16;

/// An agent as templates see it.
#[derive(Debug)]
pub struct Subject(Value);

impl Subject {
    pub fn new(uid: InstanceUid, attributes: &Attributes, labels: &Labels) -> Self {
        let attributes =
            attributes.iter().filter_map(|(key, value)| Some((key.to_owned(), attribute(value?, MAX_DEPTH)?)));
        let attributes: BTreeMap<String, Value> = attributes.collect();
        let labels: BTreeMap<String, Value> =
            labels.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
        let values = [Value::from(uid.to_string()), Value::from(attributes), Value::from(labels)];
        let names: BTreeMap<String, Value> = NAMES.into_iter().map(str::to_owned).zip(values).collect();
        Self(Value::from(names))
    }

    pub(super) fn value(&self) -> Value {
        self.0.clone()
    }
}

/// `None` for what has no value.
fn attribute(value: &any_value::Value, depth: u32) -> Option<Value> {
    use any_value::Value as Any;
    if depth == 0 {
        return None;
    }
    let nested = |value: Option<&AnyValue>| attribute(value?.value.as_ref()?, depth - 1);
    Some(match value {
        Any::StringValue(text) => Value::from(text.as_str()),
        Any::BoolValue(value) => Value::from(*value),
        Any::IntValue(value) => Value::from(*value),
        Any::DoubleValue(value) => Value::from(*value),
        Any::BytesValue(_) => Value::from(scalar_text(value)?),
        Any::ArrayValue(array) => {
            array.values.iter().filter_map(|value| nested(Some(value))).collect::<Vec<_>>().into()
        }
        Any::KvlistValue(list) => {
            let pairs = list.values.iter().filter_map(|pair| Some((pair.key.clone(), nested(pair.value.as_ref())?)));
            pairs.collect::<BTreeMap<String, Value>>().into()
        }
    })
}
