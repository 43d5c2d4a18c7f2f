//! The server.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc before `main`: memory that agents have left goes back to the system within seconds, by threads of
/// jemalloc's own rather than whenever one of ours happens to allocate.
///
/// The only unsafe item of the crate. jemalloc takes its settings from a symbol, which is a pointer to text that ends with
/// a zero byte; the environment, the other way, belongs to whoever starts the process.
#[allow(unsafe_code)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static JEMALLOC_SETTINGS: &[u8; 63] = b"background_thread:true,dirty_decay_ms:2000,muzzy_decay_ms:2000\0";

fn main() -> ExitCode {
    muster::app::main()
}
