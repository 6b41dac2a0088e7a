//! The demo's live view: one row for each edge, with events scrolling above.
//!
//! On a terminal the rows are redrawn in place twice a second, never wider or higher
//! than the terminal. Elsewhere the first decision of each edge is printed, then each
//! change of its verdict, and a summary from time to time.

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

use palisade_mesh::wire::record::Verdict;

use crate::render::{
    self, BAD, DIM, GOOD, NAME, WARN, paint, screen,
    table::{self, Table, col},
};

/// How often the rows are redrawn.
pub(super) const REDRAW: Duration = Duration::from_millis(500);
/// How often a summary is printed where rows cannot be redrawn.
const SUMMARY: Duration = Duration::from_secs(10);
/// How long the id of a denied request stands before a newer one takes its place: long
/// enough to be copied.
const DENIED_STANDS: Duration = Duration::from_secs(15);
/// Most edges that are kept; the demo has about ten.
const EDGES_MAX: usize = 40;

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

/// A denied request to ask about.
#[derive(Debug)]
struct Denied {
    since: Instant,
    edge: String,
    id: String,
}

/// The view's state.
#[derive(Debug)]
pub(super) struct Live {
    edges: BTreeMap<(String, String, String), Edge>,
    total: u64,
    faults: u64,
    since_redraw: u32,
    rate: f64,
    summary: String,
    denied: Option<Denied>,
    in_place: bool,
    /// Columns of each line that stands on the terminal.
    drawn: Vec<usize>,
    told: Instant,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            edges: BTreeMap::new(),
            total: 0,
            faults: 0,
            since_redraw: 0,
            rate: 0.0,
            summary: String::new(),
            denied: None,
            in_place: screen::can_redraw(),
            drawn: Vec::new(),
            told: Instant::now(),
        }
    }

    /// Takes a decision in; prints it where rows cannot be redrawn and it is news.
    pub(super) fn see(&mut self, seen: Seen) {
        self.total += 1;
        self.since_redraw += 1;
        self.faults += u64::from(seen.verdict == Verdict::Undecided);
        self.remember_denied(&seen);
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
            render::line(&news_line(&edge.last));
        }
    }

    fn remember_denied(&mut self, seen: &Seen) {
        let stands = self
            .denied
            .as_ref()
            .is_some_and(|d| d.since.elapsed() < DENIED_STANDS);
        if stands || !matches!(seen.verdict, Verdict::Forbidden | Verdict::NotPermitted) {
            return;
        }
        self.denied = Some(Denied {
            since: Instant::now(),
            edge: format!("{} → {} {}", seen.caller, seen.service, seen.request),
            id: seen.id.clone(),
        });
    }

    /// Prints `text` above the rows.
    pub(super) fn event(&mut self, text: &str) {
        if !self.in_place {
            return render::line(text);
        }
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let above = lines.len();
        lines.extend(self.rows());
        self.show(&lines, above);
    }

    /// Redraws the rows under a line with rate and `summary`.
    pub(super) fn redraw(&mut self, summary: &str) {
        let rate = f64::from(self.since_redraw) / REDRAW.as_secs_f64();
        self.rate = self.rate * 0.8 + rate * 0.2;
        self.since_redraw = 0;
        summary.clone_into(&mut self.summary);
        if self.in_place {
            let rows = self.rows();
            self.show(&rows, 0);
        } else if self.told.elapsed() >= SUMMARY {
            self.told = Instant::now();
            render::line(&paint(DIM, self.head()));
        }
    }

    /// Takes the rows away, and leaves the last summary.
    pub(super) fn finish(&mut self) {
        let head = paint(DIM, self.head());
        if self.in_place {
            self.show(&[head], 1);
        } else {
            render::line(&head);
        }
    }

    fn head(&self) -> String {
        format!(
            "  {} decisions · {:.0}/s · {} · {}",
            render::thousands(self.total),
            self.rate,
            self.summary,
            render::count(self.faults, "fault", "faults"),
        )
    }

    /// Everything under the events: summary, table, what to ask next.
    fn rows(&self) -> Vec<String> {
        let (width, height) = screen::size().unwrap_or((80, 24));
        let mut rows = Table::new(&[
            col(""),
            col("FROM"),
            col(""),
            col("TO"),
            col("REQUEST").short(),
            col("WHY").short(),
            col("COUNT").right(),
            col("TOOK").right().optional(),
            col("LAST ID").optional(),
        ]);
        for edge in self.edges.values() {
            rows.row(cells(edge));
        }
        let indented = rows.lines(Some(width.saturating_sub(2)));
        // The blank line, the head, the question and the cursor's own line take four.
        let most = height.saturating_sub(5).max(1);
        let hidden = indented.len().saturating_sub(most);
        let mut lines = vec![String::new(), paint(DIM, screen::fit(&self.head(), width))];
        lines.extend(indented.iter().take(most).map(|row| format!("  {row}")));
        if hidden > 0 {
            lines.push(paint(
                DIM,
                format!("  … and {hidden} more; the window is too low"),
            ));
        } else if let Some(denied) = &self.denied {
            let ask = format!("palisade why {}", denied.id);
            let room = width.saturating_sub(ask.len() + 4);
            let edge = screen::fit(&denied.edge, room);
            lines.push(format!("  {}  {}", paint(NAME, ask), paint(DIM, edge)));
        }
        lines
    }

    /// Puts `lines` in the place of the rows that stand there, in one write. The first
    /// `above` of them stay when the rows are drawn again.
    ///
    /// Cursor movements go past the stream that takes colours out: without colours the
    /// rows are redrawn all the same.
    fn show(&mut self, lines: &[String], above: usize) {
        let colour = anstream::AutoStream::choice(&std::io::stdout());
        let mut frame = "\r".to_owned();
        let up = self.standing();
        if up > 0 {
            frame.push_str(&format!("\x1b[{up}A"));
        }
        frame.push_str("\x1b[J");
        let plain = |line: &String| anstream::adapter::strip_str(line).to_string();
        for line in lines {
            match colour {
                anstream::ColorChoice::Never => frame.push_str(&plain(line)),
                _ => frame.push_str(line),
            }
            frame.push('\n');
        }
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(frame.as_bytes()).and_then(|()| out.flush());
        let rows = lines.iter().skip(above);
        self.drawn = rows.map(|line| plain(line).chars().count()).collect();
    }

    /// How many lines of the terminal the rows take now: one that has become narrower
    /// has broken them.
    fn standing(&self) -> usize {
        let width = screen::width().unwrap_or(80);
        self.drawn
            .iter()
            .map(|len| len.div_ceil(width).max(1))
            .sum()
    }
}

fn cells(edge: &Edge) -> [table::Cell; 9] {
    let last = &edge.last;
    let (style, word) = verdict(last.verdict);
    [
        table::styled(style.bold(), word),
        last.caller.as_str().into(),
        "→".into(),
        last.service.as_str().into(),
        last.request.as_str().into(),
        table::styled(DIM, why(last)),
        render::thousands(edge.count).into(),
        table::styled(DIM, format!("{} µs", last.decision_ns / 1000)),
        table::styled(DIM, &last.id),
    ]
}

/// An edge's first decision, or its new verdict, on a line of its own.
fn news_line(seen: &Seen) -> String {
    let (style, word) = verdict(seen.verdict);
    let clean = render::snippet::clean;
    format!(
        "  {}  {} → {}  {}  {}",
        paint(style.bold(), format!("{word:<5}")),
        clean(&seen.caller),
        clean(&seen.service),
        clean(&seen.request),
        paint(DIM, format!("{} · {}", clean(&why(seen)), seen.id)),
    )
}

fn why(seen: &Seen) -> String {
    match (seen.policies.first(), seen.verdict) {
        (Some(policy), _) => policy.clone(),
        (None, Verdict::NotPermitted) => "no permit matched".into(),
        (None, Verdict::Undecided) => "could not decide".into(),
        (None, Verdict::Refused) => "refused before any policy".into(),
        (None, _) => String::new(),
    }
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
