//! How long records are kept, by class, and what drops them when their time is over.
//!
//! A class without a period is kept for ever. The time of a record counts from its receipt,
//! on the clock of the log: no reporter makes its records older than they are. What a legal
//! hold is about stays, and what the check of the log rests on always does.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    ops::{ControlFlow, Range},
    path::Path,
};

use jiff::{Span, Timestamp, tz::TimeZone};
use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::{audit::Envelope, record::Record},
};
use prost::Message as _;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use crate::{
    envelope::class_name,
    files,
    holds::{Held, Holds},
    item::Item,
    log::{Fate, Lacking, Log, LogError, Thinning, Weight},
    query::field::CLASSES,
    source::Entry,
    told::OF_SEGMENT,
};

/// Shortest period, in days, a month counted as 28: a record that a spool brings so late
/// still finds what belongs to it, and both sides of a request are there to be compared.
pub const PERIOD_DAYS_MIN: i64 = 31;

/// Longest period, in days, a year counted as 366.
pub const PERIOD_DAYS_MAX: i64 = 100 * 366;

/// Classes that are always kept: they say what else is in the log, what is missing from it,
/// and what was dropped or erased.
pub const ALWAYS_KEPT: [&str; 4] = ["log_lifecycle", "stream_head", "stream_heads", "erasure"];

/// Classes of which the second is kept no shorter than the first: what is asked of the first
/// is answered from both.
const TOGETHER: (&str, &str) = ("decision", "outcome");

/// 2101-01-01T00:00:00Z, after a year without a leap day.
const FIXED_S: i64 = 4_133_980_800;

/// What is between a class and its period where a run is recorded.
const KEPT_FOR: &str = " kept for ";

/// What a record of a run begins with.
const OF_RECORDS: &str = "of records ";

/// Most ids that holds may keep at a time.
pub const HELD_IDS_MAX: usize = 4_000_000;

/// Segments that the disk may refuse in a run, one after another, before it ends. The next run
/// goes on behind them.
pub const FAULTS_MAX: usize = 8;

/// Times that the log is read for what holds keep while these may change.
const TURNS_MAX: usize = 3;

/// Faults of a run that are told.
pub const FAULTS_TOLD_MAX: usize = 64;

/// How long records of each class are kept.
#[derive(Debug, Clone, Default)]
pub struct Periods(BTreeMap<&'static str, Period>);

/// A period, as it was written.
#[derive(Debug, Clone)]
struct Period {
    span: Span,
    text: String,
}

impl Periods {
    /// Reads what is written, by class: `13 months`.
    ///
    /// # Errors
    /// `PLS7574` for each period that is none, is out of range, is of a class that is always
    /// kept, or lets outcomes go before their decisions.
    pub fn parse<'t>(
        written: impl IntoIterator<Item = (&'static str, &'t str)>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut periods = BTreeMap::new();
        let mut found = Vec::new();
        for (class, text) in written {
            let period = match CLASSES.contains(&class) && !ALWAYS_KEPT.contains(&class) {
                true => period(class, text),
                false => Err(
                    Diagnostic::error(7574, format!("`{class}` is kept for ever"))
                        .help("the check of the log rests on it; leave it out"),
                ),
            };
            match period {
                Ok(period) => drop(periods.insert(class, period)),
                Err(mistake) => found.push(mistake),
            }
        }
        let (first, second) = TOGETHER;
        if let Some(short) = periods.get(second)
            && periods
                .get(first)
                .is_none_or(|long| seconds(&short.span) < seconds(&long.span))
            && found.is_empty()
        {
            let kept = periods.get(first).map_or("ever", |long| &long.text);
            let told = format!(
                "`{second}` is kept for {}, `{first}` for {kept}",
                short.text
            );
            found.push(
                Diagnostic::error(7574, told)
                    .cause(format!(
                        "what is asked of a {first} is answered from its {second}, too"
                    ))
                    .help(format!(
                        "give {second} the period of {first} or a longer one"
                    )),
            );
        }
        match found.is_empty() {
            true => Ok(Self(periods)),
            false => Err(found),
        }
    }

    /// Whether everything is kept for ever.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each class that is not kept for ever, with its period as it was written.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0
            .iter()
            .map(|(class, period)| (*class, period.text.as_str()))
    }

    /// The period of `class`, as it was written.
    pub fn of(&self, class: &str) -> Option<&str> {
        self.0.get(class).map(|period| period.text.as_str())
    }

    /// The moment, microseconds since the Unix epoch, such that the time of what was received
    /// before it is over; none for a class that is kept for ever.
    pub fn over_before_us(&self, class: &str, now: Timestamp) -> Option<i64> {
        let period = self.0.get(class)?;
        let now = now.to_zoned(TimeZone::UTC);
        // Before all time, nothing is over.
        let moment = now.checked_sub(period.span).ok()?;
        Some(moment.timestamp().as_microsecond())
    }
}

fn period(class: &str, text: &str) -> Result<Period, Diagnostic> {
    let help = "a whole number of days, weeks, months or years: `13 months`, `7y`";
    let span: Option<Span> = text.parse().ok();
    let whole = span.filter(|span| {
        let hours = span.get_hours() != 0 || span.get_minutes() != 0 || span.get_seconds() != 0;
        let less = span.get_milliseconds() != 0
            || span.get_microseconds() != 0
            || span.get_nanoseconds() != 0;
        !hours && !less && !span.is_negative()
    });
    let Some(span) = whole else {
        let told = format!("`{class}` cannot be kept for `{text}`");
        return Err(Diagnostic::error(7574, told).help(help));
    };
    let told = format!("`{class}` cannot be kept for `{text}`, out of range");
    match days(&span) {
        ..PERIOD_DAYS_MIN => Err(Diagnostic::error(7574, told)
            .cause(format!(
                "a spool may bring records {PERIOD_DAYS_MIN} days late, and they must find what belongs to them"
            ))
            .help(format!("{PERIOD_DAYS_MIN} days or more; a month counts as 28 here"))),
        PERIOD_DAYS_MIN..=PERIOD_DAYS_MAX => Ok(Period {
            span,
            text: text.trim().to_owned(),
        }),
        _ => Err(Diagnostic::error(7574, told)
            .help("at most 100 years; what is not named is kept for ever")),
    }
}

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

/// How many days a period has, as it was written; in a year with a leap day one more counts
/// for it.
pub(crate) fn days_of(period: &str) -> Option<i64> {
    let span: Span = period.parse().ok()?;
    let years = i64::from(span.get_years()) + i64::from(span.get_months()) / 12;
    let leap_days = if years > 0 { years / 4 + 1 } else { 0 };
    Some(seconds(&span) / 86_400 + leap_days)
}

/// How many days a span has at least.
fn days(span: &Span) -> i64 {
    let (years, months) = (i64::from(span.get_years()), i64::from(span.get_months()));
    years * 365 + months * 28 + i64::from(span.get_weeks()) * 7 + i64::from(span.get_days())
}

/// How long a span is before a fixed moment, to tell which of two is longer.
fn seconds(span: &Span) -> i64 {
    let fixed = Timestamp::from_second(FIXED_S).unwrap_or_default();
    let before = fixed.to_zoned(TimeZone::UTC).checked_sub(*span);
    before.map_or(i64::MAX, |before| FIXED_S - before.timestamp().as_second())
}

/// Version of the file that a ledger is kept in.
const LEDGER_VERSION: u32 = 2;

/// What is known of the segments of a log without reading them: the time of the oldest record
/// of each class that is there. Lost, it is found out again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    version: u32,
    /// Of which log.
    log: String,
    /// By first record of the segment.
    segments: BTreeMap<u64, Known>,
    /// What the last run came to.
    pub last: Option<LastRun>,
    /// Whether the last run did not go on because of damage, which no other try mends.
    #[serde(default)]
    pub damaged: bool,
    /// Where the last run ended because the disk refused: the next goes on behind it first.
    #[serde(default)]
    refused: Option<u64>,
}

/// What is known of a segment, as long as it lacks so many records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    dropped: u64,
    /// By class as in `record.proto`.
    oldest_us: BTreeMap<u32, i64>,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When, microseconds since the Unix epoch.
    pub ended_us: i64,
    /// Records that were dropped.
    pub records: u64,
    /// Bytes that the segments lost.
    pub bytes: u64,
    /// Why something was not done.
    pub faults: Vec<String>,
    /// Whether another try may do some of that; what is damaged or lost waits for a person.
    #[serde(default = "of_before")]
    pub again: bool,
    /// Whether it was ended before its end.
    pub interrupted: bool,
}

/// Whether what a version of before left undone is tried again soon: it did so with all.
fn of_before() -> bool {
    true
}

impl LastRun {
    /// Whether the next run is to be soon.
    pub fn is_again(&self) -> bool {
        self.interrupted || (self.again && !self.faults.is_empty())
    }
}

impl Ledger {
    /// Of a log of which nothing is known.
    pub fn new(log: &Log) -> Self {
        Self {
            version: LEDGER_VERSION,
            log: log.id(),
            segments: BTreeMap::new(),
            last: None,
            damaged: false,
            refused: None,
        }
    }

    /// Reads the file `path`; what cannot be read, or is about another log, is as if it were
    /// not there.
    pub fn load(path: &Path, log: &Log) -> Self {
        let read = fs::read(path).ok();
        let read: Option<Self> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let new = Self::new(log);
        read.filter(|read| (read.version, &read.log) == (new.version, &new.log))
            .unwrap_or(new)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        files::replace(path, &serde_json::to_vec(self)?, files::Sync::No)
    }

    /// Segments in which something may be over at `now`, the oldest first, but for those up to
    /// where the disk refused to go on, which come last.
    fn due(&self, log: &Log, periods: &Periods, now: Timestamp) -> Vec<Range<u64>> {
        let mut sealed = log.sealed();
        if periods.is_empty() {
            sealed.clear();
        }
        let before: BTreeMap<&str, i64> = periods
            .each()
            .filter_map(|(class, _)| Some((class, periods.over_before_us(class, now)?)))
            .collect();
        let over = |(class, first): (&u32, &i64)| {
            let before = before.get(class_name(*class));
            before.is_some_and(|over| first < over)
        };
        let lacking = log.lacking();
        sealed.retain(|segment| {
            let known = self.segments.get(&segment.start);
            // One that was put back, or whose thinning came to nothing, is another.
            let known = known.filter(|known| known.dropped == dropped_of(&lacking, segment.start));
            known.is_none_or(|known| known.oldest_us.iter().any(over))
        });
        if let Some(refused) = self.refused {
            let behind = sealed.partition_point(|segment| segment.start <= refused);
            sealed.rotate_left(behind);
        }
        sealed
    }
}

/// How many records of the segment that begins with `first` were dropped.
fn dropped_of(lacking: &[Lacking], first: u64) -> u64 {
    let at = lacking.binary_search_by_key(&first, |lacking| lacking.segment);
    let of = at.ok().and_then(|at| lacking.get(at));
    of.map_or(0, Lacking::records)
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
                        Err(io::Error::other(crate::log::Crash))
                    }
                    Some((crash, false)) if crash == point => Err(io::Error::other("a fault")),
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

/// What holds keep.
#[derive(Default)]
struct Kept {
    holds: Vec<Held>,
    /// Ids under which there is a record that is held: what belongs to it is, too.
    ids: FxHashSet<[u8; 16]>,
    /// Whether damage to the log keeps them from being known.
    damaged: bool,
}

impl Kept {
    /// Looks in the whole log for what is held, where the holds are others than before: what
    /// belongs to a record may come long after it.
    fn follow(&mut self, log: &Log, holds: Vec<Held>) -> Result<(), Diagnostic> {
        if self.is_about(&holds) {
            return Ok(());
        }
        self.holds = holds;
        self.ids = match self.is_empty() {
            true => FxHashSet::default(),
            false => self.held_ids(log, HELD_IDS_MAX)?,
        };
        Ok(())
    }

    /// Whether it is what these keep.
    fn is_about(&self, holds: &[Held]) -> bool {
        let known = self.holds.iter().map(|hold| &hold.id);
        known.eq(holds.iter().map(|hold| &hold.id))
    }

    /// The ids of what is held, no more than `most`. What cannot be read may be held, and so may
    /// what belongs to it, however late it came: then nothing is known.
    fn held_ids(&mut self, log: &Log, most: usize) -> Result<FxHashSet<[u8; 16]>, Diagnostic> {
        let mut ids = FxHashSet::default();
        for entry in log.scan(0) {
            let entry = match entry {
                Ok(entry) => entry,
                // It stays, whatever it is.
                Err(LogError::Undecodable { .. }) => continue,
                Err(error) => {
                    self.damaged = error.is_damage();
                    return Err(untold(&error.to_string()));
                }
            };
            let item = item(entry.index, entry.envelope, entry.record);
            if let Ok(id) = <[u8; 16]>::try_from(item.record.id.as_slice())
                && self.holds.iter().any(|hold| hold.may_keep(&item))
            {
                ids.insert(id);
            }
            if ids.len() > most {
                return Err(untold(&format!("they keep more than {most} ids")));
            }
        }
        Ok(ids)
    }

    fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// Whether the record at `index` stays; one that cannot be decoded does.
    fn keeps(&self, index: u64, leaf: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut bytes = Vec::new();
        leaf(&mut bytes);
        let Ok(envelope) = Envelope::decode(bytes.as_slice()) else {
            return true;
        };
        let Ok(record) = Record::decode(envelope.record.clone()) else {
            return true;
        };
        let id = <[u8; 16]>::try_from(record.id.as_slice());
        if id.is_ok_and(|id| self.ids.contains(&id)) {
            return true;
        }
        let item = item(index, envelope, record);
        self.holds.iter().any(|hold| hold.may_keep(&item))
    }
}

/// Whether an error says nothing of other segments: this one is damaged, or is in an archive and
/// cannot be had from there, which what is here does not need.
fn is_its_own(error: &LogError) -> bool {
    matches!(error, LogError::Tampered(_) | LogError::Away(_))
}

fn item(index: u64, envelope: Envelope, record: Record) -> Item {
    Item::new(Entry {
        index,
        envelope,
        record,
    })
}

fn unread(error: &LogError) -> Diagnostic {
    Diagnostic::error(7576, "it cannot be told what was dropped before")
        .cause(error.to_string())
        .help("nothing is dropped meanwhile; see: palisade audit verify")
}

fn untold(cause: &str) -> Diagnostic {
    Diagnostic::error(7575, "it cannot be told which records are held")
        .cause(cause.to_owned())
        .help("nothing is dropped meanwhile; release holds, or see: palisade audit verify")
}

#[cfg(test)]
pub(crate) mod tests;
