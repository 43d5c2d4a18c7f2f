//! Selectors over stored agents, page by page, with bounded work.

use crate::{
    model::{
        AgentRecord, Attributes, InstanceUid, Selector,
        status::{self, Status},
    },
    store::{AgentFilter, Result, Store},
};

/// Rows read at once.
const BATCH: usize = 1000;
/// Rows that one call of [`page`] looks at, at most: about a quarter of a second's work.
const MAX_SCANNED: usize = 10_000;
/// Rows that [`count`] looks at, at most.
const MAX_COUNTED: usize = 200_000;

/// Which agents are asked for.
#[derive(Clone, Debug)]
pub struct Query {
    pub selector: Selector,
    pub connected: Option<bool>,
    /// As a whole or of one kind; empty: any.
    pub statuses: Vec<Status>,
}

pub struct Page {
    pub agents: Vec<AgentRecord>,
    /// Where to go on; `None` at the end.
    pub next: Option<InstanceUid>,
}

#[derive(Debug, Default)]
pub struct Count {
    pub matching: u64,
    pub connected: u64,
    pub incomplete: bool,
}

impl Query {
    pub fn matches(&self, agent: &AgentRecord) -> bool {
        self.connected.is_none_or(|connected| agent.presence.connected == connected)
            && (self.statuses.is_empty() || status::is_any(agent, &self.statuses))
            && (self.selector.matches_everything()
                || self.selector.matches(&Attributes::decode(&agent.observed.description), &agent.labels))
    }

    fn filter(&self) -> AgentFilter {
        AgentFilter { connected: self.connected, ..Default::default() }
    }
}

/// Matching agents after `after`, at most `limit`.
pub async fn page(store: &dyn Store, query: &Query, after: Option<InstanceUid>, limit: usize) -> Result<Page> {
    let mut agents = Vec::new();
    let mut cursor = after;
    let mut scanned = 0;
    while scanned < MAX_SCANNED {
        let is_all = query.selector.matches_everything() && query.statuses.is_empty();
        let wanted = if is_all { limit - agents.len() } else { BATCH };
        let batch = wanted.min(BATCH);
        let rows = store.page_agents(query.filter(), cursor, batch as u32).await?;
        let is_last = rows.len() < batch;
        scanned += rows.len();
        for row in rows {
            cursor = Some(row.uid);
            if query.matches(&row) {
                agents.push(row);
                if agents.len() == limit {
                    return Ok(Page { agents, next: cursor });
                }
            }
        }
        if is_last {
            return Ok(Page { agents, next: None });
        }
    }
    Ok(Page { agents, next: cursor })
}

/// How many agents match, and how many of those are connected.
pub async fn count(store: &dyn Store, query: &Query) -> Result<Count> {
    let mut count = Count::default();
    let mut cursor = None;
    let mut scanned = 0;
    loop {
        let rows = store.page_agents(query.filter(), cursor, BATCH as u32).await?;
        scanned += rows.len();
        cursor = rows.last().map(|row| row.uid);
        for row in rows.iter().filter(|row| query.matches(row)) {
            count.matching += 1;
            count.connected += u64::from(row.presence.connected);
        }
        if rows.len() < BATCH {
            return Ok(count);
        }
        if scanned >= MAX_COUNTED {
            count.incomplete = true;
            return Ok(count);
        }
    }
}
