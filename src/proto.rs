//! Types generated from `proto/` by `build.rs`.

#![allow(clippy::all, clippy::pedantic, rust_2018_idioms, missing_docs)]

/// The wire between agents and gateways: OpAMP v0.20.
pub mod opamp {
    tonic::include_proto!("opamp.proto.v1");
}

/// Between gateways and the config service.
pub mod bus {
    tonic::include_proto!("muster.bus.v1");
}

/// What the store keeps encoded.
pub mod store {
    tonic::include_proto!("muster.store.v1");
}

/// The admin API.
pub mod admin {
    tonic::include_proto!("muster.admin.v1");
}

/// Every file under `proto/`, encoded, for gRPC reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
