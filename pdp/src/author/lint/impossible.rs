//! Policies that contradict themselves.

use palisade_mesh::diagnostic::Diagnostic;

use super::{Finding, Policy, Study};
use crate::author::{
    codes,
    facts::{Claim, Fact},
};

pub(super) fn look(study: &Study, findings: &mut Vec<Finding>) {
    for policy in &study.policies {
        if let Some((first, second)) = &policy.contradiction {
            findings.push(told(study, policy, first, second).into());
        }
    }
}

fn told(study: &Study, policy: &Policy, first: &Fact, second: &Fact) -> Diagnostic {
    let at = study.at(policy, second.span.as_ref());
    let line = |fact: &Fact| match &fact.span {
        Some(span) => format!("{} (line {})", fact.text, study.at(policy, Some(span)).line),
        None => fact.text.clone(),
    };
    let of_entities = |fact: &Fact| {
        matches!(fact.claim, Claim::In(_) | Claim::NotIn(_))
            && matches!(fact.subject.as_str(), "principal" | "resource")
    };
    let why = match of_entities(first) || of_entities(second) {
        true => format!("; in this repository no {} is both", first.subject),
        false => String::new(),
    };
    Diagnostic::warning(
        codes::IMPOSSIBLE,
        format!("policy `{}` can never match", policy.id),
    )
    .label("contradicts what stands before it")
    .cause(format!(
        "{} and {} cannot both hold{why}",
        line(first),
        line(second)
    ))
    .help("correct one of the two, or remove the policy")
    .at(at)
}
