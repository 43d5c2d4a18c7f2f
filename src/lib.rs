//! Muster: a fleet control plane for telemetry agents, the server side of OpAMP.
//!
//! `ARCHITECTURE.md` is the map; each module's first lines say what it owns and what it must not know.

pub mod admin;
pub mod admin_client;
pub mod app;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod config_service;
pub mod conformance;
pub mod gateway;
pub mod load;
pub mod model;
pub mod packages;
pub mod pki;
pub mod proto;
pub mod protocol;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod trace;
