//! The cases, by what they are about.

mod certificates;
mod commands;
mod config;
mod downloads;
mod exchange;
mod extensions;
mod http;
mod http_bodies;
mod identity;
mod nodes;
mod observed;
mod packages;
mod settings;
mod state;
mod ws_frames;
mod ws_handshake;

use super::case::Case;

pub const ALL: &[&[Case]] = &[
    http::CASES,
    http_bodies::CASES,
    ws_handshake::CASES,
    ws_frames::CASES,
    exchange::CASES,
    state::CASES,
    identity::CASES,
    config::CASES,
    observed::CASES,
    settings::CASES,
    certificates::CASES,
    packages::CASES,
    downloads::CASES,
    commands::CASES,
    extensions::CASES,
    nodes::CASES,
];
