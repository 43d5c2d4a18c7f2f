//! The admin API over real sockets; see [`world`] for what is behind it.

mod agents;
mod auth;
mod certificates;
mod commands;
mod musterctl;
mod musterctl_sets;
mod overrides;
mod package_files;
mod packages;
mod policies;
mod policy_sets;
mod protocol;
mod refusals;
mod test_bus;
mod texts;
mod tokens;
mod validators;
mod watch;
mod world;
