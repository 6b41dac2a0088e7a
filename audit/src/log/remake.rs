//! A tile that is not what was signed, and the segments that can tell.

use std::{fs::File, io, ops::Range, sync::Arc};

use crate::{
    merkle::{self, Hash, TILE_WIDTH, Tiles},
    segment::{Content, FrameReader, GoneRun, HEADER_LEN},
};

/// Hashes in a full tile.
const WIDTH: u64 = TILE_WIDTH as u64;

/// Makes the full tile `number` of leaves again from the segments that begin with `firsts`, if
/// what these have leads to the signed root of so many records. Says whether it does.
///
/// # Errors
/// When a segment or a tile that is needed cannot be read.
pub(super) fn remake(
    tiles: &Tiles,
    number: u64,
    signed: (u64, &Hash),
    firsts: &[u64],
    open: &mut dyn FnMut(u64) -> io::Result<File>,
) -> io::Result<bool> {
    let wanted = number * WIDTH..(number + 1) * WIDTH;
    if wanted.end > signed.0 {
        return Ok(false);
    }
    let before = firsts.partition_point(|first| *first <= wanted.start);
    let within = firsts.get(before.saturating_sub(1)..).unwrap_or_default();
    let mut leaves = Vec::with_capacity(TILE_WIDTH);
    for first in within.iter().take_while(|first| **first < wanted.end) {
        read(open(*first)?, *first, &wanted, &mut leaves)?;
    }
    if leaves.len() != TILE_WIDTH {
        return Ok(false);
    }
    let is_mended = tiles.mend(number, leaves, signed)?;
    if is_mended {
        tracing::warn!(
            tile = number,
            first = wanted.start,
            "a tile of the log was damaged, and is made again from its records"
        );
    }
    Ok(is_mended)
}

/// Adds the hashes of the leaves that are `wanted` of a segment, those of dropped ones too.
fn read(file: File, first: u64, wanted: &Range<u64>, leaves: &mut Vec<Hash>) -> io::Result<()> {
    let len = file.metadata()?.len();
    let mut reader = FrameReader::new(Arc::new(file), HEADER_LEN, len);
    let mut index = first;
    while index < wanted.end {
        let frame = match reader.next()? {
            None => return Ok(()),
            Some(Err(_)) => return Err(io::ErrorKind::InvalidData.into()),
            Some(Ok(frame)) => frame,
        };
        match frame.content() {
            Content::Leaf(_) => {
                if wanted.contains(&index) {
                    leaves.push(merkle::leaf_in_place(frame.payload));
                }
                index += 1;
            }
            Content::Gone(gone) => {
                let run = GoneRun::read(gone).ok_or(io::ErrorKind::InvalidData)?;
                for (index, record) in (index..).zip(run.records()) {
                    if wanted.contains(&index) {
                        leaves.push(record.leaf);
                    }
                }
                index = run.next();
            }
            Content::Sparse(_) => {}
        }
    }
    Ok(())
}
