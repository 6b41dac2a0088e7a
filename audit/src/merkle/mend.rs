//! Makes tiles again that are not what was signed, from what lies beneath them.
//!
//! Tiles are derived. One that rotted on its disk is no witness against the records: if these
//! lead to the root that was signed, it is the tile that is wrong, and it is made again.

use std::io;

use super::{
    Hash, TILE_WIDTH, Tile, TilePath, Tiles, proof::inclusion_proof, proof::verify_inclusion,
    subtree,
};
use crate::files;

/// Levels of tiles.
const LEVELS: u8 = 8;

/// Hashes in a full tile.
const WIDTH: u64 = TILE_WIDTH as u64;

impl Tiles {
    /// Writes the full tile `number` of leaves again, and those above it that have to be, if
    /// with them the hashes `leaves` lead to `root`, that of a tree of `size` leaves. Says
    /// whether they do; nothing is written where they do not.
    ///
    /// # Errors
    /// Those of the file system, also when another tile that is needed is not there and cannot
    /// be made of those below it.
    pub(crate) fn mend(
        &self,
        number: u64,
        leaves: Vec<Hash>,
        (size, root): (u64, &Hash),
    ) -> io::Result<bool> {
        let Some(first) = leaves.first().copied() else {
            return Ok(false);
        };
        let index = number * WIDTH;
        let mut made = vec![Tile {
            level: 0,
            index: number,
            hashes: leaves,
        }];
        loop {
            let mut read = |height, at| self.node_with(&made, height, at, size);
            let mut unread = None;
            let proof = match inclusion_proof(index, size, &mut read) {
                // One that is gone, or short, leads nowhere as one does that rotted.
                Err(error) if is_no_tile(&error) => {
                    unread = Some(io::Error::new(io::ErrorKind::NotFound, error));
                    None
                }
                proof => proof?,
            };
            if proof
                .is_some_and(|proof| verify_inclusion(&first, index, size, &proof, root).is_ok())
            {
                for tile in &made {
                    self.write(tile, files::Sync::Yes)?;
                }
                return Ok(true);
            }
            // The one above may have rotted, too.
            match made.last().map(|below| self.above(below, size)) {
                Some(Ok(Some(tile))) => made.push(tile),
                Some(Err(error)) => return Err(error),
                _ => return unread.map_or(Ok(false), Err),
            }
        }
    }

    /// The full tile above `below`, made from those on its level; none where it is not full.
    fn above(&self, below: &Tile, size: u64) -> io::Result<Option<Tile>> {
        let (level, index) = (below.level + 1, below.index / WIDTH);
        let path = TilePath::at(level, index, size);
        if level >= LEVELS || path.is_none_or(|path| path.width < TILE_WIDTH) {
            return Ok(None);
        }
        let mut hashes = Vec::with_capacity(TILE_WIDTH);
        for number in index * WIDTH..(index + 1) * WIDTH {
            let read;
            let hashes_below = match number == below.index {
                true => &below.hashes,
                false => {
                    let path = TilePath {
                        level: below.level,
                        index: number,
                        width: TILE_WIDTH,
                    };
                    read = self.read(path)?;
                    &read
                }
            };
            hashes.extend(subtree(hashes_below));
        }
        Ok(Some(Tile {
            level,
            index,
            hashes,
        }))
    }

    /// As [`Tiles::node`], with some tiles as they were made again.
    fn node_with(&self, made: &[Tile], height: u32, index: u64, size: u64) -> io::Result<Hash> {
        let span = 1_u64 << (height % 8);
        let first = index.saturating_mul(span);
        let is_in =
            |tile: &&Tile| u32::from(tile.level) == height / 8 && tile.index == first / WIDTH;
        let Some(tile) = made.iter().find(is_in) else {
            return self.node(height, index, size);
        };
        let from = (first % WIDTH) as usize;
        let hashes = tile.hashes.get(from..from + span as usize);
        hashes
            .and_then(subtree)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Whether a tile is not there, or is no tile.
fn is_no_tile(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::Tree, *};

    /// Both sides: what leads to the root is written again, whichever tile rotted; what does
    /// not is not.
    #[test]
    fn a_tile_that_rotted_is_made_again_where_its_leaves_prove_it() {
        let dir = tempfile::tempdir().unwrap();
        let tiles = Tiles::new(dir.path());
        let mut tree = Tree::new();
        let size = 66_000_u64;
        let leaf = |i: u64| super::super::leaf(&i.to_be_bytes());
        (0..size).for_each(|i| tree.push(leaf(i)));
        let all = tree.full_tiles().iter().cloned();
        for tile in all.chain(tree.partial_tiles()) {
            tiles.write(&tile, files::Sync::No).unwrap();
        }
        let leaves = || -> Vec<Hash> { (7 * 256..8 * 256).map(leaf).collect() };
        let mend = |leaves| tiles.mend(7, leaves, (size, &tree.root())).unwrap();
        let flip = |path: &Path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[40] ^= 1;
            std::fs::write(path, bytes).unwrap();
        };
        let cut = |path: &Path| std::fs::write(path, [7; 40]).unwrap();
        let remove = |path: &Path| std::fs::remove_file(path).unwrap();
        let both = ["0/007", "1/000"];
        let each: [&dyn Fn(&Path); 3] = [&flip, &cut, &remove];
        let cases = each
            .into_iter()
            .flat_map(|damage| [&both[..1], &both[1..], &both[..]].map(|rotten| (damage, rotten)));
        for (damage, rotten) in cases {
            let paths = rotten.iter().map(|name| dir.path().join("tile").join(name));
            let paths: Vec<_> = paths.collect();
            let sound: Vec<_> = paths
                .iter()
                .map(|path| std::fs::read(path).unwrap())
                .collect();
            paths.iter().for_each(|path| damage(path));
            let mut other = leaves();
            other[3] = [7; 32];
            assert!(!mend(other), "{rotten:?}");
            assert!(mend(leaves()), "{rotten:?}");
            for (path, sound) in paths.iter().zip(sound) {
                assert_eq!(std::fs::read(path).unwrap(), sound, "{path:?}");
            }
        }
    }
}
