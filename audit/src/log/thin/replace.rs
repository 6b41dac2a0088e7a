//! A segment is written again without what is dropped, and takes the place of the old one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use palisade_mesh::wire::record::Dropping;

use super::{
    Point, Thinned, Thinning,
    hashes::Hashes,
    is_crash,
    settle::{say, settle, unsettled},
    walk::{Differs, Part, envelope_of, lacks, path, walk},
};
use crate::{
    files,
    item::filed_time,
    log::{AppendError, LogError, reader::Shared, recover::log_id, writer::about_dropping},
    segment::{self, GoneBuilder, HEADER_LEN, Header, Lacking, Offsets, SparseSum, sum_of},
    told::{self, RECORDS_DROPPED},
};

impl Thinning {
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
            return Err(self.failed(io::Error::other(AppendError::ReadOnly)));
        }
        // Nobody else opens the log for writing before it is done.
        let Some(_lock) = shared.lock.upgrade() else {
            return Err(self.failed(io::Error::other(AppendError::Closed)));
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
