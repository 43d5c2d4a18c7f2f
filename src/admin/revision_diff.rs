//! What differs between two revisions of a policy, as text without secrets.

use std::{collections::BTreeMap, fmt::Write};

use prost::Message;
use tonic::Status;

use super::{
    agent_config, convert,
    errors::{self, from_store},
    preview::Bodies,
};
use crate::{
    model::{
        ContentHash,
        policy::{FileRef, Policy, PolicyOffer, Revision, RevisionContent},
        rollout::{OnFailure, Plan, percent},
    },
    proto::{
        admin::{DiffRevisionsRequest, PolicyDiff, PreviewItem},
        opamp::{
            ConnectionSettingsOffers, Headers, PackageAvailable, PackageType, ProxyConnectionSettings, TlsCertificate,
            TlsConnectionSettings,
        },
    },
    store::{AppliedSet, ApplyOutcome, Result, Store},
};

/// Of the bodies in one answer; further ones are named by their hash. Two revisions with all that they may have fit.
const MAX_BODY_BYTES: u64 = 40 * 1024 * 1024;

/// One part of a revision.
#[derive(Clone, PartialEq)]
enum Part {
    Text(String),
    /// The body of a file.
    Body(ContentHash, u64),
}

/// By name, those that concern the policy as a whole first.
type Parts = BTreeMap<(u8, String), Part>;

pub async fn of_request(store: &dyn Store, request: DiffRevisionsRequest) -> std::result::Result<PolicyDiff, Status> {
    let DiffRevisionsRequest { policy: name, from_revision, to_revision } = request;
    let name = errors::name("policy", &name)?;
    let policy = store.get_policy(name).await.map_err(from_store)?;
    let from = if from_revision == 0 { policy.stable } else { from_revision };
    let to = if to_revision == 0 { policy.revision.number } else { to_revision };
    let before = match from {
        0 => None,
        number => Some(store.get_revision(name, number).await.map_err(from_store)?),
    };
    let after = store.get_revision(name, to).await.map_err(from_store)?;
    let (given, mut room) = (Bodies::new(), MAX_BODY_BYTES);
    let diff = between(store, &policy, (before.as_ref(), Some(&after)), &given, &mut room);
    diff.await.map_err(from_store)
}

/// Of the policies that a set would change or delete, from the newest revision that each has.
pub async fn of_set(store: &dyn Store, would: &AppliedSet, bodies: &Bodies) -> Result<Vec<PolicyDiff>> {
    let mut room = MAX_BODY_BYTES;
    let mut diffs = Vec::new();
    for one in &would.applied {
        let after = &one.policy.revision;
        let before = match one.outcome {
            ApplyOutcome::Unchanged => continue,
            ApplyOutcome::Created => None,
            ApplyOutcome::Configured => Some(store.get_revision(&one.policy.name, after.number - 1).await?),
        };
        diffs.push(between(store, &one.policy, (before.as_ref(), Some(after)), bodies, &mut room).await?);
    }
    for policy in &would.pruned {
        diffs.push(between(store, policy, (Some(&policy.revision), None), bodies, &mut room).await?);
    }
    Ok(diffs)
}

async fn between(
    store: &dyn Store,
    policy: &Policy,
    (before, after): (Option<&Revision>, Option<&Revision>),
    given: &Bodies,
    room: &mut u64,
) -> Result<PolicyDiff> {
    let parts = |revision: Option<&Revision>| revision.map(|revision| parts(&revision.content)).unwrap_or_default();
    let (old, new) = (parts(before), parts(after));
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    let mut names: Vec<_> = names.filter(|name| old.get(*name) != new.get(*name)).collect();
    names.sort();
    let mut items = Vec::with_capacity(names.len());
    for name in names {
        items.push(PreviewItem {
            name: name.1.clone(),
            before: shown(store, old.get(name), given, room).await?,
            after: shown(store, new.get(name), given, room).await?,
        });
    }
    let number = |revision: Option<&Revision>| revision.map_or(0, |revision| revision.number);
    Ok(PolicyDiff {
        policy: policy.name.clone(),
        kind: convert::policy::kind(policy.kind).into(),
        from_revision: number(before),
        to_revision: number(after),
        items,
    })
}

async fn shown(store: &dyn Store, part: Option<&Part>, given: &Bodies, room: &mut u64) -> Result<Option<bytes::Bytes>> {
    let (hash, size) = match part {
        None => return Ok(None),
        Some(Part::Text(text)) => return Ok(Some(text.clone().into())),
        Some(Part::Body(hash, size)) => (*hash, *size),
    };
    let mut body = None;
    if size <= *room {
        *room -= size;
        body = match given.get(&hash) {
            Some(body) => Some(body.clone()),
            None => agent_config::bodies(store, &[hash]).await?.remove(&hash),
        };
    }
    Ok(Some(body.unwrap_or_else(|| format!("(a body of {size} bytes with the SHA-256 {hash})\n").into())))
}

fn parts(content: &RevisionContent) -> Parts {
    let mut parts = Parts::new();
    parts.insert((0, "policy".to_owned()), Part::Text(head(content)));
    let mut add = |name: String, part: Part| {
        parts.insert((1, name), part);
    };
    match &content.offer {
        PolicyOffer::Config(files) => {
            for (name, file) in files {
                add(format!("files/{name}"), Part::Body(file.content, file.size));
            }
        }
        PolicyOffer::Packages(packages) => {
            for (name, package) in packages {
                add(format!("packages/{name}"), Part::Text(self::package(package)));
            }
        }
        PolicyOffer::ConnectionSettings(settings) => {
            for (name, text) in connections(settings) {
                add(format!("connections/{name}"), Part::Text(text));
            }
        }
    }
    parts
}

/// What a revision says beside its contents, in the words of manifests.
fn head(content: &RevisionContent) -> String {
    let RevisionContent { selector, priority, offer, allow_empty, max_per_second, plan } = content;
    let mut text = format!("selector: {selector}\npriority: {priority}\nallow_empty: {allow_empty}\n");
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    for (name, FileRef { content_type, role, is_template, .. }) in offer.files() {
        line(format!("files: {name:?}: content_type: {content_type:?}, role: {role:?}, template: {is_template}"));
    }
    if *max_per_second > 0 {
        line(format!("rollout: max_per_second: {max_per_second}"));
    }
    if let Some(plan) = plan {
        let Plan {
            steps,
            bake_seconds,
            agent_deadline_seconds,
            max_failures,
            min_sample,
            on_failure,
            approval,
            windows,
            effective_config,
        } = plan;
        let joined = |texts: Vec<String>| texts.join(", ");
        line(format!("rollout: steps: {}", joined(steps.iter().map(ToString::to_string).collect())));
        line(format!("rollout: bake: {bake_seconds}s"));
        line(format!("rollout: agent_deadline: {agent_deadline_seconds}s"));
        line(format!("rollout: max_failures: {}", percent(*max_failures)));
        line(format!("rollout: min_sample: {min_sample}"));
        line(format!(
            "rollout: on_failure: {}",
            match on_failure {
                OnFailure::Pause => "pause",
                OnFailure::Rollback => "rollback",
            }
        ));
        line(format!("rollout: approval: {approval}"));
        line(format!("rollout: effective_config: {effective_config}"));
        line(format!("rollout: windows: {}", joined(windows.iter().map(ToString::to_string).collect())));
    }
    text
}

/// The last line covers everything: that a secret is another is seen, not which.
fn package(package: &PackageAvailable) -> String {
    let r#type = match package.r#type() {
        PackageType::TopLevel => "top_level",
        PackageType::Addon => "addon",
    };
    let file = package.file.clone().unwrap_or_default();
    let signature = match file.signature.is_empty() {
        true => "none".to_owned(),
        false => format!("SHA-256 {}", ContentHash::of(&file.signature)),
    };
    format!(
        "type: {type}\nversion: {}\nurl: {}\nsha256: {}\nheaders: {}\nsignature: {signature}\ndigest: {}\n",
        package.version,
        file.download_url,
        hex::encode(&file.content_hash),
        names(&file.headers),
        digest(package),
    )
}

fn connections(settings: &ConnectionSettingsOffers) -> Vec<(String, String)> {
    let mut connections = Vec::new();
    if let Some(opamp) = &settings.opamp {
        let rest = format!("heartbeat_interval: {}s\n", opamp.heartbeat_interval_seconds);
        let secured = (&opamp.headers, &opamp.certificate, &opamp.tls, &opamp.proxy);
        connections.push(("opamp".to_owned(), connection(&opamp.destination_endpoint, secured, &rest, digest(opamp))));
    }
    for (name, telemetry) in
        [("own_metrics", &settings.own_metrics), ("own_traces", &settings.own_traces), ("own_logs", &settings.own_logs)]
    {
        let Some(own) = telemetry else { continue };
        let secured = (&own.headers, &own.certificate, &own.tls, &own.proxy);
        connections.push((name.to_owned(), connection(&own.destination_endpoint, secured, "", digest(own))));
    }
    for (name, other) in &settings.other_connections {
        let rest: String =
            other.other_settings.iter().map(|(key, value)| format!("settings: {key:?}: {value:?}\n")).collect();
        let secured = (&other.headers, &other.certificate, &other.tls, &other.proxy);
        let text = connection(&other.destination_endpoint, secured, &rest, digest(other));
        connections.push((format!("other/{name}"), text));
    }
    connections
}

type Secured<'a> = (
    &'a Option<Headers>,
    &'a Option<TlsCertificate>,
    &'a Option<TlsConnectionSettings>,
    &'a Option<ProxyConnectionSettings>,
);

fn connection(endpoint: &str, secured: Secured<'_>, rest: &str, digest: ContentHash) -> String {
    let (headers, certificate, tls, proxy) = secured;
    let mut text = format!("endpoint: {endpoint}\n{rest}headers: {}\n", names(headers));
    if let Some(certificate) = certificate {
        let _ = writeln!(text, "certificate: SHA-256 {}", ContentHash::of(&certificate.cert));
    }
    if let Some(tls) = tls {
        let ca = ContentHash::of(tls.ca_pem_contents.as_bytes());
        let _ = writeln!(
            text,
            "tls: versions: {:?} to {:?}, ca: SHA-256 {ca}, system_cas: {}, skip_verify: {}, cipher_suites: {:?}",
            tls.min_version,
            tls.max_version,
            tls.include_system_ca_certs_pool,
            tls.insecure_skip_verify,
            tls.cipher_suites
        );
    }
    if let Some(proxy) = proxy {
        let _ = writeln!(text, "proxy: {}, headers: {}", proxy.url, names(&proxy.connect_headers));
    }
    let _ = writeln!(text, "digest: {digest}");
    text
}

fn names(headers: &Option<Headers>) -> String {
    let names = headers.iter().flat_map(|headers| &headers.headers).map(|header| header.key.as_str());
    names.collect::<Vec<_>>().join(", ")
}

fn digest(message: &impl Message) -> ContentHash {
    ContentHash::of(&message.encode_to_vec())
}
