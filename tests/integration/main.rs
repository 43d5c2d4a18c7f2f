//! Modules of Muster against real sockets, databases and buses.

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod bus;
