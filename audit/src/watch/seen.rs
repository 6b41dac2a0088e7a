//! What the watch has read: starts, their streams, and what does not agree.

use std::{
    collections::{BTreeMap, hash_map::Entry},
    time::Duration,
};

use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::{
    FAULTS_MAX, Fault, SILENT_AFTER, SILENT_FOR, Silent, UNKNOWN_AFTER, Unread,
    held::{Held, Said},
    signatory::Signatory,
    vouched::{Standing, Vouched},
};
use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    heads::{Order, Place, Roots, Signature, Signer, Statement},
    log::LogError,
    merkle::Hash,
    stream::StreamKey,
};

/// Streams whose records are compared with their heads as they come; `audit verify`
/// compares those beyond.
const FOLLOWED_MAX: usize = 1 << 16;

/// The same of one reporter.
const FOLLOWED_EACH_MAX: usize = FOLLOWED_MAX / 4;

/// Hashes of records that wait for their heads, or for others; 32 MiB.
const HELD_MAX: usize = 1 << 20;

/// How long a stream of which no heads are heard is followed after its last record.
const IDLE_AFTER: Duration = Duration::from_secs(600);

/// How often a record is tried that the disk does not give, before it is stepped over.
pub(super) const TRIES: u32 = 3;

/// Starts of one reporter that are watched at a time.
pub(super) const BOOTS_PER_REPORTER_MAX: usize = 1024;

/// What was read of a log.
pub(super) struct Seen {
    /// Of the record that is read next.
    pub(super) position: u64,
    boots: BTreeMap<(String, Ulid), Boot>,
    streams: FxHashMap<Box<[u8]>, Followed>,
    /// How many of them a reporter has.
    followed: FxHashMap<String, usize>,
    /// What was signed of them.
    order: Order,
    /// Heads of streams that are not followed, and such as could not wait for their certificate.
    unfollowed: u64,
    /// Heads of which nothing is believed yet.
    held: Held,
    /// When idle streams were looked for.
    swept: Duration,
    vouched: Vouched,
    /// Each with the certificate that it is about, if it is one.
    faults: Vec<(Option<Hash>, Fault)>,
    faults_more: u64,
    pub(super) unread: Option<Unread>,
    /// How often the record at `position` was tried.
    tries: u32,
    /// How many records the last step was over: more each time, and 0 once one can be read.
    stride: u64,
}

/// A stream whose records are compared.
struct Followed {
    id: usize,
    /// The number that is expected.
    next: u64,
    /// Nothing is missing since heads came in it that were signed.
    whole: bool,
    /// When its last record was read here.
    read: Duration,
}

#[derive(Default)]
struct Boot {
    /// When it was first heard here.
    since: Duration,
    heard_us: i64,
    /// When that was read here, and how old it was by then. From there on only time that
    /// passes makes it older: a clock that is set ahead makes nobody silent.
    read: Duration,
    age: Duration,
    signatory: Signatory,
}

impl Boot {
    /// Heard at `at_us`, of which it is read now.
    fn hear(&mut self, at_us: i64, (passed, now_us): (Duration, i64)) {
        let age_us = u64::try_from(now_us.saturating_sub(at_us)).unwrap_or_default();
        self.heard_us = self.heard_us.max(at_us);
        (self.read, self.age) = (passed, Duration::from_micros(age_us));
    }

    /// How long it may say nothing.
    fn patience(&self) -> Duration {
        match self.signatory.is_known() {
            true => SILENT_AFTER,
            false => UNKNOWN_AFTER,
        }
    }

    fn age_at(&self, now: Duration) -> Duration {
        self.age.saturating_add(now.saturating_sub(self.read))
    }
}

impl Seen {
    /// What is seen of the log `origin` from `position` on.
    pub(super) fn new(position: u64, origin: &str) -> Self {
        Self {
            position,
            boots: BTreeMap::new(),
            streams: FxHashMap::default(),
            followed: FxHashMap::default(),
            order: Order::new(HELD_MAX),
            unfollowed: 0,
            held: Held::default(),
            swept: Duration::ZERO,
            vouched: Vouched::new(origin),
            faults: Vec::new(),
            faults_more: 0,
            unread: None,
            tries: 0,
            stride: 0,
        }
    }

    /// The record at `index` can be read.
    pub(super) fn read(&mut self, index: u64) {
        self.position = index + 1;
        (self.tries, self.stride) = (0, 0);
    }

    /// Who is silent `now`.
    pub(super) fn silent(&self, now: Duration) -> Vec<Silent> {
        // After a start of ours nobody could have been heard before it.
        self.those(now, |boot| now.saturating_sub(boot.read) > boot.patience())
    }

    /// Of whom nothing is here since they were heard for so long, be it that we were away.
    pub(super) fn unheard(&self, now: Duration) -> Vec<Silent> {
        self.those(now, |boot| boot.age_at(now) > boot.patience())
    }

    fn those(&self, now: Duration, is_silent: impl Fn(&Boot) -> bool) -> Vec<Silent> {
        let lately = |boot: &Boot| boot.age_at(now) < SILENT_FOR;
        let boots = self.boots.iter();
        let silent = boots.filter(|(_, boot)| lately(boot) && is_silent(boot));
        silent
            .map(|((reporter, id), boot)| Silent {
                reporter: reporter.clone(),
                boot: id.to_string(),
                heard_us: boot.heard_us,
            })
            .collect()
    }

    /// What does not agree, and how much more there is of it.
    pub(super) fn faults(&self) -> (Vec<Fault>, u64) {
        let faults = self.faults.iter().map(|(_, fault)| fault.clone());
        (faults.collect(), self.faults_more)
    }

    /// How many stretches were not compared.
    pub(super) fn uncompared(&self) -> u64 {
        self.order.uncompared().saturating_add(self.unfollowed)
    }

    /// Steps over what cannot be read; false where it is to be tried again. A part that
    /// cannot be read is a record or a segment: the steps grow, and pass it soon.
    pub(super) fn step_over(&mut self, error: &LogError, len: u64) -> bool {
        self.tries += 1;
        if matches!(error, LogError::Io { .. }) && self.stride == 0 && self.tries < TRIES {
            return false;
        }
        self.stride = self.stride.saturating_mul(2).max(1);
        let behind = match error {
            LogError::Away(away) => away.next,
            _ => 0,
        };
        let next = self.position + self.stride;
        let next = next.max(behind).min(len.max(self.position + 1));
        tracing::error!(%error, from = self.position, next, "what reporters said is stepped over");
        let unread = self.unread.get_or_insert_with(|| Unread {
            records: 0,
            why: error.to_string(),
        });
        unread.records += next - self.position;
        self.position = next;
        true
    }

    /// Takes in a record, `now` by the time that has passed and the clock; certificates of it
    /// are held against `roots`.
    pub(super) fn take(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        now: (Duration, i64),
        roots: Option<&dyn Roots>,
    ) {
        let Some(peek) = RecordPeek::new(envelope.record) else {
            return;
        };
        if let Some(issued) = self.vouched.take(envelope, &peek) {
            self.faults.retain(|(of, _)| *of != Some(issued));
            let waited = self.held.take(&issued);
            self.release(waited, now, roots);
        }
        self.record(envelope, now.0);
        if let Some(statement) = Statement::read(&peek) {
            self.heads(envelope, statement, now, roots);
        }
    }

    /// Takes a record into its stream.
    fn record(&mut self, envelope: &EnvelopeRef<'_>, now: Duration) {
        let Some(followed) = self.follow(envelope.stream, now) else {
            return;
        };
        let sequence = envelope.sequence;
        followed.read = now;
        followed.whole &= followed.next == sequence;
        followed.next = followed.next.max(sequence.saturating_add(1));
        let id = followed.id;
        let wrong = self.order.take(id, sequence, envelope.record);
        if let (Some(wrong), Some(of)) = (wrong, StreamKey::decode(envelope.stream)) {
            let what = format!("{of} {}..={}", wrong.first, wrong.last);
            self.contradiction(what, envelope.received_us);
        }
    }

    /// A stream, followed from here on if it was not; nothing where there are too many.
    fn follow(&mut self, encoded: &[u8], now: Duration) -> Option<&mut Followed> {
        if !self.streams.contains_key(encoded) {
            let reporter = StreamKey::decode(encoded)?.reporter.to_string();
            let of = self.followed.get(&reporter).copied().unwrap_or_default();
            if self.streams.len() >= FOLLOWED_MAX || of >= FOLLOWED_EACH_MAX {
                return None;
            }
            self.followed.insert(reporter, of + 1);
            let followed = Followed {
                id: self.order.open(),
                next: 1,
                whole: true,
                read: now,
            };
            self.streams.insert(encoded.into(), followed);
        }
        self.streams.get_mut(encoded)
    }

    /// Holds what a reporter signed against what it sent. What it has not signed says
    /// nothing, not even that it is there.
    fn heads(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        statement: Statement,
        now: (Duration, i64),
        roots: Option<&dyn Roots>,
    ) {
        let Some(stream) = StreamKey::decode(envelope.stream) else {
            return;
        };
        let at_us = envelope.received_us;
        let key = (stream.reporter.as_str().to_owned(), stream.boot);
        if !self.has_room(&key) {
            let more = "it has more starts at a time than are watched";
            return self.fault(format!("heads of {stream}: {more}"), at_us);
        }
        let boot = self.boots.entry(key).or_insert_with(|| {
            let mut boot = Boot {
                since: now.0,
                ..Boot::default()
            };
            boot.hear(at_us, now);
            boot
        });
        let mut said = Said {
            statement,
            stream,
            sequence: envelope.sequence,
            at_us,
            counts: true,
        };
        let at = Place {
            stream: &said.stream,
            sequence: said.sequence,
        };
        let followed = self.streams.get(envelope.stream);
        let whole = followed.is_some_and(|followed| followed.whole);
        let signatory = &mut boot.signatory;
        let signer = match signatory.judge(&said.statement, at, whole, &self.vouched) {
            Signature::Holds(signer) => signer,
            Signature::Unknown => {
                // Where we began in the middle of a start, nothing was to be compared yet.
                said.counts = signatory.is_known();
                return self.hold(said);
            }
            Signature::Wrong(why) => return self.wrong(&said, why),
        };
        if self.signed(said, &signer, now, roots)
            && let Some(followed) = self.streams.get_mut(envelope.stream)
        {
            followed.whole = true;
        }
    }

    /// Takes in heads whose signature holds if the mesh stands for who has signed, which it
    /// gives; otherwise they wait. A certificate that becomes the start's with them lets go of
    /// those that waited for it, and those alone: whatever else names it waits for more.
    fn signed(
        &mut self,
        mut said: Said,
        signer: &Signer,
        now: (Duration, i64),
        roots: Option<&dyn Roots>,
    ) -> bool {
        let key = (said.stream.reporter.as_str().to_owned(), said.stream.boot);
        let certificate = &signer.certificate;
        let signs = |boot: &Boot| boot.signatory.signs_with(certificate, roots);
        let before = self.boots.get(&key).is_some_and(signs);
        if !self.stands(&mut said, signer, now, roots) {
            self.hold(said);
            return false;
        }
        if !before {
            let waited = self.held.take_of(certificate, &said.stream);
            self.release(waited, now, roots);
        }
        self.believe(&said, now);
        true
    }

    /// Whether the mesh stands for who has signed; that it does not is told.
    fn stands(
        &mut self,
        said: &mut Said,
        signer: &Signer,
        now: (Duration, i64),
        roots: Option<&dyn Roots>,
    ) -> bool {
        let key = (said.stream.reporter.as_str().to_owned(), said.stream.boot);
        let Some(boot) = self.boots.get_mut(&key) else {
            return false;
        };
        let trust = (roots, now.1 / 1_000_000);
        let vouched = &mut self.vouched;
        let signatory = &mut boot.signatory;
        match signatory.stands(signer, &said.statement, trust, vouched) {
            Standing::Good => return true,
            Standing::Open => {}
            Standing::Refused(why) => {
                let what = "its certificate is not of the mesh's roots";
                let what = format!("heads of {}: {what}: {why}", said.stream);
                self.fault_of(Some(signer.certificate), what, said.at_us);
            }
        }
        said.counts = true;
        false
    }

    /// Keeps heads until their certificate is known, if there is room.
    fn hold(&mut self, said: Said) {
        self.unfollowed += self.held.keep(said);
    }

    /// Looks again at heads that waited for a certificate, of which something has come.
    fn release(&mut self, waited: Vec<Said>, now: (Duration, i64), roots: Option<&dyn Roots>) {
        for said in waited {
            let key = (said.stream.reporter.as_str().to_owned(), said.stream.boot);
            let Some(boot) = self.boots.get(&key) else {
                self.unfollowed += said.stretches();
                continue;
            };
            let at = Place {
                stream: &said.stream,
                sequence: said.sequence,
            };
            match boot.signatory.check(&said.statement, at, &self.vouched) {
                Signature::Holds(signer) => {
                    self.signed(said, &signer, now, roots);
                }
                Signature::Unknown => self.hold(said),
                Signature::Wrong(why) => self.wrong(&said, why),
            }
        }
    }

    fn wrong(&mut self, said: &Said, why: &str) {
        self.fault(format!("heads of {}: {why}", said.stream), said.at_us);
    }

    /// Takes in what a reporter has signed.
    fn believe(&mut self, said: &Said, now: (Duration, i64)) {
        let Said {
            statement, stream, ..
        } = said;
        let reporter = stream.reporter.as_str();
        let key = (reporter.to_owned(), stream.boot);
        let Some(boot) = self.boots.get_mut(&key) else {
            return;
        };
        // What waited for its certificate makes nobody older than what came since.
        if said.at_us >= boot.heard_us {
            boot.hear(said.at_us, now);
        }
        // Named for longer, one that is heard is not over.
        if now.0.saturating_sub(boot.since) <= SILENT_FOR {
            for before in statement.earlier(stream) {
                self.end(reporter, before);
            }
        }
        self.compare(stream, statement, said.at_us, now.0);
        if statement.heads.last {
            self.end(reporter, stream.boot);
        }
    }

    /// Holds signed heads against the records of their streams.
    fn compare(&mut self, own: &StreamKey, statement: &Statement, at_us: i64, now: Duration) {
        for (of, head) in statement.streams(own) {
            let encoded = prost::Message::encode_to_vec(&of.to_wire());
            let Some(Followed { id, .. }) = self.follow(&encoded, now) else {
                self.unfollowed += 1;
                continue;
            };
            let id = *id;
            if let Some(wrong) = self.order.head(id, head, 0) {
                let what = format!("{of} {}..={}", wrong.first, wrong.last);
                self.contradiction(what, at_us);
            }
        }
    }

    fn contradiction(&mut self, what: String, at_us: i64) {
        tracing::error!(stream = %what, "records are not those that their reporter signed");
        self.fault(what, at_us);
    }

    /// Whether a start is watched, or can be.
    fn has_room(&self, key: &(String, Ulid)) -> bool {
        let (reporter, _) = key;
        let all = (reporter.clone(), Ulid::nil())..=(reporter.clone(), Ulid::from(u128::MAX));
        self.boots.contains_key(key) || self.boots.range(all).count() < BOOTS_PER_REPORTER_MAX
    }

    /// Forgets whom nobody has heard since.
    pub(super) fn forget(&mut self, now: Duration) {
        let gone = self
            .boots
            .iter()
            .filter(|(_, boot)| boot.age_at(now) >= SILENT_FOR);
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        for (reporter, boot) in gone {
            self.end(&reporter, boot);
        }
        if now.saturating_sub(self.swept) >= IDLE_AFTER {
            self.swept = now;
            self.sweep(now);
        }
    }

    /// Follows streams no longer that nothing comes of, and of whose start no heads are heard.
    fn sweep(&mut self, now: Duration) {
        let boots = std::mem::take(&mut self.boots);
        self.follow_only(|key, followed| {
            let idle = now.saturating_sub(followed.read) >= IDLE_AFTER;
            !idle || boots.contains_key(&(key.reporter.to_string(), key.boot))
        });
        self.boots = boots;
    }

    /// Forgets a start of a reporter.
    fn end(&mut self, reporter: &str, boot: Ulid) {
        if self.boots.remove(&(reporter.to_owned(), boot)).is_some() {
            self.unfollowed += self.held.end(reporter, boot);
            self.follow_only(|key, _| key.boot != boot || key.reporter.as_str() != reporter);
        }
    }

    fn follow_only(&mut self, stays: impl Fn(&StreamKey, &Followed) -> bool) {
        let Self {
            streams,
            followed,
            order,
            ..
        } = self;
        streams.retain(|encoded, stream| {
            // Only streams with a key are followed.
            let Some(key) = StreamKey::decode(encoded) else {
                return true;
            };
            let stays = stays(&key, stream);
            if !stays {
                order.close(stream.id);
                let of = key.reporter.to_string();
                if let Entry::Occupied(mut of) = followed.entry(of) {
                    *of.get_mut() -= 1;
                    if *of.get() == 0 {
                        of.remove();
                    }
                }
            }
            stays
        });
    }

    fn fault(&mut self, what: String, at_us: i64) {
        self.fault_of(None, what, at_us);
    }

    /// Notes a contradiction, which goes with the record that this certificate was issued.
    fn fault_of(&mut self, certificate: Option<Hash>, what: String, at_us: i64) {
        match self.faults.len() < FAULTS_MAX {
            true => self.faults.push((certificate, Fault { what, at_us })),
            false => self.faults_more += 1,
        }
    }
}
