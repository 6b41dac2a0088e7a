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
use palisade_mesh::spiffe_id::SpiffeId;
use prost::Message as _;
use ulid::Ulid;

use crate::{
    buffer::Chunk,
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

/// Reads the header of a file, and where its chunks start.
pub(super) fn read_header(file: &File) -> io::Result<Option<(StreamKey, u64)>> {
    let Some((payload, next)) = read_frame(file, 0)? else {
        return Ok(None);
    };
    let key = payload
        .strip_prefix(MAGIC.as_slice())
        .and_then(StreamKey::decode);
    Ok(key.map(|key| (key, next)))
}

/// Reads the chunk at `offset`, and where the next starts; `None` when there is
/// no whole one.
pub(super) fn read_chunk(file: &File, offset: u64) -> io::Result<Option<(Chunk, u64)>> {
    let Some((payload, next)) = read_frame(file, offset)? else {
        return Ok(None);
    };
    Ok(decode(payload.into()).map(|chunk| (chunk, next)))
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

fn read_frame(file: &File, offset: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut header = [0; FRAME_HEADER_LEN];
    if read_at_most(file, &mut header, offset)? < FRAME_HEADER_LEN {
        return Ok(None);
    }
    let (len, stored) = frame_header(header);
    let start = offset + FRAME_HEADER_LEN as u64;
    let left = file.metadata()?.len().saturating_sub(start);
    if len > PAYLOAD_LEN_MAX || u64::from(len) > left {
        return Ok(None);
    }
    let mut payload = vec![0; len as usize];
    if read_at_most(file, &mut payload, start)? < payload.len() {
        return Ok(None);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len.to_le_bytes());
    crc.update(&payload);
    let next = start + u64::from(len);
    Ok((crc.finalize() == stored).then_some((payload, next)))
}
