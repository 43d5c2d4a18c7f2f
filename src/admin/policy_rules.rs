//! What an apply must look like.

mod files;
mod packages;
mod rollout;
mod settings;

use tonic::Status;

use super::errors::{Violations, selector_problem};
use crate::{
    model::{
        Selector,
        policy::{PolicyKind, PolicyOffer, RevisionContent},
    },
    proto::admin::{self, ApplyPolicyRequest},
    store::ApplyPolicy,
};

/// A DNS label, so that a name fits into a file name, a URL and a metric's label.
const MAX_NAME_CHARS: usize = 63;
/// Of a file's name, content type and role each, and of its like in other kinds.
const MAX_TEXT_BYTES: usize = 256;
/// Of the reason of an apply.
const MAX_MESSAGE_BYTES: usize = 1024;
/// No deployment changes agents faster.
const MAX_PER_SECOND: u32 = 1_000_000;

/// The apply that a request asks for, or everything that is wrong with it. `hosts`: agents can be told where uploaded files of
/// packages are.
pub fn check(request: ApplyPolicyRequest, hosts: bool) -> Result<ApplyPolicy, Status> {
    let mut violations = Violations::default();
    violations.take("name", check_name(&request.name));
    let kind = match request.kind() {
        admin::PolicyKind::Config => Some(PolicyKind::Config),
        admin::PolicyKind::Packages => Some(PolicyKind::Packages),
        admin::PolicyKind::ConnectionSettings => Some(PolicyKind::ConnectionSettings),
        admin::PolicyKind::Unspecified => violations.take("kind", Err("must be given".to_owned())),
    };
    let selector: Result<Selector, _> = request.selector.parse();
    let selector = violations.take("selector", selector.map_err(|error| selector_problem(&error)));
    // What stands in the field of another kind would be lost.
    let given = [
        ("files", !request.files.is_empty(), PolicyKind::Config),
        ("packages", !request.packages.is_empty(), PolicyKind::Packages),
        ("connection_settings", request.connection_settings.is_some(), PolicyKind::ConnectionSettings),
    ];
    for (field, is_given, of) in given {
        if let Some(kind) = kind.filter(|kind| is_given && *kind != of) {
            violations.add(field, format!("is of policies of the kind {}, not of {}", of.name(), kind.name()));
        }
    }
    let mut bodies = Vec::new();
    let offer = match kind.unwrap_or(PolicyKind::Config) {
        PolicyKind::Config => {
            if request.files.is_empty() && !request.allow_empty {
                let problem = "a policy without files offers nothing; with allow_empty it may leave agents empty";
                violations.add("files", problem);
            }
            let (files, of_files) = files::check(&request.name, request.files, &mut violations);
            bodies = of_files;
            PolicyOffer::Config(files)
        }
        PolicyKind::Packages => packages::check(request.packages, request.allow_empty, hosts, &mut violations),
        PolicyKind::ConnectionSettings => settings::check(request.connection_settings, &mut violations),
    };
    if request.allow_empty && kind == Some(PolicyKind::ConnectionSettings) {
        violations.add("allow_empty", "connection settings are withdrawn one by one, and never emptied");
    }
    if request.max_per_second > MAX_PER_SECOND {
        violations.add("max_per_second", format!("must be at most {MAX_PER_SECOND}"));
    }
    let plan = request.rollout.and_then(|plan| rollout::check(plan, kind, &mut violations));
    violations.take("message", check_message(&request.message));
    violations.check()?;
    let (Some(kind), Some(selector)) = (kind, selector) else {
        return Err(Status::internal("a field was not checked"));
    };
    Ok(ApplyPolicy {
        name: request.name,
        kind,
        content: RevisionContent {
            selector,
            priority: request.priority,
            offer,
            allow_empty: request.allow_empty,
            max_per_second: request.max_per_second,
            plan,
        },
        message: request.message,
        bodies,
        etag: request.etag,
        validate_only: request.validate_only,
    })
}

/// Why something was done, in an operator's words.
pub fn check_message(message: &str) -> Result<(), String> {
    match message.len() > MAX_MESSAGE_BYTES || message.contains('\0') {
        true => Err(format!("must be at most {MAX_MESSAGE_BYTES} bytes, and without U+0000")),
        false => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = name.chars().all(|c| is_plain(c) || c == '-');
    if name.is_empty()
        || name.len() > MAX_NAME_CHARS
        || !inner
        || !name.starts_with(is_plain)
        || !name.ends_with(is_plain)
    {
        let problem = "lower-case letters, digits and -, with a letter or digit at both ends";
        return Err(format!("must have 1 to {MAX_NAME_CHARS} {problem}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::{files::MAX_BYTES as MAX_FILE_BYTES, *};
    use crate::proto::admin::PolicyFile;

    fn file(name: &str, bytes: usize) -> PolicyFile {
        PolicyFile { name: name.into(), body: vec![b'x'; bytes].into(), ..Default::default() }
    }

    fn request(files: Vec<PolicyFile>) -> ApplyPolicyRequest {
        ApplyPolicyRequest { name: "base".into(), kind: 1, files, ..Default::default() }
    }

    fn violated(request: ApplyPolicyRequest) -> Vec<String> {
        let Err(status) = check(request, false) else { return Vec::new() };
        let violations = status.get_details_bad_request().expect("a BadRequest").field_violations;
        assert_eq!(status.get_details_error_info().expect("an ErrorInfo").reason, "INVALID_FIELD");
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn names_are_dns_labels() {
        for name in ["a", "linux-base", "0", &"x".repeat(63)] {
            assert_eq!(violated(ApplyPolicyRequest { name: name.into(), ..request(vec![file("f", 1)]) }), [""; 0]);
        }
        for name in ["", "A", "-a", "a-", "a.b", "a b", "ä", &"x".repeat(64)] {
            assert_eq!(violated(ApplyPolicyRequest { name: name.into(), ..request(vec![file("f", 1)]) }), ["name"]);
        }
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let wrong = ApplyPolicyRequest {
            name: "no good".into(),
            selector: "a in (".into(),
            max_per_second: u32::MAX,
            ..Default::default()
        };
        assert_eq!(violated(wrong), ["name", "kind", "selector", "files", "max_per_second"]);
    }

    #[test]
    fn files_are_bounded() {
        assert_eq!(violated(request(vec![file("a", 1), file("a", 2)])), ["files[\"a\"]"]);
        assert_eq!(violated(request(vec![file("a", MAX_FILE_BYTES + 1)])), ["files[\"a\"].body"]);
        assert_eq!(violated(request((0..5).map(|n| file(&n.to_string(), MAX_FILE_BYTES)).collect())), ["files"]);
        assert_eq!(violated(request((0..65).map(|n| file(&n.to_string(), 1)).collect())), ["files"]);
        assert_eq!(violated(request(vec![file("a\nb", 1)])), ["files[\"a\\nb\"].name"]);
        assert_eq!(
            violated(request(vec![file("", MAX_FILE_BYTES)])),
            [""; 0],
            "an empty name and a full body are good"
        );
        assert_eq!(violated(request(vec![])), ["files"]);
        let template = |bytes| request(vec![PolicyFile { template: true, ..file("t", bytes) }]);
        assert_eq!(violated(template(1024 * 1024)), [""; 0]);
        assert_eq!(violated(template(1024 * 1024 + 1)), ["files[\"t\"].body"]);
        assert_eq!(violated(ApplyPolicyRequest { allow_empty: true, ..request(vec![]) }), [""; 0]);
    }

    #[test]
    fn files_are_what_their_content_types_say() {
        let said = |content_type: &str, body: &'static str, template: bool| {
            let file = PolicyFile {
                name: "a".into(),
                content_type: content_type.into(),
                body: body.into(),
                template,
                ..Default::default()
            };
            check(request(vec![file]), false).err().map(|status| status.message().to_owned()).unwrap_or_default()
        };
        let duplicate = "a: 1\nb: 2\na: 3\n";
        let expected = "files[\"a\"].body: policy base: not YAML: line 3, column 1: ";
        assert!(said("Text/YAML; charset=utf-8", duplicate, false).starts_with(expected));
        let expected = "files[\"a\"].body: policy base: not JSON: line 2, column 1: ";
        assert!(said("application/json", "{\"a\":\n}", false).starts_with(expected));
        assert_eq!(said("text/plain", duplicate, false), "");
        assert_eq!(said("", duplicate, false), "");
        assert_eq!(
            said("text/yaml", "{{ labels.a }}: {{ labels.b }}", true),
            "",
            "what it comes to is looked at later"
        );
        let expected = "files[\"a\"].body: policy base: not a template: line 1, column 4: unknown name \"host\"";
        assert!(said("text/yaml", "{{ host }}", true).starts_with(expected));
    }
}
