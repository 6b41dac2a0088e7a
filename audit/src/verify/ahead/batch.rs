//! Frames that are handed over together, and what is in them.

use std::{io, ops::Range};

use crate::{envelope::EnvelopeRef, merkle::Hash, segment::Fault};

/// Frames that follow each other, and what follows them if these are the last.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) frames: Vec<Place>,
    pub(super) stop: Option<io::Result<Stop>>,
}

impl Batch {
    /// The payloads of its leaves.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let leaves = self.frames.iter().filter(|place| place.kind == Kind::Leaf);
        leaves.map(|place| self.slice(&place.payload))
    }

    /// The records in its leaves; nothing where there is none.
    pub(super) fn records(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let leaves = self.frames.iter().filter(|place| place.kind == Kind::Leaf);
        leaves.map(|place| match &place.envelope {
            Some(parts) => self.slice(&parts.record),
            None => &[],
        })
    }

    /// Reads what is in its leaves.
    pub(super) fn open(&mut self) {
        let Self { bytes, frames, .. } = self;
        let leaves = frames.iter_mut().filter(|place| place.kind == Kind::Leaf);
        for place in leaves {
            let payload = bytes.get(place.payload.clone());
            let leaf = payload.and_then(|payload| payload.get(1..));
            place.envelope = leaf.and_then(|leaf| Parts::read(bytes, leaf));
        }
    }

    pub(super) fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }
}

/// A frame: where its payload is among the bytes, and where it ends in the file.
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) payload: Range<usize>,
    pub(super) envelope: Option<Parts>,
    pub(super) hash: Hash,
    pub(super) root: Option<Hash>,
    pub(super) ends: u64,
}

/// An [`EnvelopeRef`] whose parts are ranges of the bytes of a batch.
pub(super) struct Parts {
    version: u32,
    stream: Range<usize>,
    sequence: u64,
    received_us: i64,
    salt: Range<usize>,
    pub(super) record: Range<usize>,
    sealed: Range<usize>,
}

impl Parts {
    /// Those of the envelope that is encoded in `leaf`, a part of `bytes`.
    pub(super) fn read(bytes: &[u8], leaf: &[u8]) -> Option<Self> {
        let envelope = EnvelopeRef::decode(leaf)?;
        let range = |part: &[u8]| {
            // One that is not there is nowhere, and no range of these bytes.
            let start = part.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
            start..start.wrapping_add(part.len())
        };
        Some(Self {
            version: envelope.version,
            stream: range(envelope.stream),
            sequence: envelope.sequence,
            received_us: envelope.received_us,
            salt: range(envelope.salt),
            record: range(envelope.record),
            sealed: range(envelope.sealed),
        })
    }

    pub(super) fn envelope<'b>(&self, batch: &'b Batch) -> EnvelopeRef<'b> {
        EnvelopeRef {
            version: self.version,
            stream: batch.slice(&self.stream),
            sequence: self.sequence,
            received_us: self.received_us,
            salt: batch.slice(&self.salt),
            record: batch.slice(&self.record),
            sealed: batch.slice(&self.sealed),
        }
    }
}

/// What a frame is to the tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Leaf,
    Gone,
    Sparse,
}

/// Why there are no more.
#[derive(Clone)]
pub(super) enum Stop {
    /// The file ends.
    End,
    /// A frame is damaged. Where to go on is for others to say.
    Fault(Fault),
}
