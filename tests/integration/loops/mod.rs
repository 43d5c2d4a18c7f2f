//! The loops into which a server can drive real clients. In each test a client that behaves as a real one does would go on for ever
//! with a naive server; here the messages of a known exchange are counted.
//!
//! | | a naive server … | test |
//! |---|---|---|
//! | L1 | accepts and then closes, or sends text | [`connecting`]; `gateway::throttling` has who ignores what it is told |
//! | L2 | asks for full state at every gap, or again after the answer | [`state`] |
//! | L3 | offers again what failed or was rolled back | [`offers`] |
//! | L4 | offers connection settings on every first message, for some clients forget what they were offered | [`settings`] |
//! | L5 | offers connection settings with an empty hash, which is never known | [`settings`] |
//! | L6 | gives another uid to an agent that ignores the first | [`identity`] |
//! | L7 | gives new uids to both of two agents with one uid, in turn | [`identity`]; `e2e::moves` has many at once |
//! | L8 | asks each agent for its components, or again and again | [`components`] |
//! | L9 | makes another hash of the same settings at another node, or after a restart | [`settings`] |
//! | L10 | reads capabilities of 0 as none | [`offers`] |

pub mod client;
mod components;
mod connecting;
mod identity;
mod offers;
mod settings;
mod state;
