//! Cross-origin calls from browsers, for origins that the settings name.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::body::Body;
use tower::{Layer, Service};

const ALLOWED_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout");
/// Without these a script could not see how its call went.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Answers preflights, and names the caller's origin in answers if it is allowed. Without allowed origins it does nothing.
#[derive(Clone)]
pub struct Cors {
    origins: Arc<[String]>,
}

impl Cors {
    pub fn new(origins: Vec<String>) -> Self {
        Self { origins: origins.into() }
    }

    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
        self.origins.iter().any(is_allowed).then(|| origin.clone())
    }
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
}

fn preflight(origin: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    allow(headers, origin);
    let more: [(HeaderName, HeaderValue); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    headers.extend(more);
    response
}

impl<S> Layer<S> for Cors {
    type Service = WithCors<S>;

    fn layer(&self, inner: S) -> WithCors<S> {
        WithCors { cors: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct WithCors<S> {
    cors: Cors,
    inner: S,
}

impl<S, B> Service<Request<B>> for WithCors<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(origin) = self.cors.allowed(request.headers()) else {
            return Box::pin(self.inner.call(request));
        };
        if request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return Box::pin(std::future::ready(Ok(preflight(origin))));
        }
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            allow(response.headers_mut(), origin);
            Ok(response)
        })
    }
}
