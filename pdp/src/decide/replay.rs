//! Recorded decisions, made again under another revision.
//!
//! A decision is a pure function of the revision, the caller, the request and the
//! moment. A record holds the caller, the request's line, the moment and what the
//! policies of its day read beyond that, so the production engine can be asked again.
//! What is read newly and was not recorded makes a record unfit for this: it is told,
//! never guessed. What was asked already, with the same values of everything that
//! matters now, is remembered.

use std::{
    hash::{BuildHasherDefault, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use palisade_mesh::{
    canonical::{CanonicalRequest, Method},
    catalogue::{Service, Unmatched},
    decision::{Decision, Undecided},
    spiffe_id::SpiffeId,
};
use rustc_hash::{FxHashMap, FxHasher};
use smol_str::SmolStr;

use super::{
    Snapshot,
    asked::{Asked, Names},
    cache::{Generations, Limits},
    core::{ValueCache, context},
    fact::{Fact, Facts, clock_fact, grpc_of, is_grpc_path},
    field::{Field, Form},
    index::rule_at,
    record::Recorded,
    slice::Slice,
    watch::{PolicyUse, Watch},
    world::{OPERATION, Requested, Triple},
};

/// Longest path that a record holds whole, in bytes; a longer one may have been cut.
pub const PATH_LEN_MAX: usize = 1020;

/// The covered fields whose values a record tells in other places, too.
const PATH: &str = "path";
const SOURCE_IP: &str = "source_ip";
const USER: &str = "user";

/// Callers with what they ask for that are remembered, and about how many bytes they take.
const CALLS: Limits = Limits {
    entries: 1 << 18,
    bytes: 256 << 20,
};
/// Answers that are remembered, and about how many bytes they take.
const ANSWERS: Limits = Limits {
    entries: 1 << 20,
    bytes: 512 << 20,
};
/// By how much a small one remembers less.
const SMALLER: usize = 16;
/// About what an answer takes beside its key.
const ANSWER_BYTES: usize = 256;

/// Records of a call for which remembering is tried, whatever comes of it.
const TRIED_FIRST: u32 = 1024;
/// One in so many must be found for it to go on.
const FOUND_LEAST: u32 = 16;
/// One in so many is tried all the same.
const TRIED_EVERY: u32 = 64;

/// What a record says of a request that was decided.
#[derive(Debug, Clone, Copy, Default)]
pub struct Past<'r> {
    /// When, microseconds since the Unix epoch.
    pub time_us: i64,
    /// SPIFFE ID of the caller.
    pub principal: &'r str,
    /// Whether a TLS handshake with one of our proxies proved it.
    pub proven: bool,
    /// Id of the service.
    pub service: &'r str,
    /// Method.
    pub method: &'r str,
    /// Canonical host.
    pub host: &'r str,
    /// Canonical path without the query.
    pub path: &'r str,
    /// Address of the caller; empty when it was not recorded.
    pub source_ip: &'r str,
    /// Port of the caller; 0 when it was not recorded.
    pub source_port: u32,
    /// What was read of the context.
    pub context_json: &'r str,
    /// Fields that were taken out of the record because they are personal: `path`,
    /// `source_ip`, `user` and the like. What the record does not tell of them is not known.
    pub covered: &'r [&'r str],
}

/// Why a record cannot be decided again; the record is to blame, or the candidate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lacking {
    /// Policies read these paths of the context now, which were not recorded.
    Fields(Vec<String>),
    /// The path was not recorded whole, or not at all, so the operation is not known.
    Path,
    /// No service has this id any more.
    Service,
    /// It is no record of a decision as this version writes them.
    Unreadable,
}

/// A revision that recorded decisions are made again under; belongs to one thread.
pub struct Replay {
    snapshot: Arc<Snapshot>,
    services: FxHashMap<SmolStr, Arc<Service>>,
    calls: Generations<Box<[u8]>, Arc<Call>, BuildHasherDefault<FxHasher>>,
    /// Number of the next call; part of the keys of its answers.
    serial: u64,
    answers: Generations<Box<[u8]>, Remembered, RandomState>,
    values: ValueCache,
    key: Vec<u8>,
    evaluated: u64,
    watch: Option<Watch>,
}

/// Who asks for what, looked up once.
#[derive(Debug)]
struct Call {
    serial: u64,
    luck: Luck,
    entities: Triple,
    form: Form,
    slice: Slice,
}

/// Whether remembering answers of a call has paid so far: where no two requests are
/// alike, looking for an answer and keeping it costs as much as half an evaluation.
#[derive(Debug, Default)]
struct Luck {
    asked: AtomicU32,
    found: AtomicU32,
}

impl Luck {
    /// Whether to look for an answer and to keep it; one in [`TRIED_EVERY`] always.
    fn hopes(&self) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.found.load(Ordering::Relaxed);
        asked < TRIED_FIRST || found >= asked / FOUND_LEAST || asked.is_multiple_of(TRIED_EVERY)
    }

    fn found(&self, outcome: Outcome) -> Outcome {
        self.found.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}

/// What is known of a recorded context under a call.
#[derive(Debug, Clone)]
enum Remembered {
    Told(Outcome),
    /// The record tells these fields beside the context, and they matter.
    DependsOn(Arc<[Field]>),
}

/// A decision that was made again.
#[derive(Debug, Clone)]
pub struct Again {
    /// The decision.
    pub decision: Arc<Decision>,
    /// Ids of the shadow permits that match.
    pub shadows: Arc<[SmolStr]>,
}

/// What comes of a record.
type Outcome = Result<Again, Arc<Lacking>>;

impl Replay {
    /// Prepares to decide under `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self::within(snapshot, CALLS, ANSWERS)
    }

    /// As [`Replay::new`], and remembers little: for whoever holds several, beside other work.
    pub fn small(snapshot: Arc<Snapshot>) -> Self {
        let small = |limits: Limits| Limits {
            entries: limits.entries / SMALLER,
            bytes: limits.bytes / SMALLER,
        };
        Self::within(snapshot, small(CALLS), small(ANSWERS))
    }

    fn within(snapshot: Arc<Snapshot>, calls: Limits, answers: Limits) -> Self {
        let services = snapshot.catalogue().services().iter();
        let services = services.map(|s| (s.id.as_str().into(), Arc::clone(s)));
        Self {
            services: services.collect(),
            calls: Generations::new(calls),
            serial: 0,
            answers: Generations::new(answers),
            values: ValueCache::default(),
            key: Vec::new(),
            evaluated: 0,
            watch: None,
            snapshot,
        }
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// How many decisions were evaluated; the others were remembered.
    pub fn evaluated(&self) -> u64 {
        self.evaluated
    }

    /// Looks on at what policies do, for [`Replay::uses`].
    #[must_use]
    pub fn watching(mut self) -> Self {
        self.watch = Some(Watch::new(&self.snapshot));
        self
    }

    /// What each policy did in the decisions that were evaluated; nothing unless it was
    /// watched.
    pub fn uses(&self) -> Vec<PolicyUse> {
        let watch = self.watch.as_ref();
        watch.map_or_else(Vec::new, |watch| watch.told(&self.snapshot))
    }

    /// Whether the request comes to a decision at all: it is an operation of the catalogue, or
    /// its service forwards what is none. Any other is answered with 404, whatever policies say.
    pub fn serves(&self, past: &Past<'_>) -> bool {
        let service = self.services.get(past.service);
        let request = request_of(past);
        let (Some(service), Ok(request)) = (service, request) else {
            return false;
        };
        service.unmatched == Unmatched::Forward || service.operations.find(&request).is_some()
    }

    /// Decides again what was decided then.
    ///
    /// # Errors
    /// When the record lacks something that matters now.
    pub fn decide(&mut self, past: &Past<'_>) -> Result<Arc<Decision>, Arc<Lacking>> {
        self.judge(past).map(|again| again.decision)
    }

    /// As [`Replay::decide`], with what is only observed.
    ///
    /// # Errors
    /// As [`Replay::decide`].
    pub fn judge(&mut self, past: &Past<'_>) -> Outcome {
        let service = self.services.get(past.service).ok_or(Lacking::Service)?;
        let service = Arc::clone(service);
        let request = request_of(past)?;
        let operation = service.operations.find(&request);
        let names = Names::new(&service, operation, request.method);
        let call = match self.call(past, names)? {
            Some(call) if call.form == Form::Http || is_grpc_path(past.path) => call,
            Some(_) => return Ok(self.fault(names, Undecided::NotEncodable)),
            None => return Ok(self.fault(names, self.why_unknown(names))),
        };
        let mut key = std::mem::take(&mut self.key);
        let again = self.answer(past, names, &call, &mut key);
        self.key = key;
        again
    }

    /// Looks up who asks for what; none when the snapshot lacks one of them.
    fn call(&mut self, past: &Past<'_>, names: Names<'_>) -> Result<Option<Arc<Call>>, Lacking> {
        let key = &mut self.key;
        key.clear();
        for part in [past.principal, names.action, names.resource_id] {
            key.extend(part.as_bytes());
            key.push(0);
        }
        key.push(u8::from(names.resource_type == OPERATION));
        if let Some(call) = self.calls.get(key.as_slice())
            && call.slice.covers(past.time_us)
        {
            return Ok(Some(call));
        }
        let id = SpiffeId::parse(past.principal).map_err(|_| Lacking::Unreadable)?;
        let Some((entities, form)) = self.snapshot.named(&id, names) else {
            return Ok(None);
        };
        let call = Arc::new(Call {
            serial: self.serial,
            luck: Luck::default(),
            entities,
            form,
            slice: self.snapshot.slice(entities, past.time_us),
        });
        self.serial += 1;
        let bytes = key.len() + call.slice.bytes();
        self.calls
            .insert(key.as_slice().into(), Arc::clone(&call), bytes);
        Ok(Some(call))
    }

    fn answer(
        &mut self,
        past: &Past<'_>,
        names: Names<'_>,
        call: &Call,
        key: &mut Vec<u8>,
    ) -> Outcome {
        if !call.luck.hopes() {
            let facts = self.facts_of(past, call)?;
            return self.evaluate(past, names, call, &facts);
        }
        key.clear();
        key.extend(call.serial.to_le_bytes());
        key.push(u8::from(past.proven));
        key.extend(past.context_json.as_bytes());
        let mut depends = None;
        match self.answers.get(key.as_slice()) {
            Some(Remembered::Told(outcome)) => return call.luck.found(outcome),
            Some(Remembered::DependsOn(fields)) => depends = Some(fields),
            None => {}
        }
        if let Some(fields) = &depends {
            write_key(fields, &RecordFacts::new(past, call.form), key);
            if let Some(Remembered::Told(outcome)) = self.answers.get(key.as_slice()) {
                return call.luck.found(outcome);
            }
        }
        let facts = self.facts_of(past, call)?;
        if depends.is_none() {
            let fields = call.slice.fields.iter().copied();
            let fields: Arc<[Field]> = fields.filter(|f| !facts.is_recorded(*f)).collect();
            if !fields.is_empty() {
                self.remember(key, Remembered::DependsOn(Arc::clone(&fields)));
                write_key(&fields, &facts, key);
            }
        }
        let again = self.evaluate(past, names, call, &facts);
        self.remember(key, Remembered::Told(again.clone()));
        again
    }

    fn facts_of<'r>(
        &self,
        past: &'r Past<'r>,
        call: &Call,
    ) -> Result<RecordFacts<'r>, Arc<Lacking>> {
        let recorded = Recorded::parse(past.context_json, call.form, self.snapshot.layout());
        Ok(RecordFacts {
            recorded: recorded.map_err(|_| Lacking::Unreadable)?,
            ..RecordFacts::new(past, call.form)
        })
    }

    fn evaluate(
        &mut self,
        past: &Past<'_>,
        names: Names<'_>,
        call: &Call,
        facts: &RecordFacts<'_>,
    ) -> Outcome {
        let unknown = |field: &&Field| facts.fact(**field) == Fact::Unknown;
        let lacking: Vec<String> = call
            .slice
            .enforced
            .iter()
            .filter(unknown)
            .map(|field| self.snapshot.path_of(*field))
            .collect();
        if !lacking.is_empty() {
            return Err(Arc::new(Lacking::Fields(lacking)));
        }
        self.evaluated += 1;
        let asked = Asked {
            principal: call.entities.0,
            action: call.entities.1,
            resource: call.entities.2,
            form: call.form,
            names,
        };
        let values = &mut self.values;
        let snapshot = &self.snapshot;
        let (decision, shadows) = snapshot.judge(&asked, &call.slice, facts, past.time_us, values);
        if let Some(watch) = &mut self.watch {
            let layout = snapshot.layout();
            let values = context(facts, &call.slice.fields, call.form, layout, values);
            if let Some(evaluation) = snapshot.begin(call.entities, values) {
                watch.look(snapshot, &call.slice, &evaluation);
            }
        }
        let shadows = shadows.iter();
        let shadows = shadows.filter_map(|at| rule_at(snapshot.rules(), *at));
        Ok(Again {
            decision: Arc::new(decision),
            shadows: shadows.map(|rule| rule.id.clone()).collect(),
        })
    }

    fn remember(&mut self, key: &[u8], what: Remembered) {
        let bytes = key.len() + ANSWER_BYTES;
        self.answers.insert(key.into(), what, bytes);
    }

    fn fault(&self, names: Names<'_>, why: Undecided) -> Again {
        Again {
            decision: Arc::new(self.snapshot.fault(names, why)),
            shadows: Arc::new([]),
        }
    }

    /// As the engine says it: an action that the schema lacks cannot be spoken of.
    fn why_unknown(&self, names: Names<'_>) -> Undecided {
        let action = self
            .snapshot
            .world()
            .requested(Requested::Action, names.action);
        match action.and_then(|a| self.snapshot.form(a)) {
            Some(_) => Undecided::MissingEntity,
            None => Undecided::NotEncodable,
        }
    }
}

/// The request's line, as the candidate's catalogue wants to see it.
fn request_of(past: &Past<'_>) -> Result<CanonicalRequest, Lacking> {
    let taken_out = past.path.is_empty() || past.covered.contains(&PATH);
    if taken_out || past.path.len() > PATH_LEN_MAX {
        return Err(Lacking::Path);
    }
    Ok(CanonicalRequest {
        method: Method::parse(past.method).ok_or(Lacking::Unreadable)?,
        host: past.host.into(),
        path: past.path.into(),
        query: None,
        rewritten: false,
    })
}

fn write_key(fields: &[Field], facts: &RecordFacts<'_>, key: &mut Vec<u8>) {
    for field in fields {
        // What the record does not tell is the same for all of them.
        if !facts.fact(*field).write_key(key) {
            key.push(u8::MAX);
        }
    }
}

/// The facts of a record: its moment, what was kept of the context, and what the rest
/// of it says.
struct RecordFacts<'r> {
    past: &'r Past<'r>,
    form: Form,
    recorded: Recorded<'r>,
}

impl<'r> RecordFacts<'r> {
    /// As if nothing had been kept of the context.
    fn new(past: &'r Past<'r>, form: Form) -> Self {
        Self {
            past,
            form,
            recorded: Recorded::default(),
        }
    }

    /// Whether the recorded context alone tells the field. The moment is the record's
    /// own: an answer that came out of a cache has the context of an earlier one.
    fn is_recorded(&self, field: Field) -> bool {
        let clock = matches!(field, Field::TimeHour | Field::TimeNow | Field::TimeWeekday);
        !clock && self.recorded.fact(field) != Fact::Unknown
    }

    /// Whether what would tell the field was taken out of the record.
    fn is_covered(&self, field: Field) -> bool {
        let name = match field {
            Field::GrpcMethod | Field::GrpcService | Field::HttpPath => PATH,
            Field::Jwt | Field::User => USER,
            Field::SourceIp | Field::SourcePort => SOURCE_IP,
            _ => return false,
        };
        self.past.covered.contains(&name)
    }

    fn implied(&self, field: Field) -> Fact<'_> {
        let past = self.past;
        if self.is_covered(field) {
            return Fact::Unknown;
        }
        let text = |text: Option<_>| text.map_or(Fact::Unknown, Fact::from);
        let proven = |fact| if past.proven { fact } else { Fact::Unknown };
        match field {
            Field::GrpcMethod => text(grpc_of(past.path).map(|(_, method)| method)),
            Field::GrpcService => text(grpc_of(past.path).map(|(service, _)| service)),
            Field::HttpHost => text(Some(past.host).filter(|host| !host.is_empty())),
            Field::HttpMethod => past.method.into(),
            Field::HttpPath => text(Some(past.path).filter(|path| !path.is_empty())),
            Field::SourceIp => match past.source_ip.parse::<IpAddr>() {
                Ok(ip) => Fact::Ip(ip.to_canonical()),
                Err(_) => Fact::Unknown,
            },
            Field::SourcePort => match past.source_port {
                0 => Fact::Unknown,
                port => Fact::Long(port.into()),
            },
            // What our proxies have at every handshake that proves an identity.
            Field::Jwt | Field::User => proven(Fact::Absent),
            Field::TlsMtls => proven(Fact::Bool(true)),
            Field::TlsVersion => proven("1.3".into()),
            _ => Fact::Unknown,
        }
    }
}

impl Facts for RecordFacts<'_> {
    fn fact(&self, field: Field) -> Fact<'_> {
        if !field.is_in(self.form) {
            return Fact::Absent;
        }
        match clock_fact(field, self.past.time_us) {
            Fact::Unknown => {}
            clock => return clock,
        }
        match self.recorded.fact(field) {
            Fact::Unknown => self.implied(field),
            known => known,
        }
    }
}
