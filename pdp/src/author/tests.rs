//! Test tables: `tests/**/*.yaml`, run on the engine that enforces.
//!
//! ```yaml
//! tests:
//!   - name: the shop cannot refund
//!     principal: web                     # or principals: [web, reports]
//!     request: POST /orders/42/refund    # or requests: […]
//!     on: orders
//!     context: { headers: {x-change-id: CHG-1}, source: 10.0.0.7, now: 2026-11-20T12:00:00Z }
//!     expect: not_permitted
//!     policies: []
//! ```
//!
//! Principals times requests gives the cases. All cases are run, whatever fails;
//! no case selected is a failure.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use palisade_mesh::{
    decision::{Answer, Question, Verdict},
    diagnostic::{Diagnostic, Location},
    yaml::Source,
};
use serde::Serialize;
use smol_str::SmolStr;

use super::{codes, files, question::OwnedQuestion};
use crate::compiled::Compiled;

mod table;

/// Most cases of all tables together.
pub const CASES_MAX: usize = 100_000;

/// Whoever can decide: the engine, plugged in by the binary.
pub trait Decide {
    /// Decides one question.
    fn decide(&mut self, question: &Question<'_>) -> Answer;
}

impl<F: FnMut(&Question<'_>) -> Answer> Decide for F {
    fn decide(&mut self, question: &Question<'_>) -> Answer {
        self(question)
    }
}

/// What a test expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// A permit matched, no forbid did.
    Allow,
    /// Forbidden or not permitted; `undecided` is a fault and does not count.
    Deny,
    /// A forbid matched.
    Forbidden,
    /// No permit matched.
    NotPermitted,
    /// There is no way to decide.
    Undecided,
}

const EXPECTED: &[(&str, Expected)] = &[
    ("allow", Expected::Allow),
    ("deny", Expected::Deny),
    ("forbidden", Expected::Forbidden),
    ("not_permitted", Expected::NotPermitted),
    ("undecided", Expected::Undecided),
];

impl Expected {
    /// The word for it in a table.
    pub fn as_str(self) -> &'static str {
        EXPECTED
            .iter()
            .find(|(_, e)| *e == self)
            .map_or("", |(word, _)| word)
    }

    /// What a verdict is, told apart as far as it can be.
    pub fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Forbidden => Self::Forbidden,
            Verdict::NotPermitted => Self::NotPermitted,
            Verdict::Undecided(_) => Self::Undecided,
        }
    }

    fn is_met_by(self, got: Self) -> bool {
        match self {
            Self::Deny => matches!(got, Self::Forbidden | Self::NotPermitted),
            other => other == got,
        }
    }
}

/// One question with what is expected of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Name of the table row.
    pub name: String,
    /// Who asks, as written.
    pub principal: String,
    /// What is asked, as written.
    pub request: String,
    /// Where the row is.
    pub location: Location,
    /// The question itself.
    pub question: OwnedQuestion,
    /// The expected outcome.
    pub expected: Expected,
    /// Ids of the determining policies, where the row names them.
    pub policies: Option<BTreeSet<SmolStr>>,
}

/// How one case went.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// Name of the table row.
    pub name: String,
    /// File of the row.
    pub file: String,
    /// Line of the row.
    pub line: usize,
    /// Who asked.
    pub principal: String,
    /// What was asked, as written.
    pub request: String,
    /// What was asked, as understood.
    pub understood: String,
    /// What was expected.
    pub expected: Expected,
    /// What came out.
    pub got: Expected,
    /// The engine's word for it, such as `no_permit`.
    pub reason: &'static str,
    /// Determining policies with file and line: `orders-read (policies/orders.cedar:3)`.
    pub determining: Vec<String>,
    /// Determining policies that were expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_policies: Option<Vec<SmolStr>>,
    /// Policies that failed to evaluate.
    pub errors: Vec<SmolStr>,
    /// How long the decision took, in microseconds.
    pub took_us: u64,
    /// Whether it is as expected.
    pub passed: bool,
    /// What is wrong, when something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Diagnostic>,
}

/// How all cases went.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// One for each case, in the order of the tables.
    pub results: Vec<CaseResult>,
    /// How many were as expected.
    pub passed: usize,
    /// How many were not.
    pub failed: usize,
    /// Policies that no case was determined by, sorted.
    pub untested: Vec<SmolStr>,
    /// What is wrong beside single cases.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Whether there were cases and all are as expected.
    pub fn is_success(&self) -> bool {
        self.failed == 0 && self.passed > 0 && !self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Reads the tables of the repository in `dir`. `now_us` holds where a row has no
/// `now`. What cannot be understood is reported and gives no case.
pub fn read(dir: &Path, compiled: &Compiled, now_us: i64) -> (Vec<Case>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let mut cases = Vec::new();
    for file in files::read_kind(dir, &files::TESTS, &mut found) {
        let source = Source::new(file.path, file.text);
        table::read(&source, compiled, now_us, &mut cases, &mut found);
    }
    // A mistyped principal would be told once for each of its requests.
    let mut told: Vec<Diagnostic> = Vec::with_capacity(found.len());
    for diagnostic in found {
        if !told.contains(&diagnostic) {
            told.push(diagnostic);
        }
    }
    (cases, told)
}

/// Runs the cases whose name, file, principal or request contains `filter`.
pub fn run(
    cases: &[Case],
    filter: Option<&str>,
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
        let answer = decider.decide(&case.question.as_question());
        let took = start.elapsed();
        for id in &answer.decision.determining {
            untested.remove(id);
        }
        results.push(judge(case, &answer, took, compiled));
    }
    let passed = results.iter().filter(|r| r.passed).count();
    let mut diagnostics = Vec::new();
    if results.is_empty() {
        let cause = match filter {
            Some(filter) => format!("no case contains `{filter}`"),
            None => "there are none in tests/".to_owned(),
        };
        diagnostics.push(
            Diagnostic::error(codes::NO_TESTS, "no test was run")
                .cause(cause)
                .help("a run without tests proves nothing, so it fails; correct the filter or add tests/*.yaml"),
        );
    }
    Report {
        failed: results.len() - passed,
        passed,
        results,
        untested: untested.into_iter().collect(),
        diagnostics,
    }
}

fn judge(case: &Case, answer: &Answer, took: Duration, compiled: &Compiled) -> CaseResult {
    let decision = &answer.decision;
    let got = Expected::of(decision.verdict);
    let determining: BTreeSet<_> = decision.determining.iter().cloned().collect();
    let policies_fit = case.policies.as_ref().is_none_or(|p| *p == determining);
    let with_place = |id: &SmolStr| match compiled.info.get(id) {
        Some(info) => format!("{id} ({}:{})", info.file, info.first_line),
        None => id.to_string(),
    };
    let determining: Vec<_> = decision.determining.iter().map(with_place).collect();
    let passed = case.expected.is_met_by(got) && policies_fit;
    let failure = (!passed).then(|| {
        let by = match determining.as_slice() {
            [] if got == Expected::NotPermitted => "no permit matched".to_owned(),
            [] => decision.verdict.reason().replace('_', " "),
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
        Diagnostic::error(
            codes::TEST_FAILED,
            format!("{}: {} · {}", case.name, case.principal, case.request),
        )
        .label(format!("expected {wanted}, got {}", got.as_str()))
        .cause(by)
        .help("correct the policy, or the expectation")
        .at(case.location.clone())
    });
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
        determining,
        expected_policies: case.policies.as_ref().map(|p| p.iter().cloned().collect()),
        errors: decision.errors.clone(),
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        passed,
        failure,
    }
}
