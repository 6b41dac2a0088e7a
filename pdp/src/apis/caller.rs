//! Who asks, and how much: one load per identity, whatever connections it has.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use palisade_mesh::spiffe_id::SpiffeId;
use rustc_hash::FxHashMap;

use super::desk::Limits;
use crate::apis::codes::{IN_FLIGHT, RATE};

/// Callers that are remembered; beyond it, those that ask nothing are forgotten.
const CALLERS_MAX: usize = 16_384;
/// Permissions that are remembered of one caller.
const PERMISSIONS_MAX: usize = 4096;

/// Whoever asks, as its certificate or token proved it.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) id: SpiffeId,
    pub(super) proof: Proof,
    pub(super) load: Arc<Load>,
}

/// What proved a caller, for as long as that holds.
#[derive(Clone)]
pub enum Proof {
    /// An X.509-SVID.
    Certificate {
        /// Its serial number, big-endian.
        serial: Arc<[u8]>,
        /// When it ends, seconds since the Unix epoch.
        until_s: i64,
    },
    /// Whether the token is still good.
    Token(Arc<dyn Fn() -> bool + Send + Sync>),
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate { .. } => "Certificate",
            Self::Token(_) => "Token",
        })
    }
}

impl Proof {
    /// Whether it still proves the caller, at `now_us` microseconds since the Unix epoch.
    pub fn holds(&self, now_us: i64) -> bool {
        match self {
            Self::Certificate { until_s, .. } => now_us.div_euclid(1_000_000) <= *until_s,
            Self::Token(is_good) => is_good(),
        }
    }

    /// Serial number of the certificate; empty for a token.
    pub fn serial(&self) -> &[u8] {
        match self {
            Self::Certificate { serial, .. } => serial,
            Self::Token(_) => &[],
        }
    }
}

impl Caller {
    /// Its identity.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
}

/// What one identity asks at the moment, and what it was permitted.
#[derive(Debug)]
pub struct Load {
    in_flight: AtomicUsize,
    bucket: Mutex<Bucket>,
    permitted: Mutex<Permitted>,
}

/// Questions that may be asked now; filled at a steady rate up to one second's worth.
#[derive(Debug)]
struct Bucket {
    left: f64,
    filled: Instant,
}

#[derive(Debug, Default)]
struct Permitted {
    /// Under which policy revision; another one may know other services.
    sequence: u64,
    known: FxHashMap<Box<str>, bool>,
}

/// Why a caller has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// So many of its requests are on their way.
    #[error("PLS{IN_FLIGHT}: more than {0} requests of this caller are in flight")]
    InFlight(usize),
    /// So many questions are what it may ask in a second.
    #[error("PLS{RATE}: this caller asks more than {0} questions a second")]
    Rate(u32),
}

/// A request on its way, until the last byte of its answer; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Seat(Arc<Load>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Load {
    fn new(limits: &Limits) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            bucket: Mutex::new(Bucket {
                left: f64::from(limits.questions_per_s),
                filled: Instant::now(),
            }),
            permitted: Mutex::default(),
        }
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// When as many as `limits` allow are on their way.
    pub fn enter(self: &Arc<Self>, limits: &Limits) -> Result<Seat, Busy> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(self.clone());
        match before < limits.in_flight {
            true => Ok(seat),
            false => Err(Busy::InFlight(limits.in_flight)),
        }
    }

    /// Lets so many questions be asked.
    ///
    /// # Errors
    /// When they are more than a second's worth that is left.
    pub fn ask(&self, limits: &Limits, questions: usize) -> Result<(), Busy> {
        let asked = f64::from(u32::try_from(questions).unwrap_or(u32::MAX));
        match lock(&self.bucket).take(asked, limits.questions_per_s) {
            true => Ok(()),
            false => Err(Busy::Rate(limits.questions_per_s)),
        }
    }

    /// What was answered to `key` under the revision `sequence`.
    pub(super) fn remembered(&self, sequence: u64, key: &str) -> Option<bool> {
        let permitted = lock(&self.permitted);
        (permitted.sequence == sequence)
            .then(|| permitted.known.get(key).copied())
            .flatten()
    }

    pub(super) fn remember(&self, sequence: u64, key: &str, may: bool) {
        let mut permitted = lock(&self.permitted);
        if permitted.sequence != sequence || permitted.known.len() >= PERMISSIONS_MAX {
            permitted.known.clear();
            permitted.sequence = sequence;
        }
        permitted.known.insert(key.into(), may);
    }

    /// Whether forgetting it changes nothing.
    fn is_idle(&self, limits: &Limits) -> bool {
        let mut bucket = lock(&self.bucket);
        bucket.fill(limits.questions_per_s);
        self.in_flight.load(Ordering::Relaxed) == 0
            && bucket.left >= f64::from(limits.questions_per_s)
    }
}

impl Bucket {
    fn fill(&mut self, per_s: u32) {
        let now = Instant::now();
        let gained = now.duration_since(self.filled).as_secs_f64() * f64::from(per_s);
        self.left = (self.left + gained).min(f64::from(per_s));
        self.filled = now;
    }

    fn take(&mut self, asked: f64, per_s: u32) -> bool {
        self.fill(per_s);
        let enough = self.left >= asked;
        if enough {
            self.left -= asked;
        }
        enough
    }
}

/// The loads of all callers.
#[derive(Debug, Default)]
pub struct Loads(Mutex<FxHashMap<SpiffeId, Arc<Load>>>);

impl Loads {
    /// The load of one identity, whatever connections it has.
    pub fn of(&self, id: &SpiffeId, limits: &Limits) -> Arc<Load> {
        let mut loads = lock(&self.0);
        if let Some(load) = loads.get(id) {
            return load.clone();
        }
        if loads.len() >= CALLERS_MAX {
            loads.retain(|_, load| Arc::strong_count(load) > 1 || !load.is_idle(limits));
        }
        let load = Arc::new(Load::new(limits));
        loads.insert(id.clone(), load.clone());
        load
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits {
        in_flight: 2,
        questions_per_s: 10,
    };

    #[test]
    fn requests_in_flight_are_bounded_and_come_back() {
        let load = Arc::new(Load::new(&LIMITS));
        let first = load.enter(&LIMITS).unwrap();
        let _second = load.enter(&LIMITS).unwrap();
        assert_eq!(load.enter(&LIMITS).unwrap_err(), Busy::InFlight(2));
        drop(first);
        assert!(load.enter(&LIMITS).is_ok());
    }

    #[test]
    fn questions_are_bounded_by_the_second() {
        let load = Arc::new(Load::new(&LIMITS));
        assert!(load.ask(&LIMITS, 10).is_ok());
        assert_eq!(load.ask(&LIMITS, 1).unwrap_err(), Busy::Rate(10));
        lock(&load.bucket).filled -= Duration::from_secs(1);
        assert!(load.ask(&LIMITS, 10).is_ok());
        assert!(load.ask(&LIMITS, 11).is_err());
    }

    #[test]
    fn what_was_permitted_holds_for_one_revision() {
        let load = Load::new(&LIMITS);
        load.remember(1, "a", true);
        assert_eq!(load.remembered(1, "a"), Some(true));
        assert_eq!(load.remembered(2, "a"), None);
        load.remember(2, "b", false);
        assert_eq!(load.remembered(2, "a"), None);
        assert_eq!(load.remembered(2, "b"), Some(false));
    }
}
