//! Who may speak: tokens of agents and operators.
//!
//! It owns what a token looks like and how an operator's is checked. It must not know how a token travels.

pub mod operators;
pub mod token;

pub use operators::{Operator, Operators};
