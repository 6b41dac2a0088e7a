//! Every SQL statement there is.

use std::{path::Path, time::Duration};

use palisade_mesh::spiffe_id::SpiffeId;
use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool, Transaction, query, sqlite::SqliteRow};

use super::{
    Change, ISSUED_LIST_MAX, Issuance, IssuedCertificate, IssuedFilter, StoreError, Stored,
};
use crate::{
    authority::{Authority, KeyId, Kind, State, orders::Orders},
    journal::Entry,
    registration::Registration,
    selector::Selector,
};

type Tx<'a> = Transaction<'a, Sqlite>;

pub(super) async fn load(pool: &SqlitePool) -> Result<Stored, StoreError> {
    let mut tx = pool.begin().await?;
    let stored = Stored {
        trust_domain: meta(&mut tx, "trust_domain").await?,
        epoch: number(&mut tx, "epoch").await?,
        sequence: number(&mut tx, "sequence").await?,
        orders: match meta(&mut tx, "orders").await? {
            None => Orders::default(),
            Some(text) => Orders::parse(&text).ok_or(StoreError::Row("orders"))?,
        },
        recorded: match meta(&mut tx, "recorded").await? {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| StoreError::Row("recorded"))?),
        },
        journal_head: number(&mut tx, "journal_head").await?,
        entries: rows(
            &mut tx,
            "SELECT sequence, time_us, key_id, state_before, state_after, certificate, reason, mac
             FROM journal ORDER BY sequence",
            entry,
        )
        .await?,
        authorities: rows(
            &mut tx,
            "SELECT key_id, kind, issuer, certificate, sealed_key, not_before, not_after
             FROM authorities ORDER BY not_before, key_id",
            authority,
        )
        .await?,
        registrations: rows(
            &mut tx,
            "SELECT spiffe_id, selectors, ttl_s, hint, nodes FROM registrations ORDER BY position",
            registration,
        )
        .await?,
    };
    Ok(stored)
}

pub(super) async fn set_meta(tx: &mut Tx<'_>, name: &str, value: &str) -> Result<(), StoreError> {
    query("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value")
        .bind(name)
        .bind(value)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) async fn apply(tx: &mut Tx<'_>, change: &Change) -> Result<(), StoreError> {
    if let Some((a, sealed)) = &change.made {
        query("INSERT INTO authorities (key_id, kind, issuer, certificate, sealed_key, not_before, not_after) VALUES (?, ?, ?, ?, ?, ?, ?)")
            .bind(a.key_id.as_bytes())
            .bind(a.kind.as_str())
            .bind(a.issuer.as_bytes())
            .bind(a.certificate.as_ref())
            .bind(sealed)
            .bind(a.not_before_s)
            .bind(a.not_after_s)
            .execute(&mut **tx)
            .await?;
    }
    for e in &change.entries {
        query("INSERT INTO journal (sequence, time_us, key_id, state_before, state_after, certificate, reason, mac) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(e.sequence)
            .bind(e.time_us)
            .bind(e.key_id.as_bytes())
            .bind(e.before.map(State::as_str))
            .bind(e.after.as_str())
            .bind(e.certificate.as_slice())
            .bind(&e.reason)
            .bind(&e.mac)
            .execute(&mut **tx)
            .await?;
        set_meta(tx, "journal_head", &e.sequence.to_string()).await?;
    }
    for id in &change.over {
        query("UPDATE authorities SET sealed_key = NULL WHERE key_id = ?")
            .bind(id.as_bytes())
            .execute(&mut **tx)
            .await?;
    }
    if let Some(orders) = &change.orders {
        set_meta(tx, "orders", &orders.to_text()).await?;
    }
    set_meta(tx, "sequence", &change.sequence.to_string()).await
}

pub(super) async fn copy_to(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), StoreError> {
    let path = path.to_str().ok_or(StoreError::Row("path"))?;
    query("VACUUM INTO ?")
        .bind(path)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn replace_registrations(
    tx: &mut Tx<'_>,
    list: &[Registration],
) -> Result<(), StoreError> {
    query("DELETE FROM registrations")
        .execute(&mut **tx)
        .await?;
    for r in list {
        let selectors: Vec<String> = r.selectors.iter().map(Selector::to_string).collect();
        query("INSERT INTO registrations (spiffe_id, selectors, ttl_s, hint, nodes) VALUES (?, ?, ?, ?, ?)")
            .bind(r.spiffe_id.as_str())
            .bind(json(&selectors)?)
            .bind(i64::try_from(r.ttl.as_secs()).unwrap_or(i64::MAX))
            .bind(&r.hint)
            .bind(json(&r.nodes)?)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Whether the key is certified for an identity other than the row's.
pub(super) async fn bound_elsewhere(tx: &mut Tx<'_>, row: &Issuance) -> Result<bool, StoreError> {
    let other = query("SELECT 1 FROM issued WHERE key_digest = ? AND spiffe_id <> ? LIMIT 1")
        .bind(row.key_digest.as_slice())
        .bind(row.certificate.spiffe_id.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(other.is_some())
}

pub(super) async fn insert_issued(tx: &mut Tx<'_>, row: &Issuance) -> Result<(), StoreError> {
    let c = &row.certificate;
    query("INSERT INTO issued (serial, spiffe_id, key_digest, not_before, not_after, selectors, authority) VALUES (?, ?, ?, ?, ?, ?, ?)")
        .bind(&c.serial)
        .bind(c.spiffe_id.as_str())
        .bind(row.key_digest.as_slice())
        .bind(c.not_before_s)
        .bind(c.not_after_s)
        .bind(json(&c.selectors)?)
        .bind(c.authority.as_bytes())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) async fn issued(
    pool: &SqlitePool,
    filter: &IssuedFilter,
    now_s: i64,
) -> Result<Vec<IssuedCertificate>, StoreError> {
    let floor = if filter.include_ended {
        i64::MIN
    } else {
        now_s
    };
    query(
        "SELECT serial, spiffe_id, not_before, not_after, selectors, authority FROM issued
         WHERE not_after > ?1 AND (?2 IS NULL OR spiffe_id = ?2)
         ORDER BY not_before DESC, spiffe_id LIMIT ?3",
    )
    .bind(floor)
    .bind(filter.spiffe_id.as_ref().map(SpiffeId::as_str))
    .bind(ISSUED_LIST_MAX)
    .fetch_all(pool)
    .await?
    .iter()
    .map(issued_certificate)
    .collect()
}

pub(super) async fn last_leaves(pool: &SqlitePool) -> Result<Vec<(KeyId, i64)>, StoreError> {
    query("SELECT authority, MAX(not_after) AS last FROM issued GROUP BY authority")
        .fetch_all(pool)
        .await?
        .iter()
        .map(|row| Ok((key_id(row, "authority")?, row.try_get("last")?)))
        .collect()
}

pub(super) async fn prune(pool: &SqlitePool, before_s: i64) -> Result<(), StoreError> {
    query("DELETE FROM issued WHERE not_after < ?")
        .bind(before_s)
        .execute(pool)
        .await?;
    Ok(())
}

pub(super) async fn rows<T>(
    tx: &mut SqliteConnection,
    sql: &'static str,
    read: fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    query(sql).fetch_all(tx).await?.iter().map(read).collect()
}

async fn meta(tx: &mut SqliteConnection, name: &'static str) -> Result<Option<String>, StoreError> {
    let row = query("SELECT value FROM meta WHERE name = ?")
        .bind(name)
        .fetch_optional(tx)
        .await?;
    Ok(row.map(|r| r.try_get("value")).transpose()?)
}

/// A number in `meta`; a new database counts from zero.
pub(super) async fn number<N: std::str::FromStr + Default>(
    tx: &mut SqliteConnection,
    name: &'static str,
) -> Result<N, StoreError> {
    match meta(tx, name).await? {
        None => Ok(N::default()),
        Some(text) => text.parse().map_err(|_| StoreError::Row(name)),
    }
}

fn entry(row: &SqliteRow) -> Result<Entry, StoreError> {
    let before: Option<String> = row.try_get("state_before")?;
    let state = |word: String| State::parse(&word).ok_or(StoreError::Row("journal.state"));
    Ok(Entry {
        sequence: row.try_get("sequence")?,
        time_us: row.try_get("time_us")?,
        key_id: key_id(row, "key_id")?,
        before: before.map(state).transpose()?,
        after: state(row.try_get("state_after")?)?,
        certificate: row
            .try_get::<Vec<u8>, _>("certificate")?
            .try_into()
            .map_err(|_| StoreError::Row("journal.certificate"))?,
        reason: row.try_get("reason")?,
        mac: row.try_get("mac")?,
    })
}

fn authority(row: &SqliteRow) -> Result<(Authority, Option<Vec<u8>>), StoreError> {
    let kind: String = row.try_get("kind")?;
    let authority = Authority {
        kind: Kind::parse(&kind).ok_or(StoreError::Row("authorities.kind"))?,
        key_id: key_id(row, "key_id")?,
        issuer: key_id(row, "issuer")?,
        // The journal decides.
        state: State::Prepared,
        certificate: row.try_get::<Vec<u8>, _>("certificate")?.into(),
        not_before_s: row.try_get("not_before")?,
        not_after_s: row.try_get("not_after")?,
    };
    Ok((authority, row.try_get("sealed_key")?))
}

fn registration(row: &SqliteRow) -> Result<Registration, StoreError> {
    let bad = || StoreError::Row("registrations");
    let id: String = row.try_get("spiffe_id")?;
    let selectors: Vec<String> = from_json(row.try_get("selectors")?)?;
    let selectors = selectors
        .iter()
        .map(|s| Selector::parse(s))
        .collect::<Result<_, _>>()
        .map_err(|_| bad())?;
    let ttl_s: i64 = row.try_get("ttl_s")?;
    Ok(Registration::new(
        SpiffeId::parse(&id).map_err(|_| bad())?,
        selectors,
        Duration::from_secs(u64::try_from(ttl_s).map_err(|_| bad())?),
        row.try_get("hint")?,
    )
    .on(from_json(row.try_get("nodes")?)?))
}

fn issued_certificate(row: &SqliteRow) -> Result<IssuedCertificate, StoreError> {
    let id: String = row.try_get("spiffe_id")?;
    Ok(IssuedCertificate {
        spiffe_id: SpiffeId::parse(&id).map_err(|_| StoreError::Row("issued.spiffe_id"))?,
        serial: row.try_get("serial")?,
        not_before_s: row.try_get("not_before")?,
        not_after_s: row.try_get("not_after")?,
        selectors: from_json(row.try_get("selectors")?)?,
        authority: key_id(row, "authority")?,
    })
}

fn key_id(row: &SqliteRow, column: &'static str) -> Result<KeyId, StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    KeyId::from_slice(&bytes).ok_or(StoreError::Row(column))
}

fn json(list: &[String]) -> Result<String, StoreError> {
    serde_json::to_string(list).map_err(|_| StoreError::Row("selectors"))
}

fn from_json(text: String) -> Result<Vec<String>, StoreError> {
    serde_json::from_str(&text).map_err(|_| StoreError::Row("selectors"))
}
