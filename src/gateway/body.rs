//! Bodies of plain HTTP: reading them within bounds, and gzip in both directions.

use std::{
    io::{Read, Write},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Below this gzip makes a body larger, or saves nothing worth its work.
const MIN_GZIP_BYTES: usize = 512;
/// Of the body of an agent that was let in, and is refused for this body's sake, so much is read: the size that the
/// specification recommends as a limit.
pub const MAX_DISCARDED_BYTES: usize = 64 << 20;
/// Of anybody else's: usual reports, so that their senders learn why they are refused, and no more work than that.
pub const MAX_STRANGERS_DISCARDED_BYTES: usize = 256 << 10;
const DISCARD_PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    TooBig,
    /// An encoding other than gzip.
    Encoding,
    /// Not what its encoding says.
    Corrupt,
    /// The connection ended within the body.
    Lost,
}

/// The whole body, decompressed, if neither it nor what came over the wire is longer than `max_bytes`.
pub async fn read(headers: &HeaderMap, body: Incoming, max_bytes: usize) -> Result<Bytes, Problem> {
    let is_gzip = match is_gzip(headers) {
        Ok(is_gzip) if body.size_hint().lower() <= max_bytes as u64 => is_gzip,
        refused => {
            if !headers.contains_key(header::EXPECT) {
                discard(body, MAX_DISCARDED_BYTES).await;
            }
            return Err(refused.err().unwrap_or(Problem::TooBig));
        }
    };
    let received = collect(body, max_bytes).await?;
    if is_gzip { gunzip(&received, max_bytes) } else { Ok(received) }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).into_iter();
    let Some(value) = values.next() else { return Ok(false) };
    if values.next().is_some() {
        return Err(Problem::Encoding);
    }
    match value.to_str().map(str::trim) {
        Ok(name) if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => Ok(true),
        Ok(name) if name.is_empty() || name.eq_ignore_ascii_case("identity") => Ok(false),
        _ => Err(Problem::Encoding),
    }
}

async fn collect(mut body: Incoming, max_bytes: usize) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Problem::Lost)?.into_data() else { continue };
        if data.len() > max_bytes - whole.len() {
            drop(whole);
            discard(body, MAX_DISCARDED_BYTES).await;
            return Err(Problem::TooBig);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads on to the end of a body that is not wanted, so that the peer gets to the point where it reads the answer. A body
/// that has no end is given up, and so is one of which nothing comes: its sender may be waiting for the answer.
pub async fn discard(mut body: Incoming, max_bytes: usize) {
    let mut left = max_bytes;
    if body.size_hint().lower() > max_bytes as u64 {
        return;
    }
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(DISCARD_PAUSE, body.frame()).await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if bytes > left {
            return;
        }
        left -= bytes;
    }
}

/// Likewise, of a connection whose request could not be read: until the peer ends it.
pub async fn discard_socket(mut socket: impl AsyncRead + Unpin, max_bytes: usize) {
    let mut scratch = [0; 4 << 10];
    let mut left = max_bytes;
    while let Ok(Ok(bytes @ 1..)) = tokio::time::timeout(DISCARD_PAUSE, socket.read(&mut scratch)).await {
        if bytes > left {
            return;
        }
        left -= bytes;
    }
}

fn gunzip(compressed: &[u8], max_bytes: usize) -> Result<Bytes, Problem> {
    let mut whole = Vec::new();
    let mut decoder = MultiGzDecoder::new(compressed).take(max_bytes as u64 + 1);
    decoder.read_to_end(&mut whole).map_err(|_| Problem::Corrupt)?;
    if whole.len() > max_bytes { Err(Problem::TooBig) } else { Ok(whole.into()) }
}

/// `plain` compressed, if that is worth it.
pub fn gzip(plain: &[u8]) -> Option<Bytes> {
    if plain.len() < MIN_GZIP_BYTES {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().filter(|compressed| compressed.len() < plain.len()).map(Bytes::from)
}

/// Whether Accept-Encoding allows gzip: named, or by `*`, and not with a weight of zero.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    let mut by_name = None;
    let mut by_star = false;
    for coding in values.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().unwrap_or(0.0))
        });
        let is_allowed = weight.is_none_or(|weight| weight > 0.0 && weight <= 1.0);
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            by_name = Some(by_name.unwrap_or(false) || is_allowed);
        } else if name == "*" {
            by_star |= is_allowed;
        }
    }
    by_name.unwrap_or(by_star)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT_ENCODING, value.parse().unwrap());
        }
        accepts_gzip(&headers)
    }

    #[test]
    fn accept_encoding_has_weights_stars_and_repeats() {
        for yes in [&["gzip"][..], &["deflate, GZIP;q=0.5"], &["br", "gzip"], &["*"], &["gzip; q=1.0, *;q=0"]] {
            assert!(accepts(yes), "{yes:?}");
        }
        for no in [&[][..], &["identity"], &["gzip;q=0"], &["*, gzip;q=0.0"], &["*;q=0"], &["gzip;q=x"], &["gzipped"]] {
            assert!(!accepts(no), "{no:?}");
        }
    }

    #[test]
    fn gzip_there_and_back_and_no_bombs() {
        let plain = vec![7; 100_000];
        let compressed = gzip(&plain).expect("worth it");
        assert_eq!(gunzip(&compressed, 100_000).as_deref(), Ok(&plain[..]));
        assert_eq!(gunzip(&compressed, 99_999), Err(Problem::TooBig));
        assert_eq!(gunzip(&compressed[..20], 100_000), Err(Problem::Corrupt));
        assert_eq!(gunzip(b"not gzip", 100_000), Err(Problem::Corrupt));
        assert_eq!(gzip(b"short"), None);
    }
}
