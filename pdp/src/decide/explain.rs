//! Why a decision came out as it did: for `can --why`, `why` and the console.
//!
//! Made on demand, never on the request path. A default deny is explained by
//! the permits that came nearest: those in scope first, then those whose scope
//! fails in one place. What a record does not hold is said to be missing, and
//! nothing is concluded from it.

use std::collections::BTreeMap;

use palisade_mesh::{
    decision::{Decision, Question, Undecided, Verdict},
    spiffe_id::{SpiffeId, SpiffeIdError},
};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{
    Snapshot,
    asked::{Asked, Names},
    core::{Body, ValueCache, start_of},
    fact::{Fact, Facts, Live},
    field::{Field, Form},
    record::Recorded,
    rule::Rule,
    slice::Slice,
    world::{OPERATION, Requested, SERVICE, UNREGISTERED, uid},
};

use crate::compiled::PolicyInfo;

mod case;
mod near;
mod view;

use case::Case;
pub use view::{Clause, ClauseKind, ClauseState, PolicyView, Seen};

/// What a value is called that a record does not hold.
pub(crate) const NOT_RECORDED: &str = "not recorded";
/// What an attribute is called that is not there.
pub(crate) const ABSENT: &str = "absent";
/// Where a recorded context says when the decision was made.
const DECIDED_US: &str = "decided_us";

/// Why a decision came out as it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The outcome.
    pub verdict: Outcome,
    /// Its constant word as in records; `not_recorded` when the outcome is unknown.
    pub reason: String,
    /// The caller.
    pub principal: EntityName,
    /// Cedar action id.
    pub action: String,
    /// `Operation` or `Service`.
    pub resource: EntityName,
    /// Digest of the policy revision it was explained under, hex.
    pub revision: String,
    /// Number of that revision.
    pub sequence: u64,
    /// The policies that made the verdict, sorted by id.
    pub determining: Vec<PolicyView>,
    /// Policies that failed to evaluate, sorted by id.
    pub errors: Vec<PolicyView>,
    /// For a default deny: the nearest permits, nearest first, at most three.
    pub nearest: Vec<PolicyView>,
    /// Ids of shadow permits that match, sorted.
    pub shadow: Vec<String>,
    /// Entities that a decision needed and the snapshot lacks.
    pub missing_entities: Vec<String>,
    /// What the policies in scope read of the context, by path, as Cedar shows it.
    pub inputs: BTreeMap<String, String>,
    /// Paths of the context that the policies in scope read and the record lacks.
    pub not_recorded: Vec<String>,
}

/// The outcome of a decision, or that it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A permit matched and no forbid did.
    Allow,
    /// A `forbid` matched.
    Forbidden,
    /// No permit matched.
    NotPermitted,
    /// There was no way to decide.
    Undecided,
    /// The record lacks an input.
    Unknown,
}

/// An entity by type and id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityName {
    /// Type, e.g. `Workload`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Id.
    pub id: String,
}

/// Why a recorded decision cannot be explained; the record is to blame.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The context is not what decisions record.
    #[error("recorded context is not a JSON object: {0}")]
    Context(String),
    /// The principal is no SPIFFE ID.
    #[error("recorded principal `{principal}` is no SPIFFE ID: {cause}")]
    Principal {
        /// As recorded.
        principal: String,
        /// What is wrong with it.
        cause: SpiffeIdError,
    },
    /// The resource is neither an operation nor a service.
    #[error("recorded resource type `{0}` is neither `Operation` nor `Service`")]
    ResourceType(String),
}

impl Snapshot {
    /// Explains the decision of a request.
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let principal = &question.connection.peer.id;
        let asked = match self.ask(question) {
            Ok(asked) => asked,
            Err(why) => {
                let verdict = Verdict::Undecided(why);
                return self.unexplained(principal, Names::of(question), verdict);
            }
        };
        let facts = Live::new(question, self.layout(), asked.form);
        self.explain_case(principal, &asked, &facts, Some(question.now_us))
    }

    /// Every policy whose scope takes a request, and how far it got with it: forbids, then
    /// permits, then shadow permits. None where there is no way to decide.
    pub fn in_scope(&self, question: &Question<'_>) -> Vec<PolicyView> {
        let Ok(asked) = self.ask(question) else {
            return Vec::new();
        };
        let principal = &question.connection.peer.id;
        let facts = Live::new(question, self.layout(), asked.form);
        let case = Case::new(self, principal, &asked, &facts, Some(question.now_us));
        let slice = self.slice(asked.entities(), question.now_us);
        let all = [&slice.forbids, &slice.permits, &slice.shadows];
        let rules = all.into_iter().flat_map(|positions| self.at(positions));
        rules.filter_map(|rule| case.view(rule, &[])).collect()
    }

    /// The `&&` parts of a policy's conditions, each with its line and as it was written.
    pub fn clauses(&self, info: &PolicyInfo) -> Vec<(ClauseKind, usize, String)> {
        let id = cedar_policy::PolicyId::new(info.id.as_str());
        let Some(policy) = self.compiled().policies.policy(&id) else {
            return Vec::new();
        };
        let parts = Body::of(policy).map_or_else(Vec::new, |b| b.conjuncts(start_of(policy)));
        let parts = parts.into_iter();
        parts
            .map(|part| (part.kind.into(), info.first_line + part.line, part.text))
            .collect()
    }

    /// Explains a decision from what its record says, under this snapshot's policies.
    ///
    /// # Errors
    /// When the record is malformed. What it merely lacks is said in the answer.
    pub fn explain_recorded(
        &self,
        principal: &str,
        action: &str,
        resource_type: &str,
        resource_id: &str,
        context_json: &str,
    ) -> Result<Explanation, ExplainError> {
        let id = SpiffeId::parse(principal).map_err(|cause| ExplainError::Principal {
            principal: principal.to_owned(),
            cause,
        })?;
        let (resource_type, table) = match resource_type {
            OPERATION => (OPERATION, Requested::Operation),
            SERVICE => (SERVICE, Requested::Service),
            other => return Err(ExplainError::ResourceType(other.to_owned())),
        };
        let names = Names {
            action,
            resource_type,
            resource_id,
        };
        let action = self.world().requested(Requested::Action, action);
        let form = action.and_then(|a| self.form(a));
        let recorded = Recorded::parse(context_json, form.unwrap_or(Form::Http), self.layout())
            .map_err(ExplainError::Context)?;
        let (Some(action), Some(form)) = (action, form) else {
            let why = Verdict::Undecided(Undecided::NotEncodable);
            return Ok(self.unexplained(&id, names, why));
        };
        let resource = self.world().requested(table, resource_id);
        let (Some(principal), Some(resource)) = (self.principal(&id), resource) else {
            let why = Verdict::Undecided(Undecided::MissingEntity);
            return Ok(self.unexplained(&id, names, why));
        };
        let asked = Asked {
            principal,
            action,
            resource,
            form,
            names,
        };
        Ok(self.explain_case(&id, &asked, &recorded, recorded.decided_us))
    }

    fn explain_case(
        &self,
        principal: &SpiffeId,
        asked: &Asked<'_>,
        facts: &dyn Facts,
        now_us: Option<i64>,
    ) -> Explanation {
        // Without a time nothing is taken to have expired, and nothing is concluded.
        let at = now_us.unwrap_or(i64::MIN);
        let slice = self.slice(asked.entities(), at);
        let not_recorded = self.not_recorded(&slice, facts, now_us);
        let case = Case::new(self, principal, asked, facts, now_us);
        let mut explanation = self.outline(principal, asked.names);
        explanation.inputs = self.inputs(&slice, &case);
        if not_recorded.is_empty() {
            let cached = self.evaluate(asked, &slice, facts, at, &mut ValueCache::default());
            let shadows = cached.shadows.iter().flat_map(|s| s.iter());
            let shadows = shadows.filter_map(|i| super::index::rule_at(self.rules(), *i));
            explanation.shadow = shadows.map(|rule| rule.id.to_string()).collect();
            self.tell(&mut explanation, &cached.decision, &case);
        } else {
            explanation.verdict = Outcome::Unknown;
            explanation.reason = "not_recorded".to_owned();
            explanation.nearest = near::nearest(&case);
            explanation.not_recorded = not_recorded;
        }
        explanation
    }

    /// Fills in what a decision says.
    fn tell(&self, explanation: &mut Explanation, decision: &Decision, case: &Case<'_>) {
        explanation.verdict = Outcome::from(decision.verdict);
        explanation.reason = decision.verdict.reason().to_owned();
        let views = |ids: &[SmolStr]| -> Vec<PolicyView> {
            let rules = ids.iter().filter_map(|id| self.rule(id));
            rules.filter_map(|rule| case.view(rule, &[])).collect()
        };
        explanation.determining = views(&decision.determining);
        explanation.errors = views(&decision.errors);
        match decision.verdict {
            Verdict::NotPermitted => explanation.nearest = near::nearest(case),
            Verdict::Undecided(Undecided::MissingEntity) => {
                let rules = decision.determining.iter().filter_map(|id| self.rule(id));
                let missing = rules.flat_map(|rule| rule.missing.iter());
                explanation.missing_entities = missing.map(ToString::to_string).collect();
                explanation.missing_entities.sort_unstable();
                explanation.missing_entities.dedup();
            }
            _ => {}
        }
    }

    /// An explanation where the snapshot does not know the parties.
    fn unexplained(&self, principal: &SpiffeId, names: Names<'_>, verdict: Verdict) -> Explanation {
        let world = self.world();
        let mut missing = Vec::new();
        if world.requested(Requested::Action, names.action).is_none() {
            missing.push(uid("Action", names.action).to_string());
        }
        if self.principal(principal).is_none() {
            missing.push(uid(super::world::WORKLOAD, principal.as_str()).to_string());
        }
        let table = match names.resource_type {
            OPERATION => Requested::Operation,
            _ => Requested::Service,
        };
        if world.requested(table, names.resource_id).is_none() {
            missing.push(uid(names.resource_type, names.resource_id).to_string());
        }
        Explanation {
            verdict: Outcome::from(verdict),
            reason: verdict.reason().to_owned(),
            missing_entities: missing,
            ..self.outline(principal, names)
        }
    }

    fn outline(&self, principal: &SpiffeId, names: Names<'_>) -> Explanation {
        let world = self.world();
        let known = self.principal(principal).and_then(|e| world.uid(e));
        let kind = known.map_or(UNREGISTERED.to_owned(), |uid| uid.type_name().to_string());
        let versions = self.versions();
        Explanation {
            verdict: Outcome::Unknown,
            reason: String::new(),
            principal: EntityName {
                kind,
                id: principal.to_string(),
            },
            action: names.action.to_owned(),
            resource: EntityName {
                kind: names.resource_type.to_owned(),
                id: names.resource_id.to_owned(),
            },
            revision: versions.policy.to_string(),
            sequence: versions.sequence,
            determining: Vec::new(),
            errors: Vec::new(),
            nearest: Vec::new(),
            shadow: Vec::new(),
            missing_entities: Vec::new(),
            inputs: BTreeMap::new(),
            not_recorded: Vec::new(),
        }
    }

    fn inputs(&self, slice: &Slice, case: &Case<'_>) -> BTreeMap<String, String> {
        let fields = slice.fields.iter();
        fields
            .map(|field| (self.path_of(*field), case.show(*field)))
            .collect()
    }

    fn not_recorded(&self, slice: &Slice, facts: &dyn Facts, now_us: Option<i64>) -> Vec<String> {
        let unknown = |field: &&Field| facts.fact(**field) == Fact::Unknown;
        let fields = slice.enforced.iter().filter(unknown);
        let mut paths: Vec<String> = fields.map(|f| self.path_of(*f)).collect();
        if slice.expires && now_us.is_none() {
            paths.push(DECIDED_US.to_owned());
        }
        paths
    }

    pub(crate) fn path_of(&self, field: Field) -> String {
        format!("context.{}", self.layout().whole_path(field).join("."))
    }

    fn rule(&self, id: &str) -> Option<&Rule> {
        let position = self
            .rules()
            .binary_search_by(|rule| rule.id.as_str().cmp(id));
        self.rules().get(position.ok()?)
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Forbidden => Self::Forbidden,
            Verdict::NotPermitted => Self::NotPermitted,
            Verdict::Undecided(_) => Self::Undecided,
        }
    }
}
