//! Files of packages that this deployment hosts: kept by their SHA-256, in a folder or in a bucket.
//!
//! It owns where files lie, that one is only ever visible whole and as its hash says, and who may fetch one. It must not know
//! who refers to a file, which is the store's, nor HTTP, which is the gateway's.

pub mod access;
mod location;
mod locator;
mod storage;
mod upload;

pub use location::Location;
pub use locator::{Locator, base_url};
pub use storage::{Chunks, Error, Storage};
pub use upload::{Upload, UploadError};

/// Path under which gateways serve files: their SHA-256 in hex follows.
pub const URL_PATH: &str = "/v1/packages/";
