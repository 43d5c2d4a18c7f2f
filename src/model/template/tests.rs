use proptest::prelude::*;

use super::*;
use crate::{
    model::{Attributes, InstanceUid, Labels},
    proto::opamp::{AgentDescription, AnyValue, ArrayValue, KeyValue, any_value::Value},
};

fn subject(attributes: Vec<(&str, Value)>, labels: &[(&str, &str)]) -> Subject {
    let value = |value| Some(AnyValue { value: Some(value) });
    let pairs = attributes.into_iter().map(|(key, of)| KeyValue { key: key.into(), value: value(of) });
    let description = AgentDescription { identifying_attributes: pairs.collect(), ..Default::default() };
    let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Subject::new(InstanceUid::from_slice(&[1; 16]).unwrap(), &Attributes::from(description), &labels)
}

fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

fn web() -> Subject {
    subject(
        vec![("service.name", text("web")), ("cores", Value::IntValue(4)), ("spot", Value::BoolValue(false))],
        &[("region", "eu"), ("quote", "a\"b: c")],
    )
}

fn render(source: &str, subject: &Subject) -> String {
    match Template::parse(source.as_bytes()) {
        Ok(template) => template.render(subject).unwrap_or_else(|problem| format!("not rendered: {problem}")),
        Err(problem) => format!("refused: {problem}"),
    }
}

#[test]
fn what_is_known_of_an_agent_is_filled_in() {
    let cases = [
        ("plain\n", "plain\n"),
        ("{{ attributes[\"service.name\"] }} on {{ labels.region }}", "web on eu"),
        ("id: {{ instance_uid }}", "id: 01010101-0101-0101-0101-010101010101"),
        ("{{ attributes.cores * 2 }}", "8"),
        ("{{ labels.zone | default(\"none\") }}", "none"),
        ("q: {{ labels.quote | tojson }}", "q: \"a\\\"b: c\""),
        ("{% if labels.zone is defined %}a{% else %}b{% endif %}", "b"),
        ("a:\n{% if not attributes.spot %}\n  b: 1\n{% endif %}\nc: 2\n", "a:\n  b: 1\nc: 2\n"),
        ("{% for key, value in labels | items %}{{ key }}={{ value }};{% endfor %}", "quote=a\"b: c;region=eu;"),
        ("{% set x = labels.region | upper %}{{ x }}", "EU"),
        ("${env:HOST} {% raw %}{{ kept }}{% endraw %}", "${env:HOST} {{ kept }}"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, &web()), expected, "{source}");
    }
    let nested = subject(
        vec![("list", Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(text("x")) }] }))],
        &[],
    );
    assert_eq!(render("{{ attributes.list[0] }}", &nested), "x");
}

#[test]
fn what_nobody_can_have_is_refused_with_its_place() {
    let cases = [
        ("a: 1\nb: {{ hostname }}\n", "refused: line 2, column 7: unknown name \"hostname\""),
        ("{% if false %}{{ nobody }}{% endif %}", "refused: line 1, column 18: unknown name \"nobody\""),
        ("{{ labels.a | nofilter }}", "refused: line 1, column "),
        ("{% if labels.a is notest %}{% endif %}", "refused: line 1, column "),
        ("{{ range(10) }}", "refused: line 1, column 4: unknown name \"range\""),
        ("a\n{{ labels.a", "refused: line 2, column "),
        ("a\n{% include \"/etc/passwd\" %}", "refused: line 2, column "),
        ("{% macro f() %}{% endmacro %}", "refused: line 1, column "),
        ("{% autoescape true %}{% endautoescape %}", "refused: line 1, column "),
        ("{% endif %}", "refused: line 1, column "),
        ("{{ self }}", "refused: line 1, column 4: unknown name \"self\""),
    ];
    for (source, expected) in cases {
        let said = render(source, &web());
        assert!(said.starts_with(expected), "{source}: {said}");
    }
    assert!(render("{{ labels.a | nofilter }}", &web()).contains("unknown filter \"nofilter\""));
    assert!(render("{% if labels.a is notest %}{% endif %}", &web()).contains("unknown test \"notest\""));
    assert!(Template::parse(b"\xff").is_err());
    assert!(Template::parse(&vec![b'x'; MAX_BYTES]).is_ok());
    assert!(Template::parse(&vec![b'x'; MAX_BYTES + 1]).is_err());
}

#[test]
fn what_an_agent_does_not_have_is_said_with_its_place() {
    let cases = [
        ("a: 1\nb: {{ labels.zone }}\n", "not rendered: line 2, column 7: undefined value"),
        ("{{ attributes[\"host.name\"] }}", "not rendered: line 1, column "),
        ("{% if labels.zone %}{% endif %}", "not rendered: line 1, column "),
        ("{{ labels.zone.a }}", "not rendered: line 1, column "),
    ];
    for (source, expected) in cases {
        let said = render(source, &web());
        assert!(said.starts_with(expected), "{source}: {said}");
    }
    assert!(render("{{ labels.zone }}", &web()).contains("labels.zone"));
}

#[test]
fn templates_cannot_run_away() {
    let long = "{% for a in \"x\" * 100000 %}{% for b in \"x\" * 100000 %}{{ a }}{% endfor %}{% endfor %}";
    assert!(render(long, &web()).contains("fuel"), "{}", render(long, &web()));
    let large = "{% set a = \"x\" * 1000000 %}{{ a }}{{ a }}{{ a }}{{ a }}{{ a }}";
    assert!(render(large, &web()).starts_with("not rendered"), "{}", render(large, &web()).len());
    let deep = "{% if true %}".repeat(10_000);
    assert!(render(&deep, &web()).starts_with("refused"));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(render(&deep, &web()).starts_with("refused"));
}

proptest! {
    #[test]
    fn equal_agents_get_equal_files(name in "\\PC{0,20}", region in "\\PC{0,20}", cores in any::<i64>()) {
        let make = || subject(vec![("service.name", text(&name)), ("cores", Value::IntValue(cores))], &[("region", &region)]);
        let source = "n: {{ attributes[\"service.name\"] | tojson }}\nr: {{ labels.region | tojson }}\nc: {{ attributes.cores }}\n\
            all: {{ labels | tojson }}\n";
        let one = render(source, &make());
        prop_assert_eq!(&one, &render(source, &make()));
        // Whatever is in them, what is quoted stays one value.
        prop_assert_eq!(crate::model::syntax::Language::Yaml.check(one.as_bytes()), Ok(()), "{}", one);
    }

    #[test]
    fn no_text_does_harm(source in "(\\{\\{|\\}\\}|\\{%|%\\}|[a-z |.()\\[\\]'\"]|labels|\\n){0,30}") {
        if let Ok(template) = Template::parse(source.as_bytes()) {
            let _ = template.render(&web());
        }
    }
}
