//! What agents announce and how their health changed, many at a time.

use uuid::Uuid;

use super::{Backend, Tx};
use crate::{
    model::{InstanceUid, UnixMs},
    store::{MAX_TRANSITIONS_KEPT, News, row::component_text},
};

pub(super) async fn read_announced(
    store: &Backend,
    uids: &[InstanceUid],
) -> sqlx::Result<Vec<(Uuid, Vec<u8>, Vec<u8>)>> {
    let uids: Vec<Uuid> = uids.iter().map(InstanceUid::as_uuid).collect();
    let statement = "SELECT uid, custom_capabilities, components_hash FROM announcements WHERE uid = ANY($1)";
    sqlx::query_as(statement).bind(uids).fetch_all(store.reader()).await
}

pub(super) async fn write(tx: &mut Tx, news: &[&News]) -> sqlx::Result<()> {
    if news.is_empty() {
        return Ok(());
    }
    announce(tx, news).await?;
    record(tx, news).await
}

async fn announce(tx: &mut Tx, news: &[&News]) -> sqlx::Result<()> {
    const CUSTOM_CAPABILITIES: &str = "INSERT INTO announcements (uid, custom_capabilities, components_hash)
        SELECT uid, value, '' FROM UNNEST($1::uuid[], $2::bytea[]) AS n (uid, value)
        ON CONFLICT (uid) DO UPDATE SET custom_capabilities = excluded.custom_capabilities";
    const COMPONENTS: &str = "INSERT INTO announcements (uid, custom_capabilities, components_hash)
        SELECT uid, '', value FROM UNNEST($1::uuid[], $2::bytea[]) AS n (uid, value)
        ON CONFLICT (uid) DO UPDATE SET components_hash = excluded.components_hash";
    let custom = |news: &'_ &News| news.custom_capabilities.clone();
    let components = |news: &'_ &News| news.components_hash.clone();
    for (statement, value) in
        [(CUSTOM_CAPABILITIES, &custom as &(dyn Fn(&&News) -> _ + Sync)), (COMPONENTS, &components)]
    {
        let (uids, values): (Vec<Uuid>, Vec<Vec<u8>>) =
            news.iter().filter_map(|news| Some((news.uid.as_uuid(), value(news)?.to_vec()))).unzip();
        if !uids.is_empty() {
            sqlx::query(statement).bind(uids).bind(values).execute(&mut **tx).await?;
        }
    }
    Ok(())
}

async fn record(tx: &mut Tx, news: &[&News]) -> sqlx::Result<()> {
    let insert = "INSERT INTO health_transitions (uid, at_unix_ms, component, healthy, status, last_error)
        SELECT uid, at_unix_ms, component, healthy, status, last_error
        FROM UNNEST($1::uuid[], $2::bigint[], $3::bytea[], $4::boolean[], $5::bytea[], $6::bytea[])
            WITH ORDINALITY AS n (uid, at_unix_ms, component, healthy, status, last_error, place) ORDER BY place";
    let trim = "DELETE FROM health_transitions WHERE id IN (
            SELECT id FROM (
                SELECT id, row_number() OVER (PARTITION BY uid ORDER BY id DESC) AS place
                FROM health_transitions WHERE uid = ANY($1)
            ) AS ranked WHERE place > $2)";
    let rows: Vec<_> =
        news.iter().flat_map(|news| news.transitions.iter().map(|it| (news.uid.as_uuid(), it))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let uids: Vec<Uuid> = rows.iter().map(|(uid, _)| *uid).collect();
    let at: Vec<UnixMs> = rows.iter().map(|(_, it)| it.at).collect();
    let components: Vec<Vec<u8>> = rows.iter().map(|(_, it)| component_text(&it.component).into_bytes()).collect();
    let healthy: Vec<Option<bool>> = rows.iter().map(|(_, it)| it.healthy).collect();
    let statuses: Vec<&[u8]> = rows.iter().map(|(_, it)| it.status.as_bytes()).collect();
    let errors: Vec<&[u8]> = rows.iter().map(|(_, it)| it.last_error.as_bytes()).collect();
    let query = sqlx::query(insert).bind(&uids).bind(at).bind(components).bind(healthy).bind(statuses).bind(errors);
    query.execute(&mut **tx).await?;
    sqlx::query(trim).bind(&uids).bind(i64::from(MAX_TRANSITIONS_KEPT)).execute(&mut **tx).await?;
    Ok(())
}
