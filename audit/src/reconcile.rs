//! Both sides of a request, held against each other.
//!
//! The proxy of the caller records a call under an id that it sends along; the
//! destination's decision repeats that id, and names the caller that TLS has proven.
//! Two proxies would have to keep silent together for a request to leave no trace: what
//! only one of them recorded is named here. It is a request that went past a proxy,
//! records that are withheld, or records that are still on their way.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use serde::{Serialize, Serializer};

use crate::{
    decisions::{first_received, received, whole_since},
    envelope::EnvelopeRef,
    going::Going,
    item::AHEAD_MAX_US,
    log::{Log, LogError},
    query::{Window, time::rfc3339},
};

mod sides;

use sides::{Judged, Sides};

/// Records that one comparison reads, from the end of its time backwards; as many after it
/// are looked through for other halves.
pub const RECORDS_MAX: u64 = 2_000_000;

/// Records without their other half that one comparison holds, some hundred bytes each. Where
/// there are more, the time that is compared ends before them.
pub const HALVES_MAX: usize = 900_000;

/// One-sided records, and callers without a proxy, that an answer names; more are counted.
pub const NAMED_MAX: usize = 1000;

/// How long after a record the other half may arrive without being missed: spools are
/// written every 50 ms and sent at once.
pub const SETTLE_US: i64 = 10 * 1_000_000;

/// How far beyond the asked time the other halves are looked for.
const AROUND_US: i64 = OPEN_MAX_US + 2 * SETTLE_US;

/// How long a request may go on before its decision is missed a call. The call is recorded
/// when the answer begins, so until the outcome says that the request has ended, nothing
/// is missing.
pub const OPEN_MAX_US: i64 = 3600 * 1_000_000;

/// What both sides of the requests of a time recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reconciliation {
    /// From when on requests were compared; later than asked where there were more than
    /// [`RECORDS_MAX`] records.
    #[serde(rename = "from", serialize_with = "time_text")]
    pub from_us: i64,
    /// Until when; earlier than asked where more than [`HALVES_MAX`] were without their other
    /// half.
    #[serde(rename = "to", serialize_with = "time_text")]
    pub to_us: i64,
    /// Whether all of the time that was asked for was compared.
    pub whole: bool,
    /// Requests that both sides recorded, and agree about.
    pub agreed: u64,
    /// What one side recorded alone, or the two contradict each other about; in the
    /// order of the log.
    pub one_sided: Vec<OneSided>,
    /// The same beyond [`NAMED_MAX`].
    pub one_sided_more: u64,
    /// Calls that no destination answered and none decided about.
    pub unanswered: u64,
    /// Records whose other half may still arrive.
    pub settling: u64,
    /// Callers that call through no proxy of the mesh, and how many decisions name them:
    /// of these requests there is only one side. The first [`NAMED_MAX`] of them.
    pub without_proxy: BTreeMap<String, u64>,
    /// Decisions that name others of that kind.
    pub without_proxy_more: u64,
}

/// A request that the two sides do not agree about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OneSided {
    /// What is wrong.
    pub kind: Mismatch,
    /// Index in the log of the record that is there.
    pub entry: u64,
    /// Id of that record: the decision's, or the call's.
    pub id: String,
    /// When, as it is filed.
    #[serde(rename = "time", serialize_with = "time_text")]
    pub time_us: i64,
    /// Who recorded it.
    pub reporter: String,
    /// Who called, as far as the record tells.
    pub caller: String,
    /// Which service.
    pub service: String,
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Whether the side that kept silent has lost records that are known of: a gap in
    /// its numbers, or a loss that it declared.
    pub loss_known: bool,
}

/// How the two sides disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// The caller's proxy was answered, and no destination recorded a decision: the
    /// destination's proxy is silent, or was gone past.
    CallAlone,
    /// The decision names another caller or service than the call of its id.
    Contradiction,
    /// A decision names a caller whose proxy recorded no such call: the caller went past
    /// its proxy, or that proxy is silent.
    DecisionAlone,
    /// A second decision for a call that has one: the id was used again.
    Repeated,
}

impl Mismatch {
    /// A constant word, as answers have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::CallAlone => "call_alone",
            Self::Contradiction => "contradiction",
            Self::DecisionAlone => "decision_alone",
            Self::Repeated => "repeated",
        }
    }
}

fn time_text<S: Serializer>(us: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*us))
}

/// Whether a comparison is under way.
static UNDER_WAY: Mutex<bool> = Mutex::new(false);
/// Told when one ends.
static ENDED: Condvar = Condvar::new();

/// Longest wait for a turn; the audit API gives an answer up after 30 s.
pub const TURN_WAIT: Duration = Duration::from_secs(20);

/// One comparison at a time: each may hold some hundred megabytes.
struct Turn;

impl Turn {
    /// Waits for it, at most [`TURN_WAIT`].
    fn wait() -> Option<Self> {
        let under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut under_way, _) = ENDED
            .wait_timeout_while(under_way, TURN_WAIT, |under_way| *under_way)
            .unwrap_or_else(PoisonError::into_inner);
        let free = !std::mem::replace(&mut *under_way, true);
        // Made only where it is ours: dropping one ends a comparison.
        free.then(|| Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) = false;
        ENDED.notify_one();
    }
}

/// Why requests were not compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Another comparison went on for all of [`TURN_WAIT`].
    #[error("another comparison of both sides is under way")]
    Busy,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Compares the requests of `window` as they stand at `now_us`. Waits while another comparison
/// goes on, at most [`TURN_WAIT`]: who has long gone away must not keep a thread.
///
/// # Errors
/// When it is never its turn, the log cannot be read, or nobody waits any more.
pub fn reconcile(
    going: &Going,
    log: &Log,
    window: Window,
    now_us: i64,
) -> Result<Reconciliation, ReconcileError> {
    let _turn = Turn::wait().ok_or(ReconcileError::Busy)?;
    Ok(compare(going, log, window, now_us, HALVES_MAX)?)
}

fn compare(
    going: &Going,
    log: &Log,
    window: Window,
    now_us: i64,
    halves_max: usize,
) -> Result<Reconciliation, LogError> {
    let begin = first_received(log, window.from_us.saturating_sub(AHEAD_MAX_US))?;
    // What comes after the time must not use up what can be read of it.
    let over = first_received(log, window.to_us.saturating_add(SETTLE_US))?;
    let around = first_received(log, window.to_us.saturating_add(AROUND_US))?;
    let end = around.min(over.saturating_add(RECORDS_MAX));
    let first = begin.max(over.saturating_sub(RECORDS_MAX));
    let mut whole = first == begin && end == around;
    // A record of the first moments may have its other half before what is read.
    let from_us = match first == begin {
        true => window.from_us,
        false => received(log, first)?.saturating_add(SETTLE_US),
    };
    // What was dropped may have had its other half among what was not.
    let kept_us = whole_since(log, &["decision", "call"]).saturating_add(SETTLE_US);
    whole &= kept_us <= from_us.max(window.from_us);
    let mut window = Window {
        from_us: from_us.max(window.from_us).max(kept_us).min(window.to_us),
        ..window
    };
    let mut sides = Sides::new(window);
    let mut horizon_us = now_us;
    let mut scan = log.scan(first);
    let mut reading = going.reading(end.saturating_sub(first));
    while let Some(read) = scan.next_leaf() {
        reading.read(1)?;
        let (entry, leaf) = read?;
        let Some(envelope) = EnvelopeRef::decode(leaf) else {
            continue;
        };
        if entry >= end {
            horizon_us = horizon_us.min(envelope.received_us);
            break;
        }
        if sides.halves() >= halves_max {
            // What came just before may have its other half in what is not read.
            let seen_us = envelope.received_us.saturating_sub(SETTLE_US);
            window.to_us = window.to_us.min(seen_us).max(window.from_us);
            horizon_us = horizon_us.min(envelope.received_us);
            whole = false;
            break;
        }
        sides.take(entry, &envelope);
    }
    for gap in log.gaps().iter() {
        sides.lost(gap.stream.reporter.as_str());
    }
    told(log, sides.judged(window, horizon_us), window, whole)
}

/// Puts names to what was found, from the log.
fn told(
    log: &Log,
    judged: Judged,
    window: Window,
    whole: bool,
) -> Result<Reconciliation, LogError> {
    let more = judged.found.len().saturating_sub(NAMED_MAX);
    let mut report = Reconciliation {
        from_us: window.from_us,
        to_us: window.to_us,
        whole,
        agreed: judged.agreed,
        one_sided: Vec::new(),
        one_sided_more: u64::try_from(more).unwrap_or(u64::MAX),
        unanswered: judged.unanswered,
        settling: judged.settling,
        without_proxy: BTreeMap::new(),
        without_proxy_more: 0,
    };
    for found in judged.found.iter().take(NAMED_MAX) {
        report.one_sided.extend(found.read(log)?);
    }
    for (i, (entry, count)) in judged.without_proxy.into_iter().enumerate() {
        match i < NAMED_MAX {
            true => {
                let caller = sides::caller_of(log, entry)?;
                *report.without_proxy.entry(caller).or_default() += count;
            }
            false => report.without_proxy_more += count,
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
