//! The package storage, in a folder and in a bucket.

use std::{fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use muster::{
    model::ContentHash,
    packages::{Location, Storage, UploadError},
};
use tempfile::TempDir;

use crate::support::{eventually, s3};

/// A storage, where its files lie, and what must live as long.
struct Fixture {
    storage: Storage,
    files: PathBuf,
    _folder: Option<TempDir>,
    _server: Option<s3::Server>,
}

async fn in_folder() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("not/there/yet");
    let storage = Storage::open(&Location::Folder(files.clone()), []).unwrap();
    Fixture { storage, files, _folder: Some(folder), _server: None }
}

async fn in_bucket() -> Fixture {
    let server = s3::Server::start().await;
    let location = format!("s3://{}/packages/of us", s3::BUCKET).parse().unwrap();
    let storage = Storage::open(&location, server.variables()).unwrap();
    Fixture { storage, files: server.bucket().join("packages/of us"), _folder: None, _server: Some(server) }
}

impl Fixture {
    async fn put(&self, body: &Bytes) -> ContentHash {
        let hash = ContentHash::of(body);
        let mut upload = self.storage.upload(hash).await.unwrap();
        for chunk in body.chunks(1 << 20) {
            upload.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        assert_eq!(upload.finish().await.unwrap(), body.len() as u64);
        hash
    }

    async fn get(&self, hash: &ContentHash, range: std::ops::Range<u64>) -> Option<Vec<u8>> {
        let chunks = self.storage.read(hash, range).await.unwrap()?;
        let chunks: Vec<Bytes> = chunks.try_collect().await.unwrap();
        Some(chunks.concat())
    }

    /// Names of what lies in the storage, of whatever kind.
    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.files) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// More than two parts of an upload, and not the same anywhere.
fn large() -> Bytes {
    (0..5u32 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

async fn files_come_back_in_whole_and_in_part(fixture: Fixture) {
    let body = large();
    let hash = fixture.put(&body).await;
    let size = body.len() as u64;
    assert_eq!(fixture.storage.size(&hash).await.unwrap(), Some(size));
    for range in [0..size, 0..1, size - 1..size, (9 << 20)..(9 << 20) + 5] {
        let expected = &body[range.start as usize..range.end as usize];
        assert!(fixture.get(&hash, range.clone()).await.unwrap() == expected, "{range:?}");
    }
    assert_eq!(fixture.put(&body).await, hash, "twice is no trouble");
    assert!(fixture.storage.read(&hash, 0..size + 1).await.is_err(), "there is less than that");

    let other = ContentHash::of(b"other");
    assert_eq!(fixture.storage.size(&other).await.unwrap(), None);
    assert_eq!(fixture.get(&other, 0..1).await, None);
    fixture.storage.delete(&hash).await.unwrap();
    assert_eq!(fixture.storage.size(&hash).await.unwrap(), None);
    fixture.storage.delete(&hash).await.unwrap();
}

async fn a_file_is_there_when_it_is_whole_and_right(fixture: Fixture) {
    let body = large();
    let hash = ContentHash::of(&body);
    let mut upload = fixture.storage.upload(hash).await.unwrap();
    upload.write(body.slice(..body.len() - 1)).await.unwrap();
    assert_eq!(fixture.storage.size(&hash).await.unwrap(), None, "not yet");
    upload.write(body.slice(body.len() - 1..)).await.unwrap();
    assert_eq!(fixture.storage.size(&hash).await.unwrap(), None, "nor now: it may still be more");
    upload.finish().await.unwrap();
    assert_eq!(fixture.storage.size(&hash).await.unwrap(), Some(body.len() as u64));

    let other = ContentHash::of(b"other");
    let mut upload = fixture.storage.upload(other).await.unwrap();
    upload.write(body.clone()).await.unwrap();
    match upload.finish().await {
        Err(UploadError::WrongHash { expected, found }) => assert_eq!((expected, found), (other, hash)),
        result => panic!("{result:?}"),
    }
    assert_eq!(fixture.storage.size(&other).await.unwrap(), None);
    let mut dropped = fixture.storage.upload(other).await.unwrap();
    dropped.write(body.clone()).await.unwrap();
    drop(dropped);
    eventually("only the whole file is left", async || {
        let names: Vec<_> = fixture.names().into_iter().filter(|name| !name.starts_with('.')).collect();
        (names == [hash.to_string()]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_gives_files_back() {
    files_come_back_in_whole_and_in_part(in_folder().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_gives_files_back() {
    files_come_back_in_whole_and_in_part(in_bucket().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_shows_whole_files() {
    a_file_is_there_when_it_is_whole_and_right(in_folder().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_shows_whole_files() {
    a_file_is_there_when_it_is_whole_and_right(in_bucket().await).await;
}

#[tokio::test]
async fn what_a_crash_left_behind_is_cleared_away() {
    let fixture = in_folder().await;
    let hash = fixture.put(&Bytes::from_static(b"whole")).await;
    let left = format!("{}#1", ContentHash::of(b"half"));
    for name in [left.as_str(), "somebody's own", "abc#1"] {
        fs::write(fixture.files.join(name), "h").unwrap();
    }
    assert_eq!(fixture.storage.remove_leftovers(Duration::from_secs(3600)).await.unwrap(), 0, "it may be in work");
    assert_eq!(fixture.storage.remove_leftovers(Duration::ZERO).await.unwrap(), 1);
    let mut names = fixture.names();
    names.sort();
    let mut expected = [hash.to_string(), "abc#1".to_owned(), "somebody's own".to_owned()];
    expected.sort();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn wrong_credentials_are_an_error_and_not_an_absence() {
    let server = s3::Server::start().await;
    let mut variables = server.variables();
    variables.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "another".to_owned()));
    let location = format!("s3://{}", s3::BUCKET).parse().unwrap();
    let storage = Storage::open(&location, variables).unwrap();
    assert!(storage.size(&ContentHash::of(b"")).await.is_err());
    let unusable = Location::Folder("/dev/null/x".into());
    let error = Storage::open(&unusable, []).unwrap_err().to_string();
    assert!(error.contains("/dev/null/x"), "{error}");
}
