//! The HTTP side: who is let in, plain HTTP exchanges, and WebSocket handshakes.
//!
//! Architecture invariant: whoever is not let in learns it here, by a status. A socket that is upgraded and then closed makes
//! real clients reconnect a thousand times a second.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{Either, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::{
    Shared,
    auth::Credential,
    body::{self, Problem},
    certificates::Check,
    config::{AgentAuth, ClientCertificates},
    exchange::{self, ComeBackLater},
    metrics, packages,
    registry::Ticket,
    reply::Reply,
    tls::{Presented, Stream},
    upgrade,
    watched::{Phase, Watch, Watched},
};
use crate::{model::InstanceUid, packages::URL_PATH};

const PROTOBUF: &str = "application/x-protobuf";
/// The smallest that hyper takes. Requests' headers must fit; bodies need not.
const HTTP_BUFFER_BYTES: usize = 8 << 10;
/// The header in which clients say their uid. How it is written differs between clients.
const UID_HEADER: &str = "opamp-instance-uid";

/// A body that comes piece by piece.
pub type Flow = UnsyncBoxBody<Bytes, crate::packages::Error>;
pub type Answer = Response<Either<Full<Bytes>, Flow>>;
/// Boxed, for it is rare and large.
pub type Refusal = Box<Answer>;

/// One TCP connection while it speaks HTTP.
struct Serving {
    shared: Arc<Shared>,
    /// Goes along with the socket when it is upgraded.
    ticket: Mutex<Option<Ticket>>,
    watch: Arc<Watch>,
    /// The certificates that the client has shown.
    presented: Option<Presented>,
    /// It is one too many: whatever it asks is refused.
    is_surplus: bool,
}

/// What a connection is told that was too slow to say what it wants.
const HEADERS_TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Serves HTTP on one connection until it ends, is upgraded, or its time is over.
pub async fn serve(
    shared: Arc<Shared>,
    socket: Stream,
    presented: Option<Presented>,
    ticket: Ticket,
    is_surplus: bool,
) {
    let (header_timeout, idle_timeout) = (shared.config.header_timeout, shared.config.http_idle_timeout);
    let watch = Watch::new();
    let ticket = Mutex::new(Some(ticket));
    let serving = Arc::new(Serving { shared, ticket, watch: watch.clone(), presented, is_surplus });
    let service = service_fn(move |request| {
        let serving = serving.clone();
        async move {
            serving.watch.enter(Phase::Serving);
            let answer = serving.answer(request).await;
            serving.watch.enter(Phase::Idle);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HTTP_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Watched { socket, watch: watch.clone() }), service)
        .with_upgrades();
    let mut alarm = pin!(tokio::time::sleep(header_timeout));
    let end = poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            let Err(error) = result else { return Poll::Ready(End::Over) };
            tracing::trace!(%error, "HTTP connection ended");
            return Poll::Ready(if error.is_parse() { End::Unreadable } else { End::Over });
        }
        let Some(deadline) = watch.deadline(header_timeout, idle_timeout) else { return Poll::Pending };
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(cx).map(|()| End::Late)
    });
    let end = end.await;
    let Some(mut socket) = connection.into_parts().map(|parts| parts.io.into_inner().socket) else { return };
    match end {
        End::Over => {}
        End::Late if watch.phase() == Phase::Head => {
            metrics::refused("header_timeout");
            socket.say_last(HEADERS_TOO_SLOW);
        }
        End::Late => {}
        End::Unreadable => {
            metrics::refused("headers");
            // Boxed, for its buffer is many times what this future is while an agent idles between polls.
            let rest = Box::pin(body::discard_socket(&mut socket, body::MAX_STRANGERS_DISCARDED_BYTES));
            let _ = tokio::time::timeout(header_timeout, rest).await;
        }
    }
}

/// How the HTTP on a connection ended.
enum End {
    Over,
    /// By a request that could not be read; hyper has answered it.
    Unreadable,
    /// By the time that it took.
    Late,
}

impl Serving {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Some(name) = self.package(&request) {
            let (shared, watch) = (&self.shared, &self.watch);
            let answer = packages::answer(shared, watch, name, request.method(), request.headers()).await;
            return self.or_discard(answer, request).await;
        }
        let admitted = self.admit(&request);
        match admitted {
            Ok(credential) if request.method() == Method::POST => {
                self.exchange(request, credential).await.unwrap_or_else(|refusal| *refusal)
            }
            Ok(credential) => self.handshake(request, credential).unwrap_or_else(|refusal| *refusal),
            Err(refusal) => self.or_discard(Err(refusal), request).await,
        }
    }

    /// The name of the package file that is asked for, if one is.
    fn package<'a>(&self, request: &'a Request<Incoming>) -> Option<&'a str> {
        let path = request.uri().path();
        let is_other = !is_path(path, &self.shared.config.path) && !self.is_surplus;
        path.strip_prefix(URL_PATH).filter(|_| is_other)
    }

    async fn or_discard(&self, answer: Result<Answer, Refusal>, request: Request<Incoming>) -> Answer {
        match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                self.discard(request, body::MAX_STRANGERS_DISCARDED_BYTES).await;
                *refusal
            }
        }
    }

    /// Reads the body of a request that is refused, within bounds: a socket that is closed with bytes unread takes the answer
    /// back before the peer has seen it. Who waits for leave to send the body sends none.
    async fn discard(&self, request: Request<Incoming>, max_bytes: usize) {
        if !request.headers().contains_key(header::EXPECT) {
            let config = &self.shared.config;
            let _ = tokio::time::timeout(config.body_timeout, body::discard(request.into_body(), max_bytes)).await;
        }
    }

    /// Whether the request is taken at all; cheap, for it is what an overloaded gateway does most.
    fn admit(&self, request: &Request<Incoming>) -> Result<Option<Arc<Credential>>, Refusal> {
        let shared = &self.shared;
        if !is_path(request.uri().path(), &shared.config.path) {
            return Err(refusal(StatusCode::NOT_FOUND, "path", "there is nothing at this path"));
        }
        if self.is_surplus {
            return Err(self.busy("connection_limit"));
        }
        if shared.is_draining.load(Ordering::Relaxed) {
            return Err(self.busy("draining"));
        }
        let credential = self.authenticate(request)?;
        if request.method() != Method::GET && request.method() != Method::POST {
            let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "method", "GET or POST");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            return Err(answer);
        }
        Ok(credential)
    }

    /// By what the request may be made; `None` if anybody may. A certificate goes before a token. One that is not good any
    /// more leaves the token to decide, for with that an agent gets a new one.
    fn authenticate(&self, request: &Request<Incoming>) -> Result<Option<Arc<Credential>>, Refusal> {
        let shared = &self.shared;
        let is_required = shared.config.client_certificates == ClientCertificates::Required;
        // Nor is it known whose certificates are believed.
        if (self.presented.is_some() || is_required) && !shared.tokens.are_known() {
            return Err(self.busy("tokens_unknown"));
        }
        let shown =
            self.presented.as_ref().map(|presented| shared.certificates.check(presented, shared.tls.as_deref()));
        let problem = match shown {
            Some(Check::Good(credential)) => return Ok(Some(credential)),
            Some(Check::Bad(problem)) => Some(problem),
            None => is_required.then(|| "a client certificate is required".to_owned()),
        };
        match (shared.config.agent_auth, problem) {
            (_, Some(problem)) if is_required => Err(unauthorized(problem)),
            (AgentAuth::None, None) => Ok(None),
            (AgentAuth::None, Some(problem)) => Err(unauthorized(problem)),
            (AgentAuth::Required, _) if !shared.tokens.are_known() => Err(self.busy("tokens_unknown")),
            (AgentAuth::Required, problem) => {
                let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
                let credential = value.and_then(|value| shared.tokens.check(value));
                let text = || problem.unwrap_or_else(|| "a valid agent token is required".to_owned());
                credential.map(Some).ok_or_else(|| unauthorized(text()))
            }
        }
    }

    /// A plain HTTP exchange.
    async fn exchange(
        &self,
        request: Request<Incoming>,
        credential: Option<Arc<Credential>>,
    ) -> Result<Answer, Refusal> {
        if !is_protobuf(request.headers()) {
            self.discard(request, body::MAX_DISCARDED_BYTES).await;
            let text = "OpAMP over plain HTTP is application/x-protobuf";
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", text));
        }
        let (head, body) = request.into_parts();
        let config = &self.shared.config;
        let read = body::read(&head.headers, body, config.max_received_bytes);
        let message = match tokio::time::timeout(config.body_timeout, read).await {
            Ok(Ok(message)) => message,
            Ok(Err(problem)) => return Err(body_refusal(problem)),
            Err(_) => return Err(refusal(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took too long")),
        };
        let hint = head.headers.get(UID_HEADER).and_then(|value| value.to_str().ok());
        let hint = hint.and_then(|text| text.parse::<InstanceUid>().ok());
        let accepts_gzip = body::accepts_gzip(&head.headers);
        drop(head);
        let reply = match exchange::receive_http(&self.shared, &message, hint, credential.as_deref()).await {
            Ok(reply) => reply,
            Err(ComeBackLater::NoRoom) => return Err(self.busy("agent_limit")),
            Err(ComeBackLater::NoMoreUids) => return Err(self.busy("uid_limit")),
            Err(ComeBackLater::TooOften) => return Err(too_often(&self.shared)),
        };
        if reply.len() > config.max_sent_bytes {
            self.shared.metrics.oversize.increment(1);
            tracing::warn!(bytes = reply.len(), "reply not sent: it is over the size limit");
            return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, "reply_too_big", "the reply is too big"));
        }
        Ok(protobuf(reply, accepts_gzip))
    }

    /// A WebSocket handshake.
    fn handshake(
        &self,
        mut request: Request<Incoming>,
        credential: Option<Arc<Credential>>,
    ) -> Result<Answer, Refusal> {
        let accept = accept_key(&request)?;
        if !self.shared.admission.try_take() {
            return Err(self.busy("admission_rate"));
        }
        let Some(ticket) = self.ticket.lock().take() else {
            return Err(refusal(StatusCode::BAD_REQUEST, "second_upgrade", "this connection is being upgraded"));
        };
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(upgrade::establish(self.shared.clone(), upgraded, credential, ticket));
        let mut answer = Response::new(Either::Left(Full::default()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        Ok(answer)
    }

    fn busy(&self, reason: &'static str) -> Refusal {
        let mut answer = busy(&self.shared, reason);
        if self.is_surplus {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// Whether a request is for `path`. Many are written with a slash at the end, and mean the same.
fn is_path(requested: &str, path: &str) -> bool {
    requested == path || requested.strip_suffix('/') == Some(path) || path.strip_suffix('/') == Some(requested)
}

/// Come back later; each at another time, for clients obey to the second.
pub fn busy(shared: &Shared, reason: &'static str) -> Refusal {
    later(shared, refusal(StatusCode::SERVICE_UNAVAILABLE, reason, "try again later"))
}

fn too_often(shared: &Shared) -> Refusal {
    later(shared, refusal(StatusCode::TOO_MANY_REQUESTS, "poll_rate", "this agent polls too often"))
}

fn later(shared: &Shared, mut answer: Refusal) -> Refusal {
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(shared.config.retry_after_s()));
    answer
}

pub fn refusal(status: StatusCode, reason: &'static str, text: impl Into<Bytes>) -> Refusal {
    metrics::refused(reason);
    let mut answer = Response::new(Either::Left(Full::new(text.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Box::new(answer)
}

pub fn unauthorized(text: impl Into<Bytes>) -> Refusal {
    let mut answer = refusal(StatusCode::UNAUTHORIZED, "unauthorized", text);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

fn body_refusal(problem: Problem) -> Refusal {
    match problem {
        Problem::TooBig => refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_big", "the message is too big"),
        Problem::Encoding => refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", "gzip or identity"),
        Problem::Corrupt => refusal(StatusCode::BAD_REQUEST, "corrupt_gzip", "the body is not gzip"),
        Problem::Lost => refusal(StatusCode::BAD_REQUEST, "body_lost", "the body ended early"),
    }
}

/// A reply is 200 with exactly this type: clients take other success codes for a lost message, and parameters for an error.
fn protobuf(reply: Reply, accepts_gzip: bool) -> Answer {
    let plain = match reply.tail {
        None => reply.head,
        Some(tail) => [reply.head, tail].concat().into(),
    };
    let compressed = if accepts_gzip { body::gzip(&plain) } else { None };
    let is_gzip = compressed.is_some();
    let mut answer = Response::new(Either::Left(Full::new(compressed.unwrap_or(plain))));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    if is_gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

fn is_protobuf(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(PROTOBUF))
}

/// What to answer the handshake with, if it is one.
fn accept_key(request: &Request<Incoming>) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    let is_websocket = request.version() == Version::HTTP_11
        && has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, "websocket");
    let is_version_13 = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if !is_websocket || !is_version_13 {
        let mut answer = refusal(StatusCode::UPGRADE_REQUIRED, "no_upgrade", "OpAMP is WebSocket, or POST of protobuf");
        let headers = answer.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(answer);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_websocket_key(key.as_bytes()));
    let accept = key.map(|key| tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes()));
    accept
        .and_then(|accept| HeaderValue::try_from(accept).ok())
        .ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "websocket_key", "no proper Sec-WebSocket-Key"))
}

/// Whether `key` can be the base64 of 16 bytes.
fn is_websocket_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    matches!(key, [digits @ .., b'=', b'='] if digits.len() == 22 && digits.iter().all(is_digit))
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}
