//! Reports are repeated until acknowledged, and never lose anything.

use std::time::Duration;

use muster::{gateway::Config, proto::opamp::ServerErrorResponseType};

use super::harness::*;

#[tokio::test]
async fn a_report_is_repeated_until_acknowledged_and_grows_meanwhile() {
    let mut bench = Bench::start(Config { verdict_wait: Duration::ZERO, ..config() }).await;
    bench.service.keep_silent();
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    let first = bench.service.report().await;
    let repeat = bench.service.report().await;
    assert_eq!(repeat, first, "the same again");

    agent.say(&health(1, 1, "disk")).await;
    let grown = loop {
        let report = bench.service.report().await;
        if report.report_number == 2 {
            break report;
        }
    };
    let said = message(&grown);
    assert!(said.agent_description.is_some() && said.health.is_some() && grown.opening.is_some());

    // The older acknowledgement ends the opening and drops nothing newer.
    bench.service.verdict(acknowledgement(&first)).await;
    let still = loop {
        let report = bench.service.report().await;
        if report.opening.is_none() {
            break report;
        }
    };
    assert_eq!(message(&still).health, said.health);
    bench.service.verdict(acknowledgement(&still)).await;
    agent.say(&health(1, 2, "fine")).await;
    let next = loop {
        let report = bench.service.report().await;
        if report.report_number == 3 {
            break report;
        }
    };
    assert_eq!(message(&next).agent_description, None, "what is durable is not repeated");
}

#[tokio::test]
async fn pending_reports_of_all_agents_together_have_a_bound() {
    let mut bench = Bench::start(Config { verdict_wait: Duration::ZERO, max_pending_bytes: 2_000, ..config() }).await;
    bench.service.keep_silent();
    let mut socket = bench.connect().await;
    socket.say(&full(1, 0)).await;
    let opening = bench.service.report().await;
    socket.say(&health(1, 1, &"x".repeat(1_900))).await;
    let error = socket.say(&full(2, 0)).await.error_response.expect("it is not taken");
    assert_eq!(error.r#type(), ServerErrorResponseType::Unavailable);
    assert!(error.details.is_some(), "when to come back");
    // Another report is not kept, and not asked for while there is no room.
    assert_eq!(socket.say(&health(1, 2, &"y".repeat(2_100))).await.flags, 0);
    let report = loop {
        let report = bench.service.report().await;
        if report.report_number == 3 {
            break report;
        }
    };
    assert!(message(&report).health.unwrap().last_error.starts_with('x'));
    bench.service.verdict(acknowledgement(&opening)).await;
    bench.service.verdict(acknowledgement(&report)).await;
    assert_eq!(socket.receive().await.flags, 1, "it is made good");
    assert_eq!(socket.say(&full(2, 0)).await.error_response, None);
}

#[tokio::test]
async fn the_sequence_number_handed_over_is_the_one_before_a_gap() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.service.report().await;
    agent.say(&heartbeat(1, 8)).await;
    drop(agent);
    let ending = bench.service.report().await;
    assert_eq!(ending.sequence_num, 0, "whoever comes next is to notice that something is missing");
}

#[tokio::test]
async fn connections_are_announced_again_after_a_gap_of_the_bus() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 6)).await;
    let first = bench.service.report().await;
    // More than the gateway's subscription holds at once.
    for _ in 0..200_000 {
        bench.service.say(Default::default()).await;
        if !bench.service.reports.is_empty() {
            break;
        }
    }
    let again = bench.service.report().await;
    assert_eq!(again.connection_generation, first.connection_generation);
    let opening = again.opening.expect("it is announced again");
    assert_eq!((opening.first_sequence_num, opening.previous_sequence_num), (6, Some(6)));
    assert_eq!(agent.say(&heartbeat(1, 7)).await.flags, 0);
}
