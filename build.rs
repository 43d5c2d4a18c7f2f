//! Generates the Rust types of every protocol under `proto/`, without a system `protoc`.

use std::{env, fs, path::PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;

const OPAMP_PACKAGE: &str = "opamp.proto.v1";

const PROTO_FILES: &[&str] = &[
    "opamp/v1/opamp.proto",
    "muster/bus/v1/bus.proto",
    "muster/store/v1/store.proto",
    "muster/admin/v1/agents.proto",
    "muster/admin/v1/package_files.proto",
    "muster/admin/v1/policies.proto",
    "muster/admin/v1/rollouts.proto",
    "muster/admin/v1/overrides.proto",
    "muster/admin/v1/fleet.proto",
    "muster/admin/v1/tokens.proto",
    "muster/admin/v1/commands.proto",
    "muster/admin/v1/certificates.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    let descriptors = protox::compile(PROTO_FILES, ["proto"])?;
    let descriptor_path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptor_path, descriptors.encode_to_vec())?;
    // The admin API uses OpAMP's own messages, by the path that `src/proto.rs` gives them.
    let (opamp, muster): (Vec<_>, Vec<_>) =
        descriptors.file.into_iter().partition(|file| file.package() == OPAMP_PACKAGE);
    configure().compile_fds(FileDescriptorSet { file: opamp })?;
    let opamp_path = format!(".{OPAMP_PACKAGE}");
    configure().extern_path(opamp_path, "crate::proto::opamp").compile_fds(FileDescriptorSet { file: muster })?;
    Ok(())
}

fn configure() -> tonic_prost_build::Builder {
    // Sorted maps make an encoding canonical, which config hashes rely on; shared bytes let a
    // body be passed on without a copy.
    tonic_prost_build::configure().btree_map(".").bytes(".")
}
