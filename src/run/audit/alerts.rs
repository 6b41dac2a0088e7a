//! Alerts: the rules follow the log as it grows, each firing is a record of it, and is
//! brought to whom it may concern.
//!
//! A firing is first recorded, then put up for delivery, then the position is kept. Whoever
//! starts after a crash goes through the same records again and finds the same firings with
//! the same ids: one that is recorded is not recorded again, and one that was delivered not
//! delivered again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use palisade_audit::{
    alert::{Book, Firing, Open, Rule},
    item::Item,
    log::{Log, LogError},
    watch::Watch,
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, wire::record::record::Body};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    broken,
    deliver::Outbox,
    reads::Reads,
    state::{Lost, keep, read},
};
use crate::{
    config::{AuditSection, Config},
    control::{
        api::{Fact, FactState},
        status::ago,
    },
    render::count,
    run::Role,
};

mod asked;
mod built_in;

pub use asked::{Acknowledge, Delivered, Listed, RuleStatus, Test, Tested, Waiting};
use built_in::{BUILT_IN, built, new};

/// Time between two looks at the log.
const EVERY: Duration = Duration::from_secs(1);
/// Records that are read at once; whoever asks what is open waits for as long.
const BATCH: usize = 2000;
/// Firings that are not recorded yet; with more of them no record is read.
const MET_MAX: usize = 1000;
/// How long an unchanged position may stay in memory alone: so much is read again after
/// a crash.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// The rules at work. Clones are one.
#[derive(Clone)]
pub(super) struct Alerts(Arc<Inner>);

struct Inner {
    rules: Vec<Rule>,
    /// Targets of each rule; of others, all.
    targets: BTreeMap<String, Vec<String>>,
    built_in: bool,
    outbox: Outbox,
    log: Log,
    watch: Arc<Watch>,
    reads: Reads,
    mesh: String,
    actor: String,
    clock: Clock,
    file: PathBuf,
    /// One goes through the log at a time.
    turn: tokio::sync::Mutex<Turn>,
    kept: Mutex<Kept>,
    fault: Mutex<Option<String>>,
}

#[derive(Default)]
struct Turn {
    /// Ids of firings that were in the log when this process began.
    recorded: Option<BTreeSet<String>>,
    saved: Option<Instant>,
}

/// What survives a restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    book: Book,
    /// Firings that are not recorded, or not put up for delivery yet.
    met: VecDeque<Met>,
    /// Ids of firings of what is no record, and when they were told, microseconds since the
    /// Unix epoch.
    told: BTreeMap<String, i64>,
}

/// A firing on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Met {
    firing: Firing,
    /// Whether this process has given its record to the log; whoever starts anew looks
    /// there.
    #[serde(skip)]
    stated: bool,
}

/// What one step through the log came to.
struct Step {
    more: bool,
    met: bool,
}

impl Alerts {
    /// The rules of `section`, where they stopped.
    pub(super) fn open(
        config: &Config,
        section: &AuditSection,
        dir: &Path,
        parts: (&Log, &Arc<Watch>, &Reads),
        clock: &Clock,
        lost: &mut Vec<Lost>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let one = |d: Diagnostic| vec![d];
        let outbox = Outbox::open(&section.deliver, dir.join("outbox.json"), clock, lost);
        let actor = config.trust_domain.role(Role::Audit.as_str()).to_string();
        let built_in = !outbox.is_idle();
        let mut rules = Vec::new();
        let mut targets = BTreeMap::new();
        for alert in &section.alerts {
            rules.push(alert.rule().map_err(one)?);
            targets.extend(alert.deliver.clone().map(|to| (alert.name.clone(), to)));
        }
        if built_in {
            for (name, query, of_log, severity) in BUILT_IN {
                let log = of_log.then_some(actor.as_str());
                rules.push(built(name, query, log, severity).map_err(one)?);
            }
        }
        let (log, watch, reads) = parts;
        let file = dir.join("alerts.json");
        let kept: Option<Kept> = read(&file, lost);
        let mut kept = kept.unwrap_or_else(|| Kept {
            book: Book::at(log.len()),
            ..Kept::default()
        });
        if kept.book.position > log.len() {
            kept.book = Book::at(log.len());
        }
        kept.book.keep_to(&rules, log.len());
        Ok(Self(Arc::new(Inner {
            rules,
            targets,
            built_in,
            outbox,
            log: log.clone(),
            watch: watch.clone(),
            reads: reads.clone(),
            mesh: config.mesh_name().to_owned(),
            actor,
            clock: clock.clone(),
            file,
            turn: tokio::sync::Mutex::default(),
            kept: Mutex::new(kept),
            fault: Mutex::default(),
        })))
    }

    /// Follows the log, and delivers, until `stop`.
    pub(super) fn start(&self, stop: &CancellationToken) {
        let (outbox, reads) = (self.0.outbox.clone(), self.0.reads.clone());
        if !outbox.is_idle() {
            let delivering = outbox.run(reads, self.0.actor.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(delivering));
        }
        if !self.0.rules.is_empty() {
            let following = self.clone().follow();
            tokio::spawn(stop.clone().run_until_cancelled_owned(following));
        }
    }

    async fn follow(self) {
        loop {
            let result = self.catch_up().await;
            let fault = result.err().map(|d| d.cause.unwrap_or(d.message));
            if let Some(why) = &fault {
                tracing::error!(%why, "alert rules cannot follow the log");
            }
            *lock(&self.0.fault) = fault;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Reads to the end of the log, records and puts up what is met.
    async fn catch_up(&self) -> Result<(), Diagnostic> {
        let mut turn = self.0.turn.lock().await;
        let recorded = match turn.recorded.take() {
            Some(recorded) => recorded,
            None => self.blocking(Inner::recorded).await?,
        };
        let done = self.through(&recorded, &mut turn.saved).await;
        turn.recorded = Some(recorded);
        done
    }

    async fn through(
        &self,
        recorded: &BTreeSet<String>,
        saved: &mut Option<Instant>,
    ) -> Result<(), Diagnostic> {
        loop {
            let step = self.blocking(Inner::step).await?;
            self.record(recorded).await?;
            let due = saved.is_none_or(|at| at.elapsed() >= KEEP_EVERY);
            if step.met || due {
                self.keep().await?;
                *saved = Some(Instant::now());
            }
            if !step.more {
                return Ok(());
            }
        }
    }

    /// Puts what survives a restart on disk.
    async fn keep(&self) -> Result<(), Diagnostic> {
        let inner = self.0.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let kept = lock(&inner.kept).clone();
            keep(&inner.file, &kept)
        });
        let kept = kept.await.map_err(|e| broken(&e.to_string()))?;
        kept.map_err(|e| broken(&e.to_string()))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, Diagnostic> {
        let inner = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        let done = done.map_err(|e| broken(&e.to_string()))?;
        done.map_err(|e| e.diagnostic())
    }

    /// Records what is met and puts it up for delivery, in this order. After a failure it
    /// goes on where it was: what the log was given once is not given again.
    async fn record(&self, recorded: &BTreeSet<String>) -> Result<(), Diagnostic> {
        let inner = &*self.0;
        loop {
            let Some(Met { firing, stated }) = lock(&inner.kept).met.front().cloned() else {
                return Ok(());
            };
            if !stated && !recorded.contains(&firing.id) {
                inner.reads.tell(firing.record())?;
            }
            if let Some(first) = lock(&inner.kept).met.front_mut() {
                first.stated = true;
            }
            inner.reads.kept().await?;
            let to = match inner.targets.get(&firing.rule) {
                Some(to) => to.clone(),
                None => inner.outbox.names(),
            };
            let (outbox, message) = (&inner.outbox, inner.message(&firing, false));
            let put = outbox.tell(&firing.id, &to, &message, (&inner.reads, &inner.actor));
            put.await.map_err(|e| broken(&e.to_string()))?;
            lock(&inner.kept).met.pop_front();
        }
    }

    /// Where messages are put up for delivery.
    pub(super) fn outbox(&self) -> Outbox {
        self.0.outbox.clone()
    }

    /// What `check` says of alerts.
    pub(super) fn check(&self) -> Vec<Fact> {
        let inner = &*self.0;
        let mut facts = inner.outbox.check();
        if let Some(why) = lock(&inner.fault).clone() {
            facts.push(
                Fact::not_ok(
                    "audit",
                    FactState::Error,
                    7932,
                    "alert rules do not follow the log",
                )
                .cause(why)
                .fix("see the log of the audit service; the rules go on where they stopped"),
            );
        }
        if inner.rules.is_empty() {
            return facts;
        }
        let kept = lock(&inner.kept);
        let open: Vec<&Open> = kept.book.open().collect();
        let Some(last) = open.last() else {
            let rules = count(inner.rules.len(), "alert rule", "alert rules");
            facts.push(Fact::ok("audit", format!("{rules}, none met and open")));
            return facts;
        };
        let grave = |open: &&Open| matches!(open.severity.as_str(), "high" | "critical");
        let group = match last.group.as_str() {
            "" => String::new(),
            group => format!(" for {group}"),
        };
        let when = ago(&inner.clock, last.at_us);
        let text = format!("{} open", count(open.len(), "alert is", "alerts are"));
        let fact = match open.iter().any(grave) {
            true => Fact::not_ok("audit", FactState::Error, 7930, text),
            false => Fact::not_ok("audit", FactState::Warning, 7930, text),
        };
        facts.push(
            fact.cause(format!("the last one is `{}`{group}, {when}", last.rule))
                .fix("palisade audit alerts list; then: palisade audit alerts ack ID --reason WHY"),
        );
        facts
    }

    /// How many are open.
    pub(super) fn open_count(&self) -> usize {
        lock(&self.0.kept).book.open().count()
    }

    /// Index of the first record that the rules have not seen.
    pub(super) fn position(&self) -> u64 {
        match self.0.rules.is_empty() {
            true => self.0.log.len(),
            false => lock(&self.0.kept).book.position,
        }
    }
}

impl Inner {
    /// Reads some records, and looks at what is none.
    fn step(&self) -> Result<Step, LogError> {
        let mut kept = lock(&self.kept);
        let kept = &mut *kept;
        let mut scan = self.log.scan(kept.book.position);
        let before = kept.met.len();
        let mut read = 0;
        while read < BATCH && kept.met.len() < MET_MAX {
            read += 1;
            let met = match scan.next() {
                None => {
                    // What follows the last one has been dropped.
                    kept.book.position = scan.end().max(kept.book.position);
                    break;
                }
                Some(Ok(read)) => kept.book.take(&self.rules, &Item::new(read)),
                // It is of a later version: no rule of ours can ask for it.
                Some(Err(LogError::Undecodable { index, .. })) => {
                    kept.book.position = index + 1;
                    continue;
                }
                Some(Err(error)) => return Err(error),
            };
            kept.met.extend(met.into_iter().map(Met::new));
        }
        if self.built_in {
            let new = new(&mut kept.told, self.states(), self.clock.now_us());
            kept.met.extend(new.into_iter().map(Met::new));
        }
        Ok(Step {
            more: kept.book.position < scan.end(),
            met: kept.met.len() > before,
        })
    }

    /// Ids of firings in the part of the log that is read again.
    fn recorded(&self) -> Result<BTreeSet<String>, LogError> {
        let position = lock(&self.kept).book.position;
        let mut recorded = BTreeSet::new();
        for read in self.log.scan(position) {
            let read = match read {
                Ok(read) => read,
                Err(LogError::Undecodable { .. }) => continue,
                Err(error) => return Err(error),
            };
            if let Some(Body::Alert(alert)) = &read.record.body
                && let Ok(id) = <[u8; 16]>::try_from(alert.firing.as_slice())
                && alert.verb == "fired"
            {
                recorded.insert(ulid::Ulid::from_bytes(id).to_string());
            }
        }
        Ok(recorded)
    }

    /// What is brought to targets.
    fn message(&self, firing: &Firing, test: bool) -> Value {
        let time = |us: i64| {
            jiff::Timestamp::from_microsecond(us)
                .unwrap_or_default()
                .to_string()
        };
        json!({
            "kind": "alert",
            "test": test,
            "id": firing.id,
            "mesh": self.mesh,
            "rule": firing.rule,
            "severity": firing.severity.as_str(),
            "group": firing.group,
            "count": firing.count,
            "threshold": firing.threshold,
            "from": time(firing.from_us),
            "until": time(firing.until_us),
            "query": firing.query,
            "entry": firing.entry,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Met {
    fn new(firing: Firing) -> Self {
        Self {
            firing,
            stated: false,
        }
    }
}
