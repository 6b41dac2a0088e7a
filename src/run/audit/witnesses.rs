//! The witnesses of our log: asked to cosign each checkpoint, and heard when they do not.
//!
//! One task asks all of them every few seconds. Its only memory is what each cosigned
//! last, which a witness tells by itself when we are wrong about it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use palisade_audit::{
    cosignature::CosignerKey,
    log::{Checkpoint, Log, LogError},
    witness::AddCheckpoint,
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    sink::RecordStream,
    spiffe_id::SpiffeId,
    wire::record::{Admin, AuditMode, Record, record::Body},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::witness::WitnessesSection,
    control::{
        api::{Fact, FactState},
        status::{WitnessStatus, ago},
    },
    net::web::{Ask, Reply, Web},
};

/// Time between two rounds of asking; an idle log is cosigned anew all the same, so
/// that a witness that has gone is missed.
const EVERY: Duration = Duration::from_secs(5);
/// How long one witness may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(4);
/// Longest answer of a witness.
const ANSWER_LEN_MAX: usize = 16 << 10;
/// Times a witness is asked in one round: once more after it told what it cosigned last.
const TRIES: usize = 2;
/// Age of the last cosigned checkpoint that is worth a warning.
const LATE: Duration = Duration::from_secs(60);

/// Worker number of the stream in which conflicts are recorded.
pub(super) const OWN_WORKER: u32 = u32::MAX - 8;

/// Those who cosign our checkpoints.
#[derive(Clone)]
pub(super) struct Witnesses(Arc<Inner>);

struct Inner {
    each: Vec<One>,
    quorum: usize,
    log: Log,
    /// None where nobody is asked.
    web: Option<Web>,
    clock: Clock,
    /// The latest checkpoint that enough of them have cosigned.
    cosigned: Mutex<Option<Cosigned>>,
    begun_us: i64,
}

struct One {
    key: CosignerKey,
    uri: Uri,
    standing: Mutex<Standing>,
}

/// What is known of a witness.
#[derive(Debug, Clone, Default)]
struct Standing {
    /// Size that it cosigned last, as far as is known.
    size: u64,
    signed_us: Option<i64>,
    fault: Option<Fault>,
}

/// Why a witness did not cosign.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// It has seen another history of our log than we have.
    Conflict(String),
    /// It gave no cosignature, for now or because it does not know us.
    Silent(String),
}

/// A checkpoint with its cosignatures.
#[derive(Debug, Clone)]
struct Cosigned {
    checkpoint: Checkpoint,
    signed_us: i64,
}

impl Witnesses {
    /// Asks the witnesses of `section`, none where there are none.
    pub(super) fn new(
        section: Option<&WitnessesSection>,
        log: &Log,
        clock: &Clock,
    ) -> Result<Self, Vec<Diagnostic>> {
        let configured = section.map_or(&[][..], |section| &section.each);
        let each: Result<Vec<One>, Diagnostic> = configured
            .iter()
            .map(|witness| {
                let (key, uri) = witness.parsed()?;
                Ok(One {
                    key,
                    uri,
                    standing: Mutex::default(),
                })
            })
            .collect();
        let ca = section.and_then(|section| section.ca.as_deref());
        let web = match section {
            Some(_) => Some(Web::new(ca, None).map_err(|d| vec![d])?.plain()),
            None => None,
        };
        let witnesses = Self(Arc::new(Inner {
            each: each.map_err(|d| vec![d])?,
            quorum: section.map_or(0, WitnessesSection::quorum),
            log: log.clone(),
            // Cosignatures prove the messages: without TLS nothing is believed that
            // should not be.
            web,
            clock: clock.clone(),
            cosigned: Mutex::new(None),
            begun_us: clock.now_us(),
        }));
        witnesses.0.remember();
        Ok(witnesses)
    }

    /// Asks until `stop`; conflicts are recorded in `records`.
    pub(super) fn start(
        &self,
        reporter: SpiffeId,
        records: Box<dyn RecordStream>,
        stop: &CancellationToken,
    ) {
        if self.0.each.is_empty() {
            return;
        }
        let rounds = rounds(self.clone(), reporter, records);
        tokio::spawn(stop.clone().run_until_cancelled_owned(rounds));
    }

    /// The latest checkpoint that enough witnesses have cosigned.
    pub(super) fn cosigned(&self) -> Option<Checkpoint> {
        self.0.cosigned().as_ref().map(|c| c.checkpoint.clone())
    }

    pub(super) fn status(&self) -> Vec<WitnessStatus> {
        let status = |one: &One| {
            let standing = one.standing();
            WitnessStatus {
                name: one.key.name().to_owned(),
                url: one.uri.to_string(),
                size: standing.size,
                signed_us: standing.signed_us,
                conflict: matches!(standing.fault, Some(Fault::Conflict(_))),
                fault: standing.fault.map(|f| match f {
                    Fault::Conflict(why) | Fault::Silent(why) => why,
                }),
            }
        };
        self.0.each.iter().map(status).collect()
    }

    /// What is to be told of them.
    pub(super) fn check(&self) -> Vec<Fact> {
        let Inner { each, quorum, .. } = &*self.0;
        if each.is_empty() {
            return Vec::new();
        }
        let status = self.status();
        let mut facts: Vec<Fact> = status.iter().filter(|w| w.conflict).map(conflict).collect();
        let cosigned = self.0.cosigned().clone();
        let since_us = cosigned.as_ref().map_or(self.0.begun_us, |c| c.signed_us);
        let age = u128::try_from(self.0.clock.now_us() - since_us).unwrap_or_default();
        facts.push(match cosigned {
            Some(_) if age <= LATE.as_micros() => Fact::ok(
                "audit",
                format!(
                    "{quorum} of {} witnesses cosigned a checkpoint {}",
                    each.len(),
                    ago(&self.0.clock, since_us)
                ),
            ),
            None if age <= LATE.as_micros() => {
                Fact::unknown("audit", "the witnesses have not cosigned yet")
            }
            _ => self.missing(&status, since_us),
        });
        facts
    }

    fn missing(&self, status: &[WitnessStatus], since_us: i64) -> Fact {
        let faults: Vec<String> = status
            .iter()
            .filter_map(|w| Some(format!("{}: {}", w.name, w.fault.as_ref()?)))
            .collect();
        let since = ago(&self.0.clock, since_us);
        let text = format!("fewer witnesses than {} cosign the log", self.0.quorum);
        Fact::not_ok("audit", FactState::Error, 7542, text)
            .cause(format!(
                "the last time it was enough was {since}; {}",
                faults.join("; ")
            ))
            .fix("until then only the log's own signature is behind its records; see that the witnesses run and know this log's key")
    }
}

fn conflict(witness: &WitnessStatus) -> Fact {
    let text = format!(
        "witness `{}` has seen another history of this log",
        witness.name
    );
    Fact::not_ok("audit", FactState::Error, 7541, text)
        .cause(witness.fault.clone().unwrap_or_default())
        .fix("the log was rolled back, restored from an old copy, or is written twice: keep both as evidence, and compare with `palisade audit verify`")
}

impl Inner {
    fn cosigned(&self) -> MutexGuard<'_, Option<Cosigned>> {
        self.cosigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what was cosigned before this start.
    fn remember(&self) {
        let Some(checkpoint) = self.log.cosigned() else {
            return;
        };
        let note = &checkpoint.note;
        let times = self
            .each
            .iter()
            .filter_map(|one| one.key.time_on(note).ok()?);
        // The oldest of them: so long the quorum has been there for certain.
        let mut times: Vec<u64> = times.collect();
        times.sort_unstable();
        let Some(signed_s) = times
            .len()
            .checked_sub(self.quorum)
            .and_then(|n| times.get(n))
        else {
            return;
        };
        let signed_us = i64::try_from(*signed_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        *self.cosigned() = Some(Cosigned {
            checkpoint,
            signed_us,
        });
    }

    /// Keeps a checkpoint with the lines of those who cosigned it.
    fn keep(&self, mut checkpoint: Checkpoint, lines: &[String]) -> io::Result<()> {
        checkpoint.note.extend(lines.iter().map(String::as_str));
        self.log.keep_cosigned(&checkpoint.note)?;
        *self.cosigned() = Some(Cosigned {
            checkpoint,
            signed_us: self.clock.now_us(),
        });
        Ok(())
    }
}

impl One {
    fn standing(&self) -> Standing {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a cosignature; gives its lines.
    async fn ask(&self, inner: &Inner, checkpoint: &Checkpoint) -> Result<String, Fault> {
        for _ in 0..TRIES {
            let old = self.lock().size.min(checkpoint.size);
            let log = inner.log.clone();
            let size = checkpoint.size;
            let proof = tokio::task::spawn_blocking(move || log.prove_prefix_of(old, size));
            let proof = match proof.await {
                Ok(Ok(proof)) => proof,
                Ok(Err(error)) => return Err(unproven(&error)),
                Err(error) => return Err(Fault::Silent(error.to_string())),
            };
            let request = AddCheckpoint {
                old,
                proof,
                checkpoint: checkpoint.note.clone(),
            };
            let mut ask = Ask::new(Method::POST, self.uri.clone(), ANSWER_LEN_MAX);
            ask.body = Bytes::from(request.to_string());
            let Some(web) = &inner.web else {
                return Err(Fault::Silent("nobody is asked".into()));
            };
            let asked = tokio::time::timeout(ANSWER_TIME_MAX, web.send(ask)).await;
            let reply = match asked {
                Ok(Ok(reply)) => reply,
                Ok(Err(d)) => return Err(Fault::Silent(d.cause.unwrap_or(d.message))),
                Err(_) => return Err(Fault::Silent("no answer in time".into())),
            };
            match self.understood(checkpoint, old, &reply)? {
                Some(lines) => return Ok(lines),
                // It told what it cosigned last: once more from there.
                None => continue,
            }
        }
        Err(Fault::Silent("it tells another size each time".into()))
    }

    /// What an answer comes to; `None` to ask again.
    fn understood(
        &self,
        checkpoint: &Checkpoint,
        old: u64,
        reply: &Reply,
    ) -> Result<Option<String>, Fault> {
        let body = String::from_utf8_lossy(&reply.body);
        match reply.status {
            StatusCode::OK => {
                let lines = self.key.line_of(&checkpoint.note, &body);
                let lines = lines.map_err(|e| Fault::Silent(e.to_string()))?;
                self.lock().size = checkpoint.size;
                Ok(Some(lines))
            }
            StatusCode::CONFLICT => {
                let told = body.trim().parse::<u64>().ok();
                let told =
                    told.ok_or_else(|| Fault::Silent("it answered 409 without a size".into()))?;
                if told == old {
                    let why = format!("it has another root for the log of {old} records");
                    return Err(Fault::Conflict(why));
                }
                // Not kept where it is ahead of us: it is asked again each round, and may
                // have been mended by then.
                if told > checkpoint.size {
                    return Err(ahead(told, checkpoint.size));
                }
                self.lock().size = told;
                Ok(None)
            }
            StatusCode::UNPROCESSABLE_ENTITY => Err(Fault::Conflict(format!(
                "the log of {} records does not continue the {old} that it cosigned",
                checkpoint.size
            ))),
            StatusCode::NOT_FOUND => Err(Fault::Silent("it does not witness this log".into())),
            StatusCode::FORBIDDEN => Err(Fault::Silent("it has another key for this log".into())),
            status => Err(Fault::Silent(format!("it answered {status}"))),
        }
    }
}

fn ahead(told: u64, size: u64) -> Fault {
    Fault::Conflict(format!(
        "it cosigned {told} records, and the log has {size} under its checkpoint"
    ))
}

fn unproven(error: &LogError) -> Fault {
    Fault::Silent(format!("the log has no proof for it: {error}"))
}

async fn rounds(witnesses: Witnesses, reporter: SpiffeId, mut records: Box<dyn RecordStream>) {
    loop {
        let inner = &witnesses.0;
        let checkpoint = inner.log.checkpoint();
        let asked = inner.each.iter().map(|one| one.ask(inner, &checkpoint));
        let answers = futures_util::future::join_all(asked).await;
        let mut lines = Vec::new();
        for (one, answer) in inner.each.iter().zip(answers) {
            let mut standing = one.lock();
            match answer {
                Ok(line) => {
                    lines.push(line);
                    standing.signed_us = Some(inner.clock.now_us());
                    standing.fault = None;
                }
                Err(fault) => {
                    let is_new = standing.fault.as_ref() != Some(&fault);
                    let known = matches!(standing.fault, Some(Fault::Conflict(_)));
                    standing.fault = Some(fault.clone());
                    drop(standing);
                    tell(one, &fault, is_new);
                    if let (Fault::Conflict(why), false) = (&fault, known) {
                        let record = noted(&inner.clock, &reporter, one.key.name(), why);
                        // What finds no room is counted by the sink.
                        let _ = records.append(&record);
                        records.flush();
                    }
                }
            }
        }
        if lines.len() >= inner.quorum
            && let Err(error) = inner.keep(checkpoint, &lines)
        {
            tracing::error!(%error, "cosigned checkpoint cannot be kept");
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn tell(one: &One, fault: &Fault, is_new: bool) {
    let name = one.key.name();
    match fault {
        Fault::Conflict(why) if is_new => {
            tracing::error!(witness = name, %why, "witness has seen another history of the log");
        }
        Fault::Silent(why) if is_new => {
            tracing::warn!(witness = name, %why, "witness did not cosign");
        }
        _ => {}
    }
}

fn noted(clock: &Clock, reporter: &SpiffeId, witness: &str, why: &str) -> Record {
    Record {
        id: palisade_mesh::decision::DecisionIds::new()
            .next(clock.now_us())
            .to_bytes()
            .to_vec(),
        time_us: clock.now_us(),
        reporter: reporter.as_str().into(),
        mode: AuditMode::Strict.into(),
        demo: false,
        body: Some(Body::Admin(Admin {
            actor: reporter.as_str().into(),
            verb: "witness_conflict".into(),
            object: witness.into(),
            detail: why.into(),
        })),
        ..Record::default()
    }
}
