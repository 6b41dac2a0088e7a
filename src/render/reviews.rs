//! Access reviews on a terminal: where one stands, what its change does, whether it holds.

use std::path::Path;

use super::{
    BAD, DIM, GOOD, STRONG, WARN, count, line, next, paint,
    snippet::clean,
    table::{Table, col, styled},
    thousands,
};
use crate::{
    grants::Proposal,
    history::flips::{Flips, short},
    review::{Review, Reviewed, Standing, Word},
};

/// Rows of a review on a terminal.
const ROWS_SHOWN: usize = 200;
/// Differences that are printed.
const DIFFERENCES_SHOWN: usize = 20;

/// Prints every grant with its verdict.
pub(crate) fn print(review: &Review, standing: Standing, file: &Path) {
    let mut out = Table::new(&[
        col("ROW"),
        col("VERDICT"),
        col("CALLER"),
        col("ACTION"),
        col("RESOURCE").short(),
        col("USES"),
        col("PERMITS").short().optional(),
    ]);
    for (n, reviewed) in (1_usize..).zip(&review.grants).take(ROWS_SHOWN) {
        let Reviewed { edge, grant, .. } = reviewed;
        let permits: Vec<&str> = grant.permits.iter().map(String::as_str).collect();
        out.row([
            n.to_string().into(),
            verdict(reviewed),
            clean(&edge.caller).into(),
            clean(&edge.action).into(),
            clean(short(&edge.resource)).into(),
            thousands(grant.uses).into(),
            styled(DIM, clean(&permits.join(", "))),
        ]);
    }
    out.print();
    let more = review.grants.len().saturating_sub(ROWS_SHOWN);
    if more > 0 {
        line(&paint(DIM, format!("and {more} more: --to FILE has all")));
    }
    print_standing(review, standing, file);
}

fn verdict(reviewed: &Reviewed) -> super::table::Cell {
    match reviewed.verdict.as_ref().map(|v| v.word) {
        None => "".into(),
        Some(Word::Ask) => styled(WARN, "ask"),
        Some(Word::Keep) => styled(GOOD, "keep"),
        Some(Word::Revoke) => styled(BAD, "revoke"),
    }
}

/// Prints how far a review is, and what comes next.
pub(crate) fn print_standing(review: &Review, standing: Standing, file: &Path) {
    let file = clean(&file.display().to_string());
    let of = |word| review.count(word);
    let (open, ask) = (of(None), of(Some(Word::Ask)));
    line(&format!(
        "{}: {} keep, {} revoke, {ask} ask, {open} without a verdict",
        paint(STRONG, count(review.grants.len(), "grant", "grants")),
        of(Some(Word::Keep)),
        of(Some(Word::Revoke)),
    ));
    let signed = match (&review.sign_off, standing) {
        (Some(by), Standing::Stated) => paint(
            GOOD,
            format!("✓ signed off by {} at {}", clean(&by.by), clean(&by.at)),
        ),
        (Some(by), Standing::Claimed) => paint(
            WARN,
            format!(
                "claims to be signed off by {} at {}: not checked, --key KEY does",
                clean(&by.by),
                clean(&by.at)
            ),
        ),
        (Some(_), _) => paint(
            BAD,
            "✗ signed off, and changed since, or not by this log".to_owned(),
        ),
        (None, _) => paint(DIM, "not signed off".to_owned()),
    };
    line(&signed.to_string());
    let command = match (open + ask, standing) {
        (0, Standing::Stated | Standing::Claimed) => (
            format!("palisade report review patch {file} --to revoke.patch"),
            "the change that ends what was revoked",
        ),
        (0, _) => (
            format!("palisade report review sign {file} --by NAME"),
            "stand for it",
        ),
        _ => (
            format!("palisade report review decide {file} keep --undecided --by NAME"),
            "or --row N, --caller NAME, --permit ID, --unused",
        ),
    };
    next(&[command]);
}

/// Prints what the change of a review does.
pub(crate) fn print_patch(standing: Standing, proposal: &Proposal, flips: &Flips, to: &Path) {
    if standing != Standing::Stated {
        line(&paint(WARN, "the review is not signed off as it stands"));
    }
    line(&format!(
        "ended: {}, by {}",
        count(proposal.ended.len(), "grant", "grants"),
        count(proposal.cuts.len(), "changed permit", "changed permits"),
    ));
    let made_again = flips.decisions - flips.not_replayable.count;
    line(&format!(
        "{} made again: {} would be denied, {} newly allowed",
        count(made_again, "recorded decision", "recorded decisions"),
        thousands(flips.newly_denied.count),
        thousands(flips.newly_allowed.count),
    ));
    for (edge, group) in flips
        .newly_denied
        .largest()
        .into_iter()
        .take(DIFFERENCES_SHOWN)
    {
        let (from, action, to) = (clean(&edge.from), clean(&edge.action), clean(&edge.to));
        let n = thousands(group.count);
        line(&format!("  {} {from} {action} {to}  {n}", paint(BAD, "−")));
    }
    let path = clean(&to.display().to_string());
    line(&format!("{} {path}", paint(GOOD.bold(), "✓ written")));
    next(&[
        (format!("git apply {path}"), "in the policy repository"),
        (
            "palisade policy test".to_owned(),
            "its tests may expect what was revoked",
        ),
    ]);
}

/// Prints whether a review is what policies and log say.
pub(crate) fn print_checked(review: &Review, standing: Standing, differences: &[String]) {
    for difference in differences.iter().take(DIFFERENCES_SHOWN) {
        line(&format!("{} {}", paint(BAD.bold(), "✗"), clean(difference)));
    }
    let more = differences.len().saturating_sub(DIFFERENCES_SHOWN);
    if more > 0 {
        line(&paint(BAD, format!("  and {more} more")));
    }
    let grants = count(review.grants.len(), "grant", "grants");
    let signed = match standing {
        Standing::Unsigned => "not signed off",
        Standing::Stated => "signed off as it stands",
        Standing::Claimed => "its sign-off not checked",
        Standing::Not => "changed since it was signed off, or not by this log",
    };
    let holds = differences.is_empty() && standing == Standing::Stated;
    line(&match holds {
        false if differences.is_empty() && standing == Standing::Unsigned => format!(
            "{}: {grants} and their uses found again, and nobody stands for them",
            paint(WARN, "not signed off, unfinished")
        ),
        true => format!(
            "{}: {grants} and their uses found again, {signed}",
            paint(GOOD.bold(), "✓ holds")
        ),
        false => format!(
            "{}: {grants} compared, {signed}",
            paint(BAD.bold(), "✗ does not hold")
        ),
    });
}
