//! Where each leaf of a segment starts, so that reading one is one `pread`.
//!
//! A sealed segment has its offsets beside it in a file that can be made again
//! from the segment at any time.

use std::{fs::File, io, path::Path, sync::Arc};

use super::{Content, Frame, FrameReader, GoneRun, HEADER_LEN, read_at_most};
use crate::files;

/// First bytes of an offsets file.
const MAGIC: &[u8; 8] = b"palisidx";

/// Length of the offsets file of a segment of so many leaves, in bytes: the first bytes, an offset
/// each and the end, and a checksum.
fn expected_len(count: u64) -> u64 {
    MAGIC.len() as u64 + 4 * count.saturating_add(1) + 4
}

/// Start of the frame of each leaf of a segment, and the end of the last.
///
/// Leaves that were dropped share a frame: all but the last of them start where it does
/// and have no length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offsets(Vec<u32>);

impl Offsets {
    /// Of a segment without frames.
    pub(crate) fn empty() -> Self {
        Self(vec![HEADER_LEN as u32])
    }

    /// Number of leaves.
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64 - 1
    }

    /// End of the last frame.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().copied().map_or(HEADER_LEN, u64::from)
    }

    /// Adds a frame of one leaf that ends at `end`.
    pub(crate) fn push(&mut self, end: u64) {
        // Segments are kept far below 4 GiB (`SEGMENT_BYTES_MAX`).
        self.0.push(u32::try_from(end).unwrap_or(u32::MAX));
    }

    /// Adds a frame of the segment that begins with `first_leaf`; gives how many leaves it
    /// stands for, none when it cannot stand here.
    pub(crate) fn take(&mut self, frame: &Frame<'_>, first_leaf: u64) -> Option<u64> {
        let end = frame.end();
        match frame.content() {
            Content::Leaf(_) => {
                self.push(end);
                Some(1)
            }
            Content::Sparse(_) => self.begin(end).then_some(0),
            Content::Gone(gone) => {
                let run = GoneRun::read(gone)?;
                (run.first() == first_leaf + self.len()).then(|| {
                    self.push_gone(run.len(), end);
                    run.len()
                })
            }
        }
    }

    /// Notes that the leaves begin at `start`; false when some did already.
    pub(crate) fn begin(&mut self, start: u64) -> bool {
        let none_yet = *self == Self::empty();
        if none_yet {
            self.0.clear();
            self.push(start);
        }
        none_yet
    }

    /// Adds a frame of `count` leaves that were dropped.
    pub(crate) fn push_gone(&mut self, count: u64, end: u64) {
        let start = self.end();
        for _ in 1..count {
            self.push(start);
        }
        self.push(end);
    }

    /// Start and end of a leaf's frame.
    pub(crate) fn get(&self, frame: u64) -> Option<(u64, u64)> {
        let at = usize::try_from(frame).ok()?;
        let (start, end) = (self.0.get(at)?, self.0.get(at + 1)?);
        Some(((*start).into(), (*end).into()))
    }

    /// Writes the offsets file.
    pub(crate) fn save(&self, segment: &Path) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        for offset in &self.0 {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        files::replace(&segment.with_extension("idx"), &bytes, files::Sync::No)
    }

    /// Reads the offsets of a sealed segment of `count` leaves, or makes them again: of as many as
    /// the segment can be read for.
    pub(crate) fn load(
        segment: &Path,
        file: &Arc<File>,
        first_leaf: u64,
        count: u64,
    ) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let most = usize::try_from(expected_len(count)).unwrap_or(usize::MAX);
        let read = files::read(&segment.with_extension("idx"), most)
            .ok()
            .and_then(|bytes| Self::decode(&bytes))
            .filter(|offsets| offsets.len() == count && offsets.end() == len);
        match read {
            Some(offsets) => Ok(offsets),
            None => Self::scan(file, len, first_leaf, count),
        }
    }

    /// Whether the offsets file is of a segment of `count` leaves and of the length of this one,
    /// by its own length and end: a look that costs nothing.
    pub(crate) fn are_likely(segment: &Path, file: &File, count: u64) -> bool {
        let offsets = files::open(&segment.with_extension("idx"));
        let (Ok(offsets), Ok(meta)) = (offsets, file.metadata()) else {
            return false;
        };
        let expected = expected_len(count);
        let mut end = [0; 4];
        let is_long = offsets.metadata().is_ok_and(|meta| meta.len() == expected);
        is_long
            && read_at_most(&offsets, &mut end, expected - 8).is_ok_and(|read| read == 4)
            && u64::from(u32::from_le_bytes(end)) == meta.len()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (offsets, []) = bytes.strip_prefix(MAGIC)?.as_chunks::<4>() else {
            return None;
        };
        let offsets: Vec<u32> = offsets.iter().map(|o| u32::from_le_bytes(*o)).collect();
        (!offsets.is_empty() && offsets.is_sorted()).then_some(Self(offsets))
    }

    /// Reads a segment through, as far as it can be.
    fn scan(file: &Arc<File>, len: u64, first_leaf: u64, count: u64) -> io::Result<Self> {
        let mut offsets = Self::empty();
        let mut reader = FrameReader::new(file.clone(), HEADER_LEN, len);
        while offsets.len() < count {
            match reader.next()? {
                Some(Ok(frame)) => {
                    if offsets.take(&frame, first_leaf).is_none() {
                        break;
                    }
                }
                // A frame whose CRC is wrong still has its place; reading it tells. How many
                // leaves it stands for is told by what follows.
                Some(Err(super::Fault::Crc { .. })) => {
                    let (end, stood) = (reader.offset(), first_leaf + offsets.len());
                    let next = super::index_at(file, end, len, Some(first_leaf + count))?;
                    match next.and_then(|next| next.checked_sub(stood)) {
                        Some(0) if offsets.begin(end) => {}
                        Some(leaves @ 1..) => offsets.push_gone(leaves, end),
                        _ => offsets.push(end),
                    }
                }
                _ => break,
            }
        }
        Ok(offsets)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn offsets_are_made_again_when_their_file_is_lost_or_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let segment = dir.path().join("0.seg");
        let mut bytes = vec![0; HEADER_LEN as usize];
        let mut offsets = Offsets::empty();
        for n in 1..50 {
            super::super::frame(&mut bytes, |buf| buf.resize(buf.len() + n, 1));
            offsets.push(bytes.len() as u64);
        }
        fs::write(&segment, &bytes).unwrap();
        let file = Arc::new(File::open(&segment).unwrap());
        let load = || Offsets::load(&segment, &file, 0, 49).unwrap();
        assert_eq!(load(), offsets);
        offsets.save(&segment).unwrap();
        assert_eq!(load(), offsets);
        let sidecar = segment.with_extension("idx");
        let mut damaged = fs::read(&sidecar).unwrap();
        damaged[20] ^= 1;
        fs::write(&sidecar, damaged).unwrap();
        assert_eq!(load(), offsets);
        assert_eq!(Offsets::load(&segment, &file, 0, 50).unwrap().len(), 49);
    }
}
