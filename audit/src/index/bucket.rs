//! One tantivy index for one span of event time (a UTC day, or an hour).
//!
//! A bucket knows up to which log position it holds everything that belongs in
//! it: the payload of its last commit.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustc_hash::FxHashSet;
use tantivy::{
    Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, SegmentReader, columnar::Column,
    directory::MmapDirectory, indexer::IndexWriterOptions,
};

use ulid::Ulid;

use super::schema::{ENDED, ENTRY, ID, LATE, Layout, TIME};
use crate::query::Window;

/// Length of the time one bucket covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketSpan {
    /// A UTC day.
    Day,
    /// An hour, for busy meshes.
    Hour,
    /// Thirty days, for an index that is made at once, asked and thrown away.
    Month,
}

impl BucketSpan {
    pub(super) fn length_us(self) -> i64 {
        match self {
            Self::Day => 86_400_000_000,
            Self::Hour => 3_600_000_000,
            Self::Month => 30 * 86_400_000_000,
        }
    }

    /// Start of the bucket that `time_us` belongs to.
    pub(super) fn start_us(self, time_us: i64) -> i64 {
        time_us.saturating_sub(time_us.rem_euclid(self.length_us()))
    }
}

/// An open bucket.
pub(super) struct Bucket {
    index: Index,
    reader: IndexReader,
    /// What searches see.
    pub(super) view: Arc<View>,
}

/// A bucket as it was at one moment; never changes.
pub(super) struct View {
    pub(super) span: Window,
    /// Where the bucket is, and which making of it: another one after it was thrown away
    /// and made again.
    pub(super) folder: PathBuf,
    pub(super) making: u128,
    pub(super) searcher: Searcher,
    /// Of each of its segments.
    columns: Vec<Columns>,
    /// Positions of decisions whose first document was made before their
    /// outcome was known and has been replaced since.
    pub(super) replaced: Arc<FxHashSet<u64>>,
}

impl Bucket {
    /// Opens or creates the bucket in `path`.
    pub(super) fn open(
        path: PathBuf,
        start_us: i64,
        span: BucketSpan,
        layout: &Layout,
    ) -> tantivy::Result<Self> {
        fs::create_dir_all(&path)?;
        let making = making(&path);
        let index = Index::builder()
            .schema(layout.schema.clone())
            .settings(Layout::settings())
            .open_or_create(MmapDirectory::open(&path)?)?;
        let reader: IndexReader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(0)
            .try_into()?;
        let searcher = reader.searcher();
        let columns = columns_of(&searcher)?;
        let view = Arc::new(View {
            span: Window {
                from_us: start_us,
                to_us: start_us.saturating_add(span.length_us()),
            },
            folder: path,
            making,
            replaced: Arc::new(replaced(&searcher, &columns)),
            searcher,
            columns,
        });
        Ok(Self {
            index,
            reader,
            view,
        })
    }

    /// Whether every file is as it was written. Opening does not notice.
    pub(super) fn is_sound(&self) -> bool {
        self.index
            .validate_checksum()
            .is_ok_and(|damaged| damaged.is_empty())
    }

    /// The log position up to which the bucket is complete, if it was ever
    /// committed.
    pub(super) fn applied(&self) -> Option<u64> {
        self.index.load_metas().ok()?.payload?.parse().ok()
    }

    pub(super) fn writer(&self, heap_bytes: usize) -> tantivy::Result<IndexWriter> {
        self.index.writer_with_options(
            IndexWriterOptions::builder()
                .memory_budget_per_thread(heap_bytes)
                .num_worker_threads(1)
                .num_merge_threads(1)
                .build(),
        )
    }

    /// Opens the segments of the last commit; `view` stays as it is until the
    /// result is put there.
    pub(super) fn reopened(&self, newly_replaced: &[u64]) -> tantivy::Result<View> {
        self.reader.reload()?;
        let mut replaced = Arc::clone(&self.view.replaced);
        if !newly_replaced.is_empty() {
            Arc::make_mut(&mut replaced).extend(newly_replaced);
        }
        let searcher = self.reader.searcher();
        Ok(View {
            span: self.view.span,
            folder: self.view.folder.clone(),
            making: self.view.making,
            columns: columns_of(&searcher)?,
            searcher,
            replaced,
        })
    }
}

impl View {
    /// Its segments, each with the columns that every search looks at.
    pub(super) fn segments(&self) -> impl Iterator<Item = (&SegmentReader, &Columns)> {
        self.searcher.segment_readers().iter().zip(&self.columns)
    }

    /// Documents of a span, those that were replaced included.
    pub(super) fn documents(&self, span: Window) -> u64 {
        let each = self.segments().map(|(reader, columns)| {
            let range = columns.range(span, reader.max_doc());
            u64::from(range.end.saturating_sub(range.start))
        });
        each.sum()
    }
}

/// The columns of each segment. To open one is to look it up by name in a dictionary of the
/// segment's file, which costs more than most searches do in it.
fn columns_of(searcher: &Searcher) -> tantivy::Result<Vec<Columns>> {
    searcher
        .segment_readers()
        .iter()
        .map(Columns::open)
        .collect()
}

/// Which making of the bucket in `folder` this is; a new one where nothing says so.
fn making(folder: &Path) -> u128 {
    let path = folder.join("making");
    let known = fs::read_to_string(&path)
        .ok()
        .and_then(|t| t.parse::<Ulid>().ok());
    match known {
        Some(making) => making.0,
        None => {
            let making = Ulid::generate();
            // What is not kept makes roll-ups anew at the next start, and no more than that.
            if let Err(error) = fs::write(&path, making.to_string()) {
                tracing::warn!(%error, path = %path.display(), "cannot be written");
            }
            making.0
        }
    }
}

fn replaced(searcher: &Searcher, columns: &[Columns]) -> FxHashSet<u64> {
    let mut positions = FxHashSet::default();
    for (reader, columns) in searcher.segment_readers().iter().zip(columns) {
        let Some(late) = &columns.late else { continue };
        for doc in 0..reader.max_doc() {
            if late.first(doc).is_some() {
                positions.insert(columns.entry(doc));
            }
        }
    }
    positions
}

/// The columns of a segment that every search looks at.
pub(super) struct Columns {
    time: Column<i64>,
    entry: Column<u64>,
    pub(super) id: Option<Column<u64>>,
    ended: Option<Column<u64>>,
    late: Option<Column<u64>>,
}

impl Columns {
    fn open(reader: &SegmentReader) -> tantivy::Result<Self> {
        let fast = reader.fast_fields();
        Ok(Self {
            time: fast.i64(TIME)?,
            entry: fast.u64(ENTRY)?,
            id: fast.column_opt(ID)?,
            ended: fast.column_opt(ENDED)?,
            late: fast.column_opt(LATE)?,
        })
    }

    pub(super) fn time(&self, doc: u32) -> i64 {
        self.time.first(doc).unwrap_or(i64::MIN)
    }

    pub(super) fn entry(&self, doc: u32) -> u64 {
        self.entry.first(doc).unwrap_or(u64::MAX)
    }

    /// Whether there may be documents of these log positions.
    pub(super) fn may_have(&self, positions: &Range<u64>) -> bool {
        let entry = &self.entry;
        entry.min_value() < positions.end && entry.max_value() >= positions.start
    }

    /// Log position of the outcome that was known when the document was made.
    pub(super) fn outcome(&self, doc: u32) -> Option<u64> {
        let behind = self.ended.as_ref()?.first(doc)?;
        self.entry(doc).checked_add(behind)
    }

    /// Whether the document replaces an earlier one of the same decision.
    pub(super) fn is_late(&self, doc: u32) -> bool {
        self.late
            .as_ref()
            .is_some_and(|late| late.first(doc).is_some())
    }

    /// Documents of the window: segments are sorted by time, newest first.
    pub(super) fn range(&self, window: Window, max_doc: u32) -> std::ops::Range<u32> {
        let first_before = |time_us: i64| {
            let (mut low, mut high) = (0, max_doc);
            while low < high {
                let middle = low + (high - low) / 2;
                if self.time(middle) >= time_us {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            low
        };
        first_before(window.to_us)..first_before(window.from_us)
    }
}
