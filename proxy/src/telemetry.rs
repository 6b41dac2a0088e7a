//! Counters of one worker, written by that worker alone and read by a scrape.
//!
//! Each number has one writer, so an update is a load and a store without a
//! lock prefix. Series are bounded: labels are our own words, services of the
//! catalogue, methods and status codes; what exceeds the bound is counted under
//! `other`.

use std::{
    cell::RefCell,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use palisade_mesh::{
    canonical::Method,
    catalogue::Service,
    wire::record::{AuditMode, Flip, Verdict},
};
use rustc_hash::FxHashMap;
use smol_str::SmolStr;

use crate::shadow::{self, Tried};

/// Most series of one family and worker; the rest is counted together.
const SERIES_MAX: usize = 512;

/// The advised buckets of the HTTP semantic conventions, in seconds.
pub(crate) const HTTP_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Buckets for a decision, in seconds.
pub(crate) const DECISION_BUCKETS: &[f64] = &[
    5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 1e-3, 1e-2,
];
/// Buckets for the wait of a `strict` request, in seconds.
pub(crate) const WAIT_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
/// Modes of records, as metric labels, in the order of their counters.
pub(crate) const MODES: [&str; 3] = ["strict", "spool", "best_effort"];
/// The label under which series beyond the bound are counted.
pub(crate) const OTHER: &str = "other";

/// A number that only grows; one writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram over fixed buckets; one writer.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    counts: Box<[Count]>,
    sum_ns: Count,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| Count::default()).collect(),
            sum_ns: Count::default(),
        }
    }

    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get(bucket) {
            count.add(1);
        }
        self.sum_ns
            .add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds this histogram to a sum of several.
    pub(crate) fn add_to(&self, sum: &mut Sum) {
        sum.counts.resize(self.counts.len(), 0);
        for (sum, count) in sum.counts.iter_mut().zip(&self.counts) {
            *sum += count.value();
        }
        sum.seconds += Duration::from_nanos(self.sum_ns.value()).as_secs_f64();
        sum.bounds = self.bounds;
    }
}

/// Several histograms added up.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) bounds: &'static [f64],
    pub(crate) counts: Vec<u64>,
    pub(crate) seconds: f64,
}

/// Every series of a family that has been touched, for the scrape.
pub(crate) type Seen<K, M> = Mutex<Vec<(K, Arc<M>)>>;

/// The series of one family, as the worker finds them.
struct Family<K, M> {
    seen: Arc<Seen<K, M>>,
    found: RefCell<FxHashMap<K, Arc<M>>>,
    other: K,
    make: fn() -> M,
}

impl<K: Clone + Eq + Hash, M> Family<K, M> {
    fn new(other: K, make: fn() -> M) -> Self {
        Self {
            seen: Arc::default(),
            found: RefCell::default(),
            other,
            make,
        }
    }

    fn get(&self, key: &K) -> Arc<M> {
        if let Some(found) = self.found.borrow().get(key) {
            return found.clone();
        }
        let full = self.found.borrow().len() >= SERIES_MAX;
        let key = if full { &self.other } else { key };
        let mut found = self.found.borrow_mut();
        let series = found.entry(key.clone()).or_insert_with(|| {
            let series = Arc::new((self.make)());
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((key.clone(), series.clone()));
            series
        });
        series.clone()
    }
}

/// A decision's labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DecisionKey {
    pub(crate) decision: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) source: SmolStr,
}

/// Labels of a served request: method and status.
pub(crate) type ServedKey = (&'static str, u16);
/// Labels of a request to another service: service and status.
pub(crate) type CalledKey = (SmolStr, u16);
/// Something that happened: family and reason.
pub(crate) type EventKey = (&'static str, &'static str);

/// What a scrape sees of one worker.
#[derive(Debug)]
pub(crate) struct Gauges {
    pub(crate) requests: Count,
    pub(crate) allowed: Count,
    pub(crate) denied: Count,
    pub(crate) undecided: Count,
    pub(crate) refused: Count,
    pub(crate) connections: Count,
    pub(crate) in_flight: Count,
    pub(crate) cache_hits: Count,
    pub(crate) cache_misses: Count,
    pub(crate) decision_time: Histogram,
    pub(crate) records: [Count; MODES.len()],
    pub(crate) strict_wait: Histogram,
    /// What came of every revision that was tried beside the one in force.
    pub(crate) shadow: shadow::Tally,
    pub(crate) shadow_time: Histogram,
    /// Requests that only a permit in shadow mode would have allowed.
    pub(crate) shadow_permits: Count,
    pub(crate) decisions: Arc<Seen<DecisionKey, Count>>,
    pub(crate) served: Arc<Seen<ServedKey, Histogram>>,
    pub(crate) called: Arc<Seen<CalledKey, Histogram>>,
    pub(crate) events: Arc<Seen<EventKey, Count>>,
}

/// The writing end of a worker's [`Gauges`].
pub(crate) struct Telemetry {
    pub(crate) gauges: Arc<Gauges>,
    decisions: Family<DecisionKey, Count>,
    served: Family<ServedKey, Histogram>,
    called: Family<CalledKey, Histogram>,
    events: Family<EventKey, Count>,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        let other = DecisionKey {
            decision: OTHER,
            reason: OTHER,
            source: SmolStr::new_static(OTHER),
        };
        let decisions = Family::new(other, Count::default);
        let served = Family::new((OTHER, 0), || Histogram::new(HTTP_BUCKETS));
        let called = Family::new((SmolStr::new_static(OTHER), 0), || {
            Histogram::new(HTTP_BUCKETS)
        });
        let events = Family::new((OTHER, OTHER), Count::default);
        let gauges = Arc::new(Gauges {
            requests: Count::default(),
            allowed: Count::default(),
            denied: Count::default(),
            undecided: Count::default(),
            refused: Count::default(),
            connections: Count::default(),
            in_flight: Count::default(),
            cache_hits: Count::default(),
            cache_misses: Count::default(),
            decision_time: Histogram::new(DECISION_BUCKETS),
            records: Default::default(),
            strict_wait: Histogram::new(WAIT_BUCKETS),
            shadow: shadow::Tally::default(),
            shadow_time: Histogram::new(DECISION_BUCKETS),
            shadow_permits: Count::default(),
            decisions: decisions.seen.clone(),
            served: served.seen.clone(),
            called: called.seen.clone(),
            events: events.seen.clone(),
        });
        Self {
            gauges,
            decisions,
            served,
            called,
            events,
        }
    }

    /// The counter of allowed requests from `source`, for a connection to keep.
    pub(crate) fn allowed_from(&self, source: &SmolStr) -> Arc<Count> {
        self.decisions.get(&DecisionKey {
            decision: "allow",
            reason: "permitted",
            source: source.clone(),
        })
    }

    /// Counts a request that was not simply allowed.
    pub(crate) fn decided(&self, verdict: Verdict, reason: &'static str, source: &SmolStr) {
        let (decision, count) = match verdict {
            Verdict::Allow => ("allow", &self.gauges.allowed),
            Verdict::Forbidden | Verdict::NotPermitted => ("deny", &self.gauges.denied),
            Verdict::Undecided => ("undecided", &self.gauges.undecided),
            Verdict::Refused | Verdict::Unspecified => ("refused", &self.gauges.refused),
        };
        count.add(1);
        let key = DecisionKey {
            decision,
            reason,
            source: source.clone(),
        };
        self.decisions.get(&key).add(1);
    }

    /// Notes what a decision cost.
    pub(crate) fn decision_took(&self, duration: Duration, cached: bool) {
        self.gauges.decision_time.observe(duration);
        if cached {
            self.gauges.cache_hits.add(1);
        } else {
            self.gauges.cache_misses.add(1);
        }
    }

    /// Counts what a revision that is tried said, or that it could not say anything.
    pub(crate) fn tried(&self, tried: Result<&Tried, &shadow::Broken>) {
        match tried {
            Ok(tried) => {
                self.gauges.shadow.note(tried.flip);
                self.gauges.shadow_time.observe(tried.took);
            }
            Err(_) => self.gauges.shadow.failed(),
        }
    }

    /// Counts a request for which permits in shadow mode matched.
    pub(crate) fn shadow_permits(&self, flip: Flip) {
        self.gauges
            .shadow_permits
            .add(u64::from(flip == Flip::NewlyAllowed));
    }

    /// Counts a record that the sink took.
    pub(crate) fn recorded(&self, mode: AuditMode) {
        let [strict, spool, best_effort] = &self.gauges.records;
        match mode {
            AuditMode::Strict => strict,
            AuditMode::Spool | AuditMode::Unspecified => spool,
            AuditMode::BestEffort => best_effort,
        }
        .add(1);
    }

    /// Notes how long a `strict` request waited for its record.
    pub(crate) fn strict_waited(&self, duration: Duration) {
        self.gauges.strict_wait.observe(duration);
    }

    /// Counts a request served by the local application.
    pub(crate) fn served(&self, method: Method, status: u16, duration: Duration) {
        self.served
            .get(&(method.as_str(), status))
            .observe(duration);
    }

    /// Counts a request of the local application to `service`.
    pub(crate) fn called(&self, service: &Service, status: u16, duration: Duration) {
        let key = (SmolStr::new(service.id.short()), status);
        self.called.get(&key).observe(duration);
    }

    /// Counts something that happened.
    pub(crate) fn event(&self, family: &'static str, reason: &'static str) {
        self.events.get(&(family, reason)).add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T90: labels that a caller can choose do not make series without end.
    #[test]
    fn series_are_bounded() {
        let telemetry = Telemetry::new();
        for status in 0..2000 {
            telemetry.served(Method::Get, status, Duration::from_millis(1));
        }
        let seen = telemetry.gauges.served.lock().unwrap();
        assert_eq!(seen.len(), SERIES_MAX + 1);
        let total: u64 = seen
            .iter()
            .map(|(_, h)| {
                let mut sum = Sum::default();
                h.add_to(&mut sum);
                sum.counts.iter().sum::<u64>()
            })
            .sum();
        assert_eq!(total, 2000);
    }

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        let histogram = Histogram::new(HTTP_BUCKETS);
        for ms in [5, 6, 20_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut sum = Sum::default();
        histogram.add_to(&mut sum);
        assert_eq!((sum.counts[0], sum.counts[1], sum.counts[14]), (1, 1, 1));
        assert!((sum.seconds - 20.011).abs() < 1e-9);
    }
}
