//! What is done to an authority's folder while no authority runs on it.

use std::sync::Arc;

use palisade_mesh::clock::Clock;

use super::{
    CaConfig, CaError,
    acks::Acks,
    books::{Books, disk},
};
use crate::authority::{Authority, Kind, State};

/// What came of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Authorities that had ended.
    pub ended: usize,
    /// Authorities that are there now, roots first, and since when each is in its
    /// state, microseconds since the Unix epoch.
    pub authorities: Vec<(Authority, i64)>,
}

/// Makes the state of a new authority: its first root and intermediate.
///
/// # Errors
/// [`CaError::Exists`] where there is one already, else as
/// [`Ca::start`](super::Ca::start).
pub async fn init(config: &CaConfig, clock: Clock) -> Result<Vec<(Authority, i64)>, CaError> {
    config.check()?;
    let database = config.state_dir.join(disk::DATABASE);
    if database.exists() {
        return Err(CaError::Exists(config.state_dir.clone()));
    }
    let mut books = open(config, clock).await?;
    books.settle().await?;
    let authorities = books.dated();
    books.store().close().await;
    Ok(authorities)
}

/// Gives an authority whose root or intermediate has ended new ones. Agents take the
/// new roots because a new epoch begins; registrations stay.
///
/// # Errors
/// [`CaError::NoState`] where there is none, [`CaError::Healthy`] where nothing has
/// ended, else as [`Ca::start`](super::Ca::start).
pub async fn repair(config: &CaConfig, clock: Clock) -> Result<Repaired, CaError> {
    config.check()?;
    if !config.state_dir.join(disk::DATABASE).exists() {
        return Err(CaError::NoState(config.state_dir.clone()));
    }
    let mut books = open(config, clock.clone()).await?;
    let now_s = clock.now_us() / 1_000_000;
    let works = |kind| {
        let live = books.authorities();
        live.iter()
            .any(|a| a.is(kind, State::Active) && (a.not_before_s..a.not_after_s).contains(&now_s))
    };
    if works(Kind::Root) && works(Kind::Intermediate) {
        books.store().close().await;
        return Err(CaError::Healthy);
    }
    let ended = books.retire_ended().await?;
    books.begin().await?;
    books.settle().await?;
    let authorities = books.dated();
    books.store().close().await;
    Ok(Repaired { ended, authorities })
}

/// Opens the books without records: the next start of the authority leaves those.
pub(super) async fn open(config: &CaConfig, clock: Clock) -> Result<Books, CaError> {
    let acks = Arc::new(Acks::new(clock.now_us(), config.rules().ttl_max));
    Books::open(config, clock, None, acks).await
}
