//! What readers of the log leave in it: who asked what, how much was given, whether they
//! were let. A read that cannot be recorded is not answered.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use palisade_audit::{
    local::LocalSink,
    query::{QUERY_LEN_MAX, Query, RowFilter},
};
use palisade_mesh::{
    clock::Clock,
    decision::DecisionIds,
    diagnostic::Diagnostic,
    sink::{RecordSink, RecordStream},
    spiffe_id::SpiffeId,
    wire::record::{Admin, AuditMode, AuditRead, Record, Verdict, record::Body},
};

use tokio::time::Instant;

use super::refused::{More, Refused, SPAN, Taken};
use crate::{control::server::PeerUid, render::count};

/// How long the log may take to have a read for good.
const KEEP_TIME_MAX: Duration = Duration::from_secs(5);
/// Worker number of these records.
const WORKER: u32 = 0x5245_4144;

/// Who reads, and what it may see.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    actor: String,
    rows: RowFilter,
    policies: Vec<String>,
    request: String,
    /// Why, as it says.
    reason: String,
    /// Where what it reads goes, as far as it says.
    to: String,
}

impl Reader {
    /// A user of this host that the local socket let in: this service's own, or root.
    pub(super) fn local(uid: PeerUid) -> Self {
        Self {
            actor: uid.to_string(),
            rows: RowFilter::everything(),
            policies: Vec::new(),
            request: String::new(),
            reason: String::new(),
            to: String::new(),
        }
    }

    /// Whoever the policies `policies` let see `rows`, in the request `request`.
    pub(super) fn permitted(
        id: &SpiffeId,
        rows: RowFilter,
        policies: Vec<String>,
        request: &str,
    ) -> Self {
        Self {
            actor: id.to_string(),
            rows,
            policies,
            request: request.to_owned(),
            reason: String::new(),
            to: String::new(),
        }
    }

    /// The same reader, with what it says why it reads.
    pub(super) fn because(self, reason: String) -> Self {
        Self { reason, ..self }
    }

    /// The same reader, of what another policy lets it see, too.
    pub(super) fn also(mut self, other: Self) -> Self {
        self.rows = self.rows.and(&other.rows);
        self.policies.extend(other.policies);
        self
    }

    /// What it says, and is kept: why it reads, and into which file.
    pub(super) fn kept(&self) -> [&str; 2] {
        [&self.reason, &self.to]
    }

    /// Who it is.
    pub(super) fn actor(&self) -> &str {
        &self.actor
    }

    /// The same reader, with the name of the file that it makes of what it reads.
    pub(super) fn exporting(self, to: &str) -> Self {
        Self {
            to: head_of(to).to_owned(),
            ..self
        }
    }

    /// `query` as this reader may have it answered.
    pub(super) fn sees(&self, query: &Query) -> Query {
        query.restricted_to(&self.rows)
    }

    /// What it may see.
    pub(super) fn rows(&self) -> &RowFilter {
        &self.rows
    }

    fn record(&self, verb: &'static str, query: &str) -> AuditRead {
        AuditRead {
            actor: self.actor.clone(),
            query: head_of(query).to_owned(),
            verb: verb.to_owned(),
            verdict: Verdict::Allow.into(),
            policies: self.policies.clone(),
            kept_to: self.rows.text().map_or_else(String::new, |t| t.to_string()),
            request: self.request.clone(),
            reason: self.reason.clone(),
            to: self.to.clone(),
            ..AuditRead::default()
        }
    }
}

/// Records reads. Clones are one.
#[derive(Clone)]
pub(super) struct Reads(Arc<Inner>);

struct Inner {
    reporter: SpiffeId,
    demo: bool,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    sink: LocalSink,
    /// Opened with the first read; closed before the log is.
    records: Option<Box<dyn RecordStream>>,
    closed: bool,
    ids: DecisionIds,
    refused: Refused,
}

impl Reads {
    /// Into the log behind `sink`, as `reporter`.
    pub(super) fn new(sink: LocalSink, reporter: SpiffeId, demo: bool, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            reporter,
            demo,
            clock,
            state: Mutex::new(State {
                sink,
                records: None,
                closed: false,
                ids: DecisionIds::new(),
                refused: Refused::default(),
            }),
        }))
    }

    /// Records that `reader` was given so many rows.
    ///
    /// # Errors
    /// `PLS7901`; then they must not be given.
    pub(super) async fn note(
        &self,
        reader: &Reader,
        verb: &'static str,
        query: &str,
        rows: usize,
    ) -> Result<(), Diagnostic> {
        let read = AuditRead {
            rows: wide(rows),
            ..reader.record(verb, query)
        };
        self.keep(Body::AuditRead(read)).await
    }

    /// Records what else the service was ordered to do.
    ///
    /// # Errors
    /// `PLS7901`; then it must not be done.
    pub(super) async fn keep(&self, body: Body) -> Result<(), Diagnostic> {
        self.append(body)?;
        self.kept().await
    }

    /// Who these records are of.
    pub(super) fn reporter(&self) -> &SpiffeId {
        &self.0.reporter
    }

    /// Records that a stream of rows begins. Its end is recorded when the value is dropped.
    ///
    /// # Errors
    /// As [`Reads::note`].
    pub(super) async fn begin(
        &self,
        reader: &Reader,
        verb: &'static str,
        query: &str,
    ) -> Result<Begun, Diagnostic> {
        let record = reader.record(verb, query);
        let begun = AuditRead {
            begun: true,
            ..record.clone()
        };
        self.keep(Body::AuditRead(begun)).await?;
        Ok(Begun {
            reads: self.clone(),
            record,
        })
    }

    /// Records something that `actor` did to what is kept beside the log.
    ///
    /// # Errors
    /// As [`Reads::note`].
    pub(super) async fn acted(
        &self,
        actor: &str,
        verb: &str,
        object: &str,
        detail: &str,
    ) -> Result<(), Diagnostic> {
        self.append(Body::Admin(Admin {
            actor: actor.to_owned(),
            verb: verb.to_owned(),
            object: object.to_owned(),
            detail: detail.to_owned(),
        }))?;
        self.kept().await
    }

    /// Records that `actor` was not let, by these policies or for want of one: by itself, or later
    /// by the number of those that came in the same minute.
    pub(super) fn denied(
        &self,
        actor: &SpiffeId,
        verb: &'static str,
        query: &str,
        policies: &[String],
        request: &str,
    ) {
        let verdict = match policies {
            [] => Verdict::NotPermitted,
            _ => Verdict::Forbidden,
        };
        let now = Instant::now();
        let over = self.state().refused.over(now);
        self.tell_refused(over);
        let taken = self.state().refused.take(actor.as_str(), verdict, now);
        match taken {
            Taken::Alone => {}
            Taken::Counted => return,
            Taken::CountedFirst => return self.tell_refused_later(),
        }
        let record = AuditRead {
            actor: actor.to_string(),
            query: head_of(query).to_owned(),
            verb: verb.to_owned(),
            verdict: verdict.into(),
            policies: policies.to_vec(),
            request: request.to_owned(),
            ..AuditRead::default()
        };
        if let Err(error) = self.append(Body::AuditRead(record)) {
            tracing::error!(src.id = %actor, %error, "denied read left no record");
        }
    }

    /// Records, when the minute at hand is over, how many reads were refused beyond those that are
    /// recorded.
    fn tell_refused_later(&self) {
        let open = self.while_open();
        tokio::spawn(async move {
            tokio::time::sleep(SPAN).await;
            if let Some(reads) = open() {
                let over = reads.state().refused.over(Instant::now());
                reads.tell_refused(over);
            }
        });
    }

    fn tell_refused(&self, counted: Vec<More>) {
        for more in counted {
            let More {
                actor,
                reads,
                verdict,
            } = more.clone();
            let record = AuditRead {
                verb: "refused".to_owned(),
                query: format!("{} more than are recorded", count(reads, "read", "reads")),
                verdict: verdict.into(),
                more: reads,
                actor,
                ..AuditRead::default()
            };
            if let Err(error) = self.append(Body::AuditRead(record)) {
                tracing::error!(src.id = more.actor, reads, %error, "denied reads left no record");
                if self.state().refused.put_back(more, Instant::now()) {
                    self.tell_refused_later();
                }
            }
        }
    }

    /// Waits until every read so far is in the log for good.
    ///
    /// # Errors
    /// `PLS7901` when it is not within five seconds, or cannot be.
    pub(super) async fn kept(&self) -> Result<(), Diagnostic> {
        let durable = self.state().records.as_mut().map(|r| r.durable());
        let durable = durable.ok_or_else(|| unrecorded("the service ends"))?;
        match tokio::time::timeout(KEEP_TIME_MAX, durable).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(unrecorded(&error.to_string())),
            Err(_) => Err(unrecorded("the log has not taken it in time")),
        }
    }

    /// These, as long as something else keeps them: they keep the log open.
    pub(super) fn while_open(&self) -> impl Fn() -> Option<Self> + Send + use<> {
        let inner = Arc::downgrade(&self.0);
        move || inner.upgrade().map(Self)
    }

    /// Resolves when every read so far is in the log for good, or cannot be.
    pub(super) fn durable(&self) -> impl Future<Output = ()> + Send + use<> {
        let durable = self
            .state()
            .records
            .as_mut()
            .map(|records| records.durable());
        async {
            if let Some(durable) = durable {
                let _ = durable.await;
            }
        }
    }

    /// Ends its stream of records; whoever reads after this is refused.
    pub(super) fn close(&self) {
        let counted = self.state().refused.end();
        self.tell_refused(counted);
        let mut state = self.state();
        state.closed = true;
        state.records = None;
    }

    /// Records what this service itself found or was told: under the record's own id and
    /// time, where it has them.
    ///
    /// # Errors
    /// As [`Reads::note`].
    pub(super) async fn stated(&self, record: Record) -> Result<(), Diagnostic> {
        self.tell(record)?;
        self.kept().await
    }

    /// The same, without waiting until the log has it: [`Reads::kept`] does.
    ///
    /// # Errors
    /// As [`Reads::note`].
    pub(super) fn tell(&self, record: Record) -> Result<(), Diagnostic> {
        self.append_record(record)
    }

    fn append(&self, body: Body) -> Result<(), Diagnostic> {
        self.append_record(Record {
            body: Some(body),
            ..Record::default()
        })
    }

    fn append_record(&self, record: Record) -> Result<(), Diagnostic> {
        let now_us = self.0.clock.now_us();
        let mut state = self.state();
        let record = Record {
            id: match record.id.is_empty() {
                true => state.ids.next(now_us).to_bytes().to_vec(),
                false => record.id,
            },
            time_us: if record.time_us == 0 {
                now_us
            } else {
                record.time_us
            },
            reporter: self.0.reporter.to_string(),
            mode: AuditMode::Spool.into(),
            demo: self.0.demo,
            body: record.body,
            ..Record::default()
        };
        if state.closed {
            return Err(unrecorded("the service ends"));
        }
        let state = &mut *state;
        let records = state.records.get_or_insert_with(|| state.sink.open(WORKER));
        records
            .append(&record)
            .map_err(|error| unrecorded(&error.to_string()))?;
        records.flush();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream of rows on its way to a reader.
pub(super) struct Begun {
    reads: Reads,
    record: AuditRead,
}

impl Begun {
    /// So many rows more were given.
    pub(super) fn gave(&mut self, rows: usize) {
        self.record.rows = self.record.rows.saturating_add(wide(rows));
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let read = Body::AuditRead(std::mem::take(&mut self.record));
        if let Err(error) = self.reads.append(read) {
            tracing::error!(%error, "the end of a read left no record");
        }
    }
}

fn unrecorded(cause: &str) -> Diagnostic {
    Diagnostic::error(7901, "the read cannot be recorded, and is not answered")
        .cause(cause.to_owned())
        .help("see whether the log takes records: palisade check")
}

/// As much of a query as is recorded.
fn head_of(query: &str) -> &str {
    let end = query.floor_char_boundary(QUERY_LEN_MAX);
    query.get(..end).unwrap_or(query)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
