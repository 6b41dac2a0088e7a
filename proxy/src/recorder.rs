//! What a worker leaves behind of each request.
//!
//! The messages are kept and filled anew, so that a record costs copies of
//! short strings and no allocation. Records of a worker form one numbered
//! stream (decision 2 of the design notes); the stream's buffer is handed on by the worker's
//! timer, never by a request.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use palisade_mesh::{
    canonical::CanonicalRequest,
    decision::{Answer, DecisionId, DecisionIds, SelfCheck, Verdict as PolicyVerdict},
    differences::differed,
    personal::Mask,
    sink::{Durable, RecordStream, SinkError},
    snapshot::Versions,
    svid::{Claim, Peer},
    wire::record::{
        self, AuditMode, AuthnFailure, Call, Decision, Flip, Outcome, Record, Rejudgement, Shadow,
        Verdict, outcome::End, record::Body,
    },
};
use smol_str::SmolStr;

use crate::{headers::Trace, shadow::Tried};

/// Records of failed handshakes that a worker leaves in a row, and then in each
/// second: whoever reaches the port causes them, and must not fill the disk.
const FAILURES_BURST: i64 = 100;
const FAILURES_PER_S: i64 = 50;

/// How hard a call's record is kept: the destination's decision is what must not be
/// lost, and of the two the call is shed first. A loss is declared.
pub(crate) const CALL_MODE: AuditMode = AuditMode::BestEffort;

/// Longest path kept in a record, in bytes.
pub(crate) const PATH_LEN_MAX: usize = 1024;
/// Longest replay context kept in a record, in bytes; a longer one is left out,
/// for half a document is worse than none.
pub(crate) const CONTEXT_LEN_MAX: usize = 4096;
/// Longest free text kept in a record, in bytes.
const DETAIL_LEN_MAX: usize = 512;

/// One worker's record stream and the messages it fills.
pub(crate) struct Recorder {
    stream: Box<dyn RecordStream>,
    ids: DecisionIds,
    decision: Record,
    outcome: Record,
    call: Record,
    failure: Record,
    rejudgement: Record,
    allowance: Allowance,
    /// What the texts of addresses in the kept messages say.
    written: Written,
    dirty: bool,
}

/// How many records of failed handshakes may be left at the moment.
struct Allowance {
    left: i64,
    second: i64,
}

impl Allowance {
    fn take(&mut self, time_us: i64) -> bool {
        let second = time_us.div_euclid(1_000_000);
        // A clock that was set back gives nothing; one that jumps, no more than a burst.
        let passed = second.saturating_sub(self.second).max(0);
        self.second = second;
        let gained = passed.saturating_mul(FAILURES_PER_S);
        self.left = self.left.saturating_add(gained).min(FAILURES_BURST);
        let granted = self.left > 0;
        self.left -= i64::from(granted);
        granted
    }
}

/// The addresses that were formatted last: those of a connection and of the
/// application repeat, and formatting them is dearer than all copies.
#[derive(Default)]
struct Written {
    source: Option<IpAddr>,
    upstream: Option<SocketAddr>,
    called: Option<SocketAddr>,
}

/// What is known of a decided or refused request.
pub(crate) struct DecisionFacts<'a> {
    pub(crate) id: DecisionId,
    pub(crate) time_us: i64,
    pub(crate) mode: AuditMode,
    /// What the record leaves out, by the revision that decided.
    pub(crate) mask: &'a Mask,
    pub(crate) verdict: Verdict,
    pub(crate) reason: &'a str,
    pub(crate) peer: &'a Peer,
    pub(crate) source: SocketAddr,
    pub(crate) service: &'a str,
    pub(crate) target: Target<'a>,
    pub(crate) route: &'a str,
    pub(crate) answer: Option<&'a Answer>,
    pub(crate) versions: Option<Versions>,
    pub(crate) took: Duration,
    pub(crate) trace: Option<Trace>,
    /// Id of the call, as the caller's proxy gave it.
    pub(crate) request: Option<DecisionId>,
    /// Status of our own answer; 0 when the request goes on.
    pub(crate) status: u16,
    /// What the revision tried beside the one in force said.
    pub(crate) tried: Option<&'a Tried>,
    /// What the permits in shadow mode said.
    pub(crate) permits: Option<Permits<'a>>,
}

/// What would be decided if the permits in shadow mode were enforced.
pub(crate) struct Permits<'a> {
    pub(crate) verdict: PolicyVerdict,
    /// Those that matched.
    pub(crate) ids: &'a [SmolStr],
    pub(crate) flip: Flip,
}

/// What was asked for: canonical, or as it came when it has no canonical form.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    Canonical(&'a CanonicalRequest),
    Raw { method: &'a str, path: &'a str },
}

/// How a forwarded request ended.
pub(crate) struct OutcomeFacts<'a> {
    pub(crate) id: DecisionId,
    pub(crate) mode: AuditMode,
    pub(crate) end: End,
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    pub(crate) service: &'a str,
    pub(crate) principal: &'a str,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) error: &'a str,
}

/// What came of a call of the local application.
pub(crate) struct CallFacts<'a> {
    pub(crate) id: DecisionId,
    pub(crate) service: &'a str,
    /// What the record leaves out, as the record of the destination does.
    pub(crate) mask: &'a Mask,
    pub(crate) request: &'a CanonicalRequest,
    pub(crate) upstream: Option<SocketAddr>,
    /// Status of the destination's answer, and the decision that it named.
    pub(crate) answer: Option<(u16, Option<DecisionId>)>,
    pub(crate) error: &'a str,
}

/// What came of deciding an open exchange again.
pub(crate) struct RejudgementFacts<'a> {
    pub(crate) id: DecisionId,
    pub(crate) mode: AuditMode,
    pub(crate) verdict: Verdict,
    pub(crate) reason: &'a str,
    pub(crate) answer: Option<&'a Answer>,
    pub(crate) versions: Option<Versions>,
    /// What made it necessary.
    pub(crate) cause: &'a str,
    /// Whether the exchange ends by it.
    pub(crate) closed: bool,
}

/// What is known of a handshake that did not prove an identity.
pub(crate) struct FailureFacts<'a> {
    pub(crate) reason: &'a str,
    pub(crate) detail: &'a str,
    pub(crate) claim: &'a Claim,
    pub(crate) source: SocketAddr,
    pub(crate) listener: &'a str,
    /// What the record leaves out.
    pub(crate) mask: &'a Mask,
}

impl Recorder {
    /// Records through `stream`, as `reporter`.
    pub(crate) fn new(stream: Box<dyn RecordStream>, reporter: &str, demo: bool) -> Self {
        let template = |body| Record {
            id: vec![0; 16],
            reporter: reporter.to_owned(),
            demo,
            body: Some(body),
            ..Record::default()
        };
        let decision = Decision {
            principal: Some(record::Peer::default()),
            versions: Some(record::Versions::default()),
            enforced: true,
            ..Decision::default()
        };
        Self {
            stream,
            ids: DecisionIds::new(),
            decision: template(Body::Decision(decision)),
            outcome: template(Body::Outcome(Outcome::default())),
            call: template(Body::Call(Call::default())),
            failure: template(Body::AuthnFailure(AuthnFailure::default())),
            rejudgement: template(Body::Rejudgement(Rejudgement::default())),
            allowance: Allowance {
                left: FAILURES_BURST,
                second: i64::MAX,
            },
            written: Written::default(),
            dirty: false,
        }
    }

    /// The id of a new decision.
    pub(crate) fn next_id(&mut self, now_us: i64) -> DecisionId {
        self.ids.next(now_us)
    }

    /// Records a decision or a refusal.
    ///
    /// # Errors
    /// When the stream does not take it; the request must then not pass, unless
    /// its mode is `best_effort`.
    pub(crate) fn decision(&mut self, facts: &DecisionFacts<'_>) -> Result<(), SinkError> {
        head(&mut self.decision, facts.id, facts.time_us, facts.mode);
        if let Some(Body::Decision(body)) = &mut self.decision.body {
            fill_decision(body, facts);
            set_source(body, &mut self.written.source, facts.source);
        }
        self.dirty = true;
        self.stream.append_masked(&self.decision, facts.mask)
    }

    /// Records how a request ended.
    ///
    /// # Errors
    /// When the stream does not take it.
    pub(crate) fn outcome(
        &mut self,
        facts: &OutcomeFacts<'_>,
        time_us: i64,
    ) -> Result<(), SinkError> {
        head(&mut self.outcome, facts.id, time_us, facts.mode);
        if let Some(Body::Outcome(body)) = &mut self.outcome.body {
            fill_outcome(body, facts);
            set_text(
                &mut body.upstream,
                &mut self.written.upstream,
                facts.upstream,
            );
        }
        self.dirty = true;
        self.stream.append(&self.outcome)
    }

    /// Records a call of the local application.
    ///
    /// # Errors
    /// When the stream does not take it.
    pub(crate) fn call(&mut self, facts: &CallFacts<'_>, time_us: i64) -> Result<(), SinkError> {
        head(&mut self.call, facts.id, time_us, CALL_MODE);
        if let Some(Body::Call(body)) = &mut self.call.body {
            set(&mut body.service, facts.service);
            set(&mut body.method, facts.request.method.as_str());
            set(&mut body.path, head_of(&facts.request.path, PATH_LEN_MAX));
            set_text(&mut body.upstream, &mut self.written.called, facts.upstream);
            set(&mut body.error, facts.error);
            let (status, decision) = facts.answer.unwrap_or_default();
            body.status = status.into();
            set_id(&mut body.decision_id, decision);
        }
        self.dirty = true;
        self.stream.append_masked(&self.call, facts.mask)
    }

    /// Records that an open exchange was decided again.
    ///
    /// # Errors
    /// When the stream does not take it; the exchange must then not go on, unless
    /// its mode is `best_effort`.
    pub(crate) fn rejudgement(
        &mut self,
        facts: &RejudgementFacts<'_>,
        time_us: i64,
    ) -> Result<(), SinkError> {
        head(&mut self.rejudgement, facts.id, time_us, facts.mode);
        if let Some(Body::Rejudgement(body)) = &mut self.rejudgement.body {
            body.verdict = facts.verdict.into();
            set(&mut body.reason, facts.reason);
            let determining = facts.answer.map_or(&[][..], |a| &a.decision.determining);
            set_all(&mut body.policies, determining);
            fill_versions(&mut body.versions, facts.versions);
            set(&mut body.cause, facts.cause);
            body.closed = facts.closed;
        }
        self.dirty = true;
        self.stream.append(&self.rejudgement)
    }

    /// Records that engine and reference have differed under the revision with this number.
    ///
    /// # Errors
    /// When the stream does not take it; it is to be recorded later then.
    pub(crate) fn differed(
        &mut self,
        time_us: i64,
        sequence: u64,
        found: SelfCheck,
    ) -> Result<(), SinkError> {
        let id = self.ids.next(time_us);
        let reporter = &self.failure.reporter;
        let record = Record {
            id: id.to_bytes().to_vec(),
            time_us,
            reporter: reporter.clone(),
            mode: AuditMode::Spool.into(),
            demo: self.failure.demo,
            body: Some(Body::Admin(differed(reporter, sequence, found))),
            ..Record::default()
        };
        self.dirty = true;
        self.stream.append(&record)
    }

    /// Whether a failed handshake may leave a record now; the others are counted
    /// only.
    pub(crate) fn may_note_failure(&mut self, time_us: i64) -> bool {
        self.allowance.take(time_us)
    }

    /// Records a handshake that did not prove an identity.
    ///
    /// # Errors
    /// When the stream does not take it.
    pub(crate) fn authn_failure(
        &mut self,
        facts: &FailureFacts<'_>,
        time_us: i64,
    ) -> Result<(), SinkError> {
        let id = self.ids.next(time_us);
        head(&mut self.failure, id, time_us, AuditMode::Spool);
        if let Some(Body::AuthnFailure(body)) = &mut self.failure.body {
            set(&mut body.reason, facts.reason);
            set(&mut body.detail, head_of(facts.detail, DETAIL_LEN_MAX));
            set(&mut body.claimed_id, &facts.claim.id);
            set_bytes(&mut body.serial, &facts.claim.serial);
            set(&mut body.listener, facts.listener);
            set_address(&mut body.source_ip, &mut body.source_port, facts.source);
        }
        self.dirty = true;
        self.stream.append_masked(&self.failure, facts.mask)
    }

    /// Hands on what was recorded since the last time.
    pub(crate) fn flush(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.stream.flush();
        }
    }

    /// Whether something waits to be handed on.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Resolves when everything recorded so far is durable.
    pub(crate) fn durable(&mut self) -> Durable {
        self.dirty = false;
        self.stream.durable()
    }
}

fn head(record: &mut Record, id: DecisionId, time_us: i64, mode: AuditMode) {
    record.id.clear();
    record.id.extend_from_slice(&id.to_bytes());
    record.time_us = time_us;
    record.mode = mode.into();
}

fn fill_decision(body: &mut Decision, facts: &DecisionFacts<'_>) {
    body.verdict = facts.verdict.into();
    set(&mut body.reason, facts.reason);
    if let Some(principal) = &mut body.principal {
        set(&mut principal.spiffe_id, facts.peer.id.as_str());
        set_bytes(&mut principal.serial, &facts.peer.serial);
        principal.not_after_s = facts.peer.not_after_s;
    }
    set(&mut body.service, facts.service);
    let (method, host, path) = match facts.target {
        Target::Canonical(request) => (
            request.method.as_str(),
            request.host.as_str(),
            request.path.as_str(),
        ),
        Target::Raw { method, path } => (method, "", path),
    };
    set(&mut body.method, head_of(method, 64));
    set(&mut body.host, host);
    set(&mut body.path, head_of(path, PATH_LEN_MAX));
    set(&mut body.route, facts.route);
    fill_answer(body, facts.answer);
    fill_versions(&mut body.versions, facts.versions);
    body.decision_ns = u64::try_from(facts.took.as_nanos()).unwrap_or(u64::MAX);
    body.trace_id.clear();
    body.span_id.clear();
    if let Some(trace) = &facts.trace {
        body.trace_id.extend_from_slice(&trace.trace_id);
        body.span_id.extend_from_slice(&trace.span_id);
    }
    set_id(&mut body.request_id, facts.request);
    body.status = facts.status.into();
    fill_shadows(&mut body.shadows, facts);
}

fn fill_shadows(shadows: &mut Vec<Shadow>, facts: &DecisionFacts<'_>) {
    let count = usize::from(facts.tried.is_some()) + usize::from(facts.permits.is_some());
    shadows.resize_with(count, Shadow::default);
    let mut fields = shadows.iter_mut();
    if let Some(tried) = facts.tried
        && let Some(field) = fields.next()
    {
        set_bytes(&mut field.policy_digest, &tried.versions.policy.0);
        field.policy_sequence = tried.versions.sequence;
        field.verdict = tried.verdict.into();
        set(&mut field.reason, tried.reason);
        let answer = tried.answer.as_ref();
        let determining = answer.map_or(&[][..], |a| &a.decision.determining);
        set_all(&mut field.policies, determining);
        field.flip = tried.flip.into();
    }
    if let Some(permits) = &facts.permits
        && let Some(field) = fields.next()
    {
        field.policy_digest.clear();
        field.policy_sequence = 0;
        field.verdict = permits.verdict.wire().into();
        set(&mut field.reason, permits.verdict.reason());
        set_all(&mut field.policies, permits.ids);
        field.flip = permits.flip.into();
    }
}

fn fill_answer(body: &mut Decision, answer: Option<&Answer>) {
    let Some(Answer { decision, cached }) = answer else {
        body.action.clear();
        body.resource_type.clear();
        body.resource_id.clear();
        body.policies.clear();
        body.policy_errors.clear();
        body.context_json.clear();
        body.cached = false;
        return;
    };
    set(&mut body.action, &decision.action);
    set(&mut body.resource_type, decision.resource_type);
    set(&mut body.resource_id, &decision.resource_id);
    set_all(&mut body.policies, &decision.determining);
    set_all(&mut body.policy_errors, &decision.errors);
    let context = decision.context_json.as_str();
    set(
        &mut body.context_json,
        if context.len() <= CONTEXT_LEN_MAX {
            context
        } else {
            ""
        },
    );
    body.cached = *cached;
}

fn fill_versions(field: &mut Option<record::Versions>, versions: Option<Versions>) {
    let field = field.get_or_insert_default();
    let known = versions.unwrap_or_default();
    field.policy_digest.clear();
    if versions.is_some() {
        field.policy_digest.extend_from_slice(&known.policy.0);
    }
    field.policy_sequence = known.sequence;
    field.discovery = known.discovery;
    field.kill_list = known.kill_list;
}

fn fill_outcome(body: &mut Outcome, facts: &OutcomeFacts<'_>) {
    body.status = facts.status.into();
    body.end = facts.end.into();
    body.bytes_in = facts.bytes_in;
    body.bytes_out = facts.bytes_out;
    body.duration_us = u64::try_from(facts.duration.as_micros()).unwrap_or(u64::MAX);
    set(&mut body.service, facts.service);
    set(&mut body.principal, facts.principal);
    set(&mut body.error, facts.error);
}

fn set_source(body: &mut Decision, written: &mut Option<IpAddr>, address: SocketAddr) {
    if *written == Some(address.ip()) {
        body.source_port = address.port().into();
        return;
    }
    set_address(&mut body.source_ip, &mut body.source_port, address);
    *written = Some(address.ip());
}

/// Writes an address, unless `field` has it already, as `written` says.
fn set_text(field: &mut String, written: &mut Option<SocketAddr>, address: Option<SocketAddr>) {
    if *written == address {
        return;
    }
    field.clear();
    if let Some(address) = address {
        // Writing to a string does not fail.
        let _ = write!(field, "{address}");
    }
    *written = address;
}

fn set_id(field: &mut Vec<u8>, id: Option<DecisionId>) {
    field.clear();
    if let Some(id) = id {
        field.extend_from_slice(&id.to_bytes());
    }
}

fn set(field: &mut String, value: &str) {
    field.clear();
    field.push_str(value);
}

fn set_bytes(field: &mut Vec<u8>, value: &[u8]) {
    field.clear();
    field.extend_from_slice(value);
}

fn set_all(field: &mut Vec<String>, values: &[SmolStr]) {
    field.resize_with(values.len(), String::new);
    for (field, value) in field.iter_mut().zip(values) {
        set(field, value);
    }
}

fn set_address(ip: &mut String, port: &mut u32, address: SocketAddr) {
    ip.clear();
    // Writing to a string does not fail.
    let _ = write!(ip, "{}", address.ip());
    *port = address.port().into();
}

/// The first `len` bytes of `text`, cut at a character.
fn head_of(text: &str, len: usize) -> &str {
    text.get(..text.floor_char_boundary(len)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(head_of("abc", 3), "abc");
        assert_eq!(head_of("abc", 2), "ab");
        assert_eq!(head_of("a\u{20ac}", 2), "a");
        assert_eq!(head_of("", 2), "");
    }

    #[test]
    fn records_of_failures_are_bounded_per_second() {
        let mut allowance = Allowance {
            left: FAILURES_BURST,
            second: i64::MAX,
        };
        let mut granted = |second: i64| {
            (0..1000)
                .filter(|_| allowance.take(second * 1_000_000))
                .count()
        };
        assert_eq!(granted(100), 100);
        assert_eq!(granted(100), 0);
        assert_eq!(granted(101), 50);
        assert_eq!(granted(50), 0);
        assert_eq!(granted(51), 50);
        assert_eq!(granted(9_000), 100);
    }

    #[test]
    fn addresses_follow_their_connection() {
        let (mut decision, mut source) = (Decision::default(), None);
        for address in [
            "10.0.0.1:1",
            "10.0.0.1:2",
            "[::1]:2",
            "[::1]:3",
            "10.0.0.1:3",
        ] {
            let address: SocketAddr = address.parse().unwrap();
            set_source(&mut decision, &mut source, address);
            assert_eq!(decision.source_ip, address.ip().to_string());
            assert_eq!(decision.source_port, u32::from(address.port()));
        }
        let (mut outcome, mut upstream) = (Outcome::default(), None);
        for address in [
            None,
            Some("10.0.0.1:1"),
            Some("10.0.0.1:1"),
            None,
            Some("[::1]:2"),
        ] {
            let address = address.map(|a| a.parse().unwrap());
            set_text(&mut outcome.upstream, &mut upstream, address);
            assert_eq!(
                outcome.upstream,
                address.map_or_else(String::new, |a: SocketAddr| a.to_string())
            );
        }
    }

    #[test]
    fn a_filled_record_keeps_nothing_of_the_one_before() {
        let mut names = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        set_all(&mut names, &["x".into()]);
        assert_eq!(names, ["x"]);
        let mut versions = Some(record::Versions::from(Versions {
            sequence: 7,
            ..Versions::default()
        }));
        fill_versions(&mut versions, None);
        assert_eq!(versions, Some(record::Versions::default()));
    }
}
