//! The kill list on disk.

use palisade_mesh::{
    kill::{Entry, Target},
    spiffe_id::SpiffeId,
};
use sqlx::{Row, query, sqlite::SqliteRow};
use ulid::Ulid;

use super::{Store, StoreError, queries, writing};

/// Name of the list's sequence in `meta`.
const SEQUENCE: &str = "kill_sequence";

impl Store {
    /// Reads the list and its sequence.
    pub(crate) async fn kill_list(&self) -> Result<(u64, Vec<Entry>), StoreError> {
        let mut tx = self.pool.begin().await?;
        let sequence = queries::number(&mut tx, SEQUENCE).await?;
        let entries = queries::rows(
            &mut tx,
            "SELECT id, kind, target, reason, author, created_us, expires_us
             FROM kill_list ORDER BY id",
            entry,
        )
        .await?;
        Ok((sequence, entries))
    }

    /// Replaces the whole list. A change is small, and this way no crash leaves half of one.
    pub(crate) async fn replace_kill_list(
        &self,
        sequence: u64,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let mut tx = writing(&self.pool).await?;
        query("DELETE FROM kill_list").execute(&mut *tx).await?;
        for e in entries {
            let (kind, target) = columns(&e.target);
            query("INSERT INTO kill_list (id, kind, target, reason, author, created_us, expires_us) VALUES (?, ?, ?, ?, ?, ?, ?)")
                .bind(e.id.to_bytes().as_slice())
                .bind(kind)
                .bind(target)
                .bind(&e.reason)
                .bind(&e.author)
                .bind(e.created_us)
                .bind(e.expires_us)
                .execute(&mut *tx)
                .await?;
        }
        queries::set_meta(&mut tx, SEQUENCE, &sequence.to_string()).await?;
        Ok(tx.commit().await?)
    }
}

fn columns(target: &Target) -> (&'static str, &[u8]) {
    let bytes = match target {
        Target::Authority(bytes) | Target::Serial(bytes) => bytes.as_ref(),
        Target::Identity(id) | Target::Prefix(id) => id.as_str().as_bytes(),
    };
    (target.kind(), bytes)
}

fn entry(row: &SqliteRow) -> Result<Entry, StoreError> {
    let bad = || StoreError::Row("kill_list");
    let id: Vec<u8> = row.try_get("id")?;
    let (kind, target): (String, Vec<u8>) = (row.try_get("kind")?, row.try_get("target")?);
    let identity = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        SpiffeId::parse(text).map_err(|_| bad())
    };
    Ok(Entry {
        id: Ulid::from_bytes(id.try_into().map_err(|_| bad())?),
        target: match kind.as_str() {
            "authority" => Target::Authority(target.into()),
            "identity" => Target::Identity(identity(&target)?),
            "prefix" => Target::Prefix(identity(&target)?),
            "serial" => Target::Serial(target.into()),
            _ => return Err(bad()),
        },
        reason: row.try_get("reason")?,
        author: row.try_get("author")?,
        created_us: row.try_get("created_us")?,
        expires_us: row.try_get("expires_us")?,
    })
}
