//! OpAMP's rules: framing, what a message carries, merging of deltas.
//!
//! Architecture invariant: no I/O, no clock, and no knowledge of connections, stores or buses.

pub mod fields;
pub mod frame;
pub mod merge;
pub mod message;
pub mod observe;
pub mod reply;

pub use message::{Incoming, InvalidMessage};
