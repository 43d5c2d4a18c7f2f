//! The socket of a scripted agent: connects, says what there is to say, connects again.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, header};
use muster::proto::opamp::{AgentToServer, ServerToAgent};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{net::TcpStream, sync::mpsc, time::sleep};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use super::Agent;

/// What an agent is told to do.
pub(super) enum Order {
    /// Report this as the status of its health.
    ReportHealth(String),
    Heartbeat,
    /// Ask for another uid.
    AskForUid,
    /// Lose its connection, without a word.
    Drop,
    /// Connect elsewhere, while the old connection stays open and nobody reads it.
    HalfOpen,
}

pub(super) struct Link {
    pub agent: Arc<Mutex<Agent>>,
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// Gateways, tried in turn from `next` on, as behind a load balancer.
    pub gateways: Arc<Mutex<Vec<SocketAddr>>>,
    pub next: usize,
    pub token: Arc<str>,
    pub heartbeat: Duration,
}

/// How a connection ended.
enum End {
    Closed,
    /// The agent is gone from it, the socket is there.
    Abandoned(Box<Socket>),
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Random, so that the agents of a gateway that went away do not come back in step.
pub(super) const RECONNECT_MS: std::ops::Range<u64> = 50..500;

/// An attempt that takes longer is given up. Well above what a busy machine needs.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

impl Link {
    pub(super) async fn run(mut self) {
        let mut abandoned = Vec::new();
        loop {
            let address = self.address();
            match tokio::time::timeout(CONNECT_TIMEOUT, self.connect(address)).await {
                Ok(Ok(socket)) => {
                    if let End::Abandoned(socket) = self.serve(socket, address).await {
                        abandoned.push(socket);
                    }
                    self.agent.lock().close();
                }
                Ok(Err(Error::Http(response))) => {
                    self.agent.lock().seen.refusals += 1;
                    sleep(retry_after(response.headers())).await;
                }
                Ok(Err(_)) | Err(_) => {}
            }
            self.next += 1;
            sleep(Duration::from_millis(rand::random_range(RECONNECT_MS))).await;
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        if let Some(endpoint) = self.agent.lock().others.endpoint() {
            return endpoint;
        }
        let gateways = self.gateways.lock();
        gateways[self.next % gateways.len()]
    }

    async fn connect(&self, address: SocketAddr) -> Result<Socket, Error> {
        let mut request = format!("ws://{address}/v1/opamp").into_client_request()?;
        let bearer = HeaderValue::from_str(&format!("Bearer {}", self.token))?;
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        Ok(connect_async(request).await?.0)
    }

    /// Talks until the connection ends.
    async fn serve(&mut self, mut socket: Socket, address: SocketAddr) -> End {
        let opening = self.agent.lock().open(address);
        if send(&mut socket, opening).await.is_err() {
            return End::Closed;
        }
        let mut heartbeat_at = Instant::now() + self.heartbeat;
        loop {
            let message = tokio::select! {
                frame = socket.next() => match frame {
                    Some(Ok(Message::Binary(frame))) => {
                        let answer = self.receive(&frame);
                        if self.agent.lock().leaves() {
                            return End::Closed;
                        }
                        answer
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Closed,
                    Some(Ok(_)) => None,
                },
                order = self.orders.recv() => match order {
                    Some(Order::ReportHealth(status)) => Some(self.agent.lock().report_health(status)),
                    Some(Order::Heartbeat) => Some(self.agent.lock().heartbeat()),
                    Some(Order::AskForUid) => Some(self.agent.lock().ask_for_uid()),
                    Some(Order::HalfOpen) => return End::Abandoned(Box::new(socket)),
                    Some(Order::Drop) | None => return End::Closed,
                },
                () = tokio::time::sleep_until(heartbeat_at.into()) => Some(self.agent.lock().heartbeat()),
            };
            if let Some(message) = message {
                heartbeat_at = Instant::now() + self.heartbeat;
                if send(&mut socket, message).await.is_err() {
                    return End::Closed;
                }
            }
        }
    }

    fn receive(&self, frame: &Bytes) -> Option<AgentToServer> {
        let mut agent = self.agent.lock();
        let message = ServerToAgent::decode(frame.strip_prefix(&[0]).unwrap_or(frame)).unwrap();
        assert!(agent.is_addressed(&message.instance_uid), "every message carries its agent's uid");
        agent.receive(message)
    }
}

async fn send(socket: &mut Socket, message: AgentToServer) -> Result<(), Error> {
    let mut frame = vec![0];
    message.encode(&mut frame).expect("a Vec grows");
    socket.send(Message::Binary(frame.into())).await
}

fn retry_after(headers: &http::HeaderMap) -> Duration {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}
