//! The authority's books: what is on disk, loaded, verified and carried forward.
//!
//! Every change goes to the database first and into memory after it, in one
//! order, so that a crash at any point leaves a state from which the plan goes on.

use std::{collections::HashMap, fs::File, sync::Arc, time::Duration};

use palisade_mesh::{
    clock::Clock,
    snapshot::Digest,
    svid::TrustBundle,
    wire::record::{Credential, record::Body},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CaConfig, CaError, acks::Acks};
use crate::{
    authority::{
        Authority, KeyId, Kind, State,
        mint::Signer,
        orders::Orders,
        plan::{Step, View},
    },
    context::framed,
    issue::{Order, Press},
    journal::{Entry, Journal},
    keystore::Keystore,
    recorder::Recorder,
    registration::{Registration, TTL_MIN},
    request::SvidKey,
    store::{Change, Store},
    trust::{Superseded, TrustState},
};

pub(super) mod disk;
mod rotate;

/// Names the purpose of the secrets that let the authority prove itself to a node.
const RETURN_SECRET_DOMAIN: &str = "palisade/ca/return-secret/v1";
/// Most steps the plan may take at once; more is a fault in it.
const STEPS_MAX: usize = 32;

/// Everything there is, owned by one at a time.
pub(super) struct Books {
    config: CaConfig,
    clock: Clock,
    /// None where no records can be left; the next start leaves them.
    recorder: Option<Arc<Recorder>>,
    acks: Arc<Acks>,
    store: Arc<Store>,
    keystore: Keystore,
    journal: Journal,
    /// Those that are not over, with their sealed keys; oldest first.
    live: Vec<(Authority, Vec<u8>)>,
    registrations: Vec<Registration>,
    orders: Orders,
    epoch: u64,
    sequence: u64,
    /// Sequence from which on a trust state shows the present state of an authority;
    /// for those that are not in it, the one that was current at the start.
    placed: HashMap<KeyId, u64>,
    first_sequence: u64,
    /// Held for as long as the books are open.
    _lock: File,
}

impl Books {
    /// Opens the state directory and verifies all that is in it.
    pub(super) async fn open(
        config: &CaConfig,
        clock: Clock,
        recorder: Option<Arc<Recorder>>,
        acks: Arc<Acks>,
    ) -> Result<Self, CaError> {
        let lock = disk::enter(&config.state_dir)?;
        let store = Store::open(&config.state_dir.join(disk::DATABASE)).await?;
        let stored = store.load().await?;
        disk::check_domain(config, &stored)?;
        let first = stored.authorities.is_empty() && stored.journal_head == 0;
        let keystore = Keystore::open(&config.kek_path(), first)?;
        // Before the journal: a wrong key-encryption key fails both, and here it
        // has its own name. At start, and not at the next rotation.
        for (authority, sealed) in &stored.authorities {
            if let Some(sealed) = sealed {
                keystore.open_key(&authority.key_id, sealed)?;
            }
        }
        let journal =
            Journal::replay(keystore.journal_key(), &stored.entries, stored.journal_head)?;
        let live = disk::verified(&stored, &journal)?;
        let recorded = match stored.recorded {
            Some(head) => head,
            // A new state has none; one from before this was noted has them all.
            None if first => 0,
            None => stored.journal_head,
        };
        store.recorded(recorded).await?;
        let mut books = Self {
            config: config.clone(),
            clock,
            recorder,
            acks,
            store: Arc::new(store),
            keystore,
            journal,
            live,
            registrations: stored.registrations,
            orders: stored.orders,
            epoch: stored.epoch,
            sequence: stored.sequence,
            placed: HashMap::new(),
            first_sequence: stored.sequence,
            _lock: lock,
        };
        if stored.epoch == 0 {
            books.begin().await?;
        }
        books.catch_up(&stored.entries, recorded).await?;
        Ok(books)
    }

    /// Begins a new life of the state: agents take what it says from now on for
    /// newer than anything they have heard.
    pub(super) async fn begin(&mut self) -> Result<(), CaError> {
        let now_us = u64::try_from(self.clock.now_us()).unwrap_or_default();
        let (epoch, sequence) = (now_us.max(self.epoch + 1), self.sequence + 1);
        self.store.begin(&self.bundle(), epoch, sequence).await?;
        (self.epoch, self.sequence, self.first_sequence) = (epoch, sequence, sequence);
        self.placed.clear();
        Ok(())
    }

    /// Leaves the records of transitions that have none: made offline, or just
    /// before a crash.
    async fn catch_up(&self, entries: &[Entry], recorded: i64) -> Result<(), CaError> {
        let Some(recorder) = &self.recorder else {
            return Ok(());
        };
        for entry in entries.iter().filter(|e| e.sequence > recorded) {
            note(
                recorder,
                entry,
                self.find(entry.key_id).ok().map(|(a, _)| a),
            );
        }
        Ok(self.store.recorded(self.journal.head()).await?)
    }

    pub(super) fn store(&self) -> Arc<Store> {
        self.store.clone()
    }

    /// Number of the last journal entry.
    pub(super) fn journal_head(&self) -> i64 {
        self.journal.head()
    }

    /// Takes every step that is due; says whether there was one.
    pub(super) async fn settle(&mut self) -> Result<bool, CaError> {
        for taken in 0..STEPS_MAX {
            if !self.step().await? {
                return Ok(taken > 0);
            }
        }
        Ok(true)
    }

    /// Takes the next step; says whether one was due.
    pub(super) async fn step(&mut self) -> Result<bool, CaError> {
        let Some(step) = self.due().await? else {
            return Ok(false);
        };
        self.take(step).await?;
        Ok(true)
    }

    /// Replaces the registrations; says whether they differ.
    pub(super) async fn replace_registrations(
        &mut self,
        list: Vec<Registration>,
    ) -> Result<bool, CaError> {
        if list == self.registrations {
            return Ok(false);
        }
        let sequence = self.sequence + 1;
        self.store.replace_registrations(&list, sequence).await?;
        self.registrations = list;
        self.sequence = sequence;
        Ok(true)
    }

    pub(super) fn trust(&self) -> TrustState {
        let authorities = self.authorities();
        let superseded = self.look(&authorities, &HashMap::new(), |view| {
            let superseded = authorities.iter().filter(|a| view.is_superseded(a));
            superseded
                .map(|a| Superseded {
                    authority: a.key_id.as_bytes().to_vec(),
                    tainted: a.state == State::Tainted,
                })
                .collect()
        });
        TrustState {
            epoch: self.epoch,
            sequence: self.sequence,
            superseded,
            reissue_over: self.config.reissue_over(self.registrations.len()),
            bundle: self.bundle(),
            registrations: self.registrations.clone(),
            directory: Vec::new(),
        }
    }

    /// The secret that only the authority and the node with this key can know: it
    /// comes from the key-encryption key and needs no place of its own.
    pub(super) fn return_secret(&self, node: &str, spki: &[u8]) -> [u8; 32] {
        let domain = self.config.trust_domain.as_str().as_bytes();
        let context = framed(RETURN_SECRET_DOMAIN, &[domain, node.as_bytes(), spki]);
        let tag = aws_lc_rs::hmac::sign(&self.keystore.journal_key(), &context);
        Digest::of(tag.as_ref()).0
    }

    pub(super) fn authorities(&self) -> Vec<Authority> {
        let of = |kind| {
            self.live
                .iter()
                .map(|(a, _)| a)
                .filter(move |a| a.kind == kind)
        };
        of(Kind::Root)
            .chain(of(Kind::Intermediate))
            .cloned()
            .collect()
    }

    /// The intermediate that signs now; a tainted one while there is no other.
    pub(super) fn press(&self) -> Result<Press, CaError> {
        let signing = |state| {
            let mut live = self.live.iter().rev();
            live.find(|(a, _)| a.is(Kind::Intermediate, state))
        };
        let (active, sealed) = signing(State::Active)
            .or_else(|| signing(State::Tainted))
            .ok_or(CaError::NoAuthority)?;
        self.press_of(self.signer(active, sealed)?)
    }

    /// Public keys of all authorities.
    pub(super) fn authority_spkis(&self) -> impl Iterator<Item = Vec<u8>> {
        self.live.iter().filter_map(|(a, _)| {
            let (_, cert) = X509Certificate::from_der(&a.certificate).ok()?;
            Some(cert.public_key().raw.to_vec())
        })
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle {
            trust_domain: self.config.trust_domain.clone(),
            roots: self
                .live
                .iter()
                .filter(|(a, _)| a.kind == Kind::Root && a.state.is_published())
                .map(|(a, _)| a.certificate.clone())
                .collect(),
        }
    }

    /// Asks the plan; looks at the database only where its answer depends on it.
    async fn due(&self) -> Result<Option<Step>, CaError> {
        let authorities = self.authorities();
        let retiring = authorities
            .iter()
            .any(|a| a.is(Kind::Intermediate, State::Retiring));
        let leaves: HashMap<KeyId, i64> = if retiring {
            self.store.last_leaves().await?.into_iter().collect()
        } else {
            HashMap::new()
        };
        Ok(self.look(&authorities, &leaves, |view| view.next()))
    }

    /// Looks at the authorities as the plan does.
    fn look<T>(
        &self,
        authorities: &[Authority],
        leaves: &HashMap<KeyId, i64>,
        look: impl FnOnce(&View<'_>) -> T,
    ) -> T {
        look(&View {
            now_s: self.now_s(),
            authorities,
            intermediate_life_s: secs(self.config.intermediate_lifetime),
            deadline_s: secs(self.config.acknowledgement_deadline()),
            orders: &self.orders,
            since_s: &|id| self.since_us(id) / 1_000_000,
            is_known: &|id| self.is_settled(&self.lacking(id)),
            is_replaced: &|| self.is_settled(&self.showing_tainted()),
            last_leaf: &|id| leaves.get(&id).copied(),
        })
    }

    async fn take(&mut self, step: Step) -> Result<(), CaError> {
        let (now_s, domain) = (self.now_s(), self.config.trust_domain.clone());
        match step {
            Step::PrepareRoot => {
                let signer = Signer::root(&domain, now_s, secs(self.config.root_lifetime))?;
                self.admit(signer, "next root").await
            }
            Step::PrepareIntermediate { root } => {
                let life_s = secs(self.config.intermediate_lifetime);
                let (parent, sealed) = self.find(root)?;
                let parent = self.signer(parent, sealed)?;
                let signer = parent.intermediate(&domain, now_s, life_s)?;
                let signer = self.probed(signer)?;
                self.admit(signer, "next intermediate").await
            }
            Step::Activate(id) => {
                let kind = self.find(id)?.0.kind;
                let before = self.live.iter().find(|(a, _)| a.is(kind, State::Active));
                let mut moves = Vec::new();
                if let Some((old, _)) = before {
                    moves.push((old.key_id, State::Retiring, "next one is active"));
                }
                moves.push((id, State::Active, "due"));
                self.move_to(&moves).await
            }
            Step::Retire(id) => {
                let why = "nothing it signed is valid any more";
                self.move_to(&[(id, State::Retired, why)]).await
            }
            // A root and what is tainted under it go together.
            Step::Revoke(id) => {
                let why = "its certificates are replaced, or may not be waited for";
                let gone =
                    self.live.iter().map(|(a, _)| a).filter(|a| {
                        a.state == State::Tainted && (a.key_id == id || a.issuer == id)
                    });
                let moves: Vec<_> = gone.map(|a| (a.key_id, State::Revoked, why)).collect();
                self.move_to(&moves).await
            }
        }
    }

    /// Stores a new authority; its key goes to disk sealed, before it signs.
    async fn admit(&mut self, signer: Signer, reason: &str) -> Result<(), CaError> {
        let authority = signer.authority;
        let sealed = self.keystore.seal(&authority.key_id, signer.issuer.key())?;
        let entry = self.journal.next(
            self.clock.now_us(),
            authority.key_id,
            State::Prepared,
            Digest::of(&authority.certificate).0,
            reason,
        )?;
        let change = Change {
            made: Some((authority.clone(), sealed.clone())),
            entries: vec![entry],
            sequence: self.sequence + 1,
            ..Change::default()
        };
        self.store.change(&change).await?;
        self.live.push((authority, sealed));
        self.carry(&change).await
    }

    /// Journals transitions, all or none.
    async fn move_to(&mut self, moves: &[(KeyId, State, &str)]) -> Result<(), CaError> {
        self.order(moves, None).await
    }

    /// Journals transitions and what an operator has asked for, all or none.
    async fn order(
        &mut self,
        moves: &[(KeyId, State, &str)],
        orders: Option<Orders>,
    ) -> Result<(), CaError> {
        let mut change = Change {
            sequence: self.sequence + 1,
            orders,
            ..Change::default()
        };
        let mut draft = self.journal.clone();
        for (id, state, reason) in moves {
            let (authority, _) = self.find(*id)?;
            let digest = Digest::of(&authority.certificate).0;
            let entry = draft.next(self.clock.now_us(), *id, *state, digest, reason)?;
            draft.accept(&entry);
            change.entries.push(entry);
            if state.is_over() {
                change.over.push(*id);
            }
        }
        self.store.change(&change).await?;
        self.carry(&change).await
    }

    /// Brings a committed change into memory and into the records.
    async fn carry(&mut self, change: &Change) -> Result<(), CaError> {
        self.sequence = change.sequence;
        if let Some(orders) = &change.orders {
            self.orders = orders.clone();
        }
        for entry in &change.entries {
            self.journal.accept(entry);
            self.placed.insert(entry.key_id, self.sequence);
            let moved = self.live.iter_mut().find(|(a, _)| a.key_id == entry.key_id);
            if let Some((a, _)) = moved {
                a.state = entry.after;
                if let Some(recorder) = &self.recorder {
                    note(recorder, entry, Some(a));
                }
            }
        }
        self.live.retain(|(a, _)| !a.state.is_over());
        if self.recorder.is_some() && !change.entries.is_empty() {
            self.store.recorded(self.journal.head()).await?;
        }
        Ok(())
    }

    /// Lets a new intermediate sign a certificate that nobody gets, and verifies it.
    fn probed(&self, signer: Signer) -> Result<Signer, CaError> {
        let press = self.press_of(signer)?;
        let failed = |e: &dyn std::fmt::Display| CaError::Probe(e.to_string());
        let key = SvidKey::generate().map_err(|e| failed(&e))?;
        let order = Order {
            spiffe_id: self.config.trust_domain.role("probe"),
            spki: key.spki(),
            ttl: TTL_MIN,
            selectors: Vec::new(),
            node: None,
        };
        press.sign(&order, self.now_s()).map_err(|e| failed(&e))?;
        Ok(press.signer)
    }

    fn press_of(&self, signer: Signer) -> Result<Press, CaError> {
        let (root, _) = self.find(signer.authority.issuer)?;
        let anchor = TrustBundle {
            trust_domain: self.config.trust_domain.clone(),
            roots: vec![root.certificate.clone()],
        };
        Ok(Press { signer, anchor })
    }

    fn signer(&self, authority: &Authority, sealed: &[u8]) -> Result<Signer, CaError> {
        let key = self.keystore.open_key(&authority.key_id, sealed)?;
        Ok(Signer::load(authority.clone(), key)?)
    }

    fn find(&self, id: KeyId) -> Result<(&Authority, &[u8]), CaError> {
        self.live
            .iter()
            .find(|(a, _)| a.key_id == id)
            .map(|(a, sealed)| (a, sealed.as_slice()))
            .ok_or(CaError::NoAuthority)
    }

    fn now_s(&self) -> i64 {
        self.clock.now_us() / 1_000_000
    }
}

/// Records a transition. An authority must go on signing when records cannot be
/// kept, so a failure is told and not obeyed; the journal has it.
fn note(recorder: &Recorder, entry: &Entry, authority: Option<&Authority>) {
    let kind = authority.map_or("authority", |a| a.kind.as_str());
    tracing::info!(
        authority = %entry.key_id,
        kind,
        state = %entry.after,
        reason = entry.reason,
        "authority changed its state"
    );
    let record = Credential {
        verb: entry.after.as_str().into(),
        not_before_s: authority.map_or(0, |a| a.not_before_s),
        not_after_s: authority.map_or(0, |a| a.not_after_s),
        authority: entry.key_id.as_bytes().to_vec(),
        detail: format!(
            "{kind}: {} (journal entry {})",
            entry.reason, entry.sequence
        ),
        ..Credential::default()
    };
    if let Err(error) = recorder.note(Body::Credential(record)) {
        tracing::error!(%error, "transition of an authority left no record");
    }
}

fn secs(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
