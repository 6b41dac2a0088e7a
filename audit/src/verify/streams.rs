//! Completeness: whether every number of every stream is there.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::StreamReport;
use crate::{
    envelope::EnvelopeRef,
    stream::{Position, SEQUENCE_MAX, Seen, StreamKey},
};

/// Positions by encoded `StreamId`.
#[derive(Default)]
pub(super) struct Streams {
    ids: FxHashMap<Box<[u8]>, usize>,
    list: Vec<(Option<StreamKey>, Position, u64)>,
}

impl Streams {
    /// Whether the record is the next of a stream that is known.
    pub(super) fn expects(&self, envelope: &EnvelopeRef<'_>) -> bool {
        self.ids
            .get(envelope.stream)
            .and_then(|id| self.list.get(*id))
            .is_some_and(|(_, position, _)| position.next == envelope.sequence)
    }

    /// Notes a record; false when it was there before.
    pub(super) fn observe(&mut self, envelope: &EnvelopeRef<'_>, closes: bool) -> bool {
        let id = match self.ids.get(envelope.stream) {
            Some(id) => *id,
            None => {
                let key = StreamKey::decode(envelope.stream);
                self.list.push((key, Position::default(), 0));
                self.ids.insert(envelope.stream.into(), self.list.len() - 1);
                self.list.len() - 1
            }
        };
        let Some((_, position, records)) = self.list.get_mut(id) else {
            return true;
        };
        if envelope.sequence == 0 || envelope.sequence > SEQUENCE_MAX {
            return true;
        }
        *records += 1;
        position.closed |= closes;
        position.observe(envelope.sequence) != Seen::Duplicate
    }

    pub(super) fn report(self) -> Vec<StreamReport> {
        let mut newest: BTreeMap<String, Ulid> = BTreeMap::new();
        for (key, ..) in &self.list {
            if let Some(key) = key {
                let newest = newest.entry(key.reporter.to_string()).or_insert(key.boot);
                *newest = (*newest).max(key.boot);
            }
        }
        let mut list = self.list;
        list.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        list.into_iter()
            .filter_map(|(key, position, records)| {
                let key = key?;
                let reporter = key.reporter.to_string();
                Some(StreamReport {
                    superseded: newest.get(&reporter).is_some_and(|boot| *boot > key.boot),
                    reporter,
                    boot: key.boot.to_string(),
                    worker: key.worker,
                    records,
                    last_sequence: position.next - 1,
                    missing: position.missing,
                    closed: position.closed,
                })
            })
            .collect()
    }
}
