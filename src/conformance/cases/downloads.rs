//! Files of packages that the server hosts itself.

use sha2::{Digest, Sha256};

use super::packages;
use crate::conformance::{
    case::{Step, Verdict, cases, ensure, skip},
    context::Context,
};

cases! {
    "PKG-12" Must Http "DownloadableFile.download_url" "a file that the server hosts is what its content_hash says" hosts;
    "PKG-13" Field Http "DownloadableFile.download_url" "the whole of a file comes with status 200 and its Content-Length"
        says_lengths;
    "PKG-14" Should Http "DownloadableFile.download_url" "a part of a file can be asked for, to resume a download" serves_parts;
    "PKG-15" Field Http "DownloadableFile.headers" "without the headers of its offer a file is refused" wants_headers;
    "PKG-16" Field Http "RFC 9110, 15.5.17" "a part that begins where the file ends is refused with 416" refuses_no_parts;
    "PKG-17" Field Http "RFC 9110, 13.1.5" "a file has an ETag, which guards the parts of it" guards_parts;
}

/// A file that was offered: how to fetch it, and what it should be.
struct Hosted {
    url: String,
    headers: Vec<(String, String)>,
    content_hash: Vec<u8>,
    content: Vec<u8>,
}

impl Hosted {
    /// The headers of the offer, and one more.
    fn with(&self, name: &str, value: &str) -> Vec<(String, String)> {
        [&self.headers[..], &[(name.to_owned(), value.to_owned())]].concat()
    }
}

async fn hosted(cx: &Context) -> Step<Hosted> {
    let content: Vec<u8> = [cx.mark.as_bytes(), &[0, 0xff, b'\n'].repeat(30_000)].concat();
    let sha256 = cx.host("conformance.bin", &content).await?;
    let file = packages::offered_file(cx, sha256).await?;
    let headers = file.message(4)?.unwrap_or_default().messages(1)?;
    let headers = headers.iter().map(|header| Ok::<_, String>((header.text(1)?, header.text(2)?)));
    let headers = headers.collect::<Result<_, _>>()?;
    Ok(Hosted { url: file.text(1)?, headers, content_hash: file.bytes(2)?.unwrap_or_default().to_vec(), content })
}

async fn hosts(cx: &Context) -> Verdict {
    let file = hosted(cx).await?;
    let answer = cx.fetch(&file.url, &file.headers).await?;
    ensure!(answer.status / 100 == 2, "{} is answered with status {}", file.url, answer.status);
    let found = Sha256::digest(&answer.body).to_vec();
    ensure!(found == file.content_hash, "{} bytes come, whose SHA-256 is {}", answer.body.len(), hex::encode(found));
    ensure!(answer.body == file.content, "{} bytes come, which are not those that were uploaded", answer.body.len());
    Ok(())
}

async fn says_lengths(cx: &Context) -> Verdict {
    let file = hosted(cx).await?;
    let answer = cx.fetch(&file.url, &file.headers).await?;
    ensure!(answer.status == 200, "the status is {}", answer.status);
    let length = answer.header("content-length");
    ensure!(length == Some(file.content.len().to_string().as_str()), "Content-Length is {length:?}");
    Ok(())
}

async fn serves_parts(cx: &Context) -> Verdict {
    let file = hosted(cx).await?;
    let all = file.content.len();
    for (range, from, to) in [("bytes=10-19", 10, 20), ("bytes=70000-", 70_000, all), ("bytes=-5", all - 5, all)] {
        let answer = cx.fetch(&file.url, &file.with("Range", range)).await?;
        ensure!(answer.status == 206, "{range} is answered with status {}", answer.status);
        let (said, expected) = (answer.header("content-range"), format!("bytes {from}-{}/{all}", to - 1));
        ensure!(said == Some(&expected), "{range} is answered with Content-Range {said:?}");
        ensure!(answer.body == file.content[from..to], "{range} is answered with {} other bytes", answer.body.len());
    }
    Ok(())
}

async fn wants_headers(cx: &Context) -> Verdict {
    let file = hosted(cx).await?;
    if file.headers.is_empty() {
        skip!("the server offers its files without headers");
    }
    let status = cx.fetch(&file.url, &[]).await?.status;
    ensure!([401, 403, 404].contains(&status), "the status is {status}");
    Ok(())
}

async fn refuses_no_parts(cx: &Context) -> Verdict {
    let file = hosted(cx).await?;
    let range = format!("bytes={}-", file.content.len());
    let status = cx.fetch(&file.url, &file.with("Range", &range)).await?.status;
    ensure!(status == 416, "the status is {status}");
    Ok(())
}

async fn guards_parts(cx: &Context) -> Verdict {
    let file = hosted(cx).await?;
    let whole = cx.fetch(&file.url, &file.headers).await?;
    let etag = whole.header("etag").ok_or("there is no ETag")?;
    ensure!(!etag.starts_with("W/"), "the ETag {etag} is weak");
    for (guard, status) in [(etag, 206), ("\"another\"", 200)] {
        let mut headers = file.with("Range", "bytes=10-19");
        headers.push(("If-Range".to_owned(), guard.to_owned()));
        let answer = cx.fetch(&file.url, &headers).await?;
        ensure!(answer.status == status, "If-Range {guard} is answered with status {}", answer.status);
    }
    Ok(())
}
