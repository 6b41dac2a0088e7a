//! The demo's live view: one row for each edge, with events scrolling above.
//!
//! On a terminal the rows are redrawn in place twice a second. Elsewhere the first
//! decision of each edge is printed, then each change of its verdict.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::Duration,
};

use palisade_mesh::wire::record::Verdict;

use crate::render::{self, BAD, DIM, GOOD, WARN, paint, snippet::clean};

/// How often the rows are redrawn.
pub(super) const REDRAW: Duration = Duration::from_millis(500);
/// Most edges that are shown; the demo has about ten.
const EDGES_MAX: usize = 20;

/// One decision, as the view needs it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) caller: String,
    pub(super) service: String,
    pub(super) request: String,
    pub(super) verdict: Verdict,
    pub(super) policies: Vec<String>,
    pub(super) id: String,
    pub(super) decision_ns: u64,
}

#[derive(Debug)]
struct Edge {
    count: u64,
    last: Seen,
}

/// The view's state.
#[derive(Debug)]
pub(super) struct Live {
    edges: BTreeMap<(String, String, String), Edge>,
    total: u64,
    since_redraw: u32,
    rate: f64,
    summary: String,
    drawn: usize,
    in_place: bool,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            edges: BTreeMap::new(),
            total: 0,
            since_redraw: 0,
            rate: 0.0,
            summary: String::new(),
            drawn: 0,
            in_place: std::io::stdout().is_terminal(),
        }
    }

    /// Takes a decision in; prints it where rows cannot be redrawn and it is news.
    pub(super) fn see(&mut self, seen: Seen) {
        self.total += 1;
        self.since_redraw += 1;
        let key = (
            seen.caller.clone(),
            seen.service.clone(),
            seen.request.clone(),
        );
        if self.edges.len() >= EDGES_MAX && !self.edges.contains_key(&key) {
            return;
        }
        let edge = self.edges.entry(key).or_insert_with(|| Edge {
            count: 0,
            last: seen.clone(),
        });
        let news = edge.count == 0 || edge.last.verdict != seen.verdict;
        edge.count += 1;
        edge.last = seen;
        if news && !self.in_place {
            render::line(&row(edge));
        }
    }

    /// Prints a line above the rows.
    pub(super) fn event(&mut self, text: &str) {
        self.clear();
        render::line(text);
        self.draw();
    }

    /// Redraws the rows under a line with rate and `summary`.
    pub(super) fn redraw(&mut self, summary: &str) {
        if !self.in_place {
            return;
        }
        let rate = f64::from(self.since_redraw) / REDRAW.as_secs_f64();
        self.rate = self.rate * 0.8 + rate * 0.2;
        self.summary = summary.to_owned();
        self.clear();
        self.draw();
        self.since_redraw = 0;
    }

    /// Removes the rows, for the last words.
    pub(super) fn clear(&mut self) {
        if self.in_place && self.drawn > 0 {
            let mut out = anstream::stdout();
            let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
            let _ = out.flush();
        }
        self.drawn = 0;
    }

    fn draw(&mut self) {
        if !self.in_place {
            return;
        }
        let total = render::thousands(self.total);
        let head = format!("  {total} decisions, {:.0}/s · {}", self.rate, self.summary);
        let mut lines = vec![String::new(), paint(DIM, head)];
        lines.extend(self.edges.values().map(row));
        for line in &lines {
            render::line(line);
        }
        self.drawn = lines.len();
    }
}

fn row(edge: &Edge) -> String {
    let last = &edge.last;
    let (style, word) = verdict(last.verdict);
    let by = match last.policies.first() {
        Some(policy) => format!("by {}", clean(policy)),
        None => "no permit matched".into(),
    };
    let micros = last.decision_ns / 1000;
    format!(
        "  {}  {:<9} → {:<9} {:<26} {}",
        paint(style.bold(), format!("{word:<5}")),
        clean(&last.caller),
        clean(&last.service),
        clean(&last.request),
        paint(
            DIM,
            format!(
                "{by} · {micros} µs · ×{} · {}",
                render::thousands(edge.count),
                last.id
            )
        ),
    )
}

/// The word and style of a verdict; never told by colour alone.
fn verdict(verdict: Verdict) -> (anstyle::Style, &'static str) {
    match verdict {
        Verdict::Allow => (GOOD, "ALLOW"),
        Verdict::Forbidden | Verdict::NotPermitted => (BAD, "DENY"),
        Verdict::Undecided => (WARN, "FAULT"),
        Verdict::Refused => (WARN, "REFUSED"),
        Verdict::Unspecified => (DIM, "?"),
    }
}
