//! Sources as one stream of numbered revisions.
//!
//! Every source is followed by a task of its own ([`Origin`]); what they say comes together
//! here, where one task puts it together, compiles it and numbers what is good. What is
//! wanted is compared with what is had: nothing depends on having seen an event, and the
//! same content is never compiled twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    place::Place,
    snapshot::Digest,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::policy::{Revision, RevisionEntry, Stamp},
};
use smol_str::SmolStr;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};

use super::{
    bundled::Vouched,
    changes, codes,
    fetch::Fetch,
    keep::{History, Keep},
    origin::Word,
    parts::{Parts, Standing},
    proving::{Prove, Tried},
    recorder::Recorder,
    rollout::{Plan, Seat},
    slices::Slices,
};
use crate::{
    author::{self, Loaded, codes::FEATURE_UNKNOWN},
    bundle::{
        codes::{KEYS, OLD_PROOFS, STAMP},
        key::SigningKey,
        statement,
        trust::{SignedBy, TrustConfig},
    },
    compiled::Compiled,
};

mod choosing;
mod obeying;
mod orders;
mod returning;
mod rolling;
mod underway;
mod vouching;

use choosing::Outcome;
use obeying::Sought;
use rolling::Rolling;

pub use orders::{Content, Difference, Order, Orders};
pub use rolling::Observe;
pub use underway::Underway;

/// What may have passed by itself when the same content is looked at again.
const PASSING: [u16; 3] = [codes::STATE_DIR, STAMP, KEYS];
/// How often a rollout is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is followed, and how patiently.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// The policy repository.
    pub place: Place,
    /// Who may sign it, one a line (`ALLOWED SIGNERS` in ssh-keygen(1)).
    pub signers: Option<String>,
    /// Where the last good revision is kept.
    pub state_dir: PathBuf,
    /// Quiet time after a change of a folder before it is read.
    pub debounce: Duration,
    /// How each new revision goes to the proxies; none for all of them at once.
    pub rollout: Option<Plan>,
    /// How often a rollout is looked at.
    pub look: Duration,
    /// How bundles are fetched from elsewhere; without it they are not.
    pub fetch: Option<Arc<dyn Fetch>>,
    /// Whose policy it must be; without it, anybody's.
    pub domain: Option<TrustDomain>,
    /// Who must have signed; without it, nobody.
    pub trust: Option<TrustConfig>,
    /// What proves invariants of what is put together here; without it they are not proved.
    pub prove: Option<Arc<dyn Prove>>,
    /// Whether the same history has to give the same bytes on every machine, however long git
    /// takes for it.
    pub reproducible: bool,
}

impl SourceConfig {
    /// Follows `place`, keeps state in `state_dir`: 100 ms quiet time, no signatures
    /// demanded.
    pub fn new(place: impl Into<Place>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            place: place.into(),
            signers: None,
            state_dir: state_dir.into(),
            debounce: Duration::from_millis(100),
            rollout: None,
            look: LOOK_EVERY,
            fetch: None,
            domain: None,
            trust: None,
            prove: None,
            reproducible: false,
        }
    }
}

/// Longest time that the start waits for the first word of every source.
const START_WAIT: Duration = Duration::from_secs(5);
/// Words that may wait to be heard; a source that has more to say waits itself.
const WORDS_MAX: usize = 64;

/// How long a stamp of the PDP's own holds; with each word it gives a new one.
const STAMP_LIFE: Duration = Duration::from_secs(60);

/// A revision in force.
#[derive(Debug)]
pub struct Published {
    /// As it is sent to proxies.
    pub revision: Revision,
    /// Compiled.
    pub compiled: Arc<Compiled>,
    /// Commit it was read from, or empty.
    pub git_revision: String,
    /// In force since, microseconds since the Unix epoch.
    pub since_us: i64,
    /// Warnings and notes about it.
    pub diagnostics: Vec<Diagnostic>,
    /// Who vouches for it.
    pub signed: SignedBy,
    /// Ids of its invariants that nobody has proved.
    pub unproved: Vec<String>,
    slices: Slices,
    /// What others have stamped, or our own key.
    stamp: Result<Stamp, Arc<SigningKey>>,
}

impl Published {
    /// What the proxy with this identity is sent of it.
    ///
    /// Blocks on CPU for some milliseconds where it was not asked for lately.
    pub fn slice(&self, identity: &SpiffeId) -> Bytes {
        self.slices.of(&self.compiled, identity)
    }

    /// The word that it is the newest: what others have signed, or our own as of `now_us`.
    pub fn stamp(&self, now_us: i64) -> Stamp {
        let key = match &self.stamp {
            Ok(given) => return given.clone(),
            Err(key) => key,
        };
        let life_us = i64::try_from(STAMP_LIFE.as_micros()).unwrap_or(i64::MAX);
        let mut stamp = Stamp {
            issued_us: now_us,
            until_us: now_us.saturating_add(life_us),
            signatures: Vec::new(),
        };
        let domain = &self.compiled.trust_domain;
        let said = statement::stamp(domain, self.digest(), self.sequence(), &stamp);
        stamp.signatures = vec![said.sign(key)];
        stamp
    }

    /// Tells two sets of signatures of it apart; stamps are told on their own.
    pub(crate) fn signatures(&self) -> Digest {
        let signed = Revision {
            content_signatures: self.revision.content_signatures.clone(),
            release_signatures: self.revision.release_signatures.clone(),
            way_back: self.revision.way_back.clone(),
            attestation: self.revision.attestation.clone(),
            ..Revision::default()
        };
        Digest::of(&prost::Message::encode_to_vec(&signed))
    }

    /// Digest of the bundle.
    pub fn digest(&self) -> Digest {
        self.compiled.digest
    }

    /// Its number.
    pub fn sequence(&self) -> u64 {
        self.revision.sequence
    }
}

/// A revision that was refused.
#[derive(Debug)]
pub struct Rejected {
    /// Everything that is wrong with it.
    pub diagnostics: Vec<Diagnostic>,
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
}

/// What is in force, and what was refused since.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The revision in force; `None` only before the first good one.
    pub current: Option<Arc<Published>>,
    /// What is wrong with the newest content of the sources, if any of it was refused.
    pub rejected: Option<Arc<Rejected>>,
    /// What is on its way to the proxies, or the last that was.
    pub rollout: Option<Arc<Underway>>,
    /// Content of the source that was stopped or replaced, and is not put in force by
    /// itself.
    pub set_aside: Option<Digest>,
}

impl State {
    /// What a proxy shall enforce; `None` only before the first good revision.
    pub fn wanted(&self, seat: Seat<'_>) -> Option<&Arc<Published>> {
        let underway = self.rollout.as_deref();
        underway
            .and_then(|u| u.wanted(seat, self.current.as_ref()))
            .or(self.current.as_ref())
    }

    /// What whoever is in no canary shall enforce: what is in force; the revision before, where that
    /// was halted and is not back yet.
    pub fn settled(&self) -> Option<&Arc<Published>> {
        let going_back = self.rollout.as_deref().filter(|u| {
            let is_stopped = u.rollout.stopped().is_some() && !u.rollout.has_ended();
            let candidate = u.candidate.sequence();
            let current = self.current.as_ref();
            is_stopped && current.is_some_and(|c| c.sequence() == candidate)
        });
        going_back.map(|u| &u.baseline).or(self.current.as_ref())
    }

    /// What a proxy shall try beside it.
    pub fn tried(&self, seat: Seat<'_>) -> Option<&Arc<Published>> {
        self.rollout.as_deref()?.tried(seat)
    }
}

/// Why a source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The state folder cannot be used, so numbers could go backwards.
    #[error("{0}")]
    State(Diagnostic),
    /// The policy repository cannot be followed.
    #[error("{0}")]
    Watch(Diagnostic),
}

impl SourceError {
    fn of(diagnostic: Diagnostic) -> Self {
        match diagnostic.code.0 {
            codes::STATE_DIR => Self::State(diagnostic),
            _ => Self::Watch(diagnostic),
        }
    }

    /// What to show the operator.
    pub fn diagnostic(&self) -> &Diagnostic {
        match self {
            Self::State(d) | Self::Watch(d) => d,
        }
    }
}

/// Turns sources into numbered revisions. One task owns it.
#[derive(Debug)]
pub struct Source {
    keep: Keep,
    key: Arc<SigningKey>,
    domain: Option<TrustDomain>,
    trust: Option<TrustConfig>,
    prove: Option<Arc<dyn Prove>>,
    /// What has the highest number, whether or not it is served.
    used: Option<(u64, Digest)>,
    /// The keys that are trusted, as they last were.
    keys: Option<Digest>,
    place: Place,
    look_every: Duration,
    clock: Clock,
    recorder: Arc<Recorder>,
    sequence: u64,
    rolling: Rolling,
    state: watch::Sender<State>,
    standings: watch::Sender<Vec<Standing>>,
    words: mpsc::Receiver<Word>,
    parts: Parts,
    /// What finds out about the newest content. As long as it does no source is heard, so what it
    /// looks at is what they have.
    choosing: Option<JoinHandle<Outcome>>,
    /// What finds out about content that somebody named.
    sought: JoinSet<Sought>,
}

impl Source {
    /// Begins to follow every source, and waits a while for the first word of each, so that
    /// [`Source::state`] tells the truth from here on. Until a source has spoken, what was
    /// kept of it is served.
    ///
    /// # Errors
    /// See [`SourceError`]. A broken repository is not an error: the state says so.
    pub async fn open(
        config: SourceConfig,
        clock: Clock,
        recorder: Arc<Recorder>,
    ) -> Result<Self, SourceError> {
        let keep = Keep::open(&config.state_dir).map_err(SourceError::State)?;
        let kept = match keep.load() {
            Err(newer) if newer.code.0 == FEATURE_UNKNOWN => {
                tracing::warn!(error = %newer, "kept policy revision cannot be used by this build");
                None
            }
            kept => kept.map_err(SourceError::State)?,
        };
        let sequence = match &kept {
            Some(kept) => kept.sequence,
            None => keep.load_number().map_err(SourceError::State)?,
        };
        let key = keep.signing_key().map_err(SourceError::State)?;
        let (sender, words) = mpsc::channel(WORDS_MAX);
        let mut source = Self {
            keep,
            key: Arc::new(key),
            keys: None,
            domain: config.domain.clone(),
            trust: config.trust.clone(),
            prove: config.prove.clone(),
            used: kept.as_ref().and_then(name_of),
            place: config.place.clone(),
            look_every: config.look,
            recorder,
            sequence,
            rolling: Rolling::new(config.rollout.clone()),
            state: watch::Sender::new(State::default()),
            standings: watch::Sender::new(Vec::new()),
            words,
            choosing: None,
            sought: JoinSet::new(),
            parts: Parts::new(config, sender, clock.clone()).map_err(SourceError::of)?,
            clock,
        };
        if let Some(kept) = kept {
            source.restore(kept).await;
        }
        source.resume().await.map_err(SourceError::State)?;
        source.hear_all().await;
        Ok(source)
    }

    /// What is in force, now and later.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// How each source stands, now and later.
    pub fn standings(&self) -> watch::Receiver<Vec<Standing>> {
        self.standings.subscribe()
    }

    /// The revisions that were in force lately.
    pub fn history(&self) -> History {
        History::new(self.keep.clone())
    }

    /// Follows the sources, orders and the rollout under way until dropped. Nothing of that waits
    /// for solvers, which work beside it, nor for compilers, but for that of a `rollback`.
    pub async fn run(mut self) {
        // Not at once: proxies have to come back first.
        let mut looks = interval_at(Instant::now() + self.look_every, self.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                outcome = finished(&mut self.choosing) => self.chosen(outcome),
                Some(found) = self.sought.join_next() => {
                    if let Ok(found) = found {
                        self.found(found);
                    }
                }
                word = self.words.recv(), if self.choosing.is_none() => {
                    let Some(word) = word else {
                        return;
                    };
                    self.parts.hear(word);
                    while let Ok(word) = self.words.try_recv() {
                        self.parts.hear(word);
                    }
                    self.settle().await;
                }
                given = self.rolling.ordered() => self.obey(given).await,
                _ = looks.tick() => {
                    if self.rolling.is_busy() && self.choosing.is_none() && self.look_at_keys().await {
                        self.settle().await;
                    }
                    if self.rolling.is_busy() || self.has_way_back() {
                        self.look_around();
                    }
                }
            }
        }
    }

    /// What is under way has to be looked after; and as long as something may be taken back,
    /// the time has to be known.
    fn look_around(&mut self) {
        self.note_time();
        if self.rolling.is_busy() {
            self.look();
        }
    }

    /// Hears the repository, then all that contribute to it, within [`START_WAIT`].
    async fn hear_all(&mut self) {
        let deadline = Instant::now() + START_WAIT;
        while !self.parts.all_spoke() {
            match timeout_at(deadline, self.words.recv()).await {
                Ok(Some(word)) => self.parts.hear(word),
                _ => break,
            }
            self.parts.follow();
        }
        self.settle().await;
        // What is under way is looked after by [`Source::run`], which it must not wait for long.
        let outcome = match self.rolling.is_busy() {
            _ if self.choosing.is_none() => return,
            true => timeout(START_WAIT, finished(&mut self.choosing)).await,
            false => Ok(finished(&mut self.choosing).await),
        };
        if let Ok(outcome) = outcome {
            self.chosen(outcome);
        }
    }

    /// Begins to find out about what is new, if anything is: [`Source::chosen`] takes it up.
    async fn settle(&mut self) {
        self.note_time();
        self.look_at_keys().await;
        let pending = self.parts.pending();
        if !pending.is_empty() {
            self.choosing = Some(tokio::spawn(self.chooser().choose(pending)));
        }
        self.standings.send_replace(self.parts.standings());
    }

    /// Puts in force what is new and good; what is new and bad is told, and what was good
    /// of its source stays.
    fn chosen(&mut self, outcome: Outcome) {
        self.choosing = None;
        match self.decide(outcome) {
            Some(passing) => self.reject(vec![passing]),
            None => self.tell_refused(),
        }
        // What is left out may be another's from now on: it is told first.
        self.parts.follow();
        self.standings.send_replace(self.parts.standings());
    }

    /// Puts in force what was chosen, or notes what keeps it from being so; what passes by itself
    /// is given.
    fn decide(&mut self, mut outcome: Outcome) -> Option<Diagnostic> {
        let now_us = self.clock.now_us();
        let Tried { loaded, proved } = outcome.tried.take().unwrap_or_default();
        let stored = match loaded.compiled {
            Some(compiled) => {
                let vouched = Vouched {
                    proved,
                    ..self.parts.assembly().vouched(&outcome.taken)
                };
                self.offer(compiled, vouched, loaded.diagnostics)
            }
            None => Ok(()),
        };
        match stored {
            Ok(()) => {
                self.parts.take(&outcome.taken, &outcome.left_out, now_us);
                self.parts.refuse(outcome.refused, now_us);
                None
            }
            Err(diagnostic) if PASSING.contains(&diagnostic.code.0) => {
                self.parts.try_again();
                Some(diagnostic)
            }
            Err(diagnostic) => {
                self.parts.take(&BTreeSet::new(), &BTreeSet::new(), now_us);
                let refused = BTreeMap::from([(SmolStr::default(), vec![diagnostic])]);
                self.parts.refuse(refused, now_us);
                None
            }
        }
    }

    /// What was refused may be good once the keys are mended, and what is under way may not be any
    /// more. Says whether they are others.
    async fn look_at_keys(&mut self) -> bool {
        let Some(trust) = self.trust.clone() else {
            return false;
        };
        let read = spawn_blocking(move || trust.fingerprint()).await;
        let is_new = |keys| self.keys.replace(keys).is_some_and(|before| before != keys);
        let changed = read.is_ok_and(is_new);
        if changed {
            self.parts.judge_again();
            self.look_at_candidate();
        }
        changed
    }

    /// Stops what is under way where those who must have signed it are not trusted any more.
    fn look_at_candidate(&mut self) {
        let underway = self.rolling.running();
        let underway = underway.filter(|u| u.rollout.stopped().is_none());
        let Some(candidate) = underway.map(|u| u.candidate.clone()) else {
            return;
        };
        if let Err(error) = self.believed(&candidate.compiled, &candidate.revision)
            && error.code.0 != KEYS
        {
            self.refuse_candidate(error);
        }
    }

    /// Serves the kept revision until a source says otherwise.
    async fn restore(&mut self, kept: Revision) {
        let bundle = kept.bundle.clone();
        let loaded = spawn_blocking(move || author::compile(bundle)).await;
        let Loaded {
            compiled,
            diagnostics,
        } = loaded.unwrap_or_default();
        let Some(compiled) = compiled else {
            tracing::warn!("kept policy revision cannot be used by this build");
            return;
        };
        if let Some(old) = diagnostics.iter().find(|d| d.code.0 == OLD_PROOFS) {
            tracing::warn!(%old, "the kept policy revision stays in force");
        }
        match self.believed(&compiled, &kept) {
            Ok(_) => {
                self.parts.restore(&compiled, &kept);
                let published = self.published(compiled, kept.issued_us, kept, diagnostics);
                self.state
                    .send_modify(|s| s.current = Some(Arc::new(published)));
            }
            Err(error) => tracing::warn!(%error, "kept policy revision is not served"),
        }
    }

    /// Writes down that a revision is in force. Nothing depends on it but what is shown.
    fn note(&self, published: &Published) {
        let entry = RevisionEntry {
            sequence: published.sequence(),
            sha256: published.digest().0.to_vec(),
            since_us: published.since_us,
            git_revision: published.git_revision.clone(),
            signed: published.signed.to_string(),
            signers: published.signed.signers().to_vec(),
            policies: published.compiled.info.len() as u64,
        };
        if let Err(error) = self.keep.note(entry) {
            tracing::error!(%error, "the list of revisions is not kept");
        }
    }

    /// Tells what of the newest content of any source was refused, or that nothing was.
    fn tell_refused(&self) {
        let found = self.parts.refused();
        if !found.is_empty() {
            return self.reject(found);
        }
        self.state.send_if_modified(|s| s.rejected.take().is_some());
    }

    fn reject(&self, diagnostics: Vec<Diagnostic>) {
        let State {
            current, rejected, ..
        } = self.state.borrow().clone();
        if rejected.is_some_and(|r| r.diagnostics == diagnostics) {
            return;
        }
        tracing::warn!(
            errors = diagnostics.iter().filter(|d| d.is_error()).count(),
            kept = current.as_ref().map(|c| c.sequence()),
            "policy revision rejected"
        );
        self.recorder
            .change(changes::rejected(current.as_deref(), &diagnostics));
        let rejected = Rejected {
            diagnostics,
            at_us: self.clock.now_us(),
        };
        self.state
            .send_modify(|s| s.rejected = Some(Arc::new(rejected)));
    }
}

/// What was found out about the newest content, once it was; never where nobody looks.
async fn finished(choosing: &mut Option<JoinHandle<Outcome>>) -> Outcome {
    match choosing {
        Some(task) => task.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

/// Number and digest of a revision.
fn name_of(revision: &Revision) -> Option<(u64, Digest)> {
    Some((revision.sequence, Digest::from_slice(&revision.sha256)?))
}
