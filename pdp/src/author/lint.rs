//! `policy lint`: what compiles, and still is not what anybody means.
//!
//! [`RULES`] is the table of rules. Some are kept by the compiler, which must tell them
//! everywhere; the others look at a whole repository here and nowhere else, so they cost
//! a proxy nothing. Each has a section with a failing and a passing example in
//! `docs/reference/lint.md`, and a test runs them.

use std::{collections::BTreeSet, iter, ops::Range, path::Path, sync::Arc};

use palisade_mesh::{
    diagnostic::{Diagnostic, Location, did_you_mean},
    yaml::{Source, Span},
};
use smol_str::SmolStr;

use super::{
    DIAGNOSTICS_MAX, Draft, Gathered, Parts, Seal, Texts, any_error, codes, confusable, facts,
    facts::{Contradiction, Fact},
    kin::Kin,
    on_own_stack, place,
    policies::Read,
    tests::{self, Decide, Engines},
};
use crate::{
    compiled::{Absent, Compiled},
    decide::{Body, Condition, Scope},
};

mod condition;
mod expiry;
mod fix;
pub(super) mod impossible;
mod like;
mod owner;
mod rules;
mod scope;
mod shadow;
mod tested;
mod unasked;
mod unused;

pub use expiry::EXPIRES_SOON_DAYS;
pub use rules::{RULES, Rule};
pub use scope::UNSCOPED_MAX;

/// What to look for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The present, microseconds since the Unix epoch.
    pub now_us: i64,
    /// Codes of the rules that are asked for; every one where it is empty.
    pub only: BTreeSet<u16>,
    /// Codes of rules that are not.
    pub without: BTreeSet<u16>,
    /// Whether files are rewritten where there is one safe fix.
    pub fix: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Linted {
    /// Everything there is to say, by file and line.
    pub findings: Vec<Diagnostic>,
    /// How many policies were looked at.
    pub policies: usize,
    /// Files that were rewritten, with how many fixes.
    pub fixed: Vec<(String, usize)>,
    /// How many of the findings `fix` would mend.
    pub fixable: usize,
    /// Sources that it lists and that were not there. Nothing is then said about what does not
    /// exist: they may have it.
    pub absent: Vec<Absent>,
}

impl Options {
    /// Takes rules by name or code: `+NAME` asks for these alone, `-NAME` leaves one out.
    ///
    /// # Errors
    /// When there is no such rule.
    pub fn rules(&mut self, list: &str) -> Result<(), Diagnostic> {
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            let (without, name) = match word.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, word.trim_start_matches('+')),
            };
            let rule = Rule::find(name).ok_or_else(|| unknown_rule(name))?;
            let set = if without {
                &mut self.without
            } else {
                &mut self.only
            };
            set.insert(rule.code);
        }
        Ok(())
    }

    /// Whether a finding is asked for. What keeps a repository from compiling is told
    /// whoever asked.
    fn wants(&self, diagnostic: &Diagnostic) -> bool {
        let code = diagnostic.code.0;
        let asked = self.only.is_empty() || self.only.contains(&code);
        diagnostic.is_error() || asked && !self.without.contains(&code)
    }
}

fn unknown_rule(name: &str) -> Diagnostic {
    let diagnostic = Diagnostic::error(codes::LINT_RULE, format!("there is no rule `{name}`"))
        .help("palisade policy lint --list names them all");
    match did_you_mean(name, RULES.iter().map(|rule| rule.name)) {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

/// What is said of a repository of which part is not there is nothing about what does not exist.
const OF_THE_WHOLE: &[u16] = &[
    codes::UNKNOWN_ENTITY,
    codes::IMPOSSIBLE,
    codes::UNREACHABLE,
    codes::UNTESTED,
    codes::UNUSED_GROUP,
    codes::UNUSED_HEADER,
    codes::UNUSED_OPERATION,
    codes::NEVER_ASKED,
    codes::TEST_PRINCIPAL,
    codes::TEST_TARGET,
    codes::TEST_REQUEST,
    codes::TEST_POLICY,
];

/// Lints the repository in `dir`, with those of its sources that are folders.
///
/// Blocks on disk and CPU.
///
/// # Errors
/// When a fixed file cannot be written.
pub fn run(dir: &Path, options: &Options) -> Result<Linted, Diagnostic> {
    whole(Gathered::read(dir).together(), dir, options)
}

/// Lints the repository in `dir` that was put together as `texts`. Of what sources contribute it
/// tells only what keeps it from compiling: the rest is for those who write it.
pub(crate) fn whole(mut texts: Texts, dir: &Path, options: &Options) -> Result<Linted, Diagnostic> {
    let mut fixed = Vec::new();
    if options.fix {
        fixed = fix::write(&mut texts, dir, options)?;
    }
    let absent = texts.absent.clone();
    let (findings, policies) = look(texts, dir, options);
    Ok(Linted {
        absent,
        fixable: findings.iter().filter(|f| f.edit.is_some()).count(),
        findings: findings.into_iter().map(|f| f.diagnostic).collect(),
        policies,
        fixed,
    })
}

/// One thing that a rule found.
#[derive(Debug)]
struct Finding {
    diagnostic: Diagnostic,
    /// The one safe fix.
    edit: Option<Edit>,
}

impl From<Diagnostic> for Finding {
    fn from(diagnostic: Diagnostic) -> Self {
        let edit = None;
        Self { diagnostic, edit }
    }
}

/// A replacement of some bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    file: Arc<str>,
    span: Range<usize>,
    text: String,
}

/// Everything that is asked for, by file and line, and how many policies there are.
fn look(texts: Texts, dir: &Path, options: &Options) -> (Vec<Finding>, usize) {
    let (dir, options) = (dir.to_owned(), options.clone());
    let work = move || {
        let Texts {
            files,
            git_revision,
            mut found,
            contributions,
            absent,
            ..
        } = texts;
        let told = Told {
            sources: contributions.iter().map(|c| c.name.clone()).collect(),
            partial: !absent.is_empty(),
        };
        if files.is_empty() {
            return (plain(found), 0);
        }
        let draft = super::draft(&files, None, None, &mut found);
        confusable::refuse(&files, &contributions, &BTreeSet::new(), &mut found);
        if draft.is_none() || any_error(&found) {
            found.extend(tests::mistakes(&dir));
        }
        let Some(draft) = draft else {
            return (plain(found), 0);
        };
        let fixes = fix::guards(&draft, &found);
        let broken = any_error(&found);
        impossible::strict(&mut found);
        let policies = draft.parts.read.len();
        let mut findings: Vec<Finding> = Vec::new();
        if !broken {
            match draft.assemble(files, git_revision, contributions) {
                Ok(seal) => {
                    let study = Study::new(draft, seal, &dir, options.now_us, &mut found);
                    findings = study.findings(&found);
                }
                Err(diagnostic) => found.push(diagnostic),
            }
        }
        // What the study added to `found` has no fix.
        let fixes = fixes.into_iter().chain(iter::repeat(None));
        let mended = found.into_iter().zip(fixes);
        findings.extend(mended.map(|(diagnostic, edit)| Finding { diagnostic, edit }));
        findings.retain(|f| told.has(&f.diagnostic) && options.wants(&f.diagnostic));
        findings.iter_mut().for_each(|f| told.leave(f));
        findings.sort_by(|a, b| place(&a.diagnostic).cmp(&place(&b.diagnostic)));
        (bounded(findings), policies)
    };
    on_own_stack(work).unwrap_or_else(|diagnostic| (plain(vec![diagnostic]), 0))
}

/// What of a repository that was put together is told.
struct Told {
    /// Names of the sources, under which their files are.
    sources: BTreeSet<String>,
    /// Whether some are not there.
    partial: bool,
}

impl Told {
    fn is_of_source(&self, file: &str) -> bool {
        let folder = file.split_once('/').map_or("", |(first, _)| first);
        self.sources.contains(folder)
    }

    fn has(&self, diagnostic: &Diagnostic) -> bool {
        if self.partial && OF_THE_WHOLE.contains(&diagnostic.code.0) {
            return false;
        }
        let at = diagnostic.location.as_ref();
        diagnostic.is_error() || !at.is_some_and(|at| self.is_of_source(&at.file))
    }

    /// Leaves files of sources as they are.
    fn leave(&self, finding: &mut Finding) {
        let edit = finding.edit.take();
        finding.edit = edit.filter(|edit| !self.is_of_source(&edit.file));
    }
}

/// At most [`DIAGNOSTICS_MAX`] findings; how many more there are is as bad as the worst of them.
fn bounded(mut findings: Vec<Finding>) -> Vec<Finding> {
    if findings.len() > DIAGNOSTICS_MAX {
        let rest = findings.split_off(DIAGNOSTICS_MAX);
        let message = format!("{} more findings are not told", rest.len());
        let more = match rest.iter().any(|f| f.diagnostic.is_error()) {
            true => Diagnostic::error(codes::MORE, message),
            false => Diagnostic::warning(codes::MORE, message),
        };
        findings.push(
            more.help("mend those above first, or ask for one rule: --rule +NAME")
                .into(),
        );
    }
    findings
}

fn plain(found: Vec<Diagnostic>) -> Vec<Finding> {
    found.into_iter().map(Finding::from).collect()
}

/// A repository under study: what rules look at.
struct Study {
    compiled: Compiled,
    parts: Parts,
    kin: Kin,
    policies: Vec<Policy>,
    /// Facts that hold for every request.
    vocabulary: Vec<Fact>,
    /// What the tests see; none where they cannot be run.
    tested: Option<Tested>,
    now_us: i64,
}

/// A policy, taken apart.
struct Policy {
    id: SmolStr,
    permit: bool,
    scope: Scope,
    conditions: Vec<Condition>,
    /// Two facts that it cannot have both.
    contradiction: Option<Contradiction>,
}

impl Study {
    fn new(draft: Draft, seal: Seal, dir: &Path, now_us: i64, found: &mut Vec<Diagnostic>) -> Self {
        let (compiled, parts) = draft.parted(seal);
        let kin = Kin::new(&compiled.entities, &compiled.catalogue);
        let vocabulary = facts::vocabulary();
        let mut policies: Vec<Policy> = compiled
            .policies
            .policies()
            .filter_map(|policy| {
                let id: &str = policy.id().as_ref();
                let info = &parts.read.get(id)?.info;
                Some(Policy {
                    id: info.id.clone(),
                    permit: info.permit,
                    contradiction: contradiction(policy, &vocabulary, &kin),
                    scope: Scope::of(policy),
                    conditions: conditions(policy),
                })
            })
            .collect();
        // In the order of the files, which is the order in which people read them.
        policies.sort_by_key(|p| {
            let read = parts.read.get(&p.id);
            read.map(|r| (r.source.path.clone(), r.span.start))
        });
        let tested = tested(dir, &compiled, now_us, found);
        Self {
            compiled,
            parts,
            kin,
            policies,
            vocabulary,
            tested,
            now_us,
        }
    }

    /// What the rules say beside what the compiler told.
    fn findings(&self, told: &[Diagnostic]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for look in RULES.iter().filter_map(|rule| rule.look) {
            look(self, &mut findings);
        }
        // A policy that the compiler knows to be impossible needs no second word.
        findings.retain(|f| {
            f.diagnostic.code.0 != codes::IMPOSSIBLE || !told.iter().any(|d| self.is_same(d, f))
        });
        findings
    }

    fn is_same(&self, told: &Diagnostic, finding: &Finding) -> bool {
        told.code == finding.diagnostic.code && told.message == finding.diagnostic.message
    }

    fn read(&self, policy: &Policy) -> &Read {
        self.parts
            .read
            .get(&policy.id)
            .expect("a policy under study was read")
    }

    /// Marks `span` of the file of a policy, or else the policy's effect.
    fn at(&self, policy: &Policy, span: Option<&Range<usize>>) -> Location {
        let read = self.read(policy);
        match span {
            Some(span) => mark(&read.source, span),
            None => read.find(read.effect()),
        }
    }

    /// `policies/orders.cedar:3`, for a second place in a message.
    fn place_of(&self, policy: &Policy) -> String {
        let info = &self.read(policy).info;
        format!("{}:{}", info.file, info.first_line)
    }
}

fn conditions(policy: &cedar_policy::Policy) -> Vec<Condition> {
    Body::of(policy).map_or_else(Vec::new, |body| body.tree())
}

/// Two facts that a policy cannot have both, where there are such.
fn contradiction(
    policy: &cedar_policy::Policy,
    vocabulary: &[Fact],
    kin: &Kin,
) -> Option<Contradiction> {
    let known = known(&Scope::of(policy), vocabulary, kin);
    facts::contradiction(&conditions(policy), known, kin)
}

/// Facts of the vocabulary and of a scope.
fn known(scope: &Scope, vocabulary: &[Fact], kin: &Kin) -> Vec<Fact> {
    let stated = facts::of_scope(scope, kin);
    vocabulary.iter().cloned().chain(stated).collect()
}

fn mark(source: &Source, span: &Range<usize>) -> Location {
    source.span(Span::new(span.start, span.end.saturating_sub(span.start)))
}

/// What the tests see.
#[derive(Default)]
struct Tested {
    /// Policies that decide some case.
    policies: BTreeSet<SmolStr>,
    /// Operations, by id, of which some case says that a caller is denied.
    denied: BTreeSet<SmolStr>,
}

/// Runs the tests for what decides them. Their mistakes are told here too.
fn tested(
    dir: &Path,
    compiled: &Compiled,
    now_us: i64,
    found: &mut Vec<Diagnostic>,
) -> Option<Tested> {
    let (cases, mistakes) = tests::read(dir, compiled, now_us);
    let broken = any_error(&mistakes);
    found.extend(mistakes);
    if broken {
        return None;
    }
    let mut engines = Engines::new(compiled.clone(), &cases, false).ok()?;
    let mut tested = Tested::default();
    for case in &cases {
        let answer = engines.decide(case);
        let determining = answer.decision.determining.iter();
        tested.policies.extend(determining.cloned());
        if let Some(operation) = case.question.operation.as_ref()
            && case.expected.is_denial()
        {
            tested.denied.insert(operation.id.clone());
        }
    }
    Some(tested)
}
