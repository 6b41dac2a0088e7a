//! Spool files.
//!
//! ```text
//! frame   length u32 · crc32 u32 · payload                  numbers are little-endian
//! first   "palispo2" · marker · encoded StreamId (worker 0)  whose, and of which boot
//! others  marker · worker u32 · first sequence u64 · count u64 · length u32, record; …
//! ```
//! The CRC covers length and payload. Files of earlier versions begin with "palispol" and have no
//! markers.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use bytes::{Buf as _, Bytes};
use palisade_mesh::{spiffe_id::SpiffeId, wire::record::Record};
use prost::Message as _;
use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::{
    frame::{self, Frame, PAYLOAD_LEN_MAX},
    marker::{MARKER_LEN, Marker},
};
use crate::{
    buffer::Chunk, envelope::RECORD_LEN_MAX, segment::FRAME_HEADER_LEN, stream::StreamKey,
};

const MAGIC: &[u8; 8] = b"palispo2";

/// Of files without markers.
const MAGIC_UNMARKED: &[u8; 8] = b"palispol";

/// Path of the `number`th file of a boot.
pub(super) fn path(dir: &Path, boot: Ulid, number: u64) -> PathBuf {
    dir.join(boot.to_string())
        .join(format!("{number:010}.spool"))
}

/// The number of the file at `path`.
pub(super) fn number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// The frame a file starts with.
pub(super) fn header(reporter: &SpiffeId, boot: Ulid, marker: &Marker) -> Vec<u8> {
    let mut buf = Vec::new();
    let stream = stream(reporter, boot);
    frame::write(&mut buf, &[MAGIC, marker, &stream]);
    buf
}

/// Length of the frame that a file without markers starts with.
pub(super) fn unmarked_header_len(reporter: &SpiffeId, boot: Ulid) -> u64 {
    (FRAME_HEADER_LEN + MAGIC_UNMARKED.len() + stream(reporter, boot).len()) as u64
}

fn stream(reporter: &SpiffeId, boot: Ulid) -> Vec<u8> {
    let key = StreamKey {
        reporter: reporter.clone(),
        boot,
        worker: 0,
    };
    key.to_wire().encode_to_vec()
}

/// Appends a chunk.
pub(super) fn chunk(buf: &mut Vec<u8>, chunk: &Chunk, marker: &Marker) {
    frame::write(
        buf,
        &[
            marker,
            &chunk.worker.to_le_bytes(),
            &chunk.first_sequence.to_le_bytes(),
            &chunk.count.to_le_bytes(),
            &chunk.bytes,
        ],
    );
}

/// What stands at a place of a spool file.
#[derive(Debug)]
pub(super) enum Found {
    /// A chunk, and where the next starts.
    Chunk(Chunk, u64),
    /// What cannot be read; the next may be there.
    Damaged(u64),
    /// The beginning of a frame, or room that was never written: what a process leaves that
    /// is killed while it writes.
    Torn,
    /// Nothing more.
    End,
}

/// What can be read of a file.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// First and last sequence number per worker.
    pub(super) numbers: FxHashMap<u32, (u64, u64)>,
    /// End of the last chunk that can be read.
    pub(super) end: u64,
    /// Parts that cannot be read, and their bytes.
    pub(super) damaged: u64,
    pub(super) damaged_bytes: u64,
    /// Bytes behind the last whole frame.
    pub(super) torn: u64,
    /// Who reports the first record that can be read.
    pub(super) reporter: Option<String>,
}

impl Survey {
    /// Looks through the chunks of `file` between `start` and `end`.
    pub(super) fn new(
        file: &File,
        start: u64,
        end: u64,
        marker: Option<&Marker>,
    ) -> io::Result<Self> {
        let mut survey = Self {
            end: start,
            ..Self::default()
        };
        let end = end.min(file.metadata()?.len());
        let mut offset = start;
        while offset < end {
            match read_chunk(file, offset, end, marker)? {
                Found::Chunk(chunk, next) => {
                    survey.take(&chunk, next);
                    offset = next;
                }
                Found::Damaged(next) => {
                    survey.lose(next.min(end) - offset);
                    offset = next;
                }
                Found::Torn | Found::End => {
                    survey.torn = end - offset;
                    break;
                }
            }
        }
        Ok(survey)
    }

    fn take(&mut self, chunk: &Chunk, end: u64) {
        let (first, last) = (chunk.first_sequence, chunk.last_sequence());
        let numbers = self.numbers.entry(chunk.worker).or_insert((first, last));
        *numbers = (numbers.0.min(first), numbers.1.max(last));
        self.end = end;
        if self.reporter.is_none() {
            let record = chunk.records().next().map(Record::decode);
            self.reporter = record.and_then(Result::ok).map(|record| record.reporter);
        }
    }

    /// Last sequence number per worker.
    pub(super) fn last(&self) -> FxHashMap<u32, u64> {
        let numbers = self.numbers.iter();
        numbers
            .map(|(worker, (_, last))| (*worker, *last))
            .collect()
    }

    /// Counts a part that cannot be read.
    pub(super) fn lose(&mut self, bytes: u64) {
        self.damaged += 1;
        self.damaged_bytes += bytes;
    }
}

/// What the first frame of a file says.
#[derive(Debug)]
pub(super) struct Head {
    /// Whose it is, and of which boot.
    pub(super) stream: StreamKey,
    /// What its chunks begin with.
    pub(super) marker: Option<Marker>,
    /// Where they start.
    pub(super) start: u64,
}

/// Reads the head of a file; `None` when it is damaged.
pub(super) fn read_header(file: &File) -> io::Result<Option<Head>> {
    let Frame::Whole(payload, start) = frame::read(file, 0, file.metadata()?.len(), None)? else {
        return Ok(None);
    };
    let (marker, stream) = if let Some(marked) = payload.strip_prefix(MAGIC.as_slice()) {
        let split = marked.split_first_chunk::<MARKER_LEN>();
        (
            split.map(|(marker, _)| *marker),
            split.map(|(_, rest)| rest),
        )
    } else {
        (None, payload.strip_prefix(MAGIC_UNMARKED.as_slice()))
    };
    let head = |stream| Head {
        stream,
        marker,
        start,
    };
    Ok(stream.and_then(StreamKey::decode).map(head))
}

/// Reads what is at `offset` of a file whose last frame ends at `end`.
///
/// Behind what cannot be read, the next frame with the file's marker is what follows. In a file
/// without markers that is said by the length of the damaged frame, or by the lengths of its
/// records where that is what is damaged, and no other place is looked at: records have text of
/// callers, in which there could be something that looks like a frame.
pub(super) fn read_chunk(
    file: &File,
    offset: u64,
    end: u64,
    marker: Option<&Marker>,
) -> io::Result<Found> {
    let end = end.min(file.metadata()?.len());
    let frame = match frame::read(file, offset, end, marker)? {
        Frame::Whole(payload, next) => {
            return Ok(
                decode(payload).map_or(Found::Damaged(next), |chunk| Found::Chunk(chunk, next))
            );
        }
        Frame::End => return Ok(Found::End),
        frame => frame,
    };
    if let Some(marker) = marker
        && let Some(next) = frame::find(file, offset + 1, end, marker)?
    {
        return Ok(Found::Damaged(next));
    }
    Ok(match frame {
        Frame::Damaged(_) if marker.is_some() => Found::Damaged(end),
        Frame::Damaged(next) => Found::Damaged(behind(file, offset, next, end)?),
        Frame::Short => Found::Torn,
        _ => beyond(file, offset, end, marker)?,
    })
}

/// Where the frame behind a damaged one is, whose length says `next`, in a file without markers.
fn behind(file: &File, offset: u64, next: u64, end: u64) -> io::Result<u64> {
    let is_there = |at| {
        let frame = frame::read(file, at, end, None)?;
        Ok::<_, io::Error>(matches!(frame, Frame::Whole(..) | Frame::End))
    };
    if is_there(next)? {
        return Ok(next);
    }
    match walk(&rest(file, offset, end)?, None) {
        Walk::Whole(len) if is_there(offset + len)? => Ok(offset + len),
        _ => Ok(next),
    }
}

/// What a frame is that says it is longer than its file, or empty: it was being written,
/// unless all of its records are there.
fn beyond(file: &File, offset: u64, end: u64, marker: Option<&Marker>) -> io::Result<Found> {
    let rest = rest(file, offset, end)?;
    Ok(match walk(&rest, marker) {
        // Nothing with its marker follows.
        Walk::Whole(_) if marker.is_some() => Found::Damaged(end),
        Walk::Whole(len) => Found::Damaged(offset + len),
        Walk::Wrong if rest.iter().any(|byte| *byte != 0) => Found::Damaged(end),
        Walk::Wrong | Walk::Cut => Found::Torn,
    })
}

/// Everything from `offset` on, as far as a frame may reach.
fn rest(file: &File, offset: u64, end: u64) -> io::Result<Vec<u8>> {
    let most = FRAME_HEADER_LEN as u64 + u64::from(PAYLOAD_LEN_MAX);
    let len = end.saturating_sub(offset).min(most);
    let mut rest = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = frame::readable(file, &mut rest, offset)?;
    rest.truncate(read);
    Ok(rest)
}

/// What the records of a frame say about its length.
enum Walk {
    /// All are there; the frame has so many bytes.
    Whole(u64),
    /// The bytes end before they do.
    Cut,
    /// They cannot be records.
    Wrong,
}

/// Goes from record to record of the frame that `bytes` begin with.
fn walk(bytes: &[u8], marker: Option<&Marker>) -> Walk {
    let head_len = FRAME_HEADER_LEN + marker.map_or(0, |marker| marker.len());
    let mut left = bytes.get(head_len..).unwrap_or_default();
    let head = (
        left.try_get_u32_le(),
        left.try_get_u64_le(),
        left.try_get_u64_le(),
    );
    let (Ok(_), Ok(_), Ok(count)) = head else {
        return Walk::Cut;
    };
    if count == 0 {
        return Walk::Wrong;
    }
    for _ in 0..count {
        match left.try_get_u32_le().map(|len| len as usize) {
            Ok(len) if len > RECORD_LEN_MAX => return Walk::Wrong,
            Ok(len) if len <= left.len() => left.advance(len),
            _ => return Walk::Cut,
        }
    }
    Walk::Whole((bytes.len() - left.len()) as u64)
}

fn decode(mut payload: Bytes) -> Option<Chunk> {
    let chunk = Chunk {
        worker: payload.try_get_u32_le().ok()?,
        first_sequence: payload.try_get_u64_le().ok()?,
        count: payload.try_get_u64_le().ok()?,
        bytes: payload,
    };
    let sane = chunk.first_sequence > 0
        && chunk.first_sequence.checked_add(chunk.count).is_some()
        && chunk.records().count() as u64 == chunk.count
        && chunk.count > 0;
    sane.then_some(chunk)
}
