//! A policy revision, ready to decide: immutable, shared by all workers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cedar_policy::{Effect, EntityUid, Policy};
use palisade_mesh::{
    catalogue::Catalogue,
    decision::{Decision, Question, Undecided, Verdict},
    snapshot::Versions,
};
use rustc_hash::FxHashMap;
use smol_str::SmolStr;

use super::{
    SelfCheck, SnapshotError,
    asked::{Asked, GRPC_CALL, Names},
    core::{
        Body, ContextType, Evaluation, Store, Truth, Uses, ValueCache, Values, context, uses,
        with_stack,
    },
    engine::Engine,
    fact::{Fact, Facts, is_grpc_path},
    field::{Field, Form, Layout},
    index::{Index, rule_at},
    known::Known,
    oracle,
    outcome::Findings,
    record,
    rule::{Rule, Scope},
    slice::{Cached, Slice},
    world::{Ent, OPERATION, Requested, Triple, World},
};
use crate::compiled::{Compiled, PolicyInfo};

/// A policy revision, ready to decide.
#[derive(Debug)]
pub struct Snapshot {
    compiled: Compiled,
    sequence: u64,
    layout: Layout,
    world: World,
    store: Store,
    rules: Vec<Rule>,
    index: Index,
    /// Which context each action comes with.
    forms: FxHashMap<Ent, Form>,
    /// Levels of the deepest body.
    deepest: usize,
    checked: AtomicU64,
    mismatched: AtomicU64,
}

impl Snapshot {
    /// Builds everything a decision needs, so that deciding only looks up.
    ///
    /// # Errors
    /// When the parts of `compiled` do not fit together; a snapshot that could not
    /// enforce what its texts say is never made.
    pub fn new(compiled: Compiled, sequence: u64) -> Result<Arc<Self>, SnapshotError> {
        let layout = Layout::new(compiled.catalogue.headers());
        let mut parts = Vec::new();
        let mut named = BTreeSet::new();
        for policy in compiled.policies.policies() {
            let info = info_of(&compiled, policy)?;
            let uses = Body::of(policy).map_or_else(Uses::default, |body| uses(&body, &layout));
            named.extend(uses.entities.iter().cloned());
            named.extend(Scope::of(policy).entities());
            parts.push((policy, info, uses));
        }
        parts.sort_by(|a, b| a.1.id.cmp(&b.1.id));
        let (world, store) = World::new(&compiled.entities, &named, &compiled.catalogue)?;
        let rules: Vec<Rule> = parts
            .into_iter()
            .map(|(policy, info, uses)| Rule::new(policy, info, uses, &world))
            .collect();
        let forms = forms_of(&compiled, &world, &layout)?;
        let bodies = rules.iter().filter_map(|rule| rule.body.as_ref());
        Ok(Arc::new(Self {
            deepest: bodies.map(Body::depth).max().unwrap_or_default(),
            index: Index::new(&rules),
            sequence,
            layout,
            world,
            store,
            rules,
            forms,
            checked: AtomicU64::new(0),
            mismatched: AtomicU64::new(0),
            compiled,
        }))
    }

    /// A decider of its own for one worker.
    pub fn engine(self: &Arc<Self>) -> Engine {
        Engine::new(Arc::clone(self))
    }

    /// The policy revision; discovery and kill list are not the engine's.
    pub fn versions(&self) -> Versions {
        Versions {
            policy: self.compiled.digest,
            sequence: self.sequence,
            ..Versions::default()
        }
    }

    /// The catalogue of the revision.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.compiled.catalogue
    }

    /// What the snapshot was built from.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// What the sampled comparison of engine and reference found so far.
    pub fn self_check(&self) -> SelfCheck {
        SelfCheck {
            checked: self.checked.load(Ordering::Relaxed),
            mismatched: self.mismatched.load(Ordering::Relaxed),
        }
    }

    /// How many questions each shadow permit would have permitted, by policy id.
    pub fn shadow_matches(&self) -> BTreeMap<SmolStr, u64> {
        let shadows = self.rules.iter().filter(|rule| rule.shadow);
        shadows
            .map(|rule| (rule.id.clone(), rule.matched.load(Ordering::Relaxed)))
            .collect()
    }

    /// Decides by Cedar's own authorizer on the whole set, with the whole context:
    /// slow, and what the engine is measured by. Its `valid_until_us` is not set.
    pub fn reference(&self, question: &Question<'_>) -> Decision {
        self.reference_knowing(question, Known::ALL)
    }

    /// The reference's decision, for whoever enforces it: of what is `known`, and with the
    /// moment at which it may change by itself.
    pub(crate) fn referred(&self, question: &Question<'_>, known: Known) -> Decision {
        Decision {
            valid_until_us: oracle::valid_until_us(self, question.now_us),
            ..self.reference_knowing(question, known)
        }
    }

    fn reference_knowing(&self, question: &Question<'_>, known: Known) -> Decision {
        with_stack(self.deepest, || oracle::reference(self, question, known))
    }

    #[cfg(test)]
    /// Breaks the index: it does not find this policy any more.
    pub(crate) fn lose(&mut self, id: &str) {
        self.index = Index::of(&self.rules, |rule| rule.id != id);
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The form of the context that comes with an action.
    pub(crate) fn form(&self, action: Ent) -> Option<Form> {
        self.forms.get(&action).copied()
    }

    pub(crate) fn info(&self, id: &str) -> Option<&PolicyInfo> {
        self.compiled.info.get(id)
    }

    /// Puts a question in terms of the snapshot, or says why there is no answer.
    pub(crate) fn ask<'q>(&self, question: &Question<'q>) -> Result<Asked<'q>, Undecided> {
        if !self.compiled.coverage.has(&question.service.id) {
            return Err(Undecided::NotServed);
        }
        let names = Names::of(question);
        let action = self
            .world
            .requested(Requested::Action, names.action)
            .ok_or(Undecided::NotEncodable)?;
        let form = self.form(action).ok_or(Undecided::NotEncodable)?;
        if form == Form::Grpc && !is_grpc_path(&question.request.path) {
            return Err(Undecided::NotEncodable);
        }
        let table = match question.operation {
            Some(_) => Requested::Operation,
            None => Requested::Service,
        };
        let resource = self.world.requested(table, names.resource_id);
        let principal = self.principal(&question.connection.peer.id);
        Ok(Asked {
            principal: principal.ok_or(Undecided::MissingEntity)?,
            action,
            resource: resource.ok_or(Undecided::MissingEntity)?,
            form,
            names,
        })
    }

    /// The entities that a caller and names stand for, and the form of the context;
    /// `None` when the snapshot lacks one of them.
    pub(crate) fn named(
        &self,
        caller: &palisade_mesh::spiffe_id::SpiffeId,
        names: Names<'_>,
    ) -> Option<(Triple, Form)> {
        let action = self.world.requested(Requested::Action, names.action)?;
        let table = match names.resource_type {
            OPERATION => Requested::Operation,
            _ => Requested::Service,
        };
        let resource = self.world.requested(table, names.resource_id)?;
        let form = self.form(action)?;
        Some(((self.principal(caller)?, action, resource), form))
    }

    /// The caller's entity. One that a service claims but the store lacks has no
    /// known groups, so nothing may be decided about it.
    pub(crate) fn principal(&self, id: &palisade_mesh::spiffe_id::SpiffeId) -> Option<Ent> {
        let registered = self.world.requested(Requested::Workload, id.as_str());
        if registered.is_none() && self.compiled.catalogue.by_identity(id).is_some() {
            return None;
        }
        registered.or_else(|| self.world.stranger(id))
    }

    pub(crate) fn slice(&self, entities: Triple, now_us: i64) -> Slice {
        let form = self.form(entities.1);
        let index = (&self.index, self.rules.as_slice());
        Slice::new(index, &self.world, entities, form, now_us)
    }

    /// Evaluates the bodies of a slice, and writes down what they read.
    pub(crate) fn evaluate(
        &self,
        asked: &Asked<'_>,
        slice: &Slice,
        facts: &dyn Facts,
        now_us: i64,
        values: &mut ValueCache,
    ) -> Cached {
        let (mut decision, shadows) = self.judge(asked, slice, facts, now_us, values);
        decision.context_json = record::write(
            facts,
            &slice.fields,
            &self.layout,
            slice.expires.then_some(now_us),
        );
        Cached {
            decision: Arc::new(decision),
            shadows: (!shadows.is_empty()).then(|| shadows.into()),
        }
    }

    /// Evaluates the bodies of a slice; which shadow permits matched, by position.
    pub(crate) fn judge(
        &self,
        asked: &Asked<'_>,
        slice: &Slice,
        facts: &dyn Facts,
        now_us: i64,
        values: &mut ValueCache,
    ) -> (Decision, Vec<u32>) {
        let unfit = |field: &Field| facts.fact(*field) == Fact::Unfit;
        if slice.enforced.iter().any(unfit) {
            return (self.fault(asked.names, Undecided::NotEncodable), Vec::new());
        }
        let context = context(facts, &slice.fields, asked.form, &self.layout, values);
        let (findings, shadows) = match self.begin(asked.entities(), context) {
            Some(evaluation) => self.findings(&evaluation, slice, &unfit),
            None => (Findings::default(), Vec::new()),
        };
        let mut decision = self.decision(asked.names, findings);
        decision.valid_until_us = slice.valid_until_us(now_us);
        // Rules are in the order of their ids.
        let matched = self.at(&shadows).map(|rule| rule.id.clone());
        decision.shadow_permits = matched.collect();
        (decision, shadows)
    }

    /// Begins to evaluate bodies for one request; `None` for numbers of another snapshot.
    pub(crate) fn begin(
        &self,
        (principal, action, resource): Triple,
        context: Values,
    ) -> Option<Evaluation<'_>> {
        let named = |entity| self.world.named(entity);
        Some(
            self.store
                .ask(named(principal)?, named(action)?, named(resource)?, context),
        )
    }

    fn findings(
        &self,
        evaluation: &Evaluation<'_>,
        slice: &Slice,
        unfit: &dyn Fn(&Field) -> bool,
    ) -> (Findings, Vec<u32>) {
        let mut findings = Findings::default();
        let test = |rule: &Rule| {
            let body = rule.body.as_ref();
            body.map_or(Truth::True, |body| evaluation.test(body))
        };
        for rule in self.at(&slice.forbids) {
            match test(rule) {
                Truth::Error => findings.forbid_errors.push(rule.id.clone()),
                Truth::False => {}
                Truth::True => findings.forbids.push(rule.id.clone()),
            }
        }
        for rule in self.at(&slice.permits) {
            match test(rule) {
                Truth::Error => findings.permit_errors.push(rule.id.clone()),
                Truth::False => {}
                Truth::True => findings.permits.push(rule.id.clone()),
            }
        }
        let missing = self.at(&slice.missing).map(|rule| rule.id.clone());
        findings.forbids_missing.extend(missing);
        let shadows = slice.shadows.iter().copied().filter(|i| {
            rule_at(&self.rules, *i)
                .is_some_and(|rule| !rule.reads.iter().any(unfit) && test(rule) == Truth::True)
        });
        (findings, shadows.collect())
    }

    pub(crate) fn at<'s>(&'s self, positions: &'s [u32]) -> impl Iterator<Item = &'s Rule> {
        positions.iter().filter_map(|i| rule_at(&self.rules, *i))
    }

    /// The decision that follows from what the policies said.
    pub(crate) fn decision(&self, names: Names<'_>, findings: Findings) -> Decision {
        let outcome = findings.outcome();
        let said = match outcome.verdict {
            Verdict::Forbidden => outcome
                .determining
                .iter()
                .filter_map(|id| self.info(id))
                .find(|info| info.deny_message.is_some() || info.help_url.is_some()),
            _ => None,
        };
        Decision {
            verdict: outcome.verdict,
            action: names.action.into(),
            resource_type: names.resource_type,
            resource_id: names.resource_id.into(),
            determining: outcome.determining,
            errors: outcome.errors,
            shadow_permits: Vec::new(),
            deny_message: said.and_then(|info| info.deny_message.clone()),
            help_url: said.and_then(|info| info.help_url.clone()),
            context_json: SmolStr::new_static("{}"),
            valid_until_us: None,
        }
    }

    /// The decision when there is none.
    pub(crate) fn fault(&self, names: Names<'_>, why: Undecided) -> Decision {
        Decision {
            verdict: Verdict::Undecided(why),
            ..self.decision(names, Findings::default())
        }
    }

    /// Compares a decision with the reference. Where they differ, says what shall
    /// hold: a deny, the reference's before the engine's.
    pub(crate) fn check(&self, question: &Question<'_>, ours: &Decision) -> Option<Decision> {
        self.checked.fetch_add(1, Ordering::Relaxed);
        let reference = self.reference(question);
        if oracle::agree(ours, &reference) {
            return None;
        }
        self.mismatched.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            policy_sequence = self.sequence,
            action = %ours.action,
            resource = %ours.resource_id,
            engine = %oracle::said(ours),
            reference = %oracle::said(&reference),
            "engine and reference differ"
        );
        (!reference.verdict.is_allow()).then(|| Decision {
            shadow_permits: ours.shadow_permits.clone(),
            context_json: ours.context_json.clone(),
            valid_until_us: ours.valid_until_us,
            ..reference
        })
    }
}

fn info_of<'c>(compiled: &'c Compiled, policy: &Policy) -> Result<&'c PolicyInfo, SnapshotError> {
    let id: &str = policy.id().as_ref();
    let info = compiled
        .info
        .get(id)
        .ok_or_else(|| SnapshotError::NoInfo { id: id.into() })?;
    if info.id != id || info.permit != (policy.effect() == Effect::Permit) {
        return Err(SnapshotError::WrongInfo { id: id.into() });
    }
    if !info.permit && (info.shadow || info.expires_us.is_some()) {
        return Err(SnapshotError::WeakenedForbid { id: id.into() });
    }
    Ok(info)
}

/// Finds out which context each action takes by asking the schema about samples. What fits a
/// type of context fits it under each action, so of the many that share one, one is asked about.
fn forms_of(
    compiled: &Compiled,
    world: &World,
    layout: &Layout,
) -> Result<FxHashMap<Ent, Form>, SnapshotError> {
    let mut forms = FxHashMap::default();
    let needed = oracle::needed_actions(&compiled.catalogue);
    let mut of_types: Vec<(ContextType<'_>, Form)> = Vec::new();
    for uid in compiled.schema.actions() {
        let id = uid.id().unescaped();
        let Some(entity) = world.requested(Requested::Action, id) else {
            continue;
        };
        let context = ContextType::of(&compiled.schema, uid).filter(|_| id != GRPC_CALL);
        let known = of_types.iter().find(|(of, _)| Some(*of) == context);
        if let Some((_, form)) = known {
            forms.insert(entity, *form);
            continue;
        }
        match form_of(compiled, layout, uid) {
            Ok(form) => {
                forms.insert(entity, form);
                of_types.extend(context.map(|context| (context, form)));
            }
            Err(cause) if needed.contains(id) => {
                let action = id.into();
                return Err(SnapshotError::Context { action, cause });
            }
            Err(_) => {}
        }
    }
    Ok(forms)
}

fn form_of(compiled: &Compiled, layout: &Layout, action: &EntityUid) -> Result<Form, String> {
    let fits = |form| oracle::check_samples(&compiled.schema, layout, action, form);
    match fits(Form::Http) {
        Ok(()) => Ok(Form::Http),
        Err(http) if action.id().unescaped() != GRPC_CALL => {
            fits(Form::Grpc).map(|()| Form::Grpc).map_err(|_| http)
        }
        Err(_) => fits(Form::Grpc).map(|()| Form::Grpc),
    }
}
