//! Files of a spool, written by somebody who may write there and has no key.

use std::{collections::BTreeMap, fs, path::Path};

use aws_lc_rs::digest::{Context, SHA256, digest};
use palisade_mesh::wire::record::{Heads, Record, record::Body};
use prost::Message as _;

/// Bytes before the payload of a frame, in a spool file as in a segment of the log.
pub const FRAME_HEADER: usize = 8;
/// Bytes of the marker with which the payload of a chunk begins.
const MARKER: usize = 16;

/// Number of the last record of the first worker in a file.
pub fn last_number(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap();
    let chunks = frames(&bytes).into_iter().skip(1);
    let payloads = chunks.map(|(start, end)| &bytes[start + FRAME_HEADER + MARKER..end]);
    let of_worker = payloads.filter(|payload| payload[..4] == [0; 4]);
    let number = |at: &[u8]| u64::from_le_bytes(at.try_into().unwrap());
    of_worker
        .map(|payload| number(&payload[4..12]) + number(&payload[12..20]) - 1)
        .max()
        .unwrap()
}

/// The start of a reporter that a file is of.
pub fn boot_of(file: &Path) -> String {
    let folder = file.parent().unwrap().file_name().unwrap();
    folder.to_str().unwrap().to_owned()
}

/// Changes a digit of a path, and mends the checksum.
pub fn alter(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let at = find(&bytes, b"/orders/4711").unwrap() + 8;
    bytes[at] = b'5';
    let mut offset = 0;
    for (start, end) in frames(&bytes) {
        if (start..end).contains(&at) {
            offset = start;
        }
    }
    let end = frames(&bytes)
        .into_iter()
        .find(|f| f.0 == offset)
        .unwrap()
        .1;
    let covered = [
        &bytes[offset..offset + 4],
        &bytes[offset + FRAME_HEADER..end],
    ]
    .concat();
    bytes[offset + 4..offset + FRAME_HEADER].copy_from_slice(&crc32(&covered).to_le_bytes());
    fs::write(file, bytes).unwrap();
}

/// Makes the heads in a file be about the records in it, which nobody can sign; gives how
/// many were changed.
pub fn fit(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    let mut running: BTreeMap<u32, Context> = BTreeMap::new();
    let (mut fitted, mut changed) = (Vec::new(), 0);
    for (start, end) in frames(&bytes) {
        if start == 0 {
            fitted.extend_from_slice(&bytes[start..end]);
            continue;
        }
        let (marker, payload) = bytes[start + FRAME_HEADER..end].split_at(MARKER);
        let worker = u32::from_le_bytes(payload[..4].try_into().unwrap());
        let (mut rest, mut records) = (&payload[20..], Vec::new());
        while let Some((len, more)) = rest.split_first_chunk::<4>() {
            let (record, more) = more.split_at(u32::from_le_bytes(*len) as usize);
            records.push(refit(record, &mut running, &mut changed));
            rest = more;
        }
        let mut payload = [marker, &payload[..20]].concat();
        let of_worker = running
            .entry(worker)
            .or_insert_with(|| Context::new(&SHA256));
        for record in records {
            of_worker.update(digest(&SHA256, &record).as_ref());
            payload.extend_from_slice(&(record.len() as u32).to_le_bytes());
            payload.extend_from_slice(&record);
        }
        let len = (payload.len() as u32).to_le_bytes();
        let crc = crc32(&[&len[..], &payload].concat()).to_le_bytes();
        fitted.extend([&len[..], &crc, &payload].concat());
    }
    fs::write(file, fitted).unwrap();
    changed
}

/// A record; if it has heads whose digests are others than those of what went before, with
/// these.
fn refit(record: &[u8], running: &mut BTreeMap<u32, Context>, changed: &mut usize) -> Vec<u8> {
    let mut decoded = Record::decode(record).unwrap();
    let Some(Body::StreamHeads(signed)) = &mut decoded.body else {
        return record.to_vec();
    };
    let mut heads = Heads::decode(signed.heads.as_slice()).unwrap();
    let mut fits = true;
    for head in &mut heads.streams {
        let of_worker = running.insert(head.worker, Context::new(&SHA256));
        let digest = of_worker.unwrap_or_else(|| Context::new(&SHA256)).finish();
        fits &= head.digest == digest.as_ref();
        head.digest = digest.as_ref().to_vec();
    }
    if fits {
        return record.to_vec();
    }
    *changed += 1;
    signed.heads = heads.encode_to_vec();
    signed.certificate = vec![7; 32];
    signed.certificates.clear();
    signed.signature.clear();
    decoded.encode_to_vec()
}

/// Takes every chunk of the first worker away.
pub fn withhold(file: &Path) {
    let bytes = fs::read(file).unwrap();
    let of_worker = |start: usize| bytes[start + FRAME_HEADER + MARKER..][..4] == [0; 4];
    let kept: Vec<&[u8]> = frames(&bytes)
        .into_iter()
        .filter(|(start, _)| *start == 0 || !of_worker(*start))
        .map(|(start, end)| &bytes[start..end])
        .collect();
    assert!(kept.concat().len() < bytes.len());
    fs::write(file, kept.concat()).unwrap();
}

/// Where each frame begins and ends; one that is being written is none yet.
pub fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(len) = bytes.get(start..start + 4) {
        let len = u32::from_le_bytes(len.try_into().unwrap());
        let end = start + FRAME_HEADER + len as usize;
        if end > bytes.len() {
            break;
        }
        found.push((start, end));
        start = end;
    }
    found
}

/// CRC-32 as frames have it.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// Where the wanted bytes stand first.
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|w| w == wanted)
}
