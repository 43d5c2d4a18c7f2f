//! The API's messages as people and programs see them.

pub mod agent;
pub mod agent_package;
pub mod certificate;
pub mod command;
pub mod components;
pub mod fleet;
pub mod health;
pub mod overrides;
pub mod package_file;
pub mod policy;
pub mod rollout;
mod rollout_picture;
mod settings;
pub mod status;
pub mod token;

use jiff::Timestamp;

/// RFC 3339 with milliseconds, in UTC.
pub fn rfc3339(at: Option<prost_types::Timestamp>) -> Option<String> {
    let at = timestamp(at?)?;
    Some(format!("{at:.3}"))
}

/// How long ago, such as `5m`; `-` for never.
pub fn age(at: Option<prost_types::Timestamp>) -> String {
    at.and_then(timestamp).map_or_else(|| "-".to_owned(), |at| span(Timestamp::now().as_second() - at.as_second()))
}

/// How long until, such as `30d`; `never` if there is no such time.
pub fn until(at: Option<prost_types::Timestamp>) -> String {
    match at.and_then(timestamp).map(|at| at.as_second() - Timestamp::now().as_second()) {
        None => "never".to_owned(),
        Some(..=0) => "expired".to_owned(),
        Some(seconds) => span(seconds),
    }
}

fn timestamp(at: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).ok()
}

fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    // Two of the smaller unit at least, as kubectl does.
    match seconds.max(0) {
        seconds if seconds < 2 * MINUTE => format!("{seconds}s"),
        seconds if seconds < 2 * HOUR => format!("{}m", seconds / MINUTE),
        seconds if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        seconds => format!("{}d", seconds / DAY),
    }
}

/// The first characters of a hash, as tables show it.
pub fn short(hash: &str) -> String {
    match hash {
        "" => "-".to_owned(),
        hash => hash.chars().take(12).collect(),
    }
}

/// An empty text as tables show it.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let at = prost_types::Timestamp { seconds: 1_790_000_000, nanos: 5_000_000 };
        assert_eq!(rfc3339(Some(at)).as_deref(), Some("2026-09-21T14:13:20.005Z"));
        let spans: Vec<_> = [-5, 0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(span).into();
        assert_eq!(spans, ["0s", "0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        assert_eq!((age(None), until(None)), ("-".to_owned(), "never".to_owned()));
    }
}
