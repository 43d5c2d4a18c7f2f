//! Whether agents run what they were offered: compared once for each pair of offered and effective configuration, however many
//! agents share it.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use super::shared::Shared;
use crate::{
    model::{
        AgentRecord, ContentHash,
        effective::{self, Files},
    },
    proto::opamp::{AgentConfigMap, AgentRemoteConfig, EffectiveConfig},
    store,
};

/// Pairs whose result is remembered, 64 bytes and one each; beyond, all are forgotten and compared anew when they come again.
const MAX_REMEMBERED: usize = 50_000;
/// Pairs whose bodies are in memory at a time.
const MAX_AT_ONCE: usize = 64;

/// What was offered, and what is effective.
type Pair = (ContentHash, ContentHash);

/// What came of comparing.
#[derive(Default)]
pub struct Comparisons(Mutex<HashMap<Pair, bool>>);

impl Comparisons {
    /// What is known of these.
    fn known(&self, pairs: impl Iterator<Item = Pair>) -> HashMap<Pair, bool> {
        let known = self.0.lock();
        pairs.filter_map(|pair| Some((pair, *known.get(&pair)?))).collect()
    }

    fn note(&self, compared: &HashMap<Pair, bool>) {
        let mut known = self.0.lock();
        if known.len() + compared.len() > MAX_REMEMBERED {
            known.clear();
        }
        known.extend(compared);
    }
}

/// Takes into each record what comes of comparing what it applied with what it runs. `contents` are effective configurations that
/// may not be stored yet. Where a body is missing, what was known stays.
pub async fn judge<'a>(
    shared: &Shared,
    records: impl Iterator<Item = &'a mut AgentRecord>,
    contents: &HashMap<ContentHash, Bytes>,
) -> store::Result<()> {
    let records: Vec<(Pair, &mut AgentRecord)> =
        records.filter_map(|record| effective::pair(record).map(|pair| (pair, record))).collect();
    let mut results = shared.comparisons.known(records.iter().map(|(pair, _)| *pair));
    let new: HashSet<Pair> = records.iter().map(|(pair, _)| *pair).filter(|pair| !results.contains_key(pair)).collect();
    let new: Vec<Pair> = new.into_iter().collect();
    for chunk in new.chunks(MAX_AT_ONCE) {
        let compared = compare(shared, chunk, contents).await?;
        shared.comparisons.note(&compared);
        results.extend(compared);
    }
    for (pair, record) in records {
        if let Some(matches) = results.get(&pair) {
            record.desired.effective = record.desired.effective.then(*matches);
        }
    }
    Ok(())
}

async fn compare(
    shared: &Shared,
    pairs: &[Pair],
    contents: &HashMap<ContentHash, Bytes>,
) -> store::Result<HashMap<Pair, bool>> {
    let unread: HashSet<ContentHash> =
        pairs.iter().map(|(_, effective)| *effective).filter(|hash| !contents.contains_key(hash)).collect();
    let mut bodies: HashMap<ContentHash, Bytes> = HashMap::new();
    if !unread.is_empty() {
        bodies.extend(shared.store.get_contents(&unread.into_iter().collect::<Vec<_>>()).await?);
    }
    let mut by_offer: HashMap<ContentHash, Vec<(Pair, Bytes)>> = HashMap::new();
    for pair in pairs {
        if let Some(body) = contents.get(&pair.1).or_else(|| bodies.get(&pair.1)) {
            by_offer.entry(pair.0).or_default().push((*pair, body.clone()));
        }
    }
    let offers: Vec<ContentHash> = by_offer.keys().copied().collect();
    let mut results = HashMap::new();
    for offered in shared.bodies.get(&shared.store, &offers).await? {
        let effective = ContentHash::from_slice(&offered.hash).and_then(|hash| by_offer.remove(&hash));
        let effective = effective.unwrap_or_default();
        // Large ones take milliseconds.
        let compared = tokio::task::spawn_blocking(move || {
            let offered = files(AgentRemoteConfig::decode(offered.body).ok().and_then(|offered| offered.config));
            let compare = |(pair, body): (Pair, Bytes)| {
                let effective = files(EffectiveConfig::decode(body).ok().and_then(|effective| effective.config_map));
                (pair, effective::is_contained(&offered, &effective))
            };
            effective.into_iter().map(compare).collect::<Vec<_>>()
        });
        // A panic in it is a bug, and leaves these unknown.
        results.extend(compared.await.unwrap_or_default());
    }
    Ok(results)
}

fn files(config: Option<AgentConfigMap>) -> Files {
    config.map_or_else(BTreeMap::new, |config| config.config_map)
}
