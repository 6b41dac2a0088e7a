//! SHA-256 of many messages at once: a processor's hash unit takes several that have nothing
//! to do with each other in about the time of one.

use std::{iter, sync::LazyLock};

use aws_lc_rs::digest::{SHA256, digest};

use super::Hash;

/// Fewer than these are hashed one by one.
const LEAST: usize = 4;

/// As many as are looked at together.
const WINDOW: usize = 128;

/// More than any kernel takes at once.
const GROUP_MAX: usize = 35;

/// Bytes of a SHA-256 block, and those that padding adds at least.
const BLOCK: usize = 64;
const PADDING: usize = 9;

/// Whether several at once have the digests they have one by one. A wrong kernel for one kind
/// of processor would make roots that nobody else finds: it is asked once, and not used then.
static AGREES: LazyLock<bool> = LazyLock::new(agrees);

/// Adds the digests of `messages`, in their order.
pub fn digests<'m>(messages: impl IntoIterator<Item = &'m [u8]>, digests: &mut Vec<Hash>) {
    let mut messages = messages.into_iter();
    let mut window = Window::default();
    while window.fill(&mut messages) {
        match window.messages.len() >= LEAST && *AGREES {
            true => window.hash(digests),
            false => digests.extend(window.messages.iter().map(|message| sha256(message))),
        }
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Messages that are hashed side by side: few enough that what that takes stays in the
/// processor's cache.
#[derive(Default)]
struct Window<'m> {
    messages: Vec<&'m [u8]>,
    /// How many blocks each has, and its place: those of as many blocks together.
    order: Vec<(usize, usize)>,
    sorted: Vec<&'m [u8]>,
    found: Vec<Hash>,
}

impl<'m> Window<'m> {
    /// Takes the next ones; false when there are none.
    fn fill(&mut self, messages: &mut impl Iterator<Item = &'m [u8]>) -> bool {
        self.messages.clear();
        self.messages.extend(messages.take(WINDOW));
        !self.messages.is_empty()
    }

    /// Hashes messages of as many blocks side by side: whoever waits for a longer one does
    /// nothing.
    fn hash(&mut self, digests: &mut Vec<Hash>) {
        let Self {
            messages,
            order,
            sorted,
            found,
        } = self;
        let blocks = |message: &[u8]| (message.len() + PADDING).div_ceil(BLOCK);
        order.clear();
        order.extend(messages.iter().map(|message| blocks(message)).zip(0..));
        order.sort_unstable();
        sorted.clear();
        sorted.extend(
            order
                .iter()
                .filter_map(|(_, at)| messages.get(*at).copied()),
        );
        found.resize(sorted.len(), [0; 32]);
        // Nothing comes before each of them, but that is compared: with an empty slice of
        // nowhere, which processors try to read from, it takes longer than a block.
        let nothing = sorted.first().and_then(|first| first.get(..0));
        tape_sha256::hash_many_prefixed(nothing.unwrap_or_default(), sorted, found);
        let start = digests.len();
        digests.resize(start + messages.len(), [0; 32]);
        for ((_, at), hash) in order.iter().zip(found) {
            if let Some(digest) = digests.get_mut(start + at) {
                *digest = *hash;
            }
        }
    }
}

/// Compares the two on every length around the ends of some blocks, on long messages, and in
/// groups of each size: a kernel that is wide leaves the rest of a group to another.
fn agrees() -> bool {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(4096 + BLOCK).collect();
    let of = |len: usize, at: usize| bytes.get(at..at + len).unwrap_or_default();
    let same = (0..3 * BLOCK).flat_map(|len| (0..8).map(move |at| of(len, at)));
    let mixed = (0..4 * BLOCK).map(|len| of(len, 1));
    let rests = (LEAST..=GROUP_MAX).flat_map(|size| (0..size).map(move |at| of(400, at)));
    let long = (0..GROUP_MAX).map(|at| of(4096, at));
    let all: Vec<&[u8]> = same.chain(mixed).chain(long).collect();
    let rests: Vec<&[u8]> = rests.collect();
    let mut sizes = LEAST..=GROUP_MAX;
    let mut left = rests.as_slice();
    let groups = iter::from_fn(|| {
        let (group, after) = left.split_at_checked(sizes.next()?)?;
        left = after;
        Some(group)
    });
    let mut window = Window::default();
    all.chunks(WINDOW).chain(groups).all(|messages| {
        let mut found = Vec::new();
        window.fill(&mut messages.iter().copied());
        window.hash(&mut found);
        found.into_iter().eq(messages.iter().map(|m| sha256(m)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_processor_hashes_several_at_once_as_one_by_one() {
        assert!(agrees());
    }

    proptest! {
        /// However many there are, and however long, each has its own digest.
        #[test]
        fn each_message_has_its_own_digest(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..300),
        ) {
            let mut found = vec![[1; 32]];
            digests(messages.iter().map(Vec::as_slice), &mut found);
            let one_by_one = messages.iter().map(|message| sha256(message));
            prop_assert!(found.into_iter().eq([[1; 32]].into_iter().chain(one_by_one)));
        }
    }
}
