//! What comes is what a reader of the file finds.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{
    envelope::VERSION,
    merkle::TILE_WIDTH,
    segment::{frame, frame_gone},
};

/// What a reader gives: leaves with their hashes and ends, and faults; from each fault it
/// goes on where the next frame was written.
type Seen = Vec<Result<(Vec<u8>, Hash, u64), Fault>>;

fn file_of(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// Reads a file from its beginning, with a thread or without one.
fn reads(file: &Arc<File>, end: u64, batch_len: usize, here: bool) -> Ahead {
    let mut ahead = Ahead::in_batches(file.clone(), 0, end, Some(0), batch_len);
    if here {
        let frames = FrameReader::new(file.clone(), 0, end);
        ahead.batches = Batches::Here(Box::new(Source::new(frames, Some(0))));
    }
    ahead
}

fn leaf(content: Content<'_>) -> Vec<u8> {
    match content {
        Content::Leaf(leaf) => leaf.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn by_ahead(mut ahead: Ahead, starts: &[u64]) -> Seen {
    let mut seen = Seen::new();
    loop {
        let at = ahead.offset();
        match ahead.next().unwrap() {
            None => return seen,
            Some(Ok(read)) => {
                assert_eq!(read.offset(), at);
                let (leaf, hash) = (leaf(read.content()), *read.hash);
                seen.push(Ok((leaf, hash, ahead.offset())));
            }
            Some(Err(fault)) => {
                // It stays where it is.
                assert!(matches!(ahead.next(), Ok(Some(Err(again))) if again == fault));
                seen.push(Err(fault));
                match starts.iter().find(|start| **start > at) {
                    Some(next) => ahead.go_to(*next),
                    None => return seen,
                }
            }
        }
    }
}

fn by_reader(file: &Arc<File>, end: u64, starts: &[u64]) -> Seen {
    let mut reader = FrameReader::new(file.clone(), 0, end);
    let mut seen = Seen::new();
    loop {
        let at = reader.offset();
        let read = match reader.next().unwrap() {
            None => return seen,
            Some(Ok(frame)) => Ok((leaf(frame.content()), merkle::leaf_in_place(frame.payload))),
            Some(Err(fault)) => Err(fault),
        };
        let damaged = read.is_err();
        seen.push(read.map(|(leaf, hash)| (leaf, hash, reader.offset())));
        if damaged {
            match starts.iter().find(|start| **start > at) {
                Some(next) => reader = FrameReader::new(file.clone(), *next, end),
                None => return seen,
            }
        }
    }
}

proptest! {
    /// Whatever the batches, and on whichever thread, it gives what a reader gives.
    #[test]
    fn frames_and_faults_come_as_a_reader_gives_them(
        leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..60),
        flips in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        cut in 0..5usize,
        batch_len in 1..200usize,
        here in any::<bool>(),
    ) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for leaf in &leaves {
            starts.push(bytes.len() as u64);
            frame(&mut bytes, |buf| buf.extend_from_slice(leaf));
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        for flip in flips.iter().take(bytes.len()) {
            let at = flip.index(bytes.len());
            bytes[at] ^= 16;
        }
        let (file, end) = (file_of(&bytes), bytes.len() as u64);
        let ahead = reads(&file, end, batch_len, here);
        prop_assert_eq!(by_ahead(ahead, &starts), by_reader(&file, end, &starts));
    }
}

/// Frames with envelopes, without, and of what was dropped; where the last begins.
fn mixed() -> (Vec<u8>, Vec<Option<Vec<u8>>>, u64) {
    let (mut bytes, mut leaves, mut last) = (Vec::new(), Vec::new(), 0);
    for n in 0..40_u64 {
        last = bytes.len() as u64;
        if n % 5 == 3 {
            frame_gone(&mut bytes, &n.to_le_bytes());
            leaves.push(None);
            continue;
        }
        let mut leaf = Vec::new();
        if n % 7 == 0 {
            leaf.extend_from_slice(b"no envelope");
        } else {
            let envelope = EnvelopeRef {
                version: VERSION,
                stream: b"stream",
                sequence: n,
                received_us: 7,
                salt: &[3; 16],
                record: &[9; 30][..n as usize % 30],
                sealed: &b"sealed"[..n as usize % 3],
            };
            envelope.encode(&mut leaf);
        }
        frame(&mut bytes, |buf| buf.extend_from_slice(&leaf));
        leaves.push(Some(leaf));
    }
    (bytes, leaves, last)
}

fn assert_is(frame: &HashedFrame<'_>, leaf: Option<&[u8]>) {
    let expected = leaf.and_then(EnvelopeRef::decode);
    assert_eq!(frame.envelope, expected, "{leaf:?}");
    if leaf.is_some() {
        let record = expected.map_or(&[][..], |envelope| envelope.record);
        assert_eq!(*frame.record, merkle::sha256(record), "{leaf:?}");
    }
}

/// What is in a leaf comes with it, and the hash of the record in it: whatever the batches,
/// whatever is between, and behind what is damaged.
#[test]
fn an_envelope_comes_as_it_is_encoded() {
    let (bytes, leaves, last) = mixed();
    for (batch_len, here) in [(1, false), (90, false), (BATCH_LEN, false), (90, true)] {
        let mut ahead = reads(&file_of(&bytes), bytes.len() as u64, batch_len, here);
        for leaf in &leaves {
            let frame = ahead.next().unwrap().unwrap().unwrap();
            assert_is(&frame, leaf.as_deref());
        }
        assert!(ahead.next().unwrap().is_none());
        ahead.go_to(last);
        let frame = ahead.next().unwrap().unwrap().unwrap();
        assert_is(&frame, leaves.last().unwrap().as_deref());
    }
}

/// Tiles of which every leaf is given have their root with the last of these; what was
/// dropped, or begins before, leaves the rest to whoever asks.
#[test]
fn roots_of_whole_tiles_come_with_their_last_leaf() {
    let width = TILE_WIDTH as u64;
    for (first, gone_at, expected) in [
        (0_u64, None, vec![255, 511]),
        (1, None, vec![511]),
        (200, None, vec![511, 767]),
        (256, None, vec![511, 767]),
        (0, Some(300), vec![255]),
        (0, Some(255), vec![]),
    ] {
        let mut bytes = Vec::new();
        let mut leaves = Vec::new();
        for index in first..first + 600 {
            let leaf = index.to_le_bytes();
            leaves.push(merkle::leaf(&leaf));
            match gone_at == Some(index) {
                true => frame_gone(&mut bytes, &leaf),
                false => frame(&mut bytes, |buf| buf.extend_from_slice(&leaf)),
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let mut ahead = Ahead::new(Arc::new(file), 0, bytes.len() as u64, first);
        let mut index = first;
        let mut told = Vec::new();
        while let Some(frame) = ahead.next().unwrap() {
            if let Some(root) = frame.unwrap().root {
                let end = usize::try_from(index - first).unwrap() + 1;
                let tile = &leaves[end - TILE_WIDTH..end];
                assert_eq!(Some(*root), merkle::subtree(tile), "{index}");
                assert_eq!((index + 1) % width, 0);
                told.push(index);
            }
            index += 1;
        }
        assert_eq!(told, expected, "from {first}, gone {gone_at:?}");
    }
}

/// Who stops early leaves no thread behind that waits to hand over.
#[test]
fn a_reader_that_nobody_listens_to_ends() {
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        frame(&mut bytes, |buf| buf.extend_from_slice(&[7; 50]));
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let file = Arc::new(file);
    let mut ahead = Ahead::in_batches(file.clone(), 0, bytes.len() as u64, None, 1);
    assert!(ahead.next().unwrap().unwrap().is_ok());
    drop(ahead);
    let begun = std::time::Instant::now();
    // The thread has the file, too.
    while Arc::strong_count(&file) > 1 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
        std::thread::yield_now();
    }
}
