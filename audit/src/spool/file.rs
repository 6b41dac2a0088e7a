//! Spool files.
//!
//! ```text
//! frame   length u32 · crc32 u32 · payload          numbers are little-endian
//! first   "palispol" · encoded StreamId (worker 0)  whose, and of which boot
//! others  worker u32 · first sequence u64 · count u64 · length u32, record; …
//! ```
//! The CRC covers length and payload.

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

use crate::{
    buffer::Chunk,
    envelope::RECORD_LEN_MAX,
    segment::{FRAME_HEADER_LEN, frame_header, read_at_most},
    stream::StreamKey,
};

const MAGIC: &[u8; 8] = b"palispol";

/// Longest frame payload, in bytes; far above what a buffer holds.
const PAYLOAD_LEN_MAX: u32 = 256 << 20;

/// Path of the `number`th file of a boot.
pub(super) fn path(dir: &Path, boot: Ulid, number: u64) -> PathBuf {
    dir.join(boot.to_string())
        .join(format!("{number:010}.spool"))
}

/// The frame a file starts with.
pub(super) fn header(reporter: &SpiffeId, boot: Ulid) -> Vec<u8> {
    let key = StreamKey {
        reporter: reporter.clone(),
        boot,
        worker: 0,
    };
    let mut buf = Vec::new();
    frame(&mut buf, &[MAGIC, &key.to_wire().encode_to_vec()]);
    buf
}

/// Appends a chunk.
pub(super) fn chunk(buf: &mut Vec<u8>, chunk: &Chunk) {
    frame(
        buf,
        &[
            &chunk.worker.to_le_bytes(),
            &chunk.first_sequence.to_le_bytes(),
            &chunk.count.to_le_bytes(),
            &chunk.bytes,
        ],
    );
}

fn frame(buf: &mut Vec<u8>, payload: &[&[u8]]) {
    let len: usize = payload.iter().map(|part| part.len()).sum();
    let len = (len as u32).to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len);
    payload.iter().for_each(|part| crc.update(part));
    buf.extend_from_slice(&len);
    buf.extend_from_slice(&crc.finalize().to_le_bytes());
    payload.iter().for_each(|part| buf.extend_from_slice(part));
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
    pub(super) fn new(file: &File, start: u64, end: u64) -> io::Result<Self> {
        let mut survey = Self {
            end: start,
            ..Self::default()
        };
        let end = end.min(file.metadata()?.len());
        let mut offset = start;
        while offset < end {
            match read_chunk(file, offset)? {
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

    /// Counts a part that cannot be read.
    pub(super) fn lose(&mut self, bytes: u64) {
        self.damaged += 1;
        self.damaged_bytes += bytes;
    }
}

/// Reads the header of a file, and where its chunks start; `None` when it is damaged.
pub(super) fn read_header(file: &File) -> io::Result<Option<(StreamKey, u64)>> {
    let Frame::Whole(payload, next) = read_frame(file, 0)? else {
        return Ok(None);
    };
    let key = payload.strip_prefix(MAGIC.as_slice());
    Ok(key.and_then(StreamKey::decode).map(|key| (key, next)))
}

/// Reads what is at `offset`.
///
/// Where to go on behind a damaged frame is said by its length, or by the lengths of its
/// records where that is what is damaged; no other place is looked at. Records have text of
/// callers, in which there could be something that looks like a frame.
pub(super) fn read_chunk(file: &File, offset: u64) -> io::Result<Found> {
    Ok(match read_frame(file, offset)? {
        Frame::Whole(payload, next) => match decode(payload.into()) {
            Some(chunk) => Found::Chunk(chunk, next),
            None => Found::Damaged(next),
        },
        Frame::Damaged(next) => Found::Damaged(behind(file, offset, next)?),
        Frame::Beyond => beyond(file, offset)?,
        Frame::Short => Found::Torn,
        Frame::End => Found::End,
    })
}

/// Where the frame behind a damaged one is, whose length says `next`.
fn behind(file: &File, offset: u64, next: u64) -> io::Result<u64> {
    let is_there = |at| {
        Ok::<_, io::Error>(!matches!(
            read_frame(file, at)?,
            Frame::Damaged(_) | Frame::Beyond | Frame::Short
        ))
    };
    if is_there(next)? {
        return Ok(next);
    }
    match walk(&rest(file, offset)?) {
        Walk::Whole(len) if is_there(offset + len)? => Ok(offset + len),
        _ => Ok(next),
    }
}

/// What a frame is that says it is longer than its file, or empty: it was being written,
/// unless all of its records are there.
fn beyond(file: &File, offset: u64) -> io::Result<Found> {
    let rest = rest(file, offset)?;
    Ok(match walk(&rest) {
        Walk::Whole(len) => Found::Damaged(offset + len),
        Walk::Wrong if rest.iter().any(|byte| *byte != 0) => {
            Found::Damaged(offset + rest.len() as u64)
        }
        Walk::Wrong | Walk::Cut => Found::Torn,
    })
}

/// Everything from `offset` on, as far as a frame may reach.
fn rest(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(offset);
    let most = left.min(FRAME_HEADER_LEN as u64 + u64::from(PAYLOAD_LEN_MAX));
    let mut rest = vec![0; usize::try_from(most).unwrap_or(0)];
    let read = read_at_most(file, &mut rest, offset)?;
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
fn walk(bytes: &[u8]) -> Walk {
    let mut left = bytes.get(FRAME_HEADER_LEN..).unwrap_or_default();
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

/// A frame, as far as its length and its sum tell.
enum Frame {
    /// Its payload, and where the next starts.
    Whole(Vec<u8>, u64),
    /// Its sum is wrong; the next starts there.
    Damaged(u64),
    /// By its length it is empty, or ends behind the file.
    Beyond,
    /// Less than a length and a sum.
    Short,
    /// Nothing.
    End,
}

fn read_frame(file: &File, offset: u64) -> io::Result<Frame> {
    let mut header = [0; FRAME_HEADER_LEN];
    match read_at_most(file, &mut header, offset)? {
        0 => return Ok(Frame::End),
        FRAME_HEADER_LEN => {}
        _ => return Ok(Frame::Short),
    }
    let (len, stored) = frame_header(header);
    let start = offset + FRAME_HEADER_LEN as u64;
    let left = file.metadata()?.len().saturating_sub(start);
    // None is empty: such a length is of room that was never written, or damaged.
    if len == 0 || len > PAYLOAD_LEN_MAX || u64::from(len) > left {
        return Ok(Frame::Beyond);
    }
    let mut payload = vec![0; len as usize];
    if read_at_most(file, &mut payload, start)? < payload.len() {
        return Ok(Frame::Short);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len.to_le_bytes());
    crc.update(&payload);
    let next = start + u64::from(len);
    Ok(match crc.finalize() == stored {
        true => Frame::Whole(payload, next),
        false => Frame::Damaged(next),
    })
}
