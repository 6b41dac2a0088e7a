//! The kill list in the authority's hands: changed by operators, kept on disk,
//! signed anew every few seconds, asked before each certificate.

use std::sync::Arc;

use arc_swap::ArcSwap;
use palisade_mesh::{
    kill::{self, Entry, KillList, KillListError, Subject, Target},
    spiffe_id::SpiffeId,
    svid::X509Svid,
    wire::{
        kill::SignedKillList,
        record::{Admin, record::Body},
    },
};
use tokio::sync::{Mutex, Notify, watch};
use ulid::Ulid;

use super::{Ca, CaError};
use crate::{
    issue::{Press, Refusal},
    random,
    store::{IssuedCertificate, IssuedFilter, Store, StoreError},
};

/// How often the list is signed anew, in seconds. Whoever has not heard of it for
/// several times as long knows that somebody keeps it from them.
pub const SIGNED_EVERY_S: i64 = 5;
/// How long an ended entry stays for people to see, in microseconds: a day.
const ENDED_KEPT_US: i64 = 24 * 3600 * 1_000_000;

/// What an operator wants barred.
#[derive(Debug, Clone)]
pub struct KillOrder {
    /// Whom or what.
    pub target: Target,
    /// Why.
    pub reason: String,
    /// Who asks for it.
    pub author: String,
    /// When it ends, microseconds since the Unix epoch; `None` for never.
    pub expires_us: Option<i64>,
}

/// Why the list was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// It ends before it begins.
    #[error("entry would end in the past")]
    Ended,
    /// The list cannot hold it.
    #[error(transparent)]
    List(#[from] KillListError),
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such entry.
    #[error("kill list has no entry `{0}`")]
    Unknown(Ulid),
    /// Its record could not be kept.
    #[error("change of the kill list cannot be recorded: {0}")]
    Unrecorded(#[from] palisade_mesh::sink::SinkError),
}

/// The list, its signature and who may write them.
pub(super) struct Register {
    list: ArcSwap<KillList>,
    signed: watch::Sender<Option<Arc<SignedKillList>>>,
    /// Rings when somebody wants it signed now.
    wanted: Arc<Notify>,
    /// Whoever holds it may change the list; the SVID signs.
    pen: Mutex<Option<X509Svid>>,
}

impl Register {
    pub(super) async fn open(ca: &super::CaConfig, store: &Store) -> Result<Self, CaError> {
        let (sequence, entries) = store.kill_list().await?;
        let list = KillList::new(ca.trust_domain.clone(), sequence, 0, entries)
            .map_err(|_| StoreError::Row("kill_list"))?;
        Ok(Self {
            list: ArcSwap::from_pointee(list),
            signed: watch::channel(None).0,
            wanted: Arc::default(),
            pen: Mutex::new(None),
        })
    }

    /// Refuses a certificate for whom the list bars.
    pub(super) fn check(&self, id: &SpiffeId, press: &Press, now_us: i64) -> Result<(), Refusal> {
        let authority = &press.signer.authority;
        let authorities = [authority.key_id, authority.issuer].map(|k| Box::from(k.as_bytes()));
        let subject = Subject {
            id,
            serial: &[],
            authorities: &authorities,
        };
        match self.list.load().bars(&subject, now_us) {
            Some(entry) => Err(Refusal::Barred(entry.id)),
            None => Ok(()),
        }
    }
}

impl Ca {
    /// The signed list, now and each time it is signed anew; `None` until it is
    /// signed for the first time, for somebody who follows it.
    pub fn kill_list(&self) -> watch::Receiver<Option<Arc<SignedKillList>>> {
        self.kill.wanted.notify_one();
        self.kill.signed.subscribe()
    }

    /// Rings when the list has to be looked at before the next tick.
    pub(super) fn kill_list_wanted(&self) -> Arc<Notify> {
        self.kill.wanted.clone()
    }

    /// The list itself.
    pub fn killed(&self) -> Arc<KillList> {
        self.kill.list.load_full()
    }

    /// Bars somebody; when it returns, the entry is on disk, recorded and signed.
    ///
    /// # Errors
    /// When the entry cannot stand or cannot be kept; then nothing has changed.
    pub async fn kill(&self, order: KillOrder) -> Result<Entry, KillError> {
        let now_us = self.clock.now_us();
        if order.expires_us.is_some_and(|end| end <= now_us) {
            return Err(KillError::Ended);
        }
        let millis = u64::try_from(now_us / 1000).unwrap_or_default();
        let entry = Entry {
            id: Ulid::from_parts(millis, u128::from_be_bytes(random::bytes())),
            target: order.target,
            reason: order.reason,
            author: order.author,
            created_us: now_us,
            expires_us: order.expires_us,
        };
        let added = entry.clone();
        self.rewrite("killed", &entry, &entry.author, |entries| {
            entries.push(added);
        })
        .await?;
        Ok(entry)
    }

    /// Takes an entry off the list.
    ///
    /// # Errors
    /// [`KillError::Unknown`], or why it could not be kept.
    pub async fn pardon(&self, id: Ulid, author: &str) -> Result<Entry, KillError> {
        let list = self.killed();
        let entry = list.entries().iter().find(|e| e.id == id);
        let entry = entry.ok_or(KillError::Unknown(id))?;
        self.rewrite("pardoned", entry, author, |entries| {
            entries.retain(|e| e.id != id);
        })
        .await?;
        Ok(entry.clone())
    }

    /// Certificates that are valid now and that `target` would bar, newest first.
    ///
    /// # Errors
    /// When the database cannot be read, or no list may hold the target.
    pub async fn hit_by(&self, target: &Target) -> Result<Vec<IssuedCertificate>, KillError> {
        let now_us = self.clock.now_us();
        let entry = Entry {
            id: Ulid::nil(),
            target: target.clone(),
            reason: String::new(),
            author: String::new(),
            created_us: now_us,
            expires_us: None,
        };
        let list = KillList::new(self.config.trust_domain.clone(), 0, 0, vec![entry])?;
        let roots: Vec<_> = self.authorities().await;
        let mut issued = self
            .store
            .issued(&IssuedFilter::default(), self.now_s())
            .await?;
        issued.retain(|c| {
            let root = roots.iter().find(|a| a.key_id == c.authority);
            let authorities: Vec<Box<[u8]>> = [Some(c.authority), root.map(|a| a.issuer)]
                .into_iter()
                .flatten()
                .map(|k| Box::from(k.as_bytes()))
                .collect();
            let subject = Subject {
                id: &c.spiffe_id,
                serial: &c.serial,
                authorities: &authorities,
            };
            list.bars(&subject, now_us).is_some()
        });
        Ok(issued)
    }

    /// Records, keeps, publishes, in this order: nobody is barred without a trace.
    async fn rewrite(
        &self,
        verb: &str,
        about: &Entry,
        author: &str,
        change: impl FnOnce(&mut Vec<Entry>),
    ) -> Result<(), KillError> {
        let mut pen = self.kill.pen.lock().await;
        let (present, now_us) = (self.killed(), self.clock.now_us());
        let mut entries = present.entries().to_vec();
        entries.retain(|e| e.is_live(now_us - ENDED_KEPT_US));
        change(&mut entries);
        let sequence = present.sequence() + 1;
        let next = KillList::new(
            self.config.trust_domain.clone(),
            sequence,
            now_us,
            entries.clone(),
        )?;
        self.recorder.note(Body::Admin(Admin {
            actor: author.to_owned(),
            verb: verb.to_owned(),
            object: about.target.to_string(),
            detail: format!("{}: {}", about.id, about.reason),
        }))?;
        self.store.replace_kill_list(sequence, &entries).await?;
        self.kill.list.store(Arc::new(next));
        self.sign(&mut pen).await;
        Ok(())
    }

    /// Signs the list anew when it is time, for as long as somebody follows it.
    pub(super) async fn keep_kill_list(&self) {
        if self.kill.signed.receiver_count() == 0 {
            return;
        }
        let age_us = self.clock.now_us() - self.killed().issued_us();
        let due = !(0..SIGNED_EVERY_S * 1_000_000).contains(&age_us);
        if due || self.kill.signed.borrow().is_none() {
            self.sign(&mut *self.kill.pen.lock().await).await;
        }
    }

    /// Signs the list as of now. Where that fails the entries still hold here, and
    /// the next attempt follows within a second.
    async fn sign(&self, pen: &mut Option<X509Svid>) {
        match self.signed(pen).await {
            Ok((list, signed)) => {
                self.kill.list.store(Arc::new(list));
                self.kill.signed.send_replace(Some(Arc::new(signed)));
            }
            Err(error) => {
                *pen = None;
                tracing::error!(%error, "kill list cannot be signed");
            }
        }
    }

    async fn signed(
        &self,
        pen: &mut Option<X509Svid>,
    ) -> Result<(KillList, SignedKillList), Box<dyn std::error::Error + Send + Sync>> {
        let present = self.killed();
        let list = KillList::new(
            self.config.trust_domain.clone(),
            present.sequence(),
            self.clock.now_us(),
            present.entries().to_vec(),
        )?;
        if !pen.as_ref().is_some_and(|svid| self.serves(svid)) {
            *pen = Some(self.svid_for_role("ca").await?);
        }
        let svid = pen.as_ref().ok_or(KillListError::Key)?;
        let signed = kill::sign(&list, svid)?;
        Ok((list, signed))
    }

    /// Whether `svid` may sign: in the first half of its life, by the authority in use.
    fn serves(&self, svid: &X509Svid) -> bool {
        let now_s = self.now_s();
        let half_s = svid.not_before_s + (svid.not_after_s - svid.not_before_s) / 2;
        let press = self.press.load();
        let in_use = press.as_ref().map(|p| &p.signer.authority.certificate);
        (svid.not_before_s..half_s).contains(&now_s) && svid.chain.get(1) == in_use
    }
}

#[cfg(test)]
mod tests;
