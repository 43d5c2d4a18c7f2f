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
    model::{ContentHash, policy::PolicyKind},
    proto::{bus, opamp},
    store::{self, ConfigFiles, SharedStore},
};

/// What was stored is stored again after so long, well within the age at which unused ones are deleted.
const STORE_AGAIN: Duration = Duration::from_secs(3_600);
/// Hashes remembered as stored; beyond, all are forgotten and stored again.
const MAX_STORED_HASHES: usize = 10_000;
/// Hashes answered in one request; a gateway asks for the rest again.
const MAX_HASHES_PER_REQUEST: usize = 256;

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
        for Meaning { config, packages, connection_settings } in meanings {
            configs.extend(config.iter().map(|config| (config.hash, config)));
            offers.extend(packages.iter().chain(connection_settings).map(|offer| (offer.hash, offer)));
        }
        for (hash, config) in configs.into_iter().filter(|(hash, _)| !self.is_stored(hash)) {
            let files: ConfigFiles =
                config.files.iter().map(|(name, desired)| (name.clone(), desired.file.clone())).collect();
            store.put_config(hash, &files).await?;
            self.note_stored(hash);
        }
        for (hash, offer) in offers.into_iter().filter(|(hash, _)| !self.is_stored(hash)) {
            store.put_offer(offer).await?;
            self.note_stored(hash);
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

    /// `None` if the store does not know the hash, or lacks a file of it.
    pub async fn get(&self, store: &SharedStore, hash: ContentHash) -> store::Result<Option<bus::OfferBody>> {
        if let Some(body) = self.cache.lock().get(&hash) {
            return Ok(Some(body));
        }
        let body = match store.get_config(hash).await? {
            Some(files) => self.config(store, hash, &files).await?.map(|body| (PolicyKind::Config, body)),
            None => store.get_offer(hash).await?.map(|offer| (offer.kind, offer.body)),
        };
        let body = body.map(|(kind, body)| bus::OfferBody {
            kind: bus::OfferKind::from(kind) as i32,
            hash: hash.to_bytes(),
            body,
        });
        if let Some(body) = &body {
            self.cache.lock().insert(hash, body.clone());
        }
        Ok(body)
    }

    /// An encoded `AgentRemoteConfig`.
    async fn config(
        &self,
        store: &SharedStore,
        hash: ContentHash,
        files: &ConfigFiles,
    ) -> store::Result<Option<Bytes>> {
        let wanted: HashSet<ContentHash> = files.values().map(|file| file.content).collect();
        let contents = store.get_contents(&wanted.into_iter().collect::<Vec<_>>()).await?;
        let body = assemble(hash, files, &contents.into_iter().collect());
        if body.is_none() {
            tracing::error!(config = %hash, "a file of a stored configuration is missing; it cannot be offered");
        }
        Ok(body)
    }
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
        self.uses += 1;
        let (body, used) = self.bodies.get_mut(hash)?;
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
            let oldest = self.bodies.iter().min_by_key(|(_, (_, used))| *used).map(|(hash, _)| *hash);
            let Some((dropped, _)) = oldest.and_then(|oldest| self.bodies.remove(&oldest)) else {
                break;
            };
            self.bytes -= dropped.body.len();
        }
        self.uses += 1;
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
    for hash in request.hashes.into_iter().take(MAX_HASHES_PER_REQUEST) {
        if let Some(body) = shared.bodies.get(&shared.store, hash).await? {
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
