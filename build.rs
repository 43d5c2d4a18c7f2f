//! Generates the Rust types of every protocol under `proto/`, without a system `protoc`.

use std::{env, fs, path::PathBuf};

use prost::Message;

const PROTO_FILES: &[&str] = &[
    "opamp/v1/opamp.proto",
    "muster/bus/v1/bus.proto",
    "muster/admin/v1/agents.proto",
    "muster/admin/v1/policies.proto",
    "muster/admin/v1/fleet.proto",
    "muster/admin/v1/tokens.proto",
    "muster/admin/v1/commands.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    let descriptors = protox::compile(PROTO_FILES, ["proto"])?;
    let descriptor_path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptor_path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Sorted maps make an encoding canonical, which config hashes rely on; shared bytes let a
        // body be passed on without a copy.
        .btree_map(".")
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
