//! The domain's types as messages of the API.

pub mod agent;
pub mod certificate;
pub mod command;
pub mod overrides;
pub mod policy;
pub mod rollout;
mod settings;
pub mod status;
pub mod token;

use prost_types::Timestamp;

use crate::model::UnixMs;

pub fn timestamp(at: UnixMs) -> Timestamp {
    Timestamp { seconds: at.div_euclid(1000), nanos: (at.rem_euclid(1000) * 1_000_000) as i32 }
}
