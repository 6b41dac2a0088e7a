//! A watched folder or bundle file as the source of revisions.
//!
//! Folders are watched, not files: editors replace files by renaming. Events
//! only wake; what is true is read from the disk, and a slow poll reads it too
//! where the system loses events. The same content is never compiled twice.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::SpiffeId,
    wire::policy::{Revision, RevisionEntry, Stamp},
};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};

use super::{
    changes, codes,
    keep::{History, Keep},
    origin::{Origin, Vouched},
    recorder::Recorder,
    rollout::Plan,
    slices::Slices,
};
use crate::{
    author::{self, Loaded},
    bundle::{
        codes::UNSIGNED_FOLDER,
        key::SigningKey,
        statement::{self, Statement},
        trust::{self, SignedBy, TrustConfig},
    },
    compiled::Compiled,
};

mod obeying;
mod orders;
mod rolling;
mod underway;

use rolling::Rolling;

pub use orders::{Content, Difference, Order, Orders};
pub use rolling::Observe;
pub use underway::Underway;

/// How often a rollout is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is watched, and how patiently.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// The policy repository, or a bundle file.
    pub path: PathBuf,
    /// Where the last good revision is kept.
    pub state_dir: PathBuf,
    /// Quiet time after a change before it is read.
    pub debounce: Duration,
    /// How often the folder is read even if nothing was noticed.
    pub poll: Duration,
    /// How each new revision goes to the proxies; none for all of them at once.
    pub rollout: Option<Plan>,
    /// How often a rollout is looked at.
    pub look: Duration,
    /// Who must have signed; without it, nobody.
    pub trust: Option<TrustConfig>,
}

impl SourceConfig {
    /// Watches `path`, keeps state in `state_dir`: 100 ms quiet time, poll every 5 s,
    /// no signatures demanded.
    pub fn new(path: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            state_dir: state_dir.into(),
            debounce: Duration::from_millis(100),
            poll: Duration::from_secs(5),
            rollout: None,
            look: LOOK_EVERY,
            trust: None,
        }
    }
}

/// Longest time that a stream of events can hold back a reading, in quiet times.
const DEBOUNCE_ROUNDS: u32 = 10;

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
    /// The latest content of the folder, if it was refused.
    pub rejected: Option<Arc<Rejected>>,
    /// What is on its way to the proxies, or the last that was.
    pub rollout: Option<Arc<Underway>>,
    /// Content of the source that was stopped or replaced, and is not put in force by
    /// itself.
    pub set_aside: Option<Digest>,
}

impl State {
    /// What a proxy shall enforce; `None` only before the first good revision.
    pub fn wanted(&self, identity: &SpiffeId, instance: &str) -> Option<&Arc<Published>> {
        let underway = self.rollout.as_deref();
        underway
            .and_then(|u| u.wanted(identity, instance))
            .or(self.current.as_ref())
    }

    /// What a proxy shall try beside it.
    pub fn tried(&self, identity: &SpiffeId, instance: &str) -> Option<&Arc<Published>> {
        self.rollout.as_deref()?.tried(identity, instance)
    }
}

/// Why a source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The state folder cannot be used, so numbers could go backwards.
    #[error("{0}")]
    State(Diagnostic),
    /// The policy folder cannot be watched.
    #[error("{0}")]
    Watch(Diagnostic),
}

impl SourceError {
    /// What to show the operator.
    pub fn diagnostic(&self) -> &Diagnostic {
        match self {
            Self::State(d) | Self::Watch(d) => d,
        }
    }
}

/// Turns a folder or bundle file into numbered revisions. One task owns it.
#[derive(Debug)]
pub struct Source {
    config: SourceConfig,
    keep: Keep,
    key: Arc<SigningKey>,
    clock: Clock,
    recorder: Arc<Recorder>,
    seen: Option<Digest>,
    sequence: u64,
    rolling: Rolling,
    state: watch::Sender<State>,
    wake: Arc<Notify>,
    /// The folder that is watched, and how deep.
    watched: Watched,
    watcher: RecommendedWatcher,
}

impl Source {
    /// Begins to watch, then loads the folder once, so that [`Source::state`] tells
    /// the truth from here on. With a broken folder the kept revision is served.
    ///
    /// # Errors
    /// See [`SourceError`]. A broken repository is not an error: the state says so.
    pub async fn open(
        config: SourceConfig,
        clock: Clock,
        recorder: Arc<Recorder>,
    ) -> Result<Self, SourceError> {
        let keep = Keep::open(&config.state_dir).map_err(SourceError::State)?;
        let kept = keep.load().map_err(SourceError::State)?;
        let key = keep.signing_key().map_err(SourceError::State)?;
        let wake = Arc::new(Notify::new());
        let (watched, watcher) = watch_path(&config.path, wake.clone())?;
        let mut source = Self {
            keep,
            key: Arc::new(key),
            clock,
            recorder,
            seen: None,
            sequence: kept.as_ref().map_or(0, |k| k.sequence),
            rolling: Rolling::new(config.rollout.clone()),
            state: watch::Sender::new(State::default()),
            wake,
            watched,
            watcher,
            config,
        };
        if let Some(kept) = kept {
            source.restore(kept).await;
        }
        source.resume().await.map_err(SourceError::State)?;
        source.refresh().await;
        Ok(source)
    }

    /// What is in force, now and later.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The revisions that were in force lately.
    pub fn history(&self) -> History {
        History::new(self.keep.clone())
    }

    /// Follows the folder, orders and the rollout under way until dropped.
    pub async fn run(mut self) {
        let wake = self.wake.clone();
        let mut poll = Instant::now() + self.config.poll;
        loop {
            let look = sleep(self.config.look);
            tokio::select! {
                () = wake.notified() => self.settle().await,
                () = sleep_until(poll) => {
                    // A folder that was replaced has lost its watch; setting it again
                    // costs nothing where it is still there.
                    let (folder, mode) = &self.watched;
                    let _ = self.watcher.watch(folder, *mode);
                }
                given = self.rolling.ordered() => {
                    self.obey(given).await;
                    continue;
                }
                () = look, if self.rolling.is_busy() => {
                    self.look();
                    continue;
                }
            }
            poll = Instant::now() + self.config.poll;
            self.refresh().await;
        }
    }

    /// Waits until nothing has happened for the quiet time, within reason.
    async fn settle(&self) {
        let deadline = Instant::now() + self.config.debounce * DEBOUNCE_ROUNDS;
        while Instant::now() < deadline {
            tokio::select! {
                () = sleep(self.config.debounce) => return,
                () = self.wake.notified() => {}
            }
        }
    }

    /// Reads what is there; content that was not seen before becomes a revision or a
    /// rejection.
    async fn refresh(&mut self) {
        let path = self.config.path.clone();
        let (seen, trust) = (self.seen, self.config.trust.clone());
        let read = spawn_blocking(move || {
            let content = Origin::read(&path);
            // What was refused may be good once the keys are mended.
            let keys = trust.map(|t| t.fingerprint()).unwrap_or_default();
            let both = [content.fingerprint().0, keys.0].concat();
            let fingerprint = Digest::of(&both);
            (Some(fingerprint) != seen).then(|| (fingerprint, content.compile()))
        });
        let Ok(Some((fingerprint, (loaded, vouched)))) = read.await else {
            return;
        };
        self.seen = Some(fingerprint);
        match loaded.compiled {
            Some(compiled) => self.offer(compiled, vouched, loaded.diagnostics),
            None => self.reject(loaded.diagnostics),
        }
    }

    /// Serves the kept revision until the source says otherwise.
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
        match self.believed(&compiled, &kept) {
            Ok(_) => {
                let published = self.published(compiled, kept.issued_us, kept, diagnostics);
                self.state
                    .send_modify(|s| s.current = Some(Arc::new(published)));
            }
            Err(error) => tracing::warn!(%error, "kept policy revision is not served"),
        }
    }

    /// The content in force is there again, perhaps signed by more or stamped anew.
    pub(super) fn renew(
        &mut self,
        current: &Published,
        vouched: Vouched,
    ) -> Result<(), Diagnostic> {
        let before = &current.revision;
        let mut revision = Revision {
            stamp: vouched.stamp,
            ..before.clone()
        };
        if !vouched.content.is_empty() {
            revision.content_signatures = vouched.content;
        }
        if let Some(release) = vouched.release {
            revision.issued_us = release.issued_us;
            revision.release_signatures = release.signatures;
        }
        let news = revision != *before;
        let signed = self.accepted(&current.compiled, &revision)?;
        if !news {
            // Nothing new, but an earlier rejection is mended.
            self.state.send_modify(|s| s.rejected = None);
            return Ok(());
        }
        self.keep.store(&revision)?;
        let next = Arc::new(Published {
            stamp: self.stamps(&revision),
            revision,
            signed,
            compiled: current.compiled.clone(),
            git_revision: current.git_revision.clone(),
            since_us: current.since_us,
            diagnostics: current.diagnostics.clone(),
            slices: Slices::default(),
        });
        self.state.send_modify(|s| {
            s.current = Some(next);
            s.rejected = None;
        });
        Ok(())
    }

    /// A number and the signatures that were vouched for it, or our own.
    fn signed(&self, compiled: &Compiled, vouched: Vouched, now_us: i64) -> Revision {
        let (domain, digest) = (&compiled.trust_domain, compiled.digest);
        let own = |said: Statement<'_>| vec![said.sign(&self.key)];
        let mut revision = Revision {
            bundle: compiled.bundle.clone(),
            sha256: digest.0.to_vec(),
            content_signatures: vouched.content,
            stamp: vouched.stamp,
            ..Revision::default()
        };
        if revision.content_signatures.is_empty() {
            revision.content_signatures = own(statement::content(domain, digest));
        }
        match vouched.release {
            Some(release) => {
                revision.sequence = release.sequence;
                revision.issued_us = release.issued_us;
                revision.release_signatures = release.signatures;
            }
            None => {
                revision.sequence = self.sequence + 1;
                revision.issued_us = now_us;
                let release = statement::release(domain, digest, &revision);
                revision.release_signatures = own(release);
            }
        }
        revision
    }

    /// Whether a revision may be put in force now.
    fn accepted(&self, compiled: &Compiled, revision: &Revision) -> Result<SignedBy, Diagnostic> {
        if self.config.trust.is_some() && !self.config.path.is_file() {
            return Err(unsigned_folder(&self.config.path));
        }
        let signed = self.believed(compiled, revision)?;
        if let Some(trust) = &self.config.trust {
            trust.load()?.check_stamp(
                &compiled.trust_domain,
                (compiled.digest, revision.sequence),
                revision.stamp.as_ref(),
                self.clock.now_us(),
            )?;
        }
        Ok(signed)
    }

    /// Whether those who must have signed have.
    fn believed(&self, compiled: &Compiled, revision: &Revision) -> Result<SignedBy, Diagnostic> {
        let trust = self.config.trust.as_ref();
        trust::check(trust, &compiled.trust_domain, compiled.digest, revision)
    }

    fn published(
        &self,
        compiled: Compiled,
        since_us: i64,
        revision: Revision,
        diagnostics: Vec<Diagnostic>,
    ) -> Published {
        let signed = self.believed(&compiled, &revision);
        Published {
            // What is not believed any more is nobody's word but ours.
            signed: signed.unwrap_or(SignedBy::Pdp),
            stamp: self.stamps(&revision),
            revision,
            git_revision: compiled.git_revision.clone(),
            since_us,
            diagnostics,
            compiled: Arc::new(compiled),
            slices: Slices::default(),
        }
    }

    fn stamps(&self, revision: &Revision) -> Result<Stamp, Arc<SigningKey>> {
        revision.stamp.clone().ok_or_else(|| self.key.clone())
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
            .leave(changes::rejected(current.as_deref(), &diagnostics));
        let rejected = Rejected {
            diagnostics,
            at_us: self.clock.now_us(),
        };
        self.state
            .send_modify(|s| s.rejected = Some(Arc::new(rejected)));
    }
}

/// Content that can be signed by nobody, where somebody must have.
fn unsigned_folder(path: &Path) -> Diagnostic {
    Diagnostic::error(
        UNSIGNED_FOLDER,
        format!("`{}` is a folder, which carries no signatures", path.display()),
    )
    .cause("`policy_trust` demands that policies are signed")
    .help("serve a signed file: palisade bundle build DIR -f FILE, then palisade bundle sign FILE --key KEY --sequence N")
}

/// What to watch: the folder itself, or the one in which a file is replaced.
type Watched = (PathBuf, RecursiveMode);

fn watch_path(
    path: &Path,
    wake: Arc<Notify>,
) -> Result<(Watched, RecommendedWatcher), SourceError> {
    let failed = |error: notify::Error| {
        SourceError::Watch(
            Diagnostic::error(
                codes::WATCH,
                format!("policy folder `{}` cannot be watched", path.display()),
            )
            .cause(error.to_string())
            .help("check that the folder exists and that this user may read it"),
        )
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too; following it would never end.
        if event.map_or(true, |e| !is_reading(&e)) {
            wake.notify_one();
        }
    })
    .map_err(failed)?;
    let folder = match path.parent().filter(|_| path.is_file()) {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    };
    let mode = match path.is_file() {
        true => RecursiveMode::NonRecursive,
        false => RecursiveMode::Recursive,
    };
    watcher.watch(folder, mode).map_err(failed)?;
    Ok(((folder.to_owned(), mode), watcher))
}

fn is_reading(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}
