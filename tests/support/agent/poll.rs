//! A scripted agent over plain HTTP, as opamp-go polls: a message is sent again until it is answered, and an answer that asks for
//! something is met at once. Each poll goes to the next gateway, as behind a load balancer.

use std::{io, net::SocketAddr, time::Duration};

use muster::proto::opamp::{AgentToServer, ServerToAgent};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::link::{CONNECT_TIMEOUT, Link, Order, RECONNECT_MS};

impl Link {
    pub(super) async fn run_polling(mut self) {
        let mut message = self.agent.lock().full();
        loop {
            let reply = self.deliver(&message).await;
            let next = self.agent.lock().receive(reply);
            message = match next {
                Some(next) => next,
                None => match timeout(self.heartbeat, self.orders.recv()).await {
                    Ok(Some(Order::ReportHealth(status))) => self.agent.lock().report_health(status),
                    Ok(None) => return,
                    // It has no connection to lose.
                    Ok(Some(_)) | Err(_) => self.agent.lock().heartbeat(),
                },
            };
        }
    }

    /// Sends a message until it is answered.
    async fn deliver(&mut self, message: &AgentToServer) -> ServerToAgent {
        loop {
            let address = self.address();
            self.next += 1;
            let reply = timeout(CONNECT_TIMEOUT, post(address, &self.token, &message.encode_to_vec())).await;
            if let Ok(Ok(reply)) = reply {
                let mut agent = self.agent.lock();
                assert!(agent.is_addressed(&reply.instance_uid), "every reply carries its agent's uid");
                agent.gateway = Some(address);
                agent.seen.is_connected = true;
                return reply;
            }
            self.agent.lock().seen.refusals += 1;
            sleep(Duration::from_millis(rand::random_range(RECONNECT_MS))).await;
        }
    }
}

async fn post(address: SocketAddr, token: &str, body: &[u8]) -> io::Result<ServerToAgent> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST /v1/opamp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/x-protobuf\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    let end = response.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if !response.starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other("refused"));
    }
    ServerToAgent::decode(&response[end + 4..]).map_err(io::Error::other)
}
