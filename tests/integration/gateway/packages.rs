//! Package files over HTTP.

use std::time::Duration;

use bytes::Bytes;
use muster::{
    gateway::{AgentAuth, Config},
    model::ContentHash,
    packages::{Location, Storage, access::Key},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::harness::*;
use crate::support::s3;

async fn put(storage: &Storage, body: &Bytes) -> ContentHash {
    let hash = ContentHash::of(body);
    let mut upload = storage.upload(hash).await.unwrap();
    upload.write(body.clone()).await.unwrap();
    upload.finish().await.unwrap();
    hash
}

fn folder() -> (TempDir, Storage) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&Location::Folder(folder.path().to_path_buf()), []).unwrap();
    (folder, storage)
}

fn serving(storage: &Storage) -> Config {
    Config { package_storage: Some(storage.clone()), ..config() }
}

impl Bench {
    async fn fetch(&self, method: &str, name: impl std::fmt::Display, headers: &str) -> (String, Vec<u8>) {
        let request = format!("{method} /v1/packages/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        split(&self.raw(request.as_bytes()).await)
    }
}

/// Status of a head.
fn status(head: &str) -> &str {
    head.split(' ').nth(1).expect("a status")
}

fn large() -> Bytes {
    (0..5u32 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

async fn whole_parts_and_conditions(storage: &Storage) {
    let body = large();
    let hash = put(storage, &body).await;
    let bench = Bench::start(serving(storage)).await;
    let (head, whole) = bench.fetch("GET", hash, "").await;
    assert_eq!(status(&head), "200", "{head}");
    assert!(whole == body, "it came as it went");
    let etag = format!("\"{hash}\"");
    for header in [&format!("content-length: {}", body.len()), &format!("etag: {etag}"), "accept-ranges: bytes"] {
        assert!(head.contains(&format!("\r\n{header}")), "no {header} in {head}");
    }
    assert!(!head.contains("transfer-encoding"), "{head}");

    let (head, nothing) = bench.fetch("HEAD", hash, "").await;
    assert_eq!((status(&head), nothing.len()), ("200", 0), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");

    let (last, size) = (body.len() - 1, body.len());
    for (range, first, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        (format!("bytes={}-", 9 << 20), 9 << 20, size),
        ("bytes=-10".to_owned(), size - 10, size),
        (format!("bytes=5-{}", size + 100), 5, size),
        (format!("bytes={last}-{last}\r\nIf-Range: {etag}"), last, size),
    ] {
        let (head, part) = bench.fetch("GET", hash, &format!("Range: {range}\r\n")).await;
        assert_eq!(status(&head), "206", "{range}: {head}");
        assert!(part == body[first..end], "{range}");
        assert!(head.contains(&format!("content-range: bytes {first}-{}/{size}", end - 1)), "{range}: {head}");
        assert!(head.contains(&format!("content-length: {}", end - first)), "{range}: {head}");
    }
    let (head, _) = bench.fetch("GET", hash, &format!("Range: bytes={size}-\r\n")).await;
    assert_eq!(status(&head), "416", "{head}");
    assert!(head.contains(&format!("content-range: bytes */{size}")), "{head}");
    let (head, all) = bench.fetch("GET", hash, "Range: bytes=1-2\r\nIf-Range: \"other\"\r\n").await;
    assert_eq!((status(&head), all.len()), ("200", size), "a part of something else is of no use");
    let (head, nothing) = bench.fetch("GET", hash, &format!("If-None-Match: {etag}\r\n")).await;
    assert_eq!((status(&head), nothing.len()), ("304", 0), "{head}");
    assert!(head.contains(&etag), "{head}");
    let (head, _) = bench.fetch("GET", hash, "If-Match: \"other\"\r\n").await;
    assert_eq!(status(&head), "412", "{head}");
    for absent in [ContentHash::of(b"absent").to_string(), "x".to_owned(), format!("{hash}/"), String::new()] {
        let (head, _) = bench.fetch("GET", &absent, "").await;
        assert_eq!(status(&head), "404", "{absent}: {head}");
    }
    let (head, _) = bench.fetch("POST", hash, "Content-Length: 0\r\n").await;
    assert_eq!(status(&head), "405", "{head}");
    assert!(head.contains("allow: get, head"), "{head}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_a_folder_are_served() {
    let (_folder, storage) = folder();
    whole_parts_and_conditions(&storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_a_bucket_are_served() {
    let server = s3::Server::start().await;
    let storage = Storage::open(&format!("s3://{}", s3::BUCKET).parse().unwrap(), server.variables()).unwrap();
    whole_parts_and_conditions(&storage).await;
}

#[tokio::test]
async fn a_file_is_for_agents_and_for_who_has_its_own_token() {
    let (_folder, storage) = folder();
    let hash = put(&storage, &Bytes::from_static(b"secret")).await;
    let other = put(&storage, &Bytes::from_static(b"other")).await;
    let bench = Bench::start(Config { agent_auth: AgentAuth::Required, ..serving(&storage) }).await;
    let key = Key::from_slice(&PACKAGE_KEY).unwrap();
    for (token, expected) in [
        (Some(TOKEN.to_owned()), "200"),
        (Some(key.token(&hash)), "200"),
        (Some(key.token(&other)), "401"),
        (Some("wrong".to_owned()), "401"),
        (None, "401"),
    ] {
        let header = token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let (head, body) = bench.fetch("GET", hash, &header).await;
        assert_eq!(status(&head), expected, "{token:?}: {head}");
        assert_eq!(body == b"secret", expected == "200");
        assert_eq!(head.contains("www-authenticate: bearer"), expected == "401", "{head}");
        let (head, _) = bench.fetch("GET", ContentHash::of(b"absent"), &header).await;
        let hidden = if token.as_deref() == Some(TOKEN) { "404" } else { "401" };
        assert_eq!(status(&head), hidden, "strangers do not learn what there is: {head}");
    }
    // A file's token is for that file, and not for an agent.
    let refused = bench.try_connect(Some(&key.token(&hash))).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn without_a_storage_there_are_no_files() {
    let bench = Bench::start(config()).await;
    let (head, _) = bench.fetch("GET", ContentHash::of(b"x"), "").await;
    assert_eq!(status(&head), "404", "{head}");
}

/// Agents take any refusal for a failed installation; so they are told when to come back, in the hope that they do.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_away_is_no_missing_file() {
    let server = s3::Server::start().await;
    let storage = Storage::open(&format!("s3://{}", s3::BUCKET).parse().unwrap(), server.variables()).unwrap();
    let hash = put(&storage, &Bytes::from_static(b"here")).await;
    let bench = Bench::start(serving(&storage)).await;
    let (head, body) = bench.fetch("GET", hash, "").await;
    assert_eq!((status(&head), &body[..]), ("200", &b"here"[..]));
    drop(server);
    let (head, _) = bench.fetch("GET", hash, "").await;
    assert_eq!(status(&head), "503", "{head}");
    assert!(head.contains("\r\nretry-after: "), "{head}");
}

/// One connection, several requests; and a download that takes longer than a connection may idle.
#[tokio::test]
async fn a_slow_download_is_not_cut_off() {
    const PAUSE: Duration = Duration::from_millis(700);
    const PAUSES: usize = 5;
    let (_folder, storage) = folder();
    let body = large();
    let hash = put(&storage, &body).await;
    let bench = Bench::start(Config { http_idle_timeout: PAUSE * (PAUSES as u32 - 1), ..serving(&storage) }).await;
    let mut socket = small_buffers(bench.address).await;
    ask(&mut socket, hash, "Range: bytes=0-9\r\n").await;
    read_until(&mut socket, Vec::new(), &body[..10]).await;
    ask(&mut socket, hash, "").await;
    let mut got = vec![0; PAUSES * body.len() / 8];
    for piece in got.chunks_mut(body.len() / 8) {
        tokio::time::sleep(PAUSE).await;
        socket.read_exact(piece).await.expect("it goes on");
    }
    let got = read_until(&mut socket, got, &body[body.len() - 100..]).await;
    assert!(split(&got).1 == body);
}

#[tokio::test]
async fn who_takes_nothing_gives_way_to_who_waits() {
    let (_folder, storage) = folder();
    let body = large();
    let hash = put(&storage, &body).await;
    let one_at_a_time = Config { http_idle_timeout: Duration::from_millis(500), max_downloads: 1, ..serving(&storage) };
    let bench = Bench::start(one_at_a_time).await;
    let mut still = small_buffers(bench.address).await;
    ask(&mut still, hash, "").await;
    read_until(&mut still, Vec::new(), &body[..10]).await;
    let (head, whole) = bench.fetch("GET", hash, "").await;
    assert_eq!(status(&head), "200", "{head}");
    assert!(whole == body);
}

/// Taking a little now and then is no way to keep a turn for ever.
#[tokio::test]
async fn who_takes_too_little_gives_way_to_who_waits() {
    let (_folder, storage) = folder();
    let body = large();
    let hash = put(&storage, &body).await;
    let pace = Config { download_bytes_per_second: u32::MAX, download_window: Duration::ZERO, ..serving(&storage) };
    let bench = Bench::start(Config { max_downloads: 1, ..pace }).await;
    let mut slow = small_buffers(bench.address).await;
    ask(&mut slow, hash, "").await;
    let got = read_until(&mut slow, Vec::new(), &body[..10]).await;
    let (head, whole) = bench.fetch("GET", hash, "").await;
    assert_eq!(status(&head), "200", "{head}");
    assert!(whole == body);
    let mut rest = got;
    let _ = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await.expect("it is over");
    assert!(rest.len() < body.len(), "the slow one was cut off");
}

async fn ask(socket: &mut TcpStream, hash: ContentHash, headers: &str) {
    let request = format!("GET /v1/packages/{hash} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
}

/// Reads on until `end` has come.
async fn read_until(socket: &mut TcpStream, mut got: Vec<u8>, end: &[u8]) -> Vec<u8> {
    let mut piece = vec![0; 64 << 10];
    while !got.windows(end.len()).rev().take(piece.len() + end.len()).any(|window| window == end) {
        let count = tokio::time::timeout(PATIENCE, socket.read(&mut piece)).await.expect("more").expect("more");
        assert!(count > 0, "it ended early");
        got.extend_from_slice(&piece[..count]);
    }
    got
}

/// A connection that holds little on its way.
async fn small_buffers(address: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(address).await.unwrap()
}
