//! What went wrong, in words for people.

use std::{fmt, io};

use tonic::{Code, Status};
use tonic_types::StatusExt;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub enum Error {
    Message(String),
    /// The server's answer.
    Status(Box<Status>),
    Stdout(io::Error),
    /// With an exit code of its own; without words, if the output has said it.
    Exit(u8, String),
}

impl Error {
    /// Whoever read stdout has seen enough.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl std::error::Error for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) | Self::Exit(_, message) => f.write_str(message),
            Self::Status(status) => write_status(status, f),
            Self::Stdout(error) => write!(f, "stdout: {error}"),
        }
    }
}

fn write_status(status: &Status, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let violations = violations(status);
    if violations.len() < 2 {
        f.write_str(status.message())?;
        if let Some(cause) = root_cause(status) {
            write!(f, ": {cause}")?;
        }
    } else {
        f.write_str("the request is not valid")?;
        for (field, description) in &violations {
            write!(f, "\n  {field}: {description}")?;
        }
    }
    match (status.get_details_error_info(), code_name(status.code())) {
        (Some(info), _) if !info.reason.is_empty() => write!(f, " ({})", info.reason),
        (_, "") => Ok(()),
        (_, name) => write!(f, " ({name})"),
    }
}

/// What the network said, of errors that the server did not make.
fn root_cause(status: &Status) -> Option<String> {
    let mut cause = std::error::Error::source(status)?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string()).filter(|text| !status.message().contains(text))
}

/// Fields that the server refuses, and why.
pub fn violations(status: &Status) -> Vec<(String, String)> {
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

/// Of errors that carry no reason: those that the server's framework or the network makes.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Cancelled => "CANCELLED",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unauthenticated => "UNAUTHENTICATED",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Transport(#[source] io::Error);

    #[test]
    fn the_network_s_own_words_are_shown() {
        let status = Status::from_error(Box::new(Transport(io::Error::other("not HTTP/2"))));
        assert_eq!(Error::from(status).to_string(), "transport error: not HTTP/2");
        assert_eq!(Error::from(Status::unavailable("away")).to_string(), "away (UNAVAILABLE)");
    }
}
