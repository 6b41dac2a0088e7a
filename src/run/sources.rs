//! How the policy sources stand, for `status` and `check`.

use std::time::Instant;

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use palisade_pdp::publish::{Fault, Standing};

use crate::control::{
    api::{Fact, FactState},
    status::{FaultStatus, SourceStatus, ago, span},
};

/// A source has not answered.
const SILENT: u16 = 3207;
/// The history of a source was rewritten.
const REWRITTEN: u16 = 3208;

/// How each source stands now.
pub(super) fn status(standings: &[Standing], clock: &Clock) -> Vec<SourceStatus> {
    let now_us = clock.now_us();
    standings.iter().map(|s| of_source(s, now_us)).collect()
}

fn of_source(standing: &Standing, now_us: i64) -> SourceStatus {
    let mut faults: Vec<FaultStatus> = [&standing.fault, &standing.refused]
        .into_iter()
        .flatten()
        .map(told)
        .collect();
    let name = called(&standing.name);
    if standing.fault.is_none() && Instant::now() > standing.silent_at {
        faults.push(FaultStatus {
            code: SILENT,
            text: format!("{name} has not answered"),
            cause: Some("it is asked, and gives neither an answer nor an error yet".into()),
            fix: Some("see the network and the server; what is in force goes on".into()),
            since_us: standing.heard_us.unwrap_or(now_us),
        });
    }
    if let Some(before) = &standing.rewritten {
        faults.push(FaultStatus {
            code: REWRITTEN,
            text: format!("the history of {name} was rewritten"),
            cause: Some(format!(
                "{} does not follow {}, which was in force before",
                short(&standing.wanted),
                short(before)
            )),
            fix: Some("see who pushed with force; the next commit that follows ends this".into()),
            since_us: standing.since_us.unwrap_or(now_us),
        });
    }
    SourceStatus {
        name: standing.name.clone(),
        place: standing.place.clone(),
        wanted: standing.wanted.clone(),
        has: standing.has.clone(),
        since_us: standing.since_us,
        heard_us: standing.heard_us,
        signer: standing.signer.clone(),
        faults,
    }
}

fn told(fault: &Fault) -> FaultStatus {
    let mut errors = fault.diagnostics.iter().filter(|d| d.is_error());
    let first = errors.next().cloned().unwrap_or_else(|| {
        Diagnostic::error(3021, "it was rejected").help("palisade status shows why")
    });
    let more = match errors.count() {
        0 => String::new(),
        n => format!(
            " (and {})",
            crate::render::count(n, "mistake more", "mistakes more")
        ),
    };
    let at = first.location.as_ref();
    let at = at.map_or(String::new(), |at| format!("{}:{}: ", at.file, at.line));
    FaultStatus {
        code: first.code.0,
        text: format!("{at}{}{more}", first.message),
        cause: first.cause,
        fix: first.help,
        since_us: fault.since_us,
    }
}

/// What `check` says about them.
pub(super) fn check(sources: &[SourceStatus], clock: &Clock) -> Vec<Fact> {
    let mut facts = Vec::new();
    for source in sources {
        for fault in &source.faults {
            let text = format!("{}, for {}", fault.text, span(clock, fault.since_us));
            let mut fact = Fact::not_ok("policy", FactState::Warning, fault.code, text);
            fact.cause.clone_from(&fault.cause);
            fact.fix.clone_from(&fault.fix);
            facts.push(fact);
        }
        if source.faults.is_empty() {
            let heard = source.heard_us.map_or("never".into(), |us| ago(clock, us));
            let signed = source.signer.as_deref();
            let signed = signed.map_or(String::new(), |who| format!(", signed by {who}"));
            facts.push(Fact::ok(
                "policy",
                format!(
                    "{} is at {}{signed}, asked {heard}",
                    called(&source.name),
                    short(&source.has)
                ),
            ));
        }
    }
    facts
}

fn called(name: &str) -> String {
    match name {
        "" => "the repository".into(),
        name => format!("source {name}"),
    }
}

fn short(revision: &str) -> &str {
    revision.get(..10).unwrap_or(revision)
}
