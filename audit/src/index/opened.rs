//! Columns of segments, kept open as they are asked for.
//!
//! To open a column is to look it up by name in a dictionary of its segment's file, which costs
//! more than what most searches ask of it. Segments never change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::{FxHashMap, FxHashSet};
use tantivy::{
    SegmentReader,
    columnar::{Column, ColumnType, DynamicColumn, StrColumn},
    index::SegmentId,
};

/// Most columns that are kept. One more, and it begins anew.
const COLUMNS_MAX: usize = 16_384;

/// Those that were asked for, or that a segment has none of that name.
#[derive(Default)]
pub(super) struct Opened(Mutex<Columns>);

type Columns = FxHashMap<(SegmentId, &'static str), Option<DynamicColumn>>;

impl Opened {
    /// A column of numbers; none where no document of the segment has one.
    pub(super) fn numbers(
        &self,
        reader: &SegmentReader,
        name: &'static str,
    ) -> tantivy::Result<Option<Column<u64>>> {
        let column = self.column(reader, name, ColumnType::U64)?;
        Ok(column.and_then(Into::into))
    }

    /// A column of texts; none where no document of the segment has one.
    pub(super) fn texts(
        &self,
        reader: &SegmentReader,
        name: &'static str,
    ) -> tantivy::Result<Option<StrColumn>> {
        let column = self.column(reader, name, ColumnType::Str)?;
        Ok(column.and_then(Into::into))
    }

    fn column(
        &self,
        reader: &SegmentReader,
        name: &'static str,
        kind: ColumnType,
    ) -> tantivy::Result<Option<DynamicColumn>> {
        let key = (reader.segment_id(), name);
        if let Some(known) = self.kept().get(&key) {
            return Ok(known.clone());
        }
        // Without the lock: others need not wait, at worst it is opened twice.
        let handle = reader.fast_fields().dynamic_column_handle(name, kind)?;
        let column = handle.map(|handle| handle.open()).transpose()?;
        let mut kept = self.kept();
        if kept.len() >= COLUMNS_MAX {
            kept.clear();
        }
        kept.insert(key, column.clone());
        Ok(column)
    }

    /// Lets go of those of other segments than `live`: what is open keeps its file on the disk.
    pub(super) fn keep(&self, live: &FxHashSet<SegmentId>) {
        self.kept().retain(|(segment, _), _| live.contains(segment));
    }

    fn kept(&self) -> MutexGuard<'_, Columns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Opened").field(&self.kept().len()).finish()
    }
}
