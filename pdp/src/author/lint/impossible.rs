//! Policies that contradict themselves.
//!
//! A policy that can never match is a mistake of whoever wrote it, and it hides one: a guard
//! rail that guards nothing looks like one that does. So no revision is made of it, unless its
//! author says `@allow("impossible-policy")`. A revision that is there is taken as it is: it
//! allows nothing that it should not, and whoever runs it did not write it.
//!
//! Who is in which group changes from day to day, and by other hands: what only that makes
//! impossible is told by the lint and holds nothing up, least of all that somebody leaves a group.

use palisade_mesh::diagnostic::{Diagnostic, Location, Severity};

use super::{Finding, Study, contradiction, mark};
use crate::author::{
    codes,
    draft::Draft,
    facts::{self, Claim, Contradiction, Fact},
    files,
    kin::Kin,
    policies::Read,
};

pub(super) fn look(study: &Study, findings: &mut Vec<Finding>) {
    for policy in &study.policies {
        let read = study.read(policy);
        if let Some(contradiction) = &policy.contradiction
            && !read.may_be_impossible
        {
            findings.push(told(read, contradiction).into());
        }
    }
}

/// Looks for policies that can never match in what is about to become a revision.
pub(in crate::author) fn refuse(draft: &Draft, found: &mut Vec<Diagnostic>) {
    strict(found);
    let kin = Kin::new(&draft.entities, &draft.catalogue);
    let vocabulary = facts::vocabulary();
    for policy in draft.policies.policies() {
        let id: &str = policy.id().as_ref();
        let Some(read) = draft.parts.read.get(id).filter(|r| !r.may_be_impossible) else {
            continue;
        };
        let Some(contradiction) = contradiction(policy, &vocabulary, &kin) else {
            continue;
        };
        if contradiction.is_by_groups() {
            continue;
        }
        let one = told(read, &contradiction);
        // One that the types alone make impossible was told by the compiler.
        let is_told = |d: &Diagnostic| d.code == one.code && d.message == one.message;
        if !found.iter().any(is_told) {
            found.push(one);
        }
    }
}

/// What the compiler tells everybody is a mistake for those who can mend it; an invariant that
/// nothing can break is none.
pub(super) fn strict(found: &mut [Diagnostic]) {
    let of_policy = |d: &&mut Diagnostic| {
        let file = d.location.as_ref().map_or("", |at| &at.file);
        d.code.0 == codes::IMPOSSIBLE && !files::is_invariant(file)
    };
    let impossible = found.iter_mut().filter(of_policy);
    impossible.for_each(|d| d.severity = Severity::Error);
}

fn told(read: &Read, contradiction: &Contradiction) -> Diagnostic {
    let Contradiction { first, second, .. } = contradiction;
    let at = |fact: &Fact| -> Location {
        match &fact.span {
            Some(span) => mark(&read.source, span),
            None => read.find(read.effect()),
        }
    };
    let line = |fact: &Fact| match &fact.span {
        Some(_) => format!("{} (line {})", fact.text, at(fact).line),
        None => fact.text.clone(),
    };
    let of_entities = |fact: &Fact| {
        matches!(fact.claim, Claim::In(_) | Claim::NotIn(_))
            && matches!(fact.subject.as_str(), "principal" | "resource")
    };
    let mut why = match of_entities(first) || of_entities(second) {
        true => format!("; in this repository no {} is both", first.subject),
        false => String::new(),
    };
    if contradiction.of_alternatives {
        why.push_str("; nor can any of the other alternatives be");
    }
    let severity = match contradiction.is_by_groups() {
        true => Severity::Warning,
        false => Severity::Error,
    };
    Diagnostic {
        severity,
        ..Diagnostic::error(
            codes::IMPOSSIBLE,
            format!("policy `{}` can never match", read.info.id),
        )
    }
    .label("contradicts what stands before it")
    .cause(format!(
        "{} and {} cannot both hold{why}",
        line(first),
        line(second)
    ))
    .help("correct one of the two, or remove the policy; where it is meant so, write `@allow(\"impossible-policy\")` above it")
    .at(at(second))
}
