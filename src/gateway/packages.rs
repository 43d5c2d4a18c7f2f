//! Package files over HTTP: GET and HEAD, in whole or in part, as they lie in the storage, never more than a piece in memory.
//!
//! Architecture invariant: a file never changes, as its name is its hash; so its ETag is that name, and a part fetched after a
//! while, or from another gateway, belongs to the parts before.

use std::{ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Frame;

use super::{
    Shared,
    config::ClientCertificates,
    downloads::Turn,
    http::{Answer, Refusal, busy, refusal, unauthorized},
    watched::{Phase, Watch},
};
use crate::{
    auth::token,
    model::ContentHash,
    packages::{Chunks, Storage},
};

/// What a request asks of a file that is there.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    /// First and last byte.
    Part(RangeInclusive<u64>),
    /// Nothing: whoever asks has it.
    NotModified,
    /// A part that is not there.
    Unsatisfiable,
    /// Something that has another ETag.
    PreconditionFailed,
}

/// Answers a request for the file that the URL names.
pub async fn answer(
    shared: &Shared,
    watch: &Arc<Watch>,
    name: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    let file = name.parse::<ContentHash>().ok();
    authorize(shared, headers, file.as_ref())?;
    if method != Method::GET && method != Method::HEAD {
        let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "method", "GET or HEAD");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Err(answer);
    }
    let (Some(file), Some(storage)) = (file, &shared.config.package_storage) else { return Err(not_found()) };
    let away = |error| {
        tracing::warn!(%file, %error, "a package file cannot be served");
        busy(shared, "package_storage")
    };
    let size = storage.size(&file).await.map_err(away)?.ok_or_else(not_found)?;
    let etag = format!("\"{file}\"");
    let mut answer = match wanted(method, headers, &etag, size) {
        Wanted::NotModified => empty(StatusCode::NOT_MODIFIED),
        Wanted::PreconditionFailed => *refusal(StatusCode::PRECONDITION_FAILED, "etag", "the file has another ETag"),
        Wanted::Unsatisfiable => {
            let mut answer = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "range", "the file has no such part");
            set(&mut answer, header::CONTENT_RANGE, &format!("bytes */{size}"));
            *answer
        }
        Wanted::Whole if method == Method::HEAD || size == 0 => sized(empty(StatusCode::OK), size),
        Wanted::Whole => {
            let body = body(shared, watch, storage, &file, 0..=size - 1).await?;
            sized(body, size)
        }
        Wanted::Part(range) => {
            let (first, last) = (*range.start(), *range.end());
            let mut part = body(shared, watch, storage, &file, range).await?;
            *part.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut part, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
            sized(part, last - first + 1)
        }
    };
    set(&mut answer, header::ETAG, &etag);
    answer.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(answer)
}

/// Lets in who may speak OpAMP, and who has the file's own token, which its offer carries.
fn authorize(shared: &Shared, headers: &HeaderMap, file: Option<&ContentHash>) -> Result<(), Refusal> {
    let is_open = shared.config.client_certificates != ClientCertificates::Required;
    if !shared.config.requires_token() && is_open {
        return Ok(());
    }
    if !shared.tokens.are_known() {
        return Err(busy(shared, "tokens_unknown"));
    }
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(value) = value else { return Err(stranger()) };
    let is_files_own = match (token::bearer(value), file) {
        (Some(token), Some(file)) => shared.tokens.opens(token, file),
        _ => false,
    };
    if is_files_own || shared.tokens.check(value).is_some() { Ok(()) } else { Err(stranger()) }
}

fn stranger() -> Refusal {
    unauthorized("a valid agent token, or that of the file, is required")
}

/// Conditions first, in the order of RFC 9110, section 13.2.2.
fn wanted(method: &Method, headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    if headers.contains_key(header::IF_MATCH) && !names(headers, header::IF_MATCH, etag, false) {
        return Wanted::PreconditionFailed;
    }
    if names(headers, header::IF_NONE_MATCH, etag, true) {
        return Wanted::NotModified;
    }
    // A part of something else is of no use; nor can a date be compared with that of a file which has none.
    let is_same = headers.get(header::IF_RANGE).is_none_or(|value| value == etag);
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).filter(|_| is_same);
    let is_bytes = |range: &&str| range.get(..6).is_some_and(|unit| unit.eq_ignore_ascii_case("bytes="));
    let Some(range) = range.filter(is_bytes).filter(|_| method == Method::GET) else { return Wanted::Whole };
    let Ok(ranges) = http_range_header::parse_range_header(&format!("bytes={}", &range[6..])) else {
        return Wanted::Unsatisfiable;
    };
    match ranges.validate(size).as_deref() {
        Ok([range]) => Wanted::Part(range.clone()),
        // Several parts in one answer are more than agents ask for, and may be answered by the whole.
        Ok(_) => Wanted::Whole,
        Err(_) => Wanted::Unsatisfiable,
    }
}

/// Whether a list of entity tags has this one, or is `*`. A weak one counts where that is enough.
fn names(headers: &HeaderMap, list: HeaderName, etag: &str, weak: bool) -> bool {
    let values = headers.get_all(list).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).any(|one| {
        let one = if weak { one.strip_prefix("W/").unwrap_or(one) } else { one };
        one == "*" || one == etag
    })
}

/// Waits for its turn, and begins to read. Who is refused for a rush of others would take it for a failed installation.
async fn body(
    shared: &Shared,
    watch: &Arc<Watch>,
    storage: &Storage,
    file: &ContentHash,
    range: RangeInclusive<u64>,
) -> Result<Answer, Refusal> {
    let turn = shared.downloads.turn().await.ok_or_else(|| busy(shared, "downloads"))?;
    let chunks = storage.read(file, *range.start()..range.end() + 1).await.map_err(|error| {
        tracing::warn!(%file, %error, "a package file cannot be served");
        busy(shared, "package_storage")
    })?;
    let chunks = chunks.ok_or_else(not_found)?;
    shared.metrics.downloads.increment(1);
    Ok(Response::new(Either::Right(flowing(shared, watch, chunks, turn))))
}

/// A body that keeps its connection alive while the peer takes of it.
fn flowing(shared: &Shared, watch: &Arc<Watch>, chunks: Chunks, turn: Turn) -> super::http::Flow {
    let (watch, sent) = (watch.clone(), shared.metrics.downloaded_bytes.clone());
    let frames = chunks.map(move |chunk| {
        watch.enter(Phase::Idle);
        let taken = chunk.as_ref().map_or(0, Bytes::len);
        let chunk =
            turn.took(taken).and(chunk).inspect_err(|error| tracing::warn!(%error, "a package file was cut off"))?;
        sent.increment(chunk.len() as u64);
        Ok(Frame::data(chunk))
    });
    StreamBody::new(frames).boxed_unsync()
}

fn sized(mut answer: Answer, bytes: u64) -> Answer {
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::new())));
    *answer.status_mut() = status;
    answer
}

fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    // Digits and punctuation are always a value.
    answer.headers_mut().extend(HeaderValue::from_str(value).map(|value| (name, value)));
}

fn not_found() -> Refusal {
    refusal(StatusCode::NOT_FOUND, "package_file", "there is no such package file")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";

    fn of(method: Method, list: &[(HeaderName, &str)]) -> Wanted {
        let headers = list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        wanted(&method, &headers, ETAG, 100)
    }

    #[test]
    fn parts_are_within_the_file() {
        for (range, expected) in [
            ("bytes=0-9", Wanted::Part(0..=9)),
            ("BYTES=90-", Wanted::Part(90..=99)),
            ("bytes=90-1000", Wanted::Part(90..=99)),
            ("bytes=-10", Wanted::Part(90..=99)),
            ("bytes=-1000", Wanted::Part(0..=99)),
            ("bytes=100-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=9-0", Wanted::Unsatisfiable),
            ("bytes=x", Wanted::Unsatisfiable),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("pages=1-2", Wanted::Whole),
        ] {
            assert_eq!(of(Method::GET, &[(header::RANGE, range)]), expected, "{range}");
            assert_eq!(of(Method::HEAD, &[(header::RANGE, range)]), Wanted::Whole, "{range}");
        }
    }

    #[test]
    fn conditions_come_before_parts() {
        let range = (header::RANGE, "bytes=1-2");
        for (name, value, expected) in [
            (header::IF_NONE_MATCH, "\"x\", W/\"abc\"", Wanted::NotModified),
            (header::IF_NONE_MATCH, "*", Wanted::NotModified),
            (header::IF_NONE_MATCH, "\"x\"", Wanted::Part(1..=2)),
            (header::IF_MATCH, "\"x\", \"abc\"", Wanted::Part(1..=2)),
            (header::IF_MATCH, "W/\"abc\"", Wanted::PreconditionFailed),
            (header::IF_RANGE, ETAG, Wanted::Part(1..=2)),
            (header::IF_RANGE, "\"x\"", Wanted::Whole),
            (header::IF_RANGE, "W/\"abc\"", Wanted::Whole),
            (header::IF_RANGE, "Wed, 25 Nov 2026 06:40:31 GMT", Wanted::Whole),
        ] {
            assert_eq!(of(Method::GET, &[range.clone(), (name.clone(), value)]), expected, "{name}: {value}");
        }
    }
}
