//! Recorded decisions for the commands that go through them: of the running mesh, of
//! the folder of a log, or of a file of rows (`audit search -o json`).
//!
//! All three end in one visitor, which sees a decision at a time and may stop.

use std::{
    fs::File,
    io::BufReader,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use palisade_audit::{
    decisions::Decisions,
    envelope::DecisionRef,
    log::{Log, LogError, LogOptions},
    query::{Limits, Query, Window},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, spiffe_id::TrustDomain};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    control::client::Mesh,
    render::progress::{Far, Progress},
};

pub(crate) mod asked;
pub(crate) mod faithful;
pub(crate) mod flips;
pub(crate) mod frames;
pub(crate) mod in_force;
mod rows;

/// Decisions between two looks at the clock and at whether to stop.
const LOOK_EVERY: u64 = 4096;

/// Where recorded decisions come from, and which.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    origin: Origin,
    /// None for all that there are.
    query: Option<String>,
    /// Whether a terminal hears nothing of it.
    silent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Mesh,
    File(PathBuf),
    Folder(PathBuf),
    /// One row of a search.
    Row(serde_json::Value),
}

/// What was gone through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Covered {
    /// In words, where they come from.
    pub(crate) origin: String,
    /// Start of the time asked about, microseconds since the Unix epoch.
    pub(crate) from_us: Option<i64>,
    /// End of the time asked about, exclusively.
    pub(crate) to_us: Option<i64>,
    /// When the log received its first record.
    pub(crate) begins_us: Option<i64>,
    /// Decisions that were looked at.
    pub(crate) decisions: u64,
    /// Whether it was told to stop before the end.
    pub(crate) interrupted: bool,
}

impl Wanted {
    /// Understands `--log`, which may be given twice: a folder or a file says where
    /// from, anything else is a query. `default` is the query to a running mesh.
    ///
    /// # Errors
    /// `PLS2201` for two of a kind, and what is wrong with a query.
    pub(crate) fn new(said: &[String], default: &str) -> Result<Self, Diagnostic> {
        let (mut origin, mut query) = (None, None);
        for text in said {
            let path = PathBuf::from(text);
            let taken = match (path.is_dir(), path.is_file()) {
                (true, _) => origin.replace(Origin::Folder(path)).is_some(),
                (_, true) => origin.replace(Origin::File(path)).is_some(),
                _ if text.contains(['/', '.']) && !text.contains(':') => {
                    return Err(Diagnostic::error(2201, format!("there is no `{text}`"))
                        .cause("`--log` takes a folder of a log, a file of rows, or a query")
                        .help("a query looks like 'service:orders last:7d'"));
                }
                _ => query.replace(text.clone()).is_some(),
            };
            if taken {
                return Err(Diagnostic::error(2201, format!("`--log {text}` is one too many"))
                    .cause("there is one place to read from, and one query")
                    .help("put the words of the query into one argument: --log 'service:orders last:7d'"));
            }
        }
        let origin = origin.unwrap_or(Origin::Mesh);
        if let Some(text) = &query {
            if matches!(origin, Origin::File(_)) {
                return Err(
                    Diagnostic::error(2201, "a file of rows takes no query").help(
                        "filter when you export it: palisade audit search 'QUERY' -n 10000 -o json",
                    ),
                );
            }
            read(text).map_err(|wrong| match text.contains([':', ' ']) {
                true => wrong,
                // A mistyped name looks like a word of a query.
                false => {
                    let cause = wrong.cause.clone().unwrap_or_default();
                    wrong.cause(format!(
                        "{cause}; nor is there a folder or file of this name"
                    ))
                }
            })?;
        }
        let query = query.or_else(|| (origin == Origin::Mesh).then(|| default.to_owned()));
        Ok(Self {
            origin,
            query,
            silent: false,
        })
    }

    /// The same, for a service: no terminal is told how far it is.
    pub(crate) fn silent(self, silent: bool) -> Self {
        Self { silent, ..self }
    }

    /// The decision of one row.
    pub(crate) fn row(row: serde_json::Value) -> Self {
        Self {
            origin: Origin::Row(row),
            query: None,
            silent: false,
        }
    }

    /// Gives each decision to `visit` until that breaks or `stop` says so. `domain` is
    /// the trust domain of which a folder must be the log.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) async fn visit(
        &self,
        mesh: Option<&str>,
        domain: &TrustDomain,
        stop: &watch::Receiver<bool>,
        visit: &mut dyn FnMut(&DecisionRef<'_>) -> ControlFlow<()>,
    ) -> Result<Covered, Diagnostic> {
        let mut pace = Pace::new(stop, visit, self.silent);
        let mut covered = match &self.origin {
            Origin::Mesh => {
                let mesh = Mesh::find(mesh).await?;
                let query = self.query.clone().unwrap_or_default();
                frames::of_mesh(&mesh, query, &mut pace).await?
            }
            Origin::Folder(dir) => of_folder(dir, domain, self.query.as_deref(), &mut pace)?,
            Origin::File(file) => of_file(file, &mut pace)?,
            Origin::Row(row) => {
                let decision = rows::Owned::new(row);
                let _ = pace.pass(&decision.borrowed(row), 1, 1);
                Covered::default()
            }
        };
        covered.decisions = pace.seen;
        covered.interrupted = pace.stopped;
        Ok(covered)
    }
}

/// Reads a query that lists records.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(text: &str) -> Result<Query, Diagnostic> {
    let query = Query::parse(text)?;
    match query.stage() {
        None => Ok(query),
        Some(_) => Err(
            Diagnostic::error(2201, "this query counts records instead of naming them")
                .cause(format!("`{text}` has a stage behind `|`"))
                .help("leave the stage out"),
        ),
    }
}

/// Passes decisions on, tells a terminal how far it is, and stops when told to.
pub(crate) struct Pace<'p> {
    stop: &'p watch::Receiver<bool>,
    visit: &'p mut dyn FnMut(&DecisionRef<'_>) -> ControlFlow<()>,
    seen: u64,
    stopped: bool,
    line: Progress,
}

impl<'p> Pace<'p> {
    fn new(
        stop: &'p watch::Receiver<bool>,
        visit: &'p mut dyn FnMut(&DecisionRef<'_>) -> ControlFlow<()>,
        silent: bool,
    ) -> Self {
        let line = Progress::begin().hinting("  (Ctrl-C ends it here)");
        Self {
            stop,
            visit,
            seen: 0,
            stopped: false,
            line: line.silent(silent),
        }
    }

    /// Passes one decision on; `done` of `all` is how far the reading is.
    pub(crate) fn pass(
        &mut self,
        decision: &DecisionRef<'_>,
        done: u64,
        all: u64,
    ) -> ControlFlow<()> {
        self.seen += 1;
        if self.seen.is_multiple_of(LOOK_EVERY) {
            if *self.stop.borrow() {
                self.stopped = true;
                return ControlFlow::Break(());
            }
            // Decisions are some of the records; how far these are tells the time left.
            self.line.tell(Far {
                records: self.seen,
                of: None,
                by: Some((done, all)),
            });
        }
        (self.visit)(decision)
    }
}

fn of_folder(
    dir: &Path,
    domain: &TrustDomain,
    query: Option<&str>,
    pace: &mut Pace<'_>,
) -> Result<Covered, Diagnostic> {
    let inner = dir.join("log");
    let dir = if inner.is_dir() { inner.as_path() } else { dir };
    let failed = |error: LogError| unreadable(dir, &error.to_string());
    let options = LogOptions {
        read_only: true,
        ..LogOptions::new(domain.clone())
    };
    let clock = Clock::system();
    let log = Log::open(dir, options, clock.clone()).map_err(failed)?;
    let query = query.map(read).transpose()?;
    let window = match &query {
        Some(query) => query.window(clock.now_us(), &Limits::default())?,
        None => Window::EVER,
    };
    let everything = Query::parse("")?;
    let mut decisions =
        Decisions::new(&log, query.as_ref().unwrap_or(&everything), window).map_err(failed)?;
    let begins_us = decisions.log_begins_us().map_err(failed)?;
    let (first, end) = (decisions.position(), decisions.end());
    decisions
        .visit(|index, leaf| match DecisionRef::of_leaf(leaf) {
            Some(decision) => pace.pass(&decision, index - first, end - first),
            None => ControlFlow::Continue(()),
        })
        .map_err(failed)?;
    let bound = |us: i64| query.is_some().then_some(us);
    Ok(Covered {
        origin: format!("log {}", dir.display()),
        from_us: bound(window.from_us),
        to_us: bound(window.to_us),
        begins_us,
        ..Covered::default()
    })
}

fn of_file(path: &Path, pace: &mut Pace<'_>) -> Result<Covered, Diagnostic> {
    let failed = |error: &dyn std::fmt::Display| unreadable(path, &error.to_string());
    let file = File::open(path).map_err(|e| failed(&e))?;
    let len = file.metadata().map_err(|e| failed(&e))?.len();
    rows::visit(BufReader::new(file), |decision, at| {
        pace.pass(decision, at, len)
    })
    .map_err(|e| failed(&e))?;
    Ok(Covered {
        origin: format!("file {}", path.display()),
        ..Covered::default()
    })
}

fn unreadable(path: &Path, cause: &str) -> Diagnostic {
    Diagnostic::error(
        2202,
        format!("`{}` cannot be read as recorded decisions", path.display()),
    )
    .cause(cause)
    .help("name the folder of a log, or a file that `palisade audit search -o json` wrote")
}
