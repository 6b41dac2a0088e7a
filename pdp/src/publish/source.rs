//! A watched folder as the source of revisions.
//!
//! Folders are watched, not files: editors replace files by renaming. Events
//! only wake; what is true is read from the disk, and a slow poll reads it too
//! where the system loses events. The same content is never compiled twice.

use std::{path::PathBuf, sync::Arc, time::Duration};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::SpiffeId,
    wire::policy::{Bundle, Revision},
};
use prost::Message;
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};

use super::{changes, codes, keep::Keep, recorder::Recorder, rollout::Plan};
use crate::{
    author::{self, Loaded, Texts},
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
    /// The policy repository.
    pub dir: PathBuf,
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
}

impl SourceConfig {
    /// Watches `dir`, keeps state in `state_dir`: 100 ms quiet time, poll every 5 s.
    pub fn new(dir: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            state_dir: state_dir.into(),
            debounce: Duration::from_millis(100),
            poll: Duration::from_secs(5),
            rollout: None,
            look: LOOK_EVERY,
        }
    }
}

/// Longest time that a stream of events can hold back a reading, in quiet times.
const DEBOUNCE_ROUNDS: u32 = 10;

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
}

impl Published {
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

/// Turns a folder into numbered revisions. One task owns it.
#[derive(Debug)]
pub struct Source {
    config: SourceConfig,
    keep: Keep,
    clock: Clock,
    recorder: Arc<Recorder>,
    seen: Option<Digest>,
    sequence: u64,
    rolling: Rolling,
    state: watch::Sender<State>,
    wake: Arc<Notify>,
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
        let wake = Arc::new(Notify::new());
        let watcher = watch_folder(&config, wake.clone())?;
        let mut source = Self {
            keep,
            clock,
            recorder,
            seen: None,
            sequence: kept.as_ref().map_or(0, |k| k.sequence),
            rolling: Rolling::new(config.rollout.clone()),
            state: watch::Sender::new(State::default()),
            wake,
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
                    let _ = self
                        .watcher
                        .watch(&self.config.dir, RecursiveMode::Recursive);
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

    /// Reads the folder; content that was not seen before becomes a revision or a
    /// rejection.
    async fn refresh(&mut self) {
        let dir = self.config.dir.clone();
        let seen = self.seen;
        let read = spawn_blocking(move || {
            let texts = Texts::read(&dir);
            let fingerprint = texts.fingerprint();
            (Some(fingerprint) != seen).then(|| (fingerprint, texts.compile()))
        });
        let Ok(Some((fingerprint, loaded))) = read.await else {
            return;
        };
        self.seen = Some(fingerprint);
        match loaded.compiled {
            Some(compiled) => self.offer(compiled, loaded.diagnostics),
            None => self.reject(loaded.diagnostics),
        }
    }

    /// Serves the kept revision until the folder says otherwise.
    async fn restore(&mut self, kept: Revision) {
        let bundle = kept.bundle.clone();
        let loaded = spawn_blocking(move || author::compile(bundle)).await;
        let Loaded {
            compiled,
            diagnostics,
        } = loaded.unwrap_or_default();
        match compiled {
            Some(compiled) => {
                let published = self.published(compiled, kept.issued_us, kept, diagnostics);
                self.state
                    .send_modify(|s| s.current = Some(Arc::new(published)));
            }
            None => tracing::warn!("kept policy revision cannot be used by this build"),
        }
    }

    /// The next revision.
    fn signed(&self, compiled: &Compiled, now_us: i64) -> Revision {
        Revision {
            bundle: compiled.bundle.clone(),
            sha256: compiled.digest.0.to_vec(),
            sequence: self.sequence + 1,
            issued_us: now_us,
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

    #[expect(
        clippy::unused_self,
        reason = "who publishes a revision vouches for it"
    )]
    fn published(
        &self,
        compiled: Compiled,
        since_us: i64,
        revision: Revision,
        diagnostics: Vec<Diagnostic>,
    ) -> Published {
        let git_revision = Bundle::decode(compiled.bundle.clone())
            .map(|b| b.git_revision)
            .unwrap_or_default();
        Published {
            revision,
            git_revision,
            since_us,
            diagnostics,
            compiled: Arc::new(compiled),
        }
    }
}

fn watch_folder(
    config: &SourceConfig,
    wake: Arc<Notify>,
) -> Result<RecommendedWatcher, SourceError> {
    let failed = |error: notify::Error| {
        SourceError::Watch(
            Diagnostic::error(
                codes::WATCH,
                format!("policy folder `{}` cannot be watched", config.dir.display()),
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
    watcher
        .watch(&config.dir, RecursiveMode::Recursive)
        .map_err(failed)?;
    Ok(watcher)
}

fn is_reading(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}
