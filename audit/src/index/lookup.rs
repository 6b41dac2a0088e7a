//! Finding records by id without an index of ids: an id begins with its
//! millisecond, which leads to a few documents, and the log tells which is it.

use std::{collections::BTreeMap, sync::Arc};

use palisade_mesh::wire::record::Outcome;
use rustc_hash::{FxHashMap, FxHashSet};
use tantivy::{SegmentReader, columnar::StrColumn, index::SegmentId};

use super::{StoreError, bucket::View, schema::id_column};
use crate::{
    going::Going,
    item::{AHEAD_MAX_US, Item, JOIN_SLACK_US, JoinKey, LATE_MAX_US, id_time_us},
    query::{IdPrefix, Window},
    source::{Entry, Source, SourceError},
};

/// Distinct ids named when a prefix fits several.
const CANDIDATES_MAX: usize = 5;

/// Documents with the same half of an id that are read without asking whose they are.
const ALIKE_FEW: usize = 4;

/// Documents with the same half of an id that are read for one outcome.
const ALIKE_READ_MAX: usize = 64;

/// Column of the reporter.
const REPORTER: &str = "reporter";

/// A decision of the index.
pub(super) struct FoundDecision {
    pub(super) item: Item,
    /// Whether it already has its outcome.
    pub(super) joined: bool,
}

/// Reads records for joins, and keeps what could not be had. Of a segment that is away nothing
/// else is asked for.
pub(super) struct Reading<'a> {
    source: &'a dyn Source,
    pub(super) failed: Vec<SourceError>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(source: &'a dyn Source) -> Self {
        let failed = Vec::new();
        Self { source, failed }
    }

    /// The item at a position; none where it was dropped, or cannot be had.
    fn item(&mut self, at: u64) -> Option<Item> {
        let mut lost = self.failed.iter().filter_map(SourceError::lost);
        if lost.any(|lost| lost.contains(&at)) {
            return None;
        }
        match self.source.read(at) {
            Ok(entry) => Some(Item::new(entry)),
            Err(error) if error.is_dropped() => None,
            Err(error) => {
                self.failed.push(error);
                None
            }
        }
    }
}

/// A document that may be the one.
struct Candidate<'a> {
    at: u64,
    doc: u32,
    joined: bool,
    reader: &'a SegmentReader,
}

/// The last decision before `before` that an outcome with this key belongs to.
///
/// Ids are their reporter's to choose, and so is how many are alike in the half that is
/// indexed: of many, those of others are left out, and no more than some are read.
pub(super) fn decision(
    views: &BTreeMap<i64, Arc<View>>,
    reading: &mut Reading<'_>,
    key: &JoinKey,
    before: u64,
) -> Option<FoundDecision> {
    let around = around(key.id, key.id, JOIN_SLACK_US);
    let wanted = id_column(key.id);
    let mut candidates = Vec::new();
    for view in overlapping(views, around) {
        for (reader, columns) in view.segments() {
            let Some(ids) = &columns.id else { continue };
            if ids.max_value() < wanted || ids.min_value() > wanted {
                continue;
            }
            for doc in columns.range(around, reader.max_doc()) {
                let at = columns.entry(doc);
                if ids.first(doc) == Some(wanted) && at < before {
                    candidates.push(Candidate {
                        at,
                        doc,
                        joined: columns.outcome(doc).is_some() || view.replaced.contains(&at),
                        reader,
                    });
                }
            }
        }
    }
    if candidates.len() > ALIKE_FEW {
        retain_of(&mut candidates, &key.reporter);
    }
    candidates.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.at));
    if candidates.len() > ALIKE_READ_MAX {
        tracing::warn!(
            reporter = key.reporter,
            alike = candidates.len(),
            "ids of a reporter are too much alike; an outcome may stay without its decision"
        );
    }
    candidates
        .iter()
        .take(ALIKE_READ_MAX)
        .find_map(|candidate| {
            let item = reading.item(candidate.at)?;
            let is_it = item.joinable().as_ref() == Some(key);
            is_it.then_some(FoundDecision {
                item,
                joined: candidate.joined,
            })
        })
}

/// The column of the reporter in one segment.
struct Reporters {
    segment: SegmentId,
    /// The column, and which of its words the reporter is; none where there is no such column.
    column: Option<(StrColumn, Option<u64>)>,
}

impl Reporters {
    fn of(reader: &SegmentReader, reporter: &str) -> Self {
        let column = reader.fast_fields().str(REPORTER).ok().flatten();
        let column = column.and_then(|column| {
            let word = column.dictionary().term_ord(reporter.as_bytes()).ok()?;
            Some((column, word))
        });
        Self {
            segment: reader.segment_id(),
            column,
        }
    }

    /// Whether a document may be of the reporter.
    fn may_have(&self, doc: u32) -> bool {
        let Some((column, word)) = &self.column else {
            return true;
        };
        word.is_some() && column.term_ords(doc).next() == *word
    }
}

/// Keeps the documents of a reporter, as far as their columns tell.
fn retain_of(candidates: &mut Vec<Candidate<'_>>, reporter: &str) {
    let mut known: Option<Reporters> = None;
    candidates.retain(|candidate| {
        let segment = candidate.reader.segment_id();
        let open = known.take_if(|known| known.segment == segment);
        let open = open.unwrap_or_else(|| Reporters::of(candidate.reader, reporter));
        known.insert(open).may_have(candidate.doc)
    });
}

/// The first outcomes after these decisions, each by where its decision is; and where it is
/// itself. However many decisions there are, each document is passed once.
pub(super) fn outcomes(
    views: &BTreeMap<i64, Arc<View>>,
    reading: &mut Reading<'_>,
    decisions: &[(JoinKey, u64)],
) -> FxHashMap<u64, (u64, Outcome)> {
    let mut found: FxHashMap<u64, (u64, Outcome)> = FxHashMap::default();
    let ids = || decisions.iter().map(|(key, _)| key.id);
    let (Some(lowest), Some(highest)) = (ids().min(), ids().max()) else {
        return found;
    };
    let mut since = around(lowest, highest, JOIN_SLACK_US);
    since.to_us = since.to_us.saturating_add(LATE_MAX_US);
    // Where the first decision with such a column is: nothing before it is an outcome of it.
    let mut wanted: FxHashMap<u64, u64> = FxHashMap::default();
    let mut of_key: FxHashMap<&JoinKey, Vec<u64>> = FxHashMap::default();
    for (key, at) in decisions {
        let first = wanted.entry(id_column(key.id)).or_insert(*at);
        *first = (*first).min(*at);
        let same = of_key.entry(key).or_default();
        if same.len() < ALIKE_READ_MAX {
            same.push(*at);
        }
    }
    for view in overlapping(views, since) {
        for (reader, columns) in view.segments() {
            let Some(ids) = &columns.id else { continue };
            if ids.max_value() < id_column(lowest) || ids.min_value() > id_column(highest) {
                continue;
            }
            for doc in 0..reader.max_doc() {
                let first = ids.first(doc).and_then(|id| wanted.get(&id));
                let at = columns.entry(doc);
                if first.is_none_or(|first| at <= *first) {
                    continue;
                }
                let item = reading.item(at);
                let Some((key, outcome)) = item.as_ref().and_then(Item::joins) else {
                    continue;
                };
                for decision in of_key.get(&key).into_iter().flatten() {
                    let best = found.get(decision);
                    if at > *decision && best.is_none_or(|(best, _)| at < *best) {
                        found.insert(*decision, (at, outcome.clone()));
                    }
                }
            }
        }
    }
    found
}

/// What an id led to.
pub(super) enum ById {
    /// Everything with that id, in log order.
    Entries(Vec<Entry>),
    /// The prefix fits several ids; some of them.
    Ambiguous(Vec<u128>),
}

/// Every record of the id that begins with `prefix`.
pub(super) fn by_id(
    views: &BTreeMap<i64, Arc<View>>,
    recent: &[(u64, u128)],
    source: &dyn Source,
    prefix: &IdPrefix,
    going: &Going,
) -> Result<ById, StoreError> {
    let mut positions = Positions::default();
    for (at, id) in recent.iter().filter(|(_, id)| prefix.contains(*id)) {
        positions.add(*at, *id);
    }
    // Records of an id are filed at its time or later, unless a clock was wrong.
    let later = Window {
        from_us: id_time_us(prefix.lowest).saturating_sub(AHEAD_MAX_US),
        to_us: i64::MAX,
    };
    collect(views, (later, going), source, prefix, &mut positions)?;
    if positions.ids.is_empty() {
        let always = Window {
            from_us: i64::MIN,
            to_us: i64::MAX,
        };
        collect(views, (always, going), source, prefix, &mut positions)?;
    }
    if positions.ids.len() > 1 {
        return Ok(ById::Ambiguous(positions.ids));
    }
    positions.at.sort_unstable();
    positions.at.dedup();
    let entries = positions.at.into_iter().map(|at| source.read(at));
    let entries = entries.filter(|read| !matches!(read, Err(error) if error.is_dropped()));
    Ok(ById::Entries(entries.collect::<Result<_, _>>()?))
}

#[derive(Default)]
struct Positions {
    ids: Vec<u128>,
    at: Vec<u64>,
    seen: FxHashSet<u64>,
}

impl Positions {
    fn add(&mut self, at: u64, id: u128) {
        self.at.push(at);
        if !self.ids.contains(&id) {
            self.ids.push(id);
        }
    }

    fn enough(&self) -> bool {
        self.ids.len() >= CANDIDATES_MAX
    }
}

fn collect(
    views: &BTreeMap<i64, Arc<View>>,
    (window, going): (Window, &Going),
    source: &dyn Source,
    prefix: &IdPrefix,
    positions: &mut Positions,
) -> Result<(), StoreError> {
    let span = id_column(prefix.lowest)..=id_column(prefix.highest);
    let mut docs = Vec::new();
    for view in overlapping(views, window) {
        for (reader, columns) in view.segments() {
            going.ask()?;
            let Some(ids) = &columns.id else { continue };
            if ids.max_value() < *span.start() || ids.min_value() > *span.end() {
                continue;
            }
            docs.clear();
            ids.get_docids_for_value_range(span.clone(), 0..reader.max_doc(), &mut docs);
            for doc in &docs {
                going.ask()?;
                let at = columns.entry(*doc);
                if positions.enough() || !positions.seen.insert(at) {
                    continue;
                }
                let entry = match source.read(at) {
                    Ok(entry) => entry,
                    // Nobody could say that there is no such record.
                    Err(error) if error.away().is_some() => return Err(error.into()),
                    Err(_) => continue,
                };
                let id = Item::new(entry).id();
                if let Some(id) = id.filter(|id| prefix.contains(*id)) {
                    positions.add(at, id);
                }
            }
        }
    }
    Ok(())
}

fn overlapping(
    views: &BTreeMap<i64, Arc<View>>,
    window: Window,
) -> impl Iterator<Item = &Arc<View>> {
    views
        .values()
        .filter(move |view| view.span.from_us < window.to_us && window.from_us < view.span.to_us)
}

/// The time of these ids, and so much more.
fn around(lowest: u128, highest: u128, slack_us: i64) -> Window {
    Window {
        from_us: id_time_us(lowest).saturating_sub(slack_us),
        to_us: id_time_us(highest)
            .saturating_add(slack_us)
            .saturating_add(1),
    }
}
