//! Overrides.

use serde::Serialize;

use super::{age, or_dash, rfc3339, until};
use crate::{cli::output::View, proto::admin};

#[derive(Serialize)]
pub struct Override {
    pub policy: String,
    pub instance_uid: String,
    /// 0: the agent has nothing of the policy.
    pub revision: u64,
    /// Held on what it had, rather than pinned.
    pub hold: bool,
    pub message: String,
    pub author: String,
    pub created_at: Option<String>,
    /// Null: it stays.
    pub expires_at: Option<String>,
    #[serde(skip)]
    created_age: String,
    #[serde(skip)]
    expiry: String,
}

impl From<admin::Override> for Override {
    fn from(one: admin::Override) -> Self {
        Self {
            policy: one.policy,
            instance_uid: one.instance_uid,
            revision: one.revision,
            hold: one.hold,
            message: one.message,
            author: one.author,
            created_at: rfc3339(one.create_time),
            expires_at: rfc3339(one.expire_time),
            created_age: age(one.create_time),
            expiry: until(one.expire_time),
        }
    }
}

impl Override {
    /// `revision 3 (pinned)`, for people.
    pub fn what(&self) -> String {
        match (self.hold, self.revision) {
            (true, 0) => "nothing (held)".to_owned(),
            (false, 0) => "nothing".to_owned(),
            (true, number) => format!("revision {number} (held)"),
            (false, number) => format!("revision {number} (pinned)"),
        }
    }
}

impl View for Override {
    const COLUMNS: &'static [&'static str] = &["POLICY", "INSTANCE UID", "REVISION", "HOW", "AGE", "EXPIRES"];
    const WIDE_COLUMNS: &'static [&'static str] = &["AUTHOR", "MESSAGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.policy.clone(),
            self.instance_uid.clone(),
            if self.revision == 0 { "-".to_owned() } else { self.revision.to_string() },
            if self.hold { "hold" } else { "pin" }.to_owned(),
            self.created_age.clone(),
            self.expiry.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![or_dash(&self.author), or_dash(&self.message)]
    }

    fn name(&self) -> String {
        format!("override/{}/{}", self.policy, self.instance_uid)
    }
}
