//! What a repository costs, as `policy bench` prints it.

use super::{DIM, WARN, count, fact, line, paint, snippet::clean, strong, thousands};
use crate::cli::{policy::bench::Report, timing::Span};

/// Policies that are printed one by one.
const POLICIES_SHOWN: usize = 5;
/// From which share on what other programs took is worth a word.
const BUSY: f64 = 1.3;

/// Prints a report for people.
pub(crate) fn print(report: &Report) {
    let policies = count(report.policies, "policy", "policies");
    fact(
        "compile",
        &[
            format!("{policies} in {}", ms(report.compile)),
            format!("index in {}", ms(report.index)),
        ],
    );
    fact(
        "decide",
        &[
            format!("found in the cache {}", us(report.found)),
            format!("evaluated {}", us(report.evaluated)),
            format!("first of its kind {}", us(report.first)),
        ],
    );
    let (candidates, fields) = (&report.costs.candidates, &report.costs.fields);
    fact(
        "slices",
        &[
            format!(
                "{} concern a question",
                spread(candidates, "policy", "policies")
            ),
            format!("{} read", spread(fields, "field", "fields")),
            count(report.questions, "question", "questions"),
        ],
    );
    if let Some(replay) = &report.replay {
        let per_second = 1e9 / replay.each.cpu_ns.max(1.0);
        fact(
            "replay",
            &[
                count(replay.decisions, "decision", "decisions"),
                format!("{} of them evaluated", thousands(replay.evaluated)),
                format!("each {}", us(replay.each)),
                format!("{} a second on one core", thousands(per_second as u64)),
            ],
        );
    }
    line(&strong("slowest policies"));
    for policy in report.costs.policies.iter().take(POLICIES_SHOWN) {
        let place = format!("{}:{}", policy.file, policy.first_line);
        line(&format!(
            "  {:>8.2} µs  {}  {}",
            policy.ns / 1e3,
            clean(&policy.id),
            paint(
                DIM,
                format!(
                    "{} · {}",
                    clean(&place),
                    count(policy.questions, "question", "questions")
                )
            )
        ));
    }
    if cfg!(debug_assertions) {
        line(&paint(
            WARN,
            "this is a debug build: an optimised one is some ten times as fast",
        ));
    }
    let busy = report.evaluated.wall_ns / report.evaluated.cpu_ns.max(1.0);
    let what = "figures are CPU time of this thread, in the mean";
    match busy > BUSY {
        true => line(&paint(
            WARN,
            format!(
                "{what}; the clock ran {busy:.1} times as long, for other programs ran, too, and CPU caches were shared"
            ),
        )),
        false => line(&paint(DIM, what)),
    }
}

fn us(span: Span) -> String {
    format!("{:.2} µs", span.cpu_ns / 1e3)
}

fn ms(span: Span) -> String {
    format!("{:.1} ms", span.cpu_ns / 1e6)
}

/// Least, median and most.
fn spread(sorted: &[usize], one: &str, many: &str) -> String {
    let at = |i: usize| sorted.get(i).copied().unwrap_or_default();
    let (low, high) = (at(0), at(sorted.len().saturating_sub(1)));
    let median = count(at(sorted.len() / 2), one, many);
    match low == high {
        true => median,
        false => format!("{median} ({low} to {high})"),
    }
}
