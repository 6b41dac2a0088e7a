//! The `audit` role: takes records in, keeps the log, answers questions about it.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, Path},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use palisade_audit::{
    decisions::Decisions,
    envelope::LEAF_LEN_MAX,
    going::Going,
    holds::Holds,
    index::{self, BucketSpan, Cursor, Store, StoreError, TailEvent},
    ingest::{Ingest, Keep},
    item::Item,
    local::LocalSink,
    log::{Log, LogError, LogOptions},
    policies::Policies,
    privacy::Vault,
    query::Limits,
    row::Row,
    watch::Watch,
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, sink::RecordSink, svid::Identity};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    Role,
    links::{self, LinkGate},
    unbound, unusable,
};
use crate::{
    config::{AuditSection, Config, log_key::LogKeySection},
    control::{
        api::{Answer, Problem},
        server::PeerUid,
    },
    history::{self, frames},
    net::{
        kill::{self, Held, Holder},
        tls,
    },
};

mod alerts;
mod api;
mod archive;
mod attended;
mod deliver;
mod facts;
mod forward;
mod holds;
mod kept;
mod metrics;
mod needs;
mod proof;
mod reads;
mod recall;
mod refused;
pub(crate) mod reports;
mod retention;
mod roots;
mod saved;
mod schedules;
mod source;
mod subjects;
mod sums;
mod tiles;
mod unnamed;
mod verification;
mod verifying;
mod witness;
mod witnesses;

use alerts::Alerts;
use archive::Archiving;
use attended::{Asker, attended};
use deliver::Lost;
use forward::Forward;
use kept::KeptPolicies;
use needs::needs_of;
use reads::{Begun, Reader, Reads};
use retention::Retention;
use saved::Saved;
use schedules::Schedules;
use verification::Verifying;
use witness::Witnessing;
use witnesses::Witnesses;

pub use alerts::{Acknowledge, Delivered, Listed, RuleStatus, Test, Tested, Waiting};
pub(crate) use api::Access;
pub use api::document;
pub(crate) use archive::archive_of;
pub use archive::{ArchiveLine, ArchiveStatus, Deleted, Restore, RunArchive};
pub(crate) use attended::WorkLine;
pub use holds::{AddHold, HoldList, ReleaseHold};
pub(crate) use kept::{AskRevision, KEPT_ROUTE, Unlike, whole};
pub use proof::{Proven, Wanted};
pub use recall::Recall;
pub use reports::{PackReport, RunReport, SignReview, Signed};
pub use retention::{DroppedSoFar, Kept, RetentionLine, RetentionStatus, RunRetention};
pub(crate) use saved::{is_name, narrowed};
pub use schedules::{Last, RunSchedule, Scheduled};
pub(crate) use source::store_of;
pub use subjects::{Erase, Erased, Reveal, RevealedValue, Revelation, Told};
pub use sums::{Facets, Gaps, Timeline};
pub(crate) use unnamed::nameless;
pub use verifying::VerifyLog;
pub(crate) use verifying::{document as verified, replayed};

/// Calls that a connection of a reporter has open at once: one stream of batches, and of a
/// PDP what it asks about revisions.
const STREAMS_PER_CONNECTION: u32 = 8;
/// Bytes that a reporter may send before they are read, on a stream and a connection: what the
/// way to a distant audit service holds (at 20 ms, 50 MB/s).
const WINDOW_LEN: u32 = 1 << 20;
/// Time between two looks whether a reporter that says nothing is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// File of the legal holds, in the audit service's folder.
const HOLDS: &str = "holds.json";
/// Rows of a search that does not say how many.
const ROWS_DEFAULT: usize = 50;
/// How long a question waits for the index to have read what the log has: what was recorded
/// a moment ago, the question before among it, is part of the answer.
const SETTLE: Duration = Duration::from_millis(250);

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
    vault: Arc<Vault>,
    kept: Arc<KeptPolicies>,
    /// Held by whoever makes decisions again.
    replays: Arc<tokio::sync::Semaphore>,
    /// Held by whoever reads all that is in the archive.
    afresh: Arc<tokio::sync::Semaphore>,
    holds: Arc<Holds>,
    /// Held by whoever changes holds or erases.
    orders: Arc<tokio::sync::Mutex<()>>,
    gate: Arc<std::sync::OnceLock<Arc<LinkGate>>>,
    witnesses: Witnesses,
    watch: Arc<Watch>,
    alerts: Alerts,
    schedules: Schedules,
    /// One report is made at a time, for schedules, for readers of the API and on this host.
    reporting: Arc<tokio::sync::Semaphore>,
    saved: Saved,
    sizes: Arc<metrics::Sizes>,
    verifying: Verifying,
    retention: Retention,
    archiving: Archiving,
    forward: Option<Forward>,
    /// What could not be read when it started, and what was given up with it.
    lost: Arc<[Lost]>,
    /// What reports ask where they are about policies: a repository, else this mesh.
    policies: Option<PathBuf>,
    mesh: Arc<str>,
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
        let of_keys = |written: &Option<PathBuf>, name: &str| {
            written.clone().unwrap_or_else(|| dir.join(name))
        };
        let (subjects, kek) = (
            of_keys(&section.subjects, "subjects"),
            of_keys(&section.kek, "kek"),
        );
        let (log, holds) = (dir.join("log"), dir.join(HOLDS));
        let archive = section.archive.as_ref();
        let archive = archive.map(|of| archive_of(of, &log)).transpose();
        let archive = archive.map_err(|told| vec![told])?;
        let needs = match Vault::is_in(&subjects) && holds.exists() {
            true => palisade_audit::log::Needs::default(),
            false => {
                let needs = needs_of(&log, &config.trust_domain, clock, archive.clone());
                needs.map_err(|e| vec![refused(&e)])?
            }
        };
        let vault = subjects::vault_of(&subjects, &kek, !needs.keys).map_err(|told| vec![told])?;
        let vault = Arc::new(vault);
        let holds = Holds::open(&holds, !needs.holds).map_err(|e| {
            vec![
                Diagnostic::error(7568, "the holds cannot be read")
                    .cause(e.to_string())
                    .help("put `holds.json` back; without it nobody knows what must stay"),
            ]
        })?;
        let options = LogOptions {
            rules: config.privacy(),
            vault: Some(vault.clone()),
            device: section.log_key.as_ref().map(LogKeySection::device),
            archive,
            ..LogOptions::new(config.trust_domain.clone())
        };
        let log = Log::open(&log, options, clock.clone()).map_err(|e| vec![refused(&e)])?;
        let watch = Arc::new(Watch::new(log.clone(), clock.clone()));
        let heard = Some(watch.clone());
        let store = store_of(&log, &dir.join("index"), clock, BucketSpan::Day, heard)
            .map_err(|e| vec![unusable(&e.to_string())])?;
        let reporter = config.trust_domain.role(Role::Audit.as_str());
        let sink = LocalSink::new(log.clone(), reporter.clone(), clock.clone());
        let pdp = config.trust_domain.role(Role::Pdp.as_str());
        let kept = KeptPolicies::new(Policies::beside(&dir.join("log")), log.clone(), pdp);
        let reads = Reads::new(sink, reporter, config.demo, clock.clone());
        let mut lost = Vec::new();
        let parts = (&log, &watch, &reads);
        let alerts = Alerts::open(config, section, &dir, parts, clock, &mut lost)?;
        let actor = config.trust_domain.role(Role::Audit.as_str()).to_string();
        let outbox = alerts.outbox();
        let schedules = Schedules::open(section, &dir, outbox, actor, clock, &mut lost)?;
        let saved = Saved::open(dir.join("saved.json"), &mut lost);
        let host = config.trust_domain.as_str();
        let forward = section
            .syslog
            .as_ref()
            .map(|s| Forward::open(s, host, &dir, &log, clock, &mut lost));
        let retention = Retention::open(section, &dir, &log)?;
        let archiving = Archiving::open(section.archive.as_ref(), &dir, retention.turn());
        Ok(Self {
            alerts,
            schedules,
            reporting: Arc::new(tokio::sync::Semaphore::new(1)),
            saved,
            sizes: Arc::default(),
            verifying: Verifying::default(),
            retention,
            archiving: archiving.map_err(|told| vec![told])?,
            forward: forward.transpose()?,
            lost: lost.into(),
            policies: section.policies.clone(),
            mesh: config.mesh_name().into(),
            witnesses: Witnesses::new(section.witnesses.as_ref(), &log, clock)?,
            watch,
            witnessing: Arc::default(),
            reads,
            log,
            store: Arc::new(store),
            vault,
            kept: Arc::new(kept),
            replays: Arc::new(tokio::sync::Semaphore::new(1)),
            afresh: Arc::new(tokio::sync::Semaphore::new(1)),
            holds: Arc::new(holds),
            orders: Arc::default(),
            address: None,
            dir,
            clock: clock.clone(),
            gate: Arc::default(),
        })
    }

    /// The same service for somebody who waits: its answers are given up when nobody waits for
    /// `going` any more.
    fn heeding(&self, going: &Going) -> Self {
        Self {
            store: Arc::new(self.store.heeding(going)),
            ..self.clone()
        }
    }

    /// Takes records from peers of the trust domain, but for those on the kill list that
    /// comes from `lists`; gives the list as it is heard.
    pub(super) async fn listen(
        &mut self,
        config: &Config,
        section: &AuditSection,
        identity: &Identity,
        services: Arc<std::sync::OnceLock<Box<links::Services>>>,
        lists: kill::Source,
        stop: &CancellationToken,
    ) -> Result<watch::Receiver<Held>, Vec<Diagnostic>> {
        let listener = TcpListener::bind(section.listen)
            .await
            .map_err(|e| vec![unbound("audit.listen", &e)])?;
        self.address = listener.local_addr().ok();
        let finishing = self.clone().finish_erasures();
        tokio::spawn(stop.clone().run_until_cancelled_owned(finishing));
        let reporter = config.trust_domain.role(Role::Audit.as_str());
        let sink = LocalSink::new(self.log.clone(), reporter.clone(), self.clock.clone());
        let records = sink.open(witnesses::OWN_WORKER);
        self.watch.trust(Arc::new(roots::Bundled {
            identity: identity.clone(),
        }));
        let followed = facts::follow(self.watch.clone(), self.log.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(followed));
        self.witnesses.start(reporter.clone(), records, stop);
        self.alerts.start(stop);
        self.schedules.start(self, stop);
        self.retention.start(self, stop);
        self.archiving.start(self, stop);
        if !self.lost.is_empty() {
            tokio::spawn(self.clone().record_lost(reporter.to_string()));
        }
        if let Some(forward) = &self.forward {
            let starting = forward.clone().start(self.reads.clone(), stop.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(starting));
        }
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
        let held = self.hear(config, identity, lists, stop);
        let bars = links::Bars {
            gate: gate.clone(),
            kill: held.clone(),
        };
        let service = Ingest::new(self.log.clone(), self.clock.clone())
            .guarded(gate.clone())
            .barring(Arc::new(bars))
            .doubted(Arc::new(doubts))
            .keeping(self.kept())
            .service();
        let _ = self.gate.set(gate);
        let served = tonic::transport::Server::builder()
            .max_concurrent_streams(Some(STREAMS_PER_CONNECTION))
            .initial_stream_window_size(Some(WINDOW_LEN))
            .initial_connection_window_size(Some(WINDOW_LEN))
            .http2_keepalive_interval(Some(KEEPALIVE))
            .add_service(service)
            .serve_with_incoming_shutdown(
                tls::incoming(listener, identity),
                stop.clone().cancelled_owned(),
            );
        tokio::spawn(served);
        Ok(held)
    }

    /// Follows the kill list, and keeps it over a restart.
    fn hear(
        &self,
        config: &Config,
        identity: &Identity,
        lists: kill::Source,
        stop: &CancellationToken,
    ) -> watch::Receiver<Held> {
        let bundle = {
            let identity = identity.clone();
            move || identity.bundle()
        };
        let file = self.dir.join("kill-list");
        let kill = Holder::new(&config.trust_domain, bundle, self.clock.clone(), Some(file));
        let held = kill.held();
        tokio::spawn(stop.clone().run_until_cancelled_owned(kill.keep_up(lists)));
        held
    }

    /// Who keeps the policy revisions of this mesh.
    pub(super) fn kept(&self) -> Arc<dyn Keep> {
        self.kept.clone()
    }

    /// Records what was lost before this start.
    async fn record_lost(self, actor: String) {
        for Lost {
            verb,
            object,
            detail,
        } in &*self.lost
        {
            if let Err(error) = self.reads.acted(&actor, verb, object, detail).await {
                return tracing::error!(%error, "what was lost left no record");
            }
        }
        self.alerts.outbox().keep();
    }

    /// Answers others than this host's user, where the configuration says so, but for
    /// those on the kill list.
    pub(super) async fn answer(
        &self,
        config: &Config,
        section: &AuditSection,
        identity: &Identity,
        kill: watch::Receiver<Held>,
        stop: &CancellationToken,
    ) -> Result<(), Vec<Diagnostic>> {
        let Some(api) = &section.api else {
            return Ok(());
        };
        api::start(config, api, self.clone(), identity, kill, stop).await?;
        Ok(())
    }

    /// Writes out what is left.
    pub(super) fn close(self) {
        if let Some(forward) = &self.forward {
            forward.close();
        }
        self.reads.close();
        self.log.close();
    }

    /// What the role answers on the local socket.
    pub(super) fn routes(&self) -> Router {
        let (of_search, of_tail, of_record) = (self.clone(), self.clone(), self.clone());
        let (of_status, of_check) = (self.clone(), self.clone());
        let (of_decisions, of_export) = (self.clone(), self.clone());
        self.sums()
            .merge(self.proofs())
            .merge(self.verifying())
            .merge(self.kept_routes())
            .merge(self.reports())
            .merge(self.subjects())
            .merge(self.hold_routes())
            .merge(self.retention_routes())
            .merge(self.metric_routes())
            .merge(self.archive_routes())
            .route(
                "/v1/audit/export/page",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<ExportPage>| async move {
                        let reader = Reader::local(uid).exporting(&q.to);
                        let page = |role: Self| role.page(reader, q.asked, "export");
                        attended(&of_export, (), page).await?
                    },
                ),
            )
            .merge(self.alerts.routes())
            .merge(self.schedules.routes(self))
            .route(
                "/v1/audit/search",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Reasoned>| async move {
                        attended(&of_search, (), |role| role.reasoned(Reader::local(uid), q)).await?
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
                        attended(&of_record, (), |role| role.record(Reader::local(uid), id)).await?
                    },
                ),
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

    async fn reasoned(self, reader: Reader, asked: Reasoned) -> Answer<serde_json::Value> {
        let reader = match &asked.reason {
            Some(text) => reader.because(unnamed::reason(text)?),
            None => reader,
        };
        self.search(reader, asked.asked).await
    }

    async fn search(self, reader: Reader, asked: Search) -> Answer<serde_json::Value> {
        self.page(reader, asked, "search").await
    }

    async fn page(
        self,
        reader: Reader,
        asked: Search,
        verb: &'static str,
    ) -> Answer<serde_json::Value> {
        self.unnamed(&reader, &asked.query)?;
        let query = reader.sees(&self.asked(&asked.query).map_err(Problem::from)?);
        let cursor = match &asked.cursor {
            None => None,
            Some(text) => Some(Cursor::parse(text).ok_or_else(|| not_a_cursor(text))?),
        };
        let told = match (&cursor, verb) {
            // Its time is that of the first page, whatever the text says.
            (Some(cursor), _) => query.told_within(cursor.window()),
            // An erasure looks later for what was given.
            (None, "export") => {
                query.told_within(query.window(self.clock.now_us(), &Limits::default())?)
            }
            (None, _) => query.text().to_owned(),
        };
        let limit = asked.limit.unwrap_or(ROWS_DEFAULT);
        self.settled().await;
        let store = self.store.clone();
        let ask = move || store.answer(&query, limit, cursor);
        let answer = self.answered((&reader, verb, &told), ask).await?;
        self.reads
            .note(&reader, verb, &told, given(&answer))
            .await?;
        serde_json::to_value(answer)
            .map(Json)
            .map_err(|e| Problem::from(broken(&e.to_string())))
    }

    /// What is found for a question of a reader. Whoever gave up waiting for it has asked, too.
    async fn answered<T: Send + 'static>(
        &self,
        (reader, verb, told): (&Reader, &'static str, &str),
        ask: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let answer = blocking(ask).await;
        if answer.is_err() && self.store.going().has_ended() {
            self.reads.note(reader, verb, told, 0).await?;
        }
        answer
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
        let asked = reader.sees(&self.asked(query)?);
        let mut begun = self.reads.begin(reader, "tail", asked.text()).await?;
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
        let asker = Asker::default();
        let begun = async {
            let query = history::read(&asked.query)?;
            let query = query.naming(&|name| self.vault.pseudonym(name));
            let window = query.window(self.clock.now_us(), &Limits::default())?;
            let decisions = Decisions::new(&self.log, &query, window);
            let decisions = decisions.map_err(|e| broken(&e.to_string()))?;
            let decisions = decisions.heeding(asker.going());
            let begins_us = decisions
                .log_begins_us()
                .map_err(|e| broken(&e.to_string()))?;
            let begun = self.reads.begin(reader, "decisions", query.text()).await?;
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
        Body::from_stream(asker.while_read(ReceiverStream::new(body))).into_response()
    }

    async fn record(self, reader: Reader, id: String) -> Answer<Found> {
        let (store, log) = (self.store.clone(), self.log.clone());
        let (of, asked) = (id.clone(), subjects::by_id(&id));
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

/// What `audit search --reason` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reasoned {
    /// The search.
    #[serde(flatten)]
    pub asked: Search,
    /// Why, for the record of the read.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What `audit export` asks for each page.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExportPage {
    /// The page.
    #[serde(flatten)]
    pub asked: Search,
    /// Name of the file that it goes to.
    pub to: String,
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
        // Nobody reads them any more.
        Err(LogError::Ended(_)) => return,
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
        Ok(Err(StoreError::Ended(ended))) => Err(ended.diagnostic().into()),
        Ok(Err(StoreError::Source(error))) if error.away().is_some() => {
            let away = error.away().map(|away| away.diagnostic());
            Err(away.unwrap_or_else(|| broken(&error.to_string())).into())
        }
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
        LogError::Away(away) => away.diagnostic(),
        LogError::Key(_) => Diagnostic::error(7211, "the key of the decision log cannot be used")
            .cause(error.to_string())
            .help("a log has one key for good: put its file back, or see that `audit.log_key` names the device that has it"),
        _ => unusable(&error.to_string()),
    }
}
