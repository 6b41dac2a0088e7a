//! Who may do what, with the rest of the request left open.
//!
//! A decision is about one request; a review, a search or a difference between two
//! revisions asks about all of them at once. Such an answer has three values: yes,
//! no, or only under conditions, which are named. It comes from the rules, the index
//! and the evaluator that decide requests, one (caller, action, resource) at a time.
//!
//! What is taken as known: the caller, the action, the resource, that the connection
//! is mutual TLS 1.3 (the mesh has no other), of a path as much as the operation's
//! template says, the host where there is but one, and what [`Given`] adds. Everything
//! else is open.

use std::{cell::OnceCell, fmt, sync::Arc};

use palisade_mesh::{
    canonical::{CanonicalRequest, Method},
    catalogue::{Protocol, Service, Unmatched},
    decision::{Undecided, Verdict},
    operation::Operation,
    spiffe_id::SpiffeId,
};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{
    ClauseKind, ExplainError, Snapshot,
    asked::{GRPC_CALL, Names},
    core::{Body, PathShape, Tree},
    fact::{Fact, Facts, clock_fact, grpc_of},
    field::{Field, Form},
    record::Recorded,
    world::{Ent, OPERATION, Requested, SERVICE},
};

mod case;

use case::{Case, Part};

/// What is known of the requests beside caller, action and resource.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'g> {
    /// When, microseconds since the Unix epoch: what has expired by then is gone.
    pub now_us: i64,
    /// Whether conditions on the clock are judged at that moment, too; else they are open.
    pub clock: bool,
    /// Whether every later moment is asked about, too: a permit that expires then depends
    /// on the clock.
    pub onwards: bool,
    /// More of the context, in the form of decision records; `None` for nothing.
    pub context_json: Option<&'g str>,
}

/// Whether something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum May {
    /// Never.
    No,
    /// For some requests, not for others.
    OnlyIf,
    /// Always.
    Yes,
}

/// An answer, with the policies it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The answer.
    pub may: May,
    /// The verdict of every such request, where it is one and the same.
    pub verdict: Option<Verdict>,
    /// Policies that made that verdict for certain, sorted.
    pub deciding: Vec<SmolStr>,
    /// Permits of which one has to hold, sorted; with [`May::OnlyIf`] only.
    pub permits: Vec<SmolStr>,
    /// Forbids none of which may hold, sorted; with [`May::OnlyIf`] only.
    pub forbids: Vec<SmolStr>,
}

/// A policy that an answer depends on, with what is open of its conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPolicy {
    /// Policy id.
    pub policy: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// File in the repository.
    pub file: String,
    /// First line in the file.
    pub first_line: usize,
    /// Open parts of its conditions, in order; empty if it holds as it stands.
    pub clauses: Vec<OpenClause>,
}

/// One `&&` part of a condition that some requests meet and others do not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenClause {
    /// Which kind of condition it stands in.
    pub kind: ClauseKind,
    /// Line in the file.
    pub line: usize,
    /// As it was written.
    pub text: String,
}

/// Somebody who may ask: one workload, or all strangers of one kind.
#[derive(Debug, Clone)]
pub struct Caller {
    /// What it is.
    pub who: Who,
    /// The service it is, if it is one.
    pub service: Option<Arc<Service>>,
    entity: Ent,
}

/// What a [`Caller`] stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A workload that a service claims, by SPIFFE ID.
    Workload(SmolStr),
    /// A workload that no service claims and that some policy or entity names.
    Named(SmolStr),
    /// Every other workload of a trust domain.
    Others(SmolStr),
    /// Every workload of a trust domain that nothing names.
    Anyone,
}

/// Something that can be asked for: an action on an operation, or on what a service
/// answers beside its operations.
#[derive(Debug, Clone)]
pub struct Target {
    /// The service.
    pub service: Arc<Service>,
    /// Id of the operation; `None` for what is no operation.
    pub operation: Option<SmolStr>,
    /// Cedar action id.
    pub action: SmolStr,
    /// Path template of the operation, or the one path that is asked about.
    pub path: Option<SmolStr>,
    method: Option<Method>,
    /// The host, where there is only one.
    host: Option<SmolStr>,
    shape: Option<PathShape>,
    entities: Option<(Ent, Ent, Form)>,
}

/// A snapshot and what is given, ready to answer about many.
///
/// It belongs to one thread. Policies are taken apart when first met.
pub struct Survey<'s> {
    snapshot: &'s Snapshot,
    given: Given<'s>,
    http: Recorded<'s>,
    grpc: Recorded<'s>,
    trees: Vec<OnceCell<Tree>>,
    parts: Vec<OnceCell<Vec<Part>>>,
}

impl Snapshot {
    /// Everybody who can be told apart: each registered workload, each other one that
    /// is named somewhere, and the strangers of each trust domain; sorted.
    pub fn callers(&self) -> Vec<Caller> {
        let world = self.world();
        let registered = world
            .workloads()
            .map(|(id, entity)| (Who::Workload(id.clone()), entity));
        let named = world
            .named_strangers()
            .filter_map(|id| Some((Who::Named(id.into()), self.named_stranger(id)?)));
        let strangers = world.strangers().map(|(domain, entity)| match domain {
            Some(domain) => (Who::Others(domain.clone()), entity),
            None => (Who::Anyone, entity),
        });
        let all = registered.chain(named).chain(strangers);
        let mut callers: Vec<Caller> = all
            .map(|(who, entity)| self.caller_as(who, entity))
            .collect();
        callers.sort_by(|a, b| a.who.cmp(&b.who));
        callers
    }

    /// The workload with this SPIFFE ID; `None` when a service claims it and the
    /// entities lack it.
    pub fn caller(&self, id: &SpiffeId) -> Option<Caller> {
        let entity = self.principal(id)?;
        let registered = self.world().requested(Requested::Workload, id.as_str());
        let who = match registered {
            Some(_) => Who::Workload(id.as_str().into()),
            None => Who::Named(id.as_str().into()),
        };
        Some(self.caller_as(who, entity))
    }

    fn named_stranger(&self, id: &str) -> Option<Ent> {
        self.world().stranger(&SpiffeId::parse(id).ok()?)
    }

    fn caller_as(&self, who: Who, entity: Ent) -> Caller {
        let id = match &who {
            Who::Workload(id) => SpiffeId::parse(id).ok(),
            _ => None,
        };
        let service = id.and_then(|id| self.catalogue().by_identity(&id).cloned());
        Caller {
            who,
            service,
            entity,
        }
    }

    /// Everything that can be asked for: each operation under each of its actions, and
    /// where a service forwards what is no operation, that under each method.
    pub fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for service in self.catalogue().services() {
            for operation in service.operations.iter() {
                for (action, method) in actions_of(service, operation) {
                    targets.push(self.declared(service, operation, action, method));
                }
            }
            targets.extend(self.undeclared(service));
        }
        targets
    }

    /// What one request is, with its path known.
    pub fn target(&self, service: &Arc<Service>, request: &CanonicalRequest) -> Target {
        let operation = service.operations.find(request);
        let action = SmolStr::new(Names::new(service, operation, request.method).action);
        let method = Some(request.method);
        let target = match operation {
            Some(operation) => self.declared(service, operation, action, method),
            None => self.on_service(service, action, method),
        };
        Target {
            path: Some(request.path.clone()),
            host: Some(request.host.clone()),
            shape: None,
            ..target
        }
    }

    /// What a method of an operation is, or one of what is no operation.
    #[cfg(feature = "analysis")]
    pub(crate) fn target_of(
        &self,
        service: &Arc<Service>,
        operation: Option<&Operation>,
        method: Method,
    ) -> Target {
        let action = SmolStr::new(Names::new(service, operation, method).action);
        match operation {
            Some(operation) => self.declared(service, operation, action, Some(method)),
            None => self.on_service(service, action, Some(method)),
        }
    }

    fn declared(
        &self,
        service: &Arc<Service>,
        operation: &Operation,
        action: SmolStr,
        method: Option<Method>,
    ) -> Target {
        let template = operation.template.as_str();
        Target {
            service: Arc::clone(service),
            entities: self.asked_for(&action, (Requested::Operation, &operation.id)),
            operation: Some(operation.id.clone()),
            action,
            path: Some(template.into()),
            method,
            host: only(match operation.hosts.is_empty() {
                true => &service.hosts,
                false => &operation.hosts,
            }),
            shape: PathShape::new(template),
        }
    }

    fn undeclared(&self, service: &Arc<Service>) -> Vec<Target> {
        if service.unmatched == Unmatched::NotFound {
            return Vec::new();
        }
        let actions = match service.protocol {
            Protocol::Grpc => vec![(SmolStr::new_static(GRPC_CALL), Some(Method::Post))],
            Protocol::Http => Method::ALL
                .map(|m| (SmolStr::new_static(m.as_str()), Some(m)))
                .to_vec(),
        };
        let targets = actions.into_iter();
        targets
            .map(|(action, method)| self.on_service(service, action, method))
            .collect()
    }

    fn on_service(
        &self,
        service: &Arc<Service>,
        action: SmolStr,
        method: Option<Method>,
    ) -> Target {
        Target {
            service: Arc::clone(service),
            entities: self.asked_for(&action, (Requested::Service, service.id.as_str())),
            operation: None,
            action,
            path: None,
            method,
            host: only(&service.hosts),
            shape: PathShape::new("/{*path}"),
        }
    }

    fn asked_for(&self, action: &str, (table, id): (Requested, &str)) -> Option<(Ent, Ent, Form)> {
        let action = self.world().requested(Requested::Action, action)?;
        let resource = self.world().requested(table, id)?;
        Some((action, resource, self.form(action)?))
    }

    /// Begins to ask about many.
    ///
    /// # Errors
    /// [`ExplainError::Context`] when the given context is no JSON object.
    pub fn survey<'s>(&'s self, given: Given<'s>) -> Result<Survey<'s>, ExplainError> {
        let json = given.context_json.unwrap_or("{}");
        let parse =
            |form| Recorded::parse(json, form, self.layout()).map_err(ExplainError::Context);
        Ok(Survey {
            snapshot: self,
            given,
            http: parse(Form::Http)?,
            grpc: parse(Form::Grpc)?,
            trees: self.rules().iter().map(|_| OnceCell::new()).collect(),
            parts: self.rules().iter().map(|_| OnceCell::new()).collect(),
        })
    }
}

fn only(hosts: &[SmolStr]) -> Option<SmolStr> {
    match hosts {
        [one] => Some(one.clone()),
        _ => None,
    }
}

/// The actions of an operation, each with the method where that is one.
fn actions_of(service: &Service, operation: &Operation) -> Vec<(SmolStr, Option<Method>)> {
    let only = match operation.methods.as_slice() {
        [one] => Some(*one),
        _ => None,
    };
    match (&operation.action, service.protocol) {
        (Some(action), _) => vec![(action.clone(), only)],
        (None, Protocol::Grpc) => vec![(SmolStr::new_static(GRPC_CALL), only)],
        (None, Protocol::Http) => {
            let methods = operation.methods.iter();
            methods
                .map(|m| (SmolStr::new_static(m.as_str()), Some(*m)))
                .collect()
        }
    }
}

impl Caller {
    #[cfg(feature = "analysis")]
    pub(crate) fn entity(&self) -> Ent {
        self.entity
    }
}

impl Target {
    /// Whether its requests have this method, as far as they have one.
    pub fn is_by(&self, method: &str) -> bool {
        self.method.is_some_and(|m| m.as_str() == method)
    }

    /// `Operation` or `Service`: the type of the Cedar resource.
    pub fn resource_type(&self) -> &'static str {
        match self.operation {
            Some(_) => OPERATION,
            None => SERVICE,
        }
    }

    /// Id of the Cedar resource.
    pub fn resource_id(&self) -> &str {
        let of_service = self.service.id.as_str();
        self.operation.as_deref().unwrap_or(of_service)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) | Self::Named(id) => f.write_str(id),
            Self::Others(domain) => write!(f, "any other workload of {domain}"),
            Self::Anyone => f.write_str("any workload of another trust domain"),
        }
    }
}

impl Survey<'_> {
    /// Whether `caller` may ask for `target`.
    pub fn access(&self, caller: &Caller, target: &Target) -> Access {
        let Some(case) = self.case(caller, target) else {
            // An action that the schema lacks, or a resource that the entities lack.
            return Access::certain(Verdict::Undecided(Undecided::NotEncodable), Vec::new());
        };
        case.access()
    }

    /// What is open about the policies that an answer of [`May::OnlyIf`] names.
    pub fn conditions(&self, caller: &Caller, target: &Target, access: &Access) -> Vec<OpenPolicy> {
        let Some(case) = self.case(caller, target) else {
            return Vec::new();
        };
        let ids = access.permits.iter().chain(&access.forbids);
        ids.filter_map(|id| case.condition(id)).collect()
    }

    /// What is open of the conditions of each of these policies, one text for each part
    /// that has to hold.
    #[cfg(feature = "analysis")]
    pub(crate) fn terms(
        &self,
        caller: &Caller,
        target: &Target,
        ids: &[SmolStr],
    ) -> Vec<Vec<String>> {
        let case = self.case(caller, target);
        let terms = |id| case.as_ref().map(|case| case.terms(id)).unwrap_or_default();
        ids.iter().map(terms).collect()
    }

    fn case<'c>(&'c self, caller: &Caller, target: &'c Target) -> Option<Case<'c>> {
        let (action, resource, form) = target.entities?;
        let entities = (caller.entity, action, resource);
        let facts = OpenFacts {
            survey: self,
            target,
            form,
        };
        let slice = self.snapshot.slice(entities, self.given.now_us);
        Case::new(self, facts, entities, slice)
    }

    /// The conditions of a policy, part by part.
    fn parts(&self, id: &SmolStr) -> &[Part] {
        let rules = self.snapshot.rules();
        let at = rules.binary_search_by(|rule| rule.id.cmp(id)).ok();
        let cell = at.and_then(|at| self.parts.get(at));
        let parts = cell.map(|cell| cell.get_or_init(|| Part::all(self.snapshot, id)));
        parts.map_or(&[], Vec::as_slice)
    }

    /// The body of the policy at `position`, taken apart.
    fn tree(&self, position: u32, body: &Body) -> &Tree {
        let at = usize::try_from(position).ok();
        let cell = at.and_then(|at| self.trees.get(at));
        cell.expect("there is a place for each rule of the snapshot")
            .get_or_init(|| body.taken_apart(self.snapshot.layout()))
    }
}

impl Access {
    fn certain(verdict: Verdict, deciding: Vec<SmolStr>) -> Self {
        Self {
            may: match verdict {
                Verdict::Allow => May::Yes,
                _ => May::No,
            },
            verdict: Some(verdict),
            deciding,
            permits: Vec::new(),
            forbids: Vec::new(),
        }
    }
}

/// The context as far as it is known.
struct OpenFacts<'c> {
    survey: &'c Survey<'c>,
    target: &'c Target,
    form: Form,
}

impl Facts for OpenFacts<'_> {
    fn fact(&self, field: Field) -> Fact<'_> {
        let given = match self.form {
            Form::Grpc => &self.survey.grpc,
            Form::Http => &self.survey.http,
        };
        match given.fact(field) {
            Fact::Unknown => self.implied(field),
            known => known,
        }
    }
}

impl OpenFacts<'_> {
    fn implied(&self, field: Field) -> Fact<'_> {
        let whole = |_: &&str| self.target.shape.is_none();
        let path = self.target.path.as_deref().filter(whole);
        let grpc = path.and_then(grpc_of);
        let text = |text: Option<_>| text.map_or(Fact::Unknown, Fact::from);
        match field {
            Field::GrpcMethod => text(grpc.map(|(_, method)| method)),
            Field::GrpcService => text(grpc.map(|(service, _)| service)),
            Field::HttpHost => text(self.target.host.as_deref()),
            Field::HttpMethod => text(self.target.method.map(Method::as_str)),
            Field::HttpPath => text(path),
            Field::Jwt | Field::User => Fact::Absent,
            Field::TimeHour | Field::TimeNow | Field::TimeWeekday if self.survey.given.clock => {
                clock_fact(field, self.survey.given.now_us)
            }
            Field::TlsMtls => Fact::Bool(true),
            Field::TlsVersion => "1.3".into(),
            _ => Fact::Unknown,
        }
    }
}
