//! Policies and their revisions.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::{age, or_dash, rfc3339};
use crate::{cli::output::View, proto::admin};

#[derive(Serialize)]
pub struct Policy {
    pub kind: &'static str,
    pub name: String,
    pub etag: String,
    pub created_at: Option<String>,
    #[serde(flatten)]
    pub revision: Revision,
    #[serde(skip)]
    created_age: String,
}

#[derive(Serialize)]
pub struct Revision {
    pub revision: u64,
    pub selector: String,
    pub priority: i32,
    pub files: BTreeMap<String, File>,
    pub allow_empty: bool,
    pub max_per_second: u32,
    pub author: String,
    pub applied_at: Option<String>,
    #[serde(skip)]
    applied_age: String,
}

#[derive(Serialize)]
pub struct File {
    pub content_type: String,
    pub role: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// Where bodies were asked for, and this one is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

impl From<admin::Policy> for Policy {
    fn from(policy: admin::Policy) -> Self {
        let kind = match policy.kind() {
            admin::PolicyKind::Config => "Config",
            admin::PolicyKind::Unspecified => "",
        };
        Self {
            kind,
            name: policy.name,
            etag: policy.etag,
            created_at: rfc3339(policy.create_time),
            created_age: age(policy.create_time),
            revision: policy.revision.unwrap_or_default().into(),
        }
    }
}

impl From<admin::PolicyRevision> for Revision {
    fn from(revision: admin::PolicyRevision) -> Self {
        Self {
            revision: revision.number,
            selector: revision.selector,
            priority: revision.priority,
            files: revision.files.into_iter().map(file).collect(),
            allow_empty: revision.allow_empty,
            max_per_second: revision.max_per_second,
            author: revision.author,
            applied_at: rfc3339(revision.create_time),
            applied_age: age(revision.create_time),
        }
    }
}

fn file(file: admin::PolicyFile) -> (String, File) {
    let (mut body, mut body_base64) = (None, None);
    // A body that was not asked for is empty although the file is not.
    if file.body.len() as u64 == file.size {
        match String::from_utf8(file.body.to_vec()) {
            Ok(text) => body = Some(text),
            Err(_) => body_base64 = Some(STANDARD.encode(&file.body)),
        }
    }
    let sha256 = hex::encode(file.content_hash);
    let view = File { content_type: file.content_type, role: file.role, size: file.size, sha256, body, body_base64 };
    (file.name, view)
}

impl Revision {
    fn file_names(&self) -> String {
        let names: Vec<_> = self.files.keys().map(|name| if name.is_empty() { "\"\"" } else { name }).collect();
        or_dash(&names.join(","))
    }

    fn selector(&self) -> String {
        if self.selector.is_empty() { "(every agent)".to_owned() } else { self.selector.clone() }
    }

    fn rate(&self) -> String {
        if self.max_per_second == 0 { "default".to_owned() } else { format!("{}/s", self.max_per_second) }
    }
}

impl View for Policy {
    const COLUMNS: &'static [&'static str] = &["NAME", "KIND", "REVISION", "PRIORITY", "SELECTOR", "APPLIED"];
    const WIDE_COLUMNS: &'static [&'static str] = &["FILES", "RATE", "AUTHOR", "CREATED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.kind.to_owned(),
            self.revision.revision.to_string(),
            self.revision.priority.to_string(),
            self.revision.selector(),
            self.revision.applied_age.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let revision = &self.revision;
        vec![revision.file_names(), revision.rate(), or_dash(&revision.author), self.created_age.clone()]
    }

    fn name(&self) -> String {
        format!("policy/{}", self.name)
    }
}

impl View for Revision {
    const COLUMNS: &'static [&'static str] = &["REVISION", "APPLIED", "AUTHOR", "PRIORITY", "SELECTOR", "FILES"];
    const WIDE_COLUMNS: &'static [&'static str] = &["RATE", "ALLOW EMPTY"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.revision.to_string(),
            self.applied_age.clone(),
            or_dash(&self.author),
            self.priority.to_string(),
            self.selector(),
            self.file_names(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.rate(), self.allow_empty.to_string()]
    }

    fn name(&self) -> String {
        format!("revision/{}", self.revision)
    }
}
