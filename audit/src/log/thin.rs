//! Takes records out of a segment because their time is over, and leaves what proves the
//! rest.
//!
//! The segment is written again without them, aside; it is read back and compared with the
//! tree; what is dropped is recorded and signed; then it takes the place of the old one. A
//! crash before that leaves the old one, a crash after it the new one: never none, and never
//! one that drops what no signed record tells of.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use palisade_mesh::wire::record::{Dropping, record::Body};

use super::{Log, LogError, reader::Shared, recover::log_id, writer::lifecycle};
use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    files,
    item::filed_time,
    merkle::{self, Hash, TILE_WIDTH, TilePath},
    segment::{
        self, Content, FrameReader, GoneBuilder, GoneRun, HEADER_LEN, Header, Lacking, Offsets,
        SparseSum, sum_of,
    },
};

/// The verb under which it is recorded what was dropped.
pub(crate) const RECORDS_DROPPED: &str = "records_dropped";

/// How long the log may take to sign that something is dropped.
const SIGN_TIME_MAX: Duration = Duration::from_secs(60);

/// Times that a hash is asked for: a partial tile may be replaced meanwhile.
const TILE_TRIES: usize = 5;

/// What is to become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is dropped.
    Drop,
    /// It stays.
    Keep,
}

/// Records of a class that are to be dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// How many.
    pub records: u64,
    /// What they take, in bytes.
    pub bytes: u64,
}

/// A segment of which it is known what is to be dropped.
#[derive(Debug)]
pub struct Thinning {
    log: Log,
    segment: Range<u64>,
    /// Ascending.
    drop: Vec<u64>,
    /// What the segment lacks afterwards, without its digest.
    sum: SparseSum,
    /// What is to be dropped, by class.
    pub dropped: BTreeMap<&'static str, Weight>,
    /// What stays, by class: when the first of them was received, microseconds since the
    /// Unix epoch.
    pub kept: BTreeMap<&'static str, i64>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinned {
    /// Size of the segment before, in bytes.
    pub bytes_before: u64,
    /// Its size now.
    pub bytes: u64,
}

/// Where a crash is tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The new segment is written aside.
    Written,
    /// What is dropped is recorded.
    Recorded,
    /// The offsets of the old one are gone.
    Unindexed,
    /// The new one is in place, the rest is not done.
    Replaced,
}

impl Thinning {
    /// Asks of every record of `segment`, one of [`Log::sealed`], what is to become of it.
    /// Each is compared with the tree; what is no record that this version reads stays.
    ///
    /// # Errors
    /// [`LogError`] when the segment is not what was signed or cannot be read.
    pub fn weigh(
        log: &Log,
        segment: Range<u64>,
        mut fate: impl FnMut(u64, &EnvelopeRef<'_>, &RecordPeek<'_>) -> Fate,
    ) -> Result<Self, LogError> {
        let shared = &log.inner.shared;
        let mut found = Self {
            log: log.clone(),
            segment: segment.clone(),
            drop: Vec::new(),
            sum: SparseSum::default(),
            dropped: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        let mut hashes = Hashes::new(shared);
        walk(shared, &segment, &path(shared, &segment), |part| {
            match part {
                Part::Gone(_, run) => {
                    for (index, record) in (run.first()..).zip(run.records()) {
                        hashes.check(index, &record.leaf)?;
                        found.sum.count(record.class, record.filed_us);
                    }
                }
                Part::Leaf {
                    index,
                    leaf,
                    hash,
                    len,
                } => {
                    hashes.check(index, &hash)?;
                    found.weigh_leaf(index, leaf, len, &mut fate);
                }
            }
            Ok(())
        })
        .map_err(|e| shared.failed(&segment, e))?;
        Ok(found)
    }

    fn weigh_leaf(
        &mut self,
        index: u64,
        leaf: &[u8],
        len: u64,
        fate: &mut impl FnMut(u64, &EnvelopeRef<'_>, &RecordPeek<'_>) -> Fate,
    ) {
        let Some(envelope) = EnvelopeRef::decode(leaf) else {
            return;
        };
        let Some(peek) = RecordPeek::new(envelope.record) else {
            return;
        };
        match fate(index, &envelope, &peek) {
            Fate::Drop => {
                self.drop.push(index);
                let filed_us = filed_time(peek.time_us, envelope.received_us);
                self.sum.count(peek.class, filed_us);
                let weight = self.dropped.entry(peek.class_name()).or_default();
                weight.records += 1;
                weight.bytes += len;
            }
            Fate::Keep => {
                let first = self.kept.entry(peek.class_name());
                let first = first.or_insert(envelope.received_us);
                *first = envelope.received_us.min(*first);
            }
        }
    }

    /// Whether nothing is to be dropped.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty()
    }

    /// Drops it, and records that with what `detail` says of it. Blocks on the disk, and
    /// until the log has signed the record.
    ///
    /// # Errors
    /// [`LogError`] when it was not done; the segment is then as it was.
    pub fn carry_out(self, detail: String) -> Result<Thinned, LogError> {
        self.carry_out_to(detail, &mut |_| Ok(()))
    }

    /// As [`Thinning::carry_out`], asking at each point whether to go on.
    pub(crate) fn carry_out_to(
        mut self,
        detail: String,
        at: &mut dyn FnMut(Point) -> io::Result<()>,
    ) -> Result<Thinned, LogError> {
        let log = self.log.clone();
        let shared = &log.inner.shared;
        if log.inner.commands.is_none() {
            return Err(self.failed(io::Error::other(super::AppendError::ReadOnly)));
        }
        let old = path(shared, &self.segment);
        let aside = old.with_extension(segment::ASIDE);
        let written = self.write(&old, &aside).and_then(|sparse| {
            let offsets = check(shared, &self.segment, &aside, &sparse)?;
            at(Point::Written)?;
            self.record(detail, &sparse)?;
            at(Point::Recorded)?;
            Ok((sparse, offsets))
        });
        let (sparse, offsets) = match written {
            Ok(done) => done,
            Err(e) => {
                // Best effort: the next start removes it, too.
                let _ = fs::remove_file(&aside);
                return Err(self.failed(e));
            }
        };
        self.replace(&old, &aside, &sparse, &offsets, at)
            .map_err(|e| self.failed(e))
    }

    /// Puts the new segment into the place of the old one.
    fn replace(
        &self,
        old: &Path,
        aside: &Path,
        sparse: &[u8],
        offsets: &Offsets,
        at: &mut dyn FnMut(Point) -> io::Result<()>,
    ) -> io::Result<Thinned> {
        let shared = &self.log.inner.shared;
        let bytes_before = fs::metadata(old)?.len();
        let bytes = fs::metadata(aside)?.len();
        // Those of the old one must not be taken for those of the new one.
        match fs::remove_file(old.with_extension("idx")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        at(Point::Unindexed)?;
        // The point of no return.
        fs::rename(aside, old)?;
        let lacking = Lacking::read(self.segment.start, sparse);
        lacking.into_iter().for_each(|l| shared.thinned(l));
        at(Point::Replaced)?;
        files::sync_dir(old.parent().unwrap_or(&shared.dir))?;
        if let Err(e) = offsets.save(old) {
            tracing::warn!(error = %e, "offsets of a segment not written; they will be made again");
        }
        Ok(Thinned {
            bytes_before,
            bytes,
        })
    }

    /// Writes the segment without what is dropped; durable when it returns what it then says
    /// of itself.
    fn write(&mut self, old: &Path, aside: &Path) -> io::Result<Vec<u8>> {
        let shared = &self.log.inner.shared;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(files::FILE_MODE)
            .open(aside)?;
        let header = Header {
            first_leaf: self.segment.start,
            log_id: log_id(&shared.verifier),
        };
        let mut start = header.encode();
        // Its digest comes at the end, when it is known; its length is the same.
        segment::frame_sparse(&mut start, &self.sum.clone().encode());
        let mut out = Out {
            file: BufWriter::with_capacity(1 << 20, &file),
            sum: &mut self.sum,
            frame: start,
        };
        out.send()?;
        let mut gone = GoneBuilder::default();
        let mut drop = self.drop.iter().copied().peekable();
        walk(shared, &self.segment, old, |part| {
            match part {
                Part::Gone(_, run) => {
                    for (index, record) in (run.first()..).zip(run.records()) {
                        out.gone(gone.push(index, &record))?;
                    }
                }
                Part::Leaf {
                    index, leaf, hash, ..
                } => match drop.next_if_eq(&index).and(envelope_of(leaf)) {
                    Some((envelope, peek)) => {
                        let filed_us = filed_time(peek.time_us, envelope.received_us);
                        let record = segment::GoneRecord::of(hash, &envelope, peek.class, filed_us);
                        out.gone(gone.push(index, &record))?;
                    }
                    None => {
                        out.gone(gone.finish())?;
                        segment::frame(&mut out.frame, |buf| buf.extend_from_slice(leaf));
                        out.send()?;
                    }
                },
            }
            Ok(())
        })?;
        out.gone(gone.finish())?;
        out.file.flush()?;
        std::mem::drop(out);
        let sparse = std::mem::take(&mut self.sum).encode();
        let mut frame = Vec::new();
        segment::frame_sparse(&mut frame, &sparse);
        file.write_all_at(&frame, HEADER_LEN)?;
        file.sync_all()?;
        Ok(sparse)
    }

    /// Records what is dropped; signed when it returns.
    fn record(&self, detail: String, sparse: &[u8]) -> io::Result<()> {
        let mut body = lifecycle(RECORDS_DROPPED, detail);
        if let Body::LogLifecycle(lifecycle) = &mut body {
            lifecycle.dropping = Some(Dropping {
                segment: self.segment.start,
                digest: merkle::sha256(sparse).to_vec(),
            });
        }
        let mut receipt = self.log.note(body);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let signed = runtime
            .block_on(async { tokio::time::timeout(SIGN_TIME_MAX, receipt.checkpointed()).await });
        match signed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the log has not signed what would be dropped",
            )),
        }
    }

    fn failed(&self, error: io::Error) -> LogError {
        self.log.inner.shared.failed(&self.segment, error)
    }
}

impl Shared {
    fn failed(&self, segment: &Range<u64>, error: io::Error) -> LogError {
        match error.downcast::<Differs>() {
            Ok(Differs { leaf, what }) => {
                LogError::tampered(segment::relative(segment.start), leaf, 0, what)
            }
            Err(error) => LogError::io(path(self, segment))(error),
        }
    }
}

/// Something in a segment is not what was signed.
#[derive(Debug, thiserror::Error)]
#[error("record {leaf}: {what}")]
struct Differs {
    leaf: u64,
    what: String,
}

impl Differs {
    fn error(leaf: u64, what: impl Into<String>) -> io::Error {
        let what = what.into();
        io::Error::new(io::ErrorKind::InvalidData, Self { leaf, what })
    }
}

fn path(shared: &Shared, segment: &Range<u64>) -> PathBuf {
    shared.dir.join(segment::relative(segment.start))
}

fn envelope_of(leaf: &[u8]) -> Option<(EnvelopeRef<'_>, RecordPeek<'_>)> {
    let envelope = EnvelopeRef::decode(leaf)?;
    Some((envelope, RecordPeek::new(envelope.record)?))
}

/// Where the new segment is written.
struct Out<'a> {
    file: BufWriter<&'a File>,
    sum: &'a mut SparseSum,
    frame: Vec<u8>,
}

impl Out<'_> {
    fn gone(&mut self, run: Option<Vec<u8>>) -> io::Result<()> {
        if let Some(run) = run {
            self.sum.run(&run);
            segment::frame_gone(&mut self.frame, &run);
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        self.file.write_all(&self.frame)?;
        self.frame.clear();
        Ok(())
    }
}

/// A part of a segment.
enum Part<'a> {
    /// A record that is there.
    Leaf {
        index: u64,
        leaf: &'a [u8],
        hash: Hash,
        /// Bytes of its frame.
        len: u64,
    },
    /// What some left that are not, and how that is encoded.
    Gone(&'a [u8], GoneRun),
}

/// Reads a segment through, from its header to the record that must be its last; gives its
/// offsets and what it says that it lacks.
fn walk(
    shared: &Shared,
    segment: &Range<u64>,
    path: &Path,
    mut visit: impl FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<(Offsets, Option<Vec<u8>>)> {
    let file = Arc::new(File::open(path)?);
    let header = Header {
        first_leaf: segment.start,
        log_id: log_id(&shared.verifier),
    };
    if let Err(fault) = header.check(&file)? {
        let what = format!("header field {} differs", fault.field);
        return Err(Differs::error(segment.start, what));
    }
    let len = file.metadata()?.len();
    let mut reader = FrameReader::new(file, HEADER_LEN, len);
    let mut offsets = Offsets::empty();
    let mut sparse = None;
    loop {
        let index = segment.start + offsets.len();
        let frame = match reader.next()? {
            None if index == segment.end => return Ok((offsets, sparse)),
            None => return Err(Differs::error(index, "the segment ends before it")),
            Some(Err(fault)) => return Err(Differs::error(index, fault.to_string())),
            Some(Ok(frame)) => frame,
        };
        let stands = offsets.take(&frame, segment.start);
        if stands.is_none_or(|count| index + count > segment.end) {
            return Err(Differs::error(index, "what is there cannot stand there"));
        }
        match frame.content() {
            Content::Leaf(leaf) => visit(Part::Leaf {
                index,
                leaf,
                hash: merkle::leaf_in_place(frame.payload),
                len: frame.end() - frame.offset,
            })?,
            Content::Gone(gone) => match GoneRun::read(gone) {
                Some(run) => visit(Part::Gone(gone, run))?,
                None => return Err(Differs::error(index, "it says nothing of what was dropped")),
            },
            Content::Sparse(said) => sparse = Some(said.to_vec()),
        }
    }
}

/// Compares what was written aside with the tree, and with what it says of itself.
fn check(
    shared: &Shared,
    segment: &Range<u64>,
    aside: &Path,
    expected: &[u8],
) -> io::Result<Offsets> {
    let mut hashes = Hashes::new(shared);
    let mut sum = SparseSum::default();
    let (offsets, said) = walk(shared, segment, aside, |part| {
        match part {
            Part::Leaf { index, hash, .. } => hashes.check(index, &hash)?,
            Part::Gone(encoded, run) => {
                sum_of(&mut sum, encoded, &run);
                for (index, record) in (run.first()..).zip(run.records()) {
                    hashes.check(index, &record.leaf)?;
                }
            }
        }
        Ok(())
    })?;
    if said.as_deref() != Some(expected) || sum.encode() != expected {
        let what = "what was written aside is not what it says of itself";
        return Err(Differs::error(segment.start, what));
    }
    Ok(offsets)
}

/// Which records of the segment that begins with `first` were dropped.
pub(super) fn dropped_from(shared: &Shared, first: u64) -> Result<Vec<Range<u64>>, LogError> {
    let spans = shared.sealed_spans();
    let Some(segment) = spans.into_iter().find(|span| span.start == first) else {
        return Ok(Vec::new());
    };
    let mut all: Vec<Range<u64>> = Vec::new();
    walk(shared, &segment, &path(shared, &segment), |part| {
        if let Part::Gone(_, run) = part {
            match all.last_mut().filter(|last| last.end == run.first()) {
                Some(last) => last.end = run.next(),
                None => all.push(run.first()..run.next()),
            }
        }
        Ok(())
    })
    .map_err(|e| shared.failed(&segment, e))?;
    Ok(all)
}

/// The hashes of leaves that the tree has.
struct Hashes<'a> {
    shared: &'a Shared,
    tile: Option<(u64, Vec<Hash>)>,
}

impl<'a> Hashes<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, tile: None }
    }

    /// Refuses a leaf that is not the one that was signed.
    fn check(&mut self, leaf: u64, hash: &Hash) -> io::Result<()> {
        let number = leaf / TILE_WIDTH as u64;
        if self.tile.as_ref().is_none_or(|(held, _)| *held != number) {
            self.tile = Some((number, self.read(number)?));
        }
        let at = (leaf % TILE_WIDTH as u64) as usize;
        let stored = self.tile.as_ref().and_then(|(_, hashes)| hashes.get(at));
        match stored {
            Some(stored) if stored == hash => Ok(()),
            _ => Err(Differs::error(
                leaf,
                "the record is not the one that was signed",
            )),
        }
    }

    fn read(&self, number: u64) -> io::Result<Vec<Hash>> {
        let mut tries = 1;
        loop {
            let size = self.shared.checkpoint.borrow().size;
            let path = TilePath::at(0, number, size)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            match self.shared.tiles.read(path) {
                Err(_) if tries < TILE_TRIES => tries += 1,
                read => return read,
            }
        }
    }
}
