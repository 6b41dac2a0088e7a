//! Completeness: whether every number of every stream is there.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use ulid::Ulid;

use palisade_mesh::svid::Peer;
use prost::Message as _;

use super::StreamReport;
use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    heads::{Running, Signature, Statement},
    stream::{Position, SEQUENCE_MAX, Seen, StreamKey},
};

/// Positions by encoded `StreamId`.
#[derive(Default)]
pub(super) struct Streams {
    ids: FxHashMap<Box<[u8]>, usize>,
    list: Vec<Stream>,
    /// The certificate that each boot signs with, by reporter and boot.
    leaves: FxHashMap<(String, Ulid), Vec<u8>>,
}

#[derive(Default)]
struct Stream {
    key: Option<StreamKey>,
    position: Position,
    records: u64,
    dropped: u64,
    running: Running,
}

impl Streams {
    /// Whether the record is the next of a stream that is known.
    pub(super) fn expects(&self, envelope: &EnvelopeRef<'_>) -> bool {
        self.ids
            .get(envelope.stream)
            .and_then(|id| self.list.get(*id))
            .is_some_and(|stream| stream.position.next == envelope.sequence)
    }

    /// Notes a record; false when it was there before.
    pub(super) fn observe(&mut self, envelope: &EnvelopeRef<'_>, closes: bool) -> bool {
        let Some(stream) = self.enter(envelope.stream) else {
            return true;
        };
        if envelope.sequence == 0 || envelope.sequence > SEQUENCE_MAX {
            return true;
        }
        stream.records += 1;
        stream.position.closed |= closes;
        let new = stream.position.observe(envelope.sequence) != Seen::Duplicate;
        if new {
            stream.running.take(envelope.sequence, envelope.record);
        }
        new
    }

    /// Notes a record that was dropped; false when it was there before.
    pub(super) fn dropped(&mut self, stream: &[u8], sequence: u64) -> bool {
        let Some(stream) = self.enter(stream) else {
            return true;
        };
        if sequence == 0 || sequence > SEQUENCE_MAX {
            return true;
        }
        stream.records += 1;
        stream.dropped += 1;
        let new = stream.position.observe(sequence) != Seen::Duplicate;
        if new {
            stream.running.pass(sequence);
        }
        new
    }

    /// Compares what a reporter signed about its streams with what is here; gives what
    /// contradicts it, in words, and who has signed.
    pub(super) fn heads(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        peek: &RecordPeek<'_>,
    ) -> (Vec<String>, Option<Peer>) {
        let (Some(key), Some(statement)) =
            (StreamKey::decode(envelope.stream), Statement::read(peek))
        else {
            return (Vec::new(), None);
        };
        let boot = (key.reporter.as_str().to_owned(), key.boot);
        let leaf = self.leaves.entry(boot).or_default();
        let signer = match statement.check(&key, leaf) {
            Signature::Wrong(why) => {
                let what = format!("heads that its reporter has not signed: {why}");
                return (vec![what], None);
            }
            Signature::Holds(peer) => Some(peer),
            Signature::Unknown => None,
        };
        let mut wrong = Vec::new();
        for head in &statement.heads.streams {
            let of = StreamKey {
                worker: head.worker,
                ..key.clone()
            };
            let encoded = of.to_wire().encode_to_vec();
            let Some(stream) = self.enter(&encoded) else {
                continue;
            };
            stream.position.promise(head.last_sequence);
            if stream.running.contradicts(head) {
                let (first, last) = (head.first_sequence, head.last_sequence);
                wrong.push(format!(
                    "records {first} to {last} of {of} are not those that their reporter signed"
                ));
            }
        }
        (wrong, signer)
    }

    fn enter(&mut self, encoded: &[u8]) -> Option<&mut Stream> {
        let id = match self.ids.get(encoded) {
            Some(id) => *id,
            None => {
                self.list.push(Stream {
                    key: StreamKey::decode(encoded),
                    ..Stream::default()
                });
                self.ids.insert(encoded.into(), self.list.len() - 1);
                self.list.len() - 1
            }
        };
        self.list.get_mut(id)
    }

    /// Every stream; where some records were `unread`, a number that is not here may be among
    /// those.
    pub(super) fn report(self, unread: bool) -> Vec<StreamReport> {
        let mut newest: BTreeMap<String, Ulid> = BTreeMap::new();
        for stream in &self.list {
            if let Some(key) = &stream.key {
                let newest = newest.entry(key.reporter.to_string()).or_insert(key.boot);
                *newest = (*newest).max(key.boot);
            }
        }
        let mut list = self.list;
        list.sort_by(|a, b| a.key.cmp(&b.key));
        list.into_iter()
            .filter_map(|stream| {
                let Stream {
                    key,
                    position,
                    records,
                    dropped,
                    ..
                } = stream;
                let key = key?;
                let reporter = key.reporter.to_string();
                let (missing, unknown) = match unread {
                    false => (position.missing, Vec::new()),
                    true => (Vec::new(), position.missing),
                };
                Some(StreamReport {
                    superseded: newest.get(&reporter).is_some_and(|boot| *boot > key.boot),
                    reporter,
                    boot: key.boot.to_string(),
                    worker: key.worker,
                    records,
                    dropped,
                    last_sequence: position.next - 1,
                    missing,
                    unknown,
                    closed: position.closed,
                })
            })
            .collect()
    }
}
