//! What the indexer and searches share.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::watch;

use super::{
    Options, bucket::View, losses::Losses, names::NameCache, opened::Opened, recent::Recent,
    schema::Layout,
};
use crate::source::Source;

/// What searches look at; the indexer alone changes it.
pub(super) struct Shared {
    pub(super) layout: Layout,
    pub(super) names: Arc<NameCache>,
    pub(super) opened: Arc<Opened>,
    pub(super) source: Arc<dyn Source>,
    pub(super) options: Options,
    inner: RwLock<Inner>,
    /// Tells those who wait that there is more to search.
    pub(super) moved: watch::Sender<()>,
}

/// Everything that must change in one step.
#[derive(Default)]
pub(super) struct Inner {
    /// By start of their time.
    pub(super) views: BTreeMap<i64, Arc<View>>,
    pub(super) recent: Recent,
    /// Entries before this one are in a view or among the recent.
    pub(super) head: u64,
    /// Entries before this one are in the index.
    pub(super) committed: u64,
    /// Buckets that are being made again.
    pub(super) remaking: Vec<i64>,
    /// What reporters declared as lost in entries before `head`.
    pub(super) losses: Arc<Losses>,
    /// Entries that could not be read.
    pub(super) unreadable: u64,
    /// Why the indexer does not get on.
    pub(super) stalled: Option<String>,
}

impl Shared {
    pub(super) fn new(source: Arc<dyn Source>, options: Options) -> Self {
        Self {
            layout: Layout::new(),
            names: Arc::default(),
            opened: Arc::default(),
            source,
            options,
            inner: RwLock::default(),
            moved: watch::Sender::default(),
        }
    }

    /// A panic of another thread leaves a state that was whole before it.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
