//! `muster healthcheck`.

use anyhow::{Context, anyhow, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::settings::HealthcheckRole;

/// How much of an answer is read: the status, and the reasons that go with it.
const MAX_ANSWER_BYTES: u64 = 16 << 10;

/// Ends well if the URL answers with a status of success.
pub async fn run(role: HealthcheckRole) -> anyhow::Result<()> {
    let url = &role.url;
    match tokio::time::timeout(role.timeout, ask(url)).await {
        Ok(answer) => answer.with_context(|| url.clone()),
        Err(_) => bail!("{url}: no answer within {}", humantime::format_duration(role.timeout)),
    }
}

async fn ask(url: &str) -> anyhow::Result<()> {
    let rest = url.strip_prefix("http://").context("must start with http://")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    judge(&String::from_utf8_lossy(&answer))
}

fn judge(answer: &str) -> anyhow::Result<()> {
    let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    let status: u16 = status.ok_or_else(|| anyhow!("not an HTTP answer"))?;
    if (200..300).contains(&status) {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    bail!("status {status} {body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_is_good() {
        assert!(judge("HTTP/1.1 204 No Content\r\n\r\n").is_ok());
        let error = judge("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\n{\"reason\":1}\n").unwrap_err().to_string();
        assert_eq!(error, "status 503 {\"reason\":1}");
        assert!(judge("SSH-2.0").is_err() && judge("").is_err());
    }
}
