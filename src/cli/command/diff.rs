//! How revisions differ, and what applying manifests would change.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::apply;
use crate::{
    cli::{
        args::{Gathering, Global},
        connection::Client,
        difference,
        error::{Error, Result},
        output::{self, Format},
        view::policy::kind_name,
    },
    proto::admin::{ApplyPoliciesRequest, DiffRevisionsRequest, PolicyDiff},
};

/// Exit codes, as those of diff(1).
const DIFFERENT: u8 = 1;
pub const TROUBLE: u8 = 2;

/// What goes before the reasons.
const REFUSED: &str = "the manifests cannot be applied";

pub enum What {
    /// By default from the stable revision to the newest.
    Revisions {
        policy: String,
        from: Option<u64>,
        to: Option<u64>,
    },
    Manifests {
        files: Vec<String>,
        gathering: Gathering,
    },
}

pub async fn diff(global: &Global, what: What, format: Format) -> Result<()> {
    match differs(global, what, format).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::Exit(DIFFERENT, String::new())),
        Err(error) if error.is_closed_pipe() => Err(error),
        Err(error) => Err(Error::Exit(TROUBLE, error.to_string())),
    }
}

async fn differs(global: &Global, what: What, format: Format) -> Result<bool> {
    match what {
        What::Revisions { policy, from, to } => {
            let client = Client::connect(global).await?;
            let request =
                DiffRevisionsRequest { policy, from_revision: from.unwrap_or(0), to_revision: to.unwrap_or(0) };
            let diff = client.policies().diff_revisions(client.request(request)).await?.into_inner();
            let is_different = !diff.items.is_empty();
            match format {
                Format::Json | Format::Yaml => output::structured(format, &View::from(diff))?,
                _ if !is_different => {
                    let PolicyDiff { policy, from_revision, to_revision, .. } = diff;
                    eprintln!("revisions {from_revision} and {to_revision} of policy {policy} are the same");
                }
                _ => show(&[diff], |diff| (diff.from_revision.to_string(), diff.to_revision.to_string()), format)?,
            }
            Ok(is_different)
        }
        What::Manifests { files, gathering: Gathering { recursive, prune } } => {
            let documents = apply::load(&files, recursive, REFUSED)?;
            let client = Client::connect(global).await?;
            let request = ApplyPoliciesRequest { validate_only: true, diff: true, ..apply::request(&documents, prune) };
            let answer = apply::send(&client, &documents, REFUSED, request).await?;
            for (document, policy) in documents.iter().zip(&answer.policies) {
                if let Some(note) = apply::not_stable(policy) {
                    eprintln!("note: policy/{} is as in its manifest, but {note}", document.request.name);
                }
            }
            let diffs = answer.diffs;
            let is_different = !diffs.is_empty();
            match format {
                Format::Json | Format::Yaml => {
                    output::structured(format, &diffs.into_iter().map(View::from).collect::<Vec<_>>())?;
                }
                _ => show(&diffs, |diff| (format!("now/{}", diff.policy), format!("then/{}", diff.policy)), format)?,
            }
            Ok(is_different)
        }
    }
}

/// `headers` gives what goes before the names of what differs, on either side.
fn show(diffs: &[PolicyDiff], headers: impl Fn(&PolicyDiff) -> (String, String), format: Format) -> Result<()> {
    let text = |diff: &PolicyDiff| -> String {
        let (before, after) = headers(diff);
        match format {
            Format::Name => format!("policy/{}\n", diff.policy),
            _ => diff.items.iter().map(|item| difference::of_item(item, &before, &after)).collect(),
        }
    };
    output::write(&diffs.iter().map(text).collect::<String>())
}

#[derive(Serialize)]
struct View {
    policy: String,
    kind: &'static str,
    /// 0: none.
    from_revision: u64,
    to_revision: u64,
    /// What differs, by name.
    changes: BTreeMap<String, Change>,
}

/// Null: there is none.
#[derive(Serialize)]
struct Change {
    before: Option<String>,
    after: Option<String>,
    /// Of texts that are not in UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    before_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_base64: Option<String>,
}

impl From<PolicyDiff> for View {
    fn from(diff: PolicyDiff) -> Self {
        let side = |body: Option<bytes::Bytes>| match body.map(|body| String::from_utf8(body.to_vec())) {
            None => (None, None),
            Some(Ok(text)) => (Some(text), None),
            Some(Err(error)) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Self {
            kind: kind_name(diff.kind()),
            policy: diff.policy,
            from_revision: diff.from_revision,
            to_revision: diff.to_revision,
            changes: diff
                .items
                .into_iter()
                .map(|item| {
                    let ((before, before_base64), (after, after_base64)) = (side(item.before), side(item.after));
                    (item.name, Change { before, after, before_base64, after_base64 })
                })
                .collect(),
        }
    }
}
