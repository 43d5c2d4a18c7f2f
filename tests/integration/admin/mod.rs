//! The admin API over real sockets, with SQLite and the in-process bus behind it.

mod agents;
mod auth;
mod musterctl;
mod policies;
mod protocol;
mod test_bus;
mod tokens;
mod watch;
mod world;
