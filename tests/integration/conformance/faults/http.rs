//! Faults of plain HTTP.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use muster::proto::opamp::ServerToAgent;
use prost::Message as _;

use super::{super::proxy::*, *};

fn success() -> Response {
    Response::message(&ServerToAgent::default())
}

fn content_type(request: &Request) -> &str {
    request.header("content-type").unwrap_or_default()
}

fn compress(response: &mut Response) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&response.body).unwrap();
    response.body = encoder.finish().unwrap();
    response.set("content-encoding", "gzip");
}

fn is_encoded(request: &Request) -> bool {
    request.header("content-encoding").is_some()
}

const TOO_LARGE: usize = 64 << 20;

pub fn table() -> Vec<Broken> {
    let b = broken;
    let no_401 = || response(|_, it| it.status = if it.status == 401 { 403 } else { it.status });
    vec![
        b("HTTP-01", "status 202", response(|_, it| it.status = 202)),
        b("HTTP-02", "is empty", response(|_, it| it.body.clear())),
        b("HTTP-03", "charset", response(|_, it| it.set("content-type", "application/x-protobuf; charset=utf-8"))),
        b("HTTP-04", "instance_uid is", reply(|it, _| it.instance_uid = other(&it.instance_uid))),
        b("HTTP-05", "capabilities are 0x0", reply(|it, _| it.capabilities = 0)),
        b("HTTP-06", "status 415", status(415, |it, _| content_type(it) != "application/x-protobuf")),
        b("HTTP-07", "status 415", status(415, |it, _| content_type(it).contains(';'))),
        b("HTTP-08", "status 200", answer(success(), |it, _| content_type(it) != "application/x-protobuf")),
        b("HTTP-09", "status 200", answer(success(), |it, _| it.method == "GET")),
        b("HTTP-10", "has no Allow", response(|_, it| it.remove("allow"))),
        b("HTTP-11", "status 200", answer(success(), |it, _| it.path.starts_with("/conformance"))),
        b(
            "HTTP-12",
            "status 409",
            status(409, |_, link| {
                let said = link.last();
                link.world.count(format!("{:?} {}", said.instance_uid, said.sequence_num)) > 0
            }),
        ),
        b("HTTP-13", "status 400", status(400, |it, _| it.header("opamp-instance-uid").is_some())),
        b("HTTP-14", "the connection was", Fault { closes_after_answer: true, ..Fault::default() }),
        b("HTTP-15", "took", Fault { delay: Duration::from_millis(1_100), ..Fault::default() }),
        b("HTTP-16", "status 400", status(400, |it, link| !it.body.is_empty() && link.last().encoded_len() == 18)),
        b("HTTP-17", "status 500", status(500, |_, link| link.last().agent_disconnect.is_some())),
        b("HTTP-18", "status 403", no_401()),
        b("HTTP-19", "status 403", no_401()),
        b("HTTP-20", "without WWW-Authenticate", response(|_, it| it.remove("www-authenticate"))),
        b("HTTP-21", "headers are waited for", Fault { waits_for_ever: true, ..Fault::default() }),
        b("HTTP-22", "bodies are waited for", Fault { waits_for_ever: true, ..Fault::default() }),
        b(
            "HTTP-23",
            "status 200",
            Fault { to_garbage: Some(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n"), ..Fault::default() },
        ),
        b("HTTP-24", "a new instance_uid", reply(rekeys)),
        b(
            "HTTP-25",
            "answer 1 is for",
            reply(|it, link| {
                if link.count("answers") == 1 {
                    it.instance_uid = other(&it.instance_uid);
                }
            }),
        ),
        b("HTTP-26", "unknown bits", reply(|it, _| it.capabilities |= 1 << 40)),
        b("BODY-01", "status 415", status(415, |it, _| is_encoded(it))),
        b(
            "BODY-02",
            "status 400",
            status(400, |it, _| it.body.windows(3).filter(|bytes| *bytes == [0x1f, 0x8b, 8]).count() > 1),
        ),
        b("BODY-03", "status 415", status(415, |it, _| it.header("content-encoding") == Some("identity"))),
        b("BODY-04", "br is answered with status 200", answer(success(), |it, _| is_encoded(it))),
        b("BODY-05", "status 200 and no error", answer(success(), |it, _| is_encoded(it))),
        b("BODY-06", "Content-Encoding is", response(|_, it| compress(it))),
        b(
            "BODY-07",
            "Content-Encoding is",
            response(|request, it| {
                if request.header("accept-encoding").is_some_and(|value| value.contains("gzip")) {
                    compress(it);
                }
            }),
        ),
        b(
            "BODY-08",
            "came uncompressed",
            request(|it, _| {
                it.set("accept-encoding", "identity");
                Then::Forward
            }),
        ),
        b("BODY-09", "status 411", status(411, |it, _| it.header("transfer-encoding").is_some())),
        b("BODY-10", "instead of 100", Fault { says_no_continue: true, ..Fault::default() }),
        b("BODY-11", "status 200", answer(success(), |it, _| it.body.len() > TOO_LARGE)),
        b("BODY-12", "status 200", answer(success(), |it, _| is_encoded(it))),
        b("BODY-13", "status 200", answer(success(), |it, _| it.body.len() > TOO_LARGE)),
        b("BODY-14", "status 413", status(413, |it, _| it.body.len() > 500_000)),
        b(
            "BODY-15",
            "status 503",
            status(503, |it, link| {
                if it.body.len() > TOO_LARGE {
                    link.world.count("large");
                    return false;
                }
                link.world.has("large")
            }),
        ),
    ]
}
