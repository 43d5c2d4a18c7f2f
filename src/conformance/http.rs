//! HTTP/1.1 as a client speaks it, by hand: requests as a case wants them, answers as they came.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::{
    case::{Step, Stop},
    protobuf::Message,
    reply::Reply,
    target::Stream,
};

/// An answer's head, and the body of one, are not read beyond this.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 72 << 20;

#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body goes out in chunks rather than with its length.
    pub is_chunked: bool,
}

impl Request {
    /// Replaces the header, or adds it.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    fn encoded(&self) -> Vec<u8> {
        let mut head = self.head();
        if self.is_chunked {
            for chunk in self.body.chunks(self.body.len().div_ceil(3).max(1)) {
                head.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                head.extend_from_slice(chunk);
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(b"0\r\n\r\n");
        } else {
            head.extend_from_slice(&self.body);
        }
        head
    }

    /// Request line and headers.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.is_chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if !self.body.is_empty() || self.method == "POST" {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        (head + "\r\n").into_bytes()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// A `100 Continue` came first.
    pub was_continued: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The message of an answer that must be a success.
    pub fn reply(&self) -> Step<Reply> {
        if self.status != 200 {
            let text = String::from_utf8_lossy(&self.body[..self.body.len().min(100)]).into_owned();
            return Err(Stop::Fail(format!("status {} {text:?} instead of 200", self.status)));
        }
        Reply::read(&self.body).map_err(Stop::Fail)
    }
}

/// A connection that speaks HTTP.
pub struct Http {
    pub stream: Stream,
    /// What was read beyond the last answer.
    pub buffer: Vec<u8>,
    pub patience: Duration,
    /// What every request to the server has: its path, Host, credential, content type.
    pub template: Request,
}

impl Http {
    /// A POST of this message.
    pub fn post(&self, message: &Message) -> Request {
        Request { body: message.encoded().to_vec(), ..self.template.clone() }
    }

    /// Posts a message, and reads the message of the answer.
    pub async fn say(&mut self, message: &Message) -> Step<Reply> {
        let request = self.post(message);
        self.exchange(&request).await?.reply()
    }

    pub async fn exchange(&mut self, request: &Request) -> Step<Response> {
        self.exchange_bytes(&request.encoded(), request.method == "HEAD").await
    }

    /// Sends these bytes, and reads the answer, which may come before all has been sent.
    pub async fn exchange_bytes(&mut self, bytes: &[u8], is_head: bool) -> Step<Response> {
        let patience = self.patience;
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let write = async {
            // The answer says why nothing more is taken.
            let _ = writer.write_all(bytes).await;
            let _ = writer.flush().await;
            std::future::pending::<()>().await;
        };
        let read = tokio::time::timeout(patience, read_response(&mut reader, &mut self.buffer, is_head));
        tokio::select! {
            answer = read => answer.map_err(|_| Stop::Fail(format!("no answer within {patience:?}")))?,
            () = write => Err("unreachable".into()),
        }
    }

    /// The next answer, to what was sent before.
    pub async fn answer(&mut self) -> Step<Response> {
        self.exchange_bytes(&[], false).await
    }
}

/// Reads one answer. Interim ones are passed over.
pub async fn read_response(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    is_head: bool,
) -> Step<Response> {
    let mut was_continued = false;
    loop {
        let head = read_head(reader, buffer).await?;
        let mut response = parse_head(&head)?;
        if response.status == 100 {
            was_continued = true;
            continue;
        }
        response.was_continued = was_continued;
        if response.status != 101 && response.status != 204 && response.status != 304 && !is_head {
            response.body = read_body(reader, buffer, &response).await?;
        }
        return Ok(response);
    }
}

async fn read_head(reader: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Step<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 4);
            return Ok(head);
        }
        if buffer.len() > MAX_HEAD_BYTES {
            return Err("the headers of the answer do not end".into());
        }
        more(reader, buffer).await?;
    }
}

fn parse_head(head: &str) -> Step<Response> {
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|it| it.parse().ok());
    let Some(status) = status else { return Err(Stop::Fail(format!("not an HTTP answer: {status_line:?}"))) };
    let mut headers = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Err(Stop::Fail(format!("not an HTTP header: {line:?}")));
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(Response { status, headers, ..Response::default() })
}

async fn read_body(reader: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, response: &Response) -> Step<Vec<u8>> {
    let is_chunked =
        response.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"));
    if is_chunked {
        return read_chunks(reader, buffer).await;
    }
    if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().map_err(|_| format!("Content-Length is {length:?}"))?;
        return read_exactly(reader, buffer, length).await;
    }
    // Until the server closes the connection.
    while buffer.len() <= MAX_BODY_BYTES {
        if reader.read_buf(buffer).await? == 0 {
            break;
        }
    }
    Ok(std::mem::take(buffer))
}

async fn read_chunks(reader: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Step<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = loop {
            match buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                Some(end) => break end,
                None => more(reader, buffer).await?,
            }
        };
        let line = String::from_utf8_lossy(&buffer[..line_end]).into_owned();
        buffer.drain(..line_end + 2);
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| format!("the size of a chunk is {line:?}"))?;
        let chunk = read_exactly(reader, buffer, size).await?;
        read_exactly(reader, buffer, 2).await?;
        if size == 0 {
            return Ok(body);
        }
        body.extend(chunk);
    }
}

async fn read_exactly(reader: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, length: usize) -> Step<Vec<u8>> {
    if length > MAX_BODY_BYTES {
        return Err(Stop::Fail(format!("an answer of {length} bytes")));
    }
    while buffer.len() < length {
        more(reader, buffer).await?;
    }
    Ok(buffer.drain(..length).collect())
}

async fn more(reader: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Step<()> {
    match reader.read_buf(buffer).await? {
        0 => Err("the connection was closed without a whole answer".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Step<Response> {
        read_response(&mut &*bytes, &mut Vec::new(), false).await
    }

    #[tokio::test]
    async fn answers_with_bodies_of_each_kind() {
        let counted = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Y: z\r\n\r\nabcrest";
        let answer = read(counted).await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice(), answer.header("x-y")), (200, &b"abc"[..], Some("z")));
        let chunked = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Big\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        let answer = read(chunked).await.unwrap();
        assert!(answer.was_continued && answer.body == b"abc" && answer.status == 413);
        assert_eq!(read(b"HTTP/1.0 404 No\r\n\r\nuntil the end").await.unwrap().body, b"until the end");
        for broken in [&b""[..], b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 2"]
        {
            assert!(read(broken).await.is_err());
        }
    }
}
