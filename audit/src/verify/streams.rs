//! Completeness: whether every number of every stream is there, and what was signed of it.

use std::collections::{BTreeMap, HashSet};

use palisade_mesh::{diagnostic::Severity, spiffe_id::SpiffeId};
use prost::Message as _;
use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::{
    AbsentReport, Finding, FindingKind, StreamReport,
    signers::{Said, Signers},
    stored::about,
};
use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    heads::{Order, Signature, Signer, Statement, Stretch},
    log::stored::OWN_WORKER,
    merkle::Hash,
    segment,
    stream::{Position, SEQUENCE_MAX, STREAMS_PER_REPORTER_MAX, Seen, StreamKey},
};

/// Hashes of records that wait for their heads, or for others; 128 MiB. What is more is told
/// as not compared.
const HELD_MAX: usize = 1 << 22;

/// Streams and starts of a reporter that are known by its heads alone; more are counted.
const NAMED_MAX: usize = STREAMS_PER_REPORTER_MAX;

/// Positions by encoded `StreamId`.
pub(super) struct Streams {
    ids: FxHashMap<Box<[u8]>, usize>,
    list: Vec<Stream>,
    /// What was signed of them, by the same numbers.
    order: Order,
    signers: Signers,
    /// Starts that a later one of their reporter has named, and where first.
    named: BTreeMap<(String, Ulid), u64>,
    names: Names,
    /// Starts of which something is here.
    here: HashSet<(SpiffeId, Ulid)>,
}

/// What there is to say of heads.
#[derive(Default)]
pub(super) struct Heard {
    /// What is wrong.
    pub(super) findings: Vec<Finding>,
    /// Who has signed, and a finding about it without words.
    pub(super) signers: Vec<(Signer, Finding)>,
}

#[derive(Default)]
struct Stream {
    key: Option<StreamKey>,
    position: Position,
    records: u64,
    dropped: u64,
}

impl Stream {
    /// Notes that a record of it is, or was, here.
    fn is_here(&mut self, starts: &mut HashSet<(SpiffeId, Ulid)>) {
        if let Some(key) = self.key.as_ref().filter(|_| self.records == 0) {
            starts.insert((key.reporter.clone(), key.boot));
        }
        self.records += 1;
    }
}

/// How many streams and starts reporters have named that are not here otherwise.
#[derive(Default)]
struct Names {
    of: FxHashMap<SpiffeId, usize>,
    beyond: u64,
}

impl Names {
    /// Whether there is room for another one.
    fn admit(&mut self, reporter: &SpiffeId) -> bool {
        let names = self.of.entry(reporter.clone()).or_default();
        let room = *names < NAMED_MAX;
        *names += usize::from(room);
        self.beyond += u64::from(!room);
        room
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            ids: FxHashMap::default(),
            list: Vec::new(),
            order: Order::new(HELD_MAX),
            signers: Signers::default(),
            named: BTreeMap::new(),
            names: Names::default(),
            here: HashSet::new(),
        }
    }
}

impl Streams {
    /// Whether the record is the next of a stream that is known.
    pub(super) fn expects(&self, envelope: &EnvelopeRef<'_>) -> bool {
        self.ids
            .get(envelope.stream)
            .and_then(|id| self.list.get(*id))
            .is_some_and(|stream| stream.position.next == envelope.sequence)
    }

    /// Notes a record, whose SHA-256 is `hash`; false when it was there before. Gives words about
    /// the records with which it is not what was signed.
    pub(super) fn observe(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        hash: Hash,
        closes: bool,
    ) -> (bool, Option<String>) {
        let id = self.enter(envelope.stream);
        let Some(stream) = self.list.get_mut(id) else {
            return (true, None);
        };
        let sequence = envelope.sequence;
        if sequence == 0 || sequence > SEQUENCE_MAX {
            return (true, None);
        }
        stream.is_here(&mut self.here);
        stream.position.closed |= closes;
        if stream.position.observe(sequence) == Seen::Duplicate {
            return (false, None);
        }
        let wrong = self.order.take_hashed(id, sequence, hash);
        let wrong = wrong.and_then(|stretch| Some(contradicted(stream.key.as_ref()?, &stretch)));
        (true, wrong)
    }

    /// Notes a record that was dropped; false when it was there before.
    pub(super) fn dropped(&mut self, stream: &[u8], sequence: u64) -> bool {
        let id = self.enter(stream);
        let Some(stream) = self.list.get_mut(id) else {
            return true;
        };
        if sequence == 0 || sequence > SEQUENCE_MAX {
            return true;
        }
        stream.is_here(&mut self.here);
        stream.dropped += 1;
        let new = stream.position.observe(sequence) != Seen::Duplicate;
        if new {
            self.order.pass(id, sequence);
        }
        new
    }

    /// Compares what a reporter signed about its streams with what is here, at `leaf`;
    /// `finding` is about it, without words.
    pub(super) fn heads(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        peek: &RecordPeek<'_>,
        leaf: u64,
        finding: impl FnOnce() -> Finding,
    ) -> Heard {
        let mut heard = Heard::default();
        let (Some(stream), Some(statement)) =
            (StreamKey::decode(envelope.stream), Statement::read(peek))
        else {
            return heard;
        };
        let said = Said {
            statement,
            stream,
            sequence: envelope.sequence,
            leaf,
            finding: finding(),
            after: 0,
        };
        for (said, signature) in self.signers.judge(said) {
            match signature {
                Signature::Holds(signer) => {
                    self.believe(&said, &mut heard);
                    heard.signers.push((signer, said.finding));
                }
                Signature::Wrong(why) => heard.findings.push(Finding {
                    what: format!("heads that its reporter has not signed: {why}"),
                    ..said.finding
                }),
                // It waits.
                Signature::Unknown => {}
            }
        }
        heard
    }

    /// Takes in heads that their reporter has signed.
    fn believe(&mut self, said: &Said, heard: &mut Heard) {
        let Said {
            statement, stream, ..
        } = said;
        for earlier in statement.earlier(stream) {
            let named = (stream.reporter.to_string(), earlier);
            if self.named.contains_key(&named) {
                continue;
            }
            let is_here = self.here.contains(&(stream.reporter.clone(), earlier));
            if is_here || self.names.admit(&stream.reporter) {
                self.named.insert(named, said.leaf);
            }
        }
        for (of, last) in statement.reached(stream) {
            let id = self.enter_named(&of);
            if let Some(stream) = id.and_then(|id| self.list.get_mut(id)) {
                stream.position.promise(last);
            }
        }
        for (of, head) in statement.streams(stream) {
            let Some(id) = self.enter_named(&of) else {
                continue;
            };
            if let Some(stream) = self.list.get_mut(id) {
                stream.position.promise(head.last_sequence);
            }
            if let Some(stretch) = self.order.head(id, head, said.leaf) {
                heard.findings.push(Finding {
                    what: contradicted(&of, &stretch),
                    ..said.finding.clone()
                });
            }
        }
    }

    fn enter(&mut self, encoded: &[u8]) -> usize {
        if let Some(id) = self.ids.get(encoded) {
            return *id;
        }
        self.list.push(Stream {
            key: StreamKey::decode(encoded),
            ..Stream::default()
        });
        let id = self.order.open();
        self.ids.insert(encoded.into(), id);
        id
    }

    /// As [`Streams::enter`], for a stream that heads name; nothing where there are too many.
    fn enter_named(&mut self, key: &StreamKey) -> Option<usize> {
        let encoded = key.to_wire().encode_to_vec();
        let known = self.ids.get(encoded.as_slice()).copied();
        known.or_else(|| {
            let room = self.names.admit(&key.reporter);
            room.then(|| self.enter(&encoded))
        })
    }

    /// What is said of heads when all was read: of those whose certificate never came, of
    /// those that were not compared though what they are about is here, and of what was not
    /// looked at.
    pub(super) fn rest(&mut self) -> Vec<Finding> {
        let (ids, list) = (&self.ids, &self.list);
        let mut findings = self.signers.unknown(|stream| {
            let id = ids.get(stream.to_wire().encode_to_vec().as_slice());
            let stream = id.and_then(|id| list.get(*id));
            stream.map_or(&[], |stream| stream.position.missing.as_slice())
        });
        let mut warn = |leaf, what| {
            findings.push(Finding {
                severity: Severity::Warning,
                leaf,
                ..about(FindingKind::Heads, segment::DIR, what)
            });
        };
        let (first, uncompared) = self.uncompared();
        if uncompared > 0 {
            let what = format!(
                "{uncompared} stretches of records that their reporters signed were not compared with what is here: they overlap others, or too much is out of order"
            );
            warn(first, what);
        }
        let unchecked = self.signers.beyond();
        if unchecked > 0 {
            let what = format!(
                "{unchecked} records of heads were not checked: too many wait for a certificate that is not here"
            );
            warn(None, what);
        }
        if self.names.beyond > 0 {
            let beyond = self.names.beyond;
            let what = format!(
                "{beyond} times heads name a stream or a start that was not looked at: their reporter names more than {NAMED_MAX} of which nothing is here"
            );
            warn(None, what);
        }
        findings
    }

    /// How many heads were not compared though all of their records are here, and where the
    /// first of them is.
    fn uncompared(&self) -> (Option<u64>, u64) {
        let mut first: Option<u64> = None;
        let mut count = self.order.beyond();
        for (id, stream) in self.list.iter().enumerate() {
            let position = &stream.position;
            let is_here = |s: &&Stretch| position.has_all(s.first, s.last);
            for stretch in self.order.awaited(id).filter(is_here) {
                count += 1;
                first = Some(first.map_or(stretch.at, |first| first.min(stretch.at)));
            }
        }
        (first, count)
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
        // The log's own stream has a start of its own, and the audit service others beside it.
        let whose = |key: &StreamKey| (key.reporter.to_string(), key.worker == OWN_WORKER);
        let mut newest: BTreeMap<(String, bool), Ulid> = BTreeMap::new();
        for key in self.list.iter().filter_map(|stream| stream.key.as_ref()) {
            let newest = newest.entry(whose(key)).or_insert(key.boot);
            *newest = (*newest).max(key.boot);
        }
        let (signers, named) = (self.signers, self.named);
        // A start that signs heads is over when another one names it: replicas have one name.
        // Of one that signs nothing only the time of a later one tells.
        let is_over = |key: &StreamKey| {
            let reporter = key.reporter.as_str();
            let signs = signers.signs(&key.reporter, key.boot);
            let later = newest.get(&whose(key)).is_some_and(|n| *n > key.boot);
            named.contains_key(&(reporter.to_owned(), key.boot)) || (!signs && later)
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
                } = stream;
                let key = key?;
                let (missing, unknown) = match unread {
                    false => (position.missing, Vec::new()),
                    true => (Vec::new(), position.missing),
                };
                Some(StreamReport {
                    superseded: is_over(&key),
                    reporter: key.reporter.to_string(),
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

/// Words about records that are not those that were signed.
fn contradicted(of: &StreamKey, stretch: &Stretch) -> String {
    let Stretch { first, last, .. } = stretch;
    format!("records {first} to {last} of {of} are not those that their reporter signed")
}
