//! The files of a configuration.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::MAX_TEXT_BYTES;
use crate::{
    admin::errors::Violations,
    model::{ContentHash, policy::FileRef, syntax::Language, template::Template},
    proto::admin::PolicyFile,
};

/// Every file is a row of what a desired configuration is merged from.
const MAX_FILES: usize = 64;
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// What one policy may bring an agent; real clients take messages of up to 64 MiB.
const MAX_POLICY_BYTES: usize = 16 * 1024 * 1024;

/// Files whose bodies are told to be wrong, at a time: errors travel in headers.
const MAX_WRONG_BODIES: usize = 8;

type Files = BTreeMap<String, FileRef>;

/// The files of `policy`, and their bodies.
pub(super) fn check(
    policy: &str,
    given: Vec<PolicyFile>,
    violations: &mut Violations,
) -> (Files, Vec<(ContentHash, Bytes)>) {
    let mut files = Files::new();
    let mut bodies = Vec::new();
    if given.len() > MAX_FILES {
        violations.add("files", format!("at most {MAX_FILES} files are possible, not {}", given.len()));
        return (files, bodies);
    }
    let total: usize = given.iter().map(|file| file.body.len()).sum();
    if total > MAX_POLICY_BYTES {
        violations.add("files", format!("the bodies have {total} bytes; at most {MAX_POLICY_BYTES} are possible"));
    }
    let mut wrong_bodies = 0;
    for file in given {
        let field = format!("files[{:?}]", file.name);
        for (part, text) in [("name", &file.name), ("content_type", &file.content_type), ("role", &file.role)] {
            if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
                let problem = format!("must have at most {MAX_TEXT_BYTES} bytes and no control characters");
                violations.add(format!("{field}.{part}"), problem);
            }
        }
        if wrong_bodies < MAX_WRONG_BODIES
            && let Err(problem) = body(&file)
        {
            wrong_bodies += 1;
            violations.add(format!("{field}.body"), format!("policy {policy}: {problem}"));
        }
        let content = ContentHash::of(&file.body);
        let size = file.body.len() as u64;
        let PolicyFile { name, content_type, role, template: is_template, body, .. } = file;
        if files.insert(name, FileRef { content, content_type, role, size, is_template }).is_some() {
            violations.add(field, "is given twice");
        }
        bodies.push((content, body));
    }
    (files, bodies)
}

/// What a template comes to is looked at for each agent.
fn body(file: &PolicyFile) -> Result<(), String> {
    if file.body.len() > MAX_BYTES {
        return Err(format!("has {} bytes; at most {MAX_BYTES} are possible", file.body.len()));
    }
    if file.template {
        return Template::parse(&file.body).map(drop).map_err(|problem| format!("not a template: {problem}"));
    }
    match Language::of(&file.content_type) {
        Some(language) => language.check(&file.body).map_err(|problem| format!("not {}: {problem}", language.name())),
        None => Ok(()),
    }
}
