//! Every refusal of `musterctl apply` says where in the manifest the trouble is, for every kind of policy.

use super::{
    musterctl::{fails, json, run, write},
    world::World,
};

/// Each kind with its content, which is on the fourth and the fifth line.
const KINDS: [(&str, &str); 3] = [
    ("Config", "files:\n  a.yaml: {body: x}\n"),
    ("Packages", "packages:\n  a: {type: addon, version: '1', url: 'https://x/', sha256: SHA}\n"),
    ("ConnectionSettings", "own_metrics:\n  endpoint: http://x/\n"),
];

fn manifest(kind: &str, selector: &str, content: &str, rest: &str) -> String {
    let content = content.replace("SHA", &"ab".repeat(32));
    format!("kind: {kind}\nname: base\nselector: {selector}\n{content}{rest}")
}

/// What is said of a manifest, after its file and document.
async fn refusal(world: &World, text: &str) -> String {
    let path = write(world.folder.path(), "m.yaml", text);
    let said = fails(world, &["apply", "-f", &path]).await;
    let head = format!("error: nothing was applied: {path}: document 1, ");
    let said = said.strip_prefix(&head).unwrap_or_else(|| panic!("{said}"));
    said.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_selector_is_named_with_the_position_in_it() {
    let world = World::start().await;
    for (kind, content) in KINDS {
        let said = refusal(&world, &manifest(kind, "os.type = linux, env in", content, "")).await;
        assert_eq!(said, "line 3: selector: position 24: expected \"(\", found the end", "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_step_is_named_by_its_number() {
    let world = World::start().await;
    for (kind, content) in KINDS {
        for (steps, expected) in [
            ("[10%, 5%, 100%]", "rollout.steps[1]: 5% is not more than the step of its kind before it"),
            ("[0%, 100%]", "rollout.steps[0]: 0% is nobody"),
            ("[10%, ring in (, 100%]", "rollout.steps[1]: selector, position 10: "),
            ("[10%, 120%]", "rollout.steps[1]: 120% is more than all"),
            ("[10%, 50%]", "rollout.steps: must end with 100%"),
        ] {
            let said = refusal(&world, &manifest(kind, "a", content, &format!("rollout:\n  steps: {steps}\n"))).await;
            assert!(said.starts_with(&format!("line 7: {expected}")), "{kind}: {said}");
        }
        let said = refusal(&world, &manifest(kind, "a", content, "rollout:\n  windows: [mon 9-17]\n")).await;
        assert!(said.starts_with("line 7: rollout.windows[0]: \"mon 9-17\": "), "{kind}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_is_named_with_its_line_and_column() {
    let world = World::start().await;
    for (kind, content) in KINDS {
        let said = refusal(&world, &manifest(kind, "a", content, "selektor: x\n")).await;
        assert!(said.starts_with("line 6, column 1: unknown field `selektor`"), "{kind}: {said}");
        let said = refusal(&world, &manifest(kind, "a", content, "rollout:\n  steps: [100%]\n  pace: 5\n")).await;
        assert!(said.starts_with("line 8, column 3: unknown field `pace`"), "{kind}: {said}");
    }
    for (kind, content) in [
        ("Config", "files:\n  a.yaml: {boddy: x}\n"),
        ("Packages", "packages:\n  a: {type: addon, versoin: '1'}\n"),
        ("ConnectionSettings", "own_metrics:\n  endpiont: http://x/\n"),
    ] {
        let said = refusal(&world, &manifest(kind, "a", content, "")).await;
        assert!(said.starts_with("line 5, column ") && said.contains(": unknown field `"), "{kind}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_etag_is_named_with_the_present_one() {
    let world = World::start().await;
    for (kind, content) in KINDS {
        let apply = async |text: &str| {
            let path = write(world.folder.path(), "m.yaml", text);
            run(&world, &["apply", "-f", &path]).await;
            json(&world, &["get", "policy", "base"]).await["etag"].as_str().expect("an etag").to_owned()
        };
        let first = apply(&manifest(kind, "a", content, "")).await;
        let second = apply(&manifest(kind, "b", content, &format!("etag: '{first}'\n"))).await;
        let said = refusal(&world, &manifest(kind, "c", content, &format!("etag: '{first}'\n"))).await;
        assert_eq!(
            said,
            format!("line 6: etag: policy \"base\" has changed: its etag is {second}, not {first}"),
            "{kind}"
        );
        let said = fails(&world, &["delete", "policy", "base", "--etag", &first]).await;
        let expected =
            format!("error: policy \"base\" has changed: its etag is {second}, not {first} (ETAG_MISMATCH)\n");
        assert_eq!(said, expected);
        run(&world, &["delete", "policy", "base", "--etag", &second]).await;
        // One that is not there cannot have that etag, and one that is to be new is not there.
        let said = refusal(&world, &manifest(kind, "c", content, &format!("etag: '{second}'\n"))).await;
        assert!(said.contains("policy \"base\" does not exist"), "{said}");
    }
}
