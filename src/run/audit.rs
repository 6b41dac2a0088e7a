//! The `audit` role: takes records in, keeps the log, answers questions about it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path},
    routing::{get, post},
};
use palisade_audit::{
    going::Going,
    holds::Holds,
    index::{BucketSpan, Store, StoreError},
    ingest::{Ingest, Keep},
    local::LocalSink,
    log::{Log, LogError, LogOptions},
    policies::Policies,
    privacy::Vault,
    watch::Watch,
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, sink::RecordSink, svid::Identity};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    Role,
    links::{self, LinkGate},
    unbound, unusable,
};
use crate::{
    config::{AuditSection, Config, log_key::LogKeySection},
    control::{api::Problem, server::PeerUid},
    history::frames,
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
mod search;
mod source;
mod state;
mod subjects;
mod sums;
mod tail;
mod tiles;
mod unnamed;
mod verification;
mod verifying;
mod witness;
mod witnesses;

use alerts::Alerts;
use archive::Archiving;
use attended::{Asker, attended};
use forward::Forward;
use kept::KeptPolicies;
use needs::needs_of;
use reads::{Reader, Reads};
use retention::Retention;
use saved::Saved;
use schedules::Schedules;
use state::Lost;
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
pub use search::{ExportPage, Found, Reasoned, Search};
pub(crate) use source::store_of;
pub use subjects::{Erase, Erased, Reveal, RevealedValue, Revelation, Told};
pub use sums::{Facets, Gaps, Timeline};
pub use tail::Tail;
pub(crate) use unnamed::nameless;
pub use verifying::VerifyLog;
pub(crate) use verifying::document as verified;

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
/// How long a question waits for the index to have read what the log has: what was recorded
/// a moment ago, the question before among it, is part of the answer.
const SETTLE: Duration = Duration::from_millis(250);
/// The same of an export: a file is kept, and says for good whether it is complete.
const SETTLE_FOR_FILES: Duration = Duration::from_secs(10);

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
        self.settled_within(SETTLE).await;
    }

    async fn settled_within(&self, limit: Duration) {
        let durable = self.reads.durable();
        // A log that is slow or takes nothing is told by whoever records the next read.
        let _ = tokio::time::timeout(limit, durable).await;
        self.store.caught_up(limit).await;
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
