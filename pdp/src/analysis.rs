//! Comparing two revisions: what a change does, who gains by it, and the proof that nobody does.
//!
//! In reading order:
//!
//! - [`texts`]: what was added, removed, changed
//! - [`access`]: who newly reaches what, by the engine that enforces
//! - [`prove`]: whether any request at all is allowed that was not
//! - [`gate`]: the questions that a change has to pass
//! - [`invariants`]: what must never become possible
//!
//! ```text
//! base, head ─► changed policies ─► access: callers × operations, three-valued
//!                       └─────────► prove: one claim for each kind of request
//! ```

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use palisade_mesh::diagnostic::Location;
use serde::Serialize;
use smol_str::SmolStr;

use crate::decide::Snapshot;

pub mod access;
mod change;
pub mod codes;
pub mod gate;
pub mod invariants;
mod possible;
pub mod prove;
#[cfg(test)]
mod tests;
pub mod texts;
mod universe;

pub use access::{Access, AccessChange, AccessKind};
use access::{Comparing, Differing};
use change::Changed;
use universe::Universe;

/// Two revisions under comparison.
pub struct Comparison {
    base: Arc<Snapshot>,
    head: Arc<Snapshot>,
    universe: Universe,
    now_us: i64,
    /// Who reaches what otherwise; the report, the proof and the gates all ask.
    reached: OnceLock<(Access, Vec<Differing>)>,
}

/// Where a policy stands, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Policy id.
    pub id: String,
    /// File in the repository; empty where it is not known.
    pub file: String,
    /// First line.
    pub line: usize,
    /// `@owner`.
    pub owner: Option<String>,
}

impl Comparison {
    /// Compares `head` with `base`, from the moment `now_us` on (microseconds since the Unix epoch).
    pub fn new(base: Arc<Snapshot>, head: Arc<Snapshot>, now_us: i64) -> Self {
        Self {
            universe: Universe::new(&base, &head),
            base,
            head,
            now_us,
            reached: OnceLock::new(),
        }
    }

    /// Whether a revision lacks a source that it lists, so that what is true of it may be false
    /// of the whole.
    pub fn is_partial(&self) -> bool {
        self.absent().next().is_some()
    }

    /// Sources that one revision has and the other lacks: what of them seems new, or gone, may be
    /// neither.
    fn lopsided(&self) -> BTreeSet<&str> {
        let [base, head] = [&self.base, &self.head].map(|side| {
            let absent = side.compiled().absent.iter();
            absent.map(|a| a.source.as_str()).collect::<BTreeSet<_>>()
        });
        base.symmetric_difference(&head).copied().collect()
    }

    /// What is not in one of them, in words.
    fn absent(&self) -> impl Iterator<Item = String> {
        let sides = [&self.base, &self.head];
        let absent = sides.into_iter().flat_map(|side| &side.compiled().absent);
        absent.map(|a| {
            format!(
                "part of the revision is not here: source `{}`, at {}",
                a.source, a.place
            )
        })
    }

    /// What was added, removed and changed, by what it is and its id; nothing of sources that
    /// one of the two lacks.
    pub fn texts(&self) -> Vec<texts::Item> {
        let lopsided = self.lopsided();
        let is_of_both = |item: &texts::Item| {
            let folder = item.file.split_once('/').map_or("", |(first, _)| first);
            !lopsided.contains(folder) && (lopsided.is_empty() || !item.file.is_empty())
        };
        let mut items = texts::compare(&self.base, &self.head);
        items.retain(is_of_both);
        items
    }

    /// Who newly reaches, or no longer reaches, what; nobody where one of the two lacks a source
    /// that the other has.
    pub fn access(&self) -> Access {
        self.reached().0.clone()
    }

    /// Where a policy stands, with the text of its file; the newer revision's before the older one's.
    pub fn location(&self, place: &Place) -> Option<Location> {
        let texts = [&self.head, &self.base]
            .into_iter()
            .map(|s| texts::files(s));
        texts.into_iter().find_map(|texts| {
            let text = texts.get(place.file.as_str())?;
            Some(Location::line(
                place.file.as_str(),
                text.clone(),
                place.line,
            ))
        })
    }

    /// An ordinary request that is allowed and was not, where somebody known can make one.
    pub fn example(&self) -> Option<prove::Example> {
        // What one of the two lacks has no pair here.
        let (_, differing) = self.reached();
        let pairs = differing.iter().map(|d| (d.caller, d.ask));
        prove::ordinary_example(self, pairs)
    }

    fn changed(&self) -> Vec<Changed<'_>> {
        change::changed(&self.base, &self.head)
    }

    fn reached(&self) -> &(Access, Vec<Differing>) {
        self.reached.get_or_init(|| {
            let comparing = Comparing {
                base: &self.base,
                head: &self.head,
                universe: &self.universe,
                changed: &self.changed(),
                now_us: self.now_us,
            };
            let (mut access, mut differing) = comparing.access();
            access.untold = self.lopsided().into_iter().map(str::to_owned).collect();
            if !access.untold.is_empty() {
                access.changes.clear();
                differing.clear();
            }
            (access, differing)
        })
    }
}

impl Place {
    /// Where `id` stands in a revision.
    pub(crate) fn of(snapshot: &Snapshot, id: &str) -> Option<Self> {
        let info = snapshot.info(id)?;
        Some(Self {
            id: info.id.to_string(),
            file: info.file.to_string(),
            line: info.first_line,
            owner: info.owner.as_ref().map(SmolStr::to_string),
        })
    }

    fn nowhere(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            file: String::new(),
            line: 0,
            owner: None,
        }
    }
}
