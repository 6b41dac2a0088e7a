//! The `audit` role: takes records in, keeps the log, answers questions about it.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, Path},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use palisade_audit::{
    decisions::Decisions,
    disk::Room,
    envelope::LEAF_LEN_MAX,
    index::{self, BucketSpan, Cursor, Gap, Options, Store, StoreError, TailEvent},
    ingest::Ingest,
    item::Item,
    local::LocalSink,
    log::{Log, LogError, LogOptions, OpenGap},
    query::{Limits, Query, Window},
    row::Row,
    source::{Entry, Source, SourceError},
    verify::{self, VerifyOptions},
    watch::Watch,
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, sink::RecordSink, svid::Identity};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    Role, keeping,
    links::{self, LinkGate},
    unbound, unusable,
};
use crate::{
    config::{AuditSection, Config},
    control::{
        api::{Answer, Fact, FactState, Problem},
        server::PeerUid,
        status::{AuditStatus, ago},
    },
    history::{self, frames},
    net::{
        kill::{self, Holder},
        tls,
    },
};

mod api;
mod proof;
mod reads;
pub(crate) mod reports;
mod sums;
mod witness;
mod witnesses;

use reads::{Begun, Reader, Reads};
use witness::Witnessing;
use witnesses::Witnesses;

pub(crate) use api::Access;
pub use api::document;
pub use proof::{Proven, Wanted};
pub use reports::RunReport;
pub use sums::{Facets, Gaps, Timeline};

/// Shortest time between two looks at what reporters said.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Rows of a search that does not say how many.
const ROWS_DEFAULT: usize = 50;
/// How long a question waits for the index to have read what the log has: what was recorded
/// a moment ago, the question before among it, is part of the answer.
const SETTLE: Duration = Duration::from_millis(250);
/// Age of the last checkpoint, with records waiting, that is worth a warning.
const CHECKPOINT_LATE: Duration = Duration::from_secs(30);

/// The audit service of this process.
#[derive(Clone)]
pub struct AuditRole {
    /// The log.
    pub log: Log,
    /// The index over it.
    pub store: Arc<Store>,
    /// Where the records are pushed, once it listens.
    pub address: Option<std::net::SocketAddr>,
    dir: PathBuf,
    clock: Clock,
    reads: Reads,
    gate: Arc<std::sync::OnceLock<Arc<LinkGate>>>,
    witnesses: Witnesses,
    watch: Arc<Watch>,
    witnessing: Arc<std::sync::OnceLock<Witnessing>>,
}

impl AuditRole {
    /// Opens log and index.
    pub(super) fn open(
        config: &Config,
        section: &AuditSection,
        clock: &Clock,
    ) -> Result<Self, Vec<Diagnostic>> {
        let dir = section
            .dir
            .clone()
            .unwrap_or_else(|| config.state_dir.join("audit"));
        let options = LogOptions::new(config.trust_domain.clone());
        let log =
            Log::open(&dir.join("log"), options, clock.clone()).map_err(|e| vec![refused(&e)])?;
        let store = store_of(&log, &dir.join("index"), clock, BucketSpan::Day)
            .map_err(|e| vec![unusable(&e.to_string())])?;
        let reporter = config.trust_domain.role(Role::Audit.as_str());
        let sink = LocalSink::new(log.clone(), reporter.clone(), clock.clone());
        Ok(Self {
            witnesses: Witnesses::new(section.witnesses.as_ref(), &log, clock)?,
            watch: Arc::new(Watch::new(log.clone(), clock.clone())),
            witnessing: Arc::default(),
            reads: Reads::new(sink, reporter, config.demo, clock.clone()),
            log,
            store: Arc::new(store),
            address: None,
            dir,
            clock: clock.clone(),
            gate: Arc::default(),
        })
    }

    /// Takes records from peers of the trust domain.
    pub(super) async fn listen(
        &mut self,
        config: &Config,
        section: &AuditSection,
        identity: &Identity,
        services: Arc<std::sync::OnceLock<Box<links::Services>>>,
        stop: &CancellationToken,
    ) -> Result<(), Vec<Diagnostic>> {
        let listener = TcpListener::bind(section.listen)
            .await
            .map_err(|e| vec![unbound("audit.listen", &e)])?;
        self.address = listener.local_addr().ok();
        let reporter = config.trust_domain.role(Role::Audit.as_str());
        let sink = LocalSink::new(self.log.clone(), reporter.clone(), self.clock.clone());
        let records = sink.open(witnesses::OWN_WORKER);
        let followed = follow(self.watch.clone(), self.log.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(followed));
        self.witnesses.start(reporter.clone(), records, stop);
        if let Some(section) = &section.witness {
            let (dir, domain) = (self.dir.join("witness"), &config.trust_domain);
            let started = Witnessing::start(section, &dir, domain, &self.clock, stop).await?;
            let _ = self.witnessing.set(started);
        }
        let gate = LinkGate::new(config, reporter, sink.open(links::OWN_WORKER), &self.clock)?;
        let doubts = links::Doubts {
            gate: gate.clone(),
            pdp: config.trust_domain.role(Role::Pdp.as_str()),
            services,
        };
        let service = Ingest::new(self.log.clone(), self.clock.clone())
            .guarded(gate.clone())
            .doubted(Arc::new(doubts))
            .service();
        let _ = self.gate.set(gate);
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(
                tls::incoming(listener, identity),
                stop.clone().cancelled_owned(),
            );
        tokio::spawn(served);
        Ok(())
    }

    /// Answers others than this host's user, where the configuration says so, but for
    /// those on the kill list that comes from `lists`.
    pub(super) async fn answer(
        &self,
        config: &Config,
        section: &AuditSection,
        identity: &Identity,
        lists: impl FnOnce() -> kill::Source,
        stop: &CancellationToken,
    ) -> Result<(), Vec<Diagnostic>> {
        let Some(api) = &section.api else {
            return Ok(());
        };
        let bundle = {
            let identity = identity.clone();
            move || identity.bundle()
        };
        let kill = Holder::new(&config.trust_domain, bundle, self.clock.clone(), None);
        let held = kill.held();
        let keeping = kill.keep_up(lists());
        tokio::spawn(stop.clone().run_until_cancelled_owned(keeping));
        api::start(config, api, self.clone(), identity, held, stop).await?;
        Ok(())
    }

    /// Writes out what is left.
    pub(super) fn close(self) {
        self.reads.close();
        self.log.close();
    }

    /// What the role answers on the local socket.
    pub(super) fn routes(&self) -> Router {
        let (of_search, of_tail, of_record) = (self.clone(), self.clone(), self.clone());
        let (of_verify, of_status, of_check) = (self.clone(), self.clone(), self.clone());
        let of_decisions = self.clone();
        self.sums()
            .merge(self.proofs())
            .merge(self.reports())
            .route(
                "/v1/audit/search",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Search>| async move {
                        of_search.search(Reader::local(uid), q).await
                    },
                ),
            )
            .route(
                "/v1/audit/tail",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Tail>| async move {
                        of_tail.tail(&Reader::local(uid), &q).await
                    },
                ),
            )
            .route(
                frames::ROUTE,
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Tail>| async move {
                        of_decisions.decisions(&Reader::local(uid), &q).await
                    },
                ),
            )
            .route(
                "/v1/audit/record/{id}",
                get(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Path(id): Path<String>| async move {
                        of_record.record(Reader::local(uid), id).await
                    },
                ),
            )
            .route(
                "/v1/audit/verify",
                post(move |ConnectInfo(uid): ConnectInfo<PeerUid>| async move {
                    of_verify.verify(Reader::local(uid)).await
                }),
            )
            .route(
                "/v1/audit/status",
                get(move || async move { Json(of_status.status()) }),
            )
            .route(
                "/v1/audit/check",
                get(move || async move { Json(of_check.check()) }),
            )
    }

    /// Waits, for a moment, until what is in the log is in the index: the record of the
    /// question before, too.
    async fn settled(&self) {
        let durable = self.reads.durable();
        // A log that is slow or takes nothing is told by whoever records the next read.
        let _ = tokio::time::timeout(SETTLE, durable).await;
        self.store.caught_up(SETTLE).await;
    }

    async fn search(self, reader: Reader, asked: Search) -> Answer<serde_json::Value> {
        let query = reader.sees(&Query::parse(&asked.query).map_err(Problem::from)?);
        let cursor = match &asked.cursor {
            None => None,
            Some(text) => Some(Cursor::parse(text).ok_or_else(|| not_a_cursor(text))?),
        };
        let limit = asked.limit.unwrap_or(ROWS_DEFAULT);
        self.settled().await;
        let answer = {
            let store = self.store.clone();
            blocking(move || store.answer(&query, limit, cursor)).await?
        };
        let reads = &self.reads;
        reads
            .note(&reader, "search", &asked.query, given(&answer))
            .await?;
        serde_json::to_value(answer)
            .map(Json)
            .map_err(|e| Problem::from(broken(&e.to_string())))
    }

    /// Streams matching records as lines of JSON, from now on.
    async fn tail(self, reader: &Reader, asked: &Tail) -> Response {
        match self.follow(reader, &asked.query).await {
            Ok(lines) => Body::from_stream(lines).into_response(),
            Err(mistake) => Problem::from(mistake).into_response(),
        }
    }

    async fn follow(
        &self,
        reader: &Reader,
        query: &str,
    ) -> Result<impl Stream<Item = serde_json::Result<Bytes>> + use<>, Diagnostic> {
        let asked = reader.sees(&Query::parse(query)?);
        let mut begun = self.reads.begin(reader, "tail", query).await?;
        Ok(self.store.tail(&asked).map(move |event| {
            let line = match &event {
                TailEvent::Row(row) => {
                    begun.gave(1);
                    serde_json::to_vec(row)
                }
                TailEvent::Skipped(n) => serde_json::to_vec(&serde_json::json!({ "skipped": n })),
                TailEvent::Unreadable(at) => {
                    serde_json::to_vec(&serde_json::json!({ "unreadable": at }))
                }
            };
            line.map(|mut line| {
                line.push(b'\n');
                Bytes::from(line)
            })
        }))
    }

    /// Streams all decisions that a query asks for as they lie in the log, oldest first.
    async fn decisions(self, reader: &Reader, asked: &Tail) -> Response {
        let begun = async {
            let query = history::read(&asked.query)?;
            let window = query.window(self.clock.now_us(), &Limits::default())?;
            let decisions = Decisions::new(&self.log, &query, window);
            let decisions = decisions.map_err(|e| broken(&e.to_string()))?;
            let begins_us = decisions
                .log_begins_us()
                .map_err(|e| broken(&e.to_string()))?;
            let begun = self.reads.begin(reader, "decisions", &asked.query).await?;
            Ok::<_, Diagnostic>((decisions, window, begins_us, begun))
        };
        let (decisions, window, begins_us, begun) = match begun.await {
            Ok(begun) => begun,
            Err(mistake) => return Problem::from(mistake).into_response(),
        };
        let head = frames::Head {
            from_us: window.from_us,
            to_us: window.to_us,
            begins_us,
            first: decisions.position(),
            end: decisions.end(),
        };
        let (chunks, body) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(4);
        tokio::task::spawn_blocking(move || send_decisions(decisions, begun, &head, &chunks));
        Body::from_stream(ReceiverStream::new(body)).into_response()
    }

    async fn record(self, reader: Reader, id: String) -> Answer<Found> {
        let (store, log) = (self.store.clone(), self.log.clone());
        let (of, asked) = (id.clone(), format!("id:{id}"));
        self.settled().await;
        let found = blocking(move || store.by_id(&of)).await;
        if found.is_err() {
            // Who looks for what is not there has asked, too.
            self.reads.note(&reader, "show", &asked, 0).await?;
        }
        let entries = found?;
        let checkpointed = log.checkpoint().size;
        let rows = entries
            .into_iter()
            .map(|entry| (entry.index < checkpointed, Item::new(entry)))
            .filter(|(_, item)| reader.rows().matches(item))
            .map(|(under, item)| (under, Row::new(&item)))
            .collect::<Vec<_>>();
        self.reads.note(&reader, "show", &asked, rows.len()).await?;
        Ok(Json(Found {
            checkpointed: rows.iter().all(|(under, _)| *under),
            rows: rows
                .into_iter()
                .map(|(_, row)| serde_json::to_value(row).unwrap_or_default())
                .collect(),
        }))
    }

    async fn verify(self, reader: Reader) -> Answer<serde_json::Value> {
        self.reads.note(&reader, "verify", "", 0).await?;
        let dir = self.dir.join("log");
        let report =
            tokio::task::spawn_blocking(move || verify::verify(&dir, VerifyOptions::default()))
                .await
                .map_err(|e| Problem::from(broken(&e.to_string())))?;
        serde_json::to_value(report)
            .map(Json)
            .map_err(|e| Problem::from(broken(&e.to_string())))
    }

    fn status(&self) -> AuditStatus {
        let checkpoint = self.log.checkpoint();
        let index = self.store.status();
        AuditStatus {
            folder: self.dir.display().to_string(),
            records: self.log.len(),
            checkpointed: checkpoint.size,
            root: base64::engine::general_purpose::STANDARD.encode(checkpoint.root),
            checkpoint_us: checkpoint.time.as_microsecond(),
            indexed: index.searchable,
            gaps: self.log.gaps().len(),
            cosigned: self.witnesses.cosigned().map(|checkpoint| checkpoint.size),
            witnesses: self.witnesses.status(),
            witnessing: self.witnessing.get().map(Witnessing::status),
        }
    }

    fn check(&self) -> Vec<Fact> {
        let status = self.status();
        let when = ago(&self.clock, status.checkpoint_us);
        let waiting = status.records - status.checkpointed.min(status.records);
        let late = u128::try_from(self.clock.now_us() - status.checkpoint_us).unwrap_or_default()
            > CHECKPOINT_LATE.as_micros();
        let mut facts = vec![if waiting > 0 && late {
            Fact::not_ok(
                "audit",
                FactState::Error,
                7202,
                format!("{waiting} records are under no checkpoint"),
            )
            .cause(format!("the last one was signed {when}"))
            .fix("see the log of the audit service; the disk may be full")
        } else {
            let records = crate::render::thousands(status.checkpointed);
            Fact::ok(
                "audit",
                format!("{records} records under a checkpoint signed {when}"),
            )
        }];
        if let Some(gap) = self.log.gaps().first() {
            let missing = format!(
                "{} to {} of {} have not arrived",
                gap.missing.from, gap.missing.to, gap.stream
            );
            facts.push(
                Fact::not_ok(
                    "audit",
                    FactState::Warning,
                    7523,
                    format!(
                        "{} in the records",
                        crate::render::count(status.gaps, "gap", "gaps")
                    ),
                )
                .cause(missing)
                .fix("see the reporter's spool: its records may still be on the way"),
            );
        }
        facts.extend(self.reporters());
        facts.extend(self.witnesses.check());
        facts.extend(
            self.witnessing
                .get()
                .map(Witnessing::check)
                .unwrap_or_default(),
        );
        let health = self.log.health();
        let room = health.room;
        facts.extend(keeping::facts("audit", "the log", &health.into()));
        let behind = status.records.saturating_sub(status.indexed);
        facts.push(match self.store.status().stalled {
            None => Fact::ok(
                "audit",
                match behind {
                    0 => "index is up to date".into(),
                    n => format!(
                        "index is {} behind",
                        crate::render::count(n, "record", "records")
                    ),
                },
            ),
            Some(why) if room != Room::Enough => Fact::not_ok(
                "audit",
                FactState::Warning,
                7608,
                "the index waits, so that the log has what room there is",
            )
            .cause(why)
            .fix("make room on the disk; the index then catches up"),
            Some(why) => Fact::not_ok("audit", FactState::Error, 7203, "the index does not get on")
                .cause(why),
        });
        facts.extend(self.gate.get().map(|g| g.check()).unwrap_or_default());
        facts
    }
}

impl AuditRole {
    /// What is to be told of those who report: silence, and words that do not agree.
    fn reporters(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        let silent = self.watch.silent();
        if let Some(first) = silent.first() {
            let n = crate::render::count(silent.len(), "reporter has", "reporters have");
            let text = format!("{n} stopped sending records");
            let since = ago(&self.clock, first.heard_us);
            let who = format!(
                "{} (boot {}) was last heard {since}",
                first.reporter, first.boot
            );
            facts.push(
                Fact::not_ok("audit", FactState::Error, 7526, text)
                    .cause(who)
                    .fix("see that it runs and reaches the audit service; what it has kept arrives then. All of them: palisade audit gaps"),
            );
        }
        let (faults, more) = self.watch.faults();
        if let Some(first) = faults.first() {
            let n = more.saturating_add(u64::try_from(faults.len()).unwrap_or(u64::MAX));
            let n = crate::render::count(n, "stretch of records is", "stretches of records are");
            let text = format!("{n} not what their reporter signed");
            facts.push(
                Fact::not_ok("audit", FactState::Error, 7527, text)
                    .cause(first.clone())
                    .fix("they were changed between the reporter and the log: keep both, and find the place with `palisade audit verify`"),
            );
        }
        facts
    }
}

/// Keeps the watch at the end of the log.
async fn follow(watch: Arc<Watch>, log: Log) {
    let mut grown = log.subscribe();
    loop {
        let reading = watch.clone();
        match tokio::task::spawn_blocking(move || reading.catch_up()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the watch over reporters cannot read the log")
            }
            Err(_) => return,
        }
        tokio::time::sleep(WATCH_EVERY).await;
        if grown.changed().await.is_err() {
            return;
        }
    }
}

/// What `audit search` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Search {
    /// The query.
    pub query: String,
    /// Most rows.
    pub limit: Option<usize>,
    /// Where an earlier page ended.
    pub cursor: Option<String>,
}

/// What `audit tail` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tail {
    /// The query.
    pub query: String,
}

/// Everything recorded under one id.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// Whether all of it is under a signed checkpoint.
    pub checkpointed: bool,
    /// The records, in log order.
    pub rows: Vec<serde_json::Value>,
}

/// Bytes of decisions that are handed on at once.
const CHUNK_LEN: usize = 256 << 10;

/// Sends frames until all are sent or nobody reads them any more.
fn send_decisions(
    mut decisions: Decisions,
    mut begun: Begun,
    head: &frames::Head,
    chunks: &tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>,
) {
    let mut chunk = Vec::with_capacity(CHUNK_LEN + LEAF_LEN_MAX);
    match serde_json::to_vec(head) {
        Ok(head) => frames::write(&mut chunk, &[&head]),
        Err(error) => return tracing::error!(%error, "decisions cannot be sent"),
    }
    let sent = decisions.visit(|index, leaf| {
        begun.gave(1);
        frames::write(&mut chunk, &[&index.to_le_bytes(), leaf]);
        if chunk.len() < CHUNK_LEN {
            return ControlFlow::Continue(());
        }
        let full = Bytes::from(std::mem::replace(
            &mut chunk,
            Vec::with_capacity(CHUNK_LEN + LEAF_LEN_MAX),
        ));
        match chunks.blocking_send(Ok(full)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    match sent {
        Ok(None) => frames::write(&mut chunk, &[]),
        Ok(Some(())) => return,
        Err(error) => tracing::error!(%error, "decision log cannot be read on"),
    }
    let _ = chunks.blocking_send(Ok(chunk.into()));
}

/// Rows, groups or steps of an answer.
fn given(answer: &index::Answer) -> usize {
    match answer {
        index::Answer::Rows(found) => found.rows.len(),
        index::Answer::Counted(counted) => counted.groups.len(),
        index::Answer::ByTime(counted) => counted.steps.len(),
    }
}

/// Runs what blocks on the disk beside the runtime's own threads.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(StoreError::Query(mistake))) => Err((*mistake).into()),
        Ok(Err(error)) => Err(broken(&error.to_string()).into()),
        Err(error) => Err(broken(&error.to_string()).into()),
    }
}

fn not_a_cursor(text: &str) -> Diagnostic {
    Diagnostic::error(7207, format!("`{text}` is not where a page ended"))
        .help("take the cursor from the end of the page before")
}

fn broken(cause: &str) -> Diagnostic {
    Diagnostic::error(7204, "the decision log could not answer")
        .cause(cause.to_owned())
        .help("see the log of the audit service")
}

fn refused(error: &LogError) -> Diagnostic {
    match error {
        LogError::Tampered(_) => Diagnostic::error(7205, "the decision log was tampered with")
            .cause(error.to_string())
            .help("keep the folder as evidence; find the extent: palisade audit verify --dir DIR"),
        _ => unusable(&error.to_string()),
    }
}

/// The index of a log, kept in `dir`.
///
/// # Errors
/// When `dir` cannot be used.
pub(crate) fn store_of(
    log: &Log,
    dir: &std::path::Path,
    clock: &Clock,
    bucket: BucketSpan,
) -> Result<Store, StoreError> {
    let source = Arc::new(LogSource(log.clone()));
    let of_gaps = log.clone();
    let options = Options {
        bucket,
        ..Options::default()
    };
    let store = Store::open(source, dir, clock.clone(), options)?;
    Ok(store.with_gaps(Arc::new(move |window| gaps_of(&of_gaps, window))))
}

/// The gaps whose records can be of this window: numbered after the boot of their
/// reporter, missed before they were noticed.
fn gaps_of(log: &Log, window: Window) -> Vec<Gap> {
    let boot_us = |gap: &OpenGap| {
        i64::try_from(gap.stream.boot.timestamp_ms())
            .unwrap_or(i64::MAX)
            .saturating_mul(1000)
    };
    let gaps = log.gaps();
    let overlapping = gaps
        .iter()
        .filter(|g| boot_us(g) < window.to_us && window.from_us <= g.noticed_us);
    overlapping
        .map(|gap| Gap {
            reporter: gap.stream.reporter.to_string(),
            first: gap.missing.from,
            last: gap.missing.to,
            noticed_us: gap.noticed_us,
        })
        .collect()
}

/// The log as the index reads it.
struct LogSource(Log);

impl Source for LogSource {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, index: u64) -> Result<Entry, SourceError> {
        self.0.read(index).map(entry).map_err(|e| failed(index, e))
    }

    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_> {
        let numbered = (from..).zip(self.0.scan(from));
        Box::new(numbered.map(|(index, read)| read.map(entry).map_err(|e| failed(index, e))))
    }

    fn pressed(&self) -> Option<String> {
        let room = self.0.health().room;
        (room != Room::Enough).then(|| "the disk of the log is nearly full".to_owned())
    }

    fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.subscribe()
    }
}

fn entry(entry: palisade_audit::log::Entry) -> Entry {
    Entry {
        index: entry.index,
        envelope: entry.envelope,
        record: entry.record,
    }
}

fn failed(index: u64, error: LogError) -> SourceError {
    SourceError {
        index,
        cause: Box::new(error),
    }
}
