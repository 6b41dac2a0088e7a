//! Frames of a segment, read, checked and hashed by a thread of their own, whole tiles of the
//! tree too: half of the work of a verification, which needs to know nothing of what came before.
//! What is in them is read, and their records hashed, by whoever takes them, so that neither waits
//! for the other.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
};

use crate::{
    envelope::EnvelopeRef,
    merkle::{self, Hash},
    segment::{Content, Fault, Frame, FrameReader},
};

mod batch;
mod source;

use batch::{Batch, Kind, Stop};
use source::Source;

/// Bytes of payloads that are handed over together: few enough that an allocator keeps them.
const BATCH_LEN: usize = 64 << 10;

/// Of a frame without a record.
const NONE: Hash = [0; 32];

/// Batches that are ready and not taken; what the thread may be ahead.
const BATCHES: usize = 16;

/// A whole frame.
pub(super) struct HashedFrame<'a> {
    frame: Frame<'a>,
    /// Of its leaf, if it has one.
    pub(super) hash: &'a Hash,
    /// What is in its leaf, if that can be read.
    pub(super) envelope: Option<EnvelopeRef<'a>>,
    /// Of the record in its leaf, if it has one.
    pub(super) record: &'a Hash,
    /// The root over its leaf and the 255 before it, where these fill a tile and are among
    /// the frames that were given.
    pub(super) root: Option<&'a Hash>,
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
    /// Frames of the batch that were given, and how many of them are leaves.
    given: usize,
    leaves: usize,
    /// Of the records in the leaves of the batch.
    records: Vec<Hash>,
}

/// Where batches come from.
enum Batches {
    /// A thread that is ahead. It fills those again that were spent: new memory for each would
    /// cost as much as their CRCs.
    Thread {
        ready: Receiver<Batch>,
        spent: Sender<Batch>,
    },
    /// Whoever asks reads: the system has no thread to give.
    Here(Box<Source>),
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
        let (sender, ready) = sync_channel(BATCHES);
        let (spent, again) = channel();
        let source = || Source::new(FrameReader::new(file.clone(), offset, end), next);
        let moved = source();
        let started = std::thread::Builder::new()
            .name("audit-verify".into())
            .spawn(move || read(moved, &sender, &again, batch_len));
        let batches = match started {
            Ok(_) => Batches::Thread { ready, spent },
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
            leaves: 0,
            records: Vec::new(),
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
                    match &mut self.batches {
                        Batches::Thread { ready, spent } => {
                            let next = ready.recv().map_err(gone)?;
                            // One that has ended needs it no more.
                            let _ = spent.send(std::mem::replace(&mut self.batch, next));
                        }
                        Batches::Here(source) => source.fill(&mut self.batch, self.batch_len),
                    }
                    self.take();
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
        let mut record = None;
        if place.kind == Kind::Leaf {
            record = self.records.get(self.leaves);
            self.leaves += 1;
        }
        let offset = std::mem::replace(&mut self.offset, place.ends);
        let frame = Frame {
            offset,
            payload: self.batch.slice(&place.payload),
        };
        let envelope = place.envelope.as_ref();
        Ok(Some(Ok(HashedFrame {
            frame,
            hash: &place.hash,
            envelope: envelope.map(|parts| parts.envelope(&self.batch)),
            record: record.unwrap_or(&NONE),
            root: place.root.as_ref(),
        })))
    }

    /// Begins with a batch that has come.
    fn take(&mut self) {
        (self.given, self.leaves) = (0, 0);
        self.records.clear();
        self.batch.open();
        merkle::digests(self.batch.records(), &mut self.records);
    }
}

/// Reads to the end, to the first fault, or until nobody listens.
fn read(mut source: Source, ready: &SyncSender<Batch>, spent: &Receiver<Batch>, batch_len: usize) {
    loop {
        let mut batch = spent.try_recv().unwrap_or_default();
        source.fill(&mut batch, batch_len);
        let last = batch.stop.is_some();
        if ready.send(batch).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
