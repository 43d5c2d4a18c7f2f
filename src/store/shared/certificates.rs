//! Requests for client certificates, and the certificates that were issued.

use async_trait::async_trait;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Backend, Tx, agents, audit, counters, observed};
use crate::{
    model::{
        AgentRecord, InstanceUid, UnixMs,
        certificate::{Issued, Request, State},
    },
    store::{Actor, CertificateFilter, CertificateStore, Error, MAX_REQUESTS_READ, Result},
};

macro_rules! columns {
    () => {
        "id, uid, public_key, generation, state, requested_unix_ms, decided_unix_ms, decided_by, serial, certificate, \
         issuer, not_before_unix_ms, not_after_unix_ms, used_unix_ms"
    };
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    uid: Uuid,
    public_key: Vec<u8>,
    generation: i32,
    state: i16,
    requested_unix_ms: UnixMs,
    decided_unix_ms: Option<UnixMs>,
    decided_by: String,
    serial: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    issuer: Option<Vec<u8>>,
    not_before_unix_ms: Option<UnixMs>,
    not_after_unix_ms: Option<UnixMs>,
    used_unix_ms: Option<UnixMs>,
}

impl TryFrom<Row> for Request {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let issued = match (row.serial, row.certificate, row.issuer, row.not_before_unix_ms, row.not_after_unix_ms) {
            (Some(number), Some(certificate), Some(issuer), Some(not_before), Some(not_after)) => Some(Issued {
                serial: serial(number)?,
                certificate: certificate.into(),
                issuer: issuer.into(),
                not_before,
                not_after,
            }),
            _ => None,
        };
        Ok(Self {
            id: row.id,
            uid: uid(row.uid)?,
            public_key: row.public_key.into(),
            generation: row.generation.max(1).cast_unsigned(),
            state: state(row.state)?,
            requested_at: row.requested_unix_ms,
            decided_at: row.decided_unix_ms,
            decided_by: row.decided_by,
            issued,
            used_at: row.used_unix_ms,
        })
    }
}

fn uid(uid: Uuid) -> Result<InstanceUid> {
    InstanceUid::from_slice(uid.as_bytes()).map_err(|error| Error::damaged("certificate", error))
}

fn serial(bytes: Vec<u8>) -> Result<[u8; 16]> {
    bytes.try_into().map_err(|_| Error::damaged("certificate", "its serial number is not 16 bytes long"))
}

fn state(number: i16) -> Result<State> {
    State::from_number(number).ok_or_else(|| Error::damaged("certificate", format!("state {number}")))
}

#[async_trait]
impl CertificateStore for Backend {
    async fn agent_certificates(&self, uid: InstanceUid) -> Result<Vec<Request>> {
        observed("agent_certificates", self.limit(), of_agent(self, uid)).await
    }

    async fn request_certificate(&self, request: &Request, actor: &Actor) -> Result<Request> {
        observed("request_certificate", self.limit(), request_one(self, request, actor)).await
    }

    async fn get_certificate(&self, id: Uuid) -> Result<Request> {
        observed("get_certificate", self.limit(), get(self, id)).await
    }

    async fn list_certificates(
        &self,
        filter: CertificateFilter,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Request>> {
        observed("list_certificates", self.limit(), list(self, filter, after, limit)).await
    }

    async fn approve_certificate(&self, id: Uuid, issued: &Issued, actor: &Actor) -> Result<Request> {
        observed("approve_certificate", self.limit(), approve(self, id, issued, actor)).await
    }

    async fn deny_certificate(&self, id: Uuid, actor: &Actor) -> Result<Request> {
        observed("deny_certificate", self.limit(), deny(self, id, actor)).await
    }

    async fn use_certificate(&self, serial: [u8; 16], now: UnixMs) -> Result<Option<State>> {
        observed("use_certificate", self.limit(), note_use(self, serial, now)).await
    }

    async fn revoked_certificates(&self, now: UnixMs) -> Result<Vec<[u8; 16]>> {
        observed("revoked_certificates", self.limit(), revoked(self, now)).await
    }

    async fn forget_certificates(&self, before: UnixMs) -> Result<u64> {
        observed("forget_certificates", Self::MAINTENANCE_LIMIT, forget(self, before)).await
    }
}

async fn of_agent(store: &Backend, uid: InstanceUid) -> Result<Vec<Request>> {
    let statement = concat!("SELECT ", columns!(), " FROM certificates WHERE uid = $1 ORDER BY id DESC LIMIT $2");
    let query = sqlx::query_as(statement).bind(uid.as_uuid()).bind(i64::from(MAX_REQUESTS_READ));
    requests(query.fetch_all(store.reader()).await?)
}

fn requests(rows: Vec<Row>) -> Result<Vec<Request>> {
    rows.into_iter().map(Request::try_from).collect()
}

async fn request_one(store: &Backend, request: &Request, actor: &Actor) -> Result<Request> {
    let insert = "INSERT INTO certificates (id, uid, public_key, key_sha256, generation, state, requested_unix_ms,
            decided_unix_ms, decided_by, serial, certificate, issuer, not_before_unix_ms, not_after_unix_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT (uid, key_sha256, generation) DO NOTHING";
    let select =
        concat!("SELECT ", columns!(), " FROM certificates WHERE uid = $1 AND key_sha256 = $2 AND generation = $3");
    let key_sha256: [u8; 32] = Sha256::digest(&request.public_key).into();
    let generation = i32::try_from(request.generation).unwrap_or(i32::MAX);
    let issued = request.issued.as_ref();
    let mut tx = store.begin().await?;
    let inserted = sqlx::query(insert)
        .bind(request.id)
        .bind(request.uid.as_uuid())
        .bind(&request.public_key[..])
        .bind(&key_sha256[..])
        .bind(generation)
        .bind(request.state as i16)
        .bind(request.requested_at)
        .bind(request.decided_at)
        .bind(&request.decided_by)
        .bind(issued.map(|issued| &issued.serial[..]))
        .bind(issued.map(|issued| &issued.certificate[..]))
        .bind(issued.map(|issued| &issued.issuer[..]))
        .bind(issued.map(|issued| issued.not_before))
        .bind(issued.map(|issued| issued.not_after))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    let query = sqlx::query_as(select).bind(request.uid.as_uuid()).bind(&key_sha256[..]).bind(generation);
    let row: Row = query.fetch_one(&mut *tx).await?;
    let stored = Request::try_from(row)?;
    if inserted > 0 {
        let action = if issued.is_some() { "certificate.issue" } else { "certificate.request" };
        record(&mut tx, actor, action, &stored).await?;
    }
    tx.commit().await?;
    Ok(stored)
}

async fn record(tx: &mut Tx, actor: &Actor, action: &'static str, request: &Request) -> Result<()> {
    let serial = request.issued.as_ref().map(|issued| hex::encode(issued.serial));
    let detail = json!({ "agent": request.uid.to_string(), "serial": serial });
    audit::record(tx, actor, action, &request.id.to_string(), detail).await
}

async fn get(store: &Backend, id: Uuid) -> Result<Request> {
    let statement = concat!("SELECT ", columns!(), " FROM certificates WHERE id = $1");
    let row: Option<Row> = sqlx::query_as(statement).bind(id).fetch_optional(store.reader()).await?;
    row.ok_or_else(|| Error::not_found("certificate", id))?.try_into()
}

async fn list(store: &Backend, filter: CertificateFilter, after: Option<Uuid>, limit: u32) -> Result<Vec<Request>> {
    let statement = concat!(
        "SELECT ",
        columns!(),
        " FROM certificates WHERE id > $1 AND ($2 IS NULL OR uid = $2) AND ($3 IS NULL OR state = $3)",
        " ORDER BY id LIMIT $4"
    );
    let query = sqlx::query_as(statement)
        .bind(after.unwrap_or(Uuid::nil()))
        .bind(filter.uid.map(|uid| uid.as_uuid()))
        .bind(filter.state.map(|state| state as i16))
        .bind(i64::from(limit));
    requests(query.fetch_all(store.reader()).await?)
}

/// Nobody else changes it until the end of the transaction. Updating is how both databases lock a row.
async fn lock(tx: &mut Tx, id: Uuid) -> Result<Request> {
    let statement = concat!("UPDATE certificates SET state = state WHERE id = $1 RETURNING ", columns!());
    let row: Option<Row> = sqlx::query_as(statement).bind(id).fetch_optional(&mut **tx).await?;
    row.ok_or_else(|| Error::not_found("certificate", id))?.try_into()
}

async fn approve(store: &Backend, id: Uuid, issued: &Issued, actor: &Actor) -> Result<Request> {
    let statement = "UPDATE certificates SET state = $2, decided_unix_ms = $3, decided_by = $4, serial = $5,
            certificate = $6, issuer = $7, not_before_unix_ms = $8, not_after_unix_ms = $9
        WHERE id = $1";
    let mut tx = store.begin().await?;
    let mut request = lock(&mut tx, id).await?;
    if !matches!(request.state, State::Pending | State::Denied) {
        return Err(Error::WrongState { kind: "certificate", name: id.to_string(), state: request.state.name() });
    }
    request.state = State::Issued;
    request.decided_at = Some(actor.now);
    request.decided_by.clone_from(&actor.name);
    request.issued = Some(issued.clone());
    sqlx::query(statement)
        .bind(id)
        .bind(request.state as i16)
        .bind(actor.now)
        .bind(&actor.name)
        .bind(&issued.serial[..])
        .bind(&issued.certificate[..])
        .bind(&issued.issuer[..])
        .bind(issued.not_before)
        .bind(issued.not_after)
        .execute(&mut *tx)
        .await?;
    let give = |agent: &mut AgentRecord| agent.desired.certificate = Some(issued.for_agent());
    change_agent(&mut tx, request.uid, give).await?;
    record(&mut tx, actor, "certificate.approve", &request).await?;
    tx.commit().await?;
    Ok(request)
}

async fn deny(store: &Backend, id: Uuid, actor: &Actor) -> Result<Request> {
    let statement = "UPDATE certificates SET state = $2, decided_unix_ms = $3, decided_by = $4 WHERE id = $1";
    let mut tx = store.begin().await?;
    let mut request = lock(&mut tx, id).await?;
    let (state, action) = match request.state {
        State::Pending => (State::Denied, "certificate.deny"),
        State::Issued | State::Superseded => (State::Revoked, "certificate.revoke"),
        State::Denied | State::Revoked => return Ok(request),
    };
    request.state = state;
    request.decided_at = Some(actor.now);
    request.decided_by.clone_from(&actor.name);
    let query = sqlx::query(statement).bind(id).bind(state as i16).bind(actor.now).bind(&actor.name);
    query.execute(&mut *tx).await?;
    if let Some(issued) = &request.issued {
        let take = |agent: &mut AgentRecord| {
            agent.desired.certificate.take_if(|certificate| certificate.serial == issued.serial[..]);
        };
        change_agent(&mut tx, request.uid, take).await?;
        // The list that gateways have says who is not to be let in.
        counters::bump(&mut tx, counters::AGENT_TOKENS).await?;
    }
    record(&mut tx, actor, action, &request).await?;
    tx.commit().await?;
    Ok(request)
}

/// Changes the agent's record, if there is one, so that a decision made from it as it was is made again.
async fn change_agent(tx: &mut Tx, uid: InstanceUid, change: impl FnOnce(&mut AgentRecord)) -> Result<()> {
    match agents::lock(tx, uid).await {
        Ok(mut agent) => {
            change(&mut agent);
            agents::put_more(tx, &agent).await
        }
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn note_use(store: &Backend, serial: [u8; 16], now: UnixMs) -> Result<Option<State>> {
    let find = "SELECT state, used_unix_ms FROM certificates WHERE serial = $1";
    let found: Option<(i16, Option<UnixMs>)> =
        sqlx::query_as(find).bind(&serial[..]).fetch_optional(store.reader()).await?;
    let Some((number, used_at)) = found else { return Ok(None) };
    if state(number)? != State::Issued || used_at.is_some() {
        return Ok(Some(state(number)?));
    }
    let note = "UPDATE certificates SET used_unix_ms = $2 WHERE serial = $1 AND state = $3 AND used_unix_ms IS NULL
        RETURNING uid, not_before_unix_ms, id";
    let supersede = "UPDATE certificates SET state = $3 WHERE uid = $1 AND state = $4 AND id <> $2
        AND (not_before_unix_ms < $5 OR (not_before_unix_ms = $5 AND id < $2))";
    let mut tx = store.begin().await?;
    let query = sqlx::query_as(note).bind(&serial[..]).bind(now).bind(State::Issued as i16);
    let noted: Option<(Uuid, UnixMs, Uuid)> = query.fetch_optional(&mut *tx).await?;
    if let Some((uid, not_before, id)) = noted {
        let query = sqlx::query(supersede).bind(uid).bind(id).bind(State::Superseded as i16);
        query.bind(State::Issued as i16).bind(not_before).execute(&mut *tx).await?;
    }
    let (number, _): (i16, Option<UnixMs>) = sqlx::query_as(find).bind(&serial[..]).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(Some(state(number)?))
}

async fn revoked(store: &Backend, now: UnixMs) -> Result<Vec<[u8; 16]>> {
    let statement = "SELECT serial FROM certificates WHERE state = 4 AND not_after_unix_ms > $1 ORDER BY id";
    let serials: Vec<Vec<u8>> = sqlx::query_scalar(statement).bind(now).fetch_all(store.reader()).await?;
    serials.into_iter().map(serial).collect()
}

async fn forget(store: &Backend, before: UnixMs) -> Result<u64> {
    let statement = "DELETE FROM certificates WHERE COALESCE(not_after_unix_ms, requested_unix_ms) < $1";
    let mut tx = store.begin().await?;
    let deleted = sqlx::query(statement).bind(before).execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(deleted)
}
