//! Who reports, and who has stopped; live, beside the log.
//!
//! Reporters that sign heads say something every ten seconds. One that does not, and
//! has not said farewell, is silent: it was killed, cut off, or keeps its records to
//! itself. Its next start names the one before, and clears it; for a day, for one that is heard
//! again after that is not over.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use palisade_mesh::clock::Clock;
use serde::Serialize;

use crate::{
    envelope::EnvelopeRef,
    heads::{CERTIFICATES_EVERY, Roots},
    log::{Log, LogError},
    spool::HEADS_EVERY,
};

mod held;
mod seen;
mod signatory;
mod vouched;

use seen::Seen;

/// How long a reporter may say nothing before it is silent: three heads, and some time
/// for the way.
pub const SILENT_AFTER: Duration = Duration::from_secs(3 * HEADS_EVERY.as_secs() + 5);

/// The same for one of which no certificate is known, because its first heads were before
/// what was read: nothing that it says is believed until it sends it again.
const UNKNOWN_AFTER: Duration =
    Duration::from_secs(SILENT_AFTER.as_secs() + CERTIFICATES_EVERY as u64 * HEADS_EVERY.as_secs());

/// How long a silent reporter is an alarm; after that the log alone remembers it.
pub const SILENT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Records that a start looks back over.
const LOOK_BACK: u64 = 1 << 20;

/// Contradictions that are remembered; more are counted.
const FAULTS_MAX: usize = 100;

/// A reporter that says nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// Who.
    pub reporter: String,
    /// Which start of it.
    pub boot: String,
    /// When it was last heard, microseconds since the Unix epoch.
    pub heard_us: i64,
}

/// A contradiction between records and what their reporter signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which records, or what is wrong with the signature.
    pub what: String,
    /// When the log received what was signed, microseconds since the Unix epoch.
    pub at_us: i64,
}

/// Records that were stepped over, because they cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// How many.
    pub records: u64,
    /// Why, of the first of them.
    pub why: String,
}

/// What follows the log.
pub struct Watch {
    log: Log,
    clock: Clock,
    began: Instant,
    began_us: i64,
    roots: OnceLock<Arc<dyn Roots>>,
    seen: Mutex<Seen>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches `log`, and what was last said in it.
    pub fn new(log: Log, clock: Clock) -> Self {
        // Nothing is fetched for it.
        let position = log.len().saturating_sub(LOOK_BACK).max(log.here_from());
        let seen = Seen::new(position, log.verifier().name());
        Self {
            log,
            began: Instant::now(),
            began_us: clock.now_us(),
            clock,
            roots: OnceLock::new(),
            seen: Mutex::new(seen),
        }
    }

    /// Holds certificates that come with heads from now on against the trust bundle, where the
    /// log does not say that they were issued.
    pub fn trust(&self, roots: Arc<dyn Roots>) {
        let _ = self.roots.set(roots);
    }

    /// Reads what is new. Blocks while it does. What cannot be read is stepped over, for
    /// what follows it is said by others; of what the disk does not give, only after some tries.
    ///
    /// # Errors
    /// When the log cannot be read now.
    pub fn catch_up(&self) -> Result<(), LogError> {
        while let Err(error) = self.read_on() {
            if !self.seen().step_over(&error, self.log.len()) {
                return Err(error);
            }
        }
        self.seen().forget(self.passed());
        Ok(())
    }

    fn read_on(&self) -> Result<(), LogError> {
        let from = self.seen().position;
        let mut scan = self.log.scan(from);
        while let Some(read) = scan.next_leaf() {
            let (index, leaf) = read?;
            let mut seen = self.seen();
            seen.read(index);
            if let Some(envelope) = EnvelopeRef::decode(leaf) {
                // What came before was held against the bundle of then, by who ran then.
                let is_new = envelope.received_us >= self.began_us;
                let roots = self.roots.get().filter(|_| is_new).map(AsRef::as_ref);
                seen.take(&envelope, (self.passed(), self.clock.now_us()), roots);
            }
        }
        Ok(())
    }

    /// What could not be read since the start.
    pub fn unread(&self) -> Option<Unread> {
        self.seen().unread.clone()
    }

    /// Who is silent now.
    pub fn silent(&self) -> Vec<Silent> {
        self.seen().silent(self.passed())
    }

    /// Of whom nothing is here since then, for longer than they rest; other than the alarm, also
    /// right after a start of ours.
    pub fn unheard(&self) -> Vec<Silent> {
        self.seen().unheard(self.passed())
    }

    /// Contradictions between records and what their reporters signed, since the start,
    /// and how many more there were.
    pub fn faults(&self) -> (Vec<Fault>, u64) {
        self.seen().faults()
    }

    /// Stretches of records that were not compared with what was signed of them, because too
    /// much was out of order or open, or waited for a certificate; `audit verify` compares them.
    pub fn uncompared(&self) -> u64 {
        self.seen().uncompared()
    }

    /// How much time has passed since the start, however the clock was set meanwhile.
    fn passed(&self) -> Duration {
        let manual = self.clock.steady_us().map(Duration::from_micros);
        manual.unwrap_or_else(|| self.began.elapsed())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
