//! Policies and their revisions.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::{
    age, or_dash, rfc3339,
    rollout::Plan,
    settings::{self, Connection},
};
use crate::{
    cli::output::View,
    proto::{admin, opamp},
};

#[derive(Serialize)]
pub struct Policy {
    pub kind: &'static str,
    pub name: String,
    pub etag: String,
    pub created_at: Option<String>,
    /// What agents have outside of a rollout; 0 for none.
    pub stable_revision: u64,
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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, File>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub packages: BTreeMap<String, Package>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<String, Connection>,
    pub allow_empty: bool,
    pub max_per_second: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Plan>,
    pub author: String,
    pub message: String,
    /// What became of its newest rollout, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    pub applied_at: Option<String>,
    #[serde(skip)]
    applied_age: String,
}

#[derive(Serialize)]
pub struct Package {
    pub r#type: &'static str,
    pub version: String,
    pub url: String,
    pub sha256: String,
    /// Names of the headers of downloads; values may be secrets.
    pub headers: Vec<String>,
    /// Base64; empty when the package is not signed.
    pub signature: String,
}

impl From<opamp::PackageAvailable> for Package {
    fn from(package: opamp::PackageAvailable) -> Self {
        let r#type = match package.r#type() {
            opamp::PackageType::TopLevel => "top_level",
            opamp::PackageType::Addon => "addon",
        };
        let file = package.file.unwrap_or_default();
        Self {
            r#type,
            version: package.version,
            url: file.download_url,
            sha256: hex::encode(file.content_hash),
            headers: settings::header_names(file.headers),
            signature: STANDARD.encode(file.signature),
        }
    }
}

#[derive(Serialize)]
pub struct File {
    pub content_type: String,
    pub role: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// The body is a template, which is filled in for each agent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
    /// Where bodies were asked for, and this one is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

pub fn kind_name(kind: admin::PolicyKind) -> &'static str {
    match kind {
        admin::PolicyKind::Config => "Config",
        admin::PolicyKind::Packages => "Packages",
        admin::PolicyKind::ConnectionSettings => "ConnectionSettings",
        admin::PolicyKind::Unspecified => "",
    }
}

impl From<admin::Policy> for Policy {
    fn from(policy: admin::Policy) -> Self {
        Self {
            kind: kind_name(policy.kind()),
            name: policy.name,
            etag: policy.etag,
            created_at: rfc3339(policy.create_time),
            created_age: age(policy.create_time),
            stable_revision: policy.stable_revision,
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
            packages: revision.packages.into_iter().map(|(name, package)| (name, package.into())).collect(),
            connections: revision.connection_settings.map(settings::connections).unwrap_or_default(),
            allow_empty: revision.allow_empty,
            max_per_second: revision.max_per_second,
            rollout: revision.rollout.map(Plan::from),
            author: revision.author,
            message: revision.message,
            outcome: None,
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
    let admin::PolicyFile { content_type, role, size, template, .. } = file;
    let view = File { content_type, role, size, sha256, template, body, body_base64 };
    (file.name, view)
}

impl Revision {
    /// Names of files, packages or connections: a policy has those of its kind.
    fn content_names(&self) -> String {
        let names = self.files.keys().chain(self.packages.keys()).chain(self.connections.keys());
        let names: Vec<_> = names.map(|name| if name.is_empty() { "\"\"" } else { name }).collect();
        or_dash(&names.join(","))
    }

    fn selector(&self) -> String {
        if self.selector.is_empty() { "(every agent)".to_owned() } else { self.selector.clone() }
    }

    fn strategy(&self) -> String {
        self.rollout.as_ref().map_or_else(|| "at once".to_owned(), |plan| plan.steps.join(", "))
    }

    fn rate(&self) -> String {
        if self.max_per_second == 0 { "default".to_owned() } else { format!("{}/s", self.max_per_second) }
    }
}

impl View for Policy {
    const COLUMNS: &'static [&'static str] = &["NAME", "KIND", "REVISION", "PRIORITY", "SELECTOR", "APPLIED"];
    const WIDE_COLUMNS: &'static [&'static str] = &["CONTENT", "RATE", "AUTHOR", "CREATED"];

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
        vec![revision.content_names(), revision.rate(), or_dash(&revision.author), self.created_age.clone()]
    }

    fn name(&self) -> String {
        format!("policy/{}", self.name)
    }
}

impl View for Revision {
    const COLUMNS: &'static [&'static str] =
        &["REVISION", "APPLIED", "AUTHOR", "ROLLOUT", "OUTCOME", "SELECTOR", "MESSAGE"];
    const WIDE_COLUMNS: &'static [&'static str] = &["PRIORITY", "CONTENT", "RATE", "ALLOW EMPTY"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.revision.to_string(),
            self.applied_age.clone(),
            or_dash(&self.author),
            self.strategy(),
            or_dash(self.outcome.unwrap_or_default()),
            self.selector(),
            or_dash(&self.message),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.priority.to_string(), self.content_names(), self.rate(), self.allow_empty.to_string()]
    }

    fn name(&self) -> String {
        format!("revision/{}", self.revision)
    }
}
