//! Modules of Muster against real sockets, databases and buses.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::duplicate_mod, reason = "the admin tests run over two kinds of store and bus")]

#[path = "../support/mod.rs"]
mod support;

mod admin;
#[path = "admin/mod.rs"]
mod admin_on_servers;
mod architecture;
mod bus;
mod config_service;
mod conformance;
mod fuzz_corpus;
mod gateway;
mod load;
mod loops;
mod metrics;
mod moves;
mod packages;
mod settings;
mod startup;
mod store;
mod telemetry;
