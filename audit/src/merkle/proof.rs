//! Inclusion and consistency proofs, made and checked.
//!
//! Made by the definitions of RFC 6962 sections 2.1.1 and 2.1.2; checked by the
//! algorithms of RFC 9162 sections 2.1.3.2 and 2.1.4.2, which need no tree.

use super::{Hash, empty_root, node, split_point};

/// Why a proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Leaf index or tree sizes contradict each other.
    #[error("proof is about a leaf or a size that the tree does not have")]
    OutOfRange,
    /// Too few or too many hashes for this place in the tree.
    #[error("proof has the wrong number of hashes")]
    Length,
    /// The hashes lead to another root.
    #[error("proof leads to another root")]
    Root,
}

/// Proves that leaf `index` is in the tree of `size` leaves.
///
/// `read(height, i)` gives the hash of the complete subtree of `2^height` leaves
/// that starts at leaf `i * 2^height`.
///
/// # Errors
/// Those of `read`; `None` when the tree has no such leaf.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    read: &mut (impl FnMut(u32, u64) -> Result<Hash, E> + ?Sized),
) -> Result<Option<Vec<Hash>>, E> {
    if index >= size {
        return Ok(None);
    }
    let (mut low, mut high) = (0, size);
    let mut proof = Vec::new();
    // From the root down to the leaf; the proof lists siblings from the leaf up.
    while high - low > 1 {
        let middle = low + split_point(high - low);
        if index < middle {
            proof.push(range(middle, high, read)?);
            high = middle;
        } else {
            proof.push(range(low, middle, read)?);
            low = middle;
        }
    }
    proof.reverse();
    Ok(Some(proof))
}

/// Proves that the tree of `first` leaves is a prefix of the tree of `second`.
///
/// # Errors
/// Those of `read`; `None` when `first` is larger than `second`.
pub fn consistency_proof<E>(
    first: u64,
    second: u64,
    read: &mut (impl FnMut(u32, u64) -> Result<Hash, E> + ?Sized),
) -> Result<Option<Vec<Hash>>, E> {
    if first > second {
        return Ok(None);
    }
    if first == 0 || first == second {
        return Ok(Some(Vec::new()));
    }
    let (mut low, mut high) = (0, second);
    let mut proof = Vec::new();
    while high != first {
        let middle = low + split_point(high - low);
        if first <= middle {
            proof.push(range(middle, high, read)?);
            high = middle;
        } else {
            proof.push(range(low, middle, read)?);
            low = middle;
        }
    }
    // The old tree's own root needs no repeating; a part of it does.
    if low != 0 {
        proof.push(range(low, high, read)?);
    }
    proof.reverse();
    Ok(Some(proof))
}

/// Hash of the leaves `low..high`, which start where such a subtree may start.
fn range<E>(
    low: u64,
    high: u64,
    read: &mut (impl FnMut(u32, u64) -> Result<Hash, E> + ?Sized),
) -> Result<Hash, E> {
    let width = high - low;
    if width.is_power_of_two() {
        let height = width.trailing_zeros();
        return read(height, low >> height);
    }
    let middle = low + split_point(width);
    let left = range(low, middle, read)?;
    Ok(node(&left, &range(middle, high, read)?))
}

/// Checks that `leaf` is leaf `index` of the tree with `size` leaves and `root`.
///
/// # Errors
/// [`ProofError`] when it is not, or the proof does not show it.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange);
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            (at, last) = skip_missing_right(at, last);
        } else {
            hash = node(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// Checks that the tree (`first`, `first_root`) is a prefix of (`second`, `second_root`).
///
/// # Errors
/// [`ProofError`] when it is not, or the proof does not show it.
pub fn verify_consistency(
    first: u64,
    first_root: &Hash,
    second: u64,
    second_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if first > second {
        return Err(ProofError::OutOfRange);
    }
    if first == second || first == 0 {
        let expected = if first == second {
            *second_root
        } else {
            empty_root()
        };
        return match (proof.is_empty(), expected == *first_root) {
            (true, true) => Ok(()),
            (true, false) => Err(ProofError::Root),
            _ => Err(ProofError::Length),
        };
    }
    let (mut at, mut last) = (first - 1, second - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    // A complete old tree is a node of the new one: its root starts the proof.
    let (start, rest) = if first.is_power_of_two() {
        (first_root, proof)
    } else {
        proof.split_first().ok_or(ProofError::Length)?
    };
    let (mut old, mut new) = (*start, *start);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if at & 1 == 1 || at == last {
            old = node(sibling, &old);
            new = node(sibling, &new);
            (at, last) = skip_missing_right(at, last);
        } else {
            new = node(&new, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    match (last, old == *first_root && new == *second_root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// Climbs past the levels at which a right-most node has no right sibling.
fn skip_missing_right(mut at: u64, mut last: u64) -> (u64, u64) {
    while at & 1 == 0 && at != 0 {
        (at, last) = (at >> 1, last >> 1);
    }
    (at, last)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::{
        super::{
            hex, leaf, subtree,
            tests::{LEAVES, unhex},
        },
        *,
    };

    fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| leaf(&i.to_be_bytes())).collect()
    }

    fn reader(leaves: &[Hash]) -> impl FnMut(u32, u64) -> Result<Hash, Infallible> + '_ {
        |height, i| {
            let width = 1usize << height;
            let start = i as usize * width;
            Ok(subtree(&leaves[start..start + width]).unwrap())
        }
    }

    fn root(leaves: &[Hash]) -> Hash {
        subtree(leaves).unwrap_or_else(empty_root)
    }

    /// Paths of the certificate transparency test suite.
    #[test]
    fn known_proofs_come_out() {
        let hashes: Vec<Hash> = LEAVES.iter().map(|l| leaf(&unhex(l))).collect();
        let path = |index, size| {
            let proof = inclusion_proof(index, size, &mut reader(&hashes)).unwrap();
            proof.unwrap().iter().map(|h| hex(h)).collect::<Vec<_>>()
        };
        assert_eq!(
            path(5, 8),
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        let proof = consistency_proof(6, 8, &mut reader(&hashes)).unwrap();
        let proof: Vec<String> = proof.unwrap().iter().map(|h| hex(h)).collect();
        assert_eq!(
            proof,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
    }

    #[test]
    fn every_leaf_and_every_prefix_of_small_trees_is_proven() {
        for size in 1..=66u64 {
            let hashes = leaves(size);
            let new = root(&hashes);
            for i in 0..size {
                let proof = inclusion_proof(i, size, &mut reader(&hashes)).unwrap();
                let proof = proof.unwrap();
                verify_inclusion(&hashes[i as usize], i, size, &proof, &new).unwrap();
            }
            for first in 0..=size {
                let proof = consistency_proof(first, size, &mut reader(&hashes)).unwrap();
                let old = root(&hashes[..first as usize]);
                verify_consistency(first, &old, size, &new, &proof.unwrap()).unwrap();
            }
        }
    }

    /// How a proof is forged.
    #[derive(Debug, Clone)]
    enum Forgery {
        FlipHash(usize, u8),
        Drop(usize),
        Repeat(usize),
        Append([u8; 32]),
        Swap(usize, usize),
        FlipRoot(u8),
        FlipLeafOrOldRoot(u8),
        Size(i8),
        Index(i8),
    }

    fn forgeries() -> impl Strategy<Value = Forgery> {
        prop_oneof![
            (any::<usize>(), any::<u8>()).prop_map(|(i, b)| Forgery::FlipHash(i, b)),
            any::<usize>().prop_map(Forgery::Drop),
            any::<usize>().prop_map(Forgery::Repeat),
            any::<[u8; 32]>().prop_map(Forgery::Append),
            (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Forgery::Swap(a, b)),
            any::<u8>().prop_map(Forgery::FlipRoot),
            any::<u8>().prop_map(Forgery::FlipLeafOrOldRoot),
            (1..4i8).prop_map(Forgery::Size),
            (-3..4i8).prop_map(Forgery::Index),
        ]
    }

    fn flip(hash: &mut Hash, bit: u8) {
        hash[usize::from(bit / 8)] ^= 1 << (bit % 8);
    }

    /// Applies the forgery; false when it changes nothing.
    fn forge(
        how: &Forgery,
        proof: &mut Vec<Hash>,
        old: &mut Hash,
        new: &mut Hash,
        at: &mut u64,
        size: &mut u64,
    ) -> bool {
        let n = proof.len();
        match *how {
            Forgery::FlipHash(i, bit) if n > 0 => flip(&mut proof[i % n], bit),
            Forgery::Drop(i) if n > 0 => drop(proof.remove(i % n)),
            Forgery::Repeat(i) if n > 0 => proof.insert(i % n, proof[i % n]),
            Forgery::Append(hash) => proof.push(hash),
            Forgery::Swap(a, b) if n > 0 && proof[a % n] != proof[b % n] => {
                proof.swap(a % n, b % n);
            }
            Forgery::FlipRoot(bit) => flip(new, bit),
            Forgery::FlipLeafOrOldRoot(bit) => flip(old, bit),
            Forgery::Size(by) => *size += by as u64,
            Forgery::Index(by) if by != 0 => *at = at.wrapping_add_signed(by.into()),
            _ => return false,
        }
        true
    }

    proptest! {
        #[test]
        fn forged_inclusion_proofs_are_refused(
            size in 1..700u64, pick in any::<u64>(), how in forgeries(),
        ) {
            let hashes = leaves(size);
            let mut index = pick % size;
            let mut proof = inclusion_proof(index, size, &mut reader(&hashes)).unwrap().unwrap();
            let (mut leaf, mut new, mut claimed) = (hashes[index as usize], root(&hashes), size);
            prop_assume!(forge(&how, &mut proof, &mut leaf, &mut new, &mut index, &mut claimed));
            // A proof binds leaf, index and root; another size can share the same path,
            // which is why sizes come only from signed checkpoints.
            prop_assume!(!matches!(how, Forgery::Size(_)));
            prop_assert!(verify_inclusion(&leaf, index, claimed, &proof, &new).is_err());
        }

        #[test]
        fn forged_consistency_proofs_are_refused(
            size in 2..700u64, pick in any::<u64>(), how in forgeries(),
        ) {
            let hashes = leaves(size);
            let mut first = 1 + pick % (size - 1);
            let mut proof = consistency_proof(first, size, &mut reader(&hashes)).unwrap().unwrap();
            let mut old = root(&hashes[..first as usize]);
            let (mut new, mut claimed) = (root(&hashes), size);
            prop_assume!(forge(&how, &mut proof, &mut old, &mut new, &mut first, &mut claimed));
            prop_assume!(!matches!(how, Forgery::Size(_) | Forgery::Index(_)));
            prop_assert!(
                verify_consistency(first, &old, claimed, &new, &proof).is_err(),
                "{how:?} accepted"
            );
        }

        #[test]
        fn a_proof_for_another_history_is_refused(size in 2..400u64, at in any::<u64>()) {
            let hashes = leaves(size);
            let first = 1 + at % (size - 1);
            let mut rewritten = hashes.clone();
            flip(&mut rewritten[(at % first) as usize], 7);
            let proof = consistency_proof(first, size, &mut reader(&rewritten)).unwrap().unwrap();
            prop_assert!(verify_consistency(
                first, &root(&hashes[..first as usize]), size, &root(&rewritten), &proof,
            ).is_err());
        }
    }
}
