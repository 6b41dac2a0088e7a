//! Questions whose answer is a summary.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use palisade_mesh::diagnostic::{Diagnostic, did_you_mean};
use rustc_hash::FxHashMap;

use super::{
    Answer, Counted, CountedByTime, Cursor, FACETS_MAX, Facet, Faceted, Group, Step, Store,
    StoreError,
    bucket::View,
    micros,
    rollup::{self, Rolled},
    search::Snapshot,
    tally::{Cell, Tally},
};
use crate::query::{
    FIELDS, Field, Query, Sort, SortKey, Stage, Summary, TOP_MAX, Window,
    time::{SECOND_US, rfc3339, step_for},
};

/// Steps of a timeline whose step is not written: what fits a screen.
const STEPS_DEFAULT: i64 = 60;

impl Store {
    /// Answers a query as it stands: records, or the summary it asks for.
    ///
    /// # Errors
    /// As [`Store::search`]; `PLS7112` for a timeline of too many steps.
    pub fn answer(
        &self,
        query: &Query,
        limit: usize,
        cursor: Option<Cursor>,
    ) -> Result<Answer, StoreError> {
        let Some(stage) = query.stage() else {
            return Ok(Answer::Rows(self.search(query, limit, cursor)?));
        };
        Ok(match &stage.summary {
            Summary::Count { by } | Summary::FirstLast { by } => {
                Answer::Counted(self.counted(query, by.clone(), stage)?)
            }
            Summary::Timeline { step_us, by } => {
                Answer::ByTime(self.by_time(query, *step_us, *by, stage.top)?)
            }
        })
    }

    /// The `top` most frequent values of each of `fields` among the matches, at most
    /// [`TOP_MAX`], in one pass over them.
    ///
    /// # Errors
    /// `PLS7102` for an unknown field, `PLS7108` for one that cannot be counted or more
    /// than [`FACETS_MAX`]; as [`Store::search`].
    pub fn facets(
        &self,
        query: &Query,
        fields: &[&str],
        top: usize,
    ) -> Result<Faceted, StoreError> {
        if fields.len() > FACETS_MAX {
            let message = format!("more than {FACETS_MAX} fields to count");
            return Err(Diagnostic::error(7108, message)
                .help("ask twice, or group by several: `| count by principal, service`")
                .into());
        }
        let begun = Instant::now();
        let fields = fields.iter().map(|name| Ok(vec![countable(name)?]));
        let tallies: Result<Vec<Tally>, StoreError> = fields
            .map(|field| field.map(|field| Tally::new(field, None)))
            .collect();
        let (mut tallies, snapshot) = self.tallied(query, tallies?)?;
        let total = tallies.first().map_or(0, |tally| tally.counted);
        let most_first = Sort {
            key: SortKey::Count,
            descending: true,
        };
        let facet = |tally: Tally| Facet {
            field: tally.by().first().copied().unwrap_or_default(),
            distinct: wide(tally.len()),
            absent: tally.absent,
            uncounted: tally.uncounted,
            groups: groups(tally, most_first, top.clamp(1, TOP_MAX)),
        };
        Ok(Faceted {
            facets: tallies.drain(..).map(facet).collect(),
            total,
            coverage: self.coverage(&snapshot, query),
            took_us: micros(begun),
        })
    }

    /// Matches in steps of time; of a length that suits a screen where no step is given.
    ///
    /// # Errors
    /// As [`Store::answer`].
    pub fn timeline(
        &self,
        query: &Query,
        step_us: Option<i64>,
        by: Option<&str>,
        top: usize,
    ) -> Result<CountedByTime, StoreError> {
        let by = by.map(countable).transpose()?;
        let step_us = match step_us {
            Some(step_us) => step_us,
            None => {
                let window = self.window(query)?;
                step_for(self.until(window) - window.from_us, STEPS_DEFAULT)
            }
        };
        let summary = Summary::Timeline { step_us, by };
        let query = query.summed_up(Stage::new(summary));
        self.by_time(&query, step_us, by, top.clamp(1, TOP_MAX))
    }

    /// Matches grouped by the values of `fields` together.
    fn counted(
        &self,
        query: &Query,
        fields: Vec<&'static Field>,
        stage: &Stage,
    ) -> Result<Counted, StoreError> {
        let begun = Instant::now();
        let (tallies, snapshot) = self.tallied(query, vec![Tally::new(fields, None)])?;
        let tally = only(tallies)?;
        Ok(Counted {
            by: tally.by(),
            distinct: wide(tally.len()),
            total: tally.counted,
            absent: tally.absent,
            uncounted: tally.uncounted,
            groups: groups(tally, stage.order(), stage.top),
            coverage: self.coverage(&snapshot, query),
            took_us: micros(begun),
        })
    }

    fn by_time(
        &self,
        query: &Query,
        step_us: i64,
        by: Option<&'static Field>,
        top: usize,
    ) -> Result<CountedByTime, StoreError> {
        let begun = Instant::now();
        query.check_steps(step_us, self.window(query)?)?;
        let fields = by.into_iter().collect();
        let (tallies, snapshot) = self.tallied(query, vec![Tally::new(fields, Some(step_us))])?;
        let tally = only(tallies)?;
        let window = snapshot.window;
        let every = Window {
            to_us: self.until(window),
            ..window
        };
        Ok(CountedByTime {
            step_secs: step_us / SECOND_US,
            by: by.map(|field| field.name),
            total: tally.counted,
            absent: tally.absent,
            uncounted: tally.uncounted,
            steps: steps(tally, step_us, every, top),
            coverage: self.coverage(&snapshot, query),
            took_us: micros(begun),
        })
    }

    /// Lets every tally count every match, once.
    fn tallied(
        &self,
        query: &Query,
        tallies: Vec<Tally>,
    ) -> Result<(Vec<Tally>, Snapshot), StoreError> {
        let snapshot = self.everything(query, usize::MAX)?;
        let again: Vec<Tally> = tallies.iter().map(Tally::emptied).collect();
        let (mut tallies, files) = self.summed(&snapshot, tallies, true)?;
        // Which of too many groups are counted depends on who comes first.
        if files > 0 && tallies.iter().any(|tally| tally.uncounted > 0) {
            tallies = self.summed(&snapshot, again, false)?.0;
        }
        for item in &snapshot.recent {
            tallies.iter_mut().for_each(|tally| tally.item(item));
        }
        Ok((tallies, snapshot))
    }

    /// Counts what is in the index: what roll-ups know by these where `by_rows` lets it,
    /// the rest match by match. Also says how many files were used.
    pub(super) fn summed(
        &self,
        snapshot: &Snapshot,
        tallies: Vec<Tally>,
        by_rows: bool,
    ) -> Result<(Vec<Tally>, usize), StoreError> {
        let filter = &snapshot.plan.filter;
        let covered = |(_, tally): &(usize, Tally)| by_rows && rollup::covers(filter, tally);
        let numbered = tallies.into_iter().enumerate();
        let (rolled, scanned): (Vec<_>, Vec<_>) = numbered.partition(covered);
        let (of_rolled, mut rolled): (Vec<usize>, Vec<Tally>) = rolled.into_iter().unzip();
        let (of_scanned, mut scanned): (Vec<usize>, Vec<Tally>) = scanned.into_iter().unzip();
        let mut files = 0;
        for view in &snapshot.views {
            self.going.ask()?;
            if !rolled.is_empty() {
                files += self.by_rows(snapshot, view, &mut rolled)?;
            }
            if !scanned.is_empty() {
                snapshot.visit(view, self.source(), None, &mut scanned)?;
            }
        }
        let rolled = of_rolled.into_iter().zip(rolled);
        let mut all: Vec<_> = rolled.chain(of_scanned.into_iter().zip(scanned)).collect();
        all.sort_unstable_by_key(|(at, _)| *at);
        Ok((all.into_iter().map(|(_, tally)| tally).collect(), files))
    }

    /// Counts a bucket by its roll-ups, and scans what these leave.
    fn by_rows(
        &self,
        snapshot: &Snapshot,
        view: &Arc<View>,
        tallies: &mut Vec<Tally>,
    ) -> Result<usize, StoreError> {
        let filter = &snapshot.plan.filter;
        let Rolled { files, left } =
            Rolled::count(view, snapshot.window, filter, &snapshot.changing, tallies);
        for part in left {
            snapshot.visit_within(part, view, self.source(), None, tallies)?;
        }
        Ok(files)
    }

    /// The end of a window, or now where it lies ahead.
    fn until(&self, window: Window) -> i64 {
        let now_us = self.clock.now_us().saturating_add(1);
        window.to_us.min(now_us.max(window.from_us))
    }
}

fn only(tallies: Vec<Tally>) -> Result<Tally, StoreError> {
    let mut tallies = tallies.into_iter();
    tallies.next().ok_or(StoreError::Bug("nothing was tallied"))
}

fn groups(tally: Tally, sort: Sort, top: usize) -> Vec<Group> {
    let group = |(values, cell): (Vec<String>, Cell)| Group {
        values,
        count: cell.count,
        first: rfc3339(cell.first_us),
        last: rfc3339(cell.last_us),
    };
    tally
        .into_sorted(sort, top)
        .into_iter()
        .map(group)
        .collect()
}

/// Every step of `window`, those without a match, too, and whatever matches beyond it.
fn steps(tally: Tally, step_us: i64, window: Window, top: usize) -> Vec<Step> {
    let mut by_start = BTreeMap::<i64, Vec<(String, u64)>>::new();
    let mut start = window.from_us - window.from_us.rem_euclid(step_us);
    while start < window.to_us {
        by_start.insert(start, Vec::new());
        start = start.saturating_add(step_us);
    }
    let told_apart = !tally.by().is_empty();
    let mut totals = FxHashMap::<String, u64>::default();
    for ((start, mut values), cell) in tally.into_groups() {
        let value = values.pop().unwrap_or_default();
        *totals.entry(value.clone()).or_default() += cell.count;
        by_start.entry(start).or_default().push((value, cell.count));
    }
    let mut ranked: Vec<(String, u64)> = totals.into_iter().collect();
    ranked.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ranked.truncate(top);
    let rank: FxHashMap<String, usize> = ranked
        .into_iter()
        .enumerate()
        .map(|(rank, (value, _))| (value, rank))
        .collect();
    let step = |(start, all): (i64, Vec<(String, u64)>)| {
        let count: u64 = all.iter().map(|(_, n)| n).sum();
        let mut values: Vec<(String, u64)> = match told_apart {
            true => all
                .into_iter()
                .filter(|(v, _)| rank.contains_key(v))
                .collect(),
            false => Vec::new(),
        };
        values.sort_unstable_by_key(|(value, _)| rank.get(value).copied());
        let named: u64 = values.iter().map(|(_, n)| n).sum();
        Step {
            time: rfc3339(start),
            count,
            other: if told_apart { count - named } else { 0 },
            values,
        }
    };
    by_start.into_iter().map(step).collect()
}

fn countable(name: &str) -> Result<&'static Field, StoreError> {
    match Field::find(name) {
        Some(field) if field.countable => Ok(field),
        Some(_) => Err(Diagnostic::error(7108, format!("`{name}` cannot be counted"))
            .help("it has too many different values; docs/reference/audit-query.md names those that can")
            .into()),
        None => {
            let names = FIELDS.iter().filter(|f| f.countable).map(|f| f.name);
            let near = did_you_mean(name, names);
            Err(Diagnostic::error(7102, format!("unknown field `{name}`"))
                .help(near.map_or_else(
                    || "every field: docs/reference/audit-query.md".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                ))
                .into())
        }
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
