//! The domain: agents, selectors, policies, desired state.
//!
//! Architecture invariant: nothing here does I/O, reads a clock or draws a random number; time comes in
//! as a parameter.

pub mod agent;
pub mod attributes;
pub mod certificate;
pub mod command;
pub mod content;
pub mod desired;
pub mod effective;
pub mod health;
pub mod offer;
pub mod overrides;
pub mod packages;
pub mod policy;
pub mod proof;
pub mod quarantine;
pub mod rendering;
pub mod rollout;
pub mod selector;
pub mod settings;
pub mod status;
pub mod syntax;
pub mod template;
pub mod uid;

pub use agent::AgentRecord;
pub use attributes::Attributes;
pub use content::ContentHash;
pub use selector::Selector;
pub use uid::InstanceUid;

/// Milliseconds since the Unix epoch.
pub type UnixMs = i64;

/// Labels that operators set on an agent. They take part in selectors beside the agent's own attributes.
pub type Labels = std::collections::BTreeMap<String, String>;
