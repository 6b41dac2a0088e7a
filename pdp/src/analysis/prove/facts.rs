//! What is true of every request that the mesh makes, and no schema can say.
//!
//! The solver takes every value that the schema allows. Each fact here keeps away some that no
//! proxy ever puts to the engine, as a `forbid` of what is not so, on the side of the newer
//! revision: fewer requests to think of, and none that exists is left out.
//!
//! - *Ranges*: an hour is 0 to 23, a port below 65,536, a path begins with `/`.
//! - *The registry*: which groups, services and namespaces each caller and each operation of
//!   the newer revision is in. Only what the policies at hand name counts, so the callers fall
//!   into few kinds: one `||` over those that exist. This makes a proof one about this
//!   registry, which is part of the revision.

use std::collections::BTreeSet;

use cedar_policy::{EntityUid, Policy};

use super::{Kind, kind::is_stranger_in, rewrite::parsed, solver::Failure};
use crate::decide::{
    Snapshot,
    core::{Body, uses},
    field::Field,
    world::{Ent, UNREGISTERED, WORKLOAD},
};

/// Most entities of the registry that a query may name for the registry to be told; with
/// more, the solver decides without.
pub(crate) const NAMED_MAX: usize = 24;
/// Most kinds of callers, or of operations, that are told.
pub(crate) const KINDS_MAX: usize = 64;

/// Ranges of the fields that `policies` read.
pub(crate) fn ranges(
    policies: &[&Policy],
    kind: &Kind,
    snapshot: &Snapshot,
    now: Option<&str>,
) -> Result<Vec<Policy>, Failure> {
    let layout = snapshot.layout();
    let bodies = policies.iter().filter_map(|p| Body::of(p));
    let read: BTreeSet<Field> = bodies.flat_map(|b| uses(&b, layout).fields).collect();
    let of_form = read.into_iter().filter(|f| f.is_in(kind.form));
    let facts = of_form.filter_map(|field| range(field, kind, now));
    facts.map(|fact| untrue(&fact)).collect()
}

/// What holds for the values of a field.
fn range(field: Field, kind: &Kind, now: Option<&str>) -> Option<String> {
    Some(match field {
        Field::HttpMethod if kind.method => {
            format!("context.http.method == {:?}", kind.action.id().unescaped())
        }
        Field::HttpPath => "context.http.path like \"/*\" || context.http.path == \"*\"".to_owned(),
        Field::SourcePort => "context.source.port >= 0 && context.source.port < 65536".to_owned(),
        Field::TimeHour => "context.time.hour >= 0 && context.time.hour < 24".to_owned(),
        Field::TimeNow => format!("context.time.now >= datetime(\"{}\")", now?),
        Field::TimeWeekday => "context.time.weekday >= 1 && context.time.weekday < 8".to_owned(),
        _ => return None,
    })
}

/// What the registry says of everything that `policies` name, for one kind of request;
/// `None` where that is too much to tell.
pub(crate) fn registry(
    policies: &[&Policy],
    kind: &Kind,
    snapshot: &Snapshot,
) -> Result<Option<Vec<Policy>>, Failure> {
    let world = snapshot.world();
    let named: BTreeSet<EntityUid> = policies.iter().flat_map(|p| p.entity_literals()).collect();
    let can_hold = |types: &[&str]| -> Vec<EntityUid> {
        let fits = |uid: &&EntityUid| types.contains(&uid.type_name().to_string().as_str());
        named.iter().filter(fits).cloned().collect()
    };
    let of_callers = match kind.principal.as_str() {
        WORKLOAD => can_hold(&[WORKLOAD, "Service", "Namespace", "TrustDomain", "Group"]),
        _ => can_hold(&[UNREGISTERED, "TrustDomain"]),
    };
    let of_asks = match kind.resource.as_str() {
        "Operation" => can_hold(&["Operation", "Service", "Namespace", "TrustDomain", "Group"]),
        _ => can_hold(&["Service", "Namespace", "TrustDomain", "Group"]),
    };
    if of_callers.len() > NAMED_MAX || of_asks.len() > NAMED_MAX {
        return Ok(None);
    }
    let in_world = |entities: BTreeSet<Ent>, named: &[EntityUid]| -> BTreeSet<Vec<bool>> {
        let ways = entities.iter().map(|entity| {
            let above = world.above(*entity);
            let is_in = |uid| {
                world
                    .find(uid)
                    .is_some_and(|e| above.binary_search(&e).is_ok())
            };
            named.iter().map(is_in).collect()
        });
        ways.collect()
    };
    // What the newer revision does not name, it does not tell apart.
    let callers: BTreeSet<Vec<bool>> = match kind.of_strangers() {
        true => {
            let of = |id| {
                of_callers
                    .iter()
                    .map(|uid| is_stranger_in(id, uid))
                    .collect()
            };
            kind.ids.iter().map(of).collect()
        }
        false => in_world(kind.principals(), &of_callers),
    };
    let asks = in_world(kind.resources(), &of_asks);
    let told = [
        told("principal", &callers, &of_callers),
        told("resource", &asks, &of_asks),
    ];
    let mut facts = Vec::new();
    for fact in told {
        match fact {
            Told::Nothing => {}
            Told::TooMuch => return Ok(None),
            Told::Fact(fact) => facts.push(untrue(&fact)?),
        }
    }
    for domain in of_callers
        .iter()
        .filter(|uid| uid.type_name().to_string() == "TrustDomain")
    {
        let same = format!("(principal in {domain}) == (principal.trustDomain == {domain})");
        facts.push(untrue(&same)?);
    }
    Ok(Some(facts))
}

enum Told {
    Nothing,
    TooMuch,
    Fact(String),
}

/// The `ways` in which there are entities in those that are `named`, as one condition on
/// `who`.
fn told(who: &str, ways: &BTreeSet<Vec<bool>>, named: &[EntityUid]) -> Told {
    if named.is_empty() {
        return Told::Nothing;
    }
    if ways.len() > KINDS_MAX {
        return Told::TooMuch;
    }
    let way = |way: &Vec<bool>| {
        let tests = way.iter().zip(named).map(|(is, uid)| match is {
            true => format!("{who} in {uid}"),
            false => format!("!({who} in {uid})"),
        });
        format!("({})", tests.collect::<Vec<_>>().join(" && "))
    };
    match ways.is_empty() {
        true => Told::Fact("false".to_owned()),
        false => Told::Fact(ways.iter().map(way).collect::<Vec<_>>().join(" || ")),
    }
}

/// A `forbid` of all that is not so; the id is the fact itself, so that no fact is there twice.
fn untrue(fact: &str) -> Result<Policy, Failure> {
    parsed(
        &format!("fact: {fact}"),
        &format!("forbid (principal, action, resource) unless {{ {fact} }};"),
    )
}
