//! Completeness: whether every number of every stream is there.

use std::collections::{BTreeMap, HashSet};

use rustc_hash::FxHashMap;
use ulid::Ulid;

use palisade_mesh::diagnostic::Severity;
use prost::Message as _;

use super::{AbsentReport, StreamReport};
use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    heads::{Running, Signatory, Signature, Signer, Statement},
    stream::{Position, SEQUENCE_MAX, Seen, StreamKey},
};

/// Positions by encoded `StreamId`.
#[derive(Default)]
pub(super) struct Streams {
    ids: FxHashMap<Box<[u8]>, usize>,
    list: Vec<Stream>,
    /// Who signs for each boot, by reporter and boot.
    boots: FxHashMap<(String, Ulid), Boot>,
    /// Boots that a later one of their reporter has named, and where first.
    named: BTreeMap<(String, Ulid), u64>,
}

#[derive(Default)]
struct Boot {
    signatory: Signatory,
    /// How many records were passed over by its last heads.
    unread: u64,
    /// It was said that its certificate is not known.
    doubted: bool,
}

/// What there is to say of heads.
#[derive(Default)]
pub(super) struct Heard {
    /// What is wrong, in words.
    pub(super) wrong: Vec<(Severity, String)>,
    /// Who has signed.
    pub(super) signer: Option<Signer>,
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

    /// Compares what a reporter signed about its streams with what is here; it is at `leaf`,
    /// and `unread` records of the log before it were passed over.
    pub(super) fn heads(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        peek: &RecordPeek<'_>,
        (leaf, unread): (u64, u64),
    ) -> Heard {
        let mut heard = Heard::default();
        let (Some(key), Some(statement)) =
            (StreamKey::decode(envelope.stream), Statement::read(peek))
        else {
            return heard;
        };
        let whole = self.is_whole(envelope);
        let boot = (key.reporter.as_str().to_owned(), key.boot);
        let boot = self.boots.entry(boot).or_default();
        if boot.unread < unread {
            boot.unread = unread;
            boot.signatory.passed_over();
        }
        match boot.signatory.judge(&statement, &key, whole) {
            Signature::Holds(signer) => {
                boot.doubted = false;
                heard.signer = Some(signer);
            }
            Signature::Unknown => {
                let what = "heads that cannot be checked count for nothing: the record that had their certificate is not here";
                if !std::mem::replace(&mut boot.doubted, true) {
                    heard.wrong.push((Severity::Warning, what.into()));
                }
                self.pass(&key, &statement);
                return heard;
            }
            Signature::Wrong(why) => {
                let what = format!("heads that its reporter has not signed: {why}");
                heard.wrong.push((Severity::Error, what));
                self.pass(&key, &statement);
                return heard;
            }
        }
        for earlier in statement.earlier(&key) {
            let named = (key.reporter.as_str().to_owned(), earlier);
            self.named.entry(named).or_insert(leaf);
        }
        for (of, last) in statement.reached(&key) {
            if let Some(stream) = self.enter(&of.to_wire().encode_to_vec()) {
                stream.position.promise(last);
            }
        }
        for (of, head) in statement.streams(&key) {
            let Some(stream) = self.enter(&of.to_wire().encode_to_vec()) else {
                continue;
            };
            stream.position.promise(head.last_sequence);
            if stream.running.contradicts(head) {
                let (first, last) = (head.first_sequence, head.last_sequence);
                let what = format!(
                    "records {first} to {last} of {of} are not those that their reporter signed"
                );
                heard.wrong.push((Severity::Error, what));
            }
        }
        heard
    }

    /// Whether the record is the next of its stream, of which nothing is missing.
    fn is_whole(&self, envelope: &EnvelopeRef<'_>) -> bool {
        let id = self.ids.get(envelope.stream);
        match id.and_then(|id| self.list.get(*id)) {
            Some(Stream { position, .. }) => {
                position.next == envelope.sequence && position.missing.is_empty()
            }
            None => envelope.sequence == 1,
        }
    }

    /// Passes over heads that say nothing, so that those after them are still compared.
    fn pass(&mut self, key: &StreamKey, statement: &Statement) {
        for (of, head) in statement.streams(key) {
            let id = self.ids.get(of.to_wire().encode_to_vec().as_slice());
            if let Some(stream) = id.and_then(|id| self.list.get_mut(*id)) {
                stream.running.contradicts(head);
            }
        }
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

    /// Boots that later ones of their reporters have named, and of which nothing is here.
    pub(super) fn absent(&self) -> Vec<AbsentReport> {
        let with_records = self.list.iter().filter(|stream| stream.records > 0);
        let here: HashSet<(&str, Ulid)> = with_records
            .filter_map(|stream| stream.key.as_ref())
            .map(|key| (key.reporter.as_str(), key.boot))
            .collect();
        let named = self.named.iter();
        let absent = named.filter(|((reporter, boot), _)| !here.contains(&(reporter, *boot)));
        let absent = absent.map(|((reporter, boot), leaf)| AbsentReport {
            reporter: reporter.clone(),
            boot: boot.to_string(),
            entry: *leaf,
        });
        absent.collect()
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
        let (boots, named) = (self.boots, self.named);
        // A start that signs heads is over when another one names it: replicas have one name.
        // Of one that signs nothing only the time of a later one tells.
        let is_over = |reporter: &str, boot: Ulid| {
            let start = (reporter.to_owned(), boot);
            let signs = boots.get(&start).is_some_and(|b| b.signatory.is_known());
            let later = newest.get(reporter).is_some_and(|newest| *newest > boot);
            named.contains_key(&start) || (!signs && later)
        };
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
                    superseded: is_over(&reporter, key.boot),
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
