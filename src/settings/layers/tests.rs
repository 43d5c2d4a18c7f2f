use std::io::Write;

use super::*;
use crate::settings::{Command as Role, secret};

fn try_resolve(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Resolved, Error> {
    let arguments = ["muster"].iter().chain(arguments).map(OsString::from).collect();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    resolve(arguments, &environment)
}

fn plan(arguments: &[&str], environment: &[(&str, &str)]) -> crate::load::Plan {
    let resolved = try_resolve(&[&["load"], arguments].concat(), environment).unwrap();
    let Role::Load(role) = resolved.cli.command else { panic!("another command") };
    role.load.plan().unwrap()
}

fn problem(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    match try_resolve(arguments, environment) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file =
        file("agents = 2\nrate = 2\nheartbeat = '2s'\n[load]\nheartbeat = '22s'\n[gateway]\ndrain_window = '1s'");
    let path = file.path().to_str().unwrap();
    let environment = [("MUSTER_CONFIG_FILE", path), ("MUSTER_AGENTS", "3"), ("MUSTER_RATE", "3")];
    let plan = plan(&["--agents", "4"], &environment);
    assert_eq!((plan.agents, plan.connects_per_second), (4, 3));
    assert_eq!((plan.heartbeat.as_secs(), plan.report_bytes), (22, 2_048));
}

#[test]
fn lists_come_from_every_layer() {
    let labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
    let file = file("label = ['a=1', 'b=2']");
    assert_eq!(plan(&["--label", "a=1", "--label=b=2"], &[("MUSTER_LABEL", "c=3")]).attributes, labels);
    assert_eq!(plan(&[], &[("MUSTER_LABEL", "a=1, b=2")]).attributes, labels);
    assert_eq!(plan(&["--config", file.path().to_str().unwrap()], &[]).attributes, labels);
    let endpoints = plan(&[], &[("MUSTER_URL", "ws://a,ws://b")]).endpoints;
    assert_eq!(endpoints.len(), 2, "a given list replaces the default");
}

#[test]
fn what_cannot_work_is_named_with_its_source() {
    let bad_type = file("agents = 'many'");
    let unknown = file("agentz = 1");
    let unknown_in_table = file("[load]\nredis_url = 'x'");
    let kebab = file("drain-window = '1s'");
    let broken = file("agents =");
    let load = |file: &tempfile::NamedTempFile| problem(&["load", "--config", file.path().to_str().unwrap()], &[]);
    let cases = [
        (problem(&["load", "--heartbeat", "x"], &[]), vec!["--heartbeat", "x"]),
        (problem(&["load"], &[("MUSTER_HEARTBEAT", "x")]), vec!["heartbeat", "MUSTER_HEARTBEAT", "x"]),
        (problem(&["gateway"], &[("MUSTER_AGENT_AUTH", "maybe")]), vec!["MUSTER_AGENT_AUTH", "maybe", "required"]),
        (load(&bad_type), vec!["agents", "many", bad_type.path().to_str().unwrap()]),
        (load(&unknown), vec!["agentz", unknown.path().to_str().unwrap()]),
        (load(&unknown_in_table), vec!["load.redis_url"]),
        (load(&kebab), vec!["drain-window", "drain_window"]),
        (load(&broken), vec![broken.path().to_str().unwrap(), "line 1"]),
        (problem(&["load"], &[("MUSTER_CONFIG_FILE", "/nonexistent.toml")]), vec!["/nonexistent.toml"]),
        (problem(&["load", "--agents", "0"], &[]), vec!["--agents", "0"]),
    ];
    for (text, parts) in cases {
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} not all in: {text}");
    }
}

#[test]
fn secrets_are_taken_from_anywhere_and_never_shown() {
    let file = file("redis_url = 'redis://:hunter2@h'");
    let role = |environment: &[(&str, &str)]| {
        let resolved = try_resolve(&["gateway"], environment).unwrap();
        assert!(!format!("{:?}", resolved.cli).contains("hunter2"));
        match resolved.cli.command {
            Role::Gateway(role) => role,
            other => panic!("{other:?}"),
        }
    };
    let path = file.path().to_str().unwrap();
    assert_eq!(role(&[("MUSTER_CONFIG_FILE", path)]).bus.url().unwrap().expose(), "redis://:hunter2@h");
    assert_eq!(role(&[("MUSTER_REDIS_URL", "redis://:hunter2@i")]).bus.url().unwrap().expose(), "redis://:hunter2@i");
    let both = role(&[("MUSTER_REDIS_URL", "redis://a"), ("MUSTER_REDIS_URL_FILE", path)]).bus.url();
    assert!(both.unwrap_err().to_string().contains("--redis-url-file"));
    assert!(role(&[]).bus.url().unwrap_err().to_string().contains("MUSTER_REDIS_URL"));
    assert_eq!(secret::one_of("x", &None, &None).unwrap(), None);
}

#[test]
fn odd_variables_are_noticed() {
    let environment = [
        ("MUSTER_AGENTZ", "1"),
        ("MUSTER_SERVER", "h"),
        ("MUSTER_PORT_4320_TCP", "tcp://"),
        ("MUSTER_REDIS_URL", "r"),
        ("PATH", "/"),
    ];
    assert_eq!(try_resolve(&["load"], &environment).unwrap().unknown_variables, ["MUSTER_AGENTZ"]);
}

#[test]
fn declarations_are_sound() {
    command().debug_assert();
    for role in command().get_subcommands() {
        for setting in settings_of(role) {
            let name = format!("{} {}", role.get_name(), setting.get_id());
            assert!(setting.get_help().is_some(), "{name} has no documentation");
            assert!(setting.get_value_names().is_some(), "{name} has no type");
            assert!(setting.get_help_heading().is_some(), "{name} has no group");
        }
    }
}

#[test]
fn reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
    let page = crate::settings::reference::markdown();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(page == written, "docs/settings.md is out of date: run `cargo run settings-reference > docs/settings.md`");
}
