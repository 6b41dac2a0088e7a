//! What all parts of the proxy's role share, and the generations of its workers.

use std::{
    fs::File,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use palisade_mesh::{clock::Clock, sink::RecordSink, svid::Identity, wire::policy::Announcement};
use palisade_pdp::publish::Subscribed;
use palisade_proxy::{Counters, PolicySlot, RunningProxy, endpoints::Endpoints};
use tokio::sync::watch;

use super::{Launch, barring::Bars, records, reload};
use crate::config::{Config, ProxySection, layers::Overrides};

/// What all parts of the role share.
pub(super) struct Core {
    pub(super) file: Option<PathBuf>,
    pub(super) overrides: Overrides,
    pub(super) launch: Option<Launch>,
    pub(super) clock: Clock,
    pub(super) started_us: i64,
    pub(super) identity: Identity,
    pub(super) policy: PolicySlot,
    pub(super) bars: Arc<Bars>,
    pub(super) endpoints: Endpoints,
    pub(super) kept: records::Kept,
    pub(super) sink: Arc<dyn RecordSink>,
    /// What comes from a PDP, if there is one.
    pub(super) subscribed: Option<Subscribed>,
    /// Held as long as the process runs.
    pub(super) lock: File,
    pub(super) changing: Mutex<Changing>,
    /// Moves on whenever a generation has gone.
    pub(super) gone: watch::Sender<u64>,
    /// Whether another process has just taken over: the address is served all the same.
    pub(super) succeeded: AtomicBool,
}

/// What a reload changes.
pub(super) struct Changing {
    pub(super) config: Config,
    pub(super) section: ProxySection,
    pub(super) since_us: i64,
    pub(super) rejected: Option<reload::Rejected>,
    pub(super) announced: Vec<Announcement>,
    /// The generation that takes connections.
    pub(super) running: Arc<RunningProxy>,
    /// Those that finish what they have.
    pub(super) retiring: Vec<Arc<RunningProxy>>,
    /// What generations that are gone have done.
    pub(super) past: Counters,
    pub(super) word: Option<UnixStream>,
}

impl Core {
    pub(super) fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn config(&self) -> Config {
        self.changing().config.clone()
    }

    pub(super) fn section(&self) -> ProxySection {
        self.changing().section.clone()
    }

    pub(super) fn config_since_us(&self) -> i64 {
        self.changing().since_us
    }

    pub(super) fn set_config(&self, config: &Config, section: &ProxySection) {
        let mut changing = self.changing();
        changing.config = config.clone();
        changing.section = section.clone();
        changing.since_us = self.clock.now_us();
    }

    pub(super) fn stale_after(&self) -> Duration {
        self.changing().section.stale_after
    }

    pub(super) fn rejected(&self) -> Option<reload::Rejected> {
        self.changing().rejected.clone()
    }

    pub(super) fn set_rejected(&self, rejected: Option<reload::Rejected>) {
        self.changing().rejected = rejected;
    }

    pub(super) fn announced(&self) -> Vec<Announcement> {
        self.changing().announced.clone()
    }

    pub(super) fn set_announced(&self, announced: Vec<Announcement>) {
        self.changing().announced = announced;
    }

    pub(super) fn keep_word(&self, word: UnixStream) {
        self.changing().word = Some(word);
    }

    /// Every generation that still has something to do.
    pub(super) fn generations(&self) -> Vec<Arc<RunningProxy>> {
        let changing = self.changing();
        let all = changing.retiring.iter().chain([&changing.running]);
        all.cloned().collect()
    }

    /// The generation that takes connections.
    pub(super) fn running(&self) -> Arc<RunningProxy> {
        self.changing().running.clone()
    }

    /// Gives connections to a new generation; the one before still has its own.
    pub(super) fn succeed(&self, fresh: RunningProxy) {
        let mut changing = self.changing();
        let before = std::mem::replace(&mut changing.running, Arc::new(fresh));
        changing.retiring.push(before);
    }

    /// Lets a generation that was succeeded finish what it has.
    pub(super) fn retire(self: &Arc<Self>, old: Arc<RunningProxy>, deadline: Duration) {
        let core = self.clone();
        tokio::spawn(async move {
            old.retire(deadline).await;
            let mut changing = core.changing();
            changing.retiring.retain(|g| !Arc::ptr_eq(g, &old));
            changing.past = sum(changing.past, old.counters());
            drop(changing);
            core.gone.send_modify(|n| *n += 1);
        });
    }

    /// Resolves when only the newest generation is left.
    pub(super) async fn generations_gone(&self) {
        let mut gone = self.gone.subscribe();
        let _ = gone.wait_for(|_| self.changing().retiring.is_empty()).await;
    }

    pub(super) fn counters(&self) -> Counters {
        let changing = self.changing();
        let all = changing.retiring.iter().chain([&changing.running]);
        all.map(|g| g.counters()).fold(changing.past, sum)
    }
}

fn sum(a: Counters, b: Counters) -> Counters {
    Counters {
        requests: a.requests + b.requests,
        allowed: a.allowed + b.allowed,
        denied: a.denied + b.denied,
        undecided: a.undecided + b.undecided,
        refused: a.refused + b.refused,
        connections: a.connections + b.connections,
    }
}
