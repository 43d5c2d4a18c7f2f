//! Labels that operators set.

use tonic::Status;

use super::{
    authorized::Authorized,
    context::Context,
    errors::{self, Violations, from_store},
};
use crate::{
    model::AgentRecord,
    proto::admin::SetLabelsRequest,
    store::{LabelChanges, apply_label_changes},
};

const MAX_KEY_CHARS: usize = 128;
const MAX_VALUE_BYTES: usize = 256;
/// Labels are read with every row of an agent.
const MAX_LABELS: usize = 64;

pub async fn set(context: &Context, request: Authorized<SetLabelsRequest>) -> Result<AgentRecord, Status> {
    let actor = request.actor();
    let SetLabelsRequest { instance_uid, set, remove, etag } = request.message;
    let uid = errors::uid(&instance_uid)?;
    let changes = changes(set.into_iter().collect(), remove)?;
    let records = context.store.read_agents(&[uid]).await.map_err(from_store)?;
    let Some(mut before) = records.into_iter().next() else {
        return Err(errors::agent_not_found(&uid));
    };
    apply_label_changes(&mut before.labels, &changes);
    if before.labels.len() > MAX_LABELS {
        let problem = format!("the agent would have {} labels; at most {MAX_LABELS} are possible", before.labels.len());
        return Err(errors::invalid("set", problem));
    }
    let record = context.store.set_labels(uid, &changes, etag.as_deref(), &actor).await.map_err(from_store)?;
    context.publisher.agent_to_reconcile(uid).await;
    Ok(record)
}

fn changes(set: Vec<(String, String)>, remove: Vec<String>) -> Result<LabelChanges, Status> {
    let mut violations = Violations::default();
    let mut changes = LabelChanges::new();
    for (key, value) in set {
        let field = format!("set[{key:?}]");
        violations.take(&field, check_key(&key));
        if value.len() > MAX_VALUE_BYTES || value.chars().any(char::is_control) {
            violations.add(field, format!("a value has at most {MAX_VALUE_BYTES} bytes and no control characters"));
        }
        changes.insert(key, Some(value));
    }
    for key in remove {
        if key.contains('\0') {
            violations.add("remove", "no label has a key with U+0000");
        }
        if changes.insert(key.clone(), None).is_some() {
            violations.add("remove", format!("label {key:?} is to be changed twice"));
        }
    }
    if changes.is_empty() {
        violations.add("set", "no change is asked for");
    }
    if changes.len() > 2 * MAX_LABELS {
        violations.add("set", format!("at most {} changes at once", 2 * MAX_LABELS));
    }
    violations.check()?;
    Ok(changes)
}

/// A key must be a bare word of selectors, and usable in `musterctl label UID KEY-`.
fn check_key(key: &str) -> Result<(), String> {
    let is_bare = |c: char| !c.is_whitespace() && !c.is_control() && !",()=!\"".contains(c);
    if key.is_empty() || key.chars().count() > MAX_KEY_CHARS {
        return Err(format!("a key has 1 to {MAX_KEY_CHARS} characters"));
    }
    if !key.chars().all(is_bare) || key.ends_with('-') {
        return Err("a key has no white space, control characters or ,()=!\" and does not end with -".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> Vec<(String, String)> {
        vec![(key.to_owned(), value.to_owned())]
    }

    #[test]
    fn keys_are_bare_words() {
        for key in ["env", "deployment.environment.name", "a/b", "ünï", "a-b"] {
            assert!(changes(pair(key, "x"), vec![]).is_ok(), "{key}");
        }
        for key in ["", "a b", "a=b", "a-", "!a", "a,b", &"x".repeat(129)] {
            assert!(changes(pair(key, "x"), vec![]).is_err(), "{key}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(changes(pair("a", &"x".repeat(257)), vec![]).is_err());
        assert!(changes(pair("a", "x"), vec!["a".into()]).is_err());
        assert!(changes(vec![], vec!["a".into(), "a".into()]).is_err());
        assert!(changes(vec![], vec![]).is_err());
        // A key that could not be set today can still be removed.
        assert!(changes(vec![], vec!["odd key".into()]).is_ok());
    }
}
