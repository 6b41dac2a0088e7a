//! Makes a roll-up from the documents of a bucket.

use std::sync::atomic::{AtomicBool, Ordering};

use rustc_hash::FxHashMap;
use tantivy::SegmentReader;

use super::{
    super::{
        bucket::{Columns, View},
        tally::{Cell, Numbers},
    },
    KEY, RollUps,
    file::{Block, Head, Rows},
};
use crate::query::{Field, Window};

/// Documents between two looks at whether there is still time.
const STRETCH: u32 = 1 << 16;

/// Rolls up the documents of `span`; rows that are not worth it are left out. None once
/// `stop` is set.
pub(super) fn block(
    view: &View,
    span: Window,
    documents: u64,
    limits: RollUps,
    stop: &AtomicBool,
) -> tantivy::Result<Option<Block>> {
    let mut builder = Builder::new(limits.rows_max);
    for segment in view.segments() {
        builder.segment(view, segment, span, stop)?;
    }
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let head = Head {
        making: view.making,
        span,
        documents,
        first_entry: builder.entries.0,
        last_entry: builder.entries.1,
    };
    let block = Block {
        head,
        rows: builder.rows(span.from_us),
    };
    let bytes = u64::try_from(block.encode().len()).unwrap_or(u64::MAX);
    let worth = bytes <= limits.bytes_max.saturating_mul(documents);
    Ok(Some(match worth {
        true => block,
        false => Block { head, rows: None },
    }))
}

/// Rows so far.
struct Builder {
    rows_max: usize,
    /// For each field the lists of values, and their numbers.
    lists: Vec<Vec<Vec<String>>>,
    known: Vec<FxHashMap<Vec<String>, u32>>,
    cells: FxHashMap<[u32; KEY.len()], Cell>,
    entries: (u64, u64),
    /// There were more than may be.
    too_many: bool,
}

/// What the lists of a segment's column are in the file.
struct Translated {
    numbers: Numbers,
    known: FxHashMap<Vec<u64>, u32>,
}

impl Builder {
    fn new(rows_max: usize) -> Self {
        Self {
            rows_max,
            lists: vec![Vec::new(); KEY.len()],
            known: vec![FxHashMap::default(); KEY.len()],
            cells: FxHashMap::default(),
            entries: (u64::MAX, 0),
            too_many: false,
        }
    }

    fn segment(
        &mut self,
        view: &View,
        (reader, columns): (&SegmentReader, &Columns),
        span: Window,
        stop: &AtomicBool,
    ) -> tantivy::Result<()> {
        let range = columns.range(span, reader.max_doc());
        let mut fields = Vec::with_capacity(KEY.len());
        for name in KEY {
            fields.push(Translated {
                numbers: Numbers::open(reader, Field::find(name))?,
                known: FxHashMap::default(),
            });
        }
        let mut values = Vec::new();
        for doc in range {
            if self.too_many || (doc % STRETCH == 0 && stop.load(Ordering::Relaxed)) {
                return Ok(());
            }
            let entry = columns.entry(doc);
            if view.replaced.contains(&entry) && !columns.is_late(doc) {
                continue;
            }
            let mut key = [0; KEY.len()];
            for (at, (number, field)) in key.iter_mut().zip(&mut fields).enumerate() {
                field.numbers.read(doc, &mut values);
                *number = match field.known.get(values.as_slice()) {
                    Some(known) => *known,
                    None => {
                        let texts = values.iter().map(|n| field.numbers.text(*n));
                        let list = self.list(at, texts.collect::<tantivy::Result<_>>()?);
                        field.known.insert(values.clone(), list);
                        list
                    }
                };
            }
            self.see(key, columns.time(doc), entry);
        }
        Ok(())
    }

    /// The number of a list of values.
    fn list(&mut self, field: usize, list: Vec<String>) -> u32 {
        let (Some(known), Some(lists)) = (self.known.get_mut(field), self.lists.get_mut(field))
        else {
            return 0;
        };
        *known.entry(list).or_insert_with_key(|list| {
            lists.push(list.clone());
            u32::try_from(lists.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn see(&mut self, key: [u32; KEY.len()], time_us: i64, entry: u64) {
        if self.cells.len() >= self.rows_max && !self.cells.contains_key(&key) {
            self.too_many = true;
            return;
        }
        self.cells.entry(key).or_insert(Cell::EMPTY).see(time_us);
        self.entries = (self.entries.0.min(entry), self.entries.1.max(entry));
    }

    fn rows(self, from_us: i64) -> Option<Rows> {
        if self.too_many {
            return None;
        }
        let mut cells: Vec<_> = self.cells.into_iter().collect();
        cells.sort_unstable_by_key(|(key, _)| *key);
        Some(Rows::new(self.lists, &cells, from_us))
    }
}
