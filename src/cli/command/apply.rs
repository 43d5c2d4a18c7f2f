//! Applying manifests: all of them are looked at by the server before any is applied.

use std::collections::BTreeMap;

use similar::TextDiff;
use tonic::Status;

use super::package_files;
use crate::{
    cli::{
        connection::Client,
        error::{Error, Result, violations},
        manifest::{self, Document, Place},
        output,
    },
    proto::admin::{
        AgentCount, ApplyPolicyRequest, ApplyPolicyResponse, PolicyPreview, PreviewChange,
        apply_policy_response::Outcome,
    },
};

/// Unchanged lines around a difference.
const CONTEXT_LINES: usize = 3;

pub async fn apply(client: &Client, files: &[String], is_dry: bool, message: &str) -> Result<()> {
    let mut documents = load(files)?;
    for document in &mut documents {
        document.request.message = message.to_owned();
    }
    let mut problems = Vec::new();
    let mut outcomes = Vec::new();
    for document in &documents {
        let request = ApplyPolicyRequest {
            validate_only: true,
            count_agents: is_dry,
            preview: is_dry,
            ..document.request.clone()
        };
        match send(client, request).await {
            Ok(outcome) => outcomes.push(outcome),
            Err(status) => problems.extend(explain(document, &status)),
        }
    }
    refuse(problems)?;
    if is_dry {
        return output::write(
            &outcomes.iter().map(|outcome| line(outcome, true) + &preview(outcome)).collect::<String>(),
        );
    }
    for (done, document) in documents.iter().enumerate() {
        for file in &document.uploads {
            let uploaded = package_files::upload_one(client, file).await;
            let problem = |error: Error| vec![format!("{}: {error}", document.place)];
            uploaded.map_err(|error| stopped(&documents, done, &problem(error)))?;
        }
        let applied = send(client, document.request.clone()).await;
        let applied = applied.map_err(|status| stopped(&documents, done, &explain(document, &status)))?;
        output::write(&line(&applied, false))?;
        applied.warnings.iter().for_each(|warning| eprintln!("warning: {}", output::plain(warning)));
    }
    Ok(())
}

/// Each policy is a transaction of its own: what was applied before one that fails stays applied.
fn stopped(documents: &[Document], done: usize, problems: &[String]) -> Error {
    let problems = problems.join("\n");
    if let [_] = documents {
        return Error::Message(problems);
    }
    let rest: Vec<_> = documents[done..].iter().map(|document| format!("policy/{}", document.request.name)).collect();
    let rest = rest.join(", ");
    let total = documents.len();
    Error::Message(format!(
        "{problems}\n{done} of {total} policies were applied before that; not applied: {rest}\nthe same command can be given again"
    ))
}

async fn send(client: &Client, request: ApplyPolicyRequest) -> std::result::Result<ApplyPolicyResponse, Status> {
    let mut policies = client.policies();
    Ok(policies.apply_policy(client.request(request)).await?.into_inner())
}

fn load(files: &[String]) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        match manifest::load(file) {
            Ok(loaded) => documents.extend(loaded),
            Err(invalid) => problems.extend(invalid.iter().map(ToString::to_string)),
        }
    }
    let mut places: BTreeMap<&str, &Place> = BTreeMap::new();
    for document in &documents {
        let name = document.request.name.as_str();
        if let Some(first) = places.insert(name, &document.place) {
            let place = document.place_of("name");
            problems.push(format!("{place}: name: policy {name:?} is there already, in {first}"));
        }
    }
    refuse(problems)?;
    Ok(documents)
}

fn refuse(problems: Vec<String>) -> Result<()> {
    match problems.len() {
        0 => Ok(()),
        1 => Err(Error::Message(format!("nothing was applied: {}", problems[0]))),
        _ => Err(Error::Message(format!("nothing was applied:\n  {}", problems.join("\n  ")))),
    }
}

/// The server's refusal, in terms of the manifest.
fn explain(document: &Document, status: &Status) -> Vec<String> {
    let violations = violations(status);
    if violations.is_empty() {
        return vec![format!("{}: {}", document.place, Error::from(status.clone()))];
    }
    let one = |(field, problem): (String, String)| format!("{}: {field}: {problem}", document.place_of(&field));
    violations.into_iter().map(one).collect()
}

/// Whom it touches and how, for people.
fn preview(response: &ApplyPolicyResponse) -> String {
    let Some(preview) = &response.preview else { return String::new() };
    let PolicyPreview { gaining, losing, changing, unchanged, .. } = preview;
    let mut out = String::new();
    if preview.unrenderable > 0 {
        out +=
            &format!("  {} agents keep what they have: templates cannot be filled in for them\n", preview.unrenderable);
    }
    if gaining + losing + changing > 0 {
        out += &format!("  {changing} agents change, {gaining} gain, {losing} lose; {unchanged} stay as they are\n");
    }
    for warning in response.warnings.iter().chain(&preview.warnings) {
        out += &format!("  warning: {}\n", output::plain(warning));
    }
    for change in &preview.changes {
        let PreviewChange { agents, example_instance_uid, items } = change;
        out += &format!("  {agents} agents, such as {example_instance_uid}:\n");
        for item in items {
            let text = |body: &Option<bytes::Bytes>| {
                body.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned()
            };
            let header = |prefix: &str, body: &Option<bytes::Bytes>| match body {
                Some(_) => format!("{prefix}/{}", item.name),
                None => "/dev/null".to_owned(),
            };
            let (before, after) = (text(&item.before), text(&item.after));
            let diff = TextDiff::from_lines(&before, &after);
            let mut unified = diff.unified_diff();
            unified.context_radius(CONTEXT_LINES).header(&header("now", &item.before), &header("then", &item.after));
            out += &output::plain_lines(&unified.to_string());
        }
    }
    out
}

/// `policy/NAME created`, as kubectl says it.
fn line(response: &ApplyPolicyResponse, is_dry: bool) -> String {
    let name = response.policy.as_ref().map(|policy| policy.name.as_str()).unwrap_or_default();
    let outcome = match response.outcome() {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Unspecified => "applied",
    };
    let count = match &response.agents {
        Some(AgentCount { matching, connected, incomplete }) => {
            let least = if *incomplete { "at least " } else { "" };
            format!(": {least}{matching} agents match, {connected} of them connected")
        }
        None => String::new(),
    };
    let stable = response.policy.as_ref().filter(|policy| {
        let newest = policy.revision.as_ref().map_or(0, |revision| revision.number);
        response.outcome() == Outcome::Unchanged && policy.stable_revision != newest
    });
    let stable =
        stable.map(|policy| format!(" (the stable revision is {}; see rollout status {name})", policy.stable_revision));
    format!("policy/{name} {outcome}{}{count}{}\n", if is_dry { " (dry run)" } else { "" }, stable.unwrap_or_default())
}
