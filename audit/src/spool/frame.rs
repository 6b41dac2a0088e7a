//! Frames of spool files, also of those that cannot be read through.

use std::{fs::File, io};

use bytes::Bytes;

use super::marker::{MARKER_LEN, Marker};
use crate::segment::{FRAME_HEADER_LEN, crc, frame_header, read_at_most};

/// Longest frame payload, in bytes; far above what a buffer holds.
pub(super) const PAYLOAD_LEN_MAX: u32 = 256 << 20;

/// Bytes that are looked through at once for the next frame.
const LOOKED_LEN: usize = 1 << 20;

/// Bytes that a disk gives or does not give together.
const PAGE_LEN: usize = 4096;

/// What the system says of bytes that a disk cannot give (`EIO`).
const EIO: i32 = 5;

/// A frame, as far as its length and its sum tell.
pub(super) enum Frame {
    /// Its payload without the marker, and where the next starts.
    Whole(Bytes, u64),
    /// Its sum or its marker is wrong; the next starts there, if the length is right.
    Damaged(u64),
    /// By its length it is empty, or ends behind the file.
    Beyond,
    /// Less than a length and a sum.
    Short,
    /// Nothing.
    End,
}

/// Writes a frame.
pub(super) fn write(buf: &mut Vec<u8>, payload: &[&[u8]]) {
    let len: usize = payload.iter().map(|part| part.len()).sum();
    let len = (len as u32).to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len);
    payload.iter().for_each(|part| crc.update(part));
    buf.extend_from_slice(&len);
    buf.extend_from_slice(&crc.finalize().to_le_bytes());
    payload.iter().for_each(|part| buf.extend_from_slice(part));
}

/// Reads the frame at `offset` of a file that ends at `end`, and whose frames begin with
/// `marker`, where it has one.
pub(super) fn read(
    file: &File,
    offset: u64,
    end: u64,
    marker: Option<&Marker>,
) -> io::Result<Frame> {
    let mut header = [0; FRAME_HEADER_LEN];
    let start = offset + FRAME_HEADER_LEN as u64;
    match end.saturating_sub(offset) {
        0 => return Ok(Frame::End),
        left if left < FRAME_HEADER_LEN as u64 => return Ok(Frame::Short),
        _ => {}
    }
    match readable(file, &mut header, offset)? {
        0 => return Ok(Frame::End),
        FRAME_HEADER_LEN => {}
        _ => return Ok(Frame::Short),
    }
    let (len, stored) = frame_header(header);
    // None is empty: such a length is of room that was never written, or damaged.
    if len == 0 || len > PAYLOAD_LEN_MAX || u64::from(len) > end - start {
        return Ok(Frame::Beyond);
    }
    let mut payload = vec![0; len as usize];
    if readable(file, &mut payload, start)? < payload.len() {
        return Ok(Frame::Short);
    }
    let next = start + u64::from(len);
    let mut payload = Bytes::from(payload);
    if crc(len.to_le_bytes(), &payload) != stored || marker.is_some_and(|m| !payload.starts_with(m))
    {
        return Ok(Frame::Damaged(next));
    }
    if marker.is_some() {
        let _marker = payload.split_to(MARKER_LEN);
    }
    Ok(Frame::Whole(payload, next))
}

/// Where the first whole frame with `marker` starts at or after `offset`.
pub(super) fn find(file: &File, offset: u64, end: u64, marker: &Marker) -> io::Result<Option<u64>> {
    let mut at = offset + FRAME_HEADER_LEN as u64;
    let mut block = vec![0; LOOKED_LEN];
    while at < end {
        let read_len = readable(file, &mut block, at)?;
        let read_block = block.get(..read_len).unwrap_or_default();
        let found = read_block
            .windows(MARKER_LEN)
            .position(|bytes| bytes == marker);
        match found {
            Some(place) => {
                let frame = at + place as u64 - FRAME_HEADER_LEN as u64;
                if let Frame::Whole(..) = read(file, frame, end, Some(marker))? {
                    return Ok(Some(frame));
                }
                at += place as u64 + 1;
            }
            None if read_len < block.len() => break,
            // It may begin in this block and end in the next.
            None => at += (read_len - (MARKER_LEN - 1)) as u64,
        }
    }
    Ok(None)
}

/// Reads as far as there is something. What the disk does not give is read as zeros, and is
/// damaged as what it gives wrongly is.
pub(super) fn readable(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    match read_at_most(file, buf, offset) {
        Err(e) if e.raw_os_error() == Some(EIO) => {}
        read => return read,
    }
    let mut done = 0;
    for page in buf.chunks_mut(PAGE_LEN) {
        let read = match read_at_most(file, page, offset + done as u64) {
            Err(e) if e.raw_os_error() == Some(EIO) => {
                page.fill(0);
                page.len()
            }
            read => read?,
        };
        done += read;
        if read < page.len() {
            break;
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system answers so for memory that is not there.
    #[test]
    fn what_the_disk_does_not_give_is_zeros() {
        let file = File::open("/proc/self/mem").unwrap();
        let failed = read_at_most(&file, &mut [0; 8], 0).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(EIO));
        let mut buf = vec![1; PAGE_LEN + 5];
        assert_eq!(readable(&file, &mut buf, 0).unwrap(), buf.len());
        assert!(buf.iter().all(|byte| *byte == 0));
    }
}
