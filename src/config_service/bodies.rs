//! Bodies of offers: assembled from the store, remembered, and sent to the gateways that ask.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    decide::Meaning,
    metrics,
    shared::{Outage, Shared, isolated},
};
use crate::{
    model::{ContentHash, desired::DesiredConfig, policy::PolicyKind},
    proto::{bus, opamp},
    store::{self, ConfigFiles, SharedStore},
};

/// What was stored is stored again after so long, well within the age at which unused ones are deleted.
const STORE_AGAIN: Duration = Duration::from_secs(3_600);
/// Hashes remembered as stored; beyond, all are forgotten and stored again.
const MAX_STORED_HASHES: usize = 10_000;
/// Hashes answered in one request; a gateway asks for the rest again.
const MAX_HASHES_PER_REQUEST: usize = 256;

/// Configurations that are stored together, and the bytes of what was written for agents in them, at least one.
const MAX_STORED_TOGETHER: usize = 1_000;
const MAX_BYTES_TOGETHER: usize = 8 << 20;
/// Bodies that are read together: each may have some megabytes.
pub const MAX_READ_TOGETHER: usize = 32;

/// A gateway lacks the bodies of these.
pub struct Request {
    pub gateway: String,
    pub hashes: Vec<ContentHash>,
}

pub struct Bodies {
    cache: Mutex<Cache>,
    stored: Mutex<HashMap<ContentHash, Instant>>,
}

#[derive(Default)]
struct Cache {
    /// Each with a number that grows with use.
    bodies: HashMap<ContentHash, (bus::OfferBody, u64)>,
    /// The one that was used least recently comes first.
    by_use: BTreeMap<u64, ContentHash>,
    bytes: usize,
    max_bytes: usize,
    uses: u64,
}

impl Bodies {
    pub fn new(max_bytes: usize) -> Self {
        Self { cache: Mutex::new(Cache { max_bytes, ..Cache::default() }), stored: Mutex::default() }
    }

    /// Sees to it that the store knows what hashes stand for, before any record names them.
    pub async fn store<'a>(
        &self,
        store: &SharedStore,
        meanings: impl Iterator<Item = &'a Meaning>,
    ) -> store::Result<()> {
        let (mut configs, mut offers) = (HashMap::new(), HashMap::new());
        for Meaning { config, packages, connection_settings, .. } in meanings {
            configs.extend(config.iter().map(|config| (config.hash, config)));
            offers.extend(packages.iter().chain(connection_settings).map(|offer| (offer.hash, offer)));
        }
        let configs: Vec<_> = configs.into_values().filter(|config| !self.is_stored(&config.hash)).collect();
        self.store_configs(store, &configs).await?;
        for (hash, offer) in offers.into_iter().filter(|(hash, _)| !self.is_stored(hash)) {
            store.put_offer(offer).await?;
            self.note_stored(hash);
        }
        Ok(())
    }

    /// Those that were written for one agent are as many as there are agents: they are stored together, with what was written.
    async fn store_configs(&self, store: &SharedStore, configs: &[&Arc<DesiredConfig>]) -> store::Result<()> {
        let mut rest = configs;
        while !rest.is_empty() {
            let (mut bodies, mut bytes, mut rows) = (HashMap::new(), 0, Vec::new());
            for config in rest.iter().take(MAX_STORED_TOGETHER) {
                if bytes > MAX_BYTES_TOGETHER {
                    break;
                }
                bytes += config.rendered.iter().map(|(_, body)| body.len()).sum::<usize>();
                bodies.extend(config.rendered.iter().cloned());
                let files = config.files.iter().map(|(name, desired)| (name.clone(), desired.file.clone()));
                rows.push((config.hash, files.collect::<ConfigFiles>()));
            }
            rest = &rest[rows.len()..];
            if !bodies.is_empty() {
                store.put_contents(&bodies.into_iter().collect::<Vec<_>>()).await?;
            }
            store.put_configs(&rows).await?;
            rows.iter().for_each(|(hash, _)| self.note_stored(*hash));
        }
        Ok(())
    }

    fn is_stored(&self, hash: &ContentHash) -> bool {
        self.stored.lock().get(hash).is_some_and(|at| at.elapsed() < STORE_AGAIN)
    }

    fn note_stored(&self, hash: ContentHash) {
        let mut stored = self.stored.lock();
        if stored.len() >= MAX_STORED_HASHES {
            stored.clear();
        }
        stored.insert(hash, Instant::now());
    }

    /// Those of `hashes` that the store knows with all their files, in their order.
    pub async fn get(&self, store: &SharedStore, hashes: &[ContentHash]) -> store::Result<Vec<bus::OfferBody>> {
        let mut found: HashMap<ContentHash, bus::OfferBody> = {
            let mut cache = self.cache.lock();
            hashes.iter().filter_map(|hash| Some((*hash, cache.get(hash)?))).collect()
        };
        let missing: Vec<ContentHash> = hashes.iter().filter(|hash| !found.contains_key(hash)).copied().collect();
        if !missing.is_empty() {
            let read = read(store, &missing).await?;
            let mut cache = self.cache.lock();
            for (hash, body) in read {
                cache.insert(hash, body.clone());
                found.insert(hash, body);
            }
        }
        Ok(hashes.iter().filter_map(|hash| found.remove(hash)).collect())
    }
}

async fn read(store: &SharedStore, hashes: &[ContentHash]) -> store::Result<Vec<(ContentHash, bus::OfferBody)>> {
    let configs = store.get_configs(hashes).await?;
    let wanted: HashSet<ContentHash> =
        configs.iter().flat_map(|(_, files)| files.values().map(|file| file.content)).collect();
    let contents: HashMap<_, _> =
        store.get_contents(&wanted.into_iter().collect::<Vec<_>>()).await?.into_iter().collect();
    let of = |kind: PolicyKind, hash: ContentHash, body| {
        (hash, bus::OfferBody { kind: bus::OfferKind::from(kind) as i32, hash: hash.to_bytes(), body })
    };
    let mut bodies = Vec::with_capacity(hashes.len());
    for (hash, files) in &configs {
        match assemble(*hash, files, &contents) {
            Some(body) => bodies.push(of(PolicyKind::Config, *hash, body)),
            None => {
                tracing::error!(config = %hash, "a file of a stored configuration is missing; it cannot be offered");
            }
        }
    }
    let known: HashSet<ContentHash> = configs.iter().map(|(hash, _)| *hash).collect();
    for hash in hashes.iter().filter(|hash| !known.contains(hash)) {
        let offer = store.get_offer(*hash).await?;
        bodies.extend(offer.map(|offer| of(offer.kind, *hash, offer.body)));
    }
    Ok(bodies)
}

/// The maps are sorted, so the encoding is the same wherever it is made.
fn assemble(hash: ContentHash, files: &ConfigFiles, contents: &HashMap<ContentHash, Bytes>) -> Option<Bytes> {
    let objects = files.iter().map(|(name, file)| {
        let object = opamp::AgentConfigObject {
            body: contents.get(&file.content)?.clone(),
            content_type: file.content_type.clone(),
            role: file.role.clone(),
        };
        Some((name.clone(), object))
    });
    let config_map = objects.collect::<Option<BTreeMap<_, _>>>()?;
    let config =
        opamp::AgentRemoteConfig { config: Some(opamp::AgentConfigMap { config_map }), config_hash: hash.to_bytes() };
    Some(config.encode_to_vec().into())
}

impl Cache {
    fn get(&mut self, hash: &ContentHash) -> Option<bus::OfferBody> {
        let (body, used) = self.bodies.get_mut(hash)?;
        self.uses += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.uses, *hash);
        *used = self.uses;
        Some(body.clone())
    }

    /// Makes room by dropping what was used least recently. A body that alone is too large is not kept.
    fn insert(&mut self, hash: ContentHash, body: bus::OfferBody) {
        if body.body.len() > self.max_bytes || self.bodies.contains_key(&hash) {
            return;
        }
        self.bytes += body.body.len();
        while self.bytes > self.max_bytes {
            let oldest = self.by_use.pop_first();
            let Some((dropped, _)) = oldest.and_then(|(_, oldest)| self.bodies.remove(&oldest)) else {
                break;
            };
            self.bytes -= dropped.body.len();
        }
        self.uses += 1;
        self.by_use.insert(self.uses, hash);
        self.bodies.insert(hash, (body, self.uses));
    }
}

/// Answers gateways one after the other.
pub async fn run(shared: Arc<Shared>, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
    let mut outage = Outage::new("reading bodies");
    while let Some(Some(request)) = stop.run_until_cancelled(requests.recv()).await {
        if let Some(result) = isolated("bodies", answer(&shared, request)).await {
            outage.note(result);
        }
    }
}

async fn answer(shared: &Shared, request: Request) -> store::Result<()> {
    let wanted = request.hashes.len().min(MAX_HASHES_PER_REQUEST);
    for hashes in request.hashes[..wanted].chunks(MAX_READ_TOGETHER) {
        for body in shared.bodies.get(&shared.store, hashes).await? {
            // One body a message: bodies may be large, and each is of use by itself.
            let batch = bus::GatewayBatch { bodies: vec![body], ..Default::default() };
            shared.outbox.to_gateway(&request.gateway, batch).await;
            ::metrics::counter!(metrics::BODIES).increment(1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_body_makes_room() {
        let hash = |n: u8| ContentHash([n; 32]);
        let body = |body: &'static [u8]| bus::OfferBody { body: body.into(), ..Default::default() };
        let mut cache = Cache { max_bytes: 10, ..Cache::default() };
        for n in 1..=2 {
            cache.insert(hash(n), body(b"12345"));
        }
        assert!(cache.get(&hash(1)).is_some());
        cache.insert(hash(3), body(b"123"));
        cache.insert(hash(4), body(b"this is too large"));
        let kept: Vec<bool> = (1..=4).map(|n| cache.get(&hash(n)).is_some()).collect();
        assert_eq!((kept, cache.bytes), (vec![true, false, true, false], 8));
    }
}
