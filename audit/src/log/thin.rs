//! Takes records out of a segment because their time is over, and leaves what proves the
//! rest.
//!
//! The segment is written again without them, aside; it is read back and compared with the
//! tree; what is dropped is recorded and signed; then it takes the place of the old one. A
//! crash before that leaves the old one, a crash after it the new one: never none, and never
//! one that drops what no signed record tells of. What was recorded and not done is recorded
//! as that, too, so that nobody can do it later.
//!
//! What an earlier run has left is believed only if it is what the log says of it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use palisade_mesh::wire::record::{Admin, Dropping, record::Body};
use prost::Message as _;

use super::{Log, LogError, book, reader::Shared, recover::log_id, remake, writer::about_dropping};
use crate::{
    archive::Away,
    envelope::{ADMIN, EnvelopeRef, RecordPeek, class_name, is_always_kept},
    files,
    holds::{HOLD_ADDED, HOLD_RELEASED},
    item::filed_time,
    merkle::{self, Hash, TILE_WIDTH, TilePath, verify_inclusion},
    segment::{
        self, Content, FrameReader, GoneBuilder, GoneRun, HEADER_LEN, Header, Lacking, Offsets,
        SparseSum, sum_of,
    },
    told::{self, OF_SEGMENT, RECORDS_DROPPED, RECORDS_GONE, RECORDS_LEFT},
};

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
    /// The digest of what it says that it lacks now.
    before: Option<Hash>,
    /// What was fetched of a segment that is in an archive.
    fetched: Option<File>,
    /// What is to be dropped, by class.
    pub dropped: BTreeMap<&'static str, Weight>,
    /// What stays and might go, by class as in `record.proto`: the time of the oldest of them,
    /// microseconds since the Unix epoch.
    pub kept: BTreeMap<u32, i64>,
}

/// What counts as the time of a record.
struct Age {
    now_us: i64,
    latest_us: i64,
}

impl Age {
    /// Of the next one, which was received then.
    fn of(&mut self, received_us: i64) -> i64 {
        if received_us <= self.now_us {
            self.latest_us = self.latest_us.max(received_us);
        }
        self.latest_us.max(received_us)
    }
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

impl Log {
    /// Opens a segment for one reader alone: what is fetched for that does not stay.
    pub(crate) fn open_once(&self, segment: &Range<u64>) -> Result<File, LogError> {
        let shared = &self.inner.shared;
        let opened = shared.open_once(segment.start);
        opened.map_err(|e| shared.failed(segment, e))
    }
}

impl Thinning {
    /// Asks of every record of `segment`, one of [`Log::sealed`], what is to become of it,
    /// with its time: when it was received, or any before it, whichever is later; of these, one
    /// that is to come at `now_us` counts for itself alone, for the clock was ahead then. Each is
    /// compared with the tree, and what is missing already with what the log says of it. What
    /// is no record that this version reads stays, and so does what is never dropped.
    ///
    /// # Errors
    /// [`LogError`] when the segment is not what was signed or cannot be read.
    pub fn weigh(
        log: &Log,
        segment: Range<u64>,
        now_us: i64,
        fate: impl FnMut(u64, i64, &EnvelopeRef<'_>, &RecordPeek<'_>) -> Fate,
    ) -> Result<Self, LogError> {
        let file = log.open_once(&segment)?;
        Self::weigh_in(log, file, segment, now_us, fate)
    }

    /// As [`Thinning::weigh`], in the file of the segment, which was opened before.
    pub(crate) fn weigh_in(
        log: &Log,
        file: File,
        segment: Range<u64>,
        now_us: i64,
        mut fate: impl FnMut(u64, i64, &EnvelopeRef<'_>, &RecordPeek<'_>) -> Fate,
    ) -> Result<Self, LogError> {
        let shared = &log.inner.shared;
        let mut age = Age {
            now_us,
            latest_us: book::with(log, |book| book.before_us(segment.start, now_us))?,
        };
        let mut found = Self {
            log: log.clone(),
            segment: segment.clone(),
            drop: Vec::new(),
            sum: SparseSum::default(),
            before: None,
            fetched: None,
            dropped: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        if log.is_away(segment.start) {
            let again = file.try_clone();
            found.fetched = Some(again.map_err(|e| shared.failed(&segment, e))?);
        }
        let own = (segment.start, &file);
        let hashes = Hashes::new(shared, own);
        let mut hashes = hashes.map_err(|e| shared.failed(&segment, e))?;
        let mut was = SparseSum::default();
        let walked = walk(shared, &segment, file, |part| {
            match part {
                Part::Gone(encoded, run) => {
                    sum_of(&mut was, encoded, &run);
                    for (index, record) in (run.first()..).zip(run.records()) {
                        hashes.check(index, &record.leaf)?;
                        if is_always_kept(record.class) {
                            return Err(Differs::error(index, never(record.class)));
                        }
                        age.of(record.received_us);
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
                    if let Some((envelope, peek)) = envelope_of(leaf) {
                        let time_us = age.of(envelope.received_us);
                        if may_go(&peek) {
                            let fate = fate(index, time_us, &envelope, &peek);
                            found.note(index, time_us, (&envelope, &peek), len, fate);
                        }
                    }
                }
            }
            Ok(())
        });
        let (_, said) = walked.map_err(|e| shared.failed(&segment, e))?;
        let lacks = lacks(&segment, was, said).map_err(|e| shared.failed(&segment, e))?;
        let standing = book::with(log, |book| book.told().standing(segment.start, lacks))?;
        if let Some(fault) = standing.fault() {
            return Err(shared.failed(&segment, Differs::error(segment.start, fault)));
        }
        found.before = lacks;
        Ok(found)
    }

    fn note(
        &mut self,
        index: u64,
        time_us: i64,
        (envelope, peek): (&EnvelopeRef<'_>, &RecordPeek<'_>),
        len: u64,
        fate: Fate,
    ) {
        match fate {
            Fate::Drop => {
                self.drop.push(index);
                let filed_us = filed_time(peek.time_us, envelope.received_us);
                self.sum.count(peek.class, filed_us);
                let weight = self.dropped.entry(peek.class_name()).or_default();
                weight.records += 1;
                weight.bytes += len;
            }
            Fate::Keep => {
                let first = self.kept.entry(peek.class).or_insert(time_us);
                *first = time_us.min(*first);
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
        // Nobody else opens the log for writing before it is done.
        let Some(_lock) = shared.lock.upgrade() else {
            return Err(self.failed(io::Error::other(super::AppendError::Closed)));
        };
        settle(&log)?;
        // A move that did not end does so before the segment becomes another.
        log.place_one(self.segment.start)?;
        if log.is_away(self.segment.start) {
            // It goes again at once, as another object.
            let fetched = self.fetched.take();
            log.bring_back_from(self.segment.start, fetched, 0, &mut |_| Ok(()))?;
        }
        let old = path(shared, &self.segment);
        let aside = old.with_extension(segment::ASIDE);
        let put = self.put(detail, &old, &aside, at);
        let (sparse, offsets, thinned) = match put {
            Ok(put) => put,
            Err(e) if is_crash(&e) => return Err(self.failed(e)),
            Err(e) => {
                // Best effort, both: the next run and the next start do it, too.
                if let Err(error) = settle(&log) {
                    tracing::warn!(%error, "it is not recorded yet that nothing was dropped");
                }
                let _ = fs::remove_file(&aside);
                return Err(self.failed(e));
            }
        };
        self.finish(&old, &sparse, &offsets, at)
            .map_err(|e| self.failed(e))?;
        Ok(thinned)
    }

    /// Makes the new segment and puts it into the place of the old one. After an error that
    /// has its old place.
    fn put(
        &mut self,
        detail: String,
        old: &Path,
        aside: &Path,
        at: &mut dyn FnMut(Point) -> io::Result<()>,
    ) -> io::Result<(Vec<u8>, Offsets, Thinned)> {
        let log = self.log.clone();
        let bytes_before = fs::metadata(old)?.len();
        log.room_for(bytes_before)?;
        let sparse = self.write(old, aside)?;
        let offsets = check(&log.inner.shared, &self.segment, aside, &sparse)?;
        at(Point::Written)?;
        let bytes = fs::metadata(aside)?.len();
        let dropping = self.record(detail, &sparse)?;
        at(Point::Recorded)?;
        // Those of the old one must not be taken for those of the new one.
        match fs::remove_file(old.with_extension("idx")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        at(Point::Unindexed)?;
        // The point of no return.
        fs::rename(aside, old)?;
        unsettled(&log, |left| {
            *left = left.take().filter(|left| *left != dropping)
        });
        Ok((
            sparse,
            offsets,
            Thinned {
                bytes_before,
                bytes,
            },
        ))
    }

    /// Tells everybody of the new segment, once that survives a power cut.
    fn finish(
        &self,
        old: &Path,
        sparse: &[u8],
        offsets: &Offsets,
        at: &mut dyn FnMut(Point) -> io::Result<()>,
    ) -> io::Result<()> {
        let shared = &self.log.inner.shared;
        let dir = old.parent().unwrap_or(&shared.dir);
        let synced = at(Point::Replaced).and_then(|()| files::sync_dir(dir));
        if synced.as_ref().is_err_and(is_crash) {
            return synced;
        }
        // It is there in any case; what follows a power cut is seen by the next start.
        let lacking = Lacking::read(self.segment.start, sparse);
        lacking.into_iter().for_each(|l| shared.thinned(l));
        synced?;
        if let Err(e) = offsets.save(old) {
            tracing::warn!(error = %e, "offsets of a segment not written; they will be made again");
        }
        Ok(())
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
        let mut was = SparseSum::default();
        let mut drop = self.drop.iter().copied().peekable();
        let (_, said) = walk(shared, &self.segment, File::open(old)?, |part| {
            match part {
                Part::Gone(encoded, run) => {
                    sum_of(&mut was, encoded, &run);
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
        if lacks(&self.segment, was, said)? != self.before {
            let what = "it is not as it was a moment ago";
            return Err(Differs::error(self.segment.start, what));
        }
        let sparse = std::mem::take(&mut self.sum).encode();
        let mut frame = Vec::new();
        segment::frame_sparse(&mut frame, &sparse);
        file.write_all_at(&frame, HEADER_LEN)?;
        file.sync_all()?;
        Ok(sparse)
    }

    /// Records what is dropped; signed when it returns.
    fn record(&self, detail: String, sparse: &[u8]) -> io::Result<Dropping> {
        let dropping = Dropping {
            segment: self.segment.start,
            digest: told::digest(sparse).to_vec(),
            previous: self.before.map_or_else(Vec::new, |hash| hash.to_vec()),
        };
        // From here on it may be in the log, whatever is heard of it.
        unsettled(&self.log, |left| *left = Some(dropping.clone()));
        say(
            &self.log,
            about_dropping(RECORDS_DROPPED, detail, dropping.clone()),
        )?;
        Ok(dropping)
    }

    fn failed(&self, error: io::Error) -> LogError {
        self.log.inner.shared.failed(&self.segment, error)
    }
}

/// Says of what was told last and was done that it is: from then on it cannot be undone
/// without being named. Signed when it returns.
pub(super) fn conclude(log: &Log) -> Result<(), LogError> {
    let Some((segment, digest, before)) = book::with(log, |book| book.told().pending())? else {
        return Ok(());
    };
    if lacks_now(&log.inner.shared, segment)? != Some(digest) {
        return Ok(());
    }
    let gone = dropping(segment, digest, before);
    let detail = format!("{OF_SEGMENT}{segment}: it is done");
    let segment = segment..segment;
    say(log, about_dropping(RECORDS_GONE, detail, gone))
        .map_err(|e| log.inner.shared.failed(&segment, e))
}

fn dropping(segment: u64, digest: Hash, before: Option<Hash>) -> Dropping {
    Dropping {
        segment,
        digest: digest.to_vec(),
        previous: before.map_or_else(Vec::new, |hash| hash.to_vec()),
    }
}

/// The digest of what the segment says that it lacks.
fn lacks_now(shared: &Shared, segment: u64) -> Result<Option<Hash>, LogError> {
    let path = shared.dir.join(segment::relative(segment));
    let said = shared.sparse(segment).map_err(LogError::io(&path))?;
    Ok(said.map(|said| told::digest(&said)))
}

/// Says of what was told to be dropped and was not that it is there. Signed when it returns,
/// and what was put in place before survives a power cut.
pub(super) fn settle(log: &Log) -> Result<(), LogError> {
    let shared = &log.inner.shared;
    let dir = shared.dir.join(segment::DIR);
    files::sync_dir(&dir).map_err(LogError::io(&dir))?;
    let (known, pending) = book::with(log, |book| {
        (book.unsettled().clone(), book.told().pending())
    })?;
    let left = match known {
        Some(left) => Some(left),
        // What an earlier process has told.
        None => match pending {
            Some((segment, digest, before)) => {
                (lacks_now(shared, segment)? == before).then(|| dropping(segment, digest, before))
            }
            None => None,
        },
    };
    if let Some(left) = left {
        let detail = format!("{OF_SEGMENT}{}: it was not done", left.segment);
        let segment = left.segment..left.segment;
        say(log, about_dropping(RECORDS_LEFT, detail, left))
            .map_err(|e| shared.failed(&segment, e))?;
        unsettled(log, |left| *left = None);
    }
    Ok(())
}

fn unsettled(log: &Log, change: impl FnOnce(&mut Option<Dropping>)) {
    let book = log.inner.shared.book.lock();
    change(book.unwrap_or_else(PoisonError::into_inner).unsettled());
}

/// Waits until all that is there is signed.
pub(super) fn await_signature(log: &Log) -> Result<(), LogError> {
    let (len, mut signed) = (log.len(), log.subscribe_checkpoints());
    let over = async {
        let over = signed.wait_for(|checkpoint| checkpoint.size >= len);
        tokio::time::timeout(SIGN_TIME_MAX, over).await.is_ok()
    };
    let waited = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map(|runtime| runtime.block_on(over));
    match waited {
        Ok(true) => Ok(()),
        Ok(false) => Err(unsigned()),
        Err(error) => Err(error),
    }
    .map_err(LogError::io(&log.inner.shared.dir))
}

fn unsigned() -> io::Error {
    let what = "the log has not signed what it has to say";
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Records something about a segment; signed when it returns.
pub(super) fn say(log: &Log, body: Body) -> io::Result<()> {
    let mut receipt = log.note(body);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let signed = runtime
        .block_on(async { tokio::time::timeout(SIGN_TIME_MAX, receipt.checkpointed()).await });
    match signed {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(unsigned()),
    }
}

/// Whether a record may be dropped at all.
fn may_go(peek: &RecordPeek<'_>) -> bool {
    match peek.class {
        // They tell a start that there are holds.
        ADMIN => !Admin::decode(peek.body)
            .is_ok_and(|admin| [HOLD_ADDED, HOLD_RELEASED].contains(&admin.verb.as_str())),
        class => !is_always_kept(class),
    }
}

fn never(class: u32) -> String {
    format!(
        "records of the class {} are never dropped",
        class_name(class)
    )
}

/// The digest of what a segment says that it lacks, which must be what it lacks.
pub(super) fn lacks(
    segment: &Range<u64>,
    was: SparseSum,
    said: Option<Vec<u8>>,
) -> io::Result<Option<Hash>> {
    let found = (!was.is_empty()).then(|| was.encode());
    match found == said {
        true => Ok(said.map(|said| told::digest(&said))),
        false => {
            let what = "what it says that it lacks is not what it lacks";
            Err(Differs::error(segment.start, what))
        }
    }
}

/// A crash that is tried out: nothing is put in order after it.
#[cfg(test)]
#[derive(Debug, thiserror::Error)]
#[error("a crash")]
pub(crate) struct Crash;

fn is_crash(error: &io::Error) -> bool {
    #[cfg(test)]
    return error.get_ref().is_some_and(|inner| inner.is::<Crash>());
    #[cfg(not(test))]
    {
        let _ = error;
        false
    }
}

impl Shared {
    pub(super) fn failed(&self, segment: &Range<u64>, error: io::Error) -> LogError {
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
pub(super) struct Differs {
    leaf: u64,
    what: String,
}

impl Differs {
    pub(super) fn error(leaf: u64, what: impl Into<String>) -> io::Error {
        let what = what.into();
        io::Error::new(io::ErrorKind::InvalidData, Self { leaf, what })
    }
}

fn path(shared: &Shared, segment: &Range<u64>) -> PathBuf {
    shared.dir.join(segment::relative(segment.start))
}

pub(super) fn envelope_of(leaf: &[u8]) -> Option<(EnvelopeRef<'_>, RecordPeek<'_>)> {
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
pub(super) enum Part<'a> {
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
pub(super) fn walk(
    shared: &Shared,
    segment: &Range<u64>,
    file: File,
    mut visit: impl FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<(Offsets, Option<Vec<u8>>)> {
    let file = Arc::new(file);
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
    let file = File::open(aside)?;
    let mut hashes = Hashes::new(shared, (segment.start, &file))?;
    let mut sum = SparseSum::default();
    let (offsets, said) = walk(shared, segment, file, |part| {
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
    let opened = shared.open(first);
    let (file, _) = opened.map_err(|e| shared.failed(&segment, e))?;
    walk(shared, &segment, file, |part| {
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
pub(super) struct Hashes<'a> {
    shared: &'a Shared,
    tile: Option<(u64, Vec<Hash>)>,
    /// The segment that is compared with them, by its first record: a tile that rotted is made
    /// again from what was fetched of it.
    own: (u64, File),
}

impl<'a> Hashes<'a> {
    /// For the segment that begins with `first`, which is `file`.
    pub(super) fn new(shared: &'a Shared, (first, file): (u64, &File)) -> io::Result<Self> {
        Ok(Self {
            shared,
            tile: None,
            own: (first, file.try_clone()?),
        })
    }

    /// Refuses a leaf that is not the one that was signed.
    pub(super) fn check(&mut self, leaf: u64, hash: &Hash) -> io::Result<()> {
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
        let refused = loop {
            match self.read_once(number) {
                Err(_) if tries < TILE_TRIES => tries += 1,
                Err(refused) => break refused,
                read => return read,
            }
        };
        match self.remake(number) {
            Ok(true) => self.read_once(number),
            Ok(false) => Err(refused),
            // What is there in the place of a record is none.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(refused),
            // Nothing is known of the records until they, and the tiles beside, can be read.
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Away>()) => Err(error),
            Err(error) => {
                let told = format!("its tile {number} is damaged, and not made again: {error}");
                Err(io::Error::new(error.kind(), told))
            }
        }
    }

    /// Makes a tile again that rotted, if the records lead to what was signed.
    fn remake(&self, number: u64) -> io::Result<bool> {
        let shared = self.shared;
        let checkpoint = shared.checkpoint.borrow().clone();
        let segments = shared.segments.read();
        let firsts = segments
            .unwrap_or_else(PoisonError::into_inner)
            .firsts
            .clone();
        let signed = (checkpoint.size, &checkpoint.root);
        remake::remake(&shared.tiles, number, signed, &firsts, &mut |first| {
            match first == self.own.0 {
                true => self.own.1.try_clone(),
                // Its neighbour is wanted again for that one's own tiles.
                false => shared.open(first).map(|(file, _)| file),
            }
        })
    }

    /// Reads a tile and proves it under the latest checkpoint: the proof of its first leaf
    /// is made from all others of it.
    fn read_once(&self, number: u64) -> io::Result<Vec<Hash>> {
        let checkpoint = self.shared.checkpoint.borrow().clone();
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        let path = TilePath::at(0, number, checkpoint.size).ok_or_else(not_found)?;
        let hashes = self.shared.tiles.read(path)?;
        let (index, first) = (number * TILE_WIDTH as u64, hashes.first());
        let first = first.ok_or_else(not_found)?;
        let proof = self.shared.prove_under(index, checkpoint.size);
        let proof = proof.map_err(io::Error::other)?;
        match verify_inclusion(first, index, checkpoint.size, &proof, &checkpoint.root) {
            Ok(()) => Ok(hashes),
            Err(_) => Err(Differs::error(index, "its tile is not what was signed")),
        }
    }
}
