//! Frames of a segment, read, checked and hashed by a thread of their own, whole tiles of the
//! tree too: half of the work of a verification, which needs to know nothing of what came before.

use std::{
    fs::File,
    io,
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use crate::{
    merkle::{self, Hash, TILE_WIDTH},
    segment::{Content, Fault, Frame, FrameReader},
};

/// Bytes of payloads that are handed over together: few enough that an allocator keeps them.
const BATCH_LEN: usize = 64 << 10;

/// Batches that are ready and not taken; what the thread may be ahead.
const BATCHES: usize = 16;

/// A whole frame.
pub(super) struct HashedFrame<'a> {
    frame: Frame<'a>,
    /// Of its leaf, if it has one.
    pub(super) hash: Hash,
    /// The root over its leaf and the 255 before it, where these fill a tile and are among
    /// the frames that were given.
    pub(super) root: Option<Hash>,
}

impl<'a> HashedFrame<'a> {
    /// What it has.
    pub(super) fn content(&self) -> Content<'a> {
        self.frame.content()
    }

    /// Where it starts in the file.
    pub(super) fn offset(&self) -> u64 {
        self.frame.offset
    }
}

/// Gives the frames of a file in order, as [`FrameReader`] does.
pub(super) struct Ahead {
    file: Arc<File>,
    end: u64,
    /// File offset of the next frame.
    offset: u64,
    batches: Batches,
    batch_len: usize,
    batch: Batch,
    /// Frames of the batch that were given.
    given: usize,
}

/// Where batches come from.
enum Batches {
    /// A thread that is ahead.
    Thread(Receiver<Batch>),
    /// Whoever asks reads: the system has no thread to give.
    Here(Box<Source>),
}

/// Frames that follow each other, and what follows them if these are the last.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    frames: Vec<Place>,
    stop: Option<io::Result<Stop>>,
}

/// A frame: where its payload is among the bytes, and where it ends in the file.
struct Place {
    payload: Range<usize>,
    hash: Hash,
    root: Option<Hash>,
    ends: u64,
}

/// A reader, and the leaves of the tile that it is in.
struct Source {
    frames: FrameReader,
    /// The index of the next leaf, as far as it is known.
    next: Option<u64>,
    /// The leaves before that one, from the beginning of the tile; empty where not all of them
    /// were read here.
    tile: Vec<Hash>,
}

impl Source {
    fn new(frames: FrameReader, next: Option<u64>) -> Self {
        Self {
            frames,
            next,
            tile: Vec::with_capacity(TILE_WIDTH),
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

/// Why there are no more.
#[derive(Clone)]
enum Stop {
    /// The file ends.
    End,
    /// A frame is damaged. Where to go on is for others to say.
    Fault(Fault),
}

impl Ahead {
    /// Reads from `offset` to `end`, both file offsets. The first leaf there has the index
    /// `next`.
    pub(super) fn new(file: Arc<File>, offset: u64, end: u64, next: u64) -> Self {
        Self::in_batches(file, offset, end, Some(next), BATCH_LEN)
    }

    fn in_batches(
        file: Arc<File>,
        offset: u64,
        end: u64,
        next: Option<u64>,
        batch_len: usize,
    ) -> Self {
        let (sender, batches) = sync_channel(BATCHES);
        let source = || Source::new(FrameReader::new(file.clone(), offset, end), next);
        let moved = source();
        let started = std::thread::Builder::new()
            .name("audit-verify".into())
            .spawn(move || read(moved, &sender, batch_len));
        let batches = match started {
            Ok(_) => Batches::Thread(batches),
            Err(_) => Batches::Here(Box::new(source())),
        };
        Self {
            file,
            end,
            offset,
            batches,
            batch_len,
            batch: Batch::default(),
            given: 0,
        }
    }

    /// File offset of the next frame.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on at `offset`.
    pub(super) fn go_to(&mut self, offset: u64) {
        *self = Self::in_batches(self.file.clone(), offset, self.end, None, self.batch_len);
    }

    /// The next frame; `None` at the end. After a fault there is nothing more until
    /// [`Ahead::go_to`].
    pub(super) fn next(&mut self) -> io::Result<Option<Result<HashedFrame<'_>, Fault>>> {
        while self.given == self.batch.frames.len() {
            match &self.batch.stop {
                None => {
                    let gone = |_| io::Error::other("the thread that reads ahead has ended");
                    self.batch = match &mut self.batches {
                        Batches::Thread(batches) => batches.recv().map_err(gone)?,
                        Batches::Here(reader) => batch(reader, self.batch_len),
                    };
                    self.given = 0;
                }
                Some(Ok(Stop::End)) => return Ok(None),
                Some(Ok(Stop::Fault(fault))) => return Ok(Some(Err(fault.clone()))),
                Some(Err(e)) => return Err(io::Error::new(e.kind(), e.to_string())),
            }
        }
        let Some(place) = self.batch.frames.get(self.given) else {
            return Ok(None);
        };
        self.given += 1;
        let offset = std::mem::replace(&mut self.offset, place.ends);
        let payload = self.batch.bytes.get(place.payload.clone());
        let frame = Frame {
            offset,
            payload: payload.unwrap_or_default(),
        };
        Ok(Some(Ok(HashedFrame {
            frame,
            hash: place.hash,
            root: place.root,
        })))
    }
}

/// Reads to the end, to the first fault, or until nobody listens.
fn read(mut source: Source, batches: &SyncSender<Batch>, batch_len: usize) {
    loop {
        let batch = batch(&mut source, batch_len);
        let last = batch.stop.is_some();
        if batches.send(batch).is_err() || last {
            return;
        }
    }
}

fn batch(source: &mut Source, len: usize) -> Batch {
    let mut batch = Batch::default();
    batch.bytes.reserve(len);
    while batch.bytes.len() < len {
        let (payload, hash, root) = match source.frames.next() {
            Ok(Some(Ok(frame))) => {
                let start = batch.bytes.len();
                batch.bytes.extend_from_slice(frame.payload);
                let payload = start..batch.bytes.len();
                match frame.content() {
                    Content::Leaf(_) => {
                        let hash = merkle::leaf_in_place(frame.payload);
                        (payload, hash, source.leaf(hash))
                    }
                    Content::Gone(_) => {
                        // How many it stands for is for others to say.
                        source.next = None;
                        (payload, Hash::default(), None)
                    }
                    Content::Sparse(_) => (payload, Hash::default(), None),
                }
            }
            ended => {
                batch.stop = Some(ended.map(|fault| match fault {
                    Some(Err(fault)) => Stop::Fault(fault),
                    _ => Stop::End,
                }));
                break;
            }
        };
        let ends = source.frames.offset();
        batch.frames.push(Place {
            payload,
            hash,
            root,
            ends,
        });
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::segment::{frame, frame_gone};

    /// What a reader gives: leaves with their hashes and ends, and faults; from each fault it
    /// goes on where the next frame was written.
    type Seen = Vec<Result<(Vec<u8>, Hash, u64), Fault>>;

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
                    let (leaf, hash) = (leaf(read.content()), read.hash);
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
                Some(Ok(frame)) => {
                    Ok((leaf(frame.content()), merkle::leaf_in_place(frame.payload)))
                }
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
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let (file, end) = (Arc::new(file), bytes.len() as u64);
            let mut ahead = Ahead::in_batches(file.clone(), 0, end, Some(0), batch_len);
            if here {
                let frames = FrameReader::new(file.clone(), 0, end);
                ahead.batches = Batches::Here(Box::new(Source::new(frames, Some(0))));
            }
            prop_assert_eq!(by_ahead(ahead, &starts), by_reader(&file, end, &starts));
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
                    assert_eq!(Some(root), merkle::subtree(tile), "{index}");
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
}
