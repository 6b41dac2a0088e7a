//! Who reports, and who has stopped; live, beside the log.
//!
//! Reporters that sign heads say something every ten seconds. One that does not, and
//! has not said farewell, is silent: it was killed, cut off, or keeps its records to
//! itself. Its next start names the one before, and clears it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use palisade_mesh::clock::Clock;
use rustc_hash::FxHashMap;
use serde::Serialize;
use ulid::Ulid;

use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    heads::{CERTIFICATES_EVERY, Roots, Running, Signatory, Signature, Statement},
    log::{Log, LogError},
    spool::HEADS_EVERY,
    stream::StreamKey,
};

/// How long a reporter may say nothing before it is silent: three heads, and some time
/// for the way.
pub const SILENT_AFTER: Duration = Duration::from_secs(3 * HEADS_EVERY.as_secs() + 5);

/// The same for one of which no certificate is known, because its first heads were before
/// what was read: nothing that it says is believed until it sends it again.
const UNKNOWN_AFTER: Duration =
    Duration::from_secs(SILENT_AFTER.as_secs() + CERTIFICATES_EVERY as u64 * HEADS_EVERY.as_secs());

/// How long a silent reporter is an alarm; after that the log alone remembers it.
pub const SILENT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Records that a start looks back over.
const LOOK_BACK: u64 = 1 << 20;

/// Streams whose records are compared with their heads as they come; `audit verify`
/// compares those beyond.
const FOLLOWED_MAX: usize = 1 << 16;

/// How often a record is tried that the disk does not give, before it is stepped over.
const TRIES: u32 = 3;

/// Starts of one reporter that are watched at a time.
const BOOTS_PER_REPORTER_MAX: usize = 1024;

/// Contradictions that are remembered; more are counted.
const FAULTS_MAX: usize = 100;

/// A reporter that says nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// Who.
    pub reporter: String,
    /// Which start of it.
    pub boot: String,
    /// When it was last heard, microseconds since the Unix epoch.
    pub heard_us: i64,
}

/// A contradiction between records and what their reporter signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which records, or what is wrong with the signature.
    pub what: String,
    /// When the log received what was signed, microseconds since the Unix epoch.
    pub at_us: i64,
}

/// Records that were stepped over, because they cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// How many.
    pub records: u64,
    /// Why, of the first of them.
    pub why: String,
}

/// What follows the log.
pub struct Watch {
    log: Log,
    clock: Clock,
    began: Instant,
    began_us: i64,
    roots: OnceLock<Arc<dyn Roots>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    position: u64,
    boots: BTreeMap<(String, Ulid), Boot>,
    streams: FxHashMap<Box<[u8]>, Running>,
    faults: Vec<Fault>,
    faults_more: u64,
    unread: Option<Unread>,
    /// How often the record at `position` was tried.
    tries: u32,
    /// How many records the last step was over: more each time, and 0 once one can be read.
    stride: u64,
}

#[derive(Default)]
struct Boot {
    heard_us: i64,
    /// When that was read here, and how old it was by then. From there on only time that
    /// passes makes it older: a clock that is set ahead makes nobody silent.
    read: Duration,
    age: Duration,
    signatory: Signatory,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches `log`, and what was last said in it.
    pub fn new(log: Log, clock: Clock) -> Self {
        let seen = Seen {
            // Nothing is fetched for it.
            position: log.len().saturating_sub(LOOK_BACK).max(log.here_from()),
            ..Seen::default()
        };
        Self {
            log,
            began: Instant::now(),
            began_us: clock.now_us(),
            clock,
            roots: OnceLock::new(),
            seen: Mutex::new(seen),
        }
    }

    /// Holds certificates that come with heads from now on against the trust bundle, as long
    /// as they have not ended: what they rest on leaves the bundle no earlier.
    pub fn trust(&self, roots: Arc<dyn Roots>) {
        let _ = self.roots.set(roots);
    }

    /// Reads what is new. Blocks while it does. What cannot be read is stepped over, for
    /// what follows it is said by others; of what the disk does not give, only after some tries.
    ///
    /// # Errors
    /// When the log cannot be read now.
    pub fn catch_up(&self) -> Result<(), LogError> {
        while let Err(error) = self.read_on() {
            if !self.seen().step_over(&error, self.log.len()) {
                return Err(error);
            }
        }
        self.seen().forget(self.passed());
        Ok(())
    }

    fn read_on(&self) -> Result<(), LogError> {
        let from = self.seen().position;
        let mut scan = self.log.scan(from);
        while let Some(read) = scan.next_leaf() {
            let (index, leaf) = read?;
            let mut seen = self.seen();
            seen.position = index + 1;
            (seen.tries, seen.stride) = (0, 0);
            if let Some(envelope) = EnvelopeRef::decode(leaf) {
                // What came before was held against the bundle of then, by who ran then.
                let is_new = envelope.received_us >= self.began_us;
                let roots = self.roots.get().filter(|_| is_new).map(AsRef::as_ref);
                seen.take(&envelope, (self.passed(), self.clock.now_us()), roots);
            }
        }
        Ok(())
    }

    /// What could not be read since the start.
    pub fn unread(&self) -> Option<Unread> {
        self.seen().unread.clone()
    }

    /// Who is silent now.
    pub fn silent(&self) -> Vec<Silent> {
        let now = self.passed();
        let seen = self.seen();
        // After a start of ours nobody could have been heard before it.
        let is_silent = |boot: &Boot| {
            now.saturating_sub(boot.read) > boot.patience() && boot.age_at(now) < SILENT_FOR
        };
        let silent = seen.boots.iter().filter(|(_, boot)| is_silent(boot));
        silent
            .map(|((reporter, id), boot)| Silent {
                reporter: reporter.clone(),
                boot: id.to_string(),
                heard_us: boot.heard_us,
            })
            .collect()
    }

    /// Contradictions between records and what their reporters signed, since the start,
    /// and how many more there were.
    pub fn faults(&self) -> (Vec<Fault>, u64) {
        let seen = self.seen();
        (seen.faults.clone(), seen.faults_more)
    }

    /// How much time has passed since the start, however the clock was set meanwhile.
    fn passed(&self) -> Duration {
        let manual = self.clock.steady_us().map(Duration::from_micros);
        manual.unwrap_or_else(|| self.began.elapsed())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// Steps over what cannot be read; false where it is to be tried again. A part that
    /// cannot be read is a record or a segment: the steps grow, and pass it soon.
    fn step_over(&mut self, error: &LogError, len: u64) -> bool {
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

    fn take(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        now: (Duration, i64),
        roots: Option<&dyn Roots>,
    ) {
        let Some(peek) = RecordPeek::new(envelope.record) else {
            return;
        };
        // First what it says of the records before it, those of its own stream too.
        if let Some(statement) = Statement::read(&peek) {
            self.heads(envelope, &statement, now, roots);
        }
        self.follow(envelope);
    }

    /// Takes a record into its stream.
    fn follow(&mut self, envelope: &EnvelopeRef<'_>) {
        let room = self.streams.len() < FOLLOWED_MAX;
        match self.streams.get_mut(envelope.stream) {
            Some(running) => running.take(envelope.sequence, envelope.record),
            None if envelope.sequence == 1 && room => {
                let mut running = Running::default();
                running.take(1, envelope.record);
                self.streams.insert(envelope.stream.into(), running);
            }
            None => {}
        }
    }

    /// Holds what a reporter signed against what it sent. What it has not signed says
    /// nothing, not even that it is there.
    fn heads(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        statement: &Statement,
        now: (Duration, i64),
        roots: Option<&dyn Roots>,
    ) {
        let Some(stream) = StreamKey::decode(envelope.stream) else {
            return;
        };
        let at_us = envelope.received_us;
        let whole = match self.streams.get(envelope.stream) {
            Some(running) => running.is_followed_by(envelope.sequence),
            None => envelope.sequence == 1,
        };
        let key = (stream.reporter.as_str().to_owned(), stream.boot);
        if !self.has_room(&key) {
            let more = "it has more starts at a time than are watched";
            return self.fault(format!("heads of {stream}: {more}"), at_us);
        }
        let boot = self.boots.entry(key.clone()).or_insert_with(|| {
            let mut boot = Boot::default();
            boot.hear(at_us, now);
            boot
        });
        match boot.signatory.judge(statement, &stream, whole) {
            Signature::Holds(signer) => {
                let ended = signer.peer.not_after_s < now.1 / 1_000_000;
                let sent = Some(statement.certificates()).filter(|sent| !sent.is_empty() && !ended);
                if let (Some(sent), Some(roots)) = (sent, roots)
                    && let Err(why) = roots.hold(sent)
                {
                    self.pass(&stream, statement);
                    let what = "its certificate is not of the mesh's roots";
                    return self.fault(format!("heads of {stream}: {what}: {why}"), at_us);
                }
                boot.hear(at_us, now);
            }
            Signature::Unknown => return self.pass(&stream, statement),
            Signature::Wrong(why) => {
                self.pass(&stream, statement);
                return self.fault(format!("heads of {stream}: {why}"), at_us);
            }
        }
        for before in statement.earlier(&stream) {
            self.end(&key.0, before);
        }
        let mut wrong = Vec::new();
        for (of, head) in statement.streams(&stream) {
            let encoded = prost::Message::encode_to_vec(&of.to_wire());
            // One that was not followed from its beginning is followed from here on.
            let room = self.streams.len() < FOLLOWED_MAX;
            let running = match self.streams.get_mut(encoded.as_slice()) {
                Some(running) => running,
                None if room => self
                    .streams
                    .entry(encoded.into())
                    .or_insert_with(Running::unknown),
                None => continue,
            };
            if running.contradicts(head) {
                let (first, last) = (head.first_sequence, head.last_sequence);
                wrong.push(format!("{of} {first}..={last}"));
            }
        }
        for what in wrong {
            tracing::error!(stream = %what, "records are not those that their reporter signed");
            self.fault(what, at_us);
        }
        if statement.heads.last {
            self.end(&key.0, key.1);
        }
    }

    /// Whether a start is watched, or can be.
    fn has_room(&self, key: &(String, Ulid)) -> bool {
        let (reporter, _) = key;
        let all = (reporter.clone(), Ulid::nil())..=(reporter.clone(), Ulid::from(u128::MAX));
        self.boots.contains_key(key) || self.boots.range(all).count() < BOOTS_PER_REPORTER_MAX
    }

    /// Passes over heads that say nothing, so that those after them are still compared.
    fn pass(&mut self, stream: &StreamKey, statement: &Statement) {
        for (of, head) in statement.streams(stream) {
            let encoded = prost::Message::encode_to_vec(&of.to_wire());
            if let Some(running) = self.streams.get_mut(encoded.as_slice()) {
                running.contradicts(head);
            }
        }
    }

    /// Forgets whom nobody has heard since.
    fn forget(&mut self, now: Duration) {
        let gone = self
            .boots
            .iter()
            .filter(|(_, boot)| boot.age_at(now) >= SILENT_FOR);
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        for (reporter, boot) in gone {
            self.end(&reporter, boot);
        }
    }

    /// Forgets a start of a reporter.
    fn end(&mut self, reporter: &str, boot: Ulid) {
        if self.boots.remove(&(reporter.to_owned(), boot)).is_none() {
            return;
        }
        self.streams.retain(|encoded, _| {
            StreamKey::decode(encoded)
                .is_some_and(|key| key.boot != boot || key.reporter.as_str() != reporter)
        });
    }

    fn fault(&mut self, what: String, at_us: i64) {
        match self.faults.len() < FAULTS_MAX {
            true => self.faults.push(Fault { what, at_us }),
            false => self.faults_more += 1,
        }
    }
}

#[cfg(test)]
mod tests;
