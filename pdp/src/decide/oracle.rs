//! The reference: Cedar's own authorizer on the whole policy set.
//!
//! It shares the words and the outcome rules with the engine and nothing else:
//! public interface only, contexts made from expressions and checked against
//! the schema, entity ids instead of numbers, every policy visited.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision as Cedar, Entities, Entity, EntityUid, Request,
    RestrictedExpression as Expr, Schema,
};
use palisade_mesh::{
    canonical::Method,
    catalogue::{Catalogue, HeaderShape},
    decision::{Decision, Question, Undecided},
    spiffe_id::SpiffeId,
};
use smol_str::SmolStr;

use super::{
    Snapshot,
    asked::{Asked, Names},
    fact::{Fact, Facts, Live, moment_text, next_tick},
    field::{Field, Form, Layout},
    known::Known,
    outcome::Findings,
    record,
    rule::{Rule, Scope, Shape},
    world::{UNREGISTERED, uid, uid_of_domain},
};

/// Whether two decisions say the same; where they came from may differ.
pub(crate) fn agree(a: &Decision, b: &Decision) -> bool {
    (a.verdict, &a.determining, &a.errors) == (b.verdict, &b.determining, &b.errors)
}

/// What [`agree`] compares, in words for the process's own log: of the request, which may be
/// somebody's, nothing.
pub(crate) fn said(of: &Decision) -> String {
    let (verdict, by, errors) = (of.verdict, &of.determining, &of.errors);
    format!("{verdict:?} by {by:?}, errors {errors:?}")
}

/// See [`Snapshot::reference`]. What is not `known` is no fact: a policy in scope that reads
/// it leaves the question undecided, and the record does not have it.
pub(crate) fn reference(snapshot: &Snapshot, question: &Question<'_>, known: Known) -> Decision {
    let asked = match snapshot.ask(question) {
        Ok(asked) => asked,
        Err(why) => return snapshot.fault(Names::of(question), why),
    };
    let facts = Live::knowing(question, snapshot.layout(), asked.form, known);
    let fields = snapshot.layout().fields(asked.form);
    let found = findings(snapshot, question, &asked, &facts, &fields);
    let mut decision = match found {
        Ok(findings) => snapshot.decision(asked.names, findings),
        Err(why) => snapshot.fault(asked.names, why),
    };
    let now = Some(question.now_us);
    decision.context_json = record::write(&facts, &fields, snapshot.layout(), now);
    decision
}

/// Until when a decision of `now_us` holds by itself, whatever it is about: the next
/// tick of the finest clock that some policy reads, or the next expiry.
pub(crate) fn valid_until_us(snapshot: &Snapshot, now_us: i64) -> Option<i64> {
    let rules = snapshot.rules().iter().filter(|rule| rule.enforced(now_us));
    let moments = rules.flat_map(|rule| {
        let ticks = rule.reads.iter();
        let ticks = ticks.filter_map(|field| next_tick(*field, now_us));
        ticks.chain(rule.expires_us)
    });
    moments.min()
}

fn findings(
    snapshot: &Snapshot,
    question: &Question<'_>,
    asked: &Asked<'_>,
    facts: &Live<'_>,
    fields: &[Field],
) -> Result<Findings, Undecided> {
    let asking = Asking::new(snapshot, question, asked).ok_or(Undecided::NotEncodable)?;
    let enforced: BTreeMap<&str, &Rule> = snapshot
        .rules()
        .iter()
        .filter(|rule| rule.enforced(question.now_us))
        .map(|rule| (rule.id.as_str(), rule))
        .collect();
    let unfit = |f: &Field| facts.fact(*f) == Fact::Unfit;
    let mut missing = Vec::new();
    for policy in snapshot.compiled().policies.policies() {
        let id: &str = policy.id().as_ref();
        let Some(rule) = enforced.get(id) else {
            continue;
        };
        let suspicious = !rule.missing.is_empty() || rule.reads.iter().any(unfit);
        if !suspicious || !asking.in_scope(&Scope::of(policy), &rule.missing) {
            continue;
        }
        if !rule.void && rule.reads.iter().any(unfit) {
            return Err(Undecided::NotEncodable);
        }
        if !rule.missing.is_empty() {
            missing.push(SmolStr::new(id));
        }
    }
    let context = context(facts, fields, asked.form, snapshot.layout())
        .map_err(|_| Undecided::NotEncodable)?;
    // Values that nothing enforced reads may be unfit and then are left out, which
    // only a required attribute could notice.
    let schema = (!fields.iter().any(unfit)).then_some(&snapshot.compiled().schema);
    let request = asking.request(context, schema);
    let request = request.ok_or(Undecided::NotEncodable)?;
    let answer =
        Authorizer::new().is_authorized(&request, &snapshot.compiled().policies, &asking.entities);
    let mut findings = Findings {
        forbids_missing: missing,
        ..Findings::default()
    };
    let reasons = answer.diagnostics().reason().map(AsRef::as_ref);
    let reasons = reasons.filter(|id: &&str| enforced.contains_key(id));
    match answer.decision() {
        Cedar::Allow => findings.permits = reasons.map(SmolStr::new).collect(),
        Cedar::Deny => findings.forbids = reasons.map(SmolStr::new).collect(),
    }
    for error in answer.diagnostics().errors() {
        let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
        let id: &str = error.policy_id().as_ref();
        match enforced.get(id) {
            Some(rule) if rule.permit => findings.permit_errors.push(id.into()),
            Some(_) => findings.forbid_errors.push(id.into()),
            None => {}
        }
    }
    Ok(findings)
}

/// A question in Cedar's terms.
struct Asking<'s> {
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    entities: Cow<'s, Entities>,
}

impl<'s> Asking<'s> {
    fn new(snapshot: &'s Snapshot, question: &Question<'_>, asked: &Asked<'_>) -> Option<Self> {
        let world = snapshot.world();
        let stored = &snapshot.compiled().entities;
        let mut principal = world.uid(asked.principal)?.clone();
        // What follows from the ID of a stranger follows whoever asks.
        let named = world.named_strangers();
        let mut strangers: BTreeMap<EntityUid, SpiffeId> = named
            .map(|id| Some((uid(UNREGISTERED, id), SpiffeId::parse(id).ok()?)))
            .collect::<Option<_>>()?;
        if stored.get(&principal).is_none() {
            // The caller himself, and not the stand-in for all like him.
            let id = question.connection.peer.id.clone();
            principal = uid(UNREGISTERED, id.as_str());
            strangers.insert(principal.clone(), id);
        }
        strangers.retain(|uid, _| stored.get(uid).is_none());
        let entities = match strangers.is_empty() {
            true => Cow::Borrowed(stored),
            false => {
                let made = strangers.into_iter().map(|(uid, id)| stranger(uid, &id));
                let made = made.collect::<Option<Vec<Entity>>>()?;
                Cow::Owned(stored.clone().add_entities(made, None).ok()?)
            }
        };
        Some(Self {
            principal,
            action: world.uid(asked.action)?.clone(),
            resource: world.uid(asked.resource)?.clone(),
            entities,
        })
    }

    fn request(&self, context: Context, schema: Option<&Schema>) -> Option<Request> {
        Request::new(
            self.principal.clone(),
            self.action.clone(),
            self.resource.clone(),
            context,
            schema,
        )
        .ok()
    }

    /// Whether a scope holds, leaving out membership of entities that are missing.
    fn in_scope(&self, scope: &Scope, missing: &[EntityUid]) -> bool {
        let test = |shape: Shape<'_>, uid: &EntityUid| match shape {
            Shape::Any => true,
            Shape::Eq(other) => uid == other,
            Shape::In(kind, other) => {
                kind.is_none_or(|k| uid.type_name() == k)
                    && (missing.contains(other) || self.is_in(uid, other))
            }
            Shape::Is(kind) => uid.type_name() == kind,
        };
        let action = match &scope.action {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => *uid == self.action,
            ActionConstraint::In(uids) => uids.iter().any(|u| self.is_in(&self.action, u)),
        };
        action
            && test(Shape::of_principal(&scope.principal), &self.principal)
            && test(Shape::of_resource(&scope.resource), &self.resource)
    }

    fn is_in(&self, uid: &EntityUid, other: &EntityUid) -> bool {
        uid == other || self.entities.is_ancestor_of(other, uid)
    }
}

/// A caller that no service claims: his ID says his trust domain and no more.
fn stranger(uid: EntityUid, id: &SpiffeId) -> Option<Entity> {
    let domain = uid_of_domain(id.trust_domain());
    let reference = Expr::new_entity_uid(domain.clone());
    let attributes = HashMap::from([("trustDomain".to_owned(), reference)]);
    Entity::new(uid, attributes, HashSet::from([domain])).ok()
}

/// The whole context, made of expressions.
fn context(
    facts: &dyn Facts,
    fields: &[Field],
    form: Form,
    layout: &Layout,
) -> Result<Context, Box<dyn std::error::Error>> {
    let mut groups: BTreeMap<&str, Vec<(String, Expr)>> = BTreeMap::new();
    for group in ["source", "tls", "time"] {
        groups.insert(group, Vec::new());
    }
    let protocol = match form {
        Form::Grpc => "grpc",
        Form::Http => "http",
    };
    groups.insert(protocol, Vec::new());
    let mut headers = Vec::new();
    for field in fields {
        let Some(value) = expression(facts.fact(*field)) else {
            continue;
        };
        let (records, name) = layout.path(*field);
        match records {
            [group] => {
                let group = groups.entry(group).or_default();
                group.push((name.to_owned(), value));
            }
            ["http", "headers"] => headers.push((name.to_owned(), value)),
            _ => {}
        }
    }
    if form == Form::Http {
        let headers = Expr::new_record(headers)?;
        groups
            .entry("http")
            .or_default()
            .push(("headers".into(), headers));
    }
    let mut pairs = Vec::new();
    for (name, group) in groups {
        pairs.push((name.to_owned(), Expr::new_record(group)?));
    }
    Ok(Context::from_pairs(pairs)?)
}

fn expression(fact: Fact<'_>) -> Option<Expr> {
    let text = |t: Cow<'_, str>| Expr::new_string(t.into_owned());
    Some(match fact {
        Fact::Absent | Fact::Unfit | Fact::Unknown => return None,
        Fact::Bool(b) => Expr::new_bool(b),
        Fact::Ip(ip) => Expr::new_ip(ip.to_string()),
        Fact::Long(n) => Expr::new_long(n),
        Fact::Moment(second) => Expr::new_datetime(moment_text(second)?),
        Fact::Text(t) => text(t),
        Fact::Texts(ts) => Expr::new_set(ts.into_iter().map(text)),
    })
}

/// Actions that requests to the services of a catalogue can have.
pub(crate) fn needed_actions(catalogue: &Catalogue) -> BTreeSet<SmolStr> {
    let services = catalogue.services().iter();
    let business = services.flat_map(|s| s.operations.iter().filter_map(|o| o.action.clone()));
    let methods = Method::ALL.iter().map(|m| m.as_str());
    let protocol = methods.chain(["grpc:call"]).map(SmolStr::new);
    business.chain(protocol).collect()
}

/// Whether the schema takes the mesh's contexts for an action: one with every
/// optional attribute, and one with none.
///
/// # Errors
/// What the schema says against it.
pub(crate) fn check_samples(
    schema: &Schema,
    layout: &Layout,
    action: &EntityUid,
    form: Form,
) -> Result<(), String> {
    let fields = layout.fields(form);
    for full in [true, false] {
        let sample = Sample { layout, full };
        let context = context(&sample, &fields, form, layout).map_err(|e| e.to_string())?;
        context
            .validate(schema, action)
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

struct Sample<'a> {
    layout: &'a Layout,
    full: bool,
}

impl Facts for Sample<'_> {
    fn fact(&self, field: Field) -> Fact<'_> {
        let optional = |fact| if self.full { fact } else { Fact::Absent };
        match field {
            Field::Header(i) => optional(match self.layout.header(i).map(|h| h.shape) {
                Some(HeaderShape::List) => Fact::Texts(vec!["".into()]),
                _ => Fact::from(""),
            }),
            Field::HttpQuery | Field::TlsAlpn | Field::TlsSni => optional(Fact::from("")),
            Field::Jwt | Field::User => Fact::Absent,
            Field::SourceIp => Fact::Ip(std::net::Ipv4Addr::LOCALHOST.into()),
            Field::SourcePort | Field::TimeHour | Field::TimeWeekday => Fact::Long(1),
            Field::TimeNow => Fact::Moment(0),
            Field::TlsMtls => Fact::Bool(true),
            _ => Fact::from(""),
        }
    }
}
