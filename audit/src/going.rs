//! Long work that goes on while somebody waits for it: whether anybody still does, and how far
//! it is.
//!
//! Whoever waits has one end and whoever works the other: the work asks between records, and
//! ends soon after nobody waits any more.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Records between two times that a reading counts them.
const STRETCH: u64 = 1024;

/// Shares of one part that are told apart.
const SHARES: u64 = 1000;

/// Work that somebody waits for. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Going(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ended: AtomicBool,
    /// Told when it ends.
    told: Notify,
    count: Mutex<Count>,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Count {
    /// Records that were read, each as often as it was.
    records: u64,
    /// Parts that the work is known to have.
    parts: u64,
    /// Those that are done.
    done: u64,
    /// Records that were read for the part at hand, and how many are known to be.
    part: (u64, u64),
}

/// Nobody waits for the work any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody waits for it any more")]
pub struct Ended;

/// How far work is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Far {
    /// Records that were read, each as often as it was.
    pub records: u64,
    /// How much of all is done.
    pub done: u64,
    /// All.
    pub all: u64,
}

impl Going {
    /// Nobody waits any more: the work is to end.
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::SeqCst);
        self.0.told.notify_waiters();
    }

    /// Whether nobody waits any more.
    pub fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Resolves when nobody waits any more.
    pub async fn gone(&self) {
        let mut told = pin!(self.0.told.notified());
        // From here on no end is missed.
        told.as_mut().enable();
        if !self.0.ended.load(Ordering::SeqCst) {
            told.await;
        }
    }

    /// Asks whether to go on.
    ///
    /// # Errors
    /// [`Ended`] when nobody waits any more.
    pub fn ask(&self) -> Result<(), Ended> {
        match self.has_ended() {
            false => Ok(()),
            true => Err(Ended),
        }
    }

    /// The work is found to have so many parts more.
    pub fn parts(&self, more: usize) {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        let mut count = self.count();
        count.parts = count.parts.saturating_add(more);
    }

    /// A part is done.
    pub fn part_done(&self) {
        let mut count = self.count();
        count.done += 1;
        count.part = (0, 0);
    }

    /// A reading of about so many records begins.
    pub fn reading(&self, records: u64) -> Reading {
        let mut count = self.count();
        count.part.1 = count.part.1.saturating_add(records);
        Reading {
            going: self.clone(),
            uncounted: 0,
        }
    }

    /// How far it is.
    pub fn far(&self) -> Far {
        let count = self.count();
        let (read, expected) = count.part;
        let share = read.saturating_mul(SHARES) / expected.max(1);
        // It is not done before it says so.
        let share = share.min(SHARES - 1);
        let done = count.done.saturating_mul(SHARES).saturating_add(share);
        let all = count.parts.saturating_mul(SHARES);
        Far {
            records: count.records,
            done: done.min(all),
            all,
        }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records that are read one after the other. What was read is counted when it is dropped, too.
#[derive(Debug)]
pub struct Reading {
    going: Going,
    /// Records that were read since they were counted.
    uncounted: u64,
}

impl Reading {
    /// So many records more were read, or gone past.
    ///
    /// # Errors
    /// [`Ended`] when nobody waits for more.
    pub fn read(&mut self, records: u64) -> Result<(), Ended> {
        self.uncounted = self.uncounted.saturating_add(records);
        if self.uncounted >= STRETCH {
            self.count();
        }
        self.going.ask()
    }

    fn count(&mut self) {
        let records = std::mem::take(&mut self.uncounted);
        let mut count = self.going.count();
        count.records = count.records.saturating_add(records);
        count.part.0 = count.part.0.saturating_add(records);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done is told by parts, and within one by its records; the end is heard by
    /// whoever reads.
    #[test]
    fn work_tells_how_far_it_is_and_hears_that_nobody_waits() {
        let going = Going::default();
        assert_eq!(going.far(), Far::default());
        going.parts(2);
        let mut reading = going.reading(4 * STRETCH);
        reading.read(STRETCH - 1).unwrap();
        assert_eq!(going.far().records, 0);
        reading.read(1).unwrap();
        let quarter = Far {
            records: STRETCH,
            done: 250,
            all: 2000,
        };
        assert_eq!(going.far(), quarter);
        reading.read(1).unwrap();
        drop(reading);
        assert_eq!(going.far().records, STRETCH + 1);
        // More than was expected does not end a part.
        going.reading(0).read(9 * STRETCH).unwrap();
        assert_eq!(going.far().done, 999);
        going.part_done();
        assert_eq!(going.far().done, 1000);
        going.part_done();
        assert_eq!(going.far().done, 2000);
        assert_eq!(going.ask(), Ok(()));
        let mut reading = going.reading(1);
        going.clone().end();
        assert_eq!(reading.read(1), Err(Ended));
        assert_eq!(going.ask(), Err(Ended));
    }
}
