//! Who of this host's workloads holds which trust state, for the authority.
//!
//! The Workload API has no acknowledgement. A stream counts as holding a state when
//! it took the message made from it, which is when the next one could be sent.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use palisade_mesh::{
    spiffe_id::SpiffeId,
    wire::ca::{Acknowledgement, Holder},
};
use tokio::sync::Notify;

use super::Desk;

/// How often the authority is told, whether or not anything changed.
const EVERY: Duration = Duration::from_secs(5);
/// Shortest time between two words to the authority: changes come in bunches.
const PAUSE: Duration = Duration::from_millis(100);

/// An identity as a message showed it, and who signed its certificate.
pub(super) type Shown = (SpiffeId, Option<Vec<u8>>);

/// The open streams that took a message.
#[derive(Default)]
pub(super) struct Holders {
    streams: Mutex<HashMap<u64, Held>>,
    next: AtomicU64,
    /// Rings when there is something new to tell.
    pub(super) news: Notify,
}

struct Held {
    place: (u64, u64),
    shown: Vec<Shown>,
}

impl Holders {
    fn streams(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Identity by identity: how many streams, and the oldest that one of them holds.
    /// What is of another epoch than `epoch` counts as older than everything.
    fn summary(&self, epoch: u64) -> Vec<Holder> {
        let mut holders: BTreeMap<String, Holder> = BTreeMap::new();
        for held in self.streams().values() {
            let (of, sequence) = held.place;
            let sequence = if of == epoch { sequence } else { 0 };
            for (id, issuer) in &held.shown {
                let holder = holders.entry(id.to_string()).or_insert_with(|| Holder {
                    spiffe_id: id.to_string(),
                    bundle_sequence: sequence,
                    ..Holder::default()
                });
                holder.streams += 1;
                holder.bundle_sequence = holder.bundle_sequence.min(sequence);
                if let Some(issuer) = issuer.as_ref().filter(|i| !holder.issuers.contains(i)) {
                    holder.issuers.push(issuer.clone());
                }
            }
        }
        holders.into_values().collect()
    }
}

/// One open stream; forgotten when it is dropped.
pub(super) struct OpenStream {
    holders: Arc<Holders>,
    number: u64,
}

impl OpenStream {
    pub(super) fn new(holders: Arc<Holders>) -> Self {
        let number = holders.next.fetch_add(1, Ordering::Relaxed);
        Self { holders, number }
    }

    /// The stream took a message that shows this state.
    pub(super) fn took(&self, place: (u64, u64), shown: Vec<Shown>) {
        let held = Held { place, shown };
        self.holders.streams().insert(self.number, held);
        self.holders.news.notify_one();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.holders.streams().remove(&self.number).is_some() {
            self.holders.news.notify_one();
        }
    }
}

/// Tells the authority what this agent and its workloads hold, for ever.
pub(super) async fn report(desk: Arc<Desk>) {
    loop {
        let place = desk.trust.borrow().as_ref().map(|s| s.place());
        if let Some((epoch, bundle_sequence)) = place {
            let word = Acknowledgement {
                agent: desk.config.name.clone(),
                epoch,
                bundle_sequence,
                holders: desk.holders.summary(epoch),
            };
            if let Err(error) = desk.upstream.acknowledge(word).await {
                tracing::debug!(%error, "authority was not told what is held here");
            }
        }
        tokio::time::sleep(PAUSE).await;
        // Whichever comes first; the word is the same.
        let _ = tokio::time::timeout(EVERY, desk.holders.news.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::spiffe_id::TrustDomain;

    use super::*;

    #[test]
    fn the_oldest_stream_speaks_for_an_identity() {
        let domain = TrustDomain::parse("acme.test").unwrap();
        let (web, db) = (domain.id("web").unwrap(), domain.id("db").unwrap());
        let holders = Arc::new(Holders::default());
        let [a, b, c, silent] = [(); 4].map(|()| OpenStream::new(holders.clone()));
        a.took((7, 5), vec![(web.clone(), Some(vec![1]))]);
        b.took((7, 4), vec![(web.clone(), Some(vec![2])), (db, None)]);
        c.took((6, 9), vec![(web, Some(vec![1]))]);
        let told = |epoch| -> Vec<_> {
            let list = holders.summary(epoch);
            list.into_iter()
                .map(|h| (h.streams, h.bundle_sequence, h.issuers.len()))
                .collect()
        };
        assert_eq!(told(7), [(1, 4, 0), (3, 0, 2)]);
        drop((c, silent));
        assert_eq!(told(7), [(1, 4, 0), (2, 4, 2)]);
        b.took((7, 6), vec![]);
        assert_eq!(told(7), [(1, 5, 1)]);
        drop((a, b));
        assert!(told(7).is_empty());
    }
}
