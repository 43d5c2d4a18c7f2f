//! Errors as clients get them: a code, google.rpc.ErrorInfo with a reason, and what else helps.

use std::{collections::HashMap, time::Duration};

use http::Response;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{
    model::{InstanceUid, Selector},
    store,
};

/// `domain` of every ErrorInfo.
const DOMAIN: &str = "muster";
/// What a client is told to wait before it tries an unavailable service again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// An error with its machine-readable reason.
pub fn status(code: Code, reason: &str, message: impl Into<String>, metadata: &[(&str, &str)]) -> Status {
    Status::with_error_details(code, message, info(reason, metadata))
}

fn info(reason: &str, metadata: &[(&str, &str)]) -> ErrorDetails {
    let metadata: HashMap<_, _> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// Errors that the framework makes before a service is asked get a reason, too.
pub fn with_reason(response: Response<Body>) -> Response<Body> {
    let status = match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok && status.details().is_empty() => status,
        _ => return response,
    };
    let reason = match status.code() {
        Code::Unimplemented => "NOT_IMPLEMENTED",
        Code::OutOfRange | Code::ResourceExhausted => "REQUEST_TOO_LARGE",
        Code::Internal => "REQUEST_UNREADABLE",
        _ => "REQUEST_REFUSED",
    };
    self::status(status.code(), reason, status.message(), &[]).into_http()
}

/// Try again soon.
pub fn unavailable(reason: &str, message: impl Into<String>) -> Status {
    let mut details = info(reason, &[]);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// What is wrong with a request, field by field.
#[derive(Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation::new(field, description));
    }

    #[cfg(test)]
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|violation| violation.field.as_str())
    }

    /// The value, or a violation and `None`.
    pub fn take<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|description| self.add(field, description)).ok()
    }

    /// INVALID_ARGUMENT if anything was added.
    pub fn check(self) -> Result<(), Status> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let message = match self.0.len() {
            1 => format!("{}: {}", first.field, first.description),
            n => format!("{}: {} (and {} more)", first.field, first.description, n - 1),
        };
        let mut details = info("INVALID_FIELD", &[("field", &first.field)]);
        details.set_bad_request(self.0);
        Err(Status::with_error_details(Code::InvalidArgument, message, details))
    }
}

pub fn invalid(field: &str, description: impl Into<String>) -> Status {
    let mut violations = Violations::default();
    violations.add(field, description);
    violations.check().err().unwrap_or_else(|| Status::internal("no violation"))
}

/// The agent that a request names.
pub fn uid(text: &str) -> Result<InstanceUid, Status> {
    text.parse().map_err(|error: crate::model::uid::InvalidUid| invalid("instance_uid", error.to_string()))
}

/// A name by which something is looked up. U+0000 is refused, because the database's texts cannot hold it.
pub fn name<'a>(field: &str, text: &'a str) -> Result<&'a str, Status> {
    if text.is_empty() || text.contains('\0') {
        return Err(invalid(field, "must be given, and without U+0000"));
    }
    Ok(text)
}

/// The selector that a request gives; a wrong one is refused with the position of the error.
pub fn selector(text: &str) -> Result<Selector, Status> {
    text.parse().map_err(|error| invalid("selector", selector_problem(&error)))
}

pub fn selector_problem(error: &crate::model::selector::InvalidSelector) -> String {
    format!("position {}: {}", error.position, error.problem)
}

/// What the store answered, for the client. Logs what an operator of the server must see.
pub fn from_store(error: store::Error) -> Status {
    use store::Error;
    let message = error.to_string();
    match error {
        Error::Unreachable(_) | Error::Settings(_) => {
            tracing::warn!(%message, "an admin call failed");
            unavailable("STORE_UNAVAILABLE", message)
        }
        Error::NotFound { kind, name } => {
            status(Code::NotFound, &reason(kind, "NOT_FOUND"), message, &[("name", &name)])
        }
        Error::Ambiguous { kind, name } => {
            status(Code::InvalidArgument, &reason(kind, "AMBIGUOUS"), message, &[("name", &name)])
        }
        Error::AlreadyExists { kind, name } => {
            status(Code::AlreadyExists, &reason(kind, "ALREADY_EXISTS"), message, &[("name", &name)])
        }
        Error::InUse { kind, name, policy } => {
            let metadata = [("name", name.as_str()), ("policy", policy.as_str())];
            status(Code::FailedPrecondition, &reason(kind, "IN_USE"), message, &metadata)
        }
        Error::BeingDeleted { kind, name } => {
            status(Code::Aborted, &reason(kind, "BEING_DELETED"), message, &[("name", &name)])
        }
        Error::WrongState { kind, name, state } => {
            let metadata = [("name", name.as_str()), ("state", state)];
            status(Code::FailedPrecondition, &reason(kind, "WRONG_STATE"), message, &metadata)
        }
        Error::EtagMismatch { kind: _, name, given: _, current } => {
            let mut details = info("ETAG_MISMATCH", &[("name", &name), ("current", &current)]);
            details.set_bad_request(vec![FieldViolation::new("etag", message.as_str())]);
            Status::with_error_details(Code::Aborted, message, details)
        }
        Error::TooMany { kind, limit, count } => {
            let metadata = [("limit", &*limit.to_string()), ("count", &*count.to_string())];
            status(Code::ResourceExhausted, &reason(kind, "TOO_MANY"), message, &metadata)
        }
        Error::Refused(refusals) => refused(refusals),
        Error::Schema(_) | Error::Internal(_) => {
            tracing::error!(%message, "an admin call failed");
            status(Code::Internal, "INTERNAL", "internal error; the server's log has more", &[])
        }
    }
}

/// The first refusal's code and reason, and a violation for each.
fn refused(store::Refusals(refusals): store::Refusals) -> Status {
    use store::Error;
    let violation = |refusal: &store::Refusal| {
        let field = match refusal.error {
            Error::EtagMismatch { .. } => ".etag",
            _ => "",
        };
        FieldViolation::new(format!("policies[{}]{field}", refusal.index), refusal.error.to_string())
    };
    let violations: Vec<FieldViolation> = refusals.iter().map(violation).collect();
    let Some(first) = refusals.into_iter().next() else { return Status::internal("no refusal") };
    let first = from_store(first.error);
    let message = match violations.len() {
        1 => first.message().to_owned(),
        n => format!("{} (and {} more)", first.message(), n - 1),
    };
    let mut details = first.get_error_details();
    details.set_bad_request(violations);
    Status::with_error_details(first.code(), message, details)
}

/// `AGENT_NOT_FOUND` and its like.
fn reason(kind: &str, what: &str) -> String {
    format!("{}_{what}", kind.to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

pub fn agent_not_found(uid: &InstanceUid) -> Status {
    from_store(store::Error::NotFound { kind: "agent", name: uid.to_string() })
}

/// An agent that has taken another uid since.
pub fn agent_moved(uid: &InstanceUid, to: &InstanceUid) -> Status {
    let (uid, to) = (uid.to_string(), to.to_string());
    let message = format!("agent {uid:?} does not exist: it has the uid {to} now");
    status(Code::NotFound, "AGENT_NOT_FOUND", message, &[("name", &uid), ("uid", &to)])
}
