//! Which gateways live, asked of the bus at most once a second.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::context;
use crate::{
    bus::{Role, SharedBus},
    model::UnixMs,
};

/// How old an answer may be. Memberships themselves expire in seconds.
const REMEMBER: Duration = Duration::from_secs(1);

pub struct Gateways {
    bus: SharedBus,
    last: Mutex<Option<(Instant, Arc<Live>)>>,
}

/// The gateways that were live at a moment.
#[derive(Debug, Default)]
pub struct Live {
    pub ids: HashSet<String>,
    pub at: UnixMs,
}

impl Gateways {
    pub fn new(bus: SharedBus) -> Self {
        Self { bus, last: Mutex::default() }
    }

    /// None are said to be live while the bus is away.
    pub async fn live(&self) -> Arc<Live> {
        let known = self.last.lock().clone();
        if let Some((_, live)) = known.filter(|(asked, _)| asked.elapsed() < REMEMBER) {
            return live;
        }
        let live = Arc::new(match self.bus.members(Role::Gateway).await {
            Ok(ids) => Live { ids: ids.into_iter().collect(), at: context::now() },
            Err(_) => Live::default(),
        });
        *self.last.lock() = Some((Instant::now(), live.clone()));
        live
    }
}
