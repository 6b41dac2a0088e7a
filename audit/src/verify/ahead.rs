//! Frames of a segment, read, checked and hashed by a thread of their own: half of the work
//! of a verification, which needs to know nothing of what came before.

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
    merkle::{self, Hash},
    segment::{Fault, FrameReader},
};

/// Bytes of payloads that are handed over together: few enough that an allocator keeps them.
const BATCH_LEN: usize = 64 << 10;

/// Batches that are ready and not taken; what the thread may be ahead.
const BATCHES: usize = 16;

/// A whole frame, and the hash of its leaf.
pub(super) struct HashedFrame<'a> {
    /// The prefix byte and the envelope.
    pub(super) payload: &'a [u8],
    pub(super) hash: Hash,
}

impl HashedFrame<'_> {
    /// The envelope.
    pub(super) fn leaf(&self) -> &[u8] {
        self.payload.get(1..).unwrap_or_default()
    }
}

/// Gives the frames of a file in order, as [`FrameReader`] does.
pub(super) struct Ahead {
    file: Arc<File>,
    end: u64,
    /// File offset of the next frame.
    offset: u64,
    batches: Receiver<Batch>,
    batch: Batch,
    /// Frames of the batch that were given.
    given: usize,
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
    ends: u64,
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
    /// Reads from `offset` to `end`, both file offsets.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn new(file: Arc<File>, offset: u64, end: u64) -> io::Result<Self> {
        let (sender, batches) = sync_channel(BATCHES);
        let reader = FrameReader::new(file.clone(), offset, end);
        std::thread::Builder::new()
            .name("audit-verify".into())
            .spawn(move || read(reader, &sender))?;
        Ok(Self {
            file,
            end,
            offset,
            batches,
            batch: Batch::default(),
            given: 0,
        })
    }

    /// File offset of the next frame.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on at `offset`.
    ///
    /// # Errors
    /// As [`Ahead::new`].
    pub(super) fn go_to(&mut self, offset: u64) -> io::Result<()> {
        *self = Self::new(self.file.clone(), offset, self.end)?;
        Ok(())
    }

    /// The next frame; `None` at the end. After a fault there is nothing more until
    /// [`Ahead::go_to`].
    pub(super) fn next(&mut self) -> io::Result<Option<Result<HashedFrame<'_>, Fault>>> {
        while self.given == self.batch.frames.len() {
            match &self.batch.stop {
                None => {
                    let gone = |_| io::Error::other("the thread that reads ahead has ended");
                    self.batch = self.batches.recv().map_err(gone)?;
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
        self.offset = place.ends;
        let payload = self.batch.bytes.get(place.payload.clone());
        Ok(Some(Ok(HashedFrame {
            payload: payload.unwrap_or_default(),
            hash: place.hash,
        })))
    }
}

/// Reads to the end, to the first fault, or until nobody listens.
fn read(mut reader: FrameReader, batches: &SyncSender<Batch>) {
    loop {
        let batch = batch(&mut reader);
        let last = batch.stop.is_some();
        if batches.send(batch).is_err() || last {
            return;
        }
    }
}

fn batch(reader: &mut FrameReader) -> Batch {
    let mut batch = Batch::default();
    batch.bytes.reserve(BATCH_LEN);
    while batch.bytes.len() < BATCH_LEN {
        let (payload, hash) = match reader.next() {
            Ok(Some(Ok(frame))) => {
                let start = batch.bytes.len();
                batch.bytes.extend_from_slice(frame.payload);
                let hash = merkle::leaf_in_place(frame.payload);
                (start..batch.bytes.len(), hash)
            }
            ended => {
                batch.stop = Some(ended.map(|fault| match fault {
                    Some(Err(fault)) => Stop::Fault(fault),
                    _ => Stop::End,
                }));
                break;
            }
        };
        let ends = reader.offset();
        batch.frames.push(Place {
            payload,
            hash,
            ends,
        });
    }
    batch
}
