//! How findings name what they are about: the place of a record, and the record itself.

use ulid::Ulid;

use super::super::{Finding, FindingKind, RecordName, stored::about};
use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    stream::StreamKey,
};

/// Where a record lies.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) file: &'a str,
    pub(super) leaf: u64,
    pub(super) offset: u64,
}

impl At<'_> {
    pub(super) fn finding(&self, kind: FindingKind, what: impl Into<String>) -> Finding {
        Finding {
            leaf: Some(self.leaf),
            offset: Some(self.offset),
            ..about(kind, self.file, what)
        }
    }
}

/// Names the record in a leaf.
pub(super) fn name(leaf: &[u8]) -> Option<RecordName> {
    record_name(&EnvelopeRef::decode(leaf)?)
}

pub(super) fn record_name(envelope: &EnvelopeRef<'_>) -> Option<RecordName> {
    let stream = StreamKey::decode(envelope.stream)?;
    let peek = RecordPeek::new(envelope.record).unwrap_or_default();
    let id = <[u8; 16]>::try_from(peek.id).map(|id| Ulid::from_bytes(id).to_string());
    Some(RecordName {
        id: id.unwrap_or_default(),
        class: peek.class_name().into(),
        reporter: stream.reporter.to_string(),
        boot: stream.boot.to_string(),
        worker: stream.worker,
        sequence: envelope.sequence,
    })
}
