//! Configurations whose files are written for each agent, from the templates that policies have.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;

use super::{
    ContentHash,
    desired::{DesiredConfig, DesiredFile},
    syntax::{Language, Problem},
    template::{Subject, Template},
};

/// Of the texts of all templates that are kept in memory. Those with the largest hashes are left out beyond it: the same ones
/// everywhere.
pub const MAX_TEMPLATE_BYTES: u64 = 64 * 1024 * 1024;

/// The templates of a set of policies, by the hashes of their texts.
#[derive(Clone, Debug, Default)]
pub struct Templates(Arc<BTreeMap<ContentHash, Result<Template, Problem>>>);

/// Why an agent cannot be given its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrendered {
    pub policy: String,
    pub revision: u64,
    pub file: String,
    /// Where in the template; of one whose result is not what its content type says, where in the result.
    pub problem: Problem,
}

impl fmt::Display for Unrendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, revision, file, problem } = self;
        write!(f, "template {file:?} of policy {policy}, revision {revision}: {problem}")
    }
}

impl Templates {
    /// These, and what is here.
    pub fn with(&self, bodies: impl IntoIterator<Item = (ContentHash, Bytes)>) -> Self {
        let mut templates = BTreeMap::clone(&self.0);
        for (hash, body) in bodies {
            templates.entry(hash).or_insert_with(|| Template::parse(&body));
        }
        Self(Arc::new(templates))
    }

    pub(super) fn render(
        &self,
        merged: &DesiredConfig,
        subject: &Subject,
        known: Option<ContentHash>,
    ) -> Result<DesiredConfig, Unrendered> {
        let mut files = BTreeMap::new();
        let mut bodies = BTreeMap::new();
        for (name, file) in &merged.files {
            let file = match file.file.is_template {
                false => file.clone(),
                true => {
                    let body = self.body(name, file, subject)?;
                    let rendered = written(file, &body);
                    bodies.insert(rendered.file.content, body);
                    rendered
                }
            };
            files.insert(name.clone(), file);
        }
        let config = DesiredConfig::of(files, bodies.into_iter().collect());
        if known != Some(config.hash) {
            check(&config)?;
        }
        Ok(config)
    }

    fn body(&self, name: &str, file: &DesiredFile, subject: &Subject) -> Result<Bytes, Unrendered> {
        let rendered = match self.0.get(&file.file.content) {
            Some(Ok(template)) => template.render(subject),
            Some(Err(problem)) => Err(problem.clone()),
            None => Err(Problem::new(0, 0, "its text could not be read, or all templates together are too large")),
        };
        rendered.map(Bytes::from).map_err(|problem| unrendered(name, file, problem))
    }
}

fn written(file: &DesiredFile, body: &Bytes) -> DesiredFile {
    let mut rendered = file.clone();
    rendered.template = Some(file.file.content);
    rendered.file.content = ContentHash::of(body);
    rendered.file.size = body.len() as u64;
    rendered.file.is_template = false;
    rendered
}

fn unrendered(name: &str, file: &DesiredFile, problem: Problem) -> Unrendered {
    Unrendered { policy: file.policy.clone(), revision: file.revision, file: name.to_owned(), problem }
}

/// Whether what was written is what its content type says: a value without quotes can make something else of it.
fn check(config: &DesiredConfig) -> Result<(), Unrendered> {
    for (name, file) in config.files.iter().filter(|(_, file)| file.template.is_some()) {
        let body = config.rendered.iter().find(|(hash, _)| *hash == file.file.content);
        let (Some((_, body)), Some(language)) = (body, Language::of(&file.file.content_type)) else { continue };
        language.check(body).map_err(|problem| {
            let words = format!("what it comes to is not {}: {}", language.name(), problem.words);
            unrendered(name, file, Problem::new(problem.line, problem.column, &words))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Attributes, InstanceUid, Labels, desired::config_hash, policy::FileRef};

    fn file(policy: &str, content_type: &str, text: &str, is_template: bool) -> DesiredFile {
        let file = FileRef {
            content: ContentHash::of(text.as_bytes()),
            content_type: content_type.into(),
            role: String::new(),
            size: text.len() as u64,
            is_template,
        };
        DesiredFile { file, policy: policy.into(), revision: 3, template: None }
    }

    fn subject(labels: &[(&str, &str)]) -> Subject {
        let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Subject::new(InstanceUid::from_slice(&[1; 16]).unwrap(), &Attributes::default(), &labels)
    }

    fn templates(texts: &[&'static str]) -> Templates {
        Templates::default().with(texts.iter().map(|text| (ContentHash::of(text.as_bytes()), Bytes::from(*text))))
    }

    const TEMPLATE: &str = "region: {{ labels.region }}\n";

    fn merged() -> DesiredConfig {
        let files = [
            ("a.yaml".to_owned(), file("base", "text/yaml", TEMPLATE, true)),
            ("b.yaml".to_owned(), file("other", "text/yaml", "b: 1\n", false)),
        ];
        DesiredConfig::of(files.into(), Vec::new())
    }

    #[test]
    fn what_is_written_has_the_hash_that_it_would_have_if_it_were_given_so() {
        let (templates, merged) = (templates(&[TEMPLATE]), merged());
        assert!(merged.has_templates);
        let config = templates.render(&merged, &subject(&[("region", "eu")]), None).unwrap();
        let plain = [
            ("a.yaml", file("x", "text/yaml", "region: eu\n", false).file),
            ("b.yaml", file("x", "text/yaml", "b: 1\n", false).file),
        ];
        assert_eq!(config.hash, config_hash(plain.iter().map(|(name, file)| (*name, file))));
        assert_eq!(config.rendered, [(plain[0].1.content, Bytes::from("region: eu\n"))]);
        assert_eq!(config.files["a.yaml"].template, Some(ContentHash::of(TEMPLATE.as_bytes())));
        assert_eq!(config.files["b.yaml"].template, None);
        assert!(!config.has_templates);
        let other = templates.render(&merged, &subject(&[("region", "eu"), ("more", "x")]), None).unwrap();
        assert_eq!(other, config, "equal results are equal");
        let another = templates.render(&merged, &subject(&[("region", "us")]), None).unwrap();
        assert_ne!(another.hash, config.hash);
    }

    #[test]
    fn one_file_that_cannot_be_written_leaves_none() {
        let (templates, merged) = (templates(&[TEMPLATE]), merged());
        let refused = templates.render(&merged, &subject(&[]), None).unwrap_err();
        assert_eq!((refused.policy.as_str(), refused.revision, refused.file.as_str()), ("base", 3, "a.yaml"));
        assert!(refused.to_string().starts_with("template \"a.yaml\" of policy base, revision 3: line 1, column 12: "));
        let unknown = Templates::default().render(&merged, &subject(&[("region", "eu")]), None).unwrap_err();
        assert!(unknown.to_string().contains("could not be read"), "{unknown}");
    }

    #[test]
    fn what_comes_out_is_still_what_its_content_type_says() {
        let (templates, merged) = (templates(&[TEMPLATE]), merged());
        let refused = templates.render(&merged, &subject(&[("region", "a: b")]), None).unwrap_err();
        assert!(refused.to_string().contains("what it comes to is not YAML"), "{refused}");
        let text = DesiredConfig::of([("a".to_owned(), file("base", "", TEMPLATE, true))].into(), Vec::new());
        assert!(templates.render(&text, &subject(&[("region", "a: b")]), None).is_ok(), "only what says so");
    }

    proptest! {
        #[test]
        fn the_hash_follows_from_the_agent_and_the_texts_alone(
            labels in prop::collection::btree_map("[a-z]{1,3}", "\\PC{0,8}", 0..4),
            others in prop::collection::btree_map("[a-z]{1,3}", "\\PC{0,8}", 0..4),
        ) {
            const ALL: &str = "all: {{ labels | tojson }}\n";
            let render = |texts: &[&'static str], labels: &Labels| {
                let files = [("a.yaml".to_owned(), file("base", "text/yaml", ALL, true))];
                let merged = DesiredConfig::of(files.into(), Vec::new());
                let subject = Subject::new(InstanceUid::from_slice(&[1; 16]).unwrap(), &Attributes::default(), labels);
                templates(texts).render(&merged, &subject, None).map(|config| (config.hash, config.rendered))
            };
            let one = render(&[ALL, TEMPLATE], &labels);
            prop_assert!(one.is_ok(), "{one:?}");
            prop_assert_eq!(&one, &render(&[TEMPLATE, ALL], &labels.clone()));
            prop_assert_eq!(one == render(&[ALL], &others), labels == others);
        }
    }
}
