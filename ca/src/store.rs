//! What the authority keeps on disk: one SQLite file, in one writer's hands.
//!
//! A committed change is fsynced (write-ahead log, `synchronous = FULL`). Issued
//! certificates come in bunches when a fleet renews, so one task writes them and
//! commits what has queued up in one transaction.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::{spiffe_id::SpiffeId, svid::TrustBundle};
use sqlx::{
    Connection, SqlSafeStr, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    authority::{Authority, KeyId, orders::Orders},
    journal::Entry,
    registration::Registration,
};

mod kill;
pub(crate) mod nodes;
mod queries;

/// How long after its end an issued certificate is kept on the list, in seconds.
pub(crate) const ISSUED_KEPT_S: i64 = 24 * 60 * 60;
/// Most rows of the list of issued certificates that one question returns.
pub const ISSUED_LIST_MAX: u32 = 10_000;
/// Connections to the file: one writes, the others read.
const CONNECTIONS_MAX: u32 = 4;
/// Most issuances that wait for the disk; more are refused.
const QUEUE_LEN_MAX: usize = 1024;
/// Most issuances of one transaction.
const BATCH_LEN_MAX: usize = 256;

/// A certificate that left this authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Whose.
    pub spiffe_id: SpiffeId,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// Start of its validity, seconds since the Unix epoch.
    pub not_before_s: i64,
    /// End of its validity, seconds since the Unix epoch.
    pub not_after_s: i64,
    /// What was attested of the workload.
    pub selectors: Vec<String>,
    /// Key id of the intermediate that signed it.
    pub authority: KeyId,
}

/// Which issued certificates to list.
#[derive(Debug, Clone, Default)]
pub struct IssuedFilter {
    /// Of this identity only.
    pub spiffe_id: Option<SpiffeId>,
    /// Ended ones too, as far as they are kept: a day.
    pub include_ended: bool,
}

/// Why the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The key is certified for another identity.
    #[error("key is bound to another identity")]
    KeyBound,
    /// More is waiting for the disk than can be kept.
    #[error("too many issuances wait for the disk")]
    Busy,
    /// SQLite refused.
    #[error("database failed: {0}")]
    Database(#[from] Arc<sqlx::Error>),
    /// A row that we did not write.
    #[error("database holds an unreadable `{0}`")]
    Row(&'static str),
    /// The file cannot be made or its schema brought up to date.
    #[error("database `{path}` cannot be opened: {reason}")]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// An issuance on its way to the disk.
struct Pending {
    row: Issuance,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// An issued certificate with what binds its key.
pub(crate) struct Issuance {
    pub(crate) certificate: IssuedCertificate,
    pub(crate) key_digest: [u8; 32],
}

/// One change of the authorities, committed whole.
#[derive(Default)]
pub(crate) struct Change {
    /// A new authority and its sealed key.
    pub(crate) made: Option<(Authority, Vec<u8>)>,
    /// The transitions.
    pub(crate) entries: Vec<Entry>,
    /// Authorities whose keys are to be destroyed.
    pub(crate) over: Vec<KeyId>,
    /// The trust sequence after it.
    pub(crate) sequence: u64,
    /// What operators have asked for, where that changes.
    pub(crate) orders: Option<Orders>,
}

/// What was found on disk.
pub(crate) struct Stored {
    pub(crate) trust_domain: Option<String>,
    /// Which life of the state this is; 0 before it has one.
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) orders: Orders,
    /// The last journal entry that has left its record, if that was ever noted.
    pub(crate) recorded: Option<i64>,
    pub(crate) journal_head: i64,
    pub(crate) entries: Vec<Entry>,
    /// Authorities with a placeholder state, and their sealed keys.
    pub(crate) authorities: Vec<(Authority, Option<Vec<u8>>)>,
    pub(crate) registrations: Vec<Registration>,
}

/// The open database.
pub(crate) struct Store {
    pool: SqlitePool,
    issued: mpsc::Sender<Pending>,
}

impl Store {
    /// Opens or makes the file and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Open {
            path: path.to_owned(),
            reason,
        };
        // SQLite gives its side files the mode of the main one.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| failed(e.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("secure_delete", "ON");
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .connect_with(options)
            .await
            .map_err(|e| failed(e.to_string()))?;
        migrations()
            .run(&pool)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let (issued, queue) = mpsc::channel(QUEUE_LEN_MAX);
        tokio::spawn(write_issued(pool.clone(), queue));
        Ok(Self { pool, issued })
    }

    /// Reads everything but the issued certificates.
    pub(crate) async fn load(&self) -> Result<Stored, StoreError> {
        queries::load(&self.pool).await
    }

    /// Begins a life of the state: whose authority it is, and from which place on.
    pub(crate) async fn begin(
        &self,
        bundle: &TrustBundle,
        epoch: u64,
        sequence: u64,
    ) -> Result<(), StoreError> {
        let mut tx = writing(&self.pool).await?;
        queries::set_meta(&mut tx, "trust_domain", bundle.trust_domain.as_str()).await?;
        queries::set_meta(&mut tx, "epoch", &epoch.to_string()).await?;
        queries::set_meta(&mut tx, "sequence", &sequence.to_string()).await?;
        Ok(tx.commit().await?)
    }

    /// Notes up to which journal entry there are records.
    pub(crate) async fn recorded(&self, head: i64) -> Result<(), StoreError> {
        let mut tx = writing(&self.pool).await?;
        queries::set_meta(&mut tx, "recorded", &head.to_string()).await?;
        Ok(tx.commit().await?)
    }

    /// Commits a change of the authorities.
    pub(crate) async fn change(&self, change: &Change) -> Result<(), StoreError> {
        let mut tx = writing(&self.pool).await?;
        queries::apply(&mut tx, change).await?;
        Ok(tx.commit().await?)
    }

    /// Replaces the whole list of registrations.
    pub(crate) async fn replace_registrations(
        &self,
        list: &[Registration],
        sequence: u64,
    ) -> Result<(), StoreError> {
        let mut tx = writing(&self.pool).await?;
        queries::replace_registrations(&mut tx, list).await?;
        queries::set_meta(&mut tx, "sequence", &sequence.to_string()).await?;
        Ok(tx.commit().await?)
    }

    /// Writes an issued certificate and returns once it is on disk.
    pub(crate) async fn record(&self, row: Issuance) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        self.issued
            .try_send(Pending { row, done })
            .map_err(|_| StoreError::Busy)?;
        outcome.await.map_err(|_| StoreError::Busy)?
    }

    /// Lists issued certificates, newest first, at most [`ISSUED_LIST_MAX`].
    pub(crate) async fn issued(
        &self,
        filter: &IssuedFilter,
        now_s: i64,
    ) -> Result<Vec<IssuedCertificate>, StoreError> {
        queries::issued(&self.pool, filter, now_s).await
    }

    /// End of the last leaf each authority has signed.
    pub(crate) async fn last_leaves(&self) -> Result<Vec<(KeyId, i64)>, StoreError> {
        queries::last_leaves(&self.pool).await
    }

    /// Forgets certificates that ended more than a day ago.
    pub(crate) async fn prune(&self, now_s: i64) -> Result<(), StoreError> {
        queries::prune(&self.pool, now_s - ISSUED_KEPT_S).await
    }

    /// Closes the file after what is under way.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Writes a consistent copy of a database that may be in use by another process.
pub(crate) async fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let options = SqliteConnectOptions::new().filename(from).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    queries::copy_to(&mut connection, to).await?;
    Ok(connection.close().await?)
}

fn migrations() -> Migrator {
    let simple = |version, what: &'static str, sql: &'static str| {
        let kind = MigrationType::Simple;
        Migration::new(version, what.into(), kind, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        simple(
            1,
            "authorities, journal, registrations, issued",
            include_str!("store/schema.sql"),
        ),
        simple(20, "kill list", include_str!("store/kill.sql")),
        simple(
            41,
            "nodes, join tokens, directory",
            include_str!("store/nodes.sql"),
        ),
    ])
}

/// Commits what has queued up, bunch by bunch, until the store is dropped.
async fn write_issued(pool: SqlitePool, mut queue: mpsc::Receiver<Pending>) {
    let mut batch = Vec::with_capacity(BATCH_LEN_MAX);
    while queue.recv_many(&mut batch, BATCH_LEN_MAX).await > 0 {
        let verdicts = write_batch(&pool, &batch).await;
        for (index, pending) in batch.drain(..).enumerate() {
            let verdict = match &verdicts {
                Ok(each) => each.get(index).cloned().unwrap_or(Err(StoreError::Busy)),
                Err(e) => Err(e.clone()),
            };
            // Whoever asked may have gone; the row stays, which is the safe side.
            let _ = pending.done.send(verdict);
        }
    }
}

/// Begins a change. It holds the only right to write from the first statement on: one
/// that reads before it writes would find that another has written meanwhile, and
/// SQLite does not let it wait then.
async fn writing(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>, StoreError> {
    Ok(pool.begin_with("BEGIN IMMEDIATE").await?)
}

async fn write_batch(
    pool: &SqlitePool,
    batch: &[Pending],
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let mut tx = writing(pool).await?;
    let mut verdicts = Vec::with_capacity(batch.len());
    for pending in batch {
        let row = &pending.row;
        // One writer: between the question and the insert nobody else binds the key.
        let bound = queries::bound_elsewhere(&mut tx, row).await?;
        if !bound {
            queries::insert_issued(&mut tx, row).await?;
        }
        verdicts.push(if bound {
            Err(StoreError::KeyBound)
        } else {
            Ok(())
        });
    }
    tx.commit().await?;
    Ok(verdicts)
}
