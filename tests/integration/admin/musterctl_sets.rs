//! A folder of manifests that is kept in sync, and differences, by the command line.

use std::fs;

use super::{
    musterctl::{Output, fails, json, run, run_with, write},
    world::{World, agent},
};

fn manifest(name: &str, body: &str) -> String {
    format!("kind: Config\nname: {name}\nselector: os = linux\nfiles: {{{name}.yaml: {{path: bodies/{body}}}}}\n")
}

async fn diff(world: &World, arguments: &[&str]) -> Output {
    run_with(world, &[&["diff"], arguments].concat(), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_kept_in_sync() {
    let world = World::start().await;
    world.put(&[agent(1, &[("os", "linux")])]).await;
    let folder = world.folder.path();
    write(folder, "m/bodies/x", "one\n");
    write(folder, "m/a.yaml", &manifest("a", "x"));
    write(folder, "m/b.yml", &manifest("b", "x"));
    write(folder, "m/deeper/c.yaml", "kind: Config\nname: c\nselector: a\nfiles: {x: {body: y}}\n");
    run_with(&world, &["apply", "-f", "-"], "kind: Config\nname: old\nselector: a\nfiles: {x: {body: y}}\n").await;

    let new = diff(&world, &["-f", "m"]).await;
    assert_eq!((new.code, new.stderr.as_str()), (Some(1), ""), "{}", new.stdout);
    assert!(new.stdout.contains("--- /dev/null\n+++ then/a/files/a.yaml\n@@ -0,0 +1 @@\n+one\n"), "{}", new.stdout);
    assert_eq!(run(&world, &["apply", "-f", "m"]).await, "policy/a created\npolicy/b created\n");
    let same = diff(&world, &["-f", "m"]).await;
    assert_eq!((same.code, same.stdout.as_str(), same.stderr.as_str()), (Some(0), "", ""));
    let epoch = world.store.policy_epoch().await.unwrap();
    assert_eq!(run(&world, &["apply", "-f", "m"]).await, "policy/a unchanged\npolicy/b unchanged\n");
    assert_eq!(world.store.policy_epoch().await.unwrap(), epoch);

    // One changes, one comes, two go.
    write(folder, "m/bodies/z", "two\n");
    write(folder, "m/a.yaml", &manifest("a", "z"));
    fs::remove_file(folder.join("m/b.yml")).unwrap();
    let sync = ["apply", "-f", "m", "-R", "--prune"];
    let dry = run(&world, &[&sync[..], &["--dry-run"]].concat()).await;
    assert!(
        dry.starts_with(
            "policy/a configured (dry run): 1 agents match, 1 of them connected\n\
             policy/c created (dry run): 0 agents match, 0 of them connected\n\
             policy/b pruned (dry run)\npolicy/old pruned (dry run)\n\
             Config: 1 agents change, 0 gain, 0 lose; 0 stay as they are\n  warning: no agent matches the selector \"a\"\n"
        ),
        "{dry}"
    );
    assert!(
        dry.contains("--- now/a.yaml\n+++ then/a.yaml\n@@ -1 +1 @@\n-one\n+two\n--- now/b.yaml\n+++ /dev/null\n"),
        "{dry}"
    );
    let changes = diff(&world, &["-f", "m", "-R", "--prune", "-o", "name"]).await;
    assert_eq!((changes.code, changes.stdout.as_str()), (Some(1), "policy/a\npolicy/c\npolicy/b\npolicy/old\n"));
    let expected = "policy/a configured\npolicy/c created\npolicy/b pruned\npolicy/old pruned\n";
    assert_eq!(run(&world, &sync).await, expected);
    assert_eq!(world.store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(run(&world, &sync).await, "policy/a unchanged\npolicy/c unchanged\n");

    // What cannot be meant is refused, and named with its place.
    fs::create_dir(folder.join("empty")).unwrap();
    let error = fails(&world, &["apply", "-f", "empty", "--prune"]).await;
    assert!(error.starts_with("error: nothing was applied: empty: no manifest (*.yaml, *.yml, *.json)"), "{error}");
    write(folder, "m/d.yaml", &manifest("a", "x"));
    write(folder, "m/e.yaml", "kind: Config\nname: e\nselector: a in\nfiles: {x: {body: y}}\n");
    let error = fails(&world, &["apply", "-f", "m"]).await;
    assert!(
        error.contains(
            "m/d.yaml: document 1, line 2: name: policy \"a\" is there already, in m/a.yaml: document 1, line 2"
        ),
        "{error}"
    );
    fs::remove_file(folder.join("m/d.yaml")).unwrap();
    write(folder, "m/f.yaml", "kind: Config\nname: F\nselector: a\nfiles: {x: {body: y}}\n");
    let error = fails(&world, &["apply", "-f", "m"]).await;
    assert!(
        error.contains("m/e.yaml: document 1, line 3: selector: position 5")
            && error.contains("m/f.yaml: document 1, line 2: name: must have 1 to 63"),
        "{error}"
    );
    let refused = diff(&world, &["-f", "m"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.starts_with("error: the manifests cannot be applied:\n"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_compared() {
    let world = World::start().await;
    let folder = world.folder.path();
    for (text, priority) in [("one", 0), ("two", 0), ("two", 7)] {
        let text = format!(
            "kind: Config\nname: base\nselector: a\npriority: {priority}\nfiles: {{x.yaml: {{body: '{text}'}}}}\n"
        );
        run(&world, &["apply", "-f", &write(folder, "m.yaml", &text), "-m", "why"]).await;
    }
    let same = diff(&world, &["base"]).await;
    assert_eq!((same.code, same.stdout.as_str()), (Some(0), ""));
    assert_eq!(same.stderr, "revisions 3 and 3 of policy base are the same\n");
    let all = diff(&world, &["base", "1"]).await;
    assert_eq!(all.code, Some(1));
    assert!(all.stdout.starts_with("--- 1/policy\n+++ 3/policy\n"), "{}", all.stdout);
    assert!(all.stdout.contains("-priority: 0\n+priority: 7\n"), "{}", all.stdout);
    assert!(all.stdout.contains("--- 1/files/x.yaml\n+++ 3/files/x.yaml\n@@ -1 +1 @@\n-one\n"), "{}", all.stdout);
    let first = diff(&world, &["base", "2", "1", "-o", "json"]).await;
    let first: serde_json::Value = serde_json::from_str(&first.stdout).unwrap();
    assert_eq!((&first["from_revision"], &first["to_revision"]), (&2.into(), &1.into()));
    assert_eq!(first["changes"], serde_json::json!({ "files/x.yaml": { "before": "two", "after": "one" } }));
    for arguments in
        [&["base", "9"][..], &["other"], &["base", "0"], &[], &["base", "-f", "m.yaml"], &["base", "--prune"]]
    {
        let outcome = diff(&world, arguments).await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{arguments:?}");
    }
    let old = json(&world, &["get", "policy", "base", "--revision", "1"]).await;
    assert_eq!((&old["revision"], &old["files"]["x.yaml"]["body"]), (&1.into(), &"one".into()));
    let history = json(&world, &["history", "policy", "base"]).await;
    assert_eq!((&history[2]["author"], &history[2]["message"]), (&"root".into(), &"why".into()));
    let outcomes: Vec<_> = (0..3).map(|index| history[index]["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["PROGRESSING", "ABORTED", "ABORTED"]);
}
