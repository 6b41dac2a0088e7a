//! A segment is read through, part by part, and anything that cannot stand there is told.

use std::{fs::File, io, ops::Range, path::PathBuf, sync::Arc};

use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    log::{LogError, reader::Shared, recover::log_id},
    merkle::{self, Hash},
    segment::{self, Content, FrameReader, GoneRun, HEADER_LEN, Header, Offsets, SparseSum},
    told,
};

/// A part of a segment.
pub(in crate::log) enum Part<'a> {
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
pub(in crate::log) fn walk(
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

/// Which records of the segment that begins with `first` were dropped.
pub(in crate::log) fn dropped_from(
    shared: &Shared,
    first: u64,
) -> Result<Vec<Range<u64>>, LogError> {
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

/// The digest of what a segment says that it lacks, which must be what it lacks.
pub(in crate::log) fn lacks(
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

pub(in crate::log) fn envelope_of(leaf: &[u8]) -> Option<(EnvelopeRef<'_>, RecordPeek<'_>)> {
    let envelope = EnvelopeRef::decode(leaf)?;
    Some((envelope, RecordPeek::new(envelope.record)?))
}

/// Something in a segment is not what was signed.
#[derive(Debug, thiserror::Error)]
#[error("record {leaf}: {what}")]
pub(in crate::log) struct Differs {
    leaf: u64,
    what: String,
}

impl Differs {
    pub(in crate::log) fn error(leaf: u64, what: impl Into<String>) -> io::Error {
        let what = what.into();
        io::Error::new(io::ErrorKind::InvalidData, Self { leaf, what })
    }
}

impl Shared {
    pub(in crate::log) fn failed(&self, segment: &Range<u64>, error: io::Error) -> LogError {
        match error.downcast::<Differs>() {
            Ok(Differs { leaf, what }) => {
                LogError::tampered(segment::relative(segment.start), leaf, 0, what)
            }
            Err(error) => LogError::io(path(self, segment))(error),
        }
    }
}

pub(super) fn path(shared: &Shared, segment: &Range<u64>) -> PathBuf {
    shared.dir.join(segment::relative(segment.start))
}
