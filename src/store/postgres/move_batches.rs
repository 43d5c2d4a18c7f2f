//! Former uids, many at a time.

use uuid::Uuid;

use super::Backend;
use crate::{model::InstanceUid, store::row::FormerUidRow};

pub(super) async fn read(store: &Backend, uids: &[InstanceUid]) -> sqlx::Result<Vec<FormerUidRow>> {
    let statement = "SELECT former, uid, request, is_temporary, made_unix_ms FROM uid_moves WHERE former = ANY($1)";
    let uids: Vec<Uuid> = uids.iter().map(InstanceUid::as_uuid).collect();
    sqlx::query_as(statement).bind(uids).fetch_all(store.reader()).await
}
