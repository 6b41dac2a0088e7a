//! The Merkle tree over the log (RFC 6962 section 2.1), SHA-256.
//!
//! A [`Tree`] keeps its right edge only: per level of 256-wide tiles the hashes
//! of the one tile that is not full yet. That is enough to append, to compute the
//! root, and to write the tiles from which proofs are made.

use palisade_mesh::merkle::{root, split_point};

mod mend;
mod proof;
mod tile;

pub use palisade_mesh::merkle::{Hash, LEAF_PREFIX, empty_root, leaf, node};
pub(crate) use palisade_mesh::merkle::{digests, sha256};
pub use proof::{
    ProofError, consistency_proof, inclusion_proof, verify_consistency, verify_inclusion,
};
pub use tile::{Tile, TilePath, Tiles};

/// Hashes in a full tile (C2SP tlog-tiles).
pub const TILE_WIDTH: usize = 256;

/// Hash of a leaf whose bytes already start with [`LEAF_PREFIX`].
pub(crate) fn leaf_in_place(prefixed: &[u8]) -> Hash {
    debug_assert_eq!(prefixed.first(), Some(&LEAF_PREFIX));
    sha256(prefixed)
}

/// Adds the hashes of leaves whose bytes already start with [`LEAF_PREFIX`], in their order.
pub(crate) fn leaves_in_place<'l>(
    prefixed: impl IntoIterator<Item = &'l [u8]>,
    hashes: &mut Vec<Hash>,
) {
    let checked = prefixed.into_iter().inspect(|leaf| {
        debug_assert_eq!(leaf.first(), Some(&LEAF_PREFIX));
    });
    digests(checked, hashes);
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut text = String::with_capacity(bytes.len() * 2);
    text.extend(nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)));
    text
}

/// Root over consecutive hashes of one level; `None` for none.
pub(crate) fn subtree(hashes: &[Hash]) -> Option<Hash> {
    (!hashes.is_empty()).then(|| root(hashes))
}

/// The right edge of a growing tree.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    size: u64,
    // Hashes of the tile at the right edge, per tile level; always fewer than 256.
    edge: Vec<Vec<Hash>>,
    full: Vec<Tile>,
}

impl Tree {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Continues a tree of `size` leaves from its right-edge tiles.
    pub(crate) fn from_edge(size: u64, edge: Vec<Vec<Hash>>) -> Self {
        Self {
            size,
            edge,
            full: Vec::new(),
        }
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.push_last(leaf, None);
    }

    /// As [`Tree::push`]; `known` is the root over it and the 255 before it, for whoever has
    /// that already.
    pub(crate) fn push_last(&mut self, leaf: Hash, mut known: Option<Hash>) {
        let index = self.size;
        self.size += 1;
        let mut hash = leaf;
        let mut level = 0;
        loop {
            if self.edge.len() <= level {
                self.edge.push(Vec::with_capacity(TILE_WIDTH));
            }
            let Some(tile) = self.edge.get_mut(level) else {
                return;
            };
            tile.push(hash);
            if tile.len() < TILE_WIDTH {
                return;
            }
            let hashes = std::mem::replace(tile, Vec::with_capacity(TILE_WIDTH));
            debug_assert!(known.is_none() || known == subtree(&hashes));
            let Some(root) = known.take().or_else(|| subtree(&hashes)) else {
                return;
            };
            let shift = 8 * (level as u32 + 1);
            self.full.push(Tile {
                level: level as u8,
                index: index.checked_shr(shift).unwrap_or(0),
                hashes,
            });
            hash = root;
            level += 1;
        }
    }

    /// The root hash.
    pub fn root(&self) -> Hash {
        let mut root: Option<Hash> = None;
        // From the smallest subtree at the right to the largest at the left.
        for tile in &self.edge {
            let mut rest = tile.as_slice();
            while !rest.is_empty() {
                let width = 1 << rest.len().trailing_zeros();
                let (before, last) = rest.split_at(rest.len() - width);
                if let Some(left) = subtree(last) {
                    root = Some(root.map_or(left, |right| node(&left, &right)));
                }
                rest = before;
            }
        }
        root.unwrap_or_else(empty_root)
    }

    /// The tiles at the right edge, as they stand.
    pub fn partial_tiles(&self) -> impl Iterator<Item = Tile> + '_ {
        self.edge
            .iter()
            .enumerate()
            .filter(|(_, hashes)| !hashes.is_empty())
            .map(|(level, hashes)| Tile {
                level: level as u8,
                index: self
                    .size
                    .checked_shr(8 * (level as u32 + 1))
                    .unwrap_or_default(),
                hashes: hashes.clone(),
            })
    }

    /// Tiles that became full and have not been taken out yet.
    pub fn full_tiles(&self) -> &[Tile] {
        &self.full
    }

    /// Forgets the full tiles, once they are written.
    pub fn forget_full_tiles(&mut self) {
        self.full.clear();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The tree of the certificate transparency test suite: leaves and the root at each size.
    pub(crate) const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    pub(crate) const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    pub(crate) fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn roots_are_those_of_the_certificate_transparency_vectors() {
        let mut tree = Tree::new();
        assert_eq!(hex(&tree.root()), ROOTS[0]);
        for (i, leaf_hex) in LEAVES.iter().enumerate() {
            tree.push(leaf(&unhex(leaf_hex)));
            assert_eq!(hex(&tree.root()), ROOTS[i + 1], "size {}", i + 1);
        }
    }

    /// The edge gives the same root as the recursive definition, across tile borders.
    #[test]
    fn the_edge_agrees_with_the_definition_at_every_size() {
        let leaves: Vec<Hash> = (0..70_000u32).map(|i| leaf(&i.to_be_bytes())).collect();
        let mut tree = Tree::new();
        for (i, hash) in leaves.iter().enumerate() {
            tree.push(*hash);
            let n = i + 1;
            if n < 600 || n % 9973 == 0 || (65_530..65_542).contains(&n) {
                assert_eq!(Some(tree.root()), subtree(&leaves[..n]), "size {n}");
            }
        }
        assert_eq!(tree.full_tiles().len(), 70_000 / 256 + 1);
        assert_eq!(tree.full_tiles().last().unwrap().index, 272);
        let partial: Vec<_> = tree
            .partial_tiles()
            .map(|t| (t.level, t.index, t.hashes.len()))
            .collect();
        assert_eq!(partial, [(0, 273, 112), (1, 1, 17), (2, 0, 1)]);
    }
}
