//! Agents that have taken another uid: what is known of them goes along.
//!
//! A gateway that gives an agent a uid reports it under that, and says which one it had; the agent hears of it once that is stored.
//! From then on the store knows both uids for one agent. Whichever it uses, its record is moved there when it is heard: by
//! a report under a uid that has no record. So nothing here depends on which node hears it, or is repeated, or dies in between.

use std::{collections::HashMap, time::Duration};

use super::{
    decide::{Connection, Succession, succession},
    queue::Item,
    report::Report,
    shared::{Shared, unix_ms},
};
use crate::{
    model::{AgentRecord, InstanceUid, UnixMs, certificate::State},
    store::{self, FormerUid, Move},
};

/// A uid under which nothing was known of the agent may be another agent's by then.
pub const TEMPORARY_FOR: Duration = Duration::from_secs(3_600);

/// What is known of an agent that has no record under its uid.
#[derive(Debug)]
pub enum Found {
    /// Nothing: it is new. If it has had another uid, that is to be remembered.
    Nothing(Option<FormerUid>),
    /// The record has come from another uid, which is given.
    Moved(Box<AgentRecord>, InstanceUid),
    /// It has a record under this uid; there, an older connection of it may be alive.
    Asks(InstanceUid, Connection),
    /// It asks again for the uid that it was given already.
    Given(InstanceUid),
    /// Its report is out of date.
    Stale,
    /// Others write its record at the same time.
    Conflict,
}

/// Looks for the records of agents that have none under their uid, and moves them there.
pub async fn find(shared: &Shared, items: &[&Item]) -> store::Result<HashMap<InstanceUid, Found>> {
    let mut found = HashMap::new();
    if items.is_empty() {
        return Ok(found);
    }
    // First the records under former uids, then where those are said to have gone: one that moves meanwhile is found at least once.
    let formers: Vec<InstanceUid> = items.iter().filter_map(|item| item.report.former).collect();
    let mut rows = rows(shared, formers).await?;
    let mut names: Vec<InstanceUid> = items.iter().map(|item| item.uid).collect();
    names.extend(items.iter().filter_map(|item| item.report.former));
    names.sort_unstable();
    names.dedup();
    let known = shared.store.former_uids(&names).await?;
    let known: HashMap<InstanceUid, FormerUid> = known.into_iter().map(|it| (it.former, it)).collect();
    if known.is_empty() && items.iter().all(|item| item.report.former.is_none()) {
        return Ok(found);
    }
    let others = known.values().map(|it| it.uid).filter(|uid| !rows.contains_key(uid)).collect();
    rows.extend(self::rows(shared, others).await?);
    for item in items {
        found.insert(item.uid, find_one(shared, item, &known, &rows).await?);
    }
    Ok(found)
}

async fn rows(shared: &Shared, uids: Vec<InstanceUid>) -> store::Result<HashMap<InstanceUid, AgentRecord>> {
    if uids.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(shared.store.read_agents(&uids).await?.into_iter().map(|row| (row.uid, row)).collect())
}

async fn find_one(
    shared: &Shared,
    item: &Item,
    known: &HashMap<InstanceUid, FormerUid>,
    rows: &HashMap<InstanceUid, AgentRecord>,
) -> store::Result<Found> {
    let report = &item.report;
    // A second agent with one uid is a new one.
    if item.uid != report.uid {
        return Ok(Found::Nothing(None));
    }
    let own = report.former.and_then(|former| rows.get(&former));
    let row = match known_as(report, known, unix_ms()) {
        _ if own.is_some() => own,
        KnownAs::Given(uid) => return Ok(Found::Given(uid)),
        KnownAs::Stored(uid) => match rows.get(&uid) {
            // It is stored where it is said to be, so it has just gone on.
            None => return Ok(Found::Conflict),
            row => row,
        },
        KnownAs::Nobody => None,
    };
    let Some(row) = row else {
        return Ok(match report.former {
            // It was not told its new uid before this is stored.
            Some(_) if report.is_ending => Found::Stale,
            former => Found::Nothing(former.map(|former| temporary(former, report))),
        });
    };
    if is_refused(shared, report).await? {
        return Ok(Found::Nothing(None));
    }
    let is_dead = |gateway: &str| shared.gateways.is_dead(gateway);
    match succession(&row.presence, report, item.resolution.as_ref(), &is_dead) {
        Succession::Probe(connection) => Ok(Found::Asks(row.uid, connection)),
        Succession::Separate => Ok(Found::Nothing(None)),
        Succession::Stale => Ok(Found::Stale),
        Succession::Take => {
            let request = report.uid_request;
            let step = Move { from: row.uid, version: row.version, to: item.uid, request, now: unix_ms() };
            let Some(moved) = shared.store.move_agent(step).await? else { return Ok(Found::Conflict) };
            tracing::info!(agent = %row.uid, new_uid = %moved.uid, "an agent goes on under another uid");
            Ok(Found::Moved(Box::new(moved), row.uid))
        }
    }
}

/// What former uids say of an agent that has no record under its uid, nor under the one that it had on this connection.
#[derive(Debug, PartialEq, Eq)]
enum KnownAs {
    Nobody,
    /// It is stored under this uid.
    Stored(InstanceUid),
    /// This very request was answered by this uid.
    Given(InstanceUid),
}

fn known_as(report: &Report, known: &HashMap<InstanceUid, FormerUid>, now: UnixMs) -> KnownAs {
    let temporary_ms = UnixMs::try_from(TEMPORARY_FOR.as_millis()).unwrap_or(UnixMs::MAX);
    let is_of_use = |it: &&FormerUid| !it.is_temporary || now.saturating_sub(it.made_at) < temporary_ms;
    let Some(known) = known.get(&report.former.unwrap_or(report.uid)).filter(is_of_use) else {
        return KnownAs::Nobody;
    };
    match report.former {
        Some(_) if known.request != 0 && known.request == report.uid_request => KnownAs::Given(known.uid),
        // Several agents may ask under one temporary uid.
        Some(_) if known.is_temporary => KnownAs::Nobody,
        _ => KnownAs::Stored(known.uid),
    }
}

fn temporary(former: InstanceUid, report: &Report) -> FormerUid {
    FormerUid { former, uid: report.uid, request: report.uid_request, is_temporary: true, made_at: unix_ms() }
}

/// Whether the agent has connected with a certificate that is not believed any more: it is to take nothing along.
async fn is_refused(shared: &Shared, report: &Report) -> store::Result<bool> {
    let Some(serial) = report.certificate.filter(|_| report.opening.is_some() && !report.is_ending) else {
        return Ok(false);
    };
    let state = shared.store.use_certificate(serial, unix_ms()).await?;
    Ok(matches!(state, Some(State::Superseded | State::Revoked)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_service::decide::testing::{report, uid};

    const NOW: UnixMs = 1_800_000_000_000;

    fn known(is_temporary: bool, request: u64) -> HashMap<InstanceUid, FormerUid> {
        let it = FormerUid { former: uid(1), uid: uid(2), request, is_temporary, made_at: NOW };
        HashMap::from([(uid(1), it)])
    }

    fn asking(request: u64) -> Report {
        Report { former: Some(uid(1)), uid_request: request, ..report("g", 3, 10, 1) }
    }

    #[test]
    fn who_speaks_under_a_former_uid_is_stored_under_the_later_one() {
        assert_eq!(known_as(&report("g", 1, 10, 1), &known(false, 7), NOW), KnownAs::Stored(uid(2)));
        assert_eq!(known_as(&report("g", 4, 10, 1), &known(false, 7), NOW), KnownAs::Nobody);
        assert_eq!(known_as(&asking(8), &known(false, 7), NOW), KnownAs::Stored(uid(2)), "and asks for the next");
    }

    #[test]
    fn the_same_request_again_is_answered_by_the_same_uid() {
        assert_eq!(known_as(&asking(7), &known(false, 7), NOW), KnownAs::Given(uid(2)));
        assert_eq!(known_as(&asking(7), &known(true, 7), NOW), KnownAs::Given(uid(2)));
        assert_eq!(known_as(&asking(0), &known(true, 0), NOW), KnownAs::Nobody, "none is no request");
    }

    #[test]
    fn of_a_temporary_uid_another_agent_may_ask_and_later_it_means_nothing() {
        assert_eq!(known_as(&asking(8), &known(true, 7), NOW), KnownAs::Nobody);
        assert_eq!(known_as(&report("g", 1, 10, 1), &known(true, 7), NOW), KnownAs::Stored(uid(2)));
        let later = NOW + TEMPORARY_FOR.as_millis() as UnixMs;
        assert_eq!(known_as(&report("g", 1, 10, 1), &known(true, 7), later), KnownAs::Nobody);
        assert_eq!(known_as(&report("g", 1, 10, 1), &known(false, 7), later), KnownAs::Stored(uid(2)));
    }
}
