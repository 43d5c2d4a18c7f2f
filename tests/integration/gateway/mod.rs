//! A gateway on a real socket, with the bus in process and a scripted config service at its other end.

pub mod harness;

mod certificates;
mod commands;
mod drain;
mod duplicates;
mod exchange;
mod http;
mod identity;
mod packages;
mod reports;
mod throttling;
mod tls;
mod websocket;
