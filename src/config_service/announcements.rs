//! What agents announce of themselves, on its way to the store: that which is new.

use std::collections::HashMap;

use super::{components::MAX_HASH_BYTES, decide::Decided, queue::Item};
use crate::{
    model::InstanceUid,
    store::{self, Announced, SharedStore},
};

/// What is to be written beside the records of a batch.
pub async fn news(store: &SharedStore, decided: &mut [(Item, Decided)]) -> store::Result<Vec<store::News>> {
    let mut news: Vec<store::News> = decided.iter_mut().filter_map(|(_, outcome)| of(outcome)).collect();
    let announcing: Vec<InstanceUid> = news.iter().filter(|news| announces(news)).map(|news| news.uid).collect();
    if announcing.is_empty() {
        return Ok(news);
    }
    // Agents announce the same with each full report.
    let known: HashMap<InstanceUid, Announced> = store.read_announced(&announcing).await?.into_iter().collect();
    let none = Announced::default();
    for news in &mut news {
        let known = known.get(&news.uid).unwrap_or(&none);
        news.custom_capabilities.take_if(|it| *it == known.custom_capabilities);
        news.components_hash.take_if(|it| *it == known.components_hash);
    }
    news.retain(|news| announces(news) || !news.transitions.is_empty());
    Ok(news)
}

fn announces(news: &store::News) -> bool {
    news.custom_capabilities.is_some() || news.components_hash.is_some()
}

fn of(outcome: &mut Decided) -> Option<store::News> {
    let said = &mut outcome.news;
    let news = store::News {
        uid: outcome.record.uid,
        custom_capabilities: said.custom_capabilities.take(),
        components_hash: said.components.as_ref().map(|it| it.hash.clone()).filter(|it| it.len() <= MAX_HASH_BYTES),
        transitions: std::mem::take(&mut said.transitions),
    };
    (announces(&news) || !news.transitions.is_empty()).then_some(news)
}
