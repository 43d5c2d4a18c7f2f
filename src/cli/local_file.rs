//! Files of this machine that are uploaded.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncReadExt};

use super::{
    connection::Client,
    error::{Error, Result},
};
use crate::{
    model::ContentHash,
    proto::admin::{PackageFileHead, UploadPackageFileRequest, upload_package_file_request::Part},
};

const CHUNK_BYTES: usize = 1 << 20;

/// A file, and what it is known by.
#[derive(Clone, Debug)]
pub struct LocalFile {
    path: PathBuf,
    pub sha256: ContentHash,
    pub size: u64,
}

impl LocalFile {
    /// Reads the file once for its hash; it is read again to be uploaded.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let mut file = std::fs::File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("is not a file that can be read twice"));
        }
        let mut hasher = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            size += count as u64;
            hasher.update(&buffer[..count]);
        }
        Ok(Self { path: path.to_path_buf(), sha256: ContentHash(hasher.finalize().into()), size })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Uploads it, unless the server has it; returns whether it had to be.
    pub async fn upload(&self, client: &Client) -> Result<bool> {
        let sha256 = self.sha256.to_bytes();
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let unreadable = |error| Error::Message(format!("{}: {error}", self.path.display()));
        let file = File::open(&self.path).await.map_err(unreadable)?;
        let head = Part::Head(PackageFileHead { sha256, size: self.size, name });
        // One that cannot be read to its end is shorter than announced, which the server refuses.
        let chunks = stream::unfold(file, |mut file| async move {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await;
            read.ok().filter(|count| *count > 0).map(|_| (Part::Chunk(Bytes::from(chunk)), file))
        });
        let parts = stream::iter([head]).chain(chunks).map(|part| UploadPackageFileRequest { part: Some(part) });
        let answer = client.package_files().upload_package_file(client.request(parts)).await?;
        Ok(!answer.into_inner().existed)
    }
}
