//! The folder or bucket itself.

use std::{
    fs,
    io::SeekFrom,
    ops::Range,
    os::unix::fs::DirBuilderExt,
    path::Path as FsPath,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    ClientConfigKey, GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    path::Path,
    prefix::PrefixStore,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{Location, Upload};
use crate::model::ContentHash;

/// What is read of a file in a folder at a time: large enough that the hop to a thread which may wait costs little.
const CHUNK_BYTES: usize = 64 << 10;
/// A bucket that says nothing for so long is away.
const READ_TIMEOUT: &str = "30s";
/// Whole requests have no limit of their own: a file goes out as fast as the slowest agent takes it.
const REQUEST_TIMEOUT: &str = "1day";
/// How long a request to a bucket is tried again.
const RETRY_FOR: Duration = Duration::from_secs(20);
const MAX_RETRIES: usize = 5;

/// Why files cannot be got at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("package storage {location}: {problem}")]
    Open { location: String, problem: String },
    #[error("package storage: {0}")]
    Storage(String),
    #[error("the peer took too little while others waited")]
    TooSlow,
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        Self::Storage(error.to_string())
    }
}

/// A file, piece by piece.
pub type Chunks = BoxStream<'static, Result<Bytes, Error>>;

/// Where the files are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage {
    objects: Arc<dyn ObjectStore>,
    /// Where half-written files of an upload that was cut off may lie. Buckets show and keep none of our doing.
    folder: Option<Arc<FsPath>>,
}

impl Storage {
    /// A folder is made if it is not there, for its owner alone. A bucket must be there; it is first spoken to when it is used.
    /// Its credentials, region and endpoint come from `variables`, usually the environment's, whose names begin with `AWS_`.
    pub fn open(location: &Location, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let opened = match location {
            Location::Folder(path) => folder(path),
            Location::Bucket { name, prefix } => {
                bucket(name, prefix, variables).map_err(|error: object_store::Error| error.to_string())
            }
        };
        opened.map_err(|problem| Error::Open { location: location.to_string(), problem })
    }

    /// The size of a file in bytes, if it is there.
    pub async fn size(&self, file: &ContentHash) -> Result<Option<u64>, Error> {
        match self.objects.head(&path(file)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A part of a file, if that is there. The range must not be empty, and lie within the file.
    pub async fn read(&self, file: &ContentHash, range: Range<u64>) -> Result<Option<Chunks>, Error> {
        let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
        let found = match self.objects.get_opts(&path(file), options).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if found.range != range {
            return Err(Error::Storage(format!("file {file} has bytes {:?}, not {range:?}", found.range)));
        }
        Ok(Some(match found.payload {
            GetResultPayload::File(file, _) => read_file(tokio::fs::File::from_std(file), range).await?,
            GetResultPayload::Stream(chunks) => chunks.map_err(Error::from).boxed(),
        }))
    }

    /// Begins to write a file, which is there for others once all of it is, and its hash is right.
    pub async fn upload(&self, file: ContentHash) -> Result<Upload, Error> {
        Ok(Upload::new(file, self.objects.put_multipart(&path(&file)).await?))
    }

    /// Deletes a file; one that is not there is none the less gone.
    pub async fn delete(&self, file: &ContentHash) -> Result<(), Error> {
        match self.objects.delete(&path(file)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes what uploads have left behind that were cut off `age` ago or longer; returns how many.
    pub async fn remove_leftovers(&self, age: Duration) -> Result<u64, Error> {
        let Some(folder) = self.folder.clone() else { return Ok(0) };
        let removed = tokio::task::spawn_blocking(move || remove_leftovers(&folder, age)).await;
        removed.map_err(|error| Error::Storage(error.to_string()))?.map_err(|error| Error::Storage(error.to_string()))
    }
}

fn folder(path: &FsPath) -> Result<Storage, String> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| error.to_string())?;
    let objects = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?.with_fsync(true);
    Ok(Storage { objects: Arc::new(objects), folder: Some(path.into()) })
}

fn bucket(
    name: &str,
    prefix: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> object_store::Result<Storage> {
    // The client of buckets takes the process's; if that is there already, so much the better.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let client = |key| AmazonS3ConfigKey::Client(key);
    let mut builder = AmazonS3Builder::new();
    for (key, value) in variables.into_iter().filter(|(key, _)| key.starts_with("AWS_")) {
        if let Ok(key) = key.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder
        .with_bucket_name(name)
        .with_config(client(ClientConfigKey::ReadTimeout), READ_TIMEOUT)
        .with_config(client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .with_retry(RetryConfig { max_retries: MAX_RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() });
    let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = endpoints.iter().find_map(|key| builder.get_config_value(key));
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    let bucket = builder.build()?;
    let objects: Arc<dyn ObjectStore> = match prefix {
        "" => Arc::new(bucket),
        prefix => Arc::new(PrefixStore::new(bucket, Path::parse(prefix)?)),
    };
    Ok(Storage { objects, folder: None })
}

fn path(file: &ContentHash) -> Path {
    Path::from(file.to_string())
}

async fn read_file(mut file: tokio::fs::File, range: Range<u64>) -> Result<Chunks, Error> {
    let error = |error: std::io::Error| Error::Storage(error.to_string());
    file.seek(SeekFrom::Start(range.start)).await.map_err(error)?;
    let part = file.take(range.end - range.start);
    Ok(ReaderStream::with_capacity(part, CHUNK_BYTES).map_err(error).boxed())
}

/// A file that is being written has the name that it will have, `#`, and a number.
fn remove_leftovers(folder: &FsPath, age: Duration) -> std::io::Result<u64> {
    let mut removed = 0;
    let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((hash, number)) = name.to_str().and_then(|name| name.split_once('#')) else { continue };
        let is_ours = hash.parse::<ContentHash>().is_ok() && number.parse::<u64>().is_ok();
        // One that is gone by now has been finished, or given up by its writer.
        let is_old = || entry.metadata().and_then(|data| data.modified()).is_ok_and(|modified| modified < before);
        if is_ours && is_old() && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}
