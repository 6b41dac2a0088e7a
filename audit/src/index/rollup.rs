//! Roll-ups: what the records of an hour come to, so that a report of a month need not
//! look at each of them.
//!
//! In the folder of a bucket lies a file for each hour that is over, and one for the whole
//! bucket once another has begun: a row for every combination of the values of [`KEY`] that
//! occurs, with how many records have it and when the first and the last were. Whatever
//! asks about these fields alone is answered from the rows; the hours at both ends of its
//! time, and the one that goes on, are scanned.
//!
//! Nothing has to be kept in step with the index. Documents are only ever added to a
//! bucket, so a file is true of it as long as there are exactly as many of its time as when
//! it was made, in the same making of the bucket. A file that is not, that is damaged or
//! that is not there costs a scan, and is made again.

use std::path::{Path, PathBuf};

use super::bucket::View;
use crate::query::{Expr, Field, Window, time::rfc3339};

mod ask;
mod build;
mod file;
mod keeper;

pub(super) use ask::{Rolled, covers};
pub(super) use keeper::Keeper;

/// The fields of a row. Each can be counted; together they are what access reports ask.
pub(super) const KEY: [&str; 16] = [
    "class",
    "decision",
    "reason",
    "principal",
    "service",
    "action",
    "resource",
    "method",
    "route",
    "policy",
    "status",
    "enforced",
    "mode",
    "reporter",
    "sequence",
    "revision",
];

/// Longest time of one file where the bucket is longer.
const HOUR_US: i64 = 3_600_000_000;

/// When a file is not worth keeping.
#[derive(Debug, Clone, Copy)]
pub struct RollUps {
    /// Most rows of one file: an hour, or a bucket, of more different combinations has none
    /// and is scanned.
    pub rows_max: usize,
    /// Most bytes of a file for each document of its time. Where requests hardly repeat, a
    /// scan costs as little.
    pub bytes_max: u64,
}

impl Default for RollUps {
    fn default() -> Self {
        Self {
            rows_max: 100_000,
            bytes_max: 8,
        }
    }
}

/// Where `field` stands in [`KEY`].
fn column_of(field: &Field) -> Option<usize> {
    KEY.iter().position(|name| *name == field.name)
}

/// Whether rows can say what is so: every field is one of [`KEY`], or the position in the
/// log, of which a file knows the ends.
pub(super) fn covered(filter: &Expr) -> bool {
    let mut covered = true;
    filter.visit(&mut |field, _| {
        covered &= field.name == super::schema::ENTRY || column_of(field).is_some();
    });
    covered
}

/// What the name of every file of a roll-up begins with.
const PREFIX: &str = "rollup-";

/// The file of a span of a bucket.
fn path_of(folder: &Path, span: Window) -> PathBuf {
    let start: String = rfc3339(span.from_us).chars().take(13).collect();
    let hours = span.to_us.saturating_sub(span.from_us) / HOUR_US;
    folder.join(format!("{PREFIX}{start}-{hours}h"))
}

/// The spans of a bucket that files are kept of: all of it, and its hours.
fn whole(view: &View) -> Window {
    view.span
}

fn hours(view: &View) -> impl Iterator<Item = Window> + use<> {
    let Window { from_us, to_us } = view.span;
    let one = to_us.saturating_sub(from_us) <= HOUR_US;
    let step = usize::try_from(HOUR_US).unwrap_or(usize::MAX);
    // A bucket of an hour is kept as a whole.
    (from_us..if one { from_us } else { to_us })
        .step_by(step)
        .map(|from_us| Window {
            from_us,
            to_us: from_us.saturating_add(HOUR_US),
        })
}
