//! How long records are kept, by class, and what drops them when their time is over.
//!
//! A class without a period is kept for ever. The time of a record counts from its receipt,
//! on the clock of the log: no reporter makes its records older than they are. What a legal
//! hold is about stays, and what the check of the log rests on always does.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::{ControlFlow, Range},
};

use jiff::Timestamp;
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use crate::{
    holds::{Held, Holds},
    log::{Fate, Log, LogError, Thinning, Weight},
    query::field::CLASSES,
    told::OF_SEGMENT,
};

mod kept;
mod ledger;
mod periods;

pub use kept::HELD_IDS_MAX;
use kept::Kept;
use ledger::{Known, dropped_of};
pub use ledger::{LastRun, Ledger};
pub use periods::{ALWAYS_KEPT, PERIOD_DAYS_MAX, PERIOD_DAYS_MIN, Periods};
pub(crate) use periods::{days_of, whole_days};

/// What is between a class and its period where a run is recorded.
const KEPT_FOR: &str = " kept for ";

/// What a record of a run begins with.
const OF_RECORDS: &str = "of records ";

/// Segments that the disk may refuse in a run, one after another, before it ends. The next run
/// goes on behind them.
pub const FAULTS_MAX: usize = 8;

/// Times that the log is read for what holds keep while these may change.
const TURNS_MAX: usize = 3;

/// Faults of a run that are told.
pub const FAULTS_TOLD_MAX: usize = 64;

/// The classes that a record of a run names, each with the period that was over; none of a
/// record that says something else.
pub(crate) fn kept_for(detail: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = detail.split_once(": ").map_or("", |(_, parts)| parts);
    let parts = parts.split("; ").next().unwrap_or_default();
    parts.split(", ").filter_map(|part| {
        let (records, period) = part.split_once(KEPT_FOR)?;
        let (_, class) = records.split_once(' ')?;
        Some((class, period))
    })
}

/// The first record of the segment that a record of a run is about.
pub(crate) fn segment_of(detail: &str) -> Option<u64> {
    detail
        .strip_prefix(OF_RECORDS)?
        .split_once(" to ")?
        .0
        .parse()
        .ok()
}

/// The same of one that says that it was not done.
pub(crate) fn left_of(detail: &str) -> Option<u64> {
    let segment = detail.strip_prefix(OF_SEGMENT)?.split_once(": ")?.0;
    segment.parse().ok()
}

/// What a run is allowed at this moment; it is asked before each segment, so that what was
/// ordered meanwhile counts.
pub struct Turn {
    /// The holds, all of them.
    pub holds: Vec<Held>,
    /// Kept until the segment is done.
    pub guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Segments that were looked at.
    pub segments: u64,
    /// How many there are to look at.
    pub segments_total: u64,
    /// Records that were dropped, or would be.
    pub records: u64,
}

/// What a run did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Segments that were looked at.
    pub segments: u64,
    /// How many records of each class were dropped, and their bytes.
    pub dropped: BTreeMap<String, Counted>,
    /// Records whose time is over and which a hold keeps.
    pub held: u64,
    /// Bytes that the segments lost; in a preview, those of the records.
    pub bytes: u64,
    /// Segments that could not be done, and why.
    pub faults: Vec<String>,
    /// Whether another try may do some of them; what is damaged or lost waits for a person.
    #[serde(default)]
    pub again: bool,
    /// Whether it was ended before its end.
    pub interrupted: bool,
}

/// Records and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How many.
    pub records: u64,
    /// What they take, in bytes.
    pub bytes: u64,
}

impl Outcome {
    /// How many records were dropped, or would be.
    pub fn records(&self) -> u64 {
        self.dropped.values().map(|counted| counted.records).sum()
    }

    fn add(&mut self, dropped: &BTreeMap<&'static str, Weight>) {
        for (class, weight) in dropped {
            let counted = self.dropped.entry((*class).to_owned()).or_default();
            counted.records += weight.records;
            counted.bytes += weight.bytes;
        }
    }
}

/// A run over the segments of a log.
pub struct Run<'a> {
    /// The log.
    pub log: &'a Log,
    /// How long each class is kept.
    pub periods: &'a Periods,
    /// The moment that counts.
    pub now: Timestamp,
    /// Tell what would be done, and do nothing.
    pub dry: bool,
    /// The clock is right though it has leapt: whoever asks for the run has looked.
    pub sure: bool,
    /// Where it ends as in a crash, or fails.
    #[cfg(test)]
    pub(crate) crash: Option<(crate::log::Point, bool)>,
}

impl Run<'_> {
    /// Drops what is over, segment by segment, as long as `progress` says so. Blocks on the
    /// disk. A run that was interrupted is gone on with by the next.
    ///
    /// # Errors
    /// Those of `turn`, such as a hold that cannot be read; `PLS7575` when it cannot be
    /// told what holds keep; `PLS7578` when the clock has leapt; and `PLS7579` when a hold is
    /// not what was ordered. Nothing more is dropped then.
    pub fn go(
        &self,
        ledger: &mut Ledger,
        turn: &mut dyn FnMut() -> Result<Turn, Diagnostic>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Diagnostic> {
        let due = ledger.due(self.log, self.periods, self.now);
        if !self.dry {
            (ledger.damaged, ledger.refused) = (false, None);
        }
        let runs = !self.dry && !self.periods.is_empty();
        if runs {
            // Though nothing is due: a run that ends vouches for the clock.
            self.ask_the_clock(ledger)?;
            self.log.sweep();
        }
        if runs && !due.is_empty() {
            self.log.settle().map_err(|e| unread(&e))?;
        }
        let mut outcome = Outcome::default();
        let mut told = Progress {
            segments_total: due.len() as u64,
            ..Progress::default()
        };
        let mut kept = Kept::default();
        let (mut refused, mut store_is_away) = (0, false);
        for segment in due {
            if progress(told).is_break() {
                outcome.interrupted = true;
                break;
            }
            if store_is_away && self.log.is_away(segment.start) {
                continue;
            }
            let done = self.one(&segment, turn, &mut kept, (ledger, &mut outcome));
            let done = done.inspect_err(|_| ledger.damaged = kept.damaged)?;
            if let Err(error) = done {
                tracing::error!(%error, segment = segment.start, "records whose time is over are not dropped");
                if outcome.faults.len() < FAULTS_TOLD_MAX {
                    outcome.faults.push(error.to_string());
                }
                outcome.again |= !error.is_damage();
                store_is_away |= error.is_of_archive();
                refused += usize::from(!is_its_own(&error));
                if refused >= FAULTS_MAX {
                    ledger.refused = Some(segment.start);
                    outcome.interrupted = true;
                    break;
                }
            } else {
                refused = 0;
            }
            outcome.segments += 1;
            told.segments += 1;
            told.records = outcome.records();
        }
        #[cfg(test)]
        if self.crash.is_some_and(|(_, crash)| crash) {
            return Ok(outcome);
        }
        if runs && let Err(error) = self.log.settle() {
            // Until then the last of them may be undone without being named.
            outcome.again = true;
            outcome.faults.push(error.to_string());
        }
        // Whoever looks on sees its end.
        let _ = progress(told);
        if runs {
            ledger.last = Some(LastRun {
                ended_us: self.now.as_microsecond(),
                records: outcome.records(),
                bytes: outcome.bytes,
                faults: outcome.faults.clone(),
                again: outcome.again,
                interrupted: outcome.interrupted,
            });
        }
        Ok(outcome)
    }

    /// Refuses to go by a clock that has leapt: what a wrong one drops does not come back.
    fn ask_the_clock(&self, ledger: &Ledger) -> Result<(), Diagnostic> {
        let now_us = self.now.as_microsecond();
        // Runs go by the same clock as records, so that the last one vouches for it until then.
        let seen_us = ledger.last.as_ref().map(|last| last.ended_us);
        let leap = match self.sure {
            true => None,
            false => self.log.leap(seen_us, now_us).map_err(|e| unread(&e))?,
        };
        let Some((from_us, to_us)) = leap else {
            return Ok(());
        };
        let time = |us| Timestamp::from_microsecond(us).unwrap_or_default();
        Err(Diagnostic::error(
            7578,
            "the clock of the audit service has leapt: nothing is dropped",
        )
        .cause(format!(
            "from {:.0} to {:.0}, more than 31 days at once",
            time(from_us),
            time(to_us)
        ))
        .help(
            "if it is right, and the service was away: palisade audit retention run --trust-clock",
        ))
    }

    /// Asks what is allowed. The whole log is read where the holds are others than before; who
    /// has orders need not wait for that, unless they change them again and again.
    fn turn(
        &self,
        turn: &mut dyn FnMut() -> Result<Turn, Diagnostic>,
        kept: &mut Kept,
    ) -> Result<Option<tokio::sync::OwnedMutexGuard<()>>, Diagnostic> {
        for _ in 0..TURNS_MAX {
            let Turn { holds, guard } = turn()?;
            self.ask_the_log(&holds)?;
            if kept.is_about(&holds) {
                return Ok(guard);
            }
            drop(guard);
            kept.follow(self.log, holds)?;
        }
        let Turn { holds, guard } = turn()?;
        self.ask_the_log(&holds)?;
        kept.follow(self.log, holds)?;
        Ok(guard)
    }

    /// Refuses to go by a file of holds that is not what was ordered.
    fn ask_the_log(&self, held: &[Held]) -> Result<(), Diagnostic> {
        let now_us = self.now.as_microsecond();
        let compare = || {
            let ordered = self.log.holds(now_us).map_err(|e| unread(&e))?;
            Holds::compare(&ordered, held)
        };
        compare().or_else(|_| {
            // It may have been released a moment ago, which is not signed yet.
            self.log.await_signature().map_err(|e| unread(&e))?;
            compare()
        })
    }

    /// Does one segment. What is in an archive is fetched before anybody who has orders must
    /// wait.
    fn one(
        &self,
        segment: &Range<u64>,
        turn: &mut dyn FnMut() -> Result<Turn, Diagnostic>,
        kept: &mut Kept,
        (ledger, outcome): (&mut Ledger, &mut Outcome),
    ) -> Result<Result<(), LogError>, Diagnostic> {
        let fetched = match self.log.is_away(segment.start) {
            true => match self.log.open_once(segment) {
                Ok(file) => Some(file),
                Err(error) => return Ok(Err(error)),
            },
            false => None,
        };
        let _guard = self.turn(turn, kept)?;
        let file = match fetched {
            Some(file) => Ok(file),
            None => self.log.open_once(segment),
        };
        Ok(file.and_then(|file| self.segment((segment, file), kept, ledger, outcome)))
    }

    fn segment(
        &self,
        (segment, file): (&Range<u64>, File),
        kept: &Kept,
        ledger: &mut Ledger,
        outcome: &mut Outcome,
    ) -> Result<(), LogError> {
        let mut held = 0;
        let before: BTreeMap<&str, Option<i64>> = CLASSES
            .iter()
            .map(|class| (*class, self.periods.over_before_us(class, self.now)))
            .collect();
        let thinning = Thinning::weigh_in(
            self.log,
            file,
            segment.clone(),
            self.now.as_microsecond(),
            |index, time_us, envelope, peek| {
                let over = before.get(peek.class_name()).copied().flatten();
                if over.is_none_or(|over| time_us >= over) {
                    return Fate::Keep;
                }
                let leaf = |buf: &mut Vec<u8>| envelope.encode(buf);
                let is_held = !kept.is_empty() && kept.keeps(index, leaf);
                held += u64::from(is_held);
                match is_held {
                    true => Fate::Keep,
                    false => Fate::Drop,
                }
            },
        )?;
        let (dropped, stays) = (thinning.dropped.clone(), thinning.kept.clone());
        let was_away = self.log.is_away(segment.start);
        match (thinning.is_empty(), self.dry) {
            (true, _) => {}
            (false, true) => outcome.bytes += dropped.values().map(|w| w.bytes).sum::<u64>(),
            (false, false) => {
                let told = self.told(segment, &dropped, held);
                #[cfg(not(test))]
                let thinned = thinning.carry_out(told)?;
                #[cfg(test)]
                let thinned = thinning.carry_out_to(told, &mut |point| match self.crash {
                    Some((crash, true)) if crash == point => {
                        Err(std::io::Error::other(crate::log::Crash))
                    }
                    Some((crash, false)) if crash == point => Err(std::io::Error::other("a fault")),
                    _ => Ok(()),
                })?;
                outcome.bytes += thinned.bytes_before.saturating_sub(thinned.bytes);
            }
        }
        outcome.held += held;
        outcome.add(&dropped);
        if !self.dry {
            let known = Known {
                dropped: dropped_of(&self.log.lacking(), segment.start),
                oldest_us: stays,
            };
            ledger.segments.insert(segment.start, known);
        }
        if was_away && !self.dry && !dropped.is_empty() {
            // The object that has what was dropped goes, and the segment is another one.
            self.log.move_away(segment, &mut |_| Ok(()))?;
        }
        Ok(())
    }

    /// What the log says of it.
    fn told(
        &self,
        segment: &Range<u64>,
        dropped: &BTreeMap<&'static str, Weight>,
        held: u64,
    ) -> String {
        let classes = dropped.iter().map(|(class, weight)| {
            let period = self.periods.of(class).unwrap_or("no time");
            format!("{} {class}{KEPT_FOR}{period}", weight.records)
        });
        let classes = classes.collect::<Vec<_>>().join(", ");
        let held = match held {
            0 => String::new(),
            held => format!("; {held} stay under a legal hold"),
        };
        let (first, last) = (segment.start, segment.end.saturating_sub(1));
        format!("{OF_RECORDS}{first} to {last}: {classes}{held}")
    }
}

/// Whether an error says nothing of other segments: this one is damaged, or is in an archive and
/// cannot be had from there, which what is here does not need.
fn is_its_own(error: &LogError) -> bool {
    matches!(error, LogError::Tampered(_) | LogError::Away(_))
}

fn unread(error: &LogError) -> Diagnostic {
    Diagnostic::error(7576, "it cannot be told what was dropped before")
        .cause(error.to_string())
        .help("nothing is dropped meanwhile; see: palisade audit verify")
}

#[cfg(test)]
pub(crate) mod tests;
