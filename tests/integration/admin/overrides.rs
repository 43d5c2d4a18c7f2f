//! Overrides: pin, hold, clear, list, and what is seen of them elsewhere.

use serde_json::Value;

use super::{
    musterctl::{fails, json, run, run_with},
    world::{World, agent, policy, uid},
};

/// A policy with three revisions, and agents of which the third does not match.
async fn world() -> World {
    let world = World::start().await;
    world.put(&[agent(1, &[("os", "linux")]), agent(2, &[("os", "linux")]), agent(3, &[("os", "windows")])]).await;
    for body in ["one\n", "two\n", "three\n"] {
        world.policies().apply_policy(world.request(policy("base", "os = linux", body))).await.unwrap();
    }
    world
}

async fn overrides(world: &World) -> Vec<(String, u64, bool)> {
    let Value::Array(all) = json(world, &["get", "overrides"]).await else { panic!("an array") };
    let one = |one: Value| {
        (one["instance_uid"].as_str().unwrap().to_owned(), one["revision"].as_u64().unwrap(), one["hold"] == true)
    };
    all.into_iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_pinned_held_and_let_go() {
    let world = world().await;
    let mut hints = world.hints().await;
    let [one, two, three] = [1, 2, 3].map(|n| uid(n).to_string());
    let epoch = world.store.policy_epoch().await.unwrap();
    let pin = ["override", "base", &one, "--revision", "1", "-m", "a slow disk"];
    assert_eq!(
        run(&world, &[&pin[..], &["--dry-run"]].concat()).await,
        "policy/base: 1 agents pinned to revision 1 (dry run)\n"
    );
    assert_eq!(world.store.policy_epoch().await.unwrap(), epoch);
    assert_eq!(run(&world, &pin).await, "policy/base: 1 agents pinned to revision 1\n");
    assert_eq!(hints.next().await.policies_epoch, epoch + 1);
    assert_eq!(run(&world, &pin).await, "policy/base: 0 agents pinned to revision 1, 1 were already\n");
    assert_eq!(world.store.policy_epoch().await.unwrap(), epoch + 1);
    // Each on what it has: the first on its pin, the second on the newest, the third on nothing.
    let hold = run(&world, &["override", "base", "-l", "", "--hold", "--for", "1h"]).await;
    assert_eq!(hold, "policy/base: 3 agents held on what they have\n");
    assert_eq!(world.store.policy_epoch().await.unwrap(), epoch + 2, "one epoch for all");
    let held = |uid: &String, revision| (uid.clone(), revision, true);
    assert_eq!(overrides(&world).await, [held(&one, 1), held(&two, 3), held(&three, 0)]);
    let all = json(&world, &["get", "overrides", "--policy", "base", "--agent", &one]).await;
    assert!(all[0]["expires_at"].is_string() && all[0]["author"] == "root", "{all}");

    // Seen with the agent, and in where its files come from.
    let agent = json(&world, &["get", "agent", &one]).await;
    assert_eq!((&agent["overrides"][0]["policy"], &agent["overrides"][0]["revision"]), (&"base".into(), &1.into()));
    assert!(run(&world, &["describe", "agent", &one]).await.contains("base   revision 1 (held)"));
    let config = run(&world, &["agent", "config", &one]).await;
    assert!(config.contains("1 (override)") && config.contains("one\n"), "{config}");
    // A dry run passes them by.
    run(&world, &["override", "base", &two, "--clear"]).await;
    let manifest = "kind: Config\nname: base\nselector: ''\nfiles: {collector.yaml: {body: four}}\n";
    let dry = run_with(&world, &["apply", "-f", "-", "--dry-run"], manifest).await;
    assert!(dry.stdout.contains("Config: 1 agents change, 0 gain, 0 lose; 2 stay as they are\n"), "{}", dry.stdout);

    let clear = run(&world, &["override", "base", "-l", "os = linux", "--clear"]).await;
    assert_eq!(clear, "policy/base: 1 overrides cleared\n");
    assert_eq!(overrides(&world).await, [held(&three, 0)]);
    let actions: Vec<String> = world.store.list_audit(None, 2).await.unwrap().into_iter().map(|it| it.action).collect();
    assert_eq!(actions, ["override.clear", "override.clear"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_override_is_said() {
    let world = world().await;
    let one = uid(1).to_string();
    for (arguments, expected) in [
        (&["other", &one, "--revision", "1"][..], "POLICY_NOT_FOUND"),
        (&["base", &one, "--revision", "9"], "REVISION_NOT_FOUND"),
        (&["base", &uid(9).to_string(), "--hold"], "AGENT_NOT_FOUND"),
        (&["base", "-l", "os = plan9", "--hold"], "NO_AGENT_MATCHES"),
        (&["base", "-l", "os in", "--hold"], "selector: position 6"),
        (&["base", &one, "--hold", "--for", "1ms"], "expires_in: must be between a second and ten years"),
        (&["base", &one], "required"),
        (&["base", &one, "--hold", "--clear"], "cannot be used with"),
        (&["base", "--hold"], "required"),
        (&["base", &one, "--hold", "-m", &"x".repeat(1_025)], "message: must be at most 1024 bytes"),
    ] {
        let error = fails(&world, &[&["override"], arguments].concat()).await;
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    assert_eq!(overrides(&world).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_passes_overrides_by() {
    let world = world().await;
    let one = uid(1).to_string();
    run(&world, &["override", "base", &one, "--hold"]).await;
    run(&world, &["rollout", "undo", "base", "--to-revision", "1"]).await;
    let history = json(&world, &["history", "policy", "base"]).await;
    assert_eq!((&history[0]["revision"], &history[0]["message"]), (&4.into(), &"back to revision 1".into()));
    let file = async |agent: &str| {
        let config = json(&world, &["agent", "config", agent]).await;
        config["files"]["collector.yaml"]["body"].as_str().unwrap().to_owned()
    };
    assert_eq!((file(&one).await, file(&uid(2).to_string()).await), ("three\n".to_owned(), "one\n".to_owned()));
}
