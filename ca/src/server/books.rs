//! The authority's books: what is on disk, loaded, verified and carried forward.
//!
//! Every change goes to the database first and into memory after it, in one
//! order, so that a crash at any point leaves a state from which the plan goes on.

use std::{
    collections::HashMap,
    fs::{DirBuilder, File},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use palisade_mesh::{
    clock::Clock,
    snapshot::Digest,
    svid::TrustBundle,
    wire::record::{Credential, record::Body},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CaConfig, CaError};
use crate::{
    authority::{
        Authority, KeyId, Kind, State,
        mint::Signer,
        plan::{Step, View},
    },
    context::framed,
    issue::{Order, Press},
    journal::Journal,
    keystore::Keystore,
    recorder::Recorder,
    registration::{Registration, TTL_MIN},
    request::SvidKey,
    store::{Change, Store, Stored},
    trust::TrustState,
};

/// Names the purpose of the secrets that let the authority prove itself to a node.
const RETURN_SECRET_DOMAIN: &str = "palisade/ca/return-secret/v1";
/// Most steps the plan may take at once; more is a fault in it.
const STEPS_MAX: usize = 32;

/// Everything there is, owned by one at a time.
pub(super) struct Books {
    config: CaConfig,
    clock: Clock,
    recorder: Arc<Recorder>,
    store: Arc<Store>,
    keystore: Keystore,
    journal: Journal,
    /// Those that are not over, with their sealed keys; oldest first.
    live: Vec<(Authority, Vec<u8>)>,
    registrations: Vec<Registration>,
    sequence: u64,
    /// Held for as long as the books are open.
    _lock: File,
}

impl Books {
    /// Opens the state directory and verifies all that is in it.
    pub(super) async fn open(
        config: &CaConfig,
        clock: Clock,
        recorder: Arc<Recorder>,
    ) -> Result<Self, CaError> {
        let lock = enter(&config.state_dir)?;
        let store = Store::open(&config.state_dir.join("ca.sqlite")).await?;
        let stored = store.load().await?;
        check_domain(config, &stored)?;
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
        let live = verified(&stored, &journal)?;
        let books = Self {
            config: config.clone(),
            clock,
            recorder,
            store: Arc::new(store),
            keystore,
            journal,
            live,
            registrations: stored.registrations,
            sequence: stored.sequence,
            _lock: lock,
        };
        if stored.trust_domain.is_none() {
            books.store.name(&books.bundle()).await?;
        }
        Ok(books)
    }

    pub(super) fn store(&self) -> Arc<Store> {
        self.store.clone()
    }

    /// Takes every step that is due; says whether there was one.
    pub(super) async fn settle(&mut self) -> Result<bool, CaError> {
        for taken in 0..STEPS_MAX {
            let Some(step) = self.due().await? else {
                return Ok(taken > 0);
            };
            self.take(step).await?;
        }
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
        TrustState {
            sequence: self.sequence,
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

    /// The intermediate that signs now.
    pub(super) fn press(&self) -> Result<Press, CaError> {
        let (active, sealed) = self
            .live
            .iter()
            .find(|(a, _)| a.is(Kind::Intermediate, State::Active))
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
                .filter(|(a, _)| a.kind == Kind::Root && a.state.is_trusted())
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
        let view = View {
            now_s: self.now_s(),
            authorities: &authorities,
            intermediate_life_s: secs(self.config.intermediate_lifetime),
            last_leaf: &|id| leaves.get(&id).copied(),
        };
        Ok(view.next())
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
            over: Vec::new(),
            sequence: self.sequence + u64::from(authority.kind == Kind::Root),
        };
        self.store.change(&change).await?;
        self.live.push((authority, sealed));
        self.carry(&change);
        Ok(())
    }

    /// Journals transitions, all or none.
    async fn move_to(&mut self, moves: &[(KeyId, State, &str)]) -> Result<(), CaError> {
        let mut change = Change {
            sequence: self.sequence,
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
                change.sequence += u64::from(authority.kind == Kind::Root);
            }
        }
        self.store.change(&change).await?;
        self.carry(&change);
        Ok(())
    }

    /// Brings a committed change into memory and into the records.
    fn carry(&mut self, change: &Change) {
        self.sequence = change.sequence;
        for entry in &change.entries {
            self.journal.accept(entry);
            if let Some((a, _)) = self.live.iter_mut().find(|(a, _)| a.key_id == entry.key_id) {
                a.state = entry.after;
                note(&self.recorder, a, &entry.reason);
            }
        }
        self.live.retain(|(a, _)| !a.state.is_over());
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

/// Makes or enters the state directory and takes its lock.
fn enter(dir: &Path) -> Result<File, CaError> {
    let failed = |source| CaError::StateDir {
        path: dir.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    let mode = std::fs::metadata(dir).map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return Err(CaError::StateDirLoose {
            path: dir.to_owned(),
            mode: mode & 0o7777,
        });
    }
    let lock = File::create(dir.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(CaError::InUse(dir.to_owned())),
        Err(std::fs::TryLockError::Error(e)) => Err(failed(e)),
    }
}

fn check_domain(config: &CaConfig, stored: &Stored) -> Result<(), CaError> {
    match &stored.trust_domain {
        Some(found) if found != config.trust_domain.as_str() => Err(CaError::TrustDomain {
            expected: config.trust_domain.to_string(),
            found: found.clone(),
        }),
        _ => Ok(()),
    }
}

/// Gives stored authorities the states of the journal, and leaves out those that
/// are over. Each must be in both, with the same certificate.
fn verified(stored: &Stored, journal: &Journal) -> Result<Vec<(Authority, Vec<u8>)>, CaError> {
    let mut live = Vec::new();
    for (authority, sealed) in &stored.authorities {
        let digest = Digest::of(&authority.certificate).0;
        let state = journal.state(authority.key_id, &digest)?;
        if state.is_over() {
            continue;
        }
        let sealed = sealed
            .clone()
            .ok_or(crate::journal::JournalError::Authority(authority.key_id))?;
        live.push((
            Authority {
                state,
                ..authority.clone()
            },
            sealed,
        ));
    }
    match journal.missing(stored.authorities.iter().map(|(a, _)| a.key_id)) {
        Some(id) => Err(crate::journal::JournalError::Authority(id).into()),
        None => Ok(live),
    }
}

/// Records a transition. An authority must go on signing when records cannot be
/// kept, so a failure is told and not obeyed; the journal has it.
fn note(recorder: &Recorder, authority: &Authority, reason: &str) {
    tracing::info!(
        authority = %authority.key_id,
        kind = %authority.kind,
        state = %authority.state,
        reason,
        "authority changed its state"
    );
    let record = Credential {
        verb: authority.state.as_str().into(),
        not_before_s: authority.not_before_s,
        not_after_s: authority.not_after_s,
        authority: authority.key_id.as_bytes().to_vec(),
        detail: format!("{}: {reason}", authority.kind),
        ..Credential::default()
    };
    if let Err(error) = recorder.note(Body::Credential(record)) {
        tracing::error!(%error, "transition of an authority left no record");
    }
}

fn secs(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
