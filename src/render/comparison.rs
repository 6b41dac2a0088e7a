//! A comparison of two revisions, for people and for pull requests.

use palisade_pdp::{
    analysis::{
        Access, AccessChange, AccessKind, Place,
        gate::{GateAnswer, GateVerdict},
        prove::{Counterexample, Proof, ProofVerdict},
        texts::{Change, Item, ItemKind},
    },
    compiled::Absent,
};

use serde::Serialize;

use super::{BAD, DIM, GOOD, NAME, WARN, count, paint, report::Grid, snippet::clean, strong};

/// Everything there is to say about a change.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) base: Named,
    pub(crate) head: Named,
    /// Sources that are in neither, or in one of both only, because they were not read.
    pub(crate) absent: Vec<Absent>,
    pub(crate) text: Vec<Item>,
    pub(crate) access: Access,
    pub(crate) proof: Option<Proof>,
    /// Why there is no proof.
    pub(crate) no_proof: Option<String>,
    pub(crate) gates: Vec<GateAnswer>,
    /// How long comparing and proving took, reading and compiling left out.
    pub(crate) took_ms: u64,
}

/// A revision of a report.
#[derive(Debug, Serialize)]
pub(crate) struct Named {
    /// As it was asked for.
    pub(crate) name: String,
    /// SHA-256 of the bundle, hex.
    pub(crate) digest: String,
    pub(crate) policies: usize,
}

/// A comparison for people.
pub(crate) fn lines(report: &Comparison) -> Vec<String> {
    let mut out = Vec::new();
    for (what, side) in [("base", &report.base), ("head", &report.head)] {
        out.push(format!(
            "{}  {}  {}",
            paint(NAME, what),
            clean(&side.name),
            paint(
                DIM,
                format!(
                    "{} · sha256:{}",
                    count(side.policies, "policy", "policies"),
                    short(&side.digest)
                )
            ),
        ));
    }
    for absent in &report.absent {
        out.push(paint(WARN, clean(&without(absent))));
    }
    tell_text(&report.text, &mut out);
    tell_access(&report.access, &mut out);
    tell_proof(report, &mut out);
    tell_gates(&report.gates, &mut out);
    out
}

/// What is said of a source that is not there begins so.
pub(crate) const WITHOUT: &str = "without source ";

/// `without source shop, which is at …`
pub(crate) fn without(absent: &Absent) -> String {
    let Absent { source, place, .. } = absent;
    format!("{WITHOUT}{source}, which is at {place}")
}

fn tell_text(items: &[Item], out: &mut Vec<String>) {
    out.push(String::new());
    out.push(strong("text"));
    if items.is_empty() {
        out.push("  nothing is different".to_owned());
    }
    for item in items {
        let place = place(&item.file, item.line);
        let owner = item.owner.as_deref().unwrap_or_default();
        out.push(format!(
            "  {} {} {}  {}",
            mark(item.change),
            kind_word(item.kind),
            clean(&item.id),
            paint(DIM, clean(format!("{place}  {owner}").trim_end())),
        ));
        if !item.details.is_empty() {
            out.push(format!("      {}", clean(&item.details.join(" · "))));
        }
    }
}

fn tell_access(access: &Access, out: &mut Vec<String>) {
    out.push(String::new());
    out.push(format!(
        "{}  {}",
        strong("access"),
        paint(DIM, universe(access))
    ));
    if !access.untold.is_empty() {
        let sources = clean(&access.untold.join(", "));
        out.push(format!(
            "  not told: only one of the two has source {sources}"
        ));
    } else if access.changes.is_empty() {
        out.push("  nobody known reaches more or less".to_owned());
    }
    for change in &access.changes {
        out.push(format!(
            "  {} {}",
            access_mark(change.kind),
            clean(&reaches(change))
        ));
        out.push(format!(
            "      {}",
            paint(DIM, clean(&format!("by {}", places(&change.by))))
        ));
        for (word, terms) in terms(change) {
            out.push(format!("      {word} {}", clean(&terms.join("  or  "))));
        }
    }
}

fn tell_proof(report: &Comparison, out: &mut Vec<String>) {
    out.push(String::new());
    let Some(proof) = &report.proof else {
        let why = report.no_proof.as_deref().unwrap_or_default();
        out.push(format!(
            "{}  {}",
            strong("proof"),
            paint(DIM, format!("none: {why}"))
        ));
        return;
    };
    out.push(format!(
        "{}  {}",
        strong("proof"),
        paint(DIM, effort(proof))
    ));
    let (style, mark) = match proof.verdict {
        ProofVerdict::Proved => (GOOD, "✓"),
        ProofVerdict::Refuted => (BAD, "✗"),
        ProofVerdict::Unproved => (WARN, "?"),
    };
    out.push(format!("  {} {}", paint(style, mark), verdict(proof)));
    for found in &proof.counterexamples {
        tell_counterexample(found, out);
    }
    for why in &proof.unproved {
        out.push(format!("      {}", clean(why)));
    }
    if !proof.elsewhere.is_empty() {
        out.push(
            "  wider in principle; no caller and operation of this registry is concerned:"
                .to_owned(),
        );
        for found in &proof.elsewhere {
            out.push(format!(
                "      {}",
                clean(&format!("by {}", places(&found.by)))
            ));
        }
    }
}

fn tell_counterexample(found: &Counterexample, out: &mut Vec<String>) {
    let example = &found.example;
    let word = match example.real {
        true => "for example",
        false => "possible in principle",
    };
    out.push(format!(
        "    {} {}",
        paint(BAD, format!("{word}:")),
        clean(&request(found)),
    ));
    out.push(format!("      {}", paint(DIM, clean(&because(found)))));
    if let Some(command) = &example.command {
        out.push(format!("      {}", paint(NAME, clean(command))));
    }
}

fn tell_gates(gates: &[GateAnswer], out: &mut Vec<String>) {
    if gates.is_empty() {
        return;
    }
    out.push(String::new());
    out.push(strong("gates"));
    for gate in gates {
        let (style, mark, word) = match gate.verdict {
            GateVerdict::Broken => (BAD, "✗", "broken"),
            GateVerdict::Kept => (GOOD, "✓", "kept"),
            GateVerdict::Unproved => (WARN, "?", "not proved"),
        };
        out.push(format!(
            "  {} {}  {word}  {}",
            paint(style, mark),
            clean(&gate.gate),
            paint(DIM, clean(&gate.why.join("; "))),
        ));
    }
}

/// The same as tables: what is different, who reaches what, and what shows it.
pub(crate) fn tables(comparison: &Comparison) -> Vec<Grid> {
    let cells = |cells: [String; 4]| cells.to_vec();
    let gates = comparison.gates.iter().map(|gate| {
        let verdict = match gate.verdict {
            GateVerdict::Broken => "broken",
            GateVerdict::Kept => "kept",
            GateVerdict::Unproved => "not proved",
        };
        let gate_name = format!("`{}`", gate.gate);
        vec![gate_name, verdict.to_owned(), gate.why.join("; ")]
    });
    let proof = comparison.proof.iter().flat_map(|proof| {
        let first = vec![verdict(proof), effort(proof), String::new()];
        let found = proof.counterexamples.iter().map(|found| {
            let command = found.example.command.as_deref();
            let command = command.map_or_else(String::new, |c| format!("`{c}`"));
            vec![request(found), because(found), command]
        });
        let found: Vec<_> = found.collect();
        let why = proof
            .unproved
            .iter()
            .map(|why| vec![why.clone(), String::new(), String::new()]);
        [first]
            .into_iter()
            .chain(found)
            .chain(why.collect::<Vec<_>>())
    });
    let access = comparison.access.changes.iter().map(|change| {
        let terms: Vec<String> = terms(change)
            .into_iter()
            .map(|(word, terms)| format!("{word} `{}`", terms.join(" or ")))
            .collect();
        cells([
            access_word(change.kind).to_owned(),
            reaches(change),
            places(&change.by),
            terms.join("\n"),
        ])
    });
    let text = comparison.text.iter().map(|item| {
        cells([
            change_word(item.change).to_owned(),
            format!("{} `{}`", kind_word(item.kind), item.id),
            place(&item.file, item.line),
            item.details.join(", "),
        ])
    });
    let grid = |title: String, head: &[&'static str], rows: Vec<Vec<String>>| Grid {
        title,
        head: head.to_vec(),
        rows,
    };
    vec![
        grid("Gates".to_owned(), &["gate", "", "why"], gates.collect()),
        grid("Proof".to_owned(), &["", "because", "ask"], proof.collect()),
        grid(
            format!("Access, {}", universe(&comparison.access)),
            &["", "who reaches what", "by", "if"],
            access.collect(),
        ),
        grid(
            "Text".to_owned(),
            &["", "what", "where", "how"],
            text.collect(),
        ),
    ]
}

fn mark(change: Change) -> String {
    match change {
        Change::Added => paint(GOOD, "+"),
        Change::Changed => paint(WARN, "~"),
        Change::Removed => paint(BAD, "-"),
    }
}

fn change_word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Changed => "changed",
        Change::Removed => "removed",
    }
}

/// `FILE:LINE`, or as much of it as is known.
fn place(file: &str, line: usize) -> String {
    match line {
        0 => file.to_owned(),
        n => format!("{file}:{n}"),
    }
}

fn access_mark(kind: AccessKind) -> String {
    match kind {
        AccessKind::Gained => paint(BAD, "+ newly allowed:"),
        AccessKind::Changed => paint(WARN, "~ on other terms:"),
        AccessKind::Lost => paint(GOOD, "- no longer allowed:"),
    }
}

fn access_word(kind: AccessKind) -> &'static str {
    match kind {
        AccessKind::Gained => "newly allowed",
        AccessKind::Changed => "on other terms",
        AccessKind::Lost => "no longer allowed",
    }
}

fn kind_word(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Invariant => "invariant",
        ItemKind::Policy => "policy",
        ItemKind::Service => "service",
        ItemKind::Operation => "operation",
        ItemKind::Entity => "entity",
        ItemKind::Setting => "setting",
        ItemKind::Schema => "schema",
    }
}

/// `of 5 identities × 14 operations; 8 pairs compared`
fn universe(access: &Access) -> String {
    let all = match access.complete {
        true => "that the change can concern",
        false => "compared, which is not all: the change concerns more than can be compared",
    };
    format!(
        "of {} (and {}) × {}: {} {all}",
        count(access.identities, "identity", "identities"),
        count(access.strangers, "kind of stranger", "kinds of strangers"),
        count(access.operations, "operation", "operations"),
        count(access.compared, "pair", "pairs"),
    )
}

fn reaches(change: &AccessChange) -> String {
    format!(
        "{} → {}: {}",
        change.callers.join(", "),
        change.service,
        change.operations.join(", ")
    )
}

fn terms(change: &AccessChange) -> Vec<(&'static str, &Vec<String>)> {
    let all = [
        ("only if", &change.only_if),
        ("unless", &change.unless),
        ("before, only if", &change.was_only_if),
        ("before, unless", &change.was_unless),
    ];
    all.into_iter()
        .filter(|(_, terms)| !terms.is_empty())
        .collect()
}

fn places(places: &[Place]) -> String {
    let word = |place: &Place| match place.file.is_empty() {
        true => place.id.clone(),
        false => format!("{} ({}:{})", place.id, place.file, place.line),
    };
    match places {
        [] => "no policy alone".to_owned(),
        some => some.iter().map(word).collect::<Vec<_>>().join(", "),
    }
}

fn effort(proof: &Proof) -> String {
    format!(
        "{}, {} of requests, {}",
        proof.solver,
        count(proof.kinds, "kind", "kinds"),
        count(proof.queries, "question", "questions")
    )
}

fn verdict(proof: &Proof) -> String {
    match proof.verdict {
        ProofVerdict::Proved if proof.changed.is_empty() => {
            "no policy means something else".to_owned()
        }
        ProofVerdict::Proved => {
            format!("proved: no request is newly allowed from {} on", proof.from)
        }
        ProofVerdict::Refuted => "requests are newly allowed".to_owned(),
        ProofVerdict::Unproved => "not proved".to_owned(),
    }
}

fn request(found: &Counterexample) -> String {
    let example = &found.example;
    let with = match example.with.as_slice() {
        [] => String::new(),
        some => format!(" with {}", some.join(", ")),
    };
    format!(
        "{} {} on {}{with}",
        example.caller, example.action, example.target
    )
}

fn because(found: &Counterexample) -> String {
    let before = match found.stopped_by.as_slice() {
        [] => "no permit matched before".to_owned(),
        some => format!("{} stopped it before", places(some)),
    };
    format!("allowed by {}; {before}", places(&found.by))
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
