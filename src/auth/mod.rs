//! Who may speak: tokens of agents and operators.

pub mod token;
