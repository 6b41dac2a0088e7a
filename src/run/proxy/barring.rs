//! The kill list in a proxy: beside every policy snapshot, and in force at once.
//!
//! What the proxy decides under is a snapshot that also asks the list. Another list is
//! another snapshot, so everything open is looked at again; the same list, signed
//! anew, is none. An entry that ends by time lets its peer in by the clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_mesh::{
    catalogue::Catalogue,
    clock::Clock,
    decision::SelfCheck,
    kill::{KillList, Subject},
    snapshot::{Digest, Versions},
    svid::{Identity, PeerFacts},
};
use palisade_proxy::{Decider, LivePolicy, PolicySlot, PolicySnapshot};

use crate::{
    control::api::{Fact, FactState},
    net::kill::Holder,
};

/// Puts snapshots and lists in force together.
pub(super) struct Bars {
    slot: PolicySlot,
    holder: Arc<Holder>,
    /// Whether there is anybody to hear the list from.
    is_followed: bool,
    clock: Clock,
    present: Mutex<Present>,
}

struct Present {
    snapshot: Option<Arc<dyn PolicySnapshot>>,
    list: Arc<KillList>,
}

impl Bars {
    /// Begins with the list that is held.
    pub(super) fn new(
        slot: PolicySlot,
        holder: Arc<Holder>,
        is_followed: bool,
        clock: Clock,
    ) -> Arc<Self> {
        let list = holder.held().borrow().list.clone();
        Arc::new(Self {
            slot,
            holder,
            is_followed,
            clock,
            present: Mutex::new(Present {
                snapshot: None,
                list,
            }),
        })
    }

    /// Puts a snapshot in force, under the present list.
    pub(super) fn put(&self, snapshot: Arc<dyn PolicySnapshot>) {
        let mut present = self.present();
        present.snapshot = Some(snapshot);
        self.store(&present, false);
    }

    /// Marks the snapshot in force as too old to decide under, or as good again; says
    /// whether that is news.
    pub(super) fn age(&self, stale: bool) -> bool {
        let _present = self.present();
        let live = self.slot.load();
        let Some(known) = live.as_ref().filter(|l| l.is_stale() != stale) else {
            return false;
        };
        self.slot.store(Some(Arc::new(known.aged(stale))));
        true
    }

    /// Puts every list that says something else in force, for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut held = self.holder.held();
        loop {
            let list = held.borrow_and_update().list.clone();
            self.take(list);
            if held.changed().await.is_err() {
                return;
            }
        }
    }

    fn take(&self, list: Arc<KillList>) {
        let mut present = self.present();
        let same =
            list.sequence() == present.list.sequence() && list.entries() == present.list.entries();
        if !same {
            present.list = list;
            let stale = self.slot.load().as_ref().is_some_and(|l| l.is_stale());
            self.store(&present, stale);
        }
    }

    fn store(&self, present: &Present, stale: bool) {
        let Some(snapshot) = present.snapshot.clone() else {
            return;
        };
        let barring = Barring {
            snapshot,
            list: present.list.clone(),
            holder: self.holder.clone(),
            clock: self.clock.clone(),
        };
        let live = LivePolicy::new(Arc::new(barring)).aged(stale);
        self.slot.store(Some(Arc::new(live)));
    }

    /// Number of the list in force.
    pub(super) fn sequence(&self) -> u64 {
        self.present().list.sequence()
    }

    /// What `check` says of the list in the proxy `name`, which is `identity`.
    pub(super) fn check(&self, name: &str, identity: &Identity) -> Vec<Fact> {
        let unheard = self
            .is_followed
            .then(|| super::super::unheard::fact("proxies", name, &self.holder));
        let list = self.present().list.clone();
        let (id, svid) = (identity.id(), identity.svid());
        let own = Subject {
            id: &id,
            serial: &svid.serial,
            authorities: &[],
        };
        let barred = list.bars(&own, self.clock.now_us()).map(|entry| {
            let text = format!("{name} is barred by the kill list");
            Fact::not_ok("proxies", FactState::Error, 4411, text)
                .cause(format!(
                    "{}: {}; every proxy of the mesh closes on it",
                    entry.target, entry.reason
                ))
                .fix(format!("palisade kill remove {}, or end it", entry.id))
        });
        unheard.flatten().into_iter().chain(barred).collect()
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that also asks the list.
struct Barring {
    snapshot: Arc<dyn PolicySnapshot>,
    list: Arc<KillList>,
    holder: Arc<Holder>,
    clock: Clock,
}

impl PolicySnapshot for Barring {
    fn versions(&self) -> Versions {
        Versions {
            kill_list: self.list.sequence(),
            ..self.snapshot.versions()
        }
    }

    fn catalogue(&self) -> &Arc<Catalogue> {
        self.snapshot.catalogue()
    }

    fn self_check(&self) -> SelfCheck {
        self.snapshot.self_check()
    }

    fn decider(self: Arc<Self>) -> Box<dyn Decider> {
        self.snapshot.clone().decider()
    }

    fn rules(&self) -> Option<Digest> {
        self.snapshot.rules()
    }

    fn kill_list_signed_us(&self) -> Option<i64> {
        let signed_us = self.holder.held().borrow().list.issued_us();
        (signed_us != 0).then_some(signed_us)
    }

    fn barred(&self, peer: &PeerFacts<'_>) -> Option<&'static str> {
        if self.list.entries().is_empty() {
            return self.snapshot.barred(peer);
        }
        let authorities: Vec<Box<[u8]>> = peer.foundation.authorities().map(Into::into).collect();
        let subject = Subject {
            id: &peer.peer.id,
            serial: &peer.peer.serial,
            authorities: &authorities,
        };
        let entry = self.list.bars(&subject, self.clock.now_us());
        entry
            .map(|entry| entry.target.reason())
            .or_else(|| self.snapshot.barred(peer))
    }
}
