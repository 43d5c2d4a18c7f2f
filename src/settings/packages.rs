//! Settings of the package storage, which gateways read and config services write.

use std::path::Path;

use clap::Args;

use crate::packages::{Location, Storage};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Packages")]
pub struct Packages {
    /// Where package files are kept: a folder that all nodes share, or a bucket of S3 or its like as `s3://BUCKET/PREFIX`, whose
    /// credentials, region and endpoint come from `AWS_…` variables. Without it no packages are hosted, but that
    /// `standalone` keeps them in its data folder.
    #[arg(long, value_name = "PLACE")]
    package_storage: Option<Location>,
}

impl Packages {
    /// `None` if packages are not hosted.
    pub fn storage(&self) -> Result<Option<Storage>, crate::packages::Error> {
        self.package_storage.as_ref().map(|location| Storage::open(location, std::env::vars())).transpose()
    }

    /// With a folder that is used where none is given.
    pub fn storage_or(&self, folder: &Path) -> Result<Storage, crate::packages::Error> {
        match &self.package_storage {
            Some(location) => Storage::open(location, std::env::vars()),
            None => Storage::open(&Location::Folder(folder.to_path_buf()), []),
        }
    }
}
