//! Applying manifests: all of them together, or none.

use tonic::Status;

use super::package_files;
use crate::{
    cli::{
        args::Gathering,
        connection::Client,
        difference,
        error::{Error, Result, violations},
        manifest::{Document, set},
        output,
        view::policy::kind_name,
    },
    proto::admin::{
        AgentCount, ApplyPoliciesRequest, ApplyPoliciesResponse, ApplyPolicyResponse, KindPreview, PreviewChange,
        apply_policy_response::Outcome,
    },
};

/// What goes before the reasons.
const REFUSED: &str = "nothing was applied";

pub async fn apply(
    client: &Client,
    files: &[String],
    Gathering { recursive, prune }: Gathering,
    is_dry: bool,
    message: &str,
) -> Result<()> {
    let mut documents = load(files, recursive, REFUSED)?;
    for document in &mut documents {
        document.request.message = message.to_owned();
    }
    let request = request(&documents, prune);
    if is_dry {
        let request = ApplyPoliciesRequest { validate_only: true, preview: true, ..request };
        let would = send(client, &documents, REFUSED, request).await?;
        return output::write(&(lines(&would, true) + &warnings(&would) + &previews(&would.previews)));
    }
    if documents.iter().any(|document| !document.uploads.is_empty()) {
        // Nothing is uploaded for what is refused.
        send(client, &documents, REFUSED, ApplyPoliciesRequest { validate_only: true, ..request.clone() }).await?;
    }
    for document in &documents {
        for file in &document.uploads {
            let uploaded = package_files::upload_one(client, file).await;
            uploaded.map_err(|error| refused(REFUSED, vec![format!("{}: {error}", document.place)]))?;
        }
    }
    let applied = send(client, &documents, REFUSED, request).await?;
    output::write(&lines(&applied, false))?;
    eprint!("{}", warnings(&applied));
    Ok(())
}

/// Of single policies.
fn warnings(response: &ApplyPoliciesResponse) -> String {
    let of = |one: &ApplyPolicyResponse| -> String {
        let name = one.policy.as_ref().map(|policy| policy.name.as_str()).unwrap_or_default();
        one.warnings.iter().map(|warning| format!("warning: policy/{name}: {}\n", output::plain(warning))).collect()
    };
    response.policies.iter().map(of).collect()
}

/// The manifests of files and folders, each policy once. `head` goes before what is wrong with them.
pub fn load(files: &[String], is_recursive: bool, head: &str) -> Result<Vec<Document>> {
    set::load(files, is_recursive).map_err(|problems| refused(head, problems))
}

pub fn request(documents: &[Document], prune: bool) -> ApplyPoliciesRequest {
    let policies = documents.iter().map(|document| document.request.clone()).collect();
    ApplyPoliciesRequest { policies, prune, ..Default::default() }
}

/// Refusals are in terms of the manifests.
pub async fn send(
    client: &Client,
    documents: &[Document],
    head: &str,
    request: ApplyPoliciesRequest,
) -> Result<ApplyPoliciesResponse> {
    let answer = client.policies().apply_policies(client.request(request)).await;
    answer.map(tonic::Response::into_inner).map_err(|status| explain(documents, head, status))
}

fn refused(head: &str, problems: Vec<String>) -> Error {
    match &problems[..] {
        [one] => Error::Message(format!("{head}: {one}")),
        _ => Error::Message(format!("{head}:\n  {}", problems.join("\n  "))),
    }
}

fn explain(documents: &[Document], head: &str, status: Status) -> Error {
    let violations = violations(&status);
    if violations.is_empty() {
        return status.into();
    }
    let one = |(field, problem): (String, String)| match document_of(documents, &field) {
        Some((document, "")) => format!("{}: policy {:?}: {problem}", document.place, document.request.name),
        Some((document, field)) => format!("{}: {field}: {problem}", document.place_of(field)),
        None => format!("{field}: {problem}"),
    };
    refused(head, violations.into_iter().map(one).collect())
}

/// Of `policies[3].selector`, the fourth document and `selector`.
fn document_of<'a>(documents: &'a [Document], field: &'a str) -> Option<(&'a Document, &'a str)> {
    let (index, rest) = field.strip_prefix("policies[")?.split_once(']')?;
    Some((documents.get(index.parse::<usize>().ok()?)?, rest.strip_prefix('.').unwrap_or(rest)))
}

/// Whom the set touches and how, for people.
fn previews(previews: &[KindPreview]) -> String {
    let mut out = String::new();
    for one in previews {
        let Some(preview) = &one.preview else { continue };
        let (gaining, losing, changing) = (preview.gaining, preview.losing, preview.changing);
        let kind = kind_name(one.kind());
        if preview.unrenderable > 0 {
            let agents = preview.unrenderable;
            out += &format!("{kind}: {agents} agents keep what they have: templates cannot be filled in for them\n");
        }
        if gaining + losing + changing > 0 {
            let least = if preview.incomplete { "at least " } else { "" };
            let unchanged = preview.unchanged;
            out += &format!(
                "{kind}: {least}{changing} agents change, {gaining} gain, {losing} lose; {unchanged} stay as they are\n"
            );
        }
        for warning in &preview.warnings {
            out += &format!("  warning: {}\n", output::plain(warning));
        }
        for PreviewChange { agents, example_instance_uid, items } in &preview.changes {
            out += &format!("  {agents} agents, such as {example_instance_uid}:\n");
            out.extend(items.iter().map(|item| difference::of_item(item, "now", "then")));
        }
    }
    out
}

/// `policy/NAME created`, as kubectl says it.
fn lines(response: &ApplyPoliciesResponse, is_dry: bool) -> String {
    let dry = if is_dry { " (dry run)" } else { "" };
    let applied = response.policies.iter().map(|applied| line(applied, dry));
    let pruned = response.pruned.iter().map(|policy| format!("policy/{} pruned{dry}\n", policy.name));
    applied.chain(pruned).collect()
}

fn line(response: &ApplyPolicyResponse, dry: &str) -> String {
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
    let stable = not_stable(response).map(|note| format!(" ({note})"));
    format!("policy/{name} {outcome}{dry}{count}{}\n", stable.unwrap_or_default())
}

/// Of a policy that stays as it is, but whose newest revision agents do not have.
pub fn not_stable(response: &ApplyPolicyResponse) -> Option<String> {
    let policy = response.policy.as_ref().filter(|_| response.outcome() == Outcome::Unchanged)?;
    let newest = policy.revision.as_ref().map_or(0, |revision| revision.number);
    let (name, stable) = (&policy.name, policy.stable_revision);
    (stable != newest).then(|| format!("the stable revision is {stable}; see rollout status {name}"))
}
