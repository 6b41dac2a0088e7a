//! What the index remembers beside its buckets: how far it has got in which
//! log, and where each bucket began, so that one bucket can be made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use palisade_mesh::snapshot::Digest;
use prost::Message;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::schema::Layout;
use crate::source::Source;

const FILE: &str = "state.json";

/// Most unreadable entries that are remembered one by one; indexing stops at
/// more, because then it is the disk and not a record.
pub(super) const UNREADABLE_MAX: usize = 1000;

/// Unreadable entries in a row that are remembered as one part of the log that is lost: then it is
/// not a record, but what of a segment a disk has lost or somebody has written over.
const RUN_MIN: u64 = 64;

/// The file `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// [`Layout::fingerprint`] of the program that wrote it.
    pub(super) layout: u32,
    /// Length of a bucket, microseconds.
    pub(super) bucket_us: i64,
    /// Every bucket holds everything before this position that belongs in it,
    /// except those being made again.
    pub(super) position: u64,
    /// Digests of the log's first entry and of the last one indexed: another
    /// log under the same name is noticed.
    pub(super) first: Option<String>,
    pub(super) last: Option<String>,
    /// Start of each bucket, and the lowest position that may belong in it.
    pub(super) buckets: BTreeMap<i64, u64>,
    /// Buckets that were damaged and are being made again.
    pub(super) remaking: BTreeSet<i64>,
    /// Entries that could not be read when it was their turn.
    pub(super) unreadable: BTreeSet<u64>,
    /// Segments, or parts of them, that an archive or a disk has lost, or has otherwise than they
    /// were signed, when it was their turn: the first record, and that after the last.
    #[serde(default)]
    pub(super) lost: BTreeMap<u64, u64>,
    /// How many records of each segment of the log, by its first, were dropped and are not
    /// in the buckets any more.
    #[serde(default)]
    pub(super) thinned: BTreeMap<u64, u64>,
}

/// Whether an entry is in one of these parts of the log, each with its first and that after its
/// last.
pub(super) fn has(spans: &BTreeMap<u64, u64>, index: u64) -> bool {
    let before = spans.range(..=index).next_back();
    before.is_some_and(|(_, next)| index < *next)
}

/// Reads a file of the index; nothing where it is not there or is not whole. Where it cannot be
/// read at this moment, what it has is not made anew.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let why = format!("{}: {error}", path.display());
            Err(io::Error::new(error.kind(), why))
        }
    }
}

impl State {
    /// Notes an entry that cannot be read: as part of a lost one where it is the next of that, or
    /// of a long run of others.
    pub(super) fn note_single(&mut self, index: u64) {
        let before = self.lost.range_mut(..index).next_back();
        if let Some((_, next)) = before.filter(|(_, next)| **next == index) {
            *next = index + 1;
            return;
        }
        self.unreadable.insert(index);
        let before = self.unreadable.range(..=index).rev();
        let run = before.zip((0..=index).rev());
        let len = run.take_while(|(at, expected)| **at == *expected).count() as u64;
        if len < RUN_MIN {
            return;
        }
        let (first, next) = (index + 1 - len, index + 1);
        self.unreadable.retain(|at| !(first..next).contains(at));
        self.lost.insert(first, next);
    }

    pub(super) fn new(bucket_us: i64) -> Self {
        Self {
            layout: Layout::fingerprint(),
            bucket_us,
            position: 0,
            first: None,
            last: None,
            buckets: BTreeMap::new(),
            remaking: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            lost: BTreeMap::new(),
            thinned: BTreeMap::new(),
        }
    }

    /// Reads it, if it is there, of this layout and about this log.
    pub(super) fn load(
        dir: &Path,
        bucket_us: i64,
        source: &dyn Source,
    ) -> io::Result<Option<Self>> {
        let state: Option<Self> = read(&dir.join(FILE))?;
        Ok(state.filter(|state| {
            state.layout == Layout::fingerprint()
                && state.bucket_us == bucket_us
                && state.position <= source.len()
                && state.is_about(source)
                && state.lacks_no_more_than(source)
        }))
    }

    /// Whether nothing was let go that the log has: a disk that lost what it had confirmed,
    /// or a segment that was put back.
    fn lacks_no_more_than(&self, source: &dyn Source) -> bool {
        let lacking = source.lacking();
        let of = |segment: u64| {
            let at = lacking.binary_search_by_key(&segment, |l| l.segment).ok()?;
            lacking.get(at).map(crate::log::Lacking::records)
        };
        self.thinned
            .iter()
            .all(|(segment, records)| of(*segment).unwrap_or(0) >= *records)
    }

    /// Writes it, whole or not at all.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("state.json.new");
        let mut file = fs::File::create(&new)?;
        serde_json::to_writer(&mut file, self)?;
        file.sync_all()?;
        fs::rename(&new, dir.join(FILE))?;
        fs::File::open(dir)?.sync_all()
    }

    /// Takes it away, if it is there.
    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::File::open(dir)?.sync_all(),
        }
    }

    /// Notes that everything before `position` is in.
    pub(super) fn advance(&mut self, position: u64, source: &dyn Source) {
        if position <= self.position {
            return;
        }
        self.position = position;
        if self.first.is_none() {
            self.first = digest(source, 0);
        }
        self.last = digest(source, position - 1);
    }

    /// Entries that cannot be read prove nothing; verification names them.
    fn is_about(&self, source: &dyn Source) -> bool {
        let same = |noted: &Option<String>, index: u64| {
            let now = digest(source, index);
            noted.is_none() || now.is_none() || *noted == now
        };
        let Some(last) = self.position.checked_sub(1) else {
            return true;
        };
        same(&self.first, 0) && same(&self.last, last)
    }
}

fn digest(source: &dyn Source, index: u64) -> Option<String> {
    // Nothing is fetched for it at a start.
    let here = source.is_here(index).then(|| source.read(index).ok());
    let entry = here.flatten()?;
    Some(Digest::of(&entry.envelope.encode_to_vec()).to_string())
}
