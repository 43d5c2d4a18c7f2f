//! How rollouts end that did not simply go through: taken back before they began, replaced by another, and looked at afterwards.

use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::{
    rollouts::{manifest, reaches, state},
    support::{
        agent::{Agent, Fleet, fleet::Transport},
        standalone::Standalone,
    },
};

/// Half an hour that is not now.
fn another_time_of_day() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let hour = (seconds / 3_600 + 12) % 24;
    format!("'* {hour:02}:00-{hour:02}:30'")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_hours_is_taken_back_and_what_was_replaced_is_told() {
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let fleet = Fleet::start(10, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    fleet.all_connected().await;
    ctl.apply_written(&manifest("one", "")).await;
    fleet.all_run("a.yaml", "one").await;
    state(&ctl, "SUCCEEDED").await;

    ctl.apply_written(&manifest("two", &format!("rollout: {{windows: [{}]}}", another_time_of_day()))).await;
    reaches(&ctl, "it waits for its hours", |it| it["state"] == "PENDING" && it["reason"] != "").await;
    ctl.run(&["rollout", "undo", "base"]).await;
    let ended = state(&ctl, "ROLLED_BACK").await;
    assert_eq!((&ended["revision"], &ended["step"]), (&json!(2), &json!(0)), "no revision is made for it: {ended}");

    ctl.apply_written(&manifest("three", "rollout: {steps: [1, 100%], bake: 10m}")).await;
    state(&ctl, "BAKING").await;
    ctl.apply_written(&manifest("four", "")).await;
    state(&ctl, "SUCCEEDED").await;
    let outcome = ctl.try_run(&["rollout", "status", "base", "--revision", "3", "--wait"]).await;
    assert_eq!(outcome.code, Some(3), "it was not taken, though the next was: {}", outcome.stdout);
    let third = ctl.json(&["rollout", "status", "base", "--revision", "3"]).await;
    assert_eq!((&third["state"], &third["revision"]), (&json!("ABORTED"), &json!(3)));
    let outcome = ctl.try_run(&["rollout", "status", "base", "--revision", "9"]).await;
    assert!(outcome.stderr.contains("no rollout of revision 9"), "{}", outcome.stderr);
    let outcome = ctl.try_run(&["rollout", "history", "nobodys"]).await;
    assert!(!outcome.succeeded && outcome.stderr.contains("nobodys"), "{}{}", outcome.stdout, outcome.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_made_again_is_judged_by_its_own_agents_and_its_failures_are_kept() {
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let agents = (0..6).map(|index| match index {
        0..3 => Agent::new(index, "web"),
        _ => Agent::new(index, "shop").refusing("poison"),
    });
    let gateways = vec![standalone.node.opamp()];
    let fleet =
        Fleet::of(agents.collect(), Transport::WebSocket, Duration::from_secs(2), gateways, &standalone.agent_token());
    fleet.all_connected().await;
    // Another rollout is open all the time, so that its driver never starts afresh.
    let other = "kind: Config\nname: other\nselector: service.name = web\nfiles: {b.yaml: {body: b}}\n\
                 rollout: {steps: [1, 100%], bake: 10m}\n";
    ctl.apply_written(other).await;
    ctl.run(&["rollout", "pause", "other"]).await;

    ctl.apply_written(&manifest("good", "rollout: {steps: [100%]}")).await;
    state(&ctl, "SUCCEEDED").await;
    ctl.run(&["delete", "policy", "base"]).await;
    let poison = manifest("poison", "rollout: {steps: [100%]}").replace("= web", "= shop");
    ctl.apply_written(&poison).await;
    let ended = state(&ctl, "ROLLED_BACK").await;
    assert_eq!(ended["counts"]["matching"], 3, "{ended}");
    let stopped = &ended["stopped"];
    let failed = stopped["counts"]["failed"].as_u64().unwrap();
    assert!(failed > 0 && stopped["counts"]["offered"].as_u64() >= Some(failed), "{ended}");
    assert!(stopped["errors"][0]["message"].as_str().unwrap().contains("it does not parse"), "{ended}");
    assert_eq!(stopped["errors"][0]["agents"], failed);
    let shown = ctl.run(&["rollout", "status", "base"]).await;
    assert!(shown.contains(&format!("before it went back: {failed} failed")), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_rollouts_only_the_bad_one_goes_back() {
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let agents = (0..10).map(|index| Agent::new(index, "web").refusing("poison")).collect();
    let gateways = vec![standalone.node.opamp()];
    let fleet = Fleet::of(agents, Transport::WebSocket, Duration::from_secs(2), gateways, &standalone.agent_token());
    fleet.all_connected().await;
    let strict = "max_failures: 0%, min_sample: 1";
    ctl.apply_written(&manifest("good", &format!("rollout: {{steps: [100%], bake: 10m, {strict}}}"))).await;
    state(&ctl, "BAKING").await;
    fleet.all_run("a.yaml", "good").await;
    let bad = format!(
        "kind: Config\nname: bad\nselector: service.name = web\nfiles: {{b.yaml: {{body: poison}}}}\n\
         rollout: {{steps: [3, 100%], {strict}}}\n"
    );
    ctl.apply_written(&bad).await;
    let outcome = ctl.try_run(&["rollout", "status", "bad", "--wait", "--timeout", "2m"]).await;
    assert_eq!(outcome.code, Some(3), "{}{}", outcome.stdout, outcome.stderr);
    fleet.all_run("a.yaml", "good").await;
    let good = reaches(&ctl, "all are well again", |it| it["counts"]["healthy"] == 10).await;
    assert_eq!((&good["state"], &good["counts"]["failed"]), (&json!("BAKING"), &json!(0)), "{good}");
}
