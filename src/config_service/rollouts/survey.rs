//! What is seen of the agents that rollouts concern.
//!
//! Everything is read at first, when policies change, before a rollout's state does, and now and then. In between only those
//! agents are read again that are said to have changed, or whose time has run out: a rollout that waits reads none.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    config_service::{
        decide, metrics,
        policies::Snapshot,
        shared::{Shared, unix_ms},
    },
    model::{
        AgentRecord, Attributes, InstanceUid, Selector, UnixMs,
        rollout::{
            Candidates, Cohort, Counts, Errors, MostFrequent, Rollout, Seen, Standing, overdue_at, reached, standing,
            waiting,
        },
    },
    store::{self, AgentFilter, MAX_BATCH},
};

/// Everything is read again after this long, in case a hint was lost,
const WHOLE: Duration = Duration::from_secs(60);
/// or after so many times as long as it took.
const WHOLE_SHARE: u32 = 50;
/// If more than one in so many agents have changed, reading all of them in their order is cheaper.
const MANY: usize = 4;
/// Of agents' words so many characters are kept.
const MAX_ERROR_CHARS: usize = 300;

/// A rollout that is looked at.
pub struct Watched {
    pub rollout: Rollout,
    pub cohort: Cohort,
    /// Of the new revision, and of the stable one if there is one.
    pub selectors: Vec<Selector>,
}

/// The fleet, as it was last seen.
pub struct Survey {
    /// The policies that agents were judged by.
    epoch: u64,
    /// By the rollouts' ids.
    views: HashMap<Uuid, View>,
    /// All agents.
    fleet: usize,
    read_at: Instant,
    took: Duration,
}

/// The agents that one rollout concerns: about 60 bytes each.
#[derive(Default)]
struct View {
    /// The rollout's step and threshold.
    reach: (u32, u64),
    agents: HashMap<InstanceUid, Place>,
    /// When the standings change by themselves.
    due: BTreeSet<(UnixMs, InstanceUid)>,
    /// Whom the next step may reach, until they are asked for.
    candidates: Option<Candidates>,
    counts: Option<Counts>,
}

#[derive(Default)]
struct Place {
    /// It matches, and takes no part.
    is_overridden: bool,
    /// `None` outside the cohort.
    standing: Option<Standing>,
    /// Of one that failed: whether it was offered what it should have, and whether it applied that.
    reached: (bool, bool),
    /// It takes part, and accepts this kind of offer.
    is_capable: bool,
    /// It could take the change now.
    is_reachable: bool,
    due: Option<UnixMs>,
}

impl Survey {
    /// Reads everything.
    pub async fn read(shared: &Shared, snapshot: &Snapshot, watched: &[Watched]) -> store::Result<Self> {
        let (read_at, now) = (Instant::now(), unix_ms());
        let view = |Watched { rollout, .. }: &Watched| {
            let candidates = Some(Candidates::new(rollout, rollout.steps_before_next(), now));
            (rollout.id, View { reach: reach(rollout), candidates, ..View::default() })
        };
        let views = watched.iter().map(view).collect();
        let mut survey = Self { epoch: snapshot.epoch(), views, fleet: 0, read_at, took: Duration::ZERO };
        let mut after = None;
        loop {
            let page = shared.store.page_agents(AgentFilter::default(), after, shared.config.page_size).await?;
            survey.see(&page, snapshot, watched);
            survey.fleet += page.len();
            after = page.last().map(|agent| agent.uid);
            if page.len() < shared.config.page_size as usize {
                break;
            }
        }
        survey.took = read_at.elapsed();
        ::metrics::counter!(metrics::ROLLOUT_AGENTS_READ, "cause" => "whole").increment(survey.fleet as u64);
        Ok(survey)
    }

    /// Reads again those that have `changed`, and those whose time has run out. False, and nothing is read, if everything is to
    /// be read instead.
    pub async fn update(
        &mut self,
        shared: &Shared,
        snapshot: &Snapshot,
        watched: &[Watched],
        mut changed: HashSet<InstanceUid>,
    ) -> store::Result<bool> {
        let is_known = |watched: &Watched| {
            self.views.get(&watched.rollout.id).is_some_and(|view| view.reach == reach(&watched.rollout))
        };
        let is_current = self.epoch == snapshot.epoch() && watched.iter().all(is_known);
        if !is_current || self.read_at.elapsed() > WHOLE.max(self.took * WHOLE_SHARE) {
            return Ok(false);
        }
        self.views.retain(|id, _| watched.iter().any(|watched| watched.rollout.id == *id));
        self.views.values().for_each(|view| view.add_due(unix_ms(), &mut changed));
        if changed.len() > MAX_BATCH && changed.len() > self.fleet / MANY {
            return Ok(false);
        }
        let changed: Vec<InstanceUid> = changed.into_iter().collect();
        for uids in changed.chunks(MAX_BATCH) {
            // Those that are not found are no more.
            self.views.values_mut().for_each(|view| uids.iter().for_each(|uid| view.forget(*uid)));
            let found = shared.store.read_agents(uids).await?;
            self.see(&found, snapshot, watched);
        }
        ::metrics::counter!(metrics::ROLLOUT_AGENTS_READ, "cause" => "changed").increment(changed.len() as u64);
        Ok(true)
    }

    /// What was seen; with candidates only if all has just been read.
    pub fn seen(&mut self, rollout: &Rollout) -> Seen {
        let Some(view) = self.views.get_mut(&rollout.id) else { return Seen::default() };
        Seen { counts: view.counts().clone(), candidates: view.candidates.take() }
    }

    fn see(&mut self, agents: &[AgentRecord], snapshot: &Snapshot, watched: &[Watched]) {
        let now = unix_ms();
        for agent in agents {
            let attributes = Attributes::decode(&agent.observed.description);
            for watched in watched {
                let Some(view) = self.views.get_mut(&watched.rollout.id) else { continue };
                view.see(watched, agent, &attributes, snapshot, now);
            }
            self.blame_newest(agent.uid, watched);
        }
    }

    /// An agent that has what several rollouts of one kind bring has failed with the one that came last: the others wait for
    /// what becomes of that.
    fn blame_newest(&mut self, uid: InstanceUid, watched: &[Watched]) {
        for Watched { rollout, .. } in watched {
            if !matches!(self.standing(rollout, uid), Some(Standing::Failed(_))) {
                continue;
            }
            let came_last = watched.iter().any(|Watched { rollout: other, .. }| {
                other.kind == rollout.kind && other.id > rollout.id && self.standing(other, uid).is_some()
            });
            let view = self.views.get_mut(&rollout.id).filter(|_| came_last);
            if let Some(place) = view.and_then(|view| view.agents.get_mut(&uid)) {
                place.standing = Some(Standing::Applying);
            }
        }
    }

    fn standing(&self, rollout: &Rollout, uid: InstanceUid) -> Option<&Standing> {
        self.views.get(&rollout.id)?.agents.get(&uid)?.standing.as_ref()
    }
}

/// What a cohort depends on, of one rollout.
fn reach(rollout: &Rollout) -> (u32, u64) {
    (rollout.step, rollout.threshold)
}

impl View {
    fn see(
        &mut self,
        watched: &Watched,
        agent: &AgentRecord,
        attributes: &Attributes,
        snapshot: &Snapshot,
        now: UnixMs,
    ) {
        self.forget(agent.uid);
        let Watched { rollout, cohort, selectors } = watched;
        // Of one that has not said what it is nothing is known, and nothing is offered to it.
        let matches = |selector: &Selector| selector.matches(attributes, &agent.labels);
        if !agent.observed.has_attributes() || !selectors.iter().any(matches) {
            return;
        }
        if snapshot.is_overridden(agent.placement(), &rollout.policy) {
            self.agents.insert(agent.uid, Place { is_overridden: true, ..Place::default() });
            self.counts = None;
            return;
        }
        let is_inside = rollout.step > 0 && cohort.contains(agent, attributes);
        let deadline_ms = rollout.plan.agent_deadline_ms();
        let is_given = is_inside && cohort.gives(agent, attributes);
        let wanted = is_given.then(|| decide::wanted(agent, attributes, snapshot, rollout.kind));
        let reached = match &wanted {
            Some(Ok(wanted)) => reached(agent, rollout.kind, *wanted),
            _ => (false, false),
        };
        let standing = is_inside.then(|| match wanted {
            Some(wanted) => bounded(standing(agent, rollout.kind, wanted, &rollout.plan, now)),
            None => waiting(agent, rollout.kind),
        });
        let due = match standing {
            None | Some(Standing::NotCapable | Standing::Waiting | Standing::Healthy | Standing::Failed(_)) => None,
            Some(_) => overdue_at(agent, rollout.kind, deadline_ms).filter(|due| *due > now),
        };
        self.due.extend(due.map(|due| (due, agent.uid)));
        let is_capable = agent.observed.accepts(rollout.kind);
        if let Some(candidates) = self.candidates.as_mut().filter(|_| is_capable) {
            candidates.add(agent, attributes);
        }
        let is_reachable = is_capable && agent.presence.connected;
        self.agents.insert(agent.uid, Place { is_overridden: false, standing, reached, is_capable, is_reachable, due });
        self.counts = None;
    }

    fn forget(&mut self, uid: InstanceUid) {
        let Some(place) = self.agents.remove(&uid) else { return };
        self.counts = None;
        if let Some(due) = place.due {
            self.due.remove(&(due, uid));
        }
    }

    fn add_due(&self, now: UnixMs, uids: &mut HashSet<InstanceUid>) {
        uids.extend(self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, uid)| *uid));
    }

    fn counts(&mut self) -> &Counts {
        self.counts.get_or_insert_with(|| count(&self.agents))
    }
}

/// What agents say is theirs, and may be long.
fn bounded(standing: Standing) -> Standing {
    match standing {
        Standing::Failed(error) => {
            Standing::Failed(error.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect())
        }
        other => other,
    }
}

fn count(places: &HashMap<InstanceUid, Place>) -> Counts {
    let (mut counts, mut errors) = (Counts::default(), Errors::default());
    for (uid, Place { is_overridden, standing, reached, is_capable, is_reachable, .. }) in places {
        counts.matching += 1;
        counts.overridden += u64::from(*is_overridden);
        counts.reachable += u64::from(*is_reachable);
        counts.capable += u64::from(*is_capable);
        let Some(standing) = standing else { continue };
        counts.in_cohort += 1;
        match standing {
            Standing::NotCapable => counts.not_capable += 1,
            Standing::Disconnected => counts.disconnected += 1,
            Standing::Waiting => counts.pending += 1,
            Standing::Offered | Standing::Applying => {
                counts.offered += 1;
                counts.pending += 1;
            }
            Standing::Unhealthy => {
                counts.offered += 1;
                counts.applied += 1;
                counts.pending += 1;
            }
            Standing::Healthy => {
                counts.offered += 1;
                counts.applied += 1;
                counts.healthy += 1;
            }
            Standing::Failed(error) => {
                let (is_offered, is_applied) = *reached;
                counts.offered += u64::from(is_offered);
                counts.applied += u64::from(is_applied);
                counts.failed += 1;
                errors.add(*uid, error);
            }
        }
    }
    let MostFrequent { agents, examples } = errors.most_frequent();
    Counts { errors: agents, examples, ..counts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_counted_by_their_standing_and_their_words() {
        let failed = |text: &str| Some(Standing::Failed(text.to_owned()));
        let standings =
            [None, Some(Standing::Healthy), Some(Standing::NotCapable), failed("often 1"), failed("often 2")];
        let place = |(n, standing): (u8, Option<Standing>)| {
            let is_reachable = standing != Some(Standing::NotCapable);
            let reached = (true, n == 5);
            let place = Place { standing, reached, is_capable: is_reachable, is_reachable, ..Place::default() };
            (InstanceUid::from_slice(&[n; 16]).unwrap(), place)
        };
        let counts = count(&(1..).zip(standings).map(place).collect());
        assert_eq!((counts.matching, counts.reachable, counts.in_cohort), (5, 4, 4));
        assert_eq!((counts.healthy, counts.failed, counts.not_capable), (1, 2, 1));
        assert_eq!((counts.offered, counts.applied), (3, 2), "one that failed had applied it");
        assert_eq!((counts.errors["often #"], counts.examples["often #"].len()), (2, 2));
    }
}
