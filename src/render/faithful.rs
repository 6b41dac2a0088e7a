//! What came of making recorded decisions again, for people.

use serde_json::Value;

use super::{BAD, DIM, GOOD, NAME, WARN, count, line, paint, snippet::clean, thousands};

/// Differences that are shown.
const SHOWN: usize = 10;

/// Whether no decision is recorded otherwise than its policies say, no revision was changed, and
/// it could be looked at. `replay` is what [`print`] takes.
pub(crate) fn holds(replay: &Value) -> bool {
    number(replay, "differ") == 0
        && list(replay, "damaged").next().is_none()
        && replay.get("failed").is_none()
}

/// Prints an encoded `Replayed`, or `{"failed": WHY}` where there is none.
pub(crate) fn print(replay: &Value) {
    if let Some(why) = replay.get("failed").and_then(Value::as_str) {
        let what = format!("✗ no decision could be made again: {}", clean(why));
        return line(&paint(BAD.bold(), what));
    }
    for damaged in list(replay, "damaged") {
        line(&format!(
            "{} revision {} is kept, and is not what its digest says: {}",
            paint(BAD, "✗"),
            super::strong(clean(text(damaged, "revision"))),
            clean(text(damaged, "why"))
        ));
    }
    for difference in list(replay, "differences").take(SHOWN) {
        print_difference(difference);
    }
    let more = number(replay, "differ").saturating_sub(SHOWN as u64);
    if more > 0 {
        line(&paint(BAD, format!("  and {} more", thousands(more))));
    }
    let decisions = count(number(replay, "decisions"), "decision", "decisions");
    let revisions = count(number(replay, "revisions"), "revision", "revisions");
    let (same, differ) = (number(replay, "same"), number(replay, "differ"));
    let lacking = replay.get("not_replayable");
    let not_again = lacking.map_or(0, |lacking| number(lacking, "count"));
    let unproven = number(replay, "allowed_unproven");
    let told = format!(
        "{decisions} under {revisions}: {} made again and the same, {} not; {} not held against a policy",
        thousands(same),
        thousands(differ),
        thousands(not_again)
    );
    let (style, mark) = match (holds(replay), same, unproven) {
        (false, ..) => (BAD.bold(), "✗ policies"),
        (true, 1.., 0) => (GOOD.bold(), "✓ policies"),
        (true, ..) => (WARN.bold(), "! policies"),
    };
    line(&format!("{}: {told}", paint(style, mark)));
    if unproven > 0 {
        let told = count(
            unproven,
            "decision that allows, or",
            "decisions that allow, or",
        );
        line(&format!("  {told} cannot be read, among the latter"));
    }
    let causes = lacking
        .and_then(|l| l.get("causes"))
        .and_then(Value::as_object);
    for (cause, group) in causes.into_iter().flatten() {
        let n = thousands(number(group, "count"));
        line(&format!("  {n} not: {}", clean(cause)));
    }
}

fn print_difference(difference: &Value) {
    let revision: String = text(difference, "revision").chars().take(8).collect();
    line(&format!(
        "{} decision {} (record {}, {}) is not what revision {} decides",
        paint(BAD, "✗"),
        super::strong(clean(text(difference, "id"))),
        number(difference, "entry"),
        clean(text(difference, "time")),
        clean(&revision),
    ));
    if let Some(why) = difference.get("contradiction").and_then(Value::as_str) {
        line(&format!("      {}", clean(why)));
    }
    for key in ["recorded", "replayed"] {
        let Some(said) = difference.get(key).filter(|said| said.is_object()) else {
            continue;
        };
        let policies: Vec<&str> = list(said, "policies").filter_map(Value::as_str).collect();
        let policies = match policies.is_empty() {
            true => String::new(),
            false => format!(" by {}", policies.join(", ")),
        };
        let what = format!(
            "{} ({}){policies}: {} on {}",
            text(said, "decision").replace('_', " "),
            text(said, "reason"),
            text(said, "action"),
            text(said, "resource"),
        );
        line(&format!(
            "      {}  {}",
            paint(NAME, format!("{key:<8}")),
            paint(DIM, clean(&what))
        ));
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    let list = value.get(key).and_then(Value::as_array);
    list.into_iter().flatten()
}
