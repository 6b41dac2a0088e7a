//! Questions that a change has to pass: does it grant new access, does anybody reach this, is
//! anything public.
//!
//! Each is put as a comparison of two revisions, so that there is one way to answer them.
//! "Nobody reaches X" compares the revision with itself and a `forbid` on X: what the `forbid`
//! alone stops is what somebody reaches. "Nobody newly reaches X" compares both revisions with
//! everything but X forbidden.

use std::{sync::Arc, time::Duration};

use cedar_policy::{EntityUid, Policy, PolicyId};
use palisade_mesh::{
    catalogue::Service,
    diagnostic::{Diagnostic, did_you_mean},
};
use serde::Serialize;
use smol_str::SmolStr;

use super::{
    Access, AccessChange, AccessKind, Comparison, codes,
    prove::{Counterexample, Example, Proof, ProofVerdict, Solver},
};
use crate::{
    compiled::PolicyInfo,
    decide::{
        Snapshot, SnapshotError,
        world::{OPERATION, SERVICE, uid},
    },
};

/// Id of a `forbid` that stands for a question.
const QUESTION_ID: &str = "palisade:question";

/// A question about a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Nothing that this statement matches is allowed in the newer revision.
    Invariant(PolicyInfo),
    /// Nobody reaches this in the newer revision.
    NoAccessTo(Target),
    /// Nothing is allowed that was not.
    NoNewAccess,
    /// Nobody newly reaches this.
    NoNewAccessTo(Target),
    /// No caller that no service claims, or of another trust domain, reaches anything.
    NotPublic,
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As it was asked for.
    name: String,
    resources: Vec<EntityUid>,
}

/// How a question was answered.
#[derive(Debug, Clone, Serialize)]
pub struct GateAnswer {
    /// The question, as its option.
    pub gate: String,
    /// The answer.
    pub verdict: GateVerdict,
    /// Whether a revision that it is about lacks a source, so that it can be no other than not
    /// proved or broken.
    pub partial: bool,
    /// Why it is not kept, or what the answer rests on.
    pub why: Vec<String>,
    /// Pairs of caller and request that were looked at.
    pub compared: usize,
    /// Who reaches what should not be reached.
    pub access: Vec<AccessChange>,
    /// Requests that show it.
    pub counterexamples: Vec<Counterexample>,
    /// A request that shows it, where nothing was proved.
    pub example: Option<Example>,
}

/// Whether a change passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    /// It does not: there is a request.
    Broken,
    /// It does, provably.
    Kept,
    /// It cannot be told.
    Unproved,
}

impl Target {
    /// Finds what `name` means in a revision: `NAMESPACE/SERVICE`, `NAMESPACE/SERVICE/OPERATION`, a
    /// service by its name alone, `label=KEY:VALUE`, or an entity such as `Group::"pci"`.
    ///
    /// # Errors
    /// `PLS2303` when nothing is called that.
    pub fn find(name: &str, snapshot: &Snapshot) -> Result<Self, Diagnostic> {
        let resources = match name.strip_prefix("label=") {
            Some(label) => labelled(label, snapshot),
            None => named(name, snapshot).into_iter().collect(),
        };
        if resources.is_empty() {
            return Err(nothing(name, snapshot));
        }
        Ok(Self {
            name: name.to_owned(),
            resources,
        })
    }

    fn condition(&self) -> String {
        let resources: Vec<String> = self.resources.iter().map(ToString::to_string).collect();
        format!("resource in [{}]", resources.join(", "))
    }
}

fn named(name: &str, snapshot: &Snapshot) -> Option<EntityUid> {
    if name.contains("::") {
        let found: EntityUid = name.parse().ok()?;
        return snapshot.compiled().entities.get(&found).map(|e| e.uid());
    }
    let catalogue = snapshot.catalogue();
    if let Some(service) = catalogue.by_name(name) {
        return Some(uid(SERVICE, service.id.as_str()));
    }
    let (service, operation) = name.rsplit_once('/')?;
    let service = catalogue.by_name(service)?;
    let mut operations = service.operations.iter();
    let operation = operations.find(|o| o.name == operation)?;
    Some(uid(OPERATION, &operation.id))
}

/// Services with a label.
fn labelled(label: &str, snapshot: &Snapshot) -> Vec<EntityUid> {
    let Some((key, value)) = label.split_once([':', '=']) else {
        return Vec::new();
    };
    let has = |service: &&Arc<Service>| {
        let entity = uid(SERVICE, service.id.as_str());
        let entity = snapshot.compiled().entities.get(&entity);
        matches!(
            entity.and_then(|e| e.tag(key)),
            Some(Ok(cedar_policy::EvalResult::String(text))) if text == value
        )
    };
    let services = snapshot.catalogue().services().iter();
    services
        .filter(has)
        .map(|s| uid(SERVICE, s.id.as_str()))
        .collect()
}

fn nothing(name: &str, snapshot: &Snapshot) -> Diagnostic {
    let services = snapshot.catalogue().services();
    let names: Vec<String> = services
        .iter()
        .flat_map(|s| {
            let operations = s.operations.iter();
            let operations = operations.map(|o| format!("{}/{}", s.id.short(), o.name));
            operations.chain([s.id.short().to_owned()])
        })
        .collect();
    let diagnostic = Diagnostic::error(
        codes::NO_SUCH_RESOURCE,
        format!("nothing is called `{name}`"),
    )
    .cause("a gate about nothing would always be kept")
    .help("NAMESPACE/SERVICE, NAMESPACE/SERVICE/OPERATION, label=KEY:VALUE, or an entity such as Group::\"pci\"");
    match did_you_mean(name, names.iter().map(String::as_str)) {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

impl Gate {
    /// The question as the option that asks it.
    pub fn name(&self) -> String {
        match self {
            Self::Invariant(info) => format!("invariant {}", info.id),
            Self::NoAccessTo(target) => format!("--no-access-to {}", target.name),
            Self::NoNewAccess => "--no-new-access".to_owned(),
            Self::NoNewAccessTo(target) => format!("--no-new-access-to {}", target.name),
            Self::NotPublic => "--not-public".to_owned(),
        }
    }

    /// The comparison that answers it; `None` for the one at hand.
    fn comparison(&self, of: &Comparison) -> Result<Option<Comparison>, SnapshotError> {
        let forbid = |snapshot: &Arc<Snapshot>, condition: &str| {
            let text = format!("forbid (principal, action, resource) {condition};");
            with_forbid(snapshot, question(&text))
        };
        let own = of.head.catalogue().trust_domain();
        Ok(match self {
            Self::Invariant(info) => {
                let guarded = with_forbid(&of.head, info.clone())?;
                Some(Comparison::new(guarded, of.head.clone(), of.now_us))
            }
            Self::NoAccessTo(target) => {
                let guarded = forbid(&of.head, &format!("when {{ {} }}", target.condition()))?;
                Some(Comparison::new(guarded, of.head.clone(), of.now_us))
            }
            Self::NoNewAccess => None,
            Self::NoNewAccessTo(target) => {
                let rest = format!("unless {{ {} }}", target.condition());
                let (base, head) = (forbid(&of.base, &rest)?, forbid(&of.head, &rest)?);
                Some(Comparison::new(base, head, of.now_us))
            }
            Self::NotPublic => {
                let ours = format!(
                    "unless {{ principal is Workload && principal.trustDomain == TrustDomain::{:?} }}",
                    own.as_str()
                );
                Some(Comparison::new(
                    forbid(&of.head, &ours)?,
                    of.head.clone(),
                    of.now_us,
                ))
            }
        })
    }
}

impl Comparison {
    /// Answers a question about the change. `known` is the proof of this comparison, where one
    /// was made already.
    ///
    /// # Errors
    /// When the question cannot be put to the engine; the compiler is to blame.
    pub fn answer(
        &self,
        gate: &Gate,
        solver: Option<&Solver>,
        time_max: Duration,
        known: Option<&Proof>,
    ) -> Result<GateAnswer, SnapshotError> {
        let other = gate.comparison(self)?;
        let asked = other.as_ref().unwrap_or(self);
        let access = asked.access();
        let made = match (known, &other) {
            (Some(proof), None) => Some(proof.clone()),
            _ => solver.map(|solver| asked.prove(solver, time_max)),
        };
        Ok(asked.judged(gate, access, made))
    }

    fn judged(&self, gate: &Gate, access: Access, proof: Option<Proof>) -> GateAnswer {
        let reached: Vec<AccessChange> = access
            .changes
            .iter()
            .filter(|c| c.kind != AccessKind::Lost)
            .cloned()
            .collect();
        let always = reached
            .iter()
            .any(|c| c.kind == AccessKind::Gained && c.only_if.is_empty() && c.unless.is_empty());
        let verdict = proof.as_ref().map(|p| p.verdict);
        // A proof is about policies; where the registry changed too, those who are known count.
        let only_policies = !access.registry_changed;
        let settled = verdict == Some(ProofVerdict::Proved)
            && (only_policies || (access.complete && reached.is_empty()));
        let example = (verdict != Some(ProofVerdict::Refuted) && !settled)
            .then(|| self.example())
            .flatten();
        let broken =
            verdict == Some(ProofVerdict::Refuted) || (!settled && (always || example.is_some()));
        let mut why = proof.as_ref().map_or_else(
            || vec!["no solver is installed: cvc5, on PATH or named in CVC5".to_owned()],
            |p| p.unproved.clone(),
        );
        if proof.is_none() {
            why.extend(self.absent());
            why.dedup();
        }
        if broken || settled {
            why.clear();
        } else if verdict == Some(ProofVerdict::Proved) {
            why.push(match access.complete {
                true => "the registry changed, and some access now depends on the request, or is \
                         to an operation that takes more requests than before"
                    .to_owned(),
                false => {
                    "the registry changed, and is too large to be compared as a whole".to_owned()
                }
            });
        }
        if settled && let Some(proof) = &proof {
            why.push(format!("proved by {}", proof.solver));
        }
        GateAnswer {
            gate: gate.name(),
            partial: self.is_partial(),
            verdict: match (broken, settled) {
                (true, _) => GateVerdict::Broken,
                (false, true) => GateVerdict::Kept,
                (false, false) => GateVerdict::Unproved,
            },
            why,
            compared: access.compared,
            access: if settled { Vec::new() } else { reached },
            counterexamples: proof.map(|p| p.counterexamples).unwrap_or_default(),
            example: example.filter(|_| broken),
        }
    }
}

/// A revision with one more `forbid`.
fn with_forbid(snapshot: &Arc<Snapshot>, info: PolicyInfo) -> Result<Arc<Snapshot>, SnapshotError> {
    let mut compiled = snapshot.compiled().clone();
    let wrong = || SnapshotError::WrongInfo {
        id: info.id.clone(),
    };
    let id = PolicyId::new(info.id.as_str());
    let policy = Policy::parse(Some(id), &info.text).map_err(|_| wrong())?;
    compiled.policies.add(policy).map_err(|_| wrong())?;
    compiled.info.insert(info.id.clone(), info);
    Snapshot::new(compiled, snapshot.versions().sequence)
}

/// What is known of a `forbid` that stands for a question.
fn question(text: &str) -> PolicyInfo {
    PolicyInfo {
        id: SmolStr::new_static(QUESTION_ID),
        permit: false,
        file: "".into(),
        first_line: 1,
        last_line: 1,
        text: text.into(),
        owner: None,
        deny_message: None,
        help_url: None,
        expires_us: None,
        shadow: false,
        commit: None,
        author: None,
    }
}
