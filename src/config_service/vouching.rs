//! Tells gateways whether an agent whose certificate has one uid has gone on under another.
//!
//! Who was given a uid while it was connected by a certificate of its own goes on being let in by that, until it has another.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    outbox::Letters,
    shared::{Outage, Shared, isolated},
};
use crate::{model::InstanceUid, proto::bus, store};

/// Questions answered with one reading of the store.
const MAX_AT_ONCE: usize = 1_000;

/// What a gateway wants to know.
pub struct Question {
    pub gateway: String,
    pub former: InstanceUid,
    pub uid: InstanceUid,
}

impl Question {
    /// `None` for what no gateway asks.
    pub fn from_wire(gateway: &str, question: &bus::UidQuestion) -> Option<Self> {
        let former = InstanceUid::from_slice(&question.former_instance_uid).ok()?;
        let uid = InstanceUid::from_slice(&question.instance_uid).ok()?;
        Some(Self { gateway: gateway.to_owned(), former, uid })
    }
}

pub async fn run(shared: Arc<Shared>, mut questions: mpsc::Receiver<Question>, stop: CancellationToken) {
    let mut outage = Outage::new("reading former uids");
    let mut waiting = Vec::new();
    while let Some(count) = stop.run_until_cancelled(questions.recv_many(&mut waiting, MAX_AT_ONCE)).await {
        if count == 0 {
            return;
        }
        let questions = std::mem::take(&mut waiting);
        if let Some(result) = isolated("former uids", answer(&shared, questions)).await {
            outage.note(result);
        }
    }
}

async fn answer(shared: &Shared, questions: Vec<Question>) -> store::Result<()> {
    let formers: HashSet<InstanceUid> = questions.iter().map(|question| question.former).collect();
    let known = shared.store.former_uids(&formers.into_iter().collect::<Vec<_>>()).await?;
    // Of a uid under which nothing was known of the agent, others may have certificates.
    let known: HashMap<InstanceUid, InstanceUid> =
        known.into_iter().filter(|it| !it.is_temporary).map(|it| (it.former, it.uid)).collect();
    let mut letters = Letters::default();
    for Question { gateway, former, uid } in questions {
        let is_same_agent = known.get(&former) == Some(&uid);
        let answer =
            bus::UidAnswer { former_instance_uid: former.to_bytes(), instance_uid: uid.to_bytes(), is_same_agent };
        letters.to(&gateway).uid_answers.push(answer);
    }
    letters.send(&shared.outbox).await;
    Ok(())
}
