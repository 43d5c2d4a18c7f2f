//! The real binaries as processes, with real clients, real databases, and faults.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod chaos;
mod clients;
mod cluster;
mod cohorts;
mod collector;
mod commands;
mod drivers;
mod faults;
mod hostile;
mod moves;
mod orders;
mod overrides;
mod packages;
mod rekeying;
mod rollout_ends;
mod rollout_kinds;
mod rollouts;
mod scene;
mod settings;
mod standalone;
mod statuses;
mod supervisor;
mod telemetry;
mod templates;
mod validators;
