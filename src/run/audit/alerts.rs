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

use axum::{
    Json, Router,
    extract::ConnectInfo,
    routing::{get, post},
};
use palisade_audit::{
    alert::{Book, Firing, Open, Rule, RuleText, Severity},
    item::Item,
    log::{Log, LogError},
    watch::Watch,
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::{Diagnostic, did_you_mean},
    wire::record::{Alert, record::Body},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    broken,
    deliver::{Lost, Outbox, keep, read},
    reads::{Reader, Reads},
};
use crate::{
    config::{AuditSection, Config},
    control::{
        api::{Answer, Fact, FactState},
        server::PeerUid,
        status::ago,
    },
    render::count,
    run::Role,
};

/// Time between two looks at the log.
const EVERY: Duration = Duration::from_secs(1);
/// Records that are read at once; whoever asks what is open waits for as long.
const BATCH: usize = 2000;
/// Firings that are not recorded yet; with more of them no record is read.
const MET_MAX: usize = 1000;
/// How long what is no record is remembered after it is over, microseconds.
const TOLD_US: i64 = 24 * 3600 * 1_000_000;
/// How long an unchanged position may stay in memory alone: so much is read again after
/// a crash.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// Newest records of the log that a test of a rule goes through.
const TEST_RECORDS: u64 = 200_000;
/// Firings of a test that are told.
const TEST_FIRINGS: usize = 20;
/// Shortest beginning of an id.
const ID_LEN_MIN: usize = 6;
/// Longest reason of an acknowledgement, bytes.
const REASON_LEN_MAX: usize = 1024;

/// Rules that need no configuration, where alerts go anywhere: what they ask for, whether
/// the log itself has to say it, and how bad that is.
const BUILT_IN: [(&str, &str, bool, Severity); 4] = [
    (
        "palisade-engine",
        "class:admin verb:engine_differs",
        false,
        Severity::Critical,
    ),
    (
        "palisade-gap",
        "class:log_lifecycle verb:gap",
        true,
        Severity::High,
    ),
    (
        "palisade-lost",
        "class:spool_event verb:dropped",
        false,
        Severity::High,
    ),
    (
        "palisade-witness",
        "class:admin verb:witness_conflict",
        true,
        Severity::Critical,
    ),
];
/// Those of what is no record.
const SILENT: (&str, &str) = ("palisade-silent", "a reporter that stopped sending records");
const UNSIGNED: (&str, &str) = (
    "palisade-tampered",
    "records that are not what their reporter signed",
);

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

    fn listed(&self) -> Listed {
        let inner = &*self.0;
        let kept = lock(&inner.kept).clone();
        let rule = |rule: &Rule| {
            let (threshold, window_us) = rule.bounds();
            RuleStatus {
                forgotten: kept.book.forgotten(&rule.name),
                name: rule.name.clone(),
                query: rule.query().to_owned(),
                threshold,
                window_us,
                by: rule.by().unwrap_or_default().to_owned(),
                severity: rule.severity.as_str().to_owned(),
                deliver: match inner.targets.get(&rule.name) {
                    Some(to) => to.clone(),
                    None => inner.outbox.names(),
                },
            }
        };
        let waiting = inner.outbox.waiting().into_iter();
        Listed {
            rules: inner.rules.iter().map(rule).collect(),
            open: kept.book.open().cloned().collect(),
            waiting: waiting
                .map(|(target, (messages, fault))| Waiting {
                    target,
                    messages,
                    fault,
                })
                .collect(),
        }
    }

    pub(super) async fn list(self, reader: Reader) -> Answer<Listed> {
        self.catch_up().await?;
        let listed = self.listed();
        let n = listed.open.len();
        self.0.reads.note(&reader, "alerts", "", n).await?;
        Ok(Json(listed))
    }

    async fn acknowledge(self, actor: &str, asked: Acknowledge) -> Answer<Open> {
        let reason = asked.reason.trim();
        if reason.is_empty() || reason.len() > REASON_LEN_MAX {
            return Err(Diagnostic::error(7938, "an acknowledgement needs a reason")
                .cause(format!("of 1 to {REASON_LEN_MAX} bytes"))
                .help("say what was found, and what was done: --reason TEXT")
                .into());
        }
        self.catch_up().await?;
        let open = lock(&self.0.kept).book.open().cloned().collect::<Vec<_>>();
        let open = chosen(&open, &asked.id)?;
        let firing = open.id.parse::<ulid::Ulid>().unwrap_or_default();
        let record = palisade_mesh::wire::record::Record {
            body: Some(Body::Alert(Alert {
                verb: "acknowledged".to_owned(),
                rule: open.rule.clone(),
                severity: open.severity.clone(),
                group: open.group.clone(),
                actor: actor.to_owned(),
                detail: reason.to_owned(),
                firing: firing.to_bytes().to_vec(),
                ..Alert::default()
            })),
            ..Default::default()
        };
        self.0.reads.stated(record).await?;
        self.catch_up().await?;
        Ok(Json(open))
    }

    async fn test(self, reader: Reader, asked: Test) -> Answer<Tested> {
        let name = asked.name.clone();
        let mut tested = self.blocking(move |inner| inner.tried(&name)).await?;
        let Some(rule) = self.0.rules.iter().find(|rule| rule.name == asked.name) else {
            return Err(unknown(&asked.name, &self.0.rules).into());
        };
        let reads = &self.0.reads;
        reads
            .note(&reader, "alert_test", rule.query(), tested.firings.len())
            .await?;
        if asked.deliver {
            let now_us = self.0.clock.now_us();
            let firing = Firing::of_state(&rule.name, rule.severity, "", now_us, rule.query());
            let message = self.0.message(&firing, true);
            for to in self
                .0
                .targets
                .get(&rule.name)
                .cloned()
                .unwrap_or_else(|| self.0.outbox.names())
            {
                let answer = self.0.outbox.bring(&firing.id, &to, &message).await;
                tested.delivered.push(Delivered {
                    target: to,
                    fault: answer.err(),
                });
            }
        }
        Ok(Json(tested))
    }

    pub(super) fn routes(&self) -> Router {
        let (of_list, of_ack, of_test) = (self.clone(), self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/alerts",
                get(move |ConnectInfo(uid): ConnectInfo<PeerUid>| async move {
                    of_list.list(Reader::local(uid)).await
                }),
            )
            .route(
                "/v1/audit/alerts/ack",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Acknowledge>| async move {
                        of_ack.acknowledge(&uid.to_string(), q).await
                    },
                ),
            )
            .route(
                "/v1/audit/alerts/test",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Test>| async move {
                        of_test.test(Reader::local(uid), q).await
                    },
                ),
            )
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

    /// What is so and is no record. The id follows from what it is and since when: found
    /// again after a restart, it is the same.
    fn states(&self) -> Vec<Firing> {
        let silent = self.watch.silent().into_iter();
        let silent = silent.map(|s| {
            let who = format!("{} boot {}", s.reporter, s.boot);
            (SILENT, who, s.heard_us)
        });
        let (faults, more) = self.watch.faults();
        let beyond = faults.first().filter(|_| more > 0).map(|first| {
            let what = format!("and more than these {}", faults.len());
            (UNSIGNED, what, first.at_us)
        });
        let unsigned = faults.iter().map(|f| (UNSIGNED, f.what.clone(), f.at_us));
        let now = silent.chain(unsigned).chain(beyond);
        now.map(|((rule, what), group, at_us)| {
            Firing::of_state(rule, Severity::Critical, &group, at_us, what)
        })
        .collect()
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

    /// What a rule would have met among the newest records.
    fn tried(&self, name: &str) -> Result<Tested, LogError> {
        let rules: Vec<Rule> = self
            .rules
            .iter()
            .filter(|r| r.name == name)
            .cloned()
            .collect();
        let end = self.log.len();
        let mut book = Book::at(end.saturating_sub(TEST_RECORDS));
        let mut tested = Tested::default();
        for read in self.log.scan(book.position) {
            let read = match read {
                Ok(read) => read,
                Err(LogError::Undecodable { .. }) => continue,
                Err(error) => return Err(error),
            };
            let item = Item::new(read);
            tested.from_us.get_or_insert(item.received_us);
            tested.records += 1;
            tested.firings.extend(book.take(&rules, &item));
        }
        tested.met = tested.firings.len();
        let old = tested.firings.len().saturating_sub(TEST_FIRINGS);
        tested.firings.drain(..old);
        Ok(tested)
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

/// Those of `now` that were not told yet. What is over is remembered for a day, so that
/// neither a restart nor a clock that jumps tells it again.
fn new(told: &mut BTreeMap<String, i64>, now: Vec<Firing>, now_us: i64) -> Vec<Firing> {
    told.retain(|id, told_us| {
        let lately = now_us.saturating_sub(*told_us).saturating_abs() < TOLD_US;
        lately || now.iter().any(|firing| firing.id == *id)
    });
    let mut unknown = now;
    unknown.retain(|firing| told.insert(firing.id.clone(), now_us).is_none());
    unknown
}

/// A rule of ours: each of what the log at `log` says is one, of others the first in an
/// hour of each reporter.
fn built(
    name: &str,
    query: &str,
    log: Option<&str>,
    severity: Severity,
) -> Result<Rule, Diagnostic> {
    let query = match log {
        Some(log) => format!("{query} reporter:\"{log}\""),
        None => query.to_owned(),
    };
    Rule::new(&RuleText {
        name,
        query: &query,
        threshold: 1,
        window_us: 60 * 1_000_000,
        cooldown_us: if log.is_some() { 0 } else { 3600 * 1_000_000 },
        by: log.is_none().then_some("reporter"),
        severity,
    })
}

/// The open firing whose id begins with `id`.
fn chosen(open: &[Open], id: &str) -> Result<Open, Diagnostic> {
    let id = id.to_ascii_uppercase();
    let mut fits = open.iter().filter(|open| open.id.starts_with(&id));
    match (fits.next(), fits.next()) {
        (Some(one), None) if id.len() >= ID_LEN_MIN => Ok(one.clone()),
        _ => Err(
            Diagnostic::error(7937, format!("no one open alert has the id `{id}`"))
                .help("write the whole id; palisade audit alerts list has them"),
        ),
    }
}

fn unknown(name: &str, rules: &[Rule]) -> Diagnostic {
    let near = did_you_mean(name, rules.iter().map(|rule| rule.name.as_str()));
    Diagnostic::error(7937, format!("there is no alert rule `{name}`")).help(near.map_or_else(
        || "palisade audit alerts list has all; write some: `audit.alerts`".to_owned(),
        |near| format!("did you mean `{near}`?"),
    ))
}

/// The rules, and what is open.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listed {
    /// The rules.
    pub rules: Vec<RuleStatus>,
    /// Firings that nobody has answered for, oldest first.
    pub open: Vec<Open>,
    /// What waits for delivery.
    pub waiting: Vec<Waiting>,
}

/// A rule.
#[derive(Debug, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// What it asks for.
    pub query: String,
    /// From how many records on it is met.
    pub threshold: u64,
    /// Within how long, microseconds.
    pub window_us: i64,
    /// The field whose values are counted apart; empty without one.
    pub by: String,
    /// Values that had to be forgotten while they were being counted.
    pub forgotten: u64,
    /// How bad it is.
    pub severity: String,
    /// Targets.
    pub deliver: Vec<String>,
}

/// What waits for a target.
#[derive(Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// The target.
    pub target: String,
    /// How many messages.
    pub messages: usize,
    /// Why the first was not taken yet.
    pub fault: Option<String>,
}

/// What `audit alerts ack` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Acknowledge {
    /// The id, or its first six or more characters.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What `audit alerts test` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Test {
    /// The rule.
    pub name: String,
    /// Whether to bring a message to its targets, marked as a test.
    pub deliver: bool,
}

/// What a rule would have met.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tested {
    /// Records that were gone through.
    pub records: u64,
    /// When the first of them was received, microseconds since the Unix epoch.
    pub from_us: Option<i64>,
    /// How often it would have been met.
    pub met: usize,
    /// The last of these.
    pub firings: Vec<Firing>,
    /// What became of messages that were sent as a test.
    pub delivered: Vec<Delivered>,
}

/// What became of a message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Delivered {
    /// The target.
    pub target: String,
    /// Why it was not taken.
    pub fault: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(who: &str, since_us: i64) -> Firing {
        Firing::of_state(SILENT.0, Severity::Critical, who, since_us, SILENT.1)
    }

    /// Told once, across a restart and a clock that jumps; and again when it is new.
    #[test]
    fn what_is_no_record_is_told_once() {
        let day = TOLD_US;
        let mut told = BTreeMap::new();
        let now = || vec![silent("a", 5), silent("b", 6)];
        assert_eq!(new(&mut told, now(), 10), now());
        assert_eq!(new(&mut told, now(), 11), []);
        assert_eq!(new(&mut told, now(), 11 + 30 * day), [], "it goes on");
        assert_eq!(new(&mut told, now(), 12), [], "the clock is set back");
        // Gone for a moment, as after a start that has not read the log yet.
        assert_eq!(new(&mut told, Vec::new(), 13), []);
        assert_eq!(new(&mut told, now(), 14), []);
        let again = vec![silent("a", 7)];
        assert_eq!(new(&mut told, again.clone(), 15), again, "silent anew");
        assert_eq!(new(&mut told, Vec::new(), 16 + day), []);
        assert!(told.is_empty());
    }

    #[test]
    fn the_rules_that_need_no_configuration_can_be_read() {
        for (name, query, of_log, severity) in BUILT_IN {
            let log = of_log.then_some("spiffe://acme.test/palisade/audit");
            let rule = built(name, query, log, severity).unwrap();
            assert_eq!(rule.by().is_none(), of_log, "{name}");
        }
    }
}
