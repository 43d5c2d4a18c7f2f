//! What real clients do with Muster, for `docs/opamp.md`: each claim names the end-to-end tests that show it.

use std::{fmt::Write, fs, path::PathBuf};

use super::matrix;

/// What is known of a client and a part of the protocol.
enum Known {
    /// These tests in `tests/e2e` show that it works.
    Shown(&'static [&'static str]),
    /// The client has no code for it.
    Cannot,
    /// The client could, and no test tries it.
    Untried,
}

use Known::{Cannot, Shown, Untried};

const CLIENTS: [&str; 6] = ["Supervisor", "`opamp` extension", "Go", "Java", "Python", "Node.js"];

const PARTS: &[(&str, [Known; 6])] = &[
    (
        "reports over WebSocket",
        [
            Shown(&["a_restart_of_either_side_changes_nothing"]),
            Shown(&["the_extension_over_websocket"]),
            Shown(&["go_over_websocket"]),
            Shown(&["java_over_websocket"]),
            Cannot,
            Cannot,
        ],
    ),
    (
        "reports over plain HTTP",
        [
            Shown(&["it_moves_once_to_where_it_is_sent_and_beats_as_it_is_told"]),
            Shown(&["the_extension_over_http"]),
            Shown(&["go_over_http"]),
            Shown(&["java_over_http"]),
            Shown(&["python_over_http"]),
            Shown(&["node_over_http"]),
        ],
    ),
    (
        "health",
        [
            Shown(&["a_bad_configuration_is_not_offered_again_and_the_next_one_is_run"]),
            Shown(&["the_extension_over_websocket"]),
            Shown(&["go_over_websocket", "go_over_http"]),
            Cannot,
            Cannot,
            Cannot,
        ],
    ),
    (
        "effective configuration",
        [
            Shown(&["a_bad_configuration_is_not_offered_again_and_the_next_one_is_run"]),
            Shown(&["the_extension_over_websocket"]),
            Shown(&["go_over_websocket", "go_over_http"]),
            Shown(&["java_over_websocket", "java_over_http"]),
            Shown(&["python_over_http"]),
            Cannot,
        ],
    ),
    (
        "remote configuration: APPLIED, FAILED, the next one",
        [
            Shown(&["a_bad_configuration_is_not_offered_again_and_the_next_one_is_run"]),
            Cannot,
            Shown(&["go_over_websocket", "go_over_http"]),
            Shown(&["java_over_websocket", "java_over_http"]),
            Shown(&["python_over_http"]),
            Shown(&["node_over_http"]),
        ],
    ),
    (
        "comes back when the server was restarted",
        [
            Shown(&["a_restart_of_either_side_changes_nothing"]),
            Shown(&["the_extension_restarts_its_collector_and_comes_back"]),
            Shown(&["go_over_websocket_comes_back", "go_over_http_comes_back"]),
            Shown(&["java_over_websocket_comes_back", "java_over_http_comes_back"]),
            Shown(&["python_comes_back"]),
            Shown(&["node_comes_back"]),
        ],
    ),
    (
        "takes a new uid",
        [
            Shown(&["a_supervisor_whose_uid_is_taken_gets_another_and_keeps_it"]),
            Shown(&["two_collectors_with_one_uid_become_two"]),
            Shown(&["two_go_agents_with_one_uid_become_two"]),
            Shown(&["java_takes_another_uid_over_websocket", "java_takes_another_uid_over_http"]),
            Cannot,
            Shown(&["node_takes_another_uid"]),
        ],
    ),
    (
        "asks for a new uid, with all that is known of it",
        [
            Cannot,
            Cannot,
            Shown(&[
                "go_takes_its_state_along_to_another_uid_over_websocket",
                "go_takes_its_state_along_to_another_uid_over_http",
                "go_goes_on_with_its_certificate_under_another_uid",
            ]),
            Cannot,
            Cannot,
            Cannot,
        ],
    ),
    (
        "packages",
        [
            Cannot,
            Cannot,
            Shown(&["go_over_websocket_installs_what_it_should", "go_over_http_installs_what_it_should"]),
            Cannot,
            Cannot,
            Cannot,
        ],
    ),
    (
        "OpAMP connection settings, heartbeat interval",
        [
            Shown(&["it_moves_once_to_where_it_is_sent_and_beats_as_it_is_told"]),
            Cannot,
            Shown(&["go_moves_to_where_it_is_sent"]),
            Cannot,
            Cannot,
            Cannot,
        ],
    ),
    (
        "own telemetry",
        [Shown(&["the_collector_sends_its_own_telemetry_where_it_is_told"]), Cannot, Untried, Cannot, Cannot, Cannot],
    ),
    (
        "a client certificate in connection settings",
        [Untried, Cannot, Shown(&["go_takes_a_client_certificate"]), Cannot, Cannot, Cannot],
    ),
    (
        "client certificates on request",
        [
            Cannot,
            Cannot,
            Shown(&[
                "go_gets_a_certificate_that_it_asks_for",
                "go_gets_a_certificate_over_http",
                "go_gets_the_certificate_that_an_operator_approves",
                "go_renews_a_certificate_that_comes_near_its_end",
            ]),
            Cannot,
            Cannot,
            Cannot,
        ],
    ),
    (
        "the restart command",
        [
            Shown(&["a_restart_command_restarts_the_collector_once"]),
            Shown(&["the_extension_restarts_its_collector_and_comes_back"]),
            Shown(&["go_restarts_once_over_websocket", "go_restarts_once_over_http"]),
            Cannot,
            Cannot,
            Cannot,
        ],
    ),
    (
        "custom messages, both ways",
        [
            Untried,
            Untried,
            Shown(&["go_is_sent_messages_over_websocket", "go_is_sent_messages_over_http"]),
            Cannot,
            Cannot,
            Cannot,
        ],
    ),
    (
        "available components",
        [
            Shown(&["a_restart_command_restarts_the_collector_once"]),
            Shown(&["the_extension_over_websocket"]),
            Shown(&["go_agents_of_one_build_are_asked_once_what_it_is"]),
            Cannot,
            Cannot,
            Cannot,
        ],
    ),
];

fn table() -> String {
    let mut table = format!("| | {} |\n|---|{}\n", CLIENTS.join(" | "), "---|".repeat(CLIENTS.len()));
    for (part, known) in PARTS {
        let cells = known.iter().map(|known| match known {
            Shown(_) => "yes",
            Cannot => "no",
            Untried => "–",
        });
        writeln!(table, "| {part} | {} |", cells.collect::<Vec<_>>().join(" | ")).unwrap();
    }
    table
}

#[test]
fn the_page_says_what_clients_do() {
    matrix::is_on_page("clients", &table());
}

#[test]
fn each_claim_names_tests_that_there_are() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sources = files.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap());
    let all = sources.collect::<String>();
    let named = PARTS.iter().flat_map(|(_, known)| known).flat_map(|known| match known {
        Shown(tests) => *tests,
        Cannot | Untried => &[],
    });
    let unknown: Vec<&&str> = named.filter(|test| !all.contains(&format!("\nasync fn {test}() {{"))).collect();
    assert!(unknown.is_empty(), "no such tests in tests/e2e: {unknown:?}");
}
