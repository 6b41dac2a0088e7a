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
//! Principals times requests gives the cases; in place of requests, actions and resources may
//! be listed, and each action is asked of each resource. All cases are run, whatever fails;
//! no case selected is a failure. What rows share (callers, contexts, entities that are
//! otherwise for a while) stands in fixtures. Tests in Cedar's own format run beside them
//! (`cedar`).

use std::{collections::BTreeSet, path::Path, sync::Arc};

use palisade_mesh::{
    decision::Verdict,
    diagnostic::{Diagnostic, Location},
    yaml::Source,
};
use serde::Serialize;
use smol_str::SmolStr;

use super::{confusable, files, question::OwnedQuestion};
use crate::{compiled::Compiled, decide::Explanation};

mod cedar;
mod coverage;
mod engines;
mod fixtures;
mod run;
mod table;
mod update;

pub use coverage::{ClauseCoverage, Coverage, PolicyCoverage};
pub use engines::Engines;
pub use run::{Decide, Trace, run};
pub use update::{Updated, update};

/// Most cases of all tables together.
pub const CASES_MAX: usize = 100_000;

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

    /// Whether it is a denial that policies make, not a fault.
    pub(super) fn is_denial(self) -> bool {
        matches!(self, Self::Deny | Self::Forbidden | Self::NotPermitted)
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
    /// The repository with other entities, where the row asks for them.
    pub world: Option<Arc<Compiled>>,
    /// The question itself.
    pub question: OwnedQuestion,
    /// The expected outcome.
    pub expected: Expected,
    /// Ids of the determining policies, where the row names them.
    pub policies: Option<BTreeSet<SmolStr>>,
    /// Whether others may be determining, too.
    pub others: bool,
    /// How many policies fail to evaluate, where the row says so.
    pub errors: Option<usize>,
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
    /// Why it came out so, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Box<Explanation>>,
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
    /// How much of the policies the cases saw, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
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
    look(dir, Some(compiled), now_us)
}

/// What is wrong with the tables of the repository in `dir`, which does not compile, whatever it
/// will say when it does: syntax, keys, values and fixtures.
pub fn mistakes(dir: &Path) -> Vec<Diagnostic> {
    match dir.join(files::SETTINGS).is_file() {
        true => look(dir, None, 0).1,
        false => Vec::new(),
    }
}

fn look(dir: &Path, compiled: Option<&Compiled>, now_us: i64) -> (Vec<Case>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let mut cases = Vec::new();
    let sources = sources(dir, &mut found);
    for source in &sources {
        confusable::look(source, &mut found);
    }
    let (cedar, sources): (Vec<Source>, Vec<Source>) = sources
        .into_iter()
        .partition(|s| s.path.ends_with(cedar::EXTENSION));
    let (fixtures, tables): (Vec<Source>, Vec<Source>) = sources
        .into_iter()
        .partition(|s| s.path.starts_with(files::FIXTURES));
    let mut fixtures = fixtures::Files::new(fixtures, compiled);
    for source in tables {
        table::read(&source, &mut fixtures, now_us, &mut cases, &mut found);
    }
    fixtures.finish(&mut found);
    cedar::read(&cedar, compiled, &mut cases, &mut found);
    // A mistyped principal would be told once for each of its requests.
    let mut told: Vec<Diagnostic> = Vec::with_capacity(found.len());
    for diagnostic in found {
        if !told.contains(&diagnostic) {
            told.push(diagnostic);
        }
    }
    (cases, told)
}

/// The files of tests/, fixtures too.
fn sources(dir: &Path, found: &mut Vec<Diagnostic>) -> Vec<Source> {
    let files = files::read_kind(dir, &files::TESTS, found).into_iter();
    files
        .map(|file| Source::new(file.path, file.text))
        .collect()
}
