//! The gate in front of every call: who calls, how long it may take, and how it went.
//!
//! Health and reflection are open: probes and tools have no token, and the API's definition is no secret.

use std::{
    collections::BTreeSet,
    mem,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response, header};
use prost::Message;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{errors, metrics};
use crate::{
    auth::{Operator, Operators, operators::Refusal, token},
    proto,
    trace::{self, Caller, Span},
};

/// Takes as long as there is something to take; it limits itself how long nothing may come.
const UNTIMED: &str = "/muster.admin.v1.PackageFiles/UploadPackageFile";

/// How the names of methods begin that change nothing.
const READS: [&str; 4] = ["Diff", "Get", "List", "Watch"];

const OPEN_SERVICES: [&str; 2] = ["/grpc.health.", "/grpc.reflection."];

#[derive(Clone)]
pub struct Gate {
    operators: Arc<Operators>,
    /// Paths of the API's methods: the values that a metric's label may have.
    methods: Arc<BTreeSet<String>>,
    /// For the first answer.
    time_limit: Duration,
}

impl Gate {
    pub fn new(operators: Arc<Operators>, time_limit: Duration) -> Self {
        Self { operators, methods: Arc::new(methods()), time_limit }
    }

    fn method(&self, path: &str) -> String {
        self.methods.get(path).map_or_else(|| "other".to_owned(), |path| path[1..].to_owned())
    }

    async fn admit(&self, headers: &HeaderMap) -> Result<Operator, Status> {
        let refuse = |reason, message| Err(errors::status(Code::Unauthenticated, reason, message, &[]));
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return refuse("TOKEN_MISSING", "an operator token is needed (authorization: Bearer …)".to_owned());
        };
        let Some(text) = value.to_str().ok().and_then(token::bearer) else {
            return refuse("TOKEN_MALFORMED", "the authorization header must be: Bearer <operator token>".to_owned());
        };
        match self.operators.authenticate(text).await {
            Ok(operator) => Ok(operator),
            Err(refusal @ Refusal::Invalid) => refuse("TOKEN_INVALID", refusal.to_string()),
            Err(refusal @ Refusal::Unavailable(_)) => {
                tracing::warn!(error = %refusal, "an admin call failed");
                Err(errors::unavailable("STORE_UNAVAILABLE", refusal.to_string()))
            }
        }
    }
}

/// `/muster.admin.v1.Agents/ListAgents` and its like.
fn methods() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTORS).unwrap_or_default().file;
    let of_file = |file: prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let prefix = format!("/{package}.{}/", service.name());
            service.method.into_iter().map(move |method| format!("{prefix}{}", method.name()))
        })
    };
    files.into_iter().flat_map(of_file).collect()
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The clone that was polled ready is the one to call.
        let unready = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, unready);
        let gate = self.gate.clone();
        Box::pin(async move {
            if OPEN_SERVICES.iter().any(|service| request.uri().path().starts_with(service)) {
                return inner.call(request).await;
            }
            let method = gate.method(request.uri().path());
            let is_untimed = request.uri().path() == UNTIMED;
            let started = Instant::now();
            let call = async {
                match gate.admit(request.headers()).await {
                    Ok(operator) => {
                        request.extensions_mut().insert(operator);
                        let span = span(&method, request.headers());
                        let response = span.run(inner.call(request)).await;
                        if let Ok(response) = &response {
                            told(&span, code(response));
                        }
                        response
                    }
                    Err(status) => Ok(status.into_http()),
                }
            };
            let time_limit = if is_untimed { Duration::MAX } else { gate.time_limit };
            let response = match tokio::time::timeout(time_limit, call).await {
                Ok(response) => errors::with_reason(response?),
                Err(_) => timed_out(gate.time_limit).into_http(),
            };
            metrics::call(method, code(&response), started.elapsed());
            Ok(response)
        })
    }
}

/// Of a call by somebody who may make it.
fn span(method: &str, headers: &HeaderMap) -> Span {
    let caller = Caller::from_traceparent(headers.get("traceparent").and_then(|value| value.to_str().ok()));
    let name = method.rsplit('/').next().unwrap_or_default();
    let is_read = READS.iter().any(|verb| name.starts_with(verb));
    trace::call(method, caller, is_read).with("rpc.system.name", || "grpc").with("rpc.method", || method.to_owned())
}

fn told(span: &Span, code: Code) {
    span.set("rpc.response.status_code", || i64::from(i32::from(code)));
    if code != Code::Ok {
        span.failed(|| code.to_string());
    }
}

fn timed_out(limit: Duration) -> Status {
    let problem = format!("the call took longer than {limit:?}, which is as long as this server allows");
    errors::status(Code::DeadlineExceeded, "TIMED_OUT", problem, &[])
}

/// The status of a call that failed before its first answer; what fails later counts as OK.
fn code(response: &Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}
