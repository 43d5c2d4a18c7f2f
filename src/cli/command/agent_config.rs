//! What one agent should run, what it says that it runs, and the difference.

use std::{collections::BTreeMap, fmt::Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    cli::{
        connection::Client,
        difference,
        error::Result,
        output::{self, Format, Table},
        view::or_dash,
    },
    proto::admin::{AgentConfig, DesiredFile, EffectiveFile, GetAgentConfigRequest},
};

#[derive(Clone, Copy)]
pub enum Part {
    Desired,
    Effective,
    Difference,
}

impl Part {
    pub fn of(effective: bool, diff: bool) -> Self {
        match (effective, diff) {
            (true, _) => Self::Effective,
            (_, true) => Self::Difference,
            _ => Self::Desired,
        }
    }
}

#[derive(Serialize)]
struct View {
    instance_uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    desired_config_hash: Option<String>,
    /// What has been assigned so far; differs from the desired hash while a change is on its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    assigned_config_hash: Option<String>,
    /// Why nothing is desired: a template cannot be filled in for this agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    unrendered: Option<String>,
    files: BTreeMap<String, File>,
}

#[derive(Serialize)]
struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// Written for this agent, from a template.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    template: bool,
    /// The agent has this revision whatever rollouts do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    overridden: bool,
    content_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// Of a body that is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

pub async fn show(client: &Client, instance_uid: String, part: Part, format: Format) -> Result<()> {
    let request = client.request(GetAgentConfigRequest { instance_uid });
    let config = client.agents().get_agent_config(request).await?.into_inner();
    if !matches!(part, Part::Effective) && !config.unrendered.is_empty() {
        eprintln!("note: the agent keeps what it has: {}", output::plain(&config.unrendered));
    } else if !matches!(part, Part::Effective) && config.desired_config_hash != config.assigned_config_hash {
        eprintln!("note: a change is on its way; the agent has not been assigned this configuration yet");
    }
    if !matches!(part, Part::Desired) && !config.has_effective {
        eprintln!("note: the agent has not reported an effective configuration");
    }
    match (part, format) {
        (Part::Difference, _) => output::write(&differences(&config)),
        (_, Format::Json | Format::Yaml) => output::structured(format, &view(part, config)),
        (_, Format::Name) => {
            let files = view(part, config).files;
            output::write(&files.keys().map(|name| format!("file/{name}\n")).collect::<String>())
        }
        (_, Format::Table | Format::Wide) => text(part, view(part, config)),
    }
}

fn view(part: Part, config: AgentConfig) -> View {
    let files = match part {
        Part::Effective => config.effective.into_iter().map(effective).collect(),
        Part::Desired | Part::Difference => config.desired.into_iter().map(desired).collect(),
    };
    let hash = |bytes: &[u8]| matches!(part, Part::Desired).then(|| hex::encode(bytes));
    View {
        desired_config_hash: hash(&config.desired_config_hash),
        assigned_config_hash: hash(&config.assigned_config_hash),
        unrendered: Some(config.unrendered).filter(|unrendered| !unrendered.is_empty()),
        instance_uid: config.instance_uid,
        files,
    }
}

fn desired(file: DesiredFile) -> (String, File) {
    let (body, body_base64) = text_or_base64(&file.body);
    let view = File {
        policy: Some(file.policy),
        revision: Some(file.revision),
        template: file.template,
        overridden: file.overridden,
        content_type: file.content_type,
        role: Some(file.role),
        body,
        body_base64,
    };
    (file.name, view)
}

fn effective(file: EffectiveFile) -> (String, File) {
    let (body, body_base64) = text_or_base64(&file.body);
    let content_type = file.content_type;
    let view = File {
        policy: None,
        revision: None,
        template: false,
        overridden: false,
        content_type,
        role: None,
        body,
        body_base64,
    };
    (file.name, view)
}

fn text_or_base64(body: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(body) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(body))),
    }
}

/// A table of the files, then each with its body.
fn text(part: Part, view: View) -> Result<()> {
    if view.files.is_empty() {
        eprintln!("{}", if matches!(part, Part::Desired) { "no file is desired" } else { "no file is reported" });
        return Ok(());
    }
    let is_desired = matches!(part, Part::Desired);
    let mut header = vec!["FILE".to_owned(), "CONTENT TYPE".to_owned()];
    header.extend(is_desired.then(|| ["POLICY".to_owned(), "REVISION".to_owned()]).into_iter().flatten());
    let mut rows = vec![header];
    for (name, file) in &view.files {
        let mut row = vec![quoted(name), or_dash(&file.content_type)];
        row.extend(file.policy.clone());
        let how = match (file.template, file.overridden) {
            (true, true) => " (template, override)",
            (true, false) => " (template)",
            (false, true) => " (override)",
            (false, false) => "",
        };
        row.extend(file.revision.map(|revision| format!("{revision}{how}")));
        rows.push(row);
    }
    let mut out = Table::default().lines(rows);
    for (name, file) in view.files {
        let _ = write!(out, "\n--- {} ---\n", quoted(&name));
        match (file.body, file.body_base64) {
            (Some(body), _) => out.push_str(&body),
            (None, Some(body)) => {
                let _ = write!(out, "(not text; base64) {body}");
            }
            (None, None) => {}
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
    output::write(&out)
}

fn quoted(name: &str) -> String {
    if name.is_empty() { "\"\"".to_owned() } else { name.to_owned() }
}

/// From what the agent runs to what it should run, file by file. Agents name what they run as they like: one file on each
/// side is the same file whatever its name.
fn differences(config: &AgentConfig) -> String {
    let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    let mut old: BTreeMap<&str, String> = config.effective.iter().map(|f| (f.name.as_str(), text(&f.body))).collect();
    let new: BTreeMap<&str, String> = config.desired.iter().map(|f| (f.name.as_str(), text(&f.body))).collect();
    if let ([effective], [desired]) = (&config.effective[..], &config.desired[..]) {
        old = [(desired.name.as_str(), text(&effective.body))].into();
    }
    let mut out = String::new();
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let side = |files: &BTreeMap<&str, String>| files.get(name).cloned();
        let (old, new) = (side(&old), side(&new));
        out += &difference::unified(name, ("effective", old.as_deref()), ("desired", new.as_deref()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(effective: &[(&str, &str)], desired: &[(&str, &str)]) -> AgentConfig {
        let body = |body: &str| body.as_bytes().to_vec().into();
        let effective = effective.iter().map(|(name, text)| EffectiveFile {
            name: (*name).into(),
            body: body(text),
            ..Default::default()
        });
        let desired = desired.iter().map(|(name, text)| DesiredFile {
            name: (*name).into(),
            body: body(text),
            ..Default::default()
        });
        AgentConfig { effective: effective.collect(), desired: desired.collect(), ..Default::default() }
    }

    #[test]
    fn one_file_on_each_side_is_compared_whatever_its_name() {
        assert_eq!(differences(&config(&[("", "a\n")], &[("collector.yaml", "a\n")])), "");
        assert_eq!(
            differences(&config(&[("", "a\n")], &[("c.yaml", "b\n")])),
            "--- effective/c.yaml\n+++ desired/c.yaml\n@@ -1 +1 @@\n-a\n+b\n"
        );
    }

    #[test]
    fn files_come_and_go() {
        let text = differences(&config(&[("old", "a\n"), ("same", "s\n")], &[("new", "b\n"), ("same", "s\n")]));
        assert_eq!(
            text,
            "--- effective/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n--- /dev/null\n+++ desired/new\n@@ -0,0 +1 @@\n+b\n"
        );
    }
}
