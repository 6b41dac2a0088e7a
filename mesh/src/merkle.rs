//! The Merkle tree hash of RFC 6962 section 2.1, with SHA-256.
//!
//! The audit log is one growing tree; a policy bundle is one small tree, so that a
//! part of it has the digest of the whole.

use aws_lc_rs::digest::{Context, SHA256};

mod many;

pub use many::{digests, sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// What precedes a leaf's bytes when it is hashed.
pub const LEAF_PREFIX: u8 = 0;
/// What precedes two child hashes when they are hashed.
const NODE_PREFIX: u8 = 1;

/// Hash of a leaf.
pub fn leaf(bytes: &[u8]) -> Hash {
    hash(&[&[LEAF_PREFIX], bytes])
}

/// Hash of an inner node.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    // In one piece: a context is taken from the heap, and hashed into part by part.
    let mut whole = [NODE_PREFIX; 65];
    let (_, both) = whole.split_at_mut(1);
    let (first, second) = both.split_at_mut(32);
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    sha256(&whole)
}

/// Root of the tree without leaves.
pub fn empty_root() -> Hash {
    hash(&[])
}

/// Root over the hashes of consecutive leaves, or of consecutive nodes of one height.
pub fn root(hashes: &[Hash]) -> Hash {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = parents(&level);
    }
    level.pop().unwrap_or_else(empty_root)
}

/// What stands above `hashes`: the node over each two, and the last as it is if it is alone,
/// which gives the tree that splits at [`split_point`].
fn parents(hashes: &[Hash]) -> Vec<Hash> {
    let (pairs, alone) = hashes.as_chunks::<2>();
    let mut messages = vec![[NODE_PREFIX; 65]; pairs.len()];
    for ([_, children @ ..], pair) in messages.iter_mut().zip(pairs) {
        children.copy_from_slice(pair.as_flattened());
    }
    let mut parents = Vec::with_capacity(pairs.len() + alone.len());
    digests(messages.iter().map(<[u8; 65]>::as_slice), &mut parents);
    parents.extend(alone);
    parents
}

/// Largest power of two below `n`, which is at least 2.
pub fn split_point(n: u64) -> u64 {
    1 << (u64::BITS - 1 - n.saturating_sub(1).leading_zeros())
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(hash: Hash) -> String {
        crate::snapshot::Digest(hash).to_string()
    }

    /// Roots of the certificate transparency test suite at some of its sizes.
    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let leaves: [&[u8]; 4] = [b"", b"\x00", b"\x10", b"\x20\x21"];
        let hashes = leaves.map(leaf);
        let expected = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        for (size, expected) in expected.iter().enumerate() {
            assert_eq!(&hex(root(&hashes[..size])), expected, "{size} leaves");
        }
    }

    /// A root as RFC 6962 defines it: over what is left and right of the split.
    fn defined(hashes: &[Hash]) -> Hash {
        match hashes {
            [] => empty_root(),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(split_point(many.len() as u64) as usize);
                node(&defined(left), &defined(right))
            }
        }
    }

    #[test]
    fn a_root_of_any_size_is_the_one_of_its_definition() {
        let leaves: Vec<Hash> = (0..300_u16).map(|n| leaf(&n.to_be_bytes())).collect();
        for size in 0..=leaves.len() {
            assert_eq!(root(&leaves[..size]), defined(&leaves[..size]), "{size}");
        }
    }

    #[test]
    fn a_tree_splits_at_the_largest_power_of_two_below_its_size() {
        let points = [2, 3, 4, 5, 8, 9, 1024, 1025].map(split_point);
        assert_eq!(points, [1, 2, 2, 4, 4, 8, 512, 1024]);
    }
}
