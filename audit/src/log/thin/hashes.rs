//! The hashes of leaves that the tree has, by which a segment is what was signed or is not.

use std::{fs::File, io, sync::PoisonError};

use super::walk::Differs;
use crate::{
    archive::Away,
    log::{reader::Shared, remake},
    merkle::{Hash, TILE_WIDTH, TilePath, verify_inclusion},
};

/// Times that a hash is asked for: a partial tile may be replaced meanwhile.
const TILE_TRIES: usize = 5;

/// The hashes of leaves that the tree has.
pub(in crate::log) struct Hashes<'a> {
    shared: &'a Shared,
    tile: Option<(u64, Vec<Hash>)>,
    /// The segment that is compared with them, by its first record: a tile that rotted is made
    /// again from what was fetched of it.
    own: (u64, File),
}

impl<'a> Hashes<'a> {
    /// For the segment that begins with `first`, which is `file`.
    pub(in crate::log) fn new(shared: &'a Shared, (first, file): (u64, &File)) -> io::Result<Self> {
        Ok(Self {
            shared,
            tile: None,
            own: (first, file.try_clone()?),
        })
    }

    /// Refuses a leaf that is not the one that was signed.
    pub(in crate::log) fn check(&mut self, leaf: u64, hash: &Hash) -> io::Result<()> {
        let number = leaf / TILE_WIDTH as u64;
        if self.tile.as_ref().is_none_or(|(held, _)| *held != number) {
            self.tile = Some((number, self.read(number)?));
        }
        let at = (leaf % TILE_WIDTH as u64) as usize;
        let stored = self.tile.as_ref().and_then(|(_, hashes)| hashes.get(at));
        match stored {
            Some(stored) if stored == hash => Ok(()),
            _ => Err(Differs::error(
                leaf,
                "the record is not the one that was signed",
            )),
        }
    }

    fn read(&self, number: u64) -> io::Result<Vec<Hash>> {
        let mut tries = 1;
        let refused = loop {
            match self.read_once(number) {
                Err(_) if tries < TILE_TRIES => tries += 1,
                Err(refused) => break refused,
                read => return read,
            }
        };
        match self.remake(number) {
            Ok(true) => self.read_once(number),
            Ok(false) => Err(refused),
            // What is there in the place of a record is none.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(refused),
            // Nothing is known of the records until they, and the tiles beside, can be read.
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Away>()) => Err(error),
            Err(error) => {
                let told = format!("its tile {number} is damaged, and not made again: {error}");
                Err(io::Error::new(error.kind(), told))
            }
        }
    }

    /// Makes a tile again that rotted, if the records lead to what was signed.
    fn remake(&self, number: u64) -> io::Result<bool> {
        let shared = self.shared;
        let checkpoint = shared.checkpoint.borrow().clone();
        let segments = shared.segments.read();
        let firsts = segments
            .unwrap_or_else(PoisonError::into_inner)
            .firsts
            .clone();
        let signed = (checkpoint.size, &checkpoint.root);
        remake::remake(&shared.tiles, number, signed, &firsts, &mut |first| {
            match first == self.own.0 {
                true => self.own.1.try_clone(),
                // Its neighbour is wanted again for that one's own tiles.
                false => shared.open(first).map(|(file, _)| file),
            }
        })
    }

    /// Reads a tile and proves it under the latest checkpoint: the proof of its first leaf
    /// is made from all others of it.
    fn read_once(&self, number: u64) -> io::Result<Vec<Hash>> {
        let checkpoint = self.shared.checkpoint.borrow().clone();
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        let path = TilePath::at(0, number, checkpoint.size).ok_or_else(not_found)?;
        let hashes = self.shared.tiles.read(path)?;
        let (index, first) = (number * TILE_WIDTH as u64, hashes.first());
        let first = first.ok_or_else(not_found)?;
        let proof = self.shared.prove_under(index, checkpoint.size);
        let proof = proof.map_err(io::Error::other)?;
        match verify_inclusion(first, index, checkpoint.size, &proof, &checkpoint.root) {
            Ok(()) => Ok(hashes),
            Err(_) => Err(Differs::error(index, "its tile is not what was signed")),
        }
    }
}
