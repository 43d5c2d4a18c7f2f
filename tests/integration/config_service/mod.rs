//! The config service over a real store and bus, with gateways played by a script.

#![allow(clippy::unwrap_used)]

mod cluster;
mod gateway;
mod offers;
mod openings;
mod replicas;
