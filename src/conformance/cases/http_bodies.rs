//! Plain HTTP: encodings and sizes of bodies.

use std::io::{Read, Write};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use tokio::io::AsyncWriteExt;

use crate::conformance::{
    agent::can,
    case::{Step, Stop, Verdict, cases, ensure, skip},
    context::{Context, no_error, offer_of},
    http::Response,
    protobuf::Message,
    reply::Reply,
};

cases! {
    "BODY-01" Must Http "Plain HTTP Transport" "a body in gzip is taken" takes_gzip;
    "BODY-02" Must Http "Plain HTTP Transport" "a body in several gzip members is taken" takes_gzip_members;
    "BODY-03" Field Http "RFC 9110, 8.4" "Content-Encoding identity is taken" takes_identity;
    "BODY-04" Should Http "RFC 9110, 15.5.16" "an unknown Content-Encoding is refused with 415" refuses_encodings;
    "BODY-05" Should Http "Bad Request" "a body that is not the gzip it says is refused" refuses_corrupt_gzip;
    "BODY-06" Must Http "Plain HTTP Transport" "an answer is not compressed unasked" compresses_only_when_asked;
    "BODY-07" Must Http "RFC 9110, 12.5.3" "Accept-Encoding gzip;q=0 forbids gzip" obeys_zero_weight;
    "BODY-08" Should Http "Plain HTTP Transport" "a large answer is compressed where Accept-Encoding allows it"
        compresses_large_answers;
    "BODY-09" Must Http "RFC 9112, 7.1" "a body in chunks is taken" takes_chunks;
    "BODY-10" Field Http "RFC 9110, 10.1.1" "a body is taken after 100 Continue" continues;
    "BODY-11" Must Http "Plain HTTP Message Size Limits" "a body beyond the limit is refused with 413" refuses_large;
    "BODY-12" Must Http "Plain HTTP Message Size Limits" "the limit holds after decompression" refuses_bombs;
    "BODY-13" Must Http "Plain HTTP Message Size Limits" "the limit holds for chunks, whose sum is not announced"
        refuses_large_in_chunks;
    "BODY-14" Field Http "Plain HTTP Message Size Limits" "a report of 512 KiB is taken" takes_large_reports;
    "BODY-15" Must Http "Plain HTTP Message Size Limits" "after a refused body others are served" serves_on_after_refusal;
}

/// More than the limit that the specification recommends.
const TOO_LARGE_BYTES: usize = (64 << 20) + (1 << 20);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// The answer to a report whose body was encoded.
async fn post_encoded(cx: &Context, encoding: &str, body: Vec<u8>) -> Step<Response> {
    let mut http = cx.http().await?;
    let mut request = http.post(&Message::new()).header("Content-Encoding", encoding);
    request.body = body;
    http.exchange(&request).await
}

async fn takes_gzip(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let answer = post_encoded(cx, "gzip", gzip(agent.full().encoded())).await?;
    let reply = answer.reply()?;
    no_error(&reply)?;
    ensure!(reply.uid == agent.uid, "instance_uid is {}", hex::encode(reply.uid));
    Ok(())
}

async fn takes_gzip_members(cx: &Context) -> Verdict {
    let message = cx.agent().full();
    let (start, end) = message.encoded().split_at(20);
    no_error(&post_encoded(cx, "gzip", [gzip(start), gzip(end)].concat()).await?.reply()?)
}

async fn takes_identity(cx: &Context) -> Verdict {
    no_error(&post_encoded(cx, "identity", cx.agent().full().encoded().to_vec()).await?.reply()?)
}

async fn refuses_encodings(cx: &Context) -> Verdict {
    for encoding in ["br", "zstd"] {
        let status = post_encoded(cx, encoding, b"whatever".to_vec()).await?.status;
        ensure!(status == 415, "{encoding} is answered with status {status}");
    }
    Ok(())
}

async fn refuses_corrupt_gzip(cx: &Context) -> Verdict {
    let whole = gzip(cx.agent().full().encoded());
    for (what, body) in [("text", b"this is not gzip".to_vec()), ("half of it", whole[..whole.len() / 2].to_vec())] {
        let answer = post_encoded(cx, "gzip", body).await?;
        let is_refused = (400..500).contains(&answer.status) || answer.reply().is_ok_and(|it| it.is_bad_request());
        ensure!(is_refused, "{what} is answered with status {} and no error", answer.status);
    }
    Ok(())
}

/// The answer to a report by an agent with this Accept-Encoding. With an operator it carries a large offer.
async fn accepting(cx: &Context, accept: Option<&str>) -> Step<Response> {
    let mut agent = cx.agent();
    if cx.world.admin.is_some() {
        agent = agent.with(can::CONFIG);
        cx.offer("large", &"- a: 1\n".repeat(2_000)).await?;
    }
    let mut http = cx.http().await?;
    let request = http.post(&agent.full());
    let request = accept.map_or(request.clone(), |accept| request.header("Accept-Encoding", accept));
    let mut answer = http.exchange(&request).await?;
    for _ in 0..10 {
        if cx.world.admin.is_none() || answer.body.len() > 30 {
            break;
        }
        tokio::time::sleep(cx.quiet / 5).await;
        let request = http.post(&agent.heartbeat());
        let request = accept.map_or(request.clone(), |accept| request.header("Accept-Encoding", accept));
        answer = http.exchange(&request).await?;
    }
    Ok(answer)
}

fn is_plain(answer: &Response) -> Verdict {
    let encoding = answer.header("content-encoding");
    ensure!(encoding.is_none_or(|it| it == "identity"), "Content-Encoding is {encoding:?}");
    no_error(&answer.reply()?)
}

async fn compresses_only_when_asked(cx: &Context) -> Verdict {
    is_plain(&accepting(cx, None).await?)
}

async fn obeys_zero_weight(cx: &Context) -> Verdict {
    is_plain(&accepting(cx, Some("gzip;q=0, identity")).await?)
}

async fn compresses_large_answers(cx: &Context) -> Verdict {
    cx.admin()?;
    let answer = accepting(cx, Some("gzip")).await?;
    ensure!(answer.header("content-encoding") == Some("gzip"), "{} bytes came uncompressed", answer.body.len());
    let mut plain = Vec::new();
    GzDecoder::new(answer.body.as_slice())
        .read_to_end(&mut plain)
        .map_err(|error| format!("what came is not gzip: {error}"))?;
    offer_of(&Reply::read(&plain)?).map(|_| ())
}

async fn takes_chunks(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    let mut request = http.post(&cx.agent().full());
    request.is_chunked = true;
    no_error(&http.exchange(&request).await?.reply()?)
}

async fn continues(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    let request = http.post(&cx.agent().full()).header("Expect", "100-continue");
    http.stream.write_all(&request.head()).await?;
    // The body follows only once the server has asked for it.
    let mut interim = Vec::new();
    let asked = tokio::time::timeout(cx.patience, async {
        while !interim.ends_with(b"\r\n\r\n") {
            if tokio::io::AsyncReadExt::read_buf(&mut http.stream, &mut interim).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(())
    });
    asked.await.map_err(|_| Stop::Fail("the server does not say 100 Continue".to_owned()))??;
    ensure!(interim.starts_with(b"HTTP/1.1 100"), "{:?} instead of 100", String::from_utf8_lossy(&interim));
    no_error(&http.exchange_bytes(&request.body, false).await?.reply()?)
}

/// A valid report that is too large: an unknown field holds the bulk.
fn too_large(cx: &Context) -> Message {
    cx.agent().full().bytes(1_000, vec![0; TOO_LARGE_BYTES])
}

fn is_413(answer: &Response) -> Verdict {
    ensure!(answer.status == 413, "status {}", answer.status);
    Ok(())
}

async fn refuses_large(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    http.patience = cx.long;
    is_413(&http.exchange(&http.post(&too_large(cx))).await?)
}

async fn refuses_bombs(cx: &Context) -> Verdict {
    let body = gzip(too_large(cx).encoded());
    let mut http = cx.http().await?;
    http.patience = cx.long;
    let mut request = http.post(&Message::new()).header("Content-Encoding", "gzip");
    request.body = body;
    is_413(&http.exchange(&request).await?)
}

async fn refuses_large_in_chunks(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    http.patience = cx.long;
    let mut request = http.post(&too_large(cx));
    request.is_chunked = true;
    is_413(&http.exchange(&request).await?)
}

async fn takes_large_reports(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    let mut agent = cx.agent();
    let config = crate::conformance::agent::effective_config(vec![b'#'; 512 << 10]);
    let message = agent.heartbeat().message(3, &agent.description()).message(6, &config);
    no_error(&http.say(&message).await?)
}

async fn serves_on_after_refusal(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    http.patience = cx.long;
    let answer = http.exchange(&http.post(&too_large(cx))).await?;
    if answer.status == 200 {
        skip!("the server has no limit (BODY-11)");
    }
    no_error(&cx.http().await?.say(&cx.agent().full()).await?)
}
