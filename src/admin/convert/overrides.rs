//! Overrides.

use super::timestamp;
use crate::{model::overrides::Override, proto::admin};

pub fn one(one: Override) -> admin::Override {
    admin::Override {
        policy: one.policy,
        instance_uid: one.uid.to_string(),
        revision: one.revision,
        hold: one.is_hold,
        message: one.message,
        author: one.author,
        create_time: Some(timestamp(one.created_at)),
        expire_time: one.expires_at.map(timestamp),
    }
}
