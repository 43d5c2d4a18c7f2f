//! The two traces that show how a deployment works: of what an agent says, and of what an operator changes.

use super::otlp::{Span, find};

pub const GATEWAY: &str = "muster-gateway";
pub const SERVICE: &str = "muster-config-service";
pub const APPLY: &str = "muster.admin.v1.Policies/ApplyPolicies";
/// What is between a change and the offers that follow from it.
pub const TO_SHARD: [&str; 2] = ["bring policies to agents", "bring policies to shard"];

/// All spans, and the one of the first report of this agent, if its trace goes to the database and back with an offer.
pub fn of_first_report(spans: &[Span], uid: &str) -> Option<(Vec<Span>, Span)> {
    let is_first = |span: &&Span| {
        span.is(GATEWAY, "agent report")
            && span.attributes["muster.agent.uid"] == uid
            && span.attributes["muster.report.is_opening"] == "true"
    };
    let root = spans.iter().find(is_first)?;
    find(spans, GATEWAY, "publish", root, &[])?;
    let taken = find(spans, SERVICE, "take report", root, &[])?;
    for operation in ["read_agents", "write_agents"] {
        let stored = find(spans, SERVICE, operation, root, &["take report"])?;
        assert_eq!(stored.attributes["db.system.name"], "postgresql");
    }
    let answered = find(spans, SERVICE, "publish", root, &["take report"])?;
    assert!(answered.start >= taken.start && answered.end <= taken.end);
    let verdict = find(spans, GATEWAY, "take verdict", root, &["take report"])?;
    assert_eq!(verdict.attributes["muster.agent.uid"], uid);
    find(spans, GATEWAY, "send offer", root, &["take report", "take verdict"])?;
    Some((spans.to_vec(), root.clone()))
}

/// The span of the call that changed a policy.
pub fn change(spans: &[Span]) -> Option<&Span> {
    spans.iter().find(|root| root.is(SERVICE, APPLY) && find(spans, SERVICE, "publish", root, &[]).is_some())
}

/// All spans, and the one of the call that changed a policy, if its trace goes to the offers for so many agents.
pub fn of_change(spans: &[Span], agents: u32) -> Option<(Vec<Span>, Span)> {
    let root = change(spans)?;
    find(spans, SERVICE, "apply_policies", root, &[])?;
    find(spans, SERVICE, "policy_set", root, &["read policies"])?;
    find(spans, SERVICE, "write_desired", root, &TO_SHARD)?;
    find(spans, SERVICE, "publish", root, &TO_SHARD)?;
    find(spans, GATEWAY, "send offers", root, &TO_SHARD)?;
    let offers = spans.iter().filter(|span| span.is(GATEWAY, "send offers") && span.trace == root.trace);
    let offered: u32 = offers.map(|span| span.attributes["muster.offer.agents"].parse::<u32>().unwrap()).sum();
    (offered == agents).then(|| (spans.to_vec(), root.clone()))
}
