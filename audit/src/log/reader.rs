//! Reading: everything durable, from any thread, beside the writer.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bytes::Bytes;
use palisade_mesh::wire::{audit::Envelope, record::Record};
use prost::Message as _;
use tokio::sync::watch;

use super::{Checkpoint, Damage, Entry, LogError, OpenGap};
#[cfg(not(feature = "index"))]
use crate::files;
use crate::{
    merkle::{Hash, Tiles, consistency_proof, inclusion_proof},
    note::Verifier,
    segment::{self, Content, FrameReader, GoneRun, Lacking, Offsets},
};

/// Sealed segments kept open with their offsets.
const OPEN_SEGMENTS_MAX: usize = 32;

/// Times a proof is tried: a partial tile may be replaced while it is made.
const PROOF_TRIES: usize = 5;

/// What writer and readers share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) tiles: Tiles,
    pub(super) verifier: Verifier,
    // Set by the writer, after what they tell of is on disk.
    pub(super) len: watch::Sender<u64>,
    pub(super) checkpoint: watch::Sender<Arc<Checkpoint>>,
    pub(super) gaps: watch::Sender<Arc<[OpenGap]>>,
    pub(super) segments: RwLock<Segments>,
    /// Held by the writer, and by whoever replaces a segment until that is done.
    #[cfg(feature = "index")]
    pub(super) lock: std::sync::Weak<File>,
    /// What was dropped, by segment; set after it is.
    pub(super) lacking: watch::Sender<Arc<[Lacking]>>,
    // Used by readers alone.
    pub(super) sealed: Mutex<VecDeque<Arc<Sealed>>>,
    #[cfg(feature = "index")]
    pub(super) book: Mutex<super::book::Book>,
    #[cfg(feature = "index")]
    pub(super) archive: Option<Arc<crate::archive::Archive>>,
    /// What the start found of segments that nobody writes any more.
    pub(super) damaged: Vec<Damage>,
}

/// Which segments there are.
pub(super) struct Segments {
    /// First leaf of each, ascending; the last is the one that grows.
    pub(super) firsts: Vec<u64>,
    /// The one that grows; absent in an empty log that is only read.
    pub(super) active: Option<Arc<File>>,
    /// Of the one that grows.
    pub(super) offsets: Offsets,
}

/// A sealed segment, open.
pub(super) struct Sealed {
    first: u64,
    file: Arc<File>,
    offsets: Offsets,
    /// Its name in the cache of the archive, if it went there.
    #[cfg(feature = "index")]
    cached: Option<String>,
}

#[cfg(feature = "index")]
impl Sealed {
    pub(super) fn first(&self) -> u64 {
        self.first
    }
}

/// Where a frame lies, and how many follow it in its segment.
struct Place {
    file: Arc<File>,
    path: PathBuf,
    offset: u64,
    len: usize,
    segment_end: u64,
    left: u64,
}

impl Shared {
    pub(super) fn read(&self, index: u64) -> Result<Entry, LogError> {
        entry(index, self.leaf(index)?)
    }

    /// The leaf as it is hashed.
    pub(super) fn leaf(&self, index: u64) -> Result<Bytes, LogError> {
        let place = self.place(index)?;
        let damaged =
            |what: String| LogError::tampered(place.path.clone(), index, place.offset, what);
        if place.len == 0 {
            // The frame decides: offsets are not what was signed.
            return Err(match self.is_gone(&place, index)? {
                true => LogError::Dropped { index },
                false => damaged("no record is where its offset says that one was dropped".into()),
            });
        }
        let mut frame = vec![0; place.len];
        let len = segment::read_at_most(&place.file, &mut frame, place.offset)
            .map_err(LogError::io(self.dir.join(&place.path)))?;
        frame.truncate(len);
        match segment::check_frame(&frame) {
            Ok(Content::Leaf(leaf)) => Ok(Bytes::copy_from_slice(leaf)),
            Ok(Content::Gone(gone)) => Err(match has(gone, index) {
                true => LogError::Dropped { index },
                false => damaged("it does not say which records were dropped".into()),
            }),
            Ok(Content::Sparse(_)) => Err(damaged("it says what the segment lacks".into())),
            Err(what) => Err(damaged(what)),
        }
    }

    /// When the record at `index` was received, whether or not it was dropped since.
    #[cfg(feature = "index")]
    pub(super) fn received_us(&self, index: u64) -> Result<i64, LogError> {
        match self.read(index) {
            Ok(entry) => Ok(entry.envelope.received_us),
            Err(LogError::Dropped { .. }) => {
                let place = self.place(index)?;
                let damaged =
                    |what| LogError::tampered(place.path.clone(), index, place.offset, what);
                let run = self.gone_at(&place)?;
                run.and_then(|run| run.received_us(index))
                    .ok_or_else(|| damaged("it does not say when the record was received"))
            }
            Err(error) => Err(error),
        }
    }

    /// Sealed segments, as far as they are under the latest checkpoint, oldest first.
    #[cfg(feature = "index")]
    pub(super) fn sealed_spans(&self) -> Vec<std::ops::Range<u64>> {
        let signed = self.checkpoint.borrow().size;
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let nexts = segments.firsts.iter().skip(1);
        let spans = segments.firsts.iter().zip(nexts);
        spans
            .map(|(first, next)| *first..*next)
            .filter(|span| span.end <= signed)
            .collect()
    }

    /// Notes that a segment has been replaced by one that lacks something.
    #[cfg(feature = "index")]
    pub(super) fn thinned(&self, lacking: Lacking) {
        let mut open = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|sealed| sealed.first != lacking.segment);
        drop(open);
        self.lacking.send_modify(|all| {
            let others = all.iter().filter(|l| l.segment != lacking.segment);
            let mut now: Vec<Lacking> = others.cloned().collect();
            let at = now.partition_point(|l| l.segment < lacking.segment);
            now.insert(at, lacking);
            *all = now.into();
        });
    }

    /// Whether what stands at `place` says that the record at `index` was dropped.
    fn is_gone(&self, place: &Place, index: u64) -> Result<bool, LogError> {
        let mut reader = FrameReader::new(place.file.clone(), place.offset, place.segment_end);
        let frame = reader
            .next()
            .map_err(LogError::io(self.dir.join(&place.path)))?;
        Ok(
            matches!(frame, Some(Ok(frame)) if matches!(frame.content(), Content::Gone(gone) if has(gone, index))),
        )
    }

    /// What the records left that were dropped at `place`.
    #[cfg(feature = "index")]
    fn gone_at(&self, place: &Place) -> Result<Option<GoneRun>, LogError> {
        let mut reader = FrameReader::new(place.file.clone(), place.offset, place.segment_end);
        let frame = reader
            .next()
            .map_err(LogError::io(self.dir.join(&place.path)))?;
        Ok(match frame {
            Some(Ok(frame)) => match frame.content() {
                Content::Gone(gone) => GoneRun::read(gone),
                _ => None,
            },
            _ => None,
        })
    }

    fn place(&self, index: u64) -> Result<Place, LogError> {
        let len = *self.len.borrow();
        let not_found = || LogError::NotFound { index, len };
        if index >= len {
            return Err(not_found());
        }
        let (first, next) = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let at = segments.firsts.partition_point(|first| *first <= index);
            let before = at.checked_sub(1);
            let Some(first) = before.and_then(|at| segments.firsts.get(at).copied()) else {
                return Err(segments.firsts.first().map_or_else(not_found, |next| {
                    let what = "the first segments are gone";
                    LogError::lost(segment::relative(0), 0..*next, what)
                }));
            };
            match (segments.firsts.get(at), &segments.active) {
                (Some(next), _) => (first, *next),
                (None, Some(active)) => {
                    return Place::new(active, first, &segments.offsets, index)
                        .ok_or_else(not_found);
                }
                (None, None) => return Err(not_found()),
            }
        };
        let sealed = self.sealed(first, next - first)?;
        let place = Place::new(&sealed.file, first, &sealed.offsets, index);
        place.ok_or_else(|| {
            let lost = first + sealed.offsets.len()..next;
            // A copy may be put back in its place: whoever asks again opens what is there then.
            let open = self.sealed.lock();
            open.unwrap_or_else(PoisonError::into_inner)
                .retain(|sealed| sealed.first != first);
            let what = "the segment cannot be read through, or what followed it is gone; `audit verify` names the place";
            LogError::lost(segment::relative(first), lost, what)
        })
    }

    fn sealed(&self, first: u64, count: u64) -> Result<Arc<Sealed>, LogError> {
        if let Some(sealed) = self.is_open(first) {
            return Ok(sealed);
        }
        // Nobody waits for a segment that is fetched but who wants that one.
        let relative = segment::relative(first);
        let path = self.dir.join(&relative);
        #[cfg(feature = "index")]
        let opened = self.open(first);
        #[cfg(not(feature = "index"))]
        let opened = files::open(&path);
        let opened = opened.map_err(|e| match LogError::io(&path)(e) {
            LogError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                LogError::lost(relative, first..first + count, "the segment is gone")
            }
            error => error,
        });
        #[cfg(feature = "index")]
        let (file, cached) = opened?;
        #[cfg(not(feature = "index"))]
        let file = opened?;
        let file = Arc::new(file);
        let offsets = Offsets::load(&path, &file, first, count).map_err(LogError::io(&path))?;
        let sealed = Arc::new(Sealed {
            first,
            file,
            offsets,
            #[cfg(feature = "index")]
            cached,
        });
        self.keep_open(sealed.clone());
        Ok(sealed)
    }

    fn is_open(&self, first: u64) -> Option<Arc<Sealed>> {
        let mut open = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().position(|sealed| sealed.first == first)?;
        let sealed = open.remove(at)?;
        open.push_back(sealed.clone());
        Some(sealed)
    }

    fn keep_open(&self, sealed: Arc<Sealed>) {
        let mut open = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        // What the cache let go has its room on the disk until it is closed.
        #[cfg(feature = "index")]
        open.retain(|sealed| match (&sealed.cached, &self.archive) {
            (Some(name), Some(archive)) => archive.keeps(name),
            _ => true,
        });
        open.retain(|other| other.first != sealed.first);
        open.push_back(sealed);
        if open.len() > OPEN_SEGMENTS_MAX {
            open.pop_front();
        }
    }

    pub(super) fn prove(&self, index: u64) -> Result<(Checkpoint, Vec<Hash>), LogError> {
        self.proof(index, |size, read| inclusion_proof(index, size, read))
    }

    /// As [`Self::prove`], under an earlier checkpoint of `size` records. Its complete
    /// subtrees are those of the latest, whose tiles are there.
    pub(super) fn prove_under(&self, index: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        let made = self.proof(index, |latest, read| match size <= latest {
            true => inclusion_proof(index, size, read),
            false => Ok(None),
        });
        made.map(|(_, proof)| proof)
    }

    /// As [`Self::prove_prefix`], of an earlier checkpoint of `size` records.
    pub(super) fn prove_prefix_of(&self, first: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        let made = self.proof(first, |latest, read| match size <= latest {
            true => consistency_proof(first, size, read),
            false => Ok(None),
        });
        made.map(|(_, proof)| proof)
    }

    pub(super) fn prove_prefix(&self, first: u64) -> Result<(Checkpoint, Vec<Hash>), LogError> {
        self.proof(first, |size, read| consistency_proof(first, size, read))
    }

    fn proof(
        &self,
        index: u64,
        make: impl Fn(
            u64,
            &mut dyn FnMut(u32, u64) -> io::Result<Hash>,
        ) -> io::Result<Option<Vec<Hash>>>,
    ) -> Result<(Checkpoint, Vec<Hash>), LogError> {
        let mut tries = 1;
        loop {
            let checkpoint = self.checkpoint.borrow().clone();
            let size = checkpoint.size;
            let mut read = |height, i| self.tiles.node(height, i, size);
            match make(size, &mut read) {
                Ok(Some(proof)) => return Ok((checkpoint.as_ref().clone(), proof)),
                Ok(None) => return Err(LogError::NotFound { index, len: size }),
                Err(_) if tries < PROOF_TRIES => tries += 1,
                Err(e) => return Err(LogError::io(self.dir.join("tile"))(e)),
            }
        }
    }
}

impl Place {
    fn new(file: &Arc<File>, first: u64, offsets: &Offsets, index: u64) -> Option<Self> {
        let (start, end) = offsets.get(index - first)?;
        Some(Self {
            file: file.clone(),
            path: segment::relative(first),
            offset: start,
            len: usize::try_from(end - start).ok()?,
            segment_end: offsets.end(),
            left: offsets.len() - (index - first),
        })
    }
}

/// Decodes a leaf.
fn entry(index: u64, leaf: Bytes) -> Result<Entry, LogError> {
    let undecodable = |e: prost::DecodeError| LogError::Undecodable {
        index,
        cause: e.to_string(),
    };
    let envelope = Envelope::decode(leaf).map_err(undecodable)?;
    let record = Record::decode(envelope.record.clone()).map_err(undecodable)?;
    Ok(Entry {
        index,
        envelope,
        record,
    })
}

/// Whether the record at `index` is one of those that left `gone`.
fn has(gone: &[u8], index: u64) -> bool {
    GoneRun::read(gone).is_some_and(|run| (run.first()..run.next()).contains(&index))
}

/// Reads records in order, up to what was durable when it was made. Those that were
/// dropped since are passed over.
///
/// A record that cannot be decoded is an `Err` and reading goes on after it; after
/// any other error it ends.
pub struct Scan {
    shared: Arc<Shared>,
    next: u64,
    end: u64,
    run: Run,
    dropped: u64,
    /// When the last of those was received.
    passed_us: Option<i64>,
}

impl Scan {
    pub(super) fn new(shared: Arc<Shared>, from: u64) -> Self {
        let end = *shared.len.borrow();
        Self {
            shared,
            next: from,
            end,
            run: None,
            dropped: 0,
            passed_us: None,
        }
    }

    /// Ends before `index`, if it would not before.
    #[cfg(feature = "index")]
    pub(super) fn until(mut self, index: u64) -> Self {
        self.end = self.end.min(index);
        self
    }

    /// The index at which it ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many records it has passed over.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The next leaf as it is hashed, undecoded; after an error there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn next_leaf(&mut self) -> Option<Result<(u64, &[u8]), LogError>> {
        match self.settle()? {
            Ok(index) => {
                self.next = index + 1;
                Some(Ok((index, self.run.as_ref().map_or(&[][..], Walk::leaf))))
            }
            Err(error) => {
                self.end = self.next;
                Some(Err(error))
            }
        }
    }

    /// When the last of the records was received that it has passed over, microseconds since
    /// the Unix epoch.
    #[cfg(feature = "index")]
    pub(crate) fn passed_us(&self) -> Option<i64> {
        self.passed_us
    }

    /// The index that it reads next.
    #[cfg(feature = "index")]
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Has the next leaf that is there in `run`; gives its index.
    fn settle(&mut self) -> Option<Result<u64, LogError>> {
        while self.next < self.end {
            match read(&self.shared, &mut self.run, self.next, self.end) {
                Ok(None) => return Some(Ok(self.next)),
                Ok(Some((after, latest_us))) => {
                    self.passed_us = self.passed_us.max(latest_us);
                    let after = after.min(self.end);
                    self.dropped += after - self.next;
                    self.next = after;
                }
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
}

/// A run of leaves in one segment: where it is, its reader, and how many are left.
struct Walk {
    path: PathBuf,
    reader: FrameReader,
    left: u64,
}

impl Walk {
    /// The leaf that was read last.
    fn leaf(&self) -> &[u8] {
        match self.reader.last() {
            Some(Content::Leaf(leaf)) => leaf,
            _ => &[],
        }
    }
}

type Run = Option<Walk>;

/// Reads the leaf at `index`, at which `run` stands if it stands anywhere; gives the index
/// after those that were dropped where it is one of them, and when the last of these was
/// received.
fn read(
    shared: &Shared,
    run: &mut Run,
    index: u64,
    end: u64,
) -> Result<Option<(u64, Option<i64>)>, LogError> {
    if run.as_ref().is_none_or(|walk| walk.left == 0) {
        let place = shared.place(index)?;
        *run = Some(Walk {
            reader: FrameReader::new(place.file, place.offset, place.segment_end),
            path: place.path,
            left: place.left,
        });
    }
    let not_found = LogError::NotFound { index, len: end };
    let Some(Walk { path, reader, left }) = run else {
        return Err(not_found);
    };
    let offset = reader.offset();
    let damaged = |what: String| LogError::tampered(path.clone(), index, offset, what);
    let frame = match reader.next() {
        Ok(Some(Ok(frame))) => frame,
        // Damaged, and one of those that were dropped but the last of them: that is told.
        Ok(Some(Err(_))) if shared.place(index)?.len == 0 => {
            *run = None;
            return Ok(Some((index + 1, None)));
        }
        Ok(Some(Err(fault))) => return Err(damaged(fault.to_string())),
        Ok(None) => return Err(not_found),
        Err(e) => return Err(LogError::io(shared.dir.join(path))(e)),
    };
    let after = match frame.content() {
        Content::Leaf(_) => None,
        Content::Gone(gone) => GoneRun::read(gone)
            .filter(|run| (run.first()..run.next()).contains(&index))
            .map(|run| (run.next(), run.latest_us()))
            .ok_or_else(|| damaged("it does not say which records were dropped".into()))
            .map(Some)?,
        Content::Sparse(_) => return Err(damaged("it says what the segment lacks".into())),
    };
    *left = left.saturating_sub(after.map_or(1, |(after, _)| after - index));
    Ok(after)
}

impl Iterator for Scan {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.settle()?.and_then(|index| {
            let leaf = self.run.as_ref().map_or(&[][..], Walk::leaf);
            entry(index, Bytes::copy_from_slice(leaf))
        });
        match &entry {
            Ok(_) | Err(LogError::Undecodable { .. }) => self.next += 1,
            Err(_) => self.next = self.end,
        }
        Some(entry)
    }
}
