//! A file on its way in.

use bytes::Bytes;
use object_store::{MultipartUpload, WriteMultipart};
use sha2::{Digest, Sha256};

use super::Error;
use crate::model::ContentHash;

/// What is written at a time. A bucket takes 10,000 parts, of at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts that are being written at one time; with the one that is being filled, what an upload takes of memory.
const MAX_PARTS_AT_ONCE: usize = 2;

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The bytes are others than announced; nothing was kept.
    #[error("the file's SHA-256 is {found}, not {expected}")]
    WrongHash { expected: ContentHash, found: ContentHash },
    #[error(transparent)]
    Storage(#[from] Error),
}

/// A file that is being written. Dropping it leaves nothing behind.
pub struct Upload {
    file: ContentHash,
    hasher: Sha256,
    size: u64,
    /// `None` once it has ended.
    write: Option<WriteMultipart>,
}

impl Upload {
    pub(super) fn new(file: ContentHash, upload: Box<dyn MultipartUpload>) -> Self {
        let write = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        Self { file, hasher: Sha256::new(), size: 0, write: Some(write) }
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes; waits while the storage is slower than they come.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.hasher.update(&bytes);
        self.size += bytes.len() as u64;
        if let Some(write) = &mut self.write {
            write.wait_for_capacity(MAX_PARTS_AT_ONCE).await?;
            // Copied: what comes over the network are small pieces of large buffers.
            write.write(&bytes);
        }
        Ok(())
    }

    /// Makes the file visible, if it is the one that was announced; returns its size.
    pub async fn finish(mut self) -> Result<u64, UploadError> {
        let found = ContentHash(std::mem::take(&mut self.hasher).finalize().into());
        if found != self.file {
            self.abort().await;
            return Err(UploadError::WrongHash { expected: self.file, found });
        }
        if let Some(write) = self.write.take() {
            write.finish().await.map_err(Error::from)?;
        }
        Ok(self.size)
    }

    /// Gives it up.
    pub async fn abort(&mut self) {
        if let Some(write) = self.write.take() {
            give_up(write).await;
        }
    }
}

async fn give_up(write: WriteMultipart) {
    if let Err(error) = write.abort().await {
        tracing::debug!(%error, "what was uploaded so far of a package file is left to be cleared away");
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(write), Ok(runtime)) = (self.write.take(), tokio::runtime::Handle::try_current()) else { return };
        runtime.spawn(give_up(write));
    }
}
