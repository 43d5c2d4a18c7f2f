//! The contract: rollouts, and what the policies are while they go on.

use muster::{
    model::{
        AgentRecord, Attributes,
        desired::{Part, PolicySet},
        rollout::{Candidates, Control, Counts, Plan, Rollout, Seen, State, advance, control},
    },
    store::{ApplyPolicy, Error, Lease, ROLLOUT_LEASE, SharedStore},
};

use super::{NOW, actor, apply, uid};

fn planned(text: &str) -> ApplyPolicy {
    let mut apply = apply("p", text);
    apply.content.plan = Some(Plan {
        steps: ["50%", "100%"].map(|step| step.parse().unwrap()).into(),
        bake_seconds: 60,
        windows: vec!["mon-fri 09:00-17:00".parse().unwrap()],
        ..Plan::default()
    });
    apply.message = "why".to_owned();
    apply
}

async fn applied(store: &SharedStore, apply: ApplyPolicy) {
    store.apply_policy(apply, &actor()).await.unwrap();
}

/// The revisions in force, and for whom.
fn parts(set: &PolicySet) -> Vec<(u64, Part)> {
    let mut parts: Vec<_> = set.policies().iter().map(|policy| (policy.revision.number, policy.part)).collect();
    parts.sort_by_key(|(number, _)| *number);
    parts
}

/// The next state, stored.
async fn moved(store: &SharedStore, next: Option<Rollout>) -> Rollout {
    let next = next.unwrap();
    assert!(store.write_rollout(&next, None, &actor()).await.unwrap());
    let stored = store.get_rollout("p").await.unwrap();
    assert_eq!(stored, next);
    stored
}

/// Two agents, of which a half is one; the one that comes first is not connected, so that the other is in beside it.
fn seen(rollout: &Rollout) -> Seen {
    let mut agents = [1, 2].map(|n| AgentRecord::new(uid(n), NOW - 1));
    agents.sort_by_key(|agent| rollout.cohort().position(agent.uid));
    agents[1].presence.connected = true;
    let mut candidates = Candidates::new(rollout, rollout.step, NOW);
    agents.iter().for_each(|agent| candidates.add(agent, &Attributes::default()));
    Seen { counts: Counts::default(), candidates: Some(candidates) }
}

pub async fn a_revision_without_a_plan_is_for_everybody(store: &SharedStore) {
    assert!(matches!(store.get_rollout("p").await, Err(Error::NotFound { .. })));
    applied(store, apply("p", "one")).await;
    let rollout = store.get_rollout("p").await.unwrap();
    assert_eq!((rollout.revision, rollout.stable, rollout.state), (1, 0, State::Progressing));
    assert!(rollout.at_once && rollout.author == "ada" && rollout.created_at == NOW);
    assert_eq!(parts(&store.policy_set().await.unwrap()), [(1, Part::Everybody)]);
    assert_eq!(store.get_policy("p").await.unwrap().stable, 1);
    // It is only watched: that it ends touches nobody.
    let set = store.policy_set().await.unwrap();
    let ended = moved(store, advance(&rollout, &Seen::default(), NOW)).await;
    assert_eq!(ended.state, State::Succeeded);
    assert!(store.open_rollouts().await.unwrap().is_empty());
    let after = store.policy_set().await.unwrap();
    assert_eq!((parts(&after), after.epoch), (parts(&set), set.epoch));
}

pub async fn a_rollout_divides_the_fleet_until_it_ends(store: &SharedStore) {
    applied(store, apply("p", "one")).await;
    applied(store, planned("two")).await;
    let policy = store.get_policy("p").await.unwrap();
    assert_eq!((policy.revision.number, policy.stable, policy.revision.message.as_str()), (2, 1, "why"));
    let rollout = store.get_rollout("p").await.unwrap();
    assert_eq!((rollout.state, rollout.step, rollout.stable), (State::Pending, 0, 1));
    assert_eq!(Some(&rollout.plan), policy.revision.content.plan.as_ref());
    let before = store.policy_set().await.unwrap();
    assert_eq!(parts(&before), [(1, Part::Everybody)]);

    let first = moved(store, control(&rollout, Control::Promote, &seen(&rollout), "ada", NOW).ok()).await;
    assert_eq!((first.state, first.step), (State::Progressing, 1));
    let divided = store.policy_set().await.unwrap();
    assert!(divided.epoch > before.epoch);
    assert_eq!(parts(&divided), [(1, Part::Outside(0)), (2, Part::Inside(0))]);
    // Each agent has one of the two.
    let cohort = first.cohort();
    assert_eq!(first.besides.len(), 1);
    assert!([1, 2].into_iter().all(|n| cohort.contains(&AgentRecord::new(uid(n), NOW - 1), &Attributes::default())));
    for agent in (1..100).map(|n| AgentRecord::new(uid(n), NOW - 1)) {
        let is_inside = cohort.contains(&agent, &Attributes::default());
        let all = divided.policies().iter().filter(|policy| policy.revision.number == if is_inside { 2 } else { 1 });
        assert_eq!(all.count(), 1);
    }

    // A state that moves nobody leaves the epoch.
    let baking = moved(store, advance(&first, &seen(&first), NOW)).await;
    assert_eq!(baking.state, State::Baking);
    assert_eq!(store.policy_epoch().await.unwrap(), divided.epoch);
    store.note_rollout(baking.id, baking.version - 1, &Counts { failed: 9, ..Counts::default() }, NOW).await.unwrap();
    let counts = Counts { matching: 2, errors: [("no".to_owned(), 1)].into(), ..Counts::default() };
    store.note_rollout(baking.id, baking.version, &counts, NOW).await.unwrap();
    let noted = store.get_rollout("p").await.unwrap();
    assert_eq!((&noted.counts, noted.seen_at), (&counts, Some(NOW)));

    // While it is paused, nobody else is reached: whoever brings it to agents is to hear of that.
    let paused = moved(store, control(&noted, Control::Pause, &seen(&noted), "ada", NOW).ok()).await;
    let set = store.policy_set().await.unwrap();
    assert!(set.epoch > divided.epoch);
    let [mut reached, mut other] = [1, 2].map(|n| AgentRecord::new(uid(n), NOW - 1));
    reached.desired.reached.insert(paused.id);
    for agent in [&mut reached, &mut other] {
        agent.labels.insert("os.type".into(), "linux".into());
    }
    let revision = |set: &PolicySet, agent| set.revision_of("p", agent, &Attributes::default());
    assert_eq!([&reached, &other].map(|agent| revision(&set, agent)), [2, 1]);
    let noted = moved(store, control(&paused, Control::Resume, &seen(&paused), "ada", NOW).ok()).await;
    let resumed = store.policy_set().await.unwrap();
    assert!(resumed.epoch > set.epoch);
    assert_eq!([&reached, &other].map(|agent| revision(&resumed, agent)), [2, 2]);

    let back = moved(store, control(&noted, Control::RollBack, &seen(&noted), "ada", NOW).ok()).await;
    assert_eq!(parts(&store.policy_set().await.unwrap()), [(1, Part::Everybody)]);
    let ended = moved(store, advance(&back, &seen(&back), NOW)).await;
    assert_eq!((ended.state, ended.ended_at), (State::RolledBack, Some(NOW)));
    assert_eq!(store.get_policy("p").await.unwrap().stable, 1);

    // One that succeeds becomes the stable one.
    applied(store, planned("three")).await;
    let rollout = store.get_rollout("p").await.unwrap();
    let all = moved(store, control(&rollout, Control::PromoteFully, &seen(&rollout), "ada", NOW).ok()).await;
    moved(store, control(&all, Control::Promote, &seen(&all), "ada", NOW).ok()).await;
    assert_eq!(store.get_policy("p").await.unwrap().stable, 3);
    assert_eq!(parts(&store.policy_set().await.unwrap()), [(3, Part::Everybody)]);
    let history = store.list_rollouts(Some("p"), None, 2).await.unwrap();
    assert_eq!(history.iter().map(|rollout| rollout.revision).collect::<Vec<_>>(), [3, 2]);
    let older = store.list_rollouts(None, Some(history[1].id), 2).await.unwrap();
    assert_eq!(older.iter().map(|rollout| rollout.revision).collect::<Vec<_>>(), [1]);
}

pub async fn only_the_next_state_of_the_stored_one_is_written(store: &SharedStore) {
    applied(store, planned("one")).await;
    assert_eq!(parts(&store.policy_set().await.unwrap()), [], "there is no stable revision yet");
    let rollout = store.get_rollout("p").await.unwrap();
    let next = control(&rollout, Control::Promote, &seen(&rollout), "ada", NOW).unwrap();
    let epoch = store.policy_epoch().await.unwrap();
    let lease = store.take_lease(ROLLOUT_LEASE, "a", NOW, 10).await.unwrap();
    let stranger = Some(Lease { token: lease.unwrap().token + 1 });
    assert!(!store.write_rollout(&next, stranger, &actor()).await.unwrap());
    assert_eq!(store.policy_epoch().await.unwrap(), epoch);
    assert!(store.write_rollout(&next, lease, &actor()).await.unwrap());
    assert!(!store.write_rollout(&next, lease, &actor()).await.unwrap(), "it is that already");
    let paused = control(&next, Control::Pause, &seen(&next), "ada", NOW).unwrap();
    let aborted = control(&next, Control::Abort, &seen(&next), "ada", NOW).unwrap();
    assert!(store.write_rollout(&paused, lease, &actor()).await.unwrap());
    assert!(!store.write_rollout(&aborted, lease, &actor()).await.unwrap(), "another was first");
    assert_eq!(store.get_rollout("p").await.unwrap().state, State::Paused);
}

pub async fn a_new_revision_takes_the_place_of_a_rollout(store: &SharedStore) {
    applied(store, apply("p", "one")).await;
    applied(store, planned("two")).await;
    let second = store.get_rollout("p").await.unwrap();
    let second = moved(store, control(&second, Control::Promote, &seen(&second), "ada", NOW).ok()).await;
    applied(store, planned("three")).await;
    let open = store.open_rollouts().await.unwrap();
    assert_eq!(open.iter().map(|rollout| (rollout.revision, rollout.stable)).collect::<Vec<_>>(), [(3, 1)]);
    assert_eq!(parts(&store.policy_set().await.unwrap()), [(1, Part::Everybody)]);
    let ended = store.list_rollouts(Some("p"), Some(open[0].id), 1).await.unwrap().remove(0);
    assert_eq!(
        (ended.id, ended.state, ended.reason.as_str()),
        (second.id, State::Aborted, "revision 3 took its place")
    );
    let late = advance(&second, &seen(&second), NOW);
    assert!(!store.write_rollout(&late.unwrap(), None, &actor()).await.unwrap());

    applied(store, apply("p", "four")).await;
    assert_eq!(parts(&store.policy_set().await.unwrap()), [(4, Part::Everybody)]);
    assert_eq!(store.get_rollout("p").await.unwrap().stable, 1);
    store.delete_policy("p", None, &actor()).await.unwrap();
    assert!(store.list_rollouts(None, None, 10).await.unwrap().is_empty());
}

pub async fn one_holds_a_lease(store: &SharedStore) {
    let take = async |holder: &str, now| store.take_lease("l", holder, now, 10).await.unwrap().map(|lease| lease.token);
    let first = take("a", NOW).await.unwrap();
    assert_eq!(take("b", NOW + 9).await, None);
    assert_eq!(take("a", NOW + 9).await, Some(first), "who holds it keeps it");
    assert_eq!(take("b", NOW + 18).await, None);
    let second = take("b", NOW + 19).await.unwrap();
    assert!(second > first);
    assert_eq!(take("a", NOW + 20).await, None);
}
