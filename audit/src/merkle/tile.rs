//! Tiles on disk, laid out as C2SP tlog-tiles has them.
//!
//! A static file server over the log's directory is a tile server. Tiles are
//! derived: a lost or damaged one is computed again from the segments, so they
//! are written atomically but not fsynced, except where segments go elsewhere.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Hash, TILE_WIDTH, Tree, subtree};
use crate::files;

/// Consecutive hashes of one level of the tree; at most [`TILE_WIDTH`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// 0 holds leaf hashes, 1 the roots of level 0 tiles, and so on.
    pub level: u8,
    /// Which tile of its level.
    pub index: u64,
    /// Its hashes, from the left.
    pub hashes: Vec<Hash>,
}

/// Where a tile is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TilePath {
    /// Level.
    pub level: u8,
    /// Which tile of its level.
    pub index: u64,
    /// Hashes in it; less than [`TILE_WIDTH`] for a partial tile.
    pub width: usize,
}

impl TilePath {
    /// The tile `(level, index)` as it stands in a tree of `size` leaves; `None`
    /// when that tree has nothing there.
    pub fn at(level: u8, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
        let before = index.checked_mul(TILE_WIDTH as u64)?;
        let width = hashes.checked_sub(before)?.min(TILE_WIDTH as u64) as usize;
        (width > 0).then_some(Self {
            level,
            index,
            width,
        })
    }

    /// Partial tiles at the right edge of a tree of `size` leaves.
    pub fn partial(size: u64) -> impl Iterator<Item = Self> {
        (0..8u8).filter_map(move |level| {
            let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
            Self::at(level, hashes / TILE_WIDTH as u64, size)
        })
    }

    /// Path below the log's directory: `tile/0/x001/234.p/5`.
    pub fn relative(&self) -> PathBuf {
        let mut number = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            number = format!("x{:03}/{number}", rest % 1000);
            rest /= 1000;
        }
        let path = format!("tile/{}/{number}", self.level);
        if self.width < TILE_WIDTH {
            return format!("{path}.p/{}", self.width).into();
        }
        path.into()
    }
}

impl Tile {
    fn path(&self) -> TilePath {
        TilePath {
            level: self.level,
            index: self.index,
            width: self.hashes.len(),
        }
    }
}

/// The tiles below a log's directory.
#[derive(Debug, Clone)]
pub struct Tiles {
    dir: PathBuf,
}

impl Tiles {
    /// Tiles below `dir/tile`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    /// Writes one tile whole or not at all, and durably where that is wanted.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write(&self, tile: &Tile, sync: files::Sync) -> io::Result<()> {
        let path = self.dir.join(tile.path().relative());
        files::replace(&path, &tile.hashes.concat(), sync)
    }

    /// Makes all full tiles durable that have something of `leaves`.
    ///
    /// # Errors
    /// Those of the file system, also when one is not there.
    #[cfg(feature = "index")]
    pub(crate) fn sync(&self, leaves: &std::ops::Range<u64>, size: u64) -> io::Result<()> {
        for level in 0..8u8 {
            let tile_of = |leaf: u64| leaf.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
            for index in tile_of(leaves.start)..=tile_of(leaves.end.saturating_sub(1)) {
                let Some(tile) = TilePath::at(level, index, size) else {
                    continue;
                };
                if tile.width < TILE_WIDTH {
                    // Written anew by the next checkpoint, durably.
                    continue;
                }
                let path = self.dir.join(tile.relative());
                fs::File::open(&path)?.sync_all()?;
                for folder in path.ancestors().skip(1) {
                    files::sync_dir(folder)?;
                    if folder == self.dir {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads one tile.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` for a file of another length.
    pub fn read(&self, path: TilePath) -> io::Result<Vec<Hash>> {
        let read = files::read(&self.dir.join(path.relative()), path.width * 32);
        let bytes = read.map_err(|e| match e.kind() {
            io::ErrorKind::FileTooLarge => io::ErrorKind::InvalidData.into(),
            _ => e,
        })?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        if hashes.len() != path.width || !rest.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(hashes.to_vec())
    }

    /// Removes the partial tiles of an earlier size that `now` has no use for.
    pub fn remove_partial(&self, earlier: u64, now: u64) {
        for path in TilePath::partial(earlier) {
            if TilePath::partial(now).any(|kept| kept == path) {
                continue;
            }
            let path = self.dir.join(path.relative());
            // Best effort: a partial tile too many harms nobody.
            let _ = fs::remove_file(&path);
            if let Some(parent) = path.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
    }

    /// Hash of the complete subtree of `2^height` leaves starting at leaf
    /// `index * 2^height`, from the tiles of a tree of `size` leaves.
    ///
    /// # Errors
    /// Those of the file system; `NotFound` beyond `size`.
    pub fn node(&self, height: u32, index: u64, size: u64) -> io::Result<Hash> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let level = u8::try_from(height / 8).map_err(|_| missing())?;
        let span = 1u64 << (height % 8);
        let first = index.checked_mul(span).ok_or_else(missing)?;
        let tile = TilePath::at(level, first / TILE_WIDTH as u64, size).ok_or_else(missing)?;
        let hashes = self.read(tile)?;
        let from = (first % TILE_WIDTH as u64) as usize;
        hashes
            .get(from..from + span as usize)
            .and_then(subtree)
            .ok_or_else(missing)
    }

    /// The right edge of the tree of `size` leaves.
    ///
    /// # Errors
    /// Those of the file system, when a tile is missing or damaged in length.
    pub fn tree(&self, size: u64) -> io::Result<Tree> {
        let mut edge = Vec::new();
        for level in 0..8u8 {
            let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
            if hashes == 0 {
                break;
            }
            edge.push(
                match TilePath::at(level, hashes / TILE_WIDTH as u64, size) {
                    Some(path) => self.read(path)?,
                    None => Vec::new(),
                },
            );
        }
        Ok(Tree::from_edge(size, edge))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Tree, consistency_proof, inclusion_proof, leaf, verify_consistency, verify_inclusion,
        },
        *,
    };

    #[test]
    fn paths_follow_the_specification() {
        let path = |level, index, width| {
            let path = TilePath {
                level,
                index,
                width,
            };
            path.relative().to_string_lossy().into_owned()
        };
        assert_eq!(path(0, 0, 256), "tile/0/000");
        assert_eq!(path(0, 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(1, 1_000, 112), "tile/1/x001/000.p/112");
    }

    #[test]
    fn proofs_from_tiles_hold_for_every_earlier_size() {
        let dir = tempfile::tempdir().unwrap();
        let tiles = Tiles::new(dir.path());
        let mut tree = Tree::new();
        let size = 66_000u64;
        let mut roots = std::collections::BTreeMap::new();
        let sizes = [1, 2, 255, 256, 257, 65_535, 65_536, 65_537, size];
        for i in 0..size {
            tree.push(leaf(&i.to_be_bytes()));
            if sizes.contains(&(i + 1)) {
                roots.insert(i + 1, tree.root());
            }
        }
        for tile in tree
            .full_tiles()
            .iter()
            .cloned()
            .chain(tree.partial_tiles())
        {
            tiles.write(&tile, files::Sync::No).unwrap();
        }
        let mut read = |height, index| tiles.node(height, index, size);
        for (&at, root) in &roots {
            for index in [0, at / 2, at - 1] {
                let proof = inclusion_proof(index, at, &mut read).unwrap().unwrap();
                let leaf = leaf(&index.to_be_bytes());
                verify_inclusion(&leaf, index, at, &proof, root).unwrap();
            }
            let proof = consistency_proof(at, size, &mut read).unwrap().unwrap();
            verify_consistency(at, root, size, &roots[&size], &proof).unwrap();
        }
        let mut again = tiles.tree(size).unwrap();
        assert_eq!(again.root(), tree.root());
        again.push([7; 32]);
        tree.push([7; 32]);
        assert_eq!(again.root(), tree.root());
    }

    #[test]
    fn outdated_partial_tiles_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tiles = Tiles::new(dir.path());
        let mut tree = Tree::new();
        for size in 1..=300u64 {
            tree.push([size as u8; 32]);
            for tile in tree
                .full_tiles()
                .iter()
                .cloned()
                .chain(tree.partial_tiles())
            {
                tiles.write(&tile, files::Sync::No).unwrap();
            }
            tree.forget_full_tiles();
            tiles.remove_partial(size - 1, size);
            assert!(tiles.tree(size).is_ok());
        }
        let level: Vec<_> = fs::read_dir(dir.path().join("tile/0")).unwrap().collect();
        assert_eq!(level.len(), 2, "`000` and `001.p`");
    }
}
