//! What the decision APIs leave behind: a record of each answer, and of each search.

use std::sync::{Mutex, MutexGuard, PoisonError};

use palisade_mesh::{
    decision::{Answer, DecisionId, DecisionIds, SelfCheck},
    differences::differed,
    personal::Mask,
    sink::{Durable, RecordStream, SinkError},
    snapshot::Versions,
    spiffe_id::SpiffeId,
    wire::record::{
        AuditMode, AuditRead, Decision, Peer, Record, Searched, Shadow, Verdict, record::Body,
    },
};

use super::{Api, judged::Judged, stage::Tried};

/// Longest path kept in a record, in bytes (record schema, `path`).
const PATH_LEN_MAX: usize = 1024;
/// Longest query of a search kept in a record, in bytes.
const QUERY_LEN_MAX: usize = 2048;
/// Longest name of what a search was about that is kept in a record, in bytes.
const WORD_LEN_MAX: usize = 1024;

/// One record stream, shared by all who answer.
pub(super) struct Ledger {
    stream: Mutex<Stream>,
    reporter: String,
    demo: bool,
}

struct Stream {
    records: Box<dyn RecordStream>,
    ids: DecisionIds,
    /// Whether something was recorded since records were last handed on.
    dirty: bool,
}

/// What is recorded of an answer besides the answer itself.
pub(super) struct Noted<'a> {
    pub(super) id: DecisionId,
    pub(super) now_us: i64,
    pub(super) caller: &'a SpiffeId,
    pub(super) api: Api,
    pub(super) judged: &'a Judged,
    pub(super) versions: Option<Versions>,
    /// What was tried beside it.
    pub(super) tried: Option<&'a Tried>,
    pub(super) took_ns: u64,
}

impl Ledger {
    pub(super) fn new(records: Box<dyn RecordStream>, reporter: &SpiffeId, demo: bool) -> Self {
        Self {
            stream: Mutex::new(Stream {
                records,
                ids: DecisionIds::new(),
                dirty: false,
            }),
            reporter: reporter.to_string(),
            demo,
        }
    }

    pub(super) fn next_id(&self, now_us: i64) -> DecisionId {
        self.stream().ids.next(now_us)
    }

    /// Records an answer.
    ///
    /// # Errors
    /// When the stream does not take it; the answer must then not be given, unless its
    /// mode is `best_effort`.
    pub(super) fn answer(&self, noted: &Noted<'_>) -> Result<(), SinkError> {
        let judged = noted.judged;
        let record = self.record(noted.id, noted.now_us, judged.mode, decision(noted));
        self.append(&record, &judged.mask)
    }

    /// Records a search.
    ///
    /// # Errors
    /// As [`Ledger::answer`].
    pub(super) fn search(
        &self,
        id: DecisionId,
        now_us: i64,
        caller: &SpiffeId,
        (query, searched): (&str, Searched),
        rows: u64,
    ) -> Result<(), SinkError> {
        let read = AuditRead {
            actor: caller.to_string(),
            query: head_of(query, QUERY_LEN_MAX).to_owned(),
            rows,
            searched: Some(cut(searched)),
            ..AuditRead::default()
        };
        let record = self.record(id, now_us, AuditMode::Spool, Body::AuditRead(read));
        self.append(&record, &Mask::NONE)
    }

    /// Records that engine and reference have differed under the revision with this number.
    ///
    /// # Errors
    /// When the stream does not take it; it is to be recorded later then.
    pub(super) fn differed(
        &self,
        now_us: i64,
        sequence: u64,
        found: SelfCheck,
    ) -> Result<(), SinkError> {
        let admin = differed(&self.reporter, sequence, found);
        let id = self.next_id(now_us);
        let record = self.record(id, now_us, AuditMode::Spool, Body::Admin(admin));
        self.append(&record, &Mask::NONE)
    }

    fn record(&self, id: DecisionId, time_us: i64, mode: AuditMode, body: Body) -> Record {
        Record {
            id: id.to_bytes().to_vec(),
            time_us,
            reporter: self.reporter.clone(),
            mode: mode.into(),
            demo: self.demo,
            body: Some(body),
            ..Record::default()
        }
    }

    fn append(&self, record: &Record, mask: &Mask) -> Result<(), SinkError> {
        let mut stream = self.stream();
        stream.dirty = true;
        stream.records.append_masked(record, mask)
    }

    /// Hands on what was recorded since the last time.
    pub(super) fn flush(&self) {
        let mut stream = self.stream();
        if std::mem::take(&mut stream.dirty) {
            stream.records.flush();
        }
    }

    /// Resolves when everything recorded so far is durable.
    pub(super) fn durable(&self) -> Durable {
        self.stream().records.durable()
    }

    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decision(noted: &Noted<'_>) -> Body {
    let judged = noted.judged;
    let (source_ip, source_port) = match judged.source {
        Some(source) => (source.ip().to_string(), source.port().into()),
        None => (String::new(), 0),
    };
    let mut body = Decision {
        verdict: judged.verdict.into(),
        reason: judged.reason.to_owned(),
        principal: Some(Peer {
            spiffe_id: judged
                .subject
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            ..Peer::default()
        }),
        service: judged
            .service
            .as_ref()
            .map_or_else(String::new, |s| s.id.to_string()),
        method: head_of(&judged.method, 64).to_owned(),
        host: judged.host.to_string(),
        path: head_of(&judged.path, PATH_LEN_MAX).to_owned(),
        route: judged.route.to_string(),
        versions: noted.versions.map(Into::into),
        decision_ns: noted.took_ns,
        enforced: true,
        source_ip,
        source_port,
        status: judged.status.into(),
        asserted_by: noted.caller.to_string(),
        api: noted.api.as_str().to_owned(),
        shadows: shadows(noted),
        ..Decision::default()
    };
    if let Some(Answer { decision, cached }) = &judged.answer {
        let owned = |ids: &[smol_str::SmolStr]| ids.iter().map(ToString::to_string).collect();
        body.action = decision.action.to_string();
        body.resource_type = decision.resource_type.to_owned();
        body.resource_id = decision.resource_id.to_string();
        body.policies = owned(&decision.determining);
        body.policy_errors = owned(&decision.errors);
        body.context_json = decision.context_json.to_string();
        body.cached = *cached;
    }
    debug_assert!(body.verdict != i32::from(Verdict::Unspecified));
    Body::Decision(body)
}

/// What would have been decided by the revision beside this one, and by the permits in
/// shadow mode of this one.
fn shadows(noted: &Noted<'_>) -> Vec<Shadow> {
    let owned = |ids: &[smol_str::SmolStr]| ids.iter().map(ToString::to_string).collect();
    let tried = noted.tried.map(|tried| Shadow {
        policy_digest: tried.versions.policy.0.to_vec(),
        policy_sequence: tried.versions.sequence,
        verdict: tried.verdict.into(),
        reason: tried.reason.to_owned(),
        policies: owned(&tried.policies),
        flip: tried.flip.into(),
    });
    let judged = noted.judged;
    let decision = judged.answer.as_ref().map(|answer| &answer.decision);
    let permits = decision.and_then(|decision| {
        let (verdict, flip) = decision.with_shadow_permits(judged.is_known)?;
        Some(Shadow {
            verdict: verdict.wire().into(),
            reason: verdict.reason().to_owned(),
            policies: owned(&decision.shadow_permits),
            flip: flip.into(),
            ..Shadow::default()
        })
    });
    tried.into_iter().chain(permits).collect()
}

/// What a search was about, as far as a record takes a caller's words.
fn cut(searched: Searched) -> Searched {
    let head = |text: String| head_of(&text, WORD_LEN_MAX).to_owned();
    Searched {
        principal: head(searched.principal),
        service: head(searched.service),
        action: head(searched.action),
        resource_type: head(searched.resource_type),
        resource_id: head(searched.resource_id),
    }
}

/// The first `len` bytes of `text`, cut at a character.
fn head_of(text: &str, len: usize) -> &str {
    text.get(..text.floor_char_boundary(len)).unwrap_or(text)
}
