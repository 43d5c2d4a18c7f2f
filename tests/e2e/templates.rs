//! Configurations that are written for each agent, over real sockets.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    agent::{Agent, Fleet, fleet::Transport},
    cluster::Cluster,
    ctl::Ctl,
    eventually_within,
};

const PATIENCE: Duration = Duration::from_secs(120);
const OWN: &str = "id: {{ instance_uid }}\\nregion: {{ labels.region | default('eu') | tojson }}\\n";
const REGION: &str = "region: {{ labels.region }}\\n";

fn manifest(text: &str, rollout: &str) -> String {
    format!(
        "kind: Config\nname: base\nselector: service.name = web\nfiles:\n  a.yaml:\n    content_type: text/yaml\n    \
         template: true\n    body: \"{text}\"\n{rollout}\n"
    )
}

fn own(agent: &Agent, region: &str) -> Option<String> {
    Some(format!("id: {}\nregion: \"{region}\"\n", agent.uid))
}

async fn ended(ctl: &Ctl, state: &str) -> Value {
    eventually_within(PATIENCE, state, async || {
        let outcome = ctl.try_run(&["rollout", "status", "base", "-o", "json"]).await;
        let rollout: Value = serde_json::from_str(&outcome.stdout).ok()?;
        (rollout["state"] == state).then_some(rollout)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_has_its_own_and_a_bad_template_goes_back() {
    const AGENTS: usize = 400;
    let cluster = Cluster::start(2, 2).await;
    let agents = (0..AGENTS).map(|index| Agent::new(index, "web")).collect();
    let heartbeat = Duration::from_secs(5);
    let fleet = Fleet::of(agents, Transport::WebSocket, heartbeat, cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    let ctl = cluster.ctl(0);

    ctl.write("unknown.yaml", &manifest("a: 1\\nb: {{ hostname }}\\n", ""));
    let refused = ctl.try_run(&["apply", "-f", "unknown.yaml"]).await;
    assert!(!refused.succeeded);
    let place = "unknown.yaml: document 1, line 6: files[\"a.yaml\"].body: policy base: not a template: line 2, column 7: \
                 unknown name \"hostname\"";
    assert!(refused.stderr.contains(place), "{}", refused.stderr);

    ctl.apply_written(&manifest(OWN, "")).await;
    fleet.all("agents have what was written for them", |agent| agent.file("a.yaml") == own(agent, "eu")).await;
    let first = ended(&ctl, "SUCCEEDED").await;
    assert_eq!(first["counts"]["healthy"], json!(AGENTS), "{first}");

    let uid = fleet.agents()[7].uid.to_string();
    ctl.run(&["label", "agent", &uid, "region=us \"east\""]).await;
    fleet
        .all("one has another region", |agent| {
            let region = if agent.uid.to_string() == uid { "us \\\"east\\\"" } else { "eu" };
            agent.file("a.yaml") == own(agent, region)
        })
        .await;
    let config = ctl.json(&["agent", "config", &uid]).await;
    assert_eq!(config["files"]["a.yaml"]["template"], json!(true), "{config}");
    assert!(config["files"]["a.yaml"]["body"].as_str().unwrap().contains(&uid), "{config}");

    // All but one lack the label.
    let steps = "rollout: {steps: [10%, 100%], agent_deadline: 60s, min_sample: 5}";
    ctl.write("region.yaml", &manifest(REGION, steps));
    let dry = ctl.run(&["apply", "-f", "region.yaml", "--dry-run"]).await;
    assert!(dry.contains(&format!("{} agents keep what they have", AGENTS - 1)), "{dry}");
    assert!(dry.contains("line 1, column 12: undefined value"), "{dry}");
    ctl.run(&["apply", "-f", "region.yaml"]).await;
    let bad = ended(&ctl, "ROLLED_BACK").await;
    assert_eq!((&bad["step"], &bad["stable_revision"]), (&json!(1), &json!(1)), "{bad}");
    assert!(bad["reason"].as_str().unwrap().contains("labels.region"), "{bad}");
    let offers = |agents: &[Agent]| agents.iter().map(|agent| agent.seen.offers.len()).collect::<Vec<_>>();
    let offered = offers(&fleet.agents());
    ctl.settled_among(&fleet).await;
    assert_eq!(offers(&fleet.agents()), offered, "nobody was offered anything");
    // But for the one that has the label, which may have been in the step.
    assert!(offered.iter().enumerate().all(|(index, count)| *count == 1 || index == 7), "{offered:?}");

    // For all at once: they keep what they have, and it is said why.
    ctl.apply_written(&manifest(REGION, "")).await;
    let other = fleet.agents()[8].uid.to_string();
    let agent = ctl.agent_is(&other, "cannot be written", |agent| agent["convergence"] == "UNRENDERABLE").await;
    assert!(agent["offers"]["Config"]["unrendered"].as_str().unwrap().contains("labels.region"), "{agent}");
    let said = ctl.try_run(&["agent", "config", &other]).await;
    assert!(
        said.stderr.contains("keeps what it has: template \"a.yaml\" of policy base, revision 3"),
        "{}",
        said.stderr
    );
    ctl.run(&["label", "agent", &other, "region=us"]).await;
    fleet
        .all("the one that has a region has its file", |agent| {
            agent.uid.to_string() != other || agent.file("a.yaml").as_deref() == Some("region: us\n")
        })
        .await;
}
