//! Runs cases and judges how they came out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use palisade_mesh::{
    decision::Answer,
    diagnostic::{Diagnostic, Location},
};
use smol_str::SmolStr;

use super::{Case, CaseResult, Expected, Report};
use crate::{
    author::{Texts, codes},
    compiled::{Compiled, PolicyInfo},
    decide::Explanation,
};

/// Whoever can decide: the engine, or the reference that it is compared with.
pub trait Decide {
    /// Decides one case.
    fn decide(&mut self, case: &Case) -> Answer;

    /// Says why a case came out as it did, where it can.
    fn explain(&mut self, _case: &Case) -> Option<Explanation> {
        None
    }
}

/// Which cases are explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// All.
    All,
    /// Those that are not as expected.
    Failed,
    /// None.
    None,
}

/// Runs the cases whose name, file, principal or request contains `filter`.
pub fn run(
    cases: &[Case],
    filter: Option<&str>,
    trace: Trace,
    compiled: &Compiled,
    decider: &mut dyn Decide,
) -> Report {
    let selected = |case: &&Case| {
        filter.is_none_or(|f| {
            case.name.contains(f)
                || case.location.file.contains(f)
                || case.principal.contains(f)
                || case.request.contains(f)
        })
    };
    let mut untested: BTreeSet<SmolStr> = compiled.info.keys().cloned().collect();
    let mut results = Vec::new();
    for case in cases.iter().filter(selected) {
        let start = Instant::now();
        let answer = decider.decide(case);
        let took = start.elapsed();
        for id in &answer.decision.determining {
            untested.remove(id);
        }
        let mut result = judge(case, &answer, took, compiled);
        if trace == Trace::All || trace == Trace::Failed && !result.passed {
            result.trace = decider.explain(case).map(Box::new);
        }
        results.push(result);
    }
    let passed = results.iter().filter(|r| r.passed).count();
    let mut diagnostics = nothing_run(&results, filter);
    diagnostics.extend(erred(&results, compiled));
    Report {
        failed: results.len() - passed,
        passed,
        diagnostics,
        results,
        untested: untested.into_iter().collect(),
        coverage: None,
    }
}

fn nothing_run(results: &[CaseResult], filter: Option<&str>) -> Vec<Diagnostic> {
    if !results.is_empty() {
        return Vec::new();
    }
    let cause = match filter {
        Some(filter) => format!("no case contains `{filter}`"),
        None => "there are none in tests/".to_owned(),
    };
    let diagnostic = Diagnostic::error(codes::NO_TESTS, "no test was run")
        .cause(cause)
        .help("a run without tests proves nothing, so it fails; correct the filter or add tests/*.yaml");
    vec![diagnostic]
}

/// Policies that failed to evaluate. A permit that does permits nothing, which a case that
/// expects just that would not show.
fn erred(results: &[CaseResult], compiled: &Compiled) -> Vec<Diagnostic> {
    let mut counts: BTreeMap<&SmolStr, usize> = BTreeMap::new();
    for id in results.iter().flat_map(|r| &r.errors) {
        *counts.entry(id).or_default() += 1;
    }
    if counts.is_empty() {
        return Vec::new();
    }
    let files = Texts::of_compiled(compiled).unwrap_or_default().files;
    let place = |info: &PolicyInfo| {
        let file = files.iter().find(|f| *f.path == *info.file);
        let text = file.map_or("", |f| f.text.as_str());
        Location::line(info.file.clone(), text, info.first_line)
    };
    let erred = counts.into_iter();
    let erred = erred.filter_map(|(id, n)| Some((compiled.info.get(id)?, n)));
    erred
        .map(|(info, n)| {
            Diagnostic::warning(
                codes::TEST_ERRED,
                format!("policy `{}` failed to evaluate in {n} cases", info.id),
            )
            .cause("a permit that fails permits nothing; a forbid that fails leaves the request undecided")
            .help("see which clause: palisade policy test --trace all")
            .at(place(info))
        })
        .collect()
}

fn judge(case: &Case, answer: &Answer, took: Duration, compiled: &Compiled) -> CaseResult {
    let decision = &answer.decision;
    let got = Expected::of(decision.verdict);
    let determining: BTreeSet<_> = decision.determining.iter().cloned().collect();
    let policies_fit = case
        .policies
        .as_ref()
        .is_none_or(|named| match case.others {
            true => named.is_subset(&determining),
            false => *named == determining,
        });
    let errors_fit = case.errors.is_none_or(|n| n == decision.errors.len());
    let with_place = |id: &SmolStr| match compiled.info.get(id) {
        Some(info) => format!("{id} ({}:{})", info.file, info.first_line),
        None => id.to_string(),
    };
    let named: Vec<_> = decision.determining.iter().map(with_place).collect();
    let passed = case.expected.is_met_by(got) && policies_fit && errors_fit;
    CaseResult {
        name: case.name.clone(),
        file: case.location.file.to_string(),
        line: case.location.line,
        principal: case.principal.clone(),
        request: case.request.clone(),
        understood: case.question.understood(),
        expected: case.expected,
        got,
        reason: decision.verdict.reason(),
        expected_policies: case.policies.as_ref().map(|p| p.iter().cloned().collect()),
        errors: decision.errors.clone(),
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        passed,
        failure: (!passed).then(|| {
            let reason = decision.verdict.reason();
            match policies_fit && case.expected.is_met_by(got) {
                true => failure_by_errors(case, &decision.errors),
                false => failure(case, got, reason, &named),
            }
        }),
        determining: named,
        trace: None,
    }
}

/// As expected, but for the policies that fail to evaluate.
fn failure_by_errors(case: &Case, errors: &[SmolStr]) -> Diagnostic {
    let cause = match errors {
        [] => "every policy could be evaluated".to_owned(),
        some => format!("failed to evaluate: {}", some.join(", ")),
    };
    failed(case)
        .label(format!(
            "expected {} policies that fail to evaluate, got {}",
            case.errors.unwrap_or_default(),
            errors.len()
        ))
        .cause(cause)
}

fn failed(case: &Case) -> Diagnostic {
    Diagnostic::error(
        codes::TEST_FAILED,
        format!("{}: {} · {}", case.name, case.principal, case.request),
    )
    .help("correct the policy, or the expectation")
    .at(case.location.clone())
}

fn failure(case: &Case, got: Expected, reason: &str, determining: &[String]) -> Diagnostic {
    let by = match determining {
        [] if got == Expected::NotPermitted => "no permit matched".to_owned(),
        [] => reason.replace('_', " "),
        some => format!("by {}", some.join(", ")),
    };
    let wanted = match &case.policies {
        Some(ids) if case.expected.is_met_by(got) => {
            let ids: Vec<_> = ids.iter().map(SmolStr::as_str).collect();
            match ids.as_slice() {
                [] => format!("{} by no policy", case.expected.as_str()),
                some => format!("{} by {}", case.expected.as_str(), some.join(", ")),
            }
        }
        _ => case.expected.as_str().to_owned(),
    };
    failed(case)
        .label(format!("expected {wanted}, got {}", got.as_str()))
        .cause(by)
}
