//! What the log says of itself, read once from its beginning and then as it grows: what was
//! dropped, what was ordered of holds, and how its clock went.
//!
//! Nothing that lies beside the log is asked, for whoever can write there could say what they
//! like; each record that tells of something dropped, or of a hold, is proven under the latest
//! checkpoint. Of a segment that went to an archive what stays is asked, so that nothing has
//! to be fetched: a later record has the digest of that, and its own segment is either here or
//! vouched for in the same way.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use palisade_mesh::wire::record::{Admin, Dropping, LogLifecycle};

use super::{
    Log, LogError, Scan,
    reader::Shared,
    shift::{self, is_away},
};
use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    holds::{Ordered, Orders},
    merkle::{Hash, leaf, verify_inclusion},
    segment::Stub,
    told::{self, Told},
};

/// More time than this between two records, or since the last, is a leap of the clock: 31
/// days.
pub(super) const LEAP_US: i64 = 31 * 86_400_000_000;

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The record that is read next.
    position: u64,
    told: Told,
    /// What was ordered of holds.
    orders: Orders,
    /// The latest time of receipt before `position`.
    latest_us: Option<i64>,
    /// The times of receipt of each segment, the earliest and the latest, by its first record.
    times: BTreeMap<u64, (i64, i64)>,
    /// From when to when the clock leapt last.
    leap: Option<(i64, i64)>,
    /// A segment could not be read through: something that was told may be missing.
    damaged: bool,
    /// What stays of segments that went away, as it was found, of which no signed record tells
    /// so far.
    recalled: BTreeMap<u64, Hash>,
    /// What was told to be dropped and came to nothing, until the log says so.
    unsettled: Option<Dropping>,
}

impl Book {
    fn takes(&mut self, index: u64, said: Said) -> Result<(), &'static str> {
        match said {
            Said::OfDropping(said) => {
                if let Some(from) = said.unsigned_from {
                    self.orders.unsigned(index, from);
                }
                self.told.take(index, &said)
            }
            Said::OfHold(said) => {
                self.orders.take(index, said);
                Ok(())
            }
        }
    }

    /// Reads on to what is signed.
    fn follow(&mut self, shared: &Arc<Shared>) -> Result<(), LogError> {
        let signed = shared.checkpoint.borrow().size;
        let firsts = {
            let segments = shared.segments.read();
            segments
                .unwrap_or_else(PoisonError::into_inner)
                .firsts
                .clone()
        };
        let away = |first: &u64| is_away(&shared.dir, *first);
        while self.position < signed {
            let after = firsts.partition_point(|first| *first <= self.position);
            let at = after.checked_sub(1).and_then(|at| firsts.get(at)).copied();
            if let Some(first) = at.filter(away) {
                self.recalls(shared, first)?;
                continue;
            }
            let ahead = firsts.get(after..).unwrap_or_default();
            let until = ahead.iter().copied().find(away).unwrap_or(signed);
            let until = until.min(signed);
            let mut scan = Scan::new(shared.clone(), self.position).until(until);
            match self.read(&mut scan, shared, until, &firsts) {
                Ok(()) => self.position = until,
                Err(LogError::Tampered(damage)) => {
                    tracing::warn!(%damage, "what the log says of itself is read on after a damaged segment");
                    self.damaged = true;
                    let next = firsts.iter().find(|first| **first > damage.leaf);
                    self.position = next.copied().unwrap_or(signed).min(signed);
                }
                Err(error) => return Err(error),
            }
        }
        let told = &self.told;
        self.recalled
            .retain(|first, stub| !told.is_moved(*first, stub));
        // Whoever asks is told as long as it is so.
        match self.recalled.keys().next() {
            None => Ok(()),
            Some(first) => {
                self.damaged = true;
                Err(shift::untold(*first))
            }
        }
    }

    /// Takes in what stays of a segment that went away. It is believed once a signed record
    /// says that this stays.
    fn recalls(&mut self, shared: &Shared, first: u64) -> Result<(), LogError> {
        let stub =
            Stub::read(&shared.dir, first).map_err(LogError::io(Stub::path(&shared.dir, first)))?;
        let checkpoint = shared.checkpoint.borrow().clone();
        for said in &stub.moved.said {
            let envelope = EnvelopeRef::decode(&said.leaf);
            let told = envelope.and_then(|e| Said::of(shared, &e));
            if let Some(told) = told.filter(|_| said.index >= self.position) {
                self.hears(shared, &checkpoint, said.index, told, &leaf(&said.leaf))?;
            }
        }
        let moved = &stub.moved;
        if moved.leap_from_us != moved.leap_to_us {
            self.leap = Some((moved.leap_from_us, moved.leap_to_us));
        }
        let times = (moved.first_us, moved.latest_us);
        self.times.insert(first, times);
        self.latest_us = self.latest_us.max(Some(moved.latest_us));
        self.recalled.insert(first, stub.digest);
        self.position = moved.next;
        Ok(())
    }

    fn read(
        &mut self,
        scan: &mut Scan,
        shared: &Shared,
        signed: u64,
        firsts: &[u64],
    ) -> Result<(), LogError> {
        let checkpoint = shared.checkpoint.borrow().clone();
        loop {
            let next = scan.next_leaf().map(|read| {
                read.map(|(index, bytes)| {
                    let envelope = EnvelopeRef::decode(bytes);
                    let said = envelope.and_then(|e| Said::of(shared, &e));
                    let said = said.map(|said| (said, leaf(bytes)));
                    (index, envelope.map(|e| e.received_us), said)
                })
            });
            let passed_us = scan.passed_us();
            let (index, received_us, said) = match next.transpose()? {
                Some(read) if read.0 < signed => read,
                _ => {
                    self.passes(signed, passed_us, firsts);
                    return Ok(());
                }
            };
            self.passes(index, passed_us, firsts);
            if let Some(received_us) = received_us {
                self.receives(index, received_us, firsts);
            }
            if let Some((said, hash)) = said {
                self.hears(shared, &checkpoint, index, said, &hash)?;
            }
            self.position = index + 1;
        }
    }

    /// Notes that all before `index` is read, of which some was dropped.
    fn passes(&mut self, index: u64, dropped_us: Option<i64>, firsts: &[u64]) {
        if let (Some(dropped_us), Some(last)) = (dropped_us, index.checked_sub(1)) {
            self.receives(last, dropped_us, firsts);
        }
    }

    fn receives(&mut self, index: u64, received_us: i64, firsts: &[u64]) {
        let next = firsts.partition_point(|first| *first <= index);
        if let Some(first) = next.checked_sub(1).and_then(|at| firsts.get(at)) {
            let times = self
                .times
                .entry(*first)
                .or_insert((received_us, received_us));
            *times = (times.0.min(received_us), times.1.max(received_us));
        }
        if let Some(latest_us) = self.latest_us
            && received_us.saturating_sub(latest_us) > LEAP_US
        {
            self.leap = Some((latest_us, received_us));
        }
        self.latest_us = Some(self.latest_us.map_or(received_us, |us| us.max(received_us)));
    }

    fn hears(
        &mut self,
        shared: &Shared,
        checkpoint: &super::Checkpoint,
        index: u64,
        said: Said,
        hash: &Hash,
    ) -> Result<(), LogError> {
        let proof = shared.prove_under(index, checkpoint.size)?;
        let proven = verify_inclusion(hash, index, checkpoint.size, &proof, &checkpoint.root);
        let wrong = match proven {
            Ok(()) => self.takes(index, said).err().map(ToOwned::to_owned),
            Err(error) => Some(error.to_string()),
        };
        if let Some(wrong) = wrong {
            tracing::error!(index, %wrong, "what the log says of what was dropped does not fit");
            self.damaged = true;
        }
        Ok(())
    }
}

/// What a record says that is noted here.
pub(super) enum Said {
    OfDropping(LogLifecycle),
    OfHold(Admin),
}

impl Said {
    pub(super) fn of(shared: &Shared, envelope: &EnvelopeRef<'_>) -> Option<Self> {
        let (key, peek) = (&shared.verifier, RecordPeek::new(envelope.record)?);
        told::said(key, envelope, &peek)
            .map(Self::OfDropping)
            .or_else(|| told::ordered(key, envelope, &peek).map(Self::OfHold))
    }
}

/// Works with what the log says of itself, as of its latest checkpoint.
pub(super) fn with<T>(log: &Log, ask: impl FnOnce(&mut Book) -> T) -> Result<T, LogError> {
    let shared = &log.inner.shared;
    let mut book = shared.book.lock().unwrap_or_else(PoisonError::into_inner);
    book.follow(shared)?;
    Ok(ask(&mut book))
}

/// Reads all again if a part could not be read: what was damaged may be mended by now.
pub(super) fn look_again(log: &Log) {
    let book = log.inner.shared.book.lock();
    let mut book = book.unwrap_or_else(PoisonError::into_inner);
    if book.damaged {
        *book = Book {
            unsettled: book.unsettled.take(),
            ..Book::default()
        };
    }
}

impl Book {
    /// What was told.
    pub(super) fn told(&self) -> &Told {
        &self.told
    }

    /// What was ordered of holds, as far as it counts and is in force at `now_us`.
    pub(super) fn holds(&self, now_us: i64) -> Vec<Ordered> {
        self.orders.in_force(now_us)
    }

    /// The latest time of receipt before the segment that begins with `first`, no later than
    /// `now_us`: what is later was stamped by a clock that was ahead.
    pub(super) fn before_us(&self, first: u64, now_us: i64) -> i64 {
        let before = self.times.range(..first).map(|(_, times)| times);
        let sane = before.flat_map(|(from, to)| [*from, *to]);
        sane.filter(|us| *us <= now_us).max().unwrap_or(i64::MIN)
    }

    /// From when to when the clock leapt last, at the latest from the last record to `now_us`,
    /// if that was after `seen_us`, when it was looked at.
    pub(super) fn leap(&self, seen_us: Option<i64>, now_us: i64) -> Option<(i64, i64)> {
        let last = self.latest_us.map(|latest_us| (latest_us, now_us));
        let since = |(from, to): (i64, i64)| {
            let from = seen_us.map_or(from, |seen_us| from.max(seen_us));
            (to.saturating_sub(from) > LEAP_US).then_some((from, to))
        };
        last.and_then(since).or(self.leap.and_then(since))
    }

    pub(super) fn unsettled(&mut self) -> &mut Option<Dropping> {
        &mut self.unsettled
    }
}
