//! What can be said of a request before its context is known: yes, no, or only if.
//!
//! Some facts are the same for every request to an operation (its method, a path without
//! parameters, that the peer proved an identity); the others are unknown. Parts of conditions
//! that read only what is known are evaluated as the engine does; what is left over are
//! the clauses on which the answer depends.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use palisade_mesh::canonical::Method;
use smol_str::SmolStr;

use super::{
    Snapshot,
    core::{Body, Conjunct, Evaluation, Kind, Truth, ValueCache, context, start_of},
    fact::{Fact, Facts, grpc_of},
    field::{Field, Form},
    index::rule_at,
    rule::Rule,
    world::Triple,
};

/// What every request to an operation has in common.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) form: Form,
    pub(crate) method: Method,
    /// Where there is only one.
    pub(crate) host: Option<SmolStr>,
    /// Where the template has no parameters.
    pub(crate) path: Option<SmolStr>,
}

impl Facts for Known {
    fn fact(&self, field: Field) -> Fact<'_> {
        if !field.is_in(self.form) {
            return Fact::Absent;
        }
        let grpc = self.path.as_deref().and_then(grpc_of);
        match field {
            Field::GrpcMethod => known(grpc.map(|(_, method)| method)),
            Field::GrpcService => known(grpc.map(|(service, _)| service)),
            Field::HttpHost => known(self.host.as_deref()),
            Field::HttpMethod => known(Some(self.method.as_str())),
            Field::HttpPath => known(self.path.as_deref()),
            // No listener verifies tokens yet.
            Field::Jwt | Field::User => Fact::Absent,
            Field::TlsMtls => Fact::Bool(true),
            Field::TlsVersion => known(Some("1.3")),
            _ => Fact::Unknown,
        }
    }
}

fn known(text: Option<&str>) -> Fact<'_> {
    text.map_or(Fact::Unknown, Fact::from)
}

/// An answer as far as it can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Possible {
    /// Every such request passes, by these permits.
    Allowed(BTreeSet<SmolStr>),
    /// None passes; these forbids are why, or else no permit is.
    Denied(BTreeSet<SmolStr>),
    /// It depends on what is unknown.
    Depends(Depends),
}

/// On what an answer depends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Depends {
    /// One of these must hold; by clauses, with the permits that have them.
    pub(crate) permits: Open,
    /// None of these may hold.
    pub(crate) forbids: Open,
}

/// Clauses that are left over, all of which must hold, with the policies that have them.
pub(crate) type Open = BTreeMap<Vec<String>, BTreeSet<SmolStr>>;

/// Looks at requests under one snapshot; takes each policy apart once.
pub(crate) struct Looking<'s> {
    snapshot: &'s Snapshot,
    now_us: i64,
    parts: Vec<OnceCell<Vec<Part>>>,
}

struct Part {
    conjunct: Conjunct,
    reads: Vec<Field>,
}

/// How a policy comes out.
enum Came {
    Error,
    False,
    Open(Vec<String>),
    True,
}

impl<'s> Looking<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot, now_us: i64) -> Self {
        let parts = snapshot.rules().iter().map(|_| OnceCell::new()).collect();
        Self {
            snapshot,
            now_us,
            parts,
        }
    }

    /// What can be said of requests by, for and to `entities`.
    pub(crate) fn look(&self, entities: Triple, known: &Known) -> Possible {
        let slice = self.snapshot.slice(entities, self.now_us);
        let named = |at: &[u32]| -> BTreeSet<SmolStr> {
            let rules = at.iter().filter_map(|i| rule_at(self.snapshot.rules(), *i));
            rules.map(|rule| rule.id.clone()).collect()
        };
        if !slice.missing.is_empty() {
            return Possible::Denied(named(&slice.missing));
        }
        let values = context(
            known,
            &slice.enforced,
            known.form,
            self.snapshot.layout(),
            &mut ValueCache::default(),
        );
        let Some(evaluation) = self.snapshot.begin(entities, values) else {
            return Possible::Denied(BTreeSet::new());
        };
        let (mut denied, mut depends) = (BTreeSet::new(), Depends::default());
        for (i, rule) in self.at(&slice.forbids) {
            match self.came(i, rule, &evaluation, known) {
                Came::Error | Came::True => drop(denied.insert(rule.id.clone())),
                Came::False => {}
                Came::Open(clauses) => add(&mut depends.forbids, clauses, rule),
            }
        }
        if !denied.is_empty() {
            return Possible::Denied(denied);
        }
        for (i, rule) in self.at(&slice.permits) {
            match self.came(i, rule, &evaluation, known) {
                Came::Error | Came::False => {}
                Came::Open(clauses) => add(&mut depends.permits, clauses, rule),
                Came::True => add(&mut depends.permits, Vec::new(), rule),
            }
        }
        // Where one permit asks for nothing more, it does not matter what others ask for.
        if let Some(free) = depends.permits.remove(&Vec::new()) {
            if depends.forbids.is_empty() {
                return Possible::Allowed(free);
            }
            depends.permits = Open::from([(Vec::new(), free)]);
        }
        match depends.permits.is_empty() {
            true => Possible::Denied(BTreeSet::new()),
            false => Possible::Depends(depends),
        }
    }

    fn at<'a>(&'a self, positions: &'a [u32]) -> impl Iterator<Item = (u32, &'s Rule)> + 'a {
        let rules = self.snapshot.rules();
        positions
            .iter()
            .filter_map(move |i| Some((*i, rule_at(rules, *i)?)))
    }

    fn came(&self, i: u32, rule: &Rule, evaluation: &Evaluation<'_>, known: &Known) -> Came {
        let Some(body) = &rule.body else {
            return Came::True;
        };
        let unknown = |field: &Field| known.fact(*field) == Fact::Unknown;
        if !rule.reads.iter().any(unknown) {
            return match evaluation.test(body) {
                Truth::Error => Came::Error,
                Truth::False => Came::False,
                Truth::True => Came::True,
            };
        }
        let Some(cell) = usize::try_from(i).ok().and_then(|i| self.parts.get(i)) else {
            return Came::False;
        };
        let parts = cell.get_or_init(|| self.take_apart(rule));
        let mut open = Vec::new();
        for condition in parts.chunk_by(|a, b| a.conjunct.condition == b.conjunct.condition) {
            match came_condition(condition, evaluation, &unknown, !open.is_empty()) {
                Came::Open(clauses) => open.extend(clauses),
                Came::True => {}
                decided => return decided,
            }
        }
        match open.is_empty() {
            true => Came::True,
            false => Came::Open(open),
        }
    }

    fn take_apart(&self, rule: &Rule) -> Vec<Part> {
        let policies = &self.snapshot.compiled().policies;
        let policy = policies.policy(&cedar_policy::PolicyId::new(rule.id.as_str()));
        let Some((policy, body)) = policy.and_then(|p| Some((p, Body::of(p)?))) else {
            return Vec::new();
        };
        let conjuncts = body.conjuncts(start_of(policy)).into_iter();
        conjuncts
            .map(|conjunct| Part {
                reads: conjunct.reads(self.snapshot.layout()),
                conjunct,
            })
            .collect()
    }
}

/// One `when` or `unless`. After a part that is `unsure`, an error may be just what that part
/// guards against.
fn came_condition(
    parts: &[Part],
    evaluation: &Evaluation<'_>,
    unknown: &dyn Fn(&Field) -> bool,
    mut unsure: bool,
) -> Came {
    let unless = parts
        .first()
        .is_some_and(|p| p.conjunct.kind == Kind::Unless);
    let mut open = Vec::new();
    for part in parts {
        let truth = match part.reads.iter().any(unknown) {
            true => None,
            false => Some(part.conjunct.test(evaluation).0),
        };
        match truth {
            Some(Truth::True) => {}
            Some(Truth::False) if unless => return Came::True,
            Some(Truth::False) => return Came::False,
            Some(Truth::Error) if !unsure => return Came::Error,
            Some(Truth::Error) | None => {
                unsure = true;
                open.push(one_line(&part.conjunct.text));
            }
        }
    }
    match (unless, open.is_empty()) {
        (false, true) => Came::True,
        (true, true) => Came::False,
        (false, false) => Came::Open(open),
        (true, false) => Came::Open(vec![format!("!({})", open.join(" && "))]),
    }
}

fn add(to: &mut Open, clauses: Vec<String>, rule: &Rule) {
    to.entry(clauses).or_default().insert(rule.id.clone());
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            testing::{self, BATCH, NOW_US, WEB},
            world::Requested,
        },
        *,
    };

    /// What is said of GET on the operation `orders/list`, whose path is known.
    fn check(policies: &str, principal: &str, expected: &str) {
        let snapshot = testing::snapshot(policies);
        let world = snapshot.world();
        let operation = world.requested(Requested::Operation, "acme.test/shop/orders/list");
        let entities = (
            world.requested(Requested::Workload, principal).unwrap(),
            world.requested(Requested::Action, "GET").unwrap(),
            operation.unwrap(),
        );
        let known = Known {
            form: Form::Http,
            method: Method::Get,
            host: Some("orders".into()),
            path: Some("/orders".into()),
        };
        let said = match Looking::new(&snapshot, NOW_US).look(entities, &known) {
            Possible::Allowed(by) => format!("yes {by:?}"),
            Possible::Denied(by) => format!("no {by:?}"),
            Possible::Depends(on) => format!("if {:?} unless {:?}", on.permits, on.forbids),
        };
        assert_eq!(said, expected, "{policies}");
    }

    const PERMIT: &str =
        "@id(\"p\") permit (principal in Service::\"acme.test/shop/web\", action, resource)";

    #[test]
    fn what_is_known_is_decided_and_the_rest_is_told() {
        check("", WEB, "no {}");
        check(&format!("{PERMIT};"), WEB, r#"yes {"p"}"#);
        check(&format!("{PERMIT};"), BATCH, "no {}");
        let late = format!("{PERMIT} when {{ context.tls.mtls && context.time.hour >= 8 }};");
        check(
            &late,
            WEB,
            r#"if {["context.time.hour >= 8"]: {"p"}} unless {}"#,
        );
        let never = format!("{PERMIT} when {{ context.time.hour >= 8 && !context.tls.mtls }};");
        check(&never, WEB, "no {}");
        let path = "@id(\"q\") permit (principal, action in Action::\"http\", resource) \
                    unless { context.http.path like \"/orders*\" && context.source.port < 1024 };";
        check(
            path,
            WEB,
            r#"if {["!(context.source.port < 1024)"]: {"q"}} unless {}"#,
        );
    }

    #[test]
    fn a_forbid_that_may_fire_is_what_a_permit_depends_on() {
        let forbid = "@id(\"f\") forbid (principal, action, resource)";
        let both = |condition: &str| format!("{PERMIT}; {forbid} {condition};");
        check(&both(""), WEB, r#"no {"f"}"#);
        check(&both("unless { context.tls.mtls }"), WEB, r#"yes {"p"}"#);
        check(
            &both("when { context.time.weekday > 5 }"),
            WEB,
            r#"if {[]: {"p"}} unless {["context.time.weekday > 5"]: {"f"}}"#,
        );
    }
}
