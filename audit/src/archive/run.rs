//! A run over the finished segments of a log: those whose time here is over go to the
//! archive, the oldest first; or some come back.

use std::{fs, io, ops::ControlFlow, ops::Range, path::Path};

use jiff::{Span, Timestamp, tz::TimeZone};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use crate::{
    files,
    log::{Log, LogError},
    retention::whole_days,
};

/// Segments that may fail in a run before it ends, beside those that are damaged or have their
/// place in the archive taken: these would end every run.
const FAULTS_MAX: usize = 8;

/// Segments in a row that may not be in the archive as they were put there before a run ends: each
/// was sent there and read back whole, and a store that alters or loses them does so to all.
const LOST_MAX: usize = 8;

/// Longest time that segments can be kept here.
const AFTER_DAYS_MAX: i64 = 100 * 366;

/// How long finished segments stay here.
#[derive(Debug, Clone)]
pub struct After {
    span: Span,
    text: String,
}

impl After {
    /// Reads `30 days`.
    ///
    /// # Errors
    /// `PLS7580` for what is no such time.
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        let whole = whole_days(text).filter(|span| {
            let days = i64::from(span.get_years()) * 366
                + i64::from(span.get_months()) * 31
                + i64::from(span.get_weeks()) * 7
                + i64::from(span.get_days());
            days <= AFTER_DAYS_MAX
        });
        match whole {
            Some(span) => Ok(Self {
                span,
                text: text.trim().to_owned(),
            }),
            None => Err(Diagnostic::error(
                7580,
                format!("segments cannot be kept here for `{text}`"),
            )
            .help("a whole number of days, weeks, months or years: `30 days`")),
        }
    }

    /// Whether it is no time at all.
    pub fn is_none(&self) -> bool {
        self.span.is_zero()
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What was received before this moment may go, microseconds since the Unix epoch.
    fn before_us(&self, now: Timestamp) -> i64 {
        let moment = now.to_zoned(TimeZone::UTC).checked_sub(self.span);
        moment.map_or(i64::MIN, |moment| moment.timestamp().as_microsecond())
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Segments that are done.
    pub segments: u64,
    /// How many there are to do.
    pub segments_total: u64,
    /// Bytes that were moved.
    pub bytes: u64,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Segments that were moved.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What could not be done, and why.
    pub faults: Vec<String>,
    /// Whether another try may do some of that; what is damaged or lost waits for a person.
    #[serde(default = "of_before")]
    pub again: bool,
    /// Whether it was ended before its end.
    pub interrupted: bool,
    /// The segment, by its first record, at which it ended because the archive has it and those
    /// before it otherwise than they were put: the next run goes on behind it first.
    #[serde(default)]
    pub lost_at: Option<u64>,
}

/// Whether what a version of before left undone is tried again soon: it did so with all.
fn of_before() -> bool {
    true
}

/// A run that has ended, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When, microseconds since the Unix epoch.
    pub ended_us: i64,
    /// What it did.
    pub outcome: Outcome,
}

impl LastRun {
    /// Whether the next run is to be soon.
    pub fn is_again(&self) -> bool {
        let outcome = &self.outcome;
        outcome.again && (outcome.interrupted || !outcome.faults.is_empty())
    }

    /// Reads the file `path`; what cannot be read is as if it were not there.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        files::replace(path, &serde_json::to_vec(self)?, files::Sync::No)
    }
}

/// A run.
pub struct Run<'a> {
    /// The log, which has an archive.
    pub log: &'a Log,
    /// The moment that counts.
    pub now: Timestamp,
    /// [`Outcome::lost_at`] of the last run.
    pub behind: Option<u64>,
}

type Go<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

impl Run<'_> {
    /// Moves segments whose last record is older than `after`, as long as `progress` says so.
    /// Blocks on disk and store. A run that was interrupted is gone on with by the next.
    ///
    /// # Errors
    /// `PLS7586` when it cannot be told which.
    pub fn go(&self, after: &After, progress: Go<'_>) -> Result<Outcome, Diagnostic> {
        let mut outcome = Outcome::default();
        let untidy = self.log.tidy();
        outcome.interrupted = untidy.iter().any(LogError::is_of_archive);
        outcome.tells(untidy);
        if outcome.interrupted {
            outcome.tells(self.log.disown_all(&[], true));
            let _ = progress(Progress::default());
            return Ok(outcome);
        }
        let before_us = after.before_us(self.now);
        let mut faults = Vec::new();
        let mut due = self.log.movable(&mut faults);
        outcome.tells(faults);
        due.retain(|(_, last_us)| *last_us < before_us);
        let due: Vec<_> = due.into_iter().map(|(segment, _)| segment).collect();
        let firsts: Vec<u64> = due.iter().map(|segment| segment.start).collect();
        let mut due = due;
        if let Some(lost_at) = self.behind {
            let behind = due.partition_point(|segment| segment.start <= lost_at);
            due.rotate_left(behind);
        }
        let mut is_down = false;
        let mut outcome = self.each((due, LOST_MAX), outcome, progress, &mut |segment| {
            let moved = self.log.move_away(segment, &mut |_| Ok(()));
            moved.inspect_err(|error| is_down |= error.is_of_archive())
        })?;
        outcome.tells(self.log.disown_all(&firsts, is_down));
        Ok(outcome)
    }

    /// Brings segments back that have records received between `from_us` and `to_us`,
    /// microseconds since the Unix epoch. They stay for as long as others do.
    ///
    /// # Errors
    /// `PLS7586` when it cannot be told which.
    pub fn restore(
        &self,
        (from_us, to_us): (i64, i64),
        progress: Go<'_>,
    ) -> Result<Outcome, Diagnostic> {
        let mut outcome = Outcome::default();
        outcome.tells(self.log.tidy());
        let mut faults = Vec::new();
        let due = self.log.moved(&mut faults).map_err(|e| unread(&e))?;
        outcome.tells(faults);
        let due = due.into_iter();
        let due = due.filter(|span| span.first_us <= to_us && span.latest_us >= from_us);
        let due = due.map(|span| span.segment).collect();
        let since_us = self.now.as_microsecond();
        let outcome = self.each((due, usize::MAX), outcome, progress, &mut |segment| {
            self.log
                .bring_back(segment.start, since_us, &mut |_| Ok(()))
        })?;
        if outcome.segments > 0 {
            let said = format!("{} segments, {} bytes", outcome.segments, outcome.bytes);
            self.log.say_restored(said).map_err(|e| unread(&e))?;
        }
        Ok(outcome)
    }

    /// Believes a person that the objects at `store`, an address of before, are deleted which
    /// have what was dropped here.
    ///
    /// # Errors
    /// `PLS7596` for the archive that is used now, `PLS7586` when it cannot be told which.
    pub fn written_off(&self, store: &str) -> Result<Outcome, Diagnostic> {
        if self.log.archive().is_some_and(|now| now.url() == store) {
            return Err(Diagnostic::error(
                7596,
                format!("`{store}` is the archive that is used now"),
            )
            .help("what is to be deleted there is deleted by: palisade audit archive run"));
        }
        let segments = self.log.write_off(store).map_err(|e| unread(&e))?;
        Ok(Outcome {
            segments,
            ..Outcome::default()
        })
    }

    fn each(
        &self,
        (due, lost_max): (Vec<Range<u64>>, usize),
        mut outcome: Outcome,
        progress: Go<'_>,
        carry: &mut dyn FnMut(&Range<u64>) -> Result<u64, LogError>,
    ) -> Result<Outcome, Diagnostic> {
        let mut told = Progress {
            segments_total: due.len() as u64,
            ..Progress::default()
        };
        let (mut refused, mut lost) = (0, 0);
        for segment in due {
            if progress(told).is_break() || refused >= FAULTS_MAX {
                (outcome.interrupted, outcome.again) = (true, true);
                break;
            }
            match carry(&segment) {
                Ok(bytes) => {
                    lost = 0;
                    outcome.segments += 1;
                    outcome.bytes += bytes;
                }
                Err(error) => {
                    let down = error.is_of_archive();
                    refused += usize::from(!error.is_damage());
                    lost += usize::from(error.is_lost());
                    outcome.tells(vec![error]);
                    outcome.lost_at = (lost >= lost_max).then_some(segment.start);
                    if down || outcome.lost_at.is_some() {
                        outcome.interrupted = true;
                        break;
                    }
                }
            }
            told.segments += 1;
            told.bytes = outcome.bytes;
        }
        // Whoever looks on sees its end.
        let _ = progress(told);
        Ok(outcome)
    }
}

impl Outcome {
    fn tells(&mut self, errors: Vec<LogError>) {
        for error in errors {
            tracing::error!(%error, "a segment is not where it should be");
            self.again |= !error.is_damage();
            self.faults.push(error.diagnostic().to_string());
        }
    }
}

fn unread(error: &LogError) -> Diagnostic {
    Diagnostic::error(
        7586,
        "it cannot be told which segments could go to the archive or come back",
    )
    .cause(error.to_string())
    .help("nothing is lost; see: palisade audit verify")
}
