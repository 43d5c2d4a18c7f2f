//! Which errors of the database are worth trying again.

use sqlx::{error::DatabaseError, migrate::MigrateError};

use super::Error;
use crate::tls;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let refusal = match &error {
            sqlx::Error::Io(error) => tls::refusal(error),
            // A server without TLS, a file that is no certificate.
            sqlx::Error::Tls(error) => Some(error.to_string()),
            sqlx::Error::Configuration(error) => return Self::Settings(error.to_string()),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return Self::Settings(format!("TLS: {refusal}"));
        }
        let passing = match &error {
            sqlx::Error::Io(_)
            // What is left of a message when the server dies while sending it.
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => true,
            sqlx::Error::Database(error) => is_passing(error.as_ref()),
            _ => false,
        };
        if passing { Self::Unreachable(error.to_string()) } else { Self::Internal(error.to_string()) }
    }
}

fn is_passing(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        is_passing_in_postgres(&code)
    } else {
        is_passing_in_sqlite(&code)
    }
}

/// By SQLSTATE.
fn is_passing_in_postgres(code: &str) -> bool {
    // Connection trouble; out of connections, memory or disk.
    code.starts_with("08")
        || code.starts_with("53")
        || matches!(
            code,
            // Serialization failure, deadlock, lock not available.
            "40001" | "40P01" | "55P03"
            // Statement timeout; shutting down, crashed, starting up; the database is being dropped.
            | "57014" | "57P01" | "57P02" | "57P03" | "57P04"
            // A replica that has not been promoted yet, during a fail-over.
            | "25006"
        )
}

/// By extended result code.
fn is_passing_in_sqlite(code: &str) -> bool {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const IO_ERROR: i32 = 10;
    const DISK_FULL: i32 = 13;
    let primary = code.parse::<i32>().map(|code| code & 0xff);
    matches!(primary, Ok(BUSY | LOCKED | IO_ERROR | DISK_FULL))
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => error.into(),
            MigrateError::ExecuteMigration(error, version) => match error.into() {
                settings @ Self::Settings(_) => settings,
                Self::Unreachable(text) => Self::Unreachable(format!("migration {version}: {text}")),
                other => Self::Schema(format!("migration {version}: {other}")),
            },
            other => Self::Schema(other.to_string()),
        }
    }
}

impl Error {
    pub(super) fn not_found(kind: &'static str, name: impl ToString) -> Self {
        Self::NotFound { kind, name: name.to_string() }
    }

    /// For a row that this program cannot have written.
    pub(super) fn damaged(what: &str, why: impl std::fmt::Display) -> Self {
        Self::Internal(format!("damaged {what}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_told_from_bugs() {
        assert!(matches!(sqlx::Error::PoolTimedOut.into(), Error::Unreachable(_)));
        assert!(matches!(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()).into(), Error::Unreachable(_)));
        assert!(matches!(sqlx::Error::RowNotFound.into(), Error::Internal(_)));
        // What no waiting mends.
        assert!(matches!(sqlx::Error::Tls("server does not support TLS".into()).into(), Error::Settings(_)));
        for (code, passing) in [("57P01", true), ("08006", true), ("53300", true), ("40P01", true), ("42P01", false)] {
            assert_eq!(is_passing_in_postgres(code), passing, "{code}");
        }
        // SQLITE_BUSY_SNAPSHOT is BUSY with a reason; 2067 is a unique constraint.
        for (code, passing) in [("5", true), ("517", true), ("2067", false), ("", false)] {
            assert_eq!(is_passing_in_sqlite(code), passing, "{code}");
        }
    }
}
