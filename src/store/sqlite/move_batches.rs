//! Former uids, many at a time.

use sqlx::types::Json;

use super::Backend;
use crate::{model::InstanceUid, store::row::FormerUidRow};

pub(super) async fn read(store: &Backend, uids: &[InstanceUid]) -> sqlx::Result<Vec<FormerUidRow>> {
    let statement = "SELECT former, uid, request, is_temporary, made_unix_ms FROM uid_moves
        WHERE former IN (SELECT unhex(value) FROM json_each($1))";
    let uids: Vec<String> = uids.iter().map(|uid| hex::encode(uid.as_bytes())).collect();
    sqlx::query_as(statement).bind(Json(uids)).fetch_all(store.reader()).await
}
