//! What stands in a segment for records that were dropped because their time was over.
//!
//! Of each the check of the log still needs the hash of its leaf, so that the tree stays
//! what was signed, and its number in its stream, so that a record that was dropped is
//! told from one that never arrived. The hashes are kept here rather than in the tiles
//! alone: tiles stay what can be made again from the segments.

use aws_lc_rs::digest::{Context, SHA256};
use palisade_mesh::wire::audit::{Gone, Sparse, SparseClass};
use prost::Message as _;

#[cfg(feature = "index")]
use crate::envelope::EnvelopeRef;
use crate::{envelope::class_name, merkle::Hash};

/// Most bytes of a frame, counted generously, so that it stays below the longest payload.
#[cfg(feature = "index")]
const RUN_BYTES: usize = 60_000;

/// At most so many bytes are added by a record, beside a stream that is new.
#[cfg(feature = "index")]
const ENTRY_BYTES: usize = 32 + 5 + 10 + 5 + 10 + 10;

/// Records of one class that were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// The class, as in the record schema.
    pub class: &'static str,
    /// How many.
    pub records: u64,
    /// The time that the first of them was filed under, microseconds since the Unix epoch.
    pub first_us: i64,
    /// The same of the last.
    pub last_us: i64,
}

/// What a segment lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// Index of the first record of the segment.
    pub segment: u64,
    /// What was dropped from it, by class.
    pub dropped: Vec<Dropped>,
}

impl Lacking {
    /// How many records were dropped.
    pub fn records(&self) -> u64 {
        self.dropped.iter().map(|dropped| dropped.records).sum()
    }

    /// Reads what a segment says of itself; `None` when it is nothing of the kind.
    pub(crate) fn read(segment: u64, sparse: &[u8]) -> Option<Self> {
        let sparse = Sparse::decode(sparse).ok()?;
        let dropped = sparse.classes.iter().map(|class| Dropped {
            class: class_name(class.class),
            records: class.records,
            first_us: class.first_us,
            last_us: class.last_us,
        });
        Some(Self {
            segment,
            dropped: dropped.collect(),
        })
    }
}

/// What is left of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoneRecord<'a> {
    pub(crate) leaf: Hash,
    /// Encoded `StreamId`.
    pub(crate) stream: &'a [u8],
    pub(crate) sequence: u64,
    pub(crate) class: u32,
    #[cfg(feature = "index")]
    pub(crate) received_us: i64,
    /// The time it was filed under.
    pub(crate) filed_us: i64,
}

#[cfg(feature = "index")]
impl<'a> GoneRecord<'a> {
    /// Of a record that is there.
    pub(crate) fn of(leaf: Hash, envelope: &EnvelopeRef<'a>, class: u32, filed_us: i64) -> Self {
        Self {
            leaf,
            stream: envelope.stream,
            sequence: envelope.sequence,
            class,
            received_us: envelope.received_us,
            filed_us,
        }
    }
}

/// What consecutive records left.
#[derive(Debug)]
pub(crate) struct GoneRun {
    gone: Gone,
    leaves: Vec<Hash>,
}

impl GoneRun {
    /// Reads what a frame has; `None` when it does not fit together.
    pub(crate) fn read(encoded: &[u8]) -> Option<Self> {
        let gone = Gone::decode(encoded).ok()?;
        let (leaves, rest) = gone.leaves.as_chunks::<32>();
        let len = leaves.len();
        let whole = rest.is_empty()
            && len > 0
            && gone.stream.len() == len
            && gone.sequence.len() == len
            && gone.class.len() == len
            && gone.received_us.len() == len
            && gone.earlier_us.len() == len
            && gone.first.checked_add(len as u64).is_some()
            && gone
                .stream
                .iter()
                .all(|s| (*s as usize) < gone.streams.len());
        let leaves = leaves.to_vec();
        whole.then_some(Self { gone, leaves })
    }

    /// Index of the first of them.
    pub(crate) fn first(&self) -> u64 {
        self.gone.first
    }

    /// How many they are, at least one.
    pub(crate) fn len(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// The index after the last of them.
    pub(crate) fn next(&self) -> u64 {
        self.first() + self.len()
    }

    /// When the last of them was received.
    pub(crate) fn latest_us(&self) -> Option<i64> {
        self.gone.received_us.iter().copied().max()
    }

    /// Each of them, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = GoneRecord<'_>> {
        let gone = &self.gone;
        let numbers = gone.stream.iter().zip(&gone.sequence).zip(&gone.class);
        let times = gone.received_us.iter().zip(&gone.earlier_us);
        let all = self.leaves.iter().zip(numbers).zip(times);
        all.map(
            |((leaf, ((stream, sequence), class)), (received_us, earlier_us))| GoneRecord {
                leaf: *leaf,
                stream: gone
                    .streams
                    .get(*stream as usize)
                    .map_or(&[], Vec::as_slice),
                sequence: *sequence,
                class: *class,
                #[cfg(feature = "index")]
                received_us: *received_us,
                filed_us: received_us.saturating_sub(*earlier_us),
            },
        )
    }

    /// When the record at `index` was received, if it is one of them.
    #[cfg(feature = "index")]
    pub(crate) fn received_us(&self, index: u64) -> Option<i64> {
        let at = usize::try_from(index.checked_sub(self.first())?).ok()?;
        self.gone.received_us.get(at).copied()
    }
}

/// Puts runs together.
#[cfg(feature = "index")]
#[derive(Debug, Default)]
pub(crate) struct GoneBuilder {
    gone: Gone,
    bytes: usize,
}

#[cfg(feature = "index")]
impl GoneBuilder {
    /// Adds the record at `index`; gives, encoded, what cannot go on with it.
    pub(crate) fn push(&mut self, index: u64, record: &GoneRecord<'_>) -> Option<Vec<u8>> {
        let next = self.gone.first + self.gone.sequence.len() as u64;
        let known = self.gone.streams.iter().any(|s| s == record.stream);
        let added = ENTRY_BYTES + if known { 0 } else { record.stream.len() + 4 };
        let ended = match index != next || self.bytes + added > RUN_BYTES {
            true => self.finish(),
            false => None,
        };
        let gone = &mut self.gone;
        if gone.sequence.is_empty() {
            gone.first = index;
        }
        let stream = match gone.streams.iter().position(|s| s == record.stream) {
            Some(stream) => stream,
            None => {
                gone.streams.push(record.stream.to_vec());
                gone.streams.len() - 1
            }
        };
        gone.leaves.extend_from_slice(&record.leaf);
        // There are at most as many as records.
        gone.stream.push(u32::try_from(stream).unwrap_or(u32::MAX));
        gone.sequence.push(record.sequence);
        gone.class.push(record.class);
        gone.received_us.push(record.received_us);
        gone.earlier_us
            .push(record.received_us.saturating_sub(record.filed_us));
        self.bytes += added;
        ended
    }

    /// What was added since the last time, encoded, if there is anything.
    pub(crate) fn finish(&mut self) -> Option<Vec<u8>> {
        let Self { gone, .. } = std::mem::take(self);
        (!gone.sequence.is_empty()).then(|| gone.encode_to_vec())
    }
}

/// Sums up what a segment lacks.
#[derive(Clone)]
pub(crate) struct SparseSum {
    digest: Context,
    classes: Vec<SparseClass>,
}

impl std::fmt::Debug for SparseSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.classes).finish()
    }
}

impl Default for SparseSum {
    fn default() -> Self {
        Self {
            digest: Context::new(&SHA256),
            classes: Vec::new(),
        }
    }
}

impl SparseSum {
    /// Whether nothing is missing.
    pub(crate) fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Takes in an encoded run.
    pub(crate) fn run(&mut self, encoded: &[u8]) {
        self.digest.update(&(encoded.len() as u32).to_le_bytes());
        self.digest.update(encoded);
    }

    /// Counts a record of one of the runs.
    pub(crate) fn count(&mut self, class: u32, filed_us: i64) {
        let at = match self.classes.binary_search_by_key(&class, |c| c.class) {
            Ok(at) => at,
            Err(at) => {
                self.classes.insert(
                    at,
                    SparseClass {
                        class,
                        records: 0,
                        first_us: filed_us,
                        last_us: filed_us,
                    },
                );
                at
            }
        };
        if let Some(class) = self.classes.get_mut(at) {
            class.records += 1;
            class.first_us = class.first_us.min(filed_us);
            class.last_us = class.last_us.max(filed_us);
        }
    }

    /// What the segment must say of itself, encoded.
    pub(crate) fn encode(self) -> Vec<u8> {
        Sparse {
            digest: self.digest.finish().as_ref().to_vec(),
            classes: self.classes,
        }
        .encode_to_vec()
    }
}

/// What a run adds up to, with what came before it.
pub(crate) fn sum_of(sum: &mut SparseSum, encoded: &[u8], run: &GoneRun) {
    sum.run(encoded);
    for record in run.records() {
        sum.count(record.class, record.filed_us);
    }
}

#[cfg(all(test, feature = "index"))]
mod tests {
    use super::*;
    use crate::segment::PAYLOAD_LEN_MAX;

    fn record(n: u64, stream: &[u8]) -> GoneRecord<'_> {
        GoneRecord {
            leaf: [n as u8; 32],
            stream,
            sequence: u64::MAX - n,
            class: 16 + (n % 2) as u32,
            received_us: 1_800_000_000_000_000 + n as i64,
            filed_us: 1_800_000_000_000_000 - n as i64,
        }
    }

    #[test]
    fn runs_read_back_as_they_were_put_together() {
        let mut builder = GoneBuilder::default();
        let mut runs = Vec::new();
        let indexes: Vec<u64> = (5..9).chain(12..13).collect();
        for index in &indexes {
            let stream: &[u8] = if index % 3 == 0 { b"a" } else { b"b" };
            runs.extend(builder.push(*index, &record(*index, stream)));
        }
        runs.extend(builder.finish());
        assert_eq!(builder.finish(), None);
        let read: Vec<GoneRun> = runs.iter().map(|r| GoneRun::read(r).unwrap()).collect();
        let spans: Vec<_> = read.iter().map(|r| (r.first(), r.next())).collect();
        assert_eq!(spans, [(5, 9), (12, 13)]);
        let back = read.iter().flat_map(GoneRun::records);
        for (back, index) in back.zip(indexes) {
            let stream: &[u8] = if index % 3 == 0 { b"a" } else { b"b" };
            assert_eq!(back, record(index, stream));
        }
        assert_eq!(read[0].received_us(8), Some(1_800_000_000_000_008));
        assert_eq!(read[0].received_us(9), None);
    }

    /// On both sides of the limit of a run, with streams as long as they get.
    #[test]
    fn a_run_ends_before_it_is_too_long_for_a_frame() {
        let mut builder = GoneBuilder::default();
        let lens = |runs: &[Vec<u8>]| -> Vec<u64> {
            let len = |run: &Vec<u8>| GoneRun::read(run).unwrap().len();
            runs.iter().map(len).collect()
        };
        let mut runs = Vec::new();
        for index in 0..1000 {
            runs.extend(builder.push(index, &record(index, b"same")));
        }
        runs.extend(builder.finish());
        assert_eq!(lens(&runs), [833, 167]);
        let streams: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; 2100]).collect();
        let mut runs = Vec::new();
        for (index, stream) in (0..).zip(&streams) {
            runs.extend(builder.push(index, &record(index, stream)));
        }
        runs.extend(builder.finish());
        assert_eq!(lens(&runs).iter().sum::<u64>(), 100);
        assert!(runs.len() > 3 && runs.iter().all(|run| run.len() < PAYLOAD_LEN_MAX));
    }

    #[test]
    fn what_does_not_fit_together_is_no_run() {
        let mut builder = GoneBuilder::default();
        builder.push(3, &record(3, b"a"));
        let good = builder.finish().unwrap();
        assert!(GoneRun::read(&good).is_some());
        let check = |change: &dyn Fn(&mut Gone)| {
            let mut gone = Gone::decode(good.as_slice()).unwrap();
            change(&mut gone);
            assert!(GoneRun::read(&gone.encode_to_vec()).is_none(), "{gone:?}");
        };
        check(&|gone| gone.leaves.clear());
        check(&|gone| gone.leaves.push(1));
        check(&|gone| gone.stream.push(0));
        check(&|gone| gone.stream = vec![1]);
        check(&|gone| gone.sequence.clear());
        check(&|gone| gone.class.push(16));
        check(&|gone| gone.received_us.clear());
        check(&|gone| gone.earlier_us.clear());
        check(&|gone| gone.first = u64::MAX);
        assert!(GoneRun::read(b"\xff").is_none());
    }

    #[test]
    fn a_segment_says_by_class_what_it_lacks() {
        let mut sum = SparseSum::default();
        assert!(sum.is_empty());
        for (class, at) in [(20, 9), (16, 5), (16, 7), (16, 6)] {
            sum.count(class, at);
        }
        sum.run(b"x");
        let lacking = Lacking::read(4, &sum.encode()).unwrap();
        let dropped = |class, records, first_us, last_us| Dropped {
            class,
            records,
            first_us,
            last_us,
        };
        assert_eq!(
            lacking.dropped,
            [dropped("decision", 3, 5, 7), dropped("admin", 1, 9, 9)]
        );
        assert_eq!((lacking.segment, lacking.records()), (4, 4));
    }
}
