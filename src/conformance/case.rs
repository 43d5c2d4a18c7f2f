//! What a case is, and how one ends.

use std::{fmt, pin::Pin};

use serde::Serialize;

use super::context::Context;

/// How binding what a case checks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Level {
    /// The specification's MUST, or that of the RFCs it builds on.
    #[serde(rename = "MUST")]
    Must,
    #[serde(rename = "SHOULD")]
    Should,
    /// In no specification: what clients in the field need.
    #[serde(rename = "field")]
    Field,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Http,
    WebSocket,
    Both,
}

type Run = for<'a> fn(&'a Context) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// One thing that a server does or leaves.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Never given to another case.
    pub id: &'static str,
    /// What a good server does.
    pub title: &'static str,
    pub level: Level,
    /// Of the OpAMP specification, or the RFC.
    pub section: &'static str,
    pub transport: Transport,
    pub run: Run,
}

/// Why a case ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    Fail(String),
    Skip(String),
}

pub type Step<T> = Result<T, Stop>;
pub type Verdict = Step<()>;

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Self::Fail(text)
    }
}

impl From<&str> for Stop {
    fn from(text: &str) -> Self {
        Self::Fail(text.to_owned())
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Fail(format!("the connection was lost: {error}"))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Field => "field",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
            Self::Both => "both",
        })
    }
}

/// A table of cases: id, level, transport, section, title, function.
macro_rules! cases {
    ($($id:literal $level:ident $transport:ident $section:literal $title:literal $run:path;)*) => {
        pub const CASES: &[$crate::conformance::case::Case] = &[$($crate::conformance::case::Case {
            id: $id,
            title: $title,
            level: $crate::conformance::case::Level::$level,
            section: $section,
            transport: $crate::conformance::case::Transport::$transport,
            run: |cx| Box::pin($run(cx)),
        }),*];
    };
}

/// Ends the case as failed unless this holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err($crate::conformance::case::Stop::Fail(format!($($text)+)));
        }
    };
}

/// Ends the case as not applicable.
macro_rules! skip {
    ($($text:tt)+) => {
        return Err($crate::conformance::case::Stop::Skip(format!($($text)+)))
    };
}

pub(super) use {cases, ensure, skip};
