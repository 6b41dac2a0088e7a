//! Fills batches with the frames of a file, and hashes their leaves.

use super::batch::{Batch, Kind, Place, Stop};
use crate::{
    merkle::{self, Hash, TILE_WIDTH},
    segment::{Content, FrameReader},
};

/// A reader, and the leaves of the tile that it is in.
pub(super) struct Source {
    frames: FrameReader,
    /// The index of the next leaf, as far as it is known.
    next: Option<u64>,
    /// The leaves before that one, from the beginning of the tile; empty where not all of them
    /// were read here.
    tile: Vec<Hash>,
    /// Of the leaves of a batch.
    hashes: Vec<Hash>,
}

impl Source {
    pub(super) fn new(frames: FrameReader, next: Option<u64>) -> Self {
        Self {
            frames,
            next,
            tile: Vec::with_capacity(TILE_WIDTH),
            hashes: Vec::new(),
        }
    }

    /// Fills a batch with about `len` bytes of frames.
    pub(super) fn fill(&mut self, batch: &mut Batch, len: usize) {
        batch.bytes.clear();
        batch.frames.clear();
        batch.stop = None;
        batch.bytes.reserve(len);
        while batch.bytes.len() < len {
            let (payload, kind) = match self.frames.next() {
                Ok(Some(Ok(frame))) => {
                    let start = batch.bytes.len();
                    batch.bytes.extend_from_slice(frame.payload);
                    let kind = match frame.content() {
                        Content::Leaf(_) => Kind::Leaf,
                        Content::Gone(_) => Kind::Gone,
                        Content::Sparse(_) => Kind::Sparse,
                    };
                    (start..batch.bytes.len(), kind)
                }
                ended => {
                    batch.stop = Some(ended.map(|fault| match fault {
                        Some(Err(fault)) => Stop::Fault(fault),
                        _ => Stop::End,
                    }));
                    break;
                }
            };
            batch.frames.push(Place {
                kind,
                payload,
                envelope: None,
                hash: Hash::default(),
                root: None,
                ends: self.frames.offset(),
            });
        }
        self.hash(batch);
    }

    /// Takes in the leaves of a batch: their hashes, and the roots of the tiles that they fill.
    fn hash(&mut self, batch: &mut Batch) {
        self.hashes.clear();
        merkle::leaves_in_place(batch.leaves(), &mut self.hashes);
        let mut n = 0;
        for place in &mut batch.frames {
            match place.kind {
                Kind::Leaf => {
                    place.hash = self.hashes.get(n).copied().unwrap_or_default();
                    place.root = self.leaf(place.hash);
                    n += 1;
                }
                // How many it stands for is for others to say.
                Kind::Gone => self.next = None,
                Kind::Sparse => {}
            }
        }
    }

    /// Takes in a leaf; gives the root of the tile that it fills.
    fn leaf(&mut self, hash: Hash) -> Option<Hash> {
        let index = self.next?;
        self.next = Some(index + 1);
        let within = (index % TILE_WIDTH as u64) as usize;
        if within == self.tile.len() {
            self.tile.push(hash);
        }
        (within + 1 == TILE_WIDTH).then_some(())?;
        let tile = std::mem::replace(&mut self.tile, Vec::with_capacity(TILE_WIDTH));
        (tile.len() == TILE_WIDTH).then(|| merkle::subtree(&tile))?
    }
}
